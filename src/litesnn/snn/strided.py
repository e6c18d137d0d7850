"""Convolutions of 1 × 1 with a stride, kept away from torch: it overwrites memory in the gradient of their weights.

The fault is oneDNN's, up to the one in torch 2.13.0. To compute that gradient, the pixels that are read are put
together in memory for H'·W'·I values, but those after the first few of an image are written to where they would be if a
pixel had a whole block of values: 8 with AVX2, 16 with AVX-512. It happens where all of this holds:

- 1 < I < 8 where AVX2 is the best that the CPU has or ``ONEDNN_MAX_CPU_ISA`` allows, 1 < I < 16 with AVX-512; any O,
  and with AVX-512 bfloat16 too. Where there is no AVX2, other loops are used, which are right.
- The input is channels_last, and there are one group, no padding, and a stride that divides H and W; any dilation.
- The pixels of an image are not all taken at once: with AVX2 and several images, where it has 4 × 6 or more; with
  AVX-512, or of one image alone, only in large ones (it was met in 64 × 64 and 96 × 160, not in 32 × 32).

Then the heap is corrupt: a crash, there or later. Several threads write where others read: steps do not end, or
gradients are wrong. Outputs, gradients of the input, larger kernels (also those smaller than their stride), groups, and
convolutions in one or three dimensions are right. A transposed convolution has the same fault in the same gradient.

A 1 × 1 convolution with a stride s reads every s-th pixel of every s-th row. Here these pixels are taken first, and
convolved with a stride of 1: the same sums. Whatever calls torch's convolutions in this package calls them from here;
what a user's module calls itself, in steps that may have gradients, is caught by :class:`Guard`.

Shapes: N maps, I input and O output channels, H × W pixels of the input and H' × W' of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Guard", "conv2d", "conv_transpose2d", "pixels_read"]

Pair = int | Sequence[int]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`torch.nn.functional.conv2d`, [N, I, H, W] → [N, O, H', W'], with the same arguments."""
    if _is_strided_point(weight, stride) and (padding == "valid" or not _padded(padding)):
        x, stride = pixels_read(x, stride), 1
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d`, with the same arguments."""
    if not _is_strided_point(weight, stride) or _padded(padding):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    out = F.conv_transpose2d(x, weight, groups=groups)
    steps, more = _pair(stride), _pair(output_padding)
    size = [(n - 1) * step + 1 + end for n, step, end in zip(out.shape[-2:], steps, more, strict=True)]
    whole = out.new_zeros(*out.shape[:-2], *size)
    pixels_read(whole, stride).copy_(out)
    return whole if bias is None else whole + bias[:, None, None]


def pixels_read(x: Tensor, stride: Pair) -> Tensor:
    """The pixels of [..., H, W] that a 1 × 1 convolution reads, as a view [..., ceil(H / stride), ceil(W / stride)]."""
    rows, columns = _pair(stride)
    return x[..., ::rows, ::columns]


class Guard(TorchFunctionMode):
    """While it is a context, 1 × 1 convolutions with a stride that are called in torch's way are computed in ours."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _OURS.get(func, func)(*args, **(kwargs or {}))


_OURS: dict[Any, Callable[..., Tensor]] = {torch.conv2d: conv2d, torch.conv_transpose2d: conv_transpose2d}
"""The replacements of torch's functions; ``torch.nn.functional`` has the same ones."""


def _is_strided_point(weight: Tensor, stride: Pair) -> bool:
    return weight.shape[2:] == (1, 1) and _pair(stride) != (1, 1)


def _padded(padding: Pair | str) -> bool:
    return isinstance(padding, str) or _pair(padding) != (0, 0)


def _pair(values: Pair) -> tuple[int, int]:
    return (values, values) if isinstance(values, int) else (values[0], values[-1])
