"""Sound: recordings decoded to clips of one length, and their log-mel features.

In: sound files (WAV, FLAC, Ogg and whatever else soundfile reads). Out: clips int16 [N, S], features float32
[N, 1, mels, frames]. Both are kept on disk (:mod:`litesnn.data.cache`).

N recordings, B batch, S samples of a clip.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from litesnn.data.cache import cached
from litesnn.data.images import Encoded
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.extras import need
from litesnn.front_end import LogMel, mel_filters

__all__ = ["AUDIO_SUFFIXES", "Clip", "Recordings", "Sound", "decode", "decode_clip", "log_mel", "sound_length"]

AUDIO_SUFFIXES = {".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}

_FULL_SCALE = 32768
_CHUNK = 512  # recordings at a time
_VERSION = 1  # of what is kept on disk: raised when the same settings give other numbers


@dataclass(frozen=True)
class Clip:
    """A recording, or a piece of a long one.

    Attributes:
        encoded: the file.
        place: where in the file the clip begins: 0 at its start, 1 at the last place where a whole clip fits.
        volume: what the samples are multiplied by.
    """

    encoded: Encoded
    place: float = 0.0
    volume: float = 1.0


@dataclass(frozen=True, eq=False)
class Recordings:
    """Some rows of a data set of sound, not decoded yet; ``fetch`` gives the clips of rows."""

    fetch: Callable[[IntArray], Sequence[Clip]]
    rows: IntArray
    settings: LogMel

    def clips(self) -> Tensor:
        """int16 [N, S]. Raises ``InputError`` if a recording is missing or damaged."""
        settings = self.settings
        key = self._key("clips", settings.sample_rate, settings.samples)
        return cached("clips", key, lambda: torch.from_numpy(np.stack(list(self._decoded()))))

    def features(self) -> Tensor:
        """float32 [N, 1, mels, frames]. Raises ``InputError`` as :meth:`clips`."""
        key = self._key("features", self.settings.model_dump_json())
        return cached("features", key, self._computed)

    @cached_property
    def fingerprint(self) -> str:
        """What the rows are: a hash of all files; of those that are not in memory, of path, size and time."""
        digest = hashlib.sha256()
        for clip in self._each():
            content, path = clip.encoded.content, clip.encoded.path
            what = f"{path} {_state(path)}" if content is None else hashlib.sha256(content).hexdigest()
            digest.update(repr((what, clip.place, clip.volume)).encode())
        return digest.hexdigest()

    def _computed(self) -> Tensor:
        clips = self.clips()
        parts = range(0, len(clips), _CHUNK)
        return torch.cat([log_mel(clips[start : start + _CHUNK], self.settings) for start in parts])

    def _each(self) -> Iterator[Clip]:
        for start in range(0, len(self.rows), _CHUNK):
            yield from self.fetch(self.rows[start : start + _CHUNK])

    def _decoded(self) -> Iterator[NDArray[np.int16]]:
        long: dict[str, NDArray[np.int16]] = {}  # recordings from which many clips are cut
        for clip in self._each():
            path = clip.encoded.path
            if clip.place and clip.encoded.content is None and path is not None:
                if path not in long:
                    long[path] = decode(clip.encoded, self.settings.sample_rate)
                yield _cut(long[path], clip, self.settings.samples)
            else:
                yield decode_clip(clip, self.settings)

    def _key(self, *what: object) -> str:
        return hashlib.sha256(repr((_VERSION, *what, self.fingerprint)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Sound:
    """What augmentation needs: the recordings behind features, and noise to be added to them, int16 [any], if any."""

    recordings: Recordings
    noise: Callable[[], Tensor] | None


def log_mel(clips: Tensor, settings: LogMel) -> Tensor:
    """Log-mel features float32 [B, 1, mels, frames] of clips [B, S]: int16, or floats in −1…1.

    The natural logarithm of max(filters·|FFT|², floor), of windows that are multiplied by a periodic Hann window.
    """
    window, filters = _tables(settings, clips.device)
    x = clips / _FULL_SCALE if clips.dtype == torch.int16 else clips
    frames = x.unfold(1, settings.window, settings.hop) * window  # [B, frames, window]
    spectrum = torch.view_as_real(torch.fft.rfft(frames, settings.fft))  # [B, frames, fft/2 + 1, 2]
    power = spectrum.square().sum(-1) @ filters  # [B, frames, mels]
    return power.clamp_min(settings.floor).log().transpose(1, 2)[:, None]  # [B, 1, mels, frames]


@lru_cache(maxsize=8)
def _tables(settings: LogMel, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window [window] and the filters [fft/2 + 1, mels]."""
    filters = torch.from_numpy(mel_filters(settings)).float().T
    return torch.hann_window(settings.window, device=device), filters.contiguous().to(device)


def decode_clip(clip: Clip, settings: LogMel) -> NDArray[np.int16]:
    """The samples [S] of one clip. Raises ``InputError`` as :func:`decode`."""
    return _cut(decode(clip.encoded, settings.sample_rate), clip, settings.samples)


def decode(encoded: Encoded, sample_rate: int) -> NDArray[np.int16]:
    """The samples of a sound file, however long: the mean of its channels, at ``sample_rate``.

    Raises:
        InputError: the file is missing, damaged or empty.
    """
    soundfile = need("soundfile", package="soundfile", extra="audio")
    with _opened(encoded) as file:
        x, rate = soundfile.read(file, dtype="float32", always_2d=True)
    if len(x) == 0:
        raise InputError(f"{encoded.name}: holds no sound")
    if not np.isfinite(x).all():
        raise InputError(f"{encoded.name}: holds samples that are not finite")
    mono = x.mean(axis=1)
    if rate != sample_rate:
        common = math.gcd(rate, sample_rate)
        mono = resample_poly(mono, sample_rate // common, rate // common)
    samples: NDArray[np.int16] = _integers(mono * _FULL_SCALE)
    return samples


def sound_length(encoded: Encoded) -> tuple[int, float]:
    """Samples per second, and seconds, of a sound file by its header. Raises ``InputError`` as :func:`decode`."""
    soundfile = need("soundfile", package="soundfile", extra="audio")
    with _opened(encoded) as file:
        info = soundfile.info(file)
    return int(info.samplerate), float(info.frames / info.samplerate)


@contextmanager
def _opened(encoded: Encoded) -> Iterator[str | io.BytesIO]:
    """The file for soundfile. Raises ``InputError`` if it is missing, or for what soundfile raises."""
    if encoded.content is None:
        if encoded.path is None:
            raise InputError(f"{encoded.name}: is missing")
        file: str | io.BytesIO = encoded.path
    else:
        file = io.BytesIO(encoded.content)
    try:
        yield file
    except (OSError, RuntimeError, TypeError) as error:  # RuntimeError is libsndfile's
        reason = " ".join(str(error).split())
        raise InputError(f"{encoded.name}: cannot be decoded as sound: {reason}") from None


def _cut(samples: NDArray[np.int16], clip: Clip, length: int) -> NDArray[np.int16]:
    """So many samples from the clip's place on, with its volume; zeros at the end if there are not so many."""
    spare = len(samples) - length
    start = int(clip.place * (spare + 1)) if spare > 0 else 0
    taken = samples[start : start + length]
    if clip.volume != 1:
        taken = _integers(taken * clip.volume)
    return np.pad(taken, (0, length - len(taken)))


def _integers(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    whole: NDArray[np.int16] = np.clip(np.rint(samples), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return whole


def _state(path: str | None) -> tuple[int, int] | None:
    """Size and time of a file, or ``None`` if it is missing, which decoding will say."""
    try:
        found = Path(path).stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_size, found.st_mtime_ns)
