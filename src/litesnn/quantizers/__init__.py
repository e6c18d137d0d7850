"""How weights become codes of a few bits: one row per quantizer, with its gradient rule beside it.

A new quantizer is a module here that makes a :class:`~litesnn.quantizers.quantizer.Quantizer`, and a row in
:data:`QUANTIZERS`. Nothing here imports torch when it is loaded.
"""

from __future__ import annotations

from litesnn.quantizers.learned_step import LEARNED_STEP
from litesnn.quantizers.midrise import MIDRISE
from litesnn.quantizers.quantizer import Quantizer
from litesnn.quantizers.ternary import TERNARY

__all__ = ["MIDRISE", "QUANTIZERS", "Quantizer", "ends_of", "quantizer_named"]

QUANTIZERS: dict[str, Quantizer] = {row.name: row for row in (MIDRISE, TERNARY, LEARNED_STEP)}
"""Every quantizer by its name, in the order of descriptions; the first one is the default."""


def quantizer_named(name: str) -> Quantizer:
    """The row of a name. Raises ``ValueError`` if there is none."""
    if name not in QUANTIZERS:
        raise ValueError(f"unknown quantizer {name!r}; expected one of {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name]


def ends_of(name: str) -> Quantizer:
    """The quantizer of stem and classifier in a network whose cells have the one of this name."""
    row = QUANTIZERS[name]
    return row if row.at_both_ends else MIDRISE
