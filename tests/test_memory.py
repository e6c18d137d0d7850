from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litesnn.budget import parse_bytes
from litesnn.errors import InputError
from litesnn.search.joint import build_supernet
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate, estimate_step
from litesnn.training_loop.memory import free_bytes, plan_step, release_unused, reuse_buffers
from tiny import recipe

KEPT, RECOMPUTED = MemoryEstimate(1000, 100), MemoryEstimate(1000, 40)


def footprint(execution: Execution) -> MemoryEstimate:
    return RECOMPUTED if execution.recompute else KEPT


@pytest.mark.parametrize(
    ("limit", "recompute", "parts", "needed"),
    [
        (None, False, 1, 2200),
        (2200, False, 1, 2200),
        (2199, True, 1, 1480),
        (1480, True, 1, 1480),
        (1479, True, 2, 1240),
        (1160, True, 3, 1160),
        (1100, True, 6, 1080),  # 4 parts of 3 need 1120
    ],
)
def test_the_least_change_that_keeps_the_limit(limit: int | None, recompute: bool, parts: int, needed: int) -> None:
    plan = plan_step(footprint, [12], Execution(half=True), limit=limit, free=10_000, what="search")
    assert plan.execution == Execution(recompute=recompute, half=True)
    assert (plan.micro_batches, plan.bytes) == (parts, needed)


def test_what_cannot_be_had_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(InputError, match=r"step of the train needs about .* free: .*--memory.* train\.batch_size"):
        plan_step(footprint, [12], Execution(), limit=None, free=2199, what="train")
    with pytest.raises(InputError, match=r"--memory asks for 20000\.0 GB, but 1\.0 GB are free"):
        plan_step(footprint, [12], Execution(), limit=20_000 * 10**9, free=10**9, what="search")
    with pytest.raises(InputError, match=r"--memory allows .* at least"):
        plan_step(footprint, [12], Execution(), limit=1079, free=10_000, what="search")


@pytest.mark.parametrize(("text", "expected"), [("6 GB", 6 * 10**9), ("512MiB", 2**29), ("1.5 gb", 1_500_000_000)])
def test_sizes_with_units(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "6 apples", "six GB", "0 GB", "-1 GB", "6 G Bit-SynOps"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected bytes with a unit"):
        parse_bytes(text)


def test_batches_of_several_sizes_are_parted_alike() -> None:
    """The largest decides what is needed, the smallest how far it can be parted."""
    plan = plan_step(footprint, [4, 12], Execution(), limit=1240, free=10_000, what="search")
    assert (plan.micro_batches, plan.bytes) == (2, 1240)
    with pytest.raises(InputError, match="at least"):
        plan_step(footprint, [4, 12], Execution(), limit=1239, free=10_000, what="search")


def test_what_nobody_uses_is_given_back() -> None:
    left = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            left.append(self)

    Cycle()
    release_unused(torch.device("cpu"))
    assert len(left) == 1


def test_free_memory_is_known_and_buffers_can_be_reused_twice() -> None:
    assert free_bytes(torch.device("cpu")) > 10**7
    reuse_buffers()
    reuse_buffers()


def test_footprints_grow_with_everything_and_shrink_by_recomputing() -> None:
    def of(execution: Execution = Execution(), *, width: int = 4, timesteps: int = 3, nodes: int = 2) -> MemoryEstimate:
        supernet = build_supernet(recipe(width=width, timesteps=timesteps, nodes=nodes), (1, 8, 8), 3)
        return estimate_step(supernet.backbone, timesteps, execution, bits=3, keeps=2)

    one = of()
    assert 1.9 * one.per_image < of(timesteps=6).per_image < 2 * one.per_image  # the stem's currents are kept once
    assert of(timesteps=6).fixed == one.fixed
    assert of(width=8).per_image > one.per_image
    assert of(width=8).fixed > one.fixed
    assert of(nodes=3).per_image > one.per_image
    assert of(Execution(recompute=True)).per_image < one.per_image
    assert one.bytes_at(10) == one.fixed + 10 * one.per_image


PEAK = """
import sys, torch
from litesnn.config import load_recipe
from litesnn.data.batches import generator_for
from litesnn.training_loop.memory import reuse_buffers
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import estimate_step

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

torch.set_num_threads(1)
reuse_buffers()
batch, execution = int(sys.argv[1]), Execution(recompute=sys.argv[2] == "recompute")
recipe, frames = load_recipe(sys.argv[3]), sys.argv[3].startswith("nmnist")
shape = (2, 34, 34) if frames else (3, 32, 32)
supernet = build_supernet(recipe, shape, 10).train()
steps = supernet.timesteps
estimate = estimate_step(supernet.backbone, steps, execution, frames=frames, bits=3, keeps=3).bytes_at(batch)
loop = SearchLoop(recipe, supernet, execution=execution)
size = (batch, steps, *shape) if frames else (batch, *shape)
x, y = torch.randint(-127, 128, size).float(), torch.randint(0, 10, (batch,))
before = peak()
for _ in range(2):
    loop.architecture_step(x, y, generator_for(0, "draws"), epoch=9)
    loop.weight_step(x, y, generator_for(0, "draws"), epoch=9)
print((peak() - before) / estimate)
"""


@pytest.mark.job
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("batch", "how", "recipe"),
    [
        (64, "keep", "small"),
        (192, "recompute", "small"),
        pytest.param(48, "keep", "nmnist-s", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_what_a_step_takes(batch: int, how: str, recipe: str) -> None:
    """In a process of its own: a peak cannot be taken back."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(batch), how, recipe], capture_output=True, text=True, check=True, timeout=120
    )
    assert 0.7 < float(done.stdout) < 1.2
