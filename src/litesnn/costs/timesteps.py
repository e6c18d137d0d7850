"""Timesteps: a limit that bounds the search itself, so that neither a gradient nor a price has to follow it."""

from __future__ import annotations

import re

from litesnn.costs.cost import Cost

__all__ = ["TIMESTEPS"]

TIMESTEPS = Cost(
    key="timesteps",
    title="Timesteps",
    row="timesteps",
    unit="",
    meaning="most timesteps per inference",
    example="T <= 4",
    expects="timesteps ('T <= 4')",
    pattern=re.compile(  # a number alone is none: 8 may be meant as kilobytes
        r"(?:t ?(?:<=|≤|=) ?(?P<number>\d+)(?: ?timesteps?)?|(?:at most )?(?P<worded>\d+) ?timesteps?)(?P<unit>)"
    ),
    write=lambda limit: f"T <= {limit}",
    say=lambda steps: f"T = {steps:.0f}",
    measured=lambda metrics: metrics["timesteps"],
    whole=True,
    most=64,
    always_compared=True,
)
