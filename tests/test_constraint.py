from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litesnn.training_loop.constraint import Constraint


def constraint(multiplier: float = 0.0, *, limit: float = 100.0) -> Constraint:
    made = Constraint(limit, penalty=2.0, dual_lr=0.5)
    made.multiplier = multiplier
    return made


def loss_and_gradient(made: Constraint, value: float) -> tuple[float, float]:
    x = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    loss = made.loss(x)
    (gradient,) = torch.autograd.grad(loss, x)
    return float(loss.detach()), float(gradient)


@pytest.mark.parametrize(
    ("multiplier", "value", "loss", "slope"),
    [
        # slope is d loss / d log(value): max(0, λ + ρ·g)
        (0.0, 100.0, 0.0, 0.0),
        (0.0, 100 * math.e, 4 / 4, 2.0),  # g = 1: (2)²/(2·2)
        (3.0, 100 * math.e, (25 - 9) / 4, 5.0),
        (3.0, 100.0, 0.0, 3.0),  # on the limit the multiplier pushes
        (3.0, 100 / math.e, (1 - 9) / 4, 1.0),  # a little room: it still does
        (3.0, 100 / math.e**2, -9 / 4, 0.0),  # much room: 3 − 2·2 < 0
        (0.0, 100 / math.e, 0.0, 0.0),
    ],
)
def test_loss_by_hand(multiplier: float, value: float, loss: float, slope: float) -> None:
    found, gradient = loss_and_gradient(constraint(multiplier), value)
    assert found == pytest.approx(loss, abs=1e-12)
    assert gradient * value == pytest.approx(slope, abs=1e-12)


def update(made: Constraint, value: float) -> None:
    made.update(torch.tensor(value, dtype=torch.float64))


def test_updates_by_hand() -> None:
    made = constraint()
    update(made, 100 * math.e)
    assert made.multiplier == pytest.approx(0.5)
    update(made, 100 * math.e**3)
    assert made.multiplier == pytest.approx(2.0)
    update(made, 100.0)
    assert made.multiplier == pytest.approx(2.0)
    update(made, 100 / math.e**2)
    assert made.multiplier == pytest.approx(1.0)
    update(made, 100 / math.e**9)
    assert made.multiplier == 0.0


@given(st.floats(0, 10), st.floats(1e-3, 1e9))
def test_the_multiplier_rises_over_the_limit_and_never_below_zero(multiplier: float, value: float) -> None:
    made = constraint(multiplier)
    update(made, value)
    assert made.multiplier >= 0
    if value > 100.01:
        assert made.multiplier > multiplier
    if value < 99.99 and multiplier > 0:
        assert made.multiplier < multiplier


@given(st.floats(1e-3, 99.9))
def test_a_kept_limit_without_multiplier_costs_nothing(value: float) -> None:
    assert loss_and_gradient(constraint(), value) == (0.0, 0.0)


def test_a_value_of_zero_is_finite() -> None:
    assert loss_and_gradient(constraint(), 0.0) == (0.0, 0.0)
    made = constraint(5.0)
    loss, gradient = loss_and_gradient(made, 0.0)
    assert math.isfinite(loss)
    assert gradient == 0.0
    update(made, 0.0)
    assert made.multiplier == 0.0


def test_units_do_not_matter() -> None:
    bytes_, kilobytes = constraint(1.0, limit=8000), constraint(1.0, limit=8)
    for value in (4.0, 9.0, 16.0):
        ours, theirs = loss_and_gradient(bytes_, 1000 * value), loss_and_gradient(kilobytes, value)
        assert ours[0] == pytest.approx(theirs[0])
        assert 1000 * ours[1] == pytest.approx(theirs[1])


def test_it_holds_a_limit_in_a_small_optimisation() -> None:
    """Minimise (log x − log 50)² under x ≤ 10: the constraint ends active, with the multiplier that balances."""
    made, log_x = Constraint(10, penalty=1.0, dual_lr=0.2), torch.tensor(math.log(50.0), requires_grad=True)
    optimizer = torch.optim.SGD([log_x], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (log_x - math.log(50)) ** 2 + made.loss(log_x.exp())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        made.update(log_x.exp())
    assert float(log_x.detach().exp()) == pytest.approx(10, rel=1e-3)
    assert made.multiplier == pytest.approx(2 * math.log(5), rel=1e-2)


def test_the_gradient_is_of_the_multiplier_that_the_loss_saw() -> None:
    """A step may move the multiplier before it goes backward."""
    made, x = constraint(3.0), torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    loss = made.loss(x)
    made.update(x * math.e)
    loss.backward()  # type: ignore[no-untyped-call]
    assert made.multiplier == pytest.approx(3.5)
    assert x.grad is not None
    assert float(x.grad) == pytest.approx(3.0 / 100)


def test_the_type_of_the_loss_is_that_of_the_value() -> None:
    made = constraint(3.0)
    for dtype in (torch.float32, torch.float64):
        assert made.loss(torch.tensor(200.0, dtype=dtype)).dtype == dtype


def test_a_multiplier_is_read_and_put_back_exactly() -> None:
    made, other = constraint(), constraint()
    update(made, 123.456)
    other.multiplier = made.multiplier
    for value in (431.0, 90.0):
        update(made, value)
        update(other, value)
        assert other.multiplier == made.multiplier > 0
