"""Text from elsewhere as part of a line of ours: names of files and classes, and errors of other libraries.

What a file says may hold anything: a line break would forge a line of output, an escape sequence would reach the
terminal, and a half of a surrogate pair cannot even be printed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

__all__ = ["first_complaint", "plain", "reason_of", "shape_text", "short"]

_SHOWN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, format (direction, width), surrogates, line breaks
_LONGEST = 300  # characters of a reason


def plain(text: object) -> str:
    """The text with everything escaped that is no printable character: one line that a terminal shows as it is."""
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _SHOWN else char for char in line
    )


def reason_of(error: BaseException, *, named: bool = False) -> str:
    """An error of other code as part of a line; with the name of its type if that is asked for, or it says no more."""
    said = " ".join(str(error).split())
    name = type(error).__name__
    return plain((f"{name}: {said}".removesuffix(": ") if named or not said else said)[:_LONGEST])


def first_complaint(error: ValidationError, whole: str) -> tuple[str, ErrorDetails]:
    """The dotted key that the first error of a validation is about (``whole`` if it is about all), and that error.

    Its message, where it is one of ours, is without the words that pydantic puts before it.
    """
    first = error.errors()[0]
    first["msg"] = first["msg"].removeprefix("Value error, ")
    return ".".join(map(str, first["loc"])) or whole, first


def shape_text(sizes: Iterable[int]) -> str:
    """Sizes as people write them: 3×28×28."""
    return "×".join(map(str, sizes))


def short(value: object) -> str:
    """``repr`` of a value from a file in at most 80 letters, all of them printable, whatever a file made of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested as deep
        text = f"a value of type {type(value).__name__}"
    text = plain(text[:81])
    return text if len(text) <= 80 else f"{text[:77]}…"
