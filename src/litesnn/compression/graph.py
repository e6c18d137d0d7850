"""From a trace to the graph of the packed file: populations of neurons, the layers between them, and a readout.

In: the trace of a module. Out: a :class:`Graph` of names, or :class:`Inexpressible`, which names what the file has no
words for. What a packed file can hold is in docs/format.md: LIF neurons with one threshold, a leak for each population
and a hard or soft reset, convolutions with padding kernel // 2 on concatenated spikes, their sums, identities, and a
linear readout of spikes summed over the map.

Exact equivalents that are used:

- Batch norm behind a layer, or behind a sum of layers, folds into scales and bias.
- A layer whose currents reach several populations (a membrane shortcut) is in the file once for each of them: the same
  codes, with the scales of that population.
- A neuron with another threshold θ' gets its currents times θ/θ', and what a spike takes from its membrane likewise.
- Max pooling of spikes is a population with the hard reset: a convolution with a weight at the pixels of each channel's
  own window, and any one of them makes a fresh neuron fire. It is fresh at every step, because it has either fired and
  been reset, or been given nothing. A window of 2 × 2 is in a kernel of 3 × 3; as many windows as the file's padding
  makes are needed.
- A flattened map of H × W before a linear layer is a population of C·H·W channels of one pixel, each of which is given
  one pixel: a kernel of 2·max(H, W) − 1 around the first pixel covers the whole map.
- A layer that reads a sum of spikes reads them side by side, its weights repeated for each of them.

Shapes: C channels, H × W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.compression.layers import CompressedLayer, Kind
from litesnn.compression.neurons import Lif, NotLif, identify, learned_leak
from litesnn.compression.norms import NotAffine, require_affine
from litesnn.compression.source import GIVEN_PREFIX
from litesnn.compression.trace import Call, Trace, Value
from litesnn.deploy.limits import MAX_KERNEL, MAX_STRIDE

__all__ = [
    "IMAGE",
    "Graph",
    "Handing",
    "Inexpressible",
    "Leaf",
    "Node",
    "Norm",
    "Sum",
    "TracedPopulation",
    "build_graph",
    "leaves_of",
    "made_of_image",
    "read_kinds",
]

IMAGE = -1

_KEEP_VALUES = {
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "dropout", "clone", "detach"),
    *("to", "float", "type", "type_as"),
}
_AVERAGES = {"mean", "adaptive_avg_pool2d", "avg_pool2d"}
_SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_COMPARES = {"gt", "ge", "lt", "le", "__gt__", "__ge__", "__lt__", "__le__", "heaviside", "greater", "greater_equal"}
_PRODUCTS = {"mul", "mul_", "__mul__", "__imul__", "__rmul__", "logical_and"}
_JOINS = {"cat", "concat", "concatenate"}


class Inexpressible(Exception):
    """A part of a module that the packed file cannot hold, with the name of the layer."""


@dataclass(frozen=True)
class Leaf:
    """Currents of a layer, or of an identity (``layer`` is ``None``), from populations or the image.

    A layer that reads the sum of several has its weights as often: ``repeats``.
    """

    layer: str | None
    sources: tuple[int, ...]
    repeats: int = 1


@dataclass(frozen=True)
class Norm:
    """Batch norm of currents."""

    name: str
    child: Node


@dataclass(frozen=True)
class Sum:
    """A sum of currents."""

    left: Node
    right: Node


Node = Leaf | Norm | Sum


@dataclass(frozen=True)
class Handing:
    """How the spikes of a population are handed on without a layer: pooled by their maximum, or flattened.

    Attributes:
        source: the population.
        kernel, stride: of the file's convolution.
        window: the pixels along each side that are pooled; 1 of a flattened map.
        first: their first place in the kernel.
        flattens: the height and width of a map that is flattened, else ``None``.
    """

    source: int
    kernel: int
    stride: int
    window: int
    first: int
    flattens: tuple[int, int] | None = None


@dataclass(frozen=True)
class TracedPopulation:
    """Neurons and what makes their currents; what hands on the spikes of others has no currents of its own.

    ``learned``: the ids of the parameters by which training moves their leak.
    """

    name: str
    current: Node | None
    lif: Lif
    channels: int
    handing: Handing | None = None
    learned: tuple[int, ...] = ()

    @property
    def layers(self) -> list[str]:
        """The layers among its summands, in their order."""
        return [] if self.current is None else _layers(self.current)

    @property
    def norms(self) -> list[str]:
        """The batch norms of its currents."""
        return [] if self.current is None else _norms(self.current)


@dataclass
class Graph:
    """The content of the packed file, by the names of the module's parts. Populations are in topological order."""

    populations: list[TracedPopulation] = field(default_factory=list)
    readout: str = ""
    readout_sources: tuple[int, ...] = ()
    readout_pixels: int = 1
    readout_repeats: int = 1

    @property
    def lif(self) -> Lif:
        """The neuron of the file: that of the first population."""
        return self.populations[0].lif

    @property
    def copies(self) -> Counter[str]:
        """How many bundles of synapses the file has of each layer: one for every time that it makes currents."""
        return Counter([self.readout, *(layer for each in self.populations for layer in each.layers)])

    @property
    def weight_copies(self) -> Counter[str]:
        """How often the file has the weights of each layer: in each bundle once for every summand of what it reads."""
        found = Counter({self.readout: self.readout_repeats})
        for each in self.populations:
            for leaf in [] if each.current is None else leaves_of(each.current):
                if leaf.layer is not None:
                    found[leaf.layer] += leaf.repeats
        return found

    def shares(self, population: TracedPopulation) -> bool:
        """Whether one of a population's layers makes currents of others too, or its own twice."""
        copies = self.copies
        return any(copies[layer] > 1 for layer in population.layers)


def build_graph(trace: Trace, output: Value, steps: int, *, static: bool) -> Graph:
    """The graph of the last of ``steps`` timesteps on a trace, whose output is ``output`` [B, K].

    ``static``: the image is the same at every timestep, so that a layer which reads it may be called just once.

    Raises:
        Inexpressible: the packed file has no words for a part of it.
    """
    return _Builder(trace, steps, static=static).build(output)


class _Builder:
    def __init__(self, trace: Trace, steps: int, *, static: bool) -> None:
        self.trace, self.steps, self.static = trace, steps, static
        self.graph = Graph()
        self.known: dict[tuple[str, int], int] = {}

    def build(self, output: Value) -> Graph:
        value = self.through(output)
        call = self.made(value, "the output")
        layer = call.module
        if call.role == "neuron":
            raise Inexpressible(f"the output is that of the neuron {call.name}; the packed file ends in a linear layer")
        if not isinstance(layer, CompressedLayer):
            raise Inexpressible(f"the output is made by {_named(call)}; the packed file ends in a linear layer")
        self.once(call)
        self.plain(call, layer)
        graph = self.graph
        graph.readout = call.name
        pooled = self.through(call.inputs[0])
        before = pooled.call
        if before is not None and _averages(before):
            source = self.through(before.inputs[0])
            pixels = source.shape[2:].numel() if source.tensor.dim() == 4 else 0
            if pixels == 0 or pooled.tensor.numel() != source.shape[:2].numel() or not _is_mean(before):
                raise Inexpressible(f"{_named(before)} averages windows; the packed readout averages the whole map")
            graph.readout_sources, graph.readout_repeats = self.summed(source, call.name)
            graph.readout_pixels = pixels
        else:
            graph.readout_sources, graph.readout_repeats = self.summed(pooled, call.name)
        if IMAGE in graph.readout_sources:
            raise Inexpressible(f"{call.name} reads the image; the packed readout reads spikes")
        return graph

    def summed(self, value: Value, reader: str) -> tuple[tuple[int, ...], int]:
        """The populations whose spikes, side by side, a value is the sum of, and of how many summands.

        A map that is flattened has a channel for each of its pixels.
        """
        value = self.through(value)
        call = value.call
        if call is not None and _adds(call):
            parts = [self.summed(part, reader) for part in call.inputs]
            if any(IMAGE in sources for sources, _ in parts):
                raise Inexpressible(f"{reader} reads the image beside spikes")
            return tuple(source for sources, _ in parts for source in sources), sum(times for _, times in parts)
        if (before := _unflattened(value)) is not None:
            sources, times = self.summed(before, reader)
            return tuple(self.flatten(source, before.shape, reader) for source in sources), times
        return self.spikes(value, reader), 1

    def flatten(self, source: int, shape: torch.Size, reader: str) -> int:
        """The population that has a channel for each pixel of another's map [B, C, H, W]."""
        height, width = shape[2:]
        if source == IMAGE:
            raise Inexpressible(f"{reader} reads a flattened image; a layer of the packed file that reads it convolves")
        side = max(height, width)
        if 2 * side - 1 > MAX_KERNEL:
            raise Inexpressible(
                f"{reader} reads a flattened map of {height}×{width}; in the packed file there is room for "
                f"{(MAX_KERNEL + 1) // 2}×{(MAX_KERNEL + 1) // 2}"
            )
        name = f"flattened {self.graph.populations[source].name}"
        channels = self.graph.populations[source].channels * height * width
        handing = Handing(source, 2 * side - 1, side, window=1, first=side - 1, flattens=(height, width))
        return self.hand(TracedPopulation(name, None, self.graph.lif, channels, handing))

    def hand(self, population: TracedPopulation) -> int:
        """A population that hands on the spikes of another: one for all that read the same."""
        for index, known in enumerate(self.graph.populations):
            if known.handing == population.handing:
                return index
        names = {known.name for known in self.graph.populations}
        name = next(each for each in _numbered(population.name) if each not in names)
        self.graph.populations.append(replace(population, name=name))
        return len(self.graph.populations) - 1

    def spikes(self, value: Value, reader: str) -> tuple[int, ...]:
        """The populations whose concatenated spikes a value is, or ``(IMAGE,)``."""
        value = self.through(value)
        if self.trace.is_image(value):
            return (IMAGE,)
        call = self.made(value, reader)
        if call.name in _JOINS and call.module is None:
            if (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) not in (1, 1 - value.tensor.dim()):
                raise Inexpressible(f"{reader} reads a concatenation of other than channels")
            found = [self.summed(part, reader) for part in call.inputs]
            if any(IMAGE in sources for sources, _ in found):
                raise Inexpressible(f"{reader} reads the image beside spikes")
            if any(times != 1 for _, times in found):
                raise Inexpressible(f"{reader} reads a sum of spikes beside others; a layer reads one or the other")
            return tuple(source for sources, _ in found for source in sources)
        if call.role == "neuron":
            return (self.neuron(call, value),)
        if _is_max_pool(call):
            return self.max_pool(call, reader)
        if call.module is None and call.name in _PRODUCTS and _kind(value, self.trace)[0] == "spikes":
            raise Inexpressible(f"{reader} reads a product of spikes; the packed file has sums of spikes alone")
        if call.module is None and _kind(value, self.trace)[0] == "spikes" and not _reads_spikes(call, self.trace):
            raise Inexpressible(
                f"{reader} reads spikes that the operation {call.name} makes; a neuron is recognised if it is a module"
            )
        raise Inexpressible(f"{reader} reads {_named(call)}; in the packed file, layers read spikes")

    def neuron(self, call: Call, value: Value) -> int:
        key = (call.name, call.index)
        if key in self.known:
            return self.known[key]
        if value.tensor is not _first(call.output):
            raise Inexpressible(f"the membrane of {call.name} is read; the packed file knows spikes alone")
        assert call.module is not None
        calls = self.once(call)
        try:
            lif = identify(calls[:2])
            learned = learned_leak(calls[:2], lif)
        except NotLif as error:
            library, _, _ = type(call.module).__module__.partition(".")
            kind = type(call.module).__name__
            kind = kind if library.startswith(GIVEN_PREFIX) else f"{library}.{kind}"
            raise Inexpressible(
                f"neuron {call.name} ({kind}) is no neuron of the packed file, a LIF that resets to zero or by "
                f"subtraction: {error}"
            ) from None
        current = self.current(call.inputs[0], call.name)
        if not _layers(current):
            raise Inexpressible(f"neuron {call.name} has no layer with weights before it")
        return self.add(key, TracedPopulation(call.name, current, lif, call.inputs[0].shape[1], learned=learned))

    def add(self, key: tuple[str, int], population: TracedPopulation) -> int:
        self.known[key] = len(self.graph.populations)
        self.graph.populations.append(population)
        return self.known[key]

    def max_pool(self, call: Call, reader: str) -> tuple[int, ...]:
        before = call.inputs[0]
        if (found := _pooling(call)) is None:
            raise Inexpressible(
                f"{_named(call)} before {reader} makes other windows than a convolution of the packed file, whose "
                "padding is kernel // 2: max pooling by 2 needs an even map, by 3 in steps of 2 a padding of 1"
            )
        pools = []
        for source in self.spikes(before, reader):
            if source == IMAGE:
                raise Inexpressible(f"{_named(call)} pools the image; the packed file pools spikes alone")
            of = self.graph.populations[source]
            pool = TracedPopulation(
                f"max pool of {of.name}", None, self.graph.lif, of.channels, replace(found, source=source)
            )
            pools.append(self.hand(pool))
        return tuple(pools)

    def current(self, value: Value, reader: str) -> Node:
        """The sources of the currents of the neuron ``reader``."""
        value = self.through(value)
        if self.trace.is_image(value):
            raise Inexpressible(f"neuron {reader} reads the image without a layer between")
        call = self.made(value, f"neuron {reader}")
        module = call.module
        if isinstance(module, CompressedLayer):
            self.plain(call, module)
            sources, repeats = self.summed(call.inputs[0], call.name)
            self.once(call, repeated=not (self.static and sources == (IMAGE,)))
            return Leaf(call.name, sources, repeats)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is None:
                raise Inexpressible(f"{call.name} has no running statistics to fold")
            child = self.current(call.inputs[0], reader)
            self.norm(call, module)
            if _identities(child):
                raise Inexpressible(f"{call.name} normalises spikes; the packed file folds norms of layers alone")
            return Norm(call.name, child)
        if call.name in _SUMS and module is None:
            if len(call.inputs) != 2 or call.kwargs:
                raise Inexpressible(f"neuron {reader} reads a sum with a number; the packed file sums currents alone")
            return Sum(self.current(call.inputs[0], reader), self.current(call.inputs[1], reader))
        if call.role == "neuron":
            return Leaf(None, (self.neuron(call, value),))
        raise Inexpressible(
            f"neuron {reader} reads {_named(call)}; in the packed file, neurons read sums of convolutions"
        )

    def norm(self, call: Call, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """A norm that is the same map of every channel in each timestep."""
        calls = len(self.trace.of(norm))
        before = call.inputs[0].call
        once = before is not None and before.module is not None and len(self.trace.of(before.module)) == 1
        if calls != self.steps and not (calls == 1 and once):
            raise Inexpressible(
                f"norm {call.name} is called {calls} times in {self.steps} timesteps, not once in each; the packed "
                "file has one scale and bias for all timesteps"
            )
        if len(call.inputs) != 1:
            raise Inexpressible(f"{_named(call)} reads more than its layer")
        try:
            require_affine(norm)
        except NotAffine as error:
            raise Inexpressible(f"norm {_named(call)} cannot be folded: {error}") from None

    def plain(self, call: Call, layer: CompressedLayer) -> None:
        if (reason := layer.unusual()) is not None:
            raise Inexpressible(f"layer {call.name} has {reason}")

    def once(self, call: Call, *, repeated: bool = True) -> list[Call]:
        """A module's calls, of which ``call`` has to be the last: one in each timestep, or one if not ``repeated``."""
        assert call.module is not None
        calls = self.trace.of(call.module)
        if len(calls) != self.steps and (repeated or len(calls) != 1):
            raise Inexpressible(f"{call.name} is called {len(calls)} times in {self.steps} timesteps, not once in each")
        if call is not calls[-1]:
            raise Inexpressible(f"{call.name} is read a timestep later; the packed file has no recurrence")
        return calls

    def through(self, value: Value) -> Value:
        """The value before reshaping, dropout and the like, as long as channels stay channels."""
        while (call := value.call) is not None and call.inputs and (_keeps_values(call) or _averages_nothing(call)):
            before = call.inputs[0]
            if before.shape[:2] != value.shape[:2] or before.tensor.numel() != value.tensor.numel():
                break
            value = before
        return value

    def made(self, value: Value, reader: str) -> Call:
        if (call := value.call) is None:
            raise Inexpressible(f"{reader} reads a tensor that is neither the image nor made of it")
        return call


def read_kinds(trace: Trace) -> dict[str, tuple[Kind, float, int]]:
    """Of every compressed layer on a trace what it reads ("image", "analog", "spikes"), how many spikes an input of 1
    stands for, and how often it is called.
    """
    found: dict[str, tuple[Kind | None, float, int]] = {}
    for call in trace.calls:
        if isinstance(call.module, CompressedLayer):
            kind, per_unit = _kind(call.inputs[0], trace)
            before = found.get(call.name, (None, 1.0, 0))
            if kind is None:
                kind, per_unit = before[:2]
            elif before[0] is not None and before[:2] != (kind, per_unit):
                kind, per_unit = "analog", 1.0
            found[call.name] = (kind, per_unit, 1 + before[2])
    return {name: (kind or "analog", per_unit, calls) for name, (kind, per_unit, calls) in found.items()}


def made_of_image(trace: Trace, layer: str) -> bool:
    """Whether a layer's input is made of the image alone, without another layer or a neuron between."""

    def plain(value: Value) -> bool:
        if trace.is_image(value):
            return True
        call = value.call
        known = call is not None and not isinstance(call.module, CompressedLayer) and call.role != "neuron"
        return known and all(map(plain, call.inputs)) and bool(call.inputs)  # type: ignore[union-attr]

    return all(plain(call.inputs[0]) for call in trace.calls if call.name == layer)


def _kind(value: Value, trace: Trace) -> tuple[Kind | None, float]:
    """The kind of a value, and how many spikes one unit of it stands for; ``None``: zeros that do not tell."""
    kind, per_unit = _kind_by_call(value, trace)
    if kind != "analog":
        return kind, per_unit
    if bool((value.tensor == 0).all()):
        return None, 1.0
    return ("spikes", 1.0) if _is_binary(value) else (kind, per_unit)  # of a neuron that is a function


def _kind_by_call(value: Value, trace: Trace) -> tuple[Kind | None, float]:
    if trace.is_image(value):
        return "image", 1.0
    call = value.call
    if call is None or not call.inputs:
        return "analog", 1.0
    if call.role == "neuron":
        return ("spikes", 1.0) if value.tensor is _first(call.output) and _is_binary(value) else ("analog", 1.0)
    if call.module is None and call.name in _COMPARES:
        return "spikes", 1.0
    kind, per_unit = _kind(call.inputs[0], trace)
    if _keeps_values(call) or _keeps_spikes(call):
        return kind, per_unit
    if kind != "spikes":
        return "analog", 1.0
    if _averages(call):
        area = _window(call)
        return ("analog", 1.0) if area is None else ("spikes", per_unit * area)
    if _is_max_pool(call) and per_unit == 1.0:
        return kind, per_unit
    if call.module is None and call.name in _PRODUCTS and len(call.inputs) == 2 and per_unit == 1.0:
        return _kind(call.inputs[1], trace) if _kind(call.inputs[1], trace) == (kind, 1.0) else ("analog", 1.0)
    if (
        call.module is None
        and call.name in _SUMS | _JOINS
        and all(_kind(part, trace) == (kind, per_unit) for part in call.inputs)
    ):
        return kind, per_unit
    return "analog", 1.0


def _reads_spikes(call: Call, trace: Trace) -> bool:
    return bool(call.inputs) and _kind(call.inputs[0], trace)[0] == "spikes"


def _is_binary(value: Value) -> bool:
    return bool(((value.tensor == 0) | (value.tensor == 1)).all())


def _keeps_values(call: Call) -> bool:
    if call.module is not None:
        return call.role == "nothing" or isinstance(
            call.module, nn.Flatten | nn.Unflatten | nn.Identity | nn.modules.dropout._DropoutNd
        )
    return call.name in _KEEP_VALUES


@torch.no_grad()
def _keeps_spikes(call: Call) -> bool:
    """Whether a call multiplies by ones alone, as snnTorch does with the size of its spikes."""
    if call.module is not None or call.name not in ("mul", "__mul__", "__rmul__") or len(call.inputs) != 1:
        return False
    x = _random(call.inputs[0]).round()
    return torch.equal(call.again(x), x)


def _averages(call: Call) -> bool:
    if call.module is not None:
        return isinstance(call.module, nn.AvgPool2d | nn.AdaptiveAvgPool2d)
    return call.name in _AVERAGES


def _random(value: Value) -> Tensor:
    return torch.rand(value.shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _is_mean(call: Call) -> bool:
    """Whether a call averages whole maps."""
    x = _random(call.inputs[0])
    return torch.allclose(call.again(x).flatten(), x.flatten(2).mean(2).flatten(), atol=1e-5)


@torch.no_grad()
def _averages_nothing(call: Call) -> bool:
    """Whether a call averages windows of one pixel, as adaptive pooling does on maps of the size that it makes."""
    if not _averages(call) or _first(call.output) is None or call.inputs[0].shape != call.output.shape:
        return False
    x = _random(call.inputs[0])
    return torch.equal(call.again(x), x)


@torch.no_grad()
def _window(call: Call) -> float | None:
    """Pixels in each window of an average whose windows share none and leave out none; else ``None``."""
    x = _random(call.inputs[0])
    out = call.again(x)
    ratio = float(x.double().sum() / out.double().sum())
    return float(round(ratio)) if abs(ratio - round(ratio)) < 1e-4 and round(ratio) >= 1 else None


def _adds(call: Call) -> bool:
    """Whether a call adds two tensors of one shape, and nothing else."""
    two = call.module is None and call.name in _SUMS and len(call.inputs) == 2 and not call.kwargs
    return two and call.inputs[0].shape == call.inputs[1].shape


def _is_max_pool(call: Call) -> bool:
    return isinstance(call.module, nn.MaxPool2d) or (
        call.module is None and call.name in ("max_pool2d", "boolean_dispatch")
    )


@torch.no_grad()
def _pooling(call: Call) -> Handing | None:
    """Max pooling as a convolution of the packed file does it, of no population yet; ``None`` if none does."""
    if call.module is not None:
        given = [getattr(call.module, name) for name in ("kernel_size", "stride", "padding")]
    else:
        names = ("kernel_size", "stride", "padding")
        given = [call.args[i] if len(call.args) > i else call.kwargs.get(name) for i, name in enumerate(names, start=1)]
    size, stride, padding = (
        _side(value) for value in (given[0], given[0] if given[1] in (None, []) else given[1], given[2] or 0)
    )
    if size is None or stride is None or padding is None:
        return None
    half = max(padding, size - 1 - padding)
    if 2 * half + 1 > MAX_KERNEL or stride > MAX_STRIDE:
        return None
    x = _random(call.inputs[0])
    theirs = _first(call.target(*(x if arg is call.inputs[0].tensor else arg for arg in call.args), **call.kwargs))
    expected = F.max_pool2d(x, size, stride, padding)
    made = [(length - 1) // stride + 1 for length in x.shape[2:]]  # by a convolution with padding kernel // 2
    if theirs is None or list(theirs.shape[2:]) != made or not torch.equal(theirs, expected):
        return None
    return Handing(0, 2 * half + 1, stride, size, half - padding)


def _side(value: Any) -> int | None:
    """The number of a pair of equal ones, or the number."""
    sides = set(value) if isinstance(value, tuple | list) else {value}
    return int(sides.pop()) if len(sides) == 1 else None


def _unflattened(value: Value) -> Value | None:
    """The map [B, C, H, W] that a value [B, C·H·W] is, pixel after pixel; ``None`` if it is no flattened map."""
    call = value.call
    if call is None or not _keeps_values(call) or not call.inputs or value.tensor.dim() != 2:
        return None
    before = call.inputs[0]
    fits = before.tensor.dim() == 4 and value.shape == (len(before.tensor), before.shape[1:].numel())
    return before if fits else None


def _first(output: Any) -> Tensor | None:
    if isinstance(output, tuple | list):
        return _first(output[0]) if output else None
    return output if isinstance(output, Tensor) else None


def _numbered(name: str) -> Iterator[str]:
    return (name if number == 1 else f"{name} ({number})" for number in count(1))


def _layers(node: Node) -> list[str]:
    return [leaf.layer for leaf in leaves_of(node) if leaf.layer is not None]


def _norms(node: Node) -> list[str]:
    match node:
        case Leaf():
            return []
        case Norm():
            return [node.name, *_norms(node.child)]
        case Sum():
            return _norms(node.left) + _norms(node.right)


def _identities(node: Node) -> bool:
    return any(leaf.layer is None for leaf in leaves_of(node))


def leaves_of(node: Node) -> list[Leaf]:
    """The summands of currents, in their order."""
    match node:
        case Leaf():
            return [node]
        case Norm():
            return leaves_of(node.child)
        case Sum():
            return leaves_of(node.left) + leaves_of(node.right)


def _named(call: Call) -> str:
    if call.module is not None:
        return f"{call.name} ({type(call.module).__name__})"
    return f"the operation {call.name}"
