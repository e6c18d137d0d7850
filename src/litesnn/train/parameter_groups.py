"""Parameters as groups of the optimizer of the weights: which decay, and which learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from litesnn.config import TrainSettings
from litesnn.snn.undecayed import decay_groups
from litesnn.train.phases import stem_filters

__all__ = ["weight_groups"]


def weight_groups(
    module: nn.Module, weights: Sequence[nn.Parameter], settings: TrainSettings, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The groups of an optimizer with these ``options``; the first one has the weights.

    With ``train.bias_lr``, biases and the offsets of norms are a group of their own, whose ``multiple`` says by what
    :func:`litesnn.training_loop.graphs.set_lr` multiplies its rate. Decay is divided by it, so that a step takes the
    same share of a bias (as airbench94 does, arXiv 2404.00498). A stem that is frozen at first is apart as well: a
    fused step takes no group of which only a part has momentum already.
    """
    named = list(module.named_parameters())
    biases = {id(each) for name, each in named if name.endswith("bias") and each.dim() <= 1}
    biases = set() if settings.bias_lr == 1 else biases
    frozen = set(map(id, stem_filters(module))) if settings.freeze_stem > 0 else set()
    groups = decay_groups([each for each in weights if id(each) not in biases | frozen])
    if apart := [each for each in weights if id(each) in frozen]:
        groups += decay_groups(apart)
    if biases:
        rate = options["lr"]
        group = {
            "params": [each for each in weights if id(each) in biases],
            "multiple": settings.bias_lr,
            "weight_decay": settings.weight_decay / settings.bias_lr,
            "lr": rate.clone() if isinstance(rate, Tensor) else rate,  # set in place, and not that of the other groups
        }
        groups.append(group)
    return groups
