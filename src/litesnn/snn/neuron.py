"""The leaky integrate-and-fire neuron, with its gradient.

In: currents of all timesteps. Out: spikes of all timesteps. The equations are in :mod:`litesnn.snn.membrane`; the same
neuron in integers, for the fixed-point arithmetic, leaks by a shift: u_{t−1} >> 2, rounded down.

Shapes: T timesteps first, anything behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litesnn.snn.membrane import LEAK, SHARPNESS, THRESHOLD, Neuron, surrogate_slope
from litesnn.snn.select_kernels import kernels_for

__all__ = ["LEAK", "LEAK_SHIFT", "SHARPNESS", "THRESHOLD", "fire", "lif", "lif_integer", "surrogate_slope"]

LEAK_SHIFT = 2


def lif(
    current: Tensor, *, leak: float = LEAK, threshold: float = THRESHOLD, reset: float | None = None, levels: int = 1
) -> Tensor:
    """Spikes (0. or 1., or with more levels 0. … D) of LIF neurons.

    Args:
        current: input currents [T, ...], float.
        leak: what is left of the membrane after one timestep, in [0, 1].
        threshold: a neuron fires when its membrane is strictly above it.
        reset: what a spike takes from the membrane of the next timestep; ``None``: all of it (hard reset).
        levels: D, the largest spike; more than 1 has a hard reset.

    Returns:
        Spikes [T, ...] of the same type. The gradient goes through the leak, and through the reset of binary spikes.
    """
    return fire(current, Neuron(leak, threshold, reset=reset, levels=levels))


def fire(current: Tensor, neuron: Neuron) -> Tensor:
    """:func:`lif` of neurons with these numbers."""
    spikes: Tensor = _Lif.apply(current, neuron)  # type: ignore[no-untyped-call]
    return spikes


def lif_integer(current: Tensor, *, threshold: int, reset: int | None = None, levels: int = 1, unit: int = 1) -> Tensor:
    """Spikes (0. or 1., or with more levels 0. … D; float32) of LIF neurons in fixed point; no gradient.

    Args:
        current: input currents [T, ...], int32. The membranes must fit int32 too: currents up to 2^30 see to it.
        threshold: a neuron fires when its membrane is strictly above it.
        reset: what a spike takes from the membrane of the next timestep; ``None``: all of it (hard reset).
        levels: D, the largest spike; more than 1 has a hard reset.
        unit: the distance of their thresholds.
    """
    spikes = torch.empty(current.shape, dtype=torch.float32, device=current.device)
    membrane = torch.zeros_like(current[0])
    for t, x in enumerate(current):
        membrane = (membrane >> LEAK_SHIFT) + x
        if reset is not None and t:
            membrane -= reset * spikes[t - 1].to(membrane.dtype)
        fired = membrane > threshold
        spikes[t] = fired
        for level in range(1, levels):
            spikes[t] += membrane > threshold + level * unit
        if reset is None:
            membrane.masked_fill_(fired, 0)  # what a reset neuron leaks is zero
    return spikes


class _Lif(torch.autograd.Function):
    """Keeps the currents for the backward pass, which computes membranes once more: constant ones are kept once."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: Neuron) -> Tensor:
        _, spikes = kernels_for(current, neuron).lif(current, neuron)
        ctx.save_for_backward(current)
        ctx.neuron = neuron
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (current,) = ctx.saved_tensors
        kernels = kernels_for(current, ctx.neuron)
        membranes, _ = kernels.lif(current, ctx.neuron)
        return kernels.lif_backward(grads[0], membranes, ctx.neuron), None
