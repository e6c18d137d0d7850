"""Random packed models for tests: every feature of the format, from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, population_shapes

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
) -> PackedModel:
    """A small model of random wiring: a stem, then populations with one to three bundles of synapses each.

    Args:
        rng: all choices are made with it.
        shape: the input's [C, H, W]; small and odd by default.
        populations: how many, the stem included; 1 to 5 by default.
        keep: keep ratio of all convolutions; another for each by default.
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
    return PackedModel(
        spec, int(rng.integers(1, 6)), float(rng.choice([0.0, 0.2, 0.9])), 0.5, classes, tuple(made), readout
    )


def cell_model(
    rng: np.random.Generator, *, cells: int = 3, width: int = 16, keep: float = 0.2, bits: int = 2
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
    return PackedModel(spec, 4, 0.2, 0.5, classes, tuple(populations), _readout(rng, outputs[-1], 2 * width, 10))


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
