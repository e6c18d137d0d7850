"""What one run takes over from another, with files that are only pretended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litesnn.config import Recipe
from litesnn.runs import STAGES, RunFolder
from litesnn.takeover import first_touched, take_over

MADE = {"made.seconds": 60.0}
FILES = ["search.jsonl", "search.safetensors", "genotype.json", "train.jsonl", "network.safetensors"]


def begun(path: Path, changes: dict[str, Any] | None = None) -> RunFolder:
    run = RunFolder(path)
    run.begin(Recipe.from_toml("", changes=MADE | (changes or {})))
    return run


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    run = begun(tmp_path / "old")
    for name in (*(stage.output for stage in STAGES.values()), "search.jsonl", "train.jsonl", "data.json"):
        (run / name).write_text(f"old {name}")
    return run


def files(run: RunFolder) -> set[str]:
    return {path.name for path in run.path.iterdir()} - {"recipe.toml", ".lock"}


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({}, None),
        ({"train.epochs": 60}, "train"),
        ({"train.loss": "tet"}, "train"),
        ({"train.teacher": "auto"}, "teacher"),
        ({"teacher.epochs": 3}, "teacher"),
        ({"made.seconds": 90.0}, "train"),
        ({"search.fill": 0.5}, "derive"),
        ({"model.spatial_edges": 0}, "derive"),
        ({"data.test_limit": 5}, "evaluate"),
        ({"name": "other"}, "evaluate"),
        ({"train.epochs": 60, "search.fill": 0.5}, "derive"),
        ({"train.epochs": 60, "seed": 1}, "search"),
        *[({key: value}, "search") for key, value in {
            "seed": 1, "budget.packed_bytes": 9, "data.source": "other", "data.train_limit": 9, "augment.crop": 1,
            "model.width": 9, "model.edges_per_node": 1, "search.epochs": 9, "audio.mels": 20, "events.clip": 7,
        }.items()],
    ],
)  # fmt: skip
def test_the_first_stage_that_a_change_touches(changes: dict[str, Any], stage: str | None) -> None:
    touched = first_touched(Recipe.from_toml("", changes=MADE), Recipe.from_toml("", changes=MADE | changes))
    assert (touched and touched[0]) == stage


@pytest.mark.parametrize(
    ("changes", "stages", "count"),
    [
        ({"train.epochs": 60}, ("search", "derive"), 3),
        ({"search.fill": 0.5}, ("search",), 2),
        ({"data.test_limit": 5}, ("search", "derive", "train"), 5),
        ({}, ("search", "derive", "train"), 5),
        ({"seed": 1}, (), 0),
    ],
)
def test_what_is_taken_over(
    finished: RunFolder, tmp_path: Path, changes: dict[str, Any], stages: tuple[str, ...], count: int
) -> None:
    run = begun(tmp_path / "new", changes)
    taken = take_over(finished, run)
    assert taken.stages == stages
    assert files(run) == {*FILES[:count], *(["data.json"] if stages else [])}
    assert all((run / name).read_text() == f"old {name}" for name in files(run))
    said = taken.describe(finished)
    assert said.startswith(f"taken over from {finished.path}: {', '.join(stages) or 'nothing but the recipe'}")
    assert all(key in said for key in changes)
    again = take_over(finished, run)
    assert (again.stages, again.files) == (stages, ())


def test_a_teacher_is_taken_over_where_both_runs_have_one(finished: RunFolder, tmp_path: Path) -> None:
    auto = {"train.teacher": "auto"}
    assert take_over(finished, begun(tmp_path / "one", auto)).stages == ("search", "derive")
    (finished / "recipe.toml").unlink()
    (finished / "teacher.jsonl").write_text("old teacher.jsonl")
    (finished / "recipe.toml").write_text(Recipe.from_toml("", changes=MADE | auto).to_toml())
    run = begun(tmp_path / "both", auto | {"train.epochs": 60})
    assert take_over(finished, run).stages == ("search", "derive", "teacher")
    assert files(run) == {*FILES[:3], "data.json", "teacher.jsonl", "teacher.safetensors"}
    run = begun(tmp_path / "other", auto | {"teacher.width": 8})
    assert take_over(finished, run).stages == ("search", "derive")


def test_a_stage_that_is_not_done_is_not_taken(finished: RunFolder, tmp_path: Path) -> None:
    finished.output("derive").unlink()
    assert take_over(finished, begun(tmp_path / "new")).stages == ("search",)


@pytest.mark.parametrize("name", ["search.safetensors", "search.checkpoint.safetensors"])
def test_two_designs_are_never_mixed(finished: RunFolder, tmp_path: Path, name: str) -> None:
    run = begun(tmp_path / "new")
    (run / name).write_text("of its own")
    assert take_over(finished, run).stages == ()
    assert files(run) == {name}
