"""A packed file on the test rows of any data set: accuracy, costs and time, with the native engine or the reference.

In: a packed model, which says its classes, its input and how recordings become that; and a data set by its name, as
``litesnn design --data`` takes it. Out: an :class:`Evaluation`. Nothing of a run folder is written.

The rows are those on which a design with the same settings would measure. Labels are matched by the names of the
classes, whatever their order; other names are refused, since labels by number alone would say nothing.

T timesteps, B batch, C channels, H×W pixels, K classes, N test rows.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from litesnn.config import Recipe, load_recipe
from litesnn.costs.energy import energy_record
from litesnn.data.given import as_arrays
from litesnn.data.settings import DATA_FILE, DataSettings
from litesnn.data.sources import FrontEnds, UnreadTest, open_test
from litesnn.data.speech_commands import SILENCE, UNKNOWN, is_speech_commands
from litesnn.deploy.engine import Engine
from litesnn.deploy.packed import PackedModel, read, to_bytes
from litesnn.deploy.reference import Reference
from litesnn.deploy.spike_costs import SpikeCosts, input_macs, spike_bytes
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, LogMel, front_end_name
from litesnn.models import FOLDER, files_of, find_model
from litesnn.runs import RunFolder
from litesnn.train.judgement import Facts, standard_error

if TYPE_CHECKING:
    from litesnn.data.given import GivenData

__all__ = ["Evaluation", "PackedRunner", "evaluate", "microseconds_per_input"]

PackedRunner = Literal["native", "reference"]
"""What can run a packed model here: the native engine, or the NumPy reference that it equals."""

BATCHES = (1, 256)
"""Inputs at once when the engine is timed."""
ROUNDS = 5
SAMPLE_SECONDS = 0.1
"""It is timed so often, and for about so long each time; the median counts."""

_SPIKES = 2**26
"""Bytes of recorded spikes that a batch may have."""
_BATCH = 256
_WORK = ("synops", "bit_synops", "synops_virtual", "bit_synops_virtual")


@dataclass(frozen=True)
class Evaluation:
    """A packed model, measured on the test rows of a data set. Costs are means per input, summed over its timesteps.

    Attributes:
        model: the path of the file, its name if it comes with the package, or "" of a model in memory.
        data: name of the data set.
        rows: test rows.
        accuracy: share of them that is right after the last timestep; ``standard_error`` is its own.
        balanced_accuracy: mean recall of the classes that have test rows.
        accuracy_at: accuracy after each timestep.
        classes: their names in the order of the logits, to which labels were matched.
        per_class: a row for each with "class", "recall", "precision" (``None`` where nothing can be divided), "rows".
        confusion: rows: true class, columns: predicted class.
        timesteps: T.
        packed_bytes: of the file.
        synops, bit_synops: of all layers; of graded spikes those of bit planes.
        synops_virtual, bit_synops_virtual: the same where spikes are 0 and 1; graded ones as binary spikes of virtual
            timesteps.
        analog_macs: MACs of the layers that read the input.
        energy_nj: estimate of the arithmetic's energy in nanojoules (:mod:`litesnn.costs.energy`).
        firing_rate: share of the neurons that fire at a timestep.
        layers: a row for each bundle of synapses and the readout: "name", "bits", "weights", "kept", and SynOps.
        populations: a row for each: "name", "channels", "height", "width", "rate".
        engine: "native" or "reference".
        kernel: of the native engine, else ``None``.
        threads: of the engine.
        additions: of one bit lane each that the native engine did per input, padding included; else ``None``.
        speed: a row for each size of a batch: "batch", and "us" microseconds per input.
        notes: what a reader should know of the data's splits.
    """

    model: str
    data: str
    rows: int
    accuracy: float
    standard_error: float
    balanced_accuracy: float
    accuracy_at: list[float]
    classes: list[str]
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    timesteps: int
    packed_bytes: int
    synops: float
    bit_synops: float
    synops_virtual: float
    bit_synops_virtual: float
    analog_macs: int
    energy_nj: float
    firing_rate: float
    layers: list[dict[str, Any]]
    populations: list[dict[str, Any]]
    engine: PackedRunner
    kernel: str | None
    threads: int
    additions: float | None
    speed: list[dict[str, float]]
    notes: list[str]

    def __repr__(self) -> str:
        share = f"{self.accuracy:.2%} ± {100 * self.standard_error:.2f} of {self.rows} rows"
        return f"Evaluation({self.model!r} on {self.data!r}: {share}, {self.packed_bytes:,} B)"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(self)


def evaluate(
    model: PackedModel | str | Path,
    data: GivenData,
    *,
    recipe: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    engine: PackedRunner = "native",
    threads: int = 1,
) -> Evaluation:
    """Measure a packed model on the test rows of a data set.

    Args:
        model: a packed model, the path of its file or of a run folder that has one, or the name of one that comes with
            the package.
        data: as for :func:`litesnn.design`. Its test rows are those that a design measures on: the data's own, else
            those that are cut from all rows.
        recipe: a shipped recipe or a TOML file, whose ``[data]`` says which rows and classes; left out, the run's, that
            of the shipped model, or the defaults.
        changes: other values of it by dotted key, such as ``{"data.test_limit": 1000}``.
        engine: "native", or "reference" for the slow NumPy reference, which gives the same.
        threads: of the native engine.

    Raises:
        InputError: the model or the data are missing or damaged, or do not fit each other: other classes, another
            shape, another kind of input.
    """
    if engine not in get_args(PackedRunner):
        raise InputError(f"engine: expected one of {', '.join(get_args(PackedRunner))}, found {engine!r}")
    if engine == "reference" and threads != 1:
        raise InputError(f"threads: the reference has one, found {threads}")
    opened = _open_model(model)
    base = opened.recipe if recipe is None else load_recipe(recipe)
    if isinstance(data, str | os.PathLike):
        return _evaluate(opened, _settings(base, os.fspath(data), changes or {}), engine, threads)
    arrays = as_arrays(data)
    with TemporaryDirectory(prefix="litesnn-") as scratch:
        path = Path(scratch) / DATA_FILE
        cast("Any", np.savez)(path, **arrays)
        try:
            return _evaluate(opened, _settings(base, str(path), changes or {}), engine, threads)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "data")) from None


@dataclass(frozen=True)
class _Opened:
    """A packed model with its name, the bytes of its file, and the recipe that it comes with, or an empty one."""

    name: str
    model: PackedModel
    bytes: int
    recipe: Recipe

    @property
    def called(self) -> str:
        """Its name in an error."""
        return self.name or "the model"


def _open_model(model: PackedModel | str | Path) -> _Opened:
    if isinstance(model, PackedModel):
        return _Opened("", model, len(to_bytes(model)), Recipe())
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"model: expected a packed model or the path of one, found {type(model).__name__}")
    path, recipe = find_model(model), Recipe()
    name = str(path)
    if path.is_dir():
        run = RunFolder(path)
        recipe = run.recipe()
        path = run.need("pack")
    elif path.parent == FOLDER and (beside := files_of(path.stem)["recipe"]).is_file():
        name, recipe = path.stem, load_recipe(beside)
    return _Opened(name, read(path), path.stat().st_size, recipe)


def _settings(base: Recipe, source: str, changes: Mapping[str, Any]) -> DataSettings:
    """Which rows are measured. Raises ``InputError`` if a key says nothing of that."""
    for key in changes:
        if key.partition(".")[0] != "data":
            raise InputError(f"{key}: says nothing of the rows that are measured; expected keys as data.test_limit")
        if key == "data.source":
            raise InputError(f"{key}: the data set is named by --data; leave it out")
    return base.changed({"data.source": source} | dict(changes)).data


def _evaluate(opened: _Opened, settings: DataSettings, engine: PackedRunner, threads: int) -> Evaluation:
    model, called = opened.model, opened.called
    runner = Engine(model, threads=threads) if engine == "native" else Reference(model)
    test = open_test(_with_commands(settings, model), _front_ends(model, called))
    _require_same_input(test, model, called)
    places = _matched(test, model, called)
    split = test.read(model.input.shape)
    x, y = split.x.numpy(), places[split.y.numpy()]
    costs = SpikeCosts(model)
    guesses, seconds = _run(runner, x, costs)
    additions = runner.additions / len(x) if isinstance(runner, Engine) else None
    classes, right = len(model.classes), guesses == y  # [T, N]
    confusion = np.bincount(y * classes + guesses[-1], minlength=classes**2).reshape(classes, classes).tolist()
    facts = Facts(model.classes, (0,) * classes, tuple(map(tuple, confusion)))
    layers = [asdict(layer) for layer in costs.layers()]
    macs = input_macs(model)
    if isinstance(runner, Engine):
        speed = [_timed(runner, x, min(batch, len(x))) for batch in BATCHES]
    else:
        speed = [{"batch": min(_batch(model), len(x)), "us": 1e6 * seconds / len(x)}]
    return Evaluation(
        model=opened.name,
        data=test.name,
        rows=len(x),
        accuracy=facts.accuracy,
        standard_error=standard_error(facts.accuracy, len(x)),
        balanced_accuracy=facts.balanced_accuracy,
        accuracy_at=[int(row.sum()) / len(x) for row in right],
        classes=list(model.classes),
        per_class=_per_class(facts),
        confusion=confusion,
        timesteps=model.timesteps,
        packed_bytes=opened.bytes,
        **{key: sum(layer[key] for layer in layers) for key in _WORK},
        analog_macs=sum(count for count, _ in macs),
        energy_nj=energy_record(layers, macs)["total_nj"],
        firing_rate=costs.mean_rate(),
        layers=layers,
        populations=[asdict(rate) for rate in costs.rates()],
        engine=engine,
        kernel=runner.kernel if isinstance(runner, Engine) else None,
        threads=threads,
        additions=additions,
        speed=speed,
        notes=list(test.notes),
    )


def _front_ends(model: PackedModel, called: str) -> FrontEnds:
    """What recordings become, as the file says it."""
    front_end = model.input.front_end
    if isinstance(front_end, LogMel):
        return FrontEnds(audio=front_end)
    if isinstance(front_end, EventFrames):
        return FrontEnds(events=front_end, timesteps=model.timesteps)
    if front_end is not None:
        raise InputError(f"{called}: no data set is read for the front end {front_end_name(front_end)}")
    return FrontEnds()


def _with_commands(settings: DataSettings, model: PackedModel) -> DataSettings:
    """The 12 classes of Speech Commands for a model that has them, if nobody said which of its classes are read."""
    if settings.commands is None and {SILENCE, UNKNOWN} <= set(model.classes):
        folder = Path(settings.source).expanduser()
        if is_speech_commands(folder):
            return settings.model_copy(update={"commands": 12})
    return settings


def _require_same_input(test: UnreadTest, model: PackedModel, called: str) -> None:
    """Refuse data of another kind than a model takes, or recordings that it does not say how to read."""
    takes, source = model.input, test.settings.source
    kinds = {"image": "images", "array": "arrays of real numbers", "events": "recordings of events"}

    def told(kind: str, recorded: bool) -> str:
        return "sound" if kind == "array" and recorded else kinds[kind]

    wants = told(takes.kind, takes.front_end is not None)
    holds = told(test.kind, test.front_end is not None)
    if wants != holds:
        raise InputError(f"{called} takes {wants}, but {source} holds {holds}")


def _matched(test: UnreadTest, model: PackedModel, called: str) -> NDArray[np.int64]:
    """Of each class of the data its place among those of the model [K], by name."""
    if test.classes == model.classes:
        return np.arange(len(model.classes))
    ours, theirs = set(model.classes), set(test.classes)
    if ours != theirs or len(ours) != len(model.classes) or len(theirs) != len(test.classes):
        raise InputError(
            f"{called} and {test.settings.source} have different classes: {_listed(model.classes, theirs)} and "
            f"{_listed(test.classes, ours)}"
        )
    return np.array([model.classes.index(name) for name in test.classes])


def _listed(classes: Sequence[str], others: set[str]) -> str:
    """How many classes, and the first few that the others do not have."""
    alone = [name for name in classes if name not in others]
    shown = ", ".join(map(repr, alone[:3])) + ", …" * (len(alone) > 3)
    return f"{len(classes)}" + (f" with {shown}" if alone else "")


def _batch(model: PackedModel) -> int:
    return max(1, min(_BATCH, _SPIKES // spike_bytes(model)))


def _run(runner: Engine | Reference, x: NDArray[np.generic], costs: SpikeCosts) -> tuple[NDArray[np.int64], float]:
    """The classes [T, N] after each timestep, and the seconds that the runner took; ``costs`` counts the spikes."""
    size, seconds, guesses = _batch(runner.model), 0.0, []
    for start in range(0, len(x), size):
        began = time.perf_counter()
        trace = runner.run(x[start : start + size], record=True)
        seconds += time.perf_counter() - began
        assert trace.spikes is not None
        costs.add(trace.spikes)
        guesses.append(trace.logits.argmax(axis=2))
    return np.concatenate(guesses, axis=1), seconds


def _per_class(facts: Facts) -> list[dict[str, Any]]:
    return [
        {"class": row["class"], "recall": row["recall"], "precision": row["precision"], "rows": row["test_rows"]}
        for row in facts.per_class()
    ]


def _timed(engine: Engine, x: NDArray[np.generic], batch: int) -> dict[str, float]:
    rounds = [
        microseconds_per_input(lambda rows: engine.predict(x[rows]), len(x), batch, seconds=SAMPLE_SECONDS)
        for _ in range(ROUNDS)
    ]
    return {"batch": batch, "us": statistics.median(rounds)}


def microseconds_per_input(predict: Callable[[slice], object], rows: int, batch: int, *, seconds: float) -> float:
    """Time per input: one sample of calls on different batches, from the first row again when there are no more.

    Args:
        predict: classifies some rows.
        rows: how many there are.
        batch: rows of a call.
        seconds: that the sample takes, or a little more.
    """
    starts = itertools.cycle(range(0, rows - batch + 1, batch))
    predict(slice(0, batch))  # warms up
    inputs, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        start = next(starts)
        predict(slice(start, start + batch))
        inputs += batch
    return 1e6 * spent / inputs
