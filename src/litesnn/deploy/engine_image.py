"""The engine image: a packed model in the flat form that the native engine reads (its layout is in ``csrc/loader.h``).

In: a :class:`~litesnn.deploy.packed.PackedModel`. Out: bytes. Nothing is computed here that the engine could: codes are
not compressed, numbers have 32 bits, shapes are left out where they follow from others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import Affine, PackedModel, PackedNeuron, has_own_neurons, neuron_of
from litesnn.front_end import InputKind

__all__ = ["engine_image"]

_MAGIC, _VERSION = b"LSNN", 1
_WITH_NEURONS, _WITH_LEVELS = 1, 2  # added to the version of images that say them
_KINDS: dict[InputKind, int] = {"image": 0, "array": 1, "events": 2}
_NOT_MEASURED = -1.0  # a firing rate
_HARD = -1  # a reset to zero


def engine_image(model: PackedModel) -> bytes:
    """The image of a model, which may be any that ``packed.to_bytes`` accepts."""
    body = b"".join(_body(model))
    version = _VERSION + (_WITH_NEURONS if has_own_neurons(model) else 0) + (_WITH_LEVELS if model.levels > 1 else 0)
    return _MAGIC + _integers(version, 12 + len(body)) + body


def _body(model: PackedModel) -> Iterator[bytes]:
    yield _integers(model.timesteps, *model.input.shape, _KINDS[model.input.kind], len(model.classes))
    yield _integers(len(model.populations), model.fraction or 0)
    yield _floats(model.leak)
    if model.fraction is None:
        yield _floats(model.threshold)
    else:
        yield _integers(round(model.threshold * 2**model.fraction))
    if model.levels > 1:
        yield _integers(model.levels)
    yield _floats(*model.input.mean, *model.input.std)
    own = has_own_neurons(model)
    for population in model.populations:
        yield _integers(len(population.bias), len(population.synapses))
        if own:
            yield _neuron(neuron_of(model, population), model.fraction)
        yield _floats(_NOT_MEASURED if population.rate is None else population.rate)
        yield _numbers(population.bias, population.bias_shift)
        for synapses in population.synapses:
            yield _integers(synapses.kernel, synapses.stride, synapses.bits, synapses.shift)
            yield _integers(len(synapses.sources), *synapses.sources)
            yield _numbers(synapses.scale) + _codes(synapses.codes)
    readout = model.readout
    yield _integers(readout.bits, readout.shift, readout.fraction, len(readout.sources), *readout.sources)
    yield _numbers(readout.scale) + _numbers(readout.bias, readout.bias_shift) + _codes(readout.codes)


def _neuron(neuron: PackedNeuron, fraction: int | None) -> bytes:
    reset = _HARD if neuron.reset is None else neuron.reset * 2 ** (fraction or 0)
    return _floats(neuron.leak) + (_floats(reset) if fraction is None else _integers(round(reset)))


def _integers(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def _floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def _numbers(values: Affine, shift: int = 0) -> bytes:
    """Floats as they are; fixed-point integers already shifted to the left."""
    if values.dtype == np.float32:
        return values.astype("<f4").tobytes()
    return (values.astype("<i4") << shift).tobytes()


def _codes(codes: NDArray[np.int8]) -> bytes:
    """In C order, filled up with zeros to whole words; none for an identity."""
    data = codes.tobytes()
    return data + bytes(-len(data) % 4)
