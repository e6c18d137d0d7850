"""The rules that say when a network is no good: each fires where it should, and is silent where it should be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litesnn.train.judgement import RULES, Curve, Facts, compare_rows, judge, standard_error

RIGHT = ((96, 4), (5, 95))


def facts(
    confusion: tuple[tuple[int, ...], ...] = RIGHT,
    train: tuple[int, ...] | None = None,
    curve: tuple[float, ...] = (),
    rows: int = 1000,
) -> Facts:
    names = tuple(f"c{k}" for k in range(len(confusion)))
    return Facts(names, train or tuple(10 * sum(row) for row in confusion), confusion, curve=Curve(curve, rows))


def fired(found: Facts) -> dict[str, str]:
    return {row["rule"]: row["text"] for row in judge(found)}


def linear(ours: float, theirs: float, rows: int, classes: int = 2) -> Any:
    """The comparison of two classifiers of these accuracies whose errors fall on different rows."""
    labels = [row % classes for row in range(rows)]
    wrong = round((1 - ours) * rows)
    our = [(label + (row < wrong)) % classes for row, label in enumerate(labels)]
    their = [(label + (row >= rows - round((1 - theirs) * rows))) % classes for row, label in enumerate(labels)]
    return compare_rows(labels, our, their, classes)


FIRE: dict[str, Facts] = {
    "near_chance": facts(((50, 50), (48, 52))),
    "below_linear": replace(facts(), linear=linear(0.80, 0.95, 200)),
    "level_with_linear": replace(facts(), linear=linear(0.955, 0.95, 200)),
    "never_found": facts(((90, 5, 5), (5, 90, 5), (4, 6, 0))),
    "no_majority": facts(((830, 70), (20, 80)), train=(900, 100)),
    "rising": facts(curve=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75)),
    "out_of_balance": facts(train=(1100, 100)),
    "uncertain": facts(((9, 1), (1, 9))),
}
"""By the name of a rule, facts at which it fires."""


FLAT = tuple(0.95 + 0.002 * (-1) ** epoch for epoch in range(20))
GOOD = replace(facts(curve=(0.6, 0.8, 0.9, *FLAT)), linear=linear(0.95, 0.80, 200))


def test_every_rule_is_silent_on_a_good_network_and_says_one_line_with_figures() -> None:
    assert RULES
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.says(GOOD) is None, rule.name
        assert len(rule.label) <= 27  # fits its column of the terminal's table
        for found in FIRE.values():
            text = rule.says(found)
            assert text is None or ("\n" not in text and any(letter.isdigit() for letter in text)), rule.name


@pytest.mark.parametrize("name", list(FIRE))
def test_a_rule_fires_where_it_should(name: str) -> None:
    assert name in fired(FIRE[name])


@given(
    st.integers(1, 5).flatmap(
        lambda k: st.tuples(
            st.lists(st.lists(st.integers(0, 30), min_size=k, max_size=k), min_size=k, max_size=k),
            st.lists(st.integers(0, 50), min_size=k, max_size=k),
            st.lists(st.floats(0, 1), max_size=12),
        )
    )
)
def test_no_facts_break_a_rule(made: tuple[list[list[int]], list[int], list[float]]) -> None:
    confusion, train, curve = made
    confusion[0][0] += 1
    found = facts(tuple(map(tuple, confusion)), tuple(train), tuple(curve), rows=len(curve))
    assert {row["rule"] for row in judge(found)} <= {rule.name for rule in RULES}
    assert len(found.per_class()) == len(confusion)
    assert 0 <= found.balanced_accuracy <= 1


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_majority_vote_is_no_success(classes: int) -> None:
    """99 % accuracy at 99:1, and nothing learned: grave, and nothing is called good."""
    rows = (99 * (classes - 1), *[1] * (classes - 1))
    confusion = tuple((count, *[0] * (classes - 1)) for count in rows)
    found = facts(confusion, train=tuple(10 * count for count in rows))
    assert found.accuracy == pytest.approx(0.99)
    assert found.balanced_accuracy == pytest.approx(1 / classes)
    said = judge(found)
    assert said[0]["rule"] == "near_chance"
    assert said[0]["grave"]
    assert {"near_chance", "never_found", "out_of_balance"} <= set(fired(found))
    assert "0 of 1" in fired(found)["never_found"]


def test_a_detector_of_rare_events_is_no_failure() -> None:
    """Below the majority in accuracy, far above chance in balanced accuracy."""
    found = facts(((9700, 200), (10, 90)), train=(9900, 100))
    said = fired(found)
    assert set(said) == {"no_majority", "out_of_balance"}
    assert "always answering 'c0' has 99.0%" in said["no_majority"]
    assert "99 times" not in said["out_of_balance"]
    assert "'c1' is recognised in 90.0% of cases" in said["out_of_balance"]


def test_chance_is_told_from_noise_and_from_little() -> None:
    """16 % of ten classes on 360 rows is beyond noise, and still near chance; 9 % of a thousand classes is not."""

    def of(classes: int, right: int, wrong: int) -> Facts:
        rows = np.full((classes, classes), wrong)
        np.fill_diagonal(rows, right)
        return facts(tuple(map(tuple, rows.tolist())))

    assert "near_chance" in fired(of(10, 7, 4))
    assert of(10, 7, 4).accuracy == pytest.approx(7 / 43)
    assert "near_chance" not in fired(of(10, 12, 4))
    thousand = np.zeros((1000, 1000), int)
    for label in range(1000):
        thousand[label, label] = 1
        thousand[label, (label + np.arange(1, 10)) % 1000] = 1
    assert "near_chance" not in fired(facts(tuple(map(tuple, thousand.tolist()))))


def test_random_guesses_seldom_pass() -> None:
    """Predictions without relation to the labels: one in twenty gets over the bound of one-sided 95 %, not more."""
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(200):
        labels, guesses = rng.integers(0, 2, 4000), rng.random(4000) < rng.uniform(0.05, 0.95)
        counts = np.bincount(2 * labels + guesses, minlength=4).reshape(2, 2)
        passed += "near_chance" not in fired(facts(tuple(map(tuple, counts.tolist()))))
    assert passed == 0  # the effect has to be large as well


@pytest.mark.parametrize(
    ("ours", "theirs", "rows", "rule"),
    [
        (0.40, 0.82, 1000, "below_linear"),
        (0.95, 0.95, 360, "level_with_linear"),
        (0.96, 0.95, 360, "level_with_linear"),
        (0.94, 0.95, 360, "level_with_linear"),
        (1.0, 1.0, 30, "level_with_linear"),
        (0.96, 0.95, 20000, None),
        (0.95, 0.80, 200, None),
    ],
)
def test_a_linear_classifier_is_the_yardstick(ours: float, theirs: float, rows: int, rule: str | None) -> None:
    found = replace(facts(), linear=linear(ours, theirs, rows))
    assert set(fired(found)) & {"below_linear", "level_with_linear"} == ({rule} if rule else set())


def test_two_classifiers_are_compared_row_by_row() -> None:
    """Ten rows: both right 6, we alone 2, it alone 1, neither 1."""
    labels = [0] * 10
    ours = [0] * 8 + [1, 1]
    theirs = [0] * 6 + [1, 1, 0, 1]
    found = compare_rows(labels, ours, theirs, 3)
    assert found.accuracy == found.balanced_accuracy == 0.7
    assert found.gain == found.balanced_gain == pytest.approx(0.1)
    assert found.gain_error == found.balanced_gain_error == pytest.approx(math.sqrt((0.3 - 0.01) / 10))
    assert compare_rows([0, 1], [0, 1], [0, 1], 2).certainty == 0
    assert compare_rows([0, 1], [0, 1], [1, 0], 2).certainty == math.inf


def test_balanced_gain_counts_each_class_alike() -> None:
    """A majority vote beats us in accuracy, we it in balanced accuracy: nothing says that it is better."""
    labels = [0] * 990 + [1] * 10
    ours = [1] * 30 + [0] * 960 + [1] * 10
    found = compare_rows(labels, ours, [0] * 1000, 2)
    assert found.gain == pytest.approx(-0.02)
    assert found.balanced_gain == pytest.approx((1 - 30 / 990) / 2)
    assert found.certainty > 1.645


def cosine_curve(epochs: int, first: float, last: float, late: float, noise: float, seed: int = 0) -> tuple[float, ...]:
    """A curve that rises steeply, then to ``last``; the last third brings ``late``, all but the last tenth of it."""
    rng = np.random.default_rng(seed)
    at = np.linspace(0, 1, epochs)
    early = first + (last - late - first) * (1 - np.exp(-6 * np.minimum(at, 2 / 3)))
    values = early + late * np.clip((at - 2 / 3) / (0.9 - 2 / 3), 0, 1) + rng.normal(0, noise, epochs)
    return tuple(values.tolist())


CIFAR10_S = (
    "43.6 48.8 54.0 57.3 55.2 63.1 64.2 56.2 63.3 68.2 65.0 63.1 66.9 68.8 67.8 70.2 68.5 69.9 71.9 72.9 72.4 71.6 "
    "73.8 73.8 74.4 72.2 76.0 75.9 77.0 75.7 77.8 77.6 77.8 78.8 79.4 79.2 79.7 79.1 79.7 80.0"
)
"""Validation accuracy of ``benchmarks/results/cifar10_s``: its learning rate ends at 0, and so does its climb."""


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("epochs", [4, 6, 12, 30, 100])
def test_flat_curves_are_not_still_rising(epochs: int, seed: int) -> None:
    flat = cosine_curve(epochs, 0.9, 0.9, 0.0, 0.005, seed)
    assert "rising" not in fired(facts(curve=flat, rows=300))
    if epochs >= 12:
        settled = cosine_curve(epochs, 0.3, 0.9, 0.03, 0.005, seed)
        assert "rising" not in fired(facts(curve=settled, rows=300))


def test_real_curves_that_settled() -> None:
    curve = tuple(float(value) / 100 for value in CIFAR10_S.split())
    confusion = tuple(tuple(100 if i == j else 1 for j in range(10)) for i in range(10))
    assert "rising" not in fired(facts(confusion, curve=curve, rows=10000))
    assert "rising" in fired(facts(confusion, curve=curve[:4], rows=10000))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("epochs", [5, 12, 40])
def test_rising_curves_are_told(epochs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = tuple((np.linspace(0.2, 0.8, epochs) + rng.normal(0, 0.005, epochs)).tolist())
    (text,) = [row["text"] for row in judge(facts(curve=curve, rows=2000)) if row["rule"] == "rising"]
    assert f"of {epochs} epochs" in text
    fallen = (*curve[:-2], 0.3, 0.3)
    assert "rising" not in fired(facts(curve=fallen, rows=2000))


@pytest.mark.parametrize("curve", [(), (0.1,), (0.1, 0.9), (0.1, 0.5, 0.9)])
def test_too_few_epochs_say_nothing(curve: tuple[float, ...]) -> None:
    assert "rising" not in fired(facts(curve=curve))


def test_per_class_figures() -> None:
    first, second, third = facts(((8, 2, 0), (0, 5, 0), (0, 0, 0)), train=(80, 40, 20)).per_class()
    assert first == {"class": "c0", "recall": 0.8, "precision": 1.0, "test_rows": 10, "train_rows": 80}
    assert second == {"class": "c1", "recall": 1.0, "precision": 5 / 7, "test_rows": 5, "train_rows": 40}
    assert (third["recall"], third["precision"], third["test_rows"]) == (None, None, 0)


def test_standard_errors() -> None:
    assert standard_error(0.5, 10000) == pytest.approx(0.005, rel=1e-3)
    assert standard_error(1.0, 30) == pytest.approx(math.sqrt(32 / 34 * 2 / 34 / 34))
    assert "± 4.0 points" in fired(facts(((15, 0), (0, 15))))["uncertain"]


def test_many_lost_classes_are_counted_and_long_names_cut() -> None:
    classes = 9
    confusion = tuple((30, *[0] * (classes - 1)) for _ in range(classes))
    found = replace(facts(confusion), classes=tuple("x" * 40 + str(k) for k in range(classes)))
    text = fired(found)["never_found"]
    assert "and 3 more" in text
    assert len(text) < 300
