"""Bit strings: golden bytes by hand, round trips at the edge sizes, the size guarantee, damaged streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from litesnn.costs.size import MAX_RICE, position_bits
from litesnn.deploy.bits import (
    Positions,
    codes_to_fields,
    decode_positions,
    encode_positions,
    field_bytes,
    fields_to_codes,
    pack_fields,
    unpack_fields,
)

EDGE_SIZES = [1, 3, 7, 8, 9, 31, 33, 63, 64, 65, 257]
few = settings(max_examples=60, deadline=None, derandomize=True)


def decode(positions: Positions, count: int, kept: int) -> tuple[NDArray[np.bool_], int]:
    return decode_positions(positions.data, count, kept, coding=positions.coding, rice=positions.rice)


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    count = draw(st.sampled_from(EDGE_SIZES) | st.integers(1, 5000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keep = draw(st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 1.0]))
    mask = rng.random(count) < keep
    return np.sort(mask) if draw(st.booleans()) else mask  # sorted: one enormous gap, the worst case of "gap"


def test_fields_are_packed_from_the_lowest_bit() -> None:
    assert pack_fields(np.array([1, 2, 3]), 2) == bytes([0b00_11_10_01])
    assert pack_fields(np.array([5, 6, 7]), 3) == bytes([0b11_110_101, 0b0000000_1])
    assert pack_fields(np.array([0x12345678]), 32) == bytes([0x78, 0x56, 0x34, 0x12])
    assert pack_fields(np.array([], np.int64), 4) == b""


@pytest.mark.parametrize("width", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32])
@pytest.mark.parametrize("count", [0, *EDGE_SIZES])
def test_fields_survive_a_round_trip(count: int, width: int) -> None:
    fields = np.random.default_rng(count).integers(0, 1 << width, count, dtype=np.uint64)
    data = pack_fields(fields, width)
    assert len(data) == field_bytes(count, width)
    np.testing.assert_array_equal(unpack_fields(data, count, width), fields)


@pytest.mark.parametrize(("fields", "width"), [([4], 2), ([-1], 2), ([1], 0), ([0], 33)])
def test_fields_that_do_not_fit_are_refused(fields: list[int], width: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        pack_fields(np.array(fields), width)


def test_unpacking_refuses_other_lengths_and_padding() -> None:
    with pytest.raises(ValueError, match="expected 1 bytes, found 2"):
        unpack_fields(b"\x00\x00", 3, 2)
    with pytest.raises(ValueError, match="padding"):
        unpack_fields(b"\x40", 3, 2)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_are_all_the_odd_integers_of_a_bit_width(bits: int) -> None:
    codes = np.arange(-(2**bits) + 1, 2**bits, 2, dtype=np.int8)
    fields = codes_to_fields(codes, bits)
    np.testing.assert_array_equal(fields, np.arange(2**bits))
    np.testing.assert_array_equal(fields_to_codes(fields.astype(np.uint32), bits), codes)


@pytest.mark.parametrize(("code", "bits"), [(0, 2), (2, 2), (5, 2), (-5, 2), (-128, 4), (17, 4), (1, 0), (31, 5)])
def test_codes_that_a_bit_width_lacks_are_refused(code: int, bits: int) -> None:
    with pytest.raises(ValueError, match="odd integers"):
        codes_to_fields(np.array([code], np.int8), bits)


def test_positions_by_hand() -> None:
    assert encode_positions(np.ones(9, np.bool_)) == ("all", 0, b"")
    assert encode_positions(np.array([1, 0, 1, 1, 0], np.bool_)) == ("map", 0, bytes([0b01101]))
    assert encode_positions(np.zeros(9, np.bool_)) == ("gap", 0, b"")
    mask = np.zeros(40, np.bool_)
    mask[[9, 15]] = True  # gaps 9 and 5; k = 2: low bits 01 01, then quotients 2 and 1 as 001 01; k = 1, 3: not shorter
    positions = encode_positions(mask)
    assert positions.coding == "gap"
    low, unary = pack_fields(np.array([1, 1]), 2)[0], 0b10_100
    by_hand = Positions("gap", 2, (low | unary << 4).to_bytes(2, "little"))
    np.testing.assert_array_equal(decode(by_hand, 40, 2)[0], mask)
    assert len(positions.data) <= len(by_hand.data)


@few
@given(masks())
def test_positions_survive_a_round_trip_within_the_bound(mask: NDArray[np.bool_]) -> None:
    kept = int(mask.sum())
    positions = encode_positions(mask)
    assert len(positions.data) <= -(-position_bits(len(mask), kept) // 8)
    trailing = Positions(positions.coding, positions.rice, positions.data + b"\xff\xff")  # the next stream
    for stream in (positions, trailing):
        decoded, used = decode(stream, len(mask), kept)
        np.testing.assert_array_equal(decoded, mask)
        assert used == len(positions.data)


@pytest.mark.parametrize("count", EDGE_SIZES)
def test_positions_of_every_kept_count_and_placement_at_edge_sizes(count: int) -> None:
    for kept in range(count + 1):
        for start in {0, (count - kept) // 2, count - kept}:
            mask = np.zeros(count, np.bool_)
            mask[start : start + kept] = True
            positions = encode_positions(mask)
            assert len(positions.data) <= -(-position_bits(count, kept) // 8)
            np.testing.assert_array_equal(decode(positions, count, kept)[0], mask)


def test_positions_of_many_dimensions_count_in_c_order() -> None:
    mask = np.random.default_rng(0).random((5, 4, 3, 3)) < 0.3
    assert encode_positions(mask) == encode_positions(mask.reshape(-1))
    assert encode_positions(np.asfortranarray(mask)) == encode_positions(mask)


def test_one_kept_weight_behind_the_widest_gap() -> None:
    mask = np.zeros(2**20, np.bool_)
    mask[-1] = True
    positions = encode_positions(mask)
    assert len(positions.data) <= 3
    np.testing.assert_array_equal(decode(positions, len(mask), 1)[0], mask)


@few
@given(masks(), st.data())
def test_damaged_positions_are_refused_or_mean_another_mask_of_as_many(
    mask: NDArray[np.bool_], data: st.DataObject
) -> None:
    positions = encode_positions(mask)
    if not positions.data:
        return
    damaged = bytearray(positions.data)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(damaged)))
    rice = data.draw(st.integers(0, MAX_RICE)) if positions.coding == "gap" else 0
    for stream in (bytes(damaged), bytes(damaged[:cut])):
        try:
            decoded, used = decode(Positions(positions.coding, rice, stream), len(mask), int(mask.sum()))
        except ValueError:
            continue
        assert decoded.shape == mask.shape
        assert decoded.sum() == mask.sum()
        assert used <= len(stream)


@pytest.mark.parametrize(
    ("coding", "rice", "data", "count", "kept", "message"),
    [
        ("all", 0, b"", 4, 3, "expects 4 kept"),
        ("map", 0, b"\x0f", 9, 4, "needs 2 bytes"),
        ("map", 0, b"\x0f", 8, 3, "keeps 4 weights, not 3"),
        ("map", 0, b"\x8f", 7, 4, "padding"),
        ("gap", 0, b"", 8, 1, "ends after 0 of 1"),
        ("gap", 0, b"\x03", 8, 1, "padding"),
        ("gap", 1, b"\x03", 1, 1, "runs past the last of 1"),
        ("gap", 31, b"\x00", 8, 1, "Rice parameter"),
        ("gap", -1, b"\x00", 8, 1, "Rice parameter"),
        ("map", 0, b"\x00", 8, 9, "impossible"),
        ("map", 0, b"\x00", 8, -1, "impossible"),
    ],
)
def test_streams_that_no_encoder_wrote_are_refused(
    coding: str, rice: int, data: bytes, count: int, kept: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_positions(data, count, kept, coding=coding, rice=rice)  # type: ignore[arg-type]


def test_position_bits_by_hand() -> None:
    assert position_bits(100, 100) == 0
    assert position_bits(100, 99) == 100
    assert position_bits(1000, 100) == min(100 * 3 + 900 / 4, 100 * 4 + 900 / 8) == 512.5
    assert position_bits(1.0, 1.0) == 0
    assert position_bits(1.0, 0.1) == pytest.approx(0.5125)


@few
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_position_bits_scale_with_the_layer_and_never_exceed_a_bitmap(count: int, keep: float) -> None:
    kept = round(keep * count)
    bits = position_bits(count, kept)
    assert bits == pytest.approx(count * position_bits(1.0, kept / count))
    assert 0 <= bits <= count
