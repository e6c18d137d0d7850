"""Neurons that are given by one timestep alone: any neuron, by autograd through its timesteps.

In: currents of all timesteps. Out: spikes of all timesteps; in the backward pass the gradients of currents and of
what the neurons learn. It takes several times the time and memory of the kernels of :mod:`litesnn.snn.kernels`.

Shapes: T timesteps first, anything behind it; C channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litesnn.neurons.model import Fire, Numbers, State
from litesnn.snn.kernels import Incoming, Node, currents_of
from litesnn.snn.membrane import SHARPNESS, spikes_of, surrogate_slope

__all__ = ["Stepped", "fire_backward", "fire_node", "step_through"]


@dataclass(frozen=True)
class Stepped:
    """Neurons of one population.

    Attributes:
        step: one timestep, as :attr:`litesnn.neurons.NeuronModel.step`.
        states: how many numbers the state of a neuron has.
        numbers: for the step; tensors are learned, one number or one for each channel [C].
        levels: D, the largest spike.
        sharpness: b of the surrogate slope.
    """

    step: Callable[[State, Any, Numbers, Fire], tuple[State, Any]]
    states: int
    numbers: Mapping[str, Any]
    levels: int = 1
    sharpness: float = SHARPNESS

    @property
    def learned(self) -> dict[str, Tensor]:
        """The numbers that are learned."""
        return {name: value for name, value in self.numbers.items() if isinstance(value, Tensor)}

    def given(self, learned: Mapping[str, Tensor]) -> Stepped:
        """The same neurons with other tensors for what is learned."""
        return replace(self, numbers={**self.numbers, **learned})


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, membrane: Tensor, levels: int, sharpness: float) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.levels, ctx.sharpness = levels, sharpness
        return spikes_of(membrane, levels=levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (membrane,) = ctx.saved_tensors
        return surrogate_slope(membrane, sharpness=ctx.sharpness, levels=ctx.levels).mul_(grads[0]), None, None


def step_through(current: Tensor, neuron: Stepped) -> Tensor:
    """Spikes (0. … D) [T, …, C] of currents [T, …, C], differentiable in currents and learned numbers."""

    def fire(membrane: Tensor) -> Tensor:
        return _Fire.apply(membrane, neuron.levels, neuron.sharpness)  # type: ignore[no-any-return, no-untyped-call]

    state = (torch.zeros_like(current[0]),) * neuron.states
    spikes = []
    for x in current:
        state, fired = neuron.step(state, x, neuron.numbers, fire)
        spikes.append(fired)
    return torch.stack(spikes)


def fire_node(node: Node, neuron: Stepped, spikes: Tensor) -> Tensor:
    """As :meth:`litesnn.snn.kernels.Kernels.fire`, with these neurons in place of the node's."""
    with torch.no_grad():
        spikes.copy_(step_through(currents_of(node), neuron).flatten(0, 1))
    return spikes.mean(0)


def fire_backward(
    node: Node, neuron: Stepped, incoming: Incoming, centres: Tensor, g: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As :meth:`litesnn.snn.kernels.Kernels.fire_backward`, and the gradients of the learned numbers in their order."""
    with torch.enable_grad():
        current = currents_of(node).detach().requires_grad_()
        learned = {name: value.detach().requires_grad_() for name, value in neuron.learned.items()}
        spikes = step_through(current, neuron.given(learned))
        total = incoming.total(spikes.detach().flatten(0, 1)).reshape(spikes.shape)
        found, *rest = torch.autograd.grad(spikes, [current, *learned.values()], total)
    g.copy_(found.flatten(0, 1))
    products = [(g * (term - centre)).sum(0) for term, centre in zip(node.terms, centres, strict=False)]
    return torch.stack([g.sum(0), *products]), tuple(rest)
