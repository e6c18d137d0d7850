"""Measures steps and reports them, for search_step.py and train_step.py: rounds, memory, tables, figures, JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import machine
from agreement import require_agreement
from litesnn.errors import LitesnnError
from litesnn.files import write_atomically
from litesnn.training_loop.memory import reuse_buffers
from rounds import in_turns, number, numbers, print_figures, print_row, ratio, seconds_of
from step_cases import SHAPES, Case, make_step
from step_memory import peak_in_new_process

__all__ = ["Options", "figures_of", "growth_cases", "main", "measure"]

GROWTH_BATCH = 4
COLUMNS = ("contender", "s/step", "images/s", "× floor", "ours is faster by", "peak memory, MB")


@dataclass(frozen=True)
class Options:
    """How steps are measured; ``reuse``: with freed memory kept for the next step, as litesnn's own stages have it."""

    rounds: int
    threads: int
    cpu_time: bool = False
    memory: bool = True
    reuse: bool = True

    @property
    def clock(self) -> Callable[[Callable[[], object]], float]:
        """How a call is timed."""
        return _cpu_seconds if self.cpu_time else seconds_of


def measure(case: Case, options: Options, contenders: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Times in turns, after one step each to warm up, and peak memory of the contenders of a case.

    Returns:
        Per contender "seconds" (the median), "rounds", the "loss" of its very first step, "peak_bytes" if memory is
        measured (never for a floor), and for "ours", among all contenders, its "convolution_share".
    """
    steps = {name: make_step(case, name) for name in contenders or case.contenders()}
    results: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        loss = step()
        results[name] = {} if loss is None else {"loss": loss}
    for name, times in in_turns(steps, options.rounds, options.clock).items():
        results[name] |= {"seconds": statistics.median(times), "rounds": [round(seconds, 5) for seconds in times]}
    if contenders is None:
        results["ours"]["convolution_share"] = _convolution_share(steps["ours"])
    for name in steps:
        if options.memory and not name.startswith("floor"):
            results[name]["peak_bytes"] = peak_in_new_process(case, name, threads=options.threads, reuse=options.reuse)
    return results


def figures_of(results: Mapping[str, Mapping[str, Any]], batch: int) -> dict[str, float]:
    """The figures of a case that is measured in full, without their prefix."""
    ours = results["ours"]
    figures: dict[str, float] = {"seconds_per_step": ours["seconds"], "images_per_second": batch / ours["seconds"]}
    for rival in ("plain", "plain_once"):
        figures[f"speedup_vs_{rival}"] = ratio(results[rival]["rounds"], ours["rounds"])
        if "peak_bytes" in ours:
            figures[f"memory_vs_{rival}"] = ours["peak_bytes"] / results[rival]["peak_bytes"]
    figures["times_conv_floor"] = ratio(ours["rounds"], results["floor"]["rounds"])
    figures["convolution_share"] = ours["convolution_share"]
    again = results["recomputed"]
    figures["recomputed.speedup_vs_plain"] = ratio(results["plain"]["rounds"], again["rounds"])
    if "peak_bytes" in again:
        figures["recomputed.memory_vs_plain"] = again["peak_bytes"] / results["plain"]["peak_bytes"]
    figures["recomputed.times_conv_floor"] = ratio(again["rounds"], results["floor"]["rounds"])
    if "joint" in results:
        joint = results["joint"]
        figures["joint.images_per_second"] = batch / joint["seconds"]
        figures["joint.speedup_vs_alternating"] = ratio(ours["rounds"], joint["rounds"])
        figures["joint.times_conv_floor"] = ratio(joint["rounds"], results["floor_joint"]["rounds"])
    return figures


def growth_cases(stage: str, name: str) -> dict[str, list[tuple[int, Case]]]:
    """What grows, and its values with their cases; everything else stays as in the recipe, at a small batch."""
    base = Case(stage, name, GROWTH_BATCH)
    model, search = base.recipe.model, base.recipe.search
    stem = model.stem_channels / model.width
    # The network of a training step is wide already, and plain would take a minute for one twice as wide.
    widths = [model.width * quarters // 4 for quarters in ((1, 2, 4) if stage == "train" else (2, 4, 8))]
    cells = sorted({max(1, len(model.levels) * quarter // 4) for quarter in (1, 2, 3, 4)})
    return {
        "timesteps": [
            (steps, replace(base, changes={"search.timesteps": steps})) for steps in sorted({1, 2, 4, search.timesteps})
        ],
        "batch": [(batch, replace(base, batch=batch)) for batch in (2, 4, 8, 16)],
        "filters": [
            (width, replace(base, changes={"model.width": width, "model.stem_channels": round(stem * width)}))
            for width in widths
        ],
        "cells": [(count, replace(base, changes={"model.levels": list(model.levels[:count])})) for count in cells],
    }


def main(stage: str, description: str | None, *, batches: Mapping[str, list[int]]) -> None:
    """The program of a stage: read options, check, measure, print, write.

    Args:
        stage: "search" or "train".
        description: for ``--help``.
        batches: of each recipe. The first of the first recipe has figures without prefix.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", type=lambda text: text.split(","), default=list(batches), metavar="NAME,…", help="among "
        + ", ".join(SHAPES),
    )  # fmt: skip
    parser.add_argument("--batches", type=numbers, metavar="N,…", help="images per batch, for every recipe")
    parser.add_argument("--rounds", type=number, default=5, help="how often each contender is timed")
    parser.add_argument("--threads", type=number, default=2, help="threads of every contender")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, for a busy machine; on one thread")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--grow", action="store_true", help="also how both grow with T, batch, filters and cells")
    parser.add_argument("--default-allocator", action="store_true", help="give freed memory back, as glibc does")
    parser.add_argument("--quick", action="store_true", help="the same as --rounds 2 --batches 8 --no-memory")
    parser.add_argument("--json", type=Path, help="write conditions, all times and the figures here")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.recipes) - set(SHAPES)):
        parser.error(f"unknown recipe {unknown[0]!r}; expected some of {', '.join(SHAPES)}")
    if arguments.cpu_time and arguments.threads > 1:
        parser.error("--cpu-time counts waiting threads as well: it needs --threads 1")
    if arguments.quick:
        arguments.rounds, arguments.batches, arguments.no_memory = 2, [8], True
    options = Options(
        arguments.rounds,
        arguments.threads,
        arguments.cpu_time,
        memory=not arguments.no_memory,
        reuse=not arguments.default_allocator,
    )
    try:
        figures = _run(stage, arguments, options, batches)
    except LitesnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print_figures(figures)


def _run(
    stage: str, arguments: argparse.Namespace, options: Options, batches: Mapping[str, list[int]]
) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    if options.reuse:
        reuse_buffers()
    report: dict[str, Any] = {"conditions": _conditions(options), "cases": [], "growth": {}}
    print(json.dumps(report["conditions"], indent=2))
    figures: dict[str, float] = {}
    first = arguments.recipes[0]
    for name in arguments.recipes:
        sizes = arguments.batches or batches[name]
        agreed = require_agreement(Case(stage, name, sizes[0]))
        print(f"\n{name}: plain and ours agree within {agreed:.1g} (logits, costs, gradients; float64)")
        for batch in sizes:
            case = Case(stage, name, batch)
            results = measure(case, options)
            row = {"name": name, "batch": batch, "largest_difference": agreed, "results": results}
            report["cases"].append(row)
            print_table(f"{stage}, {name}, batch {batch}", results, batch)
            prefix = ([name] if name != first else []) + ([f"b{batch}"] if batch != sizes[0] else [])
            row["figures"] = figures_of(results, batch)
            figures |= {".".join([*prefix, key]): value for key, value in row["figures"].items()}
            _write(arguments.json, report | {"figures": figures})
    if arguments.grow:
        report["growth"] = _growth(stage, first, options)
        _write(arguments.json, report | {"figures": figures})
    return figures


def _growth(stage: str, name: str, options: Options) -> dict[str, list[dict[str, Any]]]:
    """Ours and plain for every value of what grows."""
    found: dict[str, list[dict[str, Any]]] = {}
    known: dict[tuple[str, int], Any] = {}  # the recipe itself is a value of everything that grows
    print(f"\n{stage}, {name}: growth at batch {GROWTH_BATCH}\n")
    for row in (("what", "value", "ours, s", "plain, s", "ours, MB", "plain, MB"), ("---", *["---:"] * 5)):
        print_row(*row)
    for what, points in growth_cases(stage, name).items():
        found[what] = []
        for value, case in points:
            key = case.recipe.model_dump_json(), case.batch
            results = known[key] if key in known else measure(case, options, ["ours", "plain"])
            known[key] = results
            found[what].append({"value": value, "case": asdict(case), "results": results})
            seconds = [f"{results[key]['seconds']:.3g}" for key in ("ours", "plain")]
            print_row(what, str(value), *seconds, *(_megabytes(results[key]) for key in ("ours", "plain")))
    return found


def print_table(title: str, results: Mapping[str, Mapping[str, Any]], batch: int) -> None:
    """Show one case as Markdown."""
    print(f"\n{title}\n")
    print_row(*COLUMNS)
    print_row("---", *["---:"] * 5)
    for name, result in results.items():
        floor = results["floor_joint" if "joint" in name else "floor"]
        seconds = result["seconds"]
        print_row(
            name,
            f"{seconds:.3g}",
            f"{batch / seconds:.3g}",
            f"{ratio(result['rounds'], floor['rounds']):.2f}",
            f"{ratio(result['rounds'], results['ours']['rounds']):.2f}",
            _megabytes(result),
        )


def _megabytes(result: Mapping[str, Any]) -> str:
    return f"{result['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in result else ""


def _convolution_share(step: Callable[[], object]) -> float:
    """The part of a step's time that the profiler finds in convolutions; by the wall clock, in both."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        seconds = seconds_of(step)
    found = [row.self_cpu_time_total for row in profile.key_averages() if "conv" in row.key]  # microseconds
    return float(sum(found)) / (1e6 * seconds)


def _cpu_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def _conditions(options: Options) -> dict[str, Any]:
    return {
        **machine.conditions(["numpy", "torch"], threads=options.threads),
        "rounds": options.rounds,
        "seconds": "CPU" if options.cpu_time else "wall",
        "freed_memory": "kept" if options.reuse else "given back as glibc does by default",
        "openmp": {key: os.environ.get(key) for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")},
    }


def _write(path: Path | None, report: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(report, indent=2) + "\n")
