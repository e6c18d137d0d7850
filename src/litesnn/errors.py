"""The errors a person can cause, each with the exit code that the command line gives it."""

from __future__ import annotations

__all__ = ["BudgetExceeded", "InputError", "LitesnnError"]


class LitesnnError(Exception):
    """Base class: a one-line message for a person, and an exit code."""

    exit_code = 1


class InputError(LitesnnError):
    """A file, key, value or data set is not what it should be; the message names it and what was expected."""

    exit_code = 2


class BudgetExceeded(LitesnnError):
    """The measured network costs more than its budget allows."""

    exit_code = 3
