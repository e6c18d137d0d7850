"""Phases of a training: its first epochs may be cheaper, with fewer timesteps, small images, or a stem that is frozen.

In: the shares of the epochs that the settings give, and how far the training is. Out: of each epoch its phase, which
says what the inputs of a step become, how many timesteps it has, and what its work stands for. A phase depends on the
schedule alone, so that a resumed training has the phases of the unbroken one; it changes between two epochs, and the
last epoch is always whole. Validation is always that of the whole network.

- Fewer timesteps: an image is shown for fewer timesteps. Of a recording no event is left out: its T frames are divided
  into as many groups as there are timesteps, and each timestep sees the mean of a group.
- Small images: means of 2 × 2 pixels, so that every map has about a quarter of its pixels.

Budgets are about the whole network, so work that is counted in a reduced step is multiplied by what it leaves out
(T/t, and pixels of the whole image for each of the small one). What else differs is in the ratio of deployed and
trained work that training measures after each epoch, and which begins at 1 anew when this changes.

Shapes: T timesteps, t of a phase, B batch, C channels, H × W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.config import Recipe, TrainSettings
from litesnn.errors import InputError
from litesnn.files import JsonLog
from litesnn.front_end import InputKind
from litesnn.training_loop.schedule import Schedule

__all__ = ["Pace", "Phase", "Phases", "require_phases", "stem_filters"]


@dataclass(frozen=True)
class Phase:
    """What an epoch leaves out; by default nothing.

    Attributes:
        timesteps: t, if it is fewer than the network has; ``None``: all.
        of: T, the timesteps that the network has, if a step has fewer.
        pixels: of the whole image for each pixel of the small one; 1: images are whole.
        frozen: whether the stem keeps its filters.
    """

    timesteps: int | None = None
    of: int = 1
    pixels: float = 1.0
    frozen: bool = False

    @property
    def reduced(self) -> bool:
        """Whether steps do less work than those of the whole network."""
        return self.times > 1

    @property
    def times(self) -> float:
        """The work of the whole network for that of a step."""
        return self.pixels * (1.0 if self.timesteps is None else self.of / self.timesteps)

    @property
    def share(self) -> float:
        """The time of a step, in steps of the whole network: as its work."""
        return 1 / self.times

    def inputs(self, x: Tensor) -> Tensor:
        """What a step sees of images [B, C, H, W], or of frames [B, T or more, C, H, W]."""
        if self.timesteps is not None and x.dim() == 5:
            groups = x[:, : self.of].tensor_split(self.timesteps, dim=1)
            x = torch.stack([group.mean(1) for group in groups], dim=1)
        if self.pixels == 1:
            return x
        small = F.avg_pool2d(x.flatten(0, -4), 2, ceil_mode=True, count_include_pad=False)
        return small.view(*x.shape[:-2], *small.shape[-2:])

    @property
    def options(self) -> dict[str, int]:
        """Arguments of the network's forward pass."""
        return {} if self.timesteps is None else {"timesteps": self.timesteps}


@dataclass(frozen=True)
class Phases:
    """All phases of a training.

    Attributes:
        settings: with the shares of the epochs.
        timesteps: T.
        size: H and W.
    """

    settings: TrainSettings
    timesteps: int
    size: tuple[int, int]

    @property
    def any(self) -> bool:
        """Whether some epochs do less work than others."""
        return any(phase.reduced for _, phase in self.spans())

    def at(self, schedule: Schedule, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0."""
        return Phase() if epoch + 1 >= schedule.epochs else self._from(schedule.at(epoch))

    def _from(self, progress: float) -> Phase:
        """The phase of epochs that begin at this share of the training."""
        settings, progress = self.settings, progress + 1e-9  # a share of a third is a third of the epochs
        short = progress < settings.short_epochs and settings.short_timesteps < self.timesteps
        pixels = 1.0
        if progress < settings.small_images:
            height, width = self.size
            pixels = height * width / (math.ceil(height / 2) * math.ceil(width / 2))
        steps, of = (settings.short_timesteps, self.timesteps) if short else (None, 1)
        return Phase(steps, of, pixels, progress < settings.freeze_stem)

    def spans(self, since: float = 0.0) -> list[tuple[float, Phase]]:
        """The phases after the share ``since`` of the training, each with its share of what is left; they sum to 1."""
        settings = self.settings
        ends = sorted({settings.short_epochs, settings.small_images, settings.freeze_stem, 1.0})
        spans: list[tuple[float, Phase]] = []
        begin = since
        for end in ends:
            if end > begin:
                spans.append(((end - begin) / (1 - since), self._from(begin)))
                begin = end
        return spans or [(1.0, Phase())]

    def epochs(self, schedule: Schedule, done: int) -> float:
        """The work of the first ``done`` epochs, in whole epochs."""
        return sum(self.at(schedule, epoch).share for epoch in range(done))

    def ahead(self, progress: float, seconds: float, steps: float, share: float) -> float:
        """Seconds of the mean epoch after the share ``progress`` of the training, by one that is done.

        Args:
            progress: share of the training that is done.
            seconds: that the epoch took.
            steps: seconds of its steps alone; the rest does not depend on the phase.
            share: of its phase.
        """
        mean = sum(part * phase.share for part, phase in self.spans(progress))
        return seconds - steps + steps / share * mean


class Pace:
    """Seconds of the epochs that are done, and what they say about those to come.

    Args:
        phases: of the training.
        log: ``train.jsonl`` with the epochs that are done.
        done: how many.

    Raises:
        InputError: the log is damaged.
    """

    def __init__(self, phases: Phases, log: Path, done: int) -> None:
        self._phases = phases
        self.taken = JsonLog.numbers(log, "seconds") if done else []
        keys = ("step_seconds", "step_share") if phases.any and done else ()
        self._steps: list[tuple[float, ...]] = list(zip(*(JsonLog.numbers(log, key) for key in keys), strict=True))

    def add(self, seconds: float, steps: float, phase: Phase) -> dict[str, float]:
        """Take in an epoch, with the seconds of its steps alone. Returns what its row of the log says of its phase."""
        self.taken.append(seconds)
        if not self._phases.any:
            return {}
        self._steps.append((steps, phase.share))
        timesteps = self._phases.timesteps if phase.timesteps is None else phase.timesteps
        return {"step_seconds": steps, "step_share": phase.share, "step_timesteps": timesteps}

    def ahead(self, progress: float) -> list[float] | None:
        """Of each epoch that is done, what it says about the seconds of the mean one after this share of the training.

        ``None`` if all epochs are alike.
        """
        if not self._phases.any:
            return None
        rows = zip(self.taken, self._steps, strict=True)
        return [self._phases.ahead(progress, seconds, *steps) for seconds, steps in rows]


def require_phases(recipe: Recipe, shape: tuple[int, int, int], kind: InputKind, *, sound: bool, origin: str) -> None:
    """Refuse phases that inputs of a kind and size cannot have.

    Raises:
        InputError: events or plain numbers are to become smaller, or images with fewer pixels than the strides need.
    """
    settings, model = recipe.train, recipe.model
    if settings.small_images == 0:
        return
    said = f"train.small_images is {settings.small_images:g}, but {origin} holds"
    if kind == "events" or (kind == "array" and not sound):
        raise InputError(f"{said} {'events' if kind == 'events' else 'arrays of numbers'}; expected 0")
    strides, side = model.stem_stride * 2 ** max(model.levels), min(shape[1:])
    if side < 2 * strides:
        raise InputError(
            f"{said} inputs of {shape[1]}×{shape[2]}, which the strides of the network divide by {strides}: half as "
            f"large they would need {2 * strides} or more; expected 0, or fewer model.levels"
        )


def stem_filters(module: nn.Module) -> list[nn.Parameter]:
    """The filters of the stem of a network of ours that is trained, and what their quantizer learns."""
    names = ("network.backbone.stem.conv.weight", "network.backbone.stem.conv.quantization")
    return [parameter for name, parameter in module.named_parameters() if name in names]
