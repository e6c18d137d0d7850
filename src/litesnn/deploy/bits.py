"""Bit strings: fields of a few bits, odd weight codes, and the positions of kept weights.

In: NumPy arrays. Out: bytes, least significant bit first, padded with zero bits to whole bytes. Every function has
its inverse beside it. The inverses read untrusted bytes: they raise ``ValueError`` with a reason for whatever the
packing side would not have written, and the caller adds which file and which layer it was.

Nothing here loops over weights.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from litesnn.costs.size import MAX_RICE

__all__ = [
    "Coding",
    "Positions",
    "codes_to_fields",
    "decode_positions",
    "encode_positions",
    "field_bytes",
    "fields_to_codes",
    "pack_fields",
    "unpack_fields",
]

MAX_FIELD_BITS = 32

Coding = Literal["all", "map", "gap"]


class Positions(NamedTuple):
    """Which weights are kept, as bytes. ``rice`` is the parameter k of the coding ``"gap"``, else 0."""

    coding: Coding
    rice: int
    data: bytes


def field_bytes(count: int, width: int) -> int:
    """Bytes that ``count`` fields of ``width`` bits fill."""
    return (count * width + 7) // 8


def pack_fields(fields: NDArray[np.integer], width: int) -> bytes:
    """Pack unsigned integers [n] into ``width`` bits each, 0 ≤ width ≤ 32.

    Raises:
        ValueError: a field does not fit.
    """
    return _bits_to_bytes(_fields_to_bits(fields, width))


def unpack_fields(data: bytes | memoryview, count: int, width: int) -> NDArray[np.uint32]:
    """The ``count`` fields of ``width`` bits that :func:`pack_fields` made into ``data``.

    Raises:
        ValueError: ``data`` has another length, or a padding bit is set.
    """
    if len(data) != field_bytes(count, width):
        raise ValueError(f"expected {field_bytes(count, width)} bytes, found {len(data)}")
    bits = _bytes_to_bits(data)
    _demand_zero(bits[count * width :])
    return _bits_to_fields(bits[: count * width], count, width)


def codes_to_fields(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Odd codes −(2^bits − 1), …, −1, 1, …, 2^bits − 1 as fields 0 … 2^bits − 1: ``(code + 2^bits − 1)/2``.

    Raises:
        ValueError: a code is even or out of range for ``bits``, which is 1 to 4.
    """
    top = 2**bits - 1
    if not 1 <= bits <= 4 or np.any(codes % 2 == 0) or np.any(np.abs(codes.astype(np.int16)) > top):
        raise ValueError(f"codes of {bits} bits must be odd integers from {-top} to {top}")
    return ((codes + np.int8(top)) // 2).astype(np.uint8)


def fields_to_codes(fields: NDArray[np.uint32], bits: int) -> NDArray[np.int8]:
    """The inverse of :func:`codes_to_fields`."""
    return (2 * fields.astype(np.int8) - np.int8(2**bits - 1)).astype(np.int8)


def encode_positions(mask: NDArray[np.bool_]) -> Positions:
    """Say which weights of a boolean ``mask`` are kept, in C order, by the shortest of three codings.

    - ``"all"``: every weight is kept; no bytes.
    - ``"map"``: one bit per weight.
    - ``"gap"``: the Rice code (Rice 1979) of the gaps, a gap being the number of pruned weights before a kept one
      since the last. The streams are split, as in an Elias–Fano list, so that decoding vectorises: first the k low
      bits of every gap, then every quotient ``gap >> k`` as that many zeros and a one.

    The length is at most ``ceil(size.position_bits(n, kept)/8)`` bytes.
    """
    flat = mask.reshape(-1)
    if flat.all():
        return Positions("all", 0, b"")
    bitmap = Positions("map", 0, _bits_to_bytes(flat.view(np.uint8)))
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1  # [kept]
    lengths = [int(np.sum(gaps >> k)) + (1 + k) * len(gaps) for k in range(MAX_RICE + 1)]
    rice = int(np.argmin(lengths))
    if (lengths[rice] + 7) // 8 >= len(bitmap.data):
        return bitmap
    unary = np.zeros(lengths[rice] - rice * len(gaps), np.uint8)
    unary[np.cumsum((gaps >> rice) + 1) - 1] = 1
    low = _fields_to_bits(gaps & ((1 << rice) - 1), rice)
    return Positions("gap", rice, _bits_to_bytes(np.concatenate([low, unary])))


def decode_positions(
    data: bytes | memoryview, count: int, kept: int, *, coding: Coding, rice: int
) -> tuple[NDArray[np.bool_], int]:
    """The mask [count] that :func:`encode_positions` wrote at the start of ``data``, and the bytes it took.

    The streams need no stored length: ``count`` and ``kept`` say where they end.

    Raises:
        ValueError: ``data`` does not start with the positions of ``kept`` among ``count`` weights.
    """
    if not 0 <= kept <= count:
        raise ValueError(f"{kept} kept weights of {count} are impossible")
    if coding == "all":
        if kept != count:
            raise ValueError(f"coding 'all' expects {count} kept weights, not {kept}")
        return np.ones(count, np.bool_), 0
    if coding == "map":
        return _decode_bitmap(data, count, kept)
    return _decode_gaps(data, count, kept, rice)


def _decode_bitmap(data: bytes | memoryview, count: int, kept: int) -> tuple[NDArray[np.bool_], int]:
    used = field_bytes(count, 1)
    if len(data) < used:
        raise ValueError(f"the bitmap of positions needs {used} bytes, but {len(data)} are left")
    bits = _bytes_to_bits(data[:used])
    _demand_zero(bits[count:])
    mask = bits[:count].astype(np.bool_)
    if (found := int(np.count_nonzero(mask))) != kept:
        raise ValueError(f"the bitmap of positions keeps {found} weights, not {kept}")
    return mask, used


def _decode_gaps(data: bytes | memoryview, count: int, kept: int, rice: int) -> tuple[NDArray[np.bool_], int]:
    if not 0 <= rice <= MAX_RICE:
        raise ValueError(f"the Rice parameter must be 0 to {MAX_RICE}, not {rice}")
    # No valid list is longer: there are kept stop bits, and a zero stands for 2^rice of the pruned weights.
    longest = field_bytes(kept * (rice + 1) + ((count - kept) >> rice), 1)
    bits = _bytes_to_bits(data[:longest])
    stops = np.flatnonzero(bits[kept * rice :])[:kept]
    if len(stops) < kept:
        raise ValueError(f"the list of positions ends after {len(stops)} of {kept} kept weights")
    end = kept * rice + (int(stops[-1]) + 1 if kept else 0)
    used = field_bytes(end, 1)
    _demand_zero(bits[end : 8 * used])
    quotients = np.diff(stops, prepend=-1) - 1
    gaps = (quotients << rice) + _bits_to_fields(bits[: kept * rice], kept, rice)
    places = np.cumsum(gaps + 1) - 1
    if kept and int(places[-1]) >= count:
        raise ValueError(f"the list of positions runs past the last of {count} weights")
    mask = np.zeros(count, np.bool_)
    mask[places] = True
    return mask, used


def _fields_to_bits(fields: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    if not 0 <= width <= MAX_FIELD_BITS:
        raise ValueError(f"fields must have 0 to {MAX_FIELD_BITS} bits, not {width}")
    if fields.size and (int(fields.min()) < 0 or int(fields.max()) >= 1 << width):
        raise ValueError(f"a field does not fit {width} bits")
    octets = fields.astype("<u4").reshape(-1, 1).view(np.uint8)  # [n, 4]
    return np.unpackbits(octets, axis=1, count=width, bitorder="little").reshape(-1)


def _bits_to_fields(bits: NDArray[np.uint8], count: int, width: int) -> NDArray[np.uint32]:
    octets = np.zeros((count, 4), np.uint8)
    octets[:, : field_bytes(1, width)] = np.packbits(bits.reshape(count, width), axis=1, bitorder="little")
    return octets.view("<u4").reshape(-1).astype(np.uint32)


def _bits_to_bytes(bits: NDArray[np.uint8]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _bytes_to_bits(data: bytes | memoryview) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def _demand_zero(padding: NDArray[np.uint8]) -> None:
    if padding.any():
        raise ValueError("padding bits must be zero")
