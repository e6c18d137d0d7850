"""3 × 3 convolutions of stride 1 on the CPU by Winograd's algorithm, in C: ``csrc/winograd.h``.

They take 4 multiplications for 9, and round otherwise than a direct convolution, not worse: their sums are of fewer and
of as large numbers. Spikes lose nothing when they are transformed, since that only adds up small integers.

Shapes: N maps, I input and O output channels, H × W pixels, P = N·H·W.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from litesnn.snn.native_library import CMaps, address, as_maps, library, workers

__all__ = ["applies", "convolve", "input_gradient", "weight_gradient"]


def applies(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the functions below can be used, and are faster than torch's: for x [N, I, H, W] and weight [O, I, k, k]."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and stride == 1
        and bool(library().lsnn_winograd_tile(0))
    )


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """[N, I, H, W] → [N, O, H, W], channels_last, for weight [O, I, 3, 3] and a padding of 1.

    x may be some channels of a map that is channels_last, as all maps here.

    Raises:
        MemoryError: there is no memory for the transforms.
    """
    return _convolve(x, weight, transposed=False)


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """[N, I, H, W], channels_last, from the gradient of the output [N, O, H, W] and weight [O, I, 3, 3].

    Raises:
        MemoryError: there is no memory for the transforms.
    """
    return _convolve(gradient, weight, transposed=True)


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """[O, I, 3, 3] from the input [N, I, H, W] and the gradient of the output [N, O, H, W].

    Raises:
        MemoryError: there is no memory for the transforms.
    """
    x, gradient = _with_rows(x), _with_rows(gradient)
    out = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)
    sizes, maps = _sizes(x, gradient.shape[1]), (as_maps([_rows(x)]), as_maps([_rows(gradient)]))
    _check(library().lsnn_winograd_weight_gradient(workers()[0], _best_tile(x), sizes, *maps, address(out)))
    return out


def _convolve(x: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
    x, weight = _with_rows(x), weight.contiguous()
    outputs = weight.shape[1 if transposed else 0]
    count, _, height, width = x.shape
    out = x.new_empty(count, height, width, outputs)
    maps = as_maps([_rows(x)]), as_maps([out.view(-1, outputs)])
    sizes = _sizes(x, outputs)
    _check(library().lsnn_winograd(workers()[0], _best_tile(x), sizes, maps[0], address(weight), transposed, maps[1]))
    return out.permute(0, 3, 1, 2)


def _best_tile(x: Tensor) -> int:
    """The number of the size of tiles with the fewest multiplications for maps of this size."""
    return min(enumerate(tile_sizes()), key=lambda tile: _multiplications(tile[1], *x.shape[2:]))[0]


def tile_sizes() -> list[int]:
    """Sides of the tiles of outputs that there are loops for; none: this CPU has no vectors for them."""
    sizes: list[int] = []
    while side := library().lsnn_winograd_tile(len(sizes)):
        sizes.append(side)
    return sizes


def _multiplications(side: int, height: int, width: int) -> int:
    """How many a map takes for each pair of channels."""
    return -(-height // side) * -(-width // side) * (side + 2) ** 2


def _sizes(x: Tensor, outputs: int) -> object:
    count, inputs, height, width = x.shape
    return ctypes.byref(CMaps(count, height, width, inputs, outputs))


def _with_rows(x: Tensor) -> Tensor:
    """The same map, its channels side by side and its pixels equally far apart: itself if it is so."""
    _, channels, height, width = x.shape
    step = x.stride(3)
    if x.stride(1) == 1 and x.stride(2) == width * step and x.stride(0) == height * width * step and step >= channels:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    """[P, C]."""
    count, channels, height, width = x.shape
    return x.as_strided((count * height * width, channels), (x.stride(3), 1))


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for the transforms of a convolution")
