"""Every row of the table of costs: written, searched, chosen, trained and measured, whatever cost it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from litesnn.budget import Budget
from litesnn.config import Recipe
from litesnn.console_tables import summary_table
from litesnn.costs import COSTS, Cost
from litesnn.costs.size import layer_bytes
from litesnn.data.sources import load
from litesnn.errors import InputError
from litesnn.genotype import Genotype
from litesnn.search import derive as derivation
from litesnn.search.derive import Option, Preferences, choose, derive, learned_preferences, wiring
from litesnn.search.joint import build_supernet, read_search, search
from litesnn.snn.cost import Meter
from litesnn.snn.network import InputInfo
from litesnn.snn.supernet import Supernet, cell_width
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.expectation import Mixed
from litesnn.training_loop.session import Session, input_info
from tiny import quantized_images
from whole_job import Problem, begin, litesnn, recipe, rows

ROWS = list(COSTS.values())
SEARCHED = [cost for cost in ROWS if cost.expected is not None]

every_row = pytest.mark.parametrize("cost", ROWS, ids=lambda cost: cost.key)
every_searched_row = pytest.mark.parametrize("cost", SEARCHED, ids=lambda cost: cost.key)


def test_the_table_has_rows_under_their_own_keys() -> None:
    assert len(ROWS) >= 6
    assert all(key == cost.key for key, cost in COSTS.items())
    assert set(Budget.model_fields) == set(COSTS)
    assert any(cost.is_work for cost in SEARCHED)
    assert any(not cost.is_work for cost in SEARCHED)
    for field in ("title", "row", "meaning", "example"):
        assert len({getattr(cost, field) for cost in ROWS}) == len(ROWS)


@every_row
def test_a_limit_is_read_and_written(cost: Cost) -> None:
    budget = Budget.parse(cost.example)
    assert list(budget.limits()) == [cost.key]
    assert Budget.parse(budget.describe()) == budget
    assert Budget.model_validate(budget.limits()) == budget
    assert budget.without([cost.key]) == Budget()
    assert cost.say(budget.limits()[cost.key])
    for text in (cost.example.upper(), cost.example.replace(" ", "", 1)):
        assert Budget.parse(text) == budget
    with pytest.raises(InputError, match="twice"):
        Budget.parse(f"{cost.example}, {cost.example}")
    with pytest.raises(InputError, match="greater than zero"):
        Budget.parse(f"-{cost.example}" if cost.key != "timesteps" else "T <= 0")
    with pytest.raises(InputError) as caught:
        Budget.parse("8 parsecs")
    assert cost.expects in str(caught.value)


@every_row
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_senseless_limit_is_refused(cost: Cost, value: float) -> None:
    with pytest.raises(ValueError, match=cost.key):
        Budget.model_validate({cost.key: value})


@every_row
def test_no_other_row_reads_a_limit_of_this_one(cost: Cost) -> None:
    texts = (cost.example, cost.write(Budget.parse(cost.example).limits()[cost.key]))
    assert all([other.key for other in ROWS if other.read(text.lower()) is not None] == [cost.key] for text in texts)


@every_searched_row
def test_a_decided_search_expects_what_the_choice_is_priced_at(cost: Cost, problem: Problem) -> None:
    """With one candidate of each kind, an expectation is the price of the one network that there is."""
    changes = {
        "budget": {cost.key: 1e9},
        "search.bits": [2],
        "search.keeps": [1.0],
        "search.widths": [1.0],
        "model.ops": ["conv3x3"],
        "model.nodes": 1,
        "search.timesteps": 1,
    }
    made = recipe(problem.data, changes)
    info = input_info(load(made.data))
    supernet = build_supernet(made, info.shape, len(info.classes))
    meter = Meter()
    supernet(quantized_images(info.shape, 64), meter=meter)
    assert cost.expected is not None
    mixed = Mixed(supernet, supernet.mixes(), meter, torch.ones(1), frames=False)
    expected = float(cost.expected(mixed).detach())
    rates = {name: rate.tolist() for name, rate in meter.rates.items()}
    preferences = learned_preferences(supernet, rates)
    genotype, warning = choose(preferences, made, info)
    assert warning is None
    assert genotype.timesteps == 1
    price = genotype_price(cost, genotype, made, preferences, info)
    # Prices of work don't know borders, and those of a file have the header that there is.
    header = supernet.header_bytes if cost.key == "packed_bytes" else 0
    assert price - header == pytest.approx(expected - header, rel=0.35 if cost.is_work else 0.02)


def prices_of(cost: Cost, made: Recipe, preferences: Preferences, info: InputInfo) -> tuple[list[list[Option]], float]:
    """The options of every cell, and the price of all else at T = 1."""
    edges, cells = wiring(preferences, made), range(len(made.model.levels))
    options = [derivation._cell_options(index, edges, preferences, made, info) for index in cells]
    if cost.key == "packed_bytes":  # which is asked of the whole file: header, stem, scales and biases at both ends
        channels = made.model.stem_channels
        stem = layer_bytes(9 * info.shape[0] * channels, channels, 1.0, made.model.io_bits)
        return options, Supernet.header_bytes + stem + 2 * (channels + 2 * len(info.classes))
    return options, at_one(derivation.fixed_prices(made, info, 1)[cost.key])


def at_one(price: Any) -> float:
    """A price at T = 1."""
    return float(price[0]) if isinstance(price, np.ndarray) else float(price)


def genotype_price(cost: Cost, genotype: Genotype, made: Recipe, preferences: Preferences, info: InputInfo) -> float:
    """What the exact choice takes a network to cost."""
    options, rest = prices_of(cost, made, preferences, info)
    widths: list[int] = []
    search, total = made.search, rest
    for gene, row in zip(genotype.cells, options, strict=True):
        full = made.model.width * 2**gene.level
        width = [cell_width(full, share) for share in search.widths].index(gene.width)
        before = (widths[-2] if len(widths) > 1 else 0, widths[-1] if widths else 0)
        (option,) = (
            option
            for option in row
            if (search.bits[option.bits], search.keeps[option.keep], option.width) == (gene.bits, gene.keep, width)
            and (option.older, option.newer) == before
        )
        total += at_one(option.prices[cost.key])
        widths.append(width)
    return total


def least_price(cost: Cost, made: Recipe, preferences: Preferences, info: InputInfo) -> float:
    """The least that any choice of the wiring costs."""
    options, rest = prices_of(cost, made, preferences, info)
    flat = [option for row in options for option in row]
    found = derivation._solve(options, [-at_one(option.prices[cost.key]) for option in flat], [])
    assert found is not None
    return rest + sum(at_one(option.prices[cost.key]) for option in found)


@pytest.fixture(scope="module")
def free_run(tmp_path_factory: pytest.TempPathFactory, problem: Problem) -> dict[str, Any]:
    """The metrics of a design without limits."""
    path = tmp_path_factory.mktemp("free") / "run"
    outcome = litesnn("design", *problem.options(path), "--set", "budget={}", "--set", "search.fill=0.0")
    assert outcome.code == 0, outcome.complaints
    metrics: dict[str, Any] = json.loads((path / "metrics.json").read_text())
    return metrics


@pytest.mark.job
@every_row
def test_a_limit_goes_through_the_whole_job(
    cost: Cost, problem: Problem, free_run: dict[str, Any], tmp_path: Path
) -> None:
    """About what an unlimited network costs is promised, searched for, kept, and shown in log, table and report."""
    free = cost.measured(free_run)
    limit = (0.98 if cost.is_work else 1.1) * free
    limit = max(1, int(limit)) if cost.whole else limit
    path = tmp_path / "run"
    limited = ("--set", "search.fill=0.0", "--set", f"budget={{{cost.key} = {limit}}}")
    outcome = litesnn("design", *problem.options(path), *limited)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((path / "metrics.json").read_text())
    (row,) = [row for row in metrics["budgets"] if row["name"] == cost.key]
    assert row == {"name": cost.key, "value": cost.measured(metrics), "limit": limit, "kept": True}, outcome.complaints
    if cost.expected is not None:
        searched = rows(path / "search.jsonl")[-1]
        assert searched[cost.key] > 0
        assert list(searched["multipliers"]) == [cost.key]
    if cost.is_work:
        trained = rows(path / "train.jsonl")[-1]
        assert trained[cost.key] > 0
        assert list(trained["multipliers"]) == [cost.key]
    assert cost.title in (path / "report.html").read_text()
    printed = litesnn("info", path).out
    assert printed


@every_searched_row
def test_a_limit_halfway_decides_the_exact_choice(cost: Cost, problem: Problem) -> None:
    """Of a search that likes the largest of everything, a limit between the extremes takes something between."""
    wide = recipe(problem.data, {"budget": {cost.key: 1e15}, "model.width": 12, "search.timesteps": 1})
    info = input_info(load(wide.data))
    supernet = build_supernet(wide, info.shape, len(info.classes))
    with torch.no_grad():
        supernet.beta.copy_(torch.arange(supernet.beta[0].numel()).view_as(supernet.beta[0]).expand_as(supernet.beta))
        supernet.width.copy_(torch.arange(supernet.width.shape[1]).expand_as(supernet.width))
        supernet.alpha[:, -1] = 1.0
    names = ["stem", *(f"cell {cell} node {node}" for cell in (1, 2) for node in (0, 1))]
    preferences = learned_preferences(supernet, {name: [0.2] for name in names})

    def chosen(limit: float) -> tuple[float, str | None]:
        budget = Budget.model_validate({cost.key: int(limit) if cost.whole else limit})
        made = wide.model_copy(update={"budget": budget})
        genotype, warning = choose(preferences, made, info)
        price = genotype_price(cost, genotype, wide, preferences, info)
        if cost.key == "packed_bytes":
            headers.append(derivation.largest_file(genotype, info) - price)  # of the real header, to the usual one
        return price + headers[-1], warning

    headers = [0.0]
    dear = chosen(1e15)[0]
    cheap = least_price(cost, wide, preferences, info) + headers[-1]
    assert cheap < 0.9 * dear
    for share in (0.25, 0.5, 0.75):
        limit = cheap + share * (dear - cheap)
        price, warning = chosen(limit)
        assert warning is None
        assert cheap <= price <= limit * (1 + 1e-9)
        assert price < dear


@pytest.mark.parametrize("cost", [cost for cost in SEARCHED if not cost.is_work], ids=lambda cost: cost.key)
def test_an_impossible_size_is_refused_before_the_search(cost: Cost, problem: Problem, tmp_path: Path) -> None:
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--set", f"budget={{{cost.key} = 10}}")
    assert outcome.code == 2
    assert f"the budget of {cost.write(10)} cannot be kept" in outcome.complaints
    assert "the smallest network needs" in outcome.complaints
    assert not (tmp_path / "run" / "search.jsonl").exists()


@pytest.mark.parametrize("cost", [cost for cost in SEARCHED if cost.is_work], ids=lambda cost: cost.key)
def test_work_beyond_its_limit_is_said_when_the_network_is_chosen(cost: Cost, problem: Problem, tmp_path: Path) -> None:
    run, data, session = begin(tmp_path / "run", problem.data, {"budget": {cost.key: 1e-3}})
    search(StageContext.of(run, data, session))
    supernet, rates = read_search(run, input_info(data).shape, len(input_info(data).classes))
    _, warning = choose(learned_preferences(supernet, rates), run.recipe(), input_info(data))
    assert warning is not None
    assert f"over the limit of {cost.say(1e-3)}" in warning
    derive(StageContext.of(run, data, Session()))
    assert run.done("derive")


def test_the_table_of_a_design_shows_every_cost(free_run: dict[str, Any]) -> None:
    shown = list(summary_table(free_run).columns[0].cells)
    assert [cost.row for cost in ROWS if cost.row not in shown] == []
