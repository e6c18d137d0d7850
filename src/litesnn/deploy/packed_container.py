"""The container of a packed file: one safetensors file of a text and two tensors, with a checksum over everything.

In: the header's text, scales and biases, the bytes of weights. Out: the bytes of the file, and back.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from litesnn.deploy.json_checks import refuse, show
from litesnn.deploy.limits import MAX_HEADER_BYTES
from litesnn.deploy.packed_header import NO_CRC
from litesnn.errors import InputError

__all__ = ["CONTAINER_TYPES", "MAX_FILE_BYTES", "affine_type", "container", "header_bytes", "open_container", "sealed"]

MAX_FILE_BYTES = 2**26
_METADATA_KEY = "litesnn_packed"
_CRC_MARK = rb"\"crc\":\""  # the key as it stands in the file, as JSON in a string of JSON; no value can hold this

CONTAINER_TYPES = {"<f2": "F16", "<i2": "I16"}
"""The names that safetensors has for the types of scales and biases."""


def affine_type(fraction: int | None) -> str:
    """The NumPy type of ``affine`` in the file."""
    return "<f2" if fraction is None else "<i2"


def header_bytes(data: bytes) -> int:
    """How long a file says that its header is."""
    return int.from_bytes(data[:8], "little")


def container(metadata: str, affine: NDArray[np.generic], weights: bytes) -> bytes:
    """The bytes of a file."""
    tensors: dict[str, NDArray[np.generic]] = {"affine": affine, "weights": np.frombuffer(weights, np.uint8)}
    return sealed(safetensors.numpy.save(tensors, {_METADATA_KEY: metadata}))


def sealed(data: bytes) -> bytes:
    """The file ``data`` with its own checksum. A file is whole if it already was the same."""
    before, mark, rest = data.partition(_CRC_MARK)
    after = rest[len(NO_CRC) :]
    crc = zlib.crc32(before + mark + NO_CRC.encode() + after)
    return before + mark + b"%08x" % crc + after


def open_container(data: bytes, origin: str) -> tuple[str, str, bytes, bytes]:
    """The JSON text, the type of ``affine``, its bytes, and the bytes of ``weights``."""
    if len(data) > MAX_FILE_BYTES:
        refuse(origin, f"a packed model of at most {MAX_FILE_BYTES} bytes", "more")
    size = header_bytes(data)
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        refuse(origin, "a packed model, which is a safetensors file", f"{len(data)} bytes that do not start as one")
    try:
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        # safetensors gives metadata of files only, not of bytes; it has just checked that this header is sound.
        header = json.loads(data[8 : 8 + size].decode("utf-8"))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: expected a packed model, which is a safetensors file: {show(error)}") from None
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or set(metadata) != {_METADATA_KEY}:
        refuse(origin, f"a packed model, with the metadata {_METADATA_KEY!r}", metadata)
    found = {name: (tensor["dtype"], len(tensor["shape"])) for name, tensor in tensors.items()}
    if found not in ({"affine": (kind, 1), "weights": ("U8", 1)} for kind in CONTAINER_TYPES.values()):
        refuse(origin, "the tensors 'affine' F16 or I16 [m] and 'weights' U8 [n]", found)
    affine, weights = tensors["affine"], tensors["weights"]
    return str(metadata[_METADATA_KEY]), affine["dtype"], bytes(affine["data"]), bytes(weights["data"])
