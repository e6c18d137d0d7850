"""Random packed models for tests: every feature of the format, from a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import (
    IMAGE,
    Affine,
    InputSpec,
    PackedModel,
    Population,
    Readout,
    Synapses,
    population_shapes,
)
from litesnn.front_end import EventFrames
from litesnn.genotype import ArithmeticName

MEANS = (0.4914, 127.5, -3.0)
STDS = (0.2023, 64.25, 1.5)


def random_codes(
    rng: np.random.Generator, shape: tuple[int, ...], bits: int, keep: float | None = None
) -> NDArray[np.int8]:
    """Odd codes of ``bits`` bits, a random part of them (``keep``, also random by default) not pruned."""
    if keep is None:
        keep = float(rng.choice([0.0, 0.02, 0.2, 0.5, 0.9, 1.0]))
    codes = 2 * rng.integers(0, 2**bits, shape) - (2**bits - 1)
    pruned: NDArray[np.int8] = (codes * (rng.random(shape) < keep)).astype(np.int8)
    return pruned


def halves(rng: np.random.Generator, count: int, size: float) -> NDArray[np.float32]:
    """Float32 numbers of about ``size`` that float16 holds."""
    return (rng.normal(1.0, 0.3, count) * size).astype(np.float16).astype(np.float32)


def random_synapses(
    rng: np.random.Generator,
    sources: tuple[int, ...],
    fan_in: int,
    channels: int,
    *,
    kernel: int,
    stride: int = 1,
    keep: float | None = None,
    bits: int | None = None,
) -> Synapses:
    """Synapses whose currents are about as large as the threshold, so that some neurons spike."""
    bits = int(rng.integers(1, 5)) if bits is None else bits
    if kernel == 0:
        return Synapses(sources, 0, 1, 0, np.zeros((channels, 0, 0, 0), np.int8), halves(rng, channels, 0.5))
    codes = random_codes(rng, (channels, fan_in, kernel, kernel), bits, keep)
    level = 2.0 ** (bits - 1) * (fan_in * kernel**2) ** 0.5 * (40 if sources == (IMAGE,) else 0.4)
    return Synapses(sources, kernel, stride, bits, codes, halves(rng, channels, 1 / level))


def random_model(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] | None = None,
    populations: int | None = None,
    keep: float | None = None,
    arithmetic: ArithmeticName = "float",
    levels: int = 1,
) -> PackedModel:
    """A small model of random wiring: a stem, then populations with one to three bundles of synapses each.

    Args:
        rng: all choices are made with it.
        shape: the input's [C, H, W]; small and odd by default.
        populations: how many, the stem included; 1 to 5 by default.
        keep: keep ratio of all convolutions; another for each by default.
        arithmetic: "fixed" gives the same wiring and codes in fixed point, of random fractions and shifts.
        levels: the largest spike.
    """
    if shape is None:
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 10)), int(rng.integers(1, 10)))
    image = rng.random() < 0.5
    spec = InputSpec(shape, "image" if image else "array", MEANS[: shape[0]], STDS[: shape[0]])
    made: list[Population] = []
    shapes: list[tuple[int, int, int]] = []
    for index in range(int(rng.integers(1, 6)) if populations is None else populations):
        channels = int(rng.integers(1, 9))
        if index == 0:
            synapses = [
                random_synapses(
                    rng, (IMAGE,), shape[0], channels, kernel=3, stride=int(rng.choice([1, 2, 4])), keep=keep
                )
            ]
        else:
            synapses = []
            first = int(rng.integers(0, index))
            alike = [source for source in range(index) if shapes[source][1:] == shapes[first][1:]]
            stride = int(rng.choice([1, 1, 2]))
            identity = stride == 1 and rng.random() < 0.5
            if identity:
                channels = shapes[first][0]
            for _ in range(int(rng.integers(1, 4))):
                sources = tuple(int(source) for source in rng.permutation(alike)[: int(rng.integers(1, 3))])
                fan_in = sum(shapes[source][0] for source in sources)
                kernel = int(rng.choice([1, 3, 5]))
                synapses.append(
                    random_synapses(rng, sources, fan_in, channels, kernel=kernel, stride=stride, keep=keep)
                )
            if identity:
                synapses.append(random_synapses(rng, (first,), channels, channels, kernel=0))
        rate = None if rng.random() < 0.3 else float(rng.random())
        made.append(Population(tuple(synapses), halves(rng, channels, float(rng.choice([-0.1, 0.0, 0.1]))), rate))
        partial = PackedModel(spec, 1, 0.2, 0.5, ("a",), tuple(made), _readout(rng, (0,), len(made[0].bias), 1))
        shapes = list(population_shapes(partial))
    alike = [source for source in range(len(made)) if shapes[source][1:] == shapes[-1][1:]][-2:]
    classes = tuple(["zero", "ünø", 'a "quoted" one', "3", "4"][: int(rng.integers(1, 6))])
    readout = _readout(rng, tuple(alike), sum(shapes[source][0] for source in alike), len(classes))
    model = PackedModel(
        spec, int(rng.integers(1, 6)), float(rng.choice([0.0, 0.2, 0.9])), 0.5, classes, tuple(made), readout
    )
    model = with_levels(model, levels)
    return model if arithmetic == "float" else in_fixed_point(rng, model)


def with_levels(model: PackedModel, levels: int) -> PackedModel:
    """A float model with graded spikes: the stem's currents are larger, so that all of them are there."""
    if levels == 1:
        return model
    first, factor = model.populations[0], np.float32(2 ** (levels.bit_length() - 1))
    synapses = tuple(replace(each, scale=each.scale * factor) for each in first.synapses)
    return replace(model, levels=levels, populations=(replace(first, synapses=synapses), *model.populations[1:]))


def with_neurons(rng: np.random.Generator, model: PackedModel, *, soft: bool, own: bool) -> PackedModel:
    """A model with other neurons.

    Args:
        rng: all choices are made with it.
        model: in float or fixed point.
        soft: whether the model's own reset is a soft one, else the hard one.
        own: whether populations have leaks (floats only) and resets of their own, hard ones among them; of graded
            spikes hard ones only.
    """
    unit = 2.0 ** -(20 if model.fraction is None else model.fraction)

    def reset() -> float:
        less = float(rng.choice([0.0, 0.25, 1.0, 1.0, 3.0, rng.random()])) * model.threshold
        return round(less / unit) * unit

    def leak() -> float | None:
        few = [None, 0.0, 0.5, 1.0, float(np.float32(rng.random()))]
        return few[int(rng.integers(len(few)))] if model.fraction is None else None

    def own_reset() -> float | Literal["hard"] | None:
        few: list[float | Literal["hard"] | None] = [None, "hard", reset() if model.levels == 1 else None]
        return few[int(rng.integers(len(few)))]

    populations = model.populations
    if own:
        populations = tuple(replace(each, leak=leak(), reset=own_reset()) for each in populations)
        # One at least is another than the model's.
        last: float | Literal["hard"] = "hard" if soft or model.levels > 1 else reset()
        populations = (*populations[:-1], replace(populations[-1], reset=last))
    return replace(model, populations=populations, reset=reset() if soft else None)


def with_events(model: PackedModel, *, clip: int = 3, by: Literal["time", "count"] = "time") -> PackedModel:
    """A model of two input channels that sees frames of events instead of an image."""
    _, height, width = model.input.shape
    front_end = EventFrames(by=by, height=height, width=width, clip=clip)
    spec = InputSpec(front_end.shape, "events", front_end.mean, front_end.std, front_end)
    assert spec.shape == model.input.shape
    return replace(model, input=spec)


def cell_model(
    rng: np.random.Generator,
    *,
    cells: int = 3,
    width: int = 16,
    keep: float = 0.2,
    bits: int = 2,
    arithmetic: ArithmeticName = "float",
    levels: int = 1,
) -> PackedModel:
    """A network as the search makes it for 8×8 digits: a stem, then cells of 2 nodes with 2 convolutions each."""
    spec = InputSpec((1, 8, 8), "array", (4.884164,), (6.016788,))
    stem = random_synapses(rng, (IMAGE,), 1, width, kernel=3, keep=1.0, bits=4)
    populations = [Population((stem,), halves(rng, width, 0.1), 0.1234)]
    outputs: list[tuple[int, ...]] = [(0,), (0,)]
    for _ in range(cells):
        nodes = []
        for _ in range(2):
            synapses = tuple(
                random_synapses(rng, sources, width * len(sources), width, kernel=3, keep=keep, bits=bits)
                for sources in outputs[-2:]
            )
            nodes.append(len(populations))
            populations.append(Population(synapses, halves(rng, width, 0.1), float(rng.random())))
        outputs.append(tuple(nodes))
    classes = tuple(str(digit) for digit in range(10))
    readout = _readout(rng, outputs[-1], 2 * width, 10)
    model = with_levels(PackedModel(spec, 4, 0.2, 0.5, classes, tuple(populations), readout), levels)
    return model if arithmetic == "float" else in_fixed_point(rng, model)


def in_fixed_point(rng: np.random.Generator, model: PackedModel) -> PackedModel:
    """A float model in fixed point with a random F and random shifts, about as precise as they allow."""
    fraction = int(rng.integers(4, 15))
    bias_shifts = rng.integers(0, 4, len(model.populations)).tolist()
    populations = tuple(
        replace(
            population,
            synapses=tuple(_in_fixed_point(rng, synapses, fraction, model.levels) for synapses in population.synapses),
            bias=np.round(population.bias * 2.0 ** (fraction - shift)).astype(np.int16),
            bias_shift=shift,
        )
        for population, shift in zip(model.populations, bias_shifts, strict=True)
    )
    readout = model.readout
    _, height, width = population_shapes(model)[readout.sources[0]]
    counts = height * width * model.timesteps * model.levels
    largest = int(np.abs(readout.codes.astype(np.int64)).sum(axis=1).max()) * counts
    worst = float(np.abs(readout.scale).max()) * largest + model.timesteps * float(np.abs(readout.bias).max())
    logit_fraction = min(int(rng.integers(6, 15)), int(np.floor(np.log2(2.0**22 / max(worst, 1.0)))))
    scale, shift = _multipliers(rng, readout.scale, logit_fraction, largest)
    bias_shift = int(rng.integers(0, 3))
    bias = np.round(readout.bias * 2.0 ** (logit_fraction - bias_shift)).astype(np.int16)
    head = replace(readout, scale=scale, bias=bias, shift=shift, bias_shift=bias_shift, fraction=logit_fraction)
    return replace(model, leak=0.25, populations=populations, readout=head, fraction=fraction)


def _in_fixed_point(rng: np.random.Generator, synapses: Synapses, fraction: int, levels: int) -> Synapses:
    inputs = 127 if synapses.sources == (IMAGE,) else levels
    sums = np.abs(synapses.codes.astype(np.int64)).sum(axis=(1, 2, 3)) if synapses.kernel else np.ones(1)
    scale, shift = _multipliers(rng, synapses.scale, fraction, inputs * int(sums.max()))
    return replace(synapses, scale=scale, shift=shift)


def _multipliers(rng: np.random.Generator, scale: Affine, fraction: int, largest: int) -> tuple[NDArray[np.int16], int]:
    """``scale`` [C] as int16 multipliers and a shift, for accumulators of at most ``largest``."""
    most = min(2**15 - 1, (2**31 - 1) // max(largest, 1))
    exact = scale.astype(np.float64) * 2.0**fraction
    fits = int(np.floor(np.log2(most / np.abs(exact).max())))
    shift = int(np.clip(fits - rng.integers(0, 3), 0, 31))
    return np.clip(np.round(exact * 2.0**shift), -most, most).astype(np.int16), shift


def random_frames(rng: np.random.Generator, model: PackedModel, batch: int, more: int = 0) -> NDArray[np.generic]:
    """Frames of events [batch, T + more, C, H, W], from few to more than are counted."""
    front_end = model.input.front_end
    assert isinstance(front_end, EventFrames)
    shape = (batch, model.timesteps + more, *model.input.shape)
    counts: NDArray[np.uint8] = rng.integers(0, min(front_end.clip + 2, 256), shape, dtype=np.uint8)
    return counts * (rng.random(shape) < 0.5)


def random_input(rng: np.random.Generator, spec: InputSpec, batch: int) -> NDArray[np.generic]:
    """Raw inputs [batch, C, H, W] that fill the quantizer's range."""
    if spec.kind == "image":
        return rng.integers(0, 256, (batch, *spec.shape), dtype=np.uint8)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
    return (mean + 2 * std * rng.normal(size=(batch, *spec.shape))).astype(np.float32)


def _readout(rng: np.random.Generator, sources: tuple[int, ...], fan_in: int, classes: int) -> Readout:
    bits = int(rng.integers(1, 5))
    codes = random_codes(rng, (classes, fan_in), bits, 1.0 if rng.random() < 0.5 else None)
    return Readout(sources, bits, codes, halves(rng, classes, 0.01), halves(rng, classes, 0.1))
