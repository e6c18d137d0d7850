"""Encoded images on the device, in batches that depend on seed, epoch and nothing else.

A resumed run therefore sees exactly the batches that the unbroken one would have seen. Several processes draw the same
batches, and each takes its part of them. Shapes: B batch, C channels, H × W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litesnn import processes
from litesnn.data.augment import AugmentSettings, augment, augment_sound
from litesnn.errors import InputError

__all__ = ["Clips", "Samples", "generator_for", "joined", "mirrored_rows", "shuffled_batches", "steps_per_epoch"]


@dataclass(frozen=True)
class Clips:
    """The sound from which inputs are computed, for changes that are exact in sound alone.

    ``x`` int16 [N, S] and ``noise`` int16 [any] are on the device; ``to_input`` computes inputs [B, C, H, W] from clips
    [B, S] of floats in −1…1.
    """

    x: Tensor
    noise: Tensor | None
    to_input: Callable[[Tensor], Tensor]
    sample_rate: int


@dataclass(frozen=True)
class Samples:
    """``x`` int8 [N, C, H, W] or [N, T, C, H, W] as the network takes it, and labels ``y`` int64 [N], on the device.

    ``black`` int8 [C] is what a black pixel becomes, and what shifted images are filled with; ``None`` stands for 0.
    ``clips`` is there if augmented batches are to be computed from them.
    """

    x: Tensor
    y: Tensor
    black: Tensor | None = None
    clips: Clips | None = None

    def __len__(self) -> int:
        return len(self.y)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in their order, as they are."""
        for start in range(0, len(self), size):
            yield self.x[start : start + size].float(), self.y[start : start + size]

    def part(self) -> Samples:
        """The rows that this process looks at when all of them go through the rows once; parts may be unequal.

        Raises:
            InputError: there are fewer rows than processes.
        """
        if len(self) < processes.count():
            raise InputError(f"{len(self)} images are too few for {processes.count()} processes; expected one for each")
        part = processes.part(len(self))
        return Samples(self.x[part], self.y[part], self.black)


def joined(first: Samples, second: Samples) -> Samples:
    """The rows of both, one after the other."""
    clips = first.clips
    if clips is not None and second.clips is not None:
        clips = replace(clips, x=torch.cat([clips.x, second.clips.x]))
    return Samples(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]), first.black, clips)


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, for example ``("search", epoch)``."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def steps_per_epoch(rows: Sized, size: int, most: int | None) -> int:
    """Batches that :func:`shuffled_batches` gives of so many rows each."""
    steps = max(1, len(rows) // size)
    return steps if most is None else min(steps, most)


def mirrored_rows(settings: AugmentSettings | None, rows: Sized, seed: int, epoch: int) -> Tensor | None:
    """Which rows are mirrored in an epoch, bool [N] on the CPU, if they alternate (``flip = "alternating"``).

    It depends on the seed and the epoch alone: every second epoch mirrors a row, and which comes first was drawn for
    each row. As in airbench94 (Jordan, 2024, arXiv 2404.00498, section 3.6, there begun by a hash of the row's number).
    ``None`` if rows do not alternate.
    """
    if settings is None or settings.flip != "alternating":
        return None
    first = torch.randint(0, 2, (len(rows),), generator=generator_for(seed, "alternating flip")).bool()
    return first ^ (epoch % 2 == 1)


def shuffled_batches(
    rows: Samples,
    size: int,
    generator: torch.Generator,
    settings: AugmentSettings | None,
    *,
    most: int | None = None,
    mirrored: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches (x float [B, C, H, W] or [B, T, C, H, W], y [B]), of each this process's part.

    All batches have the same size, so that batch statistics mean the same in each; the rows left over at the end of an
    epoch come earlier in another one. A data set smaller than one batch is one batch. There are ``most`` batches, or as
    many as there are rows for. ``mirrored``: :func:`mirrored_rows` of this epoch.
    """
    drawn = torch.randperm(len(rows), generator=generator)
    order = drawn.to(rows.y.device)
    steps, size = steps_per_epoch(rows, size, most), min(size, len(rows))
    part = processes.part(size)
    for start in range(0, steps * size, size):
        chosen = order[start : start + size][part]
        place = (part, size)
        if settings is not None and rows.clips is not None:
            clips = rows.clips
            sound = augment_sound(clips.x[chosen], settings, generator, clips.noise, clips.sample_rate, place=place)
            x = clips.to_input(sound).float()
        else:
            x = rows.x[chosen].float()
        if settings is not None:
            turned = None if mirrored is None else mirrored[drawn[start : start + size][part]]
            x = augment(x, settings, generator, black=rows.black, place=place, mirrored=turned)
        yield x, rows.y[chosen]
