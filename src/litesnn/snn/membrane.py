"""The integrate-and-fire neuron that kernels and engines know: its recursion over time and surrogate slope, in torch.

Equations (LitE-SNN, section 3.1; surrogate of the Dspike family, Li et al., NeurIPS 2021):

    u_t = leak · u_{t−1} · (1 − s_{t−1}) + x_t        a spike resets the membrane to zero
    u_t = leak · u_{t−1} − reset · s_{t−1} + x_t      a spike takes ``reset`` away (soft reset)
    s_t = 1 if u_t > threshold else 0,    u_0 = s_0 = 0
    ds/du = b / (2·tanh(b/2)) · (1 − tanh²(b·(u − threshold)))  for 0 < u < 1, else 0

A graded spike is one of 0…D, the number of thresholds that the membrane is above:

    u_t = leak · u_{t−1} · [s_{t−1} = 0] + x_t
    s_t = Σ_j [u_t > threshold + j]  for j = 0 … D − 1
    ds/du = that of a binary spike at u − j  for j < u ≤ j + 1 and u < D, else 0

Its gradient goes through the leak, and not through the reset.

A soft reset that subtracts the threshold before the membrane leaks has reset = leak · threshold; one that subtracts it
afterwards has reset = threshold.

Shapes: T timesteps first, anything behind it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from litesnn.neurons.model import LEAK, SHARPNESS, THRESHOLD, Neuron

__all__ = [
    "LEAK",
    "SHARPNESS",
    "THRESHOLD",
    "Neuron",
    "integrate",
    "integrate_backward",
    "spikes_of",
    "surrogate_slope",
]


def surrogate_slope(
    membrane: Tensor, *, threshold: float = THRESHOLD, sharpness: float = SHARPNESS, levels: int = 1
) -> Tensor:
    """ds/du at ``membrane`` (any shape): the Dspike slope inside 0 < u < 1 and zero outside.

    With D ``levels`` it repeats up to u = D.
    """
    peak = sharpness / (2 * math.tanh(sharpness / 2))
    inside = (membrane > 0) & (membrane < levels)
    if levels > 1:
        membrane = membrane - spikes_of(membrane, threshold=1, levels=levels - 1)
    slope = peak * (1 - torch.tanh(sharpness * (membrane - threshold)).square_())
    return slope * inside


def spikes_of(membrane: Tensor, *, threshold: float = THRESHOLD, levels: int = 1) -> Tensor:
    """Spikes 0…D of membranes (any shape), of their type."""
    spikes = (membrane > threshold).to(membrane.dtype)
    for level in range(1, levels):
        spikes += membrane > threshold + level
    return spikes


def integrate(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """Membranes and spikes (0. … D) [T, ...] of currents [T, ...]."""
    membranes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    spikes = torch.empty_like(membranes)
    for t in range(current.shape[0]):
        if t == 0:
            membranes[0] = current[0]
        else:
            # The order of these roundings is part of the deployed arithmetic: (leak·u)·(1−s) or leak·u − reset·s,
            # then + x.
            torch.mul(membranes[t - 1], neuron.leak, out=membranes[t])
            if neuron.reset is None:
                membranes[t].mul_(spikes[t - 1] == 0)
            else:
                membranes[t].sub_(spikes[t - 1] * neuron.reset)
            membranes[t].add_(current[t])
        spikes[t] = spikes_of(membranes[t], threshold=neuron.threshold, levels=neuron.levels)
    return membranes, spikes


def integrate_backward(grad_spikes: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
    """Gradients of the currents [T, ...] from those of the spikes; they go through the reset and through the leak."""
    grad = surrogate_slope(
        membranes, threshold=neuron.threshold, sharpness=neuron.sharpness, levels=neuron.levels
    )  # overwritten by step
    steps = membranes.shape[0]
    for t in reversed(range(steps)):
        if t == steps - 1:
            grad[t].mul_(grad_spikes[t])
            continue
        carried = grad[t + 1] * neuron.leak
        if neuron.reset is not None:
            grad[t].mul_(grad_spikes[t] - grad[t + 1] * neuron.reset).add_(carried)
            continue
        # carried is d loss / d (u_t·(1−s_t)), in which a graded spike has no gradient
        through_spike = grad_spikes[t] - carried * membranes[t] if neuron.levels == 1 else grad_spikes[t]
        grad[t].mul_(through_spike).add_(carried * (membranes[t] <= neuron.threshold))
    return grad
