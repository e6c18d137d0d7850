"""Lengths of time as people write them: a vocabulary without torch."""

from __future__ import annotations

import re

from litesnn.budget import comma_in_number
from litesnn.errors import InputError

__all__ = ["describe_duration", "parse_duration"]

_UNITS = {
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hour", "hours"),
    86400: ("d", "day", "days"),
}
_SECONDS = {name: seconds for seconds, names in _UNITS.items() for name in names}
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
_LONGEST = 366 * 86400


def parse_duration(text: str) -> float:
    """Seconds of a text such as ``"30 min"``, ``"90 s"`` or ``"1 h 30 min"``.

    Raises:
        InputError: it is not understood, not longer than zero, or longer than a year.
    """
    seconds, rest = 0.0, text.strip().lower()
    below_zero = rest.startswith("-")
    rest = rest.removeprefix("-").lstrip()
    while match := _PART.match(rest):
        if match[2] not in _SECONDS:
            break
        seconds += float(match[1]) * _SECONDS[match[2]]
        rest = rest[match.end() :].lstrip(" ,")
    if rest or not text.strip("- "):
        wrong = comma_in_number(text)
        trouble = f": {wrong}" if wrong else " is not understood; expected a number with its unit, for example '30 min'"
        raise InputError(f"time {text!r}{trouble}")
    if below_zero or seconds <= 0:
        raise InputError(f"time {text!r} is not longer than zero; expected more, for example '30 min'")
    if seconds > _LONGEST:
        raise InputError(f"time {text!r} is longer than a year; expected less, for example '30 min'")
    return seconds


def describe_duration(seconds: float) -> str:
    """A length of time in a person's words, to two or three digits."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 597:
        return f"{seconds / 60:.2g} min"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
