"""Which neuron it is, told by what it does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from given import Lif
from litesnn.compression.neurons import NotLif, drive, identify, reset_states
from litesnn.compression.tape import Call, Tape


def call_of(neuron: nn.Module, shape: tuple[int, ...] = (2, 3, 4, 4)) -> Call:
    net, x = nn.Sequential(neuron), torch.zeros(shape)
    tape = Tape(x)
    tape.record(net, lambda: net(x))
    reset_states(net)
    return tape.of(neuron)[0]


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


@pytest.mark.parametrize(
    ("neuron", "why"),
    [
        (Lif(soft=True), "does not reset to zero"),
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
