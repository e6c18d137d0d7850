"""The leaky integrate-and-fire neuron and its surrogate gradient.

In: currents of all timesteps. Out: spikes of all timesteps. Equations (LitE-SNN, section 3.1; surrogate of the Dspike
family, Li et al., NeurIPS 2021):

    u_t = leak · u_{t−1} · (1 − s_{t−1}) + x_t,    s_t = 1 if u_t > threshold else 0,    u_0 = s_0 = 0
    ds/du = b / (2·tanh(b/2)) · (1 − tanh²(b·(u − threshold)))  for 0 < u < 1, else 0

The same neuron in integers, for the fixed-point arithmetic, leaks by a shift: u_{t−1} >> 2, rounded down.

Shapes: T timesteps first, anything behind it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["LEAK", "LEAK_SHIFT", "SHARPNESS", "THRESHOLD", "lif", "lif_integer", "surrogate_slope"]

LEAK = 0.2
LEAK_SHIFT = 2
THRESHOLD = 0.5
SHARPNESS = 3.0


def surrogate_slope(membrane: Tensor, *, threshold: float = THRESHOLD, sharpness: float = SHARPNESS) -> Tensor:
    """ds/du at ``membrane`` (any shape): the Dspike slope inside 0 < u < 1 and zero outside."""
    peak = sharpness / (2 * math.tanh(sharpness / 2))
    slope = peak * (1 - torch.tanh(sharpness * (membrane - threshold)).square_())
    return slope * ((membrane > 0) & (membrane < 1))


def lif(current: Tensor, *, leak: float = LEAK, threshold: float = THRESHOLD) -> Tensor:
    """Spikes (0. or 1.) of hard-reset LIF neurons.

    Args:
        current: input currents [T, ...], float.
        leak: what is left of the membrane after one timestep, in [0, 1].
        threshold: a neuron fires when its membrane is strictly above it.

    Returns:
        Spikes [T, ...] of the same type. The gradient goes through the reset as well as through the leak.
    """
    spikes: Tensor = _Lif.apply(current, leak, threshold)  # type: ignore[no-untyped-call]
    return spikes


def lif_integer(current: Tensor, *, threshold: int) -> Tensor:
    """Spikes (0. or 1., float32) of hard-reset LIF neurons in fixed point; no gradient.

    Args:
        current: input currents [T, ...], int32. The membranes must fit int32 too: currents up to 2^30 see to it.
        threshold: a neuron fires when its membrane is strictly above it.
    """
    spikes = torch.empty(current.shape, dtype=torch.float32, device=current.device)
    membrane = torch.zeros_like(current[0])
    for t, x in enumerate(current):
        membrane = (membrane >> LEAK_SHIFT) + x
        fired = membrane > threshold
        spikes[t] = fired
        membrane.masked_fill_(fired, 0)  # what a reset neuron leaks is zero
    return spikes


class _Lif(torch.autograd.Function):
    """Keeps one tensor for the backward pass, the membranes; spikes are recomputed from them by one comparison."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, leak: float, threshold: float) -> Tensor:
        membranes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        spikes = torch.empty_like(membranes)
        for t in range(current.shape[0]):
            if t == 0:
                membranes[0] = current[0]
            else:
                # The order of these roundings is part of the deployed arithmetic: (leak·u)·(1−s), then + x.
                torch.mul(membranes[t - 1], leak, out=membranes[t])
                membranes[t].mul_(1 - spikes[t - 1]).add_(current[t])
            torch.gt(membranes[t], threshold, out=spikes[t])
        ctx.save_for_backward(membranes)
        ctx.leak, ctx.threshold = leak, threshold
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (grad_spikes,) = grads
        (membranes,) = ctx.saved_tensors
        grad_current = surrogate_slope(membranes, threshold=ctx.threshold)  # [T, ...], overwritten step by step
        steps = membranes.shape[0]
        for t in reversed(range(steps)):
            if t == steps - 1:
                grad_current[t].mul_(grad_spikes[t])
                continue
            carried = grad_current[t + 1] * ctx.leak  # d loss / d (u_t·(1−s_t))
            through_spike = grad_spikes[t] - carried * membranes[t]
            grad_current[t].mul_(through_spike).add_(carried * (membranes[t] <= ctx.threshold))
        return grad_current, None, None
