"""A limit as a constraint: the augmented Lagrangian on a log-ratio.

With g = log(value / limit), multiplier λ ≥ 0 and penalty ρ the loss gains

    (max(0, λ + ρ·g)² − λ²) / (2ρ)

and after each step λ ← max(0, λ + η·g): the multiplier rises while the limit is violated and falls while there is
room (Hestenes 1969, Powell 1969; the form for inequalities is Rockafellar's). A log-ratio needs no units: 10 % too much
costs the same for bytes and for operations, and the user names limits instead of cost weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Constraint"]


class Constraint:
    """One limit, with its multiplier.

    Args:
        limit: most that the value may be.
        penalty: ρ.
        dual_lr: η, the step of the multiplier.
    """

    def __init__(self, limit: float, *, penalty: float, dual_lr: float) -> None:
        self.limit, self.penalty, self.dual_lr = limit, penalty, dual_lr
        self.multiplier = 0.0

    def loss(self, value: Tensor) -> Tensor:
        """The term for a scalar ``value`` ≥ 0, differentiable."""
        violation = torch.log(value.clamp_min(1e-6 * self.limit) / self.limit)
        force = torch.relu(self.multiplier + self.penalty * violation)
        return (force.square() - self.multiplier**2) / (2 * self.penalty)

    def update(self, value: float) -> None:
        """Move the multiplier after a step that measured ``value``."""
        violation = math.log(max(value, 1e-6 * self.limit) / self.limit)
        self.multiplier = max(0.0, self.multiplier + self.dual_lr * violation)
