"""Every row of the table of operations: computed, searched, chosen, trained, evaluated, packed and exported."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import exactness
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.deploy.exchange.nir_graph import nir_bytes
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.export_c.folder import export_c
from litesnn.deploy.integerize import integerize, require_packable
from litesnn.deploy.packed import read, size_table, to_bytes
from litesnn.errors import InputError
from litesnn.genotype import ENGINES, OPS, Edge, Genotype, Op
from litesnn.network_file import build_network, load_network
from litesnn.search.derive import choose, largest_file, learned_preferences
from litesnn.search.joint import build_supernet
from litesnn.snn.compconv import CompConv, Compression, count_reached
from litesnn.snn.cost import Meter, synops, tap_spikes
from litesnn.training_loop.expectation import Mixed
from tiny import genotype, images, input_info, lively_network, quantized_images
from whole_job import Problem, litesnn

ROWS = list(OPS)
SHAPE = (2, 9, 7)
CHANNELS = ((1, 1), (4, 4), (6, 4), (5, 3), (8, 12), (12, 8))

every_row = pytest.mark.parametrize("name", ROWS)


def edges_of(name: str) -> tuple[tuple[int, int, str], ...]:
    return ((0, 0, name), (0, 1, name), (1, 1, name), (1, 2, name))


def made_for(name: str, **changes: Any) -> Recipe:
    """A small recipe whose only operation is this one."""
    model = {"width": 4, "nodes": 2, "levels": [0, 1], "stem_channels": 6, "ops": [name]}
    search = {"bits": [1, 4], "keeps": [0.3, 1.0], "widths": [0.5, 1.0], "timesteps": 2}
    return Recipe.model_validate({"model": model, "search": search}).changed(changes)


def test_the_table_has_rows() -> None:
    assert len(ROWS) >= 4
    assert [name for name, op in OPS.items() if op.identity] == ["skip"]
    assert all(set(op.engines) <= set(ENGINES) for op in OPS.values())


@every_row
@pytest.mark.parametrize(("inputs", "outputs"), CHANNELS)
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_torchs_convolution(name: str, inputs: int, outputs: int, stride: int) -> None:
    """Value, both gradients and SynOps of the layer are those of ``conv2d`` with as many groups."""
    op = OPS[name]
    groups = op.groups(inputs, outputs)
    assert inputs % groups == outputs % groups == 0
    conv = CompConv(inputs, outputs, op.kernel, stride, groups=groups).double()
    assert conv.weight.numel() == op.weights(inputs, outputs)
    assert conv.inputs == inputs
    compression = Compression.fixed(3, 0.5, torch.device("cpu"))
    masks = conv.masks(compression)
    effective = conv.effective_weight(compression, masks)
    x = torch.rand(3, inputs, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    ours = conv.convolve(x, conv.dense(effective))
    assert conv.dense(effective).numel() == op.places(inputs, outputs)
    theirs = F.conv2d(x, effective, stride=stride, padding=op.kernel // 2, groups=groups)
    torch.testing.assert_close(ours, theirs)
    factors = torch.rand(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = torch.autograd.grad((theirs * factors).sum(), (x, conv.weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad((ours * factors).sum(), (x, conv.weight)), wanted)
    with torch.no_grad():
        spikes = (x > 0.6).double()
        spikes_met = F.conv2d(spikes, masks[0], stride=stride, padding=op.kernel // 2, groups=groups)
        used = synops(
            tap_spikes(spikes.mean(0)[None], op.kernel, stride), count_reached([masks[0][None]], groups=groups)
        )
    assert float(used.sum()) == pytest.approx(float(spikes_met.sum()) / len(x))


@every_row
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_its_engines_compute_what_torch_does(name: str, arithmetic: Any, keep: float, tmp_path: Path) -> None:
    gene = genotype(edges=edges_of(name), levels=(0, 0, 1), width=4, keep=keep, stem=6, arithmetic=arithmetic)
    network = lively_network(gene, input_info(SHAPE), 1)
    if "reference" not in OPS[name].engines:
        with pytest.raises(InputError, match=f"operation {name!r} cannot be packed"):
            integerize(network)
        return
    packed = integerize(network)
    for row in exactness.compare(network, packed, images(SHAPE, 3, 1)):
        assert row.exact, row
    for said, layer in zip(
        network.layers(),
        [layer for layer in size_table(packed).layers if not layer.name.endswith("bias")],
        strict=True,
    ):
        assert (said.places, said.kept, said.bits) == (layer.weights, layer.kept, layer.bits)
    if "c" in OPS[name].engines:
        export_c(packed, tmp_path / "c", np.zeros((1, *SHAPE), np.float32), name="op")
    if arithmetic == "float":
        assert "nir" not in OPS[name].engines or nir_bytes(packed)
        assert "onnx" not in OPS[name].engines or onnx_graph(packed)


@every_row
@pytest.mark.parametrize("keep", [0.3, 1.0])
@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_decided_search_expects_no_less_than_the_file_has(name: str, keep: float, bits: int, width: float) -> None:
    """With one node of two inputs, nothing is left to chance: bytes, SynOps and Bit-SynOps."""
    made = made_for(
        name,
        **{"model.nodes": 1, "search.bits": [bits], "search.keeps": [keep], "search.timesteps": 1, "search.fill": 0.0},
    )
    info = input_info(SHAPE)
    supernet = build_supernet(made, info.shape, len(info.classes))
    with torch.no_grad():
        supernet.width.fill_(-60)[:, (0.5, 1.0).index(width)] = 60
    meter = Meter()
    supernet(quantized_images(SHAPE, 4), meter=meter)
    mixed = Mixed(supernet, supernet.mixes(), meter, torch.ones(1), frames=False)
    preferences = learned_preferences(supernet, {key: rate.tolist() for key, rate in meter.rates.items()})
    gene, _ = choose(preferences, made, info)
    assert [cell.width for cell in gene.cells] == [round(4 * width), round(8 * width)]
    network = lively_network(gene, info)
    table, layers = size_table(integerize(network)), len(network.layers())
    size, model_size = (float(_expected(key, mixed)) for key in ("packed_bytes", "model_size_bytes"))
    assert table.bytes - table.header_bytes <= size - supernet.header_bytes + 2 * layers
    assert 8 * model_size == pytest.approx(network.model_size_bits(), abs=sum(layer.bits for layer in network.layers()))
    if width == 1:  # a narrower network has other groups, and is trained anew
        weights = {key: value for key, value in supernet.state_dict().items() if key.startswith("backbone.")}
        derived = build_network(gene, info, 0)
        derived.load_state_dict({key: weights[key] for key in derived.state_dict()})
        counted = Meter()
        derived.train()(quantized_images(SHAPE, 4), meter=counted)
        for key in ("synops", "bit_synops"):
            found = float(_expected(key, Mixed(supernet, supernet.mixes(), counted, torch.ones(1), frames=False)))
            assert float(_expected(key, mixed)) == pytest.approx(found, rel=1e-5)


def _expected(key: str, mixed: Mixed) -> torch.Tensor:
    expected = COSTS[key].expected
    assert expected is not None
    return expected(mixed).detach()


@every_row
def test_a_whole_job(name: str, problem: Problem, tmp_path: Path) -> None:
    """Searched beside another operation, derived, trained, evaluated and packed within the budget."""
    run = tmp_path / "run"
    ops = json.dumps([name, "conv1x1" if name != "conv1x1" else "conv3x3"])
    changes = [f"model.ops={ops}", "model.spatial_edges=0", "search.epochs=2", "train.epochs=1", "model.width=4"]
    outcome = litesnn("design", *problem.options(run), *(word for change in changes for word in ("--set", change)))
    assert outcome.code == 0, outcome.err
    metrics = json.loads((run / "metrics.json").read_text())
    network, packed = load_network(run / "network.safetensors"), read(run / "model.safetensors")
    assert metrics["packed_bytes"] == len(to_bytes(packed)) <= min(2500, largest_file(network.genotype, network.info))
    assert metrics["kept_weights"] == sum(layer.kept for layer in size_table(packed).layers)
    assert metrics["weights"] == sum(layer.weights for layer in network.layers())
    x = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for row in exactness.compare(network, packed, x):
        assert row.exact, row


@pytest.fixture
def unpackable(monkeypatch: pytest.MonkeyPatch) -> str:
    """An operation that no engine has, and one that a few have."""
    monkeypatch.setitem(OPS, "odd3x3", Op(kernel=3, engines=()))
    monkeypatch.setitem(OPS, "half3x3", Op(kernel=3, engines=("reference", "native")))
    return "odd3x3"


def test_an_operation_without_engines_is_searched_and_trained_but_not_packed(
    unpackable: str, problem: Problem, tmp_path: Path
) -> None:
    made = made_for(unpackable)
    info = input_info(SHAPE)
    assert build_supernet(made, info.shape, len(info.classes))(quantized_images(SHAPE)).logits.isfinite().all()
    network = build_network(genotype(edges=edges_of(unpackable)), info, 0)
    assert network(quantized_images(SHAPE)).logits.requires_grad
    message = f"operation '{unpackable}' cannot be packed; it has no engine"
    for refused in (lambda: integerize(network), lambda: require_packable(made.model.neuron, made.model.ops)):
        with pytest.raises(InputError, match=message):
            refused()
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--set", f'model.ops=["{unpackable}"]')
    assert outcome.code == 2
    assert message in outcome.complaints
    assert outcome.complaints.count("\n") == 1
    assert not (tmp_path / "run" / "search.jsonl").exists()


def test_an_engine_without_an_operation_refuses_it_by_name(unpackable: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in finished.iterdir():
        if path.is_file():
            (run / path.name).write_bytes(path.read_bytes())
    gene = Genotype.read(run / "genotype.json")
    edges = tuple(Edge(node=edge.node, source=edge.source, op="half3x3") for edge in gene.edges)
    (run / "genotype.json").write_text(gene.model_copy(update={"edges": edges}).to_json())
    for engine in ("c", "nir", "onnx"):
        out = tmp_path / f"out.{engine}"
        outcome = litesnn("export", engine, run, "--out", out)
        assert outcome.code == 2
        assert (
            f"operation 'half3x3' is not there in the engine '{engine}'; it has reference, native" in outcome.complaints
        )
        assert not out.exists()


def test_groups_by_hand() -> None:
    """What the rows with groups divide: never more than both channels have in common."""
    for inputs, outputs in itertools.product(range(1, 13), repeat=2):
        for name, op in OPS.items():
            groups = op.groups(inputs, outputs)
            assert math.gcd(inputs, outputs) % groups == 0, name
            assert op.weights(inputs, outputs) * groups == op.places(inputs, outputs)
