"""A limit as a constraint: the augmented Lagrangian on a log-ratio.

With g = log(value / limit), multiplier λ ≥ 0 and penalty ρ the loss gains

    (max(0, λ + ρ·g)² − λ²) / (2ρ)

and after each step λ ← max(0, λ + η·g): the multiplier rises while the limit is violated and falls while there is
room (Hestenes 1969, Powell 1969; the form for inequalities is Rockafellar's). A log-ratio needs no units: 10 % too much
costs the same for bytes and for operations, and the user names limits instead of cost weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Constraint"]


class Constraint:
    """One limit, with its multiplier, which stays on the device so that no step has to wait for it.

    Args:
        limit: most that the value may be.
        penalty: ρ.
        dual_lr: η, the step of the multiplier.
        device: where the values will be.
    """

    def __init__(self, limit: float, *, penalty: float, dual_lr: float, device: torch.device | str = "cpu") -> None:
        self.limit, self.penalty, self.dual_lr = limit, penalty, dual_lr
        self._multiplier = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def multiplier(self) -> float:
        """λ. Reading it waits for the device."""
        return float(self._multiplier)

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        self._multiplier.fill_(value)

    def loss(self, value: Tensor) -> Tensor:
        """The term for a scalar ``value`` ≥ 0, differentiable, in the type of ``value``."""
        multiplier = self._multiplier.to(value.dtype, copy=True)  # a copy: backward comes after the next update, too
        force = torch.relu(multiplier + self.penalty * self._violation(value))
        return (force.square() - multiplier.square()) / (2 * self.penalty)

    @torch.no_grad()
    def update(self, value: Tensor) -> None:
        """Move the multiplier after a step that measured the scalar ``value``."""
        self._multiplier.add_(self.dual_lr * self._violation(value.double())).clamp_(min=0)

    def _violation(self, value: Tensor) -> Tensor:
        """g, finite for a value of 0."""
        return torch.log(value.clamp_min(1e-6 * self.limit) / self.limit)
