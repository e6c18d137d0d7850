"""The record of a packed network: what the bytes of a packed file stand for.

:mod:`litesnn.deploy.reference` says what such a model computes; :mod:`litesnn.deploy.packed` makes it a file and
reads it again.

C channels, H×W pixels, k kernel size, T timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from litesnn.input_spec import InputSpec, shortest_decimal

__all__ = [
    "IMAGE",
    "Affine",
    "InputSpec",
    "PackedModel",
    "PackedNeuron",
    "Population",
    "Readout",
    "Synapses",
    "bit_planes",
    "described",
    "has_own_neurons",
    "neuron_of",
    "population_shapes",
]

IMAGE = -1
"""The source that is the input image, where others are the indices of populations."""

Affine = NDArray[np.float32] | NDArray[np.int16]
"""Scales or biases: float32 numbers that float16 holds, or the int16 numbers of a fixed-point model."""


@dataclass(frozen=True, eq=False)
class _Record:
    """Equal if all fields are, arrays by type, shape and value."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Record) or type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        """One line: of arrays their types and shapes, of lists how many items they have."""
        shown = (f"{field.name}={_shown(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and len(value) > 8:
        return f"<{len(value)} items>"
    return repr(value)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


@dataclass(frozen=True, eq=False, repr=False)
class Synapses(_Record):
    """One bundle of connections into a population: a convolution of integer codes, or an identity.

    ``sources`` are the populations whose channels are concatenated, in this order, or ``(IMAGE,)``. Zero padding is
    kernel // 2 on each side, so that an input of H×W gives ⌈H/stride⌉×⌈W/stride⌉. An identity hands each source
    channel's spikes, with their values, to the target channel of the same index: kernel 0, stride 1, bits 0, codes
    [C, 0, 0, 0].
    """

    sources: tuple[int, ...]
    kernel: int
    stride: int
    bits: int
    codes: NDArray[np.int8]  # [C_out, C_in, k, k], odd, at most 2^bits − 1 in magnitude; 0 where pruned
    scale: Affine  # [C_out]
    shift: int = 0  # fixed point: the current is (scale·acc) >> shift


@dataclass(frozen=True, eq=False, repr=False)
class Population(_Record):
    """LIF neurons: C channels, each position with the current ``Σ scale·acc`` over ``synapses`` in order, plus bias.

    Their neuron is that of the model, but for a ``leak`` or a ``reset`` of their own: see :func:`neuron_of`. Such a
    leak means a float32 number, and is kept as the shortest decimal that says which.
    """

    synapses: tuple[Synapses, ...]
    bias: Affine  # [C]
    rate: float | None  # measured: how often a neuron spikes at a timestep, kept to 4 decimals; None if not measured
    bias_shift: int = 0  # fixed point: what is added is bias·2^bias_shift
    leak: float | None = None  # None: that of the model
    reset: float | Literal["hard"] | None = None  # None: as the model resets; "hard": to zero

    def __post_init__(self) -> None:
        if self.rate is not None:
            object.__setattr__(self, "rate", round(self.rate, 4))
        if self.leak is not None:
            object.__setattr__(self, "leak", shortest_decimal(self.leak))


@dataclass(frozen=True, eq=False, repr=False)
class Readout(_Record):
    """The classifier: spikes, with their values, are summed over H×W, then weighted by integer codes."""

    sources: tuple[int, ...]
    bits: int
    codes: NDArray[np.int8]  # [classes, C_in], as in Synapses
    scale: Affine  # [classes]
    bias: Affine  # [classes]
    shift: int = 0  # as in Synapses
    bias_shift: int = 0  # as in Population
    fraction: int = 0  # fixed point: F', the fractional bits of the logits


@dataclass(frozen=True, eq=False, repr=False)
class PackedModel(_Record):
    """A network as it is deployed. Populations are in topological order: each reads only earlier ones.

    ``fraction`` says which arithmetic the model has: ``None`` is float32 with float16 scales; an integer F is fixed
    point, with int16 scales and with currents, membranes and threshold in units of 2^−F (and a leak of 0.25). The
    shifts, and the readout's F', are 0 in a float model.

    ``reset`` is what a spike takes from the membrane of the next timestep, 0 or more; ``None``: all of it (hard reset).

    ``levels`` is D, the largest spike of every population. With 1 a neuron fires or does not; with more its spikes are
    graded, integers 0…D, and every reset is the hard one.
    """

    input: InputSpec
    timesteps: int
    leak: float
    threshold: float
    classes: tuple[str, ...]
    populations: tuple[Population, ...]
    readout: Readout
    fraction: int | None = None
    reset: float | None = None
    levels: int = 1

    def __repr__(self) -> str:
        return f"PackedModel({described(self)})"


@dataclass(frozen=True)
class PackedNeuron:
    """The neuron of a population: ``u = leak·u − reset·s + x``, ``s = 1 if u > threshold else 0``.

    ``reset`` ``None`` is the hard reset, ``u = leak·u·(1 − s) + x``. With D ``levels`` the spike is how many of
    ``threshold``, ``threshold + 1``, …, ``threshold + D − 1`` the membrane is above, and a spike of any size resets it.
    """

    leak: float
    threshold: float
    reset: float | None
    levels: int = 1


def neuron_of(model: PackedModel, population: Population) -> PackedNeuron:
    """The neuron of a population: its own leak and reset where it has them, else those of its model."""
    leak = model.leak if population.leak is None else population.leak
    reset = model.reset if population.reset is None else None if population.reset == "hard" else population.reset
    return PackedNeuron(leak, model.threshold, reset, model.levels)


def bit_planes(levels: int) -> int:
    """The bits of a spike 0…levels: it is Σ_p 2^p·b_p over so many planes of bits b_p."""
    return levels.bit_length()


def has_own_neurons(model: PackedModel) -> bool:
    """Whether a model says more of its neurons than one leak and one threshold with a hard reset."""
    own = any(each.leak is not None or each.reset is not None for each in model.populations)
    return own or model.reset is not None


def population_shapes(model: PackedModel) -> tuple[tuple[int, int, int], ...]:
    """The shape [C, H, W] of every population."""
    shapes: list[tuple[int, int, int]] = []
    for population in model.populations:
        first = population.synapses[0]
        _, height, width = model.input.shape if first.sources == (IMAGE,) else shapes[first.sources[0]]
        shapes.append((len(population.bias), -(-height // first.stride), -(-width // first.stride)))
    return tuple(shapes)


def described(model: PackedModel) -> str:
    """A model in a few words."""
    layers = [synapses.codes for population in model.populations for synapses in population.synapses]
    codes = [*layers, model.readout.codes]
    kept, weights = sum(int(np.count_nonzero(each)) for each in codes), sum(each.size for each in codes)
    arithmetic = "float" if model.fraction is None else "fixed point"
    spikes = "" if model.levels == 1 else f", spikes 0…{model.levels}"
    return (
        f"{model.input.describe()} → {len(model.classes)} classes, T = {model.timesteps}, "
        f"{len(model.populations)} populations, {kept:,} of {weights:,} weights, {arithmetic}{spikes}"
    )
