"""The input of a network, in one record: data sets, networks, their files and packed models all have this one.

C channels, H×W pixels, T timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from litesnn.front_end import FrontEnd, InputKind
from litesnn.text import shape_text

__all__ = ["InputSpec", "shortest_decimal"]


@dataclass(frozen=True)
class InputSpec:
    """The input of a network, [C, H, W].

    ``kind`` is ``"image"`` for uint8 pixels 0 to 255, ``"array"`` for real numbers, ``"events"`` for uint8 counts of
    events, of which the network sees another frame at each timestep, [T, C, H, W] in all. ``mean`` and ``std`` are per
    channel, in the units of the raw data. They mean float32 numbers, and are kept as the shortest decimals that say
    which. ``front_end`` says how recordings become this, if they do; who runs the network computes it
    (:func:`litesnn.data.audio.log_mel`, :func:`litesnn.data.events.event_frames`).
    """

    shape: tuple[int, int, int]
    kind: InputKind
    mean: tuple[float, ...]
    std: tuple[float, ...]
    front_end: FrontEnd | None = None

    @property
    def frames(self) -> bool:
        """Whether the network sees another frame at each timestep."""
        return self.kind == "events"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(shortest_decimal, self.mean)))
        object.__setattr__(self, "std", tuple(map(shortest_decimal, self.std)))

    def describe(self) -> str:
        """Shape and kind in a few words."""
        return f"{shape_text(self.shape)} {self.kind}"


def shortest_decimal(value: float) -> float:
    """The number of fewest decimal digits that is ``value`` in float32; at most 9 digits are needed."""
    with np.errstate(over="ignore"):  # a largest number may be rounded beyond it
        single = np.float32(value)
        for digits in range(1, 9):
            if np.float32(short := float(f"{single:.{digits}g}")) == single:
                return short
    return float(f"{single:.9g}")
