from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from litesnn.costs import COSTS
from litesnn.costs.size import AFFINE_BITS
from litesnn.genotype import OPS, Edge, Genotype
from litesnn.network_file import build_network
from litesnn.search.joint import build_supernet
from litesnn.snn.cost import Meter
from litesnn.snn.network import Network
from litesnn.snn.supernet import Choices, Supernet, cell_width
from litesnn.training_loop.expectation import Mixed
from tiny import (
    KEEPS,
    genotype,
    genotypes,
    input_info,
    liven,
    most_layer_bytes,
    quantized_images,
    recipe,
    shapes,
)

OP_NAMES = tuple(sorted(OPS))
BITS = (1, 2, 3, 4)


def make_supernet(gene: Genotype, shape: tuple[int, int, int], classes: int = 3, seed: int = 0) -> Supernet:
    choices = Choices(OP_NAMES, BITS, KEEPS, (1.0,), edges_per_node=gene.nodes + 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = Supernet(gene, nodes=gene.nodes, choices=choices, shape=shape, classes=classes)
    liven(supernet, seed, gene.spike_levels)
    return supernet.train()


def decide(supernet: Supernet, gene: Genotype) -> None:
    """Logits so far apart that every softmax is one-hot."""
    with torch.no_grad():
        for row in (supernet.alpha, supernet.beta, supernet.psi):
            row.fill_(-1e4)
        for edge in gene.edges:
            supernet.alpha[supernet.pairs.index((edge.node, edge.source)), OP_NAMES.index(edge.op)] = 1e4
        for index, cell in enumerate(gene.cells):
            supernet.beta[index, BITS.index(cell.bits), KEEPS.index(cell.keep)] = 1e4
        supernet.psi[-1] = 1e4


def derived_from(supernet: Supernet, gene: Genotype, shape: tuple[int, int, int]) -> Network:
    """The network of the genotype with the supernet's weights, by name."""
    network = build_network(gene, input_info(shape), seed=99)
    weights = {name: p for name, p in supernet.state_dict().items() if name.startswith("backbone.")}
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.train()


def expected(supernet: Supernet, cost: str, meter: Meter | None = None, psi: Tensor | None = None) -> Tensor:
    """The expectation of a cost, by default with the supernet's own ψ."""
    row = COSTS[cost].expected
    assert row is not None
    psi = supernet.psi.softmax(0) if psi is None else psi
    return row(Mixed(supernet, supernet.mixes(), meter or Meter(), psi, frames=False))


def packed_bits_of(supernet: Supernet) -> Tensor:
    return 8 * (expected(supernet, "packed_bytes") - supernet.header_bytes)


@settings(max_examples=15)
@given(genotypes(every_edge=True), shapes, st.integers(0, 2**31), st.sampled_from([1, 1, 3]))
def test_a_decided_supernet_is_the_derived_network(
    gene: Genotype, shape: tuple[int, int, int], seed: int, spike_levels: int
) -> None:
    """Invariants 1 and 2."""
    gene = gene.model_copy(update={"spike_levels": spike_levels})
    supernet = make_supernet(gene, shape, seed=seed)
    decide(supernet, gene)
    network = derived_from(supernet, gene, shape)
    x, meters = quantized_images(shape, 3, seed), (Meter(), Meter())
    mixes = supernet.mixes()
    ours, theirs = supernet(x, mixes, meter=meters[0]).logits, network(x, meter=meters[1]).logits
    assert ours.shape == (gene.timesteps, 3, 3)
    assert torch.equal(ours, theirs)

    measured = float(meters[1].bit_synops().sum().detach())
    assert float(expected(supernet, "bit_synops", meters[0]).detach()) == pytest.approx(measured, rel=1e-5)
    assert set(meters[1].layers) <= set(meters[0].layers)
    for name, layer in meters[1].layers.items():
        torch.testing.assert_close(meters[0].layers[name].synops, layer.synops)
        torch.testing.assert_close(meters[0].layers[name].bit_synops, layer.bit_synops)
    for name, rate in meters[1].rates.items():
        torch.testing.assert_close(meters[0].rates[name], rate)
        torch.testing.assert_close(meters[0].spikes[name], meters[1].spikes[name])

    layers = network.layers()
    # The search counts κ·params, the network whole weights: at most half a weight apart, or one for tiny layers.
    rounding = sum(layer.bits for layer in layers if layer.keep < 1)
    size = 8 * float(expected(supernet, "model_size_bytes").detach())
    assert size == pytest.approx(network.model_size_bits(), abs=rounding + 1)
    biases = gene.stem.channels + 3 + sum(gene.nodes * cell.width for cell in gene.cells)
    identities = sum(
        cell.width
        for index, cell in enumerate(gene.cells)
        for edge in gene.edges
        if network.backbone.cell(index).connection(edge).conv is None
    )
    binary = derived_from(supernet, gene.model_copy(update={"spike_levels": 1}), shape)  # of the same bytes
    packed = 8 * most_layer_bytes(binary) + AFFINE_BITS * (biases + identities)
    most = float(packed_bits_of(supernet).detach())
    assert abs(packed - most) <= sum(layer.bits + 40 + 16 for layer in layers)
    if all(cell.keep == 1 for cell in gene.cells):
        assert most <= packed + 1e-3 * packed


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_the_networks_compared_above_spike(spike_levels: int) -> None:
    shape, gene = (2, 6, 5), genotype(edges=((0, 0, "conv3x3"), (0, 1, "skip")), spike_levels=spike_levels)
    supernet = make_supernet(gene, shape)
    decide(supernet, gene)
    meter = Meter()
    supernet(quantized_images(shape), meter=meter)
    assert all(0 < float(rate.detach().mean()) < 1 for rate in meter.rates.values())
    assert float(expected(supernet, "bit_synops", meter).detach()) > 0
    more = [float(meter.spikes[name].detach().mean() - rate.detach().mean()) for name, rate in meter.rates.items()]
    assert all((each > 0) == (spike_levels > 1) for each in more)


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_the_whole_supernet_is_the_oracles_with_every_gradient(spike_levels: int) -> None:
    shape = (1, 5, 4)
    gene = genotype(timesteps=3, levels=(0, 1), width=2, spike_levels=spike_levels)
    supernet = make_supernet(gene, shape, seed=3).double()
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for row in (supernet.alpha, supernet.beta):
            row.copy_(torch.randn(row.shape, generator=rng))
    x = quantized_images(shape, 2, 5).double()
    alpha = supernet.alpha.softmax(1)
    edges = {
        f"{node}_{source}_{op}": alpha[row, column]
        for row, (node, source) in enumerate(supernet.pairs)
        for column, op in enumerate(OP_NAMES)
    }
    mixtures = [
        oracle.Mixture(oracle.pairs(BITS, KEEPS, supernet.beta[index].flatten().softmax(0).view(len(BITS), -1)), edges)
        for index in range(len(gene.cells))
    ]
    ours, theirs = supernet(x).logits, oracle.backbone(supernet.backbone, x, 3, mixtures)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    named = {name: p for name, p in supernet.named_parameters() if name not in ("psi", "width")}
    factors = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * factors).sum(), list(named.values()), allow_unused=True) for out in (ours, theirs)
    ]
    for name, mine, other in zip(named, *gradients, strict=True):
        if name.endswith(".scores") and mine is None:  # stem and classifier are not pruned
            assert name in ("backbone.stem.conv.scores", "backbone.classifier.scores")
            continue
        assert mine is not None, name
        # The oracle prunes nothing of the stem by a mask of ones, whose scores get a gradient that nobody uses.
        if name not in ("backbone.stem.conv.scores", "backbone.classifier.scores"):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)
            assert mine.abs().sum() > 0, name


@settings(max_examples=10)
@given(genotypes(every_edge=True), st.integers(0, 2**31))
def test_no_cost_depends_on_the_batch_size(gene: Genotype, seed: int) -> None:
    shape = (1, 5, 6)
    supernet = make_supernet(gene, shape, seed=seed)
    network = derived_from(supernet, gene, shape).eval()  # fixed statistics: a doubled batch spikes as the single one
    x = quantized_images(shape, 2, seed)
    single, double = Meter(), Meter()
    with torch.no_grad():
        network(x, meter=single)
        network(torch.cat([x, x]), meter=double)
    torch.testing.assert_close(double.bit_synops(), single.bit_synops())
    for name, rate in single.rates.items():
        torch.testing.assert_close(double.rates[name], rate)


def test_the_expected_cost_of_the_search_does_not_depend_on_the_batch_size() -> None:
    shape = (2, 6, 6)
    supernet = make_supernet(genotype(), shape)
    x = quantized_images(shape, 4)
    costs = []
    for batch in (x, torch.cat([x, x, x])):
        meter = Meter()
        supernet(batch, meter=meter)
        costs.append(float(expected(supernet, "bit_synops", meter).detach()))
    assert costs[0] > 0
    assert costs[1] == pytest.approx(costs[0], rel=1e-2)  # statistics of the batch round differently


def test_expected_bit_synops_by_hand() -> None:
    supernet = make_supernet(genotype(timesteps=3), (1, 4, 4))
    meter = Meter()
    meter.add(["a"], torch.tensor([[10.0, 20.0, 30.0]]), torch.tensor([[20.0, 40.0, 60.0]]))
    meter.add(["b"], torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[4.0, 4.0, 4.0]]))
    # Bit-SynOps per step 24, 44, 64; up to a step 24, 68, 132
    psi = torch.tensor([0.5, 0.25, 0.25])
    assert float(expected(supernet, "bit_synops", meter, psi)) == 0.5 * 24 + 0.25 * 68 + 0.25 * 132
    with torch.no_grad():
        supernet.psi.copy_(psi.log())
    assert float(expected(supernet, "bit_synops", meter).detach()) == pytest.approx(62)


def test_sizes_are_expectations_over_the_candidates() -> None:
    """Of one cell: the mixture's size is the mean over all (bits, keep) of the decided ones', by their probability."""
    shape, gene = (1, 4, 4), genotype(levels=(0,))
    supernet = make_supernet(gene, shape)
    rng = torch.Generator().manual_seed(1)
    beta = torch.randn(1, 4, len(KEEPS), generator=rng)
    probabilities = beta.flatten().softmax(0).view(4, -1)
    sizes = torch.zeros(2)
    for b, k in itertools.product(range(4), range(len(KEEPS))):
        with torch.no_grad():
            supernet.beta.fill_(-1e4)[0, b, k] = 1e4
        found = torch.stack([8 * expected(supernet, "model_size_bytes"), packed_bits_of(supernet)]).detach()
        sizes += probabilities[b, k] * found
    with torch.no_grad():
        supernet.beta.copy_(beta)
    assert 8 * float(expected(supernet, "model_size_bytes").detach()) == pytest.approx(float(sizes[0]), rel=1e-5)
    assert float(packed_bits_of(supernet).detach()) == pytest.approx(float(sizes[1]), rel=1e-5)


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_costs_pull_on_bits_keeps_widths_and_ops(spike_levels: int) -> None:
    made = recipe()
    model = made.model.model_copy(update={"spike_levels": spike_levels})
    supernet = build_supernet(made.model_copy(update={"model": model}), (1, 8, 8), 3)
    mixes, meter = supernet.mixes(), Meter()
    supernet(quantized_images((1, 8, 8)), mixes, meter=meter)
    for cost in (packed_bits_of(supernet), expected(supernet, "bit_synops", meter)):
        beta, width, alpha = torch.autograd.grad(
            cost, [supernet.beta, supernet.width, supernet.alpha], retain_graph=True
        )
        assert (beta[:, 0, 0] < 0).all()  # one bit and a low keep ratio are cheaper than the mixture,
        assert (beta[:, -1, -1] > 0).all()  # four bits, all kept, dearer;
        assert (width[:, 0] < 0).all()
        assert (width[:, -1] > 0).all()
        assert (alpha[:, -1] > 0).all()  # conv3x3 is the dearest op
    (psi,) = torch.autograd.grad(expected(supernet, "bit_synops", meter), supernet.psi)
    assert psi[0] < 0 < psi[-1]


@pytest.mark.parametrize(("full", "fraction", "width"), [(16, 0.5, 8), (3, 0.5, 2), (1, 0.1, 1), (12, 0.75, 9)])
def test_widths_by_hand(full: int, fraction: float, width: int) -> None:
    assert cell_width(full, fraction) == width


def test_channels_beyond_the_width_never_fire() -> None:
    supernet = build_supernet(recipe(width=8, widths=(0.25, 0.5, 1.0)), (1, 8, 8), 3)
    liven(supernet, 0)
    x = quantized_images((1, 8, 8), 4)
    for choice, kept in enumerate((2, 4, 8)):
        with torch.no_grad():
            supernet.width.fill_(-1e4)
            supernet.width[:, choice] = 1e4
        record: dict[str, Tensor] = {}
        supernet.backbone.run(x, 3, supernet.mixes(), integer=False, record=record)
        for node in (0, 1):
            per_channel = record[f"cell 1 node {node}"].sum((0, 1, 3, 4))
            assert per_channel.shape == (8,)
            assert (per_channel[kept:] == 0).all()
            assert (per_channel[:kept] > 0).any()


def test_channel_weights_are_the_chances_that_a_channel_exists() -> None:
    supernet = build_supernet(recipe(width=4, widths=(0.5, 1.0), levels=(0, 1)), (1, 8, 8), 3)
    with torch.no_grad():
        supernet.width.copy_(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log())
    weights = [mix.channel_weights for mix in supernet.mixes()]
    assert weights[0] is not None
    assert weights[1] is not None
    assert weights[0].tolist() == pytest.approx([1, 1, 0.75, 0.75])
    assert weights[1].tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])
    assert build_supernet(recipe(widths=(1.0,)), (1, 8, 8), 3).mixes()[0].channel_weights is None


def test_shares_are_the_chances_of_an_edge_to_stay() -> None:
    supernet = build_supernet(recipe(nodes=3, edges_per_node=2, ops=("skip", "conv1x1")), (1, 8, 8), 3)
    with torch.no_grad():
        supernet.alpha.zero_()
    shares = supernet.mixes()[0].edge_shares
    assert shares is not None
    expected = {0: 0.5, 1: 0.5 * 2 / 3, 2: 0.5 * 2 / 4}
    for edge, share in zip(supernet.backbone.cell(0).edges, shares, strict=True):
        assert float(share.detach()) == pytest.approx(expected[edge.node])


def test_parameters_are_parted_without_rest() -> None:
    supernet = build_supernet(recipe(), (1, 8, 8), 3)
    scores, weights = supernet.score_parameters(), supernet.weight_parameters()
    architecture = [supernet.alpha, supernet.beta, supernet.width, supernet.psi]
    ids = [id(p) for p in [*scores, *weights, *architecture]]
    assert len(set(ids)) == len(ids)
    rest = {name for name, p in supernet.named_parameters() if id(p) not in set(ids)}
    assert rest == {"backbone.stem.conv.scores", "backbone.classifier.scores"}  # never pruned, never trained
    edge = Edge(node=0, source=0, op="conv3x3")
    conv = supernet.backbone.cell(0).connection(edge).conv
    assert conv is not None
    assert any(p is conv.scores for p in scores)
    assert any(p is conv.weight for p in weights)


def test_drawn_mixes_take_one_candidate_as_often_as_it_is_probable() -> None:
    supernet = build_supernet(recipe(levels=(0,), widths=(0.5, 1.0)), (1, 8, 8), 3)
    with torch.no_grad():
        supernet.beta.copy_(torch.tensor([[[0.1, 0.3], [0.2, 0.0], [0.15, 0.25]]]).clamp_min(1e-9).log())
        supernet.width.copy_(torch.tensor([[0.25, 0.75]]).log())
    rng, draws = torch.Generator().manual_seed(0), 400
    pairs, narrow = torch.zeros(3, 2), 0.0
    for _ in range(draws):
        (mix,) = supernet.mixes(supernet.noise(rng))
        weights, channels = mix.compression.weights.detach(), mix.channel_weights
        assert channels is not None
        torch.testing.assert_close(weights.flatten().sort().values, torch.tensor([0.0] * 5 + [1.0]))
        assert channels.detach().round().tolist() in ([1, 1, 0], [1, 1, 1])
        pairs += weights.round()
        narrow += 1 - float(channels.detach()[-1].round())
    torch.testing.assert_close(pairs / draws, supernet.compression_weights()[0].detach(), rtol=0, atol=0.07)
    assert narrow / draws == pytest.approx(0.25, abs=0.07)


def test_draws_depend_on_their_generator_alone_and_pass_gradients_on() -> None:
    supernet = build_supernet(recipe(levels=(0, 0, 1)), (1, 8, 8), 3)
    torch.manual_seed(1)
    first = supernet.mixes(supernet.noise(torch.Generator().manual_seed(5)))
    torch.manual_seed(2)
    second = supernet.mixes(supernet.noise(torch.Generator().manual_seed(5)))
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours.compression.weights, theirs.compression.weights)
    loss = sum((p * (bits + keep) for mix in first for bits, keep, p in mix.compression.pairs()), torch.zeros(()))
    for mix in first:
        assert mix.channel_weights is not None
        loss = loss + mix.channel_weights.square().sum()
    for gradient in torch.autograd.grad(loss, [supernet.beta, supernet.width]):
        assert (gradient != 0).any(dim=-1).all()
