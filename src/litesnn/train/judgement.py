"""Whether a trained network is any good: what is measured on test becomes warnings, each of one line.

In: :class:`Facts`, all counted. Out: lines with figures and a hint. :data:`RULES` is the table of
rules, in the order of their weight; the first that fires is the verdict. "Beyond noise" means one-sided 95 %
(:data:`BEYOND_NOISE` standard errors).

Shapes: N test rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["RULES", "Curve", "Facts", "Linear", "Rule", "compare_rows", "judge", "standard_error"]

BEYOND_NOISE = 1.645
"""Standard errors that a difference has to have, to count as one: one-sided 95 % of a normal distribution."""

NEAR_CHANCE = 0.1
"""Near chance: less than this share of the way from chance to 100 %, and less than twice chance."""

LARGE_IMBALANCE = 10.0
"""Training rows of the largest class per row of the smallest, from which accuracy alone misleads."""

LARGE_ERROR = 0.03
"""Standard error of the test accuracy from which it is called uncertain."""

STILL_RISING = 0.1
"""Share of all that validation accuracy climbed above chance that the last third of training may bring.

Learning rates end near 0, so a training that was long enough flattens: CIFAR-10 in 40 epochs climbs 4 % of its way in
the last third, and nothing in the last tenth.
"""

_NAMES = 5
"""Classes that a warning names."""


@dataclass(frozen=True)
class Linear:
    """A linear classifier on test, and the network's accuracy less its own, with the standard error of that."""

    accuracy: float
    balanced_accuracy: float
    gain: float
    gain_error: float
    balanced_gain: float
    balanced_gain_error: float

    @property
    def certainty(self) -> float:
        """Standard errors by which the network is above it, in the measure that is kinder to the network."""
        return max(_ratio(self.gain, self.gain_error), _ratio(self.balanced_gain, self.balanced_gain_error))


@dataclass(frozen=True)
class Curve:
    """Validation accuracy after each epoch of training, on so many rows."""

    accuracy: tuple[float, ...] = ()
    rows: int = 0


@dataclass(frozen=True)
class Facts:
    """The input of the rules. ``confusion`` [K, K]: true class, prediction; ``train_rows`` [K].

    ``longer`` is what to change so that training takes longer.
    """

    classes: tuple[str, ...]
    train_rows: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    linear: Linear | None = None
    curve: Curve = Curve()
    longer: str = "--time, or train.epochs"

    @property
    def test_rows(self) -> tuple[int, ...]:
        """Test rows of each class."""
        return tuple(map(sum, self.confusion))

    @property
    def guesses(self) -> tuple[int, ...]:
        """How often each class was predicted."""
        return tuple(map(sum, zip(*self.confusion, strict=True)))

    @property
    def rows(self) -> int:
        """Test rows."""
        return sum(self.test_rows)

    @property
    def accuracy(self) -> float:
        """Share of test rows that are right."""
        return sum(row[k] for k, row in enumerate(self.confusion)) / self.rows

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """Share of each class's test rows that are right; ``None`` where there are none."""
        return tuple(row[k] / sum(row) if sum(row) else None for k, row in enumerate(self.confusion))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have test rows: chance is one over their number, however rare they are."""
        known = [recall for recall in self.recalls if recall is not None]
        return sum(known) / len(known)

    @property
    def chance(self) -> float:
        """Balanced accuracy of guesses, and of one answer for everything."""
        return 1 / sum(rows > 0 for rows in self.test_rows)

    @property
    def most_frequent(self) -> int:
        """The class with the most training rows."""
        return self.train_rows.index(max(self.train_rows))

    @property
    def majority(self) -> float:
        """Accuracy of always answering the class with the most training rows."""
        return self.test_rows[self.most_frequent] / self.rows

    @property
    def imbalance(self) -> float:
        """Training rows of the largest class for one of the smallest."""
        return max(self.train_rows) / max(1, min(self.train_rows))

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: recall, precision (``None`` where nothing can be divided) and its rows."""
        return [
            {
                "class": name,
                "recall": recall,
                "precision": self.confusion[k][k] / self.guesses[k] if self.guesses[k] else None,
                "test_rows": self.test_rows[k],
                "train_rows": self.train_rows[k],
            }
            for k, (name, recall) in enumerate(zip(self.classes, self.recalls, strict=True))
        ]


@dataclass(frozen=True)
class Rule:
    """A row of :data:`RULES`: ``says`` gives the line, or ``None`` if there is nothing to say.

    ``label`` is the short form; ``grave`` says that the network should not be used as it is.
    """

    name: str
    label: str
    grave: bool
    says: Callable[[Facts], str | None]


def judge(facts: Facts) -> list[dict[str, Any]]:
    """The warnings of all rules that fire, in the order of :data:`RULES`, as ``metrics.json`` has them."""
    found = ((rule, rule.says(facts)) for rule in RULES)
    return [
        {"rule": rule.name, "label": rule.label, "grave": rule.grave, "text": text}
        for rule, text in found
        if text is not None
    ]


def standard_error(share: float, rows: int) -> float:
    """Of a share measured on some rows (Agresti and Coull 1998: two right and two wrong rows more); never 0."""
    middle = (share * rows + 2) / (rows + 4)
    return math.sqrt(middle * (1 - middle) / (rows + 4))


def compare_rows(labels: Sequence[int], ours: Sequence[int], theirs: Sequence[int], classes: int) -> Linear:
    """Two classifiers on the same rows: the standard errors are paired, so that rows both get right do not count.

    Without weights that is McNemar's test; for balanced accuracy each row has the weight 1 / (its class's rows).
    """
    better, worse, right, rows = ([0] * classes for _ in range(4))
    for label, our, their in zip(labels, ours, theirs, strict=True):
        rows[label] += 1
        right[label] += their == label
        better[label] += our == label != their
        worse[label] += their == label != our
    total, known = len(labels), sum(count > 0 for count in rows)
    gain = (sum(better) - sum(worse)) / total
    balanced, variance = 0.0, 0.0
    for up, down, count in zip(better, worse, rows, strict=True):
        if count:
            mean = (up - down) / count
            balanced += mean / known
            variance += ((up + down) / count - mean**2) / count / known**2
    return Linear(
        accuracy=sum(right) / total,
        balanced_accuracy=sum(hits / count for hits, count in zip(right, rows, strict=True) if count) / known,
        gain=gain,
        gain_error=math.sqrt(max(0.0, (sum(better) + sum(worse)) / total - gain**2) / total),
        balanced_gain=balanced,
        balanced_gain_error=math.sqrt(max(0.0, variance)),
    )


# --- the rules ---


def _near_chance(facts: Facts) -> str | None:
    if not _is_near_chance(facts):
        return None
    return (
        f"near chance: balanced accuracy is {facts.balanced_accuracy:.1%}, and one answer for everything has "
        f"{facts.chance:.1%}; do not use this network: check the labels, train longer ({facts.longer}) or "
        "raise the limits"
    )


def _is_near_chance(facts: Facts) -> bool:
    """Not above chance beyond noise, or hardly.

    The noise is that of predictions that have nothing to do with the labels but are as frequent as these are.
    """
    guesses, rows, known = facts.guesses, facts.test_rows, sum(count > 0 for count in facts.test_rows)
    if known < 2:
        return False
    shares = [(count + 1) / (facts.rows + len(guesses)) for count in guesses]
    noise = math.sqrt(sum(q * (1 - q) / count for q, count in zip(shares, rows, strict=True) if count)) / known
    above = facts.balanced_accuracy - facts.chance
    hardly = above < NEAR_CHANCE * (1 - facts.chance) and above < facts.chance
    return above <= BEYOND_NOISE * noise or hardly


def _below_linear(facts: Facts) -> str | None:
    linear = facts.linear
    if linear is None or linear.certainty >= -BEYOND_NOISE:
        return None
    return (
        f"a linear classifier on the same inputs is better: {_accuracies(facts, linear)}; train longer "
        f"({facts.longer}), raise the limits, or do without a network"
    )


def _level_with_linear(facts: Facts) -> str | None:
    linear = facts.linear
    if linear is None or not -BEYOND_NOISE <= linear.certainty <= BEYOND_NOISE:
        return None
    return (
        f"no clear gain over a linear classifier on the same inputs: {_accuracies(facts, linear)}; train longer "
        f"({facts.longer}), raise the limits, or do without a network"
    )


def _accuracies(facts: Facts, linear: Linear) -> str:
    plain = (
        f"it has {linear.accuracy:.1%}, this network {facts.accuracy:.1%} (difference ± {100 * linear.gain_error:.1f})"
    )
    if abs(linear.accuracy - linear.balanced_accuracy) < 0.02 and abs(facts.accuracy - facts.balanced_accuracy) < 0.02:
        return plain
    balanced = f"{linear.balanced_accuracy:.1%} and {facts.balanced_accuracy:.1%}"
    return f"{plain}, balanced {balanced} (± {100 * linear.balanced_gain_error:.1f})"


def _no_majority(facts: Facts) -> str | None:
    if facts.accuracy > facts.majority + BEYOND_NOISE * standard_error(facts.majority, facts.rows):
        return None
    if facts.majority <= 1.2 * facts.chance or _is_near_chance(facts):
        return None  # classes are in balance, or it was said already
    name = _short(facts.classes[facts.most_frequent])
    return (
        f"accuracy of {facts.accuracy:.1%} is no success by itself: always answering {name} has {facts.majority:.1%}; "
        f"judge by balanced accuracy, {facts.balanced_accuracy:.1%}, and by the recall of each class"
    )


def _never_found(facts: Facts) -> str | None:
    lost = [
        f"{_short(name)} (0 of {rows})"
        for name, rows, recall in zip(facts.classes, facts.test_rows, facts.recalls, strict=True)
        if recall == 0
    ]
    if not lost:
        return None
    listed = ", ".join(lost[:_NAMES]) + (f" and {len(lost) - _NAMES} more" if len(lost) > _NAMES else "")
    return f"never recognised on test: {listed}; more training rows of {'it' if len(lost) == 1 else 'them'} may help"


def _out_of_balance(facts: Facts) -> str | None:
    if facts.imbalance <= LARGE_IMBALANCE:
        return None
    least = facts.train_rows.index(min(facts.train_rows))
    recall = facts.recalls[least]
    found = "" if recall is None else f", and {_short(facts.classes[least])} is recognised in {recall:.1%} of cases"
    return (
        f"classes are out of balance: {max(facts.train_rows):,} training rows of "
        f"{_short(facts.classes[facts.most_frequent])}, {min(facts.train_rows):,} of {_short(facts.classes[least])}; "
        f"balanced accuracy is {facts.balanced_accuracy:.1%} where accuracy is {facts.accuracy:.1%}{found}; "
        "more rows of rare classes help"
    )


def _rising(facts: Facts) -> str | None:
    """The last third climbs beyond noise, brings more than its share, and its end is the best or nearly."""
    values, epochs = facts.curve.accuracy, len(facts.curve.accuracy)
    if epochs < 4:
        return None
    window = values[-max(3, math.ceil(epochs / 3)) :]
    size = len(window)
    middle, mean = (size - 1) / 2, sum(window) / size
    spread = sum((place - middle) ** 2 for place in range(size))
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(window)) / spread
    left = [value - mean - slope * (place - middle) for place, value in enumerate(window)]
    scatter = math.sqrt(sum(value**2 for value in left) / (size - 2))
    noise = max(scatter, standard_error(mean, max(1, facts.curve.rows))) / math.sqrt(spread)
    gain, best = slope * (size - 1), max(values)
    last_few = values[-max(2, epochs // 8) :]
    climbed = best - 1 / len(facts.classes)
    if slope <= 2 * noise or max(last_few) < best or gain < STILL_RISING * max(climbed, 0.0):
        return None
    return (
        f"validation accuracy was still rising when training ended: {100 * gain:.1f} points in the last {size} of "
        f"{epochs} epochs, to {values[-1]:.1%}; train longer ({facts.longer})"
    )


def _uncertain(facts: Facts) -> str | None:
    error = standard_error(facts.accuracy, facts.rows)
    if error <= LARGE_ERROR:
        return None
    return (
        f"only {facts.rows:,} test rows: the accuracy of {facts.accuracy:.1%} is uncertain by ± {100 * error:.1f} "
        "points (one standard error); more test rows would tell"
    )


RULES: tuple[Rule, ...] = (
    Rule("near_chance", "accuracy: not usable", True, _near_chance),
    Rule("below_linear", "below a linear classifier", True, _below_linear),
    Rule("never_found", "classes never recognised", True, _never_found),
    Rule("level_with_linear", "no clear gain over linear", False, _level_with_linear),
    Rule("no_majority", "not above the majority", False, _no_majority),
    Rule("rising", "still rising: train longer", False, _rising),
    Rule("out_of_balance", "classes out of balance", False, _out_of_balance),
    Rule("uncertain", "few test rows", False, _uncertain),
)
"""All rules, the weightiest first. A new one is a function and a row."""


def _short(name: str) -> str:
    """A class as a line names it, in quotes."""
    return repr(name if len(name) <= 24 else name[:23] + "…")


def _ratio(value: float, error: float) -> float:
    """In standard errors; 0 is 0, whatever the error."""
    if value == 0:
        return 0.0
    return value / error if error > 0 else math.copysign(math.inf, value)
