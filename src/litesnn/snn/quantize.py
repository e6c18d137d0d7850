"""The quantizer: one mid-rise uniform step per layer.

    Δ_b = g_b · std(W),    Q_b(W) = (clip(round(W/Δ_b + ½), −2^(b−1)+1, 2^(b−1)) − ½) · Δ_b

g_b is the step of the optimal uniform quantizer of a unit Gaussian (Max, 1960). A code is the odd integer
Q_b(W) / (Δ_b/2), in ±1, ±3, …, ±(2^b − 1): b bits, and no zero.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["GAUSSIAN_STEP", "quantized", "standard_deviation", "step_size", "weight_codes"]

GAUSSIAN_STEP = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.336}


def step_size(weight: Tensor, bits: int) -> Tensor:
    """Δ_b of one layer, a scalar without gradient."""
    return GAUSSIAN_STEP[bits] * standard_deviation(weight)


def standard_deviation(weight: Tensor, *, stacked: bool = False) -> Tensor:
    """std(W) of the whole tensor (divisor n), without gradient and at least 1e-8; a scalar.

    With ``stacked``, the first dimension counts layers of equal shape, and each has its own: [G, 1, …].
    """
    # In float64: a layer has the same step to the last bit alone and among others, and squares may be summed plainly.
    exact = weight.detach().double().flatten(1 if stacked else 0)
    variance = exact.square().mean(-1) - exact.mean(-1).square()
    spread = variance.clamp_min(0).sqrt().to(weight.dtype).clamp_min(1e-8)
    return spread.view(-1, *[1] * (weight.dim() - 1)) if stacked else spread


def weight_codes(weight: Tensor, bits: int) -> Tensor:
    """The odd integers that stand for ``weight`` [any shape] at ``bits`` bits, as floats of the same shape."""
    return _levels(weight, step_size(weight, bits), bits).mul_(2)


def quantized(weight: Tensor, deviation: Tensor, bits: int) -> Tensor:
    """Q_b(W) without gradient, for the :func:`standard_deviation` of ``weight`` (possibly of stacked layers)."""
    step = GAUSSIAN_STEP[bits] * deviation
    return _levels(weight, step, bits).mul_(step)


def _levels(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """Q_b(W) / Δ_b: halves of odd integers."""
    level = (weight.detach() / step).add_(0.5).round_()
    return level.clamp_(1 - 2 ** (bits - 1), 2 ** (bits - 1)).sub_(0.5)
