"""How a stage is run, as opposed to what it computes: device, console, logs, learning-rate schedule."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from litesnn import processes
from litesnn.budget import parse_bytes
from litesnn.data.audio import log_mel
from litesnn.data.augment import AugmentSettings
from litesnn.data.batches import Clips, Samples
from litesnn.data.sources import Data, Split
from litesnn.errors import InputError
from litesnn.front_end import LogMel
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate
from litesnn.snn.network import InputInfo, encode
from litesnn.text import plain
from litesnn.training_loop.memory import StepPlan, free_bytes, plan_step, release_unused, reuse_buffers
from litesnn.training_loop.progress import Epoch, summary_writer

__all__ = [
    "Session",
    "begin_session",
    "cosine_lr",
    "find_device",
    "input_info",
    "one_cycle_lr",
    "parameters",
    "why_not_compiled",
]


@dataclass(frozen=True)
class Session:
    """Where and how a stage computes, and where it reports.

    On one and the same device none of this changes a result, but for what rounds differently (``execution.compiled``,
    ``execution.half``) and for micro-batches, which a small ``memory`` may take.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    console: Console = field(default_factory=lambda: Console(quiet=True))
    tensorboard: bool = False
    execution: Execution = Execution()
    memory: int | None = None  # bytes that a step may take
    on_epoch: Callable[[Epoch], object] | None = None  # called after each epoch, when it can be gone on from

    def show(self, text: str) -> None:
        """A line of what the stage tells, with rich's markup; however long and whatever it names, it stays one line."""
        self.console.print(plain(text), soft_wrap=True, highlight=False, emoji=False)

    def warn(self, text: str) -> None:
        """Say in one line what a person should know even of a quiet session: that goes to stderr."""
        if not self.console.quiet:
            self.show(f"[yellow]{escape(text)}[/]")
        elif processes.is_first():
            print(f"litesnn: warning: {plain(text)}", file=sys.stderr)

    def tell(self, epoch: Epoch) -> None:
        """Call what is to be called after an epoch, in the first process; what it raises ends the job."""
        call = self.on_epoch
        if call is not None:
            processes.first_does(lambda: call(epoch) and None)

    def options(self) -> str:
        """The options of the command line that make another session compute like this one, threads included."""
        words = ["--device", str(self.device), "--threads", str(torch.get_num_threads())]
        if self.memory is not None:
            words += ["--memory", f"{self.memory} B"]
        words += ["--compile"] if self.execution.compiled else []
        words += ["--bf16"] if self.execution.half else []
        return shlex.join(words)

    def plan(self, stage: str, footprint: Callable[[Execution], MemoryEstimate], *batches: int) -> StepPlan:
        """How to compute the steps of a stage on batches of so many images, which all processes share.

        There may be ``batches`` of several sizes. All processes get the same plan.

        Raises:
            InputError: there is not enough memory.
        """
        release_unused(self.device)
        free = free_bytes(self.device)
        if self.device.type == "cpu":
            reuse_buffers()
            free //= processes.local_count()
        plan = plan_step(
            footprint,
            [max(1, batch // processes.count()) for batch in batches],
            self.execution,
            limit=self.memory,
            free=processes.smallest(free),
            what=stage,
        )
        if plan.execution != self.execution or plan.micro_batches > 1:
            parts = f" in {plan.micro_batches} micro-batches" if plan.micro_batches > 1 else ""
            self.warn(f"{stage}: cells are recomputed{parts} to stay within --memory")
        return plan

    def samples(self, split: Split, info: InputInfo, settings: AugmentSettings | None = None) -> Samples:
        """A split encoded as the network takes it, on the device, with all that ``settings`` of augmentation need."""
        black = None
        if info.kind == "image":
            black = (
                encode(torch.zeros(1, info.shape[0], 1, 1), info.input.mean, info.input.std).flatten().to(self.device)
            )
        clips = None
        if settings is not None and settings.changes_sound:
            clips = self._clips(split, info, with_noise=settings.noise > 0)
        return Samples(
            encode(split.x, info.input.mean, info.input.std).to(self.device), split.y.to(self.device), black, clips
        )

    def _clips(self, split: Split, info: InputInfo, *, with_noise: bool) -> Clips:
        """The sound of a split, and how it becomes inputs. That it has some was checked with its recipe."""
        sound, front_end = split.sound, info.input.front_end
        assert sound is not None
        assert isinstance(front_end, LogMel)

        def to_input(clips: torch.Tensor) -> torch.Tensor:
            return encode(log_mel(clips, front_end), info.input.mean, info.input.std)

        noise = sound.noise().to(self.device) if with_noise and sound.noise is not None else None
        return Clips(sound.recordings.clips().to(self.device), noise, to_input, front_end.sample_rate)


def begin_session(
    device: str,
    console: Console,
    *,
    tensorboard: bool = False,
    execution: Execution = Execution(),
    memory: str | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Session:
    """A session on a device by name. Of several processes only the first shows something and keeps logs.

    Args:
        memory: most memory that a step of each process may take, such as ``"6 GB"``.
        on_epoch: called after each epoch of search and training, when it can be gone on from.

    Raises:
        InputError: there is no such device, ``memory`` is not understood, or TensorBoard is not installed.
    """
    first = processes.is_first()
    if tensorboard and first:
        summary_writer()
    found = find_device(device)
    if found.type == "cuda":
        torch.cuda.set_device(found.index or 0)
        torch.backends.cudnn.benchmark = True  # batches all have one shape
    console = console if first else Console(quiet=True)
    if memory is not None and not isinstance(memory, str):
        raise InputError(f"memory: expected bytes with a unit, for example '6 GB', found {memory!r}")
    if on_epoch is not None and not callable(on_epoch):
        raise InputError(f"on_epoch: expected a function of an Epoch, found {on_epoch!r}")
    limit = None if memory is None else parse_bytes(memory)
    session = Session(found, console, tensorboard and first, execution, limit, on_epoch)
    if execution.compiled and (reason := why_not_compiled(found)):
        session.warn(f"torch.compile does not work here, so nothing is compiled: {reason}")
        session = replace(session, execution=replace(execution, compiled=False))
    return session


def why_not_compiled(device: torch.device) -> str | None:
    """Why ``torch.compile`` makes nothing for a device (it lacks a compiler, as a rule), or ``None`` if it does."""
    try:
        torch.compile(_one_more)(torch.zeros(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        return str(error).strip().splitlines()[0][:200]
    return None


def _one_more(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def find_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Of several processes, each has a CUDA device of its own: that of its number on its machine.

    Raises:
        InputError: there is no such device, or there are more processes than devices.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.count() > 1:
        name = f"cuda:{processes.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and device.index not in (None, processes.local_rank()) and processes.count() > 1:
        raise InputError(f"device {name!r} is one, but there are several processes; expected auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def input_info(data: Data) -> InputInfo:
    """The input and classes of a network for some data."""
    return InputInfo(data.input, data.classes)


def cosine_lr(first: float, last: float, progress: float, *, warmup: float = 0.0) -> float:
    """Learning rate after the fraction ``progress`` of all steps, on half a cosine from ``first`` to ``last``.

    In the first ``warmup`` of the steps it rises instead, in a straight line, to where the cosine goes on.
    """
    if progress < warmup:
        return cosine_lr(first, last, warmup) * progress / warmup
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle_lr(first: float, last: float, progress: float, *, warmup: float = 0.0) -> float:
    """Learning rate after the fraction ``progress`` of all steps: two straight lines.

    It rises from 0 to ``first`` in the first ``warmup`` of the steps and falls to ``last`` at the end (the one cycle of
    Smith & Topin, 2017, arXiv 1708.07120, without its tail; the triangle of airbench94).
    """
    if progress < warmup:
        return first * progress / warmup
    return first + (last - first) * (progress - warmup) / (1 - warmup)


def parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[nn.Parameter]:
    """All parameters that some optimizers step."""
    return [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
