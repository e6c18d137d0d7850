"""The record of a quantizer: all that training, the deployed codes and the counting of costs need to know of one.

A quantizer is a row of :data:`litesnn.quantizers.QUANTIZERS`. It takes the float weights of layers of equal shape, each
with a step of its own, to a few levels, and says what gradient the weights get. Nothing here imports torch; tensors
come in from the layers.

Shapes: G layers of equal shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GradientRule", "Quantizer", "per_layer", "straight_through"]

GradientRule = Callable[["Tensor", "Tensor", "Tensor | None", int], "tuple[Tensor, Tensor | None]"]
"""Of the gradient of the quantized weights [G, …], the weights [G, …], the layers' own parameters [G, P] (or ``None``)
and the bit-width: the gradients of the weights and of the own parameters."""


def straight_through(gradient: Tensor, weights: Tensor, own: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
    """The gradient of the quantized weights is that of the weights (Bengio et al., 2013), clipped ones included.

    Layers apply this rule to all bit-widths at once, without calling it.
    """
    return gradient, None


def per_layer(values: Tensor, weights: Tensor) -> Tensor:
    """Numbers of each layer [G] in a shape that goes with the weights [G, …]: [G, 1, …]."""
    return values.view(-1, *[1] * (weights.dim() - 1))


def _all_of_them(bits: int) -> int:
    return bits


@dataclass(frozen=True)
class Quantizer:
    """One quantizer: ``Q_b(W) = level · step``, with a step for each layer and bit-width b.

    A code is the integer that the packed file has for a weight: ``level · codes_per_step``, an odd integer of
    −(2^b − 1) … 2^b − 1, or 0, which the file takes for a weight that is not kept.

    Attributes:
        name: as recipes and genotypes say it.
        description: what it does, in a line.
        bits: the bit-widths that it has.
        prepare: what the steps of all bit-widths are computed from, once for the weights [G, …] and the layers' own
            parameters [G, P] (or ``None``); without gradient.
        quantize: of weights [G, …], what was prepared, and bits: levels [G, …], a new tensor, and steps [G, 1, …],
            which are positive; without gradient.
        rule: the gradient that weights and own parameters get.
        formula: of the weights of one layer, its own parameters [P] and bits: Q_b(W) in plain autograd, whose gradient
            the rule gives; ``None``: the rule is :func:`straight_through`, the gradient of
            ``W + (Q_b(W) − W).detach()``.
        initial: the own parameters [P] that a layer of these weights begins with; ``None``: it has none.
        codes_per_step: codes from one level to the next.
        has_zero: whether a level may be 0.
        code_bits: of a bit-width, the bits of a code that is not 0: in the packed file, and as Bit-SynOps count them.
        at_both_ends: whether stem and classifier, with ``model.io_bits``, are quantized by it too, or are mid-rise.
    """

    name: str
    description: str
    bits: tuple[int, ...]
    prepare: Callable[[Tensor, Tensor | None], Tensor]
    quantize: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    rule: GradientRule
    formula: Callable[[Tensor, Tensor | None, int], Tensor] | None = None
    initial: Callable[[Tensor], Tensor] | None = None
    codes_per_step: int = 2
    has_zero: bool = False
    code_bits: Callable[[int], int] = _all_of_them
    at_both_ends: bool = True

    def values(self, weights: Tensor, prepared: Tensor, bits: int) -> Tensor:
        """Q_b(W) [G, …], without gradient."""
        levels, steps = self.quantize(weights, prepared, bits)
        return levels.mul_(steps)

    def codes(self, weight: Tensor, bits: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The codes of one layer, as floats of the shape of ``weight``, and what a code of 1 is worth, a scalar.

        Their product is :meth:`values` to the last bit.
        """
        weights, mine = weight.detach()[None], None if own is None else own.detach()[None]
        levels, steps = self.quantize(weights, self.prepare(weights, mine), bits)
        return levels[0].mul_(self.codes_per_step), steps.flatten()[0] / self.codes_per_step

    def require(self, bits: int) -> None:
        """Raise ``ValueError`` for a bit-width that it does not have."""
        if bits not in self.bits:
            has = ", ".join(map(str, self.bits))
            raise ValueError(f"the quantizer {self.name!r} has weights of {has} bits, not of {bits}")

    def most_kept(self, kept: int, weights: int) -> int:
        """Of ``weights`` weights of which ``kept`` are not pruned, as many codes that are not 0 as take most bytes.

        If none is pruned and a code may be 0, all but one: the file then has to say which.
        """
        return kept - 1 if self.has_zero and kept == weights > 1 else kept
