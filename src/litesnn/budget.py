"""What a network may cost: a vocabulary without torch.

A budget is a record of up to three limits. People write it as one line of text,
``"48 kB packed, 20 M Bit-SynOps, T <= 6"``; files hold it as plain numbers.
Prefixes are decimal (1 kB = 1000 bytes); ``KiB`` and ``MiB`` are binary.
"""

from __future__ import annotations

import math
import re

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from litesnn.errors import InputError

__all__ = ["Budget", "comma_in_number", "describe_bit_synops", "parse_bytes"]

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_PART_PATTERNS = {
    "packed_bytes": re.compile(rf"(?:packed )?{_NUMBER} ?(?P<unit>ki|mi|gi|k|m|g|)(?:b|bytes?)(?: packed)?"),
    "bit_synops": re.compile(rf"{_NUMBER} ?(?P<unit>k|m|g|) ?bit-?synops?(?: per inference)?"),
    "timesteps": re.compile(  # a number alone is none: 8 may be meant as kilobytes
        r"(?:t ?(?:<=|≤|=) ?(?P<number>\d+)(?: ?timesteps?)?|(?:at most )?(?P<worded>\d+) ?timesteps?)(?P<unit>)"
    ),
}
_UNDERSTOOD = "expected bytes ('8 kB', '64 KiB'), '1 M Bit-SynOps' or timesteps ('T <= 4'), with commas between them"
_COMMA = re.compile(r"\d[\d.]*(?:,\d+)+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


class Budget(BaseModel):
    """Limits on the finished network; a limit of ``None`` is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    packed_bytes: int | None = Field(None, gt=0, lt=2**63, description="most bytes of the packed file on disk")
    bit_synops: float | None = Field(None, gt=0, description="most Bit-SynOps per inference, mean over the test set")
    timesteps: int | None = Field(None, ge=1, le=64, description="most timesteps per inference")

    @classmethod
    def parse(cls, text: str) -> Budget:
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

    def describe(self) -> str:
        """The budget as one line that :meth:`parse` reads back."""
        parts = []
        if self.packed_bytes is not None:
            parts.append(f"{self.packed_bytes} B packed")
        if self.bit_synops is not None:
            parts.append(f"{self.bit_synops:.15g} Bit-SynOps")
        if self.timesteps is not None:
            parts.append(f"T <= {self.timesteps}")
        return ", ".join(parts) or "no limits"


def describe_bit_synops(count: float) -> str:
    """A number of Bit-SynOps to three digits, as people write it: ``"2 M Bit-SynOps"``."""
    rounded = float(f"{count:.3g}")
    for prefix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= unit:
            return f"{rounded / unit:,.10g} {prefix} Bit-SynOps"
    return f"{rounded:.10g} Bit-SynOps"


def parse_bytes(text: str) -> int:
    """A number of bytes such as ``"6 GB"`` or ``"512 MiB"``.

    Raises:
        InputError: it is not understood, or not greater than zero.
    """
    match = _PART_PATTERNS["packed_bytes"].fullmatch(text.strip().lower())
    value = int(float(match["number"]) * _UNITS[match["unit"]]) if match else 0
    if value <= 0:
        wrong = comma_in_number(text)
        trouble = f": {wrong}" if wrong else " is not understood; expected bytes with a unit, for example '6 GB'"
        raise InputError(f"size {text!r}{trouble}")
    return value


def comma_in_number(text: str) -> str | None:
    """What is wrong with a number that has a comma inside, and how it is written; ``None`` if there is none."""
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
    for key, pattern in _PART_PATTERNS.items():
        if match := pattern.fullmatch(part.removeprefix("-").lstrip().lower()):
            value = float(match["number"] or match["worded"]) * _UNITS[match["unit"]]
            if not math.isfinite(value):
                raise InputError(f"budget part {part!r} is too large")
            # 1.001 kB are 1001 bytes, though 1.001 · 1000 is a little less in binary
            value = value if key == "bit_synops" else int(value + 1e-6)
            return key, -value if part.startswith("-") else value
    trouble = "is a number without a unit" if re.fullmatch(_NUMBER, part) else "is not understood"
    raise InputError(f"budget part {part!r} of {text!r} {trouble}; {_UNDERSTOOD}")
