"""The library of ``csrc``, loaded: the one place that mirrors its headers.

It was built with the package. As many workers as torch has threads share the work of its functions.
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

from litesnn.cpu import check_limit
from litesnn.errors import InputError, LitesnnError
from litesnn.shared_library import file_name, load_shared_library

__all__ = [
    "CConvolution",
    "CMap",
    "CNeuron",
    "CNormalised",
    "CScheme",
    "address",
    "as_maps",
    "instruction_set",
    "instruction_sets",
    "library",
    "type_ending",
    "use_instruction_set",
    "workers",
]

ABI = 8  # LSNN_TRAINING_ABI of training.h

_ENDINGS = {torch.float32: "f", torch.float64: "d"}


class CMap(ctypes.Structure):
    """``lsnn_map``: columns of a matrix."""

    _fields_ = (("values", ctypes.c_void_p), ("stride", ctypes.c_int64))


class CScheme(ctypes.Structure):
    """``lsnn_scheme``: a way to compute convolutions."""

    _fields_ = (("side", ctypes.c_int64), ("stride", ctypes.c_int64))


class CConvolution(ctypes.Structure):
    """``lsnn_convolution``: its sizes."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("images", "height", "width", "inputs", "outputs"))


class CNormalised(ctypes.Structure):
    """``lsnn_normalised``: a gradient and its coefficients."""

    _fields_ = (("g", CMap), ("columns", ctypes.c_int64), *((name, ctypes.c_void_p) for name in "abc"))


class CNeuron(ctypes.Structure):
    """``lsnn_neuron``."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("leak", "threshold", "sharpness", "reset")),
        ("soft", ctypes.c_int32),
        ("levels", ctypes.c_int32),
    )


_ADDRESS, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_MAPS, _NEURON, _SIZES = map(ctypes.POINTER, (CMap, CNeuron, CConvolution))
_NODE = (_ADDRESS, _COUNT, _COUNT, _COUNT, _NUMBER, _MAPS, _ADDRESS, _ADDRESS, _NEURON)
_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "moments": (_ADDRESS, _COUNT, _COUNT, _MAPS, _ADDRESS, _ADDRESS, _ADDRESS),
    "fire": (*_NODE, _MAPS, _ADDRESS, _ADDRESS),
    "fire_backward": (
        *_NODE,
        *(_NUMBER, _NUMBER, _MAPS, _ADDRESS, _ADDRESS),
        *(_NUMBER, _ADDRESS, _MAPS, _ADDRESS, _ADDRESS),
    ),
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
    "lsnn_winograd_scheme": (CScheme, (_NUMBER,)),
    "lsnn_winograd": (_NUMBER, (_ADDRESS, _NUMBER, _SIZES, _MAPS, _ADDRESS, _MAPS, _ADDRESS, _ADDRESS)),
    "lsnn_winograd_input_gradient": (_NUMBER, (_ADDRESS, _NUMBER, _SIZES, _MAPS, _ADDRESS, _MAPS)),
    "lsnn_winograd_vector": (_COUNT, ()),
    "lsnn_winograd_weight_gradient": (
        _NUMBER,
        (_ADDRESS, _NUMBER, _SIZES, _MAPS, _MAPS, ctypes.POINTER(CNormalised), _ADDRESS),
    ),
    "lsnn_keep_largest": (None, (_ADDRESS, _COUNT, _COUNT, _COUNT, _ADDRESS, _ADDRESS)),
    "lsnn_has_spike_products": (_NUMBER, ()),
    "lsnn_combine": (
        _NUMBER,
        (
            *(_ADDRESS, _COUNT, _NUMBER, _MAPS, ctypes.POINTER(_COUNT), _ADDRESS),
            *(_MAPS, _COUNT, _ADDRESS, _ADDRESS, _NUMBER, _MAPS, _COUNT),
        ),
    ),
    "lsnn_gram": (_NUMBER, (_ADDRESS, _COUNT, _MAPS, _COUNT, _MAPS, _COUNT, _ADDRESS, _ADDRESS)),
}


@cache
def library() -> ctypes.CDLL:
    """The library, its functions declared.

    Raises:
        InputError: ``LITESNN_CPU`` has a wrong value.
        LitesnnError: it was not built, or is of another version.
    """
    check_limit()
    path = Path(__file__).with_name(file_name("litesnn_training"))
    if not path.is_file():
        raise LitesnnError(f"{path} was not built: install litesnn again")
    return load_shared_library(path, "training kernels", ("lsnn_training_abi", ABI), _SIGNATURES)


@cache
def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that the loops were compiled for and this CPU (and ``LITESNN_CPU``) can run, widest first.

    All give the same results, but not all have the loops of :mod:`litesnn.snn.winograd` and
    :mod:`litesnn.snn.spike_products`.
    """
    names: list[str] = []
    while name := library().lsnn_training_kernel(len(names)):
        names.append(name.decode())
    return tuple(names)


def use_instruction_set(name: str) -> None:
    """Take one of :func:`instruction_sets` from now on, in the whole process."""
    library().lsnn_training_use(instruction_sets().index(name))
    _in_use[0] = name


def instruction_set() -> str:
    """The instruction set in use."""
    return _in_use[0] or instruction_sets()[0]


_in_use = [""]  # the name that was chosen, if any


_FIRST_PROCESS = os.getpid()


OPENMP_VARIABLE = "LITESNN_OPENMP"


@cache
def _openmp_fork() -> int | None:
    """The address of ``GOMP_parallel`` in the OpenMP library that torch has loaded, if it can be found.

    GNU's, Intel's and LLVM's libraries all have it. Its threads are those that torch's own functions use. With
    ``LITESNN_OPENMP=0`` it is not looked for, and the kernels have threads of their own; results are the same.

    Raises:
        InputError: the variable has another value than 0 and 1.
    """
    if (value := os.environ.get(OPENMP_VARIABLE)) not in (None, "", "0", "1"):
        raise InputError(f"{OPENMP_VARIABLE} is {value!r}; expected 0, 1, or nothing")
    if value == "0":
        return None
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
                library().lsnn_training_stop(self.team)
            # No threads survive a fork of the process, and OpenMP may wait for them for ever.
            fork = _openmp_fork() if process == _FIRST_PROCESS else None
            self.team, self.made_for = library().lsnn_training_start(threads, fork), wanted
            if self.team is None:
                raise MemoryError("no memory for threads")
        return self.team, threads


_workers = _Workers()


def workers() -> tuple[int, int]:
    """The workers that the library's functions take, and how many there are; one caller at a time."""
    return _workers.get()


def type_ending(tensor: Tensor) -> str:
    """How the names of functions for this type end."""
    return _ENDINGS[tensor.dtype]


def address(tensor: Tensor) -> int:
    """Where the values are."""
    return tensor.data_ptr()


def as_maps(tensors: Sequence[Tensor]) -> ctypes.Array[CMap]:
    """Maps [P, C] whose columns lie side by side."""
    assert all(tensor.stride(1) == 1 or tensor.shape[1] == 1 for tensor in tensors)
    return (CMap * len(tensors))(*(CMap(tensor.data_ptr(), tensor.stride(0)) for tensor in tensors))
