"""Raw inputs of a trained network: checked alike, whatever runs it; and what its logits say of the classes.

In: arrays or tensors as a person has them. An image has uint8 pixels; floats are refused, since those from 0 to 1 would
be black images, unless the caller says what they are multiplied by. Out: the same, or one line of ``InputError``.

T timesteps, B batch, C channels, H×W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from litesnn.errors import InputError
from litesnn.front_end import InputKind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RawInput",
    "array_of",
    "not_finite",
    "probabilities",
    "require_array",
    "require_pixels",
    "require_raw",
    "require_scale",
]

_EXPECTED: dict[InputKind, str] = {"image": "uint8 pixels", "array": "real numbers", "events": "uint8 counts of events"}
_REAL = ("int", "uint", "float", "bfloat")  # how the names of real types begin


class RawInput(Protocol):
    """The input of a network: ``shape`` is [C, H, W]; with ``frames`` another one at each timestep."""

    @property
    def kind(self) -> InputKind:
        """The kind of the input."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""

    @property
    def frames(self) -> bool:
        """Whether the network sees another frame at each timestep."""


def require_array(x: object) -> None:
    """Raise ``InputError`` unless ``x`` is a NumPy array or a tensor."""
    if not isinstance(x, np.ndarray) and not _is_tensor(x):
        raise InputError(f"input: expected a NumPy array or a torch tensor, found {type(x).__name__}")


def require_raw(spec: RawInput, dtype: object, size: Sequence[int], timesteps: int = 1) -> None:
    """Check what raw inputs are, of an image [B, C, H, W], of frames [B, T or more, C, H, W].

    Args:
        spec: what the network is given.
        dtype: NumPy's or torch's type of the inputs.
        size: their shape.
        timesteps: least frames that they have, if they are frames.

    Raises:
        InputError: they have another type or shape, or too few frames.
    """
    name = str(dtype).removeprefix("torch.")
    if spec.kind != "array" and name != "uint8":
        floats = spec.kind == "image" and name.lstrip("b").startswith("float")
        hint = "; of pixels that were divided by 255, say scale=255" if floats else ""
        raise InputError(f"input: expected {_EXPECTED[spec.kind]}, found {name}{hint}")
    if not name.startswith(_REAL):
        raise InputError(f"input: expected {_EXPECTED[spec.kind]}, found {name}")
    sizes = ["batch", *(["timesteps"] if spec.frames else []), *spec.shape]
    if len(size) != len(sizes) or tuple(size[-3:]) != spec.shape:
        one = f"; x[None] is a batch of one {'recording' if spec.frames else 'input'}"
        hint = one if len(size) == len(sizes) - 1 and tuple(size[-3:]) == spec.shape else ""
        raise InputError(f"input: expected [{', '.join(map(str, sizes))}], found {list(size)}{hint}")
    if spec.frames and size[1] < timesteps:
        raise InputError(f"input: expected at least {timesteps} frames, found {size[1]}")


def require_scale(spec: RawInput, dtype: object, scale: float) -> None:
    """Raise ``InputError`` if inputs of this type cannot be multiplied by ``scale`` to become pixels."""
    if spec.kind != "image":
        raise InputError(f"scale: is for images, but this network takes {_EXPECTED[spec.kind]}")
    if not str(dtype).removeprefix("torch.").lstrip("b").startswith("float"):
        raise InputError(f"scale: is for floats, found {dtype}")
    if not 0 < scale < float("inf"):
        raise InputError(f"scale: expected a number above zero, such as 255, found {scale!r}")


def require_pixels(low: float, high: float, scale: float) -> None:
    """Raise ``InputError`` unless rounded pixels from ``low`` to ``high`` are within 0 to 255, NaN among them."""
    if not (low >= 0 and high <= 255):
        raise InputError(f"input: expected numbers that scale={scale:g} makes 0 to 255, found {low:g} to {high:g}")


def array_of(spec: RawInput, x: NDArray[np.generic] | Tensor, scale: float | None) -> NDArray[np.generic]:
    """Inputs as an array, those that ``scale`` makes pixels as uint8; their type and shape are not looked at else.

    Raises:
        InputError: ``x`` is no array, or ``scale`` does not make pixels of it.
    """
    require_array(x)
    if not isinstance(x, np.ndarray):
        wide = str(x.dtype) == "torch.bfloat16"  # which NumPy does not have
        values: NDArray[np.generic] = (x.float() if wide else x).detach().cpu().numpy()
        x = values
    if scale is None:
        return x
    require_scale(spec, x.dtype, scale)
    with np.errstate(over="ignore"):
        pixels = np.rint(x.astype(np.float32) * np.float32(scale))
    if pixels.size:
        require_pixels(float(pixels.min()), float(pixels.max()), scale)
    bytes_: NDArray[np.uint8] = pixels.astype(np.uint8)
    return bytes_


def not_finite() -> InputError:
    """The error for inputs that are not finite in float32."""
    return InputError("input: expected finite float32 numbers, found others")


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax [B, K] of logits [B, K]: what training made the logarithm of likely answers.

    They say how sure the network is, not how often it is right: nothing calibrates them.
    """
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
    return shares


def _is_tensor(x: Any) -> bool:
    """Whether ``x`` is torch's; whoever has one has loaded torch."""
    return type(x).__module__.partition(".")[0] == "torch" or hasattr(x, "__torch_function__")
