"""Several files that cannot be read, said together: the first few and how many there are, not one for each try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from litesnn.errors import InputError

__all__ = ["Damaged"]

_MOST = 3  # that are told in full


class Damaged:
    """The errors of single files among many."""

    def __init__(self) -> None:
        self.errors: list[InputError] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the error of a file for later, and go on with the next one."""
        try:
            yield
        except InputError as error:
            self.errors.append(error)

    def complain(self, total: int) -> None:
        """Raise ``InputError`` if any of so many files could not be read."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            more = len(self.errors) - _MOST
            told = "; ".join(map(str, self.errors[:_MOST])) + (f"; and {more} more" if more > 0 else "")
            raise InputError(f"{len(self.errors)} of {total} files cannot be read: {told}")
