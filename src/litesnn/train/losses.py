"""The loss over time: what training lowers of the logits of all timesteps.

In: the mean logits y_t of timesteps 1…t for every t, the labels, and a teacher's logits if there is one. Out:

    loss = hard(y, labels) + w_self · mean_t KL(y_T ‖ z_t) + w_teacher · mean_t KL(teacher ‖ z_t)

z_t = t·y_t − (t − 1)·y_{t−1} are the logits of timestep t alone; their mean is y_T. ``train.loss`` names the first
term, a row of :data:`LOSSES`. Each KL(p ‖ q) is between softmax(p/τ), which gets no gradient, and softmax(q/τ), times
τ² (Hinton et al., arXiv 1503.02531). Both distillations are those of Yu et al. (ICML 2025, arXiv 2501.15925), whose
settings are w_self = 0.5 and w_teacher = 0.2 beside a hard loss as "tet"; the program that they published has τ = 3.

Shapes: T timesteps, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.config import TrainSettings

__all__ = ["LOSSES", "divergence", "instantaneous", "loss_over_time"]

HardLoss = Callable[[Tensor, Tensor, float], Tensor]
"""Of mean logits y [T, B, K], labels [B] and label smoothing: a scalar."""


def instantaneous(logits: Tensor) -> Tensor:
    """z_t [T, B, K], the logits of each timestep alone, of y_t [T, B, K], the means over timesteps 1…t."""
    elapsed = torch.arange(1, len(logits) + 1, device=logits.device, dtype=logits.dtype)[:, None, None]
    return torch.diff(logits * elapsed, dim=0, prepend=torch.zeros_like(logits[:1]))


def _last(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """CE(y_T)."""
    return F.cross_entropy(logits[-1], labels, label_smoothing=smoothing)


def _tet(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """mean_t CE(z_t): temporal efficient training (Deng et al., ICLR 2022), without its penalty on large logits."""
    each = instantaneous(logits).flatten(0, 1)  # [T·B, K]
    return F.cross_entropy(each, labels.repeat(len(logits)), label_smoothing=smoothing)


LOSSES: dict[str, HardLoss] = {"last": _last, "tet": _tet}
"""What ``train.loss`` may name. A new one is one more row, and its name in the recipe's settings."""


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Mean over t and b of τ²·KL(softmax(target/τ) ‖ softmax(z_t/τ)), a scalar.

    Args:
        logits: z_t [T, B, K].
        target: [B, K], for every timestep; it gets no gradient.
        temperature: τ.
    """
    found = F.log_softmax(logits / temperature, dim=2)
    wanted = F.log_softmax(target.detach() / temperature, dim=1)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(2).mean()


def loss_over_time(
    logits: Tensor, labels: Tensor, settings: TrainSettings, taught: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its terms without their weights, as a log has them.

    Args:
        logits: y_t [T, B, K].
        labels: [B].
        settings: which terms there are, their weights and temperature.
        taught: the teacher's logits [B, K].
    """
    loss = LOSSES[settings.loss](logits, labels, settings.label_smoothing)
    terms = {"train_loss": loss}
    for name, weight, target in (
        ("self_distillation", settings.self_distillation, logits[-1]),
        ("teacher", settings.teacher_weight, taught),
    ):
        if weight and target is not None:
            term = divergence(instantaneous(logits), target, settings.temperature)
            loss, terms[f"train_{name}"] = loss + weight * term, term
    return loss, terms
