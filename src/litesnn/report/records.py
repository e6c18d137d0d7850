"""What the report reads: the files of a run folder as validated records.

In: a run folder. Out: :class:`Run`. Keys that other stages may leave out have a default, keys that this
version does not know are ignored (a report should outlive the run's version), and whatever is damaged is
refused by file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litesnn.errors import InputError
from litesnn.genotype import Compressed, Genotype, read_genotype

__all__ = ["Layer", "Metrics", "Population", "Run", "SearchEpoch", "SizeRow", "TargetRow", "TrainEpoch", "read_run"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataInfo(_Record):
    """The data set and its split."""

    name: str
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    shape: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Layer(_Record):
    """One layer with weights. SynOps are per inference."""

    name: str
    kind: str = "edge"
    cell: int | None = None
    bits: int | None = None
    keep: float | None = None
    weights: int | None = None
    kept: int | None = None
    synops: float | None = None
    bit_synops: float | None = None


class Population(_Record):
    """One population of neurons; ``firing_rate`` is spikes per neuron and timestep."""

    name: str
    firing_rate: float
    channels: int | None = None
    height: int | None = None
    width: int | None = None


class SizeRow(_Record):
    """Bytes of one layer in the packed file."""

    name: str
    positions: int = 0
    codes: int = 0
    affine: int = 0
    coding: str = ""

    @property
    def total(self) -> int:
        """All bytes of the layer."""
        return self.positions + self.codes + self.affine


class Energy(_Record):
    """The energy estimate, its picojoules per operation and what it leaves out."""

    total_nj: float
    table_pj: dict[str, float] = {}
    note: str = ""


class BudgetRow(_Record):
    """One measured cost beside its limit."""

    name: str
    value: float
    limit: float | None = None
    kept: bool | None = True


class TargetRow(_Record):
    """What the C export took on a device. Bytes and instructions are missing where they mean nothing."""

    target: str
    conditions: str = ""
    compiler: str = ""
    optimise: str = ""
    inputs: int = 0
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    stack_bytes: int | None = None
    instructions: int | None = None


class EngineSpeed(_Record):
    """The native engine and torch at one batch; times in µs per image, the ratio a median of its own."""

    batch: int
    engine_us: float
    torch_us: float
    ratio: float


class EngineRun(_Record):
    """What ``litesnn evaluate --engine native`` measured on the test set."""

    kernel: str
    threads: int
    test: int
    test_accuracy: float
    same_predictions: int
    additions: float
    weight_bytes: int
    speed: tuple[EngineSpeed, ...]


class NeuroBench(_Record):
    """The figures under NeuroBench's names, per sample; ``train/neurobench.py`` defines them."""

    parameters: int
    footprint: int
    footprint_float32: int
    connection_sparsity: float
    activation_sparsity: float
    effective_macs: float
    effective_acs: float
    effective_bit_macs: float
    effective_bit_acs: float
    dense: float
    membrane_updates: float


class LinearClassifier(_Record):
    """A linear classifier on the network's inputs; ``gain``: the network's accuracy less its own."""

    accuracy: float
    balanced_accuracy: float | None = None
    gain: float | None = None
    gain_standard_error: float | None = None
    rows: int | None = None
    features: int | None = None
    note: str | None = None


class Baselines(_Record):
    """Accuracies of what has learned less: guesses, always the commonest class, and a linear classifier."""

    chance: float
    majority: float
    linear: LinearClassifier | None = None


class ClassRow(_Record):
    """How one class fares on test; recall or precision is missing where nothing can be divided."""

    name: str = Field(alias="class")
    recall: float | None = None
    precision: float | None = None
    test_rows: int = 0
    train_rows: int | None = None


class QualityWarning(_Record):
    """A line that says what is no good; ``label`` is its short form."""

    label: str
    text: str
    grave: bool = False


class SameModule(_Record):
    """A packed file beside the given module, run by its own forward, on so many test images."""

    images: int
    of: int
    predictions_equal: int
    largest_logit_difference: float


class Packing(_Record):
    """Whether a packed file can be, and if not, why; and how it agrees with the given module."""

    possible: bool = True
    reason: str | None = None
    module: SameModule | None = None


class Metrics(_Record):
    """``metrics.json``: what was measured on the test set."""

    version: Literal[1]
    data: DataInfo
    test_accuracy: float = Field(ge=0, le=1)
    litesnn: str = ""
    module: str = ""
    versions: dict[str, str] = {}
    command: str | None = None
    seed: int | None = None
    mode: str = ""
    arithmetic: str = "float"
    notes: tuple[str, ...] = ()
    test_loss: float | None = None
    test_standard_error: float | None = None
    balanced_accuracy: float | None = None
    per_class: tuple[ClassRow, ...] = ()
    baselines: Baselines | None = None
    warnings: tuple[QualityWarning, ...] | None = None  # None: of a version that did not judge
    validation_accuracy: float | None = None
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    accuracy_at: tuple[float, ...] = ()
    timesteps: int | None = None
    packed_bytes: int | None = None
    model_size_bytes: float | None = None
    weights: int | None = None
    kept_weights: int | None = None
    synops: float | None = None
    bit_synops: float | None = None
    stem_macs: float | None = None
    energy: Energy | None = None
    layers: tuple[Layer, ...] = ()
    neurons: tuple[Population, ...] = ()
    size_table: tuple[SizeRow, ...] = ()
    header_bytes: int | None = None
    budgets: tuple[BudgetRow, ...] = ()
    budgets_kept: bool | None = None
    targets: dict[str, TargetRow] = {}
    engine: EngineRun | None = None
    neurobench: NeuroBench | None = None
    packing: Packing = Packing()

    @model_validator(mode="after")
    def _check(self) -> Metrics:
        classes = len(self.confusion)
        if any(len(row) != classes for row in self.confusion):
            raise ValueError("confusion must be a square table")
        if self.classes and self.confusion and len(self.classes) != classes:
            raise ValueError(f"confusion has {classes} rows but there are {len(self.classes)} classes")
        return self


class SearchEpoch(_Record):
    """One line of ``search.jsonl``."""

    epoch: int
    seconds: float | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    layers: tuple[str, ...] = ()
    psi: tuple[float, ...] = ()
    alpha: tuple[tuple[float, ...], ...] = ()
    ops: tuple[str, ...] = ()
    bits: tuple[tuple[float, ...], ...] = ()
    bit_choices: tuple[int, ...] = ()
    keep: tuple[tuple[float, ...], ...] = ()
    keep_choices: tuple[float, ...] = ()
    width: tuple[tuple[float, ...], ...] = ()
    width_choices: tuple[float, ...] = ()
    packed_bytes: float | None = None
    bit_synops: float | None = None
    multipliers: dict[str, float] = {}
    learning_rate: float | None = None


class TrainEpoch(_Record):
    """One line of ``train.jsonl``."""

    epoch: int
    seconds: float | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    bit_synops: float | None = None
    activity_multiplier: float | None = None
    learning_rate: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Run:
    """A run folder's records; ``search``, ``train`` and ``recipe`` are empty where the file is missing."""

    metrics: Metrics
    genotype: Genotype | Compressed
    search: tuple[SearchEpoch, ...]
    train: tuple[TrainEpoch, ...]
    recipe: str


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: ``metrics.json`` or ``genotype.json`` is missing, or a file is damaged; names file and line.
    """
    path = folder / "metrics.json"
    metrics = _record(Metrics, _json(_text(path), str(path)), str(path))
    return Run(
        metrics=metrics,
        genotype=read_genotype(folder / "genotype.json"),
        search=tuple(_lines(SearchEpoch, folder / "search.jsonl")),
        train=tuple(_lines(TrainEpoch, folder / "train.jsonl")),
        recipe=_text(folder / "recipe.toml") if (folder / "recipe.toml").exists() else "",
    )


RecordT = TypeVar("RecordT", bound=_Record)


def _lines(record: type[RecordT], path: Path) -> Iterator[RecordT]:
    if not path.exists():
        return
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            yield _record(record, _json(line, str(path), line=number), f"{path}, line {number}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _json(text: str, origin: str, *, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{origin}, line {line or error.lineno}: not valid JSON: {error.msg}") from None


def _record(record: type[RecordT], value: Any, origin: str) -> RecordT:
    try:
        return record.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise InputError(f"{origin}: {where}: {first['msg']}") from None
