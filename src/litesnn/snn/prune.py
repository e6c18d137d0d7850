"""The pruner: of every layer, the fraction κ (keep ratio) of the weights with the largest |score| is kept.

The gradient goes straight through the mask to the scores (HYDRA, Sehwag et al., NeurIPS 2020; LitE-SNN, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["initial_scores", "keep_mask", "kept_count"]


def kept_count(weights: int, keep: float) -> int:
    """How many of ``weights`` weights a keep ratio leaves: rounded, and at least one."""
    return max(1, min(weights, round(weights * keep)))


def initial_scores(weight: Tensor) -> Tensor:
    """Scores that rank the weights by magnitude, of unit spread so that one learning rate suits every layer."""
    return weight.detach() / weight.detach().std(correction=0).clamp_min(1e-8)


def keep_mask(scores: Tensor, keep: float, *, stacked: bool = False) -> Tensor:
    """The mask M [shape of ``scores``] of ones and zeros with exactly :func:`kept_count` ones.

    With ``stacked``, the first dimension counts layers of equal shape, and each keeps so many of its own.
    """
    mask: Tensor = _KeepLargest.apply(scores, keep, len(scores) if stacked else 1)  # type: ignore[no-untyped-call]
    return mask


class _KeepLargest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: float, layers: int) -> Tensor:
        ctx.save_for_backward(scores)
        mask = torch.zeros_like(scores, memory_format=torch.contiguous_format)
        weights = scores.numel() // layers
        kept = kept_count(weights, keep)
        if kept == weights:
            return mask.fill_(1)
        # reshape, not view: a channels-last tensor has no flat view. topk keeps the count exact when scores tie.
        largest = torch.topk(scores.abs().reshape(layers, weights), kept, sorted=False).indices
        mask.view(layers, weights).scatter_(1, largest, 1)
        return mask

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (scores,) = ctx.saved_tensors
        return grads[0] * scores.sign(), None, None
