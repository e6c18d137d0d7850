"""The packed model: a whole network in low-bit bytes, and the record that the bytes stand for.

In: a :class:`PackedModel` of integer codes, scales and biases. Out: one safetensors file, and back, exactly.
:mod:`litesnn.deploy.reference` says what such a model computes.

The file holds two tensors and one text:

- ``weights`` uint8 [n]: for every layer its positions stream (``bits.encode_positions``), then the codes of its kept
  weights in C order (``bits.codes_to_fields``), each padded to whole bytes. Layers are the synapses of population 0,
  1, … in order, then the readout.
- ``affine`` float16 [m], or int16 [m] in a fixed-point model: for every population the scales of its synapses in order,
  then its bias; then the readout's scale and bias.
- ``__metadata__["litesnn_packed"]``: compact JSON. Rows have no keys, because a file may have a budget of 8000 bytes
  and every quote costs two of them::

    {"version": 1, "input": [kind, C, H, W, [mean, …], [std, …]], "timesteps": T, "leak": λ, "threshold": θ,
     "classes": [name, …], "populations": [[rate, channels, layer, …], …], "readout": [[source, …], bits, kept, coding],
     "crc": checksum}

  A layer is ``[[source, …], kernel, stride, bits, kept, coding]``, an identity ``[[source, …], 0]``. ``coding`` says
  where the kept weights are: −2 all are kept, −1 bitmap, k ≥ 0 gaps with Rice parameter k. The checksum is the CRC-32
  (``zlib.crc32``) of the whole file while its eight hexadecimal digits are zeros, so that no byte is left out.

  A model that takes features of sound has one more key after the input, ``"front_end": ["log-mel", rate, clip ms,
  window ms, hop ms, mels, low Hz, high Hz, floor]`` (:class:`~litesnn.front_end.LogMel`), and a version 2 higher.

  A fixed-point model has version 2. It has one more key after the threshold, ``"fraction": F``, and more numbers in its
  rows: a population is ``[rate, channels, bias shift, layer, …]``, a layer ends with its shift (an identity is
  ``[[source, …], 0, shift]``), and the readout ends with shift, bias shift and F'.

A file is untrusted: everything that it says is checked before it is used, and every failure is one line of
:class:`InputError`. The checksum comes last: it finds damage that makes sense, and is no defence against a file that
was made to deceive. That all integers of a fixed-point model fit int32 is proven from its weights. Writing goes through
the same checks, so that what can be written can be read.

C channels, H×W pixels, k kernel size, T timesteps.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from litesnn.deploy import bits as bitstrings
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.front_end import LogMel
from litesnn.size import MAX_RICE, position_bits

__all__ = [
    "IMAGE",
    "Affine",
    "InputSpec",
    "LayerSize",
    "PackedModel",
    "Population",
    "Readout",
    "SizeTable",
    "Synapses",
    "from_bytes",
    "population_shapes",
    "read",
    "size_bound",
    "size_table",
    "to_bytes",
    "write",
]

IMAGE = -1
"""The source that is the input image, where others are the indices of populations."""

Affine = NDArray[np.float32] | NDArray[np.int16]
"""Scales or biases: float32 numbers that float16 holds, or the int16 numbers of a fixed-point model."""

_FLOAT_VERSION, _FIXED_VERSION = 1, 2
_SOUND = 2  # added to the version of a model with a front end, which readers from before front ends refuse by it
_FRONT_END = "log-mel"
_METADATA_KEY = "litesnn_packed"
_ORIGIN = "packed model"
_NO_CRC = "00000000"
_CRC_MARK = rb"\"crc\":\""  # the key as it stands in the file, as JSON in a string of JSON; no value can hold this
_ALL, _MAP = -2, -1  # codings in the header; from 0 on it is "gap" with this Rice parameter

# Limits on what a file may ask for, far above any network of this project: a few bytes of header must not
# allocate gigabytes. The accumulators are promised to fit int32, for the engines that add in it.
_MAX_FILE_BYTES = 2**26
_MAX_HEADER_BYTES = 2**20
_MAX_WEIGHTS = 2**26
_MAX_NEURONS = 2**26
_MAX_KERNEL = 31
_MAX_STRIDE = 64
_MAX_TIMESTEPS = 64
_MAX_ACCUMULATOR = 2**31 - 1
_MAX_INPUT = 127

# What keeps a fixed-point model within int32. Membranes leak to a quarter, so that currents up to 2^30 keep them below
# 4/3·(2^30 + 1). Integer logits below 2^23 are exact in float32, and stay different when they are divided.
_FIXED_LEAK = 0.25
_MAX_FRACTION = 24
_MAX_SHIFT = 31
_MAX_BIAS_SHIFT = 15
_MAX_CURRENT = 2**30
_MAX_LOGIT = 2**23 - 1


@dataclass(frozen=True, eq=False)
class _Record:
    """Equal if all fields are, arrays by type, shape and value."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Record) or type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays can change


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


@dataclass(frozen=True, eq=False)
class Synapses(_Record):
    """One bundle of connections into a population: a convolution of integer codes, or an identity.

    ``sources`` are the populations whose channels are concatenated, in this order, or ``(IMAGE,)``. Zero padding is
    kernel // 2 on each side, so that an input of H×W gives ⌈H/stride⌉×⌈W/stride⌉. An identity hands each source
    channel's spikes to the target channel of the same index: kernel 0, stride 1, bits 0, codes [C, 0, 0, 0].
    """

    sources: tuple[int, ...]
    kernel: int
    stride: int
    bits: int
    codes: NDArray[np.int8]  # [C_out, C_in, k, k], odd, at most 2^bits − 1 in magnitude; 0 where pruned
    scale: Affine  # [C_out]
    shift: int = 0  # fixed point: the current is (scale·acc) >> shift


@dataclass(frozen=True, eq=False)
class Population(_Record):
    """LIF neurons: C channels, each position with the current ``Σ scale·acc`` over ``synapses`` in order, plus bias."""

    synapses: tuple[Synapses, ...]
    bias: Affine  # [C]
    rate: float | None  # measured spikes per neuron and timestep, kept to 4 decimals; None if not measured
    bias_shift: int = 0  # fixed point: what is added is bias·2^bias_shift

    def __post_init__(self) -> None:
        if self.rate is not None:
            object.__setattr__(self, "rate", round(self.rate, 4))


@dataclass(frozen=True, eq=False)
class Readout(_Record):
    """The classifier: spikes are summed over H×W, then weighted by integer codes."""

    sources: tuple[int, ...]
    bits: int
    codes: NDArray[np.int8]  # [classes, C_in], as in Synapses
    scale: Affine  # [classes]
    bias: Affine  # [classes]
    shift: int = 0  # as in Synapses
    bias_shift: int = 0  # as in Population
    fraction: int = 0  # fixed point: F', the fractional bits of the logits


@dataclass(frozen=True, eq=False)
class InputSpec(_Record):
    """What the network is given: uint8 pixels 0 to 255 (``"image"``) or real numbers (``"array"``), [C, H, W].

    ``mean`` and ``std`` are per channel, in the units of the raw data. They mean float32 numbers, and are kept as the
    shortest decimals that say which. ``front_end`` says of which sound arrays are the features, if they are; who runs
    the network computes them (:func:`litesnn.data.audio.log_mel`).
    """

    shape: tuple[int, int, int]
    kind: Literal["image", "array"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    front_end: LogMel | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(_shortest, self.mean)))
        object.__setattr__(self, "std", tuple(map(_shortest, self.std)))


@dataclass(frozen=True, eq=False)
class PackedModel(_Record):
    """A network as it is deployed. Populations are in topological order: each reads only earlier ones.

    ``fraction`` says which arithmetic the model has: ``None`` is float32 with float16 scales; an integer F is fixed
    point, with int16 scales and with currents, membranes and threshold in units of 2^−F (and a leak of 0.25). The
    shifts, and the readout's F', are 0 in a float model.
    """

    input: InputSpec
    timesteps: int
    leak: float
    threshold: float
    classes: tuple[str, ...]
    populations: tuple[Population, ...]
    readout: Readout
    fraction: int | None = None


@dataclass(frozen=True)
class LayerSize:
    """Where a layer's bytes go. A population's bias is a row of its own."""

    name: str
    weights: int
    kept: int
    bits: int
    coding: bitstrings.Coding
    positions_bytes: int
    codes_bytes: int
    affine_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of the layer."""
        return self.positions_bytes + self.codes_bytes + self.affine_bytes


@dataclass(frozen=True)
class SizeTable:
    """Where all bytes of a packed model go."""

    header_bytes: int
    layers: tuple[LayerSize, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        return self.header_bytes + sum(layer.bytes for layer in self.layers)


def to_bytes(model: PackedModel) -> bytes:
    """Pack ``model``. Equal models give equal bytes, and :func:`from_bytes` gives back an equal model.

    Raises:
        InputError: the model breaks a rule of the format, for example a scale that is no float16 number, or fixed-point
            numbers that might not fit int32.
    """
    layers = _encode_layers(model)
    metadata = _metadata(model, [layer.coding for layer in layers])
    _check_arrays(model, _HeaderReader(_ORIGIN).header(metadata))
    _prove_int32(model, _ORIGIN)
    affine = np.concatenate(list(_affine_arrays(model))).astype(_affine_type(model.fraction))
    return _container(metadata, affine, b"".join(layer.positions.data + layer.codes for layer in layers))


def from_bytes(data: bytes, origin: str = _ORIGIN) -> PackedModel:
    """Unpack a model; ``origin`` is the name that an error gives the bytes.

    Raises:
        InputError: the bytes are not a packed model of a known version, in every detail.
    """
    metadata, affine_kind, affine_data, weights_data = _open_container(data, origin)
    header = _HeaderReader(origin).header(metadata)
    affine_type = _affine_type(header.fraction)
    if affine_kind != _CONTAINER_TYPES[affine_type]:
        _refuse(f"{origin}: affine", f"{_CONTAINER_TYPES[affine_type]} numbers in this version", affine_kind)
    weights, affine = _WeightsStream(weights_data, origin), _AffineStream(affine_data, affine_type, origin)
    populations = []
    for row in header.populations:
        synapses = []
        for layer in row.layers:
            codes = weights.take(layer)
            scale = affine.take(row.shape[0], f"{layer.name}: scale")
            synapses.append(Synapses(layer.sources, layer.kernel, layer.stride, layer.bits, codes, scale, layer.shift))
        bias = affine.take(row.shape[0], f"{row.name}: bias")
        populations.append(Population(tuple(synapses), bias, row.rate, row.bias_shift))
    layer = header.readout.layer
    readout = Readout(
        sources=layer.sources,
        bits=layer.bits,
        codes=weights.take(layer),
        scale=affine.take(len(header.classes), "readout: scale"),
        bias=affine.take(len(header.classes), "readout: bias"),
        shift=layer.shift,
        bias_shift=header.readout.bias_shift,
        fraction=header.readout.fraction,
    )
    weights.finish()
    affine.finish()
    if _sealed(data) != data:
        raise InputError(f"{origin} is damaged: its checksum does not match")
    model = PackedModel(
        header.input,
        header.timesteps,
        header.leak,
        header.threshold,
        header.classes,
        tuple(populations),
        readout,
        header.fraction,
    )
    _prove_int32(model, origin)
    return model


def write(model: PackedModel, path: Path) -> None:
    """Write a packed model, all or nothing: if it cannot be written, ``path`` stays as it was.

    Raises:
        InputError: as :func:`to_bytes`, or the file cannot be written.
    """
    write_atomically(path, to_bytes(model))


def read(path: Path) -> PackedModel:
    """Read a packed model. Raises ``InputError`` if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a packed model: {error.strerror or error}") from None
    return from_bytes(data, origin=str(path))


def population_shapes(model: PackedModel) -> tuple[tuple[int, int, int], ...]:
    """The shape [C, H, W] of every population."""
    shapes: list[tuple[int, int, int]] = []
    for population in model.populations:
        first = population.synapses[0]
        _, height, width = model.input.shape if first.sources == (IMAGE,) else shapes[first.sources[0]]
        shapes.append((len(population.bias), -(-height // first.stride), -(-width // first.stride)))
    return tuple(shapes)


def size_table(model: PackedModel) -> SizeTable:
    """Where the bytes go; ``size_table(model).bytes == len(to_bytes(model))``."""
    total = len(to_bytes(model))
    encoded = iter(_encode_layers(model))
    rows = []
    for index, population in enumerate(model.populations):
        for synapses in population.synapses:
            rows.append(next(encoded).size(synapses.codes, synapses.bits, affine=len(synapses.scale)))
        rows.append(LayerSize(f"population {index}, bias", 0, 0, 0, "all", 0, 0, 2 * len(population.bias)))
    readout = model.readout
    rows.append(next(encoded).size(readout.codes, readout.bits, affine=len(readout.scale) + len(readout.bias)))
    return SizeTable(total - sum(row.bytes for row in rows), tuple(rows))


def size_bound(model: PackedModel) -> int:
    """The most bytes that any model of the same shape can take.

    Of the same shape are all models that differ from ``model`` only in which weights are kept (not in how many of
    each layer), in codes, scales, biases and their shifts, in F', in firing rates, and in the input's mean and std.
    """
    channels = model.input.shape[0]
    populations = tuple(
        replace(
            population,
            synapses=tuple(replace(synapses, shift=_MAX_SHIFT) for synapses in population.synapses),
            rate=0.1234,
            bias_shift=_MAX_BIAS_SHIFT,
        )
        for population in model.populations
    )
    worst = replace(
        model,
        input=replace(model.input, mean=(0.0,) * channels, std=(1.0,) * channels),
        populations=populations,
        readout=replace(model.readout, shift=_MAX_SHIFT, bias_shift=_MAX_BIAS_SHIFT, fraction=_MAX_FRACTION),
    )
    codings = []
    payload = 0
    for _, codes, bits in _coded_layers(model):
        kept = int(np.count_nonzero(codes))
        codings.append(_ALL if kept == codes.size else MAX_RICE)
        payload += math.ceil(position_bits(codes.size, kept) / 8) + bitstrings.field_bytes(kept, bits)
    longer = len("-1234567890000000.0") - len("0.0") + len("1234567890000000.0") - len("1.0")
    metadata = _metadata(worst, codings) + " " * (longer * channels)
    affine = np.zeros(sum(map(len, _affine_arrays(model))), _affine_type(model.fraction))
    return len(_container(metadata, affine, bytes(payload)))


# --- Packing: what the header and the streams of a model are. ---


@dataclass(frozen=True)
class _EncodedLayer:
    name: str
    positions: bitstrings.Positions
    codes: bytes

    @property
    def coding(self) -> int:
        return {"all": _ALL, "map": _MAP, "gap": self.positions.rice}[self.positions.coding]

    def size(self, codes: NDArray[np.int8], bits: int, *, affine: int) -> LayerSize:
        kept = int(np.count_nonzero(codes))
        coding, _, positions = self.positions
        return LayerSize(self.name, codes.size, kept, bits, coding, len(positions), len(self.codes), 2 * affine)


def _coded_layers(model: PackedModel) -> Iterator[tuple[str, NDArray[np.int8], int]]:
    """Name, codes and bits of every layer in the order of the file."""
    for index, population in enumerate(model.populations):
        for number, synapses in enumerate(population.synapses):
            yield f"population {index}, synapses {number}", synapses.codes, synapses.bits
    yield "readout", model.readout.codes, model.readout.bits


def _affine_arrays(model: PackedModel) -> Iterator[Affine]:
    """Scales and biases in the order of the file."""
    for population in model.populations:
        for synapses in population.synapses:
            yield synapses.scale
        yield population.bias
    yield model.readout.scale
    yield model.readout.bias


def _encode_layers(model: PackedModel) -> list[_EncodedLayer]:
    layers = []
    for name, codes, bits in _coded_layers(model):
        if codes.dtype != np.int8:
            _refuse(f"{_ORIGIN}: {name}: codes", "int8", codes.dtype)
        kept = codes[codes != 0]
        try:
            data = bitstrings.pack_fields(bitstrings.codes_to_fields(kept, bits), bits) if codes.size else b""
        except ValueError as error:
            raise InputError(f"{_ORIGIN}: {name}: {error}") from None
        layers.append(_EncodedLayer(name, bitstrings.encode_positions(codes != 0), data))
    return layers


def _metadata(model: PackedModel, codings: Sequence[int]) -> str:
    """The JSON text of a model whose layers, readout included, have these position codings."""
    coding = iter(codings)
    fixed = model.fraction is not None
    populations: list[list[object]] = []
    for population in model.populations:
        row: list[object] = [population.rate, len(population.bias), *([population.bias_shift] if fixed else [])]
        for synapses in population.synapses:
            details = [synapses.stride, synapses.bits, int(np.count_nonzero(synapses.codes)), next(coding)]
            layer = [list(synapses.sources), synapses.kernel, *(details if synapses.kernel else [])]
            row.append([*layer, synapses.shift] if fixed else layer)
        populations.append(row)
    spec, readout = model.input, model.readout
    head: list[object] = [list(readout.sources), readout.bits, int(np.count_nonzero(readout.codes)), next(coding)]
    if fixed:
        head += [readout.shift, readout.bias_shift, readout.fraction]
    front_end = spec.front_end
    record = {
        "version": (_FIXED_VERSION if fixed else _FLOAT_VERSION) + (0 if front_end is None else _SOUND),
        "input": [spec.kind, *spec.shape, list(spec.mean), list(spec.std)],
        **({} if front_end is None else {"front_end": [_FRONT_END, *front_end.model_dump().values()]}),
        "timesteps": model.timesteps,
        "leak": model.leak,
        "threshold": model.threshold,
        **({"fraction": model.fraction} if fixed else {}),
        "classes": list(model.classes),
        "populations": populations,
        "readout": head,
        "crc": _NO_CRC,
    }
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _affine_type(fraction: int | None) -> str:
    """The NumPy type of ``affine`` in the file."""
    return "<f2" if fraction is None else "<i2"


_CONTAINER_TYPES = {"<f2": "F16", "<i2": "I16"}
"""What safetensors calls them."""


def _container(metadata: str, affine: NDArray[np.generic], weights: bytes) -> bytes:
    tensors: dict[str, NDArray[np.generic]] = {"affine": affine, "weights": np.frombuffer(weights, np.uint8)}
    return _sealed(safetensors.numpy.save(tensors, {_METADATA_KEY: metadata}))


def _sealed(data: bytes) -> bytes:
    """The file ``data`` with its own checksum. A file is whole if it already was the same."""
    before, mark, rest = data.partition(_CRC_MARK)
    after = rest[len(_NO_CRC) :]
    crc = zlib.crc32(before + mark + _NO_CRC.encode() + after)
    return before + mark + b"%08x" % crc + after


def _check_arrays(model: PackedModel, header: _Header) -> None:
    """Raise ``InputError`` where an array of ``model`` is not what its own header says."""
    fixed = model.fraction is not None
    for row, population in zip(header.populations, model.populations, strict=True):
        for layer, synapses in zip(row.layers, population.synapses, strict=True):
            where = f"{_ORIGIN}: {layer.name}"
            if synapses.codes.shape != layer.weights:
                _refuse(f"{where}: codes", f"the shape {layer.weights}", synapses.codes.shape)
            if (synapses.stride, synapses.bits) != (layer.stride, layer.bits):
                _refuse(where, "an identity to have stride 1 and 0 bits", (synapses.stride, synapses.bits))
            _check_affine(synapses.scale, row.shape[0], f"{where}: scale", fixed=fixed)
            _check_shifts((synapses.shift,), (layer.shift,), where)
        where = f"{_ORIGIN}: {row.name}"
        _check_affine(population.bias, row.shape[0], f"{where}: bias", fixed=fixed)
        _check_shifts((population.bias_shift,), (row.bias_shift,), where)
    readout, where = model.readout, f"{_ORIGIN}: readout"
    head = header.readout
    if readout.codes.shape != head.layer.weights:
        _refuse(f"{where}: codes", f"the shape {head.layer.weights}", readout.codes.shape)
    _check_affine(readout.scale, len(header.classes), f"{where}: scale", fixed=fixed)
    _check_affine(readout.bias, len(header.classes), f"{where}: bias", fixed=fixed)
    shifts = (readout.shift, readout.bias_shift, readout.fraction)
    _check_shifts(shifts, (head.layer.shift, head.bias_shift, head.fraction), where)


def _check_affine(array: Affine, length: int, where: str, *, fixed: bool) -> None:
    dtype = np.int16 if fixed else np.float32
    if array.dtype != dtype or array.shape != (length,):
        _refuse(where, f"{np.dtype(dtype)} [{length}]", f"{array.dtype} {list(array.shape)}")
    if fixed:
        return
    with np.errstate(over="ignore"):
        exact = array == array.astype(np.float16)
    if not (exact & np.isfinite(array)).all():
        _refuse(where, "finite float16 numbers", float(array[~exact | ~np.isfinite(array)][0]))


def _check_shifts(found: tuple[int, ...], written: tuple[int, ...], where: str) -> None:
    if found != written:  # the header of a float model has none
        _refuse(where, "shifts and fractions of 0 in a float model", found)


# --- Fixed point: everything fits int32, whatever the input. ---


def _prove_int32(model: PackedModel, origin: str) -> None:
    """Raise ``InputError`` unless no input can take an integer of a fixed-point model out of int32.

    With a the largest accumulator of a channel (Σ|code|, times 127 for the image, times H·W·T for the readout):
    |M|·a fits int32, a population's Σ_e ((|M_e|·a_e >> shift_e) + 1) + |B| stays within 2^30, and the readout's
    (|M|·a >> shift) + 1 + T·|B| below 2^23. A shift rounds down, which makes negative numbers larger by up to one.
    """
    if model.fraction is None:
        return
    for index, population in enumerate(model.populations):
        where = f"{origin}: population {index}"
        current = np.abs(population.bias.astype(np.int64)) << population.bias_shift  # [C]
        for number, synapses in enumerate(population.synapses):
            inputs = _MAX_INPUT if synapses.sources == (IMAGE,) else 1
            name = f"{where}, synapses {number}"
            current += _largest_result(synapses.codes, inputs, synapses.scale, synapses.shift, name)
        if (largest := int(current.max())) > _MAX_CURRENT:
            _refuse(where, f"currents of at most 2^30 = {_MAX_CURRENT} for every input", largest)
    readout, where = model.readout, f"{origin}: readout"
    _, height, width = population_shapes(model)[readout.sources[0]]
    counts = height * width * model.timesteps
    bias = model.timesteps * (np.abs(readout.bias.astype(np.int64)) << readout.bias_shift)
    logits = bias + _largest_result(readout.codes, counts, readout.scale, readout.shift, where)
    if (largest := int(logits.max())) > _MAX_LOGIT:
        _refuse(where, f"integer logits of at most {_MAX_LOGIT} for every input", largest)


def _largest_result(codes: NDArray[np.int8], inputs: int, scale: Affine, shift: int, where: str) -> NDArray[np.int64]:
    """The largest magnitude [C] of (scale·Σ code·input) >> shift for inputs up to ``inputs``."""
    if codes.shape[-1]:
        sums = np.abs(codes.reshape(len(codes), -1).astype(np.int64)).sum(axis=1) * inputs
    else:
        sums = np.ones(len(codes), np.int64)  # an identity
    products = np.abs(scale.astype(np.int64)) * sums
    if (largest := int(products.max())) > _MAX_ACCUMULATOR:
        _refuse(where, f"products of at most {_MAX_ACCUMULATOR} for every input", largest)
    result: NDArray[np.int64] = (products >> shift) + 1
    return result


def _shortest(value: float) -> float:
    """The number of fewest decimal digits that is ``value`` in float32; at most 9 digits are needed."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    for digits in range(1, 9):
        if np.float32(short := float(f"{single:.{digits}g}")) == single:
            return short
    return float(f"{single:.9g}")


# --- Unpacking: what the header says, checked, and what the streams hold. ---


@dataclass(frozen=True)
class _LayerRow:
    name: str
    sources: tuple[int, ...]
    kernel: int
    stride: int
    bits: int
    kept: int
    coding: int
    weights: tuple[int, ...]  # the shape of the codes
    shift: int


@dataclass(frozen=True)
class _PopulationRow:
    name: str
    rate: float | None
    shape: tuple[int, int, int]  # [C, H, W]
    layers: tuple[_LayerRow, ...]
    bias_shift: int


@dataclass(frozen=True)
class _ReadoutRow:
    layer: _LayerRow
    bias_shift: int
    fraction: int


@dataclass(frozen=True)
class _Header:
    input: InputSpec
    timesteps: int
    leak: float
    threshold: float
    classes: tuple[str, ...]
    populations: tuple[_PopulationRow, ...]
    readout: _ReadoutRow
    fraction: int | None


class _HeaderReader:
    """Reads the header's JSON. It keeps the shapes and sizes of what it has read, to check what follows."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.shapes: list[tuple[int, int, int]] = []  # of the populations so far
        self.image = (0, 0, 0)
        self.neurons = 0
        self.weights = 0
        self.fixed = False

    def header(self, metadata: str) -> _Header:
        record = _load_object(metadata, self.origin)
        version = record.get("version")
        latest = _FIXED_VERSION + _SOUND
        if type(version) is not int or not 1 <= version <= latest:
            _refuse(f"{self.origin}: version", f"1 to {latest}, those that this litesnn reads", version)
        sound = version > _SOUND
        self.fixed = version - (_SOUND if sound else 0) == _FIXED_VERSION
        keys = ["version", "input", "timesteps", "leak", "threshold", "classes", "populations", "readout", "crc"]
        if self.fixed:
            keys.insert(5, "fraction")
        if sound:
            keys.insert(2, "front_end")
        if set(record) != set(keys):
            _refuse(f"{self.origin}: header", f"the keys {', '.join(keys)}", list(record))
        if not isinstance(crc := record["crc"], str) or not re.fullmatch("[0-9a-f]{8}", crc):
            _refuse(f"{self.origin}: crc", "eight hexadecimal digits", crc)
        spec = self.input(record["input"])
        if sound:
            spec = replace(spec, front_end=self.front_end(record["front_end"], spec))
        timesteps = _integer(record["timesteps"], 1, _MAX_TIMESTEPS, f"{self.origin}: timesteps")
        leak = _number(record["leak"], f"{self.origin}: leak")
        if not 0 <= leak <= 1:
            _refuse(f"{self.origin}: leak", "a number from 0 to 1", leak)
        threshold = _positive(record["threshold"], f"{self.origin}: threshold")
        fraction = self.fraction(record["fraction"], leak, threshold) if self.fixed else None
        classes = _texts(record["classes"], f"{self.origin}: classes")
        rows = _list(record["populations"], f"{self.origin}: populations", at_least=1)
        populations = tuple(self.population(row, index) for index, row in enumerate(rows))
        readout = self.readout(record["readout"], classes=len(classes), timesteps=timesteps)
        return _Header(spec, timesteps, leak, threshold, classes, populations, readout, fraction)

    def fraction(self, value: object, leak: float, threshold: float) -> int:
        """F, with which the threshold has to be an integer; the leak is a shift."""
        if leak != _FIXED_LEAK:
            _refuse(f"{self.origin}: leak", f"{_FIXED_LEAK} in fixed point", leak)
        fraction = _integer(value, 1, _MAX_FRACTION, f"{self.origin}: fraction")
        steps = threshold * 2**fraction
        if not steps.is_integer() or not 1 <= steps <= _MAX_CURRENT:
            _refuse(f"{self.origin}: threshold", f"a multiple of 2^-{fraction} up to 2^{30 - fraction}", threshold)
        return fraction

    def input(self, value: object) -> InputSpec:
        where = f"{self.origin}: input"
        row = _list(value, where, length=6)
        if row[0] != "image" and row[0] != "array":
            _refuse(f"{where}: kind", "'image' or 'array'", row[0])
        channels, height, width = (
            _integer(size, 1, _MAX_NEURONS, f"{where}: {name}")
            for size, name in zip(row[1:4], ("channels", "height", "width"), strict=True)
        )
        self.image = (channels, height, width)
        self.count_neurons(self.image, where)
        mean = tuple(_number(item, f"{where}: mean") for item in _list(row[4], f"{where}: mean", length=channels))
        std = tuple(_positive(item, f"{where}: std") for item in _list(row[5], f"{where}: std", length=channels))
        return InputSpec(self.image, "image" if row[0] == "image" else "array", mean, std)

    def front_end(self, value: object, spec: InputSpec) -> LogMel:
        """The front end, whose features have to be what the input is."""
        where = f"{self.origin}: front end"
        names = list(LogMel.model_fields)
        row = _list(value, where, length=1 + len(names))
        if row[0] != _FRONT_END:
            _refuse(where, repr(_FRONT_END), row[0])
        for name, item in zip(names, row[1:], strict=True):
            number = _number(item, f"{where}: {name}")
            if LogMel.model_fields[name].annotation is int and type(item) is not int:
                _refuse(f"{where}: {name}", "an integer", number)
        try:
            front_end = LogMel.model_validate(dict(zip(names, row[1:], strict=True)))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{where}: {'.'.join(map(str, first['loc'])) or 'settings'}: {first['msg']}") from None
        if spec.kind != "array" or spec.shape != front_end.shape:
            _refuse(f"{self.origin}: input", f"array {_by(front_end.shape)}", f"{spec.kind} {_by(spec.shape)}")
        return front_end

    def population(self, value: object, index: int) -> _PopulationRow:
        name = f"population {index}"
        where = f"{self.origin}: {name}"
        first = 3 if self.fixed else 2  # of the layers
        row = _list(value, where, at_least=first + 1)
        rate = None if row[0] is None else _number(row[0], f"{where}: rate")
        if rate is not None and not 0 <= rate <= 1:
            _refuse(f"{where}: rate", "null or a number from 0 to 1", rate)
        channels = _integer(row[1], 1, _MAX_NEURONS, f"{where}: channels")
        bias_shift = _integer(row[2], 0, _MAX_BIAS_SHIFT, f"{where}: bias shift") if self.fixed else 0
        layers = []
        sizes = []
        for number, item in enumerate(row[first:]):
            layer, size = self.synapses(item, f"{name}, synapses {number}", channels)
            layers.append(layer)
            sizes.append(size)
            if size != sizes[0]:
                _refuse(f"{self.origin}: {layer.name}", f"an output of {_by(sizes[0])} like synapses 0", _by(size))
        shape = (channels, *sizes[0])
        self.count_neurons(shape, where)
        self.shapes.append(shape)
        return _PopulationRow(name, rate, shape, tuple(layers), bias_shift)

    def synapses(self, value: object, name: str, channels: int) -> tuple[_LayerRow, tuple[int, int]]:
        """A layer into ``channels`` channels, and the size [H, W] of its output."""
        where = f"{self.origin}: {name}"
        row = _list(value, where, at_least=2)
        sources, (fan_in, height, width) = self.sources(row[0], f"{where}: sources", image=row[1] != 0)
        kernel = _integer(row[1], 0, _MAX_KERNEL, f"{where}: kernel")
        extra = 1 if self.fixed else 0  # the shift, at the end
        if kernel == 0:
            row = _list(value, where, length=2 + extra)
            if fan_in != channels:
                _refuse(where, f"{channels} channels for an identity", fan_in)
            shift = self.shift(row[-1], where)
            return _LayerRow(name, sources, 0, 1, 0, 0, _ALL, (channels, 0, 0, 0), shift), (height, width)
        if kernel % 2 == 0:
            _refuse(f"{where}: kernel", "an odd number, or 0 for an identity", kernel)
        row = _list(value, where, length=6 + extra)
        stride = _integer(row[2], 1, _MAX_STRIDE, f"{where}: stride")
        shift = self.shift(row[-1], where)
        layer = self.layer(name, sources, kernel, stride, row[3:6], (channels, fan_in, kernel, kernel), shift)
        self.check_accumulator(layer, fan_in * kernel**2 * (_MAX_INPUT if sources == (IMAGE,) else 1))
        return layer, (-(-height // stride), -(-width // stride))

    def shift(self, value: object, where: str) -> int:
        """A layer's shift, which only fixed-point models have."""
        return _integer(value, 0, _MAX_SHIFT, f"{where}: shift") if self.fixed else 0

    def readout(self, value: object, *, classes: int, timesteps: int) -> _ReadoutRow:
        where = f"{self.origin}: readout"
        row = _list(value, where, length=7 if self.fixed else 4)
        sources, (fan_in, height, width) = self.sources(row[0], f"{where}: sources", image=False)
        numbers = (0, 0, 0)
        if self.fixed:
            shift = self.shift(row[4], where)
            bias_shift = _integer(row[5], 0, _MAX_BIAS_SHIFT, f"{where}: bias shift")
            numbers = (shift, bias_shift, _integer(row[6], 0, _MAX_FRACTION, f"{where}: fraction"))
        layer = self.layer("readout", sources, 1, 1, row[1:4], (classes, fan_in), numbers[0])
        self.check_accumulator(layer, fan_in * height * width * timesteps)
        return _ReadoutRow(layer, *numbers[1:])

    def layer(
        self,
        name: str,
        sources: tuple[int, ...],
        kernel: int,
        stride: int,
        values: list[object],
        weights: tuple[int, ...],
        shift: int,
    ) -> _LayerRow:
        """A layer with weights of the shape ``weights``; ``values`` are its bits, kept weights and coding."""
        where = f"{self.origin}: {name}"
        count = math.prod(weights)
        self.weights += count
        if self.weights > _MAX_WEIGHTS:
            _refuse(where, f"at most {_MAX_WEIGHTS} weights in all", self.weights)
        bits = _integer(values[0], 1, 4, f"{where}: bits")
        kept = _integer(values[1], 0, count, f"{where}: kept weights")
        coding = _integer(values[2], _ALL, MAX_RICE, f"{where}: coding")
        if (coding == _ALL) != (kept == count):
            _refuse(f"{where}: coding", f"{_ALL} if and only if all {count} weights are kept", (coding, kept))
        return _LayerRow(name, sources, kernel, stride, bits, kept, coding, weights, shift)

    def sources(self, value: object, where: str, *, image: bool) -> tuple[tuple[int, ...], tuple[int, int, int]]:
        """The sources, and the shape [C, H, W] of their concatenation; ``image`` allows the image, alone."""
        items = _list(value, where, at_least=1)
        if image and items == [IMAGE] and type(items[0]) is int:
            return (IMAGE,), self.image
        if not self.shapes:
            _refuse(where, f"[{IMAGE}], the image, for the first population", items)
        sources = tuple(_integer(item, 0, len(self.shapes) - 1, where) for item in items)
        shapes = [self.shapes[source] for source in sources]
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            _refuse(where, "populations of one size", [_by(shape[1:]) for shape in shapes])
        return sources, (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def count_neurons(self, shape: tuple[int, int, int], where: str) -> None:
        self.neurons += math.prod(shape)
        if self.neurons > _MAX_NEURONS:
            _refuse(where, f"at most {_MAX_NEURONS} pixels and neurons in all", self.neurons)

    def check_accumulator(self, layer: _LayerRow, inputs: int) -> None:
        """``inputs`` is the largest possible sum of the inputs that one accumulator weighs."""
        largest = (2**layer.bits - 1) * inputs
        if largest > _MAX_ACCUMULATOR:
            _refuse(f"{self.origin}: {layer.name}", f"sums of at most {_MAX_ACCUMULATOR}", largest)


class _WeightsStream:
    def __init__(self, data: bytes, origin: str) -> None:
        self._rest = memoryview(data)
        self._origin = origin

    def take(self, layer: _LayerRow) -> NDArray[np.int8]:
        """The codes of the next layer."""
        count = math.prod(layer.weights)
        coding: bitstrings.Coding = {_ALL: "all", _MAP: "map"}.get(layer.coding, "gap")  # type: ignore[assignment]
        codes_bytes = bitstrings.field_bytes(layer.kept, layer.bits)
        try:
            mask, used = bitstrings.decode_positions(
                self._rest, count, layer.kept, coding=coding, rice=max(layer.coding, 0)
            )
            stream = self._rest[used : used + codes_bytes]
            kept = bitstrings.fields_to_codes(bitstrings.unpack_fields(stream, layer.kept, layer.bits), layer.bits)
        except ValueError as error:
            raise InputError(f"{self._origin}: {layer.name}: {error}") from None
        self._rest = self._rest[used + codes_bytes :]
        codes = np.zeros(count, np.int8)
        codes[mask] = kept
        return codes.reshape(layer.weights)

    def finish(self) -> None:
        if self._rest:
            _refuse(f"{self._origin}: weights", "no bytes after the readout's", f"{len(self._rest)} bytes")


class _AffineStream:
    def __init__(self, data: bytes, stored: str, origin: str) -> None:
        numbers = np.frombuffer(data, stored)
        self._rest: Affine = numbers.astype(np.int16) if stored == "<i2" else numbers.astype(np.float32)
        self._origin = origin

    def take(self, count: int, name: str) -> Affine:
        """The next ``count`` numbers."""
        taken, self._rest = self._rest[:count].copy(), self._rest[count:]
        if len(taken) < count:
            _refuse(f"{self._origin}: {name}", f"{count} numbers in 'affine'", f"{len(taken)} left")
        if not np.isfinite(taken).all():
            _refuse(f"{self._origin}: {name}", "finite numbers", float(taken[~np.isfinite(taken)][0]))
        return taken

    def finish(self) -> None:
        if len(self._rest):
            _refuse(f"{self._origin}: affine", "no numbers after the readout's bias", f"{len(self._rest)} numbers")


def _open_container(data: bytes, origin: str) -> tuple[str, str, bytes, bytes]:
    """The JSON text, the type of ``affine``, its bytes, and the bytes of ``weights``."""
    if len(data) > _MAX_FILE_BYTES:
        _refuse(origin, f"a packed model of at most {_MAX_FILE_BYTES} bytes", "more")
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(_MAX_HEADER_BYTES, len(data) - 8):
        _refuse(origin, "a packed model, which is a safetensors file", f"{len(data)} bytes that do not start as one")
    try:
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        # safetensors gives metadata of files only, not of bytes; it has just checked that this header is sound.
        header = json.loads(data[8 : 8 + header_bytes].decode("utf-8"))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: expected a packed model, which is a safetensors file: {_show(error)}") from None
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or set(metadata) != {_METADATA_KEY}:
        _refuse(origin, f"a packed model, with the metadata {_METADATA_KEY!r}", metadata)
    found = {name: (tensor["dtype"], len(tensor["shape"])) for name, tensor in tensors.items()}
    if found not in ({"affine": (kind, 1), "weights": ("U8", 1)} for kind in _CONTAINER_TYPES.values()):
        _refuse(origin, "the tensors 'affine' F16 or I16 [m] and 'weights' U8 [n]", found)
    affine, weights = tensors["affine"], tensors["weights"]
    return str(metadata[_METADATA_KEY]), affine["dtype"], bytes(affine["data"]), bytes(weights["data"])


def _load_object(text: str, origin: str) -> dict[str, object]:
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: header: expected JSON with finite numbers: {_show(error)}") from None
    if not isinstance(value, dict):
        _refuse(f"{origin}: header", "a JSON object", value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(record := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def _list(value: object, where: str, *, length: int | None = None, at_least: int = 0) -> list[object]:
    if not isinstance(value, list) or len(value) < at_least or (length is not None and len(value) != length):
        _refuse(where, f"a list of {f'at least {at_least}' if length is None else length}", value)
    return value


def _integer(value: object, low: int, high: int, where: str) -> int:
    if type(value) is not int or not low <= value <= high:  # JSON's true is an int to isinstance
        _refuse(where, f"an integer from {low} to {high}", value)
    return value


def _number(value: object, where: str) -> float:
    largest = float(np.finfo(np.float32).max)
    if type(value) not in (int, float) or not -largest <= value <= largest:  # type: ignore[operator]
        _refuse(where, "a float32 number", value)
    return float(value)  # type: ignore[arg-type]


def _positive(value: object, where: str) -> float:
    number = _number(value, where)
    if not np.float32(number) > 0:
        _refuse(where, "a float32 number above zero", number)
    return number


def _texts(value: object, where: str) -> tuple[str, ...]:
    texts = []
    for item in _list(value, where, at_least=1):
        if not isinstance(item, str) or not item or any("\ud800" <= letter <= "\udfff" for letter in item):
            _refuse(where, "names, which are text and not empty", item)
        texts.append(item)
    return tuple(texts)


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _refuse(where: str, expected: str, found: object) -> NoReturn:
    raise InputError(f"{where}: expected {expected}, found {_show(found)}")


def _show(value: object) -> str:
    """``value`` in one short line, however long a file made it, and with no letter that a terminal obeys or refuses."""
    text = " ".join(str(value).split()) if isinstance(value, str | Exception) else repr(value)
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:81])
    return text if len(text) <= 80 else f"{text[:77]}…"
