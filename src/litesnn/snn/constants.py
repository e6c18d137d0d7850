"""Small tensors of constants, made once for each device: one sent in every step makes the CPU wait for the GPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["constant", "indices"]


@cache
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of numbers, or of equally long tuples of them. It is shared: never change it."""
    return torch.tensor(values, dtype=dtype, device=device)


def indices(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A :func:`constant` to index with."""
    return constant(values, torch.int64, device)
