"""The whole network once more, slowly: plain autograd, one timestep and one weight tensor at a time.

Only parameters are read from the modules under test; every equation is written out again from the design. Shapes:
T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.snn.backbone import Backbone
from litesnn.snn.cell import Cell
from litesnn.snn.compconv import CompConv, Connection
from litesnn.snn.population import Neurons

STEPS = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.336}  # Max (1960)


@dataclass(frozen=True)
class Mixture:
    """Probability of each (bits, keep ratio); weights of edges by ``"node_source_op"`` and of channels."""

    pairs: Mapping[tuple[int, float], Tensor | float]
    edges: Mapping[str, Tensor] | None = None
    channels: Tensor | None = None


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0.5).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (u,) = ctx.saved_tensors
        slope = 3 / (2 * math.tanh(1.5)) * (1 - torch.tanh(3 * (u - 0.5)) ** 2)
        return torch.where((u > 0) & (u < 1), grads[0] * slope, torch.zeros_like(u))


def spike(u: Tensor, levels: int = 1) -> Tensor:
    """The sum of the binary spikes of D neurons whose membranes are u, u − 1, …: at most one of them has a slope."""
    found: Tensor = sum(_Spike.apply(u - level) for level in range(levels))  # type: ignore[assignment, no-untyped-call]
    return found


def lif(currents: Sequence[Tensor], levels: int = 1) -> list[Tensor]:
    """Spikes 0…D of every timestep."""
    u = s = torch.zeros_like(currents[0])
    spikes = []
    for x in currents:
        left = (0.2 * u) * (1 - s) if levels == 1 else torch.where(s > 0, torch.zeros_like(u), 0.2 * u)
        u = left + x
        s = spike(u, levels)
        spikes.append(s)
    return spikes


def stepped(module: Neurons, currents: Sequence[Tensor]) -> list[Tensor]:
    """Spikes of every timestep [B, C, …] of any neurons, by their model's step: one neuron is like every other."""
    model, levels = module.model, module.levels
    if model.key == "lif":
        return lif(currents, levels)
    raw = {learned.name: getattr(module, learned.name) for learned in model.learned}
    learned = {each.name: each.value(raw[each.name]) for each in model.learned}
    columns = {name: value.view(-1, 1, 1) if value.dim() else value for name, value in learned.items()}
    state: tuple[Tensor, ...] = (torch.zeros_like(currents[0]),) * model.states
    spikes = []
    for x in currents:
        state, s = model.step(
            state, x, {"leak": 0.2, "threshold": 0.5, "levels": levels} | columns, lambda u: spike(u, levels)
        )
        spikes.append(s)
    return spikes


def quantized(weight: Tensor, bits: int) -> Tensor:
    """Each weight as the nearest odd multiple of half a step; the gradient of the identity."""
    flat = weight.detach().flatten()
    spread = ((flat - flat.sum() / len(flat)) ** 2).sum().div(len(flat)).sqrt().clamp_min(1e-8)
    levels = torch.arange(1 - 2**bits, 2**bits, 2).to(weight) * (STEPS[bits] * spread / 2)
    nearest = levels[(weight.detach()[..., None] - levels).abs().argmin(-1)]
    return weight + (nearest - weight).detach()


def mask(scores: Tensor, keep: float) -> Tensor:
    """The largest |score|s, one after the other; the gradient of |score|."""
    order = sorted(range(scores.numel()), key=lambda i: -abs(float(scores.detach().flatten()[i])))
    ones = torch.zeros(scores.numel(), dtype=scores.dtype)
    ones[order[: max(1, round(keep * scores.numel()))]] = 1
    size = scores.abs()
    return size + (ones.view(scores.shape) - size).detach()


def effective(conv: CompConv, mixture: Mixture) -> Tensor:
    """Σ_bκ p_bκ · M_κ ⊙ Q_b(W)."""
    parts = [p * mask(conv.scores, keep) * quantized(conv.weight, bits) for (bits, keep), p in mixture.pairs.items()]
    return torch.stack(parts).sum(0)


def pairs(bits: Sequence[int], keeps: Sequence[float], weights: Tensor) -> dict[tuple[int, float], Tensor]:
    """The mixture of a table of probabilities [bits, keeps]."""
    return {(b, keep): weights[i, j] for i, b in enumerate(bits) for j, keep in enumerate(keeps)}


def connection(module: Connection, inputs: Sequence[Tensor], mixture: Mixture) -> list[Tensor]:
    """Currents of every timestep: one convolution per timestep, one normalisation over all of them."""
    outputs = list(inputs)
    if module.conv is not None:
        weight = effective(module.conv, mixture)
        border = weight.shape[-1] // 2
        outputs = [
            F.conv2d(F.pad(x, [border] * 4).contiguous(), weight, stride=module.stride, groups=module.conv.groups)
            for x in inputs
        ]
    stacked = torch.stack(outputs)  # [T, B, C, H, W]
    mean = stacked.mean((0, 1, 3, 4), keepdim=True)
    variance = ((stacked - mean) ** 2).mean((0, 1, 3, 4), keepdim=True)
    gain, bias = (p[None, None, :, None, None] for p in (module.norm.weight, module.norm.bias))
    return list((stacked - mean) / torch.sqrt(variance + 1e-5) * gain + bias)


def cell(module: Cell, older: Sequence[Tensor], newer: Sequence[Tensor], mixture: Mixture) -> list[Tensor]:
    """Spikes of every timestep, nodes side by side."""
    states = [list(older), list(newer)]
    for node in range(module.nodes):
        total: list[Tensor] | None = None
        for edge in module.edges:
            if edge.node != node:
                continue
            part = connection(module.connection(edge), states[edge.source], mixture)
            if mixture.edges is not None:
                part = [mixture.edges[f"{edge.node}_{edge.source}_{edge.op}"] * x for x in part]
            total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
        assert total is not None
        if mixture.channels is not None:
            total = [x * mixture.channels[:, None, None] for x in total]
        states.append(stepped(module.neurons(node), total))
    return [torch.cat(step, dim=1) for step in zip(*states[2:], strict=True)]


def backbone(module: Backbone, x: Tensor, timesteps: int, mixtures: Sequence[Mixture]) -> Tensor:
    """Quantized images [B, C, H, W], or frames [B, T, C, H, W] → y_t for every t [T, B, K], as in training."""
    genotype = module.genotype
    stem = Mixture({(genotype.stem.bits, 1.0): 1.0})
    if x.dim() == 4:
        (current,) = connection(module.stem, [x / 32], stem)
        currents = [current] * timesteps
    else:
        currents = connection(module.stem, [x[:, t] / 32 for t in range(timesteps)], stem)
    older = newer = stepped(module.stem_neurons, currents)
    for index, mixture in enumerate(mixtures):
        older, newer = newer, cell(module.cell(index), older, newer, mixture)
    weight = quantized(module.classifier.weight, genotype.classifier_bits).flatten(1)  # [K, C]
    steps = [module.classifier_gain * (spikes.mean((2, 3)) @ weight.T) + module.classifier_bias for spikes in newer]
    return torch.stack([torch.stack(steps[: t + 1]).mean(0) for t in range(timesteps)])
