"""Conditions for several processes to share a stage: the same data everywhere, and batches of equal parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from litesnn import processes
from litesnn.config import Recipe
from litesnn.data.sources import Data
from litesnn.errors import InputError
from litesnn.strategies import strategy_named

__all__ = ["require_equal_parts", "require_same_data"]


def require_equal_parts(recipe: Recipe, stages: Collection[str], data: Data | None = None) -> None:
    """Refuse batches that several processes cannot share equally; those of the data once they are there.

    Raises:
        InputError: a batch does not divide by the number of processes (the message names the recipe's key), or some
            process would have no image at all.
    """
    count = processes.count()
    for name, split in [] if data is None else [("training", data.train), ("validation", data.validation)]:
        if len(split.y) < count:
            raise InputError(f"{len(split.y)} {name} images are too few for {count} processes; expected one for each")
    for stage, size in (("search", recipe.search.batch_size), ("train", recipe.train.batch_size)):
        if stage not in stages:
            continue
        key = f"{stage}.batch_size"
        if size % count:
            raise InputError(f"{key} is {size}, but {count} processes need a multiple of {count}")
        for name, rows in [] if data is None else _rows_of(recipe, stage, data):
            if rows < size and rows % count:
                raise InputError(
                    f"the {rows} {name} images are less than a batch ({key} is {size}), and {count} processes cannot "
                    f"share them equally; expected {key} of at most {rows // count * count}, or fewer processes"
                )


def require_same_data(data: Data) -> None:
    """Refuse data that are not those of the first process.

    Raises:
        InputError: this process has found other data in the place that the recipe names.
    """
    if processes.count() == 1:
        return
    digest = hashlib.sha256(repr((data.shape, data.kind, data.mean, data.std, data.classes, data.front_end)).encode())
    for split in (data.train, data.validation):
        digest.update(split.x.contiguous().numpy().data)
        digest.update(split.y.contiguous().numpy().data)
    if processes.share(digest.hexdigest()) != digest.hexdigest():
        raise InputError(f"{data.name}: process {processes.rank()} finds other data than process 0")


def _rows_of(recipe: Recipe, stage: str, data: Data) -> list[tuple[str, int]]:
    """The splits from which a stage takes batches, with their numbers of rows."""
    train, validation = len(data.train.y), len(data.validation.y)
    if stage == "train":
        return [("training", train)]
    strategy = strategy_named(recipe.search.update)
    if strategy.joins_splits:
        return [("training and validation", train + validation)]
    if strategy.update is None:
        return []
    return [("training", train), ("validation", validation)]
