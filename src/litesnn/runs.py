"""The run folder: which file each stage writes, how a stage knows that it is done, and how nothing is half written.

    recipe.toml → search.safetensors + search.jsonl → genotype.json → network.safetensors + train.jsonl →
    metrics.json → model.safetensors (packed) → report.html

A stage is done when its file is there; files appear whole (written beside, then renamed). When a stage runs again, what
later stages made of its old result is removed first, so that the folder never mixes two designs.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from litesnn import processes
from litesnn.config import Recipe, reasons_in, with_numbers
from litesnn.costs import COSTS
from litesnn.data.settings import DATA_FILE
from litesnn.errors import InputError
from litesnn.files import parse_json, read_text, validated, write_atomically
from litesnn.stages import STAGES, Stage, stages_without
from litesnn.system import require_supported

__all__ = ["METRICS_KEYS", "METRICS_VERSION", "STAGES", "RunFolder", "first_difference", "held"]

require_supported()  # whoever uses this as a library hears of it at once too

METRICS_VERSION = 1
METRICS_KEYS = (
    "recipe",
    "seed",
    "data",
    "test_accuracy",
    "packed_bytes",
    "bit_synops",
    "synops",
    "stem_macs",
    "model_size_bytes",
    "energy",
    "neurons",
    "budgets",
)
"""The keys of ``metrics.json`` that later stages and the command line read."""


class _Part(BaseModel):
    """A part of the metrics; more may be in it."""

    model_config = ConfigDict(allow_inf_nan=False)


class _Limit(_Part):
    name: str
    value: float
    limit: float | None
    kept: bool | None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in COSTS:
            raise ValueError(f"expected one of {', '.join(COSTS)}")
        return name


class _DataSet(_Part):
    name: str
    test: int


class _Firing(_Part):
    name: str
    firing_rate: float = Field(ge=0, le=1)


class _Energy(_Part):
    total_nj: float


class _Accuracy(_Part):
    accuracy: float


class _Baselines(_Part):
    majority: float
    linear: _Accuracy


class _Warning(_Part):
    grave: bool
    label: str


class _Engine(_Part):
    additions: float


class _Packing(_Part):
    possible: bool
    reason: str | None


class _Metrics(_Part):
    """The part of ``metrics.json`` that is read besides by the report, which has a record of its own."""

    recipe: str
    seed: int | None
    data: _DataSet
    test_accuracy: float = Field(ge=0, le=1)
    packed_bytes: int
    bit_synops: float
    synops: float
    stem_macs: float
    model_size_bytes: float
    energy: _Energy
    neurons: list[_Firing]
    budgets: list[_Limit]
    arithmetic: str = "float"
    test_standard_error: float | None = None
    balanced_accuracy: float = 0.0
    baselines: _Baselines | None = None
    warnings: list[_Warning] = []
    packing: _Packing = _Packing(possible=True, reason=None)
    engine: _Engine | None = None
    targets: dict[str, Any] = {}


class RunFolder:
    """A run folder on disk. Making the object touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._parsed: tuple[str, Recipe] | None = None  # the text of the recipe, and what it says

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def output(self, stage: str) -> Path:
        """The file that shows that ``stage`` is done."""
        return self.path / STAGES[stage].output

    def needs(self) -> tuple[str, ...]:
        """The stages of this run in their order, without those that its recipe does not ask for.

        Packing is left out if the user's module cannot be packed.
        """
        recipe, packs = self.recipe(), True
        if recipe.module is not None and self.done("evaluate"):
            packing = self.metrics().get("packing", {})
            packs = packing.get("possible", True) or packing.get("failed", False)  # what failed is tried again
        return tuple(name for name in stages_without(packing=packs) if _asks_for(recipe, STAGES[name]))

    def go_on_command(self, options: str = "", recipe: Recipe | None = None) -> str:
        """The command that does what is left of this run, for a shell.

        Args:
            options: further ones, as ``--threads 2``.
            recipe: that of the run, if it is known.
        """
        command = (recipe or self.recipe()).command()
        return f"{command} --run {shlex.quote(str(self.path))} {options}".rstrip()

    def done(self, stage: str) -> bool:
        """Whether the stage has left its result."""
        return self.output(stage).is_file()

    def need(self, stage: str) -> Path:
        """The result of a stage that has to be there. Raises ``InputError`` naming the command that makes it."""
        if not self.done(stage):
            where = f"--run {self.path}" if stage == "search" else str(self.path)
            raise InputError(f"{self.output(stage)} is missing: run 'litesnn {stage} {where}' first")
        return self.output(stage)

    def recipe(self) -> Recipe:
        """The recipe of this run, parsed again if its file has changed. Raises ``InputError`` if there is none."""
        path = self / "recipe.toml"
        if not path.exists():
            raise InputError(f"{self.path} is not a run folder: it has no recipe.toml")
        text = read_text(path)
        if self._parsed is None or self._parsed[0] != text:
            self._parsed = text, Recipe.from_toml(text, origin=str(path))
        return self._parsed[1]

    def reasons(self) -> dict[str, str]:
        """Why values of this run's recipe are what they are, by dotted key, where ``recipe.toml`` says so."""
        return reasons_in((self / "recipe.toml").read_text(encoding="utf-8"))

    def metrics(self) -> dict[str, Any]:
        """The evaluation of this run. Raises ``InputError`` if it is missing or damaged."""
        path = self.need("evaluate")
        metrics = parse_json(read_text(path), str(path))
        if not isinstance(metrics, dict) or metrics.get("version") != METRICS_VERSION:
            raise InputError(f"{path}: not metrics of version {METRICS_VERSION}")
        missing = [key for key in METRICS_KEYS if key not in metrics]
        if missing:
            raise InputError(f"{path} is damaged: it has no {missing[0]}")
        validated(_Metrics, metrics, path)
        return metrics

    def amend_metrics(self, **sections: object) -> dict[str, Any]:
        """Put sections into the evaluation, in place of what they held before. Returns all of it."""
        metrics = self.metrics() | sections
        write_atomically(self.output("evaluate"), json.dumps(metrics, indent=2) + "\n")
        return metrics

    def has_results(self, recipe: Recipe) -> bool:
        """Whether the folder holds more than a recipe, the data that this ``recipe`` reads from it, and their pin."""
        return bool(self._strangers(besides={"recipe.toml", self.data_pin.name, *self._given(recipe)}))

    def require_usable(self) -> None:
        """Refuse, before anything takes time, a path on which no run can begin or go on.

        Raises:
            InputError: it or a folder above it is a file, nothing can be written there, it is a folder of something
                else, or another process holds it.
        """
        if not self.path.is_dir():
            place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
            if not place.is_dir():
                raise InputError(f"{place} is a file; expected a folder for the run {self.path}")
            if not os.access(place, os.W_OK | os.X_OK):
                raise InputError(f"{self.path}: cannot be made: nothing can be written into {place}")
            return
        if not (self / "recipe.toml").exists():
            self._require_no_strangers({DATA_FILE})
        if (self / ".lock").exists():
            with self.locked():
                pass

    def _require_no_strangers(self, besides: Iterable[str]) -> None:
        """Refuse a folder that holds something else. Raises ``InputError``."""
        if strangers := self._strangers({"recipe.toml", *besides}):  # another process may be as far
            raise InputError(f"{self.path} is not a run folder, and not empty: it holds {sorted(strangers)[0]}")

    def begin(self, recipe: Recipe, reasons: Mapping[str, str] | None = None) -> None:
        """Make the folder, or check that it was made for the same recipe.

        ``reasons`` for values, by dotted key, become comments of ``recipe.toml``.

        Raises:
            InputError: the folder belongs to another recipe (the message names the first key that differs), it is
                a folder of something else, or another process holds it.
        """
        with self._begun(recipe, reasons):
            pass

    @contextmanager
    def _begun(self, recipe: Recipe, reasons: Mapping[str, str] | None = None) -> Iterator[None]:
        """:meth:`begin`, and hold the folder."""
        if not (self / "recipe.toml").exists():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be made: {error.strerror or error}") from None
            self._require_no_strangers(self._given(recipe))
        with self.locked():
            path = self / "recipe.toml"
            old = self.recipe() if path.exists() else None
            difference = old and first_difference(old.model_dump(), recipe.model_dump())
            if old is not None and difference and self.may_change(old, recipe):
                values = {key: new for key, _, new in differences(old.model_dump(), recipe.model_dump())}
                write_atomically(path, with_numbers(read_text(path), values, {}))
                difference = None
            # A run that was refused before it left anything, for an impossible budget say, can be begun anew.
            if difference and self.has_results(recipe):
                raise InputError(f"{self.path} holds a run with another recipe ({difference}); choose another folder")
            if difference or not path.exists():
                write_atomically(path, recipe.to_toml(reasons))
            yield

    def _given(self, recipe: Recipe) -> set[str]:
        """The name of the file in this folder that the recipe reads, if its data were given as arrays."""
        return {DATA_FILE} if recipe.data.source == str((self / DATA_FILE).resolve()) else set()

    def _strangers(self, besides: Iterable[str] = ()) -> list[str]:
        """Names in the folder that are neither the lock nor left over from a kill while a file was written."""
        ours = {".lock", *besides}
        return [
            entry.name for entry in self.path.iterdir() if entry.name not in ours and not fnmatch(entry.name, ".*.tmp")
        ]

    def start(self, stage: str) -> None:
        """Remove the results of this stage and of every later one; checkpoints of this stage stay."""
        names = list(STAGES)
        for later in names[names.index(stage) :]:
            self.output(later).unlink(missing_ok=True)
            if later != stage:
                self.checkpoint(later).unlink(missing_ok=True)

    def checkpoint(self, stage: str) -> Path:
        """Where a stage keeps its state while it runs."""
        return self.path / STAGES[stage].checkpoint

    def diverged(self, stage: str) -> Path:
        """The file that says that a stage has diverged and may get other rates."""
        return self.path / f"{stage}.diverged"

    def may_change(self, old: Recipe, new: Recipe) -> bool:
        """Whether all in which two recipes of this run differ are rates of stages that have diverged."""
        keys = [key for key, _, _ in differences(old.model_dump(), new.model_dump())]
        return bool(keys) and all(
            (stage := key.partition(".")[0]) in STAGES and self.diverged(stage).exists() and _is_rate(key)
            for key in keys
        )

    @property
    def data_pin(self) -> Path:
        """Where it is kept what the data are that the run was begun with."""
        return self.path / "data.json"

    @property
    def best(self) -> Path:
        """Where training keeps the best network so far."""
        return self.path / "train.best.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            InputError: another process holds it, there is no such folder, or nothing can be written there.
        """
        import fcntl  # not everywhere

        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such run folder")
        try:
            lock = open(self / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{self / '.lock'}: cannot be written: {error.strerror or error}") from None
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path} is in use by another litesnn process") from None
            yield


@contextmanager
def held(
    folder: RunFolder, recipe: Recipe | None = None, reasons: Mapping[str, str] | None = None
) -> Iterator[RunFolder]:
    """A run folder for the stages of one job. Only the first of several processes works in the folder itself.

    With a ``recipe`` and its ``reasons`` the first begins the run (:meth:`RunFolder.begin`); the others need none.

    Each other one has a folder to throw away, which need not be on the same machine. What it reads is copied there
    before a stage (:func:`litesnn.processes.copy_from_first`), and nobody misses what it writes: so no stage has to
    ask which process it runs in.

    Raises:
        InputError: another job holds the folder, it is no run folder, or it is one of another recipe.
    """
    if processes.is_first():
        if recipe is None:
            folder.recipe()
        with folder.locked() if recipe is None else folder._begun(recipe, reasons):
            processes.copy_from_first(folder.path, ["recipe.toml"])
            yield folder
    else:
        with TemporaryDirectory(prefix="litesnn-") as scratch:
            processes.copy_from_first(Path(scratch), ["recipe.toml"])
            yield RunFolder(scratch)


def _asks_for(recipe: Recipe, stage: Stage) -> bool:
    """Whether a recipe has what a stage is only there with."""
    if stage.only_with is None:
        return True
    key, value = stage.only_with
    section, _, name = key.partition(".")
    return bool(getattr(getattr(recipe, section), name) == value)


def _is_rate(key: str) -> bool:
    name = key.rpartition(".")[2]
    return (name.endswith("lr") and name != "bias_lr") or name in ("lr_min", "grad_clip", "warmup", "momentum")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys whose values differ between two recipes as nested tables, each with the old and the new value."""
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(after, dict) and isinstance(before, dict):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first key whose value differs between two recipes as nested tables, in words; ``None`` if none does."""
    found = ((f"{key} was {before!r}, now {after!r}") for key, before, after in differences(old, new))
    return next(found, None)


def budgets_kept(rows: Iterable[Mapping[str, Any]]) -> bool | None:
    """Whether all limits are kept, by the ``budgets`` of the metrics; ``None`` if it is not known of one."""
    verdicts = [row["kept"] for row in rows]
    return False if False in verdicts else None if None in verdicts else True
