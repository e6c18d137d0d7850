"""A shipped recipe on other data than it was written for: what depends on their size and number follows them.

In: the recipe and the data. Out: the recipe with fewer halvings for small images, shifts in proportion, mirroring only
where it does no harm, and as many epochs as a network needs that sees few rows in each. All else stays as written.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from litesnn.config import Recipe
from litesnn.data.sources import Data
from litesnn.planning.macro import deepest_level
from litesnn.planning.mirror import why_mirror
from litesnn.strategies import strategy_named

__all__ = ["HARDLY_BEGUN", "scaled"]

HARDLY_BEGUN = {"search": 150, "train": 1000}
"""Steps below which a stage has hardly begun; epochs are added up to so many."""

_MOST_EPOCHS = 200


def scaled(recipe: Recipe, data: Data, said: Collection[str]) -> tuple[Recipe, dict[str, str]]:
    """The recipe for these data, and a reason for each value that is changed, by dotted key.

    ``said``: dotted keys whose values a person has said, which stay.
    """
    changes: dict[str, tuple[Any, str]] = {}
    height, width = data.shape[1:]
    model, augment = recipe.model, recipe.augment
    size = f"{height}×{width} inputs"
    deepest = deepest_level(height, width)
    stride = next(stride for stride in (4, 2, 1) if stride <= model.stem_stride and stride <= 2**deepest)
    if stride != model.stem_stride:
        changes["model.stem_stride"] = stride, f"{size} instead of {model.stem_stride}"
    left = deepest - (stride.bit_length() - 1)
    levels = tuple(min(level, left) for level in model.levels)
    if levels != model.levels:
        changes["model.levels"] = list(levels), f"{size} cannot be halved more often"
    crop = min(augment.crop, max(1, round(min(height, width) / 8)))
    if crop != augment.crop:
        changes["augment.crop"] = crop, f"{size}: an eighth instead of {augment.crop} pixels"
    if augment.flip:
        harmless, why = why_mirror(data)
        if not harmless:
            changes["augment.flip"] = False, why
    searched = len(data.train.y) + (len(data.validation.y) if strategy_named(recipe.search.update).joins_splits else 0)
    for stage, rows in (("search", searched), ("train", len(data.train.y))):
        settings = getattr(recipe, stage)
        steps = max(1, rows // settings.batch_size)
        epochs = max(settings.epochs, min(_MOST_EPOCHS, -(-HARDLY_BEGUN[stage] // steps)))
        if epochs != settings.epochs:
            reason = f"{steps} steps an epoch with {rows:,} rows: {settings.epochs} would be too few"
            changes[f"{stage}.epochs"] = epochs, reason
    changes = {key: change for key, change in changes.items() if not {key, key.partition(".")[0]} & set(said)}
    values = {key: value for key, (value, _) in changes.items()}
    made = Recipe.from_toml(recipe.to_toml(), origin=f"recipe {recipe.name}", changes=values) if values else recipe
    return made, {key: reason for key, (_, reason) in changes.items()}
