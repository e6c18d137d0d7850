"""A job that is killed, loses a file or finds the disk full, and goes on: it has to end as if nothing had happened."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litesnn.runs import RunFolder
from whole_job import ALL_FILES, Problem, contents, litesnn, recipe, rows, stamps, start

DEADLINE = 60.0


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def wait_for_lines(process: subprocess.Popen[str], log: Path, count: int) -> None:
    """Until the log has that many lines; fails if the process ends before."""
    until = time.monotonic() + DEADLINE
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_after(lines: int, log: Path, *arguments: str | Path) -> None:
    """Run a command in a process of its own and kill it, with no warning, when its log has that many lines."""
    with start(*arguments) as process:
        wait_for_lines(process, log, lines)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_in_search_and_in_training(problem: Problem, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_after(2, run / "search.jsonl", "design", *problem.options(run))
    assert 2 <= len(rows(run / "search.jsonl")) < 4
    assert not (run / "search.safetensors").exists()
    kill_after(4, run / "train.jsonl", "design", "--run", run, "--quiet")
    assert [row["epoch"] for row in rows(run / "search.jsonl")] == [1, 2, 3, 4]
    assert 4 <= len(rows(run / "train.jsonl")) < 12
    assert (run / "genotype.json").exists()
    assert not (run / "network.safetensors").exists()
    outcome = litesnn("design", *problem.options(run))
    assert (outcome.code, outcome.complaints) == (0, "")
    assert contents(run) == contents(finished)
    assert [row["epoch"] for row in rows(run / "train.jsonl")] == list(range(1, 13))
    left = {path.name for path in run.iterdir()}
    assert {name for name in left if not name.endswith(".tmp")} == ALL_FILES


@pytest.mark.job
def test_killed_between_log_and_checkpoint(
    problem: Problem, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is then an epoch ahead of the checkpoint, and its last line may be torn."""
    run = tmp_path / "run"
    fail_to_sync(monkeypatch, "search.checkpoint.safetensors", after=2)
    assert litesnn("design", *problem.options(run)).code == 2
    monkeypatch.undo()
    assert (run / "search.checkpoint.safetensors").exists()
    assert not [path.name for path in run.iterdir() if path.name.endswith(".tmp")]
    log = run / "search.jsonl"
    assert [row["epoch"] for row in rows(log)] == [1, 2, 3]
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"epoch": 4, "sec')
    assert litesnn("design", "--run", run, "--quiet").code == 0
    assert contents(run) == contents(finished)


def test_a_log_that_was_lost_does_not_stop_a_resumed_run(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure may lose what was appended and not synced; checkpoints are synced. The rows are gone, no more."""
    run = tmp_path / "run"
    fail_to_sync(monkeypatch, "search.checkpoint.safetensors", after=2)
    assert litesnn("search", *problem.options(run)).code == 2
    monkeypatch.undo()
    lines = (run / "search.jsonl").read_text().splitlines(keepends=True)
    (run / "search.jsonl").write_text(lines[0])
    outcome = litesnn("search", *problem.options(run))
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["epoch"] for row in rows(run / "search.jsonl")] == [1, 3, 4]


@pytest.mark.job
def test_ctrl_c_says_how_to_go_on(problem: Problem, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start("search", *problem.options(run)) as process:
        wait_for_lines(process, run / "search.jsonl", 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    command = shlex.join(["litesnn", "search", *problem.options(run)])
    assert err == f"litesnn: interrupted; go on from the last finished epoch with: {command}\n"
    assert litesnn("search", *problem.options(run)).code == 0
    assert (run / "search.safetensors").read_bytes() == (finished / "search.safetensors").read_bytes()


def test_a_lost_network_is_trained_again_without_a_search(copy: Path, finished: Path) -> None:
    before = stamps(copy)
    (copy / "network.safetensors").unlink()
    assert litesnn("design", "--run", copy, "--quiet").code == 0
    after = stamps(copy)
    for name in ("recipe.toml", "search.safetensors", "search.jsonl", "genotype.json"):
        assert after[name] == before[name]
    for name in ("network.safetensors", "train.jsonl", "metrics.json", "model.safetensors", "report.html"):
        assert after[name] > before[name]
    assert contents(copy) == contents(finished)


@pytest.mark.job
@pytest.mark.parametrize(
    ("lost", "made"),
    [
        ("genotype.json", {"genotype.json", "train.jsonl", "network.safetensors", "metrics.json", "model.safetensors"}),
        ("metrics.json", {"metrics.json", "model.safetensors"}),
        ("model.safetensors", {"model.safetensors"}),
        ("report.html", set()),
    ],
)
def test_a_lost_result_is_made_again_with_what_depends_on_it(
    copy: Path, finished: Path, lost: str, made: set[str]
) -> None:
    before = stamps(copy)
    (copy / lost).unlink()
    assert litesnn("design", "--run", copy, "--quiet").code == 0
    after = stamps(copy)
    assert {name for name in ALL_FILES - {".lock"} if after[name] != before[name]} == made | {"report.html"}
    assert contents(copy) == contents(finished)


def test_a_stage_made_again_takes_later_results_away(copy: Path) -> None:
    """A folder never holds a network and metrics of two different trainings."""
    assert litesnn("train", copy, "--quiet").code == 0
    assert (copy / "network.safetensors").exists()
    for name in ("metrics.json", "model.safetensors", "report.html"):
        assert not (copy / name).exists()


@pytest.mark.parametrize("command", ["design", "search", "train", "evaluate"])
def test_a_folder_in_use_is_refused(copy: Path, problem: Problem, finished: Path, command: str) -> None:
    (copy / "report.html").unlink()
    with RunFolder(copy).locked():
        options = problem.options(copy) if command in ("design", "search") else [str(copy)]
        outcome = litesnn(command, *options)
        assert outcome.code == 2
        assert outcome.err == f"litesnn: error: {copy} is in use by another litesnn process\n"
    assert contents(copy) == contents(finished)
    assert litesnn("design", "--run", copy).code == 0


@pytest.mark.parametrize(
    ("command", "lost", "said"),
    [
        (["derive"], "search.safetensors", "search.safetensors is missing"),
        (["train", "--memory", "1 KB"], None, "--memory allows"),
        (["train"], "genotype.json", "genotype.json is missing"),
        (["evaluate"], "network.safetensors", "network.safetensors is missing"),
        (["report"], "model.safetensors", "model.safetensors is missing"),
    ],
)
def test_a_refusal_takes_nothing_away(copy: Path, command: list[str], lost: str | None, said: str) -> None:
    if lost is not None:
        (copy / lost).unlink()
    before = stamps(copy)
    outcome = litesnn(command[0], copy, *command[1:])
    assert outcome.code == 2
    assert said in outcome.err
    assert stamps(copy) | {".lock": 0} == before | {".lock": 0}


def test_a_refused_search_takes_nothing_away(copy: Path, problem: Problem) -> None:
    before = stamps(copy)
    outcome = litesnn("search", *problem.options(copy), "--memory", "1 KB")
    assert outcome.code == 2
    assert "--memory allows" in outcome.err
    assert stamps(copy) | {".lock": 0} == before | {".lock": 0}


def test_a_checkpoint_without_its_best_network_is_none(copy: Path, finished: Path) -> None:
    """Killed at the very end of training: the best network has got its name, the checkpoint is still there."""
    (copy / "train.checkpoint.safetensors").write_bytes(b"of a training that is over")
    assert litesnn("train", copy, "--quiet", "--device", "cpu").code == 0
    assert (copy / "network.safetensors").read_bytes() == (finished / "network.safetensors").read_bytes()


def fail_to_sync(monkeypatch: pytest.MonkeyPatch, name: str, *, after: int) -> None:
    """From the file's write number ``after`` + 1 on, the disk is full."""
    real, written = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal written
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            written += 1
            if written > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.job
@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("genotype.json", 0),
        ("train.best.safetensors", 1),
        ("metrics.json", 0),
        ("model.safetensors", 0),
        ("report.html", 0),
    ],
)
def test_a_full_disk(copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """The old checkpoint stays whole, nothing half written stays, and with room again the same result comes out."""
    stage = name.split(".")[0]
    if stage == "train":
        (copy / "network.safetensors").unlink()
    else:
        (copy / name).unlink()
    fail_to_sync(monkeypatch, f".{name}.", after=after)
    outcome = litesnn("design", "--run", copy, "--quiet")
    assert outcome.code == 2
    assert outcome.complaints == f"litesnn: error: {copy / name}: cannot be written: No space left on device\n"
    assert not [path.name for path in copy.iterdir() if path.name.endswith(".tmp")]
    assert (copy / name).exists() == (stage == "train")  # the best network so far, and nothing of what failed
    monkeypatch.undo()
    assert litesnn("design", "--run", copy, "--quiet").code == 0
    assert contents(copy) == contents(finished)
    assert {path.name for path in copy.iterdir()} == ALL_FILES


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
sys.argv = ["litesnn", *sys.argv[1:]]
runpy.run_module("litesnn", run_name="__main__")
"""


@pytest.mark.job
def test_a_log_that_cannot_be_written(problem: Problem, tmp_path: Path) -> None:
    """Files of at most 500 B stand in for a full disk; here even a line of the log does not fit."""
    run = tmp_path / "run"
    RunFolder(run).begin(recipe(problem.data))
    command = [sys.executable, "-c", LIMITED, "search", "--run", str(run), "--quiet", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"litesnn: error: {run / 'search.jsonl'}: cannot be written: ")
    assert done.stderr.count("\n") == 1
