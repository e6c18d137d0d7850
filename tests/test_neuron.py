from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from litesnn.snn.neuron import lif, lif_integer, surrogate_slope
from tiny import values_of


def spikes(*currents: float) -> list[int]:
    return [int(s) for s in lif(torch.tensor(currents))]


@pytest.mark.parametrize(
    ("currents", "expected"),
    [
        # u = 0.5 does not fire: the threshold is strict; 0.2·0.5 + 0.5 = 0.6 fires and resets, and so on
        ((0.5, 0.5, 0.5, 0.5), [0, 1, 0, 1]),
        # after a spike the membrane starts from zero, however far above the threshold it was
        ((9.0, 0.45, 0.45), [1, 0, 1]),
        # leak: 0.4 → 0.08, so that 0.43 more is enough and 0.41 more is not
        ((0.4, 0.43), [0, 1]),
        ((0.4, 0.41), [0, 0]),
        # two steps of leak: 0.4 → 0.08 → 0.016
        ((0.4, 0.0, 0.49), [0, 0, 1]),
        ((0.4, 0.0, 0.48), [0, 0, 0]),
        # inhibition leaks away as well: −1 → −0.2 + 0.6 = 0.4 → 0.08 + 0.45 = 0.53
        ((-1.0, 0.6, 0.45), [0, 0, 1]),
        ((0.51,), [1]),
        ((0.49,), [0]),
    ],
)
def test_membranes_by_hand(currents: tuple[float, ...], expected: list[int]) -> None:
    assert spikes(*currents) == expected


@pytest.mark.parametrize(
    ("currents", "expected"),
    [
        # a spike is the number of thresholds 0.5, 1.5, 2.5 that are passed, strictly, and at most 3
        ((0.5,), [0]),
        ((1.5,), [1]),
        ((1.51,), [2]),
        ((2.5,), [2]),
        ((9.0,), [3]),
        ((-9.0,), [0]),
        # any spike resets to zero: what was left over of 1.4 does not help 0.45
        ((1.4, 0.45, 0.45), [1, 0, 1]),
        # without one, 0.4 leaks to 0.08: 1.45 more passes the second threshold, 1.41 does not
        ((0.4, 1.45), [0, 2]),
        ((0.4, 1.41), [0, 1]),
    ],
)
def test_graded_spikes_by_hand(currents: tuple[float, ...], expected: list[int]) -> None:
    assert [int(s) for s in lif(torch.tensor(currents), levels=3)] == expected


def test_graded_spikes_in_integers_by_hand() -> None:
    """Thresholds 8, 24, 40 of a unit of 16; 8 leaks to 2, and is no spike."""
    x = torch.tensor([[8, 9, 24, 25, 40, 41], [6, 7, 7, 7, 9, 900]], dtype=torch.int32)
    found = lif_integer(x, threshold=8, levels=3, unit=16)
    assert found.tolist() == [[0, 1, 1, 2, 2, 3], [0, 0, 0, 0, 1, 3]]
    assert torch.equal(lif_integer(x, threshold=8, levels=1, unit=16), (found > 0).float())


def test_the_slope_of_graded_spikes_repeats_from_threshold_to_threshold() -> None:
    peak = 3 / (2 * math.tanh(1.5))
    side, end = (peak * (1 - math.tanh(3 * away) ** 2) for away in (0.25, 0.5))
    u = torch.tensor([-0.1, 0.0, 0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 2.5, 2.75, 3.0, 3.5], dtype=torch.float64)
    expected = [0, 0, side, peak, end, side, peak, end, peak, side, 0, 0]
    assert surrogate_slope(u, levels=3).tolist() == pytest.approx(expected, abs=1e-15)


def test_gradient_of_graded_spikes_by_hand() -> None:
    # u = 0.4, then 0.2·0.4 + 1.3 = 1.38: a spike of 1 on the second slope, and the leak's path alone; then 0.7
    current = torch.tensor([0.4, 1.3, 0.7], dtype=torch.float64, requires_grad=True)
    second, third = (float(surrogate_slope(torch.tensor(u, dtype=torch.float64))) for u in (0.38, 0.7))
    ours = [torch.autograd.grad(lif(current, levels=3)[t], current)[0].tolist() for t in (1, 2)]
    assert ours == [pytest.approx([second * 0.2, second, 0]), pytest.approx([0, 0, third])]


def test_neurons_do_not_see_each_other() -> None:
    current = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.4
    together = lif(current)
    assert together.shape == current.shape
    assert 0 < together.mean() < 1
    for index in range(24):
        alone = lif(current.flatten(1)[:, index])
        assert torch.equal(together.flatten(1)[:, index], alone)


def test_an_expanded_current_is_read_and_not_written() -> None:
    current = torch.full((1, 2), 0.5)
    assert lif(current.expand(4, 1, 2))[:, 0, 0].tolist() == [0, 1, 0, 1]
    assert current.tolist() == [[0.5, 0.5]]


def test_other_leak_and_threshold() -> None:
    assert lif(torch.tensor([0.5, 0.5, 0.5]), leak=1.0, threshold=1.25).tolist() == [0, 0, 1]
    assert lif(torch.tensor([0.9, 0.9]), leak=0.0, threshold=1.0).tolist() == [0, 0]


def test_surrogate_slope_by_formula() -> None:
    peak = 3 / (2 * math.tanh(1.5))
    u = torch.tensor([-3.0, -1e-6, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5], dtype=torch.float64)
    side = peak * (1 - math.tanh(0.75) ** 2)
    expected = [0, 0, 0, side, peak, side, 0, 0]
    assert surrogate_slope(u).tolist() == pytest.approx(expected, abs=1e-15)
    assert peak == pytest.approx(1.65723, abs=1e-4)


def test_gradient_by_hand() -> None:
    # u = 0.4, then 0.2·0.4 + 0.3 = 0.38; neither fires. The second spike sees the first current through the leak and
    # through the reset that a first spike would have brought.
    current = torch.tensor([0.4, 0.3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(lif(current)[1], current)
    first, second = (float(surrogate_slope(torch.tensor(u, dtype=torch.float64))) for u in (0.4, 0.38))
    assert gradient.tolist() == pytest.approx([second * (0.2 - 0.2 * 0.4 * first), second])


def test_gradient_behind_a_spike_by_hand() -> None:
    # u = 0.6 fires; the reset cuts the leak's path, and only the reset itself is left
    current = torch.tensor([0.6, 0.3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(lif(current)[1], current)
    first, second = (float(surrogate_slope(torch.tensor(u, dtype=torch.float64))) for u in (0.6, 0.3))
    assert gradient.tolist() == pytest.approx([-second * 0.2 * 0.6 * first, second])


@given(st.integers(1, 7), st.integers(0, 2**31), st.sampled_from([1, 2, 3, 7]))
def test_spikes_and_gradients_are_the_oracles(timesteps: int, seed: int, levels: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    current = 0.7 * torch.randn(timesteps, 2, 11, generator=rng, dtype=torch.float64) + 0.3
    current = (levels * current).requires_grad_()
    weights = torch.randn(timesteps, 2, 11, generator=rng, dtype=torch.float64)
    ours, theirs = lif(current, levels=levels), torch.stack(oracle.lif(list(current), levels))
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad((s * weights).sum(), current)[0] for s in (ours, theirs)]
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("levels", [1, 3])
def test_float32_spikes_are_the_oracles_bit_for_bit(levels: int) -> None:
    current = levels * (torch.randn(6, 1000, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.4)
    ours = lif(current, levels=levels)
    assert torch.equal(ours, torch.stack(oracle.lif(list(current), levels)))
    assert values_of(ours) == set(range(levels + 1))
