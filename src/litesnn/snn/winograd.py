"""3 × 3 convolutions of stride 1 and 2 on the CPU by Winograd's algorithm, in C: ``csrc/winograd.h``.

They take fewer multiplications than a direct convolution (a quarter of them for large maps and a stride of 1, 81 of 144
for a stride of 2), and round otherwise. Spikes are transformed without any rounding.

Shapes: N maps, I input and O output channels, H × W pixels of the input and H' × W' of the output, P pixels in all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.profiler import record_function

from litesnn.snn.kernels import to_rows
from litesnn.snn.native_library import CConvolution, CNormalised, address, as_maps, instruction_set, library, workers

__all__ = [
    "Normalised",
    "Scheme",
    "best_scheme",
    "convolve",
    "convolve_measured",
    "input_gradient",
    "schemes",
    "takes",
    "weight_gradient",
]


@dataclass(frozen=True)
class Scheme:
    """A way to compute convolutions of one stride: in tiles of ``side`` × ``side`` outputs."""

    number: int
    side: int
    stride: int

    def multiplications(self, height: int, width: int) -> int:
        """How many the output of a map of H × W pixels takes for each pair of channels, ends of tiles included."""
        tiles = -(-height // (self.stride * self.side)) * -(-width // (self.stride * self.side))
        return tiles * (self.stride * (self.side - 1) + 3) ** 2


@dataclass(frozen=True)
class Normalised:
    """A normalisation after a convolution with output z: dz = a · g + b · z + c.

    Attributes:
        g: gradients of what the normalised outputs lead to [P, G]; the output o takes column o modulo G.
        a, b, c: [O].
    """

    g: Tensor
    a: Tensor
    b: Tensor
    c: Tensor


def schemes() -> tuple[Scheme, ...]:
    """All that this CPU, and the instruction set in use, have loops for."""
    return _schemes(instruction_set())


@cache
def _schemes(_: str) -> tuple[Scheme, ...]:
    found: list[Scheme] = []
    while (scheme := library().lsnn_winograd_scheme(len(found))).side:
        found.append(Scheme(len(found), scheme.side, scheme.stride))
    return tuple(found)


def best_scheme(x: Tensor, weight: Tensor, stride: int) -> Scheme | None:
    """The scheme with the fewest multiplications for x [N, I, H, W] and weight [O, I, k, k].

    ``None``: there is none, or the direct way takes no more.
    """
    if not _is_plain(x) or not _is_plain(weight) or weight.shape[2:] != (3, 3) or weight.numel() == 0:
        return None
    height, width = x.shape[2:]
    able = [scheme for scheme in schemes() if scheme.stride == stride]
    # Of as many multiplications smaller tiles are more exact.
    best = min(able, key=lambda scheme: (scheme.multiplications(height, width), scheme.side), default=None)
    direct = 9 * -(-height // stride) * -(-width // stride)
    return best if best is not None and best.multiplications(height, width) < direct else None


def convolve(x: Tensor, weight: Tensor, scheme: Scheme) -> Tensor:
    """[N, I, H, W] → [N, O, H', W'], channels_last, for weight [O, I, 3, 3] and a padding of 1.

    x may be some channels of a map that is channels_last; any other is copied.

    Raises:
        MemoryError: there is no memory for the transforms.
        ValueError: not float32 on the CPU, or a scheme of another instruction set.
    """
    return _convolve(x, weight, scheme, None, None)


def convolve_measured(x: Tensor, weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`convolve`, and mean and variance (divisor P) of every output channel [O], as it is written."""
    mean, variance = x.new_empty(2, weight.shape[0])
    return _convolve(x, weight, scheme, address(mean), address(variance)), mean, variance


def input_gradient(gradient: Tensor, weight: Tensor, scheme: Scheme, size: Sequence[int]) -> Tensor:
    """[N, I, H, W], channels_last, from the gradient of the output [N, O, H', W'], weight [O, I, 3, 3] and (H, W).

    Raises:
        MemoryError: there is no memory for the transforms.
        ValueError: not float32 on the CPU, or a scheme of another instruction set.
    """
    out = gradient.new_empty(gradient.shape[0], *size, weight.shape[1]).permute(0, 3, 1, 2)
    rows, weights = to_rows(gradient), weight.contiguous()
    arguments = as_maps([rows]), address(weights), as_maps([to_rows(out)])
    _call("_input_gradient", scheme, (out.shape, weight.shape[0]), (gradient, weight), *arguments)
    return out


def weight_gradient(x: Tensor, gradient: Tensor, scheme: Scheme, normalised: Normalised | None = None) -> Tensor:
    """[O, I, 3, 3] from the input [N, I, H, W] and the gradient of the output [N, O, H', W'].

    Args:
        normalised: ``gradient`` is the output instead, a map that is channels_last, and becomes its gradient.

    Raises:
        MemoryError: there is no memory for the transforms.
        ValueError: not float32 on the CPU, or a scheme of another instruction set.
    """
    out = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)
    given = None
    if normalised is not None:
        factors = [part.contiguous() for part in (normalised.a, normalised.b, normalised.c)]
        (g,) = as_maps([normalised.g])
        given = ctypes.byref(CNormalised(g, normalised.g.shape[1], *map(address, factors)))
    rows, others = to_rows(x), to_rows(gradient)
    assert normalised is None or others.data_ptr() == gradient.data_ptr()  # else a copy would be changed
    arguments = as_maps([rows]), as_maps([others]), given, address(out)
    _call("_weight_gradient", scheme, (x.shape, gradient.shape[1]), (x, gradient), *arguments)
    return out


def takes(normalised: Normalised, outputs: int) -> bool:
    """Whether :func:`weight_gradient` can be given this for so many outputs."""
    columns, vector = normalised.g.shape[1], int(library().lsnn_winograd_vector())
    return columns == outputs or (vector > 0 and outputs % columns == 0 and columns % vector == 0)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _convolve(x: Tensor, weight: Tensor, scheme: Scheme, mean: int | None, variance: int | None) -> Tensor:
    height, width = (-(-size // scheme.stride) for size in x.shape[2:])
    out = x.new_empty(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)
    rows, weights = to_rows(x), weight.contiguous()
    arguments = as_maps([rows]), address(weights), as_maps([to_rows(out)]), mean, variance
    _call("", scheme, (x.shape, weight.shape[0]), (x, weight), *arguments)
    return out


def _call(
    name: str, scheme: Scheme, sizes: tuple[torch.Size, int], tensors: tuple[Tensor, ...], *arguments: object
) -> None:
    """Call a function for an input of this shape and so many outputs. ``tensors``: what it is given."""
    if scheme not in schemes() or not all(map(_is_plain, tensors)):
        raise ValueError(f"expected float32 on the CPU and one of {schemes()}, not {scheme}")
    (count, inputs, height, width), outputs = sizes
    convolution = ctypes.byref(CConvolution(count, height, width, inputs, outputs))
    with record_function("litesnn::convolution"):  # torch's profiler shows it
        failed = getattr(library(), f"lsnn_winograd{name}")(workers()[0], scheme.number, convolution, *arguments)
    if failed:
        raise MemoryError("no memory for the transforms of a convolution")
