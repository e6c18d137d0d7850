"""The arms of compare.py: how each network of a comparison is made, and what is kept of it.

In: a plan. Out: a run folder per network and, once it is measured, its result.

All are trained by the same recipe, under the same limit on Bit-SynOps, and measured on the same test split:

- joint: the recipe's own search in budget mode;
- fixed-T: the same search, but T is the most that recipe and budget allow, in search and derivation;
- paper: a search with the paper's fixed cost weights and keep ratio (mode "paper", 0.2), derived without limits; the
  derived network need not keep the packed-size budget;
- random: random genotypes of the same space by the same exact choice under the budget; T is random too;
- random-matched: the same with joint's T, and as large as the budget allows (``--match budget``) or as joint's network
  (``--match joint``), up to 10 %: the choice has to need that many bytes, and wirings that cannot are drawn anew;
- uniform-1, -2, -4: so many bits, the plain wiring of 3×3 convolutions, nothing pruned, as wide as fits, T the most;
- sequential: a search at 4 bits without pruning and limits, then 2 bits at the width that fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import compare_report
from litesnn.config import Recipe
from litesnn.data.sources import Data, load
from litesnn.design import Job, make_recipe
from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically
from litesnn.genotype import Genotype
from litesnn.runs import RunFolder, held
from litesnn.search.baselines import compress_uniformly, matched_random_genotype, random_genotype, uniform_genotype
from litesnn.search.derive import Preferences, largest_file, learned_preferences, preference
from litesnn.search.joint import read_search
from litesnn.training_loop.session import Session, input_info
from machine import cpu_name

__all__ = ["ALONE", "ARMS", "FIXED", "PAPER", "Arm", "Bench", "ComparisonPlan", "Task"]

RESULT_VERSION = 1
MATCH = 0.9
"""Smallest share of the bytes to be matched that random-matched may take."""

NO_LIMITS: dict[str, Any] = {"budget.packed_bytes": None, "budget.bit_synops": None}
PAPER = NO_LIMITS | {"search.mode": "paper", "search.keeps": [0.2], "search.widths": [1.0], "search.sampling": False}
ALONE = NO_LIMITS | {"search.bits": [4], "search.keeps": [1.0], "search.widths": [1.0], "search.sampling": False}
FIXED = {"search.fixed_timesteps": True}


@dataclass(frozen=True)
class Task:
    """One network to be made and measured."""

    arm: str
    seed: int
    index: int | None = None

    @property
    def name(self) -> str:
        """Name of its run folder and of its result."""
        return f"{self.arm}-{self.seed}" + ("" if self.index is None else f"-{self.index}")

    @property
    def needs(self) -> str | None:
        """The run whose genotype and firing rates it takes; ``None`` if it can start at once."""
        return f"joint-{self.seed}" if ARMS[self.arm].after_joint else None


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared; the same in every process."""

    recipe: str | None
    data: str | None
    budget: str | None
    changes: Mapping[str, Any]
    arms: tuple[str, ...]
    seeds: int
    randoms: int
    match: str
    runs: Path

    def tasks(self) -> list[Task]:
        """All networks; those that others wait for come first, and what takes longest."""
        seeds, found = range(self.seeds), []
        for arm in sorted(self.arms, key=lambda arm: not ARMS[arm].searches):
            found += [
                Task(arm, seed, i) for seed in seeds for i in (range(self.randoms) if ARMS[arm].drawn else [None])
            ]
        return found

    def recipe_of(self, task: Task, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of a task, with dotted keys changed.

        Raises:
            InputError: it is not understood, or it has nothing that networks could be compared at.
        """
        recipe = make_recipe(
            data=self.data, budget=self.budget, recipe=self.recipe, seed=task.seed, changes=self.changes
        )
        if recipe.search.mode != "budget" or recipe.budget.packed_bytes is None:
            raise InputError(f"{recipe.name}: a comparison needs search.mode 'budget' and a limit on the packed size")
        return Recipe.from_toml(recipe.to_toml(), changes=changes)

    def run_of(self, name: str) -> RunFolder:
        """The run folder of a task by name."""
        return RunFolder(self.runs / name)

    def result_path(self, task: Task) -> Path:
        """Where the result of a task is written."""
        return self.runs / "results" / f"{task.name}.json"

    def done(self, task: Task) -> bool:
        """Whether a task is finished.

        Raises:
            InputError: it was, with other settings.
        """
        path = self.result_path(task)
        if not path.exists():
            return False
        result = compare_report.read_result(path)
        said = self.recipe_of(task, ARMS[task.arm].changes).model_dump(mode="json")
        if result["settings"] != said or (task.arm == "random-matched" and result["match"] != self.match):
            raise InputError(f"{path} was made with other settings; choose another folder for --runs")
        return True

    def ready(self, task: Task) -> bool:
        """Whether what a task needs is there."""
        return task.needs is None or self.run_of(task.needs).done("derive")


class Bench:
    """One process that makes networks: its device, and the data, which all tasks share."""

    def __init__(self, plan: ComparisonPlan, session: Session, threads: int) -> None:
        self.plan, self.session, self.threads = plan, session, threads

    @cached_property
    def data(self) -> Data:
        """The data of all tasks."""
        recipe = self.plan.recipe_of(Task("joint", 0))
        return load(recipe.data, recipe.front_ends)

    def stages(self, run: RunFolder, recipe: Recipe, *stages: str) -> None:
        """Begin or resume a run, and do those of the stages that are not done."""
        job = Job(run, self.session)
        job.data = self.data
        with held(run, recipe):
            for stage in stages:
                if not run.done(stage):
                    job.do(stage)

    def given(self, task: Task, genotype: Callable[[Recipe], Genotype]) -> None:
        """Train and evaluate a genotype that comes from elsewhere."""
        run, recipe = self.plan.run_of(task.name), self.plan.recipe_of(task)
        run.begin(recipe)
        if not run.done("derive"):
            write_atomically(run.output("derive"), genotype(recipe).to_json())
        self.stages(run, recipe, "train", "evaluate")

    def preferences(self, run: RunFolder) -> Preferences:
        """What the search of a run prefers, and the firing rates that it saw."""
        info = input_info(self.data)
        return learned_preferences(*read_search(run, info.shape, len(info.classes)))

    def do(self, task: Task) -> dict[str, Any]:
        """Make and measure the network of a task, and write its result."""
        ARMS[task.arm].make(self, task)
        result = self.result(task)
        path = self.plan.result_path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def result(self, task: Task) -> dict[str, Any]:
        """All that is kept of a finished run."""
        plan, run = self.plan, self.plan.run_of(task.name)
        metrics, recipe = run.metrics(), run.recipe()
        genotype = Genotype.read(run.need("derive"))
        train = JsonLog.read(run / "train.jsonl")
        logs = [run / "search.jsonl", plan.run_of(f"{task.name}.search") / "search.jsonl"]
        searched = [row for path in logs if path.exists() for row in JsonLog.read(path)]
        device = self.session.device
        score = None
        if task.arm == "joint" or ARMS[task.arm].drawn:
            score = preference(genotype, self.preferences(plan.run_of(f"joint-{task.seed}")), recipe)
        kept = ("test_accuracy", "accuracy_at", "packed_bytes", "bit_synops", "timesteps", "budgets", "budgets_kept")
        return {
            "version": RESULT_VERSION,
            "arm": task.arm,
            "seed": task.seed,
            "index": task.index,
            **{key: metrics[key] for key in kept},
            "validation_accuracy": [row for row in train if row["best"]][-1]["validation_accuracy"],
            "genotype": json.loads(genotype.to_json()),
            "genotype_summary": compare_report.summary(genotype),
            "preference": score,
            "entropy": [compare_report.entropies(row) for row in searched],
            "search_seconds": sum(row["seconds"] for row in searched),
            "train_seconds": sum(row["seconds"] for row in train),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "torch": torch.__version__,
            "threads": self.threads,
            "data": metrics["data"],
            "recipe": recipe.name,
            "budget": recipe.budget.describe(),
            "changes": dict(plan.changes),
            "match": plan.match,
            "epochs": {"search": recipe.search.epochs, "train": recipe.train.epochs},
            "n_test": metrics["data"]["test"],
            "settings": recipe.model_dump(mode="json"),
        }


def search_jointly(bench: Bench, task: Task) -> None:
    """The whole design, with the changes of the arm."""
    recipe = bench.plan.recipe_of(task, ARMS[task.arm].changes)
    bench.stages(bench.plan.run_of(task.name), recipe, "search", "derive", "train", "evaluate")


def search_as_paper(bench: Bench, task: Task) -> None:
    """A search in a folder of its own; then its genotype."""
    run = bench.plan.run_of(f"{task.name}.search")
    bench.stages(run, bench.plan.recipe_of(task, PAPER), "search", "derive")
    bench.given(task, lambda recipe: Genotype.read(run.need("derive")))


def search_then_compress(bench: Bench, task: Task) -> None:
    """A search in a folder of its own; then the compression."""
    run = bench.plan.run_of(f"{task.name}.search")
    bench.stages(run, bench.plan.recipe_of(task, ALONE), "search")
    info = input_info(bench.data)
    bench.given(task, lambda recipe: compress_uniformly(recipe, info, bench.preferences(run), bits=2, keep=1.0))


def draw(bench: Bench, task: Task) -> None:
    """A random genotype, whatever its size."""
    rates = bench.preferences(bench.plan.run_of(f"joint-{task.seed}")).rates
    seed = 1000 * task.seed + (task.index or 0)
    bench.given(task, lambda recipe: random_genotype(recipe, input_info(bench.data), rates, seed=seed))


def draw_matched(bench: Bench, task: Task) -> None:
    """A random genotype with the T of the joint search's, and as large as the budget or that one."""
    joint, info = bench.plan.run_of(f"joint-{task.seed}"), input_info(bench.data)
    searched = Genotype.read(joint.need("derive"))

    def drawn(recipe: Recipe) -> Genotype:
        budget = recipe.budget.packed_bytes or 0
        return matched_random_genotype(
            recipe,
            info,
            bench.preferences(joint).rates,
            seed=1000 * task.seed + 500 + (task.index or 0),
            timesteps=searched.timesteps,
            least_bytes=int(MATCH * (budget if bench.plan.match == "budget" else largest_file(searched, info))),
        )

    bench.given(task, drawn)


def plain(bits: int) -> Callable[[Bench, Task], None]:
    """The uniform network of so many bits."""

    def make(bench: Bench, task: Task) -> None:
        rates = bench.preferences(bench.plan.run_of(f"joint-{task.seed}")).rates
        bench.given(task, lambda recipe: uniform_genotype(recipe, input_info(bench.data), rates, bits=bits))

    return make


@dataclass(frozen=True)
class Arm:
    """How the networks of an arm are made."""

    make: Callable[[Bench, Task], None]
    searches: bool = False
    after_joint: bool = False
    drawn: bool = False  # several per seed, by chance
    changes: Mapping[str, Any] | None = None  # of the recipe of its run folder


ARMS: dict[str, Arm] = {
    "joint": Arm(search_jointly, searches=True),
    "fixed-T": Arm(search_jointly, searches=True, changes=FIXED),
    "paper": Arm(search_as_paper, searches=True),
    "sequential": Arm(search_then_compress, searches=True),
    "random": Arm(draw, after_joint=True, drawn=True),
    "random-matched": Arm(draw_matched, after_joint=True, drawn=True),
    **{f"uniform-{bits}": Arm(plain(bits), after_joint=True) for bits in (1, 2, 4)},
}
assert list(ARMS) == list(compare_report.COLOURS)
