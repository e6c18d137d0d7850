from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litesnn.costs.size import kept_count
from litesnn.snn.prune import initial_scores, keep_mask


@pytest.mark.parametrize(
    ("weights", "keep", "kept"),
    [(100, 0.2, 20), (100, 1.0, 100), (10, 0.26, 3), (10, 0.24, 2), (3, 0.01, 1), (1, 0.2, 1), (1, 1.0, 1)],
)
def test_counts_by_hand(weights: int, keep: float, kept: int) -> None:
    assert kept_count(weights, keep) == kept
    assert int(keep_mask(torch.randn(weights), keep).sum()) == kept


def test_the_largest_magnitudes_stay() -> None:
    scores = torch.tensor([[0.1, -5.0], [3.0, -0.2]])
    assert keep_mask(scores, 0.5).tolist() == [[0, 1], [1, 0]]
    assert keep_mask(scores, 0.25).tolist() == [[0, 1], [0, 0]]
    assert keep_mask(scores, 0.75).tolist() == [[0, 1], [1, 1]]


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.sampled_from([0.01, 0.2, 0.5, 0.99, 1.0]),
)
def test_the_count_is_exact_when_scores_tie(values: list[int], keep: float) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    mask = keep_mask(scores, keep)
    assert set(mask.tolist()) <= {0.0, 1.0}
    assert int(mask.sum()) == kept_count(len(values), keep)
    dropped = scores[mask == 0].abs()
    assert not len(dropped) or dropped.max() <= scores[mask == 1].abs().min()


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("spread", [1e-30, 1.0, 1e30])
def test_stacked_layers_keep_what_a_sort_says(layers: int, spread: float) -> None:
    # As many as two threads share, and with scores that tie: of those the first ones stay.
    scores = torch.randn(layers, 40, 33, 3, 3, generator=torch.Generator().manual_seed(3)).mul(8).round() * spread / 8
    mask = keep_mask(scores, 0.2, stacked=True).flatten(1)
    order = scores.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
    expected = torch.zeros_like(mask).scatter_(1, order[:, : kept_count(mask.shape[1], 0.2)], 1)
    assert torch.equal(mask, expected)


def test_what_is_not_finite_or_denormal_has_its_place() -> None:
    scores = torch.tensor([0.0, 1e-45, -1e-40, 1e-38, 3e38, -torch.inf, torch.nan])
    masks = [keep_mask(scores, kept / len(scores)) for kept in range(1, len(scores))]
    assert [mask.argmax().item() for mask in masks] == [6, 5, 4, 3, 2, 1]
    assert [int(mask.sum()) for mask in masks] == [1, 2, 3, 4, 5, 6]


def test_a_lower_keep_ratio_keeps_no_others() -> None:
    scores = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    masks = [keep_mask(scores, keep) for keep in (0.1, 0.3, 0.7, 1.0)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_channels_last_scores_mean_the_same(keep: float) -> None:
    scores = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    last = scores.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert torch.equal(keep_mask(last, keep), keep_mask(scores, keep))


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_the_gradient_reaches_kept_and_pruned_scores_by_their_sign(keep: float) -> None:
    scores = torch.tensor([2.0, -1.0, 0.5, -0.1], requires_grad=True)
    (gradient,) = torch.autograd.grad((keep_mask(scores, keep) * torch.tensor([1.0, 2, 3, 4])).sum(), scores)
    assert gradient.tolist() == [1, -2, 3, -4]


def test_initial_scores_rank_by_magnitude_with_unit_spread() -> None:
    weight = 1e-3 * torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    scores = initial_scores(weight)
    assert float(scores.std(correction=0)) == pytest.approx(1, rel=1e-5)
    assert torch.equal(scores.abs().flatten().argsort(), weight.abs().flatten().argsort())
    assert torch.isfinite(initial_scores(torch.zeros(4))).all()
    assert not initial_scores(weight.clone().requires_grad_()).requires_grad
