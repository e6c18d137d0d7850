"""Does the search earn its keep? Searched networks against others of the same packed budget and the same training.

In: a recipe, data and a budget, as ``litesnn design`` takes them. Out: a run folder per network and, once it is
measured, one JSON file in ``RUNS/results``; a table, figures and plots from these (``compare_report.py``).

Arms. All are trained by the same recipe, under the same limit on Bit-SynOps, and measured on the same test split:

- joint: the recipe's own search in budget mode;
- fixed-T: the same search, but T is the most that recipe and budget allow, in search and derivation;
- paper: a search with the paper's fixed cost weights and keep ratio (mode "paper", 0.2), derived without limits; the
  derived network need not keep the packed-size budget;
- random: random genotypes of the same space by the same exact choice under the budget; T is random too;
- random-matched: the same with joint's T, and as large as the budget allows (``--match budget``) or as joint's network
  (``--match joint``), up to 10 %: the choice has to need that many bytes, and wirings that cannot are drawn anew;
- uniform-1, -2, -4: so many bits, the plain wiring of 3×3 convolutions, nothing pruned, as wide as fits, T the most;
- sequential: a search at 4 bits without pruning and limits, then 2 bits at the width that fits.

Every run can be killed at any time: the next call goes on at its last epoch and never repeats a finished one. Ends with
code 1 if a run failed (the others go on), and with 3 if ``--time-limit`` ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import compare_report
from litesnn.config import Recipe, parse_change
from litesnn.data.sources import Data, load
from litesnn.design import Job, make_recipe
from litesnn.errors import InputError, LitesnnError
from litesnn.files import JsonLog, write_atomically
from litesnn.genotype import Genotype
from litesnn.loop.session import Session, begin_session, input_info
from litesnn.runs import RunFolder, held
from litesnn.search.baselines import compress_uniformly, matched_random_genotype, random_genotype, uniform_genotype
from litesnn.search.derive import Preferences, largest_file, learned_preferences, preference
from litesnn.search.joint import read_search
from machine import cpu_name

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
class Plan:
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

    def __init__(self, plan: Plan, session: Session, threads: int) -> None:
        self.plan, self.session, self.threads = plan, session, threads

    @cached_property
    def data(self) -> Data:
        """The data of all tasks."""
        recipe = self.plan.recipe_of(Task("joint", 0))
        return load(recipe.data, recipe.audio)

    def stages(self, run: RunFolder, recipe: Recipe, *stages: str) -> None:
        """Begin or resume a run, and do those of the stages that are not done."""
        run.begin(recipe)
        job = Job(run, self.session)
        job.data = self.data
        with held(run):
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


class TimeUp(BaseException):
    """The time limit has come."""


GRACE = 5.0
"""Seconds before the time limit at which work ends, so that everything has ended when it comes."""


@contextlib.contextmanager
def time_limit(deadline: float | None) -> Iterator[None]:
    """Raise :class:`TimeUp` in here shortly before ``deadline`` (of ``time.time()``)."""
    if deadline is None:
        yield
        return

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, deadline - GRACE - time.time()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(bench: Bench, task: Task, deadline: float | None) -> dict[str, Any]:
    """Do a task. Returns its name, and its result or its error; with neither, the time is up."""
    try:
        result = bench.do(task)
    except Exception as error:
        if deadline is not None and time.time() > deadline - GRACE:  # the alarm may have ended as another error
            return {"name": task.name}
        if not isinstance(error, LitesnnError):
            traceback.print_exc()
        return {"name": task.name, "error": f"{type(error).__name__}: {error}"}
    keys = ("test_accuracy", "packed_bytes", "bit_synops", "timesteps", "search_seconds", "train_seconds")
    return {"name": task.name, "result": {key: result[key] for key in keys}}


class Progress:
    """What is done, what failed and what is left; says so as it happens."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        tasks = plan.tasks()
        self.left = [task for task in tasks if not plan.done(task)]
        self.total, self.failed = len(tasks), dict[str, str]()
        if len(self.left) < self.total:
            print(f"{self.total - len(self.left)} of {self.total} runs were finished before", flush=True)

    def next(self) -> Task | None:
        """Take a task that can be started; ``None`` if there is none now."""
        for task in self.left:
            if self.plan.ready(task):
                self.left.remove(task)
                return task
        return None

    def take(self, reply: Mapping[str, Any]) -> None:
        """Note how a task ended."""
        name = reply["name"]
        if "error" in reply:
            self.failed[name] = reply["error"]
            print(f"{name} FAILED: {reply['error']}", flush=True)
        elif "result" in reply:
            found = reply["result"]
            print(
                f"{name}: {found['test_accuracy']:.2%}, {found['packed_bytes']:,} B, {found['bit_synops']:,.0f} "
                f"Bit-SynOps, T = {found['timesteps']}, {found['search_seconds'] + found['train_seconds']:.0f} s",
                flush=True,
            )

    def give_up(self) -> None:
        """Tasks that nothing can make ready any more have failed too."""
        for task in self.left:
            self.take({"name": task.name, "error": f"{task.needs} has no genotype"})
        self.left.clear()


def work_alone(progress: Progress, bench: Bench, deadline: float | None) -> bool:
    """All tasks in this process, one after the other. Returns whether the time was enough."""
    try:
        with time_limit(deadline):
            while (task := progress.next()) is not None:
                reply = attempt(bench, task, deadline)
                if len(reply) == 1:
                    return False
                progress.take(reply)
    except TimeUp:
        return False
    progress.give_up()
    return True


def serve(plan: Plan, bench: Bench, deadline: float | None) -> None:
    """A worker: names of tasks from standard input, replies as lines of JSON to standard output."""
    tasks = {task.name: task for task in plan.tasks()}
    with os.fdopen(os.dup(1), "w", buffering=1) as replies:
        os.dup2(2, 1)  # whatever else is printed goes to the log
        with contextlib.suppress(TimeUp), time_limit(deadline):
            for line in sys.stdin:
                replies.write(json.dumps(attempt(bench, tasks[line.strip()], deadline)) + "\n")


class Worker:
    """A process that makes one network after the other."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.task: Task | None = None
        with open(log, "a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )

    def begin(self, task: Task) -> None:
        """Hand over a task."""
        self.task = task
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; its end is seen where its replies are read
            self.process.stdin.write(f"{task.name}\n")

    def reply(self) -> dict[str, Any] | None:
        """What it says next; ``None`` at its end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return found

    def end(self) -> int:
        """Let it end, or make it. Returns its exit status."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.task is not None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def work_together(progress: Progress, command: Sequence[str], count: int, deadline: float | None) -> bool:
    """All tasks in ``count`` worker processes. Returns whether the time was enough."""
    workers: list[Worker] = []
    started = 0
    in_time = True
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                over = deadline is not None and time.time() > deadline - GRACE
                in_time = in_time and not over
                while in_time and (idle := next((w for w in workers if w.task is None), len(workers) < count)):
                    task = progress.next()
                    if task is None:
                        break
                    if not isinstance(idle, Worker):
                        started += 1
                        idle = Worker(command, progress.plan.runs / "logs" / f"worker-{started}.log")
                        workers.append(idle)
                        assert idle.process.stdout is not None
                        selector.register(idle.process.stdout, selectors.EVENT_READ, idle)
                    idle.begin(task)
                if not any(worker.task for worker in workers):
                    if in_time:
                        progress.give_up()
                    return in_time
                if deadline is not None and time.time() > deadline - 1:
                    return False
                for key, _ in selector.select(timeout=0.5):
                    worker: Worker = key.data
                    reply, task = worker.reply(), worker.task
                    if reply is None:
                        selector.unregister(key.fileobj)
                        workers.remove(worker)
                        status = worker.end()
                        if task is not None and not (deadline is not None and time.time() > deadline - GRACE):
                            said = f"its process ended with status {status}; see {worker.log}"
                            progress.take({"name": task.name, "error": said})
                    else:
                        worker.task = None
                        progress.take(reply)
                        in_time = in_time and len(reply) > 1
        finally:
            for worker in workers:
                worker.end()


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


def plan_of(options: argparse.Namespace) -> Plan:
    """Raises ``InputError`` if an option means nothing."""
    arms = ("joint", *(arm for arm in options.arms.split(",") if arm != "joint"))
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise InputError(f"no arm {unknown[0]!r}; expected {', '.join(ARMS)}")
    changes = dict(map(parse_change, options.set))
    return Plan(
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
    compare_report.report(plan.runs, json_path=options.json, plots=options.plots, diagnose=options.diagnose)
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
