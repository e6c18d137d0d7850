"""The mean of spikes over the batch, which costs are counted from, with a gradient that takes one pass over the spikes.

A graded spike 0…D counts as the spikes of its bit planes, for firing rates as one, or as what it is. The first two
pass their gradient on straight through, with the slope that they have on average from 0 to D.

Shapes: T timesteps, B batch, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Count", "batch_mean", "plane_spikes", "whether_fired", "with_batch_mean"]


@dataclass(frozen=True)
class Count:
    """How spikes are counted.

    Attributes:
        of: spikes 0…D (any shape) to counts, of their type; ``None``: as they are.
        slope: of the counts, in the backward pass.
    """

    of: Callable[[Tensor], Tensor] | None = None
    slope: float = 1.0

    def __call__(self, spikes: Tensor) -> Tensor:
        """The counts of spikes (any shape)."""
        return spikes if self.of is None else self.of(spikes)


def plane_spikes(levels: int) -> Count:
    """The ones among the bits of spikes 0…D: one for each bit plane that has a spike."""
    if levels == 1:
        return Count()

    def ones(spikes: Tensor) -> Tensor:
        whole = spikes.to(torch.uint8)
        found = whole & 1
        for bit in range(1, levels.bit_length()):
            found += (whole >> bit) & 1
        return found.to(spikes.dtype)

    return Count(ones, levels.bit_count() / levels)


def whether_fired(levels: int) -> Count:
    """1 for spikes above 0."""
    return Count() if levels == 1 else Count(lambda spikes: (spikes > 0).to(spikes.dtype), 1 / levels)


def with_batch_mean(spikes: Tensor, counted: Count = Count()) -> tuple[Tensor, Tensor]:
    """Spikes [T, B, C, H, W] as they are, and the mean of their counts [T, C, H, W].

    Whoever reads on takes these spikes: their gradient and that of the mean are then added up in one go.
    """
    same, mean = _BatchMean.apply(spikes, counted)  # type: ignore[no-untyped-call]
    return same, mean


def batch_mean(spikes: Tensor, counted: Count = Count()) -> Tensor:
    """The mean of the counts of spikes [T, B, C, H, W] over the batch [T, C, H, W], without a gradient."""
    return _mean(counted(spikes.detach()))


class _BatchMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor, counted: Count) -> tuple[Tensor, Tensor]:
        ctx.batch, ctx.share = spikes.shape[1], spikes.shape[1] / counted.slope
        ctx.set_materialize_grads(False)
        return spikes.view_as(spikes), _mean(counted(spikes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None]:
        spikes, mean = grads
        if mean is None:
            return spikes, None
        if spikes is None:
            spread: Tensor = (mean / ctx.share).unsqueeze(1)
            return spread.expand(-1, ctx.batch, *spread.shape[2:]), None
        # In the layout of the spikes: else the sum takes five times as long.
        mean = mean.contiguous(memory_format=torch.channels_last)
        return torch.add(spikes, mean.unsqueeze(1), alpha=1 / ctx.share), None


def _mean(spikes: Tensor) -> Tensor:
    """The mean over the batch; as a matrix product it reads memory faster than torch's sum on a CPU does."""
    rows = spikes.permute(0, 1, 3, 4, 2)  # [T, B, H, W, C], as they lie in memory
    if spikes.device.type != "cpu" or not rows.is_contiguous():
        return spikes.mean(dim=1)
    steps, batch, height, width, channels = rows.shape
    sums = rows.new_ones(steps, 1, batch) @ rows.view(steps, batch, -1)
    return sums.div_(batch).view(steps, height, width, channels).permute(0, 3, 1, 2)
