"""Forward and backward of a cell by hand: convolutions, batch normalisation, sums and neurons of all timesteps at once.

In: the spikes of the two cells before and the weights of merged convolutions. Out: the spikes of the cell's nodes.

    x_n = Σ_{e into n} scale_e · (z_e − mean_e) / √(var_e + ε) + bias_n,    s_n = LIF(x_n),    z_e = conv_e(source_e)

Convolutions that read the same state with the same kernel and stride are one convolution with more output channels;
z_e is a slice of its output, or for an identity the source itself. Statistics are of the whole batch and all timesteps
(and over all processes), or given. What autograd would do in a dozen passes over every z takes five: statistics, sum
and neuron; on the way back the gradients' sums, and the gradient of z, which takes the place of z.

Maps are matrices [P, C], as in :mod:`litesnn.snn.kernels`. Shapes: T timesteps, B batch, C channels per node,
N nodes, E edges, P = T·B·H·W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from litesnn import processes
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import Kernels, kernels_for
from litesnn.snn.membrane import Neuron

__all__ = ["CellPlan", "Convolution", "Statistics", "Term", "from_rows", "run_cell", "to_rows"]

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


def to_rows(x: Tensor) -> Tensor:
    """[N, C, H, W] → [N·H·W, C]; a view if x is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """[N·H·W, C] → a channels_last view [N, C, H, W]."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2)


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
    """What happens inside a cell between its inputs and its spikes: the outputs of convolutions, and membranes."""

    z: list[Tensor | None]  # of each convolution [P, O]
    membranes: list[Tensor | None]  # of each node [P, C]
    size: tuple[int, int]


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, older: Tensor, newer: Tensor, scales: Tensor, biases: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        spikes, statistics, inside = _forward(settings, older, newer, scales, biases, weights)
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
    """A state as the input of a convolution [T·B, I, H, W], channels_last."""
    if source < 2:
        return inputs[source].contiguous(memory_format=torch.channels_last)
    return from_rows(state.contiguous(), size)


def _forward(
    settings: _Settings, older: Tensor, newer: Tensor, scales: Tensor, biases: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Statistics, _Inside]:
    plan, kernels = settings.plan, settings.kernels(newer)
    inputs, size = (older, newer), _output_size(plan, (older, newer))
    spikes = newer.new_empty(newer.shape[0] * size[0] * size[1], len(plan.terms) * plan.channels)
    states = _states(inputs, spikes, plan)
    inside = _Inside([None] * len(plan.convs), [None] * len(plan.terms), size)
    mean, variance = scales.new_empty(2, *scales.shape)
    moments: dict[int | None, tuple[Tensor, Tensor]] = {}
    for node, terms in enumerate(plan.terms):
        for index, conv in enumerate(plan.convs):
            # A state's convolutions are computed for all of its readers when the first of them can be.
            if inside.z[index] is None and (conv.source < 2 or conv.source == node + 1):
                x = _as_input(states[conv.source], inputs, conv.source, size)
                inside.z[index] = to_rows(_convolve(settings, conv, x, weights[index]))
                if settings.given is None:
                    moments[index] = _global_moments(kernels, inside.z[index])
        maps = [_term_map(term, inside, states, plan) for term in terms]
        edges = [term.edge for term in terms]
        for term, z in zip(terms, maps, strict=True):
            if settings.given is not None:
                mean[term.edge], variance[term.edge] = (
                    settings.given.mean[term.edge],
                    settings.given.variance[term.edge],
                )
            elif term.conv is None:
                mean[term.edge], variance[term.edge] = _global_moments(kernels, z)
            else:
                columns = slice(term.column, term.column + plan.channels)
                mean[term.edge], variance[term.edge] = (part[columns] for part in moments[term.conv])
        scale = scales[edges] * (variance[edges] + EPSILON).rsqrt()  # [N_e, C]
        bias = biases[node] - (scale * mean[edges]).sum(0)
        inside.membranes[node] = kernels.fire(
            maps, scale, bias, states[2 + node], steps=settings.steps, neuron=settings.neuron
        )
    return from_rows(spikes, size), Statistics(mean, variance), inside


def _convolve(settings: _Settings, conv: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """[T·B, I, H, W] → [T·B, O, H', W'], channels_last."""
    kind = settings.execution.convolution_type or x.dtype
    out = F.conv2d(x.to(kind), weight.to(kind), stride=conv.stride, padding=conv.kernel // 2)
    return out.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _convolve_back(
    settings: _Settings, conv: Convolution, grad: Tensor, x: Tensor, weight: Tensor, needs_input: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of the input (channels_last; ``None`` if it needs none) and of the weight."""
    kind = settings.execution.convolution_type or x.dtype
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        *(grad.to(kind), x.to(kind), weight.to(kind), None, [conv.stride] * 2, [conv.kernel // 2] * 2),
        *([1, 1], False, [0, 0], 1, (needs_input, True, False)),
    )
    if needs_input:
        grad_x = grad_x.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return grad_x, grad_weight.to(weight.dtype)


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


def _global_moments(kernels: Kernels, z: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of every column over all processes, which have equally many rows."""
    assert z is not None
    mean, variance = kernels.moments(z)
    count = processes.count()
    if count == 1:
        return mean, variance
    first, second = processes.total_(torch.stack([mean, variance + mean.square()]).double()) / count
    return first.to(z.dtype), (second - first.square()).clamp_min(0).to(z.dtype)


class _Backward:
    """The way back through a cell, last node first."""

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
        self.states = _states(inputs, to_rows(spikes), self.plan)
        self.needs_input = needed[1:3]
        # Maps that add up to the gradient of a state.
        self.grads: list[list[Tensor]] = [[] for _ in self.states]
        self.weight_grads: list[Tensor | None] = [None] * len(weights)

    def run(self, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient of the cell's spikes to those of inputs, scales, biases and weights."""
        plan = self.plan
        rows = to_rows(grad_spikes.contiguous(memory_format=torch.channels_last))
        for state, columns in zip(self.grads[2:], torch.split(rows, plan.channels, dim=1), strict=True):
            state.append(columns)
        grad_scales = torch.zeros_like(self.scales)
        grad_biases = self.scales.new_zeros(len(plan.terms), plan.channels)
        for node in reversed(range(len(plan.terms))):
            self._convolve_back(node + 2)
            self._node(node, grad_scales, grad_biases)
        for source in (0, 1):
            self._convolve_back(source)
        return (self._input_grad(0), self._input_grad(1), grad_scales, grad_biases, *self.weight_grads)

    def _node(self, node: int, grad_scales: Tensor, grad_biases: Tensor) -> None:
        """Through the neurons and the sum of a node; every z of it becomes its own gradient."""
        terms, settings = self.plan.terms[node], self.settings
        maps = [_term_map(term, self.inside, self.states, self.plan) for term in terms]
        edges = [term.edge for term in terms]
        mean, spread = self.statistics.mean[edges], (self.statistics.variance[edges] + EPSILON).rsqrt()
        membranes = self.inside.membranes[node]
        assert membranes is not None
        g, sums = self.kernels.fire_backward(
            self.grads[2 + node], membranes, maps, mean, steps=settings.steps, neuron=settings.neuron
        )
        self.inside.membranes[node] = None
        self.grads[2 + node] = []
        grad_biases[node] = sums[0]
        grad_scales[edges] = sums[1:] * spread  # Σ g·ẑ_e
        # With ẑ = (z − mean)·spread of the batch: dz = scale·spread·(g − Σg/P − ẑ·Σgẑ/P)
        a = self.scales[edges] * spread
        b, c = torch.zeros_like(a), torch.zeros_like(a)
        if settings.given is None:
            count = len(g) * processes.count()
            total = processes.total_(sums.clone())
            b = -a * spread.square() * total[1:] / count
            c = -a * total[0] / count - b * mean
        out = [torch.empty_like(g) if term.conv is None else z for term, z in zip(terms, maps, strict=True)]
        self.kernels.spread(g, maps, a, b, c, out)
        for term, target in zip(terms, out, strict=True):
            if term.conv is None:
                self.grads[term.source].append(target)

    def _convolve_back(self, source: int) -> None:
        """Through the convolutions that read a state; the outputs of all of them have become gradients."""
        for index, conv in enumerate(self.plan.convs):
            if conv.source != source:
                continue
            z = self.inside.z[index]
            assert z is not None
            x = _as_input(self.states[source], self.inputs, source, self.inside.size)
            needs_input = source >= 2 or self.needs_input[source]
            grad = from_rows(z, self.inside.size)
            grad_x, grad_weight = _convolve_back(self.settings, conv, grad, x, self.weights[index], needs_input)
            self.inside.z[index] = None
            self.weight_grads[index] = grad_weight
            if grad_x is not None:
                self.grads[source].append(to_rows(grad_x))

    def _input_grad(self, source: int) -> Tensor | None:
        """The gradient of an input of the cell; ``None`` if nothing reads it."""
        if not self.needs_input[source] or not self.grads[source]:
            return None
        first, *others = self.grads[source]
        for more in others:
            first.add_(more)
        height, width = self.inputs[source].shape[-2:]
        return from_rows(first, (height, width))
