"""A cell: nodes of LIF neurons, connected by operations.

In: the spikes of the two cells before. Out: the concatenated spikes of this cell's nodes. The currents of all edges
into a node are summed and one LIF per node turns them into spikes (LitE-SNN, section 3.2). Currents, not spikes, are
mixed, so that a supernet cell with one-hot mixtures computes what the derived cell computes.

Shapes: T timesteps, B batch, I input and C output channels per node, H × W pixels, N nodes, E edges, G layers of equal
shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from litesnn import processes
from litesnn.genotype import OPS, Edge
from litesnn.neurons import DEFAULT, NEURONS
from litesnn.quantizers.midrise import MIDRISE
from litesnn.quantizers.quantizer import Quantizer
from litesnn.snn.arithmetic import Arithmetic, FoldedGroup
from litesnn.snn.batch_mean import batch_mean, plane_spikes, whether_fired, with_batch_mean
from litesnn.snn.cell_function import CellPlan, Convolution, Statistics, Term, run_cell, uses_moments
from litesnn.snn.compconv import (
    CompConv,
    Compression,
    Connection,
    count_reached,
    fold,
    identity_synops,
    layer_synops,
    masks_of_codes,
    remember,
    stack_masks,
    stack_weights,
)
from litesnn.snn.constants import constant, indices
from litesnn.snn.conv1x1_moments import Moments
from litesnn.snn.cost import Meter, Way, tap_spikes
from litesnn.snn.execution import Execution
from litesnn.snn.population import Neurons

__all__ = ["Cell", "CellMix", "Source", "State", "edge_key"]


@dataclass(frozen=True)
class Source:
    """An input of a cell: channels, and the level of its resolution."""

    channels: int
    level: int


@dataclass(frozen=True)
class State:
    """Spikes [T, B, C, H, W], and means over the batch [T, C, H, W] if costs are counted (else nothing).

    ``mean``: of spikes as work counts them: those of all bit planes of a graded spike. ``firing``: of whether neurons
    fire at all, which is the same where spikes are binary.

    ``moments``: of their pixels, by stride, for all cells that read them; the first one puts them there.
    """

    spikes: Tensor
    mean: Tensor
    firing: Tensor
    moments: dict[int, Moments] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, spikes: Tensor, levels: int = 1, *, counted: bool) -> State:
        """A state of spikes 0…D, D = ``levels``; ``counted``: with means, over the batches of all processes."""
        if not counted:
            nothing = spikes.new_empty(0)
            return cls(spikes, nothing, nothing)
        spikes, mean = with_batch_mean(spikes, plane_spikes(levels))
        mean = _over_all_processes(mean)
        if levels == 1:
            return cls(spikes, mean, mean)
        spikes, firing = with_batch_mean(spikes, whether_fired(levels))
        return cls(spikes, mean, _over_all_processes(firing))

    def mean_by(self, way: Way) -> Tensor:
        """The mean [T, C, H, W] of graded spikes as another way of computing counts them, without a gradient."""
        return self.firing if way == "values" else _over_all_processes(batch_mean(self.spikes))

    @property
    def flat(self) -> Tensor:
        """[T·B, C, H, W]: one call for all timesteps."""
        return self.spikes.flatten(0, 1)


def _over_all_processes(mean: Tensor) -> Tensor:
    return mean if processes.count() == 1 else processes.total(mean) / processes.count()


@dataclass(frozen=True)
class CellMix:
    """How much of each candidate a cell is made of.

    Attributes:
        compression: mixture over bit-widths and keep ratios.
        edge_weights: the weight of each edge's current [E]; ``None``: a derived cell, which sums them plainly.
        edge_shares: the part of each edge's cost that the derived cell is expected to have [E]; ``None``: all.
        channel_weights: how much of each output channel exists [C]; ``None``: all.
    """

    compression: Compression
    edge_weights: Tensor | None = None
    edge_shares: Tensor | None = None
    channel_weights: Tensor | None = None


def edge_key(edge: Edge) -> str:
    """The name of an edge's module, the same in supernet and derived network."""
    return f"{edge.node}_{edge.source}_{edge.op}"


class Cell(nn.Module):
    """One cell, in a supernet (all edges, all operations) or in a derived network (the chosen ones).

    Args:
        older, newer: the outputs of the two cells before.
        level: resolution level of this cell; reading a lower level takes a stride of 2 per level.
        width: channels per node.
        edges: the edges, in the order in which a node sums their currents.
        arithmetic: the deployed arithmetic; training takes its leak.
        quantizer: of all weights.
        neuron: the key of the neuron model.
        levels: D, the largest spike.
    """

    def __init__(
        self,
        older: Source,
        newer: Source,
        *,
        level: int,
        width: int,
        edges: Sequence[Edge],
        arithmetic: Arithmetic,
        quantizer: Quantizer = MIDRISE,
        neuron: str = DEFAULT,
        levels: int = 1,
    ) -> None:
        super().__init__()
        self.arithmetic, self.quantizer, self.levels = arithmetic, quantizer, levels
        self.level, self.width, self.edges = level, width, tuple(edges)
        self.nodes = 1 + max(edge.node for edge in edges)
        self.connections = nn.ModuleDict()
        for edge in edges:
            source = (older, newer)[edge.source] if edge.source < 2 else Source(width, level)
            stride = 2 ** (level - source.level)
            op = OPS[edge.op]
            identity = op.identity and stride == 1 and source.channels == width
            self.connections[edge_key(edge)] = Connection(
                source.channels,
                width,
                op.kernel,
                stride,
                identity=identity,
                groups=op.groups(source.channels, width),
                quantizer=quantizer,
                levels=levels,
            )
        self.populations = nn.ModuleList(
            Neurons(NEURONS[neuron], width, arithmetic.leak, levels) for _ in range(self.nodes)
        )
        self._groupings = {one_state: _group_edges(self, one_state=one_state) for one_state in (False, True)}

    @property
    def output(self) -> Source:
        """The output, as the next cells read it."""
        return Source(self.nodes * self.width, self.level)

    def edges_into(self, node: int) -> list[Edge]:
        """The edges of one node, in the order in which their currents are summed."""
        return [edge for edge in self.edges if edge.node == node]

    def connection(self, edge: Edge) -> Connection:
        """The module behind an edge."""
        module = self.connections[edge_key(edge)]
        assert isinstance(module, Connection)
        return module

    def neurons(self, node: int) -> Neurons:
        """The neurons of a node."""
        module = self.populations[node]
        assert isinstance(module, Neurons)
        return module

    def kernels_of_maps(self, device: torch.device, execution: Execution) -> tuple[list[int], bool]:
        """The kernel of every edge whose convolution has an output in training, and whether others share one map."""
        apart, together = [], False
        grouping = self._groupings[False]
        for conv, rows in zip(grouping.plan.convs, grouping.merged, strict=True):
            inputs, outputs = self._conv(rows[0]).inputs, len(rows) * self.width
            if uses_moments(conv.kernel, inputs, outputs, device, execution):
                together = True
            else:
                apart += [conv.kernel] * len(rows)
        return apart, together

    def folded(self, node: int, compression: Compression) -> FoldedGroup:
        """The deployed form of a node's connections."""
        connections = [self.connection(edge) for edge in self.edges_into(node)]
        factor = self.neurons(node).deployed_scale()
        return fold(connections, compression, self.arithmetic, largest_input=self.levels, factor=factor)

    def forward(
        self,
        older: State,
        newer: State,
        mix: CellMix,
        *,
        integer: bool = False,
        execution: Execution = Execution(),
        meter: Meter | None = None,
        name: str = "cell",
        record: dict[str, Tensor] | None = None,
    ) -> State:
        """Spikes of all timesteps [T, B, I, H, W] (twice) → spikes [T, B, N·C, H', W'].

        Args:
            mix: how much of each candidate; one-hot for a derived cell.
            integer: use the deployed arithmetic (finished cells in evaluation mode only).
            execution: how to train.
            meter: counts costs if given; the states then have means.
            name: prefix of the names in ``meter`` and ``record``.
            record: receives the spikes of every node if given.
        """
        if integer:
            spikes, reached = self._deployed(older, newer, mix.compression)
        else:
            count = meter is not None and meter.costs
            spikes, reached = self._trained(older, newer, mix, execution, count=count)
        out = State.of(spikes, self.levels, counted=meter is not None)
        if record is not None:
            record |= {f"{name} node {node}": part for node, part in enumerate(torch.split(spikes, self.width, dim=2))}
        if meter is not None:
            self._measure(older, newer, out, mix, reached, meter, name)
        return out

    def _trained(
        self, older: State, newer: State, mix: CellMix, execution: Execution, *, count: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Real-valued effective weights and batch statistics. Returns spikes and, if asked, :meth:`_reached`."""
        grouping = self._groupings[older is newer]
        weights, reached = self._weights(grouping, mix, count=count)
        connections = [self.connection(edge) for edge in self.edges]
        gains = torch.stack([connection.norm.weight for connection in connections])  # [E, C]
        offsets = torch.stack([connection.norm.bias for connection in connections])
        factor = None if mix.edge_weights is None else mix.edge_weights[:, None]
        for weight in (factor, mix.channel_weights):
            if weight is not None:
                gains, offsets = gains * weight, offsets * weight
        into = constant(grouping.into, gains.dtype, gains.device)
        biases = into @ offsets
        neurons = [self.neurons(node) for node in range(self.nodes)]
        scales = [scale for scale in (each.scale() for each in neurons) if scale is not None]
        if scales:
            factors = torch.stack(scales)  # [N, C]
            gains, biases = gains * factors[indices(grouping.nodes, gains.device)], biases * factors
        steps, batch = newer.spikes.shape[:2]
        out, used = run_cell(
            grouping.plan,
            older.flat,
            newer.flat,
            weights,
            gains,
            biases,
            steps=steps,
            neurons=[each.dynamics() for each in neurons],
            given=None if self.training else _running(connections),
            known=(older.moments, newer.moments),
            execution=execution,
        )
        if self.training:
            values = out.numel() // (self.nodes * self.width) * processes.count()
            remember(connections, used.mean, used.variance, values)
        return out.view(steps, batch, *out.shape[1:]), reached

    def _weights(self, grouping: _EdgeGrouping, mix: CellMix, *, count: bool) -> tuple[list[Tensor], dict[int, Tensor]]:
        """W_eff of every merged convolution [O, I, k, k] and, if asked, what :meth:`_measure` reads, by edge.

        Layers of equal shape are quantized and pruned in one go, whatever they read.
        """
        mixed: dict[int, Tensor] = {}
        reached: dict[int, Tensor] = {}
        for rows in grouping.alike:
            convs = [self._conv(row) for row in rows]
            masks = stack_masks(convs, mix.compression)
            weights = stack_weights(convs, mix.compression, masks)
            mixed |= zip(rows, convs[0].dense(weights).unbind(), strict=True)
            if count:
                counted = masks_of_codes(convs, mix.compression, masks)
                reached |= zip(
                    rows, count_reached(counted, mix.channel_weights, groups=convs[0].groups).unbind(), strict=True
                )
        return [torch.cat([mixed[row] for row in rows]) for rows in grouping.merged], reached

    def _conv(self, row: int) -> CompConv:
        conv = self.connection(self.edges[row]).conv
        assert conv is not None
        return conv

    def _deployed(self, older: State, newer: State, compression: Compression) -> tuple[Tensor, dict[int, Tensor]]:
        """The deployed arithmetic. Returns spikes, and what :meth:`_measure` reads."""
        steps, batch = newer.spikes.shape[:2]
        states, reached = [older.flat, newer.flat], {}
        for node in range(self.nodes):
            folded = self.folded(node, compression)
            current: Tensor | None = None
            for edge, finished in zip(self.edges_into(node), folded.connections, strict=True):
                accumulators = self.connection(edge).accumulate(states[edge.source], finished)
                part = self.arithmetic.current(accumulators, finished)
                current = part if current is None else current + part
                if finished.codes is not None:
                    mask = (finished.codes != 0).to(states[0].dtype)
                    reached[self.edges.index(edge)] = count_reached([mask[None]])[0]
            assert current is not None
            current = current + folded.offset[:, None, None]
            currents = current.view(steps, batch, *current.shape[1:])  # [T, B, C, H', W']
            states.append(self.neurons(node).fire(currents, self.arithmetic).flatten(0, 1))
        out = torch.cat(states[2:], dim=1)
        return out.view(steps, batch, *out.shape[1:]), reached

    def _measure(
        self, older: State, newer: State, out: State, mix: CellMix, reached: dict[int, Tensor], meter: Meter, name: str
    ) -> None:
        """Count what every edge costs and how often every node fires.

        ``reached`` [keeps, I, k, k]: of every edge with weights, how many of them each position of a kernel has.
        """
        means = [older.mean, newer.mean, *torch.split(out.mean, self.width, dim=1)]
        for names, synops, bit_synops in self._work(means, mix, reached, name) if meter.costs else ():
            meter.add(names, synops, bit_synops)
        for way in meter.ways if self.levels > 1 else ():
            means = [older.mean_by(way), newer.mean_by(way), *torch.split(out.mean_by(way), self.width, dim=1)]
            for names, synops, bit_synops in self._work(means, mix, reached, name):
                meter.add(names, synops, bit_synops, way)
        firing = torch.split(out.firing, self.width, dim=1)
        spikes = torch.split(out.mean, self.width, dim=1) if self.levels > 1 else firing
        for node, (fired, counted) in enumerate(zip(firing, spikes, strict=True)):
            meter.add_rate(f"{name} node {node}", fired, counted)

    def _work(
        self, means: Sequence[Tensor], mix: CellMix, reached: dict[int, Tensor], name: str
    ) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Names, SynOps and Bit-SynOps per timestep [edges, T] of edges that read the same state in the same way.

        ``means`` [T, C, H, W]: of the spikes of every state.
        """
        for reader, rows in self._groupings[False].readers:
            taps = tap_spikes(means[reader.source], max(reader.kernel, 1), reader.stride)
            if reader.kernel == 0:
                synops = bit_synops = identity_synops(taps, mix.channel_weights).expand(len(rows), -1)
            else:
                parts = torch.stack([reached[row] for row in rows])
                synops, bit_synops = layer_synops(mix.compression, parts, taps, quantizer=self.quantizer)
            if mix.edge_shares is not None:
                shares = mix.edge_shares[indices(rows, mix.edge_shares.device), None]
                synops, bit_synops = synops * shares, bit_synops * shares
            yield [f"{name} {edge_key(self.edges[row])}" for row in rows], synops, bit_synops


@dataclass(frozen=True)
class _EdgeGrouping:
    """Which edges are computed together; edges are rows of ``Cell.edges``.

    Attributes:
        plan: the merged convolutions and the sums.
        merged: of each merged convolution its edges, in the order of its output channels.
        alike: edges whose weights have the same shape and groups.
        readers: edges that read the same state in the same way; identities have kernel 0.
        into: of each node, whether each edge ends in it.
        nodes: in which each edge ends.
    """

    plan: CellPlan
    merged: tuple[tuple[int, ...], ...]
    alike: tuple[tuple[int, ...], ...]
    readers: tuple[tuple[Convolution, tuple[int, ...]], ...]
    into: tuple[tuple[bool, ...], ...]
    nodes: tuple[int, ...]


def _group_edges(cell: Cell, *, one_state: bool) -> _EdgeGrouping:
    """Group the edges of a cell. ``one_state``: both inputs are one state, so that convolutions merge across them."""
    merged: dict[Convolution, list[int]] = {}
    alike: dict[tuple[torch.Size, int], list[int]] = {}
    readers: dict[Convolution, list[int]] = {}
    for row, edge in enumerate(cell.edges):
        connection = cell.connection(edge)
        source = 1 if one_state and edge.source == 0 else edge.source
        reader = Convolution(source, connection.stride, connection.kernel)
        readers.setdefault(reader, []).append(row)
        if connection.conv is not None:
            merged.setdefault(reader, []).append(row)
            alike.setdefault((connection.conv.weight.shape, connection.conv.groups), []).append(row)
    for rows in merged.values():  # what reads a state with one op lies side by side, in the order of the nodes
        rows.sort(key=lambda row: (cell.edges[row].op, cell.edges[row].source, cell.edges[row].node))
    places = {
        row: (index, position * cell.width)
        for index, rows in enumerate(merged.values())
        for position, row in enumerate(rows)
    }
    terms = tuple(
        tuple(
            Term(row, edge.source, *places.get(row, (None, 0)))
            for row, edge in enumerate(cell.edges)
            if edge.node == node
        )
        for node in range(cell.nodes)
    )
    return _EdgeGrouping(
        CellPlan(cell.width, tuple(merged), terms),
        tuple(map(tuple, merged.values())),
        tuple(map(tuple, alike.values())),
        tuple((reader, tuple(rows)) for reader, rows in readers.items()),
        tuple(tuple(edge.node == node for edge in cell.edges) for node in range(cell.nodes)),
        tuple(edge.node for edge in cell.edges),
    )


def _running(connections: Sequence[Connection]) -> Statistics:
    """The running statistics of connections, [E, C] each."""
    means, variances = zip(*(connection.running() for connection in connections), strict=True)
    return Statistics(torch.stack(means), torch.stack(variances))
