"""The network that engines are compared on: the shape of a searched CIFAR-10 network, with synthetic weights.

A stem of 3×3 and cells of three nodes. Node 0 reads both cells before, node 1 the newer one and node 0, node 2 the
nodes 0 and 1, each by two 3×3 convolutions. The codes are those of Gaussian weights; which of them are kept is drawn.
Scales and biases are calibrated population by population on random images, so that every channel fires at one rate.

T timesteps, B batch, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses
from litesnn.deploy.reference import quantize_input
from litesnn.quantizers import MIDRISE

__all__ = ["PROTOTYPE", "Shape", "make_prototype", "random_images", "weights"]

LEAK, THRESHOLD = 0.2, 0.5
CURRENT_STD = 0.35
"""Standard deviation of a population's currents: of the order of the threshold, as after batch normalisation."""


@dataclass(frozen=True)
class Shape:
    """What a network is made of; the defaults are the benchmark's.

    Attributes:
        filters: channels of a node at level 0; twice as many at each further level. The stem has three times as many.
        levels, bits: one for each cell.
        keep: share of weights that are kept in the cells; stem and classifier keep all.
        rate: spikes per neuron and timestep.
        images: how many the calibration uses.
    """

    filters: int = 48
    levels: tuple[int, ...] = (0, 0, 1, 1, 1, 2, 2, 2)
    bits: tuple[int, ...] = (4, 4, 4, 4, 2, 4, 1, 4)
    keep: float = 0.2
    rate: float = 0.1
    timesteps: int = 5
    size: int = 32
    classes: int = 10
    images: int = 8


PROTOTYPE = Shape()


def random_images(count: int, size: int, *, seed: int) -> NDArray[np.uint8]:
    """Noise of independent uniform pixels [count, 3, size, size]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def weights(model: PackedModel) -> tuple[int, int]:
    """Weights of a model, and how many of them are not pruned."""
    codes = [synapses.codes for population in model.populations for synapses in population.synapses]
    codes.append(model.readout.codes)
    return sum(array.size for array in codes), sum(int(np.count_nonzero(array)) for array in codes)


@torch.no_grad()
def make_prototype(shape: Shape = PROTOTYPE, *, seed: int = 0) -> PackedModel:
    """Draw and calibrate the network; the same seed gives the same one."""
    spec = InputSpec((3, shape.size, shape.size), "image", (127.5,) * 3, (73.9,) * 3)
    image = torch.from_numpy(quantize_input(spec, random_images(shape.images, shape.size, seed=seed + 1))).float()
    maker = _Maker(shape, image, torch.Generator().manual_seed(seed))
    stem = maker.add([((IMAGE,), 1)], 3 * shape.filters, bits=4, keep=1.0)
    older: tuple[int, tuple[int, ...]] = (0, (stem,))  # level and populations
    newer = older
    for level, bits in zip(shape.levels, shape.bits, strict=True):
        before = [(older[1], 2 ** (level - older[0])), (newer[1], 2 ** (level - newer[0]))]
        nodes: list[int] = []
        for node in range(3):
            inputs = [*before, *(((index,), 1) for index in nodes)][node : node + 2]
            nodes.append(maker.add(inputs, shape.filters * 2**level, bits=bits, keep=shape.keep))
        older, newer = newer, (level, tuple(nodes))
    return PackedModel(
        spec,
        shape.timesteps,
        LEAK,
        THRESHOLD,
        tuple(map(str, range(shape.classes))),
        tuple(maker.populations),
        maker.read_out(newer[1]),
    )


class _Maker:
    """Adds populations one by one and simulates each; sums of codes are exact in float32."""

    def __init__(self, shape: Shape, image: Tensor, generator: torch.Generator) -> None:
        self.shape, self.generator = shape, generator
        self.image = image  # [B, C, H, W], integers
        self.populations: list[Population] = []
        self.spikes: list[Tensor] = []  # of every population [T, B, C, H, W]

    def add(self, inputs: Sequence[tuple[tuple[int, ...], int]], channels: int, *, bits: int, keep: float) -> int:
        """A population with one 3×3 convolution for each (sources, stride) of ``inputs``; its index."""
        currents: Tensor | None = None
        synapses = []
        for sources, stride in inputs:
            x = self.input(sources)  # [T, B, C_in, H, W], or [1, B, C_in, H, W] of the image
            codes = self.codes((channels, x.shape[2], 3, 3), bits, keep)
            accumulators = F.conv2d(x.flatten(0, 1), codes, stride=stride, padding=1)  # [T·B, C, H', W']
            spread = accumulators.std(dim=(0, 2, 3)).clamp_min(1e-3)
            jitter = 0.8 + 0.4 * torch.rand(channels, generator=self.generator)
            scale = _half(CURRENT_STD / len(inputs) ** 0.5 * jitter / spread)
            part = (scale[:, None, None] * accumulators).view(
                *x.shape[:2], *accumulators.shape[1:]
            )  # [T, B, C, H', W']
            currents = part if currents is None else currents + part
            synapses.append(Synapses(sources, 3, stride, bits, codes.to(torch.int8).numpy(), scale.numpy()))
        assert currents is not None
        currents = currents.expand(self.shape.timesteps, *currents.shape[1:])
        bias, spikes = _calibrate(currents, self.shape.rate)
        self.populations.append(Population(tuple(synapses), bias.numpy(), float(spikes.mean())))
        self.spikes.append(spikes)
        return len(self.spikes) - 1

    def input(self, sources: tuple[int, ...]) -> Tensor:
        """Their maps [T, B, C, H, W]."""
        if sources == (IMAGE,):
            return self.image[None]
        return torch.cat([self.spikes[source] for source in sources], dim=2)

    def codes(self, size: tuple[int, ...], bits: int, keep: float) -> Tensor:
        """Odd integers of ``bits`` bits as floats, the share ``keep`` of them not pruned."""
        codes = MIDRISE.codes(torch.randn(size, generator=self.generator), bits)[0]
        pruned = torch.randperm(codes.numel(), generator=self.generator)[round(keep * codes.numel()) :]
        codes.view(-1)[pruned] = 0
        return codes

    def read_out(self, sources: tuple[int, ...]) -> Readout:
        """A classifier of 4 bits whose logits spread by about one between images."""
        counts = self.input(sources).sum(dim=(0, 3, 4)) / self.shape.timesteps  # [B, C]
        codes = self.codes((self.shape.classes, counts.shape[1]), 4, 1.0)
        totals = counts @ codes.T  # [B, classes]
        scale = _half(1 / totals.std(dim=0).clamp_min(1e-3))
        bias = _half(-scale * totals.mean(dim=0))
        return Readout(sources, 4, codes.to(torch.int8).numpy(), scale.numpy(), bias.numpy())


def _calibrate(currents: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """The bias [C] with which each channel of currents [T, B, C, H, W] fires at ``rate``, and the spikes then."""
    bound = currents.abs().amax(dim=(0, 1, 3, 4)) + 2 * THRESHOLD
    low, high = -bound, bound
    for _ in range(24):
        middle = (low + high) / 2
        too_many = _fire(currents + middle[:, None, None]).mean(dim=(0, 1, 3, 4)) > rate
        low, high = torch.where(too_many, low, middle), torch.where(too_many, middle, high)
    bias = _half(low)
    return bias, _fire(currents + bias[:, None, None])


def _fire(currents: Tensor) -> Tensor:
    """Spikes of LIF neurons (``litesnn.deploy.reference``), [T, B, C, H, W] like their currents."""
    u = torch.zeros_like(currents[0])
    s = torch.zeros_like(u)
    spikes = torch.empty_like(currents)
    for t, x in enumerate(currents):
        u = (LEAK * u) * (1 - s) + x
        s = (u > THRESHOLD).float()
        spikes[t] = s
    return spikes


def _half(values: Tensor) -> Tensor:
    """Rounded to float16, as the format demands."""
    return values.to(torch.float16).to(torch.float32)
