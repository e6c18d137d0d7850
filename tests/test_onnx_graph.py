"""The ONNX graph in ONNX Runtime: the reference's spikes and logits, bit for bit, from low-bit weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from litesnn.commands.exchange import export_onnx
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, write
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from packed_models import cell_model, random_codes, random_input, random_model


def session(data: bytes, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def one_layer(codes: NDArray[np.int8], bits: int) -> PackedModel:
    """A stem with ``codes`` [O, I, k, k], all of it 1-bit but for them."""
    channels = len(codes)
    stem = Synapses((IMAGE,), codes.shape[2], 1, bits, codes, np.full(channels, 2.0**-9, np.float32))
    head = Readout((0,), 1, np.ones((2, channels), np.int8), floats(0.5, 0.25), floats(0, 0.125))
    spec = InputSpec((codes.shape[1], 5, 4), "array", (0.0,) * codes.shape[1], (1.0,) * codes.shape[1])
    population = Population((stem,), np.zeros(channels, np.float32), None)
    return PackedModel(spec, 2, 0.2, 0.5, ("a", "b"), (population,), head)


def initializers(model: PackedModel) -> Counter[str]:
    """How many weights are kept in integers of each type."""
    found: Counter[str] = Counter()
    for constant in onnx_graph(model).graph.initializer:
        found[onnx.TensorProto.DataType.Name(constant.data_type)] += int(np.prod(constant.dims))
    return found


@given(st.integers(0, 2**32 - 1))
def test_the_runtime_equals_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    graph = onnx_graph(model, record=True).SerializeToString()
    for batch, optimised in ((1, True), (3, True), (3, False)):  # the batch axis is dynamic
        x = random_input(rng, model.input, batch)
        trace = Reference(model).run(x, record=True)
        assert trace.spikes is not None
        logits, *spikes = session(graph, optimised=optimised).run(None, {"image": x})
        np.testing.assert_array_equal(logits, trace.logits[-1])
        for index, fired in zip(used_populations(model), spikes, strict=True):
            np.testing.assert_array_equal(fired.reshape(trace.spikes[index].shape), trace.spikes[index])


@pytest.mark.parametrize(
    ("bits", "keep", "kind"),
    [
        (1, 1.0, "INT2"),
        (1, 0.5, "INT2"),
        (2, 1.0, "INT2"),
        (2, 0.5, "INT4"),
        (3, 1.0, "INT4"),
        (3, 0.5, "INT4"),
        (4, 1.0, "INT4"),
        (4, 0.5, "INT8"),
    ],
)
def test_weights_are_kept_in_the_smallest_integers_that_hold_them(bits: int, keep: float, kind: str) -> None:
    rng = np.random.default_rng(0)
    model = one_layer(random_codes(rng, (4, 3, 3, 3), bits, keep), bits)
    kinds = initializers(model)
    assert kinds[kind] == 4 * 3 * 9 + (8 if kind == "INT2" else 0)
    x = random_input(rng, model.input, 6)
    (logits,) = session(onnx_graph(model).SerializeToString()).run(None, {"image": x})
    np.testing.assert_array_equal(logits, Reference(model).run(x).logits[-1])


def test_the_file_asks_for_no_newer_runtime_than_it_needs() -> None:
    codes = random_codes(np.random.default_rng(0), (4, 1, 3, 3), 3, 0.5)
    model = one_layer(codes, 3)
    head = np.array([[7, -5, 3, 1]] * 2, np.int8)
    assert onnx_graph(model).opset_import[0].version == 25  # the readout has 1-bit weights
    wider = replace(model, readout=replace(model.readout, bits=3, codes=head))
    assert onnx_graph(wider).opset_import[0].version == 21


def test_the_graph_says_what_goes_in_and_out() -> None:
    model = cell_model(np.random.default_rng(0))
    proto = onnx_graph(model)
    onnx.checker.check_model(proto, full_check=True)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    sizes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in (image, logits)
    ]
    assert sizes == [["batch", 1, 8, 8], ["batch", 10]]
    assert {row.key: row.value for row in proto.metadata_props}["timesteps"] == "4"


def test_a_file_is_written_beside_the_packed_model(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(0))
    write(model, tmp_path / "model.safetensors")
    exported = export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    assert exported.bytes == (tmp_path / "model.onnx").stat().st_size
    assert exported.packed_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert (tmp_path / "model.onnx").read_bytes() == onnx_graph(model).SerializeToString(deterministic=True)
    assert exported.summary().endswith(f"(the packed model has {exported.packed_bytes:,} B)")


def test_what_onnx_cannot_carry_is_refused(tmp_path: Path) -> None:
    write(cell_model(np.random.default_rng(0), arithmetic="fixed"), tmp_path / "fixed.safetensors")
    with pytest.raises(InputError, match=r"^ONNX cannot carry a fixed-point network"):
        export_onnx(tmp_path / "fixed.safetensors", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
    codes = np.full((1, 1, 3, 3), 15, np.int8)
    assert onnx_graph(one_layer(codes, 4))
    large = one_layer(np.full((1, 999, 3, 3), 15, np.int8), 4)
    with pytest.raises(InputError, match=r"population 0, synapses 0: its sums reach 17127855, and float32"):
        onnx_graph(large)
