"""The whole job in several processes: one run folder, one voice, an end for all, and a way on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from litesnn.data.sources import load
from litesnn.design import design
from litesnn.planning import maker, timing
from litesnn.runs import RunFolder, held
from several import DEADLINE, Team, as_one_of, together
from whole_job import ALL_FILES, Outcome, Problem, contents, litesnn, recipe, rows


def command(scratch: Path, *arguments: str | Path) -> Outcome:
    """``litesnn`` with its temporary folders in a place where leftovers are seen."""
    tempfile.tempdir = str(scratch)
    return litesnn(*arguments)


def run_together(scratch: Path, *arguments: str | Path) -> list[Outcome]:
    """``litesnn`` in two processes, which leave nothing behind."""
    scratch.mkdir(exist_ok=True)
    outcomes = together(2, command, scratch, *arguments)
    assert not list(scratch.glob("litesnn-*"))
    return outcomes


def refused(outcomes: list[Outcome], *, code: int = 2, speaker: int = 0) -> str:
    """The one line in which all gave up; only one process says it."""
    assert [outcome.code for outcome in outcomes] == [code, code], outcomes
    assert outcomes[1 - speaker].err == ""
    err = outcomes[speaker].err
    assert err.startswith("litesnn: error: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("litesnn: error: ").strip()


def options(problem: Problem, run: Path) -> list[str]:
    """A design that is shorter than that of one process, for every sum takes two."""
    return [*problem.options(run), "--set", "search.epochs=2", "--set", "train.epochs=4"]


@pytest.fixture(scope="module")
def pair_design(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """A run folder that two processes made without a break, and what they said; to be read or copied."""
    folder = tmp_path_factory.mktemp("pair")
    return folder / "run", run_together(folder / "scratch", "design", *options(problem, folder / "run"))


@pytest.fixture
def copy(pair_design: tuple[Path, list[Outcome]], tmp_path: Path) -> Path:
    """A run of two processes that a test may spoil."""
    shutil.copytree(pair_design[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.job
def test_two_processes_make_one_run_folder(pair_design: tuple[Path, list[Outcome]]) -> None:
    run, (first, second) = pair_design
    assert (first.code, first.complaints) == (0, "")
    assert "test accuracy" in first.out
    assert second == Outcome(0, "", "")
    assert {path.name for path in run.iterdir()} == ALL_FILES
    assert [row["epoch"] for row in rows(run / "search.jsonl")] == [1, 2]
    assert [row["epoch"] for row in rows(run / "train.jsonl")] == [1, 2, 3, 4]


def kill_after(lines: int, log: Path, number: signal.Signals, rank: int, *arguments: str | Path) -> dict[int, Outcome]:
    """Two processes, of which one gets a signal when the log has that many lines; how those ended that could say so."""
    scratch = log.parent.parent / "killed"
    scratch.mkdir(exist_ok=True)
    team = Team(2, command, scratch, *arguments)
    wait_for_lines(log, lines)
    team.signal(rank, number)
    return team.answers()


def wait_for_lines(log: Path, count: int) -> None:
    """Until the log has that many lines, and the stage a checkpoint: the first one comes a little after its line."""
    until, checkpoint = time.monotonic() + DEADLINE, log.with_suffix(".checkpoint.safetensors")
    while not log.exists() or log.read_bytes().count(b"\n") < count or not checkpoint.exists():
        assert time.monotonic() < until
        time.sleep(0.005)


LOST = "litesnn: error: a worker ended or was stopped; the same command goes on from the last checkpoint ("


@pytest.mark.job
def test_killed_and_resumed_in_search_and_in_training(
    problem: Problem, pair_design: tuple[Path, list[Outcome]], tmp_path: Path
) -> None:
    """The other process says so and ends; the same command then ends as if nothing had happened."""
    run = tmp_path / "run"
    found = kill_after(1, run / "search.jsonl", signal.SIGKILL, 1, "design", *options(problem, run))
    assert set(found) == {0}
    assert found[0].code == 1
    assert found[0].err.startswith(LOST)
    assert found[0].err.count("\n") == 1
    assert (run / "search.checkpoint.safetensors").exists()
    assert not (run / "search.safetensors").exists()
    found = kill_after(2, run / "train.jsonl", signal.SIGKILL, 0, "design", *options(problem, run))
    assert set(found) == {1}
    assert found[1].code == 1
    assert found[1].err.startswith(LOST)
    assert 2 <= len(rows(run / "train.jsonl")) < 4
    assert all(outcome.code == 0 for outcome in run_together(tmp_path / "scratch", "design", *options(problem, run)))
    assert contents(run) == contents(pair_design[0])


@pytest.mark.slow
def test_stopped_from_outside(problem: Problem, tmp_path: Path) -> None:
    """A SIGTERM to one is a SIGTERM to all: that is how ``torchrun`` and Slurm stop a job."""
    run = tmp_path / "run"
    found = kill_after(1, run / "search.jsonl", signal.SIGTERM, 1, "search", *options(problem, run))
    assert {rank: outcome.code for rank, outcome in found.items()} == {0: 1, 1: 1}
    assert sum(outcome.err.startswith(LOST) for outcome in found.values()) == 1
    assert (run / "search.checkpoint.safetensors").exists()
    assert not list((tmp_path / "killed").glob("litesnn-*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("search.batch_size=49", "search.batch_size is 49, but 2 processes need a multiple of 2"),
        ("train.batch_size=7", "train.batch_size is 7, but 2 processes need a multiple of 2"),
        ("data.train_limit=47", "images are less than a batch (search.batch_size is 48)"),
    ],
)
def test_batches_that_do_not_divide_are_refused_before_anything_starts(
    problem: Problem, tmp_path: Path, change: str, said: str
) -> None:
    run = tmp_path / "run"
    assert said in refused(run_together(tmp_path / "scratch", "design", *options(problem, run), "--set", change))
    assert {path.name for path in run.iterdir()} == {"recipe.toml", ".lock"}


def test_a_refusal_of_the_first_ends_all(problem: Problem, tmp_path: Path) -> None:
    arguments = ["design", *problem.options(tmp_path / "run"), "--budget", "200 B"]
    assert "cannot be kept" in refused(run_together(tmp_path / "scratch", *arguments))


def test_a_broken_budget_ends_all_with_code_3(copy: Path, tmp_path: Path) -> None:
    text = (copy / "metrics.json").read_text()
    assert '"kept": true' in text
    (copy / "metrics.json").write_text(text.replace('"kept": true', '"kept": false'))
    assert "budget exceeded" in refused(run_together(tmp_path / "scratch", "design", "--run", copy), code=3)


def test_what_several_cannot_share_the_first_does(copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    for arguments in (["info", copy], ["--version"], ["derive", copy], ["recipes"]):
        first, second = run_together(tmp_path / "scratch", *arguments)
        assert (first.code, first.err) == (0, "")
        assert first.out
        assert second == Outcome(0, "", "")
    assert (copy / "genotype.json").read_bytes() == before["genotype.json"]


def with_other_data(*arguments: str | Path) -> Outcome:
    """The second process finds one label changed."""
    if os.environ["RANK"] == "0":
        return litesnn(*arguments)
    data = load(recipe(Path(arguments[2])).data)
    data.train.y[0] = (data.train.y[0] + 1) % 3
    with mock.patch("litesnn.design.load", return_value=data):
        return litesnn(*arguments)


def test_other_data_on_another_machine_are_refused(problem: Problem, tmp_path: Path) -> None:
    found = together(2, with_other_data, "design", *problem.options(tmp_path / "run"))
    assert refused(found, speaker=1) == "blobs: process 1 finds other data than process 0"


def with_a_full_disk(*arguments: str | Path) -> Outcome:
    """The first process cannot write its second checkpoint."""
    if os.environ["RANK"] != "0":
        return litesnn(*arguments)
    real, left = os.replace, [1]

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == "search.checkpoint.safetensors":
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            left.pop()
        real(source, target)

    with mock.patch("os.replace", replace):
        return litesnn(*arguments)


def test_a_full_disk_of_the_first_ends_all(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    message = refused(together(2, with_a_full_disk, "search", *options(problem, run)))
    assert message == f"{run / 'search.checkpoint.safetensors'}: cannot be written: No space left on device"
    assert len(rows(run / "search.jsonl")) == 2


def from_python(run: Path) -> Any:
    return design(run=run, recipe=run / "recipe.toml").metrics


def test_every_process_gets_the_design(copy: Path) -> None:
    first, second = together(2, from_python, copy)
    assert first == second == RunFolder(copy).metrics()


def test_what_is_counted_beside_the_spikes_is_of_all_samples(copy: Path) -> None:
    both = RunFolder(copy).metrics()["neurobench"]
    assert litesnn("evaluate", copy, "--device", "cpu").code == 0
    alone = RunFolder(copy).metrics()["neurobench"]
    assert both.keys() == alone.keys()
    for key in ("membrane_updates", "effective_macs", "effective_bit_macs", "effective_acs"):
        assert both[key] == pytest.approx(alone[key], rel=1e-6)


def test_all_but_the_first_work_in_a_folder_to_throw_away(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with held(RunFolder(copy)) as first:
        assert first.path == copy
    as_one_of(monkeypatch, 1, 2)
    with held(RunFolder(copy)) as other:
        assert other.path.parent == tmp_path
    assert not other.path.exists()


# --- torchrun ---


def torchrun(*arguments: str | Path, restarts: int = 0) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "--max-restarts", str(restarts), "-m", "--", "litesnn", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_when_told_so(
    problem: Problem, pair_design: tuple[Path, list[Outcome]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with torchrun("design", *options(problem, run), restarts=1) as agent:
        wait_for_lines(run / "search.jsonl", 1)
        os.kill(worker(agent.pid, 1), signal.SIGKILL)
        out, err = agent.communicate()
    assert agent.returncode == 0, err
    assert out.count("test accuracy") == 1
    assert contents(run) == contents(pair_design[0])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_ends_when_a_worker_is_killed_and_goes_on(
    problem: Problem, pair_design: tuple[Path, list[Outcome]], tmp_path: Path, rank: int
) -> None:
    run = tmp_path / "run"
    with torchrun("design", *options(problem, run)) as agent:
        wait_for_lines(run / "search.jsonl", 1)
        os.kill(worker(agent.pid, rank), signal.SIGKILL)
        _, err = agent.communicate()
    assert agent.returncode != 0
    assert sum(line.startswith(LOST) for line in err.splitlines()) == 1
    assert (run / "search.checkpoint.safetensors").exists()
    with torchrun("design", *options(problem, run)) as agent:
        out, err = agent.communicate()
    assert agent.returncode == 0, err
    assert out.count("test accuracy") == 1
    assert contents(run) == contents(pair_design[0])


def worker(agent: int, rank: int) -> int:
    """The process that ``torchrun`` started as number ``rank``."""
    for task in Path(f"/proc/{agent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{child}/environ").read_text():
                return int(child)
    raise AssertionError(f"torchrun has no worker {rank}")


# --- a recipe that is made ---


def with_few_measured_steps(scratch: Path, *arguments: str | Path) -> Outcome:
    timing._SECONDS = 0.0
    maker._SEARCH_PATIENCE = 1e6  # the clock is a real one, and must not cut the search
    return command(scratch, *arguments)


@pytest.mark.job
def test_one_process_makes_the_recipe_for_all(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "scratch").mkdir()
    options = ["--data", problem.data, "--budget", "3 kB, T <= 2", "--time", "1 s", "--run", run, "--device", "cpu"]
    first, second = together(2, with_few_measured_steps, tmp_path / "scratch", "design", *options)
    assert (first.code, first.complaints) == (0, "")
    assert first.out.count("estimate   about") == 1
    assert second == Outcome(0, "", "")
    assert {path.name for path in run.iterdir()} == ALL_FILES
    recipe = RunFolder(run).recipe()
    assert recipe.made is not None
    assert recipe.made.training == 1
    assert recipe.train.batch_size % 2 == 0
    assert not list((tmp_path / "scratch").glob("litesnn-*"))
