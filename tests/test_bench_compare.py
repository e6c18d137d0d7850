"""The comparison makes every network once, whatever kills it, and what it says of them is true."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import compare
import compare_report
import curve
import plot_compare
from compare_arms import ARMS, PAPER, ComparisonPlan, Task
from compare_workers import GRACE, Progress, TimeUp, time_limit
from litesnn.errors import InputError
from litesnn.genotype import Genotype
from litesnn.runs import RunFolder
from whole_job import Problem, stamps

SHORT = ["search.epochs=1", "train.epochs=1", "search.warmup_epochs=0", "search.architecture_warmup_epochs=0"]


def arguments(problem: Problem, runs: Path, *more: str) -> list[str]:
    said = ["--recipe", str(problem.recipe), "--data", str(problem.data), "--runs", str(runs), "--device", "cpu"]
    return [*said, "--seeds", "1", "--randoms", "1", *more, "--set", *SHORT]


def plan(runs: Path, **changes: Any) -> ComparisonPlan:
    settings: dict[str, Any] = {"recipe": "digits", "data": None, "budget": None, "changes": {}, "arms": tuple(ARMS)}
    return ComparisonPlan(**settings | {"seeds": 2, "randoms": 3, "match": "budget", "runs": runs} | changes)


def fake(arm: str, seed: int, accuracy: float, index: int | None = None, **more: Any) -> dict[str, Any]:
    """A result."""
    budgets = [{"name": "packed_bytes", "limit": 8000}, {"name": "bit_synops", "limit": None}]
    shared = {"version": 1, "budgets": budgets, "budgets_kept": True, "recipe": "r", "changes": {}, "budget": "b"}
    shared |= {"device": "d", "torch": "2", "data": {"name": "blobs"}, "epochs": {"search": 1, "train": 2}, "n_test": 9}
    shared |= {"packed_bytes": 100, "bit_synops": 5e5, "timesteps": 2, "preference": accuracy, "genotype_summary": "g"}
    shared |= {"entropy": [{"alpha": 1.0, "beta": 0.5, "width": 0.25, "psi": 0.125}]}
    own = {"arm": arm, "seed": seed, "index": index, "test_accuracy": accuracy, "validation_accuracy": accuracy}
    return shared | own | more


RESULTS = {
    "joint": [fake("joint", 0, 0.9), fake("joint", 1, 0.7)],
    "random": [
        fake("random", 0, 0.5, 0, packed_bytes=80),
        fake("random", 0, 0.7, 1),
        fake("random", 1, 0.6, 0, bit_synops=9e6),
        fake("random", 1, 0.4, 1, budgets_kept=False),
    ],
}


def test_every_network_has_a_name_and_a_place(tmp_path: Path) -> None:
    tasks = plan(tmp_path).tasks()
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names) == 2 * (len(ARMS) - 2) + 2 * 2 * 3
    assert {task.arm for task in tasks} == set(ARMS)
    assert names[:2] == ["joint-0", "joint-1"]
    assert {"random-1-2", "random-matched-0-0", "uniform-4-1", "fixed-T-0", "sequential-1", "paper-0"} < set(names)
    assert {task.needs for task in tasks if task.arm == "random" and task.seed == 1} == {"joint-1"}
    assert Task("paper", 0).needs is None


def test_the_arms_change_nothing_but_the_search(tmp_path: Path) -> None:
    """Training and budget are those of joint; paper and sequential search without limits, in another folder."""
    bench = plan(tmp_path)
    joint = bench.recipe_of(Task("joint", 1))
    assert joint.seed == 1
    fixed = bench.recipe_of(Task("fixed-T", 1), ARMS["fixed-T"].changes)
    assert fixed.search.fixed_timesteps
    assert fixed.model_copy(update={"search": joint.search}) == joint
    paper = bench.recipe_of(Task("paper", 1), PAPER)
    assert (paper.search.mode, paper.budget.packed_bytes, paper.budget.bit_synops) == ("paper", None, None)
    assert (paper.train, paper.model, paper.budget.timesteps) == (joint.train, joint.model, joint.budget.timesteps)
    with pytest.raises(InputError, match=r"needs search\.mode 'budget' and a limit on the packed size"):
        plan(tmp_path, recipe="paper").recipe_of(Task("joint", 0))


@pytest.mark.job
def test_all_arms_once(problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, figures = tmp_path / "runs", tmp_path / "figures.json"
    said = arguments(
        problem, runs, "--json", str(figures), "--plots", str(tmp_path / "plots"), "--diagnose", "--match", "joint"
    )
    assert compare.compare(said) == 0
    results = compare_report.read_results(runs)
    assert list(results) == list(ARMS)
    first = results["joint"][0]
    joint = Genotype.read(RunFolder(runs / "joint-0").output("derive"))
    for arm, (row,) in results.items():
        assert row["n_test"] == first["n_test"] > 0
        assert row["epochs"] == {"search": 1, "train": 1}
        assert 0 <= row["validation_accuracy"] <= 1
        assert row["packed_bytes"] <= 2500 or arm == "paper"
        assert Genotype.from_json(json.dumps(row["genotype"])).timesteps == row["timesteps"]
        assert (row["preference"] is not None) == (arm in ("joint", "random", "random-matched"))
        assert len(row["entropy"]) == (1 if ARMS[arm].searches else 0)
        assert row["train_seconds"] > 0
    assert results["fixed-T"][0]["timesteps"] == 2
    assert results["random-matched"][0]["timesteps"] == joint.timesteps
    assert [{cell["bits"] for cell in results[f"uniform-{bits}"][0]["genotype"]["cells"]} for bits in (1, 2, 4)] == [
        {1},
        {2},
        {4},
    ]
    out = capsys.readouterr().out
    assert "| random-matched | 1 |" in out
    assert "joint − random: " in out
    assert "Spearman" in out
    written = json.loads(figures.read_text())
    assert set(written["results"]) == set(ARMS)
    assert written["match"] == "joint"
    assert str(tmp_path) not in figures.read_text()
    assert written["figures"]["joint.test_accuracy"] == first["test_accuracy"]
    assert written["figures"]["joint-random.paired_se"] is None
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["compare_tiny.svg", "compare_tiny_gain.svg"]

    before = [stamps(runs / name) for name in ("results", "joint-0", "random-0-0", "paper-0.search")]
    assert compare.compare(said) == 0
    assert [stamps(runs / name) for name in ("results", "joint-0", "random-0-0", "paper-0.search")] == before
    with pytest.raises(InputError, match="was made with other settings"):
        compare.compare([*said, "train.lr=0.1"])
    (runs / "results" / "joint-0.json").write_text("{")
    with pytest.raises(InputError, match=r"joint-0\.json is damaged"):
        compare.compare(said)


def test_a_failed_run_is_named_and_so_are_those_that_wait_for_it(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "joint-0").write_text("in the way")
    assert compare.compare(arguments(problem, runs, "--arms", "uniform-2,sequential")) == 1
    out = capsys.readouterr().out
    assert "joint-0 FAILED: InputError" in out
    assert "uniform-2-0 FAILED: joint-0 has no genotype" in out
    assert "sequential-0: " in out
    assert [path.name for path in (runs / "results").iterdir()] == ["sequential-0.json"]


def test_an_unknown_arm_is_refused(problem: Problem, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no arm 'best'; expected joint, fixed-T"):
        compare.compare(arguments(problem, tmp_path, "--arms", "joint,best"))


def test_the_time_limit_ends_work_and_the_next_call_goes_on(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = arguments(problem, tmp_path, "--arms", "joint")
    assert compare.compare([*said[: said.index("--set")], "--time-limit", "5.01", *said[said.index("--set") :]]) == 3
    assert not (tmp_path / "results").exists()
    assert compare.compare(said) == 0
    with pytest.raises(TimeUp), time_limit(time.time() + GRACE + 0.02):
        time.sleep(5)
    with time_limit(None):
        pass


def test_what_can_start_now_starts_first(tmp_path: Path) -> None:
    progress = Progress(plan(tmp_path, arms=("joint", "random"), seeds=1, randoms=1))
    first = progress.next()
    assert first is not None
    assert first.name == "joint-0"
    assert progress.next() is None
    genotype = RunFolder(tmp_path / "joint-0").output("derive")
    genotype.parent.mkdir()
    genotype.touch()
    second = progress.next()
    assert second is not None
    assert second.name == "random-0-0"


@pytest.mark.slow
def test_workers_killed_and_resumed_give_what_one_process_gives(problem: Problem, tmp_path: Path) -> None:
    said = arguments(problem, tmp_path / "together", "--arms", "random,fixed-T", "--workers", "2")
    command = [sys.executable, compare.__file__, *said, "search.epochs=4", "train.epochs=6"]
    options: dict[str, Any] = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True, "capture_output": True}
    limit = [*command[: command.index("--set")], "--time-limit", "9", *command[command.index("--set") :]]
    (tmp_path / "together").mkdir()
    (tmp_path / "together" / "fixed-T-0").write_text("in the way")
    codes = [subprocess.run(limit, **options).returncode for _ in range(2)]
    assert set(codes) <= {1, 3}
    failed = subprocess.run(command, **options)
    assert failed.returncode == 1
    assert "fixed-T-0 FAILED: InputError" in failed.stdout
    (tmp_path / "together" / "fixed-T-0").unlink()
    assert subprocess.run(command, **options).returncode == 0
    alone = arguments(problem, tmp_path / "alone", "--arms", "random,fixed-T")
    assert compare.compare([*alone, "search.epochs=4", "train.epochs=6"]) == 0
    rows = [compare_report.read_results(tmp_path / name) for name in ("together", "alone")]
    for both in rows:
        for group in both.values():
            for row in group:
                del row["search_seconds"], row["train_seconds"]
    assert rows[0] == rows[1]
    assert set(rows[0]) == {"joint", "random", "fixed-T"}


def test_differences_by_hand() -> None:
    """Joint 0.9 and 0.7; random 0.6 and 0.5 on average, all four 0.55 with a spread of 0.1291."""
    found = compare_report.difference(RESULTS["joint"], RESULTS["random"])
    assert compare_report.gains_by_seed(RESULTS["joint"], RESULTS["random"]) == pytest.approx({0: 0.3, 1: 0.2})
    assert found["seeds"] == 2
    assert found["paired"] == pytest.approx(0.25)
    assert found["paired_se"] == pytest.approx(0.05)
    assert found["pooled"] == pytest.approx(0.25)
    assert found["pooled_se"] == pytest.approx(math.hypot(0.1, 0.1290994 / 2))
    alone = compare_report.difference(RESULTS["joint"][:1], RESULTS["random"][:1])
    assert math.isnan(alone["paired_se"])


def test_the_table_by_hand() -> None:
    joint, random = compare_report.table(RESULTS)
    assert joint == ("joint", "2", "80.00%", "10.00%", "80.00%", "100", "500,000", "2.0", "2 of 2")
    assert random == ("random", "4", "55.00%", "6.45%", "55.00%", "95", "2,625,000", "2.0", "3 of 4")


def test_percentages_by_hand() -> None:
    values = [compare_report.percent(value, "+") for value in (0.01234, -0.5, -1e-9, math.nan)]
    assert values == ["+1.23%", "-50.00%", "+0.00%", "–"]


def test_entropies_by_hand() -> None:
    row = {"alpha": [[0.5, 0.5], [1.0, 0.0]], "compression": [[[0.25, 0.25], [0.25, 0.25]]], "width": [[1.0]]}
    found = compare_report.entropies(row | {"psi": [0.0, 0.0, 1.0]})
    assert found == pytest.approx({"alpha": 0.5, "beta": 1.0, "width": 0.0, "psi": 0.0})


def test_the_diagnosis_by_hand() -> None:
    """Preferences that order the networks as their accuracies do, then the other way round for one seed."""
    lines, figures = compare_report.diagnosis(RESULTS)
    assert figures["spearman.random"] == pytest.approx(1.0)
    assert lines[:3] == [
        "joint-0: g",
        "  epoch  entropy of alpha, beta, width, psi (1: no idea)",
        "      1  1.000  0.500  0.250  0.125",
    ]
    turned = [row | {"preference": -row["preference"]} if row["seed"] else row for row in RESULTS["random"]]
    lines, figures = compare_report.diagnosis({"random": turned, "random-matched": turned})
    assert figures["spearman.random"] == pytest.approx(0.0)
    assert figures["spearman.random_se"] == pytest.approx(1.0)
    assert set(figures) > {"spearman.random-matched", "spearman.random+random-matched"}
    same = [row | {"preference": 1.0} for row in RESULTS["random"]]
    assert math.isnan(compare_report.diagnosis({"random": same})[1]["spearman.random"])


def test_the_front_by_hand() -> None:
    points = [(2.0, 0.5), (1.0, 0.4), (3.0, 0.5), (1.0, 0.3), (4.0, 0.9), (5.0, 0.8)]
    assert plot_compare.pareto(points) == [(1.0, 0.4), (2.0, 0.5), (4.0, 0.9)]


def test_the_plots_name_every_arm_and_do_not_change(tmp_path: Path) -> None:
    paths = plot_compare.write_plots(RESULTS, tmp_path, "blobs")
    texts = [path.read_text() for path in paths]
    assert [path.name for path in paths] == ["compare_blobs.svg", "compare_blobs_gain.svg"]
    for words in ("joint", "random", "Pareto front", "packed bytes", "Bit-SynOps per inference"):
        assert f">{words}</text>" in texts[0]
    assert ">joint − random</text>" in texts[1]
    assert [path.read_text() for path in plot_compare.write_plots(RESULTS, tmp_path, "blobs")] == texts


def test_a_curve_has_a_comparison_per_size(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = arguments(problem, tmp_path / "runs", "--bytes", "1500,3000", "--json", str(tmp_path / "curve.json"))
    assert curve.curve([*said, "--plots", str(tmp_path)]) == 0
    assert "| joint | 1,500 | 1 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert [point["limit"] for point in found["curves"]["joint"]] == [1500, 3000]
    assert all(point["packed_bytes"] <= point["limit"] for point in found["curves"]["joint"])
    (plot,) = tmp_path.glob("curve_*.svg")
    assert "joint" in plot.read_text(encoding="utf-8")
    before = stamps(tmp_path / "runs" / "1500" / "results")
    assert curve.curve([*said, "--time-limit", "1"]) == 0  # nothing is left to do
    assert stamps(tmp_path / "runs" / "1500" / "results") == before


def test_the_limit_on_operations_grows_with_the_size(tmp_path: Path) -> None:
    found = curve.arguments_for(4000, tmp_path, ["--recipe", "digits"])
    assert found[-2:] == ["budget.packed_bytes=4000", "budget.bit_synops=500000"]
    assert str(tmp_path / "4000") in found
