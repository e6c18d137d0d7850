from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from litesnn import Engine, Reference
from litesnn.data.sources import load
from litesnn.deploy.packed import read
from litesnn.runs import RunFolder
from whole_job import Outcome, litesnn


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def evaluate(run: Path, *options: str) -> Outcome:
    return litesnn("evaluate", str(run), "--engine", "native", *options)


def test_the_engine_is_measured_on_the_test_set(copy: Path) -> None:
    before = json.loads((copy / "metrics.json").read_text())
    outcome = evaluate(copy, "--threads", "2")
    assert outcome.code == 0, outcome
    after = json.loads((copy / "metrics.json").read_text())
    measured = after.pop("engine")
    assert after == before
    model = read(copy / "model.safetensors")
    test = load(RunFolder(copy).recipe().data).test()
    guesses = Reference(model).classify(test.x.numpy())
    assert measured["test"] == len(guesses) == measured["same_predictions"]
    assert measured["test_accuracy"] == before["test_accuracy"] == np.mean(guesses == test.y.numpy())
    engine = Engine(model, threads=2)
    engine.predict(test.x.numpy())
    assert measured["kernel"] == engine.kernel
    assert measured["threads"] == 2
    assert measured["additions"] == engine.additions / len(guesses)
    assert measured["weight_bytes"] == engine.weight_bytes
    assert [row["batch"] for row in measured["speed"]] == [1, min(256, len(guesses))]
    for row in measured["speed"]:
        assert row["engine_us"] > 0
        assert row["torch_us"] > 0
        assert row["rounds"] == 7
    assert "native engine" in outcome.out
    assert f"{len(guesses)} of {len(guesses)} predictions as torch's" in " ".join(outcome.out.split())


@pytest.mark.job
def test_summary_and_report_tell_of_it(copy: Path) -> None:
    assert 'id="engine"' not in (copy / "report.html").read_text()
    evaluate(copy)
    page = (copy / "report.html").read_text()
    assert '<section id="engine">' in page
    assert "In the native engine" in page
    outcome = litesnn("design", "--run", str(copy))
    assert "additions of the native engine" in outcome.out


def test_needs_a_packed_model_and_metrics(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    outcome = evaluate(copy)
    assert outcome.code == 2
    assert "model.safetensors is missing: run 'litesnn pack" in outcome.err
    (copy / "metrics.json").unlink()
    outcome = evaluate(copy)
    assert outcome.code == 2
    assert "metrics.json is missing: run 'litesnn evaluate" in outcome.err


@pytest.mark.job
def test_a_broken_budget_is_still_one(copy: Path) -> None:
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["budgets"][0] |= {"kept": False, "limit": 1}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert evaluate(copy).code == 3
