"""What a recipe is made from, without the work: data sets that take no memory, paces that nobody measured, a clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from litesnn.data.rows import Shape
from litesnn.data.sources import Data, Split
from litesnn.front_end import EventFrames, InputKind
from litesnn.genotype import Genotype
from litesnn.planning import maker, mirror
from litesnn.planning.maker import Plan, make_plan
from litesnn.planning.mirror import MirrorTest
from litesnn.planning.timing import Pace
from litesnn.training_loop.session import Session

__all__ = ["Clock", "data_of", "plan_for", "pretend"]


def data_of(
    shape: Shape, *, classes: int = 10, rows: int = 1000, validation: int | None = None, kind: InputKind = "image"
) -> Data:
    """So many equal rows: each channel of an image has another grey level, so that three of them are in colour."""
    dtype = torch.float32 if kind == "array" else torch.uint8
    pixels = torch.arange(shape[0]).mul(100).to(dtype).view(-1, 1, 1)

    def split(count: int) -> Split:
        frames = (4,) if kind == "events" else ()
        return Split(pixels.expand(count, *frames, *shape), torch.arange(count) % classes)

    front_end = EventFrames(height=shape[1], width=shape[2]) if kind == "events" else None
    held_out = max(classes, rows // 9) if validation is None else validation
    tested = max(classes, rows // 4)
    names, moments = tuple(map(str, range(classes))), (1.0,) * shape[0]
    return Data(
        *("equal", names, shape, kind, moments, moments, split(rows), split(held_out)),
        read_test=lambda: split(tested),
        count_test=lambda: tested,
        front_end=front_end,
    )


def pretend(monkeypatch: pytest.MonkeyPatch, data: Data, *, step: float = 0.01, image: float = 1e-4) -> None:
    """Let these data be read, and a step take so many seconds for each timestep at width 16, and more if wider.

    Mirrored, colour images look like what they were.
    """

    def train_pace(recipe: Any, genotype: Genotype, *_: Any, **__: Any) -> Pace:
        seconds = step * genotype.timesteps * recipe.model.width / 16
        return Pace(1.1 * seconds, seconds, image, 10**8)

    def search_pace(recipe: Any, *_: Any, **__: Any) -> Pace:
        seconds = step * recipe.timesteps * recipe.model.width / 16
        return Pace(seconds, seconds, 0.0, 2 * 10**8)

    monkeypatch.setattr(maker, "suggest_settings", lambda *_, **__: {})
    monkeypatch.setattr(maker, "load", lambda *_: data)
    monkeypatch.setattr(maker, "train_pace", train_pace)
    monkeypatch.setattr(maker, "search_pace", search_pace)
    monkeypatch.setattr(mirror, "compare_mirrored", lambda _: MirrorTest(0.9, 0.9, 0.1, 1000))


def plan_for(said: Mapping[str, Any], seconds: float = 1800, **options: Any) -> Plan:
    """A plan for the data that are pretended to be read."""
    return make_plan({"data.source": "equal", **said}, seconds, Session(), **options)


class Clock:
    """Time that goes on by what each epoch takes; beyond the list, by the last."""

    def __init__(self, durations: list[float], *, done: int = 0) -> None:
        self.durations, self.epoch, self.asked, self.now = durations, done, 0, 0.0

    def perf_counter(self) -> float:
        """An epoch asks twice: when it begins, and when it ends."""
        self.asked += 1
        if self.asked % 2 == 0:
            self.now += self.durations[min(self.epoch, len(self.durations) - 1)]
            self.epoch += 1
        return self.now
