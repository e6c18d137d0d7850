"""The kernels of :mod:`litesnn.snn.kernels` on the CPU, in C: ``csrc/training.h``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from litesnn.snn.kernels import Incoming, Node
from litesnn.snn.membrane import Neuron
from litesnn.snn.native_library import CNeuron, address, as_maps, library, type_ending, workers

__all__ = ["NativeKernels"]


class NativeKernels:
    """:class:`litesnn.snn.kernels.Kernels` for float32 and float64 on the CPU; one caller at a time."""

    def mean_variance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = z.shape
        team, count = workers()
        mean, variance = z.new_empty(2, columns)
        scratch = torch.empty(count, 2, columns, dtype=torch.float64)
        _call("moments", z, team, rows, columns, as_maps([z]), address(scratch), address(mean), address(variance))
        return mean, variance

    def fire(self, node: Node, spikes: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias, means = node.scales.contiguous(), node.bias.contiguous(), spikes.new_empty(spikes.shape[1])
        scratch = torch.empty(workers()[1], len(means), dtype=torch.float64)
        made = (as_maps([spikes]), address(scratch), address(means))
        _call("fire", spikes, *_node(node, spikes, scales, bias), *made)
        return means

    def fire_backward(self, node: Node, incoming: Incoming, centres: Tensor, g: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias, centres = (tensor.contiguous() for tensor in (node.scales, node.bias, centres))
        factors, of_spikes = incoming.factors.contiguous(), incoming.of_spikes.contiguous()
        size = (1 + len(centres), g.shape[1])
        sums = torch.empty(*size, dtype=torch.float64)
        scratch = torch.empty(workers()[1], *size, dtype=torch.float64)
        given = (len(incoming.maps), len(incoming.scaled), as_maps([*incoming.maps, *incoming.scaled]))
        made = (len(centres), address(centres), as_maps([g]), address(scratch), address(sums))
        _call(*("fire_backward", g), *_node(node, g, scales, bias), *given, address(factors), address(of_spikes), *made)
        return sums.to(g.dtype)

    def scaled_sum(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
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
    soft = neuron.reset is not None
    return ctypes.byref(
        CNeuron(neuron.leak, neuron.threshold, neuron.sharpness, neuron.reset or 0.0, soft, neuron.levels)
    )
