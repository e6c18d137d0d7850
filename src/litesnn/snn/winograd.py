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
from litesnn.snn.native_library import CConvolution, address, as_maps, instruction_set, library, workers

__all__ = ["Scheme", "best_scheme", "convolve", "input_gradient", "schemes", "weight_gradient"]


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
    height, width = (-(-size // scheme.stride) for size in x.shape[2:])
    out = x.new_empty(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)
    _call("", scheme, (x.shape, weight.shape[0]), to_rows(x), weight.contiguous(), to_rows(out))
    return out


def input_gradient(gradient: Tensor, weight: Tensor, scheme: Scheme, size: Sequence[int]) -> Tensor:
    """[N, I, H, W], channels_last, from the gradient of the output [N, O, H', W'], weight [O, I, 3, 3] and (H, W).

    Raises:
        MemoryError: there is no memory for the transforms.
        ValueError: not float32 on the CPU, or a scheme of another instruction set.
    """
    out = gradient.new_empty(gradient.shape[0], *size, weight.shape[1]).permute(0, 3, 1, 2)
    _call("_input_gradient", scheme, (out.shape, weight.shape[0]), to_rows(gradient), weight.contiguous(), to_rows(out))
    return out


def weight_gradient(x: Tensor, gradient: Tensor, scheme: Scheme) -> Tensor:
    """[O, I, 3, 3] from the input [N, I, H, W] and the gradient of the output [N, O, H', W'].

    Raises:
        MemoryError: there is no memory for the transforms.
        ValueError: not float32 on the CPU, or a scheme of another instruction set.
    """
    out = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)
    _call("_weight_gradient", scheme, (x.shape, gradient.shape[1]), to_rows(x), to_rows(gradient), out)
    return out


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _call(name: str, scheme: Scheme, sizes: tuple[torch.Size, int], *tensors: Tensor) -> None:
    """Call a function for an input of this shape and so many outputs; matrices are maps, other tensors values."""
    if scheme not in schemes() or not all(map(_is_plain, tensors)):
        raise ValueError(f"expected float32 on the CPU and one of {schemes()}, not {scheme}")
    (count, inputs, height, width), outputs = sizes
    convolution = ctypes.byref(CConvolution(count, height, width, inputs, outputs))
    arguments = [as_maps([tensor]) if tensor.dim() == 2 else address(tensor) for tensor in tensors]
    with record_function("litesnn::convolution"):  # torch's profiler shows it
        failed = getattr(library(), f"lsnn_winograd{name}")(workers()[0], scheme.number, convolution, *arguments)
    if failed:
        raise MemoryError("no memory for the transforms of a convolution")
