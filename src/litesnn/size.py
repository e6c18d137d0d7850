"""What the positions of kept weights cost, guaranteed: the one formula that the search and the packer share.

No NumPy, no torch: the search's cost model and the packed format both build on it.
"""

from __future__ import annotations

__all__ = ["MAX_RICE", "position_bits"]

MAX_RICE = 30
"""The largest Rice parameter; a gap of 2³⁰ pruned weights is longer than any layer of a packed model."""


def position_bits(weights: float, kept: float) -> float:
    """Bits that are always enough to say which ``kept`` of ``weights`` weights are kept, whatever the pattern.

    0 if all are kept, else ``min(n, min_k kept·(1 + k) + (n − kept)/2^k)`` for n weights: a bitmap costs n bits;
    a Rice code of the gaps spends k low bits and one stop bit on each kept weight, and at most one more bit on
    every 2^k pruned ones. ``litesnn.deploy.bits.encode_positions`` never needs more bytes than this, rounded up.

    The formula scales: ``position_bits(n, keep·n) = n·position_bits(1.0, keep)``, so ``position_bits(1.0, keep)``
    is the price per weight, pruned weights included, at the keep ratio ``keep``. It is at most 1.
    """
    if kept >= weights:
        return 0.0
    rice = min(kept * (1 + k) + (weights - kept) / 2**k for k in range(MAX_RICE + 1))
    return float(min(weights, rice))
