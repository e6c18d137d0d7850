"""Parameters that are no weights: numbers that neurons and quantizers learn, of which zero is no good one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["Undecayed", "decay_groups"]


class Undecayed(nn.Parameter):
    """A parameter that the optimizer of the weights has without weight decay."""


def decay_groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters as groups of an optimizer: those that are :class:`Undecayed`, if any, keep their size."""
    groups: list[dict[str, Any]] = [{"params": [each for each in parameters if not isinstance(each, Undecayed)]}]
    if learned := [each for each in parameters if isinstance(each, Undecayed)]:
        groups.append({"params": learned, "weight_decay": 0.0})
    return groups
