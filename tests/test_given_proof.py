"""A packed file is what the user's module computes by its own forward; what cannot be is known before the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from given import INFO, Lif, Row, known, pixels, tail
from litesnn.compression import deploy, norms
from litesnn.compression.network import Given, SteppedNetwork, fixed_choice
from litesnn.compression.norms import NotAffine, affine_of, require_affine
from litesnn.compression.proof import compare_with_module, rehearse
from litesnn.errors import InputError, LitesnnError
from litesnn.snn.network import InputInfo
from test_given_network import EVENTS, EXPRESSIBLE, conv, lively, network, packed


class Halved(nn.BatchNorm2d):
    """Threshold-dependent batch norm: everything but the bias times a constant."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias[:, None, None]
        out: Tensor = 0.5 * (super().forward(x) - bias) + bias
        return out


class Rectified(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Centred(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=(2, 3), keepdim=True))


def tried(build: Callable[[], nn.Module], timesteps: int = 3, info: InputInfo = INFO) -> str | None:
    return rehearse(build, info, origin="net.py: class Net", io_bits=4, timesteps=timesteps)


def between(change: Callable[[Tensor], Tensor], norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """A row with something between its first norm and its first neuron."""

    class Between(Row):
        def forward(self, x: Tensor) -> Tensor:
            first, after, *others = self.layers
            x = change(after(first(x)))
            for layer in others:
                x = layer(x)
            return x

    return Between(conv(1, 4), norm(4), Lif(), conv(4, 4), nn.BatchNorm2d(4), Lif(threshold=0.7), *tail())


# --- norms ---


@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm, Halved])
@pytest.mark.parametrize("missing", [None, "weight", "bias"])
@torch.no_grad()
def test_a_norm_is_folded_as_what_it_does(make: type[nn.modules.batchnorm._BatchNorm], missing: str | None) -> None:
    torch.manual_seed(0)
    norm = make(5)
    for values in (norm.weight, norm.bias, norm.running_mean):
        assert values is not None
        values.normal_()
    assert norm.running_var is not None
    norm.running_var.uniform_(0.2, 2.0)
    if missing is not None and make is not Halved:
        setattr(norm, missing, None)
    require_affine(norm)
    affine = affine_of(norm)
    assert norm.training
    x = 3 * torch.randn(4, 5) if make is nn.BatchNorm1d else 3 * torch.randn(4, 5, 3, 3)
    along = (-1, *[1] * (x.dim() - 2))
    expected = affine.gain.view(along) * x.double() + affine.offset.view(along)
    torch.testing.assert_close(norm.eval()(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Rectified, Centred])
def test_a_norm_that_does_more_is_refused_by_name(make: type[nn.BatchNorm2d]) -> None:
    with pytest.raises(NotAffine, match="does more than scale and shift"):
        require_affine(make(4))
    reason = known(Row(conv(1, 4), make(4), Lif(), *tail())).reason
    assert reason is not None
    assert reason.startswith(f"norm layers.1 ({make.__name__}) cannot be folded: ")


class EachStep(nn.Module):
    """One norm for each timestep."""

    def __init__(self, *, bias: bool = True, once: bool = False) -> None:
        super().__init__()
        self.conv, self.lif, self.head, self.once = conv(1, 4), Lif(), nn.Linear(4, 3), once
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))
        if not bias:
            for norm in self.norms:
                norm.register_parameter("bias", None)
        self.reset()

    def reset(self) -> None:
        self.step, self.currents = 0, None

    def forward(self, x: Tensor) -> Tensor:
        if self.currents is None or not self.once:
            self.currents = self.conv(x)
        step, self.step = self.step, self.step + 1
        out: Tensor = self.head(self.lif(self.norms[step](self.currents)).mean((2, 3)))
        return out


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_for_each_timestep_is_refused(bias: bool) -> None:
    reason = tried(lambda: EachStep(bias=bias))
    assert reason is not None
    assert "norm norms.1 is called 1 times in 2 timesteps, not once in each" in reason
    reason = tried(lambda: EachStep(bias=bias, once=True))
    assert reason is not None
    assert "neuron lif" in reason
    with pytest.raises(InputError, match="its forward fails in 5 timesteps: IndexError"):
        tried(EachStep, timesteps=5)


# --- changes in place ---


def _indexed(x: Tensor) -> Tensor:
    x[:, 0] = 0.0
    return x


def _view(x: Tensor) -> Tensor:
    x[:, :2].mul_(2.0)
    return x


def _out(x: Tensor) -> Tensor:
    torch.mul(x, 2.0, out=x)
    return x


def _data(x: Tensor) -> Tensor:
    x.data.mul_(1.5)
    return x


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (nn.ReLU(inplace=True), "lif reads relu"),
        (lambda x: F.relu(x, inplace=True), "reads the operation relu"),
        (lambda x: x.relu_(), "reads the operation relu_"),
        (lambda x: x.clamp_(-1, 1), "reads the operation clamp_"),
        (lambda x: x.mul_(2.0), "reads the operation mul_"),
        (lambda x: x.add_(0.3), "reads a sum with a number"),
        (_indexed, "reads the operation __setitem__"),
        (_view, "reads the operation a change in place"),
        (_out, "reads the operation mul"),
        (_data, "differ in the currents of neuron layers.2: the module has"),
    ],
)
def test_a_change_in_place_is_seen_as_any_other(change: Callable[[Tensor], Tensor], what: str) -> None:
    def build() -> nn.Module:
        if isinstance(change, nn.Module):
            return Row(conv(1, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Lif(), *tail())
        return between(change)

    reason = tried(build)
    assert reason is not None
    assert ("neuron layers.3 reads layers.2 (ReLU)" if isinstance(change, nn.Module) else what) in reason


@torch.no_grad()
def test_an_image_that_is_changed_in_place_is_the_same_at_each_timestep() -> None:
    class Halving(Row):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    class Half(Row):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 0.5)

    torch.manual_seed(0)
    changing, plain = (known(make(conv(1, 4), Lif(), *tail())) for make in (Halving, Half))
    plain.net.load_state_dict(changing.net.state_dict())
    assert changing.reason == "layers.0 reads the operation mul_; in the packed file, layers read spikes"
    x = pixels().float() - 128
    assert torch.equal(network(changing)(x).logits, network(plain)(x).logits)
    assert torch.equal(x, pixels().float() - 128)


def test_what_a_module_hands_back_is_not_of_its_making() -> None:
    assert tried(lambda: Row(conv(1, 4), nn.Dropout(0.5), nn.Identity(), Lif(), *tail())) is None


# --- layers ---


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        spread = self.weight.std(dim=(1, 2, 3), keepdim=True)
        out: Tensor = self._conv_forward(x, self.weight / spread, self.bias)
        return out


class InTraining(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if self.training else 1.0)


class Named(nn.Conv2d):
    """Does what a convolution does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def doubled() -> nn.Module:
    layer = conv(4, 4)
    layer.register_forward_hook(lambda _, __, out: 2 * out)
    return layer


@pytest.mark.parametrize(
    "make", [lambda: Standardised(4, 4, 3, padding=1), lambda: InTraining(4, 4, 3, padding=1), doubled]
)
def test_a_layer_that_is_no_convolution_with_its_weight_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match=r"layer layers\.2 .* computes something else than torch's Conv2d"):
        known(Row(conv(1, 4), Lif(), make(), Lif(), *tail()))


def test_a_layer_of_another_class_that_is_a_convolution_is_one() -> None:
    assert tried(lambda: Row(conv(1, 4), Lif(), Named(4, 4, 3, 2, 1), Lif(), *tail())) is None


def half(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    "wrap", [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, half]
)
@torch.no_grad()
def test_a_weight_that_is_made_anew_is_taken_as_it_is_made(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Of the weights that were loaded, not of those at first."""

    def build() -> nn.Module:
        return Row(conv(1, 4), Lif(), wrap(conv(4, 4)), Lif(), *tail())

    torch.manual_seed(0)
    module = build()
    started = {name: value * 1.5 if value.is_floating_point() else value for name, value in module.state_dict().items()}
    module.load_state_dict(started)
    module.eval()
    layer = module.get_submodule("layers.2")
    assert isinstance(layer, nn.Conv2d)
    layer(torch.zeros(1, 4, 8, 8))  # hooks make the weight
    made = layer.weight.detach().clone()
    again = build()
    again.load_state_dict(started)
    assert torch.allclose(known(again).layers["layers.2"].weight, made)
    assert tried(build) is None


# --- the whole ---


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_what_can_be_packed_is_tried_before_the_search(name: str) -> None:
    torch.manual_seed(0)
    assert tried(EXPRESSIBLE[name]) is None


def test_frames_are_tried_too() -> None:
    assert tried(lambda: Row(conv(2, 4), nn.BatchNorm2d(4), Lif(), conv(4, 4), Lif(), *tail()), info=EVENTS) is None


class Late(Row):
    """Something else from the third timestep on, which a trace of two does not show."""

    step = 0

    def reset(self) -> None:
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        first, *others = self.layers
        x = first(x)
        x = x if self.step < 3 else 0.5 * x
        for layer in others:
            x = layer(x)
        return x


def test_what_the_trace_does_not_show_is_found_by_trying() -> None:
    reason = tried(lambda: Late(conv(1, 4), Lif(), *tail()))
    assert reason is not None
    assert "currents of neuron layers.1: the module has" in reason
    assert "at timestep 3" in reason
    assert tried(lambda: Late(conv(1, 4), Lif(), *tail()), timesteps=2) is None


@pytest.mark.parametrize("name", EXPRESSIBLE)
@torch.no_grad()
def test_the_packed_file_is_the_module_by_its_own_forward(name: str) -> None:
    net = lively(EXPRESSIBLE[name])
    agreement = compare_with_module(EXPRESSIBLE[name](), net, packed(net), pixels(40))
    least = 39 if name == "a sum of votes" else 40  # sums of pooled votes round equal logits one way or the other
    assert agreement.images == 40
    assert agreement.predictions_equal >= least
    assert agreement.spikes > 0
    if name == "membrane shortcuts":  # no weight of the module can have the float16 scales of two populations
        assert agreement.different_spikes < 1e-3 * agreement.spikes
    else:
        assert agreement.largest_logit_difference < 1e-4
        assert agreement.different_spikes == 0


def halved() -> nn.Module:
    return between(lambda x: x, Halved)


@torch.no_grad()
def test_a_norm_of_a_channel_without_weights_may_round_its_bias() -> None:
    """All its weights are pruned and its variance is next to nothing: bias less mean is multiplied by hundreds."""

    def make() -> nn.Module:
        return Row(conv(1, 4), nn.BatchNorm2d(4), Lif(), *tail())

    torch.manual_seed(0)
    net = lively(make)
    layer, norm = net.given.layers["layers.0"], net.given.net.get_submodule("layers.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert layer.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    layer.scores[1:3] = layer.scores.min() - 1  # half of the weights are kept
    layer.bias[1:3] = torch.tensor([0.2490123, 12.34567])
    norm.running_mean[1:3] = torch.tensor([0.2490199, 12.34512])
    norm.running_var[1:3] = 3e-7
    module = make()
    agreement = compare_with_module(module, net, packed(net), pixels())
    assert agreement.predictions_equal == 16


@torch.no_grad()
def test_a_wrong_fold_is_found_and_names_the_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fold that all norms are torch's: the packed file and the deployed form agree with each other alone."""

    def folded_as_torchs(norm: Any) -> norms.Affine:
        values = dict((*norm.named_parameters(), *norm.named_buffers()))
        return norms._formula(norm, {name: value.detach() for name, value in values.items()})

    net = lively(halved)
    assert net.given.graph is not None
    compare_with_module(halved(), net, packed(net), pixels())
    monkeypatch.setattr(deploy, "affine_of", folded_as_torchs)
    wrong = packed(net)
    assert deploy.prove_equal(net, net.given.graph, wrong, pixels())["different_spikes"] == 0
    with pytest.raises(LitesnnError, match=r"differ in the currents of neuron layers\.2: the module has"):
        compare_with_module(halved(), net, wrong, pixels())


@torch.no_grad()
def test_other_numbers_in_the_file_are_found() -> None:
    """A bias of a later population, and one of the readout."""
    net = lively(EXPRESSIBLE["strides"])
    right = packed(net)
    right.populations[1].bias[2] += 0.01
    with pytest.raises(LitesnnError, match=r"neuron layers\.4: .* in channel 2"):
        compare_with_module(EXPRESSIBLE["strides"](), net, right, pixels())
    other = packed(net)
    other.readout.bias[1] += 0.01
    with pytest.raises(LitesnnError, match=r"the outputs for the same spikes: .* in channel 1"):
        compare_with_module(EXPRESSIBLE["strides"](), net, other, pixels())


class BatchFirst(nn.Module):
    """Outputs [B, T, K], with as many timesteps as the trace has images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif, self.head = conv(1, 4), Lif(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(self.lif(self.conv(x)).mean((2, 3))) for _ in range(2)], 1)


def test_outputs_whose_batch_comes_first_are_refused_whatever_their_timesteps() -> None:
    with pytest.raises(InputError, match=r"makes \[3, 2, 3\] of 3 inputs; expected \[3, 3\] for one timestep, or"):
        known(BatchFirst())


def test_a_refused_module_has_no_graph_even_when_it_is_learned_again() -> None:
    found: Given = known(Row(conv(1, 4), Lif(), *tail()))
    found.refuse("it is")
    found.learn()
    assert (found.graph, found.reason) == (None, "it is")
    net = SteppedNetwork(found, fixed_choice(found, 2, dict.fromkeys(found.searched, (2, 0.5)))).eval()
    assert net(net.encode(pixels())).logits.shape == (2, 16, 3)
