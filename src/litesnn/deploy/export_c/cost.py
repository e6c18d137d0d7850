"""Estimated instructions of a bundle of synapses on a microcontroller, by which its kernel is chosen.

The constants are those of a Cortex-M4, fitted by ``benchmarks/mcu_kernels.py`` to counts of 15 networks under qemu;
there they are within 26 % of what was counted. What both kernels do alike is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import Synapses

__all__ = ["event_cost", "event_features", "sliced_cost", "sliced_features"]

EVENT_CONSTANTS = (24.3, 10.1, 46.6, 6.9)
"""Of a word of a plane that is looked at, a spike that is listed, a weight, a weight that is added for a spike."""

SLICED_CONSTANTS = (59.6, 21.0, 183.8, 283.8)
"""Of a weight; and for each word of lanes: of a weight, a group of magnitudes that is merged, sums that are stored."""


def event_cost(synapses: Synapses, taps: Sequence[tuple[int, int]], words: int, spikes: float) -> float:
    """Instructions of the event kernel; ``spikes`` are expected on each plane of ``words`` words."""
    return float(np.dot(EVENT_CONSTANTS, event_features(synapses, taps, words, spikes)))


def sliced_cost(synapses: Synapses, words: int) -> float:
    """Instructions of the bit-sliced kernel on planes of ``words`` words."""
    return float(np.dot(SLICED_CONSTANTS, sliced_features(synapses, words)))


def event_features(
    synapses: Synapses, taps: Sequence[tuple[int, int]], words: int, spikes: float
) -> NDArray[np.float64]:
    """How often each of :data:`EVENT_CONSTANTS` is spent [4]. A plane is listed when a row first needs it."""
    planes = np.array([plane for _, plane in taps])
    lists = 0
    for row in synapses.codes.reshape(*synapses.codes.shape[:2], -1):  # [C_in, k²]
        channel, tap = np.nonzero(row)
        reads = channel * (int(planes.max()) + 1) + planes[tap]
        lists += int(np.count_nonzero(np.diff(reads, prepend=-1)))
    weights = int(np.count_nonzero(synapses.codes))
    return np.array([lists * words, lists * spikes, weights, weights * spikes], np.float64)


def sliced_features(synapses: Synapses, words: int) -> NDArray[np.float64]:
    """How often each of :data:`SLICED_CONSTANTS` is spent [4]. Weights of one bit have one magnitude: no merging."""
    weights = int(np.count_nonzero(synapses.codes))
    merges = 2 ** (synapses.bits - 1) if synapses.bits > 1 else 0
    stores = len(synapses.codes) * words
    return np.array([weights, weights * words, stores * merges, stores], np.float64)
