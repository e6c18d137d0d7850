"""What a training step does besides convolutions: batch statistics, sums of currents, neurons, and their gradients.

Two implementations have the same functions: :class:`TorchKernels` below is the written meaning and runs on any device;
:mod:`litesnn.snn.native_kernels` does the same on the CPU in C, in as few passes over memory as it takes.

A map is a matrix [P, C] of one row per pixel and one column per channel; the P = T·Q rows are the Q = B·H·W pixels of
the first timestep, then those of the second, and so on: torch's channels_last. A map may be some columns of a wider
one. Shapes: T timesteps, Q pixels, C channels, N terms (maps that are summed into a node).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from litesnn.snn.membrane import Neuron, integrate, integrate_backward

__all__ = ["CompiledKernels", "Kernels", "TorchKernels", "kernels_for"]


class Kernels(Protocol):
    """The functions, by what they compute; all without gradients."""

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (divisor P) of every column of z [P, C]: [C] each."""
        ...

    def fire(
        self, terms: Sequence[Tensor], scales: Tensor, bias: Tensor, spikes: Tensor, *, steps: int, neuron: Neuron
    ) -> Tensor:
        """A node: x = bias + Σ_n scales_n · terms_n, then the neuron over the timesteps.

        Args:
            terms: N maps [P, C].
            scales, bias: [N, C] and [C].
            spikes: receives the spikes (0. or 1.), a map [P, C].

        Returns:
            The membranes [P, C].
        """
        ...

    def fire_backward(
        self, gradients: Sequence[Tensor], membranes: Tensor, g: Tensor, *, steps: int, neuron: Neuron
    ) -> Tensor:
        """The way back through a node's neurons.

        Args:
            gradients: maps [P, C] whose sum is the gradient of the spikes.
            membranes: what :meth:`fire` returned.
            g: receives the gradient of x, a map [P, C].

        Returns:
            Σ_p g [C].
        """
        ...

    def products(self, g: Tensor, z: Tensor, centres: Tensor) -> Tensor:
        """Σ_p g · (z − centre) of every column [C] of maps [P, C]; ``centres`` [C]."""
        ...

    def spread(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """Set out = a · g + b · z + c for maps [P, C] and coefficients [C]; ``out`` may be ``z``."""
        ...

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Membranes and spikes [T, ...] of currents [T, ...], which may be expanded over T."""
        ...

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """Gradient of the currents [T, ...] from that of the spikes."""
        ...


class TorchKernels:
    """The written meaning."""

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        variance, mean = torch.var_mean(z, 0, correction=0)
        return mean, variance

    def fire(
        self, terms: Sequence[Tensor], scales: Tensor, bias: Tensor, spikes: Tensor, *, steps: int, neuron: Neuron
    ) -> Tensor:
        """See :class:`Kernels`."""
        current = bias.expand_as(spikes)
        for scale, term in zip(scales, terms, strict=True):
            current = current + scale * term
        membranes, fired = integrate(current.view(steps, -1, spikes.shape[1]), neuron)
        spikes.copy_(fired.flatten(0, 1))
        return membranes.flatten(0, 1)

    def fire_backward(
        self, gradients: Sequence[Tensor], membranes: Tensor, g: Tensor, *, steps: int, neuron: Neuron
    ) -> Tensor:
        """See :class:`Kernels`."""
        total = gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(0)
        shape = (steps, -1, membranes.shape[1])
        g.copy_(integrate_backward(total.reshape(shape), membranes.view(shape), neuron).flatten(0, 1))
        return g.sum(0)

    def products(self, g: Tensor, z: Tensor, centres: Tensor) -> Tensor:
        """See :class:`Kernels`."""
        return (g * (z - centres)).sum(0)

    def spread(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """See :class:`Kernels`."""
        out.copy_(a * g + b * z + c)

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        return integrate(current, neuron)

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """See :class:`Kernels`."""
        return integrate_backward(gradient, membranes, neuron)


class CompiledKernels(TorchKernels):
    """The written meaning, compiled by torch for the device: few passes over memory on a GPU, too."""

    def fire(self, *arguments: Any, **options: Any) -> Tensor:
        """See :class:`Kernels`."""
        return _compiled("fire")(self, *arguments, **options)  # type: ignore[no-any-return]

    def fire_backward(self, *arguments: Any, **options: Any) -> Tensor:
        """See :class:`Kernels`."""
        return _compiled("fire_backward")(self, *arguments, **options)  # type: ignore[no-any-return]

    def products(self, *arguments: Any) -> Tensor:
        """See :class:`Kernels`."""
        return _compiled("products")(self, *arguments)  # type: ignore[no-any-return]

    def spread(self, *arguments: Any) -> None:
        """See :class:`Kernels`."""
        _compiled("spread")(self, *arguments)


@cache
def _compiled(name: str) -> Callable[..., Any]:
    """A function of :class:`TorchKernels`, compiled when it is first called for a shape."""
    return torch.compile(getattr(TorchKernels, name), dynamic=False)


def kernels_for(tensor: Tensor, *, compiled: bool = False) -> Kernels:
    """The fastest kernels for tensors of this device and type, or those that torch compiles."""
    if compiled:
        return CompiledKernels()
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        from litesnn.snn.native_kernels import NativeKernels  # not before it is needed: it loads a library

        return NativeKernels()
    return TorchKernels()
