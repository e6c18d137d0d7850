"""Files of a run folder from files of a run folder: what stays JSON, TOML or safetensors gets further than noise.

Changes of a text are made in place: a value, a line, a nesting too deep. A safetensors file gets another description,
or another of its tensors, and the checksum that fits, so that only what it says is wrong.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
from typing import Any

import safetensors.torch
import torch

from litesnn.training_loop.checkpoint import seal
from packed_mutations import change_value

__all__ = ["mutate_run_file"]

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_TEXTS = (
    *(b"0", b"-1", b"1", b"64", b"65", b"10000", b"1000000000", b"1e9", b"0.0", b"-0.0", b"1e30", b"1e308", b"1e999"),
    *(b"NaN", b"nan", b"inf", b"-Infinity", b"true", b"null", b'""', b"[]", b"{}", b"[[]]", b"9" * 400, b"9" * 5000),
    *(b"[" * 3000, b'{"a":' * 3000, b"[1e308, 1e308]", b'"\\u001b[2J"', b'"\\ud800"', b"18446744073709551616"),
)


def mutate_run_file(name: str, data: bytes, seed: int) -> bytes:
    """Another content for the file called ``name``; all choices are made with ``seed``."""
    choose = random.Random(seed)
    if choose.random() < 0.1:
        return _noise(data, choose)
    if name.endswith(".safetensors"):
        return _change_tensors(data, choose)
    if name.endswith(".json") and choose.random() < 0.6:
        record = json.loads(data)
        for _ in range(choose.choice([1, 1, 2, 4])):
            change_value(record, choose)
        return json.dumps(record).encode()
    if name.endswith(".jsonl") and choose.random() < 0.6:
        lines = data.splitlines()
        at = choose.randrange(len(lines))
        record = json.loads(lines[at])
        change_value(record, choose)
        lines[at] = json.dumps(record).encode()
        return b"\n".join(lines) + b"\n"
    return _change_text(data, choose)


def _noise(data: bytes, choose: random.Random) -> bytes:
    """Cut, or with other bytes somewhere."""
    if choose.random() < 0.5:
        return data[: choose.randrange(len(data) + 1)]
    at = choose.randrange(len(data) + 1)
    return data[:at] + choose.randbytes(choose.choice([1, 4, 64])) + data[at + choose.choice([0, 1, 64]) :]


def _change_text(data: bytes, choose: random.Random) -> bytes:
    """Another value in place of a number or word, or a line twice or nowhere."""
    action = choose.randrange(4)
    if action == 0:
        lines = data.splitlines(keepends=True)
        at = choose.randrange(len(lines))
        return b"".join(lines[:at] + lines[at : at + 1] * choose.choice([0, 2]) + lines[at + 1 :])
    places = list((_NUMBER if action < 3 else re.compile(rb'"[^"\n]*"|true|false|\[[^][\n]*\]')).finditer(data))
    if not places:
        return data + choose.choice(_TEXTS)
    place = choose.choice(places)
    return data[: place.start()] + choose.choice(_TEXTS) + data[place.end() :]


def _change_tensors(data: bytes, choose: random.Random) -> bytes:
    """A file with another description, or with another tensor, and the right checksum."""
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    description = json.loads(header["__metadata__"]["litesnn"])
    kind, info = description["kind"], description["info"]
    if choose.random() < 0.5:
        record: dict[str, Any] = {"info": info}
        nested = choose.choice([key for key in info if isinstance(info[key], str)] or [""])
        if nested and choose.random() < 0.5:  # a genotype is JSON in JSON
            inner = json.loads(info[nested])
            change_value(inner, choose)
            info[nested] = json.dumps(inner)
        else:
            for _ in range(choose.choice([1, 1, 2])):
                change_value(record, choose)
        return seal(kind, tensors, record.get("info"))
    name = choose.choice(sorted(tensors))
    tensor = tensors[name]
    action = choose.randrange(5)
    if action == 0:
        del tensors[name]
    elif action == 1:
        other = choose.choice([name + "x", "optimizer.weights.9999.momentum_buffer", "optimizer.weights.-1.x", "\n"])
        tensors[other] = tensors.pop(name)
    elif action == 2:
        shape = choose.choice([(0,), (1,), (3, 5), (tensor.numel(),), (*tensor.shape, 1), (2, *tensor.shape)])
        tensors[name] = torch.zeros(shape, dtype=tensor.dtype)
    elif action == 3:
        tensors[name] = tensor.to(choose.choice([torch.float16, torch.int8, torch.bool, torch.float64]))
    else:
        value = choose.choice([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, 1e-45])
        changed = copy.deepcopy(tensor).flatten()
        if len(changed) and changed.is_floating_point():
            changed[choose.randrange(len(changed)) if choose.random() < 0.5 else slice(None)] = value
        tensors[name] = changed.view(tensor.shape)
    return seal(kind, tensors, info)
