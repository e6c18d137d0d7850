"""How long the steps of a search, of a training and of a validation take here, measured on a few of them.

In: a recipe, data and a session. Out: seconds and bytes. Networks are drawn anew for it, and thrown away.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from litesnn.config import Recipe
from litesnn.data.batches import Samples, generator_for, joined, shuffled_batches
from litesnn.data.sources import Data
from litesnn.genotype import Genotype
from litesnn.loop.session import Session, input_info
from litesnn.networks import build_network
from litesnn.search.joint import SearchLoop, build_supernet, search_footprint
from litesnn.train.fit import Trainee, TrainLoop, train_footprint, validate

__all__ = ["Pace", "search_pace", "train_pace"]

_WARM_UP = 2
_LEAST_STEPS, _MOST_STEPS = 3, 200
_SECONDS = 2.0
"""Steps are measured for so long, as long as there are as many as these."""

_VALIDATED = 512


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, and of the deployed arithmetic for one image; bytes that a step takes at its peak.

    ``step`` is the median of what was measured, ``best`` the least: what it takes when nothing else wants the machine.
    """

    step: float
    best: float
    image: float
    memory: int


def search_pace(recipe: Recipe, data: Data, session: Session, *, workers: int = 1) -> Pace:
    """What a step of the search takes (``image`` is 0), shared by so many processes."""
    info = input_info(data)
    supernet = build_supernet(recipe, info.shape, len(info.classes)).to(session.device)
    supernet.train()
    batch, joint = max(2, recipe.search.batch_size // workers), recipe.search.update == "joint"
    train = session.samples(data.train, info, recipe.augment)
    validation = session.samples(data.validation, info, recipe.augment if joint else None)
    plan = session.plan("search", partial(search_footprint, supernet, info), batch)
    loop = SearchLoop(recipe, supernet, execution=plan.execution, micro_batches=plan.micro_batches)
    last, draws = recipe.search.epochs - 1, generator_for(recipe.seed, "pace")
    batches = _batches(joined(train, validation) if joint else train, batch, recipe)
    held_out = _batches(validation, batch, recipe)

    def step() -> None:
        if joint:
            loop.joint_step(*next(batches), draws, epoch=last)
        else:
            loop.architecture_step(*next(held_out), draws, epoch=last)
            loop.weight_step(*next(batches), draws, epoch=last)

    return Pace(*_measured(step, session.device), 0.0, plan.bytes)


def train_pace(recipe: Recipe, genotype: Genotype, data: Data, session: Session, *, workers: int = 1) -> Pace:
    """What a step of training this genotype takes, and an image of its validation, shared by so many processes."""
    info = input_info(data)
    network = build_network(genotype, info, recipe.seed)
    trainee = Trainee(network, recipe).to(session.device)
    trainee.train()
    batch = max(2, recipe.train.batch_size // workers)
    plan = session.plan("train", partial(train_footprint, network), batch)
    loop = TrainLoop(trainee, recipe, execution=plan.execution, micro_batches=plan.micro_batches)
    batches = _batches(session.samples(data.train, info, recipe.augment), batch, recipe)
    paces = _measured(lambda: loop.step(*next(batches), 0.5), session.device)
    rows = session.samples(data.validation, info)
    some = Samples(rows.x[:_VALIDATED], rows.y[:_VALIDATED], rows.black)
    validate(network, some)
    started = time.perf_counter()
    validate(network, some)
    return Pace(*paces, (time.perf_counter() - started) / len(some) / workers, plan.bytes)


def _batches(rows: Samples, size: int, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    for turn in itertools.count():
        yield from shuffled_batches(rows, size, generator_for(recipe.seed, "pace", turn), recipe.augment)


def _measured(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Median and least of the seconds of some steps; the first ones, which set things up, do not count."""
    seconds: list[float] = []
    for _ in range(_WARM_UP):
        step()
    began = time.perf_counter()
    while len(seconds) < _LEAST_STEPS or (len(seconds) < _MOST_STEPS and time.perf_counter() - began < _SECONDS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), min(seconds)
