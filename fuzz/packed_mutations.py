"""Packed files from packed files: mutations that keep the container and the checksum whole, so that they get further.

A packed file is a safetensors file of a JSON text and two tensors. Most changes of single bytes break the container or
the checksum; those made here break one thing at a time: the text, one value in it, or one tensor.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from litesnn.deploy import bits as bitstrings
from litesnn.deploy.packed_container import sealed

__all__ = ["Parts", "change_value", "mutate"]

Change = Callable[[bytes, int], bytes]
"""A mutation of plain bytes that may make them at most so many."""

MAX_WEIGHTS = 2**15  # of a layer whose stream is made anew
VALUES: tuple[object, ...] = (
    *(0, 1, -1, -2, 2, 3, 4, 5, 7, 15, 16, 30, 31, 32, 33, 63, 64, 65, 2**12, 2**20, 2**26, 2**31, 2**63, 10**30),
    *(0.0, -0.0, 0.25, 0.5, 1.0, 1.5, 1e-45, 3.4e38, 1e39, 1e-300),
    *(None, True, False, "", "a", "image", "array", "hard", "\x1b[2J", "\ud800", [], {}, [0], [-1], [0, 0], [1, 0]),
)


@dataclass(frozen=True)
class Parts:
    """What a packed file is made of; the checksum in ``text`` may be wrong."""

    text: bytes
    kind: Literal["F16", "I16"]
    affine: bytes
    weights: bytes

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """Take a file apart. Raises ``ValueError`` and the like for what is not made of these parts."""
        header_bytes = int.from_bytes(data[:8], "little")
        header, payload = json.loads(data[8 : 8 + header_bytes]), data[8 + header_bytes :]
        affine, weights = (slice(*header[name]["data_offsets"]) for name in ("affine", "weights"))
        text = header["__metadata__"]["litesnn_packed"].encode()
        return cls(text, header["affine"]["dtype"], payload[affine], payload[weights])

    def file(self) -> bytes:
        """The file of these parts, with the right checksum."""
        affine, end = len(self.affine), len(self.affine) + len(self.weights)
        header = {
            "__metadata__": {"litesnn_packed": self.text.decode(errors="replace")},
            "affine": {"dtype": self.kind, "shape": [affine // 2], "data_offsets": [0, affine]},
            "weights": {"dtype": "U8", "shape": [end - affine], "data_offsets": [affine, end]},
        }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return sealed(len(text).to_bytes(8, "little") + text + self.affine + self.weights)


def mutate(data: bytes, most: int, seed: int, change: Change) -> bytes:
    """Another file of at most ``most`` bytes. All choices are made with ``seed`` and by ``change``."""
    choose = random.Random(seed)
    choice = choose.randrange(8)
    try:
        parts = Parts.of(data)
        if choice == 0:
            made = change(data, most)
        elif choice == 1:
            made = sealed(change(data, most))
        elif choice <= 4:
            made = _change_part(parts, choose, most, change).file()
        else:
            made = _change_values(parts, choose).file()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        made = change(data, most)  # it is no file of these parts
    return made if len(made) <= most else change(data, most)


def _change_part(parts: Parts, choose: random.Random, most: int, change: Change) -> Parts:
    name = choose.choice(["text", "affine", "weights"])
    changed = change(getattr(parts, name), most)
    if name == "affine":
        changed = changed[: len(changed) // 2 * 2]
    return Parts(**{**vars(parts), name: changed})


def _change_values(parts: Parts, choose: random.Random) -> Parts:
    """Other values in the text; mostly with streams that fit them."""
    record = json.loads(parts.text)
    for _ in range(choose.choice([1, 1, 1, 2, 4])):
        change_value(record, choose)
    kind, affine, weights = parts.kind, parts.affine, parts.weights
    if choose.random() < 0.1:
        kind = "I16" if kind == "F16" else "F16"
    if choose.random() < 0.8:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
            kind, affine, weights = _fitting(record, choose)
    text = json.dumps(record, separators=(",", ":")).encode()  # with escapes: a lone surrogate has no other form
    return Parts(text, kind, affine, weights)


def _places(value: object) -> list[tuple[Any, Any]]:
    """Every item in lists and objects, as the container and the key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((value, key))
        found += _places(value[key])  # type: ignore[index]  # a list or an object
    return found


def change_value(record: object, choose: random.Random) -> None:
    """Change, repeat, move or take away one value of a JSON record, in place."""
    places = _places(record)
    if not places:  # an earlier change has left nothing
        return
    container, key = choose.choice(places)
    action = choose.randrange(6)
    if action == 0 and isinstance(container[key], int | float):
        container[key] += choose.choice([-1, 1])
    elif action == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == 2:
        del container[key]
    elif action == 3:
        other, place = choose.choice(places)
        container[key] = copy.deepcopy(other[place])
    elif action == 4 and isinstance(container, dict):
        container[choose.choice(["", "fraction", "front_end", "levels", "more"])] = choose.choice(VALUES)
    else:
        container[key] = copy.deepcopy(choose.choice(VALUES))


def _fitting(record: dict[str, Any], choose: random.Random) -> tuple[Literal["F16", "I16"], bytes, bytes]:
    """Streams for the layers that ``record`` describes, whose kept weights and codings are set to match.

    Raises whatever Python does where the record describes none.
    """
    fixed = record["version"] % 2 == 0
    rng = np.random.default_rng(choose.getrandbits(32))
    channels: list[int] = []
    weights = b""
    numbers = 0

    def codes(row: list[Any], at: int, shape: tuple[int, ...]) -> bytes:
        """The stream of a layer; its bits, kept weights and coding stand at ``row[at]``."""
        whole = all(type(size) is int for size in shape)  # a list times an integer is a long list
        if not whole or not 0 < math.prod(shape) <= MAX_WEIGHTS or row[at] not in (1, 2, 3, 4):
            raise ValueError("no stream is of this shape")
        mask = rng.random(math.prod(shape)) < choose.choice([0.0, 0.05, 0.3, 0.8, 1.0])
        positions, kept = bitstrings.encode_positions(mask), int(np.count_nonzero(mask))
        row[at + 1 : at + 3] = kept, {"all": -2, "map": -1, "gap": positions.rice}[positions.coding]
        return positions.data + bitstrings.pack_fields(rng.integers(0, 2 ** row[at], kept), row[at])

    for row in record["populations"]:
        layers = row[3 if fixed else 2 :]
        for layer in layers:
            sources, kernel = layer[:2]
            fan_in = sum(record["input"][1] if source == -1 else channels[source] for source in sources)
            if kernel:
                weights += codes(layer, 3, (row[1], fan_in, kernel, kernel))
        if type(row[1]) is not int:
            raise ValueError("no population has so many channels")
        numbers += (len(layers) + 1) * row[1]
        channels.append(row[1])
    readout = record["readout"]
    fan_in = sum(channels[source] for source in readout[0])
    weights += codes(readout, 1, (len(record["classes"]), fan_in))
    numbers += 2 * len(record["classes"])
    if not 0 < numbers <= MAX_WEIGHTS:
        raise ValueError("no file has so many numbers")
    if fixed:
        return "I16", rng.integers(-300, 301, numbers).astype("<i2").tobytes(), weights
    return "F16", rng.normal(0.0, choose.choice([0.02, 0.3]), numbers).astype("<f2").tobytes(), weights
