"""How often neurons fire: counted, held at a target by training, and compared between epochs."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from device_reads import no_reads
from litesnn.network_file import build_network
from litesnn.snn.cost import Meter
from litesnn.snn.network import Network
from litesnn.train import fit as module
from litesnn.train.firing import why_missed
from litesnn.train.fit import Trainee, TrainLoop, fit
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session
from test_fit import EDGES, derived, fitted, interrupted
from tiny import genotype, input_info, lively_network, quantized_images
from whole_job import Problem, recipe, rows


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_the_firing_rate_is_that_of_all_neurons(training: bool, levels: int) -> None:
    network = lively_network(genotype(spike_levels=levels), input_info()).train(training)
    x = quantized_images((2, 6, 5), batch=5)
    record: dict[str, Tensor] = {}
    meter, whole = Meter(costs=False), Meter()
    network(x, meter=meter, record=record)
    network(x, meter=whole)
    assert list(record) == list(meter.rates) == list(whole.rates)
    rate = float(meter.firing_rate().detach())
    fired = sum(float((spikes > 0).sum()) for spikes in record.values())
    assert fired > 0
    assert rate == pytest.approx(fired / sum(spikes.numel() for spikes in record.values()))
    assert meter.layers == {}
    assert float(whole.firing_rate().detach()) == rate


def test_its_gradient_reaches_every_population() -> None:
    """It is that of the mean of all spikes."""
    x = quantized_images((2, 6, 5), batch=5)
    found = []
    for metered in (True, False):
        network = lively_network(genotype(timesteps=2), input_info()).train()
        record: dict[str, Tensor] = {}
        meter = Meter(costs=False)
        network(x, meter=meter if metered else None, record=record)
        spikes = torch.cat([each.flatten() for each in record.values()])
        (meter.firing_rate() if metered else spikes.mean()).backward()  # type: ignore[no-untyped-call]
        norms = {name: p.grad for name, p in network.named_parameters() if name.endswith("norm.bias")}
        assert all(grad is not None and grad.abs().sum() > 0 for grad in norms.values())
        found.append(norms)
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 1 + 2 * 4
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-4, atol=1e-8)


def test_a_target_lowers_the_firing_rate(problem: Problem, tmp_path: Path) -> None:
    fitted(tmp_path / "free", problem, {"train.epochs": 3})
    free = rows(tmp_path / "free" / "train.jsonl")
    assert "train_firing_rate" not in free[0]
    target = 0.5 * free[-1]["firing_rate"]
    run, data, _ = derived(tmp_path / "held", problem, {"train.epochs": 3, "train.firing_rate": target})
    text = StringIO()
    fit(StageContext.of(run, data, Session(console=Console(file=text, width=400))))
    held = rows(run / "train.jsonl")
    assert held[-1]["firing_rate"] < 0.75 * free[-1]["firing_rate"]
    assert held[0]["train_firing_rate"] > held[-1]["train_firing_rate"] > 0
    best = next(row for row in reversed(held) if row["best"])
    assert (f"more than the target of {target:.1%}" in text.getvalue()) == (best["firing_rate"] > target)


def test_a_target_that_is_never_reached_changes_nothing(problem: Problem, tmp_path: Path) -> None:
    for name, changes in (("free", {}), ("roomy", {"train.firing_rate": 0.99})):
        fitted(tmp_path / name, problem, {"train.epochs": 1} | changes)
    free, roomy = ((tmp_path / name / "network.safetensors").read_bytes() for name in ("free", "roomy"))
    assert free == roomy


def test_networks_beyond_the_target_come_last(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is the target itself; what training aims at lies a little below it."""
    said = iter([(0.3, 0.9), (0.2, 0.1), (0.0999, 0.5), (0.05, 0.4), (0.101, 0.99), (0.098, 0.6)])

    def say(network: Network, *_: Any) -> dict[str, float]:
        rate, accuracy = next(said)
        measured = {"validation_loss": 1.0, "validation_accuracy": accuracy, "bit_synops": 1.0}
        return measured | {"firing_rate": rate}

    monkeypatch.setattr(module, "validate", say)
    fitted(tmp_path / "run", problem, {"train.epochs": 6, "train.firing_rate": 0.1})
    log = rows(tmp_path / "run" / "train.jsonl")
    assert [row["best"] for row in log] == [True, True, True, False, False, True]


def test_a_missed_target_is_said(problem: Problem) -> None:
    made = recipe(problem.data, {"train.firing_rate": 0.1})
    assert why_missed(recipe(problem.data), 0.9) is None
    assert why_missed(made, 0.1) is None
    assert why_missed(made, None) is None
    line = why_missed(made, 0.132)
    assert line is not None
    assert line.startswith("13.2% of the neurons fire in a timestep on validation, more than the target of 10.0%")


ALL = {
    "train.epochs": 3,
    "train.firing_rate": 0.05,
    "train.binary_optimizer": "t-bso",
    "train.surrogate_sharpness": 2.0,
    "budget": {"bit_synops": 1000.0},
}


def test_an_interrupted_training_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gene = genotype(timesteps=2, edges=EDGES, bits=1)
    fitted(tmp_path / "unbroken", problem, ALL, gene)
    run, data, session = derived(tmp_path / "broken", problem, ALL, gene)
    interrupted(run, data, session, monkeypatch, 1)
    fit(StageContext.of(run, data, session))
    assert run.output("train").read_bytes() == (tmp_path / "unbroken" / "network.safetensors").read_bytes()
    assert rows(run / "train.jsonl") == rows(tmp_path / "unbroken" / "train.jsonl")
    assert set(rows(run / "train.jsonl")[0]["multipliers"]) == {"bit_synops", "firing_rate"}


def test_no_step_reads_values_and_micro_batches_hold_it_too(problem: Problem) -> None:
    made = recipe(problem.data, ALL | {"budget": {}})
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    for parts in (1, 2):
        network = build_network(genotype(timesteps=2, edges=EDGES, bits=1), input_info((1, 8, 8)), 0)
        loop = TrainLoop(Trainee(network, made).train(), made, micro_batches=parts)
        with no_reads():
            for _ in range(2):
                found = loop.step(x, y, 0.5)
        assert 0 < float(found["train_firing_rate"]) < 1
        assert loop.multipliers["firing_rate"] > 0
