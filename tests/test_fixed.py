"""The fixed-point arithmetic: by hand, against itself in plain integers, in the file, and through the whole job."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from litesnn.config import Recipe
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import (
    IMAGE,
    InputSpec,
    PackedModel,
    Population,
    Readout,
    Synapses,
    from_bytes,
    read,
    size_bound,
    size_table,
    to_bytes,
)
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.errors import InputError, LitesnnError
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network, save_network
from litesnn.search.joint import build_supernet
from litesnn.snn.arithmetic import ARITHMETICS, FRACTION, Exact, FoldedGroup
from litesnn.snn.cell import Cell
from litesnn.snn.compconv import Connection
from litesnn.snn.network import Network
from litesnn.snn.neuron import lif_integer
from packed_models import in_fixed_point, random_input, random_model
from test_network import assert_deployed_exactly
from test_packed import put, safetensors_file
from tiny import genotype, genotypes, images, input_info, lively_network, shapes
from whole_job import Problem, litesnn

FIXED = ARITHMETICS["fixed"]
few = settings(max_examples=50, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def shorts(*values: int) -> NDArray[np.int16]:
    return np.array(values, np.int16)


def one_neuron(**changes: Any) -> PackedModel:
    """One pixel, one neuron, F = 4: x = ((3·5·q) >> 1) + 2·(−3), Θ = 8; z = ((100·2·n) >> 3) + t·4."""
    stem = Synapses((IMAGE,), 1, 1, 2, np.full((1, 1, 1, 1), 3, np.int8), shorts(5), shift=1)
    population = Population((stem,), shorts(-3), None, bias_shift=1)
    readout = Readout((0,), 1, np.ones((1, 1), np.int8), shorts(100), shorts(1), shift=3, bias_shift=2, fraction=5)
    spec = InputSpec((1, 1, 1), "array", (0.0,), (1.0,))
    return replace(PackedModel(spec, 4, 0.25, 0.5, ("a",), (population,), readout, fraction=4), **changes)


# --- By hand ---


@pytest.mark.parametrize(
    ("currents", "expected"),
    [
        # Θ = 8 is strict; 8 >> 2 = 2, so that 6 more are not enough and 7 are
        ((8, 6, 0), [0, 0, 0]),
        ((8, 7, 0), [0, 1, 0]),
        # a reset forgets how far above the membrane was
        ((1000, 8, 7), [1, 0, 1]),
        # the shift rounds down: 7 >> 2 = 1, and −7 >> 2 = −2, −1 >> 2 = −1
        ((7, 8), [0, 1]),
        ((3, 8), [0, 0]),
        ((-7, 10), [0, 0]),
        ((-7, 11), [0, 1]),
        ((-1, 9), [0, 0]),
        # −1 never leaks away: −1 >> 2 = −1
        ((-1, 0, 0, 9), [0, 0, 0, 0]),
    ],
)
def test_membranes_by_hand(currents: tuple[int, ...], expected: list[int]) -> None:
    fired = lif_integer(torch.tensor(currents, dtype=torch.int32), threshold=8)
    assert fired.tolist() == expected
    assert fired.dtype == torch.float32


def test_a_model_by_hand() -> None:
    """q = 2: x = (30 >> 1) − 6 = 9 > 8 at every step. q = 1: x = (15 >> 1) − 6 = 1, and 1 >> 2 = 0: never."""
    x = np.array([2 / 32, 1 / 32], np.float32).reshape(2, 1, 1, 1)
    trace = Reference(one_neuron()).run(x, record=True)
    assert trace.spikes is not None
    assert trace.integers is not None
    assert trace.spikes[0].reshape(4, 2).T.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    # A_t = t: (100·t) >> 3 = 12, 25, 37, 50, plus 4·t; y_t = z_t / (t·2^5)
    assert trace.integers.reshape(4, 2).T.tolist() == [[16, 33, 49, 66], [4, 8, 12, 16]]
    assert trace.integers.dtype == np.int32
    expected = [np.float32(z) / np.float32(t * 32) for t, z in ((1, 16), (2, 33), (3, 49), (4, 66))]
    assert trace.logits[:, 0, 0].tolist() == [float(y) for y in expected]
    assert trace.logits.dtype == np.float32


def test_negative_currents_are_rounded_down() -> None:
    """q = −1: x = (−15 >> 1) + B = −8 + B; rounding to zero would give −7 + B, which fires at B = 16."""
    x = np.full((1, 1, 1, 1), -1 / 32, np.float32)
    for bias, spike in ((8, 0), (9, 1)):  # B = 16: x = 8 = Θ; B = 18: x = 10
        model = one_neuron(timesteps=1)
        population = replace(model.populations[0], bias=shorts(bias))
        trace = Reference(replace(model, populations=(population,))).run(x, record=True)
        assert trace.spikes is not None
        assert trace.spikes[0].item() == spike


def test_folding_by_hand() -> None:
    """Scale 0.3 at a largest sum of 10: 0.3·2^12 = 1228.8, and 2^4 times that is the last to fit int16."""
    exact = Exact(None, torch.tensor([0.3, -0.1]).double(), torch.tensor([10.0, 10.0]).double())
    group = FIXED.fold([exact], torch.tensor([9.0, -0.3]).double())
    (part,) = group.connections
    assert (part.shift, part.scale.tolist()) == (4, [19661, -6554])
    # 9·2^12 = 36864 needs one shift
    assert (group.bias_shift, group.bias.tolist()) == (1, [18432, -614])
    assert group.offset.tolist() == [36864, -1228]
    assert group.fraction == FRACTION == 12
    assert FIXED.leak == 0.25


def test_a_scale_that_does_not_fit_is_the_largest_that_does() -> None:
    """An input that never fired has no variance, and a huge scale: 158 instead of at most 8."""
    exact = Exact(None, torch.tensor([158.0, 0.5]).double(), torch.ones(2).double())
    (part,) = FIXED.fold([exact], torch.zeros(2).double()).connections
    assert (part.shift, part.scale.tolist()) == (0, [32767, 2048])


def test_logits_are_as_fine_as_their_bound_allows() -> None:
    """The worst logit is 0.02·10^5 + 2·48 = 2096, and 0.99·2^23/2096 = 3962: F' = 11. 0.02·2^11 = 40.96, times 2^9."""
    exact = Exact(torch.ones(2, 1), torch.full((2,), 0.02).double(), torch.tensor([1e5, 1e4]).double())
    group = FIXED.fold_readout(exact, torch.tensor([48.0, -1.5]).double(), timesteps=2)
    (part,) = group.connections
    assert group.fraction == 11
    assert (part.shift, part.scale.tolist()) == (9, [20972, 20972])
    assert (group.bias_shift, group.bias.tolist()) == (2, [24576, -768])


def test_all_classes_get_the_same_multiplier() -> None:
    """Where the worst class limits it, it is lower for all: otherwise the prediction would change."""
    exact = Exact(torch.ones(3, 1), torch.full((3,), 500.0).double(), torch.tensor([1.0, 1e6, 7.0]).double())
    group = FIXED.fold_readout(exact, torch.tensor([1.0, 2.0, -3.0]).double(), timesteps=4)
    (part,) = group.connections
    assert len(set(part.scale.tolist())) == 1
    assert (int(part.scale[0]) * 10**6 >> part.shift) + 1 + 4 * int(group.offset.abs().max()) < 2**23


def test_sums_of_graded_spikes_fit_as_those_of_binary_ones_do() -> None:
    """Bounds take the largest spike: at D = 7 the largest sums are 7 times as large."""
    networks = [lively_network(genotype(arithmetic="fixed", spike_levels=levels), input_info()) for levels in (1, 7)]
    for cells in zip(*(network.backbone.cells for network in networks), strict=True):
        exacts: list[list[Exact]] = [[], []]
        for cell, network, found in zip(cells, networks, exacts, strict=True):
            assert isinstance(cell, Cell)
            cell.arithmetic = _Keeping(found)  # type: ignore[assignment]
            cell.folded(1, network.mixes()[0].compression)
        for one, two in zip(*exacts, strict=True):
            assert torch.equal(7 * one.largest, two.largest)
            (part,) = FIXED.fold([two], torch.zeros_like(two.largest)).connections
            assert (part.scale.abs() * two.largest < 2**31).all()
    readouts = [network.backbone.folded_classifier().connections[0] for network in networks]
    assert readouts[0].codes is not None
    height, width = networks[0].backbone.map_size(1)
    for readout, levels in zip(readouts, (1, 7), strict=True):
        sums = readouts[0].codes.double().abs().sum(1) * height * width * 3 * levels
        assert (readout.scale.abs() * sums < 2**31).all()


class _Keeping:
    """The fixed arithmetic, that keeps what it is given to round."""

    def __init__(self, found: list[Exact]) -> None:
        self.found = found

    def fold(self, connections: Any, bias: Tensor) -> FoldedGroup:
        self.found.extend(connections)
        return FIXED.fold(connections, bias)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_training_that_diverged_is_named(broken: float) -> None:
    exact = Exact(None, torch.tensor([broken]).double(), torch.ones(1).double())
    with pytest.raises(LitesnnError, match="training diverged"):
        FIXED.fold([exact], torch.zeros(1).double())
    with pytest.raises(LitesnnError, match="training diverged"):
        FIXED.fold_readout(exact, torch.zeros(1).double(), 1)
    with pytest.raises(LitesnnError, match="training diverged"):
        FIXED.fold([replace(exact, scale=torch.ones(1).double())], torch.tensor([broken]).double())


@few
@given(seeds, st.integers(1, 5), st.floats(-30, 30), st.floats(-30, 30), st.floats(0, 30))
@example(0, 5, 30.0, 30.0, 30.0)
@example(0, 1, 0.0, 30.0, 0.0)
def test_whatever_is_folded_fits(seed: int, bundles: int, size: float, bias_size: float, sums: float) -> None:
    """No scale, bias or layer gives numbers that the packed format would refuse."""
    rng = torch.Generator().manual_seed(seed)

    def random(power: float) -> Tensor:
        return torch.randn(3, generator=rng, dtype=torch.float64).mul(2.0**power)

    exact = [Exact(None, random(size), (random(sums).abs() + 1).clamp_max(2**31 - 1).floor()) for _ in range(bundles)]
    group = FIXED.fold(exact, random(bias_size))
    total = group.offset.abs().long()
    for one, part in zip(exact, group.connections, strict=True):
        products = part.scale.abs().long() * one.largest.long()
        assert products.max() < 2**31
        assert part.scale.abs().max() < 2**15
        assert 0 <= part.shift <= 31
        total += (products >> part.shift) + 1
    assert total.max() <= 2**30
    shared = Exact(torch.ones(3, 1), random(size)[:1].expand(3), exact[0].largest)
    group = FIXED.fold_readout(shared, random(bias_size), timesteps=6)
    (part,) = group.connections
    products = part.scale.abs().long() * shared.largest.long()
    assert products.max() < 2**31
    assert ((products >> part.shift) + 1 + 6 * group.offset.abs().long()).max() < 2**23


# --- torch, NumPy, and plain integers ---


def plain(model: PackedModel, x: NDArray[np.generic]) -> tuple[list[NDArray[np.int64]], list[list[list[int]]]]:
    """Spikes and z_t by Python's integers, neuron by neuron: slow, and with no trick of the reference's."""
    pixels = quantize_input(model.input, x).astype(int)
    all_spikes: list[NDArray[np.int64]] = []
    assert model.fraction is not None
    threshold = int(model.threshold * 2**model.fraction)
    for population in model.populations:
        sums: list[NDArray[np.int64]] = []
        for synapses in population.synapses:
            if synapses.sources == (IMAGE,):
                inputs = np.broadcast_to(pixels, (model.timesteps, *pixels.shape))
            else:
                inputs = np.concatenate([all_spikes[source] for source in synapses.sources], axis=2)
            if synapses.kernel == 0:
                sums.append(inputs)
                continue
            flat = torch.from_numpy(inputs.reshape(-1, *inputs.shape[2:]).astype(np.float64))
            codes = torch.from_numpy(synapses.codes.astype(np.float64))
            out = torch.nn.functional.conv2d(flat, codes, stride=synapses.stride, padding=synapses.kernel // 2)
            sums.append(out.round().long().numpy().reshape(*inputs.shape[:2], *out.shape[1:]))
        spikes = np.zeros(sums[0].shape, np.int64)
        for place in np.ndindex(sums[0].shape[1:]):
            u, s, channel = 0, 0, place[1]
            for t in range(model.timesteps):
                x_t = int(population.bias[channel]) * 2**population.bias_shift
                for synapses, acc in zip(population.synapses, sums, strict=True):
                    x_t += int(synapses.scale[channel]) * int(acc[(t, *place)]) // 2**synapses.shift
                u = (0 if s else u // 4) + x_t
                assert abs(u) < 2**31
                s = int(u > threshold)
                spikes[(t, *place)] = s
        all_spikes.append(spikes)
    readout = model.readout
    counts = np.concatenate([all_spikes[source] for source in readout.sources], axis=2).sum(axis=(3, 4))
    totals = np.cumsum(counts, axis=0) @ readout.codes.T.astype(np.int64)
    integers = [
        [
            [
                int(m) * int(a) // 2**readout.shift + t * int(b) * 2**readout.bias_shift
                for m, a, b in zip(readout.scale, row, readout.bias, strict=True)
            ]
            for row in rows
        ]
        for t, rows in enumerate(totals, start=1)
    ]
    return all_spikes, integers


@few
@given(seeds)
def test_the_reference_is_plain_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, arithmetic="fixed")
    x = random_input(rng, model.input, 2)
    trace = Reference(model).run(x, record=True)
    spikes, integers = plain(model, x)
    assert trace.spikes is not None
    assert trace.integers is not None
    for ours, theirs in zip(trace.spikes, spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert trace.integers.tolist() == integers
    np.testing.assert_array_equal(trace.logits.argmax(2), trace.integers.argmax(2))
    np.testing.assert_array_equal(Reference(model).classify(x), trace.integers[-1].argmax(1))


def test_random_fixed_models_do_spike() -> None:
    """The comparison above would prove little on silent networks."""
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = random_model(rng, shape=(2, 8, 8), keep=0.5, arithmetic="fixed")
        trace = Reference(model).run(random_input(rng, model.input, 2), record=True)
        assert trace.spikes is not None
        rates += [float(spikes.mean()) for spikes in trace.spikes]
    assert 0.05 < np.mean(rates) < 0.9
    assert np.mean([0.01 < rate < 0.99 for rate in rates]) > 0.6


@given(st.integers(-(2**23) + 1, 2**23 - 1), st.integers(1, 64))
def test_division_keeps_neighbours_apart(z: int, t: int) -> None:
    """|z| < 2^23: the logits are different whenever the integers are."""
    low, high = (np.float32(value) / np.float32(t * 2**12) for value in (z - 1, z))
    assert low < high


@given(genotypes(arithmetic="fixed"), shapes, st.integers(1, 5), st.integers(0, 2**31))
@torch.no_grad()
def test_torch_and_reference_agree_spike_for_spike(
    gene: Genotype, shape: tuple[int, int, int], classes: int, seed: int
) -> None:
    assert_deployed_exactly(lively_network(gene, input_info(shape, classes), seed), images(shape, 3, seed))


@torch.no_grad()
def test_networks_that_fire_agree_as_well() -> None:
    edges = ((0, 0, "conv3x3"), (0, 1, "skip"), (0, 1, "conv5x5"), (1, 0, "conv1x1"), (1, 2, "skip"))
    gene = genotype(timesteps=6, edges=edges, levels=(0, 0, 1, 2), width=6, bits=3, stem=12, arithmetic="fixed")
    network = lively_network(gene, input_info((3, 13, 11), 4), 3)
    record = assert_deployed_exactly(network, images((3, 13, 11), 4))
    rates = {name: float(spikes.mean()) for name, spikes in record.items()}
    assert all(0.01 < rate < 0.99 for rate in rates.values()), rates


@torch.no_grad()
def test_training_leaks_as_the_deployed_network_does() -> None:
    """A constant current of 0.39: the membrane is 0.39, 0.4875, 0.5119 at a leak of 0.25, below 0.4875 at 0.2."""
    for arithmetic, expected in (("fixed", [0, 0, 1, 0]), ("float", [0, 0, 0, 0])):
        gene = genotype(timesteps=4, edges=((0, 1, "conv3x3"),), levels=(0,))
        gene = gene.model_copy(update={"arithmetic": arithmetic})
        network = build_network(gene, input_info(), 0).eval()
        for part in network.modules():
            if isinstance(part, Connection):
                part.norm.weight.zero_()
                part.norm.bias.fill_(0.39)
        x = network.encode(images((2, 6, 5))).float()
        for integer in (True, False):
            record: dict[str, Tensor] = {}
            network.backbone.run(x, 4, network.mixes(), integer=integer, record=record)
            for name, spikes in record.items():
                assert spikes.mean(dim=(1, 2, 3, 4)).tolist() == expected, (name, integer)
    recipe = Recipe.model_validate({"model": {"arithmetic": "fixed", "levels": [0]}})
    assert build_supernet(recipe, (1, 8, 8), 3).backbone.arithmetic is FIXED
    assert build_supernet(Recipe(), (1, 8, 8), 3).backbone.arithmetic is ARITHMETICS["float"]


@pytest.mark.parametrize("part", ["stem", "cell", "classifier"])
@torch.no_grad()
def test_a_network_beyond_all_measure_is_clipped_and_still_agrees(part: str) -> None:
    """Gains of 10^6 on 16 input channels: nothing leaves int32, in torch, in the file or in the reference."""
    network = lively_network(genotype(arithmetic="fixed", bits=4, keep=1.0, width=8), input_info((16, 6, 5)))
    if part == "stem":
        network.backbone.stem.norm.weight.fill_(1e6)
    elif part == "cell":
        cell = network.backbone.cell(1)
        cell.connection(cell.edges[0]).norm.weight.fill_(-1e6)
        cell.connection(cell.edges[0]).norm.bias.fill_(1e9)
    else:
        network.backbone.classifier_gain.fill_(1e6)
        network.backbone.classifier_bias.mul_(1e6)
    assert_deployed_exactly(network, images((16, 6, 5), 4))


@torch.no_grad()
@pytest.mark.parametrize("spike_levels", [1, 3])
def test_fixed_point_follows_training_closely(spike_levels: int) -> None:
    """Leak and threshold are those of training: spikes differ only where a membrane is next to the threshold."""
    gene = genotype(levels=(0,), bits=4, keep=1.0, timesteps=4, arithmetic="fixed", spike_levels=spike_levels)
    network = lively_network(gene, input_info())
    x = network.encode(images((2, 6, 5), 8)).float()
    records: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    network(x, record=records[0])
    network.backbone.run(x, 4, network.mixes(), integer=False, record=records[1])
    for name, spikes in records[0].items():
        assert (spikes != records[1][name]).float().mean() < 0.01
        assert 0.02 < spikes.mean() < 0.98 * spike_levels
    other = lively_network(gene.model_copy(update={"arithmetic": "float"}), input_info())
    other.backbone.run(x, 4, other.mixes(), integer=False, record=records[0])
    assert any(not torch.equal(spikes, records[1][name]) for name, spikes in records[0].items())  # another leak


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_a_saved_network_keeps_its_arithmetic(tmp_path: Path, arithmetic: Any) -> None:
    network = lively_network(genotype(arithmetic=arithmetic), input_info())
    save_network(tmp_path / "network.safetensors", network)
    again = load_network(tmp_path / "network.safetensors")
    assert again.genotype.arithmetic == arithmetic
    assert integerize(again) == integerize(network)
    assert ("arithmetic" in network.genotype.to_json()) == (arithmetic == "fixed")


# --- The file ---


def test_the_header_by_hand() -> None:
    data = to_bytes(one_neuron())
    assert from_bytes(data) == one_neuron()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["litesnn_packed"])
    del record["crc"]
    assert record == {
        "version": 2,
        "input": ["array", 1, 1, 1, [0.0], [1.0]],
        "timesteps": 4,
        "leak": 0.25,
        "threshold": 0.5,
        "fraction": 4,
        "classes": ["a"],
        "populations": [[None, 1, 1, [[-1], 1, 1, 2, 1, -2, 1]]],
        "readout": [[0], 1, 1, -2, 3, 2, 5],
    }
    assert header["affine"]["dtype"] == "I16"
    affine = np.frombuffer(data[8 + length :], "<i2", count=4)
    assert affine.tolist() == [5, -3, 100, 1]


@few
@given(seeds)
def test_a_model_survives_a_round_trip_and_keeps_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wiring = random_model(rng)
    models = [in_fixed_point(rng, wiring) for _ in range(2)]
    for model in models:
        data = to_bytes(model)
        assert from_bytes(data) == model
        assert to_bytes(from_bytes(data)) == data
        assert size_table(model).bytes == len(data) <= size_bound(model)
    if models[0].fraction == models[1].fraction:
        assert size_bound(models[0]) == size_bound(models[1])


def test_the_bound_is_reached_by_a_model_that_is_as_large_as_can_be() -> None:
    """Shifts and fractions of two digits, a rate of four decimals, numbers of 19 and 18 letters."""
    stems = one_neuron().populations[0].synapses * 8  # more than the padding of the container could hide
    small = _population(synapses=tuple(replace(stem, shift=0) for stem in stems))
    long = 1173805390987264.0
    synapses = tuple(replace(stem, shift=31) for stem in stems)
    large = replace(
        small,
        input=replace(small.input, mean=(-long,), std=(long,)),
        populations=(replace(small.populations[0], synapses=synapses, bias_shift=15, rate=0.4321),),
        readout=replace(small.readout, shift=31, bias=shorts(0), bias_shift=15, fraction=24),
    )
    assert len(to_bytes(large)) == size_bound(large) == size_bound(small) > len(to_bytes(small))


@given(genotypes(arithmetic="fixed"), shapes, st.integers(0, 2**31))
def test_no_training_makes_the_file_larger_than_the_bound(
    gene: Genotype, shape: tuple[int, int, int], seed: int
) -> None:
    bound = size_bound(integerize(Network(gene, input_info(shape))))
    for after in (seed, seed + 1):
        assert len(to_bytes(integerize(lively_network(gene, input_info(shape), after), {"stem": 0.98765}))) <= bound


def _stem(**changes: Any) -> PackedModel:
    model = one_neuron()
    stem = replace(model.populations[0].synapses[0], **changes)
    return replace(model, populations=(replace(model.populations[0], synapses=(stem,)),))


def _population(**changes: Any) -> PackedModel:
    return replace(one_neuron(), populations=(replace(one_neuron().populations[0], **changes),))


def _readout(**changes: Any) -> PackedModel:
    return replace(one_neuron(), readout=replace(one_neuron().readout, **changes))


def _wide(fan_in: int, scale: int, **changes: Any) -> PackedModel:
    """A second population with one neuron that reads ``fan_in`` spikes with codes of 15."""
    first = Synapses((IMAGE,), 1, 1, 1, np.ones((fan_in, 1, 1, 1), np.int8), np.full(fan_in, 5, np.int16))
    wide = Synapses((0,), 1, 1, 4, np.full((1, fan_in, 1, 1), 15, np.int8), shorts(scale), **changes)
    zero = np.zeros(fan_in, np.int16)
    populations = (Population((first,), zero, None), Population((wide,), shorts(0), None))
    return replace(one_neuron(), populations=populations, readout=replace(one_neuron().readout, sources=(1,)))


FLOAT_MODEL = random_model(np.random.default_rng(0), populations=1)


def _analog(channels: int, **changes: Any) -> PackedModel:
    """A stem of codes of 15 and the largest multiplier on ``channels`` channels of one pixel."""
    model = one_neuron()
    codes = np.full((1, channels, 1, 1), 15, np.int8)
    stem = Synapses((IMAGE,), 1, 1, 4, codes, shorts(32767), **changes)
    spec = InputSpec((channels, 1, 1), "array", (0.0,) * channels, (1.0,) * channels)
    return replace(model, input=spec, populations=(Population((stem,), shorts(0), None),))


BREAKS: list[tuple[PackedModel, str]] = [
    (_stem(scale=np.ones(1, np.float32)), r"population 0, synapses 0: scale: expected int16 \[1\], found float32"),
    (_stem(scale=shorts(1, 2)), r"synapses 0: scale: expected int16 \[1\], found int16 \[2\]"),
    (_stem(shift=-1), "population 0, synapses 0: shift: expected an integer from 0 to 31, found -1"),
    (_stem(shift=32), "population 0, synapses 0: shift: expected an integer from 0 to 31, found 32"),
    (_population(bias=np.zeros(1, np.float32)), r"population 0: bias: expected int16 \[1\], found float32"),
    (_population(bias_shift=16), "population 0: bias shift: expected an integer from 0 to 15, found 16"),
    (_readout(scale=np.zeros(1, np.int32)), r"readout: scale: expected int16 \[1\], found int32"),
    (_readout(shift=40), "readout: shift: expected an integer from 0 to 31, found 40"),
    (_readout(bias_shift=-1), "readout: bias shift: expected an integer from 0 to 15, found -1"),
    (_readout(fraction=25), "readout: fraction: expected an integer from 0 to 24, found 25"),
    (one_neuron(leak=0.2), "leak: expected 0.25 in fixed point, found 0.2"),
    (one_neuron(fraction=0), "fraction: expected an integer from 1 to 24, found 0"),
    (one_neuron(fraction=25), "fraction: expected an integer from 1 to 24, found 25"),
    (one_neuron(threshold=0.3), r"threshold: expected a multiple of 2\^-4 up to 2\^26, found 0.3"),
    (one_neuron(threshold=2.0**27), r"threshold: expected a multiple of 2\^-4 up to 2\^26"),
    # A float model has no shifts.
    (
        replace(FLOAT_MODEL, readout=replace(FLOAT_MODEL.readout, fraction=1)),
        "readout: expected shifts and fractions of 0",
    ),
    (
        replace(FLOAT_MODEL, populations=(replace(FLOAT_MODEL.populations[0], bias_shift=1),)),
        "population 0: expected shif",
    ),
    # 15·4370·32767 is beyond int32. 15·4369·32767 = 2147385345 is not, but as a current it is too large.
    (_wide(4370, 32767, shift=2), "population 1, synapses 0: expected products of at most 2147483647"),
    (
        _wide(4369, -32767),
        r"population 1: expected currents of at most 2\^30 = 1073741824 for every input, found 2147385346",
    ),
    # 127·15·35·32767 is beyond int32, 127·15·34·32767 = 2122318590 is not.
    (_analog(35, shift=2), "population 0, synapses 0: expected products of at most 2147483647"),
    (_analog(34), r"population 0: expected currents of at most 2\^30 = 1073741824 for every input, found 2122318591"),
    (_population(bias=shorts(-(2**15)), bias_shift=15), r"population 0: expected currents of at most 2\^30"),
    (
        _readout(scale=shorts(256), shift=1, bias=shorts(16383), bias_shift=7),
        "readout: expected integer logits of at most",
    ),
    (_readout(scale=shorts(0), bias=shorts(-16384), bias_shift=7), "readout: .* for every input, found 8388609"),
]


@pytest.mark.parametrize(("model", "message"), BREAKS)
def test_a_model_that_breaks_a_rule_is_not_packed(model: PackedModel, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_bytes(model)


@pytest.mark.parametrize(
    "model",
    [
        _wide(4369, 32767, shift=1),
        _wide(4369, -32767, shift=2),
        _analog(34, shift=1),
        _population(bias=shorts(-(2**15) + 1), bias_shift=15),
        # 4·255 >> 1, plus 1, plus 4·16383·2^7: exactly 2^23 − 1
        _readout(scale=shorts(255), shift=1, bias=shorts(16383), bias_shift=7),
    ],
)
def test_a_model_at_the_limit_is_packed_and_runs(model: PackedModel) -> None:
    """The largest numbers that are allowed, reached by an input that makes every neuron fire."""
    assert from_bytes(to_bytes(model)) == model
    for value in (127 / 32, -127 / 32):
        x = np.full((1, *model.input.shape), value, np.float32)
        trace = Reference(model).run(x, record=True)
        spikes, integers = plain(model, x)  # asserts that membranes fit
        assert trace.spikes is not None
        assert trace.integers is not None
        for ours, theirs in zip(trace.spikes, spikes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert trace.integers.tolist() == integers


def _file(change: Any = None, *, affine: str = "I16") -> bytes:
    """The file of :func:`one_neuron` with another header, its checksum made to fit."""
    record = {
        "version": 2,
        "input": ["array", 1, 1, 1, [0.0], [1.0]],
        "timesteps": 4,
        "leak": 0.25,
        "threshold": 0.5,
        "fraction": 4,
        "classes": ["a"],
        "populations": [[None, 1, 1, [[-1], 1, 1, 2, 1, -2, 1]]],
        "readout": [[0], 1, 1, -2, 3, 2, 5],
        "crc": "00000000",
    }
    if change is not None:
        change(record)
    tensors = {
        "affine": {"dtype": affine, "shape": [4], "data_offsets": [0, 8]},
        "weights": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]},
    }
    text = json.dumps(record, separators=(",", ":"))
    payload = shorts(5, -3, 100, 1).tobytes() + bytes([0b11, 0b1])
    blank = safetensors_file({"__metadata__": {"litesnn_packed": text}, **tensors}, payload)
    return blank.replace(b"00000000", b"%08x" % zlib.crc32(blank), 1)


def test_the_file_by_hand() -> None:
    assert _file() == to_bytes(one_neuron())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, "version"), "header: expected the keys version, input, timesteps, leak, threshold, classes,"),
        (lambda record: record.pop("fraction"), "header: expected the keys .* fraction"),
        (put(True, "fraction"), "fraction: expected an integer from 1 to 24, found True"),
        (put(3.0, "fraction"), "fraction: expected an integer"),
        (put(0.5, "leak"), "leak: expected 0.25 in fixed point, found 0.5"),
        (put(0.51, "threshold"), "threshold: expected a multiple of"),
        (put([None, 1, 1], "populations", 0), "population 0: expected a list of at least 4"),
        (put("1", "populations", 0, 2), "population 0: bias shift: expected an integer from 0 to 15"),
        (put(16, "populations", 0, 2), "population 0: bias shift: expected an integer from 0 to 15"),
        (lambda record: record["populations"][0][3].pop(), "population 0, synapses 0: expected a list of 7"),
        (put(32, "populations", 0, 3, 6), "population 0, synapses 0: shift: expected an integer from 0 to 31"),
        (put(-1, "populations", 0, 3, 6), "population 0, synapses 0: shift"),
        (put(None, "populations", 0, 3, 6), "population 0, synapses 0: shift"),
        (
            lambda record: record["populations"].append([None, 1, 0, [[0], 0]]),
            "population 1, synapses 0: expected a lis",
        ),
        (lambda record: record["populations"].append([None, 1, 0, [[0], 0, 40]]), "population 1, synapses 0: shift"),
        (put([[0], 1, 1, -2], "readout"), "readout: expected a list of 7"),
        (put(32, "readout", 4), "readout: shift: expected an integer from 0 to 31"),
        (put(16, "readout", 5), "readout: bias shift: expected an integer from 0 to 15"),
        (put(25, "readout", 6), "readout: fraction: expected an integer from 0 to 24"),
    ],
)
def test_a_damaged_header_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_bytes(_file(change), "broken.safetensors")
    assert str(caught.value).startswith("broken.safetensors: ")
    assert "\n" not in str(caught.value)


def test_numbers_too_large_for_int32_are_refused_when_read() -> None:
    """64 steps of a bias of 1·2^15 are 2^21, and fit; of 4·2^15 they are 2^23, and do not."""

    def large(record: dict[str, Any]) -> None:
        record["timesteps"] = 64
        record["readout"][5] = 15

    assert from_bytes(_file(large)).timesteps == 64
    large_bias = _file(large).replace(shorts(5, -3, 100, 1).tobytes(), shorts(5, -3, 100, 4).tobytes())
    with pytest.raises(InputError, match="checksum"):
        from_bytes(large_bias)
    sealed = _reseal(large_bias)
    with pytest.raises(InputError, match="broken: readout: expected integer logits of at most 8388607"):
        from_bytes(sealed, "broken")


def _reseal(data: bytes) -> bytes:
    start = data.index(rb"\"crc\":\"") + len(rb"\"crc\":\"")
    blank = data[:start] + b"00000000" + data[start + 8 :]
    return data[:start] + b"%08x" % zlib.crc32(blank) + data[start + 8 :]


def test_the_numbers_have_the_type_of_their_version() -> None:
    with pytest.raises(InputError, match="affine: expected I16 numbers in this version, found F16"):
        from_bytes(_file(affine="F16"))

    def as_float(record: dict[str, Any]) -> None:
        record["version"] = 1
        del record["fraction"]
        del record["populations"][0][2], record["populations"][0][2][6], record["readout"][4:]

    with pytest.raises(InputError, match="affine: expected F16 numbers in this version, found I16"):
        from_bytes(_file(as_float))
    with pytest.raises(InputError, match="population 0: bias: expected finite numbers"):  # −3 is NaN in float16
        from_bytes(_file(as_float, affine="F16"))


def test_every_byte_of_a_file_changed_is_refused() -> None:
    data = to_bytes(random_model(np.random.default_rng(6), populations=3, arithmetic="fixed"))
    for place in range(len(data)):
        for byte in {0, data[place] ^ 1, ord("9")} - {data[place]}:
            with pytest.raises(InputError):
                from_bytes(data[:place] + bytes([byte]) + data[place + 1 :])


# --- The whole job ---


def test_the_whole_job_in_fixed_point(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = ["--set", "search.epochs=1", "--set", "train.epochs=6"]
    outcome = litesnn("design", *problem.options(run), *short, "--set", "model.arithmetic=fixed")
    assert outcome.code == 0, outcome.err
    assert 'arithmetic = "fixed"' in (run / "recipe.toml").read_text()
    assert json.loads((run / "genotype.json").read_text())["arithmetic"] == "fixed"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["arithmetic"] == "fixed"
    assert metrics["test_accuracy"] > 0.45  # of three classes
    model = read(run / "model.safetensors")
    assert (model.fraction, model.leak) == (FRACTION, 0.25)
    assert (run / "model.safetensors").stat().st_size == metrics["packed_bytes"]
    assert "arithmetic" in outcome.out
    assert "fixed" in outcome.out
    shown = litesnn("info", run)
    assert "fixed point with 12 fractional bits" in " ".join(shown.out.split())
    assert "fixed point" in (run / "report.html").read_text()


def test_an_unknown_arithmetic_is_refused(problem: Problem, tmp_path: Path) -> None:
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--set", "model.arithmetic=half")
    assert outcome.code == 2
    assert "model.arithmetic: Input should be 'float' or 'fixed', not 'half'" in outcome.err
