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
        self,
        gradients: Sequence[Tensor],
        membranes: Tensor,
        terms: Sequence[Tensor],
        centres: Tensor,
        *,
        steps: int,
        neuron: Neuron,
    ) -> tuple[Tensor, Tensor]:
        """The way back through a node.

        Args:
            gradients: maps [P, C] whose sum is the gradient of the spikes.
            membranes: what :meth:`fire` returned.
            terms, centres: N maps [P, C], and a number for each of their columns [N, C].

        Returns:
            g, the gradient of x [P, C]; and [1 + N, C]: Σ_p g, and of each term Σ_p g · (term − centre).
        """
        ...

    def spread(
        self, g: Tensor, terms: Sequence[Tensor], a: Tensor, b: Tensor, c: Tensor, out: Sequence[Tensor]
    ) -> None:
        """out_n = a_n · g + b_n · terms_n + c_n for maps [P, C] and coefficients [N, C]; out_n may be terms_n."""
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
        self,
        gradients: Sequence[Tensor],
        membranes: Tensor,
        terms: Sequence[Tensor],
        centres: Tensor,
        *,
        steps: int,
        neuron: Neuron,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        total = gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(0)
        shape = (steps, -1, membranes.shape[1])
        g = integrate_backward(total.reshape(shape), membranes.view(shape), neuron).flatten(0, 1)
        parts = [g.sum(0), *((g * (term - centre)).sum(0) for term, centre in zip(terms, centres, strict=True))]
        return g, torch.stack(parts)

    def spread(
        self, g: Tensor, terms: Sequence[Tensor], a: Tensor, b: Tensor, c: Tensor, out: Sequence[Tensor]
    ) -> None:
        """See :class:`Kernels`."""
        for row, (term, target) in enumerate(zip(terms, out, strict=True)):
            target.copy_(a[row] * g + b[row] * term + c[row])

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

    def fire_backward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """See :class:`Kernels`."""
        return _compiled("fire_backward")(self, *arguments, **options)  # type: ignore[no-any-return]

    def spread(self, *arguments: Any, **options: Any) -> None:
        """See :class:`Kernels`."""
        _compiled("spread")(self, *arguments, **options)


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
