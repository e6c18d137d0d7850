"""Forward and backward of a cell by hand: convolutions, batch normalisation, sums and neurons of all timesteps at once.

In: the spikes of the two cells before and the weights of merged convolutions. Out: the spikes of the cell's nodes.

    x_n = Σ_{e into n} scale_e · (z_e − mean_e) / √(var_e + ε) + bias_n,    s_n = LIF(x_n),    z_e = conv_e(source_e)

Convolutions that read the same state with the same kernel and stride are one convolution with more output channels;
z_e is a slice of its output, or for an identity the source itself. Statistics are of the whole batch and all timesteps
(and over all processes), or given. What autograd would do in a dozen passes over every z takes four: statistics; sum
and neuron; in the backward pass the neuron again, with the gradients' sums; and the gradient of z, which takes the
place of z. Kept for it are spikes and z, but not what is soon computed again (:func:`keeps_output`). Convolutions of
kernel 1 can do without z (:func:`uses_moments`, :mod:`litesnn.snn.conv1x1_moments`): all of them together give each
node one map.

Maps are matrices [P, C], as in :mod:`litesnn.snn.kernels`. Shapes: T timesteps, B batch, C channels per node,
N nodes, E edges, P = T·B·H·W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litesnn import processes
from litesnn.snn.constants import indices
from litesnn.snn.conv1x1_moments import Coefficients, Edges, Moments
from litesnn.snn.convolve import convolve, convolve_backward, convolve_measured
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import Incoming, Kernels, Node, from_rows, to_rows
from litesnn.snn.membrane import Neuron
from litesnn.snn.select_kernels import kernels_for
from litesnn.snn.spike_products import combine, gram, has_loops
from litesnn.snn.stepped import Stepped, fire_backward, fire_node
from litesnn.snn.winograd import Normalised

__all__ = ["CellPlan", "Convolution", "Statistics", "Term", "keeps_output", "run_cell", "uses_moments"]

EPSILON = 1e-5
"""Added to variances, as in torch's batch normalisation."""


@dataclass(frozen=True)
class Convolution:
    """A merged convolution: it reads state ``source`` (0 and 1 the inputs, 2 + j node j)."""

    source: int
    stride: int
    kernel: int


@dataclass(frozen=True)
class Term:
    """One edge into a node: columns from ``column`` on of convolution ``conv``, or (``None``) the state ``source``."""

    edge: int
    source: int
    conv: int | None = None
    column: int = 0


@dataclass(frozen=True)
class CellPlan:
    """The plan of a cell's computation, without its numbers. ``terms``: of each node, in their order of summation."""

    channels: int
    convs: tuple[Convolution, ...]
    terms: tuple[tuple[Term, ...], ...]

    @property
    def edges(self) -> int:
        """E."""
        return sum(map(len, self.terms))


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of every z_e, [E, C] each."""

    mean: Tensor
    variance: Tensor


def uses_moments(kernel: int, inputs: int, outputs: int, device: torch.device, execution: Execution) -> bool:
    """Whether a convolution and its normalisation are computed without its output, as litesnn.snn.conv1x1_moments does.

    One of kernel 1 is, on a CPU that has loops for products of spikes. It then writes and reads no more memory than
    spikes and currents take, but needs I² more of those products, which are too many for much fewer outputs.
    """
    pays = kernel == 1 and inputs <= 3 * outputs
    return pays and device.type == "cpu" and execution.convolution_type is None and has_loops()


def keeps_output(kernel: int, device: torch.device) -> bool:
    """Whether the output of a convolution is kept for the backward pass, where it would have to be computed again.

    On a CPU one of kernel 1 is not: it takes as much memory as one of kernel 3 and less than half of its time. On a
    GPU, where neither takes much, all are.
    """
    return kernel > 1 or device.type != "cpu"


def run_cell(
    plan: CellPlan,
    older: Tensor,
    newer: Tensor,
    weights: Sequence[Tensor],
    scales: Tensor,
    biases: Tensor,
    *,
    steps: int,
    neurons: Sequence[Neuron | Stepped],
    given: Statistics | None = None,
    known: tuple[dict[int, Moments], dict[int, Moments]] | None = None,
    execution: Execution = Execution(),
) -> tuple[Tensor, Statistics]:
    """One cell, differentiable once in all tensors but ``given``, what neurons learn included.

    Args:
        older, newer: spikes of the two cells before [T·B, I, H, W].
        weights: of each of the plan's convolutions [O, I, k, k].
        scales: of each edge's normalised currents [E, C].
        biases: of each node [N, C].
        steps: T.
        neurons: of each node.
        given: statistics to use; ``None``: those of this batch.
        known: of either input, moments of its pixels by stride, as far as they are known; it receives others.
        execution: how to compute it.

    Returns:
        Spikes [T·B, N·C, H', W'], channels_last, and the statistics that were used.
    """
    with_moments = tuple(
        uses_moments(conv.kernel, weight.shape[1], weight.shape[0], newer.device, execution)
        for conv, weight in zip(plan.convs, weights, strict=True)
    )
    learned = [value for each in neurons if isinstance(each, Stepped) for value in each.learned.values()]
    settings = _Settings(plan, with_moments, steps, _detached(neurons), given, known or ({}, {}), execution)
    spikes, mean, variance = _Cell.apply(  # type: ignore[no-untyped-call]
        settings, older, newer, scales, biases, *weights, *learned
    )
    return spikes, Statistics(mean, variance)


def _detached(neurons: Sequence[Neuron | Stepped]) -> tuple[Neuron | Stepped, ...]:
    """The neurons as numbers, without the way to what they learn."""
    return tuple(
        each.given({name: value.detach() for name, value in each.learned.items()})
        if isinstance(each, Stepped)
        else each
        for each in neurons
    )


@dataclass(frozen=True)
class _Settings:
    plan: CellPlan
    with_moments: tuple[bool, ...]  # of each convolution
    steps: int
    neurons: tuple[Neuron | Stepped, ...]
    given: Statistics | None
    known: tuple[dict[int, Moments], dict[int, Moments]]
    execution: Execution


@dataclass
class _Inside:
    """Intermediate results of a cell, between its inputs and its spikes.

    Membranes are not kept: to compute them again from what convolutions gave takes less than to write and read them.
    """

    size: tuple[int, int]
    z: list[Tensor | None]  # the outputs of each convolution [P, O]; ``None``: not there yet, or no more
    matrices: dict[int, Tensor]  # of each convolution by moments: by which its state is added to the nodes [I, N·C]
    sums: list[tuple[Tensor, Tensor]]  # of each node: scales of its maps [M, C], and bias [C]

    def forget(self, plan: CellPlan, device: torch.device) -> None:
        """Drop the outputs that are not worth their memory until the backward pass."""
        for index, conv in enumerate(plan.convs):
            if not keeps_output(conv.kernel, device):
                self.z[index] = None


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, older: Tensor, newer: Tensor, scales: Tensor, biases: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = rest[: len(settings.plan.convs)]  # what follows them is in the settings too
        way = _Forward(settings, (older, newer), weights)
        spikes, statistics = way.run(scales, biases)
        way.inside.forget(settings.plan, newer.device)
        ctx.settings, ctx.moments = settings, way.moments
        ctx.inside = None if settings.execution.recompute else way.inside
        ctx.save_for_backward(older, newer, scales, biases, spikes, statistics.mean, statistics.variance, *weights)
        ctx.mark_non_differentiable(statistics.mean, statistics.variance)
        ctx.set_materialize_grads(False)
        return spikes, statistics.mean, statistics.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        older, newer, scales, biases, spikes, mean, variance, *weights = ctx.saved_tensors
        settings, inside = ctx.settings, ctx.inside
        if grads[0] is None:
            return (None,) * len(ctx.needs_input_grad)
        statistics = Statistics(mean, variance)
        if inside is None:
            again = _Forward(replace(settings, given=statistics), (older, newer), weights)
            again.run(scales, biases)
            inside = again.inside
        elif inside.size == (0, 0):
            raise RuntimeError("a cell's backward pass can run only once: it overwrites what it has kept")
        known = _Known(spikes, statistics, ctx.moments, inside)
        back = _Backward(settings, (older, newer), weights, scales, known, ctx.needs_input_grad)
        result = back.run(grads[0])
        inside.size = (0, 0)
        return (None, *result)


class _Way:
    """The common part of a cell's forward and backward pass: convolutions, and the maps that are summed into nodes."""

    def __init__(
        self,
        settings: _Settings,
        inputs: tuple[Tensor, Tensor],
        weights: Sequence[Tensor],
        inside: _Inside,
        spikes: Tensor,
    ) -> None:
        self.settings, self.plan, self.inputs, self.weights = settings, settings.plan, inputs, weights
        self.inside = inside
        self.kernels = self._kernels_of(Neuron(), spikes)
        # The states that edges can read, as maps: both inputs, and every node's columns of the cell's spikes [P, N·C].
        self.states = [*map(to_rows, inputs), *torch.split(spikes, self.plan.channels, dim=1)]
        self.mixed: Tensor | None = None  # what convolutions by moments have given to the nodes' currents [P, N·C]
        self.edges = {
            index: Edges(weights[index].flatten(1), tuple(node for _, node in readers))
            for index, readers in enumerate(_readers(self.plan))
            if settings.with_moments[index]
        }

    def _kernels_of(self, neuron: Neuron, like: Tensor) -> Kernels:
        """The fastest kernels for these neurons."""
        return kernels_for(like, neuron, compiled=self.settings.execution.compiled)

    def _input(self, conv: Convolution) -> Tensor:
        """The input of a convolution [T·B, I, H, W]."""
        if conv.source < 2:
            return self.inputs[conv.source]
        return from_rows(self.states[conv.source], self.inside.size)

    def _convolved(self, index: int) -> Tensor:
        """The output of a convolution [P, O]."""
        conv, kind = self.plan.convs[index], self.settings.execution.convolution_type
        return to_rows(convolve(self._input(conv), self.weights[index], stride=conv.stride, kind=kind))

    def _pixels(self, conv: Convolution) -> Tensor:
        """The input of a convolution of kernel 1, as a map of as many pixels as its output has [P, I]."""
        if conv.stride == 1:
            return self.states[conv.source]
        return to_rows(_every(self._input(conv), conv.stride).contiguous(memory_format=torch.channels_last))

    def _readable(self, node: int) -> list[int]:
        """The convolutions that can be computed before this node, but not before an earlier one."""
        sources = (node + 1,) if node else (0, 1)
        return [index for index, conv in enumerate(self.plan.convs) if conv.source in sources]

    def _rows(self, index: int) -> tuple[int, ...]:
        """The edges of a convolution, in the order of its outputs."""
        return tuple(edge for edge, _ in _readers(self.plan)[index])

    def _mix(self, node: int, pixels: Mapping[int, Tensor]) -> None:
        """Add what convolutions by moments give to this node and later ones, given the maps that they read, if any."""
        if not pixels:
            return
        maps, matrix = list(pixels.values()), torch.cat([self.inside.matrices[index] for index in pixels])
        if self.mixed is None:
            self.mixed = matrix.new_empty(len(maps[0]), matrix.shape[1])
            combine(self.mixed, maps, matrix)
        else:  # earlier nodes do not read what this one can
            first = node * self.plan.channels
            combine(self.mixed[:, first:], maps, matrix[:, first:], adding=True)

    def _node(self, node: int) -> tuple[list[Tensor], tuple[int, ...]]:
        """The maps that are summed into a node: those of some edges, which edges, and what is mixed of all others."""
        maps, edges = [], []
        for term in self.plan.terms[node]:
            if term.conv is None:
                maps.append(self.states[term.source])
            elif not self.settings.with_moments[term.conv]:
                z = self.inside.z[term.conv]
                assert z is not None
                maps.append(z[:, term.column : term.column + self.plan.channels])
            else:
                continue
            edges.append(term.edge)
        if len(edges) < len(self.plan.terms[node]):
            assert self.mixed is not None
            maps.append(self._columns(self.mixed, node, 1))
        return maps, tuple(edges)

    def _columns(self, rows: Tensor, node: int, count: int) -> Tensor:
        """The columns of some nodes."""
        return rows[:, node * self.plan.channels : (node + count) * self.plan.channels]


class _Forward(_Way):
    """The way to the spikes of all nodes. ``moments``: of what convolutions by moments read."""

    def __init__(self, settings: _Settings, inputs: tuple[Tensor, Tensor], weights: Sequence[Tensor]) -> None:
        plan, newer, size = settings.plan, inputs[1], _output_size(settings.plan, inputs)
        self.spikes = newer.new_empty(newer.shape[0] * size[0] * size[1], len(plan.terms) * plan.channels)
        super().__init__(settings, inputs, weights, _Inside(size, [None] * len(plan.convs), {}, []), self.spikes)
        self.moments: dict[int, Moments] = {}
        self.rates: list[Tensor] = []  # at which the neurons of nodes that are done fire [C]

    def run(self, scales: Tensor, biases: Tensor) -> tuple[Tensor, Statistics]:
        """Spikes [T·B, N·C, H', W'] and the statistics that were used."""
        self.used = self.settings.given or Statistics(*scales.new_empty(2, *scales.shape))
        for node, terms in enumerate(self.plan.terms):
            self._read(node, scales)
            maps, own = self._node(node)
            edges = indices(tuple(term.edge for term in terms), scales.device)
            bias = biases[node] - (self._factors(scales, edges) * self.used.mean[edges]).sum(0)
            factors = self._factors(scales, indices(own, scales.device))
            if len(maps) > len(own):
                factors = torch.cat([factors, bias.new_ones(1, len(bias))])
            self.inside.sums.append((factors, bias))
            self.rates.append(self._fire(node, maps, self.states[2 + node]))
        self.mixed = None
        return from_rows(self.spikes, self.inside.size), self.used

    def _fire(self, node: int, maps: Sequence[Tensor], spikes: Tensor) -> Tensor:
        """Set the spikes of a node; returns the rates at which its neurons fire [C]."""
        neuron, sums, steps = self.settings.neurons[node], self.inside.sums[node], self.settings.steps
        if isinstance(neuron, Stepped):
            return fire_node(Node(maps, *sums, steps, Neuron()), neuron, spikes)
        return self._kernels_of(neuron, spikes).fire(Node(maps, *sums, steps, neuron), spikes)

    def _read(self, node: int, scales: Tensor) -> None:
        """All convolutions whose state is there since the node before, and the statistics of edges into this node."""
        pixels: dict[int, Tensor] = {}
        for index in self._readable(node):
            conv = self.plan.convs[index]
            if not self.settings.with_moments[index]:
                self._convolve(index, conv)
                continue
            pixels[index] = self._pixels(conv)
            if self.settings.given is None:
                self.moments[index] = self._moments(conv, pixels[index])
                self._use(self._rows(index), *self.edges[index].statistics(self.moments[index]))
        if self.settings.given is None:
            for term in self.plan.terms[node]:
                if term.conv is None:
                    self._use((term.edge,), *self._measured(term.source))
        for index in pixels:
            edges, rows = self.edges[index], indices(self._rows(index), scales.device)
            matrix = scales.new_zeros(edges.weight.shape[2], self.spikes.shape[1])
            own = self._columns(matrix, edges.first, edges.count)
            own.copy_(edges.into_nodes(self._factors(scales, rows)))
            self.inside.matrices[index] = matrix
        self._mix(node, pixels)

    def _moments(self, conv: Convolution, pixels: Tensor) -> Moments:
        """Moments of the pixels that a convolution reads; two cells may read the same."""
        if conv.source >= 2:
            return Moments.of(pixels)
        known = self.settings.known[conv.source]
        if conv.stride not in known:
            known[conv.stride] = Moments.of(pixels)
        return known[conv.stride]

    def _convolve(self, index: int, conv: Convolution) -> None:
        """The output of a convolution, and its statistics unless they are given."""
        if self.settings.given is not None:
            self.inside.z[index] = self._convolved(index)
            return
        z, mean, variance = convolve_measured(
            *(self._input(conv), self.weights[index]),
            stride=conv.stride,
            kernels=self.kernels,
            kind=self.settings.execution.convolution_type,
        )
        self.inside.z[index] = to_rows(z)
        self._use(self._rows(index), mean, variance)

    def _measured(self, source: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of a state [C]; of spikes that are 0 or 1 the one follows from the other."""
        if source < 2 or self.settings.neurons[source - 2].levels > 1:
            return self.kernels.mean_variance(self.states[source])
        rate = self.rates[source - 2]
        return rate, rate * (1 - rate)

    def _use(self, edges: tuple[int, ...], mean: Tensor, variance: Tensor) -> None:
        """Take these statistics of edges [E·C], over all processes."""
        rows = indices(edges, mean.device)
        found = processes.joint_mean_variance(mean, variance)
        self.used.mean[rows], self.used.variance[rows] = (part.view(-1, self.plan.channels) for part in found)

    def _factors(self, scales: Tensor, edges: Tensor) -> Tensor:
        """By which the z of some edges are multiplied [E, C]."""
        return scales[edges] * (self.used.variance[edges] + EPSILON).rsqrt()


def _every(x: Tensor, stride: int) -> Tensor:
    """The pixels of [N, C, H, W] that a convolution of kernel 1 reads."""
    return x[:, :, ::stride, ::stride]


def _output_size(plan: CellPlan, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of the cell's maps."""
    for conv in plan.convs:
        if conv.source < 2:
            height, width = inputs[conv.source].shape[-2:]
            return -(-height // conv.stride), -(-width // conv.stride)
    source = plan.terms[0][0].source  # an identity
    height, width = inputs[source].shape[-2:]
    return height, width


@cache
def _readers(plan: CellPlan) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Of each convolution, in the order of its output channels, edges and the nodes to which they lead."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in plan.convs]
    for node, terms in enumerate(plan.terms):
        for term in terms:
            if term.conv is not None:
                found[term.conv].append((term.column, term.edge, node))
    return tuple(tuple((edge, node) for _, edge, node in sorted(rows)) for rows in found)


@dataclass(frozen=True)
class _Run:
    """Edges that read the same state, side by side both in z and in the nodes that they lead to."""

    source: int
    conv: int | None
    column: int  # the first in z
    node: int  # the first one
    edges: tuple[int, ...]


@cache
def _runs(plan: CellPlan) -> tuple[_Run, ...]:
    """All edges, in as few runs as there are."""
    found: list[_Run] = []
    places = [(term, node) for node, terms in enumerate(plan.terms) for term in terms]
    for term, node in sorted(places, key=lambda place: (place[0].conv is None, place[0].conv or 0, place[0].column)):
        last = found[-1] if found else None
        if (
            last is not None
            and term.conv is not None
            and term.conv == last.conv
            and node == last.node + len(last.edges)
        ):
            found[-1] = replace(last, edges=(*last.edges, term.edge))
        else:
            source = term.source if term.conv is None else plan.convs[term.conv].source
            found.append(_Run(source, term.conv, term.column, node, (term.edge,)))
    return tuple(found)


@dataclass(frozen=True)
class _Known:
    """Results of the forward pass that are saved for the backward pass."""

    spikes: Tensor  # [T·B, N·C, H', W']
    statistics: Statistics
    moments: Mapping[int, Moments]
    inside: _Inside


class _Backward(_Way):
    """The backward pass through a cell: node by node, last node first, and then through all that reads its spikes."""

    def __init__(
        self,
        settings: _Settings,
        inputs: tuple[Tensor, Tensor],
        weights: Sequence[Tensor],
        scales: Tensor,
        known: _Known,
        needed: Sequence[bool],
    ) -> None:
        rows = to_rows(known.spikes)
        super().__init__(settings, inputs, weights, known.inside, rows)
        self.scales, self.statistics, self.moments = scales, known.statistics, known.moments
        self.needs_input = (*needed[1:3], *[True] * len(self.plan.terms))
        # Maps that add up to the gradient of a state, and edges without weights that add to that of a node.
        self.grads: list[list[Tensor]] = [[] for _ in self.states]
        self.identities: list[list[_Run]] = [[] for _ in self.states]
        self.g = torch.empty_like(rows)  # the gradients of all nodes' currents [P, N·C]
        self.inverse_stds = (self.statistics.variance + EPSILON).rsqrt()
        self.coefficients = scales.new_empty(3, *scales.shape)  # dz_e = a · g + b · z_e + c, for nodes that are done
        self.grad_scales = torch.empty_like(scales)
        self.grad_biases = scales.new_zeros(len(self.plan.terms), self.plan.channels)
        self.grad_weights: list[Tensor | None] = [None] * len(weights)
        self.grad_learned: list[Tensor] = []  # of nodes that are done, in their order

    def run(self, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient of the cell's spikes to those of inputs, scales, biases and weights."""
        rows = to_rows(grad_spikes.contiguous(memory_format=torch.channels_last))
        for node, columns in enumerate(torch.split(rows, self.plan.channels, dim=1)):
            self.grads[2 + node].append(columns)
        self._mix_again()
        for node in reversed(range(len(self.plan.terms))):
            self._read(node + 2)
            self._fire(node)
        self.mixed = None
        for source in (1, 0):
            self._read(source)
        inputs = (self._input_grad(0), self._input_grad(1))
        return (*inputs, self.grad_scales, self.grad_biases, *self.grad_weights, *self.grad_learned)

    def _mix_again(self) -> None:
        """Sum the currents in the same order as in the forward pass, for the same numbers."""
        for node in range(len(self.plan.terms)):
            mixed = [index for index in self._readable(node) if self.settings.with_moments[index]]
            self._mix(node, {index: self._pixels(self.plan.convs[index]) for index in mixed})

    def _fire(self, node: int) -> None:
        """Through the neurons of a node, whose spikes' gradient is complete."""
        for term in self.plan.terms[node]:
            if term.conv is not None and not self.settings.with_moments[term.conv]:
                self._output(term.conv)
        maps, own = self._node(node)
        neuron, steps = self.settings.neurons[node], self.settings.steps
        edges = indices(own, self.scales.device)
        incoming, g, centres = self._incoming(2 + node), self._columns(self.g, node, 1), self.statistics.mean[edges]
        if isinstance(neuron, Stepped):
            given = Node(maps, *self.inside.sums[node], steps, Neuron())
            sums, learned = fire_backward(given, neuron, incoming, centres, g)
            self.grad_learned[:0] = learned
        else:
            given = Node(maps, *self.inside.sums[node], steps, neuron)
            sums = self._kernels_of(neuron, g).fire_backward(given, incoming, centres, g)
        self.grads[2 + node] = []
        self.grad_biases[node] = sums[0]
        if own:
            self._finish(edges, sums[:1].expand(len(own), -1), sums[1:])

    def _incoming(self, source: int) -> Incoming:
        """The gradient of a node's spikes."""
        if not self.identities[source]:
            return Incoming.of(self.grads[source])
        edges = [edge for run in self.identities[source] for edge in run.edges]
        a, b, c = self.coefficients[:, indices(tuple(edges), self.g.device)]
        scaled = [self._columns(self.g, run.node, 1) for run in self.identities[source]]
        return Incoming(self.grads[source], scaled, a, torch.stack([b.sum(0), c.sum(0)]))

    def _finish(self, edges: Tensor, sums: Tensor, products: Tensor) -> None:
        """Coefficients of normalisation's gradient of z_e, from Σ g and Σ g · (z_e − mean_e) [E, C] of some edges."""
        inverse_std = self.inverse_stds[edges]
        self.grad_scales[edges] = (products * inverse_std).to(inverse_std.dtype)  # Σ g·ẑ
        # With ẑ = (z − mean)·inverse_std of the batch: dz = scale·inverse_std·(g − Σg/P − ẑ·Σgẑ/P)
        a = self.scales[edges] * inverse_std
        b, c = torch.zeros_like(a), torch.zeros_like(a)
        if self.settings.given is None:
            totals = processes.total_(torch.stack([sums, products]))
            averages = (totals / (len(self.g) * processes.count())).to(a.dtype)
            b = -a * inverse_std.square() * averages[1]
            c = -a * averages[0] - b * self.statistics.mean[edges]
        self.coefficients[:, edges] = torch.stack([a, b, c])

    def _output(self, index: int) -> Tensor:
        """The output of a convolution, or the gradient that has taken its place; computed again if it was not kept."""
        z = self.inside.z[index]
        if z is None:
            z = self.inside.z[index] = self._convolved(index)
        return z

    def _read(self, source: int) -> None:
        """Through all edges that read a state: those into later nodes, whose gradients are there."""
        with_moments = self.settings.with_moments
        for run in _runs(self.plan):
            if run.source == source and run.conv is None:
                self._pass_on(run)
        readers = [index for index, conv in enumerate(self.plan.convs) if conv.source == source]
        for index in sorted(readers, key=with_moments.__getitem__):  # last those that can add to what others give
            (self._multiply if with_moments[index] else self._convolve)(index, self.plan.convs[index])

    def _pass_on(self, run: _Run) -> None:
        """Through the normalisation of an edge without weights."""
        if run.source >= 2:
            self.identities[run.source].append(run)  # as it is, for the kernel that reads the gradient anyway
        elif self.needs_input[run.source]:
            g = self._columns(self.g, run.node, 1)
            out = torch.empty_like(g)
            a, b, c = self.coefficients[:, indices(run.edges, g.device)].flatten(1)
            self.kernels.scaled_sum(g, self.states[run.source], a, b, c, out)
            self._add_grad(run.source, out)

    def _convolve(self, index: int, conv: Convolution) -> None:
        """Through the normalisation of a convolution's edges, in place, and the convolution."""
        z, runs = self._output(index), [run for run in _runs(self.plan) if run.conv == index]
        places = {(run.node, len(run.edges)) for run in runs}
        normalised = None
        if len(places) == 1:  # all lead to the same nodes, as they do but in some derived networks
            normalised = self._normalised(runs[0], [edge for run in runs for edge in run.edges])
        else:
            for run in runs:
                part = z[:, run.column : run.column + len(run.edges) * self.plan.channels]
                found = self._normalised(run, run.edges)
                self.kernels.scaled_sum(found.g, part, found.a, found.b, found.c, part)
        grad_x, self.grad_weights[index] = convolve_backward(
            *(from_rows(z, self.inside.size), self._input(conv), self.weights[index]),
            stride=conv.stride,
            kernels=self.kernels,
            kind=self.settings.execution.convolution_type,
            normalised=normalised,
            needs_input=self.needs_input[conv.source],
        )
        self.inside.z[index] = None
        if grad_x is not None:
            self._add_grad(conv.source, to_rows(grad_x))

    def _normalised(self, run: _Run, edges: Sequence[int]) -> Normalised:
        """The normalisation between the outputs of these edges and the nodes that the run leads to."""
        g = self._columns(self.g, run.node, len(run.edges))
        return Normalised(g, *self.coefficients[:, indices(tuple(edges), g.device)].flatten(1))

    def _multiply(self, index: int, conv: Convolution) -> None:
        """Through a convolution by moments, and the normalisation of all its edges."""
        edges, pixels, rows = self.edges[index], self._pixels(conv), indices(self._rows(index), self.g.device)
        g = self._columns(self.g, edges.first, edges.count)
        found = gram(pixels, g)
        sums = self.grad_biases[edges.first + edges.nodes].double()
        self._finish(rows, sums, edges.products(found, sums, self.statistics.mean[rows]))
        coefficients = Coefficients(*self.coefficients[:, rows].double())
        self.grad_weights[index] = edges.weight_gradient(found, self.moments.get(index), coefficients)[..., None, None]
        if not self.needs_input[conv.source]:
            return
        adding = conv.stride == 1 and conv.source < 2 and bool(self.grads[conv.source])
        out = self.grads[conv.source][0] if adding else torch.empty_like(pixels)
        edges.input_gradient(g, pixels, coefficients, out, adding=adding)
        if conv.stride > 1:
            self._add_every(conv, out)
        elif not adding:
            self._add_grad(conv.source, out)

    def _add_every(self, conv: Convolution, part: Tensor) -> None:
        """Add to the gradient of an input the part of the pixels that a convolution with a stride reads."""
        if not self.grads[conv.source]:
            self._add_grad(conv.source, torch.zeros_like(self.states[conv.source]))
        height, width = self.inputs[conv.source].shape[-2:]
        whole = from_rows(self.grads[conv.source][0], (height, width))
        _every(whole, conv.stride).add_(from_rows(part, self.inside.size))

    def _add_grad(self, source: int, part: Tensor) -> None:
        """Add to the gradient of a state. Those of nodes are added up by the next kernel, which reads them anyway."""
        if source < 2 and self.grads[source]:
            self.grads[source][0].add_(part)
        else:
            self.grads[source].append(part)

    def _input_grad(self, source: int) -> Tensor | None:
        """The gradient of an input of the cell; ``None`` if nothing reads it."""
        if not self.needs_input[source] or not self.grads[source]:
            return None
        (grad,) = self.grads[source]
        height, width = self.inputs[source].shape[-2:]
        return from_rows(grad, (height, width))
