"""The pruner: of every layer, the fraction κ (keep ratio) of the weights with the largest |score| is kept.

The gradient goes straight through the mask to the scores (HYDRA, Sehwag et al., NeurIPS 2020; LitE-SNN, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litesnn.costs.size import kept_count
from litesnn.snn.native_library import address, library, workers

__all__ = ["initial_scores", "keep_mask"]


def initial_scores(weight: Tensor) -> Tensor:
    """Scores that rank the weights by magnitude, of unit spread so that one learning rate suits every layer."""
    return weight.detach() / weight.detach().std(correction=0).clamp_min(1e-8)


def keep_mask(scores: Tensor, keep: float, *, stacked: bool = False) -> Tensor:
    """The mask M [shape of ``scores``] of ones and zeros with exactly :func:`kept_count` ones.

    With ``stacked``, the first dimension counts layers of equal shape, and each keeps so many of its own. Of equal
    scores the first ones stay; on a GPU, and in other types than float32, any of them.
    """
    mask: Tensor = _KeepLargest.apply(scores, keep, len(scores) if stacked else 1)  # type: ignore[no-untyped-call]
    return mask


class _KeepLargest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: float, layers: int) -> Tensor:
        ctx.save_for_backward(scores)
        weights = scores.numel() // layers
        kept = kept_count(weights, keep)
        # reshape, not view: a channels-last tensor has no flat view.
        rows = scores.reshape(layers, weights)
        mask = torch.ones_like(rows) if kept == weights else _largest(rows, kept)
        return mask.view(scores.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (scores,) = ctx.saved_tensors
        return grads[0] * scores.sign(), None, None


def _largest(scores: Tensor, kept: int) -> Tensor:
    """The mask of the ``kept`` largest magnitudes of every row [layers, weights]."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        scores = scores.contiguous()
        mask = torch.empty_like(scores)
        library().lsnn_keep_largest(workers()[0], *scores.shape, kept, address(scores), address(mask))
        return mask
    largest = torch.topk(scores.abs(), kept, sorted=False).indices  # the count is exact when scores tie
    return torch.zeros_like(scores).scatter_(1, largest, 1)
