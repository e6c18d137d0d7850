"""Timing in turns: every contender once a round, in an order that rotates, so that a busy neighbour disturbs all alike.

A time is the median over the rounds; a ratio is the median of the ratios of each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["in_turns", "number", "numbers", "print_figures", "print_row", "ratio", "seconds_of"]


def seconds_of(function: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    measure: Callable[[Callable[[], object]], float] = seconds_of,
) -> dict[str, list[float]]:
    """What ``measure`` finds for each contender in every round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        for name in order:
            found[name].append(measure(contenders[name]))
        order = [*order[1:], order[0]]
    return found


def ratio(his: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the rounds of his / ours."""
    return statistics.median(a / b for a, b in zip(his, ours, strict=True))


def print_row(*cells: str) -> None:
    """One row of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def print_figures(figures: Mapping[str, float]) -> None:
    """One line per figure: its name, a space and its value."""
    print()
    for name, value in figures.items():
        print(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")


def number(text: str) -> int:
    """A number from 1, as an option's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text}")
    return value


def numbers(text: str) -> list[int]:
    """Numbers from 1 with commas between them, as an option's type."""
    return [number(part) for part in text.split(",")]
