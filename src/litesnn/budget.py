"""The limits of a network: a vocabulary without torch.

A budget is a record of limits, of which each cost of :mod:`litesnn.costs` can have one. People write it as one line of
text, ``"48 kB packed, 20 M Bit-SynOps, T <= 6"``; files hold it as plain numbers.
Prefixes are decimal (1 kB = 1000 bytes); ``KiB`` and ``MiB`` are binary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from litesnn.costs import COSTS
from litesnn.costs.cost import NUMBER
from litesnn.costs.size import PACKED_BYTES
from litesnn.errors import InputError

__all__ = ["Budget", "comma_in_number", "parse_bytes"]

_COMMA = re.compile(r"\d[\d.]*(?:,\d+)+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


class _Limits(BaseModel):
    """Limits on the finished network by the keys of :data:`litesnn.costs.COSTS`; a limit of ``None`` is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"8 kB, 1 M Bit-SynOps, T <= 4"``; the parts may stand in any order and any may be missing.

        Raises:
            InputError: a part is not understood, or a limit is named twice.
        """
        limits: dict[str, float] = {}
        if wrong := comma_in_number(text):  # not even "T <= 4,8 kB": whoever means two limits can write a blank
            raise InputError(f"budget {text!r}: {wrong}")
        for part in (part.strip() for part in text.split(",")):
            key, value = _parse_part(part, text)
            if key in limits:
                raise InputError(f"budget {text!r} names its {key.replace('_', ' ')} limit twice")
            if value <= 0:
                raise InputError(f"budget part {part!r} must be greater than zero")
            limits[key] = value
        try:
            return cls.model_validate(limits)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"budget {text!r}: {first['loc'][0]}: {first['msg']}, not {first['input']!r}") from None

    def limit(self, key: str) -> float | None:
        """The limit on the cost with a key, or ``None`` if there is none."""
        value: float | None = getattr(self, key)
        return value

    def limits(self) -> dict[str, float]:
        """The limits that there are, by the keys of their costs."""
        return {key: value for key in COSTS if (value := self.limit(key)) is not None}

    def without(self, keys: Collection[str]) -> Self:
        """The budget without the limits on some costs."""
        return self.model_copy(update=dict.fromkeys(keys))

    def certain(self) -> Self:
        """The limits alone that are certain before training, on what does not depend on firing rates."""
        return self.without([key for key, cost in COSTS.items() if cost.is_work])

    def describe(self) -> str:
        """The budget as one line that :meth:`parse` reads back."""
        return ", ".join(COSTS[key].write(limit) for key, limit in self.limits().items()) or "no limits"


if TYPE_CHECKING:

    class Budget(_Limits):
        """Limits on the finished network; those that are named in code, of all that there are."""

        packed_bytes: int | None = None
        bit_synops: float | None = None
        timesteps: int | None = None

else:
    Budget = create_model(
        "Budget",
        __base__=_Limits,
        __module__=__name__,
        __doc__="Limits on the finished network, one for each cost; a limit of ``None`` is no limit.",
        **{
            key: (
                (int if cost.whole else float) | None,
                Field(None, gt=0, le=cost.most, description=cost.meaning),
            )
            for key, cost in COSTS.items()
        },
    )


def parse_bytes(text: str) -> int:
    """A number of bytes such as ``"6 GB"`` or ``"512 MiB"``.

    Raises:
        InputError: it is not understood, or not greater than zero.
    """
    value = PACKED_BYTES.read(text.strip().lower())
    if value is None or not 1 <= value < math.inf:
        wrong = comma_in_number(text)
        trouble = f": {wrong}" if wrong else " is not understood; expected bytes with a unit, for example '6 GB'"
        raise InputError(f"size {text!r}{trouble}")
    return int(value)


def comma_in_number(text: str) -> str | None:
    """The objection to a number that has a comma inside, and how it is written; ``None`` if there is none."""
    match = _COMMA.search(text)
    if match is None:
        return None
    number, ways = match[0], []
    if _THOUSANDS.fullmatch(number):
        ways.append(number.replace(",", ""))
    if number.count(",") == 1 and "." not in number:
        ways.append(number.replace(",", "."))
    written = f", as in {' or '.join(ways)}" if ways else ""
    return f"{number!r} has a comma inside; expected a number without it, and a point before decimals{written}"


def _parse_part(part: str, text: str) -> tuple[str, float]:
    positive = part.removeprefix("-").lstrip().lower()
    for key, cost in COSTS.items():
        if (value := cost.read(positive)) is not None:
            if not math.isfinite(value):
                raise InputError(f"budget part {part!r} is too large")
            # 1.001 kB are 1001 bytes, though 1.001 · 1000 is a little less in binary
            value = int(value + 1e-6) if cost.whole else value
            return key, -value if part.startswith("-") else value
    trouble = "is a number without a unit" if re.fullmatch(NUMBER, part) else "is not understood"
    *first, last = (cost.expects for cost in COSTS.values())
    understood = f"expected {', '.join(first)} or {last}, with commas between them"
    raise InputError(f"budget part {part!r} of {text!r} {trouble}; {understood}")
