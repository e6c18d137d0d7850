"""What is timed: the native engine's kernels and the baselines, each the fastest of its variants.

T timesteps, B batch, C channels, H×W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import onnx_baselines
from float_layers import Float, Network, fold, normalise
from litesnn.deploy.packed import PackedModel
from torch_baselines import StepByStep, TimeBatched, compile_frozen, has_compiler

__all__ = ["Contender", "Outcome", "baselines", "timed"]

SAMPLE_SECONDS = 0.05
"""One sample of a fast function is the mean of as many calls as fit in here."""
SLOW_SECONDS = 1.0
"""A function that takes longer is not called once more to warm up or to be sure."""


@dataclass(frozen=True)
class Outcome:
    """What a network gives: logits [B, classes], and the spikes of every population [T, B, C, H, W]."""

    logits: NDArray[np.float32]
    spikes: list[NDArray[Any]]


@dataclass(frozen=True)
class Contender:
    """Something that is timed.

    Attributes:
        name: in tables and figures.
        run: computes the logits of the batch.
        weight_bytes: bytes of weights in memory.
        variant: which of several ways this is.
        outcome: what the same network gives for normalised images, spikes included; what is compiled or optimised
            otherwise when spikes are wanted may round otherwise.
    """

    name: str
    run: Callable[[], object]
    weight_bytes: int
    variant: str
    outcome: Callable[[Float], Outcome]

    def logits(self) -> Float:
        """The logits [B, classes] that ``run`` computes."""
        output = self.run()
        return np.asarray(output[0] if isinstance(output, list) else output)


def baselines(model: PackedModel, images: NDArray[Any], calibration: NDArray[Any]) -> list[Contender]:
    """Torch eager, best torch, ONNX Runtime float32 and int8 on raw ``images``; ``calibration`` is other images.

    They get normalised images: normalising is not part of their time.
    """
    x, other = normalise(model.input, images), normalise(model.input, calibration)
    networks = {"separate": fold(model, joined=False), "joined": fold(model, joined=True)}
    float_graphs = {name: partial(onnx_baselines.float_graph, network) for name, network in networks.items()}
    int8_graphs = {
        name: partial(onnx_baselines.int8_graph, network, onnx_baselines.output_ranges(network, other))
        for name, network in networks.items()
    }
    return [
        _torch("torch_eager", StepByStep(networks["separate"]), x, "step by step"),
        _fastest(_batched_torch(networks, x)),
        _fastest(_onnx("ort_fp32", float_graphs, x)),
        _fastest(_onnx("ort_int8", int8_graphs, x)),
    ]


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call: the mean of as many as fit in a sample, after one that warms up."""
    start = time.perf_counter()
    function()
    first = time.perf_counter() - start
    if first > SLOW_SECONDS:
        return first
    calls = max(1, int(SAMPLE_SECONDS / first))
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _torch(
    name: str,
    module: StepByStep | TimeBatched,
    x: Float,
    variant: str,
    function: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Contender:
    """``module``, or the ``function`` that was compiled from it."""

    def outcome(x: Float) -> Outcome:
        record: list[torch.Tensor] = []
        with torch.no_grad():
            logits = module(torch.from_numpy(x), record)
        return Outcome(logits.numpy(), [spikes.numpy() for spikes in record])

    weight_bytes = sum(parameter.nbytes for parameter in module.parameters())
    run = torch.no_grad()(partial(module if function is None else function, torch.from_numpy(x)))
    return Contender(name, run, weight_bytes, variant, outcome)


@torch.no_grad()
def _batched_torch(networks: dict[str, Network], x: Float) -> list[Contender]:
    """All timesteps at once: compiled or not, convolutions separate or joined, both memory layouts."""
    torch._dynamo.reset()  # drops what was compiled before, for another network or batch
    made = []
    compiles = has_compiler()
    for wiring, network in networks.items():
        for layout, form in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
            module = TimeBatched(network, form)
            made.append(_torch("best_torch", module, x, f"eager, {wiring}, {layout}"))
            if compiles:
                compiled = compile_frozen(module, torch.from_numpy(x))
                made.append(_torch("best_torch", module, x, f"compiled and frozen, {wiring}, {layout}", compiled))
    return made


def _onnx(name: str, graphs: Mapping[str, Callable[..., onnx.ModelProto]], x: Float) -> list[Contender]:
    """Every graph, made for the shape of ``x``, at two levels of optimisation."""
    made = []
    for wiring, make in graphs.items():
        graph = make(x.shape)
        for level in ("all", "extended"):
            run = partial(onnx_baselines.session(graph, level=level).run, None, {"image": x})
            variant = f"{wiring}, optimisation {level}"
            outcome = partial(_onnx_outcome, make, level)
            made.append(Contender(name, run, onnx_baselines.weight_bytes(graph), variant, outcome))
    return made


def _onnx_outcome(make: Callable[..., onnx.ModelProto], level: str, x: Float) -> Outcome:
    session = onnx_baselines.session(make(x.shape, record=True), level=level)
    logits, *spikes = session.run(None, {"image": x})
    return Outcome(logits, [array.reshape(-1, len(x), *array.shape[1:]) for array in spikes])


def _fastest(candidates: Sequence[Contender]) -> Contender:
    """The one with the shortest sample of three, or of one if it is slow."""
    best = [timed(candidate.run) for candidate in candidates]
    for _ in range(2):
        for index, candidate in enumerate(candidates):
            if best[index] < SLOW_SECONDS:
                best[index] = min(best[index], timed(candidate.run))
    return candidates[best.index(min(best))]
