"""A given module: how it is called, what its layers cost, and how the packed file says it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from given import INFO, ChargedLif, LateLif, Lif, Row, given, known, pixels, tail
from litesnn.compression.deploy import _handed, packed_model, prove_equal
from litesnn.compression.graph import Handing
from litesnn.compression.layers import CompressedLayer
from litesnn.compression.network import Given, SteppedNetwork, fixed_choice
from litesnn.compression.search import Candidates
from litesnn.config import Recipe
from litesnn.costs.size import AFFINE_BITS, packed_bits
from litesnn.deploy.packed import PackedModel, population_shapes, read, size_bound, write
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError, LitesnnError
from litesnn.front_end import EventFrames
from litesnn.snn.compconv import Compression
from litesnn.snn.cost import Axis, Meter, taps_along
from litesnn.snn.network import InputInfo
from test_given_neurons import Adaptive, Learning, Masked, Step, Tired


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


class Residual(nn.Module):
    """A sum of two convolutions and an identity, normalised in part, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.lif = conv(1, 4), nn.BatchNorm2d(4), Lif()
        self.left, self.right, self.between = conv(4, 4), conv(4, 4, 5), nn.BatchNorm2d(4)
        self.sum, self.last = Lif(threshold=0.6), Lif()
        self.joined, self.head = conv(8, 3, 1, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.lif(self.norm(self.stem(x)))
        second = self.sum(self.between(self.left(first) + self.right(first)) + first)
        third = self.last(self.joined(torch.cat([second, first], dim=1)))
        out: Tensor = self.head(third.mean(dim=(-1, -2)))
        return out


class Membrane(nn.Module):
    """Shortcuts of currents: the stem reaches three neurons of different norms and thresholds, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.lif1 = conv(1, 4), nn.BatchNorm2d(4), Lif()
        self.conv2, self.norm2, self.lif2 = conv(4, 4), nn.BatchNorm2d(4), Lif(threshold=0.6)
        self.conv3, self.norm3, self.lif3 = conv(4, 4, 5), nn.BatchNorm2d(4), Lif()
        self.joined, self.last, self.head = conv(4, 4, 1, 2), Lif(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        currents = self.shortcut(self.norm(self.stem(x)))
        first = self.lif1(currents + currents)
        currents += self.norm2(self.conv2(first))
        second = self.lif2(currents + first)
        third = self.lif3(currents + self.norm3(self.conv3(second)))
        out: Tensor = self.head(self.last(self.joined(third)).mean((2, 3)))
        return out

    def shortcut(self, currents: Tensor) -> Tensor:
        return currents


class Rectifying(Membrane):
    """Changes the currents of its shortcut once it is told to, when it has been looked at."""

    rectify = False

    def shortcut(self, currents: Tensor) -> Tensor:
        return currents.relu() if self.rectify else currents


class Loop(nn.Module):
    """All timesteps in one forward, the membrane handed on by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = conv(1, 4), Handed(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        membrane, outputs = torch.zeros(1), []
        for _ in range(4):
            spikes, membrane = self.hidden(self.conv(x), membrane)
            outputs.append(self.head(spikes.mean((2, 3))))
        return torch.stack(outputs)


class Started(Loop):
    """States that are None at first, and a neuron with its surrogate gradient in it."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.last = conv(4, 4, 3, 2), Starting()
        self.hidden = Starting()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        first = second = None
        outputs = []
        for _ in range(4):
            spikes, first = self.hidden(self.conv(x), first)
            spikes, second = self.last(self.second(spikes), state=second)
            outputs.append(self.head(spikes.mean((2, 3))))
        return torch.stack(outputs)


class Starting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.surrogate = Step()

    def forward(self, x: Tensor, state: tuple[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor]]:
        membrane = x if state is None else 0.5 * state[0] + x
        spikes = self.surrogate(membrane - 1)
        return spikes, (membrane * (1 - spikes),)


class Functional(nn.Module):
    """A neuron that is no module, with its state in the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.second, self.head = conv(1, 4), conv(4, 4), nn.Linear(4, 3)
        self.reset()

    def reset(self) -> None:
        self.states: list[Tensor | float] = [0.0, 0.0]

    def fire(self, index: int, x: Tensor) -> Tensor:
        membrane = 0.5 * self.states[index] + x
        spikes = membrane.gt(1).float()
        self.states[index] = membrane * (1 - spikes)
        return spikes

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.fire(1, self.second(self.fire(0, self.conv(x))))
        out: Tensor = self.head(spikes.mean((2, 3)))
        return out


class Forgetful(Functional):
    """Its states stay, as its reset needs to be told something."""

    def reset(self, batch: int | None = None, *more: int) -> None:
        if not hasattr(self, "states"):
            super().reset()


class Handed(nn.Module):
    def forward(self, x: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        membrane = 0.5 * membrane + x
        spikes = (membrane > 1).float()
        return spikes, membrane * (1 - spikes)


def network(found: Given, timesteps: int = 3, bits: int = 2, keep: float = 0.5) -> SteppedNetwork:
    choice = fixed_choice(found, timesteps, dict.fromkeys(found.searched, (bits, keep)))
    return SteppedNetwork(found, choice).eval()


def packed(net: SteppedNetwork) -> PackedModel:
    graph = net.given.graph
    assert graph is not None, net.given.reason
    compressions = net.compressions()
    return packed_model(graph, net.folding(), net.given.layers, compressions, net.info, net.timesteps)


class Summing(nn.Module):
    """Sums of spikes, as SEW ResNet and spiking transformers have them: before layers, a neuron, and the output."""

    def __init__(self, *, flat: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.lif = conv(1, 4), nn.BatchNorm2d(4), Lif()
        self.conv1, self.norm1, self.lif1 = conv(4, 4), nn.BatchNorm2d(4), Lif()
        self.conv2, self.norm2, self.lif2 = conv(4, 4, 3, 2), nn.BatchNorm2d(4), Lif(threshold=0.6)
        self.short, self.lif3 = conv(4, 4, 1, 2), Lif()
        self.flat, self.head = flat, nn.Linear(64 if flat else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.norm(self.stem(x)))
        x = x + self.lif1(self.norm1(self.conv1(x)))
        x = self.lif2(self.norm2(self.conv2(x))) + self.lif3(self.short(x))
        out: Tensor = self.head(x.flatten(1) if self.flat else x.flatten(2).mean(2))
        return out


class Product(nn.Module):
    """SEW ResNet's AND, or IAND, in the place of the sum."""

    def __init__(self, *, inverted: bool = False) -> None:
        super().__init__()
        self.conv, self.lif, self.conv2, self.lif2 = conv(1, 4), Lif(), conv(4, 4), Lif()
        self.inverted, self.conv3, self.lif3, self.head = inverted, conv(4, 4), Lif(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.conv(x))
        second = self.lif2(self.conv2(x))
        x = self.lif3(self.conv3(x * ((1.0 - second) if self.inverted else second)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Reordered(Row):
    """Flattens its map pixel by pixel."""

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.layers[1](self.layers[0](x))
        out: Tensor = self.layers[2](spikes.permute(0, 2, 3, 1).flatten(1))
        return out


EXPRESSIBLE: dict[str, Callable[[], nn.Module]] = {
    "strides": lambda: Row(conv(1, 4, 3, 2), nn.BatchNorm2d(4), Lif(), conv(4, 4, 5, 2), Lif(), *tail()),
    "kernel 1": lambda: Row(conv(1, 4, 1), Lif(), nn.Dropout(0.5), conv(4, 4, 7), nn.Identity(), Lif(), *tail()),
    "thresholds": lambda: Row(conv(1, 4), Lif(), conv(4, 4), Lif(threshold=0.25), *tail()),
    "max pooling": lambda: Row(conv(1, 4), Lif(), nn.MaxPool2d(2), nn.MaxPool2d(2), conv(4, 4), Lif(), *tail()),
    "max pooling of 3": lambda: Row(
        *(conv(1, 4), Lif(), nn.MaxPool2d(3, 2, 1), conv(4, 4), Lif(), nn.MaxPool2d(3, 1, 1), conv(4, 4), Lif()),
        *tail(),
    ),
    "max pooling of 4": lambda: Row(conv(1, 4), Lif(), nn.MaxPool2d(4), conv(4, 4), Lif(), *tail()),
    "averages of one pixel": lambda: Row(
        *(conv(1, 4), Lif(), nn.AdaptiveAvgPool2d(8), conv(4, 4), Lif()), nn.AvgPool2d(1), *tail()
    ),
    "sums of spikes": Summing,
    "flattened sums of spikes": lambda: Summing(flat=True),
    "flattened map": lambda: Row(
        *(conv(1, 4), nn.BatchNorm2d(4), Lif(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3))
    ),
    "flattened before a neuron": lambda: Row(
        *(conv(1, 4), Lif(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), Lif()),
        nn.Linear(12, 3),
    ),
    "hidden linear": lambda: Row(
        *(conv(1, 8), Lif(), conv(8, 24, 7, 8), Lif(), nn.Flatten(), nn.Linear(24, 32), nn.BatchNorm1d(32), Lif()),
        nn.Linear(32, 3),
    ),
    "sums": Residual,
    "membrane shortcuts": Membrane,
    "loop": Loop,
    "states of None": Started,
    "votes": lambda: Row(conv(1, 4), Lif(), *tail()[:2], nn.Linear(4, 12), Votes()),
    "a sum of votes": lambda: Row(conv(1, 4), Lif(), *tail()[:2], nn.Linear(4, 21, bias=False), Votes(7.0)),
    "dropout with a state": lambda: Row(conv(1, 4), Lif(), Masked(), conv(4, 4), Lif(), *tail()),
    "no leak": lambda: Row(conv(1, 4), Lif(1.0), *tail()),
    "soft reset": lambda: Row(conv(1, 4), Lif(soft=True), conv(4, 4), nn.BatchNorm2d(4), Lif(soft=True), *tail()),
    "soft reset after the leak": lambda: Row(conv(1, 4), LateLif(0.9), conv(4, 4), LateLif(0.9, 0.6), *tail()),
    "no reset": lambda: Row(conv(1, 4), LateLif(subtracted=0.0), conv(4, 4), LateLif(subtracted=0.0), *tail()),
    "integrate and fire": lambda: Row(conv(1, 4), Lif(1.0, soft=True), conv(4, 4), Lif(1.0, soft=True), *tail()),
    "charged": lambda: Row(conv(1, 4), ChargedLif(0.4), conv(4, 4), nn.BatchNorm2d(4), ChargedLif(0.4, 0.7), *tail()),
    "leaks": lambda: Row(conv(1, 4), Lif(), conv(4, 4), Lif(0.25), conv(4, 4), Lif(1.0), *tail()),
    "learned leaks": lambda: Row(
        *(
            conv(1, 4),
            ChargedLif(0.37, 0.4, learned=True),
            conv(4, 4),
            ChargedLif(0.731, 0.5, soft=False, learned=True),
        ),
        *(conv(4, 4), Learning(leak=torch.tensor(0.5)), *tail()),
    ),
    "hard and soft": lambda: Row(
        *(conv(1, 4), LateLif(0.8), conv(4, 4), Lif(threshold=0.7), conv(4, 4), Lif(0.3, 0.6, soft=True), *tail())
    ),
    "max pooling of soft resets": lambda: Row(
        *(conv(1, 4), Lif(soft=True), nn.MaxPool2d(2), conv(4, 4), Lif(1.0, soft=True), nn.Flatten(), nn.Linear(64, 3))
    ),
}


@torch.no_grad()
def lively(make: Callable[[], nn.Module], info: InputInfo = INFO) -> SteppedNetwork:
    """A network whose neurons fire, but not always."""
    torch.manual_seed(2)
    net = network(known(make(), info))
    for layer in net.given.layers.values():
        layer.weight.mul_(3)
    return net


@pytest.mark.parametrize("name", EXPRESSIBLE)
@torch.no_grad()
def test_the_packed_file_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    net = lively(EXPRESSIBLE[name])
    write(packed(net), tmp_path / "model.safetensors")
    assert net.given.graph is not None
    proof = prove_equal(net, net.given.graph, read(tmp_path / "model.safetensors"), pixels())
    assert proof["images"] == 16
    assert proof["different_spikes"] == 0
    record: dict[str, Tensor] = {}
    logits = net(net.encode(pixels()), record=record).logits
    assert all(0 < float(spikes.mean()) < 0.9 for spikes in record.values()), record.keys()
    assert len({tuple(row) for row in logits[-1].tolist()}) > 4  # images are told apart
    np.testing.assert_array_equal(logits.numpy(), Reference(packed(net)).run(pixels().numpy()).logits)


@torch.no_grad()
def test_votes_are_pooled_in_the_layer_and_nothing_else_changes() -> None:
    x = pixels().float()
    torch.manual_seed(0)
    plain = Row(conv(1, 4), Lif(), *tail()[:2], nn.Linear(4, 30), Votes()).eval()
    outputs = plain(x)
    pooled = known(plain)
    layer = pooled.layers["layers.4"]
    assert (tuple(layer.weight.shape), tuple(layer.bias.shape if layer.bias is not None else ())) == ((3, 4), (3,))
    for each in pooled.layers.values():
        each.prepare(Compression.fixed(1, 1.0, each.weight.device))
        each._mixed = each.weight.detach()
    plain.layers[1].reset()  # type: ignore[operator]
    torch.testing.assert_close(plain(x), outputs)
    pooled.learn()
    assert tuple(layer.weight.shape) == (3, 4)  # and not once more


@torch.no_grad()
def test_a_layer_that_reaches_several_neurons_is_packed_and_counted_for_each() -> None:
    net, meter = lively(Membrane), Meter()
    record: dict[str, Tensor] = {}
    net(net.encode(pixels()), meter=meter, record=record)
    stem, conv2 = (packed(net).populations[row].synapses for row in (0, 1))
    assert [len(population.synapses) for population in packed(net).populations] == [2, 3, 3, 1]
    np.testing.assert_array_equal(stem[0].codes, conv2[0].codes)
    assert not np.array_equal(stem[0].scale, conv2[0].scale)  # another threshold
    assert net.given.copies("stem") == 4
    assert [(int(macs), bits) for macs, bits in net.analog_macs()] == [
        (4 * 18 * 64, 2)
    ]  # 18 of 36 weights are kept; the image is read once
    mask = net.given.layers["conv2"].masks(net.compressions()["conv2"])[0]
    once = sum(float(net.given.layers["conv2"].convolve(spikes, mask).sum()) for spikes in record["lif1"]) / 16
    assert float(meter.layers["conv2"].synops.sum()) == pytest.approx(2 * once)


@pytest.mark.parametrize("make", [Membrane, EXPRESSIBLE["learned leaks"], EXPRESSIBLE["hard and soft"]])
@torch.no_grad()
def test_a_file_never_takes_more_bytes_than_the_search_expects(make: Callable[[], nn.Module]) -> None:
    net = lively(make)
    candidates = Candidates(net.given, Recipe.from_toml("[search]\nbits = [2]\nkeeps = [0.5]\ntimesteps = 3"))
    expected = (
        float(candidates.expected_bits(candidates.mixes(), packed_bits, affine=AFFINE_BITS)) / 8
        + candidates.header_bytes
    )
    assert size_bound(packed(net)) <= expected <= 1.5 * size_bound(packed(net))


def test_only_other_neurons_take_bytes_of_a_header() -> None:
    one = ChargedLif(0.37, 0.4, soft=False, learned=True)
    for alike in (
        Row(conv(1, 4), one, *tail()),
        Row(conv(1, 4), Lif(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)),
    ):
        found = known(alike)
        assert found.header_bytes - found._handed_bytes == 350 + 2 * 50
    apart = known(Row(conv(1, 4), one, nn.MaxPool2d(2), conv(4, 4), Learning(leak=torch.tensor(0.5)), *tail()))
    assert apart.header_bytes - apart._handed_bytes == 350 + 3 * 50 + 32 + 26 + 5 + 26
    soft = known(Row(conv(1, 4), Lif(soft=True), *tail()))
    assert soft.header_bytes == 350 + 2 * 50 + 32


@torch.no_grad()
def test_what_changes_shared_currents_unseen_is_noticed() -> None:
    module = Rectifying()
    net = lively(lambda: module)
    net(net.encode(pixels()))
    module.rectify = True
    with pytest.raises(LitesnnError, match="neuron lif1 gets other currents than the sum of its layers"):
        net(net.encode(pixels()))


@torch.no_grad()
def test_a_fully_connected_network_of_vectors(tmp_path: Path) -> None:
    info = InputInfo((20, 1, 1), "array", (0.0,) * 20, (1.0,) * 20, ("a", "b", "c"))
    layers = [nn.Flatten(), nn.Linear(20, 32), Lif(), nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16), Lif(0.5, 0.7)]
    net = lively(lambda: Row(*layers, nn.Linear(16, 3)), info)
    x = torch.randn(16, 20, 1, 1, generator=torch.Generator().manual_seed(0))
    write(packed(net), tmp_path / "model.safetensors")
    assert net.given.graph is not None
    proof = prove_equal(net, net.given.graph, read(tmp_path / "model.safetensors"), x)
    assert proof["different_spikes"] == 0
    record: dict[str, Tensor] = {}
    logits = net(net.encode(x), record=record).logits
    assert all(0 < float(spikes.mean()) < 0.9 for spikes in record.values())
    np.testing.assert_array_equal(logits.numpy(), Reference(packed(net)).run(x.numpy()).logits)


FRAMES = EventFrames(height=6, width=5)
EVENTS = InputInfo(FRAMES.shape, FRAMES.kind, FRAMES.mean, FRAMES.std, ("a", "b", "c"), FRAMES)


class Remembering(Row):
    """Currents of what it saw first, at every timestep: right for an image, which is always the same."""

    currents: Tensor | None = None

    def reset(self) -> None:
        self.currents = None

    def forward(self, x: Tensor) -> Tensor:
        stem, *others = self.layers
        self.currents = x = stem(x) if self.currents is None else self.currents
        for layer in others:
            x = layer(x)
        return x


@torch.no_grad()
def test_frames_are_seen_one_at_each_timestep(tmp_path: Path) -> None:
    net = lively(lambda: Row(conv(2, 4), nn.BatchNorm2d(4), Lif(), conv(4, 4), Lif(), *tail()), EVENTS)
    frames = torch.randint(0, 4, (16, 4, *FRAMES.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write(packed(net), tmp_path / "model.safetensors")
    assert net.given.graph is not None
    proof = prove_equal(net, net.given.graph, read(tmp_path / "model.safetensors"), frames)
    assert proof["different_spikes"] == 0
    logits = net(net.encode(frames)).logits
    np.testing.assert_array_equal(logits.numpy(), Reference(packed(net)).run(frames.numpy()).logits)
    assert torch.equal(net(net.encode(frames[:, :3])).logits, logits)  # T = 3: the fourth comes too late
    other = net(net.encode(frames[:, [0, 2, 1]])).logits
    assert torch.equal(other[0], logits[0])
    assert not torch.equal(other[1], logits[1])
    with pytest.raises(InputError, match="at least 3 frames"):
        net(net.encode(frames[:, :2]))


@torch.no_grad()
def test_what_a_module_remembers_of_its_first_frame_is_not_in_the_file() -> None:
    image, frames = (
        known(Remembering(conv(1, 4), Lif(), *tail())),
        known(Remembering(conv(2, 4), Lif(), *tail()), EVENTS),
    )
    assert image.graph is not None
    assert frames.reason == "layers.0 is called 1 times in 2 timesteps, not once in each"


@torch.no_grad()
def test_the_proof_fails_for_another_network(tmp_path: Path) -> None:
    net = lively(EXPRESSIBLE["strides"])
    write(packed(net), tmp_path / "model.safetensors")
    graph = net.given.graph
    assert graph is not None
    layer = net.given.layers["layers.3"]
    layer.weight.neg_()
    with pytest.raises(LitesnnError, match=r"differ in \d+ spikes of layers.4"):
        prove_equal(net, graph, read(tmp_path / "model.safetensors"), pixels())


@torch.no_grad()
def test_deployed_is_the_module_itself_with_quantized_weights() -> None:
    """Independent of all folding: plain torch layers with Q(W)∘M and batch norm as it is."""
    torch.manual_seed(3)
    found = given(conv(1, 4), nn.BatchNorm2d(4), Lif(), conv(4, 4), Lif(threshold=0.7), *tail())
    net = network(found, timesteps=4, bits=3, keep=1.0)
    ours = net(net.encode(pixels())).logits
    plain = [conv(1, 4), nn.BatchNorm2d(4), Lif(), conv(4, 4), Lif(threshold=0.7), *tail()]
    for name, target in (("layers.0", plain[0]), ("layers.3", plain[3]), ("layers.7", plain[7])):
        layer, (bits, keep) = found.layers[name], net.compressions()[name].choice()
        assert isinstance(target, nn.Conv2d | nn.Linear)
        compression = Compression.fixed(bits, keep, layer.weight.device)
        target.weight.copy_(layer.effective_weight(compression, layer.masks(compression)))
        assert layer.bias is not None
        assert target.bias is not None
        target.bias.copy_(layer.bias)
    plain[1].load_state_dict(found.net.get_submodule("layers.1").state_dict())
    model = nn.Sequential(*plain).eval()
    x = net.encode(pixels()).float() / 32
    theirs = torch.stack([model(x) for _ in range(4)]).cumsum(0) / torch.arange(1, 5)[:, None, None]
    assert (ours - theirs).abs().max() < 0.02  # scales and biases are float16
    assert torch.equal(ours[-1].argmax(1), theirs[-1].argmax(1))


def test_max_pooling_is_a_population_of_its_own() -> None:
    found = given(conv(1, 4), Lif(), nn.MaxPool2d(2), conv(4, 4), Lif(), *tail())
    model = packed(network(found))
    pool = model.populations[1]
    assert (pool.synapses[0].sources, pool.synapses[0].kernel, pool.synapses[0].stride) == ((0,), 3, 2)
    assert population_shapes(model) == ((4, 8, 8), (4, 4, 4), (4, 4, 4))
    assert np.count_nonzero(pool.synapses[0].codes) == 4 * 4


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (4, 4), (1, 1)])
def test_flattening_is_a_convolution(shape: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *shape)
    side = max(shape)
    handing = Handing(0, 2 * side - 1, side, window=1, first=side - 1, flattens=shape)
    scale = torch.ones(x[0].numel(), dtype=torch.float64)
    codes = _handed(handing, scale).codes
    assert codes is not None
    assert torch.equal(nn.functional.conv2d(x, codes, None, side, side - 1).flatten(1), x.flatten(1))


@torch.no_grad()
def test_a_layer_of_summed_spikes_has_its_weights_once_for_each() -> None:
    net = lively(Summing)
    model = packed(net)
    conv2, plain = (
        next(each for each in model.populations[row].synapses if each.sources == sources)
        for row, sources in ((2, (0, 1)), (1, (0,)))
    )
    assert conv2.codes.shape == (4, 8, 3, 3)
    assert plain.codes.shape == (4, 4, 3, 3)
    np.testing.assert_array_equal(conv2.codes[:, :4], conv2.codes[:, 4:])
    assert model.readout.sources == (2, 3)
    assert (net.given.copies("conv2"), net.given.weight_copies("conv2"), net.given.weight_copies("head")) == (1, 2, 2)
    record: dict[str, Tensor] = {}
    meter = Meter()
    net(net.encode(pixels()), meter=meter, record=record)
    spikes = sum(float(record[name].sum()) for name in ("lif2", "lif3")) / 16
    assert float(meter.layers["head"].synops.sum()) == pytest.approx(3 * spikes)


@pytest.mark.parametrize("make", [Product, lambda: Product(inverted=True)])
def test_products_of_spikes_are_spikes_that_are_counted(make: Callable[[], nn.Module]) -> None:
    assert known(make()).uncounted == []


class Twice(Row):
    def forward(self, x: Tensor) -> Tensor:
        spikes = self.layers[1](self.layers[0](x))
        out: Tensor = self.layers[5](self.layers[3](self.layers[2](self.layers[2](spikes))).mean((2, 3)))
        return out


class Delayed(Row):
    """Reads spikes a timestep later."""

    before: Tensor | None = None

    def reset(self) -> None:
        self.before = None

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.layers[1](self.layers[0](x))
        late, self.before = (spikes if self.before is None else self.before), spikes
        out: Tensor = self.layers[2](late.mean((2, 3)))
        return out


class Votes(nn.Module):
    """As SpikingJelly's VotingLayer."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.times * nn.functional.avg_pool1d(x[:, None], x.shape[1] // 3)[:, 0]
        return pooled


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a state besides the membrane": (
        lambda: Row(conv(1, 4), Tired(), *tail()),
        r"neuron layers.1 \(test_given_neurons.Tired\) is no neuron of the packed file, a LIF that resets to zero",
    ),
    "thresholds that grow": (
        lambda: Row(conv(1, 4), Adaptive(), *tail()),
        "layers.1 .* is no neuron of the packed file",
    ),
    "a leak for each channel": (
        lambda: Row(conv(1, 4), Learning(leak=torch.full((4, 1, 1), 0.5)), *tail()),
        r"neuron layers.1 .*: as it learns, its neurons have different leaks",
    ),
    "functions": (Functional, "head reads spikes that the operation gt makes; a neuron is recognised if it is a mod"),
    "step function": (lambda: Row(conv(1, 4), Step(), *tail()), "every current above 0 makes it fire"),
    "own activation": (lambda: Row(conv(1, 4), Square(), Lif(), *tail()), r"layers.2 reads layers.1 \(Square\)"),
    "own end": (lambda: Row(conv(1, 4), Lif(), *tail(), Square()), r"made by layers.5 \(Square\)"),
    "products of spikes": (Product, "conv3 reads a product of spikes"),
    "inverted products": (lambda: Product(inverted=True), "conv3 reads a product of spikes"),
    "votes of neurons": (
        lambda: Row(conv(1, 4), Lif(), *tail()[:2], nn.Linear(4, 12), Lif(), Votes()),
        r"made by layers.6 \(Votes\)",
    ),
    "no padding": (lambda: Row(nn.Conv2d(1, 4, 3), Lif(), *tail()), "layer layers.0 has padding = 0"),
    "groups": (
        lambda: Row(conv(1, 4), Lif(), nn.Conv2d(4, 4, 3, padding=1, groups=4), Lif(), *tail()),
        "layer layers.2 has groups = 4",
    ),
    "dilation": (lambda: Row(nn.Conv2d(1, 4, 3, padding=1, dilation=2), Lif(), *tail()), "dilation"),
    "oblong": (lambda: Row(nn.Conv2d(1, 4, (3, 5), padding=(1, 2)), Lif(), *tail()), "square"),
    "kernel of 33": (lambda: Row(conv(1, 4, 33), Lif(), *tail()), "kernels to 31"),
    "stride of 65": (lambda: Row(conv(1, 4, 3, 65), Lif(), *tail()), "strides to 64"),
    "even": (lambda: Row(nn.Conv2d(1, 4, 2, padding=1), Lif(), *tail()), "a kernel of 2"),
    "border": (lambda: Row(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), Lif(), *tail()), "padding_mode"),
    "average": (lambda: Row(conv(1, 4), Lif(), nn.AvgPool2d(2), conv(4, 4), Lif(), *tail()), "layers.3 reads layers.2"),
    "max of 3": (
        lambda: Row(conv(1, 4), Lif(), nn.MaxPool2d(3, 2), conv(4, 4), Lif(), *tail()),
        "by 3 in steps of 2 a padding",
    ),
    "max of currents": (lambda: Row(conv(1, 4), nn.MaxPool2d(2), Lif(), *tail()), "neuron layers.2 reads layers.1"),
    "flatten": (lambda: Reordered(conv(1, 4), Lif(), nn.Linear(256, 3)), "layers.2 reads the operation permute"),
    "spiking output": (lambda: Row(conv(1, 4), Lif(), *tail(), Lif()), "output is that of the neuron layers.5"),
    "norm first": (lambda: Row(nn.BatchNorm2d(1), conv(1, 4), Lif(), *tail()), "layers.1 reads layers.0"),
    "rectifier": (lambda: Row(conv(1, 4), nn.ReLU(), Lif(), *tail()), "neuron layers.2 reads layers.1"),
    "shared": (lambda: Twice(conv(1, 4), Lif(), conv(4, 4), Lif(), nn.Identity(), nn.Linear(4, 3)), "layers.2"),
    "recurrence": (lambda: Delayed(conv(1, 4), Lif(), nn.Linear(4, 3)), "a timestep later"),
}


@pytest.mark.parametrize("name", REFUSED)
@torch.no_grad()
def test_what_has_no_words_in_the_file_is_named_and_runs_all_the_same(name: str) -> None:
    make, why = REFUSED[name]
    found = known(make())
    assert found.graph is None
    assert found.reason is not None
    assert "\n" not in found.reason
    assert re.search(why, found.reason), found.reason
    net, meter = network(found), Meter()
    logits = net(net.encode(pixels()), meter=meter).logits
    assert logits.shape == (3, 16, 3)
    assert bool(logits.isfinite().all())
    assert meter.layers


# --- costs ---


def test_taps_of_a_convolution_that_is_not_square() -> None:
    """By hand: a kernel of 1 × 2 with dilation 2 and no padding on a row of five reads 0…2 and 2…4."""
    spikes = torch.tensor([[[[1.0, 0.0, 1.0, 1.0, 0.0]]]])
    taps = taps_along(spikes, Axis(1, 1, 0, 0), Axis(2, 1, 0, 0, dilation=2))
    assert taps.tolist() == [[[[2.0, 2.0]]]]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 2, padding="same"),
        nn.Conv2d(4, 6, 3, padding="valid", stride=3),
    ],
)
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using padding")
def test_synops_count_the_weights_that_each_spike_reaches(layer: nn.Conv2d) -> None:
    """The oracle: a convolution of spikes with the mask counts them, border by border."""
    generator = torch.Generator().manual_seed(0)
    ours = CompressedLayer(layer)
    ours.reads = "spikes"
    spikes = (torch.rand(3, 5, 4, 7, 6, generator=generator) < 0.3).float()  # [T, B, C, H, W]
    ours.prepare(Compression.fixed(2, 0.4, ours.weight.device))
    ours.listen(on=True)
    for step in spikes:
        ours(step)
    used, bit_used, whole = ours.used(1, 3)
    mask = ours.masks(Compression.fixed(2, 0.4, ours.weight.device))[0]
    expected = torch.stack([ours.convolve(step, mask).sum() / 5 for step in spikes])
    torch.testing.assert_close(used, expected)
    torch.testing.assert_close(bit_used, 2 * expected)
    everything = torch.stack([ours.convolve(step, torch.ones_like(mask)).sum() / 5 for step in spikes])
    torch.testing.assert_close(whole, everything)


@torch.no_grad()
def test_costs_are_those_of_the_spikes() -> None:
    torch.manual_seed(0)
    found = given(conv(1, 4), Lif(), nn.MaxPool2d(2), conv(4, 4), Lif(), *tail())
    net, meter = network(found, timesteps=2, bits=2, keep=1.0), Meter()
    record: dict[str, Tensor] = {}
    net(net.encode(pixels()), meter=meter, record=record)
    layers = {name: float(layer.synops.sum()) for name, layer in meter.layers.items()}
    assert set(layers) == {"layers.3", "layers.7", "max pool of layers.1"}  # the first layer's input is analog
    assert layers["layers.7"] == pytest.approx(3 * float(record["layers.4"].sum()) / 16)
    assert layers["max pool of layers.1"] == pytest.approx(float(record["layers.1"].sum()) / 16)
    bits = {name: float(layer.bit_synops.sum()) for name, layer in meter.layers.items()}
    assert bits["layers.3"] == pytest.approx(2 * layers["layers.3"])
    assert bits["layers.7"] == pytest.approx(4 * layers["layers.7"])
    assert [(int(macs), bits) for macs, bits in net.analog_macs()] == [(4 * 9 * 64, 2)]


@torch.no_grad()
def test_spikes_of_a_function_are_counted_like_those_of_a_neuron() -> None:
    torch.manual_seed(0)
    found = known(Functional())
    same = given(conv(1, 4), Lif(), conv(4, 4), Lif(), *tail())
    for theirs, ours in zip(same.net.parameters(), found.net.parameters(), strict=True):
        ours.copy_(3 * theirs.copy_(3 * theirs) / 3)
    meters = Meter(), Meter()
    x = pixels().float() - 128
    for net, meter in zip((found, same), meters, strict=True):
        network(net).train()(x, meter=meter)  # not as it is deployed, which the one of functions cannot be
    assert found.uncounted == []
    assert found.neurons == {}
    assert float(meters[0].bit_synops().sum()) > 0
    assert meters[0].bit_synops().tolist() == meters[1].bit_synops().tolist()


@torch.no_grad()
def test_what_is_not_counted_is_known() -> None:
    def uncounted(*layers: nn.Module) -> list[str]:
        return given(*layers).uncounted

    assert uncounted(conv(1, 4), Lif(), conv(4, 4), Lif(), *tail()) == []
    assert uncounted(nn.BatchNorm2d(1), nn.AvgPool2d(2), conv(1, 4), Lif(), *tail()) == []  # of the image alone
    assert uncounted(conv(1, 4), nn.ReLU(), conv(4, 4), Lif(), *tail()) == ["layer layers.2 reads real numbers"]
    transposed = uncounted(conv(1, 4), Lif(), nn.ConvTranspose2d(4, 4, 2), Lif(), *tail())
    assert transposed == ["layers.2.weight is no weight of a Conv2d or Linear"]
    nothing = given(conv(1, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), *tail())
    net, meter = network(nothing), Meter()
    net(net.encode(pixels()), meter=meter)
    assert meter.bit_synops().tolist() == [0.0, 0.0, 0.0]


@torch.no_grad()
def test_dropout_with_a_state_is_no_neuron() -> None:
    assert list(given(conv(1, 4), Lif(), Masked(), *tail()).neurons) == ["layers.1"]


# --- how it is called ---


class Silent(Row):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3)


class Summed(Row):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(Summed, self).forward(x) for _ in range(3)]).sum(0)


class SummedFunctional(Functional):
    """A loop over timesteps inside, its neurons functions, that gives the mean."""

    def forward(self, x: Tensor) -> Tensor:
        self.reset()
        return torch.stack([super(SummedFunctional, self).forward(x) for _ in range(3)]).mean(0)


class Unreset(nn.Module):
    """A membrane that nothing puts back."""

    membrane: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.membrane = 0.5 * self.membrane + x
        return (self.membrane > 1).float()


class Asked(Unreset):
    def reset(self, batch: int) -> None:
        self.membrane = torch.zeros(batch, 1, 1, 1)


class Otherwise(Unreset):
    """Put back under another name."""

    def n_reset(self) -> None:
        self.membrane = 0.0


class Multi(nn.Conv2d):
    """A layer that wants all timesteps at once."""

    step_mode = "m"

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 5:
            raise ValueError("expected [T, B, C, H, W]")
        out = super().forward(input.flatten(0, 1))
        return out.view(*input.shape[:2], *out.shape[1:])


class Choosing(Row):
    """Asks what its layers are."""

    def forward(self, x: Tensor) -> Tensor:
        made = {number: layer(x) for number, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)}
        out: Tensor = self.layers[1](made[0]).mean((2, 3))[:, :3]
        return out


class Scaled(Row):
    """Keeps a number with a layer."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.layers[0].gain = 2.0  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * float(self.layers[0].gain) / 2.0)  # type: ignore[arg-type]


class Listed(Row):
    """Keeps its layers in a list and a dictionary as well, and calls those."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.kept = {"layers": [(layer, None) for layer in self.layers]}

    def forward(self, x: Tensor) -> Tensor:
        for layer, _ in self.kept["layers"]:
            x = layer(x)
        return x


class Reshaping(Row):
    """Changes the shape of its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze_(1).squeeze(1))


class ReshapingLoop(Loop):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze_(1).squeeze(1))


class Picky(Row):
    """Fails on large inputs."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().max()) > 20:
            raise ValueError("too large")
        return super().forward(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Row(conv(1, 4), Otherwise(), *tail()),
        lambda: Scaled(conv(1, 4), Lif(), *tail()),
        lambda: Listed(conv(1, 4), Lif(), *tail()),
        lambda: Reshaping(conv(1, 4), Lif(), *tail()),
        ReshapingLoop,
    ],
)
@torch.no_grad()
def test_what_modules_may_do(make: Callable[[], nn.Module]) -> None:
    net = network(known(make()))
    assert net(net.encode(pixels())).logits.shape == (3, 16, 3)


class Broken(Unreset):
    def reset(self) -> None:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Row(nn.Flatten(), nn.Linear(64, 3)), "has no convolution .* inputs of 1×1 pixels, and these have 8×8"),
        (Row(nn.Flatten()), "has no convolution"),
        (Row(conv(3, 4), Lif(), *tail()), "forward fails on a batch of 1×8×8: RuntimeError"),
        (Row(conv(1, 4), Lif(), *tail()[:2]), r"makes \[2, 4\] of 2 inputs; expected \[2, 3\]"),
        (Silent(conv(1, 4), Lif(), *tail()), "does not call the layers layers.0, layers.4"),
        (Summed(conv(1, 4), Lif(), *tail()), "calls neuron layers.1 3 times and gives one output"),
        (SummedFunctional(), "calls every layer 3 times and gives one output"),
        (Row(conv(1, 4), Asked(), *tail()), r"has no reset\(\) or reset_mem\(\) without arguments, but reset\(batch\)"),
        (Forgetful(), "keeps a state that no reset"),
        (
            Row(Multi(1, 4, 3), Lif(), *tail()),
            r"layers.0 has step_mode 'm'; expected 's' everywhere, as functional.set",
        ),
        (Choosing(conv(1, 4), Lif(), nn.Linear(4, 3)), r"KeyError: 0; it runs with torch's own layers, so it asks"),
        (Picky(conv(1, 4), Lif(), *tail()), "forward fails on a batch of 1×8×8: ValueError: too large"),
        (Row(conv(1, 4), Broken(), *tail()), "its reset fails: ValueError: no"),
        (Row(conv(1, 4), Unreset(), *tail()), r"layers.1 \(Unreset\) has no reset\(\)"),
    ],
)
def test_modules_that_are_called_in_no_known_way(module: nn.Module, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        known(module)
    assert str(caught.value).startswith("net.py: class Net")
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_loop_and_a_step_are_the_same_network() -> None:
    torch.manual_seed(0)
    loop = known(Loop())
    step = given(conv(1, 4), Lif(), *tail())
    step.net.load_state_dict(
        {
            name: loop.net.state_dict()[theirs]
            for name, theirs in zip(step.net.state_dict(), loop.net.state_dict(), strict=True)
        }
    )
    assert (loop.own_timesteps, step.own_timesteps) == (4, None)
    meters = Meter(), Meter()
    x = pixels().float() - 128
    ours, theirs = (network(row)(x, meter=meter).logits for row, meter in zip((loop, step), meters, strict=True))
    assert torch.equal(ours, theirs)
    assert meters[0].bit_synops().tolist() == meters[1].bit_synops().tolist()


class Shared(Loop):
    """One neuron, with no state of its own, behind two layers of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.head = conv(4, 2, 3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second, outputs = torch.zeros(1), torch.zeros(1), []
        for _ in range(4):
            spikes, first = self.hidden(self.conv(x), first)
            spikes, second = self.hidden(self.second(spikes), second)
            outputs.append(self.head(spikes.mean((2, 3))))
        return torch.stack(outputs)


@torch.no_grad()
def test_a_shared_neuron_fires_for_all_that_it_is_called_for() -> None:
    torch.manual_seed(0)
    found = known(Shared())
    net, meter = network(found, timesteps=3), Meter()
    x = pixels().float() - 128
    net(x, meter=meter)
    fired: list[Tensor] = []
    found.neurons["hidden"].register_forward_hook(lambda _, __, output: fired.append(output[0].flatten(1)))
    net(x)
    each = [torch.cat(fired[step : step + 2], 1).mean() for step in (0, 2, 4)]
    assert len(fired) == 8  # of the four timesteps that it makes, three are taken
    torch.testing.assert_close(meter.rates["hidden"], torch.stack(each))


class Batched(Loop):
    """The second layer gets all timesteps as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.second = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        membrane, rows = torch.zeros(1), []
        for _ in range(4):
            spikes, membrane = self.hidden(self.conv(x), membrane)
            rows.append(spikes)
        out: Tensor = self.head(self.second(torch.cat(rows, 0)).mean((2, 3))).unflatten(0, (4, len(x)))
        return out


def test_a_layer_that_is_not_called_at_every_timestep_is_refused() -> None:
    with pytest.raises(InputError, match="layer second, which reads spikes, once for 4 timesteps"):
        known(Batched())


def test_parameters_that_no_file_can_hold_count_as_floats() -> None:
    plain = network(given(conv(1, 4), Lif(), *tail()))
    more = network(given(conv(1, 4), nn.ConvTranspose2d(4, 4, 2), Lif(), *tail()))
    assert more.estimated_bytes() == plain.estimated_bytes() + 4 * (4 * 4 * 2 * 2 + 4)


def test_gradients_reach_weights_scores_and_shares() -> None:
    class Soft(Lif):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x)  # any gradient will do

    recipe = Recipe.from_toml("[search]\nbits = [1, 2]\nkeeps = [0.5, 1.0]\ntimesteps = 2")
    candidates = Candidates(given(conv(1, 4), Soft(), conv(4, 4), Soft(), *tail()), recipe)
    mixes = candidates.mixes()
    out = candidates(pixels().float() - 128, mixes).logits
    (out.square().mean() + candidates.expected_bits(mixes, packed_bits, affine=AFFINE_BITS) / 1e5).backward()
    for name, parameter in candidates.named_parameters():
        if name not in ("psi", "given.net.layers.6.scores"):  # ψ weighs losses; the last layer is not pruned
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name
