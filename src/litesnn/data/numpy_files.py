"""Reading ``.npy`` and ``.npz`` files: never unpickled, and no larger than the file can be and a bound allows.

In: paths. Out: arrays. The shape in a header and the sizes in an archive are claims: memory is taken for no more than
the bound, and what is read is counted.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from litesnn.data.bounds import ARRAY_BYTES, require_file
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = ["read_npy", "read_npz"]

_DAMAGE = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, NotImplementedError),  # encrypted, nested too deeply, or a version of zip that is not known
    *(
        SyntaxError,
        tokenize.TokenError,
        TypeError,
        LookupError,
        AttributeError,
    ),  # of headers, as Python literals
    *(ArithmeticError, MemoryError, AssertionError),  # of shapes
)
"""The exceptions that NumPy and zipfile raise on files that they cannot read."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADERS = {
    (1, 0): ("<H", npy_format.read_array_header_1_0),
    (2, 0): ("<I", npy_format.read_array_header_2_0),
}
"""Of each version of the format how it writes the length of its header, and what reads both."""

_HEADER_BYTES = 2**16
_BLOCK = 2**24  # bytes that are read at a time
_SUFFIX = ".npy"


def read_npy(path: Path) -> NDArray[np.generic]:
    """The array of a ``.npy`` file.

    Raises:
        InputError: it is missing, damaged or too large, or holds Python objects.
    """
    with _opened(path) as file:
        if _is_zip(file):
            raise InputError(f"{path}: holds several arrays; expected one array, as np.save writes it")
        return _read_array(file, path.stat().st_size)


def read_npz(path: Path, wanted: Collection[str]) -> tuple[dict[str, NDArray[np.generic]], frozenset[str]]:
    """Those of the wanted arrays that an ``.npz`` file holds, and the names of all that it holds.

    Arrays that are not wanted are not read.

    Raises:
        InputError: the file is missing or damaged, is no ``.npz`` file, or a wanted array is too large, encrypted or
            holds Python objects.
    """
    with _opened(path) as file:
        if file.read(len(npy_format.MAGIC_PREFIX)) == npy_format.MAGIC_PREFIX:
            raise InputError(
                f"{path}: holds a single unnamed array; expected arrays x and y, as np.savez('data.npz', x=x, y=y) "
                "writes"
            )
        with zipfile.ZipFile(file) as archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for entry in archive.infolist():
                if members.setdefault(entry.filename.removesuffix(_SUFFIX), entry) is not entry:
                    raise InputError(f"{path}: {entry.filename} is in it twice")
            found = {}
            for name in (name for name in members if name in wanted):
                with _naming(f"{path}: {name}"):
                    found[name] = _read_member(archive, members[name])
            return found, frozenset(members)


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[np.generic]:
    if entry.compress_type not in _METHODS:
        raise ValueError(f"it is compressed by method {entry.compress_type}; expected 0 (stored) or 8 (deflated)")
    with archive.open(entry) as stream:
        array = _read_array(stream, entry.file_size)
        stream.read(1)  # the checksum is compared at the end
        return array


def _read_array(stream: IO[bytes], size: int) -> NDArray[np.generic]:
    """The array of a stream that says to have so many bytes. Raises ``ValueError`` and others of ``_DAMAGE``."""
    version = npy_format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"its format has version {version[0]}.{version[1]}; expected 1.0 or 2.0")
    form, read_header = _HEADERS[version]
    said = stream.read(struct.calcsize(form))
    (length,) = struct.unpack(form, said)
    if length > _HEADER_BYTES:
        raise ValueError(f"its header says {length} bytes; expected at most {_HEADER_BYTES}")
    shape, in_columns, dtype = read_header(io.BytesIO(said + stream.read(length)))
    if dtype.hasobject:
        raise ValueError("it holds Python objects; expected numbers, or names as in y.astype(str)")
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape {list(shape)} is none")
    count = math.prod(shape)
    needed, held = count * dtype.itemsize, size - stream.tell()
    if needed != held:
        raise ValueError(f"its shape {_short(shape)} of type {dtype} takes {needed} bytes, and it has {held}")
    if needed > ARRAY_BYTES:
        raise ValueError(f"its shape {_short(shape)} of type {dtype} takes {needed} bytes; an array may {ARRAY_BYTES}")
    content = bytearray()
    while len(content) < needed:
        block = stream.read(min(_BLOCK, needed - len(content)))
        if not block:
            raise ValueError(f"it ends after {len(content)} of {needed} bytes")
        content += block
    array: NDArray[Any] = np.frombuffer(content, dtype) if needed else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).transpose() if in_columns else array.reshape(shape)


def _short(shape: tuple[int, ...]) -> str:
    text = str(list(shape))
    return text if len(text) <= 80 else f"{text[:80]}…"


def _is_zip(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start[:2] == b"PK"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    require_file(path)
    with _naming(str(path)), path.open("rb") as file:
        yield file


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise an ``InputError`` that names the file for what goes wrong in reading it."""
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{name}: cannot be read as NumPy arrays: {reason_of(error)}") from None
