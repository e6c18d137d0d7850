"""Which macro paths come into question for an input, and what the networks on them take. Pure numbers.

In: the height and width of an input, and a recipe that says all else. Out: pairs of the stem's stride and the levels of
the cells, the richest first, and one for little time; packed bytes and Bit-SynOps of uniform networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from litesnn.config import Recipe
from litesnn.costs.cost import Cost
from litesnn.costs.size import PACKED_BYTES, packed_bits
from litesnn.costs.work import BIT_SYNOPS
from litesnn.search.derive import costliest_wirings, fixed_prices, priced_options
from litesnn.snn.backbone import STEM_KERNEL
from litesnn.snn.network import InputInfo

__all__ = [
    "RATE",
    "MacroPath",
    "deep_path",
    "deepest_level",
    "macro_paths",
    "uniform_bytes",
    "uniform_cost",
    "uniform_synops",
    "widest",
]

RATE = 0.2
"""Firing rate that is expected before anything was measured. Trained networks of these recipes had 0.1 to 0.3.

Of graded spikes, that of each bit plane.
"""

_FIRST_MAP = 16
"""Height and width, or the square root of both, of the maps on which the first cells work best for their time."""

_DEEP = 24
"""Height and width, or the square root of both, of inputs that are worth four cells."""

_SMALLEST_MAP = 2
_HEADER_BYTES = 800
"""Bytes of a packed file's header, near enough for a first guess; the exact size is asked for afterwards."""


@dataclass(frozen=True)
class MacroPath:
    """The stem's stride, the level of each cell, and how many channels the stem has for each one of the first cell."""

    stem_stride: Literal[1, 2, 4]
    levels: tuple[int, ...]
    stem_share: int = 1


def macro_paths(height: int, width: int, *, frames: bool = False) -> list[MacroPath]:
    """The macro paths for inputs of a size, from the richest, which sees most detail, to the most frugal.

    With ``frames`` the stem works at every timestep, and halves all that is to be halved before the first cell.
    """
    side, halvings = _side(height, width)
    if side >= _DEEP:
        tried: list[tuple[int, tuple[int, ...]]] = [] if frames else [(halvings - 1, (1, 1, 2, 2))]
        tried += [(halvings, (0, 0, 1, 1)), (halvings, (0, 1, 1)), (halvings, (1, 1, 2))]
    else:
        tried = [(halvings, (0, 1, 1)), (halvings, (1, 1)), (halvings + 1, (0, 1)), (halvings + 1, (1, 1))]
    tried += [(halvings + 1, (0, 1, 1)), (halvings + 1, (1, 1, 2)), (halvings + 2, (1, 1))]
    found: list[MacroPath] = []
    for first, levels in tried:
        path = _path(first, levels, deepest_level(height, width))
        if path is not None and path not in found:
            found.append(path)
    return found or [MacroPath(1, (0, 0))]


def deep_path(height: int, width: int) -> MacroPath:
    """The macro path with the most weights for the time that a training step takes.

    A cell takes the same time on every level, as channels double where the pixels are a quarter; but the weights
    quadruple. Few cells on large maps, and none behind a stem that reads every pixel. Behind such a stem, as few
    channels as the first cell has would let too little through.
    """
    side, halvings = _side(height, width)
    levels = (0, 1, 1, 2) if side >= _DEEP else (0, 1, 1)
    return replace(_path(halvings, levels, deepest_level(height, width)) or MacroPath(1, (0, 0)), stem_share=2)


def _side(height: int, width: int) -> tuple[float, int]:
    """The side of a square of as many pixels, and how often that is halved before the first cell."""
    side = math.sqrt(height * width)
    return side, max(0, round(math.log2(side / _FIRST_MAP)))


def _path(halvings: int, levels: tuple[int, ...], deepest: int) -> MacroPath | None:
    """The path on which so many halvings come before the cells; ``None`` if the input has not enough pixels for it."""
    stem: Literal[1, 2, 4] = 1 if halvings <= 0 else 2 if halvings == 1 else 4
    rest = max(0, halvings - 2)  # what a stem cannot halve, the cells do
    taken = int(math.log2(stem))
    if taken > deepest:
        return None
    return MacroPath(stem, tuple(min(level + rest, deepest - taken, 6) for level in levels))


def deepest_level(height: int, width: int) -> int:
    """How often an input can be halved so that two rows and columns are left."""
    return max(0, int(math.log2(max(1, min(height, width) / _SMALLEST_MAP))))


def uniform_bytes(recipe: Recipe, info: InputInfo, *, bits: int) -> int:
    """Packed bytes, near enough, of a recipe's widest network with so many bits everywhere and the costliest wiring."""
    model = recipe.model
    stem = packed_bits(
        STEM_KERNEL**2 * info.shape[0] * model.stem_channels, model.stem_channels, [(model.io_bits, 1.0, 1.0)]
    )
    return round(_HEADER_BYTES + stem / 8 + uniform_cost(PACKED_BYTES, recipe, info, bits=bits))


def uniform_synops(recipe: Recipe, info: InputInfo, *, bits: int) -> float:
    """Bit-SynOps of the same network at one timestep, if all neurons fire at :data:`RATE`."""
    return uniform_cost(BIT_SYNOPS, recipe, info, bits=bits)


def uniform_cost(cost: Cost, recipe: Recipe, info: InputInfo, *, bits: int) -> float:
    """The price of the same network at one timestep, at those firing rates; of the packed size, that of the cells."""
    search = recipe.search.model_copy(update={"bits": (bits,), "keeps": (1.0,), "widths": (1.0,), "timesteps": 1})
    only = recipe.model_copy(update={"search": search})

    def at_first(price: Any) -> float:
        return float(price[0]) if cost.is_work else float(price)

    spikes = RATE * recipe.model.spike_levels.bit_length()
    cells = max(
        sum(at_first(row[0].prices[cost.key]) for row in priced_options(only, info, edges, spikes))
        for edges in costliest_wirings(only)
    )
    return cells + at_first(fixed_prices(only, info, 1)[cost.key])


def widest(fits: Callable[[int], bool], most: int = 256) -> int:
    """The largest width from 1 to ``most`` that fits, if all narrower ones do; 1 if none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
