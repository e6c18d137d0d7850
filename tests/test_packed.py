"""The packed model: exact bytes, round trips, the size guarantee, and files that are damaged in every way."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from litesnn.deploy.packed import (
    IMAGE,
    InputSpec,
    PackedModel,
    Population,
    Readout,
    Synapses,
    from_bytes,
    population_shapes,
    read,
    size_bound,
    size_table,
    to_bytes,
    write,
)
from litesnn.errors import InputError
from packed_models import cell_model, halves, random_codes, random_model

few = settings(max_examples=50, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def tiny_model() -> PackedModel:
    """Three weights: two of the stem, one of the readout."""
    stem = Synapses((IMAGE,), 1, 1, 2, np.array([3, -1], np.int8).reshape(2, 1, 1, 1), np.ones(2, np.float32))
    readout = Readout((0,), 1, np.array([[0, 1]], np.int8), np.array([0.5], np.float32), np.zeros(1, np.float32))
    population = Population((stem,), np.array([-2.0, 0.0], np.float32), None)
    return PackedModel(InputSpec((1, 2, 3), "array", (0.0,), (1.0,)), 2, 0.2, 0.5, ("a",), (population,), readout)


TINY_JSON = (
    '{"version":1,"input":["array",1,2,3,[0.0],[1.0]],"timesteps":2,"leak":0.2,"threshold":0.5,"classes":["a"],'
    '"populations":[[null,2,[[-1],1,1,2,2,-2]]],"readout":[[0],1,1,-1],"crc":"00000000"}'
)
TINY_CRC = "a77fc0f0"
TINY_WEIGHTS = bytes([0b01_11, 0b10, 0b1])  # fields (3 + 3)/2 and (−1 + 3)/2; a bitmap; field (1 + 1)/2


def container(metadata: object, weights: bytes = TINY_WEIGHTS, affine: bytes | None = None) -> bytes:
    """A safetensors file made by hand."""
    if affine is None:
        affine = np.array([1, 1, -2, 0, 0.5, 0], "<f2").tobytes()
    a, n = len(affine), len(affine) + len(weights)
    tensors = {
        "affine": {"dtype": "F16", "shape": [a // 2], "data_offsets": [0, a]},
        "weights": {"dtype": "U8", "shape": [n - a], "data_offsets": [a, n]},
    }
    return safetensors_file({"__metadata__": metadata, **tensors}, affine + weights)


def safetensors_file(header: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + payload


def test_a_file_of_three_weights_byte_by_byte() -> None:
    blank = container({"litesnn_packed": TINY_JSON})
    assert f"{zlib.crc32(blank):08x}" == TINY_CRC
    by_hand = container({"litesnn_packed": TINY_JSON.replace("00000000", TINY_CRC)})
    assert to_bytes(tiny_model()) == by_hand
    assert from_bytes(by_hand) == tiny_model()


@few
@given(seeds)
def test_a_model_survives_a_round_trip(seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    data = to_bytes(model)
    assert from_bytes(data) == model
    assert to_bytes(from_bytes(data)) == data


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("fan_in", [1, 3, 7, 8, 9, 31, 33, 63, 64, 65])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 1.0])
def test_codes_survive_at_every_bit_width_and_edge_size(bits: int, fan_in: int, keep: float) -> None:
    rng = np.random.default_rng(fan_in)
    codes = random_codes(rng, (3, fan_in), bits, keep)
    stem = Synapses((IMAGE,), 1, 1, bits, random_codes(rng, (fan_in, 1, 1, 1), bits, keep), np.ones(fan_in, np.float32))
    readout = Readout((0,), bits, codes, np.ones(3, np.float32), np.zeros(3, np.float32))
    model = replace(
        tiny_model(),
        classes=("a", "b", "c"),
        populations=(Population((stem,), np.zeros(fan_in, np.float32), 0.5),),
        readout=readout,
    )
    assert from_bytes(to_bytes(model)) == model


def test_equality_sees_every_field() -> None:
    model = tiny_model()
    assert model == tiny_model()
    assert model != "model"
    stem = model.populations[0].synapses[0]
    for other in (
        replace(model, leak=0.3),
        replace(model, readout=replace(model.readout, codes=np.array([[1, 0]], np.int8))),
        replace(model, populations=(replace(model.populations[0], rate=0.5),)),
        replace(model, populations=(replace(model.populations[0], synapses=(replace(stem, stride=2),)),)),
    ):
        assert other != model


def test_numbers_are_kept_as_short_decimals() -> None:
    spec = InputSpec((2, 1, 1), "array", (float(np.float32(0.1307)), 1 / 3), (0.1 + 0.2, 1e-38))
    assert spec.mean == (0.1307, 0.33333334)
    assert spec.std == (0.3, 1e-38)
    assert Population((), np.zeros(1, np.float32), 0.123456).rate == 0.1235


@few
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_short_decimals_mean_the_same_float32(value: float) -> None:
    spec = InputSpec((1, 1, 1), "array", (value,), (1.0,))
    assert np.float32(spec.mean[0]) == np.float32(value)
    assert len(repr(spec.mean[0])) <= len("-1234567890000000.0")
    assert replace(spec) == spec


@few
@given(seeds)
def test_the_size_table_accounts_for_every_byte(seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    table = size_table(model)
    assert table.bytes == len(to_bytes(model))
    bundles = sum(len(population.synapses) for population in model.populations)
    assert len(table.layers) == bundles + len(model.populations) + 1
    for row in table.layers:
        assert row.codes_bytes == -(-row.kept * row.bits // 8)
        assert (row.coding == "all") == (row.kept == row.weights)
    assert 0 < table.header_bytes < 4000


@few
@given(seeds, st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(2**-100, 2**100, width=32))
def test_no_model_of_the_same_shape_is_larger_than_the_bound(seed: int, mean: float, std: float) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    bound = size_bound(model)

    def another(codes: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
        mask = (np.sort if rng.random() < 0.3 else rng.permutation)(codes.reshape(-1) != 0)
        return np.where(mask, random_codes(rng, mask.shape, max(bits, 1), 1.0), np.int8(0)).reshape(codes.shape)

    for _ in range(3):
        channels = model.input.shape[0]
        populations = tuple(
            replace(
                population,
                synapses=tuple(replace(s, codes=another(s.codes, s.bits)) for s in population.synapses),
                bias=halves(rng, len(population.bias), 1.0),
                rate=float(rng.random()),
            )
            for population in model.populations
        )
        other = replace(
            model,
            input=replace(model.input, mean=(mean,) * channels, std=(std,) * channels),
            populations=populations,
            readout=replace(model.readout, codes=another(model.readout.codes, model.readout.bits)),
        )
        assert len(to_bytes(other)) <= bound
        assert size_bound(other) == bound


def test_the_bound_is_reached_by_a_model_that_is_as_large_as_can_be() -> None:
    """Bitmaps of odd sizes ending in a kept weight, rates of four decimals, numbers of 19 and 18 letters."""
    model = cell_model(np.random.default_rng(0), width=5, keep=0.5)
    long = 1173805390987264.0
    spec = replace(model.input, mean=(-long,), std=(long,))
    assert (len(repr(spec.mean[0])), len(repr(spec.std[0]))) == (19, 18)
    populations = []
    for population in model.populations:
        for synapses in population.synapses:
            synapses.codes.reshape(-1)[-1] = 1
        populations.append(replace(population, rate=0.4321))
    readout = replace(model.readout, codes=np.ones_like(model.readout.codes))
    model = replace(model, input=spec, populations=tuple(populations), readout=readout)
    assert {row.coding for row in size_table(model).layers if 0 < row.kept < row.weights} == {"map"}
    assert len(to_bytes(model)) == size_bound(model)


def test_the_header_of_a_three_cell_network_is_small() -> None:
    model = cell_model(np.random.default_rng(0))
    table = size_table(model)
    assert sum(len(population.synapses) for population in model.populations) == 13
    assert table.header_bytes < 1000
    assert size_bound(model) - table.bytes < 600


def test_shapes_of_populations() -> None:
    model = tiny_model()
    assert population_shapes(model) == ((2, 2, 3),)
    stem = replace(model.populations[0].synapses[0], stride=2)
    assert population_shapes(replace(model, populations=(replace(model.populations[0], synapses=(stem,)),))) == (
        (2, 1, 2),
    )


# --- Damaged files ---


def mutate(change: Callable[[dict[str, Any]], object]) -> bytes:
    record = json.loads(TINY_JSON)
    change(record)
    return container({"litesnn_packed": json.dumps(record)})


def put(value: object, *path: str | int) -> Callable[[dict[str, Any]], object]:
    """A change that sets the item at ``path`` of the JSON."""

    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


def _enlarge(record: dict[str, Any]) -> None:
    """As many spikes as int32 cannot count."""
    record["input"][2:4] = [2**12, 2**9]
    record["timesteps"] = 64
    record["readout"][1:] = [4, 2, -2]


STEM = ("populations", 0, 2)
SECOND = [0.5, 2, [[0], 3, 1, 1, 36, -2]]
BAD_HEADERS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (put(17, "version"), "version: expected 1 to 16, those that this litesnn reads, found 17"),
    (put(2, "version"), "header: expected the keys version, input, timesteps, leak, threshold, fraction, classes"),
    (put(3, "version"), "header: expected the keys version, input, front_end, timesteps"),
    (put(0, "version"), "version: expected 1 to 16"),
    (put(True, "version"), "version"),
    (put(1.0, "version"), "version"),
    (lambda record: record.pop("version"), "version: expected 1 to 16.*found None"),
    (lambda record: record.pop("leak"), "header: expected the keys"),
    (lambda record: record.pop("crc"), "header: expected the keys"),
    (put(0, "crc"), "crc: expected eight hexadecimal digits, found 0"),
    (put("1234567", "crc"), "crc: expected eight hexadecimal digits, found 1234567"),
    (put("ABCDEF01", "crc"), "crc: expected eight hexadecimal digits"),
    (put("0000000٣", "crc"), "crc: expected eight hexadecimal digits"),
    (lambda record: None, "is damaged: its checksum does not match"),
    (put(1, "surprise"), "header: expected the keys"),
    (put("image", "input"), "input: expected a list of 6"),
    (put("video", "input", 0), "input: kind"),
    (put(0, "input", 1), "input: channels: expected an integer from 1"),
    (put(True, "input", 1), "input: channels"),
    (put(2.0, "input", 2), "input: height"),
    (put(10**30, "input", 3), "input: width"),
    (put(2**26, "input", 3), "input: expected at most 67108864 pixels"),
    (put([0.0, 1.0], "input", 4), "input: mean: expected a list of 1"),
    (put(["0"], "input", 4), "input: mean: expected a float32 number"),
    (put([False], "input", 4), "input: mean: expected a float32 number"),
    (put([1e39], "input", 4), "input: mean: expected a float32 number"),
    (put([10**400], "input", 4), "input: mean: expected a float32 number"),
    (put([float("nan")], "input", 4), "header: expected JSON with finite numbers: NaN"),
    (put([0.0], "input", 5), "input: std: expected a float32 number above zero"),
    (put([-1.0], "input", 5), "input: std: expected a float32 number above zero"),
    (put([1e-60], "input", 5), "input: std: expected a float32 number above zero"),
    (put(0, "timesteps"), "timesteps: expected an integer from 1 to 64"),
    (put(65, "timesteps"), "timesteps"),
    (put("2", "timesteps"), "timesteps"),
    (put(True, "timesteps"), "timesteps"),
    (put(-0.1, "leak"), "leak: expected a number from 0 to 1"),
    (put(1.1, "leak"), "leak"),
    (put(None, "leak"), "leak"),
    (put(float("inf"), "threshold"), "Infinity"),
    (put(0, "threshold"), "threshold: expected a float32 number above zero"),
    (put([], "classes"), "classes: expected a list of at least 1"),
    (put([""], "classes"), "classes: expected names"),
    (put([7], "classes"), "classes: expected names"),
    (put(["\ud800"], "classes"), "classes: expected names"),
    (put("ab", "classes"), "classes: expected a list"),
    (put([], "populations"), "populations: expected a list of at least 1"),
    (put({}, "populations"), "populations: expected a list"),
    (put([None, 2], "populations", 0), "population 0: expected a list of at least 3"),
    (put(-0.5, "populations", 0, 0), "population 0: rate"),
    (put(1.5, "populations", 0, 0), "population 0: rate"),
    (put(True, "populations", 0, 0), "population 0: rate"),
    (put("0.5", "populations", 0, 0), "population 0: rate"),
    (put(0, "populations", 0, 1), "population 0: channels"),
    (put(2.0, "populations", 0, 1), "population 0: channels"),
    (put([None, 2**24, [[-1], 1, 1, 1, 0, 0]], "populations", 0), "population 0: expected at most 67108864 pixels"),
    (put(3, *STEM), "population 0, synapses 0: expected a list"),
    (put([], *STEM, 0), "population 0, synapses 0: sources: expected a list of at least 1"),
    (put([0], *STEM, 0), r"population 0, synapses 0: sources: expected \[-1\], the image"),
    (put([-1, -1], *STEM, 0), "population 0, synapses 0: sources"),
    (put([-1.0], *STEM, 0), "population 0, synapses 0: sources"),
    (put(2, *STEM, 1), "population 0, synapses 0: kernel: expected an odd number"),
    (put(-1, *STEM, 1), "population 0, synapses 0: kernel"),
    (put(33, *STEM, 1), "population 0, synapses 0: kernel"),
    (put(None, *STEM, 1), "population 0, synapses 0: kernel"),
    (put([[-1], 0], *STEM), "population 0, synapses 0: sources"),
    (put(0, *STEM, 2), "population 0, synapses 0: stride"),
    (put(65, *STEM, 2), "population 0, synapses 0: stride"),
    (put(0, *STEM, 3), "population 0, synapses 0: bits: expected an integer from 1 to 4"),
    (put(5, *STEM, 3), "population 0, synapses 0: bits"),
    (put(3, *STEM, 4), "population 0, synapses 0: kept weights: expected an integer from 0 to 2"),
    (put(-1, *STEM, 4), "population 0, synapses 0: kept weights"),
    (put(1, *STEM, 4), "population 0, synapses 0: coding"),
    (put(-1, *STEM, 5), "population 0, synapses 0: coding"),
    (put(-3, *STEM, 5), "population 0, synapses 0: coding: expected an integer from -2 to 30"),
    (put(31, *STEM, 5), "population 0, synapses 0: coding"),
    (put("gap", *STEM, 5), "population 0, synapses 0: coding"),
    (lambda record: record["populations"][0][2].append(1), "population 0, synapses 0: expected a list of 6"),
    (lambda record: record["populations"][0].append([[-1], 1, 2, 1, 2, -2]), "an output of 2×3 like synapses 0"),
    (lambda record: record["populations"].append([0.5, 2, [[1], 0]]), "population 1, synapses 0: sources"),
    (lambda record: record["populations"].append([0.5, 2, [[-1], 0]]), "population 1, synapses 0: sources"),
    (lambda record: record["populations"].append([0.5, 3, [[0], 0]]), "expected 3 channels for an identity, found 2"),
    (lambda record: record["populations"].append([0.5, 2, [[0], 0, 1]]), "population 1, synapses 0: expected a list"),
    (lambda record: record["populations"].append(SECOND), "population 1, synapses 0"),
    (
        lambda record: record["populations"].extend(
            [[0.5, 2, [[0], 1, 2, 1, 4, -2]], [0.5, 2, [[0, 1], 1, 1, 1, 8, -2]]]
        ),
        "population 2, synapses 0: sources: expected populations of one size",
    ),
    (put([[0], 1, 1], "readout"), "readout: expected a list of 4"),
    (put([-1], "readout", 0), "readout: sources"),
    (put([1], "readout", 0), "readout: sources: expected an integer from 0 to 0"),
    (put([True], "readout", 0), "readout: sources"),
    (put(0, "readout", 1), "readout: bits"),
    (put(2, "readout", 2), "readout: coding"),
    (put(1, "populations", 0, 1), "population 0, synapses 0"),
    (put(["a", "b"], "classes"), "readout"),
    (_enlarge, "readout: expected sums of at most 2147483647, found 4026531840"),
]


@pytest.mark.parametrize(("change", "message"), BAD_HEADERS)
def test_a_corrupted_header_is_refused_by_name(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_bytes(mutate(change), "broken.safetensors")
    assert re.match(r"broken\.safetensors(: | is damaged: )", str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


BAD_CONTAINERS: list[tuple[bytes, str]] = [
    (b"", "a safetensors file"),
    (b"12345678", "a safetensors file"),
    (b"\xff" * 100, "a safetensors file"),
    (b"PK\x03\x04" + bytes(200), "a safetensors file"),
    (container(None), "with the metadata 'litesnn_packed'"),
    (container({}), "with the metadata 'litesnn_packed'"),
    (container({"format": "pt"}), "with the metadata 'litesnn_packed'"),
    (container({"litesnn_packed": TINY_JSON, "more": ""}), "with the metadata 'litesnn_packed'"),
    (container({"litesnn_packed": ""}), "header: expected JSON"),
    (container({"litesnn_packed": "[" * 100000}), "header: expected JSON"),
    (container({"litesnn_packed": "[]"}), "header: expected a JSON object"),
    (container({"litesnn_packed": "7" * 5000}), "header: expected JSON"),
    (container({"litesnn_packed": '{"version":1,"version":1}'}), "a key stands twice"),
    (container({"litesnn_packed": TINY_JSON}, TINY_WEIGHTS[:2]), "readout: expected 1 bytes, found 0"),
    (container({"litesnn_packed": TINY_JSON}, TINY_WEIGHTS[:1]), "readout: the bitmap of positions needs 1 bytes"),
    (container({"litesnn_packed": TINY_JSON}, TINY_WEIGHTS + b"\0"), "weights: expected no bytes after"),
    (container({"litesnn_packed": TINY_JSON}, bytes([0b1_01_11, 2, 1])), "synapses 0: padding bits"),
    (container({"litesnn_packed": TINY_JSON}, bytes([0b01_11, 3, 1])), "readout: the bitmap of positions keeps 2"),
    (container({"litesnn_packed": TINY_JSON}, affine=bytes(10)), "readout: bias: expected 1 numbers"),
    (container({"litesnn_packed": TINY_JSON}, affine=bytes(14)), "affine: expected no numbers after"),
    (
        container({"litesnn_packed": TINY_JSON}, affine=np.array([1, np.nan, 0, 0, 0, 0], "<f2").tobytes()),
        "population 0, synapses 0: scale: expected finite numbers, found nan",
    ),
    (
        container({"litesnn_packed": TINY_JSON}, affine=np.array([1, 1, 0, np.inf, 0, 0], "<f2").tobytes()),
        "population 0: bias: expected finite numbers, found inf",
    ),
    (
        safetensors_file(
            {
                "__metadata__": {"litesnn_packed": TINY_JSON},
                "weights": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            },
            TINY_WEIGHTS,
        ),
        "the tensors 'affine' F16",
    ),
    (
        safetensors_file(
            {
                "__metadata__": {"litesnn_packed": TINY_JSON},
                "affine": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]},
                "weights": {"dtype": "U8", "shape": [3, 1], "data_offsets": [12, 15]},
            },
            bytes(12) + TINY_WEIGHTS,
        ),
        "the tensors 'affine' F16",
    ),
]


@pytest.mark.parametrize(("data", "message"), BAD_CONTAINERS)
def test_a_corrupted_container_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_bytes(data, "broken.safetensors")
    assert str(caught.value).startswith("broken.safetensors: ")
    assert "\n" not in str(caught.value)


def test_a_small_header_cannot_ask_for_much_memory() -> None:
    with pytest.raises(InputError, match="at most 67108864 weights in all"):
        from_bytes(
            mutate(lambda record: record["populations"].append([None, 2**20, [[0] * 100, 31, 1, 1, 0, 0]])),
        )


def test_every_cut_of_a_file_is_refused() -> None:
    data = to_bytes(cell_model(np.random.default_rng(1), cells=1, width=4))
    for length in range(len(data)):
        with pytest.raises(InputError):
            from_bytes(data[:length])
    with pytest.raises(InputError):
        from_bytes(data + b"\0")


@few
@given(seeds, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_are_refused(seed: int, flips: list[tuple[float, int]]) -> None:
    data = to_bytes(random_model(np.random.default_rng(seed)))
    changed = bytearray(data)
    for place, bit in flips:
        changed[int(place * (len(data) - 1))] ^= 1 << bit
    if changed != data:  # two flips of one bit are none
        with pytest.raises(InputError):
            from_bytes(bytes(changed))


def test_every_byte_of_a_file_changed_is_refused() -> None:
    data = to_bytes(random_model(np.random.default_rng(5), populations=3))
    damaged = 0
    for place in range(len(data)):
        for byte in {0, data[place] ^ 1, data[place] ^ 0x80, ord("9"), ord("]"), ord(" ")} - {data[place]}:
            with pytest.raises(InputError) as caught:
                from_bytes(data[:place] + bytes([byte]) + data[place + 1 :], "broken.safetensors")
            assert str(caught.value).startswith("broken.safetensors")
            assert "\n" not in str(caught.value)
            damaged += str(caught.value) == "broken.safetensors is damaged: its checksum does not match"
    assert damaged > 100  # what only the checksum sees, above all weights and scales


def test_the_checksum_is_found_whatever_the_classes_are_called() -> None:
    names = ('"crc":"00000000"', '\\"crc\\":\\"00000000\\"', "crc", '\\\\"crc', ',"crc":"')
    readout = Readout((0,), 1, np.ones((5, 2), np.int8), np.ones(5, np.float32), np.zeros(5, np.float32))
    model = replace(tiny_model(), classes=names, readout=readout)
    data = to_bytes(model)
    assert from_bytes(data) == model
    assert data.count(rb"\"crc\":\"") == 1
    with pytest.raises(InputError, match="is damaged"):
        from_bytes(data.replace(b"00000000", b"00000001", 1))


@few
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        from_bytes(data)


# --- Models that cannot be packed ---


def _with_stem(**changes: Any) -> PackedModel:
    model = tiny_model()
    stem = replace(model.populations[0].synapses[0], **changes)
    return replace(model, populations=(replace(model.populations[0], synapses=(stem,)),))


def _codes(*values: int) -> NDArray[np.int8]:
    return np.array(values, np.int8).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_with_stem(codes=_codes(3, -2)), "population 0, synapses 0: codes of 2 bits must be odd"),
        (_with_stem(codes=_codes(5, 1)), "population 0, synapses 0: codes of 2 bits must be odd"),
        (_with_stem(codes=_codes(3, 1).astype(np.int64)), "synapses 0: codes: expected int8"),
        (_with_stem(codes=_codes(3, 1, 1)), "synapses 0: kept weights: expected an integer from 0 to 2, found 3"),
        (_with_stem(codes=_codes(3, 1).reshape(2, 1)), "synapses 0: codes: expected the shape"),
        (_with_stem(bits=5), "synapses 0: codes of 5 bits"),
        (_with_stem(scale=np.ones(3, np.float32)), r"synapses 0: scale: expected float32 \[2\]"),
        (_with_stem(scale=np.ones(2)), r"synapses 0: scale: expected float32 \[2\]"),
        (_with_stem(scale=np.full(2, 0.1, np.float32)), "synapses 0: scale: expected finite float16"),
        (_with_stem(scale=np.full(2, 1e30, np.float32)), "synapses 0: scale: expected finite float16"),
        (_with_stem(scale=np.full(2, np.nan, np.float32)), "synapses 0: scale: expected finite float16"),
        (_with_stem(scale=np.full(2, np.inf, np.float32)), "synapses 0: scale: expected finite float16"),
        (_with_stem(kernel=3), "synapses 0: coding"),
        (_with_stem(sources=(0,)), "synapses 0: sources"),
        (replace(tiny_model(), timesteps=0), "timesteps"),
        (replace(tiny_model(), leak=float("nan")), "NaN"),
        (replace(tiny_model(), input=InputSpec((1, 2, 3), "array", (float("inf"),), (1.0,))), "Infinity"),
        (replace(tiny_model(), input=InputSpec((1, 2, 3), "array", (0.0,), (1e300,))), "Infinity"),
        (replace(tiny_model(), populations=()), "populations"),
        (replace(tiny_model(), classes=("a", "b")), "readout"),
    ],
)
def test_a_model_that_breaks_a_rule_is_not_packed(model: PackedModel, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_bytes(model)


def test_an_identity_has_no_stride() -> None:
    model = tiny_model()
    identity = Synapses((0,), 0, 2, 0, np.zeros((2, 0, 0, 0), np.int8), np.ones(2, np.float32))
    with pytest.raises(InputError, match="population 1, synapses 0: expected an identity to have stride 1"):
        to_bytes(
            replace(model, populations=(*model.populations, Population((identity,), np.zeros(2, np.float32), None)))
        )


# --- Files ---


def test_a_file_survives_a_round_trip(tmp_path: Path) -> None:
    model = random_model(np.random.default_rng(3))
    path = tmp_path / "model.safetensors"
    write(model, path)
    write(model, path)
    assert read(path) == model
    assert path.read_bytes() == to_bytes(model)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(InputError, match=r"model.safetensors: cannot be written: No space left on device"):
        write(tiny_model(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_cannot_be_packed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(InputError):
        write(replace(tiny_model(), timesteps=0), path)
    assert path.read_bytes() == b"old"


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.safetensors: cannot be read as a packed model: No such file"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="cannot be read as a packed model"):
        read(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model.safetensors: expected a packed model"):
        read(path)
