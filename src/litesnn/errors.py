"""The errors a person can cause, each with the exit code that the command line gives it."""

from __future__ import annotations

__all__ = ["BudgetExceeded", "EndedElsewhere", "InputError", "LitesnnError", "WorkerLost", "short"]


class LitesnnError(Exception):
    """Base class: a one-line message for a person, and an exit code."""

    exit_code = 1


class InputError(LitesnnError):
    """A file, key, value or data set is not what it should be; the message names it and what was expected."""

    exit_code = 2


class BudgetExceeded(LitesnnError):
    """The measured network costs more than its budget allows."""

    exit_code = 3


class WorkerLost(LitesnnError):
    """One of several processes has ended, so that none can go on."""


class EndedElsewhere(LitesnnError):
    """Another process of the job has failed and says why; this one ends with the same exit code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process ended the job with exit code {exit_code}")
        self.exit_code = exit_code


def short(value: object) -> str:
    """``repr`` of a value from a file in at most 80 letters, all of them printable, whatever a file made of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested as deep
        text = f"a value of type {type(value).__name__}"
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:81])
    return text if len(text) <= 80 else f"{text[:77]}…"
