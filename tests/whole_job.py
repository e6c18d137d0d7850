"""A whole job that takes seconds: 150 images of 8 × 8 pixels in three classes, two cells, the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from litesnn.cli import main
from litesnn.compression import source
from litesnn.config import Recipe
from litesnn.data.sources import Data, load
from litesnn.runs import RunFolder
from litesnn.stages import STAGES
from litesnn.training_loop.session import Session

STAGE_RESULTS = tuple(stage.output for stage in STAGES.values() if stage.only_with is None)
LOGS = ("search.jsonl", "train.jsonl")
ALL_FILES = {"recipe.toml", "data.json", ".lock", *STAGE_RESULTS, *LOGS}

RECIPE = """
version = 1
name = "tiny"

[budget]
packed_bytes = 2500
bit_synops = 1e6
timesteps = 2

[augment]
crop = 1

[model]
width = 3
nodes = 2
levels = [0, 1]
stem_channels = 4
ops = ["skip", "conv3x3"]

[search]
epochs = 4
warmup_epochs = 1
architecture_warmup_epochs = 1
batch_size = 48
timesteps = 3
bits = [1, 2]
keeps = [0.3, 0.6]
widths = [0.67, 1.0]
sampling = true
lr = 0.2
beta_lr = 0.1
psi_lr = 0.2

[train]
epochs = 12
batch_size = 24
lr = 0.2
"""


def inputs(rows: int = 150, classes: int = 3) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 [N, 1, 8, 8]: noise over one random pattern per class."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (classes, 1, 8, 8))
    y = rng.permutation(np.arange(rows) % classes)
    return (patterns[y] + rng.integers(0, 56, (rows, 1, 8, 8))).astype(np.uint8), y


def write_data(path: Path, rows: int = 150) -> Path:
    """The images as an ``.npz`` file."""
    x, y = inputs(rows)
    np.savez(path, x=x, y=y)
    return path


class Problem(NamedTuple):
    """A data file and a recipe file."""

    data: Path
    recipe: Path

    def options(self, run: Path) -> list[str]:
        """What ``design`` and ``search`` are told."""
        options = ["--data", str(self.data), "--recipe", str(self.recipe), "--run", str(run)]
        return [*options, "--device", "cpu", "--quiet"]


def write_problem(folder: Path) -> Problem:
    """The data and the recipe of the whole job."""
    (folder / "tiny.toml").write_text(RECIPE)
    return Problem(write_data(folder / "blobs.npz"), folder / "tiny.toml")


JUDGED = re.compile(
    "litesnn: warning: (near chance|no clear gain over a linear|a linear classifier on the same inputs is better|"
    "never recognised on test|validation accuracy was still rising|only 30 test rows)"
)
"""How warnings about accuracy begin."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> str:
        """What it said on stderr, but for the judgement that 30 test rows, linear as they are, are bound to get."""
        return "".join(row for row in self.err.splitlines(keepends=True) if not JUDGED.match(row))


def litesnn(*arguments: str | Path, columns: int = 300) -> Outcome:
    """``litesnn`` with these arguments, in this process: what :func:`litesnn.cli.main` prints and its exit code."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["litesnn", *map(str, arguments)]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        mock.patch.object(source, "_allowed", set()),  # as in a process of its own
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert isinstance(end.value.code, int)
    return Outcome(end.value.code, out.getvalue(), err.getvalue())


def heed_interrupts() -> None:
    """The jobs that a shell runs in the background ignore them, and so would the processes that these start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """``litesnn`` in a process of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "litesnn", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        preexec_fn=heed_interrupts,
    )


def recipe(data: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of the whole job, with dotted keys changed."""
    return Recipe.from_toml(RECIPE, changes={"data.source": str(data)} | dict(changes or {}))


def begin(path: Path, data: Path, changes: Mapping[str, Any] | None = None) -> tuple[RunFolder, Data, Session]:
    """A new run folder with its data and a quiet session: the arguments of a stage."""
    run = RunFolder(path)
    run.begin(recipe(data, changes))
    return run, load(run.recipe().data), Session()


def rows(path: Path) -> list[dict[str, Any]]:
    """A log's rows without the time they took and the options with which they were computed."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in found:
        del row["seconds"], row["options"]
    return found


def contents(run: Path) -> dict[str, bytes]:
    """Every result of a run, and its logs but for the times in them."""
    found = {name: (run / name).read_bytes() for name in STAGE_RESULTS if name != "report.html"}
    return found | {name: json.dumps(rows(run / name)).encode() for name in LOGS}


def stamps(run: Path) -> dict[str, int]:
    """When each file of a folder was last written."""
    return {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
