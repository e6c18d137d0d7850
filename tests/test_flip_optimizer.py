"""1-bit weights that learn by flips of their signs."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.network_file import build_network
from litesnn.quantizers.midrise import MIDRISE, standard_deviation
from litesnn.snn.compconv import CompConv
from litesnn.train.fit import Trainee, TrainLoop, fit
from litesnn.train.flip_optimizer import FlipOptimizer, binary_weights
from litesnn.train.quantized_layers import quantized_layers
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session
from test_fit import EDGES, derived, fitted
from tiny import genotype, input_info, quantized_images
from whole_job import Problem, recipe


def four_weights() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.5, -0.1, 2.0, -3.0]).view(1, 4, 1, 1))


def test_weights_become_signs_of_one_size() -> None:
    weight = four_weights()
    deviation = float(standard_deviation(weight[None]).detach())
    FlipOptimizer([weight], threshold=0.1, momentum=0.5)
    assert weight.flatten().tolist() == pytest.approx([deviation, -deviation, deviation, -deviation])
    codes, unit = MIDRISE.codes(weight, 1)
    assert codes.flatten().tolist() == [1, -1, 1, -1]
    assert float(unit) == pytest.approx(0.798 * deviation)  # the signs are balanced


def step(optimizer: FlipOptimizer, weight: nn.Parameter, gradient: list[float]) -> list[float]:
    """One step for gradients by the signs; returns the signs after it."""
    unit = 0.798 * float(standard_deviation(weight[None]).detach())
    weight.grad = (torch.tensor(gradient) / unit).view_as(weight)
    optimizer.step()
    return weight.sign().flatten().tolist()


def test_flips_by_hand() -> None:
    weight = four_weights()
    optimizer = FlipOptimizer([weight], threshold=0.1, momentum=0.75)
    # M = 0.25·G; a sign flips where sign · M > 0.1
    assert step(optimizer, weight, [0.44, -0.36, -9.0, 9.0]) == [-1, -1, 1, -1]
    # M = 0.75·M + 0.25·G: 0.0825, −0.1675, …
    assert step(optimizer, weight, [0.0, -0.4, 0.0, 0.0]) == [-1, 1, 1, -1]
    assert optimizer.state[weight]["mean"].flatten()[:2].tolist() == pytest.approx([0.0825, -0.1675], rel=1e-3)


def test_thresholds_that_follow_the_gradients_by_hand() -> None:
    weight = four_weights()
    optimizer = FlipOptimizer([weight], threshold=0.5, momentum=0.75, scale_momentum=0.5)
    # v = 0.5·(0.16 + 0.04)/4 = 0.025, so the threshold is 0.5·√v = 0.0791 for M of 0.1 and 0.05
    assert step(optimizer, weight, [0.4, 0.0, 0.2, 0.0]) == [-1, -1, 1, -1]
    assert float(optimizer.state[weight]["square"]) == pytest.approx(0.025, rel=1e-3)


def test_a_weight_that_is_pruned_keeps_its_sign(problem: Problem) -> None:
    made = recipe(problem.data, {"train.binary_optimizer": "bso", "train.binary_threshold": 0.0, "budget": {}})
    made = made.changed({"train.score_lr": 1e-9})  # the same weights are kept all the time
    network = build_network(genotype(timesteps=2, edges=EDGES, bits=1, keep=0.5), input_info((1, 8, 8)), 0)
    loop = TrainLoop(Trainee(network, made).train(), made)
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    layers = [layer for layer in quantized_layers(network) if layer.bits == 1]
    before = [layer.codes() for layer in layers]
    sizes = [layer.conv.weight.detach().abs() for layer in layers]
    for _ in range(3):
        loop.step(x, y, 0.5)
    changed = 0
    for layer, (codes, kept), size in zip(layers, before, sizes, strict=True):
        now, still = layer.codes()
        assert torch.equal(kept, still)
        assert torch.equal(now[~kept], codes[~kept])
        assert torch.equal(layer.conv.weight.detach().abs(), size)
        changed += int((now != codes).sum())
    assert changed > 0


def test_other_layers_stay_with_their_optimizer(problem: Problem) -> None:
    made = recipe(problem.data, {"train.binary_optimizer": "bso"})
    gene = genotype(timesteps=2, edges=EDGES, bits=1)
    trainee = Trainee(build_network(gene, input_info((1, 8, 8)), 0), made)
    loop = TrainLoop(trainee, made)
    theirs = {id(p) for group in loop.optimizers["flips"].param_groups for p in group["params"]}
    others = {id(p) for group in loop.optimizers["weights"].param_groups for p in group["params"]}
    convs = [part for part in trainee.network.backbone.cells.modules() if isinstance(part, CompConv)]
    assert theirs == {id(conv.weight) for conv in convs} == set(map(id, binary_weights(trainee.quantized())))
    assert theirs.isdisjoint(others)
    assert theirs | others == set(map(id, trainee.weights()))
    plain = TrainLoop(trainee, recipe(problem.data))
    assert set(plain.optimizers) == {"weights", "scores"}


@pytest.mark.parametrize("name", ["bso", "t-bso"])
def test_it_teaches(problem: Problem, tmp_path: Path, name: str) -> None:
    gene = genotype(timesteps=1, edges=EDGES, width=6, bits=1, keep=1.0)
    changes = {"train.epochs": 3, "train.batch_size": 12, "train.binary_optimizer": name, "train.binary_momentum": 0.9}
    network = fitted(tmp_path / "run", problem, changes, gene)
    log = [line for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines() if '"best": true' in line]
    assert len(log) > 1
    conv = network.backbone.cell(0).connection(gene.edges[0]).conv
    assert conv is not None
    sizes = set(conv.weight.detach().abs().flatten().tolist())
    assert len(sizes) == 1


def test_what_it_cannot_take_is_refused_or_said(problem: Problem, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train\.binary_optimizer: 'bso' needs a quantizer whose gradient goes straight"
    ):
        Recipe.from_toml("[model]\nquantizer = 'learned_step'\n[train]\nbinary_optimizer = 'bso'")
    text = StringIO()
    run, data, _ = derived(tmp_path / "run", problem, {"train.binary_optimizer": "bso", "train.epochs": 1})
    fit(StageContext.of(run, data, Session(console=Console(file=text, width=400))))
    assert "train.binary_optimizer is not needed: no layer has 1-bit weights" in text.getvalue()
