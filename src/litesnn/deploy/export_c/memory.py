"""Static memory: buffers that live for a span of steps share one arena.

In: sizes and spans. Out: an offset for each buffer, so that no two that live at one step overlap. A buffer's place is
used again as soon as its last reader is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Buffer", "MemoryPlan", "plan_memory"]


@dataclass(frozen=True)
class Buffer:
    """``size`` words that are written at step ``first`` and read until step ``last``, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where each buffer begins, in words; ``words`` of memory in all."""

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    words: int

    @property
    def peak(self) -> int:
        """Words that live at once at the worst step: no plan needs fewer."""
        steps = range(max((buffer.last for buffer in self.buffers), default=0) + 1)
        return max(sum(b.size for b in self.buffers if b.first <= step <= b.last) for step in steps)


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda buffer: (-buffer.size, buffer.first),
    lambda buffer: (buffer.first, -buffer.size),
    lambda buffer: (buffer.first - buffer.last, -buffer.size),
)


def plan_memory(buffers: Sequence[Buffer]) -> MemoryPlan:
    """Place the buffers: each at the lowest place that is free for its whole life; the best of a few orders."""
    best: MemoryPlan | None = None
    for order in _ORDERS:
        offsets = [0] * len(buffers)
        placed: list[int] = []
        for index in sorted(range(len(buffers)), key=lambda i: order(buffers[i])):
            buffer = buffers[index]
            taken = sorted(
                (offsets[other], offsets[other] + buffers[other].size)
                for other in placed
                if buffers[other].first <= buffer.last and buffer.first <= buffers[other].last
            )
            place = 0
            for start, end in taken:
                if start - place >= buffer.size:
                    break
                place = max(place, end)
            offsets[index] = place
            placed.append(index)
        words = max((offset + buffer.size for offset, buffer in zip(offsets, buffers, strict=True)), default=0)
        if best is None or words < best.words:
            best = MemoryPlan(tuple(buffers), tuple(offsets), words)
    assert best is not None
    return best
