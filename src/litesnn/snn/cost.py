"""What a network costs: one formula per cost, for search (tensors) and for reports (numbers) alike.

Every cost is per inference and per sample, and none depends on the batch size. Shapes: T timesteps, C channels,
H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from litesnn.size import position_bits
from litesnn.snn.prune import kept_count

__all__ = [
    "AFFINE_BITS",
    "ENERGY_NOTE",
    "Axis",
    "Meter",
    "conv_output",
    "energy_table",
    "layer_bytes",
    "model_size_bits",
    "packed_bits",
    "synops",
    "tap_spikes",
    "taps_along",
]

Number = TypeVar("Number", float, Tensor)

AFFINE_BITS = 16
"""Bits of one stored scale or bias (float16)."""


def conv_output(size: int, stride: int) -> int:
    """Height or width behind a convolution of odd kernel with padding kernel // 2."""
    return -(-size // stride)


def model_size_bits(weights: Number, pairs: Iterable[tuple[int, float, Any]]) -> Number:
    """Σ κ · params · bits: a layer's size by the paper's definition (section 3.2), which leaves positions out.

    Args:
        weights: weights of the layer, pruned ones included (a number, or its expectation as a tensor).
        pairs: (bits, keep ratio, probability) of every candidate.
    """
    return weights * sum(p * keep * bits for bits, keep, p in pairs)  # type: ignore[no-any-return]


def packed_bits(weights: Number, outputs: Number, pairs: Iterable[tuple[int, float, Any]]) -> Number:
    """Bits of one layer in the packed file: codes, positions and one scale per output channel.

    Positions are counted with the bound that holds for every mask, so that a budget promised before training
    is still kept after it. Arguments as in :func:`model_size_bits`.
    """
    per_weight = sum(p * (keep * bits + position_bits(1.0, keep)) for bits, keep, p in pairs)
    return weights * per_weight + AFFINE_BITS * outputs  # type: ignore[no-any-return]


def layer_bytes(weights: int, outputs: int, keep: float, bits: int) -> int:
    """:func:`packed_bits` of a finished layer, each stream rounded up to whole bytes as in the file."""
    kept = kept_count(weights, keep)
    codes = math.ceil(kept * bits / 8)
    return codes + math.ceil(position_bits(weights, kept) / 8) + outputs * AFFINE_BITS // 8


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
class Measured:
    """SynOps and Bit-SynOps per timestep of one layer, [T] each."""

    synops: Tensor
    bit_synops: Tensor


class Meter:
    """Collects what a forward pass costs; pass one to count, pass none and nothing is computed."""

    def __init__(self) -> None:
        self._blocks: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
        self.rates: dict[str, Tensor] = {}

    @property
    def layers(self) -> dict[str, Measured]:
        """What every layer costs, by name."""
        return {
            name: Measured(used, bit_used)
            for names, *block in self._blocks
            for name, used, bit_used in zip(names, *block, strict=True)
        }

    def add(self, names: Sequence[str], layer_synops: Tensor, layer_bit_synops: Tensor) -> None:
        """Record the SynOps and Bit-SynOps per timestep of some layers, [layers, T] each."""
        self._blocks.append((tuple(names), layer_synops, layer_bit_synops))

    def add_rate(self, name: str, mean_spikes: Tensor) -> None:
        """Record a population's firing rate per timestep [T] from its mean spikes [T, C, H, W]."""
        self.rates[name] = mean_spikes.mean(dim=(1, 2, 3))

    def bit_synops(self) -> Tensor:
        """Σ over layers of SynOps × bits, per timestep [T]."""
        return torch.cat([bit_used for _, _, bit_used in self._blocks]).sum(0)


ENERGY_NOTE = (
    "Estimate from 45 nm figures (Horowitz, ISSCC 2014): 8-bit addition 0.03 pJ, 8-bit multiplication 0.2 pJ, "
    "32-bit float addition 0.9 pJ and multiplication 3.7 pJ; scaled linearly with the width of the weight. "
    "Memory traffic and control are left out, so real chips need more."
)


def energy_table() -> Mapping[str, float]:
    """Picojoules per operation.

    ===================== ======== ==========================================================
    operation             pJ       from (Horowitz, "Computing's energy problem", ISSCC 2014)
    ===================== ======== ==========================================================
    SynOp with b bits     0.03·b/8 8-bit integer addition 0.03 pJ, linear in the width
    stem MAC 8 × b bits   0.2·b/8  8-bit multiplication 0.2 pJ, linear in one factor's width,
                          + 0.03   and one 8-bit addition
    float MAC             4.6      32-bit multiplication 3.7 pJ and addition 0.9 pJ
    ===================== ======== ==========================================================
    """
    table = {f"synop_{bits}bit": 0.03 * bits / 8 for bits in (1, 2, 3, 4)}
    table |= {f"stem_mac_{bits}bit": 0.2 * bits / 8 + 0.03 for bits in (1, 2, 3, 4)}
    return table | {"float_mac": 4.6}
