"""A NIR file: simulated by NIR's own equations it makes the reference's spikes; codes and scales are in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from litesnn.commands.exchange import export_nir
from litesnn.deploy.exchange.nir_graph import TIMESTEP, nir_bytes, nir_graph
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, write
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.errors import InputError
from nir_simulator import simulate
from packed_models import cell_model, random_input, random_model


def read_back(model: PackedModel, folder: Path) -> Any:
    path = folder / "model.nir"
    path.write_bytes(nir_bytes(model))
    return nir.read(path)


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def hand_model(leak: float = 0.2) -> PackedModel:
    """Two neurons of one pixel; the second population reads both of the first and the first alone, unchanged."""
    stem = Synapses((IMAGE,), 1, 1, 2, np.array([[[[1]]], [[[3]]]], np.int8), floats(0.5, 0.25))
    both = Synapses((0, 0), 1, 1, 2, np.array([[[[1]], [[-1]], [[3]], [[0]]]] * 2, np.int8), floats(0.25, 0.5))
    same = Synapses((0,), 0, 1, 0, np.zeros((2, 0, 0, 0), np.int8), floats(0.75, -0.125))
    zero = floats(0, 0)
    populations = (Population((stem,), floats(0.125, 0), None), Population((both, same), zero, None))
    head = Readout((1, 0), 3, np.array([[5, -7, 1, 3]], np.int8), floats(0.5), floats(0.25))
    spec = InputSpec((1, 1, 1), "array", (0.0,), (1.0,))
    return PackedModel(spec, 3, leak, 0.5, ("only",), populations, head)


@given(st.integers(0, 2**32 - 1))
def test_the_graph_makes_the_spikes_of_the_reference(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    x = random_input(rng, model.input, batch=3)
    trace = Reference(model).run(x, record=True)
    assert trace.spikes is not None
    graph = read_back(model, tmp_path_factory.mktemp("nir"))
    image = quantize_input(model.input, x).astype(np.float32)
    outputs, spikes = simulate(graph, image, dt=TIMESTEP, timesteps=model.timesteps)
    assert set(spikes) == {f"population_{index}" for index in used_populations(model)}
    for name, fired in spikes.items():
        np.testing.assert_array_equal(fired, trace.spikes[int(name.split("_")[1])])
    steps = np.arange(1, model.timesteps + 1).reshape(-1, 1, 1)
    np.testing.assert_allclose(outputs.cumsum(axis=0) / steps, trace.logits, rtol=1e-5, atol=1e-5)


def test_neurons_are_an_euler_step_of_ours(tmp_path: Path) -> None:
    graph = read_back(hand_model(), tmp_path)
    lif = graph.nodes["population_0"]
    assert lif.tau.shape == (2, 1, 1)
    assert lif.tau.dtype == np.float64
    assert np.all(lif.tau == 1.25 * TIMESTEP)
    assert np.all(lif.r == 1.25)
    assert np.all(lif.v_threshold == 0.5)
    assert not lif.v_leak.any()
    assert not lif.v_reset.any()
    assert np.float32(1 - TIMESTEP / lif.tau.flat[0]) == np.float32(0.2)


def test_a_concatenation_is_a_sum_of_convolutions(tmp_path: Path) -> None:
    graph = read_back(hand_model(), tmp_path)
    into = {edge for edge in graph.edges if edge[1] == "population_1"}
    names = ["synapses_0_source_0", "synapses_0_source_1", "synapses_1_source_0"]
    assert into == {(f"population_1_{name}", "population_1") for name in names}
    parts = [graph.nodes[f"population_1_{name}"] for name in names]
    np.testing.assert_array_equal(parts[0].weight[:, :, 0, 0], [[0.25, -0.25], [0.5, -0.5]])
    np.testing.assert_array_equal(parts[1].weight[:, :, 0, 0], [[0.75, 0], [1.5, 0]])
    np.testing.assert_array_equal(parts[2].weight[:, :, 0, 0], [[0.75, 0], [0, -0.125]])
    np.testing.assert_array_equal(parts[1].metadata["codes"][:, :, 0, 0], [[3, 0], [3, 0]])
    assert {tuple(edge) for edge in graph.edges} >= {("population_0", f"population_1_{name}") for name in names}


def test_the_readout_pools_every_source(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(0))
    graph = read_back(model, tmp_path)
    for place, source in enumerate(model.readout.sources):
        pool = graph.nodes[f"readout_pool_{place}"]
        assert tuple(pool.kernel_size) == tuple(pool.stride) == (8, 8)
        assert tuple(pool.padding) == (0, 0)
        assert (f"population_{source}", f"readout_pool_{place}") in graph.edges
    assert sum(bool(graph.nodes[f"readout_source_{place}"].bias.any()) for place in range(2)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_codes_scales_and_bits_are_in_the_file(tmp_path: Path, seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    graph = read_back(model, tmp_path)
    for index in used_populations(model):
        for number, synapses in enumerate(model.populations[index].synapses):
            names = [f"population_{index}_synapses_{number}_source_{place}" for place in range(len(synapses.sources))]
            nodes = [graph.nodes[name] for name in names]
            if synapses.kernel:
                joined = np.concatenate([node.metadata["codes"] for node in nodes], axis=1)
                np.testing.assert_array_equal(joined, synapses.codes)
            for node in nodes:
                assert node.metadata["bits"] == synapses.bits
                np.testing.assert_array_equal(node.metadata["scales"], synapses.scale)
                exact = node.metadata["codes"] * synapses.scale.astype(np.float64)[:, None, None, None]
                assert node.weight.dtype == np.float32
                np.testing.assert_array_equal(node.weight, exact)


def test_the_graph_says_how_to_run_it(tmp_path: Path) -> None:
    model = hand_model()
    said = read_back(model, tmp_path).metadata
    assert (said["discretization"], said["dt"], said["timesteps"]) == ("euler", TIMESTEP, 3)
    assert (said["leak"], said["threshold"], said["fires"]) == (0.2, 0.5, "above threshold")
    assert json.loads(said["classes"]) == ["only"]
    assert said["input_steps"] == 32


def test_readers_that_fire_at_the_threshold_get_the_next_float() -> None:
    graph = nir_graph(hand_model(), fires_at_threshold=True)
    above = graph.nodes["population_0"].v_threshold.flat[0]
    assert above == np.nextafter(np.float32(0.5), np.float32(1)) > 0.5
    assert graph.metadata["fires"] == "at v_threshold or above"
    assert graph.metadata["threshold"] == 0.5


def test_populations_that_nobody_reads_are_left_out() -> None:
    model = hand_model()
    alone = replace(model, readout=replace(model.readout, sources=(0,), codes=np.array([[1, 3]], np.int8)))
    assert used_populations(model) == (0, 1)
    assert used_populations(alone) == (0,)
    graph = nir_graph(alone)
    assert "population_1" not in graph.nodes
    assert list(graph.outputs) == ["output"]


def test_equal_models_give_equal_files() -> None:
    assert nir_bytes(cell_model(np.random.default_rng(1))) == nir_bytes(cell_model(np.random.default_rng(1)))


def test_what_nir_cannot_carry_is_refused(tmp_path: Path) -> None:
    fixed = cell_model(np.random.default_rng(0), arithmetic="fixed")
    write(fixed, tmp_path / "fixed.safetensors")
    with pytest.raises(InputError, match=r"^NIR cannot carry a fixed-point network: .*'fixed'$"):
        export_nir(tmp_path / "fixed.safetensors", tmp_path / "model.nir")
    assert not (tmp_path / "model.nir").exists()
    with pytest.raises(InputError, match=r"leak 1\.0$"):
        nir_graph(hand_model(leak=1.0))
