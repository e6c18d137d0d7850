"""Which neuron it is, told by what it does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from given import ChargedLif, LateLif, Lif
from litesnn.compression.neurons import Lif as Found
from litesnn.compression.neurons import NotLif, drive, identify, learned_leak, reset_states
from litesnn.compression.states import find_roles, resets_with_arguments
from litesnn.compression.trace import Call, Trace


def call_of(neuron: nn.Module, shape: tuple[int, ...] = (2, 3, 4, 4)) -> Call:
    net, x = nn.Sequential(neuron), torch.zeros(shape)
    trace = Trace(x)
    trace.record(net, lambda: net(x))
    reset_states(net)
    return trace.of(neuron)[0]


class Charging(Lif):
    """As SpikingJelly charges: u += (x − u)/τ, and it fires at the threshold too."""

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.membrane + (x - self.membrane) * self.leak
        spikes = (membrane >= self.threshold).float()
        self.membrane = membrane * (1 - spikes)
        return spikes


class Tired(Lif):
    """Does not listen in the step after a spike."""

    last: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        rested = 1.0 if self.last is None else 1 - self.last
        spikes = super().forward(x * rested)
        self.last = spikes
        return spikes

    def reset(self) -> None:
        super().reset()
        self.last = None


class Adaptive(Lif):
    """Every spike makes the next one harder."""

    spent: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.leak * self.membrane + x
        spikes = (membrane > self.threshold + self.spent).float()
        self.membrane, self.spent = membrane * (1 - spikes), 0.9 * self.spent + 0.5 * spikes
        return spikes

    def reset(self) -> None:
        super().reset()
        self.spent = 0.0


class ResetElsewhere(Lif):
    """After a spike it begins higher than at first."""

    def forward(self, x: Tensor) -> Tensor:
        spikes = super().forward(x)
        self.membrane = self.membrane + 0.25 * spikes
        return spikes


class Rewarded(Lif):
    """A spike adds to the membrane."""

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.leak * self.membrane + x
        spikes = (membrane > self.threshold).float()
        self.membrane = membrane + 0.5 * spikes
        return spikes


class PerChannel(Lif):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.arange(1.0, 1 + x.shape[1])[:, None, None])


class Graded(Lif):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Twitchy(Lif):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 2)


class Deaf(Lif):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0 * x)


@pytest.mark.parametrize("leak", [0.0, 0.2, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 1.0, 7.0])
def test_a_hard_reset_lif_is_found_to_the_last_bit(leak: float, threshold: float) -> None:
    found = identify(call_of(Lif(leak, threshold)))
    assert found.leak == leak
    assert found.threshold == float(np.float32(threshold)) or found.threshold < threshold < np.nextafter(
        np.float32(found.threshold), np.float32(math.inf)
    )


def test_a_neuron_that_divides_its_input_and_fires_at_its_threshold() -> None:
    found = identify(call_of(Charging(0.5, 1.0)))
    assert (found.leak, found.threshold) == (0.5, float(np.nextafter(np.float32(2), np.float32(0))))
    assert found.reset is None


@pytest.mark.parametrize("leak", [0.0, 0.2, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 1.0, 7.0])
def test_a_soft_reset_is_found_before_and_after_the_leak(leak: float, threshold: float) -> None:
    before, after = identify(call_of(Lif(leak, threshold, soft=True))), identify(call_of(LateLif(leak, threshold)))
    assert before.leak == after.leak == leak
    assert after.reset == pytest.approx(threshold, rel=1e-12)
    if leak > 0:
        assert before.reset == pytest.approx(leak * threshold, rel=1e-12)
    else:
        assert before.reset is None  # nothing is left to take from


@pytest.mark.parametrize("subtracted", [0.0, 0.123, 0.75, 3.0])
@pytest.mark.parametrize("leak", [0.5, 1.0])
def test_a_spike_may_take_anything(leak: float, subtracted: float) -> None:
    found = identify(call_of(LateLif(leak, 1.0, subtracted=subtracted)))
    assert (found.leak, found.threshold) == (leak, 1.0)
    assert found.reset == pytest.approx(subtracted, abs=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.77])
@pytest.mark.parametrize("soft", [False, True])
def test_a_neuron_that_is_charged_with_a_learned_rate(rate: float, soft: bool) -> None:
    neuron = ChargedLif(rate, 1.0, soft=soft, learned=True)
    call = call_of(neuron)
    found = identify(call)
    assert found.leak == pytest.approx(1 - rate, abs=2e-7)
    assert found.threshold == pytest.approx(1 / rate, rel=2e-7)
    assert found.reset == (pytest.approx((1 - rate) / rate, rel=2e-6) if soft else None)
    assert isinstance(neuron.w, nn.Parameter)
    assert learned_leak([call], found) == (id(neuron.w),)


@pytest.mark.parametrize(
    ("neuron", "why"),
    [
        (Adaptive(), "does not reset to zero"),
        (ResetElsewhere(), "does not reset to zero"),
        (Rewarded(), "a spike adds 0.25 to its membrane"),
        (Tired(), "does not reset to zero"),
        (PerChannel(), "different thresholds"),
        (Graded(), "not 0 or 1"),
        (Twitchy(), "without any current"),
        (Deaf(), "does not make it fire"),
        (Lif(1.5), "grows without any current"),
        (Lif(-0.5), "leaks to -0.5 of its membrane"),
    ],
)
def test_other_neurons_are_told_apart(neuron: nn.Module, why: str) -> None:
    with pytest.raises(NotLif, match=why):
        identify(call_of(neuron))


def test_driving_starts_afresh_and_leaves_nothing_behind() -> None:
    call = call_of(Lif(0.5, 1.0), (1, 1))
    for _ in range(2):  # 0.6, 0.9, 1.05: fires, 0.6
        spikes = drive(call, torch.full((4, 1, 1), 0.6))
        assert spikes.flatten().tolist() == [0.0, 0.0, 1.0, 0.0]
    assert call.module is not None
    assert call.module.membrane == 0.0


# --- states that the module hands on ---


class Pair(NamedTuple):
    membrane: Tensor
    fired: tuple[Tensor]


@dataclass
class Record:
    membrane: Tensor


class Handed(nn.Module):
    """Its state is what ``make`` makes of membrane and spikes; ``read`` gives the membrane that is left."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any], read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make, self.read = make, read

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        membrane = 0.25 * (0.0 if state is None else self.read(state)) + x
        spikes = (membrane > 1).float()
        return spikes, self.make(membrane, spikes)


HANDED: dict[str, Handed] = {
    "tensor": Handed(lambda u, s: u * (1 - s), lambda state: state),
    "named tuple": Handed(lambda u, s: Pair(u, (s,)), lambda state: state.membrane * (1 - state.fired[0])),
    "dataclass": Handed(lambda u, s: Record(u * (1 - s)), lambda state: state.membrane),
    "dictionary": Handed(lambda u, s: {"u": u, "s": s}, lambda state: state["u"] * (1 - state["s"])),
}


def first_calls(
    neuron: nn.Module, between: Callable[[Any], Any] = lambda state: state, *, name: str | None = None
) -> list[Call]:
    """Of a loop that begins with the state None, the calls of its neuron."""
    net, x = nn.Sequential(neuron), torch.zeros(2, 3)
    trace, state = Trace(x), None
    for _ in range(2):

        def step(state: Any = state) -> Any:
            return neuron(x, state) if name is None else neuron(x, **{name: state})

        def hand_on(state: Any) -> Any:
            return trace.record(net, lambda: between(state))

        state = hand_on(trace.record(net, step)[1])
    return trace.of(neuron)


@pytest.mark.parametrize("kind", HANDED)
@pytest.mark.parametrize("name", [None, "state"])
def test_a_state_is_handed_on_in_its_own_form(kind: str, name: str | None) -> None:
    calls = first_calls(HANDED[kind], name=name)
    assert identify(calls) == Found(0.25, 1.0)
    spikes = drive(calls, torch.full((4, 2, 3), 0.78))  # 0.78, 0.975, 1.02: fires, 0.78
    assert spikes[:, 0, 0].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_a_state_may_be_detached_but_not_changed_on_its_way() -> None:
    assert identify(first_calls(HANDED["tensor"], lambda state: state.detach().clone())).leak == 0.25
    with pytest.raises(NotLif, match="something happens to it in between"):
        identify(first_calls(HANDED["tensor"], lambda state: 0.5 * state))


class Failing(Lif):
    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().max()) > 10:
            raise RuntimeError("too\nlarge")
        return super().forward(x)


def test_a_neuron_that_fails_on_other_currents_is_none() -> None:
    with pytest.raises(NotLif, match="it fails on other currents: RuntimeError: too large"):
        identify(call_of(Failing()))


# --- what training changes ---


class Learning(Lif):
    def __init__(self, *, leak: Tensor | None = None, threshold: Tensor | None = None) -> None:
        super().__init__()
        if leak is not None:
            self.leak = nn.Parameter(leak)  # type: ignore[assignment]
        if threshold is not None:
            self.threshold = nn.Parameter(threshold)  # type: ignore[assignment]


def test_what_training_changes_of_a_neuron() -> None:
    def learned(neuron: Learning) -> tuple[int, ...]:
        calls = [call_of(neuron)]
        before = [parameter.clone() for parameter in neuron.parameters()]
        found = learned_leak(calls, identify(calls))
        assert all(map(torch.equal, before, neuron.parameters()))
        return found

    leaking = Learning(leak=torch.tensor(0.5))
    assert learned(leaking) == (id(leaking.leak),)
    assert learned(Learning(threshold=torch.tensor(0.5))) == ()
    assert learned(Learning()) == ()
    for uneven in (Learning(leak=torch.full((3, 1, 1), 0.5)), Learning(threshold=torch.full((3, 1, 1), 0.5))):
        with pytest.raises(NotLif, match="as it learns, its neurons have different"):
            learned(uneven)


# --- which modules are neurons ---


class Pooling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)


class Masked(nn.Module):
    """A dropout that keeps its mask from step to step, as SpikingJelly's does."""

    mask: Tensor | None = None

    def reset(self) -> None:
        self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mask = nn.functional.dropout(torch.ones_like(x)) if self.mask is None else self.mask
        return x if self.mask is None else x * self.mask


class WithSurrogate(nn.Module):
    """A neuron without a reset, as its state is handed over, that has its surrogate gradient in it."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate = Step()

    def forward(self, x: Tensor, membrane: Tensor | None = None) -> tuple[Tensor, Tensor]:
        membrane = x if membrane is None else 0.5 * membrane + x
        spikes = self.surrogate(membrane - 1)
        return spikes, membrane * (1 - spikes)


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


@pytest.mark.parametrize(
    ("module", "role"),
    [
        (Lif(), "neuron"),
        (Lif(0.0), "neuron"),
        (Graded(), "neuron"),
        (Step(), "neuron"),
        (WithSurrogate(), "neuron"),
        (Pooling(), "function"),
        (Masked(), "nothing"),
        (Failing(), "neuron"),
    ],
)
def test_a_neuron_is_told_by_what_it_does(module: nn.Module, role: str) -> None:
    net, x = nn.Sequential(module).eval(), torch.zeros(2, 3, 4, 4)
    trace = Trace(x)
    trace.record(net, lambda: net(x))
    find_roles(trace)
    assert [call.role for call in trace.calls] == [role]


class Sized(Lif):
    def reset(self, batch: int = 0) -> None:
        super().reset()


class Asking(nn.Module):
    def reset(self, batch: int) -> None:
        raise AssertionError


def test_a_reset_that_takes_arguments_is_not_called_and_is_said() -> None:
    net = nn.Sequential(Sized(), Asking())
    reset_states(net)
    assert resets_with_arguments(net) == ["1.reset(batch)"]
