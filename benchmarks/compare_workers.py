"""How compare.py gets through its tasks: in this process or in several, until all are done or the time is up.

A worker process makes one network after the other, so that it loads libraries and data once. It is told the names of
tasks line by line, and answers each with a line of JSON. A task that fails is reported; the others go on. A task that
is cut off has left its checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare_arms import Bench, ComparisonPlan, Task
from litesnn.errors import LitesnnError

__all__ = ["GRACE", "Progress", "TimeUp", "serve", "time_limit", "work_alone", "work_together"]


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

    def __init__(self, plan: ComparisonPlan) -> None:
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


def serve(plan: ComparisonPlan, bench: Bench, deadline: float | None) -> None:
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
