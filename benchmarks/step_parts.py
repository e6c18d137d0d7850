"""What each optional part of a step on a CPU is worth: steps with it and without it, in turns, and their ratio.

Parts: 1×1 convolutions by moments (``snn/conv1x1_moments.py``, ``snn/spike_products.py``), the masks' own kernel
(``snn/csrc/keep_largest.c``), the batch normalisation's gradient in passing (``Normalised`` of ``snn/winograd.py``),
Winograd's convolutions themselves, torch's OpenMP threads for our kernels (``snn/native_library.py``), and the kernels
in C. A ratio above 1 is time that the part saves. The networks are on noise, as in gpu_steps.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

import machine
from gpu_steps import STAGES, step_of
from litesnn.config import load_recipe
from litesnn.files import write_atomically
from litesnn.neurons.model import Neuron
from litesnn.snn import cell, cell_function, native_library, prune, winograd
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import TorchKernels
from rounds import in_turns, number, print_row, ratio, seconds_of

__all__ = ["PARTS", "compared", "without"]

CASES = ("digits:50", "cifar10-s:64")
"""Recipes and batch sizes."""


def _no_moments(*_: object) -> bool:
    return False


def _by_topk(scores: Tensor, kept: int) -> Tensor:
    largest = torch.topk(scores.abs(), kept, sorted=False).indices
    return torch.zeros_like(scores).scatter_(1, largest, 1)


def _in_torch(_like: Tensor, _neuron: Neuron, *, compiled: bool = False) -> TorchKernels:
    return TorchKernels()


PARTS: Mapping[str, Sequence[tuple[object, str, Callable[..., object]]]] = {
    "1x1 by moments": [(module, "uses_moments", _no_moments) for module in (cell, cell_function)],
    "masks' kernel": [(prune, "_largest", _by_topk)],
    "normalisation in passing": [(winograd, "takes", _no_moments)],
    "Winograd": [(winograd, "best_scheme", lambda *_, **__: None)],
    "torch's OpenMP threads": [(native_library, "_openmp_fork", lambda: None)],
    "kernels in C": [(cell_function, "kernels_for", _in_torch)],
}
"""Of each part what stands in for it: module, name, function."""


@contextmanager
def without(part: str) -> Iterator[None]:
    """Steps are computed without a part; ``""``: with all of them."""
    with ExitStack() as stack:
        for module, name, instead in PARTS.get(part, ()):
            stack.enter_context(mock.patch.object(module, name, instead))
        if part.startswith("torch's"):
            _new_team()
            stack.callback(_new_team)
        yield


def _new_team() -> None:
    """Have the kernels' threads made anew."""
    native_library._workers.made_for = (os.getpid(), -1)


def _seconds(measured: Callable[[], object]) -> float:
    found = measured()
    assert isinstance(found, float)
    return found


def compared(step: Callable[[], object], rounds: int, part: str) -> dict[str, float]:
    """The median milliseconds of a step "with" and "without" a part, and the median "ratio" of a round."""

    def timed(left_out: str) -> Callable[[], float]:
        def measure() -> float:
            with without(left_out):
                step()  # the first one after a change pays for it
                return seconds_of(step)

        return measure

    times = in_turns({"with": timed(""), "without": timed(part)}, rounds, measure=_seconds)
    return {
        "with": round(1000 * statistics.median(times["with"]), 2),
        "without": round(1000 * statistics.median(times["without"]), 2),
        "ratio": round(ratio(times["without"], times["with"]), 3),
    }


def main() -> None:
    """Read options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), metavar="RECIPE:BATCH,…")
    parser.add_argument("--rounds", type=number, default=15)
    parser.add_argument("--threads", type=number, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the rows are written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print_row("case", "stage", "part", "with, ms", "without, ms", "ratio")
    print_row("---", "---", "---", "---:", "---:", "---:")
    for case in options.cases:
        name, _, batch = case.partition(":")
        for stage in STAGES:
            step = step_of(load_recipe(name), int(batch), stage, Execution(), torch.device("cpu"))
            for part in PARTS:
                row = compared(step, options.rounds, part)
                rows.append({"case": case, "stage": stage, "part": part, **row})
                print_row(case, stage, part, *(str(row[key]) for key in ("with", "without", "ratio")))
    if options.json is not None:
        conditions = machine.conditions(["torch"], threads=torch.get_num_threads())
        write_atomically(options.json, json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
