"""From what a person says to the recipe of a run: a named one, one that is made, or the one that the run has already.

In: the words of a command line or of a call. Out: a recipe to begin the run with, or none if the run goes on with its
own. Naming a recipe, a module or nothing but ``digits`` takes what is written, scaled to the data if it is a shipped
recipe for others; all else is made from the data. No data are ever taken that nobody named: without any, a run goes on
that is there.
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
from litesnn.compression.source import describe_module, require_allowed
from litesnn.compression.teachers import (
    describe_teacher,
    name_of_teacher,
    require_teacher_allowed,
    with_known,
    with_pins,
)
from litesnn.config import Recipe, load_recipe, shipped_recipes
from litesnn.data.sources import Data, load
from litesnn.durations import parse_duration
from litesnn.errors import InputError
from litesnn.planning.maker import DEFAULT_SECONDS, Plan, make_plan
from litesnn.planning.scale import scaled
from litesnn.runs import RunFolder, differences, first_difference
from litesnn.training_loop.session import Session

__all__ = ["Begun", "Request", "begin"]


_BUDGET = "text with units, as '8 kB, 1 M Bit-SynOps, T <= 4', or a litesnn.Budget"


@dataclass(frozen=True)
class Request:
    """The request of a person; ``None`` where they left a value open.

    ``time`` is a length of time, such as ``"30 min"``, or seconds; ``model`` is ``FILE.py:Class``, and so may be
    ``teacher``, to which ``teacher_weights`` belong then.
    """

    data: str | None = None
    budget: Budget | str | None = None
    recipe: str | Path | None = None
    seed: int | None = None
    time: str | float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    weights: str | Path | None = None
    from_run: str | Path | None = None
    """A run whose recipe this one begins with."""
    teacher: str | Path | None = None
    teacher_weights: str | Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        words = (self.data, self.budget, self.recipe, self.seed, self.time, self.model, self.weights, self.from_run)
        return not self.changes and all(word is None for word in (*words, self.teacher, self.teacher_weights))

    def values(self) -> dict[str, Any]:
        """The recipe's values that were said, by dotted key. Raises ``InputError`` if one is not understood."""
        merged: dict[str, Any] = {}
        if self.data is not None:
            merged["data.source"] = self.data
        if self.budget is not None:
            if not isinstance(self.budget, str | Budget):
                raise InputError(f"budget {self.budget!r}: expected {_BUDGET}")
            limits = Budget.parse(self.budget) if isinstance(self.budget, str) else self.budget
            merged["budget"] = limits.model_dump(exclude_none=True)
        if self.seed is not None:
            merged["seed"] = self.seed
        if self.model is not None:
            merged["module"] = describe_module(self.model, self.weights).model_dump(exclude_none=True)
        if not isinstance(self.changes, Mapping) or not all(isinstance(key, str) for key in self.changes):
            raise InputError(f"changes {self.changes!r}: expected dotted keys with values, as {{'search.epochs': 3}}")
        for key in self.changes:
            if key.partition(".")[0] == "made":
                raise InputError(f"{key} is kept of a recipe that is made, and not set; say the time with --time")
        changes = dict(self.changes)
        if self.teacher is not None or self.teacher_weights is not None:
            merged |= describe_teacher(self.teacher, self.teacher_weights)
        elif "train.teacher" in changes:
            merged |= describe_teacher(changes.pop("train.teacher"))
        return merged | changes

    def seconds(self) -> float | None:
        """The time in seconds. Raises ``InputError`` if it is not understood, not longer than zero, or infinite."""
        if self.time is None or isinstance(self.time, str):
            return None if self.time is None else parse_duration(self.time)
        if not isinstance(self.time, int | float) or not 0 < self.time < math.inf:
            raise InputError(f"time {self.time!r} is no length of time; expected seconds above zero")
        return float(self.time)

    @property
    def written(self) -> str | Path | None:
        """The recipe that somebody wrote and that this request means, or ``None`` if one is to be made."""
        if self.recipe is not None:
            if not isinstance(self.recipe, str | Path):
                raise InputError(f"recipe {self.recipe!r}: expected the name of a shipped recipe or of a TOML file")
            return self.recipe
        if self.model is not None:
            return "compress"
        return "digits" if self.data == "digits" and self.time is None else None


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
    folder.require_usable()
    exists = (folder / "recipe.toml").exists()
    if exists and (request.is_empty or _names_only_modules(request, folder)):
        return _resumed(folder)
    said, seconds = request.values(), request.seconds()
    if exists:
        said = with_known(said, folder.recipe())
    if seconds is not None and request.recipe is not None:
        raise InputError("--time is for a recipe that is made, and --recipe names one that is written: leave out one")
    if request.from_run is not None:
        return _as_another(folder, request, said, seconds)
    if exists and request.recipe is None:
        found = folder.recipe()
        wished = _wished(found, said, seconds)
        difference = first_difference(found.model_dump(), wished.model_dump())
        if difference is None:
            return _resumed(folder)
        if folder.may_change(found, wished):
            return Begun(wished)
        if folder.has_results(wished):
            raise InputError(
                f"{folder.path} holds a run with another recipe ({difference}); choose another folder, "
                f"for example with --from {folder.path}, which takes over what stays the same"
            )
        if request.data is None:
            if found.made is not None and (request.budget is not None or seconds is not None):
                raise InputError(
                    f"{folder.path}: its recipe was made for another budget or time ({difference}); say --data "
                    f"{found.data.source} and all else that holds, and it is made anew"
                )
            _require_allowed(wished, str(folder / "recipe.toml"))
            return Begun(wished, _reasons(folder, found, wished))
    if request.written is not None:
        recipe = load_recipe(request.written, {"made": None} | said)
        _require_allowed(recipe, f"recipe {request.written}")
        if "source" not in recipe.data.model_fields_set:
            raise InputError(f"recipe {request.written} names no data; expected --data, as in --data ./my-images")
        recipe = with_pins(recipe, folder.recipe() if exists else None)
        if str(request.written) not in shipped_recipes() or _is_for(str(request.written), recipe):
            return Begun(recipe)
        data = load(recipe.data, recipe.front_ends)
        return Begun(*scaled(recipe, data, said), data)
    if "data.source" not in said and "source" not in said.get("data", {}):
        raise InputError(
            f"{folder.path}: nothing to resume here, and no data for a new run; expected --data, as in --data digits "
            "or --data ./my-images, or --run with the folder of a run that was begun"
        )
    plan = make_plan(
        said,
        seconds or DEFAULT_SECONDS[session.device.type],
        session,
        workers=workers,
        spent=time.perf_counter() - began,
    )
    return Begun(plan.recipe, plan.reasons, plan.data, plan)


def _is_for(shipped: str, recipe: Recipe) -> bool:
    """Whether a shipped recipe names the data that a recipe made of it has."""
    data = load_recipe(shipped).data
    return "source" in data.model_fields_set and recipe.data == data


def _names_only_modules(request: Request, folder: RunFolder) -> bool:
    """Whether nothing was said but the module, and the teacher, that the run in the folder has."""
    if request != Request(model=request.model, teacher=request.teacher):
        return False
    recipe = folder.recipe()
    if request.teacher is not None and name_of_teacher(request.teacher) != recipe.train.teacher:
        return False
    if request.model is None:
        return request.teacher is not None
    own, said = recipe.module, describe_module(request.model)
    return own is not None and (own.file, own.name) == (said.file, said.name)


def _require_allowed(recipe: Recipe, origin: str) -> None:
    """Refuse a recipe that names files to be run, as module or as teacher, which this process was not told to run."""
    if recipe.module is not None:
        require_allowed(recipe.module, origin)
    require_teacher_allowed(recipe, origin)


def _resumed(folder: RunFolder) -> Begun:
    """The run that the folder has. Raises ``InputError`` if that would run a file that nobody named."""
    _require_allowed(folder.recipe(), str(folder / "recipe.toml"))
    return Begun()


def _wished(found: Recipe, said: Mapping[str, Any], seconds: float | None) -> Recipe:
    """The recipe of a run with what was said in place of its own values."""
    return found.changed(said if seconds is None else {**said, "made.seconds": seconds})


def _reasons(run: RunFolder, found: Recipe, wished: Recipe) -> dict[str, str]:
    """The reasons of a run's recipe for the values that another one has too."""
    changed = [key for key, _, _ in differences(found.model_dump(), wished.model_dump())]
    return {
        key: reason
        for key, reason in run.reasons().items()
        if not any(f"{key}.".startswith(f"{part}.") for part in changed)
    }


def _as_another(folder: RunFolder, request: Request, said: Mapping[str, Any], seconds: float | None) -> Begun:
    """A new run with the recipe of another one, but for what was said; or one that was begun like this before."""
    assert request.from_run is not None
    if request.recipe is not None or request.model is not None:
        raise InputError("--from takes the recipe of a run, and --recipe or --model name another: leave out one")
    source = RunFolder(request.from_run)
    found = source.recipe()
    if source.path.resolve() == folder.path.resolve():
        raise InputError(f"--from {source.path} is the run itself; expected --run with another folder")
    if seconds is not None and found.made is None:
        raise InputError(f"--time is for a recipe that is made, and that of {source.path} was written: leave it out")
    if request.budget is not None and found.made is not None:
        raise InputError(
            f"{source.path}: its recipe was made for another budget; leave out --from, and one is made for this budget"
        )
    wished = _wished(found, said, seconds)
    _require_allowed(wished, str(source / "recipe.toml"))
    if (folder / "recipe.toml").exists():
        mine = folder.recipe()
        if first_difference(mine.model_dump(), _with_epochs_of(mine, wished).model_dump()) is None:
            return Begun()
    return Begun(wished, _reasons(source, found, wished))


def _with_epochs_of(run: Recipe, recipe: Recipe) -> Recipe:
    """A recipe with the epochs that a run has set anew for its own since it began, if it does that."""
    if run.made is None or recipe.made is None or not run.made.epochs_follow:
        return recipe
    train = recipe.train.model_copy(update={"epochs": run.train.epochs, "epoch_steps": run.train.epoch_steps})
    made = recipe.made.model_copy(update={"training": run.made.training})
    return recipe.model_copy(update={"train": train, "made": made})
