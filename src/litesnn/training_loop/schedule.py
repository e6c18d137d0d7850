"""How many epochs a search or a training has, and how it keeps a time that it was given.

In: what was planned, and the seconds of the epochs that are done. Out: how far the work has come at each step, which
learning rates follow. A schedule is kept in the checkpoint, so that a resumed run goes on as the unbroken one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from litesnn import processes

__all__ = ["SavedSchedule", "Schedule"]

_LATE, _EARLY = 1.05, 1.15
"""Epochs are left out when all would take so many times the time, and taken back when it is so much too early."""

_LATELY = 3
"""Epochs, or a twentieth of all if that is more, of which the fastest shows the pace of the next ones. What slows one
down is often over soon, and learning rates that follow each slow epoch cost more accuracy than ending a little late."""

_SHORTEST = 1e-3
"""Seconds that an epoch is taken to last at least: logs have three digits."""


@dataclass(frozen=True)
class Schedule:
    """How many epochs there are, and how far the work has come at each step.

    They can be changed on the way: after epoch ``since``, at the share ``progress`` of it, the rest is passed through
    faster, or more slowly again.
    """

    epochs: int
    since: int = 0
    progress: float = 0.0

    def at(self, epoch: float) -> float:
        """The share of the way after so many epochs."""
        return self.progress + (1 - self.progress) * (epoch - self.since) / (self.epochs - self.since)

    def within(self, seconds: float, spent: float, done: int, pace: float, *, most: int, least: int = 1) -> Schedule:
        """The schedule that ends in time, or this one if it does, and has time for few more of the ``most`` epochs.

        Args:
            seconds: that all epochs may take.
            spent: seconds that they have taken.
            done: epochs that are done.
            pace: seconds of an epoch.
            most: epochs beyond which more are of no use.
            least: epochs that there are however late it gets.
        """
        left = self.epochs - done
        epochs = min(most, max(least, done + max(1, int((seconds - spent) / pace))))
        late = spent + left * pace > _LATE * seconds and epochs < self.epochs
        early = epochs > self.epochs and spent + left * pace < seconds / _EARLY
        return Schedule(epochs, done, self.at(done)) if left > 0 and (late or early) else self

    def after(
        self,
        done: int,
        taken: Sequence[float],
        seconds: float,
        *,
        most: int,
        least: int = 1,
        ahead: Sequence[float] | None = None,
    ) -> Schedule:
        """:meth:`within` after so many epochs, whose seconds were ``taken``: the last ones show the pace of the next.

        All of several processes call it, and follow the first. ``seconds`` of 0 are no bound. ``ahead``: where epochs
        to come do more or less than those before, what each of these says about the mean of them, in seconds.
        """
        if not seconds:
            return self
        lately = (taken if ahead is None else ahead)[-max(_LATELY, self.epochs // 20) :]
        pace = max(min(lately), _SHORTEST)
        changed = self.within(seconds, sum(taken), done, pace, most=most, least=least)
        return Schedule(**processes.share(asdict(changed)))

    def describe_change(self, before: Schedule) -> str:
        """In a line, how it differs from the schedule before."""
        pace = "longer than planned" if self.epochs < before.epochs else "less time than that"
        return f"steps take {pace}: {self.epochs} epochs instead of {before.epochs}"


class SavedSchedule(BaseModel):
    """A :class:`Schedule` as a checkpoint has it, checked."""

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(ge=1, le=2**31)
    since: int = Field(ge=0)
    progress: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> SavedSchedule:
        if self.since >= self.epochs:
            raise ValueError("it is over before it begins")
        return self

    def schedule(self) -> Schedule:
        """The schedule itself."""
        return Schedule(self.epochs, self.since, self.progress)
