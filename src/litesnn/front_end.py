"""Front ends: how a recording becomes what a network is given, log-mel features of sound or frames of events.

In: the settings of a recipe, or of a packed file. Out: the same as whole samples and frames, and the mel filters.
:func:`litesnn.data.audio.log_mel` and :func:`litesnn.data.events.event_frames` compute with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "FRONT_ENDS",
    "EventFrames",
    "FrontEnd",
    "InputKind",
    "LogMel",
    "front_end_name",
    "mel_filters",
    "unnamed_front_end",
]

InputKind = Literal["image", "array", "events"]
"""The kind of a network's input: uint8 pixels, real numbers, or for each timestep a frame of uint8 counts of events."""

_MAX_SAMPLES = 2**22  # of a clip: four minutes of 16 kHz; a few bytes of a packed file must not allocate gigabytes


class FrontEnd(BaseModel):
    """Settings of how a recording becomes what a network is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of what the network is given; of events that of a frame."""
        raise NotImplementedError

    @property
    def kind(self) -> InputKind:
        """The kind of what the network is given."""
        raise NotImplementedError


class LogMel(FrontEnd):
    """Log-mel features of clips of one length.

    Windows, step and number of filters are those of the training program of Speech Commands (Warden, arXiv 1804.03209):
    30 ms, 10 ms, 40. It takes filters up to 4 kHz, and a cosine transform of the logarithms; we go up to 8 kHz.
    """

    sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second; others are resampled")
    clip_ms: float = Field(1000.0, gt=0, le=600000, description="length of a clip; shorter ones end in silence")
    window_ms: float = Field(30.0, gt=0, le=10000, description="length of a window (Hann)")
    hop_ms: float = Field(10.0, gt=0, le=10000, description="from one window to the next")
    mels: int = Field(40, ge=1, le=512, description="mel filters, the height of the features")
    low_hz: float = Field(20.0, ge=0, le=96000, description="where the lowest filter begins")
    high_hz: float = Field(8000.0, gt=0, le=96000, description="where the highest filter ends")
    floor: float = Field(1e-6, gt=0, le=1, description="least power of a filter's output, for samples in -1 to 1")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.window < 2 or self.hop < 1:
            raise ValueError("window_ms and hop_ms must be at least 2 samples and 1 sample")
        if not self.window <= self.samples <= _MAX_SAMPLES:
            raise ValueError(f"a clip must have at least one window, and at most {_MAX_SAMPLES} samples")
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError("low_hz must be below high_hz, and high_hz at most half of sample_rate")
        if not mel_filters(self).any(axis=1).all():
            raise ValueError("there are more mel filters than windows of this length can tell apart")
        return self

    @property
    def samples(self) -> int:
        """Samples of a clip."""
        return round(self.sample_rate * self.clip_ms / 1000)

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def fft(self) -> int:
        """Length of the Fourier transform: the next power of two; a window is filled up with zeros."""
        return int(2 ** (self.window - 1).bit_length())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [1, mels, frames] of the features; every window lies wholly in the clip."""
        return 1, self.mels, 1 + (self.samples - self.window) // self.hop

    @property
    def kind(self) -> InputKind:
        """The kind of its results."""
        return "array"

    def __str__(self) -> str:
        return (
            f"{self.shape[2]} frames of {self.mels} log-mel features from {self.samples} samples at "
            f"{self.sample_rate:,} Hz"
        )


class EventFrames(FrontEnd):
    """Frames of an event camera: how often each pixel became darker (channel 0) and brighter (channel 1).

    Frame t is what the network sees at timestep t. A frame is the same stretch of time, or the same number of events,
    whatever the recording and however many timesteps there are: a network with fewer timesteps sees fewer frames, and
    a frame is complete as soon as its last event is.
    """

    by: Literal["time", "count"] = Field("time", description="a frame is frame_ms of time, or frame_events events")
    frame_ms: float = Field(50.0, ge=0.001, le=10000, description="length of a frame, for by = 'time'")
    frame_events: int = Field(500, ge=1, le=2**20, description="events of a frame, for by = 'count'")
    height: int = Field(34, ge=1, le=256, description="rows of the sensor")
    width: int = Field(34, ge=1, le=256, description="columns of the sensor")
    clip: int = Field(
        3, ge=1, le=255, description="most events that a pixel counts in a frame; 1: whether there are any"
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [2, H, W] of a frame."""
        return 2, self.height, self.width

    @property
    def kind(self) -> InputKind:
        """The kind of its results."""
        return "events"

    @property
    def mean(self) -> tuple[float, float]:
        """Mean and standard deviation, whatever the data: no event is 0, as the padding of convolutions is."""
        return 0.0, 0.0

    @property
    def std(self) -> tuple[float, float]:
        """The largest count is three standard deviations: 96 of the 127 steps of the quantized input."""
        return self.clip / 3, self.clip / 3

    def __str__(self) -> str:
        length = f"{self.frame_ms:g} ms" if self.by == "time" else f"{self.frame_events} events"
        return f"frames of {length}, {self.height}×{self.width} pixels of two polarities, counts up to {self.clip}"


FRONT_ENDS: dict[str, type[FrontEnd]] = {"log-mel": LogMel, "event-frames": EventFrames}
"""Every front end by the name that files have for it. A new one is one more row."""

_UNNAMED: Mapping[InputKind, str] = {"array": "log-mel", "events": "event-frames"}
"""Network files did not always say the name: those of these kinds had these front ends."""


def front_end_name(front_end: FrontEnd) -> str:
    """The name that files have for a front end. Raises ``ValueError`` if it is not in the table."""
    for name, settings in FRONT_ENDS.items():
        if type(front_end) is settings:
            return name
    raise ValueError(f"{type(front_end).__name__} is none of the front ends {', '.join(FRONT_ENDS)}")


def unnamed_front_end(kind: InputKind) -> type[FrontEnd]:
    """The front end of a network file that does not say its name, by the kind of input."""
    return FRONT_ENDS[_UNNAMED.get(kind, "log-mel")]


def mel_filters(settings: LogMel) -> NDArray[np.float64]:
    """Weights [mels, fft/2 + 1] of the power spectrum: triangles that peak at 1, evenly spaced in mel.

    With mel(f) = 2595·log10(1 + f/700), as in HTK. Each triangle begins and ends at its neighbours' peaks.
    """
    edges = np.linspace(_mel(settings.low_hz), _mel(settings.high_hz), settings.mels + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.arange(settings.fft // 2 + 1) * settings.sample_rate / settings.fft
    low, peak, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    filters: NDArray[np.float64] = np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    return filters


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
