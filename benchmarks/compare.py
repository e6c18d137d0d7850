"""Does the search earn its keep? Searched networks against others of the same packed budget and the same training.

In: a recipe, data and a budget, as ``litesnn design`` takes them. Out: a run folder per network and, once it is
measured, one JSON file in ``RUNS/results``; a table, figures and plots from these (``compare_report.py``).

The arms are described in ``compare_arms.py``.

Every run can be killed at any time: the next call goes on at its last epoch and never repeats a finished one. Ends with
code 1 if a run failed (the others go on), and with 3 if ``--time-limit`` ended it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import compare_report
from compare_arms import ARMS, Bench, ComparisonPlan
from compare_workers import Progress, serve, work_alone, work_together
from litesnn.config import parse_change
from litesnn.errors import InputError
from litesnn.training_loop.session import begin_session


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--recipe", help="name of a shipped recipe or a TOML file")
    made.add_argument("--data", help="source or folder; left out, the recipe's")
    made.add_argument("--budget", help="limits, such as '8 kB, 1 M Bit-SynOps, T <= 4'; left out, the recipe's")
    made.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="other recipe values")
    made.add_argument("--arms", default=",".join(ARMS), help="separated by commas; joint always takes part")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--randoms", type=int, default=5, help="networks per seed of each random arm")
    made.add_argument("--match", choices=("budget", "joint"), default="budget", help="the size of random-matched")
    made.add_argument("--runs", type=Path, required=True, help="folder of all runs and results")
    made.add_argument("--workers", type=int, default=1, help="processes, each with a network at a time")
    made.add_argument("--threads", type=int, default=1, help="threads of each process")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument("--time-limit", type=float, metavar="SECONDS", help="end before; the next call goes on")
    made.add_argument("--json", type=Path, help="write all results and figures here")
    made.add_argument("--plots", type=Path, help="write plots into this folder")
    made.add_argument("--diagnose", action="store_true", help="say what the searches knew")
    made.add_argument("--report-only", action="store_true", help="start nothing: report on what is finished")
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return made


def plan_of(options: argparse.Namespace) -> ComparisonPlan:
    """Raises ``InputError`` if an option means nothing."""
    arms = ("joint", *(arm for arm in options.arms.split(",") if arm != "joint"))
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise InputError(f"no arm {unknown[0]!r}; expected {', '.join(ARMS)}")
    changes = dict(map(parse_change, options.set))
    return ComparisonPlan(
        options.recipe,
        options.data,
        options.budget,
        changes,
        arms,
        options.seeds,
        options.randoms,
        options.match,
        options.runs,
    )


def compare(arguments: Sequence[str]) -> int:
    """Run what is missing and report. Returns the exit code. Raises ``InputError`` for bad input."""
    began = time.time()
    options = parser().parse_args(arguments)
    plan = plan_of(options)
    deadline = options.deadline or (None if options.time_limit is None else began + options.time_limit)

    def bench() -> Bench:
        torch.set_num_threads(options.threads)
        return Bench(plan, begin_session(options.device, Console(stderr=True)), options.threads)

    if options.worker:
        serve(plan, bench(), deadline)
        return 0
    progress, in_time = Progress(plan), True
    if not options.report_only and progress.left:
        if options.workers > 1:
            limit = [] if deadline is None else ["--deadline", str(deadline)]
            command = [sys.executable, __file__, *arguments, *limit, "--worker"]
            in_time = work_together(progress, command, options.workers, deadline)
        else:
            in_time = work_alone(progress, bench(), deadline)
    figures = compare_report.report(plan.runs, json_path=options.json, diagnose=options.diagnose)
    if figures and options.plots is not None:
        from plot_compare import write_plots  # matplotlib is needed for nothing else

        results = compare_report.read_results(plan.runs)
        for path in write_plots(results, options.plots, next(iter(results.values()))[0]["recipe"]):
            print(path)
    for name, error in progress.failed.items():
        print(f"{name} FAILED: {error}")
    if not in_time:
        print("the time is up; the same call goes on")
    return 1 if progress.failed else 0 if in_time else 3


def main() -> None:
    try:
        code = compare(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
