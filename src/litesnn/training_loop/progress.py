"""The progress that is shown while a stage runs, and the logs it leaves: progress bars, JSON lines, TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from litesnn import processes
from litesnn.errors import InputError
from litesnn.files import JsonLog
from litesnn.runs import RunFolder

__all__ = ["Epoch", "EpochLog", "RunningMeans", "TensorBoard", "open_tensorboard", "progress_bar", "summary_writer"]


@dataclass(frozen=True)
class Epoch:
    """An epoch that is done and kept: a run that stops now goes on with the next one.

    Attributes:
        stage: "search", "teacher" or "train".
        epoch: its number, from 1.
        epochs: how many the stage will have, as far as is known; training that runs late has fewer.
        values: what the stage's log (``search.jsonl``, ``train.jsonl``) says of it, such as "validation_accuracy".
    """

    stage: str
    epoch: int
    epochs: int
    values: Mapping[str, Any]


class TensorBoard(Protocol):
    """The part of TensorBoard's writer that the logs use."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Add one point."""

    def close(self) -> None:
        """Flush and close."""


def summary_writer() -> Callable[..., TensorBoard]:
    """TensorBoard's writer. Raises ``InputError`` if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("TensorBoard logs need tensorboard: pip install 'litesnn[tensorboard]'") from None
    return SummaryWriter


def open_tensorboard(run: RunFolder, stage: str, first_epoch: int) -> TensorBoard:
    """A TensorBoard writer for one stage of a run. Raises as :func:`summary_writer`."""
    return summary_writer()(run / "tensorboard" / stage, purge_step=first_epoch)


class EpochLog:
    """Writes a row per epoch to the stage's JSON lines and, if asked for, its scalars to TensorBoard."""

    def __init__(self, run: RunFolder, stage: str, *, done_epochs: int, tensorboard: bool) -> None:
        self._json = JsonLog(run / f"{stage}.jsonl", keep_epochs=done_epochs)
        self._board = open_tensorboard(run, stage, done_epochs + 1) if tensorboard else None
        self._stage = stage

    def write(self, row: Mapping[str, Any]) -> None:
        """Log one epoch; ``row["epoch"]`` is counted from 1."""
        self._json.write(row)
        if self._board is None:
            return
        for key, value in row.items():
            for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    tag = "/".join(filter(None, (self._stage, key, name)))
                    self._board.add_scalar(tag, number, row["epoch"])

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._board.close()


class RunningMeans:
    """Means over the steps of an epoch. Tensors stay on their device until the end, so that no step waits for them."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one step's values."""
        for key, value in values.items():
            plain = value.detach() if isinstance(value, Tensor) else value
            self._totals[key] = self._totals.get(key, 0.0) + plain
            self._counts[key] = self._counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of every key, over the steps that had it and over all processes, which call this together."""
        totals = torch.tensor([float(total) for total in self._totals.values()], dtype=torch.float64)
        totals = processes.total_(totals) / processes.count()
        return {key: total / self._counts[key] for key, total in zip(self._totals, totals.tolist(), strict=True)}


class EpochLines:
    """A line for each status of a task, where no terminal can show a bar; called as a :class:`Progress` is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_task(self, description: str, **_: object) -> TaskID:
        """Begin a task. Returns its number."""
        self._names.append(description)
        return TaskID(len(self._names) - 1)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """A step is done, which is worth no line."""

    def update(self, task_id: TaskID, *, status: str | None = None, **_: object) -> None:
        """Show a new status of a task."""
        if status is not None:
            self._console.print(f"{self._names[task_id]}: {status}", soft_wrap=True, markup=False, highlight=False)


def progress_bar(console: Console) -> Progress | EpochLines:
    """A progress bar with counts, times and one free field, ``status``; in a file or a pipe a line for each status."""
    if not console.is_terminal:
        return EpochLines(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )
