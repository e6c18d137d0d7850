"""Sound: recordings decoded to clips of one length, and their log-mel features.

In: sound files (WAV, FLAC, Ogg and whatever else soundfile reads). Out: clips int16 [N, S], features float32
[N, 1, mels, frames]. Both are kept on disk (:mod:`litesnn.data.cache`).

N recordings, B batch, S samples of a clip.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from litesnn.data.bounds import SOUND_RATES, SOUND_SAMPLES, require_file
from litesnn.data.cache import cached
from litesnn.data.damaged import Damaged
from litesnn.data.images import Encoded
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.extras import import_extra
from litesnn.front_end import LogMel, mel_filters
from litesnn.text import reason_of

__all__ = [
    "AUDIO_SUFFIXES",
    "Clip",
    "Recordings",
    "Sound",
    "check_sound",
    "decode",
    "decode_clip",
    "log_mel",
    "sound_length",
]

AUDIO_SUFFIXES = {".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}

_FULL_SCALE = 32768
_CHUNK = 512  # recordings at a time
_BLOCK = 2**20  # samples that are read at a time, where their number is not known
_EXPECTED = f"expected {SOUND_RATES[0]} to {SOUND_RATES[1]} samples per second, and at most {SOUND_SAMPLES} of them"
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
        """An identity of the rows: a hash of all files; of those that are not in memory, of path, size and time."""
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
        damaged = Damaged()
        for clip in self._each():
            path = clip.encoded.path
            with damaged.kept():
                if clip.place and clip.encoded.content is None and path is not None:
                    if path not in long:
                        long[path] = decode(clip.encoded, self.settings.sample_rate)
                    yield _cut(long[path], clip, self.settings.samples)
                else:
                    yield decode_clip(clip, self.settings)
        damaged.complain(len(self.rows))

    def _key(self, *what: object) -> str:
        return hashlib.sha256(repr((_VERSION, *what, self.fingerprint)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Sound:
    """The input of augmentation: the recordings behind features, and noise to be added to them, int16 [any], if any."""

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
    with _opened(encoded) as file:
        x, rate = _samples(file, encoded.name), file.samplerate
    if len(x) == 0:
        raise InputError(f"{encoded.name}: holds no sound")
    if (length := len(x) * sample_rate / rate) > SOUND_SAMPLES:
        raise InputError(f"{encoded.name}: is {length:.0f} samples long at {sample_rate} Hz; {_EXPECTED}")
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
    with _opened(encoded) as file:
        known = file.frames * file.channels <= SOUND_SAMPLES
        frames = file.frames if known else len(_samples(file, encoded.name))
        return int(file.samplerate), float(frames / file.samplerate)


def check_sound(files: Sequence[Encoded]) -> None:
    """See by their headers that sound files can be read. Raises ``InputError`` if some are missing, bad or empty."""
    damaged = Damaged()
    for file in files:
        with damaged.kept():
            if sound_length(file)[1] == 0:
                raise InputError(f"{file.name}: holds no sound")
    damaged.complain(len(files))


def _samples(file: Any, name: str) -> NDArray[np.float32]:
    """All samples [any, channels] of an opened file, whose header may say too many or that it does not know."""
    if file.frames * file.channels <= SOUND_SAMPLES:
        found: NDArray[np.float32] = file.read(file.frames, dtype="float32", always_2d=True)
        return found
    blocks, count = [], 0
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        blocks.append(block)
        count += block.size
        if count > SOUND_SAMPLES:
            raise InputError(f"{name}: has more samples than that in all its channels; {_EXPECTED}")
    return np.concatenate(blocks or [np.zeros((0, 1), np.float32)])


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Any]:
    """The opened ``SoundFile``. Raises ``InputError`` if it is missing, too large, or for what soundfile raises."""
    soundfile: Any = import_extra("soundfile", package="soundfile", extra="audio")
    if encoded.content is None:
        if encoded.path is None:
            raise InputError(f"{encoded.name}: is missing")
        require_file(encoded.path, encoded.name)
    try:
        with soundfile.SoundFile(encoded.path if encoded.content is None else io.BytesIO(encoded.content)) as file:
            if not SOUND_RATES[0] <= file.samplerate <= SOUND_RATES[1]:
                raise InputError(f"{encoded.name}: says {file.samplerate} samples per second; {_EXPECTED}")
            # soundfile seeks to where it is after each read, which libsndfile cannot where a length is unknown.
            file.seekable = lambda: False
            yield file
    except (OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:  # RuntimeError is libsndfile's
        if encoded.is_empty():
            raise InputError(f"{encoded.name}: cannot be decoded as sound: the file is empty") from None
        said = reason_of(error).rstrip(".")
        reason = re.sub(r"^Error opening .*?: (?=\w)", "", said)  # which names the file, or a place in memory
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
