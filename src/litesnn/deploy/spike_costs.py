"""What the spikes of a packed model cost: SynOps, Bit-SynOps and firing rates, counted from recorded spikes alone.

In: a packed model, and the spikes of every population as :meth:`litesnn.deploy.engine.Engine.run` and the reference
record them. Out: means per input. They are those of ``metrics.json``, which the torch network counts by the same
formula (:mod:`litesnn.snn.cost`): each spike costs the non-zero weights that it reaches, borders and strides respected;
an identity hands it on once, as one bit; Bit-SynOps weigh a SynOp with the bits of its weight. Layers that read
the input have no SynOps but MACs.

T timesteps, B batch, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litesnn.deploy.packed import IMAGE, PackedModel, Readout, Synapses, population_shapes
from litesnn.snn.cost import synops, tap_spikes

__all__ = ["FiringRate", "LayerCost", "SpikeCosts", "input_macs", "spike_bytes"]


@dataclass(frozen=True)
class LayerCost:
    """One bundle of synapses, or the readout. ``synops`` and ``bit_synops`` are means per input, over all timesteps."""

    name: str
    bits: int
    weights: int
    kept: int
    synops: float
    bit_synops: float


@dataclass(frozen=True)
class FiringRate:
    """One population. ``rate``: the share of neurons and timesteps with a spike."""

    name: str
    channels: int
    height: int
    width: int
    rate: float


class SpikeCosts:
    """Adds up the spikes of batches; the costs follow from their means, which is exact since both are linear in them.

    ``inputs`` is how many inputs were seen.
    """

    def __init__(self, model: PackedModel) -> None:
        self.model, self.inputs = model, 0
        self._shapes = population_shapes(model)
        self._sums = [np.zeros((model.timesteps, *shape), np.int64) for shape in self._shapes]
        self._fired = [0] * len(self._shapes)

    def add(self, spikes: Sequence[NDArray[np.uint8]]) -> None:
        """Count a batch: the spikes [T, B, C, H, W] of every population."""
        for index, fired in enumerate(spikes):
            self._sums[index] += fired.sum(axis=1, dtype=np.int64)
            self._fired[index] += int(np.count_nonzero(fired))
        self.inputs += spikes[0].shape[1]

    def layers(self) -> list[LayerCost]:
        """The cost of every bundle of synapses in the order of the model, then of the readout."""
        means = [torch.from_numpy(sums / self.inputs) for sums in self._sums]  # each [T, C, H, W]
        found = []
        for index, population in enumerate(self.model.populations):
            for number, synapses in enumerate(population.synapses):
                found.append(_layer(f"population {index}, synapses {number}", synapses, means))
        return [*found, _readout(self.model.readout, means)]

    def rates(self) -> list[FiringRate]:
        """The firing rate of every population."""
        each = self.inputs * self.model.timesteps
        return [
            FiringRate(f"population {index}", *shape, fired / (each * int(np.prod(shape))))
            for index, (shape, fired) in enumerate(zip(self._shapes, self._fired, strict=True))
        ]

    def mean_rate(self) -> float:
        """Spikes per neuron and timestep over all populations."""
        neurons = sum(int(np.prod(shape)) for shape in self._shapes)
        return sum(self._fired) / (self.inputs * self.model.timesteps * neurons)


def input_macs(model: PackedModel) -> list[tuple[int, int]]:
    """MACs per inference, and bits, of every layer that reads the input; padding and pruned weights count as work.

    An image is read once, frames are read at every timestep.
    """
    times = model.timesteps if model.input.frames else 1
    return [
        (synapses.codes.size * height * width * times, synapses.bits)
        for population, (_, height, width) in zip(model.populations, population_shapes(model), strict=True)
        for synapses in population.synapses
        if synapses.sources == (IMAGE,)
    ]


def spike_bytes(model: PackedModel) -> int:
    """Bytes that the recorded spikes of one input take."""
    return model.timesteps * sum(int(np.prod(shape)) for shape in population_shapes(model))


def _layer(name: str, synapses: Synapses, means: Sequence[Tensor]) -> LayerCost:
    kept = int(np.count_nonzero(synapses.codes))
    if synapses.sources == (IMAGE,):
        return LayerCost(name, synapses.bits, synapses.codes.size, kept, 0.0, 0.0)
    spikes = torch.cat([means[source] for source in synapses.sources], dim=1)
    if synapses.kernel == 0:
        handed_on = float(spikes.sum())
        return LayerCost(name, 0, 0, 0, handed_on, handed_on)
    reached = torch.from_numpy((synapses.codes != 0).sum(axis=0)).double()  # [C_in, k, k]
    used = float(synops(tap_spikes(spikes, synapses.kernel, synapses.stride), reached).sum())
    return LayerCost(name, synapses.bits, synapses.codes.size, kept, used, used * synapses.bits)


def _readout(readout: Readout, means: Sequence[Tensor]) -> LayerCost:
    counts = torch.cat([means[source].sum(dim=(0, 2, 3)) for source in readout.sources])  # [C_in]
    kept = readout.codes != 0
    used = float(counts @ torch.from_numpy(kept.sum(axis=0)).double())
    return LayerCost(
        "readout", readout.bits, readout.codes.size, int(np.count_nonzero(kept)), used, used * readout.bits
    )
