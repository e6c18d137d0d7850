"""Gradients of a batch from its parts, one after the other: a step then needs the memory of a part.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from torch import Tensor

__all__ = ["backward_in_parts"]

KeyT = TypeVar("KeyT", bound=Hashable)


def backward_in_parts(
    x: Tensor,
    y: Tensor,
    forward: Callable[..., tuple[Tensor, Mapping[KeyT, Tensor]]],
    parts: int,
    *others: Tensor,
) -> dict[KeyT, Tensor]:
    """Add the gradient of the mean loss over a batch x [B, ...], y [B] to the parameters.

    Args:
        forward: of a part of x, y and the others its mean loss, and values to be told.
        parts: how many micro-batches, as equal as can be; no more than the batch has rows.
        others: what else belongs to the batch, [B, ...] each.

    Returns:
        The means of the values over the batch, without gradients.
    """
    means: dict[KeyT, Tensor] = {}
    parts = min(parts, len(y))
    for part_x, part_y, *more in zip(*(rows.tensor_split(parts) for rows in (x, y, *others)), strict=True):
        share = len(part_y) / len(y)
        loss, values = forward(part_x, part_y, *more)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        for key, value in values.items():
            part = value.detach() * share
            means[key] = means[key] + part if key in means else part
    return means
