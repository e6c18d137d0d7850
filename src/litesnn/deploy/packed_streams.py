"""The two streams of a packed file: positions and codes of all layers, and scales and biases; written and read.

:mod:`litesnn.deploy.packed` says how they are laid out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy import bits as bitstrings
from litesnn.deploy.json_checks import refuse
from litesnn.deploy.packed_header import ALL, MAP, LayerRow
from litesnn.deploy.packed_model import Affine, PackedModel
from litesnn.errors import InputError

__all__ = [
    "AffineStream",
    "EncodedLayer",
    "WeightsStream",
    "affine_arrays",
    "coded_layers",
    "encode_layers",
]


@dataclass(frozen=True)
class EncodedLayer:
    """The streams of one layer."""

    name: str
    positions: bitstrings.Positions
    codes: bytes

    @property
    def coding(self) -> int:
        """The number by which the header names this coding."""
        return {"all": ALL, "map": MAP, "gap": self.positions.rice}[self.positions.coding]


def coded_layers(model: PackedModel) -> Iterator[tuple[str, NDArray[np.int8], int]]:
    """Name, codes and bits of every layer in the order of the file."""
    for index, population in enumerate(model.populations):
        for number, synapses in enumerate(population.synapses):
            yield f"population {index}, synapses {number}", synapses.codes, synapses.bits
    yield "readout", model.readout.codes, model.readout.bits


def affine_arrays(model: PackedModel) -> Iterator[Affine]:
    """Scales and biases in the order of the file."""
    for population in model.populations:
        for synapses in population.synapses:
            yield synapses.scale
        yield population.bias
    yield model.readout.scale
    yield model.readout.bias


def encode_layers(model: PackedModel, origin: str) -> list[EncodedLayer]:
    """The streams of every layer in the order of the file. Raises ``InputError`` for codes that are none."""
    layers = []
    for name, codes, bits in coded_layers(model):
        if codes.dtype != np.int8:
            refuse(f"{origin}: {name}: codes", "int8", codes.dtype)
        kept = codes[codes != 0]
        try:
            data = bitstrings.pack_fields(bitstrings.codes_to_fields(kept, bits), bits) if codes.size else b""
        except ValueError as error:
            raise InputError(f"{origin}: {name}: {error}") from None
        layers.append(EncodedLayer(name, bitstrings.encode_positions(codes != 0), data))
    return layers


class WeightsStream:
    """Reads the positions and codes of one layer after the other."""

    def __init__(self, data: bytes, origin: str) -> None:
        self._rest = memoryview(data)
        self._origin = origin

    def take(self, layer: LayerRow) -> NDArray[np.int8]:
        """The codes of the next layer."""
        count = math.prod(layer.weights)
        coding: bitstrings.Coding = {ALL: "all", MAP: "map"}.get(layer.coding, "gap")  # type: ignore[assignment]
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
        """Raise ``InputError`` if anything is left."""
        if self._rest:
            refuse(f"{self._origin}: weights", "no bytes after the readout's", f"{len(self._rest)} bytes")


class AffineStream:
    """Reads scales and biases."""

    def __init__(self, data: bytes, stored: str, origin: str) -> None:
        numbers = np.frombuffer(data, stored)
        self._rest: Affine = numbers.astype(np.int16) if stored == "<i2" else numbers.astype(np.float32)
        self._origin = origin

    def take(self, count: int, name: str) -> Affine:
        """The next ``count`` numbers."""
        taken, self._rest = self._rest[:count].copy(), self._rest[count:]
        if len(taken) < count:
            refuse(f"{self._origin}: {name}", f"{count} numbers in 'affine'", f"{len(taken)} left")
        if not np.isfinite(taken).all():
            refuse(f"{self._origin}: {name}", "finite numbers", float(taken[~np.isfinite(taken)][0]))
        return taken

    def finish(self) -> None:
        """Raise ``InputError`` if anything is left."""
        if len(self._rest):
            refuse(f"{self._origin}: affine", "no numbers after the readout's bias", f"{len(self._rest)} numbers")
