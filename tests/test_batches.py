from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litesnn.data.batches import Samples, generator_for, shuffled_batches, steps_per_epoch


def samples(count: int) -> Samples:
    """Each row holds its own number."""
    numbers = torch.arange(count)
    return Samples((numbers % 100).to(torch.int8).view(-1, 1, 1, 1), numbers)


@given(st.integers(1, 90), st.integers(1, 40), st.none() | st.integers(1, 9))
def test_an_epoch_has_as_many_batches_as_it_says(count: int, size: int, most: int | None) -> None:
    rows = samples(count)
    batches = list(shuffled_batches(rows, size, generator_for(0, "x"), None, most=most))
    whole = max(1, count // size)
    assert len(batches) == steps_per_epoch(rows, size, most) == (whole if most is None else min(whole, most))
    assert {len(y) for _, y in batches} == {min(size, count)}
    seen = torch.cat([y for _, y in batches])
    assert len(set(seen.tolist())) == len(seen)
    for x, y in batches:
        assert torch.equal(x.flatten(), (y % 100).float())


def test_an_epoch_that_ends_early_begins_as_a_whole_one() -> None:
    whole, early = (
        [y.tolist() for _, y in shuffled_batches(samples(60), 7, generator_for(3, "x"), None, most=most)]
        for most in (None, 3)
    )
    assert early == whole[:3]


@pytest.mark.parametrize("most", [None, 2])
def test_every_row_comes_in_some_epoch(most: int | None) -> None:
    seen: set[int] = set()
    for epoch in range(60):
        for _, y in shuffled_batches(samples(40), 9, generator_for(0, epoch), None, most=most):
            seen |= set(y.tolist())
    assert seen == set(range(40))
