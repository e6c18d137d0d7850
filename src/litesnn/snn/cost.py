"""What a network costs: one formula per cost, for search (tensors) and for reports (numbers) alike.

Every cost is per inference and per sample, and none depends on the batch size. Shapes: T timesteps, C channels,
H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.size import position_bits
from litesnn.snn.prune import kept_count

__all__ = [
    "AFFINE_BITS",
    "ENERGY_NOTE",
    "Meter",
    "conv_output",
    "energy_table",
    "fan_out",
    "layer_bytes",
    "model_size_bits",
    "packed_bits",
    "synops",
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


def fan_out(mask_per_input: Tensor, stride: int, height: int, width: int) -> Tensor:
    """How many non-zero weights a spike of each input neuron reaches, borders and strides respected.

    Args:
        mask_per_input: the (possibly soft) mask of a convolution summed over its output channels [C, k, k].
        stride: stride of the convolution; its padding is k // 2.
        height, width: size of the input map.

    Returns:
        [C, H, W].
    """
    kernel = mask_per_input.shape[-1]
    ones = mask_per_input.new_ones(1, 1, conv_output(height, stride), conv_output(width, stride))
    # With padding kernel // 2 the transposed convolution falls short of the input by (size − 1) mod stride.
    rest = ((height - 1) % stride, (width - 1) % stride)
    out = F.conv_transpose2d(ones, mask_per_input[None], stride=stride, padding=kernel // 2, output_padding=rest)
    return out[0]


def synops(mean_spikes: Tensor, fan: Tensor) -> Tensor:
    """SynOps of one layer at each timestep: Σ over input spikes of the non-zero weights that each one reaches.

    Args:
        mean_spikes: mean spikes per sample [T, C, H, W].
        fan: :func:`fan_out` of the layer [C, H, W].

    Returns:
        [T].
    """
    return (mean_spikes * fan).sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Measured:
    """SynOps and Bit-SynOps per timestep of one layer, [T] each."""

    synops: Tensor
    bit_synops: Tensor


class Meter:
    """Collects what a forward pass costs; pass one to count, pass none and nothing is computed."""

    def __init__(self) -> None:
        self.layers: dict[str, Measured] = {}
        self.rates: dict[str, Tensor] = {}

    def add(self, name: str, layer_synops: Tensor, layer_bit_synops: Tensor) -> None:
        """Record a layer's SynOps and Bit-SynOps per timestep, [T] each."""
        self.layers[name] = Measured(layer_synops, layer_bit_synops)

    def add_rate(self, name: str, mean_spikes: Tensor) -> None:
        """Record a population's firing rate per timestep [T] from its mean spikes [T, C, H, W]."""
        self.rates[name] = mean_spikes.mean(dim=(1, 2, 3))

    def bit_synops(self) -> Tensor:
        """Σ over layers of SynOps × bits, per timestep [T]."""
        return torch.stack([layer.bit_synops for layer in self.layers.values()]).sum(0)


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
