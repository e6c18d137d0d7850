"""Synaptic operations of a packed model, counted from the spikes that it made.

In: a packed model and recorded spikes, of the native engine or of the reference. Out: SynOps and Bit-SynOps, with the
definitions of the evaluation: over input spikes the non-zero weights that each one reaches, borders and strides
respected; an identity hands a spike on once, as one bit; the input is no spike.

A graded spike k can be deployed in two ways, and is counted for each:

- by bit planes: its bits are planes of binary spikes, whose sums are shifted, as in our engines. As many operations as
  bits of k are set, for every weight that it reaches. These are SynOps, wherever nothing else is said.
- by virtual timesteps: it is k binary spikes in D virtual timesteps, as hardware has it that knows binary spikes alone.
  k operations for every weight that it reaches.

Binary spikes are the same in both.

T timesteps, B batch, C channels, H×W pixels, k kernel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import IMAGE, PackedModel, Synapses

__all__ = ["SynOps", "count_synops"]


@dataclass(frozen=True)
class SynOps:
    """Synaptic operations of so many samples in all: of bit planes, and of virtual timesteps; bit-SynOps likewise."""

    samples: int = 0
    synops: int = 0
    bit_synops: int = 0
    synops_virtual: int = 0
    bit_synops_virtual: int = 0

    def __add__(self, other: SynOps) -> SynOps:
        return SynOps(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def per_sample(self) -> dict[str, float]:
        """Every count by its name, the mean of the samples."""
        counts = asdict(self)
        samples = counts.pop("samples")
        return {name: count / samples for name, count in counts.items()}


def count_synops(model: PackedModel, spikes: Sequence[NDArray[np.uint8]]) -> SynOps:
    """The operations of all layers that read spikes, the readout included.

    Args:
        model: the packed model.
        spikes: of every population [T, B, C, H, W], as ``Engine.run`` and ``Reference.run`` record them.
    """
    by_value = [each.sum(axis=(0, 1), dtype=np.int64) for each in spikes]  # [C, H, W]
    by_bits = [_bits_set(each).sum(axis=(0, 1), dtype=np.int64) for each in spikes]
    found = SynOps(samples=spikes[0].shape[1])
    for population in model.populations:
        for synapses in population.synapses:
            if synapses.sources != (IMAGE,):
                bits = synapses.bits if synapses.kernel else 1
                found += _of_layer(_reached(synapses, by_bits), _reached(synapses, by_value), bits)
    readout = model.readout
    kept = np.count_nonzero(readout.codes, axis=0)  # [C]
    planes, virtual = (
        int(kept @ np.concatenate([maps[source].sum(axis=(1, 2)) for source in readout.sources]))
        for maps in (by_bits, by_value)
    )
    return found + _of_layer(planes, virtual, readout.bits)


def _of_layer(planes: int, virtual: int, bits: int) -> SynOps:
    return SynOps(0, planes, planes * bits, virtual, virtual * bits)


def _bits_set(spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How many bits of each spike are set; spikes have at most three."""
    ones: NDArray[np.uint8] = (spikes & 1) + (spikes >> 1 & 1) + (spikes >> 2 & 1)
    return ones


def _reached(synapses: Synapses, maps: Sequence[NDArray[np.int64]]) -> int:
    """Σ over spikes of the non-zero weights that each one reaches; ``maps`` are those of every population [C, H, W]."""
    inputs = np.concatenate([maps[source] for source in synapses.sources])
    kernel, stride = synapses.kernel, synapses.stride
    if kernel == 0:
        return int(inputs.sum())
    kept = np.count_nonzero(synapses.codes, axis=0)  # [C, k, k]
    _, height, width = inputs.shape
    border = kernel // 2
    padded = np.pad(inputs, ((0, 0), (border, border), (border, border)))
    return sum(
        int(kept[:, row, column] @ padded[:, row : row + height : stride, column : column + width : stride].sum((1, 2)))
        for row in range(kernel)
        for column in range(kernel)
    )
