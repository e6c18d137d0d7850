"""Names of splits: which of them is the training, which the validation and which the test.

In: the names that a data set has for its parts, of folders, tables, arrays or rows of a list. Out: what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from litesnn.errors import InputError

__all__ = ["SPLIT_NAMES", "Assigned", "Role", "assign", "role_of"]

Role = Literal["train", "validation", "test"]

SPLIT_NAMES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The whole names, in small letters, that a split may have; a part of a name (``train_station``) says nothing."""

_ROLES: dict[str, Role] = {name: role for role, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class Assigned:
    """The names of the splits; one of ``None`` is to be cut from training. ``notes`` as of :class:`Data`."""

    train: str
    validation: str | None
    test: str | None
    notes: tuple[str, ...] = ()


def role_of(name: str) -> Role | None:
    """The split that a name stands for, or ``None`` if it is no name of a split."""
    return _ROLES.get(name.lower())


def assign(names: Iterable[str], origin: str) -> Assigned:
    """The splits of a data set by their names. A data set of a single split is all training, whatever its name.

    Where there is a validation but no test, the validation is the test: it is not looked at before.

    Raises:
        InputError: there is no training split.
    """
    splits = list(names)
    if len(splits) == 1:
        return Assigned(splits[0], None, None)
    train, validation, test = (_first(role, splits) for role in SPLIT_NAMES)
    if train is None:
        raise InputError(f"{origin}: has no split 'train'; it has {', '.join(splits)}")
    notes = []
    if test is None and validation is not None:
        notes.append(f"{origin} has no test split: its split {validation!r} is the test")
        validation, test = None, validation
    elif validation is not None:
        notes.append(f"validation is the split {validation!r} of {origin}; none is cut from training")
    if others := [name for name in splits if name not in (train, validation, test)]:
        notes.append(f"{origin} has more splits, which are not read: {', '.join(others)}")
    return Assigned(train, validation, test, tuple(notes))


def _first(role: Role, splits: Sequence[str]) -> str | None:
    """The split for a role, by the order of :data:`SPLIT_NAMES` if there are several."""
    return next((name for wanted in SPLIT_NAMES[role] for name in splits if name.lower() == wanted), None)
