"""The errors a person can cause, each with the exit code that the command line gives it."""

from __future__ import annotations

from litesnn.text import plain

__all__ = ["BudgetExceeded", "EndedElsewhere", "InputError", "LitesnnError", "WorkerLost"]


class LitesnnError(Exception):
    """Base class: a one-line message for a person, and an exit code.

    Names in the message may be anything that a file says; what is not printable in them is escaped.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


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
