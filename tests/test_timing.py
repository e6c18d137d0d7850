from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from litesnn.data.batches import Samples
from litesnn.data.sources import load
from litesnn.genotype import Genotype
from litesnn.planning import timing
from litesnn.planning.timing import search_pace, train_pace
from litesnn.search.joint import SearchLoop
from litesnn.train.fit import TrainLoop
from litesnn.training_loop.session import Session, input_info
from tiny import genotype
from whole_job import Problem, recipe

EDGES = ((0, 0, "conv3x3"), (0, 1, "skip"))
GENE = genotype(timesteps=2, edges=EDGES)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)


def test_steps_of_training_are_timed(problem: Problem) -> None:
    made = recipe(problem.data)
    pace = train_pace(made, GENE, load(made.data), Session())
    assert 0 < pace.best <= pace.step
    assert pace.image > 0
    assert pace.memory > 0
    assert pace.epoch > 0


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_steps_of_the_search_are_timed(problem: Problem, update: str) -> None:
    made = recipe(problem.data, {"search.update": update})
    pace = search_pace(made, load(made.data), Session())
    assert 0 < pace.best <= pace.step
    assert pace.image == 0
    assert pace.memory > 0


def test_nothing_is_left_of_it(problem: Problem, tmp_path: Path) -> None:
    """Neither random numbers nor data nor files: what follows is as if nothing had been timed."""
    made = recipe(problem.data)
    data = load(made.data)
    before, x = torch.get_rng_state(), data.train.x.clone()
    train_pace(made, GENE, data, Session())
    search_pace(made, data, Session())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(data.train.x, x)
    assert not list(tmp_path.iterdir())


def test_workers_take_their_part_of_a_batch(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watch(loop: type, name: str) -> None:
        real = getattr(loop, name)

        def step(self: Any, x: torch.Tensor, *rest: Any, **options: Any) -> Any:
            sizes.append(len(x))
            return real(self, x, *rest, **options)

        monkeypatch.setattr(loop, name, step)

    watch(TrainLoop, "step")
    watch(SearchLoop, "weight_step")
    made = recipe(problem.data, {"train.batch_size": 24, "search.batch_size": 16})
    data = load(made.data)
    for workers, wanted in ((1, 24), (2, 12), (20, 2)):
        train_pace(made, GENE, data, Session(), workers=workers)
        assert set(sizes) == {wanted}
        sizes.clear()
    search_pace(made, data, Session(), workers=4)
    assert set(sizes) == {4}


def test_data_smaller_than_a_batch(problem: Problem) -> None:
    made = recipe(problem.data, {"data.train_limit": 12, "train.batch_size": 50, "search.batch_size": 50})
    data = load(made.data)
    assert train_pace(made, GENE, data, Session()).step > 0
    assert search_pace(made, data, Session()).step > 0


def test_the_image_is_a_warm_one_of_some_validation_rows(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = vars(timing)["validate"]

    def validate(network: Any, rows: Samples) -> Any:
        seen.append(len(rows))
        return real(network, rows)

    monkeypatch.setattr(timing, "validate", validate)
    monkeypatch.setattr(timing, "_VALIDATED", 7)
    made = recipe(problem.data)
    train_pace(made, GENE, load(made.data), Session())
    assert seen == [7, 7]


def timed(
    monkeypatch: pytest.MonkeyPatch,
    durations: list[float],
    *,
    seconds: float,
    most: float = math.inf,
    own: float = math.inf,
    device: str = "cpu",
) -> tuple[int, float, float]:
    """Steps that are done if each takes the next duration (the last ones for ever), then what was measured.

    The CPU works on each step for all of its duration, or for ``own`` seconds if that is less.
    """
    now, worked, done = [0.0], [0.0], [0]

    def step() -> None:
        took = durations[min(done[0], len(durations) - 1)]
        now[0], worked[0] = now[0] + took, worked[0] + min(took, own)
        done[0] += 1

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0], thread_time=lambda: worked[0]))
    monkeypatch.setattr(timing, "_SECONDS", seconds)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    median, least = timing._measured(step, torch.device(device), most)
    return done[0], median, least


def test_the_first_steps_do_not_count_and_the_median_does(monkeypatch: pytest.MonkeyPatch) -> None:
    done, median, least = timed(monkeypatch, [50.0, 20.0, 1.0, 9.0, 2.0], seconds=0.0)
    assert (done, median, least) == (5, 2.0, 1.0)


@pytest.mark.parametrize(("each", "steps"), [(10.0, 3), (0.5, 4), (0.25, 8), (0.001, 200), (0.0, 200)])
def test_how_many_steps_are_timed(monkeypatch: pytest.MonkeyPatch, each: float, steps: int) -> None:
    done, median, least = timed(monkeypatch, [each], seconds=2.0)
    assert done == 2 + steps
    assert [median, least] == pytest.approx([each, each])


def test_what_other_programs_take_of_the_cpu_is_not_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, best in (("cpu", 0.3), ("cuda", 1.0)):  # which works while the CPU waits
        assert timed(monkeypatch, [9.0, 9.0, 1.0, 2.0, 4.0], seconds=0.0, own=0.3, device=device)[1:] == pytest.approx(
            (2.0, best)
        )


@pytest.mark.parametrize(("most", "steps"), [(math.inf, 8), (9.0, 8), (1.0, 4), (0.0, 3)])
def test_a_short_time_is_not_spent_on_measuring(monkeypatch: pytest.MonkeyPatch, most: float, steps: int) -> None:
    assert timed(monkeypatch, [0.25], seconds=2.0, most=most)[0] == 2 + steps


def test_a_genotype_is_timed_and_not_the_recipe(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Genotype] = []
    real = vars(timing)["build_network"]

    def build(gene: Genotype, *rest: Any) -> Any:
        built.append(gene)
        return real(gene, *rest)

    monkeypatch.setattr(timing, "build_network", build)
    made = recipe(problem.data)
    data = load(made.data)
    train_pace(made, GENE, data, Session())
    assert built == [GENE]
    assert input_info(data).shape == (1, 8, 8)
