"""What a training holds down: the work that a budget limits, and how often neurons fire.

The firing rate is the share of all neurons, those of the stem included, that fire in a timestep of the deployed
network: the mean over neurons, timesteps and samples. ``train.firing_rate`` is a target for it, which is held as a
limit on work is (:mod:`litesnn.training_loop.constraint`). Its gradient is the same for every spike, so that it costs
one pass over the spikes; where a limit on work is held too, that pass is there already.

A network that is to fire half as often at once falls silent before its weights have learned anything. So the target
comes down on it in the first third of the training, from a quarter of the neurons (which is about how many fire where
nothing holds them) to what was asked for: :func:`eased`.

What is aimed at is a little lower, by :data:`LIMIT_MARGIN`. Of the networks of all epochs those that meet the target
itself come before all others, so that what goes up and down around the aim is still within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.snn.cost import Meter
from litesnn.snn.predictor import Predictor
from litesnn.training_loop.constraint import Constraint
from litesnn.training_loop.expectation import Fixed, work_costs

__all__ = ["FIRING_RATE", "LIMIT_MARGIN", "eased", "held_limits", "meter_for", "rank_limits", "used", "why_missed"]

FIRING_RATE = "firing_rate"
"""The key of the firing rate among limits, measurements and multipliers."""

LIMIT_MARGIN = 0.97
"""Training aims a little below each limit: the test set fires a little differently from validation."""

_UNHELD = 0.25
"""Share of the neurons that fire in a timestep, about, where nothing holds them."""

_EASED = 1 / 3
"""Share of the training in which the target of the firing rate comes down."""


def eased(limit: float, progress: float) -> float:
    """By what a firing rate is multiplied before it is compared with its limit.

    It is 1 in the end. At first it makes the limit of :data:`_UNHELD`, unless the limit is above that.

    Args:
        limit: most neurons, as a share, that may fire.
        progress: fraction of all steps that are done.
    """
    return float(min(1.0, limit / _UNHELD) ** max(0.0, 1 - progress / _EASED))


def held_limits(recipe: Recipe, device: torch.device) -> dict[str, Constraint]:
    """The limits that training holds: those of the budget on work, and the target of the firing rate."""
    limits = {key: limit for key, limit in recipe.budget.limits().items() if COSTS[key].is_work}
    if recipe.train.firing_rate is not None:
        limits[FIRING_RATE] = recipe.train.firing_rate
    penalty, dual_lr = recipe.train.penalty, recipe.train.dual_lr
    return {
        key: Constraint(LIMIT_MARGIN * limit, penalty=penalty, dual_lr=dual_lr, device=device)
        for key, limit in limits.items()
    }


def rank_limits(recipe: Recipe, limits: Mapping[str, Constraint]) -> dict[str, float]:
    """What the network of an epoch is compared with: the aim of a limit, and of the firing rate the target itself."""
    found = {key: limit.limit for key, limit in limits.items()}
    if recipe.train.firing_rate is not None:
        found[FIRING_RATE] = recipe.train.firing_rate
    return found


def meter_for(keys: Iterable[str]) -> Meter | None:
    """What counts these in a forward pass, and nothing else; ``None``: there are none."""
    wanted = set(keys)
    return Meter(costs=wanted != {FIRING_RATE}) if wanted else None


def used(keys: Iterable[str], meter: Meter, network: Predictor, times: float = 1.0) -> dict[str, Tensor]:
    """Work per sample by the keys of costs, and the firing rate by its own, scalars with a gradient.

    ``times``: so many times the work that was counted.
    """
    wanted = dict.fromkeys(keys)
    work = [key for key in wanted if key != FIRING_RATE]
    found = dict(work_costs(work, Fixed(meter, network.analog_macs, times))) if work else {}
    return found | ({FIRING_RATE: meter.firing_rate()} if FIRING_RATE in wanted else {})


def why_missed(recipe: Recipe, measured: float | None) -> str | None:
    """A warning that the firing rate on validation is beyond its target; ``None`` if it is not, or there is none."""
    target = recipe.train.firing_rate
    if target is None or measured is None or measured <= target:
        return None
    return (
        f"{measured:.1%} of the neurons fire in a timestep on validation, more than the target of {target:.1%}; a "
        "longer training or a larger train.penalty may reach it"
    )
