"""What is watched of an epoch: codes that change, neurons with a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from litesnn.files import JsonLog
from litesnn.genotype import ArithmeticName
from litesnn.network_file import build_network
from litesnn.neurons import NEURONS
from litesnn.neurons.model import THRESHOLD, Neuron
from litesnn.snn.membrane import spikes_of, surrogate_slope
from litesnn.snn.population import Neurons, set_sharpness
from litesnn.train import observe
from litesnn.train.observe import Observer, count_flips, gradient_shares, membranes_of, populations_in
from litesnn.train.quantized_layers import quantized_layers
from test_fit import EDGES, fitted
from tiny import genotype, input_info, lively_network, quantized_images
from whole_job import Problem, rows


def test_flips_by_hand() -> None:
    network = build_network(genotype(edges=EDGES, bits=1, keep=1.0, levels=(0,)), input_info(), 0)
    layers = [layer for layer in quantized_layers(network) if layer.group == "cell 1"]
    (layer,) = [layer for layer in layers if layer.conv.kernel == 3]
    before = [each.codes() for each in layers]
    weight = layer.conv.weight
    assert set(count_flips(layers, before).values()) == {0.0}
    with torch.no_grad():
        weight.view(-1)[:3] *= -1
        weight.view(-1)[3:6] *= 1.01  # which changes no sign
    total = sum(each.conv.weight.numel() for each in layers)
    assert count_flips(layers, before) == {"cell 1": pytest.approx(3 / total)}
    for codes, kept in before:
        assert kept.all()
        assert codes.abs().eq(1).all()
    before[layers.index(layer)][1].view(-1)[:2] = False  # of the three, two were not kept then
    assert count_flips(layers, before) == {"cell 1": pytest.approx(1 / (total - 2))}


def test_layers_go_by_the_parts_of_the_network() -> None:
    network = build_network(genotype(edges=EDGES), input_info(), 0)
    groups = [layer.group for layer in quantized_layers(network)]
    assert list(dict.fromkeys(groups)) == ["stem", "cell 1", "cell 2", "classifier"]
    assert sum(layer.conv.weight.numel() for layer in quantized_layers(network)) == sum(
        row.weights for row in network.layers()
    )


@pytest.mark.parametrize(
    ("neuron", "arithmetic", "levels"),
    [
        (key, each, levels)
        for key, model in NEURONS.items()
        for each in model.arithmetics
        for levels in ((1, 3) if model.graded else (1,))
    ],
)
def test_membranes_are_those_of_the_spikes(neuron: str, arithmetic: ArithmeticName, levels: int) -> None:
    gene = genotype(neuron=neuron, arithmetic=arithmetic, spike_levels=levels)
    network = lively_network(gene, input_info())
    heard: dict[str, Tensor] = {}

    def listen(name: str, neurons: Neurons) -> None:
        def hear(currents: Tensor, fraction: int | None) -> None:
            heard[name] = membranes_of(neurons, currents, fraction)

        neurons.listener = hear

    for name, neurons in populations_in(network).items():
        listen(name, neurons)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        network(quantized_images((2, 6, 5), batch=4), record=record)
    assert list(heard) == list(record)
    for name, spikes in record.items():
        near = (heard[name] - heard[name].floor() - THRESHOLD).abs() < 1e-3  # where integers round otherwise
        assert torch.equal(spikes_of(heard[name], levels=levels)[~near], spikes[~near])
        assert near.float().mean() < 0.1


def test_neurons_with_a_gradient_by_hand() -> None:
    network = lively_network(genotype(timesteps=2), input_info()).train()
    x = quantized_images((2, 6, 5), batch=4)
    shares = gradient_shares(network, x)
    assert network.training
    assert list(shares) == list(populations_in(network))
    assert all(neurons.listener is None for neurons in populations_in(network).values())
    network.eval()
    seen: list[Tensor] = []
    network.backbone.stem_neurons.listener = lambda currents, _: seen.append(currents)
    with torch.no_grad():
        network(x)
    first, second = seen[0]
    after = torch.where(first > THRESHOLD, 0.0, 0.2 * first) + second
    within = ((first > 0) & (first < 1)) | ((after > 0) & (after < 1))
    assert shares["stem"] == pytest.approx(float(within.double().mean()))
    assert 0 < shares["stem"] < 1


def test_each_epoch_says_it_and_nothing_else_changes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gene = genotype(timesteps=2, edges=EDGES)
    fitted(tmp_path / "short", problem, {}, gene)
    assert [("flips" in row, "gradient_share" in row) for row in rows(tmp_path / "short" / "train.jsonl")] == [
        (True, True),
        (False, False),  # an epoch has four steps
    ]
    monkeypatch.setattr(observe, "_STEPS_BETWEEN", 1)
    fitted(tmp_path / "watched", problem, {}, gene)
    for name in ("before_step", "after_step"):
        monkeypatch.setattr(Observer, name, lambda *_: None)
    monkeypatch.setattr(Observer, "row", lambda _: {})
    fitted(tmp_path / "plain", problem, {}, gene)
    watched, plain = ((tmp_path / name / "network.safetensors").read_bytes() for name in ("watched", "plain"))
    assert watched == plain
    for row in rows(tmp_path / "watched" / "train.jsonl"):
        assert list(row["flips"]) == ["stem", "cell 1", "cell 2", "classifier"]
        assert all(0 <= share <= 1 for share in row["flips"].values())
        assert list(row["gradient_share"]) == ["stem", "cell 1 node 0", "cell 2 node 0"]
        assert all(0 < share <= 1 for share in row["gradient_share"].values())
    assert any(row["flips"]["classifier"] > 0 for row in JsonLog.read(tmp_path / "watched" / "train.jsonl"))


@pytest.mark.parametrize("neuron", ["lif", "plif", "lif-soft"])
@pytest.mark.parametrize("sharpness", [0.01, 3.0, 10.0])
def test_the_surrogate_is_as_sharp_as_it_is_told(neuron: str, sharpness: float) -> None:
    neurons = Neurons(NEURONS[neuron], 3, 0.2)
    set_sharpness(neurons, sharpness)
    currents = torch.linspace(-0.4, 1.4, 60).view(1, 20, 3).requires_grad_()
    neurons(currents).sum().backward()
    expected = surrogate_slope(currents.detach(), sharpness=sharpness)
    assert currents.grad is not None
    torch.testing.assert_close(currents.grad, expected, rtol=1e-3, atol=1e-5)
    packed: Any = neurons.packed()
    assert packed.sharpness == Neuron().sharpness  # it is no part of what is deployed


def test_a_sharper_surrogate_learns_something_else(problem: Problem, tmp_path: Path) -> None:
    gene = genotype(timesteps=1, edges=EDGES)
    for sharpness in (3.0, 1.0):
        fitted(tmp_path / str(sharpness), problem, {"train.epochs": 1, "train.surrogate_sharpness": sharpness}, gene)
    first, second = ((tmp_path / str(each) / "network.safetensors").read_bytes() for each in (3.0, 1.0))
    assert first != second
