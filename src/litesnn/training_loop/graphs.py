"""Steps recorded as CUDA graphs: a small network's step is thousands of launches, which take longer than their work.

A step that can be recorded is a function of tensors that never waits for the device. What it changes (parameters,
optimizers, multipliers) it changes in place; numbers that differ from step to step are tensors on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from litesnn import processes
from litesnn.snn.execution import Execution

__all__ = ["Step", "optimizer_options", "recordable", "recorded", "set_lr"]

Step = Callable[..., Mapping[str, Tensor]]
"""Does a step on a batch; what it returns is meant until the next step."""

_WARM_UP = 3
"""Steps that are computed plainly, on the stream that records, before one is recorded: libraries set themselves up."""


def recordable(device: torch.device, execution: Execution) -> bool:
    """Whether steps are recorded: on one GPU, unless ``execution`` says not to."""
    return device.type == "cuda" and execution.graphs and processes.count() == 1


def recorded(step: Step, device: torch.device, execution: Execution) -> Step:
    """``step``, recorded where it is :func:`recordable`, or as it is."""
    return _Recorded(step, device) if recordable(device, execution) else step


def optimizer_options(device: torch.device, execution: Execution, lr: float, *, adam: bool = False) -> dict[str, Any]:
    """Options of an optimizer whose step may be recorded: a learning rate that can change then is a tensor."""
    # Fused: two to three times as fast as the default, and Adam's fused step reads no number.
    if not recordable(device, execution):
        return {"lr": lr, "fused": True}
    options: dict[str, Any] = {"lr": torch.tensor(lr, device=device), "fused": True}
    return options | {"capturable": True} if adam else options


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, or so many times as much as its ``multiple`` says."""
    for group in optimizer.param_groups:
        own = lr * group.get("multiple", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


class _Recorded:
    """Plain at first, then recorded once and replayed. Batches of another shape are always computed plainly."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._plain = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Mapping[str, Tensor] = {}

    def __call__(self, *inputs: Tensor) -> Mapping[str, Tensor]:
        if self._graph is None and self._plain >= _WARM_UP:
            self._record(inputs)
        if self._graph is None or not _alike(inputs, self._inputs):
            return self._compute(inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _compute(self, inputs: Iterable[Tensor]) -> Mapping[str, Tensor]:
        self._plain += 1
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = self._step(*inputs)
        current.wait_stream(self._stream)
        return found

    def _record(self, inputs: Iterable[Tensor]) -> None:
        self._inputs = [x.detach().clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._outputs = self._step(*self._inputs)
        self._graph = graph


def _alike(some: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(one.shape == other.shape for one, other in zip(some, others, strict=True))
