"""Mid-rise: uniform levels with no zero, one step per layer that follows the spread of its weights.

    Δ_b = g_b · std(W),    Q_b(W) = (clip(round(W/Δ_b + ½), −2^(b−1)+1, 2^(b−1)) − ½) · Δ_b

g_b is the step of the optimal uniform quantizer of a unit Gaussian (Max, 1960). A code is the odd integer
Q_b(W) / (Δ_b/2), in ±1, ±3, …, ±(2^b − 1): b bits, and no zero. The gradient goes straight through, to clipped weights
too (LitE-SNN, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from litesnn.quantizers.quantizer import Quantizer, per_layer, straight_through

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GAUSSIAN_STEP", "MIDRISE", "nearest_levels", "standard_deviation"]

GAUSSIAN_STEP = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.336}


def standard_deviation(weights: Tensor) -> Tensor:
    """std(W) of each of G layers [G, …] (divisor n), without gradient and at least 1e-8: [G, 1, …]."""
    # In float64: a layer has the same step to the last bit alone and among others, and squares may be summed plainly.
    exact = weights.detach().double().flatten(1)
    variance = exact.square().mean(-1) - exact.mean(-1).square()
    return per_layer(variance.clamp_min(0).sqrt().to(weights.dtype).clamp_min(1e-8), weights)


def nearest_levels(weights: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Q_b(W) / Δ_b without gradient, a new tensor: the nearest halves of odd integers, −2^(b−1)+½ … 2^(b−1)−½."""
    level = (weights.detach() / steps).add_(0.5).round_()
    return level.clamp_(1 - 2 ** (bits - 1), 2 ** (bits - 1)).sub_(0.5)


def _prepare(weights: Tensor, own: Tensor | None) -> Tensor:
    return standard_deviation(weights)


def _quantize(weights: Tensor, deviation: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    steps = GAUSSIAN_STEP[bits] * deviation
    return nearest_levels(weights, steps, bits), steps


MIDRISE = Quantizer(
    name="midrise",
    description="uniform levels without a zero; the step is that of the optimal quantizer of a Gaussian",
    bits=tuple(GAUSSIAN_STEP),
    prepare=_prepare,
    quantize=_quantize,
    rule=straight_through,
)
