"""Every row of the table of strategies goes through a whole design, and so do two that only these tests have."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from given import MODULE
from litesnn.config import Recipe
from litesnn.data.sources import load
from litesnn.genotype import Genotype, all_edges
from litesnn.planning.timing import search_pace
from litesnn.references import function_of
from litesnn.search import joint
from litesnn.search.baselines import random_genotype
from litesnn.search.derive import certain_prices, largest_file
from litesnn.search.joint import SearchContext, Update, search
from litesnn.search.outcome import Preferences, Ranking, populations_of
from litesnn.strategies import STRATEGIES, Strategy
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.equal_parts import require_equal_parts
from litesnn.training_loop.session import Session, input_info
from whole_job import STAGE_RESULTS, Problem, begin, litesnn, recipe

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=lambda strategy: strategy.name)


def chosen(strategy: str) -> list[str]:
    return ["--set", f"search.update={strategy}"]


def test_the_table_has_rows_under_their_own_names() -> None:
    assert len(STRATEGIES) >= 2
    assert all(name == strategy.name for name, strategy in STRATEGIES.items())
    assert len({strategy.meaning for strategy in STRATEGIES.values()}) == len(STRATEGIES)
    assert any(strategy.searches_modules for strategy in STRATEGIES.values())


@every_strategy
def test_its_function_takes_a_context(strategy: Strategy) -> None:
    (parameter,) = inspect.signature(function_of(strategy.search)).parameters.values()
    assert parameter.annotation in ("SearchContext", SearchContext)


@pytest.mark.job
@every_strategy
def test_a_design_goes_through_within_the_budget(strategy: Strategy, problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = litesnn("design", *problem.options(run), *chosen(strategy.name))
    assert outcome.code == 0, outcome.err
    assert all((run / name).is_file() for name in STAGE_RESULTS)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["budgets_kept"] is True
    assert metrics["packed_bytes"] == (run / "model.safetensors").stat().st_size <= 2500
    made = recipe(problem.data, {"search.update": strategy.name})
    genotype = Genotype.read(run / "genotype.json")
    prices = certain_prices(genotype, made, input_info(load(made.data)))
    assert metrics["packed_bytes"] <= prices["packed_bytes"] <= 2500


@every_strategy
def test_the_same_seed_gives_the_same_bytes(strategy: Strategy, problem: Problem, tmp_path: Path) -> None:
    found = []
    for name in "ab":
        run, data, session = begin(tmp_path / name, problem.data, {"search.update": strategy.name, "search.epochs": 1})
        found.append(search(StageContext.of(run, data, session)).read_bytes())
    assert found[0] == found[1]


@every_strategy
def test_its_epochs_take_the_samples_that_its_row_says(strategy: Strategy, problem: Problem) -> None:
    made = recipe(problem.data, {"search.update": strategy.name})
    data, pace = load(made.data), None
    if strategy.update is None:
        pace = search_pace(made, data, Session(), seconds=0.0)
        assert (pace.step, pace.memory) == (0.0, 0)
        return
    update: Update = function_of(strategy.update)(made, input_info(data), data, Session(), 16)
    rows = len(data.train.y) + (len(data.validation.y) if strategy.joins_splits else 0)
    assert len(update.samples) == rows
    assert set(update.batch_sizes) == {16}
    assert search_pace(made, data, Session(), seconds=0.0).step > 0


@pytest.mark.job
@every_strategy
def test_a_user_module_is_searched_or_refused_in_a_line(strategy: Strategy, problem: Problem, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(MODULE)
    options = ["--model", f"{module}:Net", "--data", str(problem.data), "--run", str(tmp_path / "run")]
    epochs = ["--set", "search.epochs=1", "--set", "train.epochs=1", "--set", "budget={}"]
    outcome = litesnn("compress", *options, *epochs, *chosen(strategy.name), "--quiet", "--device", "cpu")
    if strategy.searches_modules:
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert f"the strategy '{strategy.name}' searches no users' modules; expected one of" in outcome.err
        assert not (tmp_path / "run").exists()


def test_an_unknown_strategy_is_refused_by_name(problem: Problem, tmp_path: Path) -> None:
    outcome = litesnn("design", *problem.options(tmp_path / "run"), *chosen("guessing"))
    assert outcome.code == 2
    assert f"search.update: expected one of {', '.join(STRATEGIES)}, not 'guessing'" in outcome.err
    assert not (tmp_path / "run").exists()


def test_the_settings_explain_every_strategy() -> None:
    text = type(Recipe.from_toml("").search).model_fields["update"].description
    assert text is not None
    assert all(f"{strategy.name}: {strategy.meaning}" in text for strategy in STRATEGIES.values())


# --- strategies that only the tests have: nothing learns in them ---


def even(made: Recipe, rate: float = 0.2) -> dict[str, list[float]]:
    """The same firing rate everywhere."""
    return {name: [rate] * made.timesteps for name in populations_of(made)}


def by_chance(context: SearchContext, count: int = 3) -> Ranking:
    """A few genotypes by chance, of a budget with twice the room: some are too large."""
    made = context.recipe
    wide = made.model_copy(update={"budget": made.budget.model_copy(update={"packed_bytes": 5000})})
    seeds = range(made.seed, made.seed + count)
    return Ranking(tuple(random_genotype(wide, context.info, even(made), seed=seed) for seed in seeds))


def by_rule(context: SearchContext) -> Preferences:
    """The most of everything."""
    made = context.recipe
    model, searched, cells = made.model, made.search, len(made.model.levels)
    return Preferences(
        alpha=np.tile(np.arange(len(model.ops), dtype=np.float64), (len(all_edges(model.nodes)), 1)),
        compression=np.tile(
            np.add.outer(np.arange(len(searched.bits)), np.arange(len(searched.keeps))).astype(np.float64),
            (cells, 1, 1),
        ),
        width=np.tile(np.arange(len(searched.widths), dtype=np.float64), (cells, 1)),
        psi=np.arange(made.timesteps, dtype=np.float64),
        rates=even(made, 0.01),
    )


@pytest.fixture
def no_supernet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds one fails."""

    def build(*_: Any) -> None:
        raise AssertionError("a supernet was built")

    monkeypatch.setattr(joint, "build_supernet", build)


def add(monkeypatch: pytest.MonkeyPatch, function: Callable[[SearchContext], Any]) -> None:
    row = Strategy(name="third", meaning="a strategy of the tests", search=function)
    monkeypatch.setitem(STRATEGIES, "third", row)


@pytest.mark.parametrize("function", [by_chance, by_rule])
def test_a_third_strategy_takes_a_row(
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_supernet: None,
    function: Callable[[SearchContext], Any],
) -> None:
    add(monkeypatch, function)
    test_a_design_goes_through_within_the_budget(STRATEGIES["third"], problem, tmp_path)
    test_the_same_seed_gives_the_same_bytes(STRATEGIES["third"], problem, tmp_path)
    test_its_epochs_take_the_samples_that_its_row_says(STRATEGIES["third"], problem)
    test_a_user_module_is_searched_or_refused_in_a_line(STRATEGIES["third"], problem, tmp_path / "run")
    genotype = Genotype.read(tmp_path / "run" / "genotype.json")
    if function is by_rule:
        assert genotype.timesteps == 2
        assert {edge.op for edge in genotype.edges} == {"conv3x3"}
    shown = litesnn("info", tmp_path / "run").out
    assert shown


def by_size(made: Recipe) -> tuple[Genotype, ...]:
    """Genotypes by chance without a budget, the largest first."""
    free = made.model_copy(update={"budget": made.budget.without(["packed_bytes", "bit_synops"])})
    info = input_info(load(made.data))
    drawn = [random_genotype(free, info, even(made), seed=seed) for seed in range(20)]
    return tuple(sorted(drawn, key=lambda genotype: -largest_file(genotype, info)))


def test_the_first_of_a_ranking_that_fits_is_taken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(problem.data)
    info, ranked = input_info(load(made.data)), by_size(made)
    sizes = [certain_prices(genotype, made, info)["packed_bytes"] for genotype in ranked]
    limit = next(size for size in sizes if size < sizes[0])
    add(monkeypatch, lambda context: Ranking(ranked))
    options = [*problem.options(tmp_path / "run"), *chosen("third"), "--set", f"budget.packed_bytes={limit}"]
    assert litesnn("search", *options).code == 0
    assert litesnn("derive", tmp_path / "run").code == 0
    genotype = Genotype.read(tmp_path / "run" / "genotype.json")
    assert certain_prices(genotype, made, info)["packed_bytes"] == limit


def test_a_ranking_of_which_nothing_fits_is_refused_in_a_line(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(problem.data)
    genotype = by_size(made)[0]
    need = certain_prices(genotype, made, input_info(load(made.data)))["packed_bytes"]
    add(monkeypatch, lambda context: Ranking((genotype, genotype)))
    options = [*problem.options(tmp_path / "run"), *chosen("third"), "--set", f"budget.packed_bytes={need - 1}"]
    outcome = litesnn("design", *options)
    assert outcome.code == 2
    assert "cannot be kept: number 1 of the genotypes that the search ranks needs" in outcome.err
    assert not (tmp_path / "run" / "genotype.json").exists()


def foreign(context: SearchContext) -> Ranking:
    """A genotype with a width that the recipe does not have."""
    (genotype,) = by_chance(context, 1).genotypes
    cells = tuple(cell.model_copy(update={"width": 7}) for cell in genotype.cells)
    return Ranking((genotype.model_copy(update={"cells": cells}),))


def misshapen(context: SearchContext) -> Preferences:
    """Preferences for one timestep too many."""
    return replace(by_rule(context), psi=np.zeros(9))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (foreign, "the genotype is not one that recipe 'tiny' could have found"),
        (lambda context: Ranking(()), "strategy 'third': the search ranks no genotype"),
        (misshapen, r"strategy 'third': psi has the shape [9]; the recipe's choices are [2]"),
        (
            lambda context: replace(by_rule(context), psi=np.full(2, -np.inf)),
            "strategy 'third': psi allows no number of timesteps",
        ),
        (
            lambda context: replace(by_rule(context), rates={}),
            "strategy 'third': it has no 2 firing rates of stem",
        ),
    ],
)
def test_what_no_network_can_come_of_is_refused_in_a_line(
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[SearchContext], Any],
    words: str,
) -> None:
    add(monkeypatch, function)
    outcome = litesnn("design", *problem.options(tmp_path / "run"), *chosen("third"))
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run" / "genotype.json").exists()


@pytest.mark.parametrize("function", [by_chance, by_rule])
@pytest.mark.parametrize("place", [40, -9])
def test_a_damaged_result_is_refused_by_name(
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[SearchContext], Any],
    place: int,
) -> None:
    add(monkeypatch, function)
    run = tmp_path / "run"
    assert litesnn("search", *problem.options(run), *chosen("third")).code == 0
    data = bytearray((run / "search.safetensors").read_bytes())
    data[place] ^= 4
    (run / "search.safetensors").write_bytes(data)
    outcome = litesnn("derive", run)
    assert outcome.code == 2
    assert "search.safetensors" in outcome.err


def test_a_strategy_without_steps_has_no_batches_to_share(monkeypatch: pytest.MonkeyPatch, problem: Problem) -> None:
    add(monkeypatch, by_rule)
    made = recipe(problem.data, {"search.update": "third"})
    monkeypatch.setattr("litesnn.processes.count", lambda: 7)
    require_equal_parts(made, ["search"], None) if made.search.batch_size % 7 == 0 else None
    data = load(made.data)
    even_sized = made.model_copy(update={"search": made.search.model_copy(update={"batch_size": 700})})
    require_equal_parts(even_sized, ["search"], data)
