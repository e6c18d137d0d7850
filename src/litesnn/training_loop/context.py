"""The context of a stage: the run, its recipe, the facts of its input, its data and the session, each read once.

A job makes a context for each stage, so that a stage sees the recipe as the stage before has left it. Results are
handed on as files; what is costly to make again may be handed on in memory as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from litesnn.config import Recipe
from litesnn.data.sources import Data
from litesnn.runs import RunFolder
from litesnn.snn.network import InputInfo
from litesnn.training_loop.session import Session, input_info

__all__ = ["Handed", "StageContext"]

_T = TypeVar("_T")


class Handed:
    """Results that stages leave in memory for later ones of the same process, one thing of each type.

    Nothing may depend on it: a run that was interrupted goes on in a process where there is nothing.
    """

    def __init__(self) -> None:
        self._things: dict[type, object] = {}

    def leave(self, thing: object) -> None:
        """Leave something for a later stage, in place of what was there of its type."""
        self._things[type(thing)] = thing

    def take(self, kind: type[_T]) -> _T | None:
        """The result of this type that an earlier stage left, which is then gone; ``None`` if there is nothing."""
        found = self._things.pop(kind, None)
        return found if isinstance(found, kind) else None


@dataclass(frozen=True)
class StageContext:
    """The input of a stage.

    Attributes:
        run: the run folder; of every other process than the first a copy.
        recipe: as ``recipe.toml`` has it when the stage begins.
        info: the input and the classes.
        data: of the recipe, pinned.
        session: device, console and execution.
        handed: what earlier stages of this process have left in memory.
    """

    run: RunFolder
    recipe: Recipe
    info: InputInfo
    data: Data
    session: Session
    handed: Handed = field(default_factory=Handed, repr=False, compare=False)

    @classmethod
    def of(cls, run: RunFolder, data: Data, session: Session, handed: Handed | None = None) -> StageContext:
        """The context of a stage that begins now. Raises ``InputError`` if the folder has no recipe."""
        return cls(run, run.recipe(), input_info(data), data, session, Handed() if handed is None else handed)

    def renewed(self) -> StageContext:
        """The same with the recipe as its file has it now. Raises ``InputError`` if it is damaged."""
        return replace(self, recipe=self.run.recipe())
