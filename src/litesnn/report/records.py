"""The report's input: the files of a run folder as validated records.

In: a run folder. Out: :class:`Run`. Keys that other stages may leave out have a default, keys that this
version does not know are ignored (a report should outlive the run's version), and whatever is damaged is
refused by file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litesnn.costs import COSTS
from litesnn.errors import InputError
from litesnn.files import read_text
from litesnn.genotype import Compressed, Genotype, read_genotype
from litesnn.text import first_complaint

__all__ = ["FiringRateRow", "Layer", "Metrics", "Run", "SearchEpoch", "SizeRow", "TargetRow", "TrainEpoch", "read_run"]


_Count = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A number that a drawing can take for a float."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class DataInfo(_Record):
    """The data set and its split."""

    name: str
    train: _Count | None = None
    validation: _Count | None = None
    test: _Count | None = None
    shape: tuple[_Count, ...] = ()
    notes: tuple[str, ...] = ()


class Layer(_Record):
    """One layer with weights. SynOps are per inference."""

    name: str
    kind: str = "edge"
    cell: _Count | None = None
    bits: _Count | None = None
    keep: float | None = None
    weights: _Count | None = None
    kept: _Count | None = None
    synops: float | None = None
    bit_synops: float | None = None


class FiringRateRow(_Record):
    """One population of neurons; ``firing_rate`` is the share of them that fire, the mean over the timesteps."""

    name: str
    firing_rate: float
    channels: _Count | None = None
    height: _Count | None = None
    width: _Count | None = None


class SizeRow(_Record):
    """Bytes of one layer in the packed file."""

    name: str
    positions: _Count = 0
    codes: _Count = 0
    affine: _Count = 0
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
    """Measurements of the C export on a device. Bytes and instructions are missing where they mean nothing."""

    target: str
    conditions: str = ""
    compiler: str = ""
    optimise: str = ""
    inputs: _Count = 0
    flash_bytes: _Count | None = None
    ram_bytes: _Count | None = None
    stack_bytes: _Count | None = None
    instructions: _Count | None = None


class EngineSpeed(_Record):
    """The native engine and torch at one batch; times in µs per image, the ratio a median of its own."""

    batch: _Count
    engine_us: float
    torch_us: float
    ratio: float


class EngineRun(_Record):
    """The measurements of ``litesnn evaluate --engine native`` on the test set."""

    kernel: str
    threads: _Count
    test: _Count
    test_accuracy: float
    same_predictions: _Count
    additions: float
    weight_bytes: _Count
    speed: tuple[EngineSpeed, ...]


class NeuroBench(_Record):
    """The figures under NeuroBench's names, per sample; ``train/neurobench.py`` defines them."""

    parameters: _Count
    footprint: _Count
    footprint_float32: _Count
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
    rows: _Count | None = None
    features: _Count | None = None
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
    test_rows: _Count = 0
    train_rows: _Count | None = None


class QualityWarning(_Record):
    """A line that says what is no good; ``label`` is its short form."""

    label: str
    text: str
    grave: bool = False


class Teacher(_Record):
    """The teacher of the training; what was measured is there of one that the run trained itself."""

    name: str
    sha256: str | None = None
    width: _Count | None = None
    blocks: _Count | None = None
    epochs: _Count | None = None
    validation_accuracy: float | None = None


class SameModule(_Record):
    """A packed file beside the user's module, run by its own forward, on so many test images."""

    images: int
    of: int
    predictions_equal: int
    largest_logit_difference: float


class Packing(_Record):
    """Whether a packed file can be, and if not, why; and how it agrees with the user's module."""

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
    seed: _Count | None = None
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
    confusion: tuple[tuple[_Count, ...], ...] = ()
    accuracy_at: tuple[float, ...] = ()
    timesteps: _Count | None = None
    packed_bytes: _Count | None = None
    model_size_bytes: float | None = None
    weights: _Count | None = None
    kept_weights: _Count | None = None
    synops: float | None = None
    bit_synops: float | None = None
    spike_levels: _Count = 1
    synops_virtual: float | None = None
    stem_macs: float | None = None
    firing_rate: float | None = None
    firing_rate_target: float | None = None
    energy: Energy | None = None
    layers: tuple[Layer, ...] = ()
    neurons: tuple[FiringRateRow, ...] = ()
    size_table: tuple[SizeRow, ...] = ()
    header_bytes: _Count | None = None
    budgets: tuple[BudgetRow, ...] = ()
    budgets_kept: bool | None = None
    targets: dict[str, TargetRow] = {}
    engine: EngineRun | None = None
    neurobench: NeuroBench | None = None
    packing: Packing = Packing()
    teacher: Teacher | None = None

    @model_validator(mode="after")
    def _check(self) -> Metrics:
        classes = len(self.confusion)
        if any(len(row) != classes for row in self.confusion):
            raise ValueError("confusion must be a square table")
        if self.classes and self.confusion and len(self.classes) != classes:
            raise ValueError(f"confusion has {classes} rows but there are {len(self.classes)} classes")
        return self


class _Epoch(_Record):
    """One line of a log; ``costs`` are those of :data:`litesnn.costs.COSTS` that it has, by key."""

    costs: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = values | {"costs": {key: values[key] for key in COSTS if values.get(key) is not None}}
        return values


class SearchEpoch(_Epoch):
    """One line of ``search.jsonl``."""

    epoch: _Count
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
    bit_choices: tuple[_Count, ...] = ()
    keep: tuple[tuple[float, ...], ...] = ()
    keep_choices: tuple[float, ...] = ()
    width: tuple[tuple[float, ...], ...] = ()
    width_choices: tuple[float, ...] = ()
    multipliers: dict[str, float] = {}
    learning_rate: float | None = None


class TrainEpoch(_Epoch):
    """One line of ``train.jsonl``."""

    epoch: _Count
    seconds: float | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    firing_rate: float | None = None
    flips: dict[str, float] = {}
    gradient_share: dict[str, float] = {}
    best: bool = False


@dataclass(frozen=True)
class Run:
    """A run folder's records; ``search``, ``teacher``, ``train`` and ``recipe`` are empty where the file is missing."""

    metrics: Metrics
    genotype: Genotype | Compressed
    search: tuple[SearchEpoch, ...]
    train: tuple[TrainEpoch, ...]
    recipe: str
    teacher: tuple[TrainEpoch, ...] = ()


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: ``metrics.json`` or ``genotype.json`` is missing, or a file is damaged; names file and line.
    """
    path = folder / "metrics.json"
    metrics = _record(Metrics, _json(read_text(path), str(path)), str(path))
    return Run(
        metrics=metrics,
        genotype=read_genotype(folder / "genotype.json"),
        search=tuple(_lines(SearchEpoch, folder / "search.jsonl")),
        train=tuple(_lines(TrainEpoch, folder / "train.jsonl")),
        recipe=read_text(folder / "recipe.toml") if (folder / "recipe.toml").exists() else "",
        teacher=tuple(_lines(TrainEpoch, folder / "teacher.jsonl")),
    )


RecordT = TypeVar("RecordT", bound=_Record)


def _lines(record: type[RecordT], path: Path) -> Iterator[RecordT]:
    if not path.exists():
        return
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield _record(record, _json(line, str(path), line=number), f"{path}, line {number}")


def _json(text: str, origin: str, *, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{origin}, line {line or error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError):  # integers of thousands of digits; nested as deep
        raise InputError(f"{origin}, line {line or 1}: not valid JSON: too long a number, or nested too deep") from None


def _record(record: type[RecordT], value: Any, origin: str) -> RecordT:
    try:
        return record.model_validate(value)
    except ValidationError as error:
        where, first = first_complaint(error, "the record")
        raise InputError(f"{origin}: {where}: {first['msg']}") from None
