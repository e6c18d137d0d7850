"""What the results of compare.py say: a table, the gain over random networks, what the search knew, and plots.

In: the JSON files in ``RUNS/results``. Out: text, a JSON file with all results and figures, SVG files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.genotype import Genotype

__all__ = [
    "COLOURS",
    "diagnosis",
    "difference",
    "entropies",
    "gains_by_seed",
    "rank_correlation",
    "read_result",
    "read_results",
    "report",
    "summary",
    "table",
]

COLOURS = {  # Okabe and Ito (2008): told apart by colour-blind readers as well
    "joint": "#d55e00",
    "fixed-T": "#e69f00",
    "paper": "#cc79a7",
    "sequential": "#009e73",
    "random": "#888888",
    "random-matched": "#000000",
    "uniform-1": "#a6d8f5",
    "uniform-2": "#56b4e9",
    "uniform-4": "#0072b2",
}
"""The arms in their order."""

COLUMNS = ("arm", "n", "test accuracy", "s.e.", "validation", "packed B", "Bit-SynOps", "T", "budgets kept")

Result = Mapping[str, Any]


def summary(genotype: Genotype) -> str:
    """A genotype in a line."""
    edges = " ".join(f"{edge.source}>{edge.node}:{edge.op}" for edge in genotype.edges)
    cells = " ".join(f"{cell.width}x{cell.bits}bit@{cell.keep:g}" for cell in genotype.cells)
    return f"T={genotype.timesteps} | {edges} | {cells}"


def entropies(row: Mapping[str, Any]) -> dict[str, float]:
    """Of an epoch of a search: mean entropies of its choices, each as a share of the most possible one (1: no idea)."""

    def share(rows: Sequence[Any]) -> float:
        p = np.asarray(rows, float).reshape(len(rows), -1)
        if p.shape[1] == 1:
            return 0.0
        logs = np.log(np.where(p > 0, p, 1.0))
        return float(-(p * logs).sum(1).mean() / math.log(p.shape[1]))

    return {
        "alpha": share(row["alpha"]),
        "beta": share(row["compression"]),
        "width": share(row["width"]),
        "psi": share([row["psi"]]),
    }


def read_result(path: Path) -> dict[str, Any]:
    """One result. Raises ``InputError`` if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise InputError(f"{path}: not a result of version 1")
    return found


def read_results(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """All results by arm, arms in their order."""
    rows = [read_result(path) for path in sorted((runs / "results").glob("*.json"))]
    rows.sort(key=lambda row: (row["seed"], row["index"] or 0))
    found = {arm: [row for row in rows if row["arm"] == arm] for arm in COLOURS}
    return {arm: group for arm, group in found.items() if group}


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; NaN for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def table(results: Mapping[str, Sequence[Result]]) -> list[tuple[str, ...]]:
    """A row per arm under :data:`COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for arm, group in results.items():
        accuracies = [row["test_accuracy"] for row in group]
        means = {
            key: mean(row[key] for row in group)
            for key in ("validation_accuracy", "packed_bytes", "bit_synops", "timesteps")
        }
        rows.append(
            (
                arm,
                str(len(group)),
                f"{mean(accuracies):.2%}",
                percent(standard_error(accuracies)),
                f"{means['validation_accuracy']:.2%}",
                f"{means['packed_bytes']:,.0f}",
                f"{means['bit_synops']:,.0f}",
                f"{means['timesteps']:.1f}",
                f"{sum(row['budgets_kept'] for row in group)} of {len(group)}",
            )
        )
    return rows


def percent(value: float, sign: str = "") -> str:
    """A share in percent, or a dash if it is unknown."""
    return "–" if math.isnan(value) else f"{round(value, 4) + 0.0:{sign}.2%}"


def gains_by_seed(ours: Sequence[Result], others: Sequence[Result], key: str = "test_accuracy") -> dict[int, float]:
    """Of each seed that both arms have: our mean minus theirs."""

    def of(rows: Sequence[Result], seed: int) -> list[float]:
        return [row[key] for row in rows if row["seed"] == seed]

    seeds = sorted({row["seed"] for row in ours} & {row["seed"] for row in others})
    return {seed: mean(of(ours, seed)) - mean(of(others, seed)) for seed in seeds}


def difference(ours: Sequence[Result], others: Sequence[Result], key: str = "test_accuracy") -> dict[str, float]:
    """How much better one arm is than another.

    ``paired``: mean over seeds of our mean minus theirs of the same seed; its standard error is over seeds.
    ``pooled``: difference of the means of all; its standard error takes all networks as independent.
    """
    per_seed = list(gains_by_seed(ours, others, key).values())
    a, b = [row[key] for row in ours], [row[key] for row in others]
    return {
        "seeds": len(per_seed),
        "paired": mean(per_seed) if per_seed else math.nan,
        "paired_se": standard_error(per_seed),
        "pooled": mean(a) - mean(b),
        "pooled_se": math.hypot(standard_error(a), standard_error(b)),
    }


def rank_correlation(rows: Sequence[Result]) -> float:
    """Spearman's, between what a search thinks of networks and their validation accuracy; NaN where it is undefined."""
    scores, accuracies = [row["preference"] for row in rows], [row["validation_accuracy"] for row in rows]
    if len(set(scores)) < 2 or len(set(accuracies)) < 2:
        return math.nan
    return float(spearmanr(scores, accuracies).statistic)


def diagnosis(results: Mapping[str, Sequence[Result]]) -> tuple[list[str], dict[str, float]]:
    """What the joint searches knew: lines of text, and figures by name."""
    lines: list[str] = []
    figures: dict[str, float] = {}
    for row in results.get("joint", []):
        lines += [
            f"joint-{row['seed']}: {row['genotype_summary']}",
            "  epoch  entropy of alpha, beta, width, psi (1: no idea)",
        ]
        for epoch, found in enumerate(row["entropy"], start=1):
            lines.append(f"  {epoch:5}  " + "  ".join(f"{found[key]:.3f}" for key in ("alpha", "beta", "width", "psi")))
    drawn = {arm: results[arm] for arm in ("random", "random-matched") if arm in results}
    for arms in [[arm] for arm in drawn] + ([list(drawn)] if len(drawn) > 1 else []):
        rows = [row for arm in arms for row in drawn[arm]]
        by_seed = [rank_correlation([row for row in rows if row["seed"] == seed]) for seed in _seeds(rows)]
        known = [value for value in by_seed if not math.isnan(value)]
        name = "+".join(arms)
        figures[f"spearman.{name}"] = mean(known) if known else math.nan
        figures[f"spearman.{name}_se"] = standard_error(known)
        error = figures[f"spearman.{name}_se"]
        lines.append(
            f"Spearman, preference against validation accuracy, {name}: {figures[f'spearman.{name}']:+.2f} ± "
            f"{'–' if math.isnan(error) else f'{error:.2f}'} (mean over seeds; "
            f"{', '.join(f'{value:+.2f}' for value in by_seed)})"
        )
    return lines, figures


def _seeds(rows: Sequence[Result]) -> list[int]:
    return sorted({row["seed"] for row in rows})


def describe_task(results: Mapping[str, Sequence[Result]]) -> str:
    """What the networks were made for and how, in a line."""
    row = next(iter(results.values()))[0]
    seeds = {row["seed"] for group in results.values() for row in group}
    devices = sorted({row["device"] for group in results.values() for row in group})
    changed = "".join(f", {key} = {value}" for key, value in row["changes"].items())
    return (
        f"{row['data']['name']}, recipe {row['recipe']}{changed}, {row['budget']}, {row['epochs']['search']} search "
        f"and {row['epochs']['train']} training epochs, {len(seeds)} seeds, {row['n_test']:,} test samples; "
        f"{' and '.join(devices)}, torch {row['torch']}"
    )


def settings_to_show(result: Result) -> dict[str, Any]:
    """The settings of a result, with the name of its data in the place of their path, which means nothing elsewhere."""
    settings: dict[str, Any] = result["settings"]
    return settings | {"data": settings["data"] | {"source": result["data"]["name"]}}


def report(runs: Path, *, json_path: Path | None = None, diagnose: bool = False) -> dict[str, float]:
    """Print what the results say, and write what is asked for. Returns the figures by name."""
    results = read_results(runs)
    figures: dict[str, float] = {}
    if not results:
        print("no results yet")
        return figures
    print(f"\n{describe_task(results)}\n")
    for cells in (COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *table(results)):
        print("| " + " | ".join(cells) + " |")
    print()
    for arm, group in results.items():
        figures |= {
            f"{arm}.{key}": mean(row[key] for row in group) for key in ("test_accuracy", "packed_bytes", "bit_synops")
        }
        figures[f"{arm}.test_accuracy_se"] = standard_error([row["test_accuracy"] for row in group])
    for arm, group in results.items():
        if arm != "joint" and "joint" in results:
            found = difference(results["joint"], group)
            figures |= {f"joint-{arm}.{key}": value for key, value in found.items()}
            print(
                f"joint − {arm}: {percent(found['paired'], '+')} ± {percent(found['paired_se'])} (paired, "
                f"{found['seeds']:.0f} seeds), {percent(found['pooled'], '+')} ± {percent(found['pooled_se'])} (pooled)"
            )
    if diagnose:
        lines, found = diagnosis(results)
        figures |= found
        print("\n" + "\n".join(lines))
    if json_path is not None:
        write_json(json_path, results, figures)
    return figures


SHARED = (
    "settings",
    "genotype",
    "data",
    "budgets",
    "budget",
    "changes",
    "recipe",
    "match",
    "epochs",
    "n_test",
    "version",
)
"""Keys of a result that say the same in each, or at length what others say in short."""


def write_json(path: Path, results: Mapping[str, Sequence[Result]], figures: Mapping[str, float]) -> None:
    """All results in short and all figures in a file; what is not a number there is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {key: None if math.isnan(value) else value for key, value in figures.items()}
    first = next(iter(results.values()))[0]
    short = {
        arm: [{key: value for key, value in row.items() if key not in SHARED} for row in group]
        for arm, group in results.items()
    }
    said = {"task": describe_task(results), "settings": settings_to_show(first), "match": first["match"]}
    content = said | {"figures": numbers, "results": short}
    write_atomically(path, json.dumps(content, indent=1) + "\n")
