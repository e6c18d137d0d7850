"""The plain way to compute the same networks, timestep by timestep: what the fast one is measured against.

Parameters are read from the modules of :mod:`litesnn.snn`; the forward pass is written out again the way public code of
the method works: one convolution for every operation and timestep, effective weights made anew for each of them (all
quantizers, masks from a full sort of the scores), and neurons in plain autograd. ``once=True`` makes them once per pass
instead, which is the stronger baseline.

The mathematics is litesnn's, so that logits, costs and gradients must agree: one LIF per node, and batch normalisation
over all timesteps (public code normalises each timestep alone, which computes something else). In doubt the plain
networks get the cheaper way: the stem runs once, mean spikes and costs are computed once per pass, and losses, frozen
parameters and optimizers are litesnn's own.

T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.costs.size import kept_count
from litesnn.quantizers.midrise import GAUSSIAN_STEP
from litesnn.snn.backbone import INPUT_SCALE, Backbone, Output
from litesnn.snn.cell import Cell, CellMix, edge_key
from litesnn.snn.compconv import CompConv, Compression, Connection
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.network import Network
from litesnn.snn.neuron import SHARPNESS, THRESHOLD
from litesnn.snn.strided import conv2d
from litesnn.snn.supernet import Supernet

__all__ = ["PlainNetwork", "PlainSupernet"]

PLAINLY = Execution()

Steps = list[Tensor]
"""Spikes or currents of every timestep, each [B, C, H, W]."""


class PlainSupernet(Supernet):
    """Takes over the modules of a supernet, and runs them plainly."""

    def __init__(self, supernet: Supernet, *, once: bool) -> None:
        self.__dict__.update(supernet.__dict__)
        self.once = once

    def forward(
        self,
        x: Tensor,
        mixes: Sequence[CellMix] | None = None,
        *,
        meter: Meter | None = None,
        execution: Execution = PLAINLY,
    ) -> Output:
        """Quantized images [B, C, H, W] → logits y_t [T_max, B, K]; there is one way to execute this."""
        assert execution == PLAINLY
        mixes = self.mixes() if mixes is None else mixes
        return _Pass(self.backbone, once=self.once, meter=meter).run(x, self.timesteps, mixes, tap=None)


class PlainNetwork(Network):
    """Takes over the modules of a derived network, and trains them plainly."""

    def __init__(self, network: Network, *, once: bool) -> None:
        self.__dict__.update(network.__dict__)
        self.once = once

    def forward(
        self,
        x: Tensor,
        *,
        meter: Meter | None = None,
        record: dict[str, Tensor] | None = None,
        tap: int | None = None,
        execution: Execution = PLAINLY,
        timesteps: int | None = None,
    ) -> Output:
        """Encoded images [B, C, H, W] → logits y_t [T, B, K], as in training; nothing is recorded."""
        assert self.training
        assert record is None
        assert execution == PLAINLY
        made = _Pass(self.backbone, once=self.once, meter=meter)
        return made.run(x, timesteps or self.genotype.timesteps, self.mixes(), tap=tap)


class _Pass:
    """One forward pass over all timesteps."""

    def __init__(self, backbone: Backbone, *, once: bool, meter: Meter | None) -> None:
        self.backbone, self.once, self.meter = backbone, once, meter

    def run(self, x: Tensor, timesteps: int, mixes: Sequence[CellMix], *, tap: int | None) -> Output:
        backbone = self.backbone
        (current,), _ = self.connect(backbone.stem, [x * INPUT_SCALE], backbone.stem_compression())
        older = newer = self.fire([current] * timesteps, "stem")
        tapped = None
        for index, mix in enumerate(mixes):
            older, newer = newer, self.cell(backbone.cell(index), older, newer, mix, f"cell {index + 1}")
            if index == tap:
                tapped = torch.stack(newer)  # [T, B, C, H, W]
        return Output(self.read_out(newer), tapped)

    def cell(self, cell: Cell, older: Steps, newer: Steps, mix: CellMix, name: str) -> Steps:
        states = [older, newer]
        means = [self.means(state) for state in states]  # each [T, C, H, W]
        for node in range(cell.nodes):
            total: Steps | None = None
            for edge in cell.edges_into(node):
                row, connection = cell.edges.index(edge), cell.connection(edge)
                currents, masks = self.connect(connection, states[edge.source], mix.compression)
                if mix.edge_weights is not None:
                    currents = [current * mix.edge_weights[row] for current in currents]
                total = currents if total is None else [a + b for a, b in zip(total, currents, strict=True)]
                if self.meter is not None:
                    share = 1.0 if mix.edge_shares is None else mix.edge_shares[row]
                    used, bit_used = costs(connection, mix, masks, means[edge.source])
                    self.meter.add([f"{name} {edge_key(edge)}"], (used * share)[None], (bit_used * share)[None])
            assert total is not None
            if mix.channel_weights is not None:
                total = [current * mix.channel_weights[:, None, None] for current in total]
            states.append(self.fire(total, f"{name} node {node}"))
            means.append(self.means(states[-1]))
        return [torch.cat(nodes, dim=1) for nodes in zip(*states[2:], strict=True)]

    def connect(self, connection: Connection, inputs: Steps, compression: Compression) -> tuple[Steps, list[Tensor]]:
        """Currents of every timestep, and the masks of every keep ratio."""
        outputs, conv = inputs, connection.conv
        masks: list[Tensor] = []
        if conv is not None:
            outputs = []
            made = effective_weight(conv, compression) if self.once else None
            for x in inputs:
                weight, masks = effective_weight(conv, compression) if made is None else made
                outputs.append(conv2d(x, weight, stride=conv.stride, padding=conv.kernel // 2))
        norm = connection.norm
        every = torch.cat(outputs)  # [T·B, C, H, W]
        every = F.batch_norm(every, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return list(every.chunk(len(inputs))), masks

    def fire(self, currents: Steps, name: str) -> Steps:
        leak = self.backbone.arithmetic.leak
        membrane = spikes = torch.zeros_like(currents[0])
        fired = []
        for current in currents:
            membrane = leak * membrane * (1 - spikes) + current
            spikes = _Spike.apply(membrane)  # type: ignore[no-untyped-call]
            fired.append(spikes)
        if self.meter is not None:
            self.meter.add_rate(name, self.means(fired))
        return fired

    def means(self, steps: Steps) -> Tensor:
        """Mean spikes per sample [T, C, H, W]; nothing where no costs are counted."""
        return torch.stack([step.mean(0) for step in steps]) if self.meter is not None else torch.empty(0)

    def read_out(self, spikes: Steps) -> Tensor:
        backbone, compression = self.backbone, self.backbone.classifier_compression()
        made = effective_weight(backbone.classifier, compression) if self.once else None
        total, logits = torch.zeros((), device=backbone.device), []
        for t, step in enumerate(spikes, 1):
            weight, _ = effective_weight(backbone.classifier, compression) if made is None else made
            total = total + backbone.classifier_gain * (step.mean((2, 3)) @ weight.flatten(1).T)
            logits.append(total / t + backbone.classifier_bias)
        if self.meter is not None:
            used = self.means(spikes).sum((1, 2, 3)) * len(backbone.classifier_bias)
            self.meter.add(["classifier"], used[None], used[None] * backbone.genotype.classifier_bits)
        return torch.stack(logits)


def effective_weight(conv: CompConv, compression: Compression) -> tuple[Tensor, list[Tensor]]:
    """Σ_bκ p_bκ · M_κ ⊙ Q_b(W), and the masks M_κ."""
    masks = [_KeepLargest.apply(conv.scores.abs(), keep) for keep in compression.keeps]  # type: ignore[no-untyped-call]
    total: Tensor | None = None
    for row, bits in enumerate(compression.bits):
        rounded = quantized(conv.weight, bits)
        for column, mask in enumerate(masks):
            part = compression.weights[row, column] * mask * rounded
            total = part if total is None else total + part
    assert total is not None
    return total, masks


def quantized(weight: Tensor, bits: int) -> Tensor:
    """Q_b(W), with the gradient of the identity."""
    step = GAUSSIAN_STEP[bits] * weight.detach().std(correction=0).clamp_min(1e-8)
    half = 2 ** (bits - 1)
    value = ((weight.detach() / step + 0.5).round().clamp(1 - half, half) - 0.5) * step
    through: Tensor = _Through.apply(weight, value)  # type: ignore[no-untyped-call]
    return through


def costs(connection: Connection, mix: CellMix, masks: Sequence[Tensor], means: Tensor) -> tuple[Tensor, Tensor]:
    """SynOps and Bit-SynOps per timestep [T] of a connection that reads mean spikes [T, C, H, W].

    The non-zero weights that spikes reach are the outputs of a convolution of the spikes with the mask.
    """
    present = means.new_ones(connection.outputs) if mix.channel_weights is None else mix.channel_weights
    if connection.conv is None:
        used = (means.sum((2, 3)) * present).sum(1)
        return used, used
    conv, compression = connection.conv, mix.compression
    reached = [(mask * present[:, None, None, None]).sum(0, keepdim=True) for mask in masks]  # each [1, C, k, k]
    by_keep = torch.stack(
        [conv2d(means, taps, stride=conv.stride, padding=conv.kernel // 2).sum((1, 2, 3)) for taps in reached]
    )  # [keeps, T]
    bits = compression.weights.new_tensor(compression.bits)[:, None]
    return compression.weights.sum(0) @ by_keep, (bits * compression.weights).sum(0) @ by_keep


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, membrane: Tensor) -> Tensor:
        ctx.save_for_backward(membrane)
        return (membrane > THRESHOLD).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (membrane,) = ctx.saved_tensors
        peak = SHARPNESS / (2 * math.tanh(SHARPNESS / 2))
        slope = peak * (1 - torch.tanh(SHARPNESS * (membrane - THRESHOLD)) ** 2)
        slope[(membrane <= 0) | (membrane >= 1)] = 0
        gradient: Tensor = grads[0] * slope
        return gradient


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


class _KeepLargest(torch.autograd.Function):
    """The mask of the largest scores by a full sort; its gradient goes straight to them."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: float) -> Tensor:
        order = scores.flatten().sort().indices
        mask = scores.new_empty(scores.numel())
        pruned = scores.numel() - kept_count(scores.numel(), keep)
        mask[order[:pruned]] = 0
        mask[order[pruned:]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None
