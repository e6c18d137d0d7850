"""Convolutions of maps that are channels_last, and their gradients, in the fastest way that there is for them.

On the CPU those of 3 × 3 are :mod:`litesnn.snn.winograd`'s where it takes fewer multiplications, all others torch's.
Autograd does not see through them: they are for those who write the backward pass themselves.
Shapes: N maps, I input and O output channels, H × W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litesnn.snn import winograd
from litesnn.snn.kernels import Kernels, to_rows
from litesnn.snn.strided import conv2d, pixels_read
from litesnn.snn.winograd import Normalised

__all__ = ["convolve", "convolve_backward", "convolve_measured"]


def convolve(x: Tensor, weight: Tensor, *, stride: int, kind: torch.dtype | None = None) -> Tensor:
    """[N, I, H, W] → [N, O, H', W'], channels_last, for weight [O, I, k, k] and a padding of k // 2.

    Args:
        x: may be some channels of a wider map.
        kind: the type to compute in; ``None``: that of x.
    """
    scheme = None if kind else winograd.best_scheme(x, weight, stride)
    return _by_torch(x, weight, stride, kind) if scheme is None else winograd.convolve(x, weight, scheme)


def convolve_measured(
    x: Tensor, weight: Tensor, *, stride: int, kernels: Kernels, kind: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`convolve`, with the mean and the variance of every output channel [O]; ``kernels`` may measure them."""
    scheme = None if kind else winograd.best_scheme(x, weight, stride)
    if scheme is not None:
        return winograd.convolve_measured(x, weight, scheme)
    out = _by_torch(x, weight, stride, kind)
    return out, *kernels.mean_variance(to_rows(out))


def convolve_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    stride: int,
    kernels: Kernels,
    kind: torch.dtype | None = None,
    normalised: Normalised | None = None,
    needs_input: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x (channels_last; ``None`` if none is needed) and of the weight, from that of the output.

    Args:
        normalised: ``gradient`` is the output instead, channels_last, and becomes its gradient on the way.
    """
    scheme = None if kind else winograd.best_scheme(x, weight, stride)
    if normalised is not None and (scheme is None or not winograd.takes(normalised, weight.shape[0])):
        _normalise(to_rows(gradient), normalised, kernels)
        normalised = None
    if scheme is not None:
        grad_weight = winograd.weight_gradient(x, gradient, scheme, normalised)  # first: it leaves the gradient
        return winograd.input_gradient(gradient, weight, scheme, x.shape[2:]) if needs_input else None, grad_weight
    point, padding, given = weight.shape[2] == 1 and stride > 1, weight.shape[2] // 2, kind or x.dtype
    read, step = (pixels_read(x, stride), 1) if point else (x, stride)
    grad_read, grad_weight, _ = torch.ops.aten.convolution_backward(
        *(gradient.to(given), _last(read).to(given), weight.to(given), None, [step] * 2, [padding] * 2),
        *([1, 1], False, [0, 0], 1, (needs_input, True, False)),
    )
    if not needs_input:
        return None, grad_weight.to(weight.dtype)
    if not point:
        return _last(grad_read.to(x.dtype)), grad_weight.to(weight.dtype)
    grad_x = torch.zeros_like(x, memory_format=torch.channels_last)
    pixels_read(grad_x, stride).copy_(grad_read)
    return grad_x, grad_weight.to(weight.dtype)


def _normalise(z: Tensor, normalised: Normalised, kernels: Kernels) -> None:
    """Make of outputs z [P, O] their gradient, in place."""
    columns = normalised.g.shape[1]
    for first in range(0, z.shape[1], columns):
        part = slice(first, first + columns)
        out = z[:, part]
        kernels.scaled_sum(normalised.g, out, normalised.a[part], normalised.b[part], normalised.c[part], out)


def _by_torch(x: Tensor, weight: Tensor, stride: int, kind: torch.dtype | None) -> Tensor:
    given, kernel = kind or x.dtype, weight.shape[2]
    if kernel == 1:
        x, stride = pixels_read(x, stride), 1
    out = conv2d(_last(x).to(given), weight.to(given), stride=stride, padding=kernel // 2)
    return _last(out.to(x.dtype))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
