"""How long the steps of a search, of a training and of a validation take here, measured on a few of them.

In: a recipe, data and a session. Out: seconds and bytes. Networks are drawn anew for it, and thrown away.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from litesnn.config import Recipe
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches, steps_per_epoch
from litesnn.data.sources import Data
from litesnn.genotype import Genotype
from litesnn.network_file import build_network
from litesnn.references import function_of
from litesnn.search.joint import SearchLoop, Update, build_supernet, estimate_search_step
from litesnn.strategies import strategy_named
from litesnn.train.averaging import renew_statistics
from litesnn.train.fit import Trainee, TrainLoop, train_footprint, validate
from litesnn.train.phases import Phases
from litesnn.train.teacher import Teacher, TeacherLoop, build_residual
from litesnn.training_loop.checkpoint import save_state
from litesnn.training_loop.session import Session, input_info

__all__ = ["Pace", "search_pace", "teacher_pace", "train_pace"]

_WARM_UP = 2
_LEAST_STEPS, _MOST_STEPS = 3, 200
_SECONDS = 2.0
"""Steps are measured for so long, as long as there are as many as these."""

_VALIDATED = 512


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, and of the deployed arithmetic for one image; bytes that a step takes at its peak.

    ``step`` is the median of what was measured. ``best`` is what a step takes when nothing else wants the machine: the
    least of them, and on a CPU of the time that the CPU itself spent on one, in which other programs do not count.
    Where epochs differ, both are means over all epochs. ``epoch``: seconds that the checkpoint at the end of an epoch
    takes, and what is made before its validation.
    """

    step: float
    best: float
    image: float
    memory: int
    epoch: float = 0.0


def search_pace(recipe: Recipe, data: Data, session: Session, *, workers: int = 1, seconds: float = math.inf) -> Pace:
    """The time of a step of the search (``image`` is 0), shared by so many processes; 0 of a strategy without steps.

    Steps are measured for 2 seconds, or for less if so many ``seconds`` are less.
    """
    strategy, info = strategy_named(recipe.search.update), input_info(data)
    if strategy.update is None:
        return Pace(0.0, 0.0, 0.0, 0)
    supernet = build_supernet(recipe, info.shape, len(info.classes)).to(session.device)
    supernet.train()
    batch = max(2, recipe.search.batch_size // workers)
    update: Update = function_of(strategy.update)(recipe, info, data, session, batch)
    plan = session.plan("search", partial(estimate_search_step, supernet, info), batch)
    loop = SearchLoop(recipe, supernet, execution=plan.execution, micro_batches=plan.micro_batches)
    step_batch = update.steps(loop, generator_for(recipe.seed, "pace"), recipe.search.epochs - 1)
    batches = _batches(update.samples, batch, recipe)

    def step() -> None:
        for _ in step_batch(*next(batches)):
            pass

    paces = _measured(step, session.device, seconds)
    return Pace(*paces, 0.0, plan.bytes, _checkpoint_seconds(supernet, loop.optimizers))


def train_pace(
    recipe: Recipe,
    genotype: Genotype,
    data: Data,
    session: Session,
    *,
    workers: int = 1,
    seconds: float = math.inf,
    teacher: Teacher | None = None,
) -> Pace:
    """The time of a training step of this genotype, and of an image of its validation, as :func:`search_pace`.

    ``teacher`` is that of the recipe, or one that takes as long.
    """
    info = input_info(data)
    network = build_network(genotype, info, recipe.seed)
    trainee = Trainee(network, recipe).to(session.device)
    trainee.train()
    batch = max(2, recipe.train.batch_size // workers)
    plan = session.plan("train", partial(train_footprint, network), batch)
    execution, micro_batches = plan.execution, plan.micro_batches
    loop = TrainLoop(trainee, recipe, execution=execution, micro_batches=micro_batches, teacher=teacher)
    batches = _batches(session.samples(data.train, info, recipe.augment), batch, recipe)
    spans = Phases(recipe.train, genotype.timesteps, info.shape[1:]).spans()
    step = best = renewed = 0.0
    for share, phase in spans:
        loop.phase = phase
        median, least = _measured(lambda: loop.step(*next(batches), 0.5), session.device, seconds / len(spans))
        step, best = step + share * median, best + share * least
        renewed += share if phase.reduced or recipe.train.ema > 0 else 0.0
    after = _checkpoint_seconds(trainee, loop.optimizers)
    if renewed:
        started = time.perf_counter()
        renew_statistics(network, [next(batches)[0]], execution=plan.execution, micro_batches=plan.micro_batches)
        steps = steps_per_epoch(data.train.y, recipe.train.batch_size, recipe.train.epoch_steps)
        after += renewed * min(steps, recipe.train.statistics_batches) * (time.perf_counter() - started)
    rows = session.samples(data.validation, info)
    some = Samples(rows.x[:_VALIDATED], rows.y[:_VALIDATED], rows.black)
    validate(network, some)
    started = time.perf_counter()
    validate(network, some)
    image = (time.perf_counter() - started) / len(some) / workers
    return Pace(step, best, image, plan.bytes, after)


def teacher_pace(recipe: Recipe, data: Data, session: Session, *, seconds: float = math.inf) -> Pace:
    """The time of a step of the teacher's training, and of an image of its validation, as :func:`search_pace`.

    One process does it, however many share the rest.
    """
    info = input_info(data)
    network = build_residual(recipe, info).to(session.device).train()
    loop = TeacherLoop(network, recipe)
    batches = _batches(session.samples(data.train, info, recipe.augment), recipe.teacher.batch_size, recipe)
    step, best = _measured(lambda: loop.step(*next(batches), 0.5), session.device, seconds)
    image = step / recipe.teacher.batch_size / 3  # a step goes back too, which takes twice as long as the way there
    return Pace(step, best, image, 0, _checkpoint_seconds(network, {"weights": loop.optimizer}))


def _batches(rows: Samples, size: int, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    for turn in itertools.count():
        mirrored = mirrored_rows(recipe.augment, rows, recipe.seed, turn)
        order = generator_for(recipe.seed, "pace", turn)
        yield from shuffled_batches(rows, size, order, recipe.augment, mirrored=mirrored)


def _checkpoint_seconds(module: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> float:
    with TemporaryDirectory(prefix="litesnn-") as folder:
        started = time.perf_counter()
        save_state(Path(folder) / "pace.safetensors", "pace", module, optimizers, {})
        return time.perf_counter() - started


def _measured(step: Callable[[], object], device: torch.device, most: float = math.inf) -> tuple[float, float]:
    """Median and least of the seconds of some steps; the first ones, which set things up, do not count.

    The main thread takes part in all that a step computes on a CPU, and waits while it sees another thread's part done.
    So its own CPU time is what the step takes, but for what other programs took the machine away.
    """
    seconds: list[float] = []
    least, most = math.inf, min(most, _SECONDS)
    for _ in range(_WARM_UP):
        step()
    began = time.perf_counter()
    while len(seconds) < _LEAST_STEPS or (len(seconds) < _MOST_STEPS and time.perf_counter() - began < most):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started, own = time.perf_counter(), time.thread_time()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
        least = min(least, seconds[-1], time.thread_time() - own if device.type == "cpu" else math.inf)
    return statistics.median(seconds), least
