"""The networks that come with the package: they are small, say what they measure, and measure it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import litesnn
import litesnn.models
import ship_model
from litesnn import packed_evaluation
from litesnn.config import load_recipe
from litesnn.data.sources import DataSettings, load
from litesnn.deploy.packed import read
from litesnn.errors import InputError
from litesnn.models import FOLDER, MOST_BYTES, MOST_BYTES_IN_ALL, files_of, find_model, read_record, shipped_models
from litesnn.packed_evaluation import evaluate
from whole_job import Problem
from whole_job import litesnn as command

NAMES = shipped_models()
AT_HAND = [name for name in NAMES if read_record(name).source == "digits"]
"""Those whose data every installation has."""


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_evaluation, "ROUNDS", 1)
    monkeypatch.setattr(packed_evaluation, "SAMPLE_SECONDS", 0.001)


def test_they_are_small() -> None:
    assert AT_HAND
    files = [path for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert {path.name for path in files} == {path.name for name in NAMES for path in files_of(name).values()}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES_IN_ALL == 2_000_000
    for name in NAMES:
        assert files_of(name)["model"].stat().st_size <= MOST_BYTES == 600_000


@pytest.mark.parametrize("name", NAMES)
def test_a_record_fits_its_files(name: str) -> None:
    record, model = read_record(name), read(find_model(name))
    assert record.name == name
    assert record.bytes == find_model(name).stat().st_size
    assert record.timesteps == model.timesteps
    recipe = load_recipe(files_of(name)["recipe"])
    assert (recipe.name, recipe.seed, recipe.data.source) == (record.recipe, record.seed, record.source)
    assert "/" not in record.source or record.source.count("/") == 1  # a name on the hub, never a place
    for key in ("accuracy", "standard_error", "synops", "bit_synops", "firing_rate", "timesteps"):
        assert record.measured[key] == getattr(record, key)
    assert record.measured["classes"] == list(model.classes)
    assert sum(map(sum, record.measured["confusion"])) == record.rows["test"]
    assert record.check == f"litesnn evaluate {name} --data {record.source}"


@pytest.mark.parametrize("name", AT_HAND)
def test_they_measure_what_their_records_say(name: str) -> None:
    record = read_record(name)
    found = evaluate(name, record.source)
    assert found.engine == "native"
    assert found.model == name
    assert found.accuracy == record.accuracy
    for key in ("confusion", "accuracy_at", "per_class", "populations"):
        assert getattr(found, key) == record.measured[key]
    assert found.bit_synops == pytest.approx(record.bit_synops, rel=1e-9)
    said = command(*record.check.split()[1:], "--json")
    assert json.loads(said.out)["accuracy"] == record.accuracy


def test_a_name_does_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = AT_HAND[0]
    monkeypatch.chdir(tmp_path)
    test = load(DataSettings()).test()
    x = test.x[:5].numpy()
    classes = litesnn.Engine(name).predict(x)
    assert (litesnn.Reference(name).classify(x) == classes).all()
    np.save("digits.npy", x)
    said = command("predict", name, "digits.npy", "--json")
    assert [json.loads(line)["class"] for line in said.out.splitlines()] == [str(each) for each in classes]
    assert "readout" in command("info", name).out
    assert command("export", "c", name, "-o", "firmware").code == 0
    with pytest.raises(
        InputError, match=rf"{name} is packed and no torch module any more; litesnn\.Engine\('{name}'\)"
    ):
        litesnn.load(name)
    outcome = command("evaluate", name)
    assert outcome.code == 2
    assert "expected --data too" in outcome.err
    Path(name).write_text("a file of that name goes first")
    assert find_model(name) == Path(name)
    with pytest.raises(InputError, match="expected a packed model"):
        litesnn.Engine(name)


def test_the_list_of_them() -> None:
    listed = command("models", columns=80)
    assert listed.code == 0
    for name in NAMES:
        (line,) = [line for line in listed.out.splitlines() if line.startswith(name)]
        assert f"{read_record(name).accuracy:.2%}" in line
        assert f"{read_record(name).bytes:,}" in line
    assert max(map(len, listed.out.splitlines())) <= 80
    said = command("models", NAMES[0])
    assert json.loads(said.out)["name"] == NAMES[0]
    outcome = command("models", "nothing")
    assert outcome.code == 2
    assert f"no model 'nothing': expected one of {NAMES[0]}" in outcome.err


def ship(run: Path, folder: Path, *more: str, name: str = "tiny-2k") -> dict[str, Path]:
    return ship_model.ship([str(run), name, "--description", "for\na test", "--folder", str(folder), *more])


def test_a_finished_run_is_shipped(
    problem: Problem, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ship(finished, tmp_path, "--source", "BLOBS")
    assert files["model"].read_bytes() == (finished / "model.safetensors").read_bytes()
    recipe = load_recipe(files["recipe"])
    assert recipe.data.source == "BLOBS"
    assert str(problem.data.parent) not in "".join(path.read_text(errors="replace") for path in files.values())
    monkeypatch.setattr(litesnn.models, "FOLDER", tmp_path)
    monkeypatch.setattr(litesnn.models, "files_of", lambda name: {key: files[key] for key in files})
    record = read_record("tiny-2k")
    metrics = json.loads((finished / "metrics.json").read_text())
    assert record.description == "for a test"
    assert (record.accuracy, record.bytes) == (metrics["test_accuracy"], metrics["packed_bytes"])
    assert record.rows == {"train": 96, "validation": 24, "test": 30}
    assert set(record.seconds) == {"search", "train"}
    assert record.options.startswith("--device cpu --threads")
    with pytest.raises(InputError, match=r"tiny-2k\.\w+ is there; --replace replaces it"):
        ship(finished, tmp_path)
    ship(finished, tmp_path, "--replace")
    assert load_recipe(files["recipe"]).data.source == "blobs"


def test_what_is_not_shipped(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, folder = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "models"
    folder.mkdir()

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            ship(run, folder, **options)
        assert list(folder.iterdir()) == []

    refused("name 'A b': expected small letters", name="A b")
    monkeypatch.setattr(ship_model, "MOST_BYTES", 10)
    refused(r"tiny-2k\.safetensors: has [\d,]+ B; at most 10 are shipped")
    monkeypatch.undo()
    monkeypatch.setattr(ship_model, "MOST_BYTES_IN_ALL", 100)
    refused(r"would hold [\d,]+ B; at most 100 are shipped")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"test_accuracy": 0.123}))
    refused(r"test accuracy are [\d.]+ here, but 0\.123 in its metrics")
    (run / "model.safetensors").unlink()
    refused(r"model\.safetensors is missing")
