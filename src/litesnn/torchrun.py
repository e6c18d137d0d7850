"""Whether this process is one of several that ``torchrun`` started; without torch, which a help text does not need."""

from __future__ import annotations

import os

__all__ = ["is_one_of_several"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several() -> bool:
    """Whether the environment says so: a place among several processes, and where they meet."""
    return all(os.environ.get(name) for name in _VARIABLES) and os.environ["WORLD_SIZE"] != "1"
