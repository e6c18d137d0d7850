"""Stages of one run that another takes over: those whose part of the recipe is the same in both.

In: a run folder with results, and one that was begun with a recipe of which some values differ. Out: the results of the
search, of the derivation and of training, as far as no value that they depend on has changed. Evaluation, packing and
report are soon made anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.runs import RunFolder, differences
from litesnn.stages import STAGES, Stage, first_reader

__all__ = ["Takeover", "first_touched", "take_over"]


@dataclass(frozen=True)
class Takeover:
    """The results that were taken over, and the first change that something else has to be done for, in words."""

    stages: tuple[str, ...]
    change: str | None
    files: tuple[str, ...] = ()
    """The files that were copied."""

    def describe(self, source: RunFolder) -> str:
        """A line for people."""
        taken = ", ".join(self.stages) if self.stages else "nothing but the recipe"
        return f"taken over from {source.path}: {taken}" + (f" ({self.change})" if self.change else "")


def first_touched(old: Recipe, new: Recipe) -> tuple[str, str] | None:
    """The first stage to which a value matters that differs, and what differs; ``None`` if nothing does."""
    order = list(STAGES)
    found = [
        (first_reader(key), f"{key} was {before!r}, now {after!r}")
        for key, before, after in differences(old.model_dump(), new.model_dump())
    ]
    return min(found, key=lambda row: order.index(row[0]), default=None)


def take_over(source: RunFolder, run: RunFolder) -> Takeover:
    """Copy the results that stay the same into a run, which was begun; what it has already stays.

    Raises:
        InputError: a file cannot be read or written.
    """
    touched = first_touched(source.recipe(), run.recipe())
    stages: list[str] = []
    files: list[str] = []
    order = list(STAGES)
    for row in STAGES.values():
        stage = row.name
        if stage not in run.needs():
            continue
        if not row.taken_over or (touched is not None and order.index(stage) >= order.index(touched[0])):
            break
        if not source.done(stage):
            break
        if run.done(stage):
            if _read(run, row.output) != _read(source, row.output):
                break  # a result of its own: what follows has to come from that
            stages.append(stage)
            continue
        if run.checkpoint(stage).exists():
            break
        for name in (source.data_pin.name, *_files(row)):  # each stage looks whether the data still are what they were
            if (source / name).exists() and not (run / name).exists():
                write_atomically(run / name, _read(source, name))
                files.append(name)
        stages.append(stage)
    return Takeover(tuple(stages), None if touched is None else touched[1], tuple(files))


def _files(stage: Stage) -> tuple[str, ...]:
    """The files of a stage; the one that shows that it is done comes last."""
    return (stage.output,) if stage.log is None else (stage.log, stage.output)


def _read(run: RunFolder, name: str) -> bytes:
    try:
        return (run / name).read_bytes()
    except OSError as error:
        raise InputError(f"{run / name}: cannot be read: {error.strerror or error}") from None
