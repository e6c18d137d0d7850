"""The compressive convolution (CompConv) and the connection built on it.

    W_eff = Σ_κ M_κ(scores) ⊙ Σ_b softmax(β)_bκ · Q_b(W),   then ONE convolution

With one keep ratio κ this is the paper's layer (LitE-SNN, section 3.2). Several keep ratios are ours; β then has an
entry for each pair of bit-width and keep ratio, because what a keep ratio costs depends on the bit-width: the positions
of the kept weights are paid for once, whatever the bits. With one-hot β it *is* the compressed layer: search, training,
evaluation and packing all come through here.

Shapes: T timesteps, B batch, I input and O output channels, k kernel, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.snn.arithmetic import Arithmetic, Exact, Folded, FoldedGroup
from litesnn.snn.cost import fan_out, synops
from litesnn.snn.neuron import THRESHOLD
from litesnn.snn.prune import initial_scores, keep_mask
from litesnn.snn.quantize import quantize, step_size, weight_codes

__all__ = ["CompConv", "Compression", "Connection", "fold"]

# Sums of integers below this are exact in float32 in any order.
_EXACT_IN_FLOAT32 = 2**24
_LARGEST_CODE, _LARGEST_INPUT = 15, 127


@dataclass(frozen=True)
class Compression:
    """A mixture of bit-widths and keep ratios: ``weights`` [bits, keeps] sums to one."""

    bits: tuple[int, ...]
    keeps: tuple[float, ...]
    weights: Tensor

    @classmethod
    def fixed(cls, bits: int, keep: float, device: torch.device) -> Compression:
        """A finished layer: one bit-width, one keep ratio."""
        return cls((bits,), (keep,), torch.ones(1, 1, device=device))

    def choice(self) -> tuple[int, float]:
        """The bit-width and keep ratio of a finished layer. Raises ``ValueError`` for a mixture."""
        if len(self.bits) != 1 or len(self.keeps) != 1:
            raise ValueError("a mixture has no single bit-width and keep ratio")
        return self.bits[0], self.keeps[0]

    def pairs(self) -> Iterator[tuple[int, float, Tensor]]:
        """Every (bits, keep ratio, weight)."""
        for row, bits in enumerate(self.bits):
            for column, keep in enumerate(self.keeps):
                yield bits, keep, self.weights[row, column]


class CompConv(nn.Module):
    """One weight tensor and one score tensor [O, I, k, k], shared by all bit-widths and keep ratios."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.kernel = stride, kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight)
        self.scores = nn.Parameter(initial_scores(self.weight))

    def masks(self, compression: Compression) -> list[Tensor]:
        """M_κ [O, I, k, k] of every keep ratio. Computed once per optimisation step, like the weight."""
        return [keep_mask(self.scores, keep) for keep in compression.keeps]

    def effective_weight(self, compression: Compression, masks: Sequence[Tensor]) -> Tensor:
        """W_eff [O, I, k, k]."""
        if len(compression.bits) == len(masks) == 1:
            return quantize(self.weight, compression.bits[0]) * masks[0]
        parts = [
            quantize(self.weight, bits) * _mix(compression.weights[row], masks)
            for row, bits in enumerate(compression.bits)
        ]
        return torch.stack(parts).sum(0)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """[N, I, H, W] → [N, O, ceil(H / stride), ceil(W / stride)]."""
        return F.conv2d(x, weight, stride=self.stride, padding=self.kernel // 2)


def _mix(weights: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Σ_i weights_i · tensors_i."""
    return torch.stack([weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]).sum(0)


class Connection(nn.Module):
    """A CompConv (or, for an identity, nothing) followed by batch normalisation: spikes in, currents out.

    Args:
        inputs, outputs: channels.
        kernel: odd kernel size.
        stride: stride of the convolution.
        identity: hand the spikes on without weights; needs equal channels and stride 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, identity: bool = False) -> None:
        super().__init__()
        self.outputs, self.stride = outputs, stride
        self.conv = None if identity else CompConv(inputs, outputs, kernel, stride)
        self.norm = nn.BatchNorm2d(outputs)
        # Currents are normalised to the threshold, not to one, so that neurons start out neither silent nor
        # saturated (threshold-dependent batch normalisation, Zheng et al., AAAI 2021).
        nn.init.constant_(self.norm.weight, THRESHOLD)

    @property
    def kernel(self) -> int:
        """Kernel size; 0 for an identity."""
        return 0 if self.conv is None else self.conv.kernel

    @property
    def weights(self) -> int:
        """Number of weights, pruned ones included."""
        return 0 if self.conv is None else self.conv.weight.numel()

    def masks(self, compression: Compression) -> list[Tensor]:
        """The masks of :meth:`CompConv.masks`; none for an identity."""
        return [] if self.conv is None else self.conv.masks(compression)

    def forward(self, x: Tensor, compression: Compression, masks: Sequence[Tensor]) -> Tensor:
        """[N, I, H, W] → currents [N, O, H', W']."""
        if self.conv is not None:
            x = self.conv.convolve(x, self.conv.effective_weight(compression, masks))
        currents: Tensor = self.norm(x)
        return currents

    def accumulate(self, x: Tensor, folded: Folded) -> Tensor:
        """The integer accumulators Σ code·x of a finished connection, as floats: [N, I, H, W] → [N, O, H', W'].

        In float32, or in float64 for layers so wide that float32 might not hold every integer on the way; the rounding
        guards against convolution algorithms that leave the integers.
        """
        if self.conv is None or folded.codes is None:
            return x
        codes = folded.codes
        if codes[0].numel() * _LARGEST_CODE * _LARGEST_INPUT >= _EXACT_IN_FLOAT32:
            x, codes = x.double(), codes.double()
        return self.conv.convolve(x, codes).round_()

    def measure(
        self,
        compression: Compression,
        masks: Sequence[Tensor],
        mean_spikes: Tensor,
        output_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """SynOps and Bit-SynOps per timestep, [T] each, for mean input spikes [T, I, H, W].

        An identity hands on each spike once, as one bit.

        Args:
            output_weights: how much of each output channel exists [O] (the search over widths); ``None``: all.
        """
        height, width = mean_spikes.shape[-2:]
        present = mean_spikes.new_ones(self.outputs) if output_weights is None else output_weights
        if self.conv is None:
            used = synops(mean_spikes, present[:, None, None].expand(-1, height, width))
            return used, used
        reached = [  # non-zero weights [I, k, k] by keep ratio
            (mask * present[:, None, None, None]).sum(0) for mask in masks
        ]
        bits = compression.weights.new_tensor(compression.bits)[:, None]
        used_by_keep = torch.stack(
            [synops(mean_spikes, fan_out(taps, self.stride, height, width)) for taps in reached]
        )  # [keeps, T]
        shares, bit_shares = compression.weights.sum(0), (bits * compression.weights).sum(0)  # [keeps]
        return shares @ used_by_keep, bit_shares @ used_by_keep


@torch.no_grad()
def fold(
    connections: Sequence[Connection],
    compression: Compression,
    arithmetic: Arithmetic,
    *,
    input_scale: float = 1.0,
    largest_input: int = 1,
) -> FoldedGroup:
    """Batch norm, quantization step and input scale of a population's connections as scales and one bias.

    Args:
        connections: the connections in their order of summation.
        compression: a finished choice, not a mixture.
        arithmetic: rounds them.
        input_scale: what one unit of the integer input is worth (1 for spikes, 1/32 for the analog input).
        largest_input: the largest magnitude of an input (1 for spikes, 127 for the analog input).
    """
    bits, _ = compression.choice()
    exact = []
    bias = torch.zeros(connections[0].outputs, dtype=torch.float64, device=connections[0].norm.weight.device)
    for connection in connections:
        norm = connection.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias += norm.bias.double() - gain * norm.running_mean.double()
        if connection.conv is None:
            exact.append(Exact(None, gain * input_scale, torch.full_like(gain, largest_input)))
            continue
        weight = connection.conv.weight
        codes = weight_codes(weight, bits) * connection.conv.masks(compression)[0]
        step = step_size(weight, bits).double() / 2
        largest = largest_input * codes.double().abs().sum(dim=(1, 2, 3))
        exact.append(Exact(codes, gain * step * input_scale, largest))
    return arithmetic.fold(exact, bias)
