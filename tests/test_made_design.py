"""The whole job with a recipe that is made, where a second has to do; and a run that is only begun."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import litesnn as package
from litesnn.config import ModuleSettings, Recipe
from litesnn.files import JsonLog
from litesnn.planning import maker, request, timing
from litesnn.runs import RunFolder
from litesnn.train import fit
from litesnn.training_loop import schedule
from whole_job import ALL_FILES, STAGE_RESULTS, Outcome, Problem, contents, inputs, litesnn, stamps

LIMITS = "3 kB, T <= 2"


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(timing, "_SECONDS", 0.0)
        monkeypatch.setattr(maker, "_SEARCH_PATIENCE", 1e6)  # the clock is a real one, and must not cut the search
        monkeypatch.setattr(schedule, "_EARLY", 1e6)  # nor prolong the training
        yield


def words(problem: Problem, run: Path) -> list[str]:
    options = ["--data", str(problem.data), "--budget", LIMITS, "--time", "1 s", "--run", str(run)]
    return [*options, "--set", "search.batch_size=24", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run folder of a recipe that was made, and what was said; to be read or copied."""
    run = tmp_path_factory.mktemp("made") / "run"
    return run, litesnn("design", *words(problem, run))


@pytest.fixture
def copy(made: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A run that a test may spoil."""
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def _planned_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "make_plan", lambda *_, **__: pytest.fail("it was planned anew"))


def refused(outcome: Outcome) -> str:
    assert outcome.code == 2, outcome
    assert outcome.complaints.startswith("litesnn: error: ")
    assert outcome.complaints.count("\n") == 1, outcome.complaints
    return outcome.complaints.removeprefix("litesnn: error: ").strip()


def test_a_made_recipe_goes_all_the_way(made: tuple[Path, Outcome]) -> None:
    run, outcome = made
    assert (outcome.code, outcome.complaints) == (0, "")
    assert {path.name for path in run.iterdir()} == ALL_FILES
    recipe = RunFolder(run).recipe()
    assert recipe.name == "made"
    assert recipe.budget.describe() == "3000 B packed, T <= 2"
    assert recipe.search.batch_size == 24
    assert recipe.made is not None
    assert recipe.made.seconds == 1
    assert recipe.made.spent > 0
    assert recipe.made.training == 1  # there was nothing left, so that training has the least
    assert 1 <= len(JsonLog.read(run / "train.jsonl")) <= recipe.train.epochs
    assert (run / "model.safetensors").stat().st_size <= 3000


def test_the_plan_is_said_before_anything_is_done(made: tuple[Path, Outcome]) -> None:
    out = made[1].out
    plan, rest = out.split("search → ")
    for text in (
        "108 training and 12 validation rows",
        "3000 B packed, T <= 2",
        "estimate   about",
    ):
        assert text in plan
    assert plan.rstrip().splitlines()[-1].startswith("the least that can be done takes about ")
    assert rest.lstrip()
    assert "go on with" not in out


def test_reasons_stand_in_the_recipe(made: tuple[Path, Outcome]) -> None:
    text = (made[0] / "recipe.toml").read_text()
    assert "# images without colour may be letters, digits or signs\nflip = false" in text
    assert "# what was left of the time after the search allows at " in text
    assert "\nbatch_size = 24" in text
    assert "rows\nbatch_size = 24" not in text  # it was said


@pytest.mark.usefixtures("_planned_already")
def test_the_same_command_again_leaves_all_as_it_is(copy: Path, problem: Problem) -> None:
    before = stamps(copy)
    for command in (words(problem, copy), ["--run", str(copy)], ["--run", str(copy), "--budget", LIMITS]):
        outcome = litesnn("design", *command)
        assert (outcome.code, outcome.complaints) == (0, "")
        assert "estimate   about" not in outcome.out
    after = stamps(copy)
    assert after | {".lock": 0} == before | {".lock": 0}


@pytest.mark.usefixtures("_planned_already")
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["--time", "2 s"], "made.seconds was 1.0, now 2.0"),
        (["--budget", "4 kB, T <= 2"], "budget.packed_bytes was 3000, now 4000"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--set", "train.lr=0.3"], "train.lr was 0.1, now 0.3"),
        (["--mode", "paper", "--set", "search.keeps=[0.5]"], "settings: search: "),
        (["--data", "digits", "--seed", "1"], "holds a run with another recipe ("),
    ],
)
def test_other_words_are_refused_by_their_key(copy: Path, problem: Problem, other: list[str], difference: str) -> None:
    before = contents(copy)
    assert difference in refused(litesnn("design", *words(problem, copy), *other))
    assert contents(copy) == before


@pytest.mark.job
def test_its_recipe_makes_the_same_again(made: tuple[Path, Outcome], tmp_path: Path) -> None:
    run, again = made[0], tmp_path / "again"
    epochs = len(JsonLog.read(run / "train.jsonl"))
    recipe = RunFolder(run).recipe()
    changes = {"train.epochs": epochs} if epochs < recipe.train.epochs else {}
    found = package.design(recipe=run / "recipe.toml", run=again, device="cpu", changes=changes)
    assert RunFolder(again).recipe() == Recipe.from_toml(recipe.to_toml(), changes={"made": None} | changes)
    if changes:  # steps took longer than they had been measured to
        assert (again / "genotype.json").read_bytes() == (run / "genotype.json").read_bytes()
        return
    assert contents(again) == contents(run)
    assert found.metrics["test_accuracy"] == RunFolder(run).metrics()["test_accuracy"]


@pytest.mark.job
@pytest.mark.usefixtures("_planned_already")
def test_killed_in_training_it_goes_on_with_the_same_recipe(
    copy: Path, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in STAGE_RESULTS[2:]:
        (copy / name).unlink()
    real, calls = fit.validate, iter(range(99))

    def dies(*arguments: Any) -> dict[str, float]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fit, "validate", dies)
        assert litesnn("design", *words(problem, copy)).code == 130
    assert (copy / "train.checkpoint.safetensors").exists()
    before, searched = (copy / "recipe.toml").read_bytes(), (copy / "search.jsonl").read_bytes()
    outcome = litesnn("design", *words(problem, copy))
    assert outcome.code == 0, outcome.err
    assert (copy / "recipe.toml").read_bytes() == before
    assert (copy / "search.jsonl").read_bytes() == searched
    assert {path.name for path in copy.iterdir()} == ALL_FILES


def test_a_lost_log_of_the_search_does_not_stop_the_training(copy: Path) -> None:
    (copy / "search.jsonl").unlink()
    (copy / "network.safetensors").unlink()
    assert litesnn("train", copy, "--quiet", "--device", "cpu").code == 0
    assert (copy / "network.safetensors").exists()


@pytest.mark.job
def test_data_given_in_python(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": LIMITS, "run": tmp_path / "run", "device": "cpu", "time": 1}
    found = package.design(data=inputs(90), **options)
    assert found.metrics["packed_bytes"] <= 3000
    before = stamps(found.path)
    assert package.design(data=inputs(90), **options) == found
    assert stamps(found.path) | {".lock": 0} == before | {".lock": 0}
    with pytest.raises(package.InputError, match=r"made\.seconds was 1\.0, now 2\.0"):
        package.design(data=inputs(90), **options | {"time": 2.0})
    x, y = inputs(90)
    with pytest.raises(package.InputError, match="other data"):
        package.design(data=(np.flip(x, 3).copy(), y), **options)


# --- only begun ---


def begun(run: Path) -> None:
    """Nothing is there but the recipe."""
    assert {path.name for path in run.iterdir()} == {"recipe.toml", ".lock"}


@pytest.mark.job
def test_a_dry_run_says_what_will_be_done_and_does_nothing(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = litesnn("design", *words(problem, run), "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    for text in ("network    stem stride 1", "estimate   about", "T <= 2 is allowed, but search.timesteps is 1"):
        assert text in outcome.out
    assert outcome.out.splitlines()[-1] == f"begun; go on with: litesnn design --run {run} --device cpu"
    begun(run)
    first = (run / "recipe.toml").read_bytes()
    for again in (words(problem, run), ["--run", str(run), "--device", "cpu"]):
        outcome = litesnn("design", *again, "--dry-run")
        assert (outcome.code, outcome.err) == (0, "")
        assert "estimate   about" in outcome.out
        assert (run / "recipe.toml").read_bytes() == first
    begun(run)
    assert litesnn("design", *words(problem, run), "--dry-run", "--seed", "7", "--time", "2 s").code == 0
    begun(run)
    recipe = RunFolder(run).recipe()
    assert recipe.made is not None
    assert (recipe.seed, recipe.made.seconds) == (7, 2)


def test_a_dry_run_says_what_of_the_data_is_not_read(problem: Problem, tmp_path: Path) -> None:
    with np.load(problem.data) as arrays:
        np.savez(tmp_path / "more.npz", other=np.zeros(3), **arrays)
    options = [
        str(tmp_path / "more.npz") if word == str(problem.data) else word for word in words(problem, tmp_path / "r")
    ]
    outcome = litesnn("design", *options, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"more: 1 array of {tmp_path / 'more.npz'} not read: other\n" in outcome.out
    assert "inputs 1×8×8 (images)\n" in outcome.out


@pytest.mark.parametrize("others", [[], ["--budget", "8 kB"], ["--time", "1 s"], ["--set", "seed=3"], ["--quiet"]])
def test_a_dry_run_without_data_begins_nothing(tmp_path: Path, others: list[str]) -> None:
    (tmp_path / "run").mkdir()
    said = refused(litesnn("design", "--run", tmp_path / "run", "--dry-run", *others))
    assert "run: nothing to resume here, and no data for a new run; expected --data" in said
    assert list((tmp_path / "run").iterdir()) == []


def test_a_written_recipe_is_foreseen_too(problem: Problem, tmp_path: Path) -> None:
    options = [word for word in problem.options(tmp_path / "run") if word != "--quiet"]
    outcome = litesnn("design", *options, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert "estimate   about" in outcome.out
    assert "search     4 epochs\n" in outcome.out
    begun(tmp_path / "run")


def test_a_user_module_is_not_foreseen(problem: Problem, tmp_path: Path) -> None:
    module = ModuleSettings(file="net.py", name="Net", sha256="0", weights=None, weights_sha256=None)
    recipe = Recipe.from_toml("", changes={"data.source": str(problem.data)}).model_copy(update={"module": module})
    RunFolder(tmp_path / "run").begin(recipe)
    assert "add --model net.py:Net" in refused(litesnn("design", "--run", tmp_path / "run", "--dry-run"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--time", "30"], "time '30' is not understood; expected a number with its unit"),
        (["--time", "-5 min"], "time '-5 min' is not longer than zero"),
        (["--time", ""], "time '' is not understood"),
        (["--time", "1e9 h"], "time '1e9 h' is not understood"),
        (["--time", "5 min", "--recipe", "small"], "--time is for a recipe that is made"),
        (["--budget", "100 B"], "the smallest network for 8×8 inputs and 3 classes needs "),
        (
            ["--set", "model.width=4000"],
            "the smallest network for 8×8 inputs and 3 classes with model.width as said needs ",
        ),
        (["--budget", "T <= 2", "--set", "model.width=65000"], "with model.width = 65000 and model.levels = "),
        (["--set", "search.epoch=3"], "unknown key 'search.epoch'"),
        (["--set", "search.epochs=0"], "search.epochs"),
        (["--set", "augment.noise=0.1"], "augment.noise is 0.1, but blobs holds no sound"),
        (["--set", "augment.time_mask=2"], "augment.time_mask is 2, but blobs holds images"),
        (["--set", "audio.mels=20"], "[audio] says how sound becomes features, but blobs holds no sound"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_no_results(
    problem: Problem, tmp_path: Path, options: list[str], said: str
) -> None:
    assert said in refused(litesnn("design", *words(problem, tmp_path / "run"), *options))
    if (tmp_path / "run").exists():
        begun(tmp_path / "run")
