"""Convolutions of maps that are channels_last, and their gradients, in the fastest way that there is for them.

On the CPU those of 3 × 3 are :mod:`litesnn.snn.winograd`'s where it takes fewer multiplications, all others torch's.
Autograd does not see through them: they are for those who write the way back themselves.
Shapes: N maps, I input and O output channels, H × W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.snn import winograd

__all__ = ["convolve", "convolve_backward"]


def convolve(x: Tensor, weight: Tensor, *, stride: int, kind: torch.dtype | None = None) -> Tensor:
    """[N, I, H, W] → [N, O, H', W'], channels_last, for weight [O, I, k, k] and a padding of k // 2.

    Args:
        x: may be some channels of a wider map.
        kind: the type to compute in; ``None``: that of x.
    """
    scheme = None if kind else winograd.best_scheme(x, weight, stride)
    if scheme is not None:
        return winograd.convolve(x, weight, scheme)
    given, kernel = _last(x), weight.shape[2]
    out = F.conv2d(given.to(kind or x.dtype), weight.to(kind or x.dtype), stride=stride, padding=kernel // 2)
    return _last(out.to(x.dtype))


def convolve_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    stride: int,
    kind: torch.dtype | None = None,
    needs_input: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x (channels_last; ``None`` if none is needed) and of the weight, from that of the output."""
    scheme = None if kind else winograd.best_scheme(x, weight, stride)
    if scheme is not None:
        grad_x = winograd.input_gradient(gradient, weight, scheme, x.shape[2:]) if needs_input else None
        return grad_x, winograd.weight_gradient(x, gradient, scheme)
    padding, given = weight.shape[2] // 2, kind or x.dtype
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        *(gradient.to(given), _last(x).to(given), weight.to(given), None, [stride] * 2, [padding] * 2),
        *([1, 1], False, [0, 0], 1, (needs_input, True, False)),
    )
    return _last(grad_x.to(x.dtype)) if needs_input else None, grad_weight.to(weight.dtype)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
