"""How accuracy grows with the budget: the comparison of compare.py at several packed sizes, as one curve per arm.

In: a recipe and data, sizes in bytes, and any other option of compare.py. The limit on Bit-SynOps, if the recipe has
one, grows with the size. Out: per size a folder of runs under ``--runs``; a JSON file of all results; and a plot of the
test accuracy over the bytes that the networks really take, mean and range over the seeds.

Resumable like compare.py, and with its exit codes: 1 if a run failed, 3 if ``--time-limit`` came first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

import compare
import compare_report
from litesnn.errors import InputError
from litesnn.files import write_atomically
from plot_performance import to_svg
from rounds import numbers, print_row

__all__ = ["arguments_for", "curve", "draw", "points"]

Results = Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By size of the budget and by arm."""


def curve(arguments: Sequence[str]) -> int:
    """Run what is missing and report. Returns the exit code. Raises ``InputError`` for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=numbers, required=True, metavar="N,…", help="limits on the packed size")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs and results")
    parser.add_argument("--arms", default="joint", help="as in compare.py")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="end before; the next call goes on")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--plots", type=Path, help="write the plot into this folder")
    options, others = parser.parse_known_args(arguments)
    deadline = None if options.time_limit is None else time.time() + options.time_limit
    codes = []
    for size in options.bytes:
        limit = [] if deadline is None else ["--deadline", str(deadline)]
        said = arguments_for(size, options.runs, ["--arms", options.arms, *others])
        codes.append(compare.compare([*said, *limit]))
    results = {size: compare_report.read_results(options.runs / str(size)) for size in options.bytes}
    results = {size: arms for size, arms in results.items() if arms}
    if results:
        _report(results, options.json, options.plots)
    return 1 if 1 in codes else max(codes)


def arguments_for(size: int, runs: Path, others: Sequence[str]) -> list[str]:
    """What compare.py is told for a size. Raises ``InputError`` as it does."""
    changes = [f"budget.packed_bytes={size}"]
    plan = compare.plan_of(compare.parser().parse_args([*others, "--runs", str(runs)]))
    budget = plan.recipe_of(plan.tasks()[0]).budget
    if budget.bit_synops is not None and budget.packed_bytes is not None:
        changes.append(f"budget.bit_synops={budget.bit_synops * size / budget.packed_bytes:g}")
    return [*others, "--runs", str(runs / str(size)), "--set", *changes]


def points(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Of each arm, by size of the budget: "limit", "packed_bytes" (mean), "accuracies", "bit_synops" (mean)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for size, arms in sorted(results.items()):
        for arm, rows in arms.items():
            point = {
                "limit": size,
                "packed_bytes": mean(row["packed_bytes"] for row in rows),
                "bit_synops": mean(row["bit_synops"] for row in rows),
                "accuracies": [row["test_accuracy"] for row in rows],
            }
            found.setdefault(arm, []).append(point)
    return found


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test accuracy over packed bytes: the means as a line, the range over the networks as bars."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for arm, rows in curves.items():
        x, y = [row["packed_bytes"] for row in rows], [100 * mean(row["accuracies"]) for row in rows]
        spread = [
            [mean_ - 100 * min(row["accuracies"]) for mean_, row in zip(y, rows, strict=True)],
            [100 * max(row["accuracies"]) - mean_ for mean_, row in zip(y, rows, strict=True)],
        ]
        axes.errorbar(x, y, yerr=spread, fmt="o-", capsize=3, color=compare_report.COLOURS[arm], label=arm)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("packed bytes")
    axes.set_ylabel("test accuracy, %: mean and range")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _report(results: Results, json_path: Path | None, plots: Path | None) -> None:
    curves = points(results)
    print()
    print_row("arm", "limit, B", "n", "test accuracy", "from", "to", "packed B", "Bit-SynOps")
    print_row("---", *["---:"] * 7)
    for arm, rows in curves.items():
        for row in rows:
            accuracies = row["accuracies"]
            share = (f"{value:.2%}" for value in (mean(accuracies), min(accuracies), max(accuracies)))
            sizes = f"{row['packed_bytes']:,.0f}", f"{row['bit_synops']:,.0f}"
            print_row(arm, f"{row['limit']:,}", str(len(accuracies)), *share, *sizes)
    first = next(iter(next(iter(results.values())).values()))[0]
    if json_path is not None:
        tasks = {str(size): compare_report.describe_task(arms) for size, arms in results.items()}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        content = {"tasks": tasks, "curves": curves, "settings": compare_report.settings_to_show(first)}
        write_atomically(json_path, json.dumps(content, indent=1) + "\n")
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        write_atomically(plots / f"curve_{first['recipe']}.svg", to_svg(draw(curves)))


def main() -> None:
    try:
        code = curve(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
