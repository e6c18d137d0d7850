"""Learning that has diverged: it stops in one line, before its state replaces the last good checkpoint.

A rate that is too large makes losses or weights infinite or no numbers at all, or weights so large that no later step
of a sensible size moves them. The run folder then remembers (``search.diverged``, ``train.diverged``) that the rates of
this stage may be lowered: the same command with other ones goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.runs import RunFolder

__all__ = ["require_converging"]

_LARGEST = 1e6
"""Of a weight. With the gradient clipped to 5, a rate of 0.1 and momentum, 200,000 steps in one direction get there."""


def require_converging(
    run: RunFolder,
    recipe: Recipe,
    stage: str,
    row: Mapping[str, Any],
    parameters: Iterable[nn.Parameter],
) -> None:
    """Refuse to go on with what an epoch has left if it diverged.

    Args:
        stage: ``search``, ``teacher`` or ``train``.
        row: what was measured in the epoch, its number as ``epoch``; all numbers in it have to be finite.
        parameters: what learns. Reading them waits for the device.

    Raises:
        InputError: it has diverged; the message says how to go on.
    """
    bad = next((key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)), None)
    if bad is not None:
        what = f"{bad} is {row[bad]}"
    elif (largest := _largest(parameters)) <= _LARGEST:
        return
    else:
        what = f"weights have grown to {largest:.3g}"
    write_atomically(run.diverged(stage), what + "\n")
    rate = getattr(recipe, stage).lr
    name = {"search": "search", "teacher": "teacher's training"}.get(stage, "training")
    epoch = int(row["epoch"])
    onward = f"goes on after epoch {epoch - 1}" if epoch > 1 else "begins it anew"
    raise InputError(
        f"{run.path}: the {name} diverged in epoch {epoch}: {what}. Its rate "
        f"{stage}.lr is {rate:g}; with a lower one '{run.go_on_command(f'--set {stage}.lr=…', recipe)}' {onward}"
    )


def _largest(parameters: Iterable[nn.Parameter]) -> float:
    """The largest magnitude of all that are finite; infinite if one is no number, or +∞.

    −∞ is the logit of a number of timesteps that must not be chosen.
    """
    largest = []
    for parameter in parameters:
        values = parameter.detach()
        values = torch.where(values == -torch.inf, 0.0, values).abs()
        largest.append(torch.where(values.isnan(), torch.inf, values).max())
    return float(torch.stack(largest).max()) if largest else 0.0
