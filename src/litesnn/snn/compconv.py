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
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from litesnn import processes
from litesnn.arithmetic_limits import MAX_CODE, MAX_INPUT
from litesnn.costs.size import kept_count
from litesnn.quantizers.midrise import MIDRISE
from litesnn.quantizers.quantizer import Quantizer, straight_through
from litesnn.snn.arithmetic import Arithmetic, Exact, Folded, FoldedGroup
from litesnn.snn.constants import constant
from litesnn.snn.cost import synops
from litesnn.snn.neuron import THRESHOLD
from litesnn.snn.prune import initial_scores, keep_mask
from litesnn.snn.strided import conv2d
from litesnn.snn.undecayed import Undecayed

__all__ = [
    "CompConv",
    "Compression",
    "Connection",
    "accumulate",
    "count_reached",
    "fold",
    "identity_synops",
    "layer_synops",
    "masks_of_codes",
    "mix_weights",
    "remember",
    "stack_masks",
    "stack_weights",
]

# Sums of integers below this are exact in float32 in any order.
_EXACT_IN_FLOAT32 = 2**24


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
    """One weight tensor and one score tensor [O, I/groups, k, k], shared by all bit-widths and keep ratios.

    An output channel reads the inputs of its own group alone; :meth:`dense` puts the weights among zeros, with which
    they are a convolution of all channels. Where a shape says I below, it is I/groups, but for what is dense.

    Args:
        inputs, outputs: channels.
        kernel: odd kernel size.
        stride: stride of the convolution.
        groups: into how many both channels are divided, a divisor of both.
        quantizer: of the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        quantizer: Quantizer = MIDRISE,
    ) -> None:
        super().__init__()
        self.stride, self.kernel, self.groups, self.quantizer = stride, kernel, groups, quantizer
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight)
        self.begin()

    def begin(self) -> None:
        """Scores, and the quantizer's own parameters if it has any, as they are before the weights have learned."""
        self.scores = nn.Parameter(initial_scores(self.weight))
        initial = self.quantizer.initial
        self.quantization = None if initial is None else Undecayed(initial(self.weight.detach()))

    def masks(self, compression: Compression) -> list[Tensor]:
        """M_κ [O, I, k, k] of every keep ratio. Computed once per optimisation step, like the weight."""
        return [keep_mask(self.scores, keep) for keep in compression.keeps]

    def effective_weight(self, compression: Compression, masks: Sequence[Tensor]) -> Tensor:
        """W_eff [O, I, k, k]."""
        own = None if self.quantization is None else self.quantization[None]
        stacked = [mask[None] for mask in masks]
        return mix_weights(self.weight[None], compression, stacked, quantizer=self.quantizer, own=own)[0]

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.weight.shape[1] * self.groups

    def dense(self, weight: Tensor) -> Tensor:
        """A weight (or codes) […, O, I/groups, k, k] as that of a convolution of all channels […, O, I, k, k]."""
        if self.groups == 1:
            return weight
        groups, (outputs, inputs, *size) = self.groups, weight.shape[-4:]
        blocks = weight.reshape(*weight.shape[:-4], groups, outputs // groups, 1, inputs, *size)
        own = _diagonal(groups, weight.dtype, weight.device).view(groups, 1, groups, 1, 1, 1)
        return (blocks * own).reshape(*weight.shape[:-4], outputs, groups * inputs, *size)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """[N, I, H, W] → [N, O, ceil(H / stride), ceil(W / stride)]. ``weight`` is dense."""
        return conv2d(x, weight, stride=self.stride, padding=self.kernel // 2)

    def codes(self, bits: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of the finished layer [O, I, k, k], 0 where not kept, and what a code of 1 is worth, a scalar."""
        codes, unit = self.quantizer.codes(self.weight, bits, self.quantization)
        return codes * mask, unit

    @torch.no_grad()
    def exact(self, compression: Compression, gain: Tensor, *, input_scale: float, largest_input: int) -> Exact:
        """The finished layer as integer codes, with a ``gain`` [O] behind it. Arguments as in :func:`fold`."""
        bits, _ = compression.choice()
        codes, unit = self.codes(bits, self.masks(compression)[0])
        largest = largest_input * codes.double().abs().flatten(1).sum(1)
        return Exact(self.dense(codes), gain * unit.double() * input_scale, largest)

    @torch.no_grad()
    def kept(self, bits: int, keep: float) -> int:
        """How many codes of the finished layer are not 0."""
        if not self.quantizer.has_zero:
            return kept_count(self.weight.numel(), keep)
        return int(self.codes(bits, keep_mask(self.scores, keep))[0].count_nonzero())


@cache
def _diagonal(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A unit matrix. It is shared: never change it."""
    return torch.eye(size, dtype=dtype, device=device)


def stack_masks(convs: Sequence[CompConv], compression: Compression) -> list[Tensor]:
    """:meth:`CompConv.masks` of G layers of equal shape [G, O, I, k, k], for every keep ratio."""
    scores = torch.stack([conv.scores for conv in convs])
    return [keep_mask(scores, keep, stacked=True) for keep in compression.keeps]


def stack_weights(convs: Sequence[CompConv], compression: Compression, masks: Sequence[Tensor]) -> Tensor:
    """:meth:`CompConv.effective_weight` of G layers of equal shape and quantizer [G, O, I, k, k]."""
    own: list[Tensor] = [conv.quantization for conv in convs if conv.quantization is not None]
    return mix_weights(
        torch.stack([conv.weight for conv in convs]),
        compression,
        masks,
        quantizer=convs[0].quantizer,
        own=torch.stack(own) if own else None,
    )


def mix_weights(
    weights: Tensor,
    compression: Compression,
    masks: Sequence[Tensor],
    *,
    quantizer: Quantizer = MIDRISE,
    own: Tensor | None = None,
) -> Tensor:
    """W_eff of G layers of equal shape, each with a quantization step of its own.

    Args:
        weights: [G, O, I, k, k].
        compression: the mixture, the same for all.
        masks: of every keep ratio [G, O, I, k, k].
        quantizer: of all layers.
        own: its parameters [G, P], if it has any.
    """
    mixed: Tensor = _Mixture.apply(  # type: ignore[no-untyped-call]
        quantizer, compression.bits, weights, own, compression.weights, *masks
    )
    return mixed


class _Mixture(torch.autograd.Function):
    """W_eff = Σ_b Q_b(W) ∘ Σ_κ share_bκ · M_κ, with the quantizer's gradients, in few passes over the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        quantizer: Quantizer,
        bits: tuple[int, ...],
        weights: Tensor,
        own: Tensor | None,
        shares: Tensor,
        *masks: Tensor,
    ) -> Tensor:
        prepared = quantizer.prepare(weights, own)
        levels = [quantizer.values(weights, prepared, b) for b in bits]
        mixed = torch.zeros_like(weights)
        for level, row in zip(levels, shares, strict=True):
            mixed.addcmul_(level, _mix(row, masks))
        ctx.quantizer, ctx.bits = quantizer, bits
        needed = () if quantizer.rule is straight_through else (weights, own)
        ctx.save_for_backward(shares, *masks, *levels, *needed)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad,), (shares, *saved) = grads, ctx.saved_tensors
        _, _, needs_weights, needs_own, needs_shares, *needs_masks = ctx.needs_input_grad
        masks, levels, needed = _split(saved, shares.shape[1], shares.shape[0])
        grad_weights = grad_own = grad_shares = None
        grad_masks: list[Tensor | None] = [None] * len(masks)
        if not needed:
            grad_weights = grad * _mix(shares.sum(0), masks) if needs_weights else None
        elif needs_weights or needs_own:
            for bits, row in zip(ctx.bits, shares, strict=True):
                ruled = ctx.quantizer.rule(grad * _mix(row, masks), *needed, bits)
                grad_weights, grad_own = _added(grad_weights, ruled[0]), _added(grad_own, ruled[1])
        if needs_shares:
            rows = [(grad * level).flatten() for level in levels]
            grad_shares = torch.stack([torch.stack([row @ mask.flatten() for mask in masks]) for row in rows])
        if any(needs_masks):
            grad_masks = [grad * _mix(column, levels) for column in shares.T]
        return None, None, grad_weights, grad_own, grad_shares, *grad_masks


def _split(tensors: Sequence[Any], *lengths: int) -> list[Sequence[Any]]:
    """Parts of so many tensors each, and what is left."""
    parts = []
    for length in lengths:
        parts.append(tensors[:length])
        tensors = tensors[length:]
    return [*parts, tensors]


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if total is None or part is None else total + part


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
        groups: of the convolution.
        quantizer: of the weights.
        levels: D, the largest spike of the neurons behind.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        identity: bool = False,
        levels: int = 1,
        groups: int = 1,
        quantizer: Quantizer = MIDRISE,
    ) -> None:
        super().__init__()
        self.outputs, self.stride = outputs, stride
        self.conv = None if identity else CompConv(inputs, outputs, kernel, stride, groups=groups, quantizer=quantizer)
        self.norm = nn.BatchNorm2d(outputs)
        # Currents are normalised to the threshold, not to one, so that neurons start out neither silent nor
        # saturated (threshold-dependent batch normalisation, Zheng et al., AAAI 2021). Graded spikes have D thresholds.
        nn.init.constant_(self.norm.weight, THRESHOLD * levels)

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
            weight = self.conv.effective_weight(compression, self.conv.masks(compression))
            x = self.conv.convolve(x, self.conv.dense(weight))
        count = processes.count()
        if count == 1 or not self.training:
            return self.norm(x)  # type: ignore[no-any-return]
        mean, variance = processes.joint_mean_variance(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
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
    if codes[0].numel() * MAX_CODE * MAX_INPUT >= _EXACT_IN_FLOAT32:
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


def masks_of_codes(convs: Sequence[CompConv], compression: Compression, masks: Sequence[Tensor]) -> Sequence[Tensor]:
    """Where G layers of equal shape and quantizer have a code that is not 0 [G, O, I, k, k].

    Args:
        convs: the layers.
        compression: the same for all.
        masks: of every keep ratio [G, O, I, k, k].

    Returns:
        ``masks``, or where a kept weight may get the code 0, one for each bit-width and keep ratio, bits outermost.
    """
    quantizer = convs[0].quantizer
    if not quantizer.has_zero:
        return masks
    own: list[Tensor] = [conv.quantization for conv in convs if conv.quantization is not None]
    weights = torch.stack([conv.weight.detach() for conv in convs])
    prepared = quantizer.prepare(weights, torch.stack(own).detach() if own else None)
    levels = [quantizer.quantize(weights, prepared, bits)[0] for bits in compression.bits]
    return [mask * (level != 0) for level in levels for mask in masks]


def count_reached(masks: Sequence[Tensor], output_weights: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """How many weights of G layers a spike at each position of the kernel reaches [G, masks, I, k, k].

    Args:
        masks: :func:`masks_of_codes` [G, O, I/groups, k, k].
        output_weights: how much of each output channel exists [O] (the search over widths); ``None``: all.
        groups: of the convolutions.
    """
    if groups > 1:
        parts = [
            mask.view(len(mask), groups, -1, *mask.shape[2:]) for mask in masks
        ]  # [G, groups, O/groups, I/groups, k, k]
        if output_weights is None:
            return torch.stack([part.sum(2).flatten(1, 2) for part in parts], dim=1)
        shares = output_weights.view(groups, -1)
        rows = [torch.einsum("gqoikl,qo->gqikl", part, shares).flatten(1, 2) for part in parts]
        return torch.stack(rows, dim=1)
    if output_weights is None:
        return torch.stack([mask.sum(1) for mask in masks], dim=1)
    return torch.stack([torch.einsum("goikl,o->gikl", mask, output_weights) for mask in masks], dim=1)


def layer_synops(
    compression: Compression, reached: Tensor, taps: Tensor, *, quantizer: Quantizer = MIDRISE
) -> tuple[Tensor, Tensor]:
    """SynOps and Bit-SynOps per timestep of G convolutions that read the same spikes, [G, T] each.

    Args:
        compression: the same for all.
        reached: :func:`count_reached` [G, keeps, I, k, k], or [G, bits·keeps, I, k, k].
        taps: :func:`~litesnn.snn.cost.tap_spikes` of their input [T, I, k, k].
        quantizer: of all; it says how many bits a SynOp has.
    """
    used = synops(taps, reached)  # [G, masks, T]
    weights = compression.weights
    bits = constant(tuple(map(quantizer.code_bits, compression.bits)), weights.dtype, weights.device)[:, None]
    if used.shape[1] != weights.shape[1]:
        return weights.flatten() @ used, (bits * weights).flatten() @ used
    shares, bit_shares = weights.sum(0), (bits * weights).sum(0)  # [keeps]
    return shares @ used, bit_shares @ used


def identity_synops(taps: Tensor, output_weights: Tensor | None = None) -> Tensor:
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
