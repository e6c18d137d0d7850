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
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from litesnn import processes
from litesnn.snn.arithmetic import Arithmetic, Exact, Folded, FoldedGroup
from litesnn.snn.constants import constant
from litesnn.snn.cost import synops
from litesnn.snn.neuron import THRESHOLD
from litesnn.snn.prune import initial_scores, keep_mask
from litesnn.snn.quantize import quantized, standard_deviation, step_size, weight_codes
from litesnn.snn.strided import conv2d

__all__ = [
    "CompConv",
    "Compression",
    "Connection",
    "accumulate",
    "count_reached",
    "fold",
    "measure",
    "measure_identity",
    "mix_weights",
    "remember",
    "stack_masks",
]

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
        return mix_weights(self.weight[None], compression, [mask[None] for mask in masks])[0]

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """[N, I, H, W] → [N, O, ceil(H / stride), ceil(W / stride)]."""
        return conv2d(x, weight, stride=self.stride, padding=self.kernel // 2)

    @torch.no_grad()
    def exact(self, compression: Compression, gain: Tensor, *, input_scale: float, largest_input: int) -> Exact:
        """The finished layer as integer codes, with a ``gain`` [O] behind it. Arguments as in :func:`fold`."""
        bits, _ = compression.choice()
        codes = weight_codes(self.weight, bits) * self.masks(compression)[0]
        step = step_size(self.weight, bits).double() / 2
        return Exact(codes, gain * step * input_scale, largest_input * codes.double().abs().flatten(1).sum(1))


def stack_masks(convs: Sequence[CompConv], compression: Compression) -> list[Tensor]:
    """:meth:`CompConv.masks` of G layers of equal shape [G, O, I, k, k], for every keep ratio."""
    scores = torch.stack([conv.scores for conv in convs])
    return [keep_mask(scores, keep, stacked=True) for keep in compression.keeps]


def mix_weights(weights: Tensor, compression: Compression, masks: Sequence[Tensor]) -> Tensor:
    """W_eff of G layers of equal shape, each with a quantization step of its own.

    Args:
        weights: [G, O, I, k, k].
        compression: the mixture, the same for all.
        masks: of every keep ratio [G, O, I, k, k].
    """
    mixed: Tensor = _Mixture.apply(compression.bits, weights, compression.weights, *masks)  # type: ignore[no-untyped-call]
    return mixed


class _Mixture(torch.autograd.Function):
    """W_eff = Σ_b Q_b(W) ∘ Σ_κ share_bκ · M_κ, with straight-through gradients, in few passes over the weights."""

    @staticmethod
    def forward(ctx: Any, bits: tuple[int, ...], weights: Tensor, shares: Tensor, *masks: Tensor) -> Tensor:
        deviation = standard_deviation(weights, stacked=True)
        levels = [quantized(weights, deviation, b) for b in bits]
        mixed = torch.zeros_like(weights)
        for level, row in zip(levels, shares, strict=True):
            mixed.addcmul_(level, _mix(row, masks))
        ctx.save_for_backward(shares, *masks, *levels)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad,), (shares, *saved) = grads, ctx.saved_tensors
        _, needs_weights, needs_shares, *needs_masks = ctx.needs_input_grad
        masks, levels = saved[: shares.shape[1]], saved[shares.shape[1] :]
        grad_weights = grad * _mix(shares.sum(0), masks) if needs_weights else None
        grad_shares, grad_masks = None, [None] * len(masks)
        if needs_shares:
            rows = [(grad * level).flatten() for level in levels]
            grad_shares = torch.stack([torch.stack([row @ mask.flatten() for mask in masks]) for row in rows])
        if any(needs_masks):
            grad_masks = [grad * _mix(column, levels) for column in shares.T]
        return None, grad_weights, grad_shares, *grad_masks


def _mix(weights: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Σ_i weights_i · tensors_i."""
    total = tensors[0] * weights[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total.addcmul_(tensor, weight)
    return total


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

    def forward(self, x: Tensor, compression: Compression) -> Tensor:
        """[N, I, H, W] → currents [N, O, H', W'], normalised over the batches of all processes in training.

        For a connection by itself, such as the stem; a cell computes all of its connections at once.
        """
        if self.conv is not None:
            x = self.conv.convolve(x, self.conv.effective_weight(compression, self.conv.masks(compression)))
        count = processes.count()
        if count == 1 or not self.training:
            return self.norm(x)  # type: ignore[no-any-return]
        mean, variance = processes.joint_moments(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
        remember([self], mean.detach()[None], variance.detach()[None], count * x.numel() // self.outputs)
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
        offset = self.norm.bias - scale * mean
        return x * scale[:, None, None] + offset[:, None, None]

    def running(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance [O]."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return mean, variance

    def accumulate(self, x: Tensor, folded: Folded) -> Tensor:
        """The integer accumulators Σ code·x of a finished connection, as floats: [N, I, H, W] → [N, O, H', W'].

        In float32, or in float64 for layers so wide that float32 might not hold every integer on the way; the rounding
        guards against convolution algorithms that leave the integers.
        """
        if self.conv is None or folded.codes is None:
            return x
        return accumulate(self.conv, x, folded.codes)


def accumulate(conv: CompConv, x: Tensor, codes: Tensor) -> Tensor:
    """:meth:`Connection.accumulate` of a layer with these codes."""
    if codes[0].numel() * _LARGEST_CODE * _LARGEST_INPUT >= _EXACT_IN_FLOAT32:
        x, codes = x.double(), codes.double()
    return conv.convolve(x, codes).round_()


def remember(connections: Sequence[Connection], mean: Tensor, variance: Tensor, values: int) -> None:
    """Move running statistics towards those of a batch [E, O], taken over so many values of each channel."""
    momentum = connections[0].norm.momentum
    assert momentum is not None
    means, variances = zip(*(connection.running() for connection in connections), strict=True)
    unbiased = variance * (values / max(1, values - 1))
    torch._foreach_lerp_(means, mean.unbind(), momentum)
    torch._foreach_lerp_(variances, unbiased.unbind(), momentum)
    counts = [connection.norm.num_batches_tracked for connection in connections]
    torch._foreach_add_([count for count in counts if count is not None], 1)


def count_reached(masks: Sequence[Tensor], output_weights: Tensor | None = None) -> Tensor:
    """How many weights of G layers a spike at each position of the kernel reaches [G, keeps, I, k, k].

    Args:
        masks: of every keep ratio [G, O, I, k, k].
        output_weights: how much of each output channel exists [O] (the search over widths); ``None``: all.
    """
    if output_weights is None:
        return torch.stack([mask.sum(1) for mask in masks], dim=1)
    return torch.stack([torch.einsum("goikl,o->gikl", mask, output_weights) for mask in masks], dim=1)


def measure(compression: Compression, reached: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """SynOps and Bit-SynOps per timestep of G convolutions that read the same spikes, [G, T] each.

    Args:
        reached: :func:`count_reached` [G, keeps, I, k, k].
        taps: :func:`~litesnn.snn.cost.tap_spikes` of their input [T, I, k, k].
    """
    used = synops(taps, reached)  # [G, keeps, T]
    weights = compression.weights
    bits = constant(compression.bits, weights.dtype, weights.device)[:, None]
    shares, bit_shares = weights.sum(0), (bits * weights).sum(0)  # [keeps]
    return shares @ used, bit_shares @ used


def measure_identity(taps: Tensor, output_weights: Tensor | None = None) -> Tensor:
    """SynOps per timestep [T] of an identity: it hands on each spike once, as one bit. ``taps`` [T, C, 1, 1]."""
    per_channel = taps.flatten(1)
    return per_channel.sum(1) if output_weights is None else per_channel @ output_weights


@torch.no_grad()
def fold(
    connections: Sequence[Connection],
    compression: Compression,
    arithmetic: Arithmetic,
    *,
    input_scale: float = 1.0,
    largest_input: int = 1,
    factor: Tensor | None = None,
) -> FoldedGroup:
    """Batch norm, quantization step and input scale of a population's connections as scales and one bias.

    Args:
        connections: the connections in their order of summation.
        compression: a finished choice, not a mixture.
        arithmetic: rounds them.
        input_scale: what one unit of the integer input is worth (1 for spikes, 1/32 for the analog input).
        largest_input: the largest magnitude of an input (1 for spikes, 127 for the analog input).
        factor: by which the currents are multiplied [O], float64; ``None``: they are taken as they are.
    """
    exact = []
    bias = torch.zeros(connections[0].outputs, dtype=torch.float64, device=connections[0].norm.weight.device)
    for connection in connections:
        norm = connection.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        offset = norm.bias.double() - gain * norm.running_mean.double()
        if factor is not None:
            gain, offset = gain * factor, offset * factor
        bias += offset
        if connection.conv is None:
            exact.append(Exact(None, gain * input_scale, torch.full_like(gain, largest_input)))
            continue
        exact.append(connection.conv.exact(compression, gain, input_scale=input_scale, largest_input=largest_input))
    return arithmetic.fold(exact, bias)
