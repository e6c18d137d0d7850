"""Which kernels compute: those in C on a CPU, those of Triton on a GPU, or torch's own."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from litesnn.neurons.model import Neuron
from litesnn.snn.kernels import CompiledKernels, Kernels, TorchKernels

__all__ = ["kernels_for"]


_PLAIN = Neuron()


def kernels_for(tensor: Tensor, neuron: Neuron = _PLAIN, *, compiled: bool = False) -> Kernels:
    """The fastest kernels for tensors of this device and type and for these neurons, or those that torch compiles.

    Triton knows neurons that are reset to zero and have binary spikes; on a GPU others take torch's own kernels.
    """
    if compiled:
        return CompiledKernels()
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        from litesnn.snn.native_kernels import NativeKernels  # not before it is needed: it loads a library

        return NativeKernels()
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32 and _in_triton(neuron):
        from litesnn.snn.triton_kernels import TritonKernels

        return TritonKernels()
    return TorchKernels()


def _in_triton(neuron: Neuron) -> bool:
    return neuron.reset is None and neuron.levels == 1 and _has_triton()


@cache
def _has_triton() -> bool:
    """Whether Triton is there. CUDA builds of torch bring it on Linux."""
    return find_spec("triton") is not None
