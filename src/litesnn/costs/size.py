"""Bytes: of the packed file, and of a model by the paper's definition. Search and packer share the formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from litesnn.costs.cost import DECIMAL, NUMBER, Cost, Expectation, Piece

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AFFINE_BITS",
    "MAX_RICE",
    "MODEL_SIZE",
    "PACKED_BYTES",
    "extra_position_bits",
    "kept_count",
    "layer_bytes",
    "model_size_bits",
    "packed_bits",
    "position_bits",
]

Number = TypeVar("Number", float, "Tensor")

AFFINE_BITS = 16
"""Bits of one stored scale or bias (float16)."""

MAX_RICE = 30
"""The largest Rice parameter; a gap of 2³⁰ pruned weights is longer than any layer of a packed model."""


def position_bits(weights: float, kept: float) -> float:
    """Bits that are always enough to say which ``kept`` of ``weights`` weights are kept, whatever the pattern.

    0 if all are kept, else ``min(n, min_k kept·(1 + k) + (n − kept)/2^k)`` for n weights: a bitmap costs n bits;
    a Rice code of the gaps spends k low bits and one stop bit on each kept weight, and at most one more bit on
    every 2^k pruned ones. ``litesnn.deploy.bits.encode_positions`` never needs more bytes than this, rounded up.

    The formula scales: ``position_bits(n, keep·n) = n·position_bits(1.0, keep)``, so ``position_bits(1.0, keep)``
    is the price per weight, pruned weights included, at the keep ratio ``keep``. It is at most 1.
    """
    if kept >= weights:
        return 0.0
    rice = min(kept * (1 + k) + (weights - kept) / 2**k for k in range(MAX_RICE + 1))
    return float(min(weights, rice))


def kept_count(weights: int, keep: float) -> int:
    """How many of ``weights`` weights a keep ratio leaves: rounded, and at least one."""
    return max(1, min(weights, round(weights * keep)))


def model_size_bits(weights: Number, outputs: Number, pairs: Iterable[tuple[int, float, Any]]) -> Number:
    """Σ κ · params · bits: a layer's size by the paper's definition (section 3.2), which leaves positions out.

    Args:
        weights: weights of the layer, pruned ones included (a number, or its expectation as a tensor).
        outputs: output channels, which do not count.
        pairs: (bits, keep ratio, probability) of every candidate.
    """
    return weights * sum(p * keep * bits for bits, keep, p in pairs)  # type: ignore[no-any-return]


def packed_bits(weights: Number, outputs: Number, pairs: Iterable[tuple[int, float, Any]]) -> Number:
    """Bits of one layer in the packed file: codes, positions and one scale per output channel.

    Positions are counted with the bound that holds for every mask, so that a budget promised before training
    is still kept after it. Arguments as in :func:`model_size_bits`.
    """
    per_weight = sum(p * (keep * bits + position_bits(1.0, keep)) for bits, keep, p in pairs)
    return weights * per_weight + AFFINE_BITS * outputs  # type: ignore[no-any-return]


def extra_position_bits(keep: float, *, places: float = 1.0, has_zero: bool = False) -> float:
    """The bits that a weight's share of the positions takes beyond what :func:`packed_bits` counts for it.

    Args:
        keep: keep ratio.
        places: of the packed layer for each weight; there are more than weights where some are always zero.
        has_zero: whether a kept weight may get the code 0.
    """
    if has_zero and keep >= places:
        return 1.0  # which weights are not 0 has to be said even if none is pruned: a bitmap is enough
    return places * position_bits(1.0, keep / places) - position_bits(1.0, keep)


def layer_bytes(
    weights: int, outputs: int, keep: float, bits: int, *, places: int | None = None, has_zero: bool = False
) -> int:
    """:func:`packed_bits` of a finished layer, each stream rounded up to whole bytes as in the file.

    Args:
        weights: of the layer, pruned ones included.
        outputs: output channels.
        keep: keep ratio.
        bits: of a code.
        places: of the packed layer, if it has more than weights, the others being zero.
        has_zero: whether a kept weight may get the code 0, so that fewer are kept: the most that this can take.
    """
    kept, places = kept_count(weights, keep), places or weights
    codes = math.ceil(kept * bits / 8)
    told = min(kept, places - 1) if has_zero else kept
    return codes + math.ceil(position_bits(places, told) / 8) + outputs * AFFINE_BITS // 8


def _expected_packed_bytes(network: Expectation) -> Tensor:
    bits, extra = network.stored_bits(packed_bits, affine=AFFINE_BITS), network.position_bits()
    return (bits if extra is None else bits + extra) / 8 + network.header_bytes


def _packed_price(piece: Piece) -> int:
    """Bytes of the streams of a piece; those of stem and header are counted with the whole file."""
    if piece.kind == "layer":
        return layer_bytes(
            piece.weights, piece.outputs, piece.keep, piece.bits, places=piece.places, has_zero=piece.has_zero
        )
    if piece.kind == "classifier":
        return layer_bytes(piece.weights, 0, piece.keep, piece.bits, has_zero=piece.has_zero)
    return 0 if piece.kind == "stem" else piece.outputs * AFFINE_BITS // 8


def _model_size_price(piece: Piece) -> float:
    return kept_count(piece.weights, piece.keep) * piece.bits / 8 if piece.weights else 0.0


_BINARY = DECIMAL | {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_BYTES = rf"{NUMBER} ?(?P<unit>ki|mi|gi|k|m|g|)(?:b|bytes?)"

PACKED_BYTES = Cost(
    key="packed_bytes",
    title="Packed size",
    row="packed size, B",
    unit="B",
    meaning="most bytes of the packed file on disk",
    example="8 kB",
    expects="bytes ('8 kB', '64 KiB')",
    pattern=re.compile(rf"(?:packed )?{_BYTES}(?: packed)?"),
    units=_BINARY,
    write=lambda limit: f"{limit} B packed",
    say=lambda size: f"{size:,.0f} B",
    measured=lambda metrics: metrics["packed_bytes"],
    whole=True,
    most=2**63 - 1,
    expected=_expected_packed_bytes,
    price=_packed_price,
    always_compared=True,
)

MODEL_SIZE = Cost(
    key="model_size_bytes",
    title="Model size (paper)",
    row="size without positions, B",
    unit="B",
    meaning="most bytes of the kept weights' codes, without positions, scales and header (the paper's model size)",
    example="6 kB model size",
    pattern=re.compile(rf"{_BYTES} model size"),
    units=_BINARY,
    write=lambda limit: f"{limit:.15g} B model size",
    say=lambda size: f"{size:,.0f} B model size",
    measured=lambda metrics: metrics["model_size_bytes"],
    expected=lambda network: network.stored_bits(model_size_bits, affine=0) / 8,
    price=_model_size_price,
)
