"""Several processes that compute one job: who is who, sums over all of them, and what the first tells the others.

``torchrun`` starts the processes and tells each its place by environment variables; :func:`joined` reads them. Without
them a process is alone: :func:`count` is 1, sums are what they sum, and everything here costs nothing.

Each process has an equal part of every batch, and its loss is the mean over that part. Its gradients, averaged over the
processes (:func:`average_gradients`), are those of one process with the whole batch, as long as everything that looks
across a batch (batch statistics, mean spikes) goes through :func:`total`, which sums values and gradients alike.

All processes call the functions that sum or share in the same order. Where they do not, in an evaluation of unequal
parts or in a stage that the first does by itself, they say so with :func:`apart`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from litesnn.errors import EndedElsewhere, InputError, WorkerLost
from litesnn.files import write_atomically
from litesnn.torchrun import is_one_of_several

__all__ = [
    "agreed",
    "apart",
    "average_gradients",
    "barrier",
    "copy_from_first",
    "count",
    "equalize",
    "first_before_others",
    "first_does",
    "is_first",
    "joined",
    "joint_mean_variance",
    "local_count",
    "local_rank",
    "part",
    "rank",
    "share",
    "smallest",
    "total",
    "total_",
]

_TIMEOUT = timedelta(minutes=10)
"""How long a process waits in a sum for the others. A dead one is noticed at once, one that is cut off only then."""

_POLL = 0.5
"""Most seconds between two looks at the store."""

_GRACE = 2.0
"""Seconds that a process gives the first one to say why the job ends, before it speaks itself."""


_END, _DONE, _LEFT = "end", "done", "left"
"""In the store: the exit code of a failed job and who says why; that the first is through; how many have left."""


@dataclass
class _Group:
    """The processes of this job. ``store`` holds small records that every process can read."""

    store: Store
    rank: int
    count: int
    cuda: bool
    shared: int = 0  # records that the first has shared so far; the same number in every process


_group: _Group | None = None


def count() -> int:
    """How many processes share the work."""
    return 1 if _group is None else _group.count


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.rank


def is_first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0: which CUDA device is its own."""
    return 0 if _group is None else int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """How many processes of the job are on this machine; they share its memory."""
    return 1 if _group is None else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def part(size: int) -> slice:
    """The part of ``size`` ordered things that is this process's; all parts are equal if ``count()`` divides it."""
    return slice(rank() * size // count(), (rank() + 1) * size // count())


def total_(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, in place and without a gradient.

    Raises:
        WorkerLost: a process has ended.
    """
    if _group is not None:
        whole = x.detach().contiguous()
        _sum(whole)
        if whole.data_ptr() != x.data_ptr():
            x.detach().copy_(whole)
    return x


def total(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, differentiable: the gradients too are summed over the processes.

    Raises:
        WorkerLost: a process has ended; in the backward pass as well.
    """
    return x if _group is None else _Total.apply(x)  # type: ignore[no-untyped-call]


class _Total(torch.autograd.Function):
    """y = Σ_p x_p in every process p; so ∂(Σ_q loss_q)/∂x_p = Σ_q ∂loss_q/∂y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0].clone(memory_format=torch.contiguous_format))


def joint_mean_variance(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the values of all processes, which have equally many; differentiable.

    Raises:
        WorkerLost: a process has ended; in the backward pass as well.
    """
    if _group is None:
        return mean, variance
    first, second = total(torch.stack([mean, variance + mean.square()]).double()) / _group.count
    return first.to(mean.dtype), (second - first.square()).clamp_min(0).to(mean.dtype)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average the gradients over the processes: one sum for all parameters of a type.

    Raises:
        WorkerLost: a process has ended.
    """
    if _group is None:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            kinds.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for gradients in kinds.values():
        flat = _sum(torch.cat([gradient.flatten() for gradient in gradients])).div_(_group.count)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, values in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(values.view_as(gradient))


def agreed(value: Tensor) -> Tensor:
    """A scalar as the float64 with which every process goes on: the mean of what they have, equal but for rounding.

    Raises:
        WorkerLost: a process has ended.
    """
    return total_(value.detach().double().clone()) / count()


def smallest(number: int) -> int:
    """The smallest of the processes' numbers, in every process. Raises ``WorkerLost`` if one has ended."""
    lowest = torch.tensor(number)
    if _group is not None:
        with _translated():
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
    return int(lowest)


@torch.no_grad()
def equalize(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place: machines may round the same seeds differently.

    Raises:
        WorkerLost: a process has ended.
    """
    if _group is None:
        return
    for tensor in tensors:
        values = tensor.detach().contiguous()
        with _translated():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def copy_from_first(folder: Path, names: Iterable[str]) -> None:
    """Give every process the first one's files in ``folder``, which has another path in each process.

    Files that the first does not have are removed.

    Raises:
        WorkerLost: a process has ended.
    """
    if _group is None:
        return
    for name in names:
        path = folder / name
        content = path.read_bytes() if is_first() and path.is_file() else None
        size = share(None if content is None else len(content))
        if size is None:
            path.unlink(missing_ok=True)
            continue
        data = torch.tensor(bytearray(content or bytes(size)), dtype=torch.uint8)
        with _translated():
            dist.broadcast(data, 0)
        if not is_first():
            write_atomically(path, data.numpy().tobytes())


def barrier() -> None:
    """Wait until every process is here. Raises ``WorkerLost`` if one has ended."""
    total_(torch.zeros(1))


@contextmanager
def apart() -> Iterator[None]:
    """In this block each process is alone: it may compute something else than the others, or nothing."""
    global _group
    group, _group = _group, None
    try:
        yield
    finally:
        _group = group


def share(record: Any) -> Any:
    """The first process's value, in every process; anything that JSON can say. The others wait as long as it takes.

    Raises:
        EndedElsewhere: the first, or any other, has failed instead.
        WorkerLost: nobody can be reached.
    """
    group = _group
    if group is None:
        return record
    group.shared += 1
    key = f"shared {group.shared}"
    if group.rank == 0:
        with _translated():
            group.store.set(key, json.dumps(record))
        return record
    return json.loads(_wait_for(group, key))


def first_does(action: Callable[[], Any]) -> Any:
    """The result of ``action`` in the first process, which alone does it; raises as :func:`share`, or as the action."""
    result = None
    if is_first():
        with apart():
            result = action()
    return share(result)


@contextmanager
def first_before_others() -> Iterator[None]:
    """Do a block in the first process, then in all others: it may download or unpack what they then find."""
    if is_first():
        yield
        share(None)
    else:
        share(None)
        yield


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, and leave them at the end; without ``torchrun``, nothing.

    If a process fails, the others end too: one of them says why, the first if it can.

    Raises:
        InputError: the processes cannot find each other.
        WorkerLost: a process has ended, or the job was stopped by SIGTERM.
        EndedElsewhere: another process has failed and says why.
    """
    global _group
    if _group is not None or not is_one_of_several():
        yield
        return
    group = _group = _join()
    terminate = _on_sigterm(_stop)
    ending: SystemExit | None = None
    complete = False
    try:
        try:
            yield
        except SystemExit as end:
            if _exit_code_of(end):
                raise
            ending = end
        _finish(group)
        complete = True
    except BaseException as error:
        if not _speaks(group, _exit_code_of(error)):
            raise EndedElsewhere(_exit_code(group)) from None
        raise
    finally:
        _group = None
        if complete or not group.cuda:  # connections of CUDA devices may hang if a process is gone
            dist.destroy_process_group()
    _on_sigterm(terminate)
    if ending is not None:
        raise ending


def _join() -> _Group:
    if not dist.is_available() or not dist.is_gloo_available():
        raise InputError("this torch is built without gloo: it cannot compute in several processes")
    if dist.is_initialized():
        raise InputError("torch.distributed is in use by the program that called litesnn; leave its group first")
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, number, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
        # What processes of an earlier attempt left in the store (torchrun --max-restarts) is not for these.
        store = PrefixStore(f"litesnn {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=number, world_size=size, timeout=_TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes do not find each other: {_first_line(error)}") from None
    return _Group(store, number, size, cuda)


def _finish(group: _Group) -> None:
    """All went well here; it did in all if it did in the first, which writes last.

    Where the store lives in the first process (not with ``torchrun``), that one also has to leave last.
    """
    if group.rank:
        _wait_for(group, _DONE)
    with _translated():
        if group.rank == 0:
            group.store.set(_DONE, "")
        left = group.store.add(_LEFT, 1)
        until = time.monotonic() + _GRACE
        while group.rank == 0 and left < group.count and time.monotonic() < until:
            time.sleep(0.01)
            left = group.store.add(_LEFT, 0)


def _wait_for(group: _Group, key: str) -> str:
    """A record from the store, which may take hours to come; until then, look whether the job still goes on."""
    pause = 0.001
    with _translated():
        while not group.store.check([key]):
            if group.store.check([_END]):
                raise EndedElsewhere(_exit_code(group))
            time.sleep(pause)
            pause = min(2 * pause, _POLL)
        return str(group.store.get(key).decode())


def _speaks(group: _Group, code: int) -> bool:
    """Whether it is this process that reports that the job ends, with this exit code. All others then know the code."""
    # As soon as one has ended, torchrun stops the others by SIGTERM. This one is about to end, and says why first.
    _on_sigterm(signal.SIG_IGN)
    mine = f"{code} {group.rank}"
    try:
        until = time.monotonic() + (_GRACE if group.rank else 0.0)
        while time.monotonic() < until and not group.store.check([_END]):
            time.sleep(0.01)
        return bool(group.store.compare_set(_END, "", mine).decode() == mine)
    except RuntimeError:  # the store is gone with the process that held it
        return True


def _exit_code_of(error: BaseException) -> int:
    """With what the process ends if nobody catches this; 0 is success."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return getattr(error, "exit_code", 1)


def _exit_code(group: _Group) -> int:
    return int(group.store.get(_END).split()[0])


def _sum(x: Tensor) -> Tensor:
    with _translated():
        dist.all_reduce(x)
    return x


@contextmanager
def _translated() -> Iterator[None]:
    """The error that torch raises when a process is gone, as one line."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(_first_line(error)) from None


def _lost(reason: str) -> WorkerLost:
    return WorkerLost(f"a worker ended or was stopped; the same command goes on from the last checkpoint ({reason})")


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\] *", "", line).split(". ")[0]  # gloo begins with a line of its source


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _lost("SIGTERM")


def _on_sigterm(action: Any) -> Any:
    """Set what SIGTERM does; returns what it did. Only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, action)
