"""Augmentation of a training batch on the device it lies on: shift, mirror, cutout; of sound: shift, noise, masks.

In: x [B, C, H, W], normalised, so that 0 is the mean of the training images (of events: no event). Out: the same shape,
type and device. Every image draws its own shift, mirroring and square; there is no loop over images. All frames
[B, T, C, H, W] of a recording change alike.

Sound is shifted and mixed with noise before its features are computed, where both are exact: features of a shifted clip
differ from shifted features in the windows at both ends, and powers do not add. Masks are on the features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from torch import Tensor
from torch.nn import functional as F

from litesnn.errors import InputError
from litesnn.front_end import InputKind

__all__ = ["AugmentSettings", "augment", "augment_sound", "require_meaningful"]

_BOOL = TypeAdapter(bool)

_FULL_SCALE = 32768  # of int16


class AugmentSettings(BaseModel):
    """Which changes training inputs get; the defaults change nothing. The paper: crop 4, flip, cutout 16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="shift images or frames by up to this many pixels each way, filling with black or no events",
    )
    flip: bool | Literal["alternating"] = Field(
        default=False,
        description="mirror images left to right: true: in each epoch about half of them, drawn anew; 'alternating': "
        "each one in every second epoch, beginning with the first or the second, as drawn once for each",
    )
    cutout: int = Field(default=0, ge=0, description="side in pixels of the square set to zero, clipped at the border")
    shift_ms: float = Field(
        default=0, ge=0, le=60000, description="sound: shift by up to this many ms each way, filling with silence"
    )
    noise: float = Field(default=0, ge=0, le=1, description="sound: largest volume of background noise that is added")
    noise_share: float = Field(default=0.8, ge=0, le=1, description="sound: share of the clips that get noise")
    time_mask: int = Field(default=0, ge=0, description="features: most frames that a mask sets to the mean")
    frequency_mask: int = Field(default=0, ge=0, description="features: most mel bands that a mask sets to the mean")
    masks: int = Field(default=1, ge=1, le=16, description="features: masks of each of these two kinds")

    @field_validator("flip", mode="before")
    @classmethod
    def _known_flip(cls, flip: Any) -> Any:
        if flip == "alternating":
            return flip
        try:
            return _BOOL.validate_python(flip)
        except ValidationError:
            raise ValueError("expected true, false or 'alternating'") from None

    @property
    def changes_sound(self) -> bool:
        """Whether features have to be computed anew from changed sound."""
        return self.shift_ms > 0 or self.noise > 0


def require_meaningful(settings: AugmentSettings, kind: InputKind, *, sound: bool, noise: bool, origin: str) -> None:
    """Refuse changes that data of a kind cannot have.

    Raises:
        InputError: images are to be changed like sound, or sound like images; or there is no noise to add.
    """

    def refuse(keys: tuple[str, ...], why: str) -> None:
        for key in keys:
            if getattr(settings, key):
                raise InputError(f"augment.{key} is {getattr(settings, key)}, but {origin} {why}")

    if kind != "array":
        refuse(("time_mask", "frequency_mask"), f"holds {'events' if kind == 'events' else 'images'}; expected 0")
    if not sound:
        refuse(("shift_ms", "noise"), "holds no sound; expected 0")
        return
    refuse(("crop", "flip"), "holds sound; expected augment.shift_ms, or nothing")
    if not noise:
        refuse(("noise",), "has no background noise and no class _silence_; expected 0")


def augment(
    x: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
    *,
    black: Tensor | None = None,
    place: tuple[slice, int] | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Shift, mirror, then cut out of every image of a batch x [B, C, H, W] or [B, T, C, H, W] (paper, section 5.1).

    A shift brings in ``black`` [C] (left out: zeros), in the units of x; a cutout brings in 0, the mean of the training
    images. Both are the paper's. ``generator`` lives on the CPU: equal seeds give equal changes on every device.
    If x is only a part of a batch, ``place`` says which, and of how many images; each gets the changes it gets in all.
    ``mirrored`` bool [B], on the CPU, says which images are mirrored if they alternate, and is left out if they don't.

    Raises:
        ValueError: images are to alternate, and nobody says which are mirrored.
    """
    if settings.flip == "alternating" and mirrored is None:
        raise ValueError("which images are mirrored has to be said if they alternate")
    part, batch = (slice(None), x.shape[0]) if place is None else place
    if x.dim() == 5:
        assert black is None
        return augment(x.flatten(1, 2), settings, generator, place=(part, batch), mirrored=mirrored).view(x.shape)
    height, width = x.shape[2:]
    if settings.crop or settings.flip:
        pad = settings.crop
        shift = torch.randint(0, 2 * pad + 1, (batch, 2), generator=generator)[part]
        flip = torch.randint(0, 2 if settings.flip is True else 1, (batch, 1), generator=generator)[part].bool()
        if mirrored is not None:
            flip = mirrored[:, None]
        column = torch.arange(width).expand(len(x), width)
        rows = shift[:, :1] + torch.arange(height)  # [B, H]
        columns = shift[:, 1:] + torch.where(flip, width - 1 - column, column)  # [B, W]
        fill = 0 if black is None else black.to(x)[:, None, None]
        x = _take(F.pad(x - fill, (pad, pad, pad, pad)), _sent(rows, x), _sent(columns, x)) + fill
    if settings.cutout:
        top = torch.randint(0, height, (batch, 1), generator=generator)[part] - settings.cutout // 2
        left = torch.randint(0, width, (batch, 1), generator=generator)[part] - settings.cutout // 2
        rows, columns = _within(top, settings.cutout, height), _within(left, settings.cutout, width)  # [B, H], [B, W]
        x = x.masked_fill(_sent(rows[:, None, :, None] & columns[:, None, None, :], x), 0)
    for size, extent, dim in ((settings.frequency_mask, height, 2), (settings.time_mask, width, 3)):
        if size:
            masked = _sent(_masks(min(size, extent), extent, settings.masks, batch, generator)[part], x)  # [B, extent]
            x = x.masked_fill(masked[:, None, :, None] if dim == 2 else masked[:, None, None], 0)
    return x


def augment_sound(
    clips: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
    noise: Tensor | None,
    sample_rate: int,
    *,
    place: tuple[slice, int] | None = None,
) -> Tensor:
    """Shift every clip of a batch int16 [B, S], and add noise to some; floats in −1…1 [B, S], clipped there.

    As the authors of Speech Commands do (arXiv 1804.03209 and their training program): a shift in either direction that
    brings in silence, and a random piece of ``noise`` int16 [any], at a random volume. ``place`` as in :func:`augment`.
    """
    part, batch = (slice(None), len(clips)) if place is None else place
    samples = clips.shape[1]
    x = clips.float() / _FULL_SCALE
    if settings.shift_ms:
        most = min(round(settings.shift_ms * sample_rate / 1000), samples)
        start = _sent(torch.randint(0, 2 * most + 1, (batch,), generator=generator)[part], x)
        x = F.pad(x, (most, most)).gather(1, start[:, None] + torch.arange(samples, device=x.device))
    if settings.noise and noise is not None:
        volume = settings.noise * torch.rand(batch, generator=generator)[part]
        volume *= torch.rand(batch, generator=generator)[part] < settings.noise_share
        if len(noise) < samples:
            noise = noise.repeat(-(-samples // len(noise)))
        start = _sent(torch.randint(0, len(noise) - samples + 1, (batch,), generator=generator)[part], x)
        piece = noise[start[:, None] + torch.arange(samples, device=x.device)].float() / _FULL_SCALE  # [B, S]
        x = (x + _sent(volume, x)[:, None] * piece).clamp(-1, 1)
    return x


def _masks(size: int, extent: int, count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Masked places [B, extent]: ``count`` stretches of 0 to ``size`` places (SpecAugment, arXiv 1904.08779)."""
    length = torch.randint(0, size + 1, (batch, count), generator=generator)
    start = (torch.rand(batch, count, generator=generator) * (extent - length + 1)).long()
    place = torch.arange(extent)
    return ((place >= start[:, :, None]) & (place < (start + length)[:, :, None])).any(1)


def _sent(drawn: Tensor, x: Tensor) -> Tensor:
    """``drawn``, from the CPU, on the device of x, without waiting for what that has still to do."""
    return drawn.to(x.device, non_blocking=True)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of each image of x [B, C, *, *] its own rows [B, H] and columns [B, W]: [B, C, H, W]."""
    image = torch.arange(x.shape[0], device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _within(start: Tensor, length: int, size: int) -> Tensor:
    """Whether each of ``size`` places lies in [start, start + length): [B, 1] to [B, size]."""
    place = torch.arange(size)
    return (place >= start) & (place < start + length)
