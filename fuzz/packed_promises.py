"""What the Python reader of packed files promises, whatever the bytes are; the native engine for what it accepts.

A file is refused with one line of ``InputError``, or it is a model: one that packs to a file that reads back the same,
keeps its size bound, loads in the native engine and, if it is small, gives the reference's spikes and logits there.
"""

from __future__ import annotations

import warnings
import zlib

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.engine import Engine, Method, available_kernels
from litesnn.deploy.packed import (
    PackedModel,
    from_bytes,
    population_shapes,
    size_bound,
    size_table,
    to_bytes,
)
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError

__all__ = ["check"]

ORIGIN = "model.safetensors"
MAX_MESSAGE = 300
MAX_PACKED_WEIGHTS = 2**16
MAX_RUN = 2**18  # multiplications for one input
METHODS: tuple[Method, ...] = ("auto", "bitsliced", "gather")


def check(data: bytes) -> bool:
    """Whether ``data`` is a packed model. Raises whatever breaks a promise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            model = from_bytes(data, ORIGIN)
        except InputError as error:
            message = str(error)
            assert message.startswith(ORIGIN), message
            assert message.isprintable(), message
            assert len(message) <= MAX_MESSAGE, message
            return False
        weights, work = _sizes(model)
        if weights <= MAX_PACKED_WEIGHTS:
            _check_packing(model)
            if work <= MAX_RUN:
                _check_engine(model, zlib.crc32(data))
    return True


def _sizes(model: PackedModel) -> tuple[int, int]:
    """The weights, and the multiplications for one input."""
    weights, work = 0, int(np.prod(model.input.shape)) + model.timesteps * len(model.classes)
    for population, (_, height, width) in zip(model.populations, population_shapes(model), strict=True):
        for synapses in population.synapses:
            weights += synapses.codes.size
            # An engine's shifted copies have the size of their inputs, whatever the stride.
            work += (
                model.timesteps * height * width * synapses.stride**2 * max(synapses.codes.size, len(population.bias))
            )
    return weights + model.readout.codes.size, work


def _check_packing(model: PackedModel) -> None:
    data = to_bytes(model)
    again = from_bytes(data)
    assert again == model
    assert to_bytes(again) == data
    assert size_table(model).bytes == len(data) <= size_bound(model)


def _check_engine(model: PackedModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = _inputs(rng, model, int(rng.choice([1, 3])))
    kernels = available_kernels()
    engine = Engine(model, kernel=kernels[seed % len(kernels)], method=METHODS[seed // 8 % len(METHODS)])
    found, expected = engine.run(x, record=True), Reference(model).run(x, record=True)
    assert found.logits.tobytes() == expected.logits.tobytes()
    assert found.spikes is not None
    assert expected.spikes is not None
    for mine, right in zip(found.spikes, expected.spikes, strict=True):
        assert np.array_equal(mine, right)
    if expected.integers is not None:
        assert found.integers is not None
        assert np.array_equal(found.integers, expected.integers)


def _inputs(rng: np.random.Generator, model: PackedModel, batch: int) -> NDArray[np.generic]:
    spec = model.input
    if spec.frames:
        return rng.integers(0, 256, (batch, model.timesteps, *spec.shape), dtype=np.uint8)
    if spec.kind == "image":
        return rng.integers(0, 256, (batch, *spec.shape), dtype=np.uint8)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
    largest = float(np.finfo(np.float32).max)
    return np.clip(mean + 2 * std * rng.normal(size=(batch, *spec.shape)), -largest, largest).astype(np.float32)
