"""Augmentation of a training batch on the device it lies on: shift, mirror, cutout.

In: x [B, C, H, W], normalised, so that 0 is the mean of the training images. Out: the same shape, type and device.
Every image draws its own shift, mirroring and square; there is no loop over images.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AugmentSettings", "augment"]


class AugmentSettings(BaseModel):
    """Which changes training images get; the defaults change nothing. The paper: crop 4, flip, cutout 16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(
        default=0, ge=0, description="shift images by up to this many pixels each way, filling with black"
    )
    flip: bool = Field(default=False, description="mirror every second image, on average, left to right")
    cutout: int = Field(default=0, ge=0, description="side in pixels of the square set to zero, clipped at the border")


def augment(
    x: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
    *,
    black: Tensor | None = None,
    place: tuple[slice, int] | None = None,
) -> Tensor:
    """Shift, mirror, then cut out of every image of a batch x [B, C, H, W] (paper, section 5.1).

    A shift brings in ``black`` [C] (left out: zeros), in the units of x; a cutout brings in 0, the mean of the training
    images. Both are the paper's. ``generator`` lives on the CPU: equal seeds give equal changes on every device.
    If x is only a part of a batch, ``place`` says which, and of how many images; each gets the changes it gets in all.
    """
    part, batch = (slice(None), x.shape[0]) if place is None else place
    height, width = x.shape[2:]
    if settings.crop or settings.flip:
        pad = settings.crop
        shift = torch.randint(0, 2 * pad + 1, (batch, 2), generator=generator)[part]
        flip = torch.randint(0, 2 if settings.flip else 1, (batch, 1), generator=generator)[part].bool()
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
    return x


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
