"""Upper limits of a packed model, far above any network of this project: a few bytes of header must not
allocate gigabytes, in Python or in C.

``csrc/loader.c`` has the same numbers, but for those of the file itself, which it does not see; a test compares them.
"""

from __future__ import annotations

from litesnn.neurons.model import MOST_LEVELS

__all__ = [
    "MAX_BUNDLES",
    "MAX_CLASSES",
    "MAX_HEADER_BYTES",
    "MAX_KERNEL",
    "MAX_LEVELS",
    "MAX_NAME_BYTES",
    "MAX_NEURONS",
    "MAX_POPULATIONS",
    "MAX_READ",
    "MAX_RESET",
    "MAX_SPIKES",
    "MAX_STRIDE",
    "MAX_TIMESTEPS",
    "MAX_WEIGHTS",
]

MAX_WEIGHTS = 2**26
"""Most weights of all layers, pruned weights included."""
MAX_NEURONS = 2**26
"""Pixels and neurons in all."""
MAX_SPIKES = 2**28
"""Neurons times timesteps."""
MAX_READ = 2**26
"""Inputs of one bundle of synapses, or of the readout, at a timestep: fan-in times pixels. A source counts as often as
it is named."""
MAX_RESET = 2.0**100
"""The most that a spike may take from a float membrane: far below where the sums of 64 timesteps would be infinite."""
MAX_KERNEL = 31
MAX_LEVELS = MOST_LEVELS
"""The largest graded spike."""
MAX_STRIDE = 64
MAX_TIMESTEPS = 64
MAX_CLASSES = 2**20
MAX_POPULATIONS = 2**12
"""Also bundles of synapses of one population, and sources of one bundle."""
MAX_BUNDLES = 2**14
"""Most bundles of synapses of all populations."""
MAX_HEADER_BYTES = 2**20
"""Most bytes of the file's header, which is text."""
MAX_NAME_BYTES = 2**10
"""Most bytes of the name of a class, in UTF-8."""
