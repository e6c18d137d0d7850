"""Ternary: −Δ, 0 or +Δ, for two bits.

    δ = 0.7 · mean |W|,    Δ = mean of |W| where |W| > δ,    Q(W) = Δ · sign(W) where |W| > δ, else 0

The threshold and the magnitude are those of ternary weight networks (Li & Liu, 2016, arXiv 1605.04711), which come
near to the ones of least squared error for a Gaussian. The gradient goes straight through, as there. A zero is a weight
that is not kept: the packed file has a sign, one bit, for each of the others, and their places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from litesnn.quantizers.quantizer import Quantizer, per_layer, straight_through

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TERNARY"]

_THRESHOLD = 0.7
"""In units of the mean magnitude."""


def _thresholds(weights: Tensor, own: Tensor | None) -> Tensor:
    """δ of each of G layers [G, 1, …]."""
    magnitude = weights.detach().double().abs().flatten(1).mean(1)  # in float64: the same alone and among others
    return per_layer((_THRESHOLD * magnitude).to(weights.dtype), weights)


def _quantize(weights: Tensor, thresholds: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    magnitude = weights.detach().abs()
    kept = magnitude > thresholds
    levels = weights.detach().sign().mul_(kept)
    rows = (magnitude * kept).double().flatten(1)
    means = rows.sum(1) / kept.flatten(1).sum(1).clamp_min(1)
    return levels, per_layer(means.to(weights.dtype).clamp_min(1e-8), weights)


def _a_sign(bits: int) -> int:
    return 1


TERNARY = Quantizer(
    name="ternary",
    description="-Δ, 0 or Δ in the cells, where search.bits has to be [2]; what is not 0 is packed and counted as one "
    "bit; stem and classifier are midrise",
    bits=(2,),
    prepare=_thresholds,
    quantize=_quantize,
    rule=straight_through,
    codes_per_step=1,
    has_zero=True,
    code_bits=_a_sign,
    at_both_ends=False,
)
