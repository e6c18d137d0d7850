"""Joint search against baselines on digits, at the same packed budget and with the same training.

Per seed:
- joint: the joint search in budget mode;
- random: random genotypes of the same space;
- uniform: a 2-bit network of the same macro path, as wide as fits;
- sequential: a search at 4 bits without pruning and without limits, then compression to 2 bits at a width that fits.

All are trained by the same recipe under the same Bit-SynOps constraint and measured on the same test split. Every arm
has a run folder under --runs and resumes; finished ones are not run again. Prints a table and one line per figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console

from litesnn.config import Recipe
from litesnn.data.sources import load
from litesnn.design import Job, make_recipe
from litesnn.files import write_atomically
from litesnn.genotype import Genotype
from litesnn.loop.session import Session, input_info
from litesnn.runs import RunFolder
from litesnn.search.baselines import compress_uniformly, random_genotype, uniform_genotype
from litesnn.search.derive import learned_preferences
from litesnn.search.joint import read_search

BUDGET = "8 kB, 1 M Bit-SynOps, T <= 4"
SEARCH_ALONE = {"search.bits": [4], "search.keeps": [1.0], "search.widths": [1.0], "search.sampling": False}


def run_joint(recipe: Recipe, folder: Path, session: Session) -> dict[str, Any]:
    """The whole design."""
    run = RunFolder(folder)
    run.begin(recipe)
    job = Job(run, session)
    for stage in ("search", "derive", "train", "evaluate"):
        if not run.done(stage):
            job.do(stage)
    return run.metrics()


def run_given(recipe: Recipe, folder: Path, session: Session, genotype: Callable[[], Genotype]) -> dict[str, Any]:
    """Training and evaluation of a genotype that was not derived."""
    run = RunFolder(folder)
    run.begin(recipe)
    if not run.done("derive"):
        write_atomically(run.output("derive"), genotype().to_json())
    job = Job(run, session)
    for stage in ("train", "evaluate"):
        if not run.done(stage):
            job.do(stage)
    return run.metrics()


def run_seed(
    seed: int, runs: Path, session: Session, *, randoms: int, epochs: dict[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """All arms of one seed; the metrics of each."""
    recipe = make_recipe(data="digits", budget=BUDGET, seed=seed, changes=epochs)
    info = input_info(load(recipe.data))
    joint = runs / f"joint-{seed}"
    results = {"joint": [run_joint(recipe, joint, session)]}
    _, rates = read_search(RunFolder(joint), info.shape, len(info.classes))
    results["random"] = [
        run_given(
            recipe,
            runs / f"random-{seed}-{index}",
            session,
            lambda index=index: random_genotype(recipe, info, rates, seed=1000 * seed + index),  # type: ignore[misc]
        )
        for index in range(randoms)
    ]
    results["uniform"] = [
        run_given(recipe, runs / f"uniform-{seed}", session, lambda: uniform_genotype(recipe, info, rates, bits=2))
    ]
    alone = make_recipe(data="digits", budget="T <= 4", seed=seed, changes=SEARCH_ALONE | epochs)
    alone_run = RunFolder(runs / f"search-alone-{seed}")
    alone_run.begin(alone)
    if not alone_run.done("search"):
        Job(alone_run, session).do("search")
    searched = learned_preferences(*read_search(alone_run, info.shape, len(info.classes)))
    results["sequential"] = [
        run_given(
            recipe,
            runs / f"sequential-{seed}",
            session,
            lambda: compress_uniformly(recipe, info, searched, bits=2, keep=1.0),
        )
    ]
    return results


COLUMNS = ("arm", "n", "test accuracy", "sd", "packed B", "Bit-SynOps", "T", "budgets kept")


def summarize(rows: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, float], list[tuple[str, ...]]]:
    """Means and spreads of every arm: as figures by name, and as rows of a table with :data:`COLUMNS`."""
    figures: dict[str, float] = {}
    table: list[tuple[str, ...]] = []
    for arm, results in rows.items():
        accuracies = [row["test_accuracy"] for row in results]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        kept = sum(row["budgets_kept"] for row in results)
        means = {key: mean(row[key] for row in results) for key in ("packed_bytes", "bit_synops", "timesteps")}
        table.append(
            (
                arm,
                str(len(results)),
                f"{mean(accuracies):.2%}",
                f"{spread:.2%}",
                f"{means['packed_bytes']:,.0f}",
                f"{means['bit_synops']:,.0f}",
                f"{means['timesteps']:.1f}",
                f"{kept} of {len(results)}",
            )
        )
        figures |= {f"{arm}.test_accuracy": mean(accuracies), f"{arm}.test_accuracy_sd": spread}
        figures |= {f"{arm}.{key}": value for key, value in means.items()}
    return figures, table


def print_table(table: list[tuple[str, ...]], title: str) -> None:
    """Show the table, as Markdown: the docs quote it as it stands."""
    print(f"{title}\n")
    for row in (COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *table):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Run everything and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--randoms", type=int, default=2, help="random genotypes per seed")
    parser.add_argument("--search-epochs", type=int, default=12)
    parser.add_argument("--train-epochs", type=int, default=75)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare_digits"))
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.fresh:
        shutil.rmtree(options.runs, ignore_errors=True)
    epochs = {"search.epochs": options.search_epochs, "train.epochs": options.train_epochs}
    session = Session(console=Console(quiet=True))
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for arm, results in run_seed(seed, options.runs, session, randoms=options.randoms, epochs=epochs).items():
            rows.setdefault(arm, []).extend(
                {
                    key: metrics[key]
                    for key in ("seed", "test_accuracy", "packed_bytes", "bit_synops", "timesteps", "budgets_kept")
                }
                for metrics in results
            )
    figures, table = summarize(rows)
    title = f"digits, {BUDGET}, {options.seeds} seeds"
    print_table(table, title)
    conditions = {
        "budget": BUDGET,
        "seeds": options.seeds,
        "random_genotypes_per_seed": options.randoms,
        **epochs,
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            options.json, json.dumps({"conditions": conditions, "runs": rows, "figures": figures}, indent=2) + "\n"
        )
    for name, value in figures.items():
        print(f"{name} {value:.6g}")


if __name__ == "__main__":
    main()
