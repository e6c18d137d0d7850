"""Memory of a training step: whether it is there, and how to make do with less.

In: what a step needs (:mod:`litesnn.snn.memory_estimate`), what is free, and a limit if the user set one. Out: a plan.
Less memory is had in two ways. To recompute the inside of cells takes time and changes no number. Micro-batches add up
the gradients of parts of a batch; batch statistics are then those of the parts, so that results change a little.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from litesnn.errors import InputError
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate

__all__ = ["StepPlan", "free_bytes", "plan_step", "release_unused", "reuse_buffers"]

_SMALLEST_BATCH = 2  # of a process: batch statistics of one image on a 1×1 map would be those of one number

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed: its execution, in how many equal micro-batches, and the bytes that it is to need."""

    execution: Execution
    micro_batches: int
    bytes: int


def plan_step(
    footprint: Callable[[Execution], MemoryEstimate],
    batches: Sequence[int],
    execution: Execution,
    *,
    limit: int | None,
    free: int,
    what: str,
) -> StepPlan:
    """The fastest way to compute the steps of a stage within the memory.

    Args:
        footprint: what a step needs, by its execution.
        batches: images of one process in the steps, which may be of several sizes; all are parted alike.
        execution: what the user chose.
        limit: bytes that a step may take; ``None``: all that are free, but nothing is changed for it.
        free: bytes that are free.
        what: the stage and its key of the recipe, for messages: ``"search"``.

    Raises:
        InputError: there is less memory than the step, or the limit, asks for; the message says how much is needed.
    """
    if limit is not None and limit > free:
        raise InputError(f"--memory asks for {_amount(limit)}, but {_amount(free)} are free")
    batch, candidates = max(batches), [StepPlan(execution, 1, 0)]
    if limit is not None:
        less = replace(execution, recompute=True)
        least = min(min(batches), _SMALLEST_BATCH)
        parts = [n for n in range(1, batch + 1) if batch % n == 0 and min(batches) // n >= least]
        candidates += [StepPlan(less, n, 0) for n in parts]
    needed = 0
    for plan in candidates:
        needed = footprint(plan.execution).bytes_at(batch // plan.micro_batches)
        if needed <= (free if limit is None else limit):
            return replace(plan, bytes=needed)
    if limit is None:
        raise InputError(
            f"a step of the {what} needs about {_amount(needed)} of memory, but {_amount(free)} are free: "
            f"set --memory to make do with less, or lower {what}.batch_size"
        )
    raise InputError(
        f"--memory allows {_amount(limit)}, but a step of the {what} needs at least about {_amount(needed)}, "
        "whatever its batch size"
    )


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that are free on a device; on the CPU, what the system and its control group allow."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_of_system(), _free_of_group())


def _free_of_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize  # no Linux: nothing is known, nothing is refused
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else sys.maxsize


def _free_of_group() -> int:
    """The memory left within the limit of a container (control groups, versions 2 and 1)."""
    for folder, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            bound, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used))
            rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except OSError:
            continue
        if bound.isdigit():  # "max" is no limit
            # Files that were read long ago are counted as taken, and given back when somebody asks.
            return max(0, int(bound) - int(taken) + int(rows.get("inactive_file", 0)))
    return sys.maxsize


def release_unused(device: torch.device) -> None:
    """Give back what earlier stages have left in the caches of Python, torch and glibc, so that it counts as free."""
    gc.collect()  # a search and its recorded steps refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (trim := _of_libc("malloc_trim")) is not None:
        trim(0)


def reuse_buffers() -> None:
    """Let glibc keep freed memory for the next step; elsewhere this does nothing.

    All timesteps in one batch make buffers so large that the allocator would map them anew, page by page, at every use:
    at some sizes that takes longer than the work in them.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 * 2**20)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of the C library that this process has loaded, or ``None`` where there is none of that name."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def _amount(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
