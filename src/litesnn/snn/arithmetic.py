"""The deployed arithmetics: how folded numbers are rounded, and what is computed with them.

In: the exact scales and biases of a population's connections, then integer accumulators. Out: spikes and logits.
:mod:`litesnn.deploy.reference` says in NumPy what each arithmetic computes; the two are the same bit for bit.

``float``: float16 scales and biases, currents and membranes in float32, leak 0.2.

``fixed``: integers alone. A current in units of 2^−F is ``(M·acc) >> shift`` with an int16 multiplier M per channel,
the membrane leaks by ``u >> 2``, and so training leaks by 0.25. Numbers are rounded here so that everything fits int32.

Shapes: T timesteps, B batch, O output channels, H × W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from litesnn.arithmetic_limits import MAX_CURRENT, MAX_LOGIT
from litesnn.errors import LitesnnError
from litesnn.genotype import ArithmeticName
from litesnn.neurons.model import Neuron
from litesnn.snn.neuron import LEAK, LEAK_SHIFT, fire, lif_integer

__all__ = ["ARITHMETICS", "FRACTION", "Arithmetic", "Exact", "Folded", "FoldedGroup", "to_float16"]

FRACTION = 12
"""F, the fractional bits of currents and membranes. The threshold of 0.5 is 2048, and int16 multipliers reach 8."""

_MAX_LOGIT_FRACTION = 16
_MAX_INT16 = 2**15 - 1
_MAX_INT32 = 2**31 - 1
_MAX_SHIFT = 31
_MAX_BIAS_SHIFT = 15


@dataclass(frozen=True)
class Exact:
    """A finished connection before rounding.

    Attributes:
        codes: odd integers, 0 where pruned [O, I, k, k]; ``None`` for an identity.
        scale: what one unit of an accumulator is worth [O], float64.
        largest: the largest accumulator that any input can give [O], float64.
    """

    codes: Tensor | None
    scale: Tensor
    largest: Tensor


@dataclass(frozen=True)
class Folded:
    """A finished connection as it is deployed: ``current = scale·acc``, or ``(scale·acc) >> shift`` in fixed point."""

    codes: Tensor | None
    scale: Tensor  # [O] float32 with float16 values; or int32 with int16 values
    shift: int = 0


@dataclass(frozen=True)
class FoldedGroup:
    """All connections of one population (or of the readout): x = Σ_e current_e + offset, in this order.

    ``bias`` [O] is of the same kind as the scales; in fixed point it counts in units of ``2^bias_shift``, and all
    results have ``fraction`` fractional bits.
    """

    connections: tuple[Folded, ...]
    bias: Tensor
    bias_shift: int = 0
    fraction: int = 0

    @property
    def offset(self) -> Tensor:
        """The bias in the units of the currents [O]."""
        return self.bias << self.bias_shift if self.bias_shift else self.bias


class Arithmetic(Protocol):
    """One way to compute. Accumulators come as floats that hold integers."""

    @property
    def leak(self) -> float:
        """The share of a membrane that is left after one timestep, in training too."""
        ...

    @property
    def fraction(self) -> int | None:
        """Fractional bits of currents and membranes; ``None`` for floats."""
        ...

    def fold(self, connections: Sequence[Exact], bias: Tensor) -> FoldedGroup:
        """Round the connections of a population and its bias [O] (float64)."""
        ...

    def fold_readout(self, connection: Exact, bias: Tensor, timesteps: int) -> FoldedGroup:
        """Round the readout, which has one scale for all classes, and its bias [K] (float64)."""
        ...

    def current(self, accumulators: Tensor, folded: Folded) -> Tensor:
        """Accumulators [N, O, H, W] → the connection's currents of the same shape."""
        ...

    def fire(self, currents: Tensor, neuron: Neuron) -> Tensor:
        """Currents [T, B, O, H, W] → spikes 0. … D of the same shape, float32.

        In fixed point neurons have the leak of :attr:`leak`.
        """
        ...

    def logits(self, totals: Tensor, folded: FoldedGroup) -> Tensor:
        """Accumulators of steps 1…t [T, B, K] (float64) → mean logits y_t [T, B, K], float32."""
        ...


class _Float:
    """Scales and biases of float16, everything else in float32, one rounding per operation."""

    leak = LEAK
    fraction = None

    def fold(self, connections: Sequence[Exact], bias: Tensor) -> FoldedGroup:
        folded = tuple(Folded(exact.codes, to_float16(exact.scale)) for exact in connections)
        return FoldedGroup(folded, to_float16(bias))

    def fold_readout(self, connection: Exact, bias: Tensor, timesteps: int) -> FoldedGroup:
        return self.fold([connection], bias)

    def current(self, accumulators: Tensor, folded: Folded) -> Tensor:
        return accumulators.float() * folded.scale[:, None, None]

    def fire(self, currents: Tensor, neuron: Neuron) -> Tensor:
        return fire(currents, neuron)

    def logits(self, totals: Tensor, folded: FoldedGroup) -> Tensor:
        (part,) = folded.connections
        return part.scale * totals.float() / _elapsed(totals).float() + folded.bias


class _Fixed:
    """Integers alone: int16 multipliers and biases, int32 for the rest."""

    leak = 2.0**-LEAK_SHIFT
    fraction = FRACTION

    def fold(self, connections: Sequence[Exact], bias: Tensor) -> FoldedGroup:
        # Every connection, and the bias, gets an equal share of the largest current: no sum can pass it.
        share = MAX_CURRENT // (len(connections) + 1)
        folded = tuple(_round_scale(exact, self.fraction, share) for exact in connections)
        rounded, shift = _round_bias(bias, self.fraction, share)
        return FoldedGroup(folded, rounded, shift, self.fraction)

    def fold_readout(self, connection: Exact, bias: Tensor, timesteps: int) -> FoldedGroup:
        worst = float((connection.scale.abs() * connection.largest + timesteps * bias.abs()).max())
        _require_finite(worst)
        room = _log2_floor(0.99 * MAX_LOGIT / max(worst, 1e-9))  # a little is left for rounding
        fraction = min(_MAX_LOGIT_FRACTION, max(0, room))
        rounded, shift = _round_bias(bias, fraction, MAX_LOGIT // 2 // timesteps)
        rest = MAX_LOGIT - timesteps * (int(rounded.abs().max()) << shift)
        part = _round_scale(connection, fraction, rest)
        # All classes have the same scale. Where it does not fit one of them, they still get the same multiplier.
        multiplier = part.scale[part.scale.abs().argmin()].expand_as(part.scale)
        return FoldedGroup((replace(part, scale=multiplier),), rounded, shift, fraction)

    def current(self, accumulators: Tensor, folded: Folded) -> Tensor:
        return (accumulators.to(torch.int32) * folded.scale[:, None, None]) >> folded.shift

    def fire(self, currents: Tensor, neuron: Neuron) -> Tensor:
        reset = None if neuron.reset is None else round(neuron.reset * 2**self.fraction)
        threshold, unit = round(neuron.threshold * 2**self.fraction), 2**self.fraction
        return lif_integer(currents, threshold=threshold, reset=reset, levels=neuron.levels, unit=unit)

    def logits(self, totals: Tensor, folded: FoldedGroup) -> Tensor:
        (part,) = folded.connections
        elapsed = _elapsed(totals)
        z = ((totals.to(torch.int64) * part.scale) >> part.shift) + elapsed * folded.offset
        return z.float() / (elapsed << folded.fraction).float()


ARITHMETICS: Mapping[ArithmeticName, Arithmetic] = {"float": _Float(), "fixed": _Fixed()}
"""Every arithmetic that a genotype can ask for."""


def to_float16(values: Tensor) -> Tensor:
    """Round to float16 and back: stored scales and biases take two bytes, and every implementation sees the same."""
    return values.to(torch.float16).to(torch.float32)


def _elapsed(totals: Tensor) -> Tensor:
    """The timesteps 1…T, to go with [T, B, K]."""
    return torch.arange(1, len(totals) + 1, device=totals.device)[:, None, None]


def _round_scale(exact: Exact, fraction: int, limit: int) -> Folded:
    """Multipliers with the largest shift at which they fit, their currents below ``limit``.

    A connection from neurons that never fired can have a huge scale (its variance is zero); a multiplier that does not
    fit at shift 0 is the largest that does.
    """
    real = exact.scale * 2.0**fraction  # [O]
    _require_finite(float(real.abs().max()))
    fits = (_MAX_INT32 / exact.largest.clamp_min(1)).floor().clamp_max(_MAX_INT16)
    shift = min(_MAX_SHIFT, max(0, _log2_floor(float((fits / real.abs()).min()))))
    # Currents count 2^shift finer here; a floor below zero may add one unit.
    within = (float((limit - 1) << shift) / exact.largest.clamp_min(1)).floor()
    largest = torch.minimum(fits, within)
    rounded = torch.round(real * 2.0**shift)
    return Folded(exact.codes, torch.clamp(rounded, -largest, largest).to(torch.int32), shift)


def _round_bias(bias: Tensor, fraction: int, limit: int) -> tuple[Tensor, int]:
    """Biases with the smallest shift at which they fit, and that shift; none passes ``limit``."""
    real = bias * 2.0**fraction
    largest = float(real.abs().max())
    _require_finite(largest)
    shift = min(_MAX_BIAS_SHIFT, max(0, math.ceil(math.log2(max(largest, 1.0) / _MAX_INT16))))
    most = min(_MAX_INT16, limit >> shift)
    return torch.round(real / 2.0**shift).clamp(-most, most).to(torch.int32), shift


def _log2_floor(value: float) -> int:
    """The largest n with 2^n ≤ value, for value > 0; infinity counts as very large."""
    return math.frexp(value)[1] - 1 if value < 2.0**64 else 64


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        raise LitesnnError(
            "the network has scales or biases that are not finite: its training diverged; lower train.lr"
        )
