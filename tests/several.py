"""Several processes of one job on this machine, started as ``torchrun`` would: it, not one of them, has the store.

They are forked from a server that has imported torch already, because that takes longer than most tests.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
import torch.distributed as dist

from litesnn import processes

DEADLINE = 60.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["several", "whole_job", "litesnn.design", "litesnn.console_tables", "torch._dynamo", "matplotlib.figure", "jinja2"]
)


def _child(place: dict[str, str], answers: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    answers.put((int(place["RANK"]), work(*arguments)))


class Team:
    """Processes that do the same work, each in its place."""

    def __init__(self, count: int, work: Callable[..., Any], *arguments: Any) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)  # type: ignore[attr-defined]
        self._answers = _context.Queue()
        self.members: list[BaseProcess] = []
        for rank in range(count):
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
            }
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port)}
            place |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
            member = _context.Process(target=_child, args=(place, self._answers, work, arguments), daemon=True)
            member.start()
            self.members.append(member)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send one of them a signal."""
        pid = self.members[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def answers(self) -> dict[int, Any]:
        """What the work returned in each process that lived to say so."""
        found: dict[int, Any] = {}
        until = time.monotonic() + DEADLINE
        while len(found) < len(self.members) and time.monotonic() < until:
            try:
                rank, answer = self._answers.get(timeout=0.1)
                found[rank] = answer
            except queue.Empty:
                if not any(member.is_alive() for member in self.members):
                    break
        self.end()
        return found

    def end(self) -> None:
        """Nothing is left behind."""
        for member in self.members:
            member.join(5.0)
            if member.is_alive():
                member.kill()
                member.join()


def as_one_of(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    """Let this process believe that it is one of several, as long as nothing is summed."""
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes, "rank", lambda: rank)


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work`` returns in each of ``count`` processes; all have to return."""
    found = Team(count, work, *arguments).answers()
    assert sorted(found) == list(range(count)), sorted(found)
    return [found[rank] for rank in range(count)]
