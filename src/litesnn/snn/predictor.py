"""Predictions of a trained network in torch: classes and probabilities of raw inputs, which are checked.

T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.front_end import InputKind
from litesnn.input_spec import InputSpec
from litesnn.raw_inputs import not_finite, require_array, require_pixels, require_raw, require_scale
from litesnn.snn.backbone import first_frames

__all__ = ["InputInfo", "Predictor", "encode", "raw_tensor"]

Array = TypeVar("Array", NDArray[np.generic], Tensor)


@dataclass(frozen=True)
class InputInfo:
    """The input and classes of a network: the ``input``, and ``classes``, the names of the labels."""

    input: InputSpec
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.input.describe()} → {len(self.classes)} classes"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of the input."""
        return self.input.shape

    @property
    def kind(self) -> InputKind:
        """The kind of the input."""
        return self.input.kind

    @property
    def frames(self) -> bool:
        """Whether the network sees another frame at each timestep."""
        return self.input.frames


def encode(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Raw data [..., C, H, W] → int8 input: ``round(32·(x − mean)/std)`` clipped to ±127.

    The order of the float32 roundings is part of the deployed arithmetic.
    """
    shift, scale = (torch.tensor(values, dtype=torch.float32, device=x.device)[:, None, None] for values in (mean, std))
    normalised = (x.float() - shift) / scale
    return (normalised * INPUT_STEPS).round_().clamp_(-MAX_INPUT, MAX_INPUT).to(torch.int8)


class Predictor(nn.Module):
    """A network whose choices are made. It takes raw inputs: arrays give arrays, and tensors give tensors.

    Called with encoded inputs, which :meth:`encode` makes, it returns an :class:`~litesnn.snn.backbone.Output`, in
    evaluation with the deployed arithmetic; a ``meter`` collects what that costs.

    Args:
        info: the input and the classes.
    """

    def __init__(self, info: InputInfo) -> None:
        super().__init__()
        self.info = info

    @property
    def timesteps(self) -> int:
        """T."""
        raise NotImplementedError

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def analog_macs(self) -> Sequence[tuple[int | Tensor, int]]:
        """MACs per inference, numbers or scalars, and bits of every layer that reads real numbers."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Raw inputs [B, C, H, W], or frames [B, T or more, C, H, W] of which the first T are seen → int8 input.

        Raises:
            InputError: they have another type or shape than the network's input, or are not finite.
        """
        info = self.info
        x = raw_tensor(info, x, timesteps=self.timesteps)
        if info.frames:
            x = first_frames(x, self.timesteps)
        return encode(x.to(self.device), info.input.mean, info.input.std)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.info.classes

    def predict(self, x: Array, *, scale: float | None = None) -> Array:
        """Class indices int64 [B] of raw inputs, with the deployed arithmetic.

        Args:
            x: images uint8 [B, C, H, W], or arrays of real numbers, or frames of events uint8 [B, T or more, C, H, W].
            scale: what floats are multiplied by, and rounded, to become pixels from 0 to 255, such as 255 for floats
                from 0 to 1.

        Raises:
            InputError: ``x`` has another type or shape than the network's input, is not finite, or has numbers out of
                range.
        """
        classes = self._logits(x, scale).argmax(1)
        return classes.cpu().numpy() if isinstance(x, np.ndarray) else classes

    def predict_proba(self, x: Array, *, scale: float | None = None) -> Array:
        """Probabilities float32 [B, K] of the classes: the softmax of the logits after the last timestep.

        They say how sure the network is, not how often it is right: nothing calibrates them. Arguments and errors are
        those of :meth:`predict`.
        """
        shares = self._logits(x, scale).softmax(1)
        return shares.cpu().numpy() if isinstance(x, np.ndarray) else shares

    @torch.no_grad()
    def _logits(self, x: NDArray[np.generic] | Tensor, scale: float | None) -> Tensor:
        """Logits [B, K] after the last timestep."""
        raw = raw_tensor(self.info, x, timesteps=self.timesteps, scale=scale)
        was_training = self.training
        self.eval()
        try:
            logits: Tensor = self(self.encode(raw)).logits[-1]
        finally:
            self.train(was_training)
        return logits


def raw_tensor(
    info: InputInfo, x: NDArray[np.generic] | Tensor, *, timesteps: int = 1, scale: float | None = None
) -> Tensor:
    """Raw inputs, checked, as a tensor: uint8, or real numbers that are finite in float32.

    Raises:
        InputError: as :meth:`Predictor.predict`.
    """
    require_array(x)
    if scale is None:
        require_raw(info, x.dtype, x.shape, timesteps)
    else:
        require_scale(info, x.dtype, scale)
    if isinstance(x, np.ndarray):
        with np.errstate(over="ignore"):  # refused below
            x = torch.from_numpy(np.ascontiguousarray(x, np.uint8 if x.dtype == np.uint8 else np.float32))
    if scale is not None:
        pixels = (x.float() * scale).round()
        if pixels.numel():
            require_pixels(float(pixels.min()), float(pixels.max()), scale)
        x = pixels.to(torch.uint8)
        require_raw(info, x.dtype, x.shape, timesteps)
    elif info.kind == "array" and not bool(torch.isfinite(x.float()).all()):
        raise not_finite()
    return x
