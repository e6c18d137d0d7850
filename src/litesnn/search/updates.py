"""The steps by which a supernet learns its weights and its choices: alternating, or both at once.

``alternating``, the paper's: weight steps on augmented training batches, which see the loss without cost terms,
alternate with architecture steps on held-out validation batches. Two passes per step.

``joint`` (ours): one pass per step, on augmented batches of all training and validation samples; weights, scores, α, β,
widths and ψ all learn from its loss and cost terms, so that weights too learn to fire less under a limit on Bit-SynOps.
This is one-level optimisation. Nothing is held out, because one gradient cannot learn from two batches: mixing both
kinds in a batch would let held-out images move batch statistics and weights, and not be held out; and leaving the
validation samples out would waste them (the paper's split is half of the data), while a search's weights are thrown
away. Training selects among its epochs by validation as ever, with weights that have not seen it. An epoch is one pass
over all of these samples, so it has more steps than an alternating one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from litesnn.config import Recipe
from litesnn.data.batches import Samples, generator_for, joined, shuffled_batches
from litesnn.data.sources import Data
from litesnn.search.joint import SearchLoop, StepFunction, Told
from litesnn.snn.network import InputInfo
from litesnn.training_loop.session import Session

__all__ = ["Alternating", "Joint"]


class Alternating:
    """A step of the architecture on a held-out batch, then one of the weights on a training batch.

    Args:
        recipe, info, data, session: of the search.
        size: of batches.
    """

    told = Told("held-out", "validation_accuracy")

    def __init__(self, recipe: Recipe, info: InputInfo, data: Data, session: Session, size: int) -> None:
        self.samples = session.samples(data.train, info, recipe.augment)
        self._validation = session.samples(data.validation, info)
        self._recipe, self._size = recipe, size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes of the largest batch of each kind."""
        return tuple(min(self._size, len(rows)) for rows in (self.samples, self._validation))

    def steps(self, loop: SearchLoop[Any], draws: torch.Generator, epoch: int) -> StepFunction:
        """The function that makes the steps of an epoch, given a training batch at a time."""
        held_out = _endless(self._validation, self._size, self._recipe, epoch)

        def step(x: Tensor, y: Tensor) -> Iterator[Mapping[str, Tensor]]:
            yield loop.architecture_step(*next(held_out), draws, epoch=epoch)
            yield loop.weight_step(x, y, draws, epoch=epoch)

        return step


class Joint:
    """One step of everything on a batch of training and validation samples; arguments as :class:`Alternating`."""

    told = Told("training", "train_accuracy")

    def __init__(self, recipe: Recipe, info: InputInfo, data: Data, session: Session, size: int) -> None:
        splits = (data.train, data.validation)
        self.samples = joined(*(session.samples(split, info, recipe.augment) for split in splits))
        self._size = size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The size of the largest batch."""
        return (min(self._size, len(self.samples)),)

    def steps(self, loop: SearchLoop[Any], draws: torch.Generator, epoch: int) -> StepFunction:
        """The function that makes the steps of an epoch."""

        def step(x: Tensor, y: Tensor) -> Iterator[Mapping[str, Tensor]]:
            yield loop.joint_step(x, y, draws, epoch=epoch)

        return step


def _endless(rows: Samples, size: int, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Validation batches, shuffled anew whenever they run out; not augmented."""
    for turn in itertools.count():
        yield from shuffled_batches(rows, size, generator_for(recipe.seed, "held out", epoch, turn), None)
