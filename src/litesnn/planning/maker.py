"""A recipe made from the data, the budget and the time: what is searched, how wide, for how many steps, and why.

In: what a person said (data, limits, a time, settings). Out: a whole recipe, a reason for each choice, and an estimate
of time and memory. Settings that a person said are kept, and all choices are made around them.

The order of the choices: front end, augmentation, macro path and width from the budget, then what the time allows:
timesteps, steps of the search, epochs of training. Steps are counted, not epochs: a few of them are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litesnn.budget import Budget
from litesnn.compression.teachers import stand_in
from litesnn.config import AUTO, Recipe, with_numbers
from litesnn.costs import COSTS, Cost
from litesnn.costs.size import PACKED_BYTES
from litesnn.data.batches import steps_per_epoch
from litesnn.data.sources import Data, load
from litesnn.data.survey import suggest_settings
from litesnn.durations import describe_duration
from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically
from litesnn.front_end import InputKind
from litesnn.genotype import CellGene, Genotype, StemGene
from litesnn.neurons import NEURONS
from litesnn.planning.macro import MacroPath, deep_path, macro_paths, uniform_bytes, uniform_cost, widest
from litesnn.planning.mirror import why_mirror
from litesnn.planning.scale import HARDLY_BEGUN
from litesnn.planning.sensible import require_memory, require_sensible
from litesnn.planning.timing import Pace, search_pace, teacher_pace, train_pace
from litesnn.runs import RunFolder
from litesnn.search.derive import costliest_wirings, is_far_too_large, least_bytes_of, smallest_candidate
from litesnn.snn.network import InputInfo
from litesnn.strategies import strategy_named
from litesnn.text import shape_text
from litesnn.train.teacher import Teacher
from litesnn.training_loop.session import Session, input_info

__all__ = ["DEFAULT_SECONDS", "Estimate", "Plan", "foresee", "make_plan", "renew_epochs"]

DEFAULT_SECONDS = {"cpu": 1800.0, "cuda": 600.0}
"""Time of a whole design where none is said, by the kind of device."""

_PACKED_BYTES = 64_000  # what is filled where no limit is said
_TIMESTEPS = 4  # where no limit is said
_SEARCH_SHARE = 0.2
_TEACHER_SHARE = 0.15  # of the time, where a teacher is trained
_TEACHER_PASSES, _TEACHER_STEPS = 30, 2000  # of its training; more of both are of little use
_LEAST_TEACHER_EPOCHS = 3
_SEARCH_PATIENCE = 1.5  # times its share of the time, which a search may take before it leaves out epochs
_KINDS: Mapping[InputKind, str] = {"image": "images", "array": "arrays of numbers", "events": "events"}
_SHOWN_CHANGES = ("crop", "flip", "cutout", "shift_ms", "noise", "time_mask", "frequency_mask")
_SHOWN_REASONS = ("model.width", "search.timesteps", "augment.flip", "search.epochs", "train.epochs")

_MARGIN = 0.96
"""The share of the time left that is planned: steps take longer now and then than those that were measured."""

_WIDEST = 256  # channels of a node that are tried

_OVERFILL = 1.6
"""The widest candidate with 2 bits everywhere needs so many times the limit: it fills it with 1 and 2 bits mixed."""

_OVERFILL_4_BITS = 1.1
"""The same factor where 4 bits are to fill it."""

_LINEAR_VALUES = 16_000_000
"""Values of the training inputs from which on the linear classifier of the evaluation takes the longest."""

_MEASURED_SHARE = 1 / 60
"""Of the whole time, what the steps of one network are measured for; there are a few networks, and 2 s are enough."""

_CLEARLY = 0.8
"""Training that sees the data fewer than so many times as often as is wanted sees them clearly too seldom: fewer
timesteps are tried, and the search is short. With powers of two it keeps a measurement's noise from deciding."""

_REST_SECONDS = 6.0
"""Of evaluation, packing and report, whatever the data: those of the digits took 4 s of one core. Most of it is the
report, and nothing of it can be measured before without doing it."""

_SEARCH_EPOCHS, _MOST_SEARCH_EPOCHS, _LEAST_SEARCH_STEPS = 10, 40, 30
_MOST_EPOCHS = 300
_ENOUGH_STEPS = {"search": 600, "train": 3000}
"""Small data, of which an epoch has only a few steps, get more epochs, up to so many steps."""

_FEW_EPOCHS = 10  # training is divided into so many at least: each ends with a validation and a checkpoint


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole design by part, and bytes that its largest step takes.

    ``least``: seconds in which search and training have hardly begun; 0 if that is not known.
    """

    seconds: Mapping[str, float]
    memory: int
    least: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def describe(self) -> str:
        """The estimate in one line."""
        parts = ", ".join(f"{part} {describe_duration(seconds)}" for part, seconds in self.seconds.items())
        least = f"; in less than {describe_duration(self.least)} it would hardly learn" if self.least else ""
        memory = f"{self.memory / 1e9:.1f} GB of memory for a step"
        return f"about {describe_duration(self.total)} ({parts}), and {memory}{least}"


@dataclass(frozen=True)
class Plan:
    """A recipe with the reasons for its values by dotted key, the data that were read for it, and what to expect.

    ``notes`` say in a line each what a person should know before it starts.
    """

    recipe: Recipe
    reasons: Mapping[str, str]
    notes: tuple[str, ...]
    estimate: Estimate
    data: Data

    def lines(self) -> list[str]:
        """The plan in a few lines, for people."""
        recipe, data = self.recipe, self.data
        model, search, train, augment = recipe.model, recipe.search, recipe.train, recipe.augment
        rows = f"{len(data.train.y):,} training and {len(data.validation.y):,} validation rows"
        shape = shape_text(data.shape)
        kind = "sound" if data.train.sound is not None else _KINDS[data.kind]
        changes = [f"{name} {value}" for name in _SHOWN_CHANGES if (value := getattr(augment, name))]
        of = [f" ({self.reasons[key]})" if key in self.reasons else "" for key in _SHOWN_REASONS]
        return [
            f"data       {data.name}: {rows}, {len(data.classes)} classes, inputs {shape} ({kind})",
            f"budget     {recipe.budget.describe()}",
            f"network    stem stride {model.stem_stride}, cells at levels {', '.join(map(str, model.levels))}",
            f"           width up to {model.width}{of[0]}, bits {', '.join(map(str, search.bits))}",
            f"timesteps  up to {recipe.timesteps}{of[1]}",
            f"changes    {', '.join(changes) or 'none'} to training inputs",
            *([f"           mirroring{of[2]}"] if of[2] else []),
            f"search     {search.epochs} epochs{of[3]}",
            *self._teacher_lines(),
            f"training   {train.epochs} epochs{of[4]}",
            f"estimate   {self.estimate.describe()}",
            *self.notes,
        ]

    def _teacher_lines(self) -> list[str]:
        teacher, reason = self.recipe.train.teacher, self.reasons.get("teacher.epochs")
        if teacher is None:
            return []
        trained = f", {self.recipe.teacher.epochs} epochs" if teacher == AUTO else ""
        return [f"teacher    {teacher}{trained}{f' ({reason})' if reason else ''}"]


@dataclass
class _Draft:
    """Values by dotted key as they are decided; what a person said goes before."""

    said: Mapping[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, reason: str = "") -> None:
        """Decide a value, unless it was said."""
        if self.has_said(key):
            return
        self.values[key] = value
        if reason:
            self.reasons[key] = reason

    def has_said(self, key: str) -> bool:
        return key in self.said or key.partition(".")[0] in self.said

    def copy(self) -> _Draft:
        """The same decisions, of which others may be made."""
        return _Draft(self.said, dict(self.values), dict(self.reasons))

    def take(self, other: _Draft) -> None:
        """Decide as another draft of the same words has."""
        self.values, self.reasons = other.values, other.reasons

    def epochs_follow(self, stage: str) -> bool:
        """Whether the epochs of a stage may be changed on the way."""
        return not (self.has_said(f"{stage}.epochs") or self.has_said(f"{stage}.epoch_steps"))

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe so far; ``changes`` are further values, with ``__`` for the dot, unless those were said."""
        further = {key.replace("__", "."): value for key, value in changes.items()}
        further = {key: value for key, value in further.items() if not self.has_said(key)}
        return Recipe.from_toml("", origin="the made recipe", changes=self.values | further | dict(self.said))


@dataclass(frozen=True)
class _Measure:
    """Measured time of steps on the data, where the work will be done."""

    data: Data
    session: Session
    workers: int
    seconds: float  # for which one network is measured
    teacher: Teacher | None = None

    @classmethod
    def of(cls, recipe: Recipe, data: Data, session: Session, workers: int, seconds: float) -> _Measure:
        """With a teacher where the recipe has one, which is refused if it does not fit the data."""
        teacher = stand_in(recipe, input_info(data), session.device)
        return cls(data, session, workers, seconds, teacher)

    def training(self, recipe: Recipe, genotype: Genotype) -> Pace:
        return train_pace(
            *(recipe, genotype, self.data, self.session),
            workers=self.workers,
            seconds=self.seconds,
            teacher=self.teacher,
        )

    def teaching(self, recipe: Recipe) -> Pace:
        return teacher_pace(recipe, self.data, self.session, seconds=self.seconds)

    def search(self, recipe: Recipe) -> Pace:
        return search_pace(recipe, self.data, self.session, workers=self.workers, seconds=self.seconds)


def make_plan(
    said: Mapping[str, Any], seconds: float, session: Session, *, workers: int = 1, spent: float = 0.0
) -> Plan:
    """Make a recipe.

    Args:
        said: dotted recipe keys with the values that a person said, ``data.source`` among them.
        seconds: what the whole design may take.
        session: on the device that will do the work.
        workers: processes that will share it.
        spent: seconds that have gone already.

    Raises:
        InputError: the data cannot be read, a value that was said is not valid or means nothing for them, or no network
            fits the budget.
    """
    began = time.perf_counter() - spent
    draft, notes = _Draft(said), []
    draft.set("name", "made")
    draft.set("description", "Made from the data, the budget and the time; each choice with its reason.")
    _limits(draft)
    data = _read(draft)
    info = input_info(data)
    _augmentation(draft, data)
    require_sensible(draft.recipe(), data)
    batch = _batch(len(data.train.y), workers)
    for stage in ("search", "train"):
        draft.set(f"{stage}.batch_size", batch, f"{len(data.train.y):,} training rows")
    _fixed_choices(draft)
    path = _macro_path(draft, info)
    require_memory(draft.recipe(), info, session.device)
    measure = _Measure.of(draft.recipe(), data, session, workers, _MEASURED_SHARE * seconds)
    teaching = _teacher_steps(draft, measure, _TEACHER_SHARE * (seconds - (time.perf_counter() - began)))
    paces = _timesteps(draft, measure, path, seconds - teaching - (time.perf_counter() - began))
    left = seconds - teaching - (time.perf_counter() - began)
    tail = _tail_seconds(data, paces.image)
    share = max(0.0, _SEARCH_SHARE * (left - tail))
    training = _MARGIN * (left - share) - tail
    wanted = _wanted_passes(draft, data) * _epoch_seconds(draft.recipe(), data, paces)
    search, searching = _search_steps(draft, measure, share, scarce=training < _CLEARLY * wanted)
    left = seconds - teaching - (time.perf_counter() - began)
    _training(draft, data, paces, _MARGIN * (left - searching) - tail)
    elapsed = time.perf_counter() - began
    draft.values["made"] = {
        "seconds": seconds,
        "spent": round(elapsed, 1),
        "search": round(_SEARCH_PATIENCE * max(searching, share), 1) if draft.epochs_follow("search") else 0,
        "training": 0,
        "epochs_follow": draft.epochs_follow("train"),
        "most_epochs": 0,
    }
    recipe = draft.recipe()
    trained = recipe.train.epochs * _epoch_seconds(recipe, data, paces)
    parts = {"reading and planning": elapsed, "search": searching}
    parts |= {"teacher": teaching} if teaching else {}
    parts |= {"training": trained, "the rest": tail}
    learning = HARDLY_BEGUN["search"] * search.step + HARDLY_BEGUN["train"] * paces.step
    budget = recipe.budget.timesteps
    if draft.has_said("search.timesteps") and recipe.timesteps < recipe.search.timesteps:
        notes.append(f"search.timesteps is {recipe.search.timesteps}, but the budget allows {budget}: T <= {budget}")
    if (over := sum(parts.values())) > seconds:
        notes.append(
            f"the least that can be done takes about {describe_duration(over)}, longer than the "
            f"{describe_duration(seconds)} that there are"
        )
    estimate = Estimate(parts, max(search.memory, paces.memory), elapsed + learning / _MARGIN + tail)
    return Plan(recipe, draft.reasons, tuple(notes), estimate, data)


def _tail_seconds(data: Data, image: float) -> float:
    """Seconds of what follows training: evaluation, packing and report; ``image``: of the deployed arithmetic."""
    linear = min(1.0, data.train.x.numel() / _LINEAR_VALUES)  # the classifier that the network is compared with
    return _REST_SECONDS + 10 * linear + 3 * image * data.count_test()


def _epochs_in(
    seconds: float, recipe: Recipe, data: Data, pace: Pace, *, said: int | None = None, said_steps: int | None = None
) -> tuple[int, int]:
    """How many epochs of how many steps fit into the time: at least one step, at most 300 passes or 3000 steps.

    An epoch is one pass over the training rows, or a part of one where only a few passes fit. ``said`` are epochs, and
    ``said_steps`` steps of each, that a person said.
    """
    whole = steps_per_epoch(data.train.y, recipe.train.batch_size, None)
    steps = steps_per_epoch(data.train.y, recipe.train.batch_size, said_steps)
    after = len(data.validation.y) * pace.image + pace.epoch
    fit = seconds / (steps * pace.step + after)
    least = _FEW_EPOCHS if said_steps is None else 1
    if said is None and fit >= least:
        return min(int(fit), _most_epochs("train", whole, steps)), steps
    epochs = said or least
    short = (seconds / epochs - after) / pace.step
    return epochs, steps if said_steps else max(1, min(steps, int(short)))


def _most_epochs(stage: str, whole: int, steps: int) -> int:
    """Epochs of so many ``steps`` from which on more are of no use; a pass over the rows has ``whole`` steps."""
    passes = _MOST_SEARCH_EPOCHS if stage == "search" else _MOST_EPOCHS
    return math.ceil(max(passes * whole, _ENOUGH_STEPS[stage]) / steps)


def foresee(recipe: Recipe, data: Data, session: Session, *, workers: int = 1) -> Plan:
    """The plan of a written recipe, with estimated time and memory; ``workers`` processes share the work.

    Raises:
        InputError: there is not enough memory for it.
    """
    require_memory(recipe, input_info(data), session.device)
    measure = _Measure.of(recipe, data, session, workers, math.inf)
    pace, searched = measure.training(recipe, _uniform_genotype(recipe, recipe.timesteps)), measure.search(recipe)
    steps = steps_per_epoch(_searched(recipe, data), recipe.search.batch_size, recipe.search.epoch_steps)
    parts = {"search": recipe.search.epochs * steps * searched.step}
    if recipe.train.teacher == AUTO:
        parts["teacher"] = recipe.teacher.epochs * _teacher_epoch_seconds(recipe, data, measure.teaching(recipe))
    parts |= {
        "training": recipe.train.epochs * _epoch_seconds(recipe, data, pace),
        "the rest": _tail_seconds(data, pace.image),
    }
    return Plan(recipe, {}, (), Estimate(parts, max(searched.memory, pace.memory)), data)


def _limits(draft: _Draft) -> None:
    """The limits that were said, and what stands in for those that were not."""
    budget = draft.recipe().budget
    if budget == type(budget)():
        draft.set("budget.packed_bytes", _PACKED_BYTES, "no limit was said: what fits into most microcontrollers")
    most = budget.timesteps or _TIMESTEPS
    why = "as many as the budget allows" if budget.timesteps else "no limit was said"
    draft.set("search.timesteps", most, why)


def _read(draft: _Draft) -> Data:
    """Read the training rows, with a front end that fits them."""
    recipe = draft.recipe()
    for key, advice in suggest_settings(recipe.data, timesteps=recipe.timesteps).items():
        draft.set(key, advice.value, advice.reason)
    draft.set("data.validation_fraction", 0.1, "for choosing among epochs; training needs the others more")
    recipe = draft.recipe()
    data = load(recipe.data, recipe.front_ends)
    data.check_test()
    return data


def _augmentation(draft: _Draft, data: Data) -> None:
    height, width = data.shape[1:]
    sound = data.train.sound
    if sound is not None:
        audio = draft.recipe().audio
        draft.set("augment.shift_ms", float(round(min(100.0, audio.clip_ms / 10))), "a tenth of a clip, at most 100 ms")
        if sound.noise is not None:
            draft.set("augment.noise", 0.1, "the data have background noise")
        draft.set("augment.time_mask", round(width / 5), f"a fifth of the {width} frames")
        draft.set("augment.frequency_mask", round(height / 13), f"a thirteenth of the {height} bands")
        draft.set("augment.masks", 2)
    elif data.kind == "image":
        crop = round(min(height, width) / 8)
        draft.set("augment.crop", crop, f"an eighth of {height}×{width} pixels")
        if not draft.has_said("augment.flip"):
            draft.set("augment.flip", *why_mirror(data))
    elif data.kind == "events":
        draft.set("augment.crop", round(min(height, width) / 16), f"a sixteenth of {height}×{width} pixels")
    else:
        draft.reasons["augment.crop"] = "nobody knows what a shift or a mirror would mean for arrays of numbers"


def _batch(rows: int, workers: int) -> int:
    """Rows of a step, of which all workers get as many."""
    size = 128 if rows >= 20_000 else 64 if rows >= 600 else max(2, min(32, rows // 2))
    return size if workers == 1 else max(1, size // workers) * workers


def _fixed_choices(draft: _Draft) -> None:
    draft.set("model.nodes", 2)
    draft.set("model.ops", ["skip", "conv3x3"])
    draft.set("model.spatial_edges", 2, "half of a cell's edges see how pixels are arranged")
    draft.set("search.update", "joint", "one pass per step instead of two")
    if draft.recipe().search.mode != "paper":  # which has one keep ratio and one width, and mixes bit-widths
        draft.set("search.sampling", True)
        draft.set("search.keeps", [0.5, 1.0])
        draft.set("search.widths", [0.5, 0.75, 1.0])
        if NEURONS[draft.recipe().model.neuron].graded:
            draft.set("model.spike_levels", 3, "spikes of two bits tell more than two timesteps, in half the time")
    draft.set("search.lr", 0.1)
    draft.set("search.alpha_lr", 0.01)
    draft.set("search.beta_lr", 0.03)
    draft.set("search.score_lr", 0.001)
    draft.set("search.psi_lr", 0.1)
    draft.set("train.lr", 0.1)
    draft.set("train.nesterov", True)
    draft.set("train.warmup", 0.05)
    draft.set("train.label_smoothing", 0.1)
    draft.set("train.init", "identity", "what layers read gets through them from the first step on")


def _macro_path(draft: _Draft, info: InputInfo) -> MacroPath:
    """Choose stride, levels and width: the richest path on which the limits allow most of what the bytes allow."""
    budget = draft.recipe().budget
    height, columns = info.shape[1:]
    paths = macro_paths(height, columns, frames=info.frames)
    aim = budget.packed_bytes or _PACKED_BYTES  # a network is no better for being as large as it can be
    room = _OVERFILL * aim
    best: tuple[float, MacroPath, int, str] | None = None
    for path in paths:
        by_bytes = widest(lambda width: uniform_bytes(_sized(draft, path, width), info, bits=2) <= room)  # noqa: B023
        by_work, binding = _widest_by_other_limits(draft, path, info, bits=2)
        width = _possible_width(draft, path, info, min(by_bytes, by_work))
        if width is None:
            continue
        share = by_work / by_bytes
        why = _what_fills(width, budget, binding if by_work < by_bytes else None)
        if best is None or min(share, 0.7) > best[0]:
            best = min(share, 0.7), path, width, why
        if share >= 0.7:
            break
    if best is None:
        raise InputError(
            f"the budget of {budget.packed_bytes} B packed cannot be kept: {_least_network(draft, paths, info)}"
        )
    _, path, width, why = best
    side = f"{height}×{columns} inputs"
    draft.set("model.stem_stride", path.stem_stride, f"{side}, and {budget.describe()}")
    first = [math.ceil(size / path.stem_stride / 2 ** path.levels[0]) for size in (height, columns)]
    draft.set("model.levels", list(path.levels), f"{side}: maps of {first[0]}×{first[1]} in the first cell")
    _set_width(draft, path, width, why)
    _set_bits(draft, info)
    return path


def _least_network(draft: _Draft, paths: Sequence[MacroPath], info: InputInfo) -> str:
    """The needs of the smallest network, in words; of sizes that a person said, those are named."""
    said = [key for key in ("model.width", "model.levels", "model.stem_channels", "search.bits") if draft.has_said(key)]
    least = [_sized(draft, path, 1) for path in paths]
    need = min(least_bytes_of(one, info) for one in least)
    settings = f" with {' and '.join(said)} as said" if said else ""
    height, columns = info.shape[1:]
    return (
        f"the smallest network for {height}×{columns} inputs and {len(info.classes)} classes{settings} needs {need} B"
        + (f"; leave out {' and '.join(said)}, and what fits is chosen" if said else "")
    )


def _deep_draft(draft: _Draft, info: InputInfo) -> tuple[_Draft, MacroPath] | None:
    """Other choices, which fill the bytes with less work: deep cells and 4 bits; ``None`` if none keep the budget."""
    other, budget = draft.copy(), draft.recipe().budget
    path = deep_path(*info.shape[1:])
    room = _OVERFILL_4_BITS * (budget.packed_bytes or _PACKED_BYTES)
    by_bytes = widest(lambda width: uniform_bytes(_sized(draft, path, width), info, bits=4) <= room)
    by_work, binding = _widest_by_other_limits(draft, path, info, bits=4)
    width = _possible_width(draft, path, info, min(by_bytes, by_work))
    if width is None:
        return None
    why = "wider layers on larger maps would see the data too seldom in the time"
    other.set("model.stem_stride", path.stem_stride, why)
    other.set("model.levels", list(path.levels), why)
    _set_width(other, path, width, f"{_what_fills(width, budget, binding if by_work < by_bytes else None)}; {why}")
    _set_bits(other, info)
    return other, path


def _widest_by_other_limits(
    draft: _Draft, path: MacroPath, info: InputInfo, *, bits: int
) -> tuple[int, tuple[Cost, float] | None]:
    """The widest network that all limits but the packed size allow, and the limit that forbids a wider one.

    As with packed bytes, the widest candidate with ``bits`` everywhere may pass a limit on a size, for bits are mixed.
    Work is counted with half of them: a limit on it is of what is done at the end, and spikes get fewer until then.
    """
    most, binding = _WIDEST, None
    for cost, limit in _priced_limits(draft.recipe().budget):
        if cost is PACKED_BYTES:
            continue
        room = limit if cost.is_work else (_OVERFILL if bits < 4 else _OVERFILL_4_BITS) * limit
        used = bits // 2 if cost.is_work else bits

        def fits(width: int, cost: Cost = cost, room: float = room, used: int = used) -> bool:
            return uniform_cost(cost, _sized(draft, path, width), info, bits=used) <= room

        width = widest(fits, most)
        if width < most:
            most, binding = width, (cost, limit)
    return most, binding


def _priced_limits(budget: Budget) -> list[tuple[Cost, float]]:
    """The limits on costs that candidates are priced at."""
    return [(COSTS[key], limit) for key, limit in budget.limits().items() if COSTS[key].price is not None]


def _what_fills(width: int, budget: Budget, binding: tuple[Cost, float] | None) -> str:
    """Why a width is what it is: a limit is ``binding``, or the packed size is if that is ``None``."""
    if width == _WIDEST:
        return "no wider network is tried"
    if binding is not None:
        cost, limit = binding
        return f"the widest candidate fills {cost.say(limit)}"
    return f"the widest candidate fills {budget.packed_bytes or _PACKED_BYTES:,} B"


def _set_bits(draft: _Draft, info: InputInfo) -> None:
    budget = draft.recipe().budget
    aim = budget.packed_bytes or _PACKED_BYTES
    few = uniform_bytes(draft.recipe(), info, bits=2) >= 0.7 * aim
    draft.set(
        "search.bits",
        [1, 2] if few else [1, 2, 4],
        "at equal bytes wide layers of few bits are better than narrow ones of 4" if few else "there are bytes for 4",
    )


def _possible_width(draft: _Draft, path: MacroPath, info: InputInfo, most: int) -> int | None:
    """The largest width up to ``most`` of which the smallest network keeps the packed size; ``None`` if none does."""
    limit = draft.recipe().budget.packed_bytes

    def fits(width: int) -> bool:
        sized = _sized(draft, path, width)
        return limit is None or (not is_far_too_large(sized, info) and smallest_candidate(sized, info) <= limit)

    if fits(most):
        return most
    width = widest(fits, most)
    return width if width > 1 or (most > 1 and fits(1)) else None


def _sized(draft: _Draft, path: MacroPath, width: int) -> Recipe:
    return draft.recipe(
        model__stem_stride=path.stem_stride,
        model__levels=list(path.levels),
        model__width=width,
        model__stem_channels=_stem_channels(path, width),
    )


def _stem_channels(path: MacroPath, width: int) -> int:
    return min(48, max(8, path.stem_share * width << path.levels[0]))


def _set_width(draft: _Draft, path: MacroPath, width: int, why: str) -> None:
    draft.set("model.width", width, why)
    share = "as many as" if path.stem_share == 1 else f"{path.stem_share} times as many as"
    draft.set("model.stem_channels", _stem_channels(path, width), f"{share} a node of the first cell has, 8 to 48")


def _wanted_passes(draft: _Draft, data: Data) -> int:
    """How often training should see the data before the time is better spent on anything else."""
    rows = len(data.train.y)
    if rows >= 8_000:
        return 30 if rows >= 20_000 else 60
    return max(100, HARDLY_BEGUN["train"] // steps_per_epoch(data.train.y, draft.recipe().train.batch_size, None))


def _timesteps(draft: _Draft, measure: _Measure, path: MacroPath, seconds: float) -> Pace:
    """Lower T, then the work of a step, until training sees the data often enough; returns what the steps then take."""
    data = measure.data
    info, recipe = input_info(data), draft.recipe()
    whole = steps_per_epoch(data.train.y, recipe.train.batch_size, None)
    wanted = _wanted_passes(draft, data)
    most, budget = recipe.timesteps, recipe.budget
    # What an event camera saw later must not be left out, and what was said stays.
    fixed = info.frames or draft.has_said("search.timesteps")
    tightest = None
    for cost, limit in [] if fixed else _priced_limits(budget):
        if cost.is_work and (allowed := int(limit / uniform_cost(cost, recipe, info, bits=1))) < most:
            most, tightest = max(1, allowed), (cost, limit)
    steps = most if fixed else 1

    def pace_at(steps: int) -> tuple[Pace, float]:
        recipe = draft.recipe()
        pace = measure.training(recipe, _uniform_genotype(recipe, steps))
        left = (1 - _SEARCH_SHARE) * _MARGIN * seconds - _tail_seconds(data, pace.image)
        # What else the machine does just now is no reason for another network.
        return pace, left / (whole * pace.best + len(data.validation.y) * pace.image + pace.epoch)

    pace, epochs = pace_at(steps)
    free = not any(map(draft.has_said, ("model.width", "model.levels", "model.stem_stride", "search.bits")))
    if epochs < wanted / 3 and free and (deep := _deep_draft(draft, info)) is not None:
        before = draft.copy()
        draft.take(deep[0])
        deep_pace, deep_epochs = pace_at(steps)
        if deep_epochs > epochs or epochs <= 0:
            path, pace, epochs = deep[1], deep_pace, deep_epochs
        else:
            draft.take(before)
    for _ in range(3):
        width = draft.recipe().model.width
        if epochs >= wanted / 3 or width <= 4 or draft.has_said("model.width"):
            break
        narrower = max(4, int(width * max(0.5, math.sqrt(max(epochs, 0.1) / (wanted / 3)))))
        reason = f"a wider network would see the data only {max(epochs, 0):.1f} times in {describe_duration(seconds)}"
        _set_width(draft, path, min(narrower, width - 1), reason)
        pace, epochs = pace_at(steps)
    _set_bits(draft, info)
    if not fixed:
        enough = [t for t in (2, 4, 8, 16, 32, most) if t <= most and epochs >= _CLEARLY * wanted * t]
        steps = max(enough, default=1)
    if steps < recipe.timesteps:
        cause = "" if tightest is None else f"{tightest[0].say(tightest[1])} allow {steps}"
        if steps < most:
            cause = f"the time allows {steps}: with more, training would see the data clearly fewer than {wanted} times"
        tried = f"the budget allows {recipe.timesteps}" if budget.timesteps else f"{recipe.timesteps} would be tried"
        draft.set("search.timesteps", steps, f"{tried}, but {cause}")
    if steps > 1 and not fixed:
        pace, _ = pace_at(steps)
    return pace


def _uniform_genotype(recipe: Recipe, timesteps: int) -> Genotype:
    """The network by which the time is estimated: full width, the costliest wiring."""
    model = recipe.model
    return Genotype(
        timesteps=timesteps,
        stem=StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits),
        edges=costliest_wirings(recipe)[0],
        cells=tuple(
            CellGene(level=level, width=model.width * 2**level, bits=max(recipe.search.bits), keep=1.0)
            for level in model.levels
        ),
        classifier_bits=model.io_bits,
        **model.kinds,
    )


def _search_steps(draft: _Draft, measure: _Measure, seconds: float, *, scarce: bool) -> tuple[Pace, float]:
    """Set the epochs that fit into the search's share of the time; returns its pace, and what it will take.

    ``scarce``: training will see the data clearly less often than is wanted. The search then has no more steps than one
    of small data: 560 were enough for networks two points better than random ones of the same size (docs/results.md).
    """
    recipe, data = draft.recipe(), measure.data
    if strategy_named(recipe.search.update).update is None:  # nothing is known of its time
        return measure.search(recipe), 0.0
    pace, rows, size = measure.search(recipe), _searched(recipe, data), recipe.search.batch_size
    whole, per_epoch = steps_per_epoch(rows, size, None), steps_per_epoch(rows, size, recipe.search.epoch_steps)
    share = int(seconds / (pace.step + pace.epoch / per_epoch))
    most = _ENOUGH_STEPS["search"] if scarce else per_epoch * _most_epochs("search", whole, per_epoch)
    steps = max(_LEAST_SEARCH_STEPS, min(share, most))
    epochs = recipe.search.epochs if draft.has_said("search.epochs") else max(_SEARCH_EPOCHS, steps // per_epoch)
    cause = "a fifth of the time" if steps == share else "more than a fifth of the time, for fewer would be of no use"
    if steps < share:
        cause = "training needs the time more" if scarce else "longer searches are of no use"
    draft.set("search.epochs", epochs, f"{cause}: {steps:,} steps of {pace.step:.3g} s")
    draft.set("search.epoch_steps", max(1, min(per_epoch, steps // epochs)))
    draft.set("search.warmup_epochs", max(1, epochs // 5))
    draft.set("search.architecture_warmup_epochs", max(1, epochs // 5))
    made = draft.recipe().search
    return pace, made.epochs * (steps_per_epoch(rows, size, made.epoch_steps) * pace.step + pace.epoch)


def _teacher_steps(draft: _Draft, measure: _Measure, seconds: float) -> float:
    """Set the epochs of a teacher that is trained first, and return what they will take; 0 where none is."""
    if draft.recipe().train.teacher != AUTO:
        return 0.0
    rows = measure.data.train.y
    draft.set("teacher.batch_size", min(128, draft.recipe().train.batch_size), f"{len(rows):,} training rows")
    recipe = draft.recipe()
    pace, size = measure.teaching(recipe), recipe.teacher.batch_size
    per_epoch = steps_per_epoch(rows, size, recipe.teacher.epoch_steps)
    most = math.ceil(max(_TEACHER_PASSES * steps_per_epoch(rows, size, None), _TEACHER_STEPS) / per_epoch)
    fit = int(seconds / _teacher_epoch_seconds(recipe, measure.data, pace))
    epochs = max(_LEAST_TEACHER_EPOCHS, min(fit, most))
    cause = "more are of little use" if epochs == most else f"{_TEACHER_SHARE:.0%} of the time"
    draft.set("teacher.epochs", epochs, f"{cause}, at {pace.step:.2g} s a step")
    if fit < (epochs := draft.recipe().teacher.epochs):
        draft.set("teacher.epoch_steps", max(1, min(per_epoch, int(seconds / pace.step / epochs))))
    made = draft.recipe()
    return made.teacher.epochs * _teacher_epoch_seconds(made, measure.data, pace)


def _teacher_epoch_seconds(recipe: Recipe, data: Data, pace: Pace) -> float:
    steps = steps_per_epoch(data.train.y, recipe.teacher.batch_size, recipe.teacher.epoch_steps)
    return steps * pace.step + len(data.validation.y) * pace.image + pace.epoch


def _searched(recipe: Recipe, data: Data) -> range:
    """The rows that an epoch of the search takes its batches from."""
    joined = strategy_named(recipe.search.update).joins_splits
    return range(len(data.train.y) + (len(data.validation.y) if joined else 0))


def _training(draft: _Draft, data: Data, pace: Pace, seconds: float) -> None:
    recipe = draft.recipe()
    said = recipe.train.epochs if draft.has_said("train.epochs") else None
    epochs, steps = _epochs_in(seconds, recipe, data, pace, said=said, said_steps=recipe.train.epoch_steps)
    cause = "more are of no use, whatever the time" if _is_most(epochs, steps, recipe, data) else "what the time allows"
    draft.set("train.epochs", epochs, f"{cause} at {pace.step:.2g} s a step; set anew before training")
    draft.set("train.epoch_steps", steps)


def _is_most(epochs: int, steps: int, recipe: Recipe, data: Data) -> bool:
    return epochs == _most_epochs("train", steps_per_epoch(data.train.y, recipe.train.batch_size, None), steps)


def _epoch_seconds(recipe: Recipe, data: Data, pace: Pace) -> float:
    steps = steps_per_epoch(data.train.y, recipe.train.batch_size, recipe.train.epoch_steps)
    return steps * pace.step + len(data.validation.y) * pace.image + pace.epoch


def renew_epochs(run: RunFolder, data: Data, session: Session, *, workers: int = 1) -> None:
    """Set ``train.epochs`` of a made recipe anew: the network is known now, and how much of the time is left.

    What is left for training is kept as ``made.training``, by which training shortens itself if steps take longer.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    recipe = run.recipe()
    if recipe.made is None or not recipe.made.epochs_follow:
        return
    measure = _Measure.of(recipe, data, session, workers, _MEASURED_SHARE * recipe.made.seconds)
    pace = measure.training(recipe, Genotype.read(run.need("derive")))
    searched = _seconds_of(run / "search.jsonl") or _SEARCH_SHARE * recipe.made.seconds
    if recipe.train.teacher == AUTO:
        searched += _seconds_of(run / "teacher.jsonl")
    left = _MARGIN * (recipe.made.seconds - recipe.made.spent - searched) - _tail_seconds(data, pace.image)
    epochs, steps = _epochs_in(left, recipe, data, pace)
    cause = "what was left of the time after the search allows"
    cause = "more are of no use" if _is_most(epochs, steps, recipe, data) else cause
    reason = f"{cause} at {pace.step:.2g} s a step"
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    values = {"train.epochs": epochs, "train.epoch_steps": steps, "made.training": max(1, round(left))}
    whole = steps_per_epoch(data.train.y, recipe.train.batch_size, None)
    values["made.most_epochs"] = _most_epochs("train", whole, steps)
    write_atomically(run / "recipe.toml", with_numbers(text, values, {"train.epochs": reason}))


def _seconds_of(log: Path) -> float:
    """Seconds that a stage took by its log; 0 if that is not there. Raises ``InputError`` if it is damaged."""
    return sum(JsonLog.numbers(log, "seconds")) if log.exists() else 0.0
