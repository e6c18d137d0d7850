"""Work: synaptic operations, and those weighed by the bits of their weights (section 3.3)."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from litesnn.costs.cost import NUMBER, Cost, Piece, in_units

__all__ = ["BIT_SYNOPS", "SYNOPS"]


def _bit_synops_price(piece: Piece) -> Any:
    return piece.synops * piece.bits


BIT_SYNOPS = Cost(
    key="bit_synops",
    title="Bit-SynOps",
    row="Bit-SynOps",
    unit="",
    meaning="most Bit-SynOps per inference, mean over the test set",
    example="1 M Bit-SynOps",
    pattern=re.compile(rf"{NUMBER} ?(?P<unit>k|m|g|) ?bit-?synops?(?: per inference)?"),
    write=lambda limit: f"{limit:.15g} Bit-SynOps",
    say=partial(in_units, unit="Bit-SynOps"),
    measured=lambda metrics: metrics["bit_synops"],
    is_work=True,
    expected=lambda network: network.work(lambda meter: meter.bit_synops()),
    price=_bit_synops_price,
    always_compared=True,
)

SYNOPS = Cost(
    key="synops",
    title="SynOps",
    row="SynOps",
    unit="",
    meaning="most SynOps (additions of a weight for a spike) per inference, mean over the test set",
    example="500 k SynOps",
    pattern=re.compile(rf"{NUMBER} ?(?P<unit>k|m|g|) ?synops?(?: per inference)?"),
    write=lambda limit: f"{limit:.15g} SynOps",
    say=partial(in_units, unit="SynOps"),
    measured=lambda metrics: metrics["synops"],
    is_work=True,
    expected=lambda network: network.work(lambda meter: meter.synops()),
    price=lambda piece: piece.synops,
)
