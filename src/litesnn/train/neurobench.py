"""The evaluation's figures under the names and definitions of NeuroBench, so that others can lay them beside theirs.

In: a network, watched while it runs over a split with the deployed arithmetic. Out: the section ``neurobench`` of
``metrics.json``. NeuroBench (Yik et al., Nature Communications 2025) counts per sample, summed over the timesteps:

- footprint: bytes of all parameters and buffers. Ours is the packed file; ``footprint_float32`` is four bytes for every
  parameter, pruned weights included, scales folded into the weights.
- connection sparsity: the share of weights that are zero.
- activation sparsity: the share of neurons and timesteps without a spike.
- effective MACs and ACs: non-zero inputs times non-zero weights, borders and strides respected; multiply-accumulates
  for the input (the stem; once per sample, or of frames once per timestep) and for graded spikes, which are no zeros
  and ones, accumulates for binary spikes.
  ``effective_bit_macs`` and ``effective_bit_acs`` weigh them with the bits of the weights. Dense: all inputs with all
  weights.
- membrane updates: every neuron at the first timestep, then those whose membrane, after its reset, is another than the
  step before: one that fires twice in a row was 0 and stays 0. With a soft reset it is what the next step begins with.

Identities have no weights and are no synaptic operations here; Bit-SynOps count them.

A layer in groups counts as it is packed: as one of all channels, whose weights between groups are zero.

Shapes: T timesteps, B batch, O output and I input channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from litesnn import processes
from litesnn.deploy.packed import IMAGE, PackedModel, population_shapes
from litesnn.deploy.packed_streams import coded_layers
from litesnn.neurons.model import Neuron
from litesnn.snn.arithmetic import Arithmetic, Exact, Folded, FoldedGroup
from litesnn.snn.backbone import Backbone, first_frames
from litesnn.snn.cell import Cell
from litesnn.snn.network import Network
from litesnn.snn.neuron import LEAK_SHIFT
from litesnn.snn.strided import conv2d

__all__ = ["Watch", "membrane_updates", "neurobench_metrics"]


class Watch:
    """Counts what a network's spikes do not tell, while it is a context: non-zero inputs and membrane updates.

    Attributes:
        samples: images, or sequences of frames, seen.
        non_zero: how often each input value was not 0 [C, H, W], summed over the frames of a sample.
        updates: membrane updates over all neurons and samples.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.samples, self.updates = 0, 0
        self.non_zero = torch.zeros(network.info.shape, dtype=torch.float64, device=network.backbone.device)

    def __enter__(self) -> Self:
        backbone = self.network.backbone
        self._hook = self.network.register_forward_pre_hook(self._see_input)
        self._owners: list[Backbone | Cell] = [
            backbone,
            *(backbone.cell(index) for index in range(len(backbone.cells))),
        ]
        for owner in self._owners:
            owner.arithmetic = _Listening(owner.arithmetic, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        for owner in self._owners:
            assert isinstance(owner.arithmetic, _Listening)
            owner.arithmetic = owner.arithmetic.heard

    def add_up(self) -> None:
        """Sum over all processes, each of which has seen a part of the samples. Raises ``WorkerLost``."""
        counts = processes.total_(torch.tensor([self.samples, self.updates]))
        self.samples, self.updates = counts.tolist()
        processes.total_(self.non_zero)

    def _see_input(self, _: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (x,) = arguments
        self.samples += len(x)
        if self.network.info.frames:
            x = first_frames(x, self.network.genotype.timesteps).flatten(0, 1)
        self.non_zero += (x != 0).sum(dim=0)


class _Listening:
    """An arithmetic that lets a :class:`Watch` see the currents of its neurons."""

    def __init__(self, heard: Arithmetic, watch: Watch) -> None:
        self.heard, self._watch = heard, watch

    @property
    def leak(self) -> float:
        return self.heard.leak

    @property
    def fraction(self) -> int | None:
        return self.heard.fraction

    def fold(self, connections: Any, bias: Tensor) -> FoldedGroup:
        return self.heard.fold(connections, bias)

    def fold_readout(self, connection: Exact, bias: Tensor, timesteps: int) -> FoldedGroup:
        return self.heard.fold_readout(connection, bias, timesteps)

    def current(self, accumulators: Tensor, folded: Folded) -> Tensor:
        return self.heard.current(accumulators, folded)

    def fire(self, currents: Tensor, neuron: Neuron) -> Tensor:
        spikes, fraction, reset = self.heard.fire(currents, neuron), self.heard.fraction, neuron.reset
        if reset is not None and fraction is not None:
            reset *= 2**fraction
        self._watch.updates += membrane_updates(currents, spikes, neuron.leak if fraction is None else None, reset)
        return spikes

    def logits(self, totals: Tensor, folded: FoldedGroup) -> Tensor:
        return self.heard.logits(totals, folded)


def membrane_updates(currents: Tensor, spikes: Tensor, leak: float | None, reset: float | None = None) -> int:
    """Membranes that changed, over all timesteps and neurons.

    Args:
        currents: input currents [T, …], as the deployed arithmetic has them.
        spikes: what they made, of the same shape.
        leak: what is left of a membrane after one step; ``None``: a quarter, in integers.
        reset: what a spike takes from the membrane of the next step, in the units of the currents; ``None``: all of it.
    """
    before = torch.zeros_like(currents[0])
    updates = before.numel()
    for t, (current, fired) in enumerate(zip(currents, spikes, strict=True)):
        if reset is None:
            after = (_leaked(before, leak) + current).masked_fill_(fired.bool(), 0)
        else:
            after = _leaked(before + current, leak) - (fired * reset).to(current.dtype)
        if t:
            updates += int((after != before).sum())
        before = after
    return updates


def _leaked(membrane: Tensor, leak: float | None) -> Tensor:
    return membrane >> LEAK_SHIFT if leak is None else membrane * leak


def neurobench_metrics(
    model: PackedModel,
    watch: Watch,
    *,
    layers: Sequence[Mapping[str, Any]],
    neurons: Sequence[Mapping[str, Any]],
    packed_bytes: int,
) -> dict[str, Any]:
    """The section of ``metrics.json``; everything that is counted is per sample.

    Args:
        model: the packed form of the network that was watched.
        watch: what it saw.
        layers: the rows of the same name in the metrics, with weights, synops and bit_synops, and if they read graded
            spikes macs and bit_macs.
        neurons: likewise, with channels, height, width and firing_rate.
        packed_bytes: bytes of the packed file.
    """
    synaptic = [row for row in layers if row["weights"]]
    codes = [codes for _, codes, _ in coded_layers(model)]
    weights, kept = sum(part.size for part in codes), sum(int(np.count_nonzero(part)) for part in codes)
    sizes = [row["channels"] * row["height"] * row["width"] for row in neurons]
    spikes = sum(size * row["firing_rate"] for size, row in zip(sizes, neurons, strict=True))
    macs = _effective_macs(model, watch)
    bit_macs = macs * model.populations[0].synapses[0].bits
    graded, binary = ([row for row in synaptic if ("macs" in row) == is_graded] for is_graded in (True, False))
    parameters = _parameters(model)
    return {
        "parameters": parameters,
        "footprint": packed_bytes,
        "footprint_float32": 4 * parameters,
        "connection_sparsity": 1 - kept / weights,
        "activation_sparsity": 1 - spikes / sum(sizes),
        "effective_macs": macs + sum(row["macs"] for row in graded),
        "effective_acs": sum(row["synops"] or 0 for row in binary),
        "effective_bit_macs": bit_macs + sum(row["bit_macs"] for row in graded),
        "effective_bit_acs": sum(row["bit_synops"] or 0 for row in binary),
        "dense": _dense_operations(model),
        "membrane_updates": watch.updates / watch.samples,
    }


def _parameters(model: PackedModel) -> int:
    """Weights, biases and the scales of identities: what is left when the other scales are folded into the weights."""
    count = model.readout.codes.size + model.readout.bias.size
    for population in model.populations:
        count += population.bias.size
        for synapses in population.synapses:
            count += synapses.codes.size if synapses.kernel else synapses.scale.size
    return count


def _effective_macs(model: PackedModel, watch: Watch) -> float:
    """Non-zero inputs times the non-zero weights that each one reaches, per sample."""
    (stem,) = model.populations[0].synapses
    mask = torch.from_numpy(stem.codes != 0).to(watch.non_zero)
    return _operations(watch.non_zero, mask, stem.stride) / watch.samples


def _dense_operations(model: PackedModel) -> int:
    """Operations of all inputs and all weights: the stem once for an image, all else at every timestep."""
    shapes = population_shapes(model)
    _, height, width = shapes[model.readout.sources[0]]
    static, spiking = 0.0, float(model.readout.codes.size * height * width)
    for population in model.populations:
        for synapses in population.synapses:
            if synapses.kernel == 0:
                continue
            image = synapses.sources == (IMAGE,)
            _, height, width = model.input.shape if image else shapes[synapses.sources[0]]
            weights = torch.ones(synapses.codes.shape, dtype=torch.float64)
            inputs = torch.ones(weights.shape[1], height, width, dtype=torch.float64)
            operations = _operations(inputs, weights, synapses.stride)
            if image and not model.input.frames:
                static += operations
            else:
                spiking += operations
    return round(static + model.timesteps * spiking)


def _operations(inputs: Tensor, weights: Tensor, stride: int) -> float:
    """Σ inputs·weights over all places of a convolution of [I, H, W] with [O, I, k, k]."""
    summed = weights.sum(dim=0, keepdim=True)  # over the outputs first, which is less work
    return float(conv2d(inputs[None], summed, stride=stride, padding=weights.shape[-1] // 2).sum())
