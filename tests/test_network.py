from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import from_bytes, to_bytes
from litesnn.deploy.reference import Reference
from litesnn.genotype import Genotype
from litesnn.network_file import build_network
from litesnn.snn.cost import Meter
from litesnn.snn.network import Network, encode
from tiny import genotype, genotypes, images, input_info, lively_network, quantized_images, shapes, values_of


def test_encode_by_hand() -> None:
    # (x − 1)/2 · 32 = 16·(x − 1): halves go to the even neighbour, and ±127 is the end
    x = torch.tensor([1.0, 2.0, 1.03125, 1.09375, 0.96875, 0.90625, 8.9375, 9.0, 1e6, -1e6])
    assert encode(x.view(-1, 1, 1, 1), (1.0,), (2.0,)).flatten().tolist() == [0, 16, 0, 2, 0, -2, 127, 127, 127, -127]


def test_encode_takes_each_channel_with_its_own_numbers() -> None:
    x = torch.full((1, 2, 1, 1), 10, dtype=torch.uint8)
    found = encode(x, (8.0, 12.0), (1.0, 4.0))
    assert found.flatten().tolist() == [64, -16]
    assert found.dtype == torch.int8


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_training_is_the_oracles(spike_levels: int) -> None:
    gene = genotype(levels=(0, 0, 1), spike_levels=spike_levels)
    network = lively_network(gene, input_info()).double().train()
    x = quantized_images((2, 6, 5), 3).double()
    mixtures = [oracle.Mixture({(cell.bits, cell.keep): 1.0}) for cell in gene.cells]
    # Network.forward takes float32, whose spikes may differ at a threshold: the oracle is compared in float64.
    ours = network.backbone.run(x, 3, network.mixes(), integer=False).logits
    torch.testing.assert_close(ours, oracle.backbone(network.backbone, x, 3, mixtures), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network.float()(x).logits, ours.float(), rtol=0.2, atol=0.2)


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_training_and_evaluation_agree_but_for_rounding(spike_levels: int) -> None:
    """Given the running statistics, the two arithmetics differ only where a membrane is next to a threshold."""
    gene = genotype(levels=(0,), bits=4, keep=1.0, timesteps=1, spike_levels=spike_levels)
    network = lively_network(gene, input_info())
    x, records = quantized_images((2, 6, 5), 8), ({}, {})  # type: tuple[Tensor, tuple[dict[str, Tensor], ...]]
    with torch.no_grad():
        network(x, record=records[0])
        network.backbone.run(x, 1, network.mixes(), integer=False, record=records[1])
    assert list(records[0]) == ["stem", "cell 1 node 0", "cell 1 node 1"]
    for name, spikes in records[0].items():
        assert (spikes != records[1][name]).float().mean() < 0.01
        assert 0.02 < spikes.mean() < 0.98 * spike_levels
        assert values_of(spikes) == set(range(spike_levels + 1))


@torch.no_grad()
def test_predict_is_the_evaluation_and_restores_the_mode() -> None:
    network = lively_network(genotype(), input_info())
    x = images((2, 6, 5), 16)
    logits = network(network.encode(x)).logits[-1]
    network.backbone.classifier_bias.sub_(logits.mean(0))  # else one class wins them all
    expected = network(network.encode(x)).logits[-1].argmax(1)
    assert len(expected.unique()) > 1
    for mode in (True, False):
        network.train(mode)
        before = {name: p.clone() for name, p in network.state_dict().items()}
        assert torch.equal(network.predict(x), expected)
        assert network.training is mode
        assert all(m.training is mode for m in network.modules())
        assert all(torch.equal(before[name], p) for name, p in network.state_dict().items())


def test_predict_restores_the_mode_after_an_error() -> None:
    network = lively_network(genotype(), input_info()).train()
    network.register_forward_hook(lambda *_: torch.zeros(2).item())
    with pytest.raises(RuntimeError):
        network.predict(torch.zeros(1, 2, 6, 5))
    assert network.training


@torch.no_grad()
def test_logits_are_means_over_the_timesteps_so_far() -> None:
    info = input_info()
    x = quantized_images(info.shape)
    network = lively_network(genotype(timesteps=4), info)
    logits = network(x).logits
    for steps in (1, 2, 3):
        shorter = lively_network(genotype(timesteps=steps), info)
        assert torch.equal(shorter(x).logits, logits[:steps])
    per_step = torch.diff(logits * torch.arange(1, 5)[:, None, None], dim=0, prepend=torch.zeros(1, *logits.shape[1:]))
    assert not torch.allclose(per_step[1], per_step[0])


@torch.no_grad()
def test_the_tap_is_the_cells_output() -> None:
    network = lively_network(genotype(levels=(0, 1)), input_info())
    record: dict[str, Tensor] = {}
    x = quantized_images((2, 6, 5))
    for index in (0, 1):
        tapped = network(x, record=record, tap=index).tap
        nodes = [record[f"cell {index + 1} node {node}"] for node in (0, 1)]
        assert torch.equal(tapped, torch.cat(nodes, dim=2))
    assert network(x).tap is None


def test_layers_and_sizes_by_hand() -> None:
    # stem 2→4; cell 1 (level 0, width 3) reads the stem twice; cell 2 (level 1) reads the stem and cell 1 (6 channels)
    edges = ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 2, "skip"))
    network = build_network(genotype(edges=edges, keep=0.5, bits=2), input_info(), 0)
    rows = [(row.name, row.weights, row.kept, row.bits, row.cell) for row in network.layers()]
    assert rows == [
        ("stem", 72, 72, 4, None),
        ("cell 1 0_0_conv3x3", 108, 54, 2, 0),
        ("cell 1 0_1_skip", 12, 6, 2, 0),
        ("cell 1 1_2_skip", 0, 0, 0, 0),
        ("cell 2 0_0_conv3x3", 108, 54, 2, 1),
        ("cell 2 0_1_skip", 18, 9, 2, 1),
        ("cell 2 1_2_skip", 0, 0, 0, 1),
        ("classifier", 18, 18, 4, None),
    ]
    assert network.model_size_bits() == 4 * (72 + 18) + 2 * (54 + 6 + 54 + 9)
    assert network.backbone.stem_macs() == 72 * 30
    assert network.backbone.map_size(1) == (3, 3)


@given(genotypes(), shapes)
def test_layers_say_what_the_modules_hold(gene: Genotype, shape: tuple[int, int, int]) -> None:
    network = build_network(gene, input_info(shape), 0)
    assert sum(row.weights for row in network.layers()) == sum(
        p.numel() for name, p in network.named_parameters() if name.endswith(("conv.weight", "classifier.weight"))
    )


def assert_deployed_exactly(network: Network, x: Tensor) -> dict[str, Tensor]:
    """Spikes and logits of torch and of the reference, which reads the packed bytes, are the same."""
    record: dict[str, Tensor] = {}
    logits = network(network.encode(x), record=record).logits
    trace = Reference(from_bytes(to_bytes(integerize(network)))).run(x.numpy(), record=True)
    assert trace.spikes is not None
    for (name, ours), theirs in zip(record.items(), trace.spikes, strict=True):
        assert np.array_equal(ours.numpy(), theirs), name
    assert np.array_equal(logits.numpy(), trace.logits)
    assert np.array_equal(network.predict(x).numpy(), Reference(integerize(network)).classify(x.numpy()))
    return record


@given(genotypes(), shapes, st.integers(1, 5), st.integers(0, 2**31))
@torch.no_grad()
def test_torch_and_reference_agree_spike_for_spike(
    gene: Genotype, shape: tuple[int, int, int], classes: int, seed: int
) -> None:
    """Invariant 5."""
    record = assert_deployed_exactly(lively_network(gene, input_info(shape, classes), seed), images(shape, 3, seed))
    assert len(record) == 1 + gene.nodes * len(gene.cells)
    assert all(len(spikes) == gene.timesteps for spikes in record.values())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("bits", "keep"), [(1, 0.5), (2, 1.0), (3, 0.3), (4, 0.1)])
@torch.no_grad()
def test_networks_that_fire_agree_as_well(bits: int, keep: float, stride: Literal[1, 2]) -> None:
    """Invariant 5 where no population is silent or saturated, for odd sizes, three levels and all ops."""
    edges = ((0, 0, "conv3x3"), (0, 1, "skip"), (0, 1, "conv5x5"), (1, 0, "conv1x1"), (1, 2, "skip"))
    gene = genotype(
        timesteps=6, edges=edges, levels=(0, 0, 1, 2), width=6, bits=bits, keep=keep, stem=12, stride=stride
    )
    network = lively_network(gene, input_info((3, 13, 11), 4), 10 * bits)
    record = assert_deployed_exactly(network, images((3, 13, 11), 4))
    rates = {name: float(spikes.mean()) for name, spikes in record.items()}
    assert len(rates) == 9
    assert all(0.01 < rate < 0.99 for rate in rates.values()), rates


def test_logits_begin_as_large_whatever_the_largest_spike() -> None:
    """Currents begin D times as large, and the classifier's gain at a D-th."""
    networks = [build_network(genotype(spike_levels=levels), input_info(), 0) for levels in (1, 4)]
    gains = [float(network.backbone.classifier_gain.detach()) for network in networks]
    assert gains[0] == 4 * gains[1]
    for one, two in zip(*(network.backbone.stem.norm.weight.detach() for network in networks), strict=True):
        assert (float(one), float(two)) == (0.5, 2.0)


@torch.no_grad()
def test_the_meter_sees_the_same_spikes_in_either_mode() -> None:
    network = lively_network(genotype(bits=4, keep=1.0, timesteps=1), input_info())
    x = quantized_images((2, 6, 5), 8)
    meters = Meter(), Meter()
    network(x, meter=meters[0])
    network.backbone.run(x, 1, network.mixes(), integer=False, meter=meters[1])
    assert list(meters[0].layers) == list(meters[1].layers)
    assert float(meters[0].bit_synops()) == pytest.approx(float(meters[1].bit_synops()), rel=0.05)


@torch.no_grad()
def test_synops_are_counted_one_by_one() -> None:
    """A brute count from recorded spikes and the deployed codes: every spike, every non-zero weight that it meets."""
    gene = genotype(levels=(1,), edges=((0, 0, "conv3x3"), (1, 2, "conv1x1")), timesteps=2)
    network = lively_network(gene, input_info())
    meter, record = Meter(), {}  # type: tuple[Meter, dict[str, Tensor]]
    network(quantized_images((2, 6, 5), 2), meter=meter, record=record)
    model = integerize(network)
    for key, spikes, codes, stride in (
        ("cell 1 0_0_conv3x3", record["stem"], model.populations[1].synapses[0].codes, 2),
        ("cell 1 1_2_conv1x1", record["cell 1 node 0"], model.populations[2].synapses[0].codes, 1),
    ):
        nonzero = torch.from_numpy((codes != 0).astype(np.float32))
        met = torch.nn.functional.conv2d(spikes.flatten(0, 1), nonzero, stride=stride, padding=nonzero.shape[-1] // 2)
        expected = met.reshape(2, 2, *met.shape[1:]).sum((2, 3, 4)).mean(1)  # [T]
        assert expected.sum() > 0
        assert torch.equal(meter.layers[key].synops, expected)
        assert torch.equal(meter.layers[key].bit_synops, 2 * expected)
    last = torch.cat([record["cell 1 node 0"], record["cell 1 node 1"]], dim=2).sum((2, 3, 4)).mean(1)
    torch.testing.assert_close(meter.layers["classifier"].bit_synops, 4 * 3 * last)
    torch.testing.assert_close(meter.layers["classifier"].synops, 3 * last)  # each spike reaches the three classes
