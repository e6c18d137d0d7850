"""The reference implementation of a packed model in plain NumPy: the meaning that every engine must match bit for bit.

In: a :class:`~litesnn.deploy.packed.PackedModel` and a batch of raw inputs. Out: logits, and every spike if asked.

Sums of codes are integers and exact. In a float model everything after them is float32, one rounding per operation, in
the order written here. With s the spikes of the step before, per timestep and population:

    acc_e = Σ code·input                        integer, for each bundle of synapses e
    x = scale_1·acc_1; x = x + scale_2·acc_2; …; x = x + bias
    u = (λ·u)·(1 − s) + x                       LIF with hard reset, u = s = 0 at first
    u = (λ·u) − R·s + x                         LIF with soft reset: a spike takes R away
    s = 1 if u > θ else 0

Graded spikes 0…D (``levels``) have the hard reset, where (1 − s) is 1 if there was no spike and 0 if there was one of
any size, and the thresholds are float32 numbers θ + j:

    s = Σ_j [u > θ + j]                         j = 0 … D − 1

λ, θ and the reset are those of :func:`litesnn.deploy.packed.neuron_of`: a population may have its own leak and reset.

At the readout, with A_t the sum of its integer accumulators over the steps 1 … t:

    y_t = (scale·A_t)/t + bias

A fixed-point model knows integers alone, and all of them fit int32 (the packed format sees to it). ``>>`` rounds down;
F, F', M, B and the shifts are those of :class:`~litesnn.deploy.packed.PackedModel`, Θ = θ·2^F:

    x = Σ_e ((M_e·acc_e) >> shift_e) + B
    u = (u >> 2)·(1 − s) + x                    or (u >> 2) − R·2^F·s + x
    s = 1 if u > Θ else 0                       graded: Σ_j [u > Θ + j·2^F]
    z_t = ((M·A_t) >> shift) + t·B

Its logits are y_t = z_t/(t·2^F'), one float32 division for those who want to read them. |z_t| stays below 2^23, so that
different z_t give different y_t, and the largest of either is the same class.

An image is static: the current that it makes is the same at every step. Of events, step t sees frame t.

T timesteps, B batch, C channels, H×W pixels, k kernel size, s stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.deploy.packed import (
    IMAGE,
    InputSpec,
    PackedModel,
    PackedNeuron,
    Population,
    Synapses,
    described,
    neuron_of,
    read,
)
from litesnn.raw_inputs import array_of, not_finite, probabilities, require_array, require_raw

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reference", "Trace", "quantize_input", "take_input"]

_Number = TypeVar("_Number", np.float32, np.int64)


@dataclass(frozen=True, eq=False)
class Trace:
    """The result of a run: ``logits[t − 1]`` is y_t; ``spikes`` holds one array for each population, if recorded.

    ``integers[t − 1]`` is z_t, of a fixed-point model.
    """

    logits: NDArray[np.float32]  # [T, B, classes]
    spikes: list[NDArray[np.uint8]] | None  # each [T, B, C, H, W], 0 or 1, or graded ones 0…D
    integers: NDArray[np.int32] | None = None  # [T, B, classes]

    def __repr__(self) -> str:
        recorded = "" if self.spikes is None else f", spikes of {len(self.spikes)} populations"
        return f"Trace(logits {list(self.logits.shape)}{recorded})"


class Reference:
    """Runs one packed model, or that of a file. It trusts a model that is given, as those from ``packed.read`` may be.

    Raises:
        InputError: the file is missing or damaged.
    """

    def __init__(self, model: PackedModel | str | Path) -> None:
        self.model = model if isinstance(model, PackedModel) else read(Path(model))

    def __repr__(self) -> str:
        return f"Reference({described(self.model)})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.model.classes

    def run(self, x: NDArray[np.generic], record: bool = False) -> Trace:
        """Run raw inputs ``x`` [B, C, H, W] for all timesteps; of frames [B, T or more, C, H, W] the first T.

        Raises:
            InputError: as :func:`take_input` and :func:`quantize_input`.
        """
        model = self.model
        image = quantize_input(model.input, take_input(model, x))  # [B, C, H, W] or [B, T, C, H, W]
        if model.input.frames:
            image = image.swapaxes(0, 1)  # [T, B, C, H, W]
        spikes: list[NDArray[np.uint8]] = []
        for population in model.populations:
            spikes.append(self._fire(population, image, spikes))
        logits, integers = self.read_out(spikes)
        return Trace(logits, spikes if record else None, integers)

    def classify(self, x: NDArray[np.generic] | Tensor, *, scale: float | None = None) -> NDArray[np.int64]:
        """The class index [B] with the largest logit after the last timestep; of equals, the first.

        ``scale`` is what floats are multiplied by to become pixels, as for ``Engine.predict``. Raises as :meth:`run`.
        """
        logits = self.run(array_of(self.model.input, x, scale)).logits[-1]
        classes: NDArray[np.int64] = np.argmax(logits, axis=-1).astype(np.int64)
        return classes

    def predict_proba(self, x: NDArray[np.generic] | Tensor, *, scale: float | None = None) -> NDArray[np.float32]:
        """Probabilities [B, K] of the classes (:func:`litesnn.raw_inputs.probabilities`); as :meth:`classify`."""
        return probabilities(self.run(array_of(self.model.input, x, scale)).logits[-1])

    def currents(
        self, population: Population, image: NDArray[np.int8], spikes: list[NDArray[np.uint8]]
    ) -> NDArray[np.float32]:
        """The input current x [T, B, C, H, W] of a population of a float model, given the spikes of those before it.

        ``image``: quantized [B, C, H, W], or [T, B, C, H, W].
        """
        return np.stack(list(self._steps(population, image, spikes, _currents)))

    def _fire(
        self, population: Population, image: NDArray[np.int8], spikes: list[NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """The spikes [T, B, C, H, W] of a population, given those of the populations before it.

        One timestep after the other: a map of accumulators takes eight times the memory of its spikes.
        """
        neuron, fraction = neuron_of(self.model, population), self.model.fraction
        if fraction is None:
            return _fire(self._steps(population, image, spikes, _currents), neuron)
        fixed = self._steps(population, image, spikes, _currents_fixed)
        reset = None if neuron.reset is None else round(neuron.reset * 2**fraction)
        thresholds = [round((neuron.threshold + level) * 2**fraction) for level in range(neuron.levels)]
        return _fire_fixed(fixed, thresholds, reset)

    def _steps(
        self,
        population: Population,
        image: NDArray[np.int8],
        spikes: list[NDArray[np.uint8]],
        summed: Callable[[Population, Iterable[NDArray[np.float64]]], NDArray[_Number]],
    ) -> Iterator[NDArray[_Number]]:
        """The currents [B, C, H, W] of each timestep: what ``summed`` makes of the accumulators of each bundle."""
        static = image.ndim == 4 and all(synapses.sources == (IMAGE,) for synapses in population.synapses)
        for t in range(1 if static else self.model.timesteps):
            x = summed(population, (_accumulators(synapses, image, spikes, t) for synapses in population.synapses))
            yield from [x] * (self.model.timesteps if static else 1)  # what an image alone makes is always the same

    def read_out(self, spikes: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """y_t [T, B, classes] of the spikes of all populations, and z_t of a fixed-point model."""
        readout = self.model.readout
        each = {source: spikes[source].sum(axis=(3, 4), dtype=np.int64) for source in readout.sources}  # [T, B, C]
        counts = np.concatenate([each[source] for source in readout.sources], axis=2)
        totals = np.cumsum(counts @ readout.codes.T.astype(np.int64), axis=0)  # [T, B, classes]
        steps: NDArray[np.int64] = np.arange(1, len(totals) + 1).reshape(-1, 1, 1)
        if self.model.fraction is None:
            scale, offset = readout.scale.astype(np.float32), readout.bias.astype(np.float32)
            return _means(scale * totals.astype(np.float32), steps) + offset, None
        bias = readout.bias.astype(np.int64) << readout.bias_shift
        integers = ((totals * readout.scale.astype(np.int64)) >> readout.shift) + steps * bias
        return _means(integers.astype(np.float32), steps << readout.fraction), integers.astype(np.int32)


def take_input(model: PackedModel, x: NDArray[np.generic]) -> NDArray[np.generic]:
    """The part of raw inputs ``x`` that a model reads: all of an image, or the first T of some frames.

    Raises:
        InputError: ``x`` is no array, has another type or shape, or too few frames.
    """
    require_array(x)
    require_raw(model.input, x.dtype, x.shape, model.timesteps)
    return x[:, : model.timesteps] if model.input.frames else x


def quantize_input(spec: InputSpec, x: NDArray[np.generic]) -> NDArray[np.int8]:
    """Raw inputs [B, C, H, W] as the integers that the network sees: ``clip(rint(32·(x − mean)/std), −127, 127)``.

    In float32: subtract, divide, multiply, round half to even. An ``"image"`` must be uint8, an ``"array"`` real,
    ``"events"`` frames [B, T, C, H, W] of uint8.

    Raises:
        InputError: ``x`` has another shape or type, or is not finite in float32.
    """
    require_raw(spec, x.dtype, x.shape)
    mean = np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(spec.std, np.float32).reshape(-1, 1, 1)
    with np.errstate(over="ignore"):  # an overflow is clipped like every large number
        raw = x.astype(np.float32)
        if not np.isfinite(raw).all():
            raise not_finite()
        normalised = (raw - mean) / std
        steps = np.rint(np.float32(INPUT_STEPS) * normalised)
    quantized: NDArray[np.int8] = np.clip(steps, -MAX_INPUT, MAX_INPUT).astype(np.int8)
    return quantized


def _currents(population: Population, sums: Iterable[NDArray[np.float64]]) -> NDArray[np.float32]:
    """The input current x [B, C, H, W] of a population from the accumulators of its bundles."""
    total: NDArray[np.float32] | None = None
    for synapses, accumulators in zip(population.synapses, sums, strict=True):
        scale = synapses.scale.astype(np.float32).reshape(-1, 1, 1)
        current = scale * accumulators.astype(np.float32)
        total = current if total is None else total + current
    assert total is not None  # a population has at least one bundle of synapses
    return total + population.bias.astype(np.float32).reshape(-1, 1, 1)


def _currents_fixed(population: Population, sums: Iterable[NDArray[np.float64]]) -> NDArray[np.int64]:
    """The same in fixed point."""
    bias = population.bias.astype(np.int64) << population.bias_shift
    currents = (
        (accumulators.astype(np.int64) * synapses.scale.astype(np.int64).reshape(-1, 1, 1)) >> synapses.shift
        for synapses, accumulators in zip(population.synapses, sums, strict=True)
    )
    total: NDArray[np.int64] = sum(currents, start=np.int64(0)) + bias.reshape(-1, 1, 1)
    return total


def _means(sums: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """``sums / counts`` in float32, rounded once."""
    means: NDArray[np.float32] = np.divide(sums, counts.astype(np.float32))
    return means


def _accumulators(
    synapses: Synapses, image: NDArray[np.int8], spikes: list[NDArray[np.uint8]], t: int
) -> NDArray[np.float64]:
    """Integer accumulators [B, C, H, W] at step t, as float64 that hold them exactly.

    ``image`` is [B, C, H, W], or frames [T, B, C, H, W].
    """
    if synapses.sources == (IMAGE,):
        return _convolve(image if image.ndim == 4 else image[t], synapses)
    inputs = np.concatenate([spikes[source][t] for source in synapses.sources], axis=1)  # [B, C_in, H, W]
    return _convolve(inputs, synapses) if synapses.kernel else inputs.astype(np.float64)


def _convolve(x: NDArray[np.integer], synapses: Synapses) -> NDArray[np.float64]:
    """Sums of code·x over the k×k neighbourhoods of x [B, C_in, H, W] with zeros around it: [B, C, ⌈H/s⌉, ⌈W/s⌉].

    One matrix product for each place in the kernel. In float64, for BLAS: every product and partial sum is an
    integer below 2³¹ (the packed format sees to it), so that float64 is exact in whatever order BLAS adds.
    """
    kernel, stride = synapses.kernel, synapses.stride
    batch, channels, height, width = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    border = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border))).astype(np.float64)
    codes = synapses.codes.astype(np.float64)
    total = np.zeros((batch, len(codes), out_height * out_width))
    for row in range(kernel):
        for column in range(kernel):
            shifted = padded[:, :, row : row + height : stride, column : column + width : stride]
            total += codes[:, :, row, column] @ shifted.reshape(batch, channels, out_height * out_width)
    return total.reshape(batch, len(codes), out_height, out_width)


def _fire(currents: Iterable[NDArray[np.float32]], neuron: PackedNeuron) -> NDArray[np.uint8]:
    """Spikes [T, B, C, H, W] of LIF neurons with the input currents [B, C, H, W] of each timestep."""
    leak = np.float32(neuron.leak)
    thresholds = [np.float32(neuron.threshold) + np.float32(level) for level in range(neuron.levels)]
    spikes: list[NDArray[np.uint8]] = []
    u: NDArray[np.float32] = np.zeros((), np.float32)
    s: NDArray[np.uint8] = np.zeros((), np.uint8)
    for x in currents:
        left = leak * u
        if neuron.reset is None:
            left = left * (s == 0).astype(np.float32)
        else:
            left = left - np.float32(neuron.reset) * s.astype(np.float32)
        u = left + x
        s = _levels_above(u, thresholds)
        spikes.append(s)
    return np.stack(spikes)


def _fire_fixed(
    currents: Iterable[NDArray[np.int64]], thresholds: Sequence[int], reset: int | None
) -> NDArray[np.uint8]:
    """The same in fixed point; ``reset``: what a spike takes, ``None``: all."""
    spikes: list[NDArray[np.uint8]] = []
    u: NDArray[np.int64] = np.zeros((), np.int64)
    s: NDArray[np.uint8] = np.zeros((), np.uint8)
    for x in currents:
        left = u >> 2
        u = (left * (s == 0) if reset is None else left - reset * s.astype(np.int64)) + x
        s = _levels_above(u, thresholds)
        spikes.append(s)
    return np.stack(spikes)


def _levels_above(u: NDArray[_Number], thresholds: Sequence[np.float32] | Sequence[int]) -> NDArray[np.uint8]:
    """How many of the thresholds each membrane is above: the spikes."""
    spikes = (u > thresholds[0]).astype(np.uint8)
    for threshold in thresholds[1:]:
        spikes += u > threshold
    return spikes
