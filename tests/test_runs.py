from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.runs import METRICS_KEYS, STAGES, RunFolder, first_difference, held

DEFAULT = Recipe.from_toml("")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_stages_in_their_order() -> None:
    assert list(STAGES) == ["search", "derive", "teacher", "train", "evaluate", "pack", "report"]
    assert len({stage.output for stage in STAGES.values()}) == len(STAGES)


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert not run.done("search")
    assert files(tmp_path) == set()


def test_a_new_folder_holds_the_whole_recipe(tmp_path: Path) -> None:
    run, recipe = RunFolder(tmp_path / "deep" / "run"), Recipe.from_toml("[search]\nepochs = 3")
    run.begin(recipe)
    assert files(run.path) == {"recipe.toml", ".lock"}
    assert run.recipe() == recipe
    run.begin(recipe)  # the same again is no news


def test_a_run_that_left_nothing_is_begun_anew_with_another_recipe(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin(Recipe.from_toml("[budget]\npacked_bytes = 3"))
    (run / ".lock").touch()
    possible = Recipe.from_toml("[budget]\npacked_bytes = 3000")
    run.begin(possible)
    assert run.recipe() == possible


def test_a_folder_of_another_recipe_is_refused_by_the_first_difference(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin(Recipe.from_toml("[search]\nepochs = 3\nlr = 0.5"))
    (run / "search.jsonl").write_text("")
    before = (run / "recipe.toml").read_text()
    with pytest.raises(InputError, match=r"another recipe \(search\.epochs was 3, now 4\)"):
        run.begin(Recipe.from_toml("[search]\nepochs = 4\nlr = 0.25"))
    with pytest.raises(InputError, match=r"budget\.packed_bytes was None, now 5"):
        run.begin(Recipe.from_toml("[search]\nepochs = 3\nlr = 0.5\n[budget]\npacked_bytes = 5"))
    assert (run / "recipe.toml").read_text() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"not a run folder, and not empty: it holds thesis\.tex"):
        RunFolder(tmp_path).begin(DEFAULT)
    assert files(tmp_path) == {"thesis.tex"}


@pytest.mark.parametrize("left", [".lock", ".recipe.toml.12345.tmp"])
def test_what_a_kill_left_in_a_new_folder_is_no_stranger(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("")
    RunFolder(tmp_path).begin(DEFAULT)
    assert RunFolder(tmp_path).recipe() == DEFAULT


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(tmp_path / "run").begin(DEFAULT)


def test_a_damaged_recipe_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"is not a run folder: it has no recipe\.toml"):
        run.recipe()
    (run / "recipe.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot be read"):
        run.recipe()
    (run / "recipe.toml").write_text("version = 7")
    with pytest.raises(InputError, match=r"recipe\.toml: version"):
        run.begin(DEFAULT)


@pytest.mark.parametrize("index", range(len(STAGES)))
def test_a_stage_that_starts_again_removes_what_came_of_its_old_result(tmp_path: Path, index: int) -> None:
    run = RunFolder(tmp_path)
    run.begin(DEFAULT)
    stages = list(STAGES)
    for stage in stages:
        run.output(stage).write_text("")
        run.checkpoint(stage).write_text("")
    run.start(stages[index])
    assert [run.done(stage) for stage in stages] == [i < index for i in range(len(stages))]
    # An interrupted stage goes on from its own checkpoint; those of later stages belong to the old design.
    assert [run.checkpoint(stage).exists() for stage in stages] == [i <= index for i in range(len(stages))]
    assert (run / "recipe.toml").exists()


def test_need_names_the_command(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"network\.safetensors is missing: run 'litesnn train .*' first"):
        run.need("train")
    run.output("train").write_text("")
    assert run.need("train") == tmp_path / "network.safetensors"


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"version": 99}', "{}", b"\xff"])
def test_damaged_metrics_are_refused(tmp_path: Path, text: str | bytes) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="missing"):
        run.metrics()
    run.output("evaluate").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"metrics\.json(: not metrics of version 1| is damaged)"):
        run.metrics()


def test_metrics(tmp_path: Path) -> None:
    figures = ("test_accuracy", "packed_bytes", "bit_synops", "synops", "stem_macs", "model_size_bytes")
    limit = {"name": "timesteps", "value": 2, "limit": None, "kept": True}
    metrics = {"version": 1, "recipe": "tiny", "seed": 0, "data": {"name": "blobs", "test": 30}}
    metrics |= dict.fromkeys(figures, 1) | {"energy": {"total_nj": 0.5}, "budgets": [limit]}
    metrics["neurons"] = [{"name": "stem", "firing_rate": 0.1, "more": [1]}]
    assert metrics.keys() == {"version", *METRICS_KEYS}
    RunFolder(tmp_path).output("evaluate").write_text(json.dumps(metrics))
    assert RunFolder(tmp_path).metrics() == metrics
    RunFolder(tmp_path).output("evaluate").write_text('{"version": 1}')
    with pytest.raises(InputError, match=r"metrics\.json is damaged: it has no recipe"):
        RunFolder(tmp_path).metrics()


HOLD = """
import sys
from litesnn.runs import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="in use by another litesnn process"), run.locked():
            pytest.fail("the lock was given twice")
        other.kill()  # even a killed process lets go
    for _ in range(2):
        with run.locked():
            assert time.time() > 0
    assert files(tmp_path) == {".lock"}


def test_a_run_in_use_keeps_its_recipe(tmp_path: Path) -> None:
    """Before the first epoch the folder holds nothing else yet."""
    run, other = RunFolder(tmp_path / "run"), Recipe.from_toml("[search]\nepochs = 3")
    with held(run, DEFAULT):
        with pytest.raises(InputError, match="in use by another litesnn process"):
            run.begin(other)
        with pytest.raises(InputError, match="in use by another litesnn process"), held(run, other):
            pytest.fail("the folder was given twice")
        assert run.recipe() == DEFAULT
    with held(run, other):
        assert run.recipe() == other


def test_a_lock_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin(DEFAULT)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"\.lock: cannot be written: "), held(RunFolder(tmp_path)):
        pytest.fail("a lock on nothing")


def test_there_is_no_lock_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"), RunFolder(tmp_path / "none").locked():
        pytest.fail("a lock on nothing")
    assert files(tmp_path) == set()


# --- what was made, and what was begun ---


def test_reasons_are_kept_with_the_recipe_and_are_no_difference(tmp_path: Path) -> None:
    run, recipe = RunFolder(tmp_path / "run"), Recipe.from_toml("[search]\nepochs = 3")
    run.begin(recipe, {"search.epochs": "three are enough"})
    text = (run / "recipe.toml").read_text()
    assert "# three are enough\nepochs = 3\n" in text
    run.begin(recipe)
    run.begin(recipe, {"search.epochs": "another reason"})
    assert (run / "recipe.toml").read_text() == text
    with held(run, recipe, {"search.epochs": "another reason"}):
        assert (run / "recipe.toml").read_text() == text
    other = Recipe.from_toml("[search]\nepochs = 4")
    with held(run, other, {"search.epochs": "four are better"}):
        assert "# four are better\nepochs = 4\n" in (run / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("search.jsonl", True),
        ("train.checkpoint.safetensors", True),
        ("thesis.tex", True),
        (".lock", False),
        (".recipe.toml.12345.tmp", False),
        ("data.npz", False),
    ],
)
def test_what_counts_as_a_result(tmp_path: Path, name: str, results: bool) -> None:
    run = RunFolder(tmp_path)
    recipe = Recipe.from_toml("", changes={"data.source": str((tmp_path / "data.npz").resolve())})
    run.begin(recipe)
    assert not run.has_results(recipe)
    (run / name).write_text("")
    assert run.has_results(recipe) == results
    assert run.has_results(DEFAULT) == (results or name == "data.npz")  # which reads other data


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b was 2, now 3"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "a.b.c was 1, now 2"),
        ({"a": {"b": 1}, "c": 1}, {"a": {"b": 1}, "c": 2}, "c was 1, now 2"),
        ({"a": None}, {"a": {"b": 1}}, "a was None, now {'b': 1}"),
        ({"a": {"b": 1}}, {"a": None}, "a was {'b': 1}, now None"),
        ({"a": (1, 2)}, {"a": (1, 2)}, None),
    ],
)
def test_the_first_difference(old: dict[str, object], new: dict[str, object], words: str | None) -> None:
    assert first_difference(old, new) == words
