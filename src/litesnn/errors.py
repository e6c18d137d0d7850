"""The errors a person can cause, each with the exit code that the command line gives it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from litesnn.text import plain

__all__ = [
    "BudgetExceeded",
    "EndedElsewhere",
    "InputError",
    "LitesnnError",
    "OutOfMemory",
    "WorkerLost",
    "memory_errors_told",
]


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


class OutOfMemory(LitesnnError):
    """There is less memory than the work takes."""


class EndedElsewhere(LitesnnError):
    """Another process of the job has failed and says why; this one ends with the same exit code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process ended the job with exit code {exit_code}")
        self.exit_code = exit_code


@contextmanager
def memory_errors_told() -> Iterator[None]:
    """Raise ``OutOfMemory`` in place of what Python, NumPy, torch or the system raise when there is no memory left."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_out_of_memory(error):
            raise
        asked = re.search(r"allocate ([\d.]+ ?(?:[KMGTPE]i?B|bytes))", str(error), re.IGNORECASE)
        size = f", asked for {asked[1]} more" if asked else ""
        device = " of the GPU" if "CUDA" in str(error) else ""
        raise OutOfMemory(
            f"out of memory{device}{size}; try smaller batches or inputs, or --memory if you train"
        ) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error says so; torch's allocator on the CPU says it in the words of a ``RuntimeError``."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return re.search(r"can't allocate memory|not enough memory|out of memory|bad_alloc", str(error)) is not None
