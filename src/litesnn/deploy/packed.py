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

  A model of recordings has one more key after the input, and a version 2 higher. Of sound it is ``"front_end":
  ["log-mel", rate, clip ms, window ms, hop ms, mels, low Hz, high Hz, floor]`` (:class:`~litesnn.front_end.LogMel`), of
  events ``["event-frames", by, frame ms, frame events, H, W, clip]`` (:class:`~litesnn.front_end.EventFrames`).

  A fixed-point model has version 2. It has one more key after the threshold, ``"fraction": F``, and more numbers in its
  rows: a population is ``[rate, channels, bias shift, layer, …]``, a layer ends with its shift (an identity is
  ``[[source, …], 0, shift]``), and the readout ends with shift, bias shift and F'.

  A model with soft resets, or with populations that have a leak or a reset of their own, has two more keys before the
  classes, and a version 4 higher: ``"reset": R``, ``null`` for the hard reset, and ``"neurons": [row, …]`` with a row
  for each population: ``null`` if it has the model's neuron, else ``[leak, reset]``, where ``null`` is the model's and
  ``"hard"`` the hard reset. The list is empty if no population has its own.

  A model of graded spikes has one more key after the threshold, and a version 8 higher: ``"levels": D``, the largest
  spike, 2 or more. All its resets are hard ones.

A file is untrusted: everything that it says is checked before it is used, and every failure is one line of
:class:`InputError`. The checksum comes last: it finds damage that makes sense, and is no defence against a file that
was made to deceive. That all integers of a fixed-point model fit int32 is proven from its weights. Writing goes through
the same checks, so that what can be written can be read.

C channels, H×W pixels, k kernel size, T timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litesnn.costs.size import MAX_RICE, position_bits
from litesnn.deploy import bits as bitstrings
from litesnn.deploy.json_checks import refuse
from litesnn.deploy.limits import MAX_HEADER_BYTES
from litesnn.deploy.packed_container import (
    CONTAINER_TYPES,
    MAX_FILE_BYTES,
    affine_type,
    container,
    header_bytes,
    open_container,
    sealed,
)
from litesnn.deploy.packed_header import (
    ALL,
    MAX_BIAS_SHIFT,
    MAX_FRACTION,
    MAX_SHIFT,
    Header,
    read_header,
    write_header,
)
from litesnn.deploy.packed_model import (
    IMAGE,
    Affine,
    InputSpec,
    PackedModel,
    PackedNeuron,
    Population,
    Readout,
    Synapses,
    bit_planes,
    described,
    has_own_neurons,
    neuron_of,
    population_shapes,
)
from litesnn.deploy.packed_proof import prove_int32
from litesnn.deploy.packed_streams import (
    AffineStream,
    EncodedLayer,
    WeightsStream,
    affine_arrays,
    coded_layers,
    encode_layers,
)
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.models import find_model

__all__ = [
    "IMAGE",
    "Affine",
    "InputSpec",
    "LayerSize",
    "PackedModel",
    "PackedNeuron",
    "Population",
    "Readout",
    "SizeTable",
    "Synapses",
    "bit_planes",
    "described",
    "from_bytes",
    "has_own_neurons",
    "neuron_of",
    "population_shapes",
    "read",
    "require_packable_input",
    "size_bound",
    "size_table",
    "to_bytes",
    "write",
]

_ORIGIN = "packed model"
_LONGEST_LEAK = len("1.23456789e-05")


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
    layers = encode_layers(model, _ORIGIN)
    metadata = write_header(model, [layer.coding for layer in layers])
    _check_arrays(model, read_header(metadata, _ORIGIN))
    prove_int32(model, _ORIGIN)
    affine = np.concatenate(list(affine_arrays(model))).astype(affine_type(model.fraction))
    data = container(metadata, affine, b"".join(layer.positions.data + layer.codes for layer in layers))
    if (size := header_bytes(data)) > MAX_HEADER_BYTES:
        refuse(f"{_ORIGIN}: header", f"at most {MAX_HEADER_BYTES} bytes", size)
    if len(data) > MAX_FILE_BYTES:
        refuse(_ORIGIN, f"a packed model of at most {MAX_FILE_BYTES} bytes", len(data))
    return data


def require_packable_input(spec: InputSpec, classes: tuple[str, ...], origin: str) -> None:
    """Refuse an input and classes with which no network can be packed, however it is made; ``origin`` is their name.

    The smallest network with them is packed, and half of the header is left to others.

    Raises:
        InputError: a name of a class is empty, too long or no text that UTF-8 has, or the input has a size or numbers
            that no packed file can have.
    """
    channels = spec.shape[0]
    stem = Synapses((IMAGE,), 1, 1, 1, np.ones((1, channels, 1, 1), np.int8), np.ones(1, np.float32))
    population = Population((stem,), np.ones(1, np.float32), None)
    codes, numbers = np.ones((len(classes), 1), np.int8), np.ones(len(classes), np.float32)
    smallest = PackedModel(spec, 1, 0, 1, classes, (population,), Readout((0,), 1, codes, numbers, numbers))
    metadata = write_header(smallest, [ALL, ALL])
    read_header(metadata, origin)
    size, room = header_bytes(container(metadata, numbers.astype("<f2"), b"")), MAX_HEADER_BYTES // 2
    if size > room:
        refuse(f"{origin}: names of {len(classes)} classes", f"at most {room} bytes in all", size)


def from_bytes(data: bytes, origin: str = _ORIGIN) -> PackedModel:
    """Unpack a model; ``origin`` is the name that an error gives the bytes.

    Raises:
        InputError: the bytes are not a packed model of a known version, in every detail.
    """
    metadata, affine_kind, affine_data, weights_data = open_container(data, origin)
    header = read_header(metadata, origin)
    stored = affine_type(header.fraction)
    if affine_kind != CONTAINER_TYPES[stored]:
        refuse(f"{origin}: affine", f"{CONTAINER_TYPES[stored]} numbers in this version", affine_kind)
    weights, affine = WeightsStream(weights_data, origin), AffineStream(affine_data, stored, origin)
    populations = []
    for row in header.populations:
        synapses = []
        for layer in row.layers:
            codes = weights.take(layer)
            scale = affine.take(row.shape[0], f"{layer.name}: scale")
            synapses.append(Synapses(layer.sources, layer.kernel, layer.stride, layer.bits, codes, scale, layer.shift))
        bias = affine.take(row.shape[0], f"{row.name}: bias")
        populations.append(Population(tuple(synapses), bias, row.rate, row.bias_shift, row.leak, row.reset))
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
    if sealed(data) != data:
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
        header.reset,
        header.levels,
    )
    prove_int32(model, origin)
    return model


def write(model: PackedModel, path: Path) -> None:
    """Write a packed model, all or nothing: if it cannot be written, ``path`` stays as it was.

    Raises:
        InputError: as :func:`to_bytes`, or the file cannot be written.
    """
    write_atomically(path, to_bytes(model))


def read(path: Path) -> PackedModel:
    """Read a packed model: a file, or one that comes with the package by its name.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = find_model(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a packed model: {error.strerror or error}") from None
    return from_bytes(data, origin=str(path))


def size_table(model: PackedModel) -> SizeTable:
    """Where the bytes go; ``size_table(model).bytes == len(to_bytes(model))``."""
    total = len(to_bytes(model))
    encoded = iter(encode_layers(model, _ORIGIN))
    rows = []
    for index, population in enumerate(model.populations):
        for synapses in population.synapses:
            rows.append(_layer_size(next(encoded), synapses.codes, synapses.bits, affine=len(synapses.scale)))
        rows.append(LayerSize(f"population {index}, bias", 0, 0, 0, "all", 0, 0, 2 * len(population.bias)))
    readout = model.readout
    rows.append(_layer_size(next(encoded), readout.codes, readout.bits, affine=len(readout.scale) + len(readout.bias)))
    return SizeTable(total - sum(row.bytes for row in rows), tuple(rows))


def _layer_size(layer: EncodedLayer, codes: NDArray[np.int8], bits: int, *, affine: int) -> LayerSize:
    kept = int(np.count_nonzero(codes))
    coding, _, positions = layer.positions
    return LayerSize(layer.name, codes.size, kept, bits, coding, len(positions), len(layer.codes), 2 * affine)


def size_bound(model: PackedModel) -> int:
    """The most bytes that any model of the same shape can take.

    Of the same shape are all models that differ from ``model`` only in which weights are kept (not in how many of
    each layer), in codes, scales, biases and their shifts, in F', in firing rates, in the input's mean and std, and in
    the leaks of the populations that have their own.
    """
    channels = model.input.shape[0]
    populations = tuple(
        replace(
            population,
            synapses=tuple(replace(synapses, shift=MAX_SHIFT) for synapses in population.synapses),
            rate=0.1234,
            bias_shift=MAX_BIAS_SHIFT,
        )
        for population in model.populations
    )
    worst = replace(
        model,
        input=replace(model.input, mean=(0.0,) * channels, std=(1.0,) * channels),
        populations=populations,
        readout=replace(model.readout, shift=MAX_SHIFT, bias_shift=MAX_BIAS_SHIFT, fraction=MAX_FRACTION),
    )
    codings = []
    payload = 0
    for _, codes, bits in coded_layers(model):
        kept = int(np.count_nonzero(codes))
        codings.append(ALL if kept == codes.size else MAX_RICE)
        payload += math.ceil(position_bits(codes.size, kept) / 8) + bitstrings.field_bytes(kept, bits)
    longer = len("-1234567890000000.0") - len("0.0") + len("1234567890000000.0") - len("1.0")
    leaks = sum(_LONGEST_LEAK - len(repr(each.leak)) for each in populations if each.leak is not None)
    metadata = write_header(worst, codings) + " " * (longer * channels + leaks)
    affine = np.zeros(sum(map(len, affine_arrays(model))), affine_type(model.fraction))
    return len(container(metadata, affine, bytes(payload)))


# --- Checks before packing. ---


def _check_arrays(model: PackedModel, header: Header) -> None:
    """Raise ``InputError`` where an array of ``model`` is not what its own header says."""
    fixed = model.fraction is not None
    for row, population in zip(header.populations, model.populations, strict=True):
        for layer, synapses in zip(row.layers, population.synapses, strict=True):
            where = f"{_ORIGIN}: {layer.name}"
            if synapses.codes.shape != layer.weights:
                refuse(f"{where}: codes", f"the shape {layer.weights}", synapses.codes.shape)
            if (synapses.stride, synapses.bits) != (layer.stride, layer.bits):
                refuse(where, "an identity to have stride 1 and 0 bits", (synapses.stride, synapses.bits))
            _check_affine(synapses.scale, row.shape[0], f"{where}: scale", fixed=fixed)
            _check_shifts((synapses.shift,), (layer.shift,), where)
        where = f"{_ORIGIN}: {row.name}"
        _check_affine(population.bias, row.shape[0], f"{where}: bias", fixed=fixed)
        _check_shifts((population.bias_shift,), (row.bias_shift,), where)
    readout, where = model.readout, f"{_ORIGIN}: readout"
    head = header.readout
    if readout.codes.shape != head.layer.weights:
        refuse(f"{where}: codes", f"the shape {head.layer.weights}", readout.codes.shape)
    _check_affine(readout.scale, len(header.classes), f"{where}: scale", fixed=fixed)
    _check_affine(readout.bias, len(header.classes), f"{where}: bias", fixed=fixed)
    shifts = (readout.shift, readout.bias_shift, readout.fraction)
    _check_shifts(shifts, (head.layer.shift, head.bias_shift, head.fraction), where)


def _check_affine(array: Affine, length: int, where: str, *, fixed: bool) -> None:
    dtype = np.int16 if fixed else np.float32
    if array.dtype != dtype or array.shape != (length,):
        refuse(where, f"{np.dtype(dtype)} [{length}]", f"{array.dtype} {list(array.shape)}")
    if fixed:
        return
    with np.errstate(over="ignore"):
        exact = array == array.astype(np.float16)
    if not (exact & np.isfinite(array)).all():
        refuse(where, "finite float16 numbers", float(array[~exact | ~np.isfinite(array)][0]))


def _check_shifts(found: tuple[int, ...], written: tuple[int, ...], where: str) -> None:
    if found != written:  # the header of a float model has none
        refuse(where, "shifts and fractions of 0 in a float model", found)
