from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from litesnn.genotype import OPS, Edge, all_edges
from litesnn.snn import compconv
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.cell import Cell, CellMix, Source, State, edge_key
from litesnn.snn.compconv import Compression, count_reached, identity_synops, layer_synops
from litesnn.snn.cost import Meter, tap_spikes
from litesnn.snn.prune import keep_mask
from tiny import liven

CPU = torch.device("cpu")


def make_cell(
    edges: list[tuple[int, int, str]], *, older: Source, newer: Source, level: int, width: int, seed: int = 0
) -> Cell:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chosen = [Edge(node=node, source=source, op=op) for node, source, op in edges]
        cell = Cell(older, newer, level=level, width=width, edges=chosen, arithmetic=ARITHMETICS["float"])
    liven(cell, seed)
    return cell


def random_spikes(steps: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, 2, channels, *size, generator=rng) < 0.4).double()


def half(size: tuple[int, int], times: int) -> tuple[int, int]:
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


@given(st.data())
def test_forward_and_gradients_are_the_oracles(data: st.DataObject) -> None:
    """All edges with all ops, mixed by random weights, one or two levels up from the inputs."""
    nodes, width, steps = (data.draw(st.integers(1, high)) for high in (2, 3, 4))
    levels = sorted(data.draw(st.tuples(*[st.integers(0, 2)] * 3)))
    channels = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, width]))
    seed = data.draw(st.integers(0, 2**31))
    rng = torch.Generator().manual_seed(seed)
    ops = data.draw(st.lists(st.sampled_from(sorted(OPS)), min_size=1, unique=True))
    edges = [(node, source, op) for node, source in all_edges(nodes) for op in ops]
    older, newer = (Source(c, level) for c, level in zip(channels, levels, strict=False))
    cell = make_cell(edges, older=older, newer=newer, level=levels[2], width=width, seed=seed).double().train()
    inputs = [
        random_spikes(steps, source.channels, half((7, 5), source.level), seed).requires_grad_()
        for source in (older, newer)
    ]

    beta = torch.randn(4, generator=rng, dtype=torch.float64).requires_grad_()
    alpha = torch.randn(len(edges), generator=rng, dtype=torch.float64).requires_grad_()
    width_weights = torch.rand(width, generator=rng, dtype=torch.float64).requires_grad_()
    weights = {f"{node}_{source}_{op}": 2 * a.sigmoid() for (node, source, op), a in zip(edges, alpha, strict=True)}
    shares = beta.softmax(0).view(2, 2)
    compression = Compression((1, 3), (0.4, 1.0), shares)
    mix = CellMix(compression, torch.stack(list(weights.values())), None, width_weights)
    ours = cell(*(State.of(x, counted=False) for x in inputs), mix).spikes
    mixture = oracle.Mixture(oracle.pairs((1, 3), (0.4, 1.0), shares), weights, width_weights)
    theirs = torch.stack(oracle.cell(cell, list(inputs[0]), list(inputs[1]), mixture))
    assert ours.shape == (steps, 2, nodes * width, *half((7, 5), levels[2]))
    assert torch.equal(ours, theirs)

    factors = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    wanted = [*cell.parameters(), *inputs, beta, alpha, width_weights]
    gradients = [
        torch.autograd.grad((out * factors).sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        for out in (ours, theirs)
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_the_gradients_compared_above_are_not_all_zero() -> None:
    source = Source(2, 0)
    edges = [(0, 0, "conv3x3"), (0, 1, "skip"), (1, 2, "conv1x1")]
    cell = make_cell(edges, older=source, newer=source, level=0, width=2).double()
    inputs = [random_spikes(3, 2, (6, 6), seed).requires_grad_() for seed in (0, 1)]
    out = cell(*(State.of(x, counted=False) for x in inputs), CellMix(Compression.fixed(2, 0.5, CPU))).spikes
    assert 0 < out.mean() < 1
    out.sum().backward()
    for parameter in [*cell.parameters(), *inputs]:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("op", "source", "level", "width", "kernel"),
    [
        ("skip", Source(3, 0), 0, 3, 0),
        ("skip", Source(3, 0), 0, 4, 1),  # other channels
        ("skip", Source(3, 0), 1, 3, 1),  # other resolution
        ("conv1x1", Source(3, 0), 0, 3, 1),
        ("conv3x3", Source(3, 0), 1, 3, 3),
        ("conv5x5", Source(3, 0), 2, 3, 5),
    ],
)
def test_a_skip_is_an_identity_where_nothing_changes(
    op: str, source: Source, level: int, width: int, kernel: int
) -> None:
    cell = make_cell([(0, 0, op)], older=source, newer=source, level=level, width=width)
    connection = cell.connection(cell.edges[0])
    assert connection.kernel == kernel
    assert connection.stride == 2 ** (level - source.level)


def test_channels_nodes_and_keys() -> None:
    edges = [(0, 0, "skip"), (0, 1, "conv1x1"), (1, 2, "skip")]
    cell = make_cell(edges, older=Source(2, 0), newer=Source(5, 1), level=1, width=3)
    assert cell.output == Source(6, 1)
    assert [edge_key(edge) for edge in cell.edges_into(0)] == ["0_0_skip", "0_1_conv1x1"]
    assert [edge_key(edge) for edge in cell.edges_into(1)] == ["1_2_skip"]
    assert sorted(cell.connections) == ["0_0_skip", "0_1_conv1x1", "1_2_skip"]


def test_evaluation_makes_each_mask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding makes it; the costs read it off the codes."""
    made: list[float] = []

    def counted(scores: Tensor, keep: float, *, stacked: bool = False) -> Tensor:
        made.append(keep)
        return keep_mask(scores, keep, stacked=stacked)

    monkeypatch.setattr(compconv, "keep_mask", counted)
    source = Source(2, 0)
    edges = [(0, 0, "conv3x3"), (0, 1, "skip"), (1, 2, "conv1x1")]
    cell = make_cell(edges, older=source, newer=source, level=0, width=2).eval()
    x, mix = State.of(random_spikes(2, 2, (4, 4)).float(), counted=True), CellMix(Compression.fixed(2, 0.5, CPU))
    meter = Meter()
    with torch.no_grad():
        cell(x, x, mix, integer=True, meter=meter)
        assert len(made) == 2
        used = identity_synops(tap_spikes(x.mean, 1, 1))
        assert torch.equal(meter.layers["cell 0_1_skip"].synops, used)
        conv = cell.connection(cell.edges[0]).conv
        assert conv is not None
        reached = count_reached([mask[None] for mask in conv.masks(mix.compression)])
        used = layer_synops(mix.compression, reached, tap_spikes(x.mean, 3, 1))[0][0]
        assert torch.equal(meter.layers["cell 0_0_conv3x3"].synops, used)


def test_nodes_are_concatenated_in_their_order_and_recorded() -> None:
    source = Source(2, 0)
    cell = make_cell([(0, 0, "skip"), (1, 1, "skip")], older=source, newer=source, level=0, width=2).double()
    record: dict[str, Tensor] = {}
    meter = Meter()
    inputs = random_spikes(2, 2, (4, 4), 0), random_spikes(2, 2, (4, 4), 1)
    states = [State.of(x, counted=True) for x in inputs]
    out = cell(*states, CellMix(Compression.fixed(2, 0.5, CPU)), record=record, meter=meter, name="c").spikes
    assert list(record) == ["c node 0", "c node 1"]
    assert torch.equal(out, torch.cat([record["c node 0"], record["c node 1"]], dim=2))
    assert not torch.equal(record["c node 0"], record["c node 1"])
    # An identity hands on each spike once, at one bit; the mean is over the batch of two.
    for (key, layer), x in zip(meter.layers.items(), inputs, strict=True):
        assert key in ("c 0_0_skip", "c 1_1_skip")
        assert torch.equal(layer.synops, x.sum((1, 2, 3, 4)) / 2)
        assert torch.equal(layer.bit_synops, layer.synops)
    for name, spikes in record.items():
        torch.testing.assert_close(meter.rates[name], spikes.mean((1, 2, 3, 4)))
