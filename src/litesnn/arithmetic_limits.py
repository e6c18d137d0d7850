"""The numbers that bound the arithmetic of every network, in training, in the packed file and in each engine.

The engine's C (``deploy/csrc``) and the microcontroller's (``deploy/mcu``) have them too; a test holds those to these.
"""

from __future__ import annotations

__all__ = ["INPUT_STEPS", "MAX_CODE", "MAX_CURRENT", "MAX_INPUT", "MAX_LOGIT"]

INPUT_STEPS = 32
"""Integer steps of the quantized input per standard deviation. The stem's scales have 1/32 in them."""

MAX_INPUT = 127
"""The largest magnitude of a quantized input, which is an int8."""

MAX_CODE = 15
"""The largest magnitude of a weight's code."""

MAX_CURRENT = 2**30
"""The largest magnitude of a fixed-point current: membranes leak to a quarter, and stay below 4/3·(2^30 + 1) < 2^31."""

MAX_LOGIT = 2**23 - 1
"""The largest magnitude of a fixed-point logit: float32 holds them all, and divided by t·2^F' they still differ."""
