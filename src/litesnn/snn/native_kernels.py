"""The kernels of :mod:`litesnn.snn.kernels` on the CPU, in C: ``csrc/training.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from litesnn.snn.kernels import Node
from litesnn.snn.membrane import Neuron
from litesnn.snn.native_library import CNeuron, address, as_maps, library, type_ending, workers

__all__ = ["NativeKernels"]


class NativeKernels:
    """:class:`litesnn.snn.kernels.Kernels` for float32 and float64 on the CPU; one caller at a time."""

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = z.shape
        team, count = workers()
        mean, variance = z.new_empty(2, columns)
        scratch = torch.empty(count, 2, columns, dtype=torch.float64)
        _call("moments", z, team, rows, columns, as_maps([z]), address(scratch), address(mean), address(variance))
        return mean, variance

    def fire(self, node: Node, spikes: Tensor) -> None:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias = node.scales.contiguous(), node.bias.contiguous()
        _call("fire", spikes, *_node(node, spikes, scales, bias), as_maps([spikes]))

    def fire_backward(self, node: Node, gradients: Sequence[Tensor], centres: Tensor, g: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias, centres = (tensor.contiguous() for tensor in (node.scales, node.bias, centres))
        size = (1 + len(node.terms), g.shape[1])
        sums = torch.empty(*size, dtype=torch.float64)
        scratch = torch.empty(workers()[1], *size, dtype=torch.float64)
        _call(
            *("fire_backward", g),
            *_node(node, g, scales, bias),
            *(len(gradients), as_maps(gradients), address(centres), as_maps([g]), address(scratch), address(sums)),
        )
        return sums.to(g.dtype)

    def spread(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = g.shape
        a, b, c = a.contiguous(), b.contiguous(), c.contiguous()
        _call(
            *("spread", g, workers()[0], rows, columns, as_maps([g]), as_maps([z])),
            *(address(a), address(b), address(c), as_maps([out])),
        )

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        steps, neurons = current.shape[0], current[0].numel()
        constant = current.stride(0) == 0
        read = (current[0] if constant else current).contiguous()
        membranes = torch.empty(current.shape, dtype=current.dtype)
        spikes = torch.empty_like(membranes)
        _call(
            *("lif", current, workers()[0], steps, neurons, address(read), 0 if constant else neurons),
            *(_neuron(neuron), address(membranes), address(spikes)),
        )
        return membranes, spikes

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        gradient, g = gradient.contiguous(), torch.empty_like(membranes)
        _call(
            *("lif_backward", g, workers()[0], len(g), g[0].numel(), address(gradient), _neuron(neuron)),
            *(address(membranes), address(g)),
        )
        return g


def _call(name: str, like: Tensor, *arguments: object) -> None:
    """Call a function of the library for the type of ``like``."""
    getattr(library(), f"lsnn_{name}_{type_ending(like)}")(*arguments)


def _node(node: Node, out: Tensor, scales: Tensor, bias: Tensor) -> tuple[object, ...]:
    """Workers and the arguments that a node's functions begin with; ``scales`` and ``bias`` are its own, contiguous."""
    rows, columns = out.shape
    sizes = (node.steps, rows // node.steps, columns, len(node.terms))
    return workers()[0], *sizes, as_maps(node.terms), address(scales), address(bias), _neuron(node.neuron)


def _neuron(neuron: Neuron) -> object:
    return ctypes.byref(CNeuron(neuron.leak, neuron.threshold, neuron.sharpness))
