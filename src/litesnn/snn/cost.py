"""Counts of a forward pass: SynOps and Bit-SynOps of every layer, and firing rates.

A graded spike is as many spikes as there are ones among its bits, one for each bit plane that adds a weight for it; a
neuron that emits one fires once, whatever its size. There are other ways to compute with it (:data:`Way`).

All counts are per inference and per sample. Shapes: T timesteps, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from litesnn.snn.constants import constant

__all__ = [
    "WAYS",
    "Axis",
    "Meter",
    "Way",
    "conv_output",
    "synops",
    "tap_spikes",
    "taps_along",
]


Way = Literal["virtual", "values"]
"""How graded spikes 0…D may be computed with besides bit planes: as binary spikes of D virtual timesteps, where a spike
k is k spikes; or as values, where it takes one multiplication by a weight."""

WAYS: tuple[Way, ...] = ("virtual", "values")


def conv_output(size: int, stride: int) -> int:
    """Height or width behind a convolution of odd kernel with padding kernel // 2."""
    return -(-size // stride)


def tap_spikes(mean_spikes: Tensor, kernel: int, stride: int) -> Tensor:
    """How many spikes each position of a convolution's kernel meets, borders and strides respected.

    Args:
        mean_spikes: mean spikes per sample [T, C, H, W].
        kernel: odd kernel size k; the padding is k // 2. 1 for what is no convolution.
        stride: stride of the convolution.

    Returns:
        [T, C, k, k]: the spikes of input channel C that a weight at this position of the kernel is added for.
    """
    axis = Axis(kernel, stride, kernel // 2, kernel // 2)
    return taps_along(mean_spikes, axis, axis)


@dataclass(frozen=True)
class Axis:
    """A convolution along the rows or the columns: size of the kernel, and zeros before and after the input."""

    kernel: int
    stride: int
    before: int
    after: int
    dilation: int = 1

    def outputs(self, size: int) -> int:
        """Places behind the convolution."""
        return (size + self.before + self.after - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def taps_along(mean_spikes: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """:func:`tap_spikes` of a convolution that need not be square: [T, C, H, W] → [T, C, kernel rows, columns]."""
    (height, width), kind = mean_spikes.shape[-2:], (mean_spikes.dtype, mean_spikes.device)
    pixels = mean_spikes.permute(0, 2, 3, 1)  # [T, H, W, C], as maps that are channels_last lie in memory
    met = _taken(height, rows, *kind) @ pixels.flatten(2)  # [T, kernel rows, W·C]
    met = _taken(width, columns, *kind) @ met.view(*met.shape[:2], width, -1)  # [T, kernel rows, kernel columns, C]
    return met.permute(0, 3, 1, 2)


@cache
def _taken(size: int, axis: Axis, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which of ``size`` places each of a kernel's rows (or columns) reads, over all outputs [k, size] of 0. and 1."""
    taps = torch.arange(axis.kernel)
    read = torch.arange(axis.outputs(size))[:, None] * axis.stride + taps * axis.dilation  # [out, k]
    table = torch.zeros(axis.kernel, axis.before + size + axis.after)
    table[taps.expand_as(read), read] = 1  # no place is read twice
    return table[:, axis.before : axis.before + size].to(device, dtype)


def synops(taps: Tensor, reached: Tensor) -> Tensor:
    """SynOps of one layer at each timestep: Σ over input spikes of the non-zero weights that each one reaches.

    Args:
        taps: :func:`tap_spikes` of the layer's input [T, C, k, k].
        reached: the (possibly soft) mask summed over the output channels [..., C, k, k].

    Returns:
        [..., T].
    """
    return torch.einsum("tckl,...ckl->...t", taps, reached)


@dataclass(frozen=True)
class LayerSynops:
    """SynOps and Bit-SynOps per timestep of one layer, [T] each."""

    synops: Tensor
    bit_synops: Tensor


class Meter:
    """Collects what a forward pass costs; pass one to count, pass none and nothing is computed.

    Args:
        ways: in which graded spikes are counted besides. Where spikes are binary, those are no others.
        costs: whether work is counted too, and not only how often neurons fire; then there are no ``ways``.

    Attributes:
        rates: firing rate per timestep [T] of each population: the share of its neurons that fire.
        neurons: how many neurons each of these has.
        graded: of each population whose spikes are graded, spikes per neuron and timestep [T] in all bit planes.
    """

    def __init__(self, ways: Sequence[Way] = (), *, costs: bool = True) -> None:
        self.ways, self.costs = tuple(ways), costs
        self._blocks: dict[Way | None, list[tuple[tuple[str, ...], Tensor, Tensor]]] = {None: []}
        self.rates: dict[str, Tensor] = {}
        self.neurons: dict[str, int] = {}
        self.graded: dict[str, Tensor] = {}
        self.whole: dict[
            str, Tensor
        ] = {}  # SynOps [T] that layers would cost with all weights, where that was asked for

    @property
    def spikes(self) -> dict[str, Tensor]:
        """Spikes per neuron and timestep [T] of each population, as work counts them.

        These are the firing rates, or of graded spikes those of all bit planes, which may be more than one.
        """
        return {**self.rates, **self.graded}

    @property
    def layers(self) -> dict[str, LayerSynops]:
        """The cost of every layer, by name."""
        return self.layers_by(None)

    def layers_by(self, way: Way | None) -> dict[str, LayerSynops]:
        """The same by one of :attr:`ways`; empty if no spikes are graded."""
        return {
            name: LayerSynops(used, bit_used)
            for names, *block in self._blocks.get(way, ())
            for name, used, bit_used in zip(names, *block, strict=True)
        }

    def add(self, names: Sequence[str], layer_synops: Tensor, layer_bit_synops: Tensor, way: Way | None = None) -> None:
        """Record SynOps and Bit-SynOps per timestep of some layers, [layers, T] each; by ``way`` if there is one."""
        self._blocks.setdefault(way, []).append((tuple(names), layer_synops, layer_bit_synops))

    def add_rate(self, name: str, firing: Tensor, spikes: Tensor | None = None) -> None:
        """Record how often a population fires per timestep.

        ``firing`` [T, C, H, W]: the mean of whether its neurons fire; ``spikes``: of their spikes, if that is another.
        """
        self.rates[name] = firing.mean(dim=(1, 2, 3))
        self.neurons[name] = firing[0].numel()
        if spikes is not None and spikes is not firing:
            self.graded[name] = spikes.mean(dim=(1, 2, 3))

    def firing_rate(self) -> Tensor:
        """The share of all neurons that fire in a timestep, a scalar: the mean over neurons, timesteps and samples.

        0 where no population is known.
        """
        if not self.rates:
            return torch.zeros(())
        rates = torch.stack([rate.mean() for rate in self.rates.values()])
        counts = constant(tuple(self.neurons[name] for name in self.rates), rates.dtype, rates.device)
        return counts @ rates / sum(self.neurons.values())

    def synops(self) -> Tensor:
        """Σ over layers of SynOps, per timestep [T]."""
        return torch.cat([used for _, used, _ in self._blocks[None]]).sum(0)

    def bit_synops(self) -> Tensor:
        """Σ over layers of SynOps × bits, per timestep [T]."""
        return torch.cat([bit_used for _, _, bit_used in self._blocks[None]]).sum(0)
