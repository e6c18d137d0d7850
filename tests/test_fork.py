"""Engines and the training kernels' threads in processes that fork, as multiprocessing does by default on Linux."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import packed_models
from litesnn import Engine, Reference
from litesnn.snn import native_library

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SECONDS = 20


def in_child(work: Callable[[], bool]) -> None:
    """Fork; the child has to end its work, with True, in time."""
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            ended = 0 if work() else 2
        finally:
            os._exit(ended)
    deadline = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)


def an_engine(threads: int) -> tuple[Engine, Callable[[], bool]]:
    """An engine that has run, and whether it computes what is right."""
    rng = np.random.default_rng(0)
    model = packed_models.cell_model(rng, width=17)
    x = packed_models.random_input(rng, model.input, 9)
    right, engine = Reference(model).run(x).logits, Engine(model, threads=threads)

    def works() -> bool:
        return bool(np.array_equal(engine.run(x).logits, right))

    assert works()
    return engine, works


@pytest.mark.parametrize("threads", [1, 3])
def test_an_engine_works_in_a_child_and_goes_on_in_its_parent(threads: int) -> None:
    _, works = an_engine(threads)
    in_child(lambda: works() and works())
    assert works()


def test_an_engine_works_in_a_child_of_a_child() -> None:
    _, works = an_engine(3)

    def work() -> bool:
        in_child(works)
        ended = works()
        in_child(works)
        return ended

    in_child(work)
    assert works()


def test_an_engine_can_be_freed_in_a_child() -> None:
    engines = [an_engine(3)[0]]

    def work() -> bool:
        engines.clear()
        return True

    in_child(work)
    assert engines[0].predict(np.zeros((1, *engines[0].model.input.shape), np.uint8)).shape == (1,)


def test_an_engine_that_a_thread_runs_works_in_a_child() -> None:
    """The child gets it between two runs, with its lock free."""
    _, works = an_engine(2)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            works()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            in_child(works)
    finally:
        stop.set()
        thread.join()


def test_the_pool_of_the_training_kernels_works_in_a_child() -> None:
    """A pool of their own threads, as where OpenMP's cannot be used."""
    library = native_library.library()
    team = library.lsnn_training_start(3, None)
    z = torch.arange(2**18, dtype=torch.float32).reshape(-1, 4) % 7

    def works() -> bool:
        mean, variance = torch.empty(4), torch.empty(4)
        scratch = torch.empty(3, 2, 4, dtype=torch.float64)
        arguments = [*map(native_library.address, (scratch, mean, variance))]
        library.lsnn_moments_f(team, *z.shape, native_library.as_maps([z]), *arguments)
        return bool(np.allclose(mean.numpy(), z.double().numpy().mean(axis=0)))

    assert works()
    in_child(lambda: works() and works())
    assert works()
    in_child(lambda: library.lsnn_training_stop(team) is None)
    library.lsnn_training_stop(team)
