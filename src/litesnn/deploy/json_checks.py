"""Values of untrusted JSON: each is what was expected, or is refused with one line that can be printed.

``where`` names a value in the message. Raises ``InputError``.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

import numpy as np

from litesnn.errors import InputError

__all__ = [
    "checked_integer",
    "checked_list",
    "checked_number",
    "checked_positive",
    "checked_texts",
    "load_object",
    "refuse",
    "show",
]


_SURROGATES = re.compile("[\ud800-\udfff]").search  # no UTF-8 has them


def load_object(text: str, origin: str) -> dict[str, object]:
    """An object with finite numbers in which no key stands twice."""
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: header: expected JSON with finite numbers: {show(error)}") from None
    if not isinstance(value, dict):
        refuse(f"{origin}: header", "a JSON object", value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(record := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def checked_list(value: object, where: str, *, length: int | None = None, at_least: int = 0) -> list[object]:
    """A list of ``length`` values, or of ``at_least`` so many."""
    if not isinstance(value, list) or len(value) < at_least or (length is not None and len(value) != length):
        refuse(where, f"a list of {f'at least {at_least}' if length is None else length}", value)
    return value


def checked_integer(value: object, low: int, high: int, where: str) -> int:
    """An integer from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:  # JSON's true is an int to isinstance
        refuse(where, f"an integer from {low} to {high}", value)
    return value


_LARGEST = 3.4028235e38  # in short decimals, a little more than the largest float32 number, to which it is rounded


def checked_number(value: object, where: str) -> float:
    """A number within float32."""
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:  # type: ignore[operator]
        refuse(where, "a float32 number", value)
    return float(value)  # type: ignore[arg-type]


def checked_positive(value: object, where: str) -> float:
    """A number that is above zero in float32, too."""
    number = checked_number(value, where)
    if not np.float32(number) > 0:
        refuse(where, "a float32 number above zero", number)
    return number


def checked_texts(value: object, where: str, *, most: int) -> tuple[str, ...]:
    """Texts of 1 to ``most`` bytes in UTF-8, as which they can be written; at least one text."""
    texts = []
    for item in checked_list(value, where, at_least=1):
        if not isinstance(item, str) or not 0 < len(item.encode(errors="surrogatepass")) <= most or _SURROGATES(item):
            refuse(where, f"names, which are text of 1 to {most} bytes", item)
        texts.append(item)
    return tuple(texts)


def refuse(where: str, expected: str, found: object) -> NoReturn:
    """Raise ``InputError``: ``where`` is ``found`` and not what was ``expected``."""
    raise InputError(f"{where}: expected {expected}, found {show(found)}")


def show(value: object) -> str:
    """``value`` in one short line, however long a file made it, and with no letter that a terminal obeys or refuses."""
    text = " ".join(str(value).split()) if value != "" and isinstance(value, str | Exception) else repr(value)
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:81])
    return text if len(text) <= 80 else f"{text[:77]}…"
