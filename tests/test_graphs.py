"""Recorded steps: what is replayed when, with a pretended recorder; and on a GPU, that replaying changes no number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from litesnn.config import Recipe
from litesnn.data.batches import generator_for
from litesnn.network_file import build_network
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn.execution import Execution
from litesnn.snn.supernet import Supernet
from litesnn.train.fit import Trainee, TrainLoop
from litesnn.training_loop.graphs import optimizer_options, recordable, recorded, set_lr
from tiny import genotype, input_info, quantized_images

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_steps_are_recorded_on_a_gpu_alone() -> None:
    assert recordable(GPU, Execution())
    assert not recordable(GPU, Execution(graphs=False))
    assert not recordable(CPU, Execution())
    step = dict
    assert recorded(step, CPU, Execution()) is step
    assert optimizer_options(CPU, Execution(), 0.1, adam=True) == {"lr": 0.1, "fused": True}


class PretendedGraph:
    """Replays by calling the step again on the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[PretendedGraph]:
    made: list[PretendedGraph] = []

    def graph() -> PretendedGraph:
        made.append(PretendedGraph())
        return made[-1]

    @contextmanager
    def record(_graph: PretendedGraph, *, stream: object) -> Iterator[None]:
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return made


def test_the_fourth_step_is_recorded_and_later_ones_are_replayed_on_its_tensors(graphs: list[PretendedGraph]) -> None:
    seen: list[Tensor] = []

    def step(x: Tensor) -> Mapping[str, Tensor]:
        seen.append(x)
        return {"sum": x.sum()}

    run = recorded(step, GPU, Execution())
    for value in range(3):
        assert run(torch.full((2,), float(value)))["sum"] == 2 * value
    assert not graphs
    run(torch.full((2,), 3.0))
    recorded_input = seen[-1]
    assert len(seen) == 4
    assert graphs[0].replays == 1
    run(torch.full((2,), 4.0))
    assert len(seen) == 4  # nothing was computed but by the graph
    assert graphs[0].replays == 2
    assert recorded_input.tolist() == [4, 4]  # which reads the new batch there
    assert run(torch.full((3,), 5.0))["sum"] == 15  # the last batch of an epoch may be smaller: it is computed plainly
    assert len(graphs) == 1
    assert graphs[0].replays == 2


def search_loop(device: torch.device, execution: Execution) -> SearchLoop[Supernet]:
    model = {"width": 4, "levels": [0, 1], "stem_channels": 4}
    recipe = Recipe.model_validate(
        {"version": 1, "name": "small", "data": {"source": "arrays"}, "model": model, "search": {"update": "joint"}}
    )
    supernet = build_supernet(recipe, (2, 8, 8), 3).to(device).train()
    return SearchLoop(recipe, supernet, execution=execution)


def batch(device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, 3, (4,), generator=torch.Generator().manual_seed(seed))
    return quantized_images((2, 8, 8), 4, seed).to(device), y.to(device)


def searched(device: torch.device, execution: Execution) -> dict[str, Tensor]:
    loop, draws = search_loop(device, execution), generator_for(0, "draws")
    for seed in range(6):
        set_lr(loop.optimizers["weights"], 0.1 / (1 + seed))
        loop.joint_step(*batch(device, seed), draws, epoch=10)
    return {name: value.cpu() for name, value in loop.supernet.state_dict().items()}


def trained(device: torch.device, execution: Execution) -> dict[str, Tensor]:
    recipe = search_loop(CPU, execution).recipe
    network = build_network(genotype(), input_info((2, 8, 8)), seed=0)
    loop = TrainLoop(Trainee(network, recipe).to(device).train(), recipe, execution=execution)
    for seed in range(6):
        loop.step(*batch(device, seed), seed / 6)
    return {name: value.cpu() for name, value in network.state_dict().items()}


@needs_gpu
@pytest.mark.parametrize("stage", [searched, trained])
def test_replayed_steps_change_no_bit(stage: Callable[[torch.device, Execution], dict[str, Tensor]]) -> None:
    replayed, plain = stage(GPU, Execution()), stage(GPU, Execution(graphs=False))
    assert all(torch.equal(replayed[name], plain[name]) for name in plain)


@needs_gpu
@pytest.mark.parametrize("stage", [searched, trained])
def test_a_gpu_goes_the_way_of_the_cpu(stage: Callable[[torch.device, Execution], dict[str, Tensor]]) -> None:
    """For some steps, until roundings have made a neuron fire that did not."""
    gpu, cpu = stage(GPU, Execution()), stage(CPU, Execution())
    for name, value in cpu.items():
        if value.is_floating_point():
            torch.testing.assert_close(gpu[name], value, rtol=0.05, atol=0.02, msg=name)
