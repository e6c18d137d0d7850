"""The check whether the data are those that a run was begun with: rows, classes, labels and contents, as digests.

In: the splits of a data set. Out: a :class:`DataPin`, which the run folder keeps as ``data.json``, and in words what
differs between two of them.

Digested are, of each split in its order:

- all labels, and how many rows there are;
- of arrays and events all values, as they have been read;
- of images and sound in files the size of every file and the bytes of an even sample: every file of at most 4096, else
  as many at equal distances; of files above 64 KiB the first and the last 32 KiB. In tables (parquet, the hub) sizes
  are those of the sample too. Neither names, times nor decoded values are, which differ between machines.

It takes about a second per GB of arrays, and for files one look at each and at most 256 MiB to read. Missed are: one
changed file among more than 4096 whose size stays the same (or in its middle), and the background noise of sound.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from litesnn.data.event_files import EventFile
from litesnn.data.images import Encoded
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.front_end import InputKind
from litesnn.text import shape_text

__all__ = ["DataPin", "RowsPin", "first_change", "pin_rows", "rows_change"]

_SAMPLE = 4096  # files
_PIECE = 2**15  # bytes at the start and at the end of a file
_CHUNK = 512  # files of a table in memory at a time


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowsPin(_Record):
    """Of the rows of a split: their number, and the first half of the SHA-256 of labels and of contents."""

    rows: int
    labels: str
    contents: str


class DataPin(_Record):
    """Of a data set; ``test`` is left out until the test rows are read."""

    version: int = 1
    kind: InputKind
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: RowsPin
    validation: RowsPin
    test: RowsPin | None = None


def pin_rows(x: Tensor, y: Tensor, files: Callable[[IntArray], Sequence[Encoded | EventFile]] | None = None) -> RowsPin:
    """The pin of inputs x [N, …] with labels y int64 [N]; ``files`` gives those of some rows, where there are files.

    Raises:
        InputError: a file cannot be read any more.
    """
    labels = hashlib.sha256(y.contiguous().numpy().data).hexdigest()
    contents = None if files is None else _digest_files(files, len(y))
    if contents is None:
        digest = hashlib.sha256(f"{x.dtype} {list(x.shape)};".encode())
        digest.update(x.contiguous().numpy().data)
        contents = digest.hexdigest()
    return RowsPin(rows=len(y), labels=labels[:32], contents=contents[:32])


def first_change(then: DataPin, now: DataPin) -> str | None:
    """The difference, in words; ``None`` if nothing is. The test rows are not looked at."""
    if then.kind != now.kind:
        return f"the inputs are of the kind {now.kind!r}, not {then.kind!r}"
    if then.shape != now.shape:
        return f"the inputs have the shape {shape_text(now.shape)}, not {shape_text(then.shape)}"
    if len(then.classes) != len(now.classes):
        return f"there are {len(now.classes)} classes, not {len(then.classes)}"
    for number, (before, after) in enumerate(zip(then.classes, now.classes, strict=True)):
        if before != after:
            return f"class {number} is called {after!r}, not {before!r}"
    return rows_change(then.train, now.train, "training") or rows_change(then.validation, now.validation, "validation")


def rows_change(then: RowsPin, now: RowsPin, split: str) -> str | None:
    """As :func:`first_change`, of the rows of one split."""
    if then.rows != now.rows:
        return f"there are {now.rows} {split} rows, not {then.rows}"
    if then.labels != now.labels:
        return f"the labels of the {split} rows differ, or their order"
    if then.contents != now.contents:
        return f"the contents of the {split} rows differ, or their order"
    return None


def _digest_files(files: Callable[[IntArray], Sequence[Encoded | EventFile]], count: int) -> str | None:
    """The digest of sizes and of a sample of bytes; ``None`` for events, whose frames are the same everywhere."""
    digest = hashlib.sha256()
    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    in_tables = False
    for file in _each(files, sample):
        if isinstance(file, EventFile):
            return None
        in_tables |= file.content is not None
        size, piece = _piece(file)
        digest.update(f"{size};".encode())
        digest.update(piece)
    if not in_tables:
        for file in files(np.arange(count)):
            if isinstance(file, Encoded) and file.path is not None:
                digest.update(f"{_size(file.path)};".encode())
    return digest.hexdigest()


def _each(files: Callable[[IntArray], Sequence[Encoded | EventFile]], rows: IntArray) -> Iterator[Encoded | EventFile]:
    for start in range(0, len(rows), _CHUNK):
        yield from files(rows[start : start + _CHUNK])


def _piece(file: Encoded) -> tuple[int, bytes]:
    """Size and start and end of a file."""
    if file.content is not None:
        return len(file.content), file.content[:_PIECE] + file.content[_PIECE:][-_PIECE:]
    if file.path is None:
        raise InputError(f"{file.name}: is missing")
    size = _size(file.path)
    try:
        with open(file.path, "rb") as opened:
            start = opened.read(_PIECE)
            opened.seek(max(_PIECE, size - _PIECE))
            return size, start + opened.read(_PIECE)
    except OSError as error:
        raise InputError(f"{file.path}: cannot be read: {error.strerror or error}") from None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
