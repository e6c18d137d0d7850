"""How far a run is, and the table of runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fake_run import fake_genotype, fake_metrics
from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.run_state import cut_middle, find_runs, run_table, state_lines
from litesnn.runs import METRICS_KEYS, STAGES, RunFolder


def begun(path: Path, **changes: object) -> RunFolder:
    run = RunFolder(path)
    run.begin(Recipe.from_toml("", changes={"data.source": "/data/blobs.npz", **changes}))
    return run


def evaluated(run: RunFolder) -> RunFolder:
    for stage in ("search", "derive", "train"):
        run.output(stage).write_text("")
    found: dict[str, Any] = dict.fromkeys(METRICS_KEYS, 0) | {"recipe": "mine", "data": {"name": "blobs", "test": 30}}
    found |= fake_metrics(fake_genotype(), np.random.default_rng(0), classes=["a", "b"], paper=False)
    found |= {"test_accuracy": 0.912, "packed_bytes": 7999, "bit_synops": 9.8e5, "timesteps": 3}
    run.output("evaluate").write_text(json.dumps(found))
    return run


def shown(folder: Path) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(run_table(folder, find_runs(folder)))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_an_unfinished_run_says_what_is_done_what_is_next_and_how_to_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "my run", **{"search.epochs": 9})
    command = f"go on with: litesnn design --run '{run.path}'"
    first = state_lines(run)
    assert first[1:] == ["done: nothing yet", "next: search", command]
    assert "data /data/blobs.npz" in first[0]
    (run / "search.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    run.checkpoint("search").write_text("")
    assert state_lines(run)[1:] == ["done: nothing yet", "next: search, 2 of 9 epochs done", command]
    evaluated(run)
    assert state_lines(run)[1:] == ["done: search, derive, train, evaluate", "next: pack", command]
    for stage in STAGES:
        if not run.done(stage):
            run.output(stage).write_text("")
    assert state_lines(run) == []


def test_the_command_of_a_user_module_names_it(tmp_path: Path) -> None:
    module = {"file": "/my net.py", "name": "Net", "sha256": "0", "weights": "w.safetensors", "weights_sha256": "0"}
    run = begun(tmp_path / "run", module=module)
    words = "--model '/my net.py:Net' --weights w.safetensors"
    assert run.go_on_command("--threads 2") == f"litesnn compress {words} --run {run.path} --threads 2"


def test_the_table_of_runs_fits_80_columns(tmp_path: Path) -> None:
    evaluated(begun(tmp_path / "a"))
    evaluated(begun(tmp_path / ("deep/" + "long " * 20 + "end"), **{"data.source": "/x/" + "d" * 50}))
    search = begun(tmp_path / "b", **{"search.epochs": 9})
    (search / "search.jsonl").write_text('{"epoch": 2}\n')
    search.checkpoint("search").write_text("")
    begun(tmp_path / "c")
    broken = begun(tmp_path / "d")
    (broken / "recipe.toml").write_text("version = 7")
    text = shown(tmp_path)
    assert max(map(len, text)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in text[2:]}
    assert len(text) == 7
    assert rows["a"] == ["blobs.npz", "91.2%", "7,999", "980,000", "3", "yes"]
    assert rows["b"] == ["blobs.npz", "search", "2/9"]
    assert rows["c"] == ["blobs.npz", "next:", "search"]
    assert rows["d"] == ["damaged"]
    (long,) = (line for line in text if line.startswith("deep/"))
    assert "…" in long
    assert "end" in long


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    assert find_runs(tmp_path) == []
    with pytest.raises(InputError, match="no such folder"):
        find_runs(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "width", "cut"), [("abc", 3, "abc"), ("abcdef", 5, "ab…ef"), ("abcdefg", 6, "abc…fg"), ("ab", 1, "…")]
)
def test_names_are_cut_in_the_middle(text: str, width: int, cut: str) -> None:
    assert cut_middle(text, width) == cut
