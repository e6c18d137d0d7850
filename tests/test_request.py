"""From what a person says to the recipe with which a run begins; the planning itself is pretended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from litesnn import processes
from litesnn.budget import Budget
from litesnn.config import Recipe, load_recipe
from litesnn.errors import InputError
from litesnn.planning import request as module
from litesnn.planning.maker import Estimate, Plan
from litesnn.planning.request import Begun, Request, begin
from litesnn.runs import RunFolder
from litesnn.training_loop.session import Session
from made import data_of
from several import as_one_of
from whole_job import RECIPE, Problem

DATA = data_of((1, 8, 8), classes=3, rows=150)


class Planner:
    """Stands in for the planning, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(
        self, said: Mapping[str, Any], seconds: float, session: Session, *, workers: int = 1, spent: float = 0.0
    ) -> Plan:
        self.asked.append({"said": dict(said), "seconds": seconds, "workers": workers, "spent": spent})
        made = {"made.seconds": seconds, "made.spent": 12.5, "name": "made"}
        recipe = Recipe.from_toml(RECIPE, origin="the made recipe", changes=made | dict(said))
        return Plan(recipe, {"train.epochs": "what the time allows"}, (), Estimate({}, 0), DATA)


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    found = Planner()
    monkeypatch.setattr(module, "make_plan", found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def begun(folder: RunFolder, request: Request, *, results: bool) -> Begun:
    """Begin a run, and leave a result in it or none."""
    found = begin(folder, request, Session())
    assert found.recipe is not None
    folder.begin(found.recipe, found.reasons)
    if results:
        (folder / "search.jsonl").write_text("")
    return found


WORDS = Request(data="blobs.npz", budget="3 kB, T <= 2", seed=3, time="20 min", changes={"search.lr": 0.3})


# --- the words ---


@pytest.mark.parametrize(
    ("request_", "written"),
    [
        (Request(), None),
        (Request(seed=3), None),
        (Request(data="digits"), "digits"),
        (Request(data="digits", budget="8 kB", seed=1, changes={"seed": 2}), "digits"),
        (Request(data="digits", time="5 min"), None),
        (Request(time="5 min"), None),
        (Request(data="my.npz"), None),
        (Request(data="my.npz", budget="8 kB"), None),
        (Request(data="my.npz", recipe="small"), "small"),
        (Request(recipe=Path("my.toml")), Path("my.toml")),
        (Request(model="my.py:Net"), "compress"),
        (Request(model="my.py:Net", recipe="my.toml", data="my.npz"), "my.toml"),
    ],
)
def test_which_words_mean_a_written_recipe(request_: Request, written: str | Path | None) -> None:
    assert request_.written == written


def test_nothing_said() -> None:
    assert Request().is_empty
    for words in ({"data": "x"}, {"budget": "8 kB"}, {"recipe": "x"}, {"seed": 0}, {"time": "1 h"}, {"model": "x"}):
        assert not Request(**words).is_empty
    assert not Request(changes={"seed": 3}).is_empty


def test_values_by_dotted_key() -> None:
    assert WORDS.values() == {
        "data.source": "blobs.npz",
        "budget": {"packed_bytes": 3000, "timesteps": 2},
        "seed": 3,
        "search.lr": 0.3,
    }
    assert Request(budget=Budget(bit_synops=5.0)).values() == {"budget": {"bit_synops": 5.0}}
    assert Request().values() == {}
    both = Request(budget="3 kB, T <= 2", seed=1, changes={"budget.timesteps": 1, "seed": 2}).values()
    recipe = Recipe.from_toml("", changes=both)
    assert recipe.budget.model_dump(exclude_none=True) == {"packed_bytes": 3000, "timesteps": 1}
    assert recipe.seed == 2


def test_seconds() -> None:
    assert Request().seconds() is None
    assert Request(time="2 min").seconds() == 120
    assert Request(time=90).seconds() == 90
    assert Request(time=0.5).seconds() == 0.5


@pytest.mark.parametrize("time", [0, -5, -0.1, math.nan, math.inf, "", "30", "-5 min", "1e9 h"])
def test_what_is_no_time_is_refused_before_anything_is_read(
    folder: RunFolder, planner: Planner, time: str | float
) -> None:
    with pytest.raises(InputError, match=r"^time .*; expected ") as caught:
        begin(folder, Request(data="blobs.npz", time=time), Session())
    assert "\n" not in str(caught.value)
    assert planner.asked == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(recipe="small", time="5 min"), "--time is for a recipe that is made, and --recipe names one"),
        (Request(weights="w.safetensors"), "--weights are those of a module; expected --model"),
        (Request(data="x.npz", budget="potato"), "budget part 'potato'"),
        (Request(recipe="nonsense"), "no recipe 'nonsense'"),
        (Request(data="x.npz", changes={"search.epoch": 3}), "unknown key 'search.epoch'"),
        (
            Request(data="x.npz", changes={"made.seconds": 3}),
            "made.seconds is kept of a recipe that is made, and not set",
        ),
        (Request(recipe="small", changes={"made": {"seconds": 3}}), "say the time with --time"),
    ],
)
def test_words_that_are_refused(folder: RunFolder, planner: Planner, request_: Request, message: str) -> None:
    with pytest.raises(InputError) as caught:
        begin(folder, request_, Session())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.path.exists()


# --- a new run ---


def test_a_new_run_is_planned(folder: RunFolder, planner: Planner) -> None:
    found = begin(folder, WORDS, Session(), spent=7.0)
    (asked,) = planner.asked
    assert asked["said"] == WORDS.values()
    assert (asked["seconds"], asked["workers"]) == (1200, 1)
    assert 7 <= asked["spent"] < 17
    assert found.plan is not None
    assert (found.recipe, found.reasons, found.data) == (found.plan.recipe, found.plan.reasons, DATA)
    assert not folder.path.exists()


def test_half_an_hour_where_no_time_is_said(folder: RunFolder, planner: Planner) -> None:
    begin(folder, Request(data="blobs.npz"), Session())
    assert planner.asked[0]["seconds"] == 1800


def test_several_processes_plan_once(folder: RunFolder, planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[Any] = []
    monkeypatch.setattr(processes, "share", shared.append)
    for rank in (0, 1):
        as_one_of(monkeypatch, rank, 2)
        found = begin(folder, WORDS, Session())
        assert (found.recipe is None) == (rank == 1)
    assert [asked["workers"] for asked in planner.asked] == [2]
    assert shared == [None, None]


def test_a_written_recipe_is_taken_as_it_is(
    folder: RunFolder, planner: Planner, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("the data were read"))
    found = begin(folder, Request(data=str(problem.data), recipe=problem.recipe, seed=5), Session())
    assert found == Begun(Recipe.from_toml(RECIPE, changes={"data.source": str(problem.data), "seed": 5}))
    assert begin(folder, Request(data="digits"), Session()) == Begun(load_recipe("digits"))
    assert begin(folder, Request(recipe="digits"), Session()) == Begun(load_recipe("digits"))
    cifar = load_recipe("cifar10-s")
    assert begin(folder, Request(recipe="cifar10-s", data=cifar.data.source), Session()) == Begun(cifar)
    assert planner.asked == []


def test_a_shipped_recipe_is_scaled_to_other_data(folder: RunFolder, planner: Planner, problem: Problem) -> None:
    found = begin(
        folder, Request(data=str(problem.data), recipe="small", changes={"train.epochs": 7}, budget="9 kB"), Session()
    )
    assert found.recipe is not None
    assert found.recipe.name == "small"
    assert found.recipe.data.source == str(problem.data)
    assert found.recipe.budget == Budget(packed_bytes=9000)
    assert found.recipe.augment.crop == 1
    assert found.recipe.train.epochs == 7
    assert found.reasons.keys() >= {"augment.crop", "augment.flip", "search.epochs"}
    assert "train.epochs" not in found.reasons
    assert found.data is not None
    assert found.data.shape == (1, 8, 8)
    assert found.plan is None
    folder.begin(found.recipe, found.reasons)
    text = (folder / "recipe.toml").read_text()
    assert "# 8×8 inputs: an eighth instead of 4 pixels\ncrop = 1\n" in text
    assert folder.recipe() == found.recipe


def test_a_shipped_recipe_for_any_data_is_scaled_to_the_digits_too(folder: RunFolder, planner: Planner) -> None:
    found = begin(folder, Request(recipe="small", data="digits"), Session())
    assert found.recipe is not None
    assert not found.recipe.augment.flip
    assert found.recipe.augment.crop == 1
    assert found.reasons.keys() >= {"augment.crop", "augment.flip", "model.levels"}


# --- a run that was begun ---


@pytest.mark.parametrize("results", [False, True])
@pytest.mark.parametrize(
    "request_",
    [
        WORDS,
        Request(),
        Request(data="blobs.npz"),
        Request(budget=Budget(packed_bytes=3000, timesteps=2), time=1200),
        Request(seed=3, changes={"search.lr": 0.3}),
        Request(time=1200, changes={"train.epochs": 12}),
    ],
)
def test_the_same_words_and_fewer_go_on(folder: RunFolder, planner: Planner, request_: Request, results: bool) -> None:
    begun(folder, WORDS, results=results)
    before = (folder / "recipe.toml").read_bytes()
    assert begin(folder, request_, Session()) == Begun()
    assert len(planner.asked) == 1
    assert (folder / "recipe.toml").read_bytes() == before


def test_it_goes_on_though_epochs_were_set_anew(folder: RunFolder, planner: Planner) -> None:
    begun(folder, WORDS, results=True)
    text = (folder / "recipe.toml").read_text()
    assert "# what the time allows\nepochs = 12\n" in text
    (folder / "recipe.toml").write_text(text.replace("epochs = 12", "epochs = 34"))
    assert begin(folder, WORDS, Session()) == Begun()


OTHER = [
    (Request(data="other.npz"), "data.source was 'blobs.npz', now 'other.npz'"),
    (Request(data="blobs.npz", budget="4 kB, T <= 2"), "budget.packed_bytes was 3000, now 4000"),
    (Request(data="blobs.npz", budget="3 kB"), "budget.timesteps was 2, now None"),
    (Request(data="blobs.npz", seed=4), "seed was 3, now 4"),
    (Request(data="blobs.npz", time="21 min"), "made.seconds was 1200.0, now 1260.0"),
    (Request(data="blobs.npz", changes={"train.epochs": 5}), "train.epochs was 12, now 5"),
]


@pytest.mark.parametrize(("request_", "difference"), OTHER)
def test_other_words_are_refused_by_the_first_difference(
    folder: RunFolder, planner: Planner, request_: Request, difference: str
) -> None:
    begun(folder, WORDS, results=True)
    before = (folder / "recipe.toml").read_bytes()
    with pytest.raises(InputError) as caught:
        begin(folder, request_, Session())
    advice = f"choose another folder, for example with --from {folder.path}, which takes over what stays the same"
    assert str(caught.value) == f"{folder.path} holds a run with another recipe ({difference}); {advice}"
    assert len(planner.asked) == 1
    assert (folder / "recipe.toml").read_bytes() == before


@pytest.mark.parametrize(("request_", "difference"), OTHER)
def test_as_long_as_nothing_was_done_other_words_make_it_anew(
    folder: RunFolder, planner: Planner, request_: Request, difference: str
) -> None:
    begun(folder, WORDS, results=False)
    begun(folder, request_, results=False)
    assert planner.asked[-1]["said"] == request_.values()
    assert folder.recipe().data.source == request_.data


def test_a_wrong_key_in_a_begun_run_is_one_line(folder: RunFolder, planner: Planner) -> None:
    begun(folder, WORDS, results=True)
    with pytest.raises(InputError, match=r"^settings: unknown key 'search\.epoch'; did you mean 'search\.epochs'"):
        begin(folder, Request(changes={"search.epoch": 3}), Session())


def test_the_recipe_of_a_made_run_can_be_used_again(folder: RunFolder, planner: Planner, tmp_path: Path) -> None:
    """As a written one: no time is kept with it, and nothing is planned."""
    made = begun(folder, WORDS, results=True).recipe
    assert made is not None
    assert made.made is not None
    found = begin(RunFolder(tmp_path / "again"), Request(recipe=folder / "recipe.toml"), Session())
    assert found == Begun(made.model_copy(update={"made": None}))
    assert len(planner.asked) == 1
    again = begin(folder, Request(recipe=folder / "recipe.toml"), Session())
    assert again.recipe is not None
    with pytest.raises(InputError, match=r"another recipe \(made was "):
        folder.begin(again.recipe)


def test_a_written_run_goes_on_by_its_data_and_refuses_others_at_once(
    folder: RunFolder, planner: Planner, problem: Problem
) -> None:
    words = Request(data=str(problem.data), recipe=problem.recipe)
    begun(folder, words, results=True)
    assert begin(folder, Request(data=str(problem.data)), Session()) == Begun()
    assert begin(folder, Request(data=str(problem.data), seed=0), Session()) == Begun()
    for other, difference in (
        (Request(data=str(problem.data), seed=1), r"seed was 0, now 1"),
        (Request(data="other.npz"), r"data\.source was "),
        (Request(data=str(problem.data), time="5 min"), r"made was None, now "),
    ):
        with pytest.raises(InputError, match=rf"holds a run with another recipe \({difference}"):
            begin(folder, other, Session())
    assert planner.asked == []


def test_a_damaged_recipe_is_refused_by_name(folder: RunFolder, planner: Planner) -> None:
    begun(folder, WORDS, results=True)
    (folder / "recipe.toml").write_text("version = 7")
    with pytest.raises(InputError, match=r"recipe\.toml: version"):
        begin(folder, WORDS, Session())


# --- no data are named ---


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(), "run: nothing to resume here, and no data for a new run; expected --data"),
        (Request(budget="8 kB"), "run: nothing to resume here"),
        (Request(time="5 min"), "run: nothing to resume here"),
        (Request(changes={"train.epochs": 3}), "run: nothing to resume here"),
        (Request(recipe="small"), "recipe small names no data; expected --data"),
    ],
)
def test_no_data_are_taken_that_nobody_named(folder: RunFolder, planner: Planner, request_: Request, said: str) -> None:
    with pytest.raises(InputError) as caught:
        begin(folder, request_, Session())
    assert said in str(caught.value)
    assert planner.asked == []
    assert not folder.path.exists()


def test_a_recipe_that_names_its_data_needs_no_others(folder: RunFolder, planner: Planner, tmp_path: Path) -> None:
    (tmp_path / "named.toml").write_text('[data]\nsource = "my.npz"')
    found = begin(folder, Request(recipe=tmp_path / "named.toml"), Session())
    assert found.recipe is not None
    assert found.recipe.data.source == "my.npz"
    (tmp_path / "nameless.toml").write_text("[search]\nepochs = 3")
    with pytest.raises(InputError, match=r"nameless\.toml names no data"):
        begin(folder, Request(recipe=tmp_path / "nameless.toml"), Session())


def test_other_words_after_a_dry_run_change_that_run(folder: RunFolder, planner: Planner) -> None:
    begun(folder, WORDS, results=False)
    found = begun(folder, Request(seed=4, changes={"search.lr": 0.1}), results=False).recipe
    assert len(planner.asked) == 1
    assert found == folder.recipe()
    assert found is not None
    assert (found.data.source, found.budget.packed_bytes, found.seed, found.search.lr) == ("blobs.npz", 3000, 4, 0.1)
    assert "# what the time allows\nepochs = 12\n" in (folder / "recipe.toml").read_text()  # as its other reasons


def test_epochs_that_are_said_later_are_not_set_anew(folder: RunFolder, planner: Planner) -> None:
    begun(folder, WORDS, results=False)
    begun(folder, Request(changes={"train.epochs": 5}), results=False)
    recipe = folder.recipe()
    assert recipe.made is not None
    assert (recipe.train.epochs, recipe.made.epochs_follow) == (5, False)
    assert "# what the time allows" not in (folder / "recipe.toml").read_text()
    assert begin(folder, Request(changes={"train.epochs": 5}), Session()) == Begun()


@pytest.mark.parametrize("request_", [Request(budget="9 kB"), Request(time="1 h")])
def test_a_recipe_is_not_made_anew_for_data_that_are_not_named(
    folder: RunFolder, planner: Planner, request_: Request
) -> None:
    begun(folder, WORDS, results=False)
    with pytest.raises(InputError, match=r"made for another budget or time \(.*\); say --data blobs\.npz and all else"):
        begin(folder, request_, Session())
    assert len(planner.asked) == 1


@pytest.mark.parametrize("results", [False, True])
def test_a_change_starts_from_the_recipe_of_the_run(folder: RunFolder, problem: Problem, results: bool) -> None:
    """Not from that of the digits, which nobody named."""
    begun(folder, Request(data=str(problem.data), recipe=problem.recipe, seed=5), results=results)
    request_ = Request(changes={"train.epochs": 2})
    if results:
        with pytest.raises(InputError, match=r"another recipe \(train\.epochs was 12, now 2\)"):
            begin(folder, request_, Session())
        return
    found = begin(folder, request_, Session()).recipe
    assert found == folder.recipe().changed({"train.epochs": 2})
    assert found is not None
    assert (found.seed, found.data.source, found.train.epochs) == (5, str(problem.data), 2)


# --- from another run ---


def test_a_run_begins_with_the_recipe_of_another(folder: RunFolder, planner: Planner, tmp_path: Path) -> None:
    begun(folder, WORDS, results=True)
    new = RunFolder(tmp_path / "new")
    request_ = Request(from_run=folder.path, changes={"train.epochs": 60})
    found = begun(new, request_, results=True).recipe
    assert found is not None
    assert found == folder.recipe().changed({"train.epochs": 60})
    assert found.made is not None
    assert not found.made.epochs_follow
    assert begin(new, request_, Session()) == Begun()  # the same command goes on
    assert len(planner.asked) == 1


def test_the_same_from_goes_on_though_epochs_were_set_anew(folder: RunFolder, planner: Planner, tmp_path: Path) -> None:
    begun(folder, WORDS, results=True)
    new, request_ = RunFolder(tmp_path / "new"), Request(from_run=folder.path, changes={"train.lr": 0.1})
    begun(new, request_, results=True)
    (new / "recipe.toml").write_text((new / "recipe.toml").read_text().replace("epochs = 12", "epochs = 34"))
    assert begin(new, request_, Session()) == Begun()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"recipe": "small"}, "--recipe or --model name another"),
        ({"budget": "9 kB"}, "its recipe was made for another budget; leave out --from"),
        ({"time": "-1 h"}, "not longer than zero"),
        ({"changes": {"train.epoch": 3}}, "did you mean 'train.epochs'"),
    ],
)
def test_what_contradicts_from(
    folder: RunFolder, planner: Planner, tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    begun(folder, WORDS, results=True)
    with pytest.raises(InputError) as caught:
        begin(RunFolder(tmp_path / "new"), Request(from_run=folder.path, **words), Session())
    assert said in str(caught.value)
    with pytest.raises(InputError, match="is the run itself"):
        begin(folder, Request(from_run=folder.path), Session())
    with pytest.raises(InputError, match="is not a run folder"):
        begin(folder, Request(from_run=tmp_path), Session())


# --- folders that no run can have ---


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_the_way_is_refused_before_anything_is_planned(tmp_path: Path, planner: Planner, below: str) -> None:
    (tmp_path / "afile").write_text("")
    with pytest.raises(InputError, match="afile is a file; expected a folder for the run"):
        begin(RunFolder(tmp_path / "afile" / below), WORDS, Session())
    assert planner.asked == []


def test_a_folder_of_something_else_or_in_use_is_refused_before_anything_is_planned(
    folder: RunFolder, tmp_path: Path, planner: Planner
) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"is not a run folder, and not empty: it holds thesis\.tex"):
        begin(RunFolder(tmp_path), WORDS, Session())
    begun(folder, WORDS, results=False)
    with folder.locked(), pytest.raises(InputError, match="in use by another litesnn process"):
        begin(folder, Request(data="other.npz"), Session())
    assert len(planner.asked) == 1
