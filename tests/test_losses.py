"""The loss over time against numbers that were worked out by hand, and its gradients."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.config import TrainSettings
from litesnn.train.losses import LOSSES, divergence, instantaneous, loss_over_time

TEACHER = "runs/teacher"


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate(changes)


def means(z: Tensor) -> Tensor:
    """y_t of z_t [T, B, K]."""
    return z.cumsum(0) / torch.arange(1, len(z) + 1)[:, None, None]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_table_has_what_recipes_may_name() -> None:
    assert set(LOSSES) == set(get_args(TrainSettings.model_fields["loss"].annotation))
    assert settings().loss == "last"


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_logits_of_each_timestep(steps: int) -> None:
    z = drawn(steps, 4, 3)
    torch.testing.assert_close(instantaneous(means(z)), z)


def test_the_loss_of_recipes_that_name_none_is_what_it_was() -> None:
    logits, labels = drawn(3, 5, 4).float().requires_grad_(), torch.tensor([0, 3, 1, 1, 2])
    for smoothing in (0.0, 0.1):
        loss, terms = loss_over_time(logits, labels, settings(label_smoothing=smoothing))
        plain = F.cross_entropy(logits[-1], labels, label_smoothing=smoothing)
        assert torch.equal(loss, plain)
        assert list(terms) == ["train_loss"]
        assert all(
            map(torch.equal, torch.autograd.grad(loss, logits), torch.autograd.grad(plain, logits))
        )  # to the last bit


def test_tet_by_hand() -> None:
    """z_1 = (0, ln 3), z_2 = (ln 7, 0), label 0: CE ln 4 and ln(8/7); smoothing 0.2 gives 0.1 to the other."""
    z = torch.tensor([[[0.0, math.log(3)]], [[math.log(7), 0.0]]], dtype=torch.float64)
    label = torch.tensor([0])
    right, wrong = (math.log(4) + math.log(8 / 7)) / 2, (math.log(4 / 3) + math.log(8)) / 2
    assert float(LOSSES["tet"](means(z), label, 0.0)) == pytest.approx(right)
    assert float(LOSSES["tet"](means(z), label, 0.2)) == pytest.approx(0.9 * right + 0.1 * wrong)


@pytest.mark.parametrize("name", LOSSES)
def test_one_timestep_has_one_loss(name: str) -> None:
    logits, labels = drawn(1, 5, 4).float(), torch.tensor([0, 3, 1, 1, 2])
    assert torch.equal(LOSSES[name](logits, labels, 0.1), LOSSES["last"](logits, labels, 0.1))


def test_a_divergence_by_hand() -> None:
    """From (1/2, 1/2) to (3/4, 1/4), KL = 3/4·ln(3/2) + 1/4·ln(1/2); at τ = 2 and twice the logits, 4 times that."""
    target = 2 * torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    same = torch.stack([target, torch.zeros(1, 2, dtype=torch.float64)])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(divergence(same[1:], target, 2.0)) == pytest.approx(4 * expected)
    assert float(divergence(same, target, 2.0)) == pytest.approx(2 * expected)  # the other timestep is the target
    assert float(divergence(same[:1], target, 2.0)) == 0


def test_the_gradient_of_a_divergence() -> None:
    """τ/(T·B) · (softmax(z/τ) − softmax(target/τ)), and none to the target."""
    z, target = drawn(3, 4, 5).requires_grad_(), drawn(4, 5, seed=1).requires_grad_()
    found = torch.autograd.grad(divergence(z, target, 3.0), [z, target], allow_unused=True)
    assert found[1] is None
    torch.testing.assert_close(found[0], 3.0 / 12 * ((z / 3).softmax(2) - (target / 3).softmax(1)))
    assert torch.autograd.gradcheck(lambda z: divergence(z, target.detach(), 3.0), z)


@pytest.mark.parametrize("name", LOSSES)
def test_all_terms_together(name: str) -> None:
    z, labels, taught = drawn(3, 4, 5), torch.tensor([0, 4, 1, 2]), drawn(4, 5, seed=1)
    chosen = settings(
        loss=name, self_distillation=0.5, teacher=TEACHER, teacher_weight=0.2, temperature=3, label_smoothing=0.1
    )
    logits = means(z).requires_grad_()
    loss, terms = loss_over_time(logits, labels, chosen, taught)
    own, other = divergence(z, z.mean(0), 3.0), divergence(z, taught, 3.0)
    hard = LOSSES[name](means(z), labels, 0.1)
    torch.testing.assert_close(loss, hard + 0.5 * own + 0.2 * other)
    assert {key: term.item() for key, term in terms.items()} == pytest.approx(
        {"train_loss": hard.item(), "train_self_distillation": own.item(), "train_teacher": other.item()}
    )
    assert torch.autograd.gradcheck(
        lambda y: LOSSES[name](y, labels, 0.1) + 0.2 * divergence(instantaneous(y), taught, 3.0), logits
    )


def test_a_timestep_alone_learns_nothing_from_itself() -> None:
    logits = drawn(1, 4, 5).requires_grad_()
    _, terms = loss_over_time(logits, torch.tensor([0, 4, 1, 2]), settings(self_distillation=0.5))
    assert terms["train_self_distillation"].item() == 0
    (gradient,) = torch.autograd.grad(terms["train_self_distillation"], logits)
    assert gradient.abs().max() < 1e-15


def test_a_teacher_without_logits_has_no_term() -> None:
    _, terms = loss_over_time(drawn(2, 1, 3), torch.tensor([1]), settings(teacher=TEACHER))
    assert list(terms) == ["train_loss"]
