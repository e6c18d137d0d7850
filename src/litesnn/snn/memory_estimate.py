"""How much memory a training step takes, estimated from shapes alone.

Counted are the maps that the forward pass keeps for the backward pass, what both hold for a moment, and the tensors of
each weight. Activations are float32. Shapes: T timesteps, B batch, N nodes, C channels per node, H × W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from litesnn.snn.backbone import Backbone
from litesnn.snn.cell_function import keeps_output
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import TorchKernels
from litesnn.snn.population import Neurons
from litesnn.snn.select_kernels import kernels_for
from litesnn.snn.stepped import Stepped

__all__ = ["MemoryEstimate", "estimate_step", "least_bytes"]

_FLOAT = 4  # bytes

# Of each weight in a cell: itself, its score, the gradients of both, momentum, and two moments of the score.
_TENSORS_PER_WEIGHT = 7

_WASTE = 1.1
"""Bytes of memory for a byte of a map, as freed buffers of other sizes lie between. With it estimates are 1.0
to 1.3 times what was measured."""

_TORCH_MAPS = 8
"""Maps of a node that torch's own kernels hold at once in the backward pass through its neurons."""

_STEPPED_MAPS = 12
"""The same number of maps for autograd through the timesteps of neurons."""

_FIRST_STEP = 60_000_000
"""Bytes of code and buffers that torch takes at its first step, as measured on small networks."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step: ``fixed`` whatever the batch, and ``per_image`` of a (micro-)batch."""

    fixed: int
    per_image: int

    def bytes_at(self, batch: int) -> int:
        """The estimate for a batch size."""
        return self.fixed + batch * self.per_image


def _held_maps(neurons: Neurons, device: torch.device) -> int:
    """Maps that are held for a moment in the backward pass through neurons; kernels in C and Triton hold none."""
    dynamics = neurons.dynamics()
    if isinstance(dynamics, Stepped):
        return _STEPPED_MAPS
    plain = dynamics.reset is None and dynamics.levels == 1
    fast = plain or not isinstance(kernels_for(torch.empty(0, device=device), dynamics), TorchKernels)
    return 0 if fast else _TORCH_MAPS


def least_bytes(weights: int) -> int:
    """Bytes that training so many weights needs at least, whatever the inputs: of use before a network is built."""
    return _FIRST_STEP + _FLOAT * weights * _TENSORS_PER_WEIGHT


def estimate_step(
    backbone: Backbone, timesteps: int, execution: Execution, *, frames: bool = False, bits: int = 1, keeps: int = 1
) -> MemoryEstimate:
    """Bytes that one training step needs at its peak, besides the data and the program.

    Args:
        backbone: the network.
        timesteps: T.
        execution: how it is trained.
        frames: whether the input is another one at each timestep.
        bits, keeps: how many bit-widths and keep ratios a weight is mixed of.
    """
    height, width = backbone.map_size(0)
    stem = timesteps * backbone.stem.outputs * height * width
    kept, moment, weights = stem + stem // timesteps, 0, 0  # spikes, and currents, the same at every timestep
    if frames:
        frame = math.prod(backbone.shape)
        kept = 3 * stem + 2 * timesteps * frame  # spikes, currents, outputs of the convolution; frames, also scaled
    held = stem * _held_maps(backbone.stem_neurons, backbone.device)
    if isinstance(backbone.stem_neurons.dynamics(), Stepped):
        kept += held // 2  # autograd keeps what the way there made
    moment = held
    read = [stem, stem]  # values of the two states that a cell reads
    for index in range(len(backbone.cells)):
        cell = backbone.cell(index)
        pixels = backbone.map_size(cell.level)
        maps = timesteps * pixels[0] * pixels[1]
        spikes = maps * cell.nodes * cell.width
        convs = [cell.connection(edge) for edge in cell.edges if cell.connection(edge).conv is not None]
        apart, together = cell.kernels_of_maps(backbone.device, execution)  # of the outputs of convolutions
        lasting = maps * cell.width * sum(keeps_output(kernel, backbone.device) for kernel in apart)
        unkept = maps * cell.width * len(apart) - lasting
        mixed = spikes if together else 0
        weights += sum(conv.weights for conv in convs)
        kept += spikes
        # Gradients of spikes and of currents; what all other convolutions give, or later the gradients of both inputs,
        # with one more part that is about to be added.
        passing = maps * cell.width * _held_maps(cell.neurons(0), backbone.device)
        passing += 2 * spikes + unkept + max(sum(read) + max(read), mixed)
        if execution.recompute:
            passing += lasting + spikes  # made once more
        else:
            kept += lasting
        moment = max(moment, passing)
        read = [read[1], spikes]
    # A mixture keeps, of each bit-width, the quantized weight, its mask and their product; a mask for each keep ratio.
    mixture = 3 * bits + keeps + 2 if bits * keeps > 1 else 4
    return MemoryEstimate(
        fixed=_FIRST_STEP + _FLOAT * weights * (_TENSORS_PER_WEIGHT + mixture),
        per_image=round(_WASTE * _FLOAT * (kept + moment)),
    )
