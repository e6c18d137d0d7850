"""The mean of spikes over the batch, which costs are counted from, with a gradient that takes one pass over the spikes.

Shapes: T timesteps, B batch, C channels, H × W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["with_batch_mean"]


def with_batch_mean(spikes: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes [T, B, C, H, W] as they are, and their mean [T, C, H, W].

    Whoever reads on takes these spikes: their gradient and that of the mean are then added up in one go.
    """
    same, mean = _BatchMean.apply(spikes)  # type: ignore[no-untyped-call]
    return same, mean


class _BatchMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> tuple[Tensor, Tensor]:
        ctx.batch = spikes.shape[1]
        ctx.set_materialize_grads(False)
        return spikes.view_as(spikes), _mean(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Tensor | None:
        spikes, mean = grads
        if mean is None:
            return spikes  # type: ignore[no-any-return]
        if spikes is None:
            spread: Tensor = (mean / ctx.batch).unsqueeze(1)
            return spread.expand(-1, ctx.batch, *spread.shape[2:])
        # In the layout of the spikes: else the sum takes five times as long.
        mean = mean.contiguous(memory_format=torch.channels_last)
        return torch.add(spikes, mean.unsqueeze(1), alpha=1 / ctx.batch)


def _mean(spikes: Tensor) -> Tensor:
    """The mean over the batch; as a matrix product it reads memory faster than torch's sum on a CPU does."""
    rows = spikes.permute(0, 1, 3, 4, 2)  # [T, B, H, W, C], as they lie in memory
    if spikes.device.type != "cpu" or not rows.is_contiguous():
        return spikes.mean(dim=1)
    steps, batch, height, width, channels = rows.shape
    sums = rows.new_ones(steps, 1, batch) @ rows.view(steps, batch, -1)
    return sums.div_(batch).view(steps, height, width, channels).permute(0, 3, 1, 2)
