"""Every row of the table of stages, and one more that only these tests have: each runs, resumes, and is made anew."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litesnn.config import Recipe, _keys
from litesnn.data.sources import load
from litesnn.deploy.packed import to_bytes
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.references import function_of
from litesnn.runs import RunFolder
from litesnn.stages import STAGES, Stage, first_reader, stages_without
from litesnn.training_loop.context import Handed, StageContext
from whole_job import Problem, begin, contents, litesnn, stamps

every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)


EVERYTHING = ("train.teacher=auto", "teacher.width=2", "teacher.epochs=1", "teacher.batch_size=24")
"""What a recipe says to have the stages, too, that are only there with something."""


def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def options(problem: Problem, run: Path) -> list[str]:
    """What a design with every stage is told."""
    return [*problem.options(run), *(word for change in EVERYTHING for word in ("--set", change))]


@pytest.fixture(scope="module")
def complete(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A design with every stage; to be read or copied."""
    run = tmp_path_factory.mktemp("complete") / "run"
    outcome = litesnn("design", *options(problem, run))
    assert outcome.code == 0, outcome.err
    return run


def test_the_table_has_rows_under_their_own_names() -> None:
    assert len(STAGES) >= 6
    assert all(name == stage.name for name, stage in STAGES.items())
    files = [name for stage in STAGES.values() for name in (stage.output, stage.log) if name is not None]
    assert len(set(files)) == len(files)
    assert len({stage.meaning for stage in STAGES.values()}) == len(STAGES)


@every_stage
def test_its_functions_take_a_context(stage: Stage) -> None:
    for reference in (stage.design, stage.compress):
        (parameter,) = inspect.signature(function_of(reference)).parameters.values()
        assert parameter.annotation in ("StageContext", StageContext)


@every_stage
def test_it_needs_what_comes_before_it_and_says_what_is_missing(stage: Stage, finished: Path, tmp_path: Path) -> None:
    names = list(STAGES)
    for number, needed in enumerate(stage.needs):
        assert names.index(needed) < names.index(stage.name)
        run = copied(finished, tmp_path / str(number))
        (run / STAGES[needed].output).unlink()
        before = stamps(run)
        outcome = litesnn(stage.name, run)
        assert outcome.code == 2
        assert f"{STAGES[needed].output} is missing: run 'litesnn {needed}" in outcome.err
        assert {name: stamp for name, stamp in stamps(run).items() if name != ".lock"} == {
            name: stamp for name, stamp in before.items() if name != ".lock"
        }


@every_stage
def test_it_has_a_command(stage: Stage) -> None:
    outcome = litesnn(stage.name, "--help")
    assert outcome.code == 0
    assert stage.meaning.partition(",")[0].partition(":")[0] in outcome.out


@every_stage
def test_its_settings_are_keys_of_recipes(stage: Stage) -> None:
    keys = set(_keys(Recipe))
    assert set(stage.settings) <= keys
    for key in stage.settings:
        assert first_reader(key) == stage.name
        inner = [name for name in keys if name.startswith(f"{key}.")]
        assert {first_reader(name) for name in inner} <= set(list(STAGES)[: list(STAGES).index(stage.name) + 1])


@pytest.mark.job
@every_stage
def test_without_its_result_it_and_all_that_follows_are_made_anew(
    stage: Stage, problem: Problem, complete: Path, tmp_path: Path
) -> None:
    run = copied(complete, tmp_path)
    before = stamps(run)
    (run / stage.output).unlink()
    outcome = litesnn("design", *options(problem, run))
    assert outcome.code == 0, outcome.err
    after, order = stamps(run), list(STAGES)
    for name, row in STAGES.items():
        again = order.index(name) >= order.index(stage.name)
        assert (after[row.output] != before[row.output]) == again, name
    assert contents(run) == contents(complete)
    assert (run / "teacher.safetensors").read_bytes() == (complete / "teacher.safetensors").read_bytes()


@every_stage
def test_what_is_only_there_with_something_is_left_out_without_it(stage: Stage, finished: Path, complete: Path) -> None:
    assert RunFolder(complete).done(stage.name)
    assert RunFolder(finished).done(stage.name) == (stage.only_with is None)
    assert (stage.name in RunFolder(finished).needs()) == (stage.only_with is None)
    assert RunFolder(complete).needs() == tuple(STAGES)


# --- a stage that only the tests have ---


def tally(context: StageContext) -> Path:
    """Write a figure of the evaluation to a file of its own."""
    metrics = context.run.metrics()
    context.run.start("tally")
    text = json.dumps({"accuracy": metrics["test_accuracy"], "seed": context.recipe.seed})
    write_atomically(context.run.output("tally"), text)
    return context.run.output("tally")


def row(function: Callable[[StageContext], Path] = tally, **changes: Any) -> Stage:
    return Stage(
        name="tally",
        output="tally.json",
        meaning="Write a figure of the evaluation.",
        design=function,
        compress=function,
        **({"needs": ("evaluate",)} | changes),
    )


@contextmanager
def one_more(stage: Stage, *, after: str) -> Iterator[None]:
    """The table with another stage."""
    rows = dict(STAGES)
    STAGES.clear()
    for name, known in rows.items():
        STAGES[name] = known
        if name == after:
            STAGES[stage.name] = stage
    try:
        yield
    finally:
        STAGES.clear()
        STAGES.update(rows)


@pytest.mark.job
@pytest.mark.parametrize("after", ["evaluate", "pack", "report"])
def test_another_stage_takes_a_row(problem: Problem, finished: Path, tmp_path: Path, after: str) -> None:
    run = copied(finished, tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    before = stamps(run)
    with one_more(row(), after=after):
        later = [name for name in STAGES if list(STAGES).index(name) > list(STAGES).index("tally")]
        outcome = litesnn("design", *problem.options(run))
        assert outcome.code == 0, outcome.err
        assert json.loads((run / "tally.json").read_text()) == {"accuracy": metrics["test_accuracy"], "seed": 0}
        done = stamps(run)
        there = [STAGES[name] for name in RunFolder(run).needs()]
        assert {row.name for row in there if done[row.output] != before.get(row.output)} == {
            "tally",
            *later,
        }
        assert litesnn("design", *problem.options(run)).code == 0  # and then it is skipped
        assert {name for name, stamp in stamps(run).items() if stamp != done[name]} <= {".lock"}
        (run / "network.safetensors").unlink()
        assert litesnn("design", *problem.options(run)).code == 0
        assert stamps(run)["tally.json"] != done["tally.json"]
        RunFolder(run).start("train")
        assert not (run / "tally.json").exists()
    assert contents_but_started(run) == contents_but_started(finished)


def contents_but_started(run: Path) -> dict[str, bytes]:
    """What no later stage has removed."""
    return {name: (run / name).read_bytes() for name in ("search.safetensors", "genotype.json")}


def test_another_stage_that_fails_is_gone_on_with(problem: Problem, finished: Path, tmp_path: Path) -> None:
    run, calls = copied(finished, tmp_path), [0]

    def second_time(context: StageContext) -> Path:
        calls[0] += 1
        if calls[0] == 1:
            raise InputError("not yet")
        return tally(context)

    with one_more(row(second_time), after="evaluate"):
        outcome = litesnn("design", *problem.options(run))
        assert (outcome.code, outcome.err) == (2, "litesnn: error: not yet\n")
        assert not (run / "tally.json").exists()
        assert "next: tally" in litesnn("info", run).out
        assert litesnn("design", *problem.options(run)).code == 0
        assert (run / "tally.json").exists()
        assert calls[0] == 2


def test_what_needs_packing_is_left_out_with_it() -> None:
    with one_more(row(needs=("pack",)), after="report"):
        assert stages_without(packing=True) == tuple(STAGES)
        assert stages_without(packing=False) == tuple(name for name in STAGES if name not in ("pack", "tally"))
    assert stages_without(packing=False) == tuple(name for name in STAGES if name != "pack")


def test_a_setting_of_another_stage_leaves_those_before_it_alone() -> None:
    assert first_reader("augment.crop") == "search"
    with one_more(row(settings=("augment",)), after="evaluate"):
        assert first_reader("augment.crop") == "tally"


# --- what is read once, and handed on ---


@pytest.mark.job
def test_a_recipe_is_parsed_once(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    real = Recipe.from_toml

    def from_toml(text: str, **options: Any) -> Recipe:
        texts.append(text)
        return real(text, **options)

    monkeypatch.setattr(Recipe, "from_toml", from_toml)
    run = tmp_path / "run"
    assert litesnn("design", *problem.options(run)).code == 0
    parsed = texts.count((run / "recipe.toml").read_text())
    assert parsed == 1
    assert len(texts) <= 4


def test_a_context_has_the_recipe_that_the_file_has_now(problem: Problem, tmp_path: Path) -> None:
    run, data, session = begin(tmp_path / "run", problem.data)
    context = StageContext.of(run, data, session)
    assert context.renewed() == context
    assert context.renewed().recipe is context.recipe
    text = (run / "recipe.toml").read_text().replace("epochs = 12\n", "epochs = 7\n")
    (run / "recipe.toml").write_text(text)
    assert context.recipe.train.epochs == 12
    assert context.renewed().recipe.train.epochs == 7
    assert StageContext.of(run, data, session).recipe.train.epochs == 7


def test_what_is_handed_on_is_taken_once() -> None:
    handed = Handed()
    assert handed.take(str) is None
    handed.leave("one")
    handed.leave("two")
    handed.leave(3)
    assert (handed.take(str), handed.take(str), handed.take(int)) == ("two", None, 3)


def test_the_packed_model_is_made_once_in_a_design(
    problem: Problem, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(model: Any) -> bytes:
        made.append("bytes")
        return to_bytes(model)

    monkeypatch.setattr("litesnn.deploy.pack.to_bytes", counted)
    run = copied(finished, tmp_path)
    (run / "metrics.json").unlink()
    assert litesnn("design", *problem.options(run)).code == 0
    assert made == ["bytes"]
    (run / "model.safetensors").unlink()
    assert litesnn("design", *problem.options(run)).code == 0  # packing alone makes it again
    assert made == ["bytes", "bytes"]
    assert contents(run) == contents(finished)


def test_a_context_holds_the_facts_of_the_input(problem: Problem, tmp_path: Path) -> None:
    run, _, session = begin(tmp_path / "run", problem.data)
    data = load(run.recipe().data)
    info = StageContext.of(run, data, session).info
    assert info.input == data.input
    assert (info.shape, info.classes) == (data.shape, data.classes)
