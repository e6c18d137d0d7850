"""Rows that are not decoded yet, of every kind: what the readers of data sets find, and what gives inputs of them.

In: arrays, or what fetches encoded files. Out: :class:`Rows` and, for a whole data set, :class:`Opened`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litesnn.data.arrays import resize_arrays
from litesnn.data.audio import Clip, Recordings, check_sound
from litesnn.data.event_files import EventFile
from litesnn.data.images import Encoded, check_images, decode_images
from litesnn.data.settings import DataSettings
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.front_end import FrontEnd, InputKind, LogMel

__all__ = ["Opened", "Rows", "Shape", "array_rows", "find_groups", "image_rows", "sound_rows"]

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows not decoded yet. ``read(rows, shape, size)`` gives the inputs [len(rows), C, H, W] of some of them.

    ``shape`` is the shape of the training inputs, or None while those are read themselves. ``size`` is what images are
    rescaled to where the settings do not say. ``recordings`` gives some of the rows as sound, if they are. ``files``
    gives those of some rows, unread, where there are files. ``paths`` gives the names of the files of all rows below
    their folder, where they have names. ``check`` sees that the files of some rows can be read, as far as that takes
    little time, and raises ``InputError`` if not.
    """

    labels: IntArray
    read: Callable[[IntArray, Shape | None, int | None], Tensor]
    recordings: Callable[[IntArray], Recordings] | None = None
    files: Callable[[IntArray], Sequence[Encoded | EventFile]] | None = None
    paths: Callable[[], Sequence[str | None]] | None = None
    check: Callable[[IntArray], None] | None = None

    def take(self, rows: IntArray) -> Rows:
        """Some of the rows; which is known of ``paths`` before anything is taken."""
        recordings, files, check = self.recordings, self.files, self.check
        return Rows(
            self.labels[rows],
            lambda wanted, shape, size: self.read(rows[wanted], shape, size),
            recordings and (lambda wanted: recordings(rows[wanted])),
            files and (lambda wanted: files(rows[wanted])),
            check=check and (lambda wanted: check(rows[wanted])),
        )


@dataclass(frozen=True, eq=False)
class Opened:
    """The rows that a reader finds. A ``validation`` or ``test`` of None is to be cut from the training rows.

    ``noise`` gives background noise int16 [any]; without it the training rows of the class ``_silence_`` are.
    """

    classes: tuple[str, ...]
    kind: InputKind
    train: Rows
    validation: Rows | None = None
    test: Callable[[], Rows] | None = None
    notes: tuple[str, ...] = ()
    front_end: FrontEnd | None = None
    noise: Callable[[], Tensor] | None = None


def array_rows(x: Tensor, labels: IntArray, settings: DataSettings) -> Rows:
    """Rows of inputs x [N, C, H, W]."""

    def read(rows: IntArray, shape: Shape | None, size: int | None) -> Tensor:
        taken = x[torch.from_numpy(rows)]
        return taken if settings.size is None else resize_arrays(taken, settings.size)

    return Rows(labels, read)


def image_rows(
    fetch: Callable[[IntArray], Sequence[Encoded]],
    labels: IntArray,
    settings: DataSettings,
    paths: Callable[[], Sequence[str | None]] | None = None,
) -> Rows:
    """Rows of encoded images, which ``fetch`` fetches."""

    def read(rows: IntArray, shape: Shape | None, size: int | None) -> Tensor:
        side = settings.size or size
        return decode_images(fetch, rows, size=None if side is None else (side, side), shape=shape)

    return Rows(labels, read, files=fetch, paths=paths, check=lambda rows: check_images(fetch(rows)))


def sound_rows(
    fetch: Callable[[IntArray], Sequence[Clip]],
    labels: IntArray,
    audio: LogMel,
    paths: Callable[[], Sequence[str | None]] | None = None,
) -> Rows:
    """Rows of recordings, which become features."""

    def recordings(rows: IntArray) -> Recordings:
        return Recordings(fetch, rows, audio)

    return Rows(
        labels,
        lambda rows, shape, size: recordings(rows).features(),
        recordings,
        files=lambda rows: [clip.encoded for clip in fetch(rows)],
        paths=paths,
        check=lambda rows: check_sound([clip.encoded for clip in fetch(rows)]),
    )


def find_groups(paths: Sequence[str | None], pattern: str, origin: str) -> tuple[IntArray, tuple[str, ...]]:
    """The group [N] of each file by ``data.group_pattern``, counted from 0, and notes about files that have none.

    A file in whose name the pattern is not found is a group of its own.

    Raises:
        InputError: the pattern is found in no name.
    """
    search = re.compile(pattern).search
    found = [path and (match := search(path)) and match[1] for path in paths]
    lost = [path for path, group in zip(paths, found, strict=True) if not group]
    if lost and len(lost) == len(paths):
        example = f"; one of them is {lost[0]!r}" if lost[0] else ""
        raise InputError(f"{origin}: data.group_pattern = {pattern!r} is found in no name of a file{example}")
    names = {name: number for number, name in enumerate(dict.fromkeys(group for group in found if group))}
    alone = iter(range(len(names), len(names) + len(lost)))
    groups = np.array([names[group] if group else next(alone) for group in found], np.int64)
    note = f"{len(names)} groups by data.group_pattern; none is in two splits"
    if lost:
        note += f". {len(lost)} of {len(paths)} files have no group and count as one each, the first is {lost[0]}"
    return groups, (note,)
