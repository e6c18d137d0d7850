"""The header of a packed file: its JSON text from a model, and its rows, all checked, from the text.

:mod:`litesnn.deploy.packed` says how the text is laid out. Writing goes through the same checks as reading.

C channels, H×W pixels, T timesteps.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from pydantic import ValidationError

from litesnn.costs.size import MAX_RICE
from litesnn.deploy.json_checks import (
    checked_integer,
    checked_list,
    checked_number,
    checked_positive,
    checked_texts,
    load_object,
    refuse,
)
from litesnn.deploy.limits import (
    MAX_BUNDLES,
    MAX_CLASSES,
    MAX_KERNEL,
    MAX_LEVELS,
    MAX_NAME_BYTES,
    MAX_NEURONS,
    MAX_POPULATIONS,
    MAX_READ,
    MAX_RESET,
    MAX_SPIKES,
    MAX_STRIDE,
    MAX_TIMESTEPS,
    MAX_WEIGHTS,
)
from litesnn.deploy.packed_model import IMAGE, PackedModel, Population, has_own_neurons
from litesnn.deploy.packed_proof import MAX_ACCUMULATOR, MAX_CURRENT, MAX_INPUT
from litesnn.errors import InputError
from litesnn.front_end import FRONT_ENDS, FrontEnd, InputKind, front_end_name
from litesnn.input_spec import InputSpec
from litesnn.text import first_complaint, shape_text

__all__ = [
    "ALL",
    "MAP",
    "MAX_BIAS_SHIFT",
    "MAX_FRACTION",
    "MAX_SHIFT",
    "NO_CRC",
    "Header",
    "LayerRow",
    "PopulationRow",
    "ReadoutRow",
    "read_header",
    "write_header",
]

ALL, MAP = -2, -1  # codings; from 0 on it is "gap" with this Rice parameter
NO_CRC = "00000000"
"""The placeholder of the checksum until it is known."""

_FLOAT_VERSION, _FIXED_VERSION = 1, 2
_WITH_FRONT_END = 2  # added to the version of a model with one, which readers from before front ends refuse by it
_WITH_NEURONS = 4  # likewise of a model with soft resets, or leaks of single populations
_WITH_LEVELS = 8  # likewise of a model with graded spikes
_LATEST = _FIXED_VERSION + _WITH_FRONT_END + _WITH_NEURONS + _WITH_LEVELS
_KINDS = get_args(InputKind)

# Of fixed-point models.
_FIXED_LEAK = 0.25
MAX_FRACTION = 24
MAX_SHIFT = 31
MAX_BIAS_SHIFT = 15


@dataclass(frozen=True)
class LayerRow:
    """A layer: synapses or the readout."""

    name: str
    sources: tuple[int, ...]
    kernel: int
    stride: int
    bits: int
    kept: int
    coding: int
    weights: tuple[int, ...]  # the shape of the codes
    shift: int


@dataclass(frozen=True)
class PopulationRow:
    """A population, and the shape that follows from its layers."""

    name: str
    rate: float | None
    shape: tuple[int, int, int]  # [C, H, W]
    layers: tuple[LayerRow, ...]
    bias_shift: int
    leak: float | None = None
    reset: float | Literal["hard"] | None = None


@dataclass(frozen=True)
class ReadoutRow:
    """The readout."""

    layer: LayerRow
    bias_shift: int
    fraction: int


@dataclass(frozen=True)
class Header:
    """All that the text says."""

    input: InputSpec
    timesteps: int
    leak: float
    threshold: float
    classes: tuple[str, ...]
    populations: tuple[PopulationRow, ...]
    readout: ReadoutRow
    fraction: int | None
    reset: float | None = None
    levels: int = 1


def write_header(model: PackedModel, codings: Sequence[int]) -> str:
    """The JSON text of a model whose layers, readout included, have these position codings."""
    coding = iter(codings)
    fixed = model.fraction is not None
    populations: list[list[object]] = []
    for population in model.populations:
        row: list[object] = [population.rate, len(population.bias), *([population.bias_shift] if fixed else [])]
        for synapses in population.synapses:
            details = [synapses.stride, synapses.bits, int(np.count_nonzero(synapses.codes)), next(coding)]
            layer = [list(synapses.sources), synapses.kernel, *(details if synapses.kernel else [])]
            row.append([*layer, synapses.shift] if fixed else layer)
        populations.append(row)
    spec, readout = model.input, model.readout
    head: list[object] = [list(readout.sources), readout.bits, int(np.count_nonzero(readout.codes)), next(coding)]
    if fixed:
        head += [readout.shift, readout.bias_shift, readout.fraction]
    front_end, neurons, graded = spec.front_end, has_own_neurons(model), model.levels != 1
    version = _FIXED_VERSION if fixed else _FLOAT_VERSION
    version += (0 if front_end is None else _WITH_FRONT_END) + (_WITH_NEURONS if neurons else 0)
    version += _WITH_LEVELS if graded else 0
    record = {
        "version": version,
        "input": [spec.kind, *spec.shape, list(spec.mean), list(spec.std)],
        **({} if front_end is None else {"front_end": _front_end_row(front_end)}),
        "timesteps": model.timesteps,
        "leak": model.leak,
        "threshold": model.threshold,
        **({"levels": model.levels} if graded else {}),
        **({"fraction": model.fraction} if fixed else {}),
        **({"reset": model.reset, "neurons": _neuron_rows(model)} if neurons else {}),
        "classes": list(model.classes),
        "populations": populations,
        "readout": head,
        "crc": NO_CRC,
    }
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _neuron_rows(model: PackedModel) -> list[object]:
    """For each population ``None`` or its own leak and reset; nothing if none has its own."""
    rows = [_neuron_row(population) for population in model.populations]
    return rows if any(row is not None for row in rows) else []


def _neuron_row(population: Population) -> object:
    own = [population.leak, population.reset]
    return None if own == [None, None] else own


def _front_end_row(front_end: FrontEnd) -> list[object]:
    return [front_end_name(front_end), *front_end.model_dump().values()]


def read_header(metadata: str, origin: str) -> Header:
    """The header that a text holds; ``origin`` is the name that an error gives it. Raises ``InputError``."""
    return _HeaderReader(origin).header(metadata)


class _HeaderReader:
    """Reads the header's JSON. It keeps the shapes and sizes of what it has read, to check what follows."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.shapes: list[tuple[int, int, int]] = []  # of the populations so far
        self.image = (0, 0, 0)
        self.timesteps = 1
        self.levels = 1
        self.neurons = 0
        self.spikes = 0
        self.bundles = 0
        self.weights = 0
        self.fixed = False

    def header(self, metadata: str) -> Header:
        record = load_object(metadata, self.origin)
        version = record.get("version")
        if type(version) is not int or not 1 <= version <= _LATEST:
            refuse(f"{self.origin}: version", f"1 to {_LATEST}, those that this litesnn reads", version)
        graded, version = version > _WITH_LEVELS, (version - 1) % _WITH_LEVELS + 1
        own, version = version > _WITH_NEURONS, (version - 1) % _WITH_NEURONS + 1
        recorded, version = version > _WITH_FRONT_END, (version - 1) % _WITH_FRONT_END + 1
        self.fixed = version == _FIXED_VERSION
        keys = ["version", "input", "timesteps", "leak", "threshold", "classes", "populations", "readout", "crc"]
        if own:
            keys[5:5] = ["reset", "neurons"]
        if self.fixed:
            keys.insert(5, "fraction")
        if graded:
            keys.insert(5, "levels")
        if recorded:
            keys.insert(2, "front_end")
        if set(record) != set(keys):
            refuse(f"{self.origin}: header", f"the keys {', '.join(keys)}", list(record))
        if not isinstance(crc := record["crc"], str) or not re.fullmatch("[0-9a-f]{8}", crc):
            refuse(f"{self.origin}: crc", "eight hexadecimal digits", crc)
        spec = self.input(record["input"])
        if recorded:
            spec = replace(spec, front_end=self.front_end(record["front_end"], spec))
        elif spec.frames:
            refuse(f"{self.origin}: input: kind", "a front end for events", None)
        timesteps = checked_integer(record["timesteps"], 1, MAX_TIMESTEPS, f"{self.origin}: timesteps")
        self.timesteps = timesteps
        if spec.frames:
            channels, height, width = spec.shape
            self.count_neurons(((timesteps - 1) * channels, height, width), f"{self.origin}: input")  # one is counted
        leak = checked_number(record["leak"], f"{self.origin}: leak")
        if not 0 <= leak <= 1:
            refuse(f"{self.origin}: leak", "a number from 0 to 1", leak)
        threshold = checked_positive(record["threshold"], f"{self.origin}: threshold")
        if graded:
            self.levels = checked_integer(record["levels"], 2, MAX_LEVELS, f"{self.origin}: levels")
        fraction = self.fraction(record["fraction"], leak, threshold) if self.fixed else None
        reset = self.reset(record["reset"], fraction, f"{self.origin}: reset") if own else None
        classes = checked_texts(record["classes"], f"{self.origin}: classes", most=MAX_NAME_BYTES)
        self.count(len(classes), MAX_CLASSES, "classes", self.origin)
        rows = checked_list(record["populations"], f"{self.origin}: populations", at_least=1)
        self.count(len(rows), MAX_POPULATIONS, "populations", self.origin)
        populations = tuple(self.population(row, index) for index, row in enumerate(rows))
        if own:
            populations = self.own_neurons(record["neurons"], reset, fraction, populations)
        readout = self.readout(record["readout"], classes=len(classes), timesteps=timesteps)
        return Header(spec, timesteps, leak, threshold, classes, populations, readout, fraction, reset, self.levels)

    def fraction(self, value: object, leak: float, threshold: float) -> int:
        """F, with which the threshold has to be an integer; the leak is a shift."""
        if leak != _FIXED_LEAK:
            refuse(f"{self.origin}: leak", f"{_FIXED_LEAK} in fixed point", leak)
        fraction = checked_integer(value, 1, MAX_FRACTION, f"{self.origin}: fraction")
        steps = threshold * 2**fraction
        if not steps.is_integer() or not 1 <= steps <= MAX_CURRENT:
            refuse(f"{self.origin}: threshold", f"a multiple of 2^-{fraction} up to 2^{30 - fraction}", threshold)
        return fraction

    def reset(self, value: object, fraction: int | None, where: str) -> float | None:
        """The amount that a spike takes; in fixed point an integer in units of 2^-fraction. ``None``: all of it."""
        if value is None:
            return None
        if self.levels > 1:
            refuse(where, f"null, the hard reset of spikes 0…{self.levels}", value)
        reset = checked_number(value, where)
        if fraction is None:
            if not 0 <= reset <= MAX_RESET:
                refuse(where, "null, or a number from 0 to 2^100", value)
        elif not (reset * 2**fraction).is_integer() or not 0 <= reset * 2**fraction <= MAX_CURRENT:
            refuse(where, f"null, or a multiple of 2^-{fraction} from 0 to 2^{30 - fraction}", value)
        return reset

    def own_neurons(
        self, value: object, reset: float | None, fraction: int | None, populations: tuple[PopulationRow, ...]
    ) -> tuple[PopulationRow, ...]:
        """The populations with the leaks and resets of their own; if none has any, the model's reset is a soft one."""
        where = f"{self.origin}: neurons"
        rows = checked_list(value, where)
        if not rows and reset is not None:
            return populations
        if len(rows) != len(populations) or all(row is None for row in rows):
            refuse(where, f"null or [leak, reset] for each of {len(populations)} populations, not null for all", value)
        return tuple(
            population if row is None else self.neuron(row, fraction, population)
            for row, population in zip(rows, populations, strict=True)
        )

    def neuron(self, value: object, fraction: int | None, population: PopulationRow) -> PopulationRow:
        """A population with its own leak, reset or both; ``null`` is as the model has it."""
        where = f"{self.origin}: {population.name}"
        row = checked_list(value, f"{where}: neuron", length=2)
        if row == [None, None]:
            refuse(f"{where}: neuron", "null, or a leak or reset of its own", value)
        leak = None if row[0] is None else checked_number(row[0], f"{where}: leak")
        if leak is not None and fraction is not None:
            refuse(f"{where}: leak", f"null in fixed point, where all populations leak to {_FIXED_LEAK}", leak)
        if leak is not None and not 0 <= leak <= 1:
            refuse(f"{where}: leak", "null or a number from 0 to 1", leak)
        if row[1] == "hard":
            return replace(population, leak=leak, reset="hard")
        return replace(population, leak=leak, reset=self.reset(row[1], fraction, f"{where}: reset"))

    def input(self, value: object) -> InputSpec:
        where = f"{self.origin}: input"
        row = checked_list(value, where, length=6)
        kind: InputKind
        if row[0] == "image" or row[0] == "array" or row[0] == "events":
            kind = row[0]
        else:
            refuse(f"{where}: kind", f"one of {', '.join(_KINDS)}", row[0])
        channels, height, width = (
            checked_integer(size, 1, MAX_NEURONS, f"{where}: {name}")
            for size, name in zip(row[1:4], ("channels", "height", "width"), strict=True)
        )
        self.image = (channels, height, width)
        self.count_neurons(self.image, where)
        means = checked_list(row[4], f"{where}: mean", length=channels)
        stds = checked_list(row[5], f"{where}: std", length=channels)
        mean = tuple(checked_number(item, f"{where}: mean") for item in means)
        std = tuple(checked_positive(item, f"{where}: std") for item in stds)
        return InputSpec(self.image, kind, mean, std)

    def front_end(self, value: object, spec: InputSpec) -> FrontEnd:
        """The front end, whose results have to be what the input is."""
        where = f"{self.origin}: front end"
        first = checked_list(value, where, at_least=1)[0]
        if not isinstance(first, str) or first not in FRONT_ENDS:
            refuse(where, f"one of {', '.join(FRONT_ENDS)}", first)
        settings = FRONT_ENDS[first]
        fields = settings.model_fields
        row = checked_list(value, where, length=1 + len(fields))
        for (name, field), item in zip(fields.items(), row[1:], strict=True):
            if field.annotation is not int and field.annotation is not float:
                continue  # a choice, which its model checks
            number = checked_number(item, f"{where}: {name}")
            if field.annotation is int and type(item) is not int:
                refuse(f"{where}: {name}", "an integer", number)
        try:
            front_end = settings.model_validate(dict(zip(fields, row[1:], strict=True)))
        except ValidationError as error:
            part, first = first_complaint(error, "settings")
            raise InputError(f"{where}: {part}: {first['msg']}") from None
        if (spec.kind, spec.shape) != (front_end.kind, front_end.shape):
            expected = f"{front_end.kind} {shape_text(front_end.shape)}"
            refuse(f"{self.origin}: input", expected, f"{spec.kind} {shape_text(spec.shape)}")
        return front_end

    def population(self, value: object, index: int) -> PopulationRow:
        name = f"population {index}"
        where = f"{self.origin}: {name}"
        first = 3 if self.fixed else 2  # of the layers
        row = checked_list(value, where, at_least=first + 1)
        rate = None if row[0] is None else checked_number(row[0], f"{where}: rate")
        if rate is not None and not 0 <= rate <= 1:
            refuse(f"{where}: rate", "null or a number from 0 to 1", rate)
        channels = checked_integer(row[1], 1, MAX_NEURONS, f"{where}: channels")
        bias_shift = checked_integer(row[2], 0, MAX_BIAS_SHIFT, f"{where}: bias shift") if self.fixed else 0
        self.count(len(row) - first, MAX_POPULATIONS, "bundles of synapses", where)
        self.bundles += len(row) - first
        self.count(self.bundles, MAX_BUNDLES, "bundles of synapses in all", where)
        layers = []
        sizes = []
        for number, item in enumerate(row[first:]):
            layer, size = self.synapses(item, f"{name}, synapses {number}", channels)
            layers.append(layer)
            sizes.append(size)
            if size != sizes[0]:
                refuse(
                    f"{self.origin}: {layer.name}",
                    f"an output of {shape_text(sizes[0])} like synapses 0",
                    shape_text(size),
                )
        shape = (channels, *sizes[0])
        self.count_neurons(shape, where)
        self.spikes += math.prod(shape) * self.timesteps
        self.count(self.spikes, MAX_SPIKES, "neurons times timesteps in all", where)
        self.shapes.append(shape)
        return PopulationRow(name, rate, shape, tuple(layers), bias_shift)

    def synapses(self, value: object, name: str, channels: int) -> tuple[LayerRow, tuple[int, int]]:
        """A layer into ``channels`` channels, and the size [H, W] of its output."""
        where = f"{self.origin}: {name}"
        row = checked_list(value, where, at_least=2)
        sources, (fan_in, height, width) = self.sources(row[0], where, image=row[1] != 0)
        kernel = checked_integer(row[1], 0, MAX_KERNEL, f"{where}: kernel")
        extra = 1 if self.fixed else 0  # the shift, at the end
        if kernel == 0:
            row = checked_list(value, where, length=2 + extra)
            if fan_in != channels:
                refuse(where, f"{channels} channels for an identity", fan_in)
            shift = self.shift(row[-1], where)
            return LayerRow(name, sources, 0, 1, 0, 0, ALL, (channels, 0, 0, 0), shift), (height, width)
        if kernel % 2 == 0:
            refuse(f"{where}: kernel", "an odd number, or 0 for an identity", kernel)
        row = checked_list(value, where, length=6 + extra)
        stride = checked_integer(row[2], 1, MAX_STRIDE, f"{where}: stride")
        shift = self.shift(row[-1], where)
        layer = self.layer(name, sources, kernel, stride, row[3:6], (channels, fan_in, kernel, kernel), shift)
        self.check_accumulator(layer, fan_in * kernel**2 * (MAX_INPUT if sources == (IMAGE,) else self.levels))
        return layer, (-(-height // stride), -(-width // stride))

    def shift(self, value: object, where: str) -> int:
        """A layer's shift, which only fixed-point models have."""
        return checked_integer(value, 0, MAX_SHIFT, f"{where}: shift") if self.fixed else 0

    def readout(self, value: object, *, classes: int, timesteps: int) -> ReadoutRow:
        where = f"{self.origin}: readout"
        row = checked_list(value, where, length=7 if self.fixed else 4)
        sources, (fan_in, height, width) = self.sources(row[0], where, image=False)
        numbers = (0, 0, 0)
        if self.fixed:
            shift = self.shift(row[4], where)
            bias_shift = checked_integer(row[5], 0, MAX_BIAS_SHIFT, f"{where}: bias shift")
            numbers = (shift, bias_shift, checked_integer(row[6], 0, MAX_FRACTION, f"{where}: fraction"))
        layer = self.layer("readout", sources, 1, 1, row[1:4], (classes, fan_in), numbers[0])
        self.check_accumulator(layer, fan_in * height * width * timesteps * self.levels)
        return ReadoutRow(layer, *numbers[1:])

    def layer(
        self,
        name: str,
        sources: tuple[int, ...],
        kernel: int,
        stride: int,
        values: list[object],
        weights: tuple[int, ...],
        shift: int,
    ) -> LayerRow:
        """A layer with weights of the shape ``weights``; ``values`` are its bits, kept weights and coding."""
        where = f"{self.origin}: {name}"
        count = math.prod(weights)
        self.weights += count
        self.count(self.weights, MAX_WEIGHTS, "weights in all", where)
        bits = checked_integer(values[0], 1, 4, f"{where}: bits")
        kept = checked_integer(values[1], 0, count, f"{where}: kept weights")
        coding = checked_integer(values[2], ALL, MAX_RICE, f"{where}: coding")
        if (coding == ALL) != (kept == count):
            refuse(f"{where}: coding", f"{ALL} if and only if all {count} weights are kept", (coding, kept))
        return LayerRow(name, sources, kernel, stride, bits, kept, coding, weights, shift)

    def sources(self, value: object, where: str, *, image: bool) -> tuple[tuple[int, ...], tuple[int, int, int]]:
        """The sources, and the shape [C, H, W] of their concatenation; ``image`` allows the image, alone."""
        layer, where = where, f"{where}: sources"
        items = checked_list(value, where, at_least=1)
        self.count(len(items), MAX_POPULATIONS, "sources", layer)
        if image and items == [IMAGE] and type(items[0]) is int:
            return (IMAGE,), self.image
        if not self.shapes:
            refuse(where, f"[{IMAGE}], the image, for the first population", items)
        sources = tuple(checked_integer(item, 0, len(self.shapes) - 1, where) for item in items)
        shapes = [self.shapes[source] for source in sources]
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            refuse(where, "populations of one size", [shape_text(shape[1:]) for shape in shapes])
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        self.count(math.prod(shape), MAX_READ, "inputs, its fan-in times the pixels", layer)
        return sources, shape

    def count_neurons(self, shape: tuple[int, int, int], where: str) -> None:
        self.neurons += math.prod(shape)
        self.count(self.neurons, MAX_NEURONS, "pixels and neurons in all", where)

    def count(self, number: int, most: int, what: str, where: str) -> None:
        if number > most:
            refuse(where, f"at most {most} {what}", number)

    def check_accumulator(self, layer: LayerRow, inputs: int) -> None:
        """``inputs`` is the largest possible sum of the inputs that one accumulator weighs."""
        largest = (2**layer.bits - 1) * inputs
        if largest > MAX_ACCUMULATOR:
            refuse(f"{self.origin}: {layer.name}", f"sums of at most {MAX_ACCUMULATOR}", largest)
