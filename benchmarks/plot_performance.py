"""Draws docs/performance.md's figures from the results of search_step.py and train_step.py.

In: their JSON files. Out, for each file: ``STAGE_step.svg``, time per step and peak memory of every contender, and, if
it was measured, ``STAGE_growth.svg``. The same results give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litesnn.files import write_atomically

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    sys.exit(f"benchmarks/plot_performance.py: {error.name} is missing: pip install 'litesnn[report]'")

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_growth", "draw_steps", "to_svg"]

NAMES = {
    "ours": "litesnn",
    "recomputed": "litesnn, recomputed",
    "joint": "litesnn, joint",
    "plain": "plain",
    "plain_once": "plain, weights once",
    "floor": "torch's convolutions alone",
    "floor_joint": "torch's, for joint",
}
COLOURS = {  # Okabe and Ito (2008): told apart by colour-blind readers as well
    "ours": "#0072b2",
    "recomputed": "#009e73",
    "joint": "#56b4e9",
    "plain": "#d55e00",
    "plain_once": "#e69f00",
    "floor": "#888888",
    "floor_joint": "#bbbbbb",
}
GROWS = {"timesteps": "timesteps T", "batch": "images per batch", "filters": "filters", "cells": "cells"}


def draw_steps(report: Mapping[str, Any]) -> Figure:
    """A row of charts per case: seconds per step, and peak memory if it was measured."""
    cases = report["cases"]
    figure = Figure(figsize=(8, 1.9 * len(cases)), layout="constrained")
    for row, (left, right) in zip(cases, figure.subplots(len(cases), 2, squeeze=False), strict=True):
        results = row["results"]
        title = f"{row['name']}, batch {row['batch']}"
        _bars(left, {name: result["seconds"] for name, result in results.items()}, f"{title}: seconds per step")
        memory = {name: result["peak_bytes"] / 1e9 for name, result in results.items() if "peak_bytes" in result}
        if memory:
            _bars(right, memory, f"{title}: peak memory, GB")
        else:
            right.set_axis_off()
    return figure


def draw_growth(report: Mapping[str, Any]) -> Figure:
    """Seconds per step and peak memory of litesnn and plain, over everything that grows."""
    growth = report["growth"]
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, len(growth), sharex="col", squeeze=False)
    for axes, key, factor in ((upper, "seconds", 1.0), (lower, "peak_bytes", 1e-9)):
        for chart, (what, points) in zip(axes, growth.items(), strict=True):
            for name in ("plain", "ours"):
                x = [point["value"] for point in points]
                y = [point["results"][name].get(key, math.nan) * factor for point in points]
                chart.plot(x, y, "o-", color=COLOURS[name], label=NAMES[name], markersize=4)
            chart.set_ylim(bottom=0)
            chart.grid(alpha=0.3)
            chart.set_xticks([point["value"] for point in points])
            if axes is lower:
                chart.set_xlabel(GROWS[what])
    upper[0].set_ylabel("seconds per step")
    lower[0].set_ylabel("peak memory, GB")
    upper[0].legend(fontsize=8)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, without anything that changes from run to run."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "litesnn", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _bars(axes: Axes, values: Mapping[str, float], title: str) -> None:
    names = list(values)[::-1]
    bars = axes.barh([NAMES[name] for name in names], [values[name] for name in names])
    for bar, name in zip(bars, names, strict=True):
        bar.set_color(COLOURS[name])
    axes.bar_label(bars, [f"{values[name]:.2g}" for name in names], padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the results and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("results", type=Path, nargs="+", help="search_step.json, train_step.json")
    parser.add_argument("--to", type=Path, default=here.parent / "docs" / "images", help="folder of the figures")
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    for path in options.results:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path}: cannot be read as results: {error}")
        figures = {path.stem: draw_steps(report)}
        if report["growth"]:
            figures[path.stem.replace("_step", "_growth")] = draw_growth(report)
        for name, figure in figures.items():
            write_atomically(options.to / f"{name}.svg", to_svg(figure))
            print(options.to / f"{name}.svg")


if __name__ == "__main__":
    main()
