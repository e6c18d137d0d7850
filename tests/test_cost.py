from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litesnn.costs.energy import energy_record
from litesnn.costs.size import AFFINE_BITS, layer_bytes, model_size_bits, packed_bits, position_bits
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import size_bound
from litesnn.snn.cost import WAYS, Meter, Way, conv_output, synops, tap_spikes
from litesnn.snn.network import Network
from tiny import genotype, input_info, lively_network, quantized_images, values_of

bit_widths = (1, 2, 3, 4)
pruning_keeps = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98)


def one(bits: int, keep: float) -> list[tuple[int, float, float]]:
    """A finished layer as a mixture."""
    return [(bits, keep, 1.0)]


def count_reached(mask: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Walk over every output neuron and every weight, and count at the input neuron that the weight reads."""
    kernel = mask.shape[-1]
    reached = torch.zeros(mask.shape[0], height, width)
    for row, column in itertools.product(range(0, height, stride), range(0, width, stride)):
        for dy, dx in itertools.product(range(kernel), range(kernel)):
            y, x = row + dy - kernel // 2, column + dx - kernel // 2
            if 0 <= y < height and 0 <= x < width:
                reached[:, y, x] += mask[:, dy, dx]
    return reached


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_synops_count_every_weight_that_a_spike_reaches(kernel: int, stride: int) -> None:
    """Of one spike at a time, at each place of the map."""
    rng = torch.Generator().manual_seed(10 * kernel + stride)
    for height, width in itertools.product(range(1, 8), range(1, 8)):
        mask = torch.randint(0, 4, (2, kernel, kernel), generator=rng).float()
        neurons = 2 * height * width
        spikes = torch.eye(neurons).view(neurons, 2, height, width)  # a timestep for each neuron
        used = synops(tap_spikes(spikes, kernel, stride), mask)
        assert torch.equal(used.view(2, height, width), count_reached(mask, stride, height, width))


@pytest.mark.parametrize(("size", "stride", "out"), [(8, 1, 8), (8, 2, 4), (9, 2, 5), (1, 4, 1), (5, 4, 2), (4, 4, 1)])
def test_conv_output_is_what_a_convolution_gives(size: int, stride: int, out: int) -> None:
    assert conv_output(size, stride) == out
    for kernel in (1, 3, 5):
        weight = torch.ones(1, 1, kernel, kernel)
        x = torch.ones(1, 1, size, size)
        assert torch.nn.functional.conv2d(x, weight, stride=stride, padding=kernel // 2).shape[-1] == out


def test_synops_by_hand() -> None:
    # One 3×3 kernel on a 3×3 map: the corner reaches 4 weights, an edge 6, the middle 9.
    spikes = torch.zeros(2, 1, 3, 3)
    spikes[0, 0, 0, 0] = 1  # a corner at the first step, in every sample
    spikes[1, 0, 1, 1] = 0.5  # the middle at the second step, in every other sample
    taps = tap_spikes(spikes, 3, 1)
    assert taps.tolist() == [[[[1, 1, 0], [1, 1, 0], [0, 0, 0]]], [[[0.5] * 3] * 3]]
    assert synops(taps, torch.ones(1, 3, 3)).tolist() == [4.0, 4.5]
    assert synops(taps, torch.stack([torch.ones(1, 3, 3), torch.zeros(1, 3, 3)])).tolist() == [[4.0, 4.5], [0, 0]]


def test_meter_by_hand() -> None:
    meter = Meter()
    meter.add(["a", "b"], torch.tensor([[10.0, 20.0], [1.0, 3.0]]), torch.tensor([[20.0, 40.0], [4.0, 12.0]]))
    meter.add(["c"], torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
    assert meter.bit_synops().tolist() == [26, 52]
    assert list(meter.layers) == ["a", "b", "c"]
    assert meter.layers["b"].synops.tolist() == [1, 3]
    assert meter.layers["b"].bit_synops.tolist() == [4, 12]
    spikes = torch.zeros(2, 2, 1, 2)
    spikes[1, 0, 0, 1] = 1
    meter.add_rate("a", spikes)
    assert meter.rates["a"].tolist() == [0, 0.25]


def test_meter_of_graded_spikes_by_hand() -> None:
    meter = Meter(WAYS)
    meter.add(["a"], torch.tensor([[10.0]]), torch.tensor([[20.0]]))
    meter.add(["a"], torch.tensor([[14.0]]), torch.tensor([[28.0]]), "virtual")
    meter.add(["a"], torch.tensor([[8.0]]), torch.tensor([[16.0]]), "values")
    assert (meter.synops().tolist(), meter.bit_synops().tolist()) == ([10], [20])
    assert [float(meter.layers_by(way)["a"].synops) for way in (None, *WAYS)] == [10, 14, 8]
    fired, planes = torch.full((1, 2, 1, 1), 0.5), torch.full((1, 2, 1, 1), 0.75)
    meter.add_rate("graded", fired, planes)
    meter.add_rate("binary", fired, fired)
    assert {name: rate.tolist() for name, rate in meter.rates.items()} == {"graded": [0.5], "binary": [0.5]}
    assert {name: rate.tolist() for name, rate in meter.spikes.items()} == {"graded": [0.75], "binary": [0.5]}
    assert list(meter.graded) == ["graded"]
    assert Meter().layers_by("virtual") == {}


@torch.no_grad()
@pytest.mark.parametrize("integer", [True, False])
def test_work_of_graded_spikes_is_counted_one_by_one(integer: bool) -> None:
    """From recorded spikes and codes: each bit plane, each unit of a spike, and each spike above 0."""
    gene = genotype(
        levels=(1,), edges=((0, 0, "conv3x3"), (1, 2, "conv1x1"), (1, 2, "skip")), timesteps=2, spike_levels=3
    )
    network = lively_network(gene, input_info())
    meter, record = Meter(WAYS), {}  # type: tuple[Meter, dict[str, Tensor]]
    x = quantized_images((2, 6, 5), 2)
    network.backbone.run(x, 2, network.mixes(), integer=integer, meter=meter, record=record)
    assert all(values_of(spikes) == {0, 1, 2, 3} for spikes in record.values())
    counts: dict[Way | None, Callable[[Tensor], Tensor]]
    counts = {None: lambda s: s % 2 + s // 2, "virtual": lambda s: s, "values": lambda s: (s > 0).float()}
    groups = network.backbone.cell(0)
    for way, count in counts.items():
        layers = meter.layers_by(way)
        for node, key, source, stride in ((0, "0_0_conv3x3", "stem", 2), (1, "1_2_conv1x1", "cell 1 node 0", 1)):
            folded = groups.folded(node, network.mixes()[0].compression).connections[0]
            assert folded.codes is not None
            weights = (folded.codes != 0).float()
            met = F.conv2d(count(record[source]).flatten(0, 1), weights, stride=stride, padding=weights.shape[-1] // 2)
            expected = met.reshape(2, 2, *met.shape[1:]).sum((2, 3, 4)).mean(1)  # [T]
            torch.testing.assert_close(layers[f"cell 1 {key}"].synops, expected)
            torch.testing.assert_close(layers[f"cell 1 {key}"].bit_synops, 2 * expected)
        handed = count(record["cell 1 node 0"]).sum((2, 3, 4)).mean(1)
        torch.testing.assert_close(layers["cell 1 1_2_skip"].bit_synops, handed)
        last = count(torch.cat([record["cell 1 node 0"], record["cell 1 node 1"]], dim=2)).sum((2, 3, 4)).mean(1)
        torch.testing.assert_close(layers["classifier"].bit_synops, 4 * 3 * last)
    for name, spikes in record.items():
        torch.testing.assert_close(meter.rates[name], counts["values"](spikes).mean((1, 2, 3, 4)))
        torch.testing.assert_close(meter.spikes[name], counts[None](spikes).mean((1, 2, 3, 4)))


def test_sizes_by_hand() -> None:
    assert model_size_bits(100.0, 1.0, one(4, 0.2)) == 80
    # 100 weights, 10 kept, 3 bits: 30 bits of codes; positions: k = 3 gives 10·4 + 90/8 = 51.25, others more
    assert position_bits(100, 10) == 51.25
    assert packed_bits(100.0, 5.0, one(3, 0.1)) == pytest.approx(30 + 51.25 + 5 * AFFINE_BITS)
    assert layer_bytes(100, 5, 0.1, 3) == 4 + 7 + 10  # ⌈30/8⌉ + ⌈51.25/8⌉ + 5·2
    assert layer_bytes(100, 5, 1.0, 3) == 38 + 10  # nothing pruned, no positions
    assert layer_bytes(100, 5, 0.9, 1) == 12 + 13 + 10  # a bitmap: one bit per weight
    assert layer_bytes(1, 1, 0.2, 1) == 1 + 2  # the one weight there is stays


def test_the_price_of_a_mixture_is_the_mean_price() -> None:
    mixture = [(2, 0.2, 0.25), (4, 0.2, 0.5), (1, 1.0, 0.25)]
    sizes = [p * model_size_bits(64.0, 1.0, one(bits, keep)) for bits, keep, p in mixture]
    assert model_size_bits(64.0, 1.0, mixture) == pytest.approx(sum(sizes))
    packed = [p * packed_bits(64.0, 8.0, one(bits, keep)) for bits, keep, p in mixture]
    assert packed_bits(64.0, 8.0, mixture) == pytest.approx(sum(packed))


@given(st.integers(1, 3000), st.integers(1, 60), st.sampled_from([*pruning_keeps, 1.0]), st.integers(1, 4))
def test_the_expectation_of_a_finished_layer_is_its_size_but_for_rounding(
    weights: int, outputs: int, keep: float, bits: int
) -> None:
    expected = packed_bits(float(weights), float(outputs), one(bits, keep))
    # Half a kept weight, at its dearest position, and the two streams' last bytes.
    assert abs(8 * layer_bytes(weights, outputs, keep, bits) - expected) <= bits + 40 + 16


@given(st.integers(1, 3000), st.integers(1, 60), st.sampled_from([*pruning_keeps, 1.0]))
def test_fewer_bits_never_cost_more(weights: int, outputs: int, keep: float) -> None:
    for low, high in itertools.pairwise(bit_widths):
        cheap, dear = one(low, keep), one(high, keep)
        assert model_size_bits(float(weights), 1.0, cheap) < model_size_bits(float(weights), 1.0, dear)
        assert packed_bits(float(weights), outputs, cheap) < packed_bits(float(weights), outputs, dear)
        assert layer_bytes(weights, outputs, keep, low) <= layer_bytes(weights, outputs, keep, high)


@given(st.integers(1, 3000), st.integers(1, 60), st.sampled_from(bit_widths))
def test_a_lower_keep_ratio_never_costs_more(weights: int, outputs: int, bits: int) -> None:
    for low, high in itertools.pairwise((*pruning_keeps, 1.0)):
        assert model_size_bits(float(weights), 1.0, one(bits, low)) < model_size_bits(
            float(weights), 1.0, one(bits, high)
        )
    for low, high in itertools.pairwise(pruning_keeps):
        cheap, dear = (packed_bits(float(weights), outputs, one(bits, keep)) for keep in (low, high))
        assert cheap <= dear
        if round(weights * high) < weights:  # else nothing is pruned after all
            assert layer_bytes(weights, outputs, low, bits) <= layer_bytes(weights, outputs, high, bits)


def test_keeping_almost_all_pays_for_positions() -> None:
    """The one exception to "a lower keep ratio never costs more": at 1 bit it lasts down to a keep ratio of 0.2."""
    assert layer_bytes(1000, 1, 0.95, 1) > layer_bytes(1000, 1, 1.0, 1)
    assert layer_bytes(1000, 1, 0.95, 4) > layer_bytes(1000, 1, 1.0, 4)
    assert layer_bytes(1000, 1, 0.5, 4) < layer_bytes(1000, 1, 1.0, 4)
    assert layer_bytes(1000, 1, 0.2, 1) == layer_bytes(1000, 1, 1.0, 1)  # 0.2 for codes and 0.8 for positions
    assert layer_bytes(1000, 1, 0.1, 1) < layer_bytes(1000, 1, 1.0, 1)


def bit_synops_of(network: Network, x: Tensor) -> Tensor:
    meter = Meter()
    network(x, meter=meter)
    return meter.bit_synops()


@torch.no_grad()
def test_bit_synops_of_a_network_fall_with_timesteps() -> None:
    info = input_info()
    x = quantized_images(info.shape)
    per_step = [bit_synops_of(lively_network(genotype(timesteps=steps), info), x) for steps in (1, 2, 4)]
    assert all((found > 0).all() for found in per_step)
    assert torch.equal(per_step[0], per_step[2][:1])
    assert torch.equal(per_step[1], per_step[2][:2])


def test_synops_fall_with_the_keep_ratio_and_ignore_bits() -> None:
    spikes = (torch.rand(3, 4, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    scores = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    order = scores.flatten().argsort()
    costs = []
    for kept in (1, 20, 100, scores.numel()):
        mask = torch.zeros(scores.numel())
        mask[order[:kept]] = 1
        costs.append(synops(tap_spikes(spikes, 3, 2), mask.view(scores.shape).sum(0)))
    assert all((low <= high).all() and low.sum() < high.sum() for low, high in itertools.pairwise(costs))


def test_the_packed_file_grows_with_bits_and_timesteps() -> None:
    info = input_info()
    sizes = [size_bound(integerize(Network(genotype(bits=bits), info))) for bits in bit_widths]
    assert sizes == sorted(set(sizes))
    sizes = [size_bound(integerize(Network(genotype(timesteps=steps), info))) for steps in (1, 2, 9, 10, 64)]
    assert sizes == sorted(sizes)
    # Up to 0.9: of the smallest layer here 0.98 is all of it, and that needs no positions.
    sizes = [size_bound(integerize(Network(genotype(keep=keep), info))) for keep in pruning_keeps[:-1]]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_energy_by_hand() -> None:
    record = energy_record([{"synops": 2000.0, "bits": 4}, {"synops": 1000.0, "bits": 0}], [(10_000, 4)])
    assert record["synops_nj"] == pytest.approx(2 * 0.015 + 0.00375)  # an edge without weights adds as one of 1 bit
    assert record["stem_nj"] == pytest.approx(10 * 0.13)
    assert record["total_nj"] == pytest.approx(record["synops_nj"] + record["stem_nj"])
    table = record["table_pj"]
    assert table["synop_1bit"] == pytest.approx(0.00375)
    assert table["synop_4bit"] == pytest.approx(0.015)
    assert table["stem_mac_4bit"] == pytest.approx(0.13)
    assert table["float_mac"] == 4.6
    assert len(table) == 9
    assert all(math.isfinite(value) and value > 0 for value in table.values())
    assert "Horowitz" in record["note"]
    for kind in ("synop", "stem_mac"):
        assert all(table[f"{kind}_{low}bit"] < table[f"{kind}_{low + 1}bit"] for low in (1, 2, 3))
