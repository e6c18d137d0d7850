from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litesnn.data.splits import IntArray, grouped_cut, stratified_cut, stratified_limit

labels_of_any_kind = st.lists(st.integers(0, 4), max_size=60).map(lambda values: np.array(values, np.int64))


@given(labels_of_any_kind, st.floats(0.01, 0.99))
def test_a_cut_parts_the_rows_and_takes_from_every_class(labels: IntArray, fraction: float) -> None:
    rest, cut = stratified_cut(labels, fraction)
    assert sorted([*rest, *cut]) == list(range(len(labels)))
    assert list(rest) == sorted(rest)
    assert list(cut) == sorted(cut)
    for label in set(labels.tolist()):
        size, taken = (labels == label).sum(), (labels[cut] == label).sum()
        assert taken == (0 if size == 1 else np.clip(np.rint(fraction * size), 1, size - 1))


@given(labels_of_any_kind, st.integers(1, 70))
def test_a_limit_takes_that_many_rows_in_proportion(labels: IntArray, limit: int) -> None:
    rows = stratified_limit(labels, limit)
    assert len(set(rows.tolist())) == len(rows) == min(limit, len(labels))
    assert list(rows) == sorted(rows)
    counts, taken = (np.bincount(x, minlength=5) for x in (labels, labels[rows]))
    present = np.flatnonzero(counts)
    if limit >= len(present):
        assert (taken[present] >= 1).all()
    if limit >= 2 * len(present):
        assert (taken[present] >= np.minimum(counts[present], 2)).all()


def test_shares_are_those_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    _, cut = stratified_cut(labels, 0.25)
    assert np.bincount(labels[cut]).tolist() == [150, 75, 25]
    assert np.abs(np.bincount(labels[stratified_limit(labels, 100)]) - [60, 30, 10]).max() <= 1


def test_rows_are_fixed_for_good() -> None:
    """Golden rows: a change here would change the test set of every published result."""
    rest, cut = stratified_cut(np.arange(12) % 3, 0.5)
    assert cut.tolist() == [1, 2, 4, 6, 9, 11]
    assert rest.tolist() == sorted(set(range(12)) - {1, 2, 4, 6, 9, 11})
    assert stratified_limit(np.arange(12) % 3, 5).tolist() == [1, 4, 6, 9, 11]


def test_a_seed_gives_other_rows_and_a_larger_cut_holds_the_smaller() -> None:
    labels = np.arange(200) % 2
    _, small = stratified_cut(labels, 0.1)
    _, large = stratified_cut(labels, 0.3)
    _, other = stratified_cut(labels, 0.1, seed=1)
    assert set(small) < set(large)
    assert small.tolist() != other.tolist()
    assert (np.diff(small) != np.diff(small)[0]).any()  # spread, not a block


@pytest.mark.parametrize("limit", [1, 5])
def test_no_rows(limit: int) -> None:
    none = np.zeros(0, np.int64)
    assert [len(rows) for rows in stratified_cut(none, 0.5)] == [0, 0]
    assert len(stratified_limit(none, limit)) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60), st.floats(0.05, 0.6))
def test_groups_are_cut_whole(rows: list[tuple[int, int]], fraction: float) -> None:
    labels, groups = (np.array([row[which] for row in rows], np.int64) for which in (0, 1))
    rest, cut = grouped_cut(labels, groups, fraction)
    assert sorted([*rest, *cut]) == list(range(len(labels)))
    assert not set(groups[rest].tolist()) & set(groups[cut].tolist())
    assert set(labels[rest].tolist()) == set(labels.tolist())


def test_shares_of_groups_are_near_those_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 200, 4000)
    labels = (rng.integers(0, 10, 4000) + groups % 3) % 10
    _, cut = grouped_cut(labels, groups, 0.2)
    shares = np.bincount(labels[cut]) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.03


def test_a_class_in_two_groups_is_on_both_sides() -> None:
    """The class of rows 4 to 6 lies in two groups, whatever share is asked for."""
    labels, groups = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 4, 5, 5])
    rest, cut = grouped_cut(labels, groups, 0.01)
    assert set(labels[cut].tolist()) == set(labels[rest].tolist()) == {0, 1}
