"""Recordings of event cameras: the events of a file, and the frames that they become.

In: files of 5-byte events, as those of N-MNIST (Orchard et al., Frontiers in Neuroscience 2015): x, y, and three bytes,
most significant first, of which the highest bit is the polarity and the others are the time in µs. Out: frames of
counts uint8 [N, T, C, H, W]. They are kept on disk (:mod:`litesnn.data.cache`).

N recordings, T timesteps, C = 2 polarities, H × W pixels, K events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litesnn.data.cache import cached
from litesnn.data.damaged import Damaged
from litesnn.data.event_files import EventFile, contents
from litesnn.errors import InputError
from litesnn.front_end import EventFrames

__all__ = ["Events", "check_events", "decode_events", "event_frames", "read_frames"]

_EVENT_BYTES = 5
_VERSION = 1  # of what is kept on disk: raised when the same settings give other numbers


@dataclass(frozen=True, eq=False)
class Events:
    """The events of a recording, in the order of time, int64 [K] each: place, polarity 0 or 1, and time in µs."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    polarity: NDArray[np.int64]
    time: NDArray[np.int64]


def decode_events(content: bytes, name: str) -> Events:
    """The events of a file; ``name`` is what an error calls it.

    Raises:
        InputError: the file is empty, ends within an event, or goes back in time.
    """
    if not content:
        raise InputError(f"{name}: holds no events")
    if len(content) % _EVENT_BYTES:
        raise InputError(f"{name}: has {len(content)} bytes, which are no whole events of {_EVENT_BYTES}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _EVENT_BYTES).astype(np.int64)
    time = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
    if len(back := np.flatnonzero(np.diff(time) < 0)):
        first = int(back[0]) + 1
        raise InputError(f"{name}: event {first} is at {time[first]} µs, before the one that precedes it: damaged")
    return Events(rows[:, 0], rows[:, 1], rows[:, 2] >> 7, time)


def event_frames(events: Events, settings: EventFrames, timesteps: int, name: str) -> NDArray[np.uint8]:
    """The first frames [T, C, H, W] of a recording; those for which there are no events are zero.

    By time, frame t has the events from t·frame_ms on, until (t + 1)·frame_ms. By count it has the next frame_events.

    Raises:
        InputError: an event lies outside of the sensor.
    """
    outside = np.flatnonzero((events.x >= settings.width) | (events.y >= settings.height))
    if len(outside):
        first = outside[0]
        raise InputError(
            f"{name}: event {first} is at x = {events.x[first]}, y = {events.y[first]}, outside of events.width = "
            f"{settings.width}, events.height = {settings.height}"
        )
    if settings.by == "time":
        frame = (events.time / (1000 * settings.frame_ms)).astype(np.int64)
    else:
        frame = np.arange(len(events.time)) // settings.frame_events
    shape = (timesteps, *settings.shape)
    seen = frame < timesteps
    places = np.ravel_multi_index((frame[seen], events.polarity[seen], events.y[seen], events.x[seen]), shape)
    counts = np.bincount(places, minlength=int(np.prod(shape)))
    frames: NDArray[np.uint8] = np.minimum(counts, settings.clip).astype(np.uint8).reshape(shape)
    return frames


def check_events(files: Sequence[EventFile]) -> None:
    """See that recordings can be read, but for those in archives. Raises ``InputError`` if some are not."""
    apart = [file for file in files if file.member is None]
    damaged = Damaged()
    for _, name, content in contents(apart, damaged):
        with damaged.kept():
            decode_events(content, name)
    damaged.complain(len(apart))


def read_frames(files: Sequence[EventFile], settings: EventFrames, timesteps: int) -> Tensor:
    """The frames uint8 [N, T, C, H, W] of recordings. Raises ``InputError`` if one is missing or damaged."""

    def make() -> Tensor:
        frames = np.zeros((len(files), timesteps, *settings.shape), np.uint8)
        for row, name, content in contents(files, damaged):
            with damaged.kept():
                frames[row] = event_frames(decode_events(content, name), settings, timesteps, name)
        damaged.complain(len(files))
        return torch.from_numpy(frames)

    damaged, states = Damaged(), []
    for file in files:
        with damaged.kept() if file.member is None else nullcontext():  # a missing archive is said once
            states.append(file.state())
    damaged.complain(len(files))
    which = hashlib.sha256(repr(states).encode()).hexdigest()
    key = hashlib.sha256(repr((_VERSION, which, settings.model_dump_json(), timesteps)).encode()).hexdigest()
    return cached("events", key, make)
