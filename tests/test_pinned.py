"""Data that change while a run is interrupted, or between its stages, are refused with what has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_data import encoded
from litesnn.data.pin import first_change
from litesnn.data.settings import DataSettings
from litesnn.data.sources import Data, load
from litesnn.runs import RunFolder
from litesnn.training_loop import pinned
from whole_job import Problem, contents, inputs, litesnn, stamps, write_problem

Change = Callable[[dict[str, Any]], None]


def rotate_labels(arrays: dict[str, Any]) -> None:
    arrays["y"] = (arrays["y"] + 1) % 3


def invert(arrays: dict[str, Any]) -> None:
    arrays["x"] = 255 - arrays["x"]


def drop_rows(arrays: dict[str, Any]) -> None:
    arrays.update(x=arrays["x"][:-15], y=arrays["y"][:-15])


def reverse(arrays: dict[str, Any]) -> None:
    arrays.update(x=arrays["x"][::-1], y=arrays["y"][::-1])


def enlarge(arrays: dict[str, Any]) -> None:
    arrays["x"] = np.pad(arrays["x"], ((0, 0), (0, 0), (1, 1), (1, 1)))


def retype(arrays: dict[str, Any]) -> None:
    arrays["x"] = arrays["x"].astype(np.float32)


def rename(arrays: dict[str, Any]) -> None:
    arrays["classes"] = np.array(["0", "1", "two"])


def add_class(arrays: dict[str, Any]) -> None:
    arrays["classes"] = np.array(["0", "1", "2", "3"])
    arrays["y"][:20] = 3


CHANGES: dict[Change, str] = {
    rotate_labels: "the labels of the training rows differ, or their order",
    invert: "the contents of the training rows differ, or their order",
    drop_rows: "there are 86 training rows, not 96",
    reverse: "the labels of the training rows differ, or their order",
    enlarge: "the inputs have the shape 1×10×10, not 1×8×8",
    retype: "the inputs are of the kind 'array', not 'image'",
    rename: "class 2 is called 'two', not '2'",
    add_class: "there are 4 classes, not 3",
}


def write_changed(path: Path, change: Change) -> None:
    x, y = inputs()
    arrays: dict[str, Any] = {"x": x, "y": y}
    change(arrays)
    np.savez(path, **arrays)


@pytest.fixture
def spoilt(finished: Path, problem: Problem, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a finished run whose data may be spoilt, and these data."""
    run, data = tmp_path / "run", tmp_path / "blobs.npz"
    shutil.copytree(finished, run)
    shutil.copy(problem.data, data)
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace(str(problem.data), str(data)))
    return run, data


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_other_data_are_refused_by_what_changed(spoilt: tuple[Path, Path], change: Change) -> None:
    run, data = spoilt
    write_changed(data, change)
    before = stamps(run)
    outcome = litesnn("derive", run)
    assert outcome.code == 2
    assert outcome.err == (
        f"litesnn: error: blobs: the data have changed since {run} was begun: {CHANGES[change]}; bring the old ones "
        "back, or design anew in another folder\n"
    )
    assert stamps(run) | {".lock": 0} == before | {".lock": 0}


@pytest.mark.parametrize("stage", ["search", "derive", "train", "evaluate", "pack", "report", "design", "native"])
def test_every_stage_looks(spoilt: tuple[Path, Path], problem: Problem, stage: str) -> None:
    run, data = spoilt
    write_changed(data, rotate_labels)
    (run / "report.html").unlink()  # a finished design would look at nothing
    before = stamps(run)
    arguments: list[str | Path] = [stage, run]
    if stage in ("design", "search"):
        arguments = [stage, "--run", run, "--quiet"]
    elif stage == "native":
        arguments = ["evaluate", run, "--engine", "native"]
    outcome = litesnn(*arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "the labels of the training rows differ" in outcome.err
    assert stamps(run) | {".lock": 0} == before | {".lock": 0}


def test_test_rows_are_looked_at_when_they_are_read(spoilt: tuple[Path, Path]) -> None:
    """Test rows alone have changed: they are not read before the evaluation, and stay what they were then."""
    run, data = spoilt
    x, y = inputs()
    train, validation, test = (split.numpy() for split in _images(load(DataSettings(source=str(data)))))
    first = next(row for row in range(len(x)) if any(np.array_equal(x[row], image) for image in test))
    assert not any(np.array_equal(x[first], image) for image in (*train, *validation))
    x[first] = 255 - x[first]
    np.savez(data, x=x, y=y)
    assert litesnn("pack", run).code == 0  # which reads none
    outcome = litesnn("report", run)
    assert outcome.code == 2
    assert "the contents of the test rows differ" in outcome.err


def _images(data: Data) -> tuple[Any, Any, Any]:
    return data.train.x, data.validation.x, data.test().x


def test_a_run_from_before_there_were_pins_gets_one(spoilt: tuple[Path, Path], finished: Path) -> None:
    run, _ = spoilt
    kept = (run / "data.json").read_bytes()
    (run / "data.json").unlink()
    (run / "metrics.json").unlink()
    assert litesnn("design", "--run", run, "--quiet").code == 0
    assert (run / "data.json").read_bytes() == kept
    assert contents(run)["model.safetensors"] == contents(finished)["model.safetensors"]


def test_a_run_without_results_takes_other_data(problem: Problem, tmp_path: Path) -> None:
    """A budget that cannot be kept is refused before anything is made of the data."""
    own = write_problem(tmp_path)
    run = RunFolder(tmp_path / "run")
    arguments = ["search", *own.options(run.path), "--budget", "200 B"]
    assert "cannot be kept" in litesnn(*arguments).err
    write_changed(own.data, drop_rows)
    assert "cannot be kept" in litesnn(*arguments).err
    assert '"rows": 86' in run.data_pin.read_text()


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"version": 2}', '{"version": 1, "kind": "image"}'])
def test_a_damaged_pin_is_refused_by_name(spoilt: tuple[Path, Path], text: str) -> None:
    run, _ = spoilt
    (run / "data.json").write_text(text)
    outcome = litesnn("derive", run)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert str(run / "data.json") in outcome.err


def test_files_are_pinned_by_what_they_hold(tmp_path: Path) -> None:
    """Neither the names of files nor their times count, but which row holds what."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (6, 6), dtype=np.uint8)
            (tmp_path / "set" / name / f"{number:02}.png").write_bytes(encoded(pixels))
    settings = DataSettings(source=str(tmp_path / "set"))
    before = pinned._pin(load(settings))
    shutil.copytree(tmp_path / "set", tmp_path / "again")
    again = pinned._pin(load(settings.model_copy(update={"source": str(tmp_path / "again")})))
    assert first_change(before, again) is None
    train = load(settings).train.files
    assert train is not None
    first, second = (Path(str(file.path)) for file in train(np.array([0, 1])))
    bytes_first, bytes_second = first.read_bytes(), second.read_bytes()
    first.write_bytes(bytes_second)
    second.write_bytes(bytes_first)
    assert first_change(before, pinned._pin(load(settings))) == (
        "the contents of the training rows differ, or their order"
    )
