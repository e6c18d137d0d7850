"""The kernels of :mod:`litesnn.snn.kernels` on the CPU, in C: the one place that mirrors ``csrc/training.h``.

The library was built with the package. As many workers as torch has threads share the rows of a map.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from litesnn.errors import LitesnnError
from litesnn.shared_library import file_name, load_shared_library
from litesnn.snn.kernels import Node
from litesnn.snn.membrane import Neuron

__all__ = ["NativeKernels", "instruction_sets", "use_instruction_set"]

ABI = 3  # LSNN_TRAINING_ABI of the header that this file mirrors

_ENDINGS = {torch.float32: "f", torch.float64: "d"}


class _Map(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("stride", ctypes.c_int64))


class _Neuron(ctypes.Structure):
    _fields_ = (("leak", ctypes.c_double), ("threshold", ctypes.c_double), ("sharpness", ctypes.c_double))


_ADDRESS, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_MAPS, _NEURON = ctypes.POINTER(_Map), ctypes.POINTER(_Neuron)
_NODE = (_ADDRESS, _COUNT, _COUNT, _COUNT, _NUMBER, _MAPS, _ADDRESS, _ADDRESS, _NEURON)
_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "moments": (_ADDRESS, _COUNT, _COUNT, _MAPS, _ADDRESS, _ADDRESS, _ADDRESS),
    "fire": (*_NODE, _MAPS),
    "fire_backward": (*_NODE, _NUMBER, _MAPS, _ADDRESS, _MAPS, _ADDRESS, _ADDRESS),
    "spread": (_ADDRESS, _COUNT, _COUNT, _MAPS, _MAPS, _ADDRESS, _ADDRESS, _ADDRESS, _MAPS),
    "lif": (_ADDRESS, _COUNT, _COUNT, _ADDRESS, _COUNT, _NEURON, _ADDRESS, _ADDRESS),
    "lif_backward": (_ADDRESS, _COUNT, _COUNT, _ADDRESS, _NEURON, _ADDRESS, _ADDRESS),
}
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "lsnn_training_abi": (ctypes.c_int32, ()),
    "lsnn_training_kernel": (ctypes.c_char_p, (ctypes.c_int32,)),
    "lsnn_training_use": (None, (ctypes.c_int32,)),
    "lsnn_training_start": (ctypes.c_void_p, (ctypes.c_int32, ctypes.c_void_p)),
    "lsnn_training_stop": (None, (ctypes.c_void_p,)),
    **{f"lsnn_{name}_{end}": (None, types) for name, types in _FUNCTIONS.items() for end in _ENDINGS.values()},
}


@cache
def _library() -> ctypes.CDLL:
    path = Path(__file__).with_name(file_name("litesnn_training"))
    if not path.is_file():
        raise LitesnnError(f"{path} was not built: install litesnn again")
    return load_shared_library(path, "training kernels", ("lsnn_training_abi", ABI), _SIGNATURES)


def instruction_sets() -> list[str]:
    """What the loops were compiled for and this CPU can run, widest first. All give the same results."""
    names: list[str] = []
    while name := _library().lsnn_training_kernel(len(names)):
        names.append(name.decode())
    return names


def use_instruction_set(name: str) -> None:
    """Take one of :func:`instruction_sets` from now on, in the whole process."""
    _library().lsnn_training_use(instruction_sets().index(name))


_FIRST_PROCESS = os.getpid()


@cache
def _openmp_fork() -> int | None:
    """The address of ``GOMP_parallel`` in the OpenMP library that torch has loaded, if it can be found.

    GNU's, Intel's and LLVM's libraries all have it. Its threads are those that torch's own functions use.
    """
    for path in _openmp_libraries():
        function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _openmp_libraries() -> list[str]:
    """Paths of the OpenMP libraries that may be torch's, of those that are loaded.

    Other packages (scikit-learn, say) bring and load libraries of their own; two sets of threads on the same cores take
    each other's time.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(
        line.split(maxsplit=5)[5] for line in lines if re.search(r"/lib(gomp|iomp5|omp)[^/]*\.so", line)
    )
    home = Path(torch.__file__).parent
    own = [path for path in paths if home in Path(path).parents]
    return own or [path for path in paths if "site-packages" not in Path(path).parts]


class _Workers:
    """The threads that share the rows of a map: as many as torch has, and where that can be done, the same."""

    def __init__(self) -> None:
        self.team: int | None = None
        self.made_for: tuple[int, int] | None = None

    def get(self) -> tuple[int, int]:
        """The team and the number of its workers."""
        process, threads = wanted = (os.getpid(), torch.get_num_threads())
        if self.team is None or self.made_for != wanted:
            if self.team is not None and self.made_for is not None and self.made_for[0] == process:
                _library().lsnn_training_stop(self.team)
            # No threads survive a fork of the process, and OpenMP may wait for them for ever.
            fork = _openmp_fork() if process == _FIRST_PROCESS else None
            self.team, self.made_for = _library().lsnn_training_start(threads, fork), wanted
            if self.team is None:
                raise MemoryError("no memory for threads")
        return self.team, threads


_workers = _Workers()


class NativeKernels:
    """:class:`litesnn.snn.kernels.Kernels` for float32 and float64 on the CPU; one caller at a time."""

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = z.shape
        team, workers = _workers.get()
        mean, variance = z.new_empty(2, columns)
        scratch = torch.empty(workers, 2, columns, dtype=torch.float64)
        _call("moments", z, team, rows, columns, _maps([z]), _address(scratch), _address(mean), _address(variance))
        return mean, variance

    def fire(self, node: Node, spikes: Tensor) -> None:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias = node.scales.contiguous(), node.bias.contiguous()
        _call("fire", spikes, *_node(node, spikes, scales, bias), _maps([spikes]))

    def fire_backward(self, node: Node, gradients: Sequence[Tensor], centres: Tensor, g: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        scales, bias, centres = (tensor.contiguous() for tensor in (node.scales, node.bias, centres))
        size = (1 + len(node.terms), g.shape[1])
        sums = torch.empty(*size, dtype=torch.float64)
        scratch = torch.empty(_workers.get()[1], *size, dtype=torch.float64)
        _call(
            *("fire_backward", g),
            *_node(node, g, scales, bias),
            *(len(gradients), _maps(gradients), _address(centres), _maps([g]), _address(scratch), _address(sums)),
        )
        return sums.to(g.dtype)

    def spread(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = g.shape
        a, b, c = a.contiguous(), b.contiguous(), c.contiguous()
        _call(
            *("spread", g, _workers.get()[0], rows, columns, _maps([g]), _maps([z])),
            *(_address(a), _address(b), _address(c), _maps([out])),
        )

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        steps, neurons = current.shape[0], current[0].numel()
        constant = current.stride(0) == 0
        read = (current[0] if constant else current).contiguous()
        membranes = torch.empty(current.shape, dtype=current.dtype)
        spikes = torch.empty_like(membranes)
        _call(
            *("lif", current, _workers.get()[0], steps, neurons, _address(read), 0 if constant else neurons),
            *(_neuron(neuron), _address(membranes), _address(spikes)),
        )
        return membranes, spikes

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        gradient, g = gradient.contiguous(), torch.empty_like(membranes)
        _call(
            *("lif_backward", g, _workers.get()[0], len(g), g[0].numel(), _address(gradient), _neuron(neuron)),
            *(_address(membranes), _address(g)),
        )
        return g


def _call(name: str, like: Tensor, *arguments: object) -> None:
    """Call a function of the library for the type of ``like``."""
    getattr(_library(), f"lsnn_{name}_{_ENDINGS[like.dtype]}")(*arguments)


def _node(node: Node, out: Tensor, scales: Tensor, bias: Tensor) -> tuple[object, ...]:
    """Workers and the arguments that a node's functions begin with; ``scales`` and ``bias`` are its own, contiguous."""
    rows, columns = out.shape
    sizes = (node.steps, rows // node.steps, columns, len(node.terms))
    return _workers.get()[0], *sizes, _maps(node.terms), _address(scales), _address(bias), _neuron(node.neuron)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _maps(tensors: Sequence[Tensor]) -> ctypes.Array[_Map]:
    """Maps [P, C] whose columns lie side by side."""
    assert all(tensor.stride(1) == 1 or tensor.shape[1] == 1 for tensor in tensors)
    return (_Map * len(tensors))(*(_Map(tensor.data_ptr(), tensor.stride(0)) for tensor in tensors))


def _neuron(neuron: Neuron) -> object:
    return ctypes.byref(_Neuron(neuron.leak, neuron.threshold, neuron.sharpness))
