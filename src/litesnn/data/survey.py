"""The facts of a data set that a recipe follows: the size of its images, what its sound or its events become.

In: the settings of a data set. Out: for dotted keys of a recipe the values that should differ from the defaults, each
with its reason. Headers of some of the training files are read, and of events some recordings; of the test nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from litesnn.data.audio import check_sound, sound_length
from litesnn.data.event_files import EventFile, contents
from litesnn.data.events import check_events, decode_events
from litesnn.data.images import Encoded, check_images, fitting_size, image_sizes
from litesnn.data.rows import Rows
from litesnn.data.settings import DataSettings, FrontEnds
from litesnn.data.sources import open_source, part
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, LogMel

__all__ = ["Advice", "suggest_settings"]

FileT = TypeVar("FileT", Encoded, EventFile)

_SAMPLE = 500  # files that are looked at
_LARGEST = 64  # pixels of a side of images that stay as they are
_SAMPLE_RATE = 16000  # the highest that is suggested
_CLIP_MS = 4000  # the longest clip that is suggested
_FRAMES = 100  # of a clip, or a few more
_FEW_FRAMES = 30
_MELS = (40, 32, 24, 20, 16, 12, 8, 4)
_SENSORS = (34, 64, 100, 120, 128, 180, 240, 256)  # rows or columns that event cameras and data sets of them have


@dataclass(frozen=True)
class Advice:
    """A value for a key of a recipe, and in a clause why."""

    value: Any
    reason: str


def suggest_settings(settings: DataSettings, *, timesteps: int) -> dict[str, Advice]:
    """Dotted keys of a recipe that should differ from the defaults for a data set, with values and reasons.

    Of images ``data.size``, if they differ in size or are larger than 64 pixels on a side and ``settings`` do not say
    it already; of sound keys of ``audio``; of events of ``events``, for so many ``timesteps``. Arrays need none.

    Raises:
        InputError: the data set is missing, damaged or not understood, or a class has too few rows.
    """
    opened = open_source(settings, FrontEnds(timesteps=timesteps))
    rows = part(opened, settings).train
    if opened.kind == "image":
        return {} if settings.size is not None else _images(rows)
    if isinstance(opened.front_end, LogMel):
        return _advise(_sound, [file for file in _some_files(rows) if isinstance(file, Encoded)], check_sound)
    if isinstance(opened.front_end, EventFrames):
        recordings = [file for file in _some_files(rows) if isinstance(file, EventFile)]
        return _advise(partial(_events, timesteps=timesteps), recordings, check_events)
    return {}


def _advise(
    make: Callable[[Sequence[FileT]], dict[str, Advice]],
    files: Sequence[FileT],
    check: Callable[[Sequence[FileT]], None],
) -> dict[str, Advice]:
    """Advice from those of some files that can be read: reading all of them says which cannot.

    Raises:
        InputError: none can.
    """
    try:
        return make(files)
    except InputError:
        whole = []
        for file in files:
            with suppress(InputError):
                check([file])
                whole.append(file)
        if len(whole) in (0, len(files)):
            raise
        return make(whole)


def _some_files(rows: Rows) -> Sequence[Encoded | EventFile]:
    """Files of rows that lie evenly among all."""
    count = len(rows.labels)
    return [] if rows.files is None else rows.files(np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64)))


def _images(rows: Rows) -> dict[str, Advice]:
    if rows.files is not None:
        files = [file for file in _some_files(rows) if isinstance(file, Encoded)]
        return _advise(lambda some: _size_of(image_sizes(some)), files, check_images)
    return _size_of(np.array([rows.read(np.zeros(1, np.int64), None, None).shape[2:]]))


def _size_of(sizes: npt.NDArray[np.int64]) -> dict[str, Advice]:
    """The size that images of heights and widths [N, 2] are rescaled to, if they are."""
    height, width = sizes[0]
    if (sizes == sizes[0]).all():
        if sizes.max() <= _LARGEST:
            return {}
        reason = f"images are {width} wide and {height} high"
    else:
        low, high = np.percentile(sizes[:, 1], (25, 75)).astype(int)
        reason = f"images differ in size; half of them are between {low} and {high} pixels wide"
    return {"data.size": Advice(fitting_size(sizes), reason)}


def _sound(files: Sequence[Encoded]) -> dict[str, Advice]:
    found = [(min(rate, _SAMPLE_RATE), seconds) for rate, seconds in map(sound_length, files)]
    (rate, count), *_ = Counter(rate for rate, _ in found).most_common()
    default, advice = LogMel(), {}
    if rate != default.sample_rate:
        share = "all" if count == len(found) else f"{round(100 * count / len(found))} %"
        advice["audio.sample_rate"] = Advice(rate, f"{share} of the recordings looked at have so many samples a second")
    high = min(default.high_hz, rate / 2)
    if high != default.high_hz:
        advice["audio.high_hz"] = Advice(high, "half of the samples per second, the highest frequency that they hold")

    clip, reason = _clip(np.array([seconds for _, seconds in found]))
    if clip != default.clip_ms:
        advice["audio.clip_ms"] = Advice(clip, reason)
    hop, window = default.hop_ms, default.window_ms
    if clip > hop * (_FRAMES + 5):
        hop = float(math.ceil(clip / _FRAMES))
        window = max(window, 2 * hop)
        why = f"so that a clip has about {_FRAMES} frames"
    elif clip < hop * _FEW_FRAMES:
        hop = float(max(1, int(clip / _FEW_FRAMES)))
        window = 3 * hop
        why = f"so that a clip as short as this has about {_FEW_FRAMES} frames"
    if hop != default.hop_ms:
        advice["audio.hop_ms"] = Advice(hop, why)
    if window != default.window_ms:
        advice["audio.window_ms"] = Advice(window, f"{window / hop:g} times the step, so that windows overlap")
    values = {"sample_rate": rate, "high_hz": high, "clip_ms": clip, "hop_ms": hop, "window_ms": window}
    mels = next(mels for mels in _MELS if _possible({**values, "mels": mels}))
    if mels != default.mels:
        advice["audio.mels"] = Advice(mels, "as many bands as windows of this length can tell apart")
    return advice


def _clip(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, str]:
    """Length of a clip in ms for recordings of so many seconds, and why."""
    most = 1000 * float(np.percentile(seconds, 95))
    step = next(step for limit, step in ((200, 10), (1000, 50), (2000, 100), (math.inf, 250)) if most <= 1.01 * limit)
    clip = float(max(40, step * math.ceil(0.99 * most / step)))
    if clip > _CLIP_MS:
        last = f"recordings last {seconds.min():.3g} to {seconds.max():.3g} s"
        return float(_CLIP_MS), f"{last}; the first {_CLIP_MS // 1000} s of each are heard"
    return clip, f"95 of 100 recordings last {most:.0f} ms or less"


def _possible(values: dict[str, float]) -> bool:
    try:
        LogMel.model_validate(values)
    except ValidationError:
        return False
    return True


def _events(files: Sequence[EventFile], timesteps: int) -> dict[str, Advice]:
    recordings = [decode_events(content, name) for _, name, content in contents(files)]
    default, advice = EventFrames(), {}
    for key, lines in (("height", [found.y for found in recordings]), ("width", [found.x for found in recordings])):
        largest = int(max(line.max() for line in lines))
        if (side := _sensor(largest + 1)) != getattr(default, key):
            name = "y" if key == "height" else "x"
            advice[f"events.{key}"] = Advice(side, f"the largest {name} of the recordings looked at is {largest}")
    length = float(np.median([found.time[-1] for found in recordings])) / 1000
    step = 5 if length / timesteps >= 20 else 0.5
    frame = max(step, step * math.ceil(0.95 * length / timesteps / step))
    if frame != default.frame_ms:
        reason = f"recordings last {length:.0f} ms, in {timesteps} frames"
        advice["events.frame_ms"] = Advice(float(min(frame, 10000)), reason)
    return advice


def _sensor(seen: int) -> int:
    """Rows or columns of a sensor of which ``seen`` were seen: those of a known one, if that is not much more."""
    known = next(side for side in _SENSORS if side >= seen)
    return known if known <= 1.15 * seen else min(256, 4 * math.ceil(seen / 4))
