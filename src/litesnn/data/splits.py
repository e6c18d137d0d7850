"""Stratified, deterministic choices of rows: pure functions on label arrays.

In: labels, integers [N]. Out: row numbers, ascending. The same labels in the same order always give the
same rows, whatever the training seed, so that results with different seeds share one test set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["IntArray", "grouped_cut", "stratified_cut", "stratified_limit"]

IntArray = npt.NDArray[np.int64]


def stratified_cut(labels: IntArray, fraction: float, *, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Cut a fraction of the rows off, class by class; returns the rows that rest and the rows cut off.

    A class of n rows gives round(fraction·n) of them, but at least one, and keeps at least one; a class of a
    single row keeps it.
    """
    rank, size = _rank_in_class(labels, seed)
    wanted = np.rint(fraction * size).astype(np.int64)
    cut = rank < np.where(size >= 2, np.clip(wanted, 1, np.maximum(size - 1, 1)), 0)
    return np.flatnonzero(~cut), np.flatnonzero(cut)


def grouped_cut(labels: IntArray, groups: IntArray, fraction: float, *, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Cut whole groups off, so that of every class about a fraction of the rows is cut; returns as stratified_cut.

    Groups [N] come in a random order, and each that brings the classes nearer to their shares is cut. Every class keeps
    at least one row; one that is in several groups also gives at least one, where that is possible.
    """
    if len(labels) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    _, y = np.unique(labels, return_inverse=True)
    _, g = np.unique(groups, return_inverse=True)
    size = np.bincount(y)  # [K]
    pairs, counts = np.unique(g * len(size) + y, return_counts=True)  # of a group and a class, by groups
    kinds, starts = pairs % len(size), np.searchsorted(pairs // len(size), np.arange(g.max() + 2))
    missing, spare = fraction * size, size - 1
    cut = np.zeros(g.max() + 1, bool)

    def take(group: int, *, always: bool) -> None:
        of_group = slice(starts[group], starts[group + 1])
        where, rows = kinds[of_group], counts[of_group]
        gain = ((missing[where] ** 2 - (missing[where] - rows) ** 2) / size[where]).sum()
        if not cut[group] and (rows <= spare[where]).all() and (always or gain > 0):
            cut[group] = True
            missing[where] -= rows
            spare[where] -= rows

    keys = np.random.RandomState(seed).random_sample(len(cut))
    for group in np.argsort(keys, kind="stable"):
        take(int(group), always=False)
    smallest = np.lexsort((keys, np.bincount(g)))
    for kind in range(len(size)):
        for group in smallest:
            if spare[kind] < size[kind] - 1:
                break  # the class has given rows
            if kind in kinds[starts[group] : starts[group + 1]]:
                take(int(group), always=True)
    return np.flatnonzero(~cut[g]), np.flatnonzero(cut[g])


def stratified_limit(labels: IntArray, limit: int, *, seed: int = 0) -> IntArray:
    """At most ``limit`` rows, exactly that many where there are more, in the proportions of the classes.

    Two rows of every class come before all others, since training and validation both need one; where the
    limit is too small for that, as many classes as possible get their first row.
    """
    rank, size = _rank_in_class(labels, seed)
    position = np.maximum(rank - 1, 0) / size  # how far into its class a row stands
    order = np.lexsort((labels, rank, position))
    return np.sort(order[:limit])


def _rank_in_class(labels: IntArray, seed: int) -> tuple[IntArray, IntArray]:
    """For each row, its place in a random order of its class, and the number of rows of that class."""
    if len(labels) == 0:
        return np.zeros(0, np.int64), np.ones(0, np.int64)
    # RandomState, because numpy guarantees its stream for ever; Generator's may change with the version.
    keys = np.random.RandomState(seed).random_sample(len(labels))
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((keys, inverse))
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return rank, counts[inverse]
