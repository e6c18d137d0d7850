"""The native engine: runs a packed model in C, bit for bit as :class:`~litesnn.deploy.reference.Reference` does.

In: a packed model and raw inputs. Out: classes, logits, spikes, and how many additions it took.

T timesteps, B batch, C channels, H×W pixels.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from litesnn.deploy import native
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.native import BundleInfo, Status
from litesnn.deploy.packed import PackedModel, described, population_shapes, read
from litesnn.deploy.reference import Trace, take_input
from litesnn.errors import InputError, LitesnnError
from litesnn.raw_inputs import array_of, not_finite, probabilities

__all__ = ["KERNEL_VARIABLE", "BundleProfile", "Engine", "Method", "available_kernels", "full_adder_limit"]

KERNEL_VARIABLE = "LITESNN_KERNEL"
MAX_THREADS = 256

Method = Literal["auto", "bitsliced", "gather"]
_METHODS: dict[Method, int] = {"auto": -1, "bitsliced": native.Method.BITSLICED, "gather": native.Method.GATHER}
_MESSAGE_BYTES = 256

Array = TypeVar("Array", NDArray[np.generic], torch.Tensor)


@dataclass(frozen=True)
class BundleProfile:
    """How one bundle of synapses is computed, and what that took since the counts were last reset.

    Attributes:
        population: the one that the bundle leads to.
        method: "bitsliced", "gather", "analog" (it reads the input) or "identity".
        weight_bytes: of its run-time tables.
        additions: of one neuron or bit lane each; the padding of vectors and lists counts, as it is added, too.
        words: the same in machine words or vectors.
    """

    population: int
    method: str
    weight_bytes: int
    additions: int
    words: int


class Engine:
    """Runs one packed model. Several Python threads may share it; they take turns. It works on in a process that forks,
    and in its child, which starts threads of its own.

    Args:
        model: a packed model, the path of its file, or the name of one that ``litesnn models`` lists.
        kernel: one of :func:`available_kernels`. Left out, the one that the environment variable ``LITESNN_KERNEL``
            names, or the fastest.
        method: "auto" takes, for every bundle of synapses, the method that its non-zero weights, its map and the firing
            rates in the file promise to be faster; the others take one wherever it can be taken.
        threads: of the engine; they sleep while there is nothing to do.

    Raises:
        InputError: the file is missing or damaged, or a name or number is not one that can be.
        LitesnnError: the library is missing, or there is not enough memory.
    """

    def __init__(
        self, model: PackedModel | str | Path, *, kernel: str | None = None, method: Method = "auto", threads: int = 1
    ) -> None:
        self.model = model if isinstance(model, PackedModel) else read(Path(model))
        self.threads = threads
        if method not in _METHODS:
            raise InputError(f"method: expected one of {', '.join(get_args(Method))}, found {method!r}")
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads: expected 1 to {MAX_THREADS}, found {threads}")
        self._library = native.load_library()
        self._lock = threading.RLock()  # one that a handler of signals may take again
        self._shapes = population_shapes(self.model)
        image = engine_image(self.model)
        handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(_MESSAGE_BYTES)
        name = _kernel(kernel)
        arguments = (image, len(image), name, _METHODS[method], threads, message, _MESSAGE_BYTES)
        status = self._library.lsnn_load(ctypes.byref(handle), *arguments)
        if status != Status.OK:
            text = message.value.decode()
            raise (LitesnnError if status == Status.NO_MEMORY else InputError)(f"native engine: {text}")
        self._handle = handle
        weakref.finalize(self, self._library.lsnn_free, handle)
        _engines.add(self)

    @property
    def kernel(self) -> str:
        """The kernel that it runs."""
        return str(self._library.lsnn_kernel(self._handle).decode())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, scales and biases in the form in which the engine uses them."""
        return int(self._library.lsnn_weight_bytes(self._handle))

    @property
    def work_bytes(self) -> int:
        """Bytes of its working memory, as far as it was needed until now."""
        with self._lock:
            return int(self._library.lsnn_work_bytes(self._handle))

    def predict(self, x: Array, *, logits: bool = False, scale: float | None = None) -> Array:
        """Classes int64 [B] of raw inputs ``x`` [B, C, H, W], or logits float32 [B, classes] after the last timestep.

        Of events, ``x`` are frames [B, T or more, C, H, W], of which the first T are seen. A tensor gives a tensor on
        the CPU, an array an array. Of equal logits the first class wins. ``scale`` is what floats are multiplied by,
        and rounded, to become pixels from 0 to 255, such as 255 for floats from 0 to 1.

        Raises:
            InputError: ``x`` has another type or shape than the model's input, is not finite, or has numbers out of
                range.
        """
        last = self._last(x, scale)
        return _like(x, last if logits else np.argmax(last, axis=-1).astype(np.int64))

    def predict_proba(self, x: Array, *, scale: float | None = None) -> Array:
        """Probabilities float32 [B, classes]: the softmax of the logits after the last timestep.

        They say how sure the network is, not how often it is right: nothing calibrates them. Arguments and errors are
        those of :meth:`predict`.
        """
        return _like(x, probabilities(self._last(x, scale)))

    def run(self, x: NDArray[np.generic], record: bool = False) -> Trace:
        """Run raw inputs ``x``, as :meth:`predict` takes them, for all timesteps: what ``Reference.run`` gives.

        Raises:
            InputError: as :meth:`predict`.
        """
        logits, spikes = self._run(x, record)
        return Trace(logits, spikes, self._integers(logits))

    def bundles(self) -> list[BundleProfile]:
        """All bundles of synapses in the order of the model, the readout left out."""
        found: list[BundleProfile] = []
        info = BundleInfo()
        with self._lock:
            while self._library.lsnn_bundle(self._handle, len(found), ctypes.byref(info)) == 0:
                method = native.Method(info.method).name.lower()
                found.append(BundleProfile(info.population, method, info.weight_bytes, info.additions, info.words))
        return found

    @property
    def additions(self) -> int:
        """All additions since the counts were last reset."""
        return sum(bundle.additions for bundle in self.bundles())

    def reset_counts(self) -> None:
        """Count additions from zero again."""
        with self._lock:
            self._library.lsnn_reset_counts(self._handle)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Engine cannot be copied or pickled: make another one from its model")

    def __repr__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"Engine({described(self.model)}, kernel {self.kernel}, {threads})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.model.classes

    def _last(self, x: NDArray[np.generic] | torch.Tensor, scale: float | None) -> NDArray[np.float32]:
        """Logits [B, classes] after the last timestep."""
        logits, _ = self._run(array_of(self.model.input, x, scale), record=False)
        last: NDArray[np.float32] = logits[-1]
        return last

    def _run(self, x: NDArray[np.generic], record: bool) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]] | None]:
        """Logits [T, B, classes], and the spikes of every population if recorded."""
        model = self.model
        seen = take_input(model, x)
        with np.errstate(over="ignore"):  # the engine says that infinity is not finite
            inputs = np.ascontiguousarray(seen, np.float32 if model.input.kind == "array" else np.uint8)
        count = len(inputs)
        logits = np.empty((model.timesteps, count, len(model.classes)), np.float32)
        spikes = [np.empty((model.timesteps, count, *shape), np.uint8) for shape in self._shapes] if record else None
        addresses = spikes and (ctypes.c_void_p * len(spikes))(*(array.ctypes.data for array in spikes))
        with self._lock:
            status = self._library.lsnn_run(self._handle, inputs.ctypes.data, count, logits.ctypes.data, addresses)
        if status == Status.BAD_INPUT:
            raise not_finite()
        if status != Status.OK:
            raise LitesnnError("native engine: not enough memory for this batch")
        return logits, spikes

    def _integers(self, logits: NDArray[np.float32]) -> NDArray[np.int32] | None:
        """z_t of a fixed-point model. |z_t| < 2^23: y_t = z_t/(t·2^F') was rounded by less than a half of that unit."""
        if self.model.fraction is None:
            return None
        steps = np.arange(1, len(logits) + 1, dtype=np.float64).reshape(-1, 1, 1)
        return np.rint(logits.astype(np.float64) * steps * 2.0**self.model.readout.fraction).astype(np.int32)


def _like(x: Array, found: NDArray[np.generic]) -> Array:
    return torch.from_numpy(found) if isinstance(x, torch.Tensor) else found


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_forking = threading.RLock()  # one thread at a time
_taken: list[threading.RLock] = []  # for a fork


def _before_fork() -> None:
    """Wait until no thread runs an engine: a child would find it in the middle of its work, and its lock taken."""
    for lock in (_forking, *(engine._lock for engine in list(_engines))):
        lock.acquire()
        _taken.append(lock)


def _after_fork() -> None:
    while _taken:
        _taken.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def available_kernels() -> tuple[str, ...]:
    """The kernels that this CPU can run, the fastest first; "portable" is always the last."""
    library = native.load_library()
    names: list[str] = []
    while (name := library.lsnn_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return tuple(names)


def full_adder_limit(kernel: str) -> float:
    """Full adders of one bit per second that a kernel does here on registers alone, measured for a tenth of a second.

    The additions of the bit-sliced method cannot be faster. Raises ``InputError`` if there is no such kernel.
    """
    return float(native.load_library().lsnn_full_adder_limit(_kernel(kernel)))


def _kernel(name: str | None) -> bytes | None:
    """A kernel's name for the library; ``None`` is the fastest."""
    named, origin = (name, "kernel") if name is not None else (os.environ.get(KERNEL_VARIABLE), KERNEL_VARIABLE)
    if not named:
        return None
    kernels = available_kernels()
    if named not in kernels:
        raise InputError(f"{origin}: expected a kernel that runs here, {', '.join(kernels)}; found {named!r}")
    return named.encode()
