from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from litesnn.quantizers import MIDRISE
from litesnn.quantizers.midrise import GAUSSIAN_STEP, standard_deviation
from litesnn.snn.compconv import Compression, mix_weights

# Mean 0, standard deviation √(10.02/6) = 1.29228
GOLDEN = torch.tensor([-2.0, -1.0, -0.1, 0.1, 1.0, 2.0])


def quantize(weight: Tensor, bits: int) -> Tensor:
    return MIDRISE.values(weight[None], standard_deviation(weight[None]), bits)[0]


def weight_codes(weight: Tensor, bits: int) -> Tensor:
    return MIDRISE.codes(weight, bits)[0]


def step_size(weight: Tensor, bits: int) -> Tensor:
    return 2 * MIDRISE.codes(weight, bits)[1]


@pytest.mark.parametrize(
    ("bits", "codes"),
    [
        (1, [-1, -1, -1, 1, 1, 1]),
        (2, [-3, -1, -1, 1, 1, 3]),  # Δ = 1.28711: 2/Δ + ½ = 2.05 → 2 → 2·2 − 1
        (3, [-5, -3, -1, 1, 3, 5]),  # Δ = 0.75728: 3.14 → 3, 1.82 → 2, 0.63 → 1
        (4, [-9, -5, -1, 1, 5, 9]),  # Δ = 0.43421: 5.11 → 5, 2.80 → 3, 0.73 → 1
    ],
)
def test_codes_by_hand(bits: int, codes: list[int]) -> None:
    assert weight_codes(GOLDEN, bits).tolist() == codes


def test_steps_are_those_of_the_optimal_quantizer_of_a_gaussian() -> None:
    assert GAUSSIAN_STEP == {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.336}
    assert float(step_size(GOLDEN, 2)) == pytest.approx(0.996 * (10.02 / 6) ** 0.5)


@pytest.mark.parametrize("bits", GAUSSIAN_STEP)
def test_the_steps_lose_least_of_a_gaussian(bits: int) -> None:
    weight = torch.randn(20000, generator=torch.Generator().manual_seed(0))

    def loss(step: float) -> float:
        level = torch.round(weight / step + 0.5).clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1)) - 0.5
        return float((level * step - weight).square().mean())

    step = GAUSSIAN_STEP[bits]
    assert loss(step) < min(loss(0.9 * step), loss(1.1 * step))
    assert float((quantize(weight, bits) - weight).square().mean()) == pytest.approx(loss(step), rel=1e-3)


@pytest.mark.parametrize("bits", GAUSSIAN_STEP)
def test_outliers_take_the_outermost_code(bits: int) -> None:
    codes = weight_codes(torch.tensor([1.0, -1.0] * 50 + [100.0, -100.0]), bits)
    assert codes[-2:].tolist() == [2**bits - 1, 1 - 2**bits]


@given(st.integers(1, 4), st.integers(1, 60), st.floats(1e-6, 1e3), st.integers(0, 2**31))
def test_codes_are_odd_integers_that_fit_and_stand_for_the_weights(
    bits: int, count: int, spread: float, seed: int
) -> None:
    weight = spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    codes = weight_codes(weight, bits)
    assert set(codes.tolist()) <= set(range(1 - 2**bits, 2**bits, 2))
    assert torch.equal(quantize(weight, bits), codes * (step_size(weight, bits) / 2))


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_every_weight_goes_to_the_nearest_code(bits: int, seed: int) -> None:
    weight = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(quantize(weight, bits), oracle.quantized(weight, bits), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", GAUSSIAN_STEP)
def test_the_gradient_goes_straight_through(bits: int) -> None:
    weight = GOLDEN.clone().requires_grad_()
    factors = torch.arange(1.0, 7.0)
    finished = Compression.fixed(bits, 1.0, torch.device("cpu"))
    effective = mix_weights(weight[None], finished, [torch.ones(1, 6)])[0]  # nothing pruned
    assert torch.equal(effective, quantize(weight, bits))
    (gradient,) = torch.autograd.grad((effective * factors).sum(), weight)
    assert torch.equal(gradient, factors)


@pytest.mark.parametrize("bits", GAUSSIAN_STEP)
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_a_constant_tensor_has_finite_codes(bits: int, value: float) -> None:
    weight = torch.full((5,), value)
    codes = weight_codes(weight, bits)
    assert set(codes.abs().tolist()) <= set(range(1, 2**bits, 2))
    assert torch.isfinite(quantize(weight, bits)).all()
    if value:
        assert (codes.sign() == weight.sign()).all()


def test_the_layer_has_one_step_whatever_its_shape() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(weight_codes(weight, 3).flatten(), weight_codes(weight.flatten(), 3))
