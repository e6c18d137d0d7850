"""Milliseconds and memory of steps on a GPU, for every way to compute them: the table of docs/gpu.md.

Ways: "torch", plain torch for all that is no convolution; "triton", litesnn's kernels; "compiled", those that
torch.compile makes; each launched plainly or ("+graph") recorded and replayed, and the last also with bfloat16
convolutions ("+bf16"). All are timed in one process, on noise, one after the other, each at its own first step, so that
equal first losses say that they compute the same. A training step is that of one random genotype of the recipe.

Times are medians of single steps, each waited for; memory is the most that torch had allocated. What needs minutes
(torch.compile) comes last. Every row is written as soon as it is there, and rows that the file has are not measured
again: the same command goes on after an interruption. On a CPU it only checks that everything runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import machine
from litesnn.config import Recipe, load_recipe
from litesnn.data.batches import generator_for
from litesnn.files import write_atomically
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network
from litesnn.neurons.model import Neuron
from litesnn.search.baselines import random_genotype
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn import cell_function
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import TorchKernels
from litesnn.snn.network import InputInfo
from litesnn.snn.supernet import Supernet
from litesnn.train.fit import Trainee, TrainLoop
from rounds import number, print_row

__all__ = ["CASES", "WAYS", "measure", "remaining", "step_of"]

CASES = ("cifar10-s:64", "cifar10-s:256", "cifar10-m:128")
"""Recipes of 32 × 32 × 3 images and batch sizes."""

WAYS: Mapping[str, Execution] = {
    "torch": Execution(graphs=False),
    "triton": Execution(graphs=False),
    "triton+graph": Execution(),
    "triton+graph+bf16": Execution(half=True),
    "compiled": Execution(graphs=False, compiled=True),
    "compiled+graph": Execution(compiled=True),
}
STAGES = ("search", "train")
SHAPE, CLASSES = (3, 32, 32), 10
LATE_EPOCH = 10**6  # all warm-ups are over
WARM_UP = 5  # steps; three are plain before one is recorded

Step = Callable[[], Mapping[str, Tensor]]


def main() -> None:
    """Read options, measure what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), metavar="RECIPE:BATCH,…")
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), default=list(WAYS), help="among " + ", ".join(WAYS)
    )
    parser.add_argument("--steps", type=number, default=10, help="steps that are timed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True, help="where rows are kept")
    options = parser.parse_args()
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"no way {', '.join(sorted(unknown))}; expected some of {', '.join(WAYS)}")
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    report = _read(options.json, device)
    print_row("case", "stage", "way", "ms", "MB")
    print_row("---", "---", "---", "---:", "---:")
    for case, stage, way in remaining(report["rows"], options.cases, options.ways):
        name, _, batch = case.partition(":")
        row = {"case": case, "stage": stage, "way": way} | measure(name, int(batch), stage, way, device, options.steps)
        report["rows"].append(row)
        write_atomically(options.json, json.dumps(report, indent=1) + "\n")
        print_row(case, stage, way, *(f"{row[key]:,.1f}" if key in row else row["error"] for key in ("ms", "peak_mb")))


def remaining(
    rows: Sequence[Mapping[str, Any]], cases: Sequence[str], ways: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Case, stage and way of what has no row yet."""
    done = {(row["case"], row["stage"], row["way"]) for row in rows}
    for way in ways:
        for case in cases:
            for stage in STAGES:
                if (case, stage, way) not in done:
                    yield case, stage, way


def measure(recipe: str, batch: int, stage: str, way: str, device: torch.device, steps: int) -> dict[str, Any]:
    """A row: "ms", "peak_mb", the "first" and the "last" loss, or an "error" where a way does not work here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with _kernels(way):
            step = step_of(load_recipe(recipe), batch, stage, WAYS[way], device)
            first = _loss(step())
            for _ in range(WARM_UP - 1):
                step()
            times = [_milliseconds(step, device) for _ in range(steps)]
            last = _loss(step())
    except (RuntimeError, ImportError) as error:  # out of memory, or no compiler
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"ms": round(statistics.median(times), 2), "peak_mb": round(peak / 1e6), "first": first, "last": last}


def step_of(recipe: Recipe, batch: int, stage: str, execution: Execution, device: torch.device) -> Step:
    """A step of the joint search (``stage`` "search") or of training a random genotype ("train"), on noise."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *SHAPE, generator=random).mul_(32).round_().clamp_(-127, 127).to(device)
    y = torch.randint(0, CLASSES, (batch,), generator=random).to(device)
    draws = generator_for(0, "draws")
    supernet = build_supernet(recipe, SHAPE, CLASSES).to(device).train()
    loop: SearchLoop[Supernet] = SearchLoop(recipe, supernet, execution=execution)
    if stage == "search":
        return lambda: loop.joint_step(x, y, draws, epoch=LATE_EPOCH)
    loop.joint_step(x[:2], y[:2], draws, epoch=LATE_EPOCH)
    names = tuple(str(label) for label in range(CLASSES))
    info = InputInfo(InputSpec(SHAPE, "image", (0.0,) * SHAPE[0], (1.0,) * SHAPE[0]), names)
    network = build_network(random_genotype(recipe, info, loop.rates, seed=0), info, seed=0).to(device)
    training = TrainLoop(Trainee(network, recipe).to(device).train(), recipe, execution=execution)
    return lambda: training.step(x, y, 0.0)


def _loss(values: Mapping[str, Tensor]) -> float:
    return float(values["train_loss"].detach())


def _milliseconds(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


@contextmanager
def _kernels(way: str) -> Iterator[None]:
    """Plain torch instead of what would be chosen, for the way that is called so."""
    if way != "torch":
        yield
        return

    def chosen(_like: Tensor, _neuron: Neuron, *, compiled: bool = False) -> TorchKernels:
        return TorchKernels()

    with mock.patch.object(cell_function, "kernels_for", chosen):
        yield


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """The report so far, or an empty one."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_name()
    conditions = {**machine.conditions(["torch"], threads=torch.get_num_threads()), "device": where}
    if not path.is_file():
        return {"conditions": conditions, "rows": []}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if report.get("conditions", {}).get("device") != where:
        raise SystemExit(f"error: {path} is of another device than {where}: give another --json")
    return report


if __name__ == "__main__":
    main()
