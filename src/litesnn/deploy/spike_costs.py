"""What the spikes of a packed model cost: SynOps, Bit-SynOps and firing rates, counted from recorded spikes alone.

In: a packed model, and the spikes of every population as :meth:`litesnn.deploy.engine.Engine.run` and the reference
record them. Out: means per input. They are those of ``metrics.json``, which the torch network counts by the same
formula (:mod:`litesnn.snn.cost`): each spike costs the non-zero weights that it reaches, borders and strides respected;
an identity hands it on once, as one bit; Bit-SynOps weigh a SynOp with the bits of its weight. Layers that read
the input have no SynOps but MACs.

A spike that is more than 1 is counted in both ways in which it can be deployed: as many SynOps as it has bits that are
set, each a plane of binary spikes; and, as *virtual* SynOps, as many as its value, each a virtual timestep.

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
    """One bundle of synapses, or the readout. SynOps are means per input, summed over all timesteps.

    The virtual ones are the same where spikes are 0 and 1.
    """

    name: str
    bits: int
    weights: int
    kept: int
    synops: float
    bit_synops: float
    synops_virtual: float
    bit_synops_virtual: float


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
        self._bits = [np.zeros(shape, np.int64) for shape in self._shapes]
        self._values = [np.zeros(shape, np.int64) for shape in self._shapes]
        self._fired = [0] * len(self._shapes)

    def add(self, spikes: Sequence[NDArray[np.uint8]]) -> None:
        """Count a batch: the spikes [T, B, C, H, W] of every population."""
        for index, fired in enumerate(spikes):
            values = fired.sum(axis=(0, 1), dtype=np.int64)
            self._values[index] += values
            self._bits[index] += values if fired.max(initial=0) <= 1 else _bits_set(fired)
            self._fired[index] += int(np.count_nonzero(fired))
        self.inputs += spikes[0].shape[1]

    def layers(self) -> list[LayerCost]:
        """The cost of every bundle of synapses in the order of the model, then of the readout."""
        ways = [
            [torch.from_numpy(sums / self.inputs) for sums in way] for way in (self._bits, self._values)
        ]  # each [C, H, W]
        found = []
        for index, population in enumerate(self.model.populations):
            for number, synapses in enumerate(population.synapses):
                used = [_layer_synops(synapses, spikes) for spikes in ways]
                found.append(_cost(f"population {index}, synapses {number}", synapses, used))
        return [*found, _cost("readout", self.model.readout, [_readout_synops(self.model.readout, s) for s in ways])]

    def rates(self) -> list[FiringRate]:
        """The firing rate of every population."""
        each = self.inputs * self.model.timesteps
        return [
            FiringRate(f"population {index}", *shape, fired / (each * int(np.prod(shape))))
            for index, (shape, fired) in enumerate(zip(self._shapes, self._fired, strict=True))
        ]

    def mean_rate(self) -> float:
        """Share of the neurons and timesteps with a spike, over all populations."""
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


def _bits_set(spikes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The bits that are set in the spikes [T, B, C, H, W], summed over T and B."""
    planes = [(spikes >> plane & 1).sum(axis=(0, 1), dtype=np.int64) for plane in range(8)]
    total: NDArray[np.int64] = np.sum(planes, axis=0)
    return total


def _cost(name: str, layer: Synapses | Readout, used: Sequence[float]) -> LayerCost:
    """The cost of a layer that does so many SynOps, in either way. One without weights hands on spikes of one bit."""
    kept, bits = int(np.count_nonzero(layer.codes)), layer.bits
    planes, virtual = used
    weighed = [each * max(bits, 1) for each in used]
    return LayerCost(name, bits, layer.codes.size, kept, planes, weighed[0], virtual, weighed[1])


def _layer_synops(synapses: Synapses, means: Sequence[Tensor]) -> float:
    """SynOps of mean spikes [C, H, W] of every population."""
    if synapses.sources == (IMAGE,):
        return 0.0
    spikes = torch.cat([means[source] for source in synapses.sources])
    if synapses.kernel == 0:
        return float(spikes.sum())
    reached = torch.from_numpy((synapses.codes != 0).sum(axis=0)).double()  # [C_in, k, k]
    return float(synops(tap_spikes(spikes[None], synapses.kernel, synapses.stride), reached).sum())


def _readout_synops(readout: Readout, means: Sequence[Tensor]) -> float:
    counts = torch.cat([means[source].sum(dim=(1, 2)) for source in readout.sources])  # [C_in]
    return float(counts @ torch.from_numpy((readout.codes != 0).sum(axis=0)).double())
