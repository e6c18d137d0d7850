"""A search that keeps to its share of the time of a made recipe; epochs take what a clock says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litesnn.search import joint as module
from litesnn.search.joint import search
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.schedule import Schedule
from litesnn.training_loop.session import cosine_lr
from made import Clock
from whole_job import Problem, begin, rows

PLANNED = 8


def searched(
    path: Path, problem: Problem, monkeypatch: pytest.MonkeyPatch, seconds: float, durations: list[float]
) -> list[dict[str, Any]]:
    """The log of a search that may take so long."""
    changes = {"search.epochs": PLANNED, "made.seconds": 100.0, "made.search": seconds}
    run, data, session = begin(path, problem.data, changes)
    monkeypatch.setattr(module, "time", Clock(durations))
    search(StageContext.of(run, data, session))
    return rows(path / "search.jsonl")


def test_a_slow_search_leaves_out_epochs_and_ends_well(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = searched(tmp_path / "run", problem, monkeypatch, 20.0, [4.0])
    assert len(log) == 5
    last = Schedule(5, 1, 1 / PLANNED).at(4 + 1 / 2)  # at the last of two steps
    assert log[-1]["learning_rate"] == pytest.approx(cosine_lr(0.2, 0.001, last))


def test_half_of_the_epochs_are_searched_however_late_it_is(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(searched(tmp_path / "run", problem, monkeypatch, 1.0, [50.0])) == PLANNED // 2


def test_what_nothing_slows_is_the_same_as_without_a_bound(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("free", 0.0), ("bound", 50.0)):
        assert len(searched(tmp_path / name, problem, monkeypatch, seconds, [5.0])) == PLANNED
    found = [(tmp_path / name / "search.safetensors").read_bytes() for name in ("free", "bound")]
    assert found[0] == found[1]


@pytest.mark.parametrize("killed", [1, 3])
def test_a_search_that_was_cut_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    durations = [1.0, 3.0, 1.0, 1.0, 2.0]
    log = searched(tmp_path / "unbroken", problem, monkeypatch, 9.0, durations)
    assert PLANNED // 2 <= len(log) < PLANNED
    real, calls = vars(module)["save_state"], iter(range(99))

    def dies(*arguments: Any) -> None:
        real(*arguments)
        if next(calls) == killed - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "save_state", dies)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "broken", problem, monkeypatch, 9.0, durations)
    assert len(rows(tmp_path / "broken" / "search.jsonl")) == killed
    changes = {"search.epochs": PLANNED, "made.seconds": 100.0, "made.search": 9.0}
    run, data, session = begin(tmp_path / "broken", problem.data, changes)
    monkeypatch.setattr(module, "time", Clock(durations, done=killed))
    search(StageContext.of(run, data, session))
    for name in ("search.safetensors", "search.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
