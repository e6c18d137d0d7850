"""Kernels of a training step besides convolutions: batch statistics, sums of currents, neurons, and their gradients.

Three implementations have the same functions: :class:`TorchKernels` below is the written meaning and runs on any
device; :mod:`litesnn.snn.native_kernels` does the same on the CPU in C, and :mod:`litesnn.snn.triton_kernels` on a GPU,
in as few passes over memory as it takes.

A map is a matrix [P, C] of one row per pixel and one column per channel; the P = T·Q rows are the Q = B·H·W pixels of
the first timestep, then those of the second, and so on: torch's channels_last. A map may be some columns of a wider
one. Shapes: T timesteps, Q pixels, C channels, N terms (maps that are summed into a node).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from litesnn.snn.membrane import Neuron, integrate, integrate_backward

__all__ = ["CompiledKernels", "Incoming", "Kernels", "Node", "TorchKernels", "currents_of", "from_rows", "to_rows"]


def to_rows(x: Tensor) -> Tensor:
    """[N, C, H, W] as a map [N·H·W, C]: a view if channels lie side by side and pixels are equally far apart."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def from_rows(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """[N·H·W, C] → a channels_last view [N, C, H, W]."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Node:
    """The input of a node's neurons: x = bias + Σ_n scales_n · terms_n, at every timestep.

    Attributes:
        terms: N maps [P, C].
        scales, bias: [N, C] and [C].
        steps: T.
        neuron: whose membranes follow x.
    """

    terms: Sequence[Tensor]
    scales: Tensor
    bias: Tensor
    steps: int
    neuron: Neuron


@dataclass(frozen=True)
class Incoming:
    """The gradient of a node's spikes s: Σ maps, and if there are scaled maps, + Σ_m factors_m · scaled_m
    + of_spikes_0 · s + of_spikes_1.

    Attributes:
        maps: [P, C], at least one.
        scaled: M maps [P, C].
        factors: [M, C].
        of_spikes: [2, C].
    """

    maps: Sequence[Tensor]
    scaled: Sequence[Tensor]
    factors: Tensor
    of_spikes: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> Incoming:
        """The sum of maps alone."""
        columns = maps[0].shape[1]
        return cls(maps, (), maps[0].new_zeros(0, columns), maps[0].new_zeros(2, columns))

    def total(self, spikes: Tensor) -> Tensor:
        """The gradient [P, C]."""
        total = self.maps[0] if len(self.maps) == 1 else torch.stack(list(self.maps)).sum(0)
        for factor, scaled in zip(self.factors, self.scaled, strict=True):
            total = total + factor * scaled
        return total + (self.of_spikes[0] * spikes + self.of_spikes[1]) if self.scaled else total


class Kernels(Protocol):
    """The functions, by what they compute; all without gradients."""

    def mean_variance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (divisor P) of every column of z [P, C]: [C] each."""
        ...

    def fire(self, node: Node, spikes: Tensor) -> Tensor:
        """Set the spikes (0. or 1.) of a node, a map [P, C], and return the mean of every column [C]."""
        ...

    def fire_backward(self, node: Node, incoming: Incoming, centres: Tensor, g: Tensor) -> Tensor:
        """The backward pass through a node's neurons, whose membranes are computed once more.

        Args:
            node: as for :meth:`fire`.
            incoming: the gradient of the spikes.
            centres: of the first M terms [M, C].
            g: receives the gradient of x, a map [P, C].

        Returns:
            [1 + M, C]: Σ_p g, and of each of the first M terms Σ_p g · (term − centre).
        """
        ...

    def scaled_sum(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """Set out = a · g + b · z + c for maps [P, C] and coefficients [C]; ``out`` may be ``z``."""
        ...

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Membranes and spikes [T, ...] of currents [T, ...], which may be expanded over T."""
        ...

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """Gradient of the currents [T, ...] from that of the spikes."""
        ...


class TorchKernels:
    """The kernels in plain torch, which say what all others have to compute."""

    def mean_variance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        variance, mean = torch.var_mean(z, 0, correction=0)
        return mean, variance

    def fire(self, node: Node, spikes: Tensor) -> Tensor:
        """See :class:`Kernels`."""
        spikes.copy_(integrate(currents_of(node), node.neuron)[1].flatten(0, 1))
        return spikes.mean(0)

    def fire_backward(self, node: Node, incoming: Incoming, centres: Tensor, g: Tensor) -> Tensor:
        """See :class:`Kernels`."""
        membranes, spikes = integrate(currents_of(node), node.neuron)
        total = incoming.total(spikes.flatten(0, 1)).reshape(membranes.shape)
        g.copy_(integrate_backward(total, membranes, node.neuron).flatten(0, 1))
        products = [(g * (term - centre)).sum(0) for term, centre in zip(node.terms, centres, strict=False)]
        return torch.stack([g.sum(0), *products])

    def scaled_sum(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """See :class:`Kernels`."""
        out.copy_(a * g + b * z + c)

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        return integrate(current, neuron)

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """See :class:`Kernels`."""
        return integrate_backward(gradient, membranes, neuron)


def currents_of(node: Node) -> Tensor:
    """The currents x [T, Q, C]."""
    current = node.bias
    for scale, term in zip(node.scales, node.terms, strict=True):
        current = current + scale * term
    return current.view(node.steps, -1, current.shape[1])


class CompiledKernels(TorchKernels):
    """The written meaning, compiled by torch for the device: few passes over memory on a GPU, too."""

    def fire(self, *arguments: Any) -> Tensor:
        """See :class:`Kernels`."""
        return _compiled("fire")(self, *arguments)  # type: ignore[no-any-return]

    def fire_backward(self, *arguments: Any) -> Tensor:
        """See :class:`Kernels`."""
        return _compiled("fire_backward")(self, *arguments)  # type: ignore[no-any-return]

    def scaled_sum(self, *arguments: Any) -> None:
        """See :class:`Kernels`."""
        _compiled("scaled_sum")(self, *arguments)


@cache
def _compiled(name: str) -> Callable[..., Any]:
    """A function of :class:`TorchKernels`, compiled when it is first called for a shape."""
    return torch.compile(getattr(TorchKernels, name), dynamic=False)
