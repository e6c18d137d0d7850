"""From what a person says to the recipe of a run: a named one, one that is made, or the one that the run has already.

In: the words of a command line or of a call. Out: a recipe to begin the run with, or none if the run goes on with its
own. Naming a recipe, a module or nothing but ``digits`` takes what is written, scaled to the data if it is a shipped
recipe for others; all else is made from the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litesnn import processes
from litesnn.budget import Budget
from litesnn.compression.source import describe_module
from litesnn.config import Recipe, load_recipe, shipped_recipes
from litesnn.data.sources import Data, load
from litesnn.durations import parse_duration
from litesnn.errors import InputError
from litesnn.loop.session import Session
from litesnn.planning.maker import DEFAULT_SECONDS, Plan, make_plan
from litesnn.planning.scale import scaled
from litesnn.runs import RunFolder, first_difference

__all__ = ["Begun", "Request", "begin"]


@dataclass(frozen=True)
class Request:
    """What a person said; ``None`` is what they did not.

    ``time`` is a length of time, such as ``"30 min"``, or seconds; ``model`` is ``FILE.py:Class``.
    """

    data: str | None = None
    budget: Budget | str | None = None
    recipe: str | Path | None = None
    seed: int | None = None
    time: str | float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    weights: str | Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        words = (self.data, self.budget, self.recipe, self.seed, self.time, self.model, self.weights)
        return not self.changes and all(word is None for word in words)

    def values(self) -> dict[str, Any]:
        """The recipe's values that were said, by dotted key. Raises ``InputError`` if one is not understood."""
        for key in self.changes:
            if key.partition(".")[0] == "made":
                raise InputError(f"{key} is kept of a recipe that is made, and not set; say the time with --time")
        merged: dict[str, Any] = {}
        if self.data is not None:
            merged["data.source"] = self.data
        if self.budget is not None:
            limits = Budget.parse(self.budget) if isinstance(self.budget, str) else self.budget
            merged["budget"] = limits.model_dump(exclude_none=True)
        if self.seed is not None:
            merged["seed"] = self.seed
        if self.model is not None:
            merged["module"] = describe_module(self.model, self.weights).model_dump(exclude_none=True)
        return merged | dict(self.changes)

    def seconds(self) -> float | None:
        """The time in seconds. Raises ``InputError`` if it is not understood, not longer than zero, or infinite."""
        if self.time is None or isinstance(self.time, str):
            return None if self.time is None else parse_duration(self.time)
        if not 0 < self.time < math.inf:
            raise InputError(f"time {self.time!r} is no length of time; expected seconds above zero")
        return float(self.time)

    @property
    def written(self) -> str | Path | None:
        """The recipe that somebody wrote and that this request means, or ``None`` if one is to be made."""
        if self.recipe is not None:
            return self.recipe
        if self.model is not None:
            return "compress"
        return "digits" if self.data in (None, "digits") and self.time is None else None


@dataclass(frozen=True)
class Begun:
    """How a run begins: with a ``recipe``, or with its own if that is ``None``.

    ``reasons`` say by dotted key why values are what they are; ``data`` are there if they were read already, and the
    ``plan`` if the recipe was made now.
    """

    recipe: Recipe | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    data: Data | None = None
    plan: Plan | None = None


def begin(folder: RunFolder, request: Request, session: Session, *, spent: float = 0.0) -> Begun:
    """Find the recipe that a run is to begin with. The first of several processes does, and the others wait.

    Args:
        folder: of the run, which need not exist.
        request: what was said.
        session: on the device that will do the work.
        spent: seconds that have gone already.

    Raises:
        InputError: something that was said is not understood, the data cannot be read, or the folder holds another run.
    """
    began = time.perf_counter() - spent
    result = Begun()
    if processes.is_first():
        workers = processes.count()
        with processes.apart():
            result = _begin(folder, request, session, workers, began)
    processes.share(None)
    return result


def _begin(folder: RunFolder, request: Request, session: Session, workers: int, began: float) -> Begun:
    if request.weights is not None and request.model is None:
        raise InputError("--weights are those of a module; expected --model FILE.py:CLASS too")
    exists = (folder / "recipe.toml").exists()
    if request.is_empty and exists:
        return Begun()
    said, seconds = request.values(), request.seconds()
    if seconds is not None and request.recipe is not None:
        raise InputError("--time is for a recipe that is made, and --recipe names one that is written: leave out one")
    if exists and request.recipe is None and request.model is None:
        found = folder.recipe()
        if found.made is not None or (request.written is None and folder.has_results(found)):
            said_now = said if seconds is None else said | {"made.seconds": seconds}
            wished = Recipe.from_toml(found.to_toml(), origin="settings", changes=said_now)
            difference = first_difference(found.model_dump(), wished.model_dump())
            if difference is None:
                return Begun()
            if folder.has_results(wished):
                raise InputError(f"{folder.path} holds a run with another recipe ({difference}); choose another folder")
    if request.written is not None:
        recipe = load_recipe(request.written, {"made": None} | said)
        if str(request.written) not in shipped_recipes() or request.model is not None:
            return Begun(recipe)
        shipped = load_recipe(request.written).data
        if recipe.data == shipped and "source" in shipped.model_fields_set:  # which "small" leaves to the person
            return Begun(recipe)
        data = load(recipe.data, recipe.front_ends)
        return Begun(*scaled(recipe, data, said), data)
    plan = make_plan(
        said,
        seconds or DEFAULT_SECONDS[session.device.type],
        session,
        workers=workers,
        spent=time.perf_counter() - began,
    )
    return Begun(plan.recipe, plan.reasons, plan.data, plan)
