"""The networks that the engine is compared with compute what the reference computes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import packed_models
from float_layers import fold, normalise
from litesnn.deploy import packed
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.reference import Reference, Trace
from litesnn.errors import InputError, LitesnnError
from prototype import Shape, make_prototype, random_images, weights
from torch_baselines import StepByStep, TimeBatched, compile_frozen, has_compiler

SEEDS = range(12)
TINY = Shape(filters=4, levels=(0, 1), bits=(4, 1), size=8, timesteps=3, classes=3, images=16)


def problem(seed: int, **shape: Any) -> tuple[PackedModel, NDArray[np.generic], Trace]:
    """A random model, a batch of 3 for it, and what the reference gives."""
    rng = np.random.default_rng(seed)
    model = packed_models.random_model(rng, **shape)
    x = packed_models.random_input(rng, model.input, 3)
    return model, x, Reference(model).run(x, record=True)


def share_wrong(spikes: list[NDArray[Any]], truth: Trace) -> float:
    """The share of neurons and timesteps whose spikes differ."""
    assert truth.spikes is not None
    wrong = sum(np.count_nonzero(mine != right) for mine, right in zip(spikes, truth.spikes, strict=True))
    return float(wrong) / sum(right.size for right in truth.spikes)


def assert_same(logits: NDArray[np.float32], spikes: list[NDArray[Any]], truth: Trace) -> None:
    """Equal spikes, and logits but for float32 rounding. (No neuron of these models comes that close to threshold.)"""
    assert share_wrong(spikes, truth) == 0
    np.testing.assert_allclose(logits, truth.logits[-1], rtol=1e-5, atol=1e-5)


def run_torch(module: StepByStep | TimeBatched, x: NDArray[np.float32]) -> tuple[Any, list[NDArray[Any]]]:
    record: list[torch.Tensor] = []
    with torch.no_grad():
        logits = module(torch.from_numpy(x), record)
    return logits.numpy(), [spikes.numpy() for spikes in record]


@pytest.mark.parametrize("seed", SEEDS)
def test_torch_equals_the_reference(seed: int) -> None:
    model, raw, truth = problem(seed)
    x = normalise(model.input, raw)
    for joined in (False, True):
        network = fold(model, joined=joined)
        assert_same(*run_torch(StepByStep(network), x), truth)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            assert_same(*run_torch(TimeBatched(network, memory_format), x), truth)


@pytest.mark.parametrize("seed", SEEDS)
def test_onnx_runtime_equals_the_reference(seed: int) -> None:
    onnx_baselines = _onnx_baselines()
    model, raw, truth = problem(seed)
    x = normalise(model.input, raw)
    for joined in (False, True):
        network = fold(model, joined=joined)
        for level in ("all", "extended"):
            session = onnx_baselines.session(onnx_baselines.float_graph(network, x.shape, record=True), level=level)
            assert_same(*_recorded(session, x), truth)
            session = onnx_baselines.session(onnx_baselines.float_graph(network, x.shape), level=level)
            np.testing.assert_allclose(session.run(None, {"image": x})[0], truth.logits[-1], rtol=1e-5, atol=1e-5)


def test_int8_is_near_the_reference(tmp_path: Path) -> None:
    """In its first populations, that is: errors grow from one to the next. Every convolution is one of bytes."""
    onnx_baselines = _onnx_baselines()
    model = make_prototype(TINY)
    raw = random_images(8, TINY.size, seed=5)
    x, truth = normalise(model.input, raw), Reference(model).run(raw, record=True)
    calibration = normalise(model.input, random_images(8, TINY.size, seed=6))
    assert truth.spikes is not None
    for joined in (False, True):
        network = fold(model, joined=joined)
        ranges = onnx_baselines.output_ranges(network, calibration)
        graph = onnx_baselines.int8_graph(network, ranges, x.shape, record=True)
        _, spikes = _recorded(onnx_baselines.session(graph), x)
        wrong = [np.mean(mine != right) for mine, right in zip(spikes, truth.spikes, strict=True)]
        assert wrong[0] < 0.01
        assert wrong[1] < 0.04
        assert max(wrong) < 0.1
        convolutions = [convolution for layer in network.layers for convolution in layer.convolutions]
        assert _operations(graph, tmp_path / "optimised.onnx").count("QLinearConv") == len(convolutions)
        others = sum(len(layer.bias) for layer in network.layers) * 30 + network.head.weight.nbytes + 4000
        dense = sum(convolution.weight.size for convolution in convolutions)
        assert dense < onnx_baselines.weight_bytes(graph) < dense + others


def test_joined_convolutions_share_their_sources() -> None:
    """Two 3×3 convolutions of one source become one, and those of several sources become one on all of them."""
    model = packed_models.cell_model(np.random.default_rng(0))
    separate, joined = fold(model, joined=False), fold(model, joined=True)
    assert [len(layer.convolutions) for layer in separate.layers[1:]] == [2] * 6
    assert [len(layer.convolutions) for layer in joined.layers[1:]] == [1] * 6
    assert joined.layers[1].convolutions[0].sources == (0,)
    assert joined.layers[3].convolutions[0].sources == (0, 1, 2)


def test_what_the_baselines_cannot_do_is_refused() -> None:
    model = packed_models.cell_model(np.random.default_rng(0))
    with pytest.raises(InputError, match="expected a float model"):
        fold(replace(model, fraction=12), joined=False)
    first, second = model.populations[:2]
    mixed = replace(second, synapses=(*second.synapses, first.synapses[0]))
    with pytest.raises(InputError, match="population 1: expected the image or spikes"):
        fold(replace(model, populations=(first, mixed)), joined=False)


def test_prototype_fires_at_its_rate_and_can_be_packed() -> None:
    model = make_prototype(TINY)
    assert packed.from_bytes(packed.to_bytes(model)) == model
    assert make_prototype(TINY) == model
    assert make_prototype(TINY, seed=1) != model
    trace = Reference(model).run(random_images(64, TINY.size, seed=5), record=True)
    assert trace.spikes is not None
    assert [spikes.shape[2] for spikes in trace.spikes] == [12, 4, 4, 4, 8, 8, 8]
    for spikes, population in zip(trace.spikes, model.populations, strict=True):
        assert population.rate == pytest.approx(TINY.rate, abs=0.01)
        assert float(spikes.mean()) == pytest.approx(TINY.rate, abs=0.03)
    cells = [synapses for population in model.populations[1:] for synapses in population.synapses]
    for synapses in cells:
        assert np.count_nonzero(synapses.codes) == round(TINY.keep * synapses.codes.size)
    total, kept = weights(model)
    assert total == sum(synapses.codes.size for synapses in cells) + 12 * 27 + 3 * 24
    assert kept == sum(np.count_nonzero(synapses.codes) for synapses in cells) + 12 * 27 + 3 * 24


def test_speedups_are_medians_of_the_ratios_of_each_round() -> None:
    engine = _benchmark()
    kernel = {"us_per_image": 2.0, "rounds_us_per_image": [1.0, 2.0, 4.0], "weight_bytes": 7, "limit_us_per_image": 0.5}
    rival = {"us_per_image": 10.0, "rounds_us_per_image": [20.0, 10.0, 10.0], "weight_bytes": 70}
    rival |= {"spikes_differ": 0.1, "wrong_per_spike": 1.0}
    figures = engine.figures_of({"avx512": kernel, "best_torch": rival}, ["avx512"])
    assert figures["avx512.speedup_vs_best_torch"] == 5.0
    assert figures["avx512.share_of_full_adder_limit"] == 0.25
    assert figures["avx512.us_per_image"] == 2.0
    assert figures["best_torch.weight_bytes"] == 70


def test_an_engine_that_is_not_exact_is_not_timed() -> None:
    engine = _benchmark()
    case = engine.Case("tiny", "", *_tiny_case())
    truth = Reference(case.model).run(case.images, record=True)
    assert truth.spikes is not None
    engine.check_engine(case, "portable", truth)
    with pytest.raises(LitesnnError, match="tiny, portable: logits"):
        engine.check_engine(case, "portable", replace(truth, logits=truth.logits + 1))
    truth.spikes[2][0, 0, 0, 0, 0] ^= 1
    with pytest.raises(LitesnnError, match="tiny, portable: population 2"):
        engine.check_engine(case, "portable", truth)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch.compile uses what torch deprecates
def test_every_contender_is_timed() -> None:
    engine = _benchmark()
    case = engine.Case("tiny", "", *_tiny_case())
    truth = Reference(case.model).run(case.images, record=True)
    results = engine.measure(case, 2, truth, ["portable"], rounds=3)
    assert list(results) == ["portable", "torch_eager", "best_torch", "ort_fp32", "ort_int8"]
    for result in results.values():
        assert len(result["rounds_us_per_image"]) == 3
        assert result["us_per_image"] > 0
    for name in ("torch_eager", "best_torch", "ort_fp32"):
        assert results[name]["spikes_differ"] == results[name]["classes_differ"] == 0
        assert results[name]["logits_differ"] < 1e-4
    assert results["ort_int8"]["spikes_differ"] < 0.1
    assert 0 < results["portable"]["limit_us_per_image"] < results["portable"]["us_per_image"]
    assert results["portable"]["weight_bytes"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch.compile uses what torch deprecates
def test_compiled_torch_equals_the_reference() -> None:
    if not has_compiler():
        pytest.skip("torch.compile needs a C++ compiler")
    model, raw, truth = problem(1)
    x = torch.from_numpy(normalise(model.input, raw))
    with torch.no_grad():
        compiled = compile_frozen(TimeBatched(fold(model, joined=True)), x)
        np.testing.assert_allclose(compiled(x).numpy(), truth.logits[-1], rtol=1e-5, atol=1e-5)


def _tiny_case() -> tuple[PackedModel, NDArray[np.uint8], NDArray[np.uint8]]:
    """A network, images to time it on, and images to calibrate with."""
    return make_prototype(TINY), random_images(4, TINY.size, seed=5), random_images(4, TINY.size, seed=6)


def _benchmark() -> Any:
    """The module of the benchmark, which cannot be imported without ONNX Runtime."""
    _onnx_baselines()
    return importlib.import_module("engine")


def _onnx_baselines() -> Any:
    pytest.importorskip("onnx", reason="onnx is missing")
    pytest.importorskip("onnxruntime", reason="onnxruntime is missing")
    return pytest.importorskip("onnx_baselines")


def _operations(graph: Any, path: Path) -> list[str]:
    """What ONNX Runtime makes of a graph."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def _recorded(session: Any, x: NDArray[np.float32]) -> tuple[Any, list[NDArray[Any]]]:
    logits, *spikes = session.run(None, {"image": x})
    return logits, [array.reshape(-1, len(x), *array.shape[1:]) for array in spikes]
