"""Files of MNIST and of data sets handed out like it: ``train-images-idx3-ubyte``, with or without ``.gz``.

In: a folder. Out: for each split its arrays, images uint8 [N, H, W] and labels uint8 [N]. A file begins with two zeros,
8 for uint8, the number of its dimensions, and their lengths, 4 bytes each, most significant first.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from litesnn.data.bounds import ARRAY_BYTES, require_file
from litesnn.data.listing import HIDDEN
from litesnn.data.split_names import Role
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = ["find_idx", "read_idx"]

_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(\.gz)?")
_ROLES: dict[str, Role] = {"train": "train", "t10k": "test", "test": "test"}
_UINT8 = 8
_BLOCK = 2**24  # bytes that are read at a time

What = Literal["images", "labels"]


def find_idx(place: Path) -> Mapping[tuple[Role, What], Path]:
    """The files of a folder, or of one up to two folders below it, by split and by what they hold; none if it has none.

    An unpacked file goes before a packed one of the same name.

    Raises:
        InputError: several folders have such files.
    """
    folders = [place] if place.is_dir() else []
    for _ in range(3):
        entries = [entry for folder in folders for entry in _entries(folder)]
        found: dict[tuple[Role, What], Path] = {}
        places: set[str] = set()
        for entry in sorted(entries, key=lambda entry: entry.path):  # "NAME" comes before "NAME.gz"
            if (parts := _NAME.fullmatch(entry.name.lower())) and entry.is_file():
                found.setdefault((_ROLES[parts[1]], cast("What", parts[2])), Path(entry.path))
                places.add(os.path.dirname(entry.path))
        if len(places) > 1:
            several = ", ".join(sorted(places))
            raise InputError(f"{place}: holds several data sets like MNIST: {several}; expected one of these folders")
        if found:
            return found
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return {}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, but for hidden ones; nothing, if it cannot be read, which its reader will say."""
    try:
        with os.scandir(folder) as listed:
            return [entry for entry in listed if not entry.name.startswith(HIDDEN)]
    except OSError:
        return []


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of a file.

    Raises:
        InputError: it is missing or damaged, holds something else than uint8, or is too large.
    """
    require_file(path)
    try:
        with cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return _array(file)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as an IDX file, as MNIST has them: {reason_of(error)}") from None


def _array(file: IO[bytes]) -> NDArray[np.uint8]:
    zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
    if zero != 0 or kind != _UINT8:
        raise ValueError("it does not begin with 0, 0, 8")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    size = math.prod(shape)
    if size > ARRAY_BYTES:
        raise ValueError(f"its shape {list(shape)} takes {size} bytes; an array may {ARRAY_BYTES}")
    content = bytearray()
    while len(content) <= size and (block := file.read(min(_BLOCK, size + 1 - len(content)))):
        content += block
    if len(content) != size:
        has = "more" if len(content) > size else len(content)
        raise ValueError(f"its shape {list(shape)} takes {size} bytes, and it has {has}")
    return np.frombuffer(content, np.uint8).reshape(shape) if size else np.zeros(shape, np.uint8)
