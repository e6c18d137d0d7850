"""``litesnn compress`` with the real snnTorch and SpikingJelly: their neurons, and the examples on the digits.

Run with ``make test-interop``, which installs the libraries. Packed predictions are compared with the library's own:
its module as it was written, no layer of ours in it, with the packed file's numbers as its weights.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import litesnn as package
import whole_job
from given import INFO, Row, known, pixels, tail
from litesnn.compression.deploy import prove_equal
from litesnn.compression.graph import Graph, leaves_of
from litesnn.compression.network import SteppedNetwork, fixed_choice
from litesnn.compression.neurons import Lif, NotLif, identify, reset_states
from litesnn.compression.proof import compare_with_module
from litesnn.compression.source import allow_module
from litesnn.compression.stages import _packed
from litesnn.data.sources import load
from litesnn.deploy.packed import PackedModel, read, write
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.errors import InputError
from litesnn.runs import RunFolder
from litesnn.snn.network import InputInfo
from test_given_neurons import call_of

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("default"),  # the packages of others have warnings of their own
]

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = [word for change in ("search.epochs=5", "train.epochs=12") for word in ("--set", change)]


def below(value: float) -> float:
    """The float32 before this one: what a neuron that fires at a value fires above."""
    return float(np.nextafter(np.float32(value), np.float32(0)))


def leaky(beta: float, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import snntorch

        made: nn.Module = snntorch.Leaky(beta, init_hidden=True, **options)
        return made

    return make


def jelly(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from spikingjelly.activation_based import neuron

        made: nn.Module = getattr(neuron, name)(**options)
        return made

    return make


@pytest.mark.parametrize(
    ("make", "leak", "threshold"),
    [
        (leaky(0.9, reset_mechanism="zero"), 0.9, 1.0),
        (leaky(0.5, reset_mechanism="zero", reset_delay=False), 0.5, 1.0),
        (leaky(0.2, reset_mechanism="zero", threshold=0.5), 0.2, 0.5),
        (jelly("LIFNode"), 0.5, below(2.0)),
        (jelly("LIFNode", v_threshold=0.5), 0.5, below(1.0)),
        (jelly("LIFNode", decay_input=False), 0.5, below(1.0)),
        (jelly("LIFNode", v_reset=-0.25, v_threshold=0.75), 0.5, below(2.0)),  # counted from its rest, it is ours
        (jelly("IFNode"), 1.0, below(1.0)),
        (jelly("ParametricLIFNode"), 0.5, below(2.0)),
    ],
)
def test_neurons_that_are_ours(make: Callable[[], nn.Module], leak: float, threshold: float) -> None:
    assert identify(call_of(make())) == Lif(leak, threshold)


@pytest.mark.parametrize(
    ("make", "leak", "threshold", "reset"),
    [
        (leaky(0.9), 0.9, 1.0, 1.0),  # "subtract" is snnTorch's own default: after the leak
        (leaky(0.9, threshold=0.5), 0.9, 0.5, 0.5),
        (leaky(0.9, reset_mechanism="none"), 0.9, 1.0, 0.0),
        (jelly("LIFNode", v_reset=None), 0.5, below(2.0), 1.0),
        (jelly("LIFNode", v_reset=None, tau=4.0, v_threshold=0.5), 0.75, below(2.0), 1.5),
        (jelly("LIFNode", v_reset=None, decay_input=False), 0.5, below(1.0), 0.5),
        (jelly("IFNode", v_reset=None), 1.0, below(1.0), 1.0),
        (jelly("ParametricLIFNode", v_reset=None), 0.5, below(2.0), 1.0),
    ],
)
def test_neurons_that_are_reset_by_subtraction(
    make: Callable[[], nn.Module], leak: float, threshold: float, reset: float
) -> None:
    assert identify(call_of(make())) == Lif(leak, threshold, reset)


@pytest.mark.parametrize(
    "make",
    [
        leaky(
            0.9, reset_delay=False
        ),  # takes the threshold away twice, or gives it back, where it is passed twice over
        jelly("QIFNode"),
        jelly("EIFNode"),
    ],
)
def test_neurons_that_are_not(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(NotLif):
        identify(call_of(make()))


@torch.no_grad()
def test_snntorch_with_hidden_states_and_one_timestep_per_call(tmp_path: Path) -> None:
    torch.manual_seed(2)
    make = leaky(0.8, reset_mechanism="zero")
    found = known(Row(nn.Conv2d(1, 8, 3, padding=1), make(), nn.Conv2d(8, 8, 3, 2, 1), make(), *tail(8)), INFO)
    assert (found.own_timesteps, found.reason) == (None, None)
    net = SteppedNetwork(found, fixed_choice(found, 5, dict.fromkeys(found.searched, (2, 0.5)))).eval()
    for layer in found.layers.values():
        layer.weight.mul_(2)
    write(_packed(net), tmp_path / "model.safetensors")
    assert found.graph is not None
    proof = prove_equal(net, found.graph, read(tmp_path / "model.safetensors"), pixels(64))
    assert proof["different_spikes"] == 0
    record: dict[str, Tensor] = {}
    net(net.encode(pixels(64)), record=record)
    assert all(0 < float(spikes.mean()) < 1 for spikes in record.values())


SOFT: dict[str, list[Callable[[], nn.Module]]] = {
    "snnTorch": [leaky(0.8), leaky(0.95, threshold=0.5)],
    "snnTorch, learned": [leaky(0.8, learn_beta=True), leaky(0.6, learn_beta=True, reset_mechanism="zero")],
    "SpikingJelly": [jelly("LIFNode", v_reset=None), jelly("LIFNode", v_reset=None, v_threshold=0.5)],
    "SpikingJelly, without leak": [jelly("IFNode", v_reset=None), jelly("IFNode", v_reset=None)],
    "SpikingJelly, learned": [
        jelly("ParametricLIFNode", v_reset=None),
        jelly("ParametricLIFNode", init_tau=1.7, v_threshold=0.6),
    ],
}


@pytest.mark.parametrize("name", SOFT)
@torch.no_grad()
def test_their_soft_resets_and_learned_leaks_are_packed(name: str) -> None:
    first, second = SOFT[name]

    def build() -> nn.Module:
        torch.manual_seed(2)
        return Row(nn.Conv2d(1, 8, 3, padding=1), first(), nn.Conv2d(8, 8, 3, 2, 1), second(), *tail(8))

    found = known(build(), INFO)
    assert found.reason is None
    net = SteppedNetwork(found, fixed_choice(found, 5, dict.fromkeys(found.searched, (2, 0.5)))).eval()
    for layer in found.layers.values():
        layer.weight.mul_(2)
    assert found.graph is not None
    model = _packed(net)
    assert prove_equal(net, found.graph, model, pixels(64))["different_spikes"] == 0
    agreement = compare_with_module(build(), net, model, pixels(64))
    assert (agreement.predictions_equal, agreement.different_spikes) == (64, 0)
    record: dict[str, Tensor] = {}
    net(net.encode(pixels(64)), record=record)
    assert all(0 < float(spikes.mean()) < 1 for spikes in record.values())


def test_many_timesteps_at_once_are_refused() -> None:
    lif = jelly("LIFNode", step_mode="m")
    with pytest.raises(InputError, match=r"layers\.1 has step_mode 'm'; expected 's' everywhere"):
        known(Row(nn.Conv2d(1, 4, 3, padding=1), lif(), *tail()))


def test_spikingjellys_own_network_runs() -> None:
    from spikingjelly.activation_based.model.parametric_lif_net import MNISTNet

    info = InputInfo((1, 28, 28), "image", (100.0,), (60.0,), tuple("abcdefghij"))
    found = known(MNISTNet(2, jelly("LIFNode")), info)
    assert found.reason is not None
    assert "conv_fc.15 (VotingLayer)" in found.reason  # of spikes
    assert list(found.neurons) == [f"conv_fc.{index}" for index in (2, 6, 11, 14)]  # its dropout is none
    assert found.uncounted == []


def test_votes_of_a_linear_layer_and_leaks_that_are_learned_apart_are_packed() -> None:
    from spikingjelly.activation_based import layer

    head = [*tail()[:2], nn.Linear(4, 30), layer.VotingLayer(10)]
    votes = known(Row(nn.Conv2d(1, 4, 3, padding=1), jelly("LIFNode")(), layer.Dropout(0.5), *head))
    assert votes.reason is None
    assert votes.layers["layers.5"].weight.shape == (3, 4)
    two = [nn.Conv2d(1, 4, 3, padding=1), jelly("ParametricLIFNode")(), nn.Conv2d(4, 4, 3, padding=1)]
    learned = known(Row(*two, jelly("ParametricLIFNode", init_tau=3.0)(), *tail()))
    assert learned.reason is None
    assert learned.graph is not None
    assert [round(each.lif.leak, 5) for each in learned.graph.populations] == [0.5, 0.66667]
    assert len({each.learned for each in learned.graph.populations}) == 2


def test_recurrent_neurons_run() -> None:
    import snntorch
    from spikingjelly.activation_based import layer

    one = snntorch.RLeaky(0.5, conv2d_channels=4, kernel_size=3, init_hidden=True)
    assert known(Row(nn.Conv2d(1, 4, 3, padding=1), one, *tail())).graph is None
    two = layer.LinearRecurrentContainer(jelly("LIFNode")(), 4, 4)
    found = known(Row(nn.Conv2d(1, 4, 3, padding=1), *tail()[:2], two, nn.Linear(4, 3)))
    assert found.graph is None
    assert found.uncounted == ["layer layers.3.rc reads real numbers"]


@pytest.mark.parametrize("name", ["plain_torch", "snntorch_net", "spikingjelly_net"])
def test_packed_predictions_are_the_librarys_own(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    budget = ["--budget", "4 kB, 500 k Bit-SynOps, T <= 4"]
    options = ["--data", "digits", *budget, "--run", str(run), "--quiet", *SHORT]
    outcome = whole_job.litesnn("compress", "--model", f"{EXAMPLES / name}.py:Net", *options)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.8
    model, test = read(run / "model.safetensors"), load(RunFolder(run).recipe().data).test()
    allow_module(f"{EXAMPLES / name}.py:Net")
    network = package.Design(run, metrics).load()
    assert isinstance(network, SteppedNetwork)
    assert network.given.graph is not None
    image = torch.from_numpy(quantize_input(model.input, test.x.numpy())).float() / 32
    theirs = own_outputs(with_packed_numbers(name, model, network.given.graph), image, model.timesteps)
    trace = Reference(model).run(test.x.numpy())
    same = int((theirs.argmax(1).numpy() == trace.logits[-1].argmax(1)).sum())
    gap = float(np.abs(theirs.numpy() - trace.logits[-1]).max())
    print(f"\n{name}: {metrics['test_accuracy']:.2%}, {same}/{len(test.y)} predictions equal, logits within {gap:.2g}")
    assert same == len(test.y) == 359
    assert gap < 1e-4
    proof = prove_equal(network, network.given.graph, read(run / "model.safetensors"), test.x)
    print(f"{proof['different_spikes']} of {proof['spikes']} spikes differ")
    assert proof["different_spikes"] == 0


@torch.no_grad()
def with_packed_numbers(name: str, model: PackedModel, graph: Graph) -> nn.Module:
    """The example as its file has it, its weights and biases those of the packed file and its norms doing nothing."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: nn.Module = module.Net()
    for child in net.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eps = 0.0
    for population, packed in zip(graph.populations, model.populations, strict=True):
        if population.current is None:
            continue
        unit = population.lif.threshold / graph.lif.threshold
        (leaf, *others), synapses = leaves_of(population.current), packed.synapses[0]
        assert all(other.layer is None for other in others)
        conv = net.get_submodule(str(leaf.layer))
        assert isinstance(conv, nn.Conv2d)
        units = 32.0 if leaf.sources == (-1,) else 1.0
        scale = torch.from_numpy(synapses.scale.astype(np.float32)) * unit * units
        conv.weight.copy_(torch.from_numpy(synapses.codes).float() * scale[:, None, None, None])
        bias = nn.Parameter(torch.from_numpy(packed.bias.astype(np.float32)) * unit)
        conv.bias = bias
    head = net.get_submodule(graph.readout)
    assert isinstance(head, nn.Linear)
    scale = torch.from_numpy(model.readout.scale.astype(np.float32)) * graph.readout_pixels
    head.weight.copy_(torch.from_numpy(model.readout.codes).float() * scale[:, None])
    head.bias.copy_(torch.from_numpy(model.readout.bias.astype(np.float32)))
    return net.eval()


@torch.no_grad()
def own_outputs(net: nn.Module, image: Tensor, timesteps: int) -> Tensor:
    """The mean output [B, K] of the module's own timesteps."""
    reset_states(net)
    first: Tensor = net(image)
    steps = first if first.dim() == 3 else torch.stack([first, *(net(image) for _ in range(timesteps - 1))])
    return steps[:timesteps].mean(0)
