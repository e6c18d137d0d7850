"""How far runs are: what ``litesnn info`` says of one that is not finished, and ``litesnn list`` of all in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from litesnn.errors import InputError
from litesnn.files import JsonLog
from litesnn.runs import RunFolder, budgets_kept
from litesnn.stages import STAGES

__all__ = ["cut_middle", "find_runs", "run_table", "state_lines"]

_NAME_WIDTH, _DATA_WIDTH = 24, 12


def state_lines(run: RunFolder) -> list[str]:
    """The stages of a run that are done, the next one, and the command that goes on; no lines of one that is finished.

    Raises:
        InputError: it is no run folder, or a file of it is damaged.
    """
    recipe, needed = run.recipe(), run.needs()
    left = [stage for stage in needed if not run.done(stage)]
    if not left:
        return []
    done = [stage for stage in needed if run.done(stage)]
    epochs = _epochs(run, left[0])
    return [
        f"{run.path}: recipe {recipe.name}, data {recipe.data.source}, budget {recipe.budget.describe()}",
        f"done: {', '.join(done) or 'nothing yet'}",
        f"next: {left[0]}{f', {epochs}' if epochs else ''}",
        f"go on with: {run.go_on_command()}",
    ]


def find_runs(folder: Path) -> list[RunFolder]:
    """The runs in a folder and below it, in the order of their names; a folder that is a run holds no others.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with run folders")
    found = []
    for place, below, files in os.walk(folder):
        below.sort()
        if "recipe.toml" in files:
            found.append(RunFolder(place))
            below.clear()
    return found


def run_table(folder: Path, runs: Sequence[RunFolder]) -> Table:
    """One row for each run: test accuracy and costs, or how far it is. It fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("run", "data", "accuracy", "bytes", "Bit-SynOps", "T", "kept"):
        left = column in ("run", "data")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for run in runs:
        name = cut_middle(os.path.relpath(run.path, folder) if run.path != folder else str(folder), _NAME_WIDTH)
        table.add_row(Text(name), *map(Text, _cells(run)))
    return table


def cut_middle(text: str, width: int) -> str:
    """A text of at most so many characters: of a longer one both ends, which tell most names apart."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _cells(run: RunFolder) -> Iterator[str]:
    """The columns of a run after its name."""
    try:
        recipe = run.recipe()
        source = recipe.data.source.rstrip("/")
        yield cut_middle(source.rpartition("/")[2], _DATA_WIDTH)
        if run.done("evaluate"):
            metrics = run.metrics()
            yield f"{metrics['test_accuracy']:.1%}"
            yield f"{metrics['packed_bytes']:,.0f}"
            yield f"{metrics['bit_synops']:,.0f}"
            yield str(metrics.get("timesteps", ""))
            yield {True: "yes", False: "NO", None: "?"}[budgets_kept(metrics["budgets"])]
            return
        left = next(stage for stage in run.needs() if not run.done(stage))
        yield _epochs(run, left, short=True) or f"next: {left}"
    except (InputError, ValueError, KeyError, TypeError):
        yield "damaged"


def _epochs(run: RunFolder, stage: str, *, short: bool = False) -> str:
    """How many epochs of a stage are done, or nothing if none is."""
    name = STAGES[stage].log
    if name is None or not run.checkpoint(stage).exists():
        return ""
    log, most = run / name, getattr(run.recipe(), stage).epochs
    try:
        rows: list[dict[str, Any]] = JsonLog.read(log) if log.exists() else []
        done = int(rows[-1]["epoch"]) if rows else 0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} is damaged: {error}") from None
    if not done:
        return ""
    return f"{stage} {done}/{most}" if short else f"{done} of {most} epochs done"
