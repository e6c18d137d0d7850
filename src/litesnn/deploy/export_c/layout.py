"""How a network lies on a small device: grids, maps and folds of spikes, a method for each bundle, and all sizes.

In: a packed model. Out: a :class:`Layout`, from which :mod:`litesnn.deploy.export_c.source` writes constant tables.
Every number that could overflow on the device is proven here to fit.

A *grid* is a size H×W with p zero lanes after every row and p zero rows after every timestep (``mcu/snn.h`` shows the
lanes). A *map* is the spikes of a population on its grid, or its *fold*: the s² planes that a stride of s reads from
each channel, so that on the device every convolution has a stride of 1.

The spikes of a timestep are one binary *step*, or of graded spikes one for each of their bits, the lowest first.

T timesteps, H×W pixels, k kernel size, s stride.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.export_c.cost import event_cost, sliced_cost
from litesnn.deploy.export_c.memory import Buffer, MemoryPlan, plan_memory
from litesnn.deploy.packed import IMAGE, PackedModel, Population, Synapses, bit_planes, population_shapes
from litesnn.errors import InputError

__all__ = [
    "MAX_FLASH_BYTES",
    "MAX_RAM_BYTES",
    "BundleLayout",
    "Fold",
    "Grid",
    "Image",
    "Layout",
    "Map",
    "Method",
    "lay_out",
]

Method = Literal["image", "identity", "events", "sliced"]

MAX_RAM_BYTES = 1 << 20
MAX_FLASH_BYTES = 2 << 20
"""Memory of the largest Cortex-M4 and M7 microcontrollers; a network that needs more is refused."""

_MAX_LANES = 2**16 - 1  # lanes are uint16 on the device
_MAX_OFFSET = 2**15 - 1
_MAX_BYTE = 2**8 - 1
_MAX_COUNTERS = 16
_ASSUMED_RATE = 0.2  # where none was measured


@dataclass(frozen=True)
class Grid:
    """Lanes of planes of H×W pixels: ``lane = (step·(H + p) + y)·(W + p) + x``."""

    height: int
    width: int
    pad: int
    steps: int

    @property
    def pitch(self) -> int:
        """Lanes from row to row."""
        return self.width + self.pad

    @property
    def frame(self) -> int:
        """Lanes from step to step."""
        return (self.height + self.pad) * self.pitch

    @property
    def words(self) -> int:
        """Words of a plane."""
        return -(-self.steps * self.frame // 32)

    @property
    def margin(self) -> int:
        """Lanes that a weight can reach beyond the last pixel or before the first."""
        return self.pad * self.pitch + self.pad

    @property
    def guard(self) -> int:
        """Zero words before a map."""
        return -(-self.margin // 32)


@dataclass(frozen=True)
class Map:
    """Spikes in the arena: of a population, or its fold for a stride; ``channels`` × ``planes`` planes on a grid."""

    name: str
    grid: int
    channels: int
    planes: int


@dataclass(frozen=True)
class Fold:
    """Make map ``target`` from map ``source``, before population ``population`` is run."""

    population: int
    source: int
    target: int
    stride: int


@dataclass(frozen=True)
class Image:
    """The bytes of an image, or of all frames, in the arena, laid out like a frame of a grid, channel after channel."""

    frames: int
    channels: int
    height: int
    width: int
    pad: int

    @property
    def pitch(self) -> int:
        """Bytes from row to row."""
        return self.width + self.pad

    @property
    def plane(self) -> int:
        """Bytes from channel to channel."""
        return (self.height + self.pad) * self.pitch

    @property
    def lead(self) -> int:
        """Zero bytes before channel 0, in whole words."""
        return -(-(self.pad * self.pitch + self.pad) // 4) * 4

    @property
    def words(self) -> int:
        """Words with everything."""
        return -(-(self.lead + self.frames * self.channels * self.plane) // 4)


@dataclass(frozen=True, eq=False)
class BundleLayout:
    """Synapses with the maps that they read, their method, and their taps: (offset, plane) of each weight of k×k."""

    synapses: Synapses
    maps: tuple[int, ...]
    method: Method
    taps: tuple[tuple[int, int], ...]
    costs: dict[Literal["events", "sliced"], float]  # estimated instructions of each method that could do it


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything about a model that the C source says."""

    model: PackedModel
    shapes: tuple[tuple[int, int, int], ...]  # of populations
    grids: tuple[Grid, ...]
    maps: tuple[Map, ...]
    folds: tuple[Fold, ...]
    image: Image
    populations: tuple[tuple[BundleLayout, ...], ...]
    grid_of: tuple[int, ...]  # of populations; population i has map i
    memory: MemoryPlan  # one buffer for each map, then the image
    sum_bits: int
    counters: int
    row_weights: int
    sums: int
    events: int

    @property
    def currents(self) -> int:
        """Currents of one channel at all of its steps."""
        return max(self.frames(index) * height * width for index, (_, height, width) in enumerate(self.shapes))

    @property
    def arena_words(self) -> int:
        """Words of the arena; kernels read a little beyond the last plane, and ignore what is there."""
        return self.memory.words + max(grid.guard for grid in self.grids) + 2

    @property
    def counts(self) -> int:
        """Spike counts that the readout weighs."""
        return int(self.model.readout.codes.shape[1]) * self.model.timesteps

    @property
    def count_bits(self) -> int:
        """Bits that hold the largest of them, 16 or 32."""
        _, height, width = self.shapes[self.model.readout.sources[0]]
        return 16 if self.model.levels * height * width < 2**16 else 32

    def frames(self, population: int) -> int:
        """Frames of currents: one if they come from one image alone, and are the same at every step."""
        alone = all(bundle.method == "image" for bundle in self.populations[population])
        return 1 if alone and self.image.frames == 1 else self.model.timesteps

    def ram(self) -> dict[str, int]:
        """Bytes of each static array of the runtime."""
        return {
            "spikes and image (arena)": 4 * self.arena_words,
            "weights of one channel": 4 * self.row_weights,
            "sums of one channel": self.sum_bits // 8 * self.sums,
            "currents of one channel": 4 * self.currents,
            "events of one plane": 2 * self.events,
            "counts for the readout": self.count_bits // 8 * self.counts,
        }

    def bundles(self) -> Iterator[BundleLayout]:
        """All bundles, in order."""
        for bundles in self.populations:
            yield from bundles


def lay_out(model: PackedModel, *, method: Literal["events", "sliced"] | None = None) -> Layout:
    """Lay out a model; ``method`` forces one for every bundle that reads spikes, else the cheaper is chosen.

    Raises:
        InputError: the network is too large for a small device, or the forced method cannot do a bundle.
    """
    shapes = population_shapes(model)
    grids, grid_index = _grids(model, shapes)
    grid_of = tuple(grid_index[shape[1:]] for shape in shapes)
    image_pad = max(s.kernel // 2 for s in _all_synapses(model) if s.sources == (IMAGE,))
    image = Image(model.timesteps if model.input.frames else 1, *model.input.shape, image_pad)
    maps, folds, populations = _maps(model, shapes, grids, grid_of, image, method)
    memory = plan_memory(_buffers(model, maps, folds, populations, grids, image))
    spiking = [
        (bundle, grids[grid_of[index]])
        for index, bundles in enumerate(populations)
        for bundle in bundles
        if bundle.method in ("events", "sliced")
    ]
    layout = Layout(
        model=model,
        shapes=shapes,
        grids=grids,
        maps=maps,
        folds=folds,
        image=image,
        populations=populations,
        grid_of=grid_of,
        memory=memory,
        sum_bits=16 if all(_fits_int16(bundle.synapses) for bundle, _ in spiking) else 32,
        counters=max((_counters(b.synapses) for b, _ in spiking if b.method == "sliced"), default=4),
        row_weights=max(_row_weights(populations), _most(model.readout.codes), 1),
        sums=max((2 * grid.margin + 32 * grid.words for _, grid in spiking), default=1),
        events=max((g.steps * g.height * g.width for b, g in spiking if b.method == "events"), default=1),
    )
    _check_sizes(layout)
    return layout


def _all_synapses(model: PackedModel) -> Iterator[Synapses]:
    for population in model.populations:
        yield from population.synapses


def _grids(
    model: PackedModel, shapes: Sequence[tuple[int, int, int]]
) -> tuple[tuple[Grid, ...], dict[tuple[int, int], int]]:
    """One grid for each size, with room for the largest reach of any weight on it."""
    pads: dict[tuple[int, int], int] = {}
    for population, (_, height, width) in zip(model.populations, shapes, strict=True):
        pad = pads.get((height, width), 0)
        for synapses in population.synapses:
            if synapses.sources != (IMAGE,) and synapses.kernel:
                pad = max(pad, -(-(synapses.kernel // 2) // synapses.stride))
        pads[height, width] = pad
    steps = model.timesteps * bit_planes(model.levels)
    grids = tuple(Grid(height, width, pad, steps) for (height, width), pad in pads.items())
    for grid in grids:
        lanes = 32 * grid.words + grid.margin
        if lanes > _MAX_LANES or grid.margin > _MAX_OFFSET:
            raise InputError(
                f"C export: {model.timesteps} timesteps of {grid.height}×{grid.width} neurons take {lanes} lanes, "
                f"a small device has at most {_MAX_LANES}"
            )
    return grids, {size: index for index, size in enumerate(pads)}


def _maps(
    model: PackedModel,
    shapes: Sequence[tuple[int, int, int]],
    grids: Sequence[Grid],
    grid_of: Sequence[int],
    image: Image,
    method: Literal["events", "sliced"] | None,
) -> tuple[tuple[Map, ...], tuple[Fold, ...], tuple[tuple[BundleLayout, ...], ...]]:
    """The map of every population, then those of folds, each made once; and the bundles that read them."""
    maps = [
        Map(f"population {index}", grid, shape[0], 1)
        for index, (shape, grid) in enumerate(zip(shapes, grid_of, strict=True))
    ]
    folds: dict[tuple[int, int], Fold] = {}
    populations = []
    for index, population in enumerate(model.populations):
        bundles = []
        for number, synapses in enumerate(population.synapses):
            sources, stride = synapses.sources, synapses.stride
            if stride > 1 and sources != (IMAGE,):
                for source in sources:
                    if (source, stride) not in folds:
                        folds[source, stride] = Fold(index, source, len(maps), stride)
                        name = f"population {source}, folded by {stride}"
                        maps.append(Map(name, grid_of[index], shapes[source][0], stride**2))
                sources = tuple(folds[source, stride].target for source in sources)
            where = f"population {index}, synapses {number}"
            bundles.append(_bundle(model, synapses, sources, grids[grid_of[index]], image, method, where))
        populations.append(tuple(bundles))
    return tuple(maps), tuple(folds.values()), tuple(populations)


def _bundle(
    model: PackedModel,
    synapses: Synapses,
    sources: tuple[int, ...],
    grid: Grid,
    image: Image,
    forced: Literal["events", "sliced"] | None,
    where: str,
) -> BundleLayout:
    if synapses.kernel == 0:
        return BundleLayout(synapses, sources, "identity", (), {})
    reach = synapses.kernel // 2
    steps = range(-reach, reach + 1)
    if synapses.sources == (IMAGE,):
        taps = tuple((dy * image.pitch + dx, 0) for dy in steps for dx in steps)
        return BundleLayout(synapses, (), "image", taps, {})
    s = synapses.stride
    taps = tuple((dy // s * grid.pitch + dx // s, dy % s * s + dx % s) for dy in steps for dx in steps)
    costs: dict[Literal["events", "sliced"], float] = {
        "events": event_cost(synapses, taps, grid.words, _spikes(model, synapses, grid))
    }
    if _counters(synapses) <= _MAX_COUNTERS:
        costs["sliced"] = sliced_cost(synapses, grid.words)
    if forced is not None and forced not in costs:
        raise InputError(f"C export: {where}: its sums need more than {_MAX_COUNTERS} bits, too many for 'sliced'")
    cheapest = min(costs, key=lambda name: costs[name])
    return BundleLayout(synapses, sources, cheapest if forced is None else forced, taps, costs)


def _spikes(model: PackedModel, synapses: Synapses, grid: Grid) -> float:
    """Expected spikes of one plane that is read, over all steps: of graded ones half the bits above the lowest."""
    populations: list[Population] = [model.populations[source] for source in synapses.sources]
    channels = [len(population.bias) for population in populations]
    rates = [_ASSUMED_RATE if population.rate is None else population.rate for population in populations]
    rate = float(np.average(rates, weights=channels))
    bits = (1 + bit_planes(model.levels)) / 2
    return rate * bits * model.timesteps * grid.height * grid.width


def _magnitudes(synapses: Synapses) -> NDArray[np.int64]:
    """Σ|code| of each output channel."""
    magnitudes: NDArray[np.int64] = np.abs(synapses.codes.astype(np.int64)).sum(axis=(1, 2, 3))
    return magnitudes


def _counters(synapses: Synapses) -> int:
    """Bits of the largest count; the carry-save adders take four at least."""
    return max(4, int(_magnitudes(synapses).max()).bit_length())


def _fits_int16(synapses: Synapses) -> bool:
    codes = synapses.codes.astype(np.int64)
    positive = np.maximum(codes, 0).sum(axis=(1, 2, 3)).max()
    negative = np.minimum(codes, 0).sum(axis=(1, 2, 3)).min()
    return bool(positive <= 2**15 - 1 and negative >= -(2**15))


def _most(codes: NDArray[np.int8]) -> int:
    """The most kept weights of an output channel."""
    return int(np.count_nonzero(codes.reshape(len(codes), -1), axis=1).max())


def _row_weights(populations: Sequence[Sequence[BundleLayout]]) -> int:
    """Words that the weights of one output channel take; to sort them takes as many again."""
    most = 0
    for bundle in (bundle for bundles in populations for bundle in bundles if bundle.method != "identity"):
        sorts = bundle.method == "sliced" and bundle.synapses.bits > 1
        most = max(most, _most(bundle.synapses.codes) * (2 if sorts else 1))
    return most


def _buffers(
    model: PackedModel,
    maps: Sequence[Map],
    folds: Sequence[Fold],
    populations: Sequence[Sequence[BundleLayout]],
    grids: Sequence[Grid],
    image: Image,
) -> list[Buffer]:
    """A buffer for each map, then the image's. Step i runs population i; the last step is the readout."""
    first = [*range(len(model.populations)), *(fold.population for fold in folds)]
    last = list(first)
    seen = 0
    for step, bundles in enumerate(populations):
        for bundle in bundles:
            if bundle.method == "image":
                seen = step
            for index in bundle.maps:
                last[index] = max(last[index], step)
    for fold in folds:
        last[fold.source] = max(last[fold.source], fold.population)
    for source in model.readout.sources:
        last[source] = len(model.populations)
    buffers = [
        Buffer(item.name, grids[item.grid].guard + item.channels * item.planes * grids[item.grid].words, start, end)
        for item, start, end in zip(maps, first, last, strict=True)
    ]
    return [*buffers, Buffer("image", image.words, 0, seen)]


def _check_sizes(layout: Layout) -> None:
    if max(len(layout.maps), len(layout.grids), len(layout.model.populations)) > _MAX_BYTE:
        raise InputError(f"C export: more than {_MAX_BYTE} populations and folds, too many for a small device")
    if max(map(len, layout.populations)) > _MAX_BYTE:
        raise InputError(f"C export: a population has more than {_MAX_BYTE} bundles of synapses")
    image = layout.image
    wide = max(image.channels, image.height, image.pitch, *(item.channels * item.planes for item in layout.maps))
    wide = max([wide, *(codes.shape[1] for codes in _codes(layout.model))])
    if wide > _MAX_LANES or image.lead > _MAX_OFFSET:
        raise InputError(f"C export: an image of {image.height}×{image.width} or {wide} channels is too large")
    ram = sum(layout.ram().values())
    if ram > MAX_RAM_BYTES:
        raise InputError(f"C export: the network needs {ram:,} bytes of RAM, more than the {MAX_RAM_BYTES:,} allowed")
    flash = sum(codes.size for codes in _codes(layout.model))
    bits = sum(int(np.count_nonzero(codes)) for codes in _codes(layout.model))
    if bits // 8 > MAX_FLASH_BYTES or flash > 8 * MAX_FLASH_BYTES:
        raise InputError(f"C export: {bits:,} weights of {flash:,} do not fit {MAX_FLASH_BYTES:,} bytes of flash")


def _codes(model: PackedModel) -> Iterator[NDArray[np.int8]]:
    for synapses in _all_synapses(model):
        yield synapses.codes
    yield model.readout.codes
