"""A cell: nodes of LIF neurons, connected by operations.

In: the spikes of the two cells before. Out: the concatenated spikes of this cell's nodes. The currents of all edges
into a node are summed and one LIF per node turns them into spikes (LitE-SNN, section 3.2). Currents, not spikes, are
mixed, so that a supernet cell with one-hot mixtures computes what the derived cell computes.

Shapes: T timesteps, B batch, I input and C output channels per node, H × W pixels, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litesnn.genotype import OPS, Edge
from litesnn.snn.arithmetic import Arithmetic, FoldedGroup
from litesnn.snn.compconv import Compression, Connection, fold
from litesnn.snn.cost import Meter
from litesnn.snn.neuron import lif

__all__ = ["Cell", "CellMix", "Source", "edge_key"]


@dataclass(frozen=True)
class Source:
    """What a cell reads: channels, and the level of its resolution."""

    channels: int
    level: int


@dataclass(frozen=True)
class CellMix:
    """How much of each candidate a cell is made of.

    Attributes:
        compression: mixture over bit-widths and keep ratios.
        edge_weights: per edge key, the weight of its current; ``None``: a derived cell, which sums them plainly.
        edge_shares: per edge key, the part of its cost that the derived cell is expected to have; ``None``: all.
        channel_weights: how much of each output channel exists [C]; ``None``: all.
    """

    compression: Compression
    edge_weights: dict[str, Tensor] | None = None
    edge_shares: dict[str, Tensor] | None = None
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
    """

    def __init__(
        self, older: Source, newer: Source, *, level: int, width: int, edges: Sequence[Edge], arithmetic: Arithmetic
    ) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self.level, self.width, self.edges = level, width, tuple(edges)
        self.nodes = 1 + max(edge.node for edge in edges)
        self.connections = nn.ModuleDict()
        for edge in edges:
            source = (older, newer)[edge.source] if edge.source < 2 else Source(width, level)
            stride = 2 ** (level - source.level)
            op = OPS[edge.op]
            identity = op.identity and stride == 1 and source.channels == width
            self.connections[edge_key(edge)] = Connection(source.channels, width, op.kernel, stride, identity=identity)

    @property
    def output(self) -> Source:
        """What the next cells read."""
        return Source(self.nodes * self.width, self.level)

    def edges_into(self, node: int) -> list[Edge]:
        """The edges of one node, in the order in which their currents are summed."""
        return [edge for edge in self.edges if edge.node == node]

    def connection(self, edge: Edge) -> Connection:
        """The module behind an edge."""
        module = self.connections[edge_key(edge)]
        assert isinstance(module, Connection)
        return module

    def folded(self, node: int, compression: Compression) -> FoldedGroup:
        """The deployed form of a node's connections."""
        return fold([self.connection(edge) for edge in self.edges_into(node)], compression, self.arithmetic)

    def forward(
        self,
        older: Tensor,
        newer: Tensor,
        mix: CellMix,
        *,
        integer: bool = False,
        meter: Meter | None = None,
        name: str = "cell",
        record: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Spikes of all timesteps [T, B, I, H, W] (twice) → spikes [T, B, N·C, H', W'].

        Args:
            mix: how much of each candidate; one-hot for a derived cell.
            integer: use the deployed arithmetic (finished cells in evaluation mode only).
            meter: counts costs if given.
            name: prefix of the names in ``meter`` and ``record``.
            record: receives the spikes of every node if given.
        """
        steps, batch = newer.shape[:2]
        states = [older, newer]
        means = [state.mean(dim=1) for state in states] if meter is not None else []  # each [T, I, H, W]
        for node in range(self.nodes):
            edges = self.edges_into(node)
            folded = self.folded(node, mix.compression) if integer else None
            current: Tensor | None = None
            for position, edge in enumerate(edges):
                key, connection = edge_key(edge), self.connection(edge)
                spikes = states[edge.source].flatten(0, 1)  # [T·B, I, H, W]: one call for all timesteps
                if folded is not None:
                    finished = folded.connections[position]
                    masks = [] if finished.codes is None else [(finished.codes != 0).to(spikes.dtype)]
                    part = self.arithmetic.current(connection.accumulate(spikes, finished), finished)
                else:
                    masks = connection.masks(mix.compression)
                    part = connection(spikes, mix.compression, masks)
                if mix.edge_weights is not None:
                    part = part * mix.edge_weights[key]
                current = part if current is None else current + part
                if meter is not None:
                    used, bit_used = connection.measure(mix.compression, masks, means[edge.source], mix.channel_weights)
                    share = 1.0 if mix.edge_shares is None else mix.edge_shares[key]
                    meter.add(f"{name} {key}", used * share, bit_used * share)
            assert current is not None
            if folded is not None:
                current = current + folded.offset[:, None, None]
            if mix.channel_weights is not None:
                current = current * mix.channel_weights[:, None, None]
            currents = current.view(steps, batch, *current.shape[1:])  # [T, B, C, H', W']
            fired = lif(currents, leak=self.arithmetic.leak) if folded is None else self.arithmetic.fire(currents)
            states.append(fired)
            if record is not None:
                record[f"{name} node {node}"] = states[-1]
            if meter is not None:
                means.append(states[-1].mean(dim=1))
                meter.add_rate(f"{name} node {node}", means[-1])
        return torch.cat(states[2:], dim=2)
