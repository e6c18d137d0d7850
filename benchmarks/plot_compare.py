"""Plots of what compare.py measured: accuracy over cost with the Pareto front, and what the search gains.

In: results by arm, as ``compare_report.read_results`` gives them. Out: figures. The same results give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

import compare_report
from litesnn.files import write_atomically
from plot_performance import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_costs", "draw_gains", "pareto", "write_plots"]

Results = Mapping[str, Sequence[Mapping[str, Any]]]

COSTS = {"packed_bytes": "packed bytes", "bit_synops": "Bit-SynOps per inference"}


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, accuracy) those that no other one beats, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def draw_costs(results: Results) -> Figure:
    """Test accuracy of every network over its packed bytes, and over its Bit-SynOps."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (key, name) in zip((left, right), COSTS.items(), strict=True):
        _scatter(axes, results, key)
        axes.set_xlabel(name)
    left.set_ylabel("test accuracy, %")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def draw_gains(results: Results) -> Figure:
    """Joint minus every other arm in points of test accuracy: each seed, and mean ± standard error over the seeds."""
    others = [arm for arm in results if arm != "joint"]
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(others)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=1)
    for place, arm in enumerate(reversed(others)):
        gain = compare_report.difference(results["joint"], results[arm])
        colour = compare_report.COLOURS[arm]
        seeds = [100 * value for value in compare_report.gains_by_seed(results["joint"], results[arm]).values()]
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=12)
        error = 0.0 if math.isnan(gain["paired_se"]) else 100 * gain["paired_se"]
        axes.errorbar(100 * gain["paired"], place, xerr=error, fmt="o", color=colour, capsize=4)
    axes.set_yticks(range(len(others)), [f"joint − {arm}" for arm in reversed(others)], fontsize=8)
    axes.set_xlabel(
        "points of test accuracy; dot and bar: mean ± standard error over seeds, strokes: seeds", fontsize=8
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_plots(results: Results, folder: Path, name: str) -> list[Path]:
    """Write all plots as SVG files. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"compare_{name}.svg": draw_costs(results)}
    if "joint" in results and len(results) > 1:
        figures[f"compare_{name}_gain.svg"] = draw_gains(results)
    for file, figure in figures.items():
        write_atomically(folder / file, to_svg(figure))
    return [folder / file for file in figures]


def _scatter(axes: Axes, results: Results, key: str) -> None:
    for arm, group in results.items():
        x = [row[key] for row in group]
        y = [100 * row["test_accuracy"] for row in group]
        size, order = (60, 3) if arm == "joint" else (24, 2)
        colour = compare_report.COLOURS[arm]
        axes.scatter(x, y, color=colour, label=arm, edgecolors="white", linewidths=0.5, s=size, zorder=order)
    points = [(row[key], 100 * row["test_accuracy"]) for group in results.values() for row in group]
    front = pareto(points)
    axes.step(*zip(*front, strict=True), where="post", color="#bbbbbb", linewidth=1, zorder=0, label="Pareto front")
    limits = {row["name"]: row["limit"] for row in next(iter(results.values()))[0]["budgets"]}
    if limits[key] is not None:
        axes.axvline(limits[key], color="#888888", linestyle=":", linewidth=1, label="budget")
    costs = [cost for cost, _ in points]
    if max(costs) > 8 * min(costs):
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
