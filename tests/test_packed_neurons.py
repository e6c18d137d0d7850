"""Packed models with soft resets and with leaks of their own: every engine gives the spikes of the reference."""

from __future__ import annotations

import ctypes
import itertools
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware import Firmware
from litesnn.deploy import native
from litesnn.deploy.engine import Engine
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.exchange.nir_graph import TIMESTEP, nir_graph
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.limits import MAX_RESET
from litesnn.deploy.packed import (
    PackedModel,
    PackedNeuron,
    from_bytes,
    has_own_neurons,
    neuron_of,
    read,
    size_bound,
    size_table,
    to_bytes,
)
from litesnn.deploy.packed_container import sealed
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.errors import InputError
from litesnn.genotype import ArithmeticName
from litesnn.snn.neuron import lif
from nir_simulator import simulate
from packed_models import cell_model, random_input, random_model, with_neurons
from test_engine import METHODS, assert_exact
from test_fixed import one_neuron
from test_packed import put, tiny_model
from test_reference import image, run, single_neuron, spikes_of

ARITHMETICS: tuple[ArithmeticName, ...] = ("float", "fixed")
COMBINATIONS = list(itertools.product(ARITHMETICS, (False, True), (False, True)))
ids = [
    f"{arithmetic}-{'soft' if soft else 'hard'}-{'own' if own else 'shared'}" for arithmetic, soft, own in COMBINATIONS
]
combinations = pytest.mark.parametrize(("arithmetic", "soft", "own"), COMBINATIONS, ids=ids)
seeds = st.integers(0, 2**32 - 1)


def some_model(seed: int, arithmetic: ArithmeticName, soft: bool, own: bool) -> PackedModel:
    """A lively network of several populations."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, shape=(2, 5, 9), populations=4, keep=0.5, arithmetic=arithmetic)
    return with_neurons(rng, replace(model, timesteps=5) if arithmetic == "float" else model, soft=soft, own=own)


# --- by hand ---


def test_soft_reset_by_hand() -> None:
    """x = 0.75 at each step, R = 0.5: u = 0.75 (spike), 0.15 − 0.5 + 0.75 = 0.4, 0.08 + 0.75 = 0.83 (spike), 0.416."""
    model = replace(single_neuron(scale=1 / 64, bias=0.25, timesteps=4), reset=0.5)
    assert spikes_of(run(model, image(1.0))).reshape(-1).tolist() == [1, 0, 1, 0]
    assert spikes_of(run(replace(model, reset=0.0), image(1.0))).reshape(-1).tolist() == [1, 1, 1, 1]
    assert spikes_of(run(replace(model, reset=None), image(1.0))).reshape(-1).tolist() == [1, 1, 1, 1]


def test_integrate_and_fire_counts_its_input() -> None:
    """Without a leak, and with what is above the threshold kept, 7/16 of the threshold a step make 7 spikes in 16."""
    model = single_neuron(scale=2.0**-32, bias=7 / 32, timesteps=17)
    model = replace(model, leak=1.0, reset=0.5)
    assert spikes_of(run(model, image(0.0))).sum() == 7
    hard = replace(model, reset=None)  # every third step
    assert spikes_of(run(hard, image(0.0))).sum() == 5


def test_soft_reset_in_integers_by_hand() -> None:
    """x = 9 > 8 at each step, R = 8: u = 9, (9 >> 2) − 8 + 9 = 3, 0 + 9 = 9, 3."""
    model = replace(one_neuron(), reset=0.5)
    x = np.array([2 / 32], np.float32).reshape(1, 1, 1, 1)
    assert spikes_of(run(model, x)).reshape(-1).tolist() == [1, 0, 1, 0]


def test_the_neuron_of_a_population() -> None:
    model = tiny_model()
    (population,) = model.populations
    soft = replace(model, reset=0.25)
    assert neuron_of(model, population) == PackedNeuron(0.2, 0.5, None)
    assert neuron_of(soft, population) == PackedNeuron(0.2, 0.5, 0.25)
    assert neuron_of(soft, replace(population, leak=1.0, reset="hard")) == PackedNeuron(1.0, 0.5, None)
    assert neuron_of(soft, replace(population, leak=0.0, reset=0.0)) == PackedNeuron(0.0, 0.5, 0.0)
    assert not has_own_neurons(model)
    assert has_own_neurons(soft)
    assert has_own_neurons(replace(model, populations=(replace(population, leak=0.2),)))
    assert replace(population, leak=float(np.float32(0.9012345))).leak == 0.9012345


# --- every engine ---


@combinations
def test_the_engine_is_the_reference(arithmetic: ArithmeticName, soft: bool, own: bool) -> None:
    for seed in range(6):
        model = some_model(seed, arithmetic, soft, own)
        assert_exact(model, random_input(np.random.default_rng(seed), model.input, 5), threads=(1, 2))


@given(seeds, st.sampled_from(COMBINATIONS))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_engine_is_the_reference_for_any_network(seed: int, combination: tuple[ArithmeticName, bool, bool]) -> None:
    arithmetic, soft, own = combination
    rng = np.random.default_rng(seed)
    model = with_neurons(rng, random_model(rng, arithmetic=arithmetic), soft=soft, own=own)
    assert_exact(model, random_input(rng, model.input, int(rng.integers(1, 10))))


@pytest.mark.parametrize("timesteps", [1, 6, 7, 64])
def test_many_timesteps(timesteps: int) -> None:
    rng = np.random.default_rng(timesteps)
    model = replace(cell_model(rng, cells=1, width=5), timesteps=timesteps)
    assert_exact(with_neurons(rng, model, soft=True, own=True), random_input(rng, model.input, 2), methods=METHODS[:1])


@pytest.mark.parametrize("kernel", ["events", "sliced"])
@combinations
def test_exported_c_is_the_reference(
    tmp_path: Path, arithmetic: ArithmeticName, soft: bool, own: bool, kernel: Any
) -> None:
    model = some_model(3, arithmetic, soft, own)
    x = random_input(np.random.default_rng(0), model.input, 3)
    truth = Reference(model).run(x, record=True)
    trace = Firmware(model, tmp_path, kernel=kernel).run(x)
    assert trace.spikes is not None
    assert truth.spikes is not None
    for mine, right in zip(trace.spikes, truth.spikes, strict=True):
        np.testing.assert_array_equal(mine, right)
    if arithmetic == "float":
        np.testing.assert_array_equal(trace.logits, truth.logits)
    else:
        assert trace.integers is not None
        np.testing.assert_array_equal(trace.integers, truth.integers)


def test_models_of_one_hard_neuron_are_exported_without_a_table_of_neurons(tmp_path: Path) -> None:
    for own, expected in ((False, "#define SNN_OWN_NEURONS     0"), (True, "#define SNN_OWN_NEURONS     1")):
        Firmware(some_model(0, "float", False, own), tmp_path / str(own))
        header = (tmp_path / str(own) / "src" / "model.h").read_text()
        assert " ".join(expected.split()) in " ".join(header.split())


@pytest.mark.parametrize(("soft", "own"), [(False, True), (True, False), (True, True)])
def test_onnx_is_the_reference(soft: bool, own: bool) -> None:
    for seed in range(6):
        model = some_model(seed, "float", soft, own)
        x = random_input(np.random.default_rng(seed), model.input, 3)
        trace = Reference(model).run(x, record=True)
        session = onnxruntime.InferenceSession(
            onnx_graph(model, record=True).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        logits, *spikes = session.run(None, {"image": x})
        np.testing.assert_array_equal(logits, trace.logits[-1])
        assert trace.spikes is not None
        for index, fired in zip(used_populations(model), spikes, strict=True):
            np.testing.assert_array_equal(fired.reshape(trace.spikes[index].shape), trace.spikes[index])


@pytest.mark.parametrize(("soft", "own"), [(False, True), (True, False), (True, True)])
def test_torch_is_the_reference(soft: bool, own: bool) -> None:
    """The currents of the reference, fired by torch."""
    for seed in range(6):
        model = some_model(seed, "float", soft, own)
        x = random_input(np.random.default_rng(seed), model.input, 3)
        reference = Reference(model)
        trace = reference.run(x, record=True)
        assert trace.spikes is not None
        pixels = quantize_input(model.input, x)
        for index, population in enumerate(model.populations):
            neuron = neuron_of(model, population)
            currents = torch.from_numpy(reference.currents(population, pixels, trace.spikes))
            fired = lif(currents, leak=neuron.leak, threshold=neuron.threshold, reset=neuron.reset)
            np.testing.assert_array_equal(fired.numpy().astype(np.uint8), trace.spikes[index])


def test_networks_of_the_walk_spike() -> None:
    rates = []
    for seed, (arithmetic, soft, own) in itertools.product(range(3), COMBINATIONS):
        model = some_model(seed, arithmetic, soft, own)
        trace = Reference(model).run(random_input(np.random.default_rng(seed), model.input, 3), record=True)
        assert trace.spikes is not None
        rates += [float(spikes.mean()) for spikes in trace.spikes]
    assert np.mean([0.01 < rate < 0.99 for rate in rates]) > 0.6


# --- NIR ---


def test_nir_has_a_leak_for_each_population() -> None:
    model = some_model(0, "float", False, False)
    own = tuple(replace(each, leak=0.1 * index) for index, each in enumerate(model.populations))
    model = replace(model, populations=own)
    x = random_input(np.random.default_rng(0), model.input, 3)
    trace = Reference(model).run(x, record=True)
    assert trace.spikes is not None
    graph = nir_graph(model)
    pixels = quantize_input(model.input, x).astype(np.float32)
    _, spikes = simulate(graph, pixels, dt=TIMESTEP, timesteps=model.timesteps)
    for name, fired in spikes.items():
        np.testing.assert_array_equal(fired, trace.spikes[int(name.split("_")[1])])
    assert "leak" not in graph.metadata


def test_nir_has_no_soft_reset() -> None:
    model = some_model(0, "float", False, False)
    with pytest.raises(InputError, match=r"^NIR cannot carry a soft reset: a spike of population 0 takes 0\.5 from"):
        nir_graph(replace(model, reset=0.5))
    mixed = replace(model, populations=(*model.populations[:-1], replace(model.populations[-1], leak=1.0)))
    if len(model.populations) - 1 in used_populations(model):
        with pytest.raises(InputError, match=r"leak 1\.0$"):
            nir_graph(mixed)


# --- the file ---


@given(seeds, st.sampled_from(COMBINATIONS))
@settings(max_examples=60, deadline=None)
def test_a_model_survives_a_round_trip(seed: int, combination: tuple[ArithmeticName, bool, bool]) -> None:
    arithmetic, soft, own = combination
    rng = np.random.default_rng(seed)
    plain = random_model(rng, arithmetic=arithmetic)
    model = with_neurons(rng, plain, soft=soft, own=own)
    data = to_bytes(model)
    assert from_bytes(data) == model
    assert to_bytes(from_bytes(data)) == data
    assert size_table(model).bytes == len(data) <= size_bound(model)
    assert has_own_neurons(model) == (soft or own)
    (before, after) = (header_of(to_bytes(plain))["version"], header_of(data)["version"])
    assert after == before + (4 if soft or own else 0)


def test_leaks_do_not_pass_the_size_bound() -> None:
    model = cell_model(np.random.default_rng(0))
    short, long = (
        replace(model, populations=tuple(replace(each, leak=leak) for each in model.populations))
        for leak in (0.5, float(np.float32(1.2345678e-5)))
    )
    assert len(to_bytes(long)) > len(to_bytes(short))
    assert size_bound(short) == size_bound(long) >= len(to_bytes(long))


def header_of(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["litesnn_packed"])
    return found


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file with another header, and the right checksum."""
    (length,) = struct.unpack("<Q", data[:8])
    container, record = json.loads(data[8 : 8 + length]), header_of(data)
    change(record)
    container["__metadata__"]["litesnn_packed"] = json.dumps(record, separators=(",", ":"))
    text = json.dumps(container, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sealed(struct.pack("<Q", len(text)) + text + data[8 + length :])


SOFT = replace(tiny_model(), reset=0.25)
OWN = replace(SOFT, populations=(replace(SOFT.populations[0], leak=0.75, reset="hard"),))
SOFT_FIXED = replace(one_neuron(), reset=0.25)


def test_the_header_by_hand() -> None:
    assert [header_of(to_bytes(model))["version"] for model in (tiny_model(), SOFT, one_neuron(), SOFT_FIXED)] == [
        *(1, 5, 2, 6)
    ]
    record = header_of(to_bytes(OWN))
    assert list(record)[3:8] == ["leak", "threshold", "reset", "neurons", "classes"]
    assert (record["reset"], record["neurons"]) == (0.25, [[0.75, "hard"]])
    assert header_of(to_bytes(SOFT))["neurons"] == []


NO_ROW = r"null or \[leak, reset\] for each of 1 populations, not null for all"


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (SOFT, put(-0.5, "reset"), r"reset: expected null, or a number from 0 to 2\^100, found -0.5"),
        (SOFT, put(2e30, "reset"), "reset: expected null, or a number from 0"),
        (SOFT, put("hard", "reset"), "reset: expected a float32 number, found hard"),
        (SOFT, put(True, "reset"), "reset: expected a float32 number"),
        (SOFT, put(None, "reset"), f"neurons: expected {NO_ROW}"),
        (SOFT, put(None, "neurons"), "neurons: expected a list"),
        (SOFT, put([None], "neurons"), f"neurons: expected {NO_ROW}"),
        (SOFT, put([[0.5, None]] * 2, "neurons"), f"neurons: expected {NO_ROW}"),
        (SOFT, lambda record: record.pop("neurons"), "header: expected the keys version, .*, reset, neurons, classes"),
        (SOFT, put(1, "version"), "header: expected the keys version"),
        (tiny_model(), put(5, "version"), "header: expected the keys version"),
        (OWN, put([0.5], "neurons", 0), "population 0: neuron: expected a list of 2"),
        (OWN, put([None, None], "neurons", 0), "population 0: neuron: expected null, or a leak or reset of its own"),
        (OWN, put(1.5, "neurons", 0, 0), "population 0: leak: expected null or a number from 0 to 1, found 1.5"),
        (OWN, put("0.5", "neurons", 0, 0), "population 0: leak: expected a float32 number"),
        (OWN, put("soft", "neurons", 0, 1), "population 0: reset: expected a float32 number, found soft"),
        (OWN, put(-1, "neurons", 0, 1), "population 0: reset: expected null, or a number from 0"),
        (SOFT_FIXED, put(0.3, "reset"), r"reset: expected null, or a multiple of 2\^-4 from 0 to 2\^26, found 0.3"),
        (SOFT_FIXED, put(2.0**26 + 1, "reset"), r"reset: expected null, or a multiple of 2\^-4 from 0 to 2\^26"),
        (SOFT_FIXED, put([[0.25, None]], "neurons"), "population 0: leak: expected null in fixed point"),
    ],
)
def test_nonsense_is_refused_by_the_key(
    model: PackedModel, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(changed(to_bytes(model), change))
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        replace(tiny_model(), reset=float("nan")),
        replace(tiny_model(), reset=-1.0),
        replace(OWN, populations=(replace(OWN.populations[0], leak=float("inf")),)),
        replace(SOFT_FIXED, reset=0.3),
    ],
)
def test_nonsense_is_not_written(model: PackedModel) -> None:
    with pytest.raises(InputError, match=r"^packed model: "):
        to_bytes(model)


def load(image_bytes: bytes) -> str:
    library = native.load_library()
    handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(256)
    library.lsnn_load(ctypes.byref(handle), image_bytes, len(image_bytes), None, -1, 1, message, 256)
    library.lsnn_free(handle)
    return message.value.decode()


@pytest.mark.parametrize(
    ("model", "at", "value", "message"),
    [
        (SOFT, 0, struct.pack("<f", 1.5), "leak: expected 0 to 1, found 1.5"),
        (SOFT, 0, struct.pack("<f", float("nan")), "leak: expected 0 to 1"),
        (SOFT, 4, struct.pack("<f", -2.0), "reset: expected -1 to 1.26765e+30, found -2"),
        (SOFT, 4, struct.pack("<f", 2e30), "reset: expected -1 to 1.26765e+30"),
        (SOFT, 4, struct.pack("<f", float("nan")), "reset: expected -1"),
        (SOFT_FIXED, 0, struct.pack("<f", 0.5), "leak of fixed arithmetic: expected 0.25"),
        (SOFT_FIXED, 4, struct.pack("<i", 2**30 + 1), "reset: expected -1 to 1073741824, found 1073741825"),
        (SOFT_FIXED, 4, struct.pack("<i", -2), "reset: expected -1"),
    ],
)
def test_the_engine_refuses_nonsense(model: PackedModel, at: int, value: bytes, message: str) -> None:
    """Words 3 to 14 and mean and std of one channel are before the populations: channels, bundles, leak, reset."""
    data = engine_image(model)
    place = 4 * (3 + 8 + 2 + 2 + 2) + at
    assert load(data) == ""
    assert load(data[:place] + value + data[place + 4 :]).startswith(message)


def test_images_of_one_hard_neuron_are_as_before() -> None:
    assert struct.unpack("<I", engine_image(tiny_model())[4:8]) == (1,)
    assert struct.unpack("<I", engine_image(SOFT)[4:8]) == (2,)
    assert len(engine_image(SOFT)) == len(engine_image(tiny_model())) + 8


# --- int32 ---


def at_the_edge(reset: int, *, bias: int) -> PackedModel:
    """One neuron in fixed point, F = 1, with currents up to 2^30 of either sign, that fires above 1/2."""
    model = one_neuron(timesteps=4, fraction=1, threshold=0.5, reset=reset / 2)
    stem = replace(model.populations[0].synapses[0], scale=np.array([32767], np.int16), shift=0, bits=4)
    stem = replace(stem, codes=np.array([[[[15]]]], np.int8))  # 15·127·32767 = 62 million
    population = replace(model.populations[0], synapses=(stem,), bias=np.array([bias], np.int16), bias_shift=15)
    return replace(model, populations=(population,))


@pytest.mark.parametrize("bias", [-30000, 0, 30000])
def test_the_largest_reset_stays_in_int32(bias: int, tmp_path: Path) -> None:
    """Membranes of up to 1.04·10^9 and resets of 2^30, on all engines; sanitizers see what overflows."""
    model = at_the_edge(2**30, bias=bias)
    assert from_bytes(to_bytes(model)) == model
    x = np.linspace(-4, 4, 9, dtype=np.float32).reshape(9, 1, 1, 1)
    assert_exact(model, x)
    truth = Reference(model).run(x, record=True)
    flags = ("-O1", "-fsanitize=signed-integer-overflow", "-fno-sanitize-recover")
    firmware = Firmware(model, tmp_path, flags=flags)
    trace = firmware.run(x)
    assert trace.spikes is not None
    assert truth.spikes is not None
    np.testing.assert_array_equal(trace.spikes[0], truth.spikes[0])


def test_a_reset_of_two_to_the_hundred_stays_finite() -> None:
    rng = np.random.default_rng(0)
    model = replace(cell_model(rng, cells=1, width=4), timesteps=64, reset=MAX_RESET, leak=1.0)
    x = random_input(rng, model.input, 2)
    with np.errstate(all="raise", under="ignore"):
        assert_exact(model, x, methods=METHODS[:1])


def test_the_engine_class_runs_them() -> None:
    model = some_model(0, "float", True, True)
    x: NDArray[np.generic] = random_input(np.random.default_rng(0), model.input, 4)
    np.testing.assert_array_equal(Engine(model).run(x).logits, Reference(model).run(x).logits)
