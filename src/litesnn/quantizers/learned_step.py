"""Learned step: the levels of mid-rise, with a step of each layer and bit-width that is learned with the weights.

    v = W/Δ,    Q(W) = (clip(round(v + ½), −2^(b−1)+1, 2^(b−1)) − ½) · Δ

Δ begins as the step of mid-rise. Gradients as in LSQ (Esser et al., ICLR 2020, sections 2.1 and 2.2), on these levels:

    ∂Q/∂W = 1 where |v| ≤ 2^(b−1), else 0
    ∂Q/∂Δ = Q(W)/Δ − v where |v| ≤ 2^(b−1), else Q(W)/Δ

and that of Δ is scaled by 1/√(n · q), for n weights and the outermost level q = 2^(b−1) − ½.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from litesnn.quantizers.midrise import GAUSSIAN_STEP, nearest_levels, standard_deviation
from litesnn.quantizers.quantizer import Quantizer, per_layer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEARNED_STEP"]

_LEAST = 1e-8
_WIDTHS = tuple(GAUSSIAN_STEP)


def _initial(weight: Tensor) -> Tensor:
    """The steps of all bit-widths [4]."""
    return weight.new_tensor(list(GAUSSIAN_STEP.values())) * standard_deviation(weight[None]).flatten()


def _parameters(weights: Tensor, own: Tensor | None) -> Tensor:
    """The magnitudes of the steps [G, 4]."""
    assert own is not None
    return own.detach()


def _steps(own: Tensor, weights: Tensor, bits: int) -> Tensor:
    """Δ of each layer [G, 1, …]: a learned number may become negative, a step may not."""
    return per_layer(own[:, _WIDTHS.index(bits)].abs().clamp_min(_LEAST), weights)


def _quantize(weights: Tensor, own: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    steps = _steps(own, weights, bits)
    return nearest_levels(weights, steps, bits), steps


def _scale(weights: int, bits: int) -> float:
    """The scale of a step's gradient: 1/√(n · q)."""
    return 1 / math.sqrt(weights * (2 ** (bits - 1) - 0.5))


def _rule(gradient: Tensor, weights: Tensor, own: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
    assert own is not None
    levels, steps = _quantize(weights, own, bits)
    scaled = weights / steps
    inside = scaled.abs() <= 2 ** (bits - 1)
    slopes = levels - scaled * inside
    column = _WIDTHS.index(bits)
    of_own = own.new_zeros(own.shape)
    of_own[:, column] = (gradient * slopes).flatten(1).sum(1) * own[:, column].sign() * _scale(weights[0].numel(), bits)
    return gradient * inside, of_own


def _formula(weight: Tensor, own: Tensor | None, bits: int) -> Tensor:
    """Q(W) of one layer, in plain autograd, as the appendix of LSQ writes it."""
    assert own is not None
    step, scale = own[_WIDTHS.index(bits)].abs(), _scale(weight.numel(), bits)
    step = step * scale + (step - step * scale).detach()
    clipped = (weight / step).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1))
    level = nearest_levels(weight, step.detach(), bits)
    return (clipped + (level - clipped).detach()) * step


LEARNED_STEP = Quantizer(
    name="learned_step",
    description="the levels of midrise with a learned step per layer and bit-width",
    bits=_WIDTHS,
    prepare=_parameters,
    quantize=_quantize,
    rule=_rule,
    formula=_formula,
    initial=_initial,
)
