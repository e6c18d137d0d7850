"""Whether images may be mirrored: told apart by a measurement, not by the names of their classes.

In: the training and validation rows of a data set. Out: whether mirrored images look to a simple classifier like images
of the same class. A ridge regression on small grey and colour pixels learns the training rows; if it knows mirrored
validation rows clearly worse than those rows themselves, left and right mean something: digits, letters, signs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.data.sources import Data

__all__ = ["MirrorTest", "compare_mirrored", "why_mirror"]

_SIDE = 16
_ROWS = 4000
_AT_ONCE = 250
_RIDGE = 1e-2


@dataclass(frozen=True)
class MirrorTest:
    """Accuracy of the simple classifier on validation rows as they are and mirrored, and their number."""

    plain: float
    mirrored: float
    chance: float
    rows: int

    @property
    def informative(self) -> bool:
        """Whether the classifier knows anything at all: it is three standard errors above chance."""
        return self.plain > self.chance + 3 * math.sqrt(self.chance * (1 - self.chance) / self.rows)

    @property
    def harmless(self) -> bool:
        """Whether mirroring costs it no more than noise: two standard errors, or a tenth of what it knows."""
        noise = 2 * math.sqrt(max(self.plain * (1 - self.plain), 1e-9) / self.rows)
        return self.informative and self.plain - self.mirrored <= max(noise, 0.1 * (self.plain - self.chance))


def why_mirror(data: Data) -> tuple[bool, str]:
    """Whether training images may be mirrored, and why. Without colour they may not, whatever was measured."""
    if not data.colour:
        return False, "images without colour may be letters, digits or signs"
    test = compare_mirrored(data)
    found = f"a linear classifier knows {test.plain:.0%} of validation, and {test.mirrored:.0%} of it mirrored"
    if not test.informative:
        return False, f"{found}: too little to tell whether mirroring does harm"
    return test.harmless, f"{found}: mirroring {'is harmless' if test.harmless else 'may do harm'}"


def compare_mirrored(data: Data) -> MirrorTest:
    """Fit the simple classifier to images [N, C, H, W] and ask it for mirrored ones."""
    x, y = _small(data.train.x[_some(len(data.train.y))]), data.train.y[_some(len(data.train.y))]
    rows = _some(len(data.validation.y))
    held_out, answers = _small(data.validation.x[rows]), data.validation.y[rows]
    classes = len(data.classes)
    targets = F.one_hot(y, classes).double()
    mean = x.mean(0)
    features = (x - mean).flatten(1)
    gram = features.T @ features
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram + ridge, features.T @ (targets - targets.mean(0)))

    def accuracy(images: Tensor) -> float:
        scores = (images - mean).flatten(1) @ weights + targets.mean(0)
        return float((scores.argmax(1) == answers).double().mean())

    largest = torch.bincount(answers, minlength=classes).max().item() / len(answers)
    return MirrorTest(accuracy(held_out), accuracy(held_out.flip(3)), float(largest), len(answers))


def _some(rows: int) -> Tensor:
    """Row numbers, evenly over all."""
    return torch.arange(rows)[:: math.ceil(rows / _ROWS)]


def _small(x: Tensor) -> Tensor:
    """Images as float64 [N, C, h, w] of at most 16 × 16 pixels."""
    size = (min(_SIDE, x.shape[2]), min(_SIDE, x.shape[3]))
    parts = [x[start : start + _AT_ONCE] for start in range(0, len(x), _AT_ONCE)]
    return torch.cat([F.adaptive_avg_pool2d(part.float() / 255, size).double() for part in parts])
