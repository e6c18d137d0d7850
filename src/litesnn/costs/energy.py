"""Energy of the arithmetic, estimated from published figures of a 45 nm process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from litesnn.costs.cost import NUMBER, Cost, Expectation, Piece

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ENERGY", "energy_record"]

_NOTE = (
    "Estimate from 45 nm figures (Horowitz, ISSCC 2014): 8-bit addition 0.03 pJ, 8-bit multiplication 0.2 pJ, "
    "32-bit float addition 0.9 pJ and multiplication 3.7 pJ; scaled linearly with the width of the weight. "
    "Memory traffic and control are left out, so real chips need more."
)

_ADDITION, _MULTIPLICATION, _FLOAT_MAC = 0.03, 0.2, 4.6
"""Picojoules of an addition and of a multiplication of 8-bit integers, and of a 32-bit float MAC (3.7 + 0.9)."""


def _synop(bits: Any) -> Any:
    """Picojoules of a SynOp: an 8-bit addition, linear in the width of the weight."""
    return _ADDITION * bits / 8


def _analog_mac(bits: Any) -> Any:
    """Picojoules of a MAC of an 8-bit input: a multiplication, linear in the weight's width, and an addition."""
    return _MULTIPLICATION * bits / 8 + _ADDITION


def energy_record(layers: Sequence[Mapping[str, Any]], analog: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Estimated nanojoules per inference as metrics keep them, with the picojoules of each operation behind them.

    Args:
        layers: each with its ``synops`` per inference and its ``bits``; an edge without weights has 0, and counts as 1.
        analog: MACs per inference, and bits, of every layer that reads real numbers.
    """
    table = {f"synop_{bits}bit": _synop(bits) for bits in (1, 2, 3, 4)}
    table |= {f"stem_mac_{bits}bit": _analog_mac(bits) for bits in (1, 2, 3, 4)} | {"float_mac": _FLOAT_MAC}
    stem = sum(macs * _analog_mac(bits) for macs, bits in analog) / 1000
    spikes = sum(layer["synops"] * _synop(max(1, layer["bits"])) for layer in layers if layer["synops"]) / 1000
    return {"total_nj": stem + spikes, "stem_nj": stem, "synops_nj": spikes, "table_pj": table, "note": _NOTE}


def _expected(network: Expectation) -> Tensor:
    analog = sum(macs * _analog_mac(bits) for macs, bits in network.analog())
    energy: Tensor = (_synop(network.work(lambda meter: meter.bit_synops())) + analog) / 1000
    return energy


def _price(piece: Piece) -> Any:
    return (piece.synops * _synop(piece.bits) + piece.macs * _analog_mac(piece.bits)) / 1000


ENERGY = Cost(
    key="energy_nj",
    title="Energy, estimated",
    row="energy estimate, nJ",
    unit="nJ",
    meaning="most nanojoules per inference by the estimate of the arithmetic's energy, mean over the test set",
    example="120 uJ",
    expects="energy ('120 uJ')",
    pattern=re.compile(rf"{NUMBER} ?(?P<unit>n|u|µ|μ|m)j(?: per inference)?"),  # micro sign, and Greek mu
    units={"n": 1.0, "u": 1e3, "µ": 1e3, "μ": 1e3, "m": 1e6},
    write=lambda limit: f"{limit:.15g} nJ",
    say=lambda energy: f"{energy:,.4g} nJ",
    measured=lambda metrics: metrics["energy"]["total_nj"],
    is_work=True,
    expected=_expected,
    price=_price,
)
