"""Several files that cannot be read, said together: the first few and how many there are, not one for each try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from litesnn.errors import InputError

__all__ = ["Damaged", "DamagedFilesError", "told_together"]

_MOST = 3  # that are told in full


class DamagedFilesError(InputError):
    """Some of ``total`` files cannot be read; ``errors`` says of each why."""

    def __init__(self, errors: Sequence[InputError], total: int) -> None:
        told = str(errors[0])
        if len(errors) > 1:
            told = f"{len(errors)} of {total} files cannot be read: {told_together(errors)}"
        super().__init__(told)
        self.errors, self.total = tuple(errors), total


class Damaged:
    """The errors of single files among many."""

    def __init__(self) -> None:
        self._errors: list[tuple[int, InputError]] = []

    @contextmanager
    def kept(self, place: int = 0) -> Iterator[None]:
        """Keep the error of a file for later, and go on with the next one.

        ``place``: of the file among those that several threads read, which do not fail in the files' order.
        """
        try:
            yield
        except InputError as error:
            self._errors.append((place, error))

    def complain(self, total: int) -> None:
        """Raise ``DamagedFilesError`` if any of so many files could not be read."""
        if self._errors:
            raise DamagedFilesError([error for _, error in sorted(self._errors, key=lambda each: each[0])], total)


def told_together(errors: Sequence[object]) -> str:
    """The first few of several errors, and how many more there are, in one line."""
    more = len(errors) - _MOST
    return "; ".join(map(str, errors[:_MOST])) + (f"; and {more} more" if more > 0 else "")
