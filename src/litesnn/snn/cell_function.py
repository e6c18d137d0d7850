"""Forward and backward of a cell by hand: convolutions, batch normalisation, sums and neurons of all timesteps at once.

In: the spikes of the two cells before and the weights of merged convolutions. Out: the spikes of the cell's nodes.

    x_n = Σ_{e into n} scale_e · (z_e − mean_e) / √(var_e + ε) + bias_n,    s_n = LIF(x_n),    z_e = conv_e(source_e)

Convolutions that read the same state with the same kernel and stride are one convolution with more output channels;
z_e is a slice of its output, or for an identity the source itself. Statistics are of the whole batch and all timesteps
(and over all processes), or given. What autograd would do in a dozen passes over every z takes four: statistics; sum
and neuron; on the way back the neuron again, with the gradients' sums; and the gradient of z, which takes the place of
z. Kept for that way are spikes and z, but not what is soon computed again (:func:`keeps_output`).

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
from litesnn.snn.convolve import convolve, convolve_backward
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import Kernels, Node, from_rows, kernels_for, to_rows
from litesnn.snn.membrane import Neuron

__all__ = ["CellPlan", "Convolution", "Statistics", "Term", "keeps_output", "run_cell"]

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
    """What a cell computes, but for numbers. ``terms``: of each node, in their order of summation."""

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


def keeps_output(kernel: int, device: torch.device) -> bool:
    """Whether the output of a convolution is kept for the way back, where it would have to be computed again.

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
    neuron: Neuron,
    given: Statistics | None = None,
    execution: Execution = Execution(),
) -> tuple[Tensor, Statistics]:
    """One cell, differentiable once in all tensors but ``given``.

    Args:
        older, newer: spikes of the two cells before [T·B, I, H, W].
        weights: of each of the plan's convolutions [O, I, k, k].
        scales: of each edge's normalised currents [E, C].
        biases: of each node [N, C].
        steps: T.
        given: statistics to use; ``None``: those of this batch.
        execution: how to compute it.

    Returns:
        Spikes [T·B, N·C, H', W'], channels_last, and the statistics that were used.
    """
    settings = _Settings(plan, steps, neuron, given, execution)
    spikes, mean, variance = _Cell.apply(settings, older, newer, scales, biases, *weights)  # type: ignore[no-untyped-call]
    return spikes, Statistics(mean, variance)


@dataclass(frozen=True)
class _Settings:
    plan: CellPlan
    steps: int
    neuron: Neuron
    given: Statistics | None
    execution: Execution

    def kernels(self, like: Tensor) -> Kernels:
        return kernels_for(like, compiled=self.execution.compiled)


@dataclass
class _Inside:
    """What happens inside a cell between its inputs and its spikes.

    Membranes are not kept: to compute them again from what convolutions gave takes less than to write and read them.
    """

    z: list[Tensor | None]  # the outputs of each convolution [P, O]; ``None``: not there yet, or no more
    sums: list[tuple[Tensor, Tensor]]  # how they are summed into each node: scales [N_e, C] and bias [C]
    size: tuple[int, int]

    def forget(self, plan: CellPlan, device: torch.device) -> None:
        """Drop the outputs that are not worth their memory until the way back."""
        for index, conv in enumerate(plan.convs):
            if not keeps_output(conv.kernel, device):
                self.z[index] = None


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, older: Tensor, newer: Tensor, scales: Tensor, biases: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        spikes, statistics, inside = _forward(settings, older, newer, scales, biases, weights)
        inside.forget(settings.plan, newer.device)
        ctx.settings = settings
        ctx.inside = None if settings.execution.recompute else inside
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
            return (None,) * (5 + len(weights))
        if inside is None:
            again = replace(settings, given=Statistics(mean, variance))
            inside = _forward(again, older, newer, scales, biases, weights)[2]
        elif inside.size == (0, 0):
            raise RuntimeError("a cell's backward pass can run only once: it overwrites what it has kept")
        statistics = Statistics(mean, variance)
        back = _Backward(settings, (older, newer), scales, spikes, statistics, weights, inside, ctx.needs_input_grad)
        result = back.run(grads[0])
        inside.size = (0, 0)
        return (None, *result)


def _states(inputs: Sequence[Tensor], spikes: Tensor, plan: CellPlan) -> list[Tensor]:
    """The states that edges can read, as maps: both inputs, and every node's columns of the cell's spikes [P, N·C]."""
    nodes = torch.split(spikes, plan.channels, dim=1)
    return [*map(to_rows, inputs), *nodes]


def _as_input(state: Tensor, inputs: Sequence[Tensor], source: int, size: tuple[int, int]) -> Tensor:
    """A state as the input of a convolution [T·B, I, H, W]."""
    return inputs[source] if source < 2 else from_rows(state, size)


def _forward(
    settings: _Settings, older: Tensor, newer: Tensor, scales: Tensor, biases: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Statistics, _Inside]:
    plan, kernels = settings.plan, settings.kernels(newer)
    inputs, size = (older, newer), _output_size(plan, (older, newer))
    spikes = newer.new_empty(newer.shape[0] * size[0] * size[1], len(plan.terms) * plan.channels)
    states = _states(inputs, spikes, plan)
    inside = _Inside([None] * len(plan.convs), [], size)
    mean, variance = scales.new_empty(2, *scales.shape)
    moments: dict[int, tuple[Tensor, Tensor]] = {}
    for node, terms in enumerate(plan.terms):
        for index, conv in enumerate(plan.convs):
            # A state's convolutions are computed for all of its readers when the first of them can be.
            if inside.z[index] is None and (conv.source < 2 or conv.source == node + 1):
                z = inside.z[index] = _output(settings, conv, states, inputs, weights[index], size)
                if settings.given is None:
                    moments[index] = processes.joint_moments(*kernels.moments(z))
        maps = [_term_map(term, inside, states, plan) for term in terms]
        edges = indices(tuple(term.edge for term in terms), scales.device)
        if settings.given is None:
            found = [_term_moments(term, z, moments, kernels) for term, z in zip(terms, maps, strict=True)]
            node_mean, node_variance = (torch.stack(parts) for parts in zip(*found, strict=True))  # [N_e, C]
        else:
            node_mean, node_variance = settings.given.mean[edges], settings.given.variance[edges]
        mean[edges], variance[edges] = node_mean, node_variance
        scale = scales[edges] * (node_variance + EPSILON).rsqrt()
        bias = biases[node] - (scale * node_mean).sum(0)
        inside.sums.append((scale, bias))
        kernels.fire(Node(maps, scale, bias, settings.steps, settings.neuron), states[2 + node])
    return from_rows(spikes, size), Statistics(mean, variance), inside


def _output(
    settings: _Settings,
    conv: Convolution,
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weight: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """The output of a convolution [P, O]."""
    x = _as_input(states[conv.source], inputs, conv.source, size)
    return to_rows(convolve(x, weight, stride=conv.stride, kind=settings.execution.convolution_type))


def _output_size(plan: CellPlan, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of the cell's maps."""
    for conv in plan.convs:
        if conv.source < 2:
            height, width = inputs[conv.source].shape[-2:]
            return -(-height // conv.stride), -(-width // conv.stride)
    source = plan.terms[0][0].source  # an identity
    height, width = inputs[source].shape[-2:]
    return height, width


def _term_map(term: Term, inside: _Inside, states: Sequence[Tensor], plan: CellPlan) -> Tensor:
    """z_e [P, C]."""
    if term.conv is None:
        return states[term.source]
    z = inside.z[term.conv]
    assert z is not None
    return z[:, term.column : term.column + plan.channels]


def _term_moments(
    term: Term, z: Tensor, moments: Mapping[int, tuple[Tensor, Tensor]], kernels: Kernels
) -> tuple[Tensor, Tensor]:
    """Mean and variance of z_e [C] each; of what a convolution gave they are in ``moments``."""
    if term.conv is None:
        return processes.joint_moments(*kernels.moments(z))
    mean, variance = moments[term.conv]
    columns = slice(term.column, term.column + z.shape[1])
    return mean[columns], variance[columns]


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


class _Backward:
    """The way back through a cell: node by node, last node first, and then through all that reads its spikes."""

    def __init__(
        self,
        settings: _Settings,
        inputs: tuple[Tensor, Tensor],
        scales: Tensor,
        spikes: Tensor,
        statistics: Statistics,
        weights: Sequence[Tensor],
        inside: _Inside,
        needed: Sequence[bool],
    ) -> None:
        self.settings, self.plan, self.inputs, self.weights = settings, settings.plan, inputs, weights
        self.scales, self.statistics, self.inside = scales, statistics, inside
        self.kernels = settings.kernels(spikes)
        rows = to_rows(spikes)
        self.states = _states(inputs, rows, self.plan)
        self.needs_input = (*needed[1:3], *[True] * len(self.plan.terms))
        # Maps that add up to the gradient of a state.
        self.grads: list[list[Tensor]] = [[] for _ in self.states]
        self.g = torch.empty_like(rows)  # the gradients of all nodes' currents [P, N·C]
        self.spreads = (statistics.variance + EPSILON).rsqrt()
        self.coefficients = scales.new_empty(3, *scales.shape)  # dz_e = a · g + b · z_e + c, for nodes that are done
        self.grad_scales = torch.empty_like(scales)
        self.grad_biases = scales.new_zeros(len(self.plan.terms), self.plan.channels)
        self.grad_weights: list[Tensor | None] = [None] * len(weights)

    def run(self, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient of the cell's spikes to those of inputs, scales, biases and weights."""
        rows = to_rows(grad_spikes.contiguous(memory_format=torch.channels_last))
        for node, columns in enumerate(torch.split(rows, self.plan.channels, dim=1)):
            self.grads[2 + node].append(columns)
        for node in reversed(range(len(self.plan.terms))):
            self._read(node + 2)
            self._fire(node)
        for source in (1, 0):
            self._read(source)
        inputs = (self._input_grad(0), self._input_grad(1))
        return (*inputs, self.grad_scales, self.grad_biases, *self.grad_weights)

    def _fire(self, node: int) -> None:
        """Through the neurons of a node, whose spikes' gradient is complete."""
        terms = self.plan.terms[node]
        for index in {term.conv for term in terms if term.conv is not None}:
            self._output(index)
        maps = [_term_map(term, self.inside, self.states, self.plan) for term in terms]
        given = Node(maps, *self.inside.sums[node], self.settings.steps, self.settings.neuron)
        edges = indices(tuple(term.edge for term in terms), self.scales.device)
        mean, spread = self.statistics.mean[edges], self.spreads[edges]
        sums = self.kernels.fire_backward(given, self.grads[2 + node], mean, self._columns(self.g, node, 1))
        self.grads[2 + node] = []
        self.grad_biases[node] = sums[0]
        self.grad_scales[edges] = sums[1:] * spread  # Σ g·ẑ
        # With ẑ = (z − mean)·spread of the batch: dz = scale·spread·(g − Σg/P − ẑ·Σgẑ/P)
        a = self.scales[edges] * spread
        b, c = torch.zeros_like(a), torch.zeros_like(a)
        if self.settings.given is None:
            averages = processes.total_(sums) / (len(self.g) * processes.count())
            b = -a * spread.square() * averages[1:]
            c = -a * averages[0] - b * mean
        self.coefficients[:, edges] = torch.stack([a, b, c])

    def _output(self, index: int) -> Tensor:
        """The output of a convolution, or the gradient that has taken its place; computed again if it was not kept."""
        z = self.inside.z[index]
        if z is None:
            conv, size = self.plan.convs[index], self.inside.size
            z = _output(self.settings, conv, self.states, self.inputs, self.weights[index], size)
            self.inside.z[index] = z
        return z

    def _read(self, source: int) -> None:
        """Through all edges that read a state: those into later nodes, whose gradients are there."""
        for run in _runs(self.plan):
            if run.source == source:
                self._normalise(run)
        for index, conv in enumerate(self.plan.convs):
            if conv.source == source:
                self._convolve(index, conv)

    def _normalise(self, run: _Run) -> None:
        """Through the batch normalisation of a run of edges: z becomes its own gradient."""
        width = len(run.edges)
        if run.conv is None and not self.needs_input[run.source]:
            return
        g = self._columns(self.g, run.node, width)
        if run.conv is None:
            z = self.states[run.source]
        else:
            z = self._output(run.conv)[:, run.column : run.column + width * self.plan.channels]
        a, b, c = self.coefficients[:, indices(run.edges, g.device)].flatten(1)
        out = torch.empty_like(g) if run.conv is None else z
        self.kernels.spread(g, z, a, b, c, out)
        if run.conv is None:
            self._add_grad(run.source, out)

    def _convolve(self, index: int, conv: Convolution) -> None:
        """Through a convolution, whose output has become its gradient."""
        z = self._output(index)
        x = _as_input(self.states[conv.source], self.inputs, conv.source, self.inside.size)
        grad_x, self.grad_weights[index] = convolve_backward(
            from_rows(z, self.inside.size),
            x,
            self.weights[index],
            stride=conv.stride,
            kind=self.settings.execution.convolution_type,
            needs_input=self.needs_input[conv.source],
        )
        self.inside.z[index] = None
        if grad_x is not None:
            self._add_grad(conv.source, to_rows(grad_x))

    def _add_grad(self, source: int, part: Tensor) -> None:
        """Add to the gradient of a state. Those of nodes are added up by the next kernel, which reads them anyway."""
        if source < 2 and self.grads[source]:
            self.grads[source][0].add_(part)
        else:
            self.grads[source].append(part)

    def _columns(self, rows: Tensor, node: int, count: int) -> Tensor:
        """The columns of some nodes."""
        return rows[:, node * self.plan.channels : (node + count) * self.plan.channels]

    def _input_grad(self, source: int) -> Tensor | None:
        """The gradient of an input of the cell; ``None`` if nothing reads it."""
        if not self.needs_input[source] or not self.grads[source]:
            return None
        (grad,) = self.grads[source]
        height, width = self.inputs[source].shape[-2:]
        return from_rows(grad, (height, width))
