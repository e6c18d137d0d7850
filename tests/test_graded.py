"""Graded spikes in deployment: the file, the reference, and everything that computes what the reference does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import exactness
import whole_job
from firmware import SANITIZED, Firmware
from litesnn.commands import native_evaluation
from litesnn.deploy.engine import Engine
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.exchange.nir_graph import nir_graph
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.export_c.folder import export_c
from litesnn.deploy.export_c.layout import lay_out
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import prove_equal
from litesnn.deploy.packed import (
    IMAGE,
    PackedModel,
    Population,
    Readout,
    Synapses,
    bit_planes,
    described,
    from_bytes,
    population_shapes,
    read,
    size_bound,
    size_table,
    to_bytes,
)
from litesnn.deploy.packed_header import read_header
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.deploy.shapes import model_of_shapes
from litesnn.deploy.spike_costs import SpikeCosts
from litesnn.errors import InputError
from litesnn.genotype import ArithmeticName
from litesnn.runs import RunFolder
from litesnn.snn.cost import WAYS, Meter, Way
from litesnn.train.neurobench import membrane_updates
from packed_models import cell_model, random_frames, random_input, random_model, with_events, with_neurons
from test_engine import assert_exact, two_layers
from test_fixed import one_neuron, shorts
from test_onnx_graph import session
from test_packed import put, tiny_model
from test_packed_neurons import changed, header_of, load
from test_reference import image, one, run, single_neuron, spikes_of
from tiny import genotype, images, input_info, lively_network

ARITHMETICS: tuple[ArithmeticName, ...] = ("float", "fixed")
LEVELS = (2, 3, 7)
every = pytest.mark.parametrize(("levels", "arithmetic"), list(itertools.product(LEVELS, ARITHMETICS)))
seeds = st.integers(0, 2**32 - 1)


# --- by hand ---


def test_spikes_by_hand() -> None:
    """x = q/8 of a pixel q/32 at every step; with D = 3 the thresholds are 0.5, 1.5 and 2.5, strictly."""
    model = replace(single_neuron(scale=1 / 8, bias=0.0, timesteps=2), levels=3)
    found = {4: [0, 1], 5: [1, 1], 12: [1, 1], 13: [2, 2], 20: [2, 2], 21: [3, 3], 99: [3, 3]}
    for pixel, spikes in found.items():
        trace = run(model, image(pixel / 32))  # 4: u = 0.5, then 0.1 + 0.5; a spike of any size leaves nothing
        assert spikes_of(trace).reshape(-1).tolist() == spikes
        # The readout counts values: 2·(3·spikes)/t − 0.25
        assert trace.logits.reshape(-1).tolist() == [6 * spikes[0] - 0.25, 3 * sum(spikes) - 0.25]


def test_an_identity_hands_on_values() -> None:
    identity = Synapses((0,), 0, 1, 0, np.zeros((1, 0, 0, 0), np.int8), one(0.5))
    listener = Population((identity,), one(0.25), None)
    model = replace(single_neuron(scale=1 / 8, bias=0.0, timesteps=1), levels=3)
    model = replace(model, populations=(*model.populations, listener))
    for pixel, spikes in ((0, 0), (8, 1), (16, 1), (24, 2)):  # 0.25, 0.75, 1.25 and 1.75
        assert spikes_of(run(model, image(pixel / 32)), 1).item() == spikes


def test_spikes_in_integers_by_hand() -> None:
    """Θ = 8 and F = 4: thresholds 8, 24 and 40; u = (u >> 2) + x where there was no spike."""
    model = replace(one_neuron(), levels=3)
    for bias, spikes in ((8, [0, 1, 0, 1]), (9, [1] * 4), (24, [1] * 4), (25, [2] * 4), (40, [2] * 4), (41, [3] * 4)):
        population = replace(model.populations[0], bias=np.array([bias], np.int16), bias_shift=0)
        trace = run(replace(model, populations=(population,)), image(0.0))
        assert spikes_of(trace).reshape(-1).tolist() == spikes


def test_in_words() -> None:
    assert described(replace(tiny_model(), levels=3)).endswith("weights, float, spikes 0…3")
    assert [bit_planes(levels) for levels in range(1, 8)] == [1, 2, 2, 3, 3, 3, 3]


def work(model: PackedModel, spikes: list[NDArray[np.uint8]]) -> dict[str, float]:
    """SynOps and Bit-SynOps of all layers, per input."""
    costs = SpikeCosts(model)
    costs.add(spikes)
    names = ("synops", "bit_synops", "synops_virtual", "bit_synops_virtual")
    return {name: sum(getattr(layer, name) for layer in costs.layers()) for name in names}


# --- the property: D binary populations in the place of a graded one ---


def expanded(model: PackedModel, x: NDArray[np.generic]) -> list[NDArray[np.uint8]]:
    """Thermometer codes [D, T, B, C, H, W] of every population's spikes, of a float model.

    Neuron j of D fires, 0 or 1, above θ + j, and every weight reads the neurons of a source one after another, as if
    they were D timesteps of binary spikes. All of them are reset where one fires.
    """
    pixels = quantize_input(model.input, x)
    found: list[NDArray[np.uint8]] = []
    binary = Reference(replace(model, levels=1))
    for population, shape in zip(model.populations, population_shapes(model), strict=True):
        # Sums of each virtual timestep by themselves: scales and biases are left out, and come at the end.
        total: NDArray[np.float32] | None = None
        for synapses in population.synapses:
            alone = Population(
                (replace(synapses, scale=np.ones_like(synapses.scale)),), np.zeros_like(population.bias), None
            )
            if synapses.sources == (IMAGE,):
                sums = binary.currents(alone, pixels, [])
            else:
                sums = sum(  # type: ignore[assignment]
                    binary.currents(alone, pixels, [codes[level] for codes in found]) for level in range(model.levels)
                )
            current = synapses.scale.reshape(-1, 1, 1) * sums
            total = current if total is None else total + current
        assert total is not None
        currents = total + population.bias.reshape(-1, 1, 1)
        codes = np.zeros((model.levels, model.timesteps, len(x), *shape), np.uint8)
        u = np.zeros(codes.shape[2:], np.float32)
        for t in range(model.timesteps):
            u = np.float32(model.leak) * u + currents[t]
            for level in range(model.levels):
                codes[level, t] = u > np.float32(model.threshold) + np.float32(level)
            u[codes[:, t].any(axis=0)] = 0
        found.append(codes)
    return found


@given(seeds, st.sampled_from(LEVELS))
@settings(max_examples=15, deadline=None)
def test_a_graded_network_is_that_of_its_binary_virtual_timesteps(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, levels=levels)
    x = random_input(rng, model.input, 2)
    trace = run(model, x)
    codes = expanded(model, x)
    assert trace.spikes is not None
    for spikes, code in zip(trace.spikes, codes, strict=True):
        np.testing.assert_array_equal(spikes, code.sum(axis=0))
        assert (np.diff(code.astype(int), axis=0) <= 0).all()  # a thermometer
    readout = model.readout
    counts = [codes[source].sum(axis=(0, 4, 5), dtype=np.int64) for source in readout.sources]
    totals = np.cumsum(np.concatenate(counts, axis=2) @ readout.codes.T.astype(np.int64), axis=0)
    steps = np.arange(1, model.timesteps + 1, dtype=np.float32).reshape(-1, 1, 1)
    np.testing.assert_array_equal(trace.logits, readout.scale * totals.astype(np.float32) / steps + readout.bias)
    binary = [work(model, [code[level] for code in codes])["synops"] for level in range(levels)]
    assert work(model, trace.spikes)["synops_virtual"] == pytest.approx(sum(binary))


def test_every_value_is_there() -> None:
    """The comparisons of this file would prove little if spikes were all 0 or all the same."""
    for levels, arithmetic in itertools.product(LEVELS, ARITHMETICS):
        found = np.zeros(levels + 1, np.int64)
        for seed in range(4):
            rng = np.random.default_rng(seed)
            model = random_model(rng, shape=(2, 8, 8), keep=0.5, arithmetic=arithmetic, levels=levels)
            for spikes in run(model, random_input(rng, model.input, 2)).spikes or ():
                found += np.bincount(spikes.ravel(), minlength=levels + 1)
        assert (found > 0.005 * found.sum()).all(), (levels, arithmetic, found)


# --- everything that computes it ---


@every
def test_the_engine_is_the_reference(levels: int, arithmetic: ArithmeticName) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        model = random_model(rng, shape=(2, 5, 9) if seed % 2 else None, arithmetic=arithmetic, levels=levels)
        if seed == 3:
            model = with_neurons(rng, model, soft=False, own=True)
        assert_exact(model, random_input(rng, model.input, 3 + 6 * (seed % 2)), threads=(1, 2))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 2), (3, 3), (5, 4)])
def test_strides_and_rows_of_whole_bytes(kernel: int, stride: int) -> None:
    rng = np.random.default_rng(kernel)
    for height, width in ((6, 16), (5, 17)):
        model = two_layers(rng, (height, width), channels=3, outputs=5, kernel=kernel, stride=stride)
        assert_exact(replace(model, levels=6), random_input(rng, model.input, 2))


@pytest.mark.parametrize("timesteps", [6, 7, 64])
def test_many_timesteps(timesteps: int) -> None:
    rng = np.random.default_rng(timesteps)
    model = replace(cell_model(rng, cells=1, width=5, levels=3), timesteps=timesteps)
    assert_exact(model, random_input(rng, model.input, 2))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_frames_of_events(arithmetic: ArithmeticName) -> None:
    rng = np.random.default_rng(7)
    model = random_model(rng, shape=(2, 5, 6), populations=3, arithmetic=arithmetic, levels=3)
    model = with_events(replace(model, timesteps=3), clip=4)
    x = random_frames(rng, model, 3)
    assert_exact(model, x)
    truth = Reference(model).run(x)
    if arithmetic == "float":
        logits = session(onnx_graph(model).SerializeToString()).run(None, {"frames": x})[0]
        np.testing.assert_array_equal(logits, truth.logits[-1])


@pytest.mark.parametrize(
    ("levels", "arithmetic", "kernel"),
    [
        (2, "float", "sliced"),
        (3, "float", "events"),
        (3, "fixed", "sliced"),
        (7, "float", "sliced"),
        (7, "fixed", "events"),
    ],
)
def test_exported_c_is_the_reference(tmp_path: Path, levels: int, arithmetic: ArithmeticName, kernel: Any) -> None:
    rng = np.random.default_rng(levels)
    model = random_model(rng, shape=(2, 5, 9), populations=4, keep=0.5, arithmetic=arithmetic, levels=levels)
    model = with_neurons(rng, model, soft=False, own=levels == 3)
    x = random_input(rng, model.input, 2)
    truth, trace = run(model, x), Firmware(model, tmp_path, kernel=kernel, flags=SANITIZED).run(x)
    assert truth.spikes is not None
    assert trace.spikes is not None
    for mine, right in zip(trace.spikes, truth.spikes, strict=True):
        np.testing.assert_array_equal(mine, right)
    if truth.integers is None:
        np.testing.assert_array_equal(trace.logits, truth.logits)
    else:
        np.testing.assert_array_equal(trace.integers, truth.integers)


def test_the_ram_plan_has_a_plane_for_each_bit() -> None:
    model = cell_model(np.random.default_rng(0), cells=1, width=4)
    binary, graded = lay_out(model), lay_out(replace(model, levels=3))
    assert [grid.steps for grid in graded.grids] == [2 * grid.steps for grid in binary.grids]
    assert graded.memory.words > 1.7 * binary.memory.words
    assert graded.ram()["counts for the readout"] == binary.ram()["counts for the readout"]
    wide = two_layers(np.random.default_rng(0), (100, 100), channels=1, outputs=1, kernel=1, stride=1)
    wide = replace(wide, timesteps=1)
    assert [lay_out(replace(wide, levels=levels)).count_bits for levels in (1, 6, 7)] == [16, 16, 32]


def test_counts_of_more_than_sixteen_bits(tmp_path: Path) -> None:
    model = two_layers(np.random.default_rng(0), (100, 100), channels=1, outputs=1, kernel=1, stride=1)
    loud = tuple(replace(each, bias=each.bias + np.float32(8)) for each in model.populations)
    model = replace(model, timesteps=1, levels=7, populations=loud)
    x = random_input(np.random.default_rng(0), model.input, 1)
    np.testing.assert_array_equal(Firmware(model, tmp_path).run(x).logits, run(model, x).logits)


@pytest.mark.parametrize("levels", LEVELS)
def test_onnx_is_the_reference(levels: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        model = random_model(rng, shape=(2, 5, 9), populations=4, keep=0.5, levels=levels)
        x = random_input(rng, model.input, 3)
        trace = run(model, x)
        assert trace.spikes is not None
        logits, *spikes = session(onnx_graph(model, record=True).SerializeToString()).run(None, {"image": x})
        np.testing.assert_array_equal(logits, trace.logits[-1])
        for index, fired in zip(used_populations(model), spikes, strict=True):
            np.testing.assert_array_equal(fired.reshape(trace.spikes[index].shape), trace.spikes[index])


def test_onnx_refuses_what_float32_might_round() -> None:
    """9·15·D·60000 pixels are within 2^24 for D = 2, and not for D = 3."""
    model = two_layers(np.random.default_rng(0), (250, 200), channels=1, outputs=9, kernel=1, stride=1)
    codes = np.full((3, 9), 15, np.int8)
    model = replace(model, timesteps=1, readout=replace(model.readout, codes=codes))
    onnx_graph(replace(model, levels=2))
    with pytest.raises(InputError, match=r"^ONNX cannot carry readout: its sums reach 20250000"):
        onnx_graph(replace(model, levels=3))


def test_nir_has_no_graded_spikes() -> None:
    with pytest.raises(InputError, match=r"^NIR cannot carry graded spikes 0…3: its neurons spike or do not"):
        nir_graph(replace(tiny_model(), levels=3))


@every
def test_torch_is_the_reference(levels: int, arithmetic: ArithmeticName) -> None:
    """A whole network, its evaluation's costs, and the size that no such network's file exceeds."""
    edges = ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 1, "conv1x1"), (1, 2, "skip"))
    gene = genotype(edges=edges, arithmetic=arithmetic).model_copy(update={"spike_levels": levels})
    network, x = lively_network(gene, input_info(), levels).eval(), images((2, 6, 5), 8, levels)
    model = integerize(network)
    assert model.levels == levels
    prove_equal(network, from_bytes(to_bytes(model)), x)
    assert_exact(model, x.numpy())
    assert len(to_bytes(model)) <= size_bound(model_of_shapes(gene, model.input, model.classes))
    meter = Meter(WAYS)
    with torch.no_grad():
        network(network.encode(x), meter=meter)
    spikes = Engine(model).run(x.numpy(), record=True).spikes
    assert spikes is not None
    counted = work(model, spikes)
    ways: tuple[tuple[Way | None, str], ...] = ((None, ""), ("virtual", "_virtual"))
    for way, name in ways:
        layers = meter.layers_by(way).values()
        assert counted["synops" + name] == pytest.approx(sum(float(layer.synops.sum()) for layer in layers), rel=1e-5)
        bit_synops = sum(float(layer.bit_synops.sum()) for layer in layers)
        assert counted["bit_synops" + name] == pytest.approx(bit_synops, rel=1e-5)
    assert counted["synops"] < counted["synops_virtual"]


# --- counts ---


def test_synops_by_hand() -> None:
    """Spikes 3, 2, 1 and 0 at four pixels, whose bits are 2, 1, 1 and 0 ones; a 3×3 filter whose middle is pruned."""
    stem = Synapses((IMAGE,), 1, 1, 1, np.ones((1, 1, 1, 1), np.int8), one(1.0))
    codes = np.array([[[[1, 1, 1], [1, 0, 1], [1, 1, 1]]]], np.int8)
    second = Population((Synapses((0,), 3, 1, 2, codes, one(1.0)),), one(0.0), None)
    identity = Synapses((0,), 0, 1, 0, np.zeros((1, 0, 0, 0), np.int8), one(1.0))
    third = Population((identity,), one(0.0), None)
    readout = Readout((0,), 3, np.array([[3], [0]], np.int8), np.ones(2, np.float32), np.zeros(2, np.float32))
    model = replace(tiny_model(), populations=(Population((stem,), one(0.0), None), second, third), readout=readout)
    maps = [np.array([[3, 2], [1, 0]], np.uint8).reshape(1, 1, 1, 2, 2), *np.zeros((2, 1, 1, 1, 2, 2), np.uint8)]
    model = replace(model, levels=3, input=replace(model.input, shape=(1, 2, 2)))
    # Of the filter each of four pixels reaches three neurons; the identity one, and the readout one weight.
    expected = {
        "synops": 4 * (3 + 1 + 1),
        "bit_synops": 4 * (3 * 2 + 1 + 3),
        "synops_virtual": 6 * (3 + 1 + 1),
        "bit_synops_virtual": 6 * (3 * 2 + 1 + 3),
    }
    assert work(model, maps) == expected
    assert work(model, [np.concatenate([each, each], axis=1) for each in maps]) == expected  # per input


def test_synops_are_those_of_strides_and_borders() -> None:
    """Every weight of every neuron in turn."""
    rng = np.random.default_rng(3)
    model = replace(two_layers(rng, (5, 6), channels=2, outputs=3, kernel=3, stride=2), levels=7)
    spikes = run(model, random_input(rng, model.input, 2)).spikes
    assert spikes is not None
    codes, total = model.populations[1].synapses[0].codes, 0
    for out, channel, ky, kx, y, x in np.ndindex(*codes.shape, 3, 3):
        row, column = 2 * y + ky - 1, 2 * x + kx - 1
        if codes[out, channel, ky, kx] and 0 <= row < 5 and 0 <= column < 6:
            total += int(spikes[0][:, :, channel, row, column].sum())
    total += int(np.count_nonzero(model.readout.codes, axis=0) @ spikes[1].sum(axis=(0, 1, 3, 4)))
    assert work(model, spikes)["synops_virtual"] == pytest.approx(total / 2)


def test_membranes_of_graded_neurons_are_updated_as_often() -> None:
    """Spikes 2 and 1 in turn: the membrane was 0 and stays 0."""
    currents = torch.tensor([2.0, 0.75, 0.25, 0.25])[:, None]
    assert membrane_updates(currents, torch.tensor([2.0, 1.0, 0.0, 0.0])[:, None], 0.5) == 1 + 0 + 1 + 1


# --- the file ---


@given(seeds, st.sampled_from(LEVELS), st.sampled_from(ARITHMETICS), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_model_survives_a_round_trip(seed: int, levels: int, arithmetic: ArithmeticName, own: bool) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, arithmetic=arithmetic, levels=levels)
    if own:
        model = with_neurons(rng, model, soft=False, own=True)
    data = to_bytes(model)
    assert from_bytes(data) == model
    assert to_bytes(from_bytes(data)) == data
    assert size_table(model).bytes == len(data) <= size_bound(model)


GRADED = replace(tiny_model(), levels=3)
GRADED_FIXED = replace(one_neuron(), levels=3)
GRADED_OWN = replace(GRADED, populations=(replace(GRADED.populations[0], leak=0.75),))


def test_the_header_by_hand() -> None:
    versions = [header_of(to_bytes(model))["version"] for model in (GRADED, GRADED_FIXED, GRADED_OWN)]
    assert versions == [9, 10, 13]
    record = header_of(to_bytes(GRADED))
    assert list(record)[3:7] == ["leak", "threshold", "levels", "classes"]
    assert record["levels"] == 3
    assert "levels" not in header_of(to_bytes(tiny_model()))


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (GRADED, put(1, "levels"), "levels: expected an integer from 2 to 7, found 1"),
        (GRADED, put(8, "levels"), "levels: expected an integer from 2 to 7, found 8"),
        (GRADED, put(3.0, "levels"), "levels: expected an integer"),
        (GRADED, put(True, "levels"), "levels: expected an integer"),
        (GRADED, put(None, "levels"), "levels: expected an integer"),
        (
            GRADED,
            lambda record: record.pop("levels"),
            "header: expected the keys version, .*, levels, classes",
        ),
        (GRADED, put(1, "version"), "header: expected the keys version, input, timesteps, leak, threshold, classes"),
        (tiny_model(), put(9, "version"), "header: expected the keys version"),
        (GRADED, put(1.5, "populations", 0, 0), "population 0: rate: expected null or a number from 0 to 1"),
        (
            GRADED_OWN,
            put(0.25, "reset"),
            r"reset: expected null, the hard reset of spikes 0…3, found 0\.25",
        ),
        (GRADED_OWN, put(0.25, "neurons", 0, 1), "population 0: reset: expected null, the hard reset of spikes 0…3"),
    ],
)
def test_nonsense_is_refused_by_the_key(
    model: PackedModel, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(InputError, match=f"^MODEL: {message}") as caught:
        from_bytes(changed(to_bytes(model), change), "MODEL")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(GRADED, levels=0), "levels: expected an integer from 2 to 7, found 0"),
        (replace(GRADED, levels=8), "levels: expected an integer from 2 to 7, found 8"),
        (replace(GRADED, reset=0.25), "reset: expected null, the hard reset of spikes 0…3"),
        (replace(GRADED_FIXED, reset=0.25), "reset: expected null, the hard reset of spikes 0…3"),
    ],
)
def test_nonsense_is_not_written(model: PackedModel, message: str) -> None:
    with pytest.raises(InputError, match=f"^packed model: {message}"):
        to_bytes(model)


def test_the_engine_refuses_nonsense() -> None:
    """Words 3 to 13 are before the levels; after them mean, std, channels, bundles, leak and reset."""
    for model, soft in ((GRADED_OWN, np.float32(0.25)), (with_own_reset(GRADED_FIXED), np.int32(4))):
        data = engine_image(model)
        assert data[4] == 4
        assert load(data) == ""
        at = 4 * 13
        assert data[at : at + 4] == np.int32(3).tobytes()
        for wrong in (1, 8, -3):
            message = load(data[:at] + np.int32(wrong).tobytes() + data[at + 4 :])
            assert message == f"levels: expected 2 to 7, found {wrong}"
        at += 4 * (1 + 2 + 2 + 1)
        assert load(data[:at] + soft.tobytes() + data[at + 4 :]) == (
            "reset: graded spikes have the hard one, found a soft one"
        )
    assert engine_image(tiny_model())[4] == 1
    assert len(engine_image(GRADED)) == len(engine_image(tiny_model())) + 4


def with_own_reset(model: PackedModel) -> PackedModel:
    return replace(model, populations=(replace(model.populations[0], reset="hard"),))


# --- bounds ---


def refused(model: PackedModel, message: str, in_c: str) -> None:
    """By the writer, which reads what it writes, and by the engine's loader."""
    with pytest.raises(InputError, match=message):
        to_bytes(model)
    assert load(engine_image(model)) == in_c


def fits(model: PackedModel) -> None:
    assert from_bytes(to_bytes(model)) == model
    assert load(engine_image(model)) == ""


def test_sums_of_weights_count_the_largest_spike() -> None:
    """20.46 million weights of 15 pass 2^31 with spikes of 7."""
    record = header_of(to_bytes(GRADED))
    inputs = 20_460_000
    record["input"][1:4] = 1, 1, 1
    record["populations"] = [[None, inputs, [[-1], 1, 1, 4, 0, -1]], [None, 1, [[0], 1, 1, 4, 0, -1]]]
    record["readout"] = [[1], 1, 0, -1]
    record["levels"] = 6
    read_header(json.dumps(record), "MODEL")
    record["levels"] = 7
    with pytest.raises(
        InputError, match="population 1, synapses 0: expected sums of at most 2147483647, found 2148300000"
    ):
        read_header(json.dumps(record), "MODEL")


def test_sums_of_the_readout_count_the_largest_spike() -> None:
    """15·D of each of 2^20 pixels at 64 timesteps."""
    model = two_layers(np.random.default_rng(0), (1024, 1024), channels=1, outputs=1, kernel=1, stride=1)
    readout = replace(model.readout, codes=np.full((3, 1), 15, np.int8))
    model = replace(model, timesteps=64, readout=readout)
    to_bytes(replace(model, levels=2))
    refused(
        replace(model, levels=3),
        "readout: expected sums of at most 2147483647, found 3019898880",
        "readout: the sums of class 0 could exceed int32",
    )


def fixed_pair(channels: int, synapses: Synapses, **population: Any) -> PackedModel:
    """A stem of equal neurons in fixed point, and one neuron that reads them all."""
    model = one_neuron()
    (stem,) = model.populations[0].synapses
    stem = replace(stem, codes=np.repeat(stem.codes, channels, 0), scale=shorts(*[5] * channels))
    first = replace(model.populations[0], synapses=(stem,), bias=shorts(*[-3] * channels))
    second = Population((synapses,), **{"bias": shorts(0), "rate": None} | population)
    return replace(model, populations=(first, second), readout=replace(model.readout, sources=(1,)))


def test_products_count_the_largest_spike() -> None:
    """625 weights of 15 and a multiplier of 32767 pass 2^31 with spikes of 7."""
    synapses = Synapses((0,), 1, 1, 4, np.full((1, 625, 1, 1), 15, np.int8), shorts(32767), shift=2)
    model = fixed_pair(625, synapses)
    fits(replace(model, levels=6))
    refused(
        replace(model, levels=7),
        "population 1, synapses 0: expected products of at most 2147483647 for every input, found 2150334375",
        "scale: the products of channel 0 could exceed int32",
    )


@pytest.mark.parametrize("identity", [False, True])
def test_currents_count_the_largest_spike(identity: bool) -> None:
    """A bias of 2^30 − 2^15 leaves room for one multiplier of 32767, and the one by which shifts round."""
    codes = np.zeros((1, 0, 0, 0), np.int8) if identity else np.ones((1, 1, 1, 1), np.int8)
    synapses = Synapses((0,), 0 if identity else 1, 1, 0 if identity else 1, codes, shorts(32767))
    model = fixed_pair(1, synapses, bias=shorts(32767), bias_shift=15)
    fits(model)
    refused(
        replace(model, levels=2),
        r"population 1: expected currents of at most 2\^30 = 1073741824 for every input, found 1073774591",
        "bias: the membranes of channel 0 could exceed int32",
    )


def test_logits_count_the_largest_spike() -> None:
    """15·32767·D at each of four timesteps, below 2^23."""
    model = one_neuron()
    readout = replace(model.readout, bits=4, codes=np.full((1, 1), 15, np.int8), scale=shorts(32767), shift=0)
    model = replace(model, readout=replace(readout, bias=shorts(0)))
    fits(replace(model, levels=4))
    refused(
        replace(model, levels=5),
        "readout: expected integer logits of at most 8388607 for every input, found 9830101",
        "readout: the logits of class 0 could be inexact",
    )


def test_the_largest_currents_and_thresholds_stay_in_int32(tmp_path: Path) -> None:
    """Θ = 2^30 and currents up to 2^30 of either sign; sanitizers see what overflows."""
    model = replace(one_neuron(fraction=16, threshold=2.0**14), levels=7)
    stem = replace(model.populations[0].synapses[0], codes=np.full((1, 1, 1, 1), 15, np.int8), bits=4, shift=0)
    population = replace(
        model.populations[0], synapses=(replace(stem, scale=shorts(32767)),), bias=shorts(30000), bias_shift=15
    )
    model = replace(model, populations=(population,))
    fits(model)
    x = np.linspace(-4, 4, 9, dtype=np.float32).reshape(9, 1, 1, 1)
    assert_exact(model, x)
    flags = ("-O1", "-fsanitize=signed-integer-overflow", "-fno-sanitize-recover")
    np.testing.assert_array_equal(spikes_of(Firmware(model, tmp_path, flags=flags).run(x)), spikes_of(run(model, x)))


# --- the whole job ---


def test_a_network_is_made_packed_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine on the whole test set, and the engine's counts of work beside those of the evaluation."""
    problem, run = whole_job.write_problem(tmp_path), tmp_path / "run"
    settings = ["--set", "model.spike_levels=3", "--set", "search.epochs=2", "--set", "train.epochs=4"]
    later = ((stage, str(run)) for stage in ("derive", "train", "evaluate", "pack"))  # all but the report
    for arguments in (("search", *problem.options(run), *settings), *later):
        outcome = whole_job.litesnn(*arguments)
        assert outcome.code == 0, outcome.err
    assert read(run / "model.safetensors").levels == 3
    for row in exactness.compare_run(RunFolder(run)):
        assert row.exact, row
    monkeypatch.setattr(native_evaluation, "ROUNDS", 1)
    monkeypatch.setattr(native_evaluation, "SAMPLE_SECONDS", 0.01)
    outcome = whole_job.litesnn("evaluate", str(run), "--engine", "native")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("synops", "bit_synops", "synops_virtual", "bit_synops_virtual"):
        assert metrics["engine"][name] == pytest.approx(metrics[name], rel=1e-5)
    assert "SynOps per image in bit planes" in " ".join(outcome.out.split())
    outcome = whole_job.litesnn("export", "nir", str(run), "-o", str(tmp_path / "model.nir"))
    assert outcome.code == 2
    assert "NIR cannot carry graded spikes 0…3" in outcome.err
    assert not (tmp_path / "model.nir").exists()
    export_c(read(run / "model.safetensors"), tmp_path / "c", np.zeros((1, 1, 8, 8), np.uint8))
    assert "spikes are graded, 0 to 3, kept as 2 bits" in (tmp_path / "c" / "README.md").read_text()
