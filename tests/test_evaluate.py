from __future__ import annotations

import dataclasses
import json
import math
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from litesnn.budget import Budget
from litesnn.data.batches import Samples
from litesnn.data.sources import Data, Split, load
from litesnn.deploy.pack import pack
from litesnn.errors import InputError
from litesnn.genotype import ArithmeticName
from litesnn.network_file import build_network, load_network, save_network
from litesnn.runs import RunFolder
from litesnn.search.derive import derive
from litesnn.search.joint import search
from litesnn.snn.compconv import Connection
from litesnn.snn.network import Network
from litesnn.train import evaluate as module
from litesnn.train.evaluate import evaluate, measure, silence
from litesnn.train.fit import fit
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session
from tiny import genotype, input_info, lively_network, quantized_images
from whole_job import Problem, begin, inputs

SHAPE = (1, 4, 3)


def hand_made(currents: dict[str, Tensor], *, keep: float = 1.0, edges: tuple[tuple[int, int, str], ...]) -> Network:
    """A network whose neurons see nothing but a constant current per channel: all fire always, or never."""
    gene = genotype(timesteps=2, edges=edges, levels=(0,), width=3, bits=2, keep=keep, stem=2)
    network = build_network(gene, input_info(SHAPE), 0).eval()
    with torch.no_grad():
        for name, part in network.named_modules():
            if isinstance(part, Connection):
                part.norm.weight.zero_()
                part.norm.bias.copy_(currents["stem" if "stem" in name else "cell"])
        network.backbone.classifier_bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    return network


ON, OFF = 5.0, -5.0
SAMPLES = Samples(quantized_images(SHAPE, batch=4).to(torch.int8), torch.tensor([0, 1, 2, 2]))


def test_counts_when_every_neuron_fires() -> None:
    """Taps inside a 4 × 3 map: (3·4 − 2)·(3·3 − 2) = 70 for each of 2 · 3 channel pairs; T = 2, and 2 bits."""
    network = hand_made({"stem": torch.tensor([ON, ON]), "cell": torch.full((3,), ON)}, edges=((0, 1, "conv3x3"),))
    found = measure(network, SAMPLES)
    assert found.rates == {"stem": 1.0, "cell 1 node 0": 1.0}
    assert found.synops == {"cell 1 0_1_conv3x3": 2 * 70 * 6, "classifier": 2 * 36 * 3}
    assert found.bit_synops == {"cell 1 0_1_conv3x3": 2 * 70 * 6 * 2, "classifier": 2 * 36 * 3 * 4}
    summary = found.summary(("a", "b", "c"))
    assert summary["synops"] == 840 + 216
    assert summary["bit_synops"] == 1680 + 864
    assert summary["timesteps"] == 2


def test_counts_when_one_channel_fires_and_an_identity_hands_it_on() -> None:
    """Channel 0 of the stem reaches 70 · 3 weights; node 0's channel 1 goes on, spike by spike, as one bit."""
    network = hand_made(
        {"stem": torch.tensor([ON, OFF]), "cell": torch.tensor([OFF, ON, OFF])},
        edges=((0, 0, "conv3x3"), (1, 2, "skip")),
    )
    found = measure(network, SAMPLES)
    assert found.rates == pytest.approx({"stem": 1 / 2, "cell 1 node 0": 1 / 3, "cell 1 node 1": 1 / 3}, rel=1e-6)
    assert found.synops == {"cell 1 0_0_conv3x3": 2 * 210, "cell 1 1_2_skip": 2 * 12, "classifier": 2 * (12 + 12) * 3}
    assert found.bit_synops["cell 1 1_2_skip"] == 2 * 12
    assert found.bit_synops["cell 1 0_0_conv3x3"] == 2 * 210 * 2


def test_pruned_weights_are_no_work() -> None:
    network = hand_made(
        {"stem": torch.tensor([ON, ON]), "cell": torch.full((3,), ON)}, keep=0.5, edges=((0, 1, "conv1x1"),)
    )
    found = measure(network, SAMPLES)
    assert found.synops["cell 1 0_1_conv1x1"] == 2 * 12 * 3  # 3 of 6 weights, 12 pixels, 2 timesteps


def test_a_silent_network_answers_with_its_biases() -> None:
    """Always class 2: two of four are right, and the loss is that of the biases (0, 1, 3)."""
    network = hand_made({"stem": torch.tensor([OFF, OFF]), "cell": torch.full((3,), OFF)}, edges=((0, 1, "conv3x3"),))
    found = measure(network, SAMPLES)
    assert set(found.synops.values()) == {0.0}
    assert set(found.rates.values()) == {0.0}
    assert found.accuracy_at == [0.5, 0.5]
    assert found.confusion == [[0, 0, 1], [0, 0, 1], [0, 0, 2]]
    whole = math.log(1 + math.e + math.e**3)
    assert found.loss == pytest.approx((whole + (whole - 1) + 2 * (whole - 3)) / 4, rel=1e-6)


def test_silent_populations_are_named() -> None:
    rates = {"stem": 0.2, "cell 1 node 0": 0.0, "cell 1 node 1": 0.00099, "cell 2 node 0": 0.001}
    said = silence(rates, "test", Budget(bit_synops=20000))
    names = "almost no spikes on test from cell 1 node 0 (0.00%), cell 1 node 1 (0.10%)"
    assert said == f"{names}; the limit of 20 k Bit-SynOps may be too tight"
    assert silence(rates, "validation", Budget()) == names.replace("test", "validation")
    assert silence({"stem": 0.001}, "test", Budget(bit_synops=1)) is None


def test_a_limit_that_silences_the_network_is_reported(problem: Problem, tmp_path: Path) -> None:
    """At 10 Bit-SynOps no neuron can fire often: training and evaluation say who is silent, and why that may be."""
    run, data, _ = begin(tmp_path / "run", problem.data, {"search.epochs": 1, "train.epochs": 1})
    for stage in (search, derive, fit):
        stage(StageContext.of(run, data, Session()))
    path = run.output("train")
    network = load_network(path)
    with torch.no_grad():
        network.backbone.stem.norm.bias.fill_(-100.0)
    save_network(path, network)
    limited = run.recipe().model_copy(update={"budget": Budget(bit_synops=10)})
    (run / "recipe.toml").write_text(limited.to_toml())
    text = StringIO()
    evaluate(StageContext.of(run, data, Session(console=Console(file=text, width=400))))
    metrics = run.metrics()
    assert metrics["bit_synops"] == 0
    assert metrics["arithmetic"] == "float"
    (note,) = metrics["notes"]
    assert note.startswith("almost no spikes on test from stem (0.00%), ")
    assert note.endswith("; the limit of 10 Bit-SynOps may be too tight")
    warnings = metrics["warnings"]
    assert [row["rule"] for row in warnings] == ["near_chance", "below_linear", "never_found", "uncertain"]
    assert text.getvalue().splitlines() == [row["text"] for row in warnings] + [note]


def test_rates_and_counts_against_the_spikes_themselves() -> None:
    info = input_info((2, 5, 4))
    network = lively_network(genotype(timesteps=3), info, seed=4)
    x = quantized_images(info.shape, batch=6)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        logits = network(x, record=record).logits
    found = measure(network, Samples(x.to(torch.int8), torch.arange(6) % 3))
    assert found.rates == pytest.approx({name: float(spikes.mean()) for name, spikes in record.items()}, rel=1e-5)
    assert any(0 < rate < 1 for rate in found.rates.values())
    last = [record[f"cell 2 node {node}"] for node in (0, 1)]
    assert found.synops["classifier"] == pytest.approx(3 * sum(float(spikes.sum()) for spikes in last) / 6)
    assert found.accuracy_at == [int((step.argmax(1) == torch.arange(6) % 3).sum()) / 6 for step in logits]


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_graded_spikes_are_counted_by_planes_by_values_and_as_virtual_timesteps(
    monkeypatch: pytest.MonkeyPatch, arithmetic: ArithmeticName
) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)
    info = input_info((2, 5, 4))
    network = lively_network(genotype(timesteps=3, spike_levels=3, arithmetic=arithmetic), info, seed=4)
    x = quantized_images(info.shape, batch=6)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        network(x, record=record)
    found = measure(network, Samples(x.to(torch.int8), torch.arange(6) % 3))
    fired = {name: float((spikes > 0).float().mean()) for name, spikes in record.items()}
    planes = {name: float((spikes % 2 + spikes // 2).mean()) for name, spikes in record.items()}
    assert found.rates == pytest.approx(fired, rel=1e-5)
    assert found.spikes == pytest.approx(planes, rel=1e-5)
    assert all(0 < found.rates[name] < found.spikes[name] for name in found.rates)
    last = torch.cat([record[f"cell 2 node {node}"] for node in (0, 1)], dim=2)
    sums = [float(3 * spikes.sum() / 6) for spikes in (last % 2 + last // 2, last, last > 0)]
    ours = [each["classifier"] for each in (found.synops, found.virtual_synops, found.macs)]
    assert ours == pytest.approx(sums)
    assert found.bit_macs["classifier"] == pytest.approx(4 * sums[2])
    summary = found.summary(info.classes)
    assert summary["synops_virtual"] == sum(found.virtual_synops.values()) > summary["synops"]
    assert summary["bit_synops_virtual"] == sum(found.virtual_bit_synops.values()) > summary["bit_synops"]
    assert found.virtual_synops.keys() == found.macs.keys() == found.synops.keys()
    assert found.other_work("stem") == {}


def test_binary_spikes_have_no_other_counts() -> None:
    found = measure(lively_network(genotype(), input_info(SHAPE)), SAMPLES)
    others = found.virtual_synops, found.virtual_bit_synops, found.macs, found.bit_macs, found.spikes
    assert not any(others)
    assert "synops_virtual" not in found.summary(("a", "b", "c"))
    assert found.other_work("classifier") == {}


@pytest.mark.parametrize("size", [1, 7, 29, 30])
def test_metrics_do_not_depend_on_the_batch_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    expected = run.metrics()
    monkeypatch.setattr(module, "_BATCH", size)
    evaluate(StageContext.of(run, load(run.recipe().data), Session()))
    assert_alike(run.metrics(), expected)


def assert_alike(found: Any, expected: Any) -> None:
    """Equal, but for the rounding of float32 means."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_alike(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


def test_the_test_rows_are_not_read_before_evaluation(problem: Problem, tmp_path: Path) -> None:
    changes = {"search.epochs": 1, "train.epochs": 1}
    run, data, session = begin(tmp_path / "run", problem.data, changes)
    reads: list[str] = []

    def read_test() -> Split:
        reads.append("test")
        return data.test()

    def forbidden() -> Split:
        pytest.fail("the test rows were read too early")

    early = dataclasses.replace(data, read_test=forbidden)
    for stage in (search, derive, fit):
        stage(StageContext.of(run, early, session))
    with pytest.raises(pytest.fail.Exception):
        evaluate(StageContext.of(run, early, session))
    evaluate(StageContext.of(run, dataclasses.replace(data, read_test=read_test), session))
    assert reads == ["test"]
    pack(StageContext.of(run, early, session))  # its proof runs on validation rows


def test_the_file_itself_is_asked_for_test_rows_only_by_evaluation(tmp_path: Path, problem: Problem) -> None:
    """Damaged test rows stop nothing before they are needed."""
    x, y = inputs()
    path = tmp_path / "own.npz"
    np.savez(path, x=x[:120], y=y[:120], x_test=x[120:, :, :, :7], y_test=y[120:])
    run, data, session = begin(tmp_path / "run", path, {"search.epochs": 1, "train.epochs": 1})
    for stage in (search, derive, fit):
        stage(StageContext.of(run, data, session))
    run.output("evaluate").write_text("of an earlier evaluation")
    with pytest.raises(InputError, match="test rows: inputs are"):
        evaluate(StageContext.of(run, data, session))
    assert run.done("evaluate")  # a refusal takes nothing away


def test_evaluation_refuses_other_data(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    data = load(run.recipe().data)
    others: list[Data] = [
        dataclasses.replace(data, classes=("a", "b", "c")),
        dataclasses.replace(data, shape=(1, 8, 9)),
    ]
    for other in others:
        with pytest.raises(InputError, match="was trained on other data than blobs"):
            evaluate(StageContext.of(run, other, Session()))
    assert run.done("evaluate")  # a refusal takes nothing away


def test_the_metrics_file_adds_up(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["synops"] == pytest.approx(sum(row["synops"] or 0 for row in metrics["layers"]))
    assert metrics["model_size_bytes"] == sum(row["kept"] * row["bits"] for row in metrics["layers"]) / 8
    assert metrics["weights"] == sum(row["weights"] for row in metrics["layers"])
    assert metrics["energy"]["total_nj"] == pytest.approx(metrics["energy"]["stem_nj"] + metrics["energy"]["synops_nj"])
    correct = sum(row[index] for index, row in enumerate(metrics["confusion"]))
    assert metrics["notes"] == []
    assert correct / 30 == pytest.approx(metrics["test_accuracy"])
    assert {row["name"] for row in metrics["size_table"]} == {row["name"] for row in metrics["layers"]} | {
        f"{row['name']} bias" for row in metrics["neurons"]
    }


def test_accuracy_is_put_beside_a_linear_classifier(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    simple = metrics["baselines"]
    assert simple["chance"] == simple["majority"] == pytest.approx(1 / 3)
    assert simple["linear"]["accuracy"] == 1.0  # one pattern per class
    assert simple["linear"]["gain"] == pytest.approx(metrics["test_accuracy"] - 1.0)
    assert (simple["linear"]["rows"], simple["linear"]["features"]) == (96, 64)
    assert metrics["balanced_accuracy"] == pytest.approx(metrics["test_accuracy"])  # ten rows of each class
    assert [row["test_rows"] for row in metrics["per_class"]] == [10, 10, 10]
    assert sum(row["train_rows"] for row in metrics["per_class"]) == 96
    for k, row in enumerate(metrics["per_class"]):
        assert row["recall"] == metrics["confusion"][k][k] / 10


def test_predictions_are_in_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    info = input_info((2, 5, 4))
    network = lively_network(genotype(timesteps=3), info, seed=4)
    x = quantized_images(info.shape, batch=7)
    with torch.no_grad():
        expected = network(x).logits[-1].argmax(1).tolist()
    monkeypatch.setattr(module, "_BATCH", 3)
    assert list(measure(network, Samples(x.to(torch.int8), torch.arange(7) % 3)).predicted) == expected


@pytest.mark.parametrize("line", ["{", '{"epoch": 1}', "3", '{"validation_accuracy": "x"}'])
def test_a_damaged_log_is_refused_before_anything_is_removed(finished: Path, tmp_path: Path, line: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    (run / "train.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"train\.jsonl is damaged: line 1: "):
        evaluate(StageContext.of(run, load(run.recipe().data), Session()))
    assert run.done("evaluate")


def test_without_a_log_of_training_nothing_is_said_of_it(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    data = load(run.recipe().data)
    rows = [{"validation_accuracy": 0.1 + 0.03 * epoch} for epoch in range(30)]
    (run / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for log, said in ((True, True), (False, False)):
        if not log:
            (run / "train.jsonl").unlink()
        evaluate(StageContext.of(run, data, Session()))
        assert ("rising" in {row["rule"] for row in run.metrics()["warnings"]}) is said
