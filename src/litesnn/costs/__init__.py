"""The costs of a network: one row per cost, which is all that it takes to limit, search, measure and report one.

A new cost is a module here that makes a :class:`~litesnn.costs.cost.Cost`, and a row in :data:`COSTS`. Nothing here
imports torch.
"""

from __future__ import annotations

from litesnn.costs.cost import Cost
from litesnn.costs.energy import ENERGY
from litesnn.costs.size import MODEL_SIZE, PACKED_BYTES
from litesnn.costs.timesteps import TIMESTEPS
from litesnn.costs.work import BIT_SYNOPS, SYNOPS

__all__ = ["COSTS", "Cost"]

COSTS: dict[str, Cost] = {cost.key: cost for cost in (PACKED_BYTES, BIT_SYNOPS, TIMESTEPS, SYNOPS, MODEL_SIZE, ENERGY)}
"""Every cost by its key, in the order of reports."""
