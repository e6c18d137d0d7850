"""Conventional networks of 8-bit activations that an edge engineer would take, trained quantized and run in integers.

In: encoded inputs as litesnn's networks get them, integers −127…127 of 1/32 standard deviation each. Out: logits. Each
module is there twice: ``forward`` computes with fake quantization, for training; ``integer`` computes the same layer as
a device would, in int8 codes, int32 sums and fixed-point multipliers, and is what an accuracy is measured with.

- ``resnet8``: MLPerf Tiny's for CIFAR-10 (Banbury et al., arXiv 2106.07597): 3 × 3 convolutions of 16, then three
  residual blocks of 16, 32 and 64 channels, the last two at half the resolution of the one before. Its shortcuts of
  1 × 1 have batch norm here, which is folded like every other.
- ``resnet20``: three such blocks of each of these widths (He et al., arXiv 1512.03385), with 4-bit weights but for 8
  bits in the first layer and the classifier, as is usual.
- ``ds-cnn``: MLPerf Tiny's for key words (after Zhang et al., arXiv 1711.07128): a convolution of 10 frames × 4 bands
  and stride 2, four depthwise separable ones of 64 channels, on as many log-mel bands as there are.

Weights are symmetric, a scale for each output channel: of 8 bits the largest weight has the largest code; of fewer the
scale is learned (LSQ: Esser et al., ICLR 2020, arXiv 1902.08153, with its first value and its gradient's factor).
Activations have a scale for each tensor from a moving average of their largest value, unsigned where a ReLU made them.
Batch norm is per channel, so folding it into scales and biases changes no code.

Shapes: B batch, C channels, I input and O output channels, H × W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.errors import InputError
from litesnn.snn.backbone import INPUT_SCALE
from litesnn.snn.strided import conv2d

__all__ = ["FLOAT", "RIVALS", "Codes", "Rival", "RivalCosts", "RivalKind", "build_rival"]

FLOAT = 32
"""Bits of a network that is not quantized at all."""

_ACTIVATION_BITS = 8
_MOMENTUM = 0.05
"""Share of a batch in the moving average of the largest activation."""

_MULTIPLIER_BITS = 30
_ADDITION_BITS = 20
_LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class Codes:
    """Activations on a device: ``values`` int64 [B, C, H, W], each of ``step``."""

    values: Tensor
    step: float


@dataclass
class RivalCosts:
    """Size and work of a network: bits of all weights, channels with scale and bias, scales of tensors, MACs."""

    parameters: int = 0
    weight_bits: int = 0
    channels: int = 0
    scales: int = 0
    macs: int = 0

    def weight_bytes(self) -> int:
        """Bytes of the weights alone."""
        return -(-self.weight_bits // 8)

    def bytes(self) -> int:
        """With a float32 scale and an int32 bias for each channel, and a float32 scale for each tensor."""
        return self.weight_bytes() + 8 * self.channels + 4 * self.scales


class ActivationRange(nn.Module):
    """Fake quantization of a tensor to 8 bits by a moving average of its largest magnitude."""

    peak: Tensor

    def __init__(self, *, signed: bool, active: bool) -> None:
        super().__init__()
        self.active = active
        self.low = -(2 ** (_ACTIVATION_BITS - 1) - 1) if signed else 0
        self.high = 2 ** (_ACTIVATION_BITS - 1) - 1 if signed else 2**_ACTIVATION_BITS - 1
        self.register_buffer("peak", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[…] → the same, rounded to the steps of the range; the gradient is that of clipping."""
        if not self.active:
            return x
        if self.training:
            with torch.no_grad():
                seen = x.abs().amax()
                self.peak.copy_(torch.where(self.peak > 0, self.peak.lerp(seen, _MOMENTUM), seen))
        step = self.step()
        clipped = x.clamp(self.low * step, self.high * step)
        rounded: Tensor = clipped + ((clipped / step).round() * step - clipped).detach()
        return rounded

    def step(self) -> Tensor:
        """The size of a code."""
        step: Tensor = self.peak.clamp_min(1e-8) / self.high
        return step


class RivalBlock(nn.Module):
    """A part of a network, in both its forms."""

    def integer(self, x: Codes) -> Codes:
        """What a device computes."""
        raise NotImplementedError

    def count(self, counts: RivalCosts, size: tuple[int, int]) -> tuple[int, int]:
        """Add what it takes on H × W pixels; returns the size of its output."""
        raise NotImplementedError


class QuantizedLayer(RivalBlock):
    """Convolution, batch norm and, if asked, ReLU; then 8 bits. Zeros around the input keep H × W for stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        stride: int = 1,
        groups: int = 1,
        bits: int,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.bits, self.relu = kernel, stride, groups, bits, relu
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(outputs)
        self.range = ActivationRange(signed=not relu, active=bits != FLOAT)
        self.step = _learned_step(self.weight, bits)

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] → [B, O, ⌈H/stride⌉, ⌈W/stride⌉]."""
        y: Tensor = self.norm(self._convolve(x, _fake_weight(self.weight, self.step, self.bits)))
        out: Tensor = self.range(y.relu() if self.relu else y)
        return out

    def integer(self, x: Codes) -> Codes:
        """The same on a device."""
        codes, steps = _weight_codes(self.weight, self.step, self.bits)
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # [O]
        offset = norm.bias.double() - norm.running_mean.double() * gain
        sums, scale = _accumulate(
            lambda weight: self._convolve(x.values.double(), weight), codes, gain * steps, offset, x
        )
        step = float(self.range.step())
        return Codes(_rescaled(sums, scale / step).clamp_(self.range.low, self.range.high), step)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        (rows, columns), stride = self.kernel, self.stride
        if rows % 2 and columns % 2:
            return conv2d(x, weight, stride=stride, padding=(rows // 2, columns // 2), groups=self.groups)
        around = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
        return conv2d(F.pad(x, around), weight, stride=stride, groups=self.groups)

    def count(self, counts: RivalCosts, size: tuple[int, int]) -> tuple[int, int]:
        """Add what the layer takes on H × W pixels; returns the size of its output."""
        size = -(-size[0] // self.stride), -(-size[1] // self.stride)
        counts.parameters += self.weight.numel() + 2 * len(self.weight)
        counts.weight_bits += self.weight.numel() * self.bits
        counts.channels += len(self.weight)
        counts.scales += 1
        counts.macs += self.weight.numel() * size[0] * size[1]
        return size


class ResidualBlock(RivalBlock):
    """Two layers of 3 × 3, and a shortcut around them: of 1 × 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, bits: int) -> None:
        super().__init__()
        self.first = QuantizedLayer(inputs, outputs, stride=stride, bits=bits)
        self.second = QuantizedLayer(outputs, outputs, bits=bits, relu=False)
        self.shortcut: QuantizedLayer | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = QuantizedLayer(inputs, outputs, (1, 1), stride=stride, bits=bits, relu=False)
        self.range = ActivationRange(signed=False, active=bits != FLOAT)

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] → [B, O, ⌈H/stride⌉, ⌈W/stride⌉]."""
        y: Tensor = self.second(self.first(x))
        around: Tensor = x if self.shortcut is None else self.shortcut(x)
        summed: Tensor = self.range((y + around).relu())
        return summed

    def integer(self, x: Codes) -> Codes:
        """The same on a device: both summands are brought to one step in 20 fractional bits."""
        y, around = self.second.integer(self.first.integer(x)), x if self.shortcut is None else self.shortcut.integer(x)
        step = float(self.range.step())
        total = torch.zeros_like(y.values)
        for part in (y, around):
            total += part.values * round(part.step / step * 2**_ADDITION_BITS)
        values = (total + 2 ** (_ADDITION_BITS - 1)) >> _ADDITION_BITS
        return Codes(values.clamp_(self.range.low, self.range.high), step)

    def count(self, counts: RivalCosts, size: tuple[int, int]) -> tuple[int, int]:
        """As :meth:`QuantizedLayer.count`."""
        if self.shortcut is not None:
            self.shortcut.count(counts, size)
        size = self.second.count(counts, self.first.count(counts, size))
        counts.scales += 1
        return size


class Dropout(RivalBlock):
    """Dropout, which a device does not have."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """[…] → […]."""
        return F.dropout(x, self.share, self.training)

    def integer(self, x: Codes) -> Codes:
        """As it is."""
        return x

    def count(self, counts: RivalCosts, size: tuple[int, int]) -> tuple[int, int]:
        """Nothing."""
        return size


class Pool(RivalBlock):
    """The mean over all pixels, rounded to the steps of what it averages."""

    def __init__(self, before: ActivationRange) -> None:
        super().__init__()
        self._before = [before]  # in a list, so that it is no module of this one

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C, 1, 1]."""
        mean = x.mean((2, 3), keepdim=True)
        (before,) = self._before
        if not before.active:
            return mean
        step = before.step()
        return mean + ((mean / step).round() * step - mean).detach()

    def integer(self, x: Codes) -> Codes:
        """The same on a device."""
        pixels = x.values.shape[2] * x.values.shape[3]
        sums = x.values.sum((2, 3), keepdim=True)
        return Codes((2 * sums + pixels) // (2 * pixels), x.step)

    def count(self, counts: RivalCosts, size: tuple[int, int]) -> tuple[int, int]:
        """One pixel is left."""
        return 1, 1


class RivalHead(nn.Module):
    """The classifier, of 8 bits where there are bits; its int32 sums are not rounded any more."""

    def __init__(self, inputs: int, classes: int, *, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.weight = nn.Parameter(torch.empty(classes, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, 1] → logits [B, K]."""
        return F.linear(x.flatten(1), _fake_weight(self.weight, None, self.bits), self.bias)

    def logits(self, x: Codes) -> Tensor:
        """The same on a device, float64 [B, K]: the sums times their scales."""
        codes, steps = _weight_codes(self.weight, None, self.bits)
        flat = x.values.flatten(1).double()
        sums, scale = _accumulate(lambda weight: flat @ weight.T, codes, steps, self.bias.double(), x)
        return sums.double() * scale

    def count(self, counts: RivalCosts) -> None:
        """Add what it takes."""
        counts.parameters += self.weight.numel() + len(self.bias)
        counts.weight_bits += self.weight.numel() * self.bits
        counts.channels += len(self.bias)
        counts.macs += self.weight.numel()


class Rival(nn.Module):
    """Blocks, then the mean over all pixels and a classifier."""

    def __init__(self, blocks: Sequence[RivalBlock], channels: int, classes: int, *, bits: int) -> None:
        super().__init__()
        last = next(block for block in reversed(blocks) if isinstance(block, QuantizedLayer | ResidualBlock))
        self.bits = bits
        self.blocks = nn.ModuleList([*blocks, Pool(last.range)])
        self.head = RivalHead(channels, classes, bits=bits if bits == FLOAT else 8)

    def forward(self, x: Tensor) -> Tensor:
        """Encoded inputs [B, C, H, W], of frames [B, T, C, H, W] with all channels side by side → logits [B, K]."""
        x = (_side_by_side(x) * INPUT_SCALE).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Classes int64 [B] of encoded inputs, as a device computes them; in floats, if nothing is quantized."""
        if self.bits == FLOAT:
            guesses: Tensor = self(x).argmax(1)
            return guesses
        codes = Codes(_side_by_side(x).long(), INPUT_SCALE)
        for block in self._parts():
            codes = block.integer(codes)
        return self.head.logits(codes).argmax(1)

    def count(self, size: tuple[int, int]) -> RivalCosts:
        """Its size, and its work on inputs of H × W pixels."""
        counts = RivalCosts(scales=1)  # the input's
        for block in self._parts():
            size = block.count(counts, size)
        self.head.count(counts)
        return counts

    def _parts(self) -> list[RivalBlock]:
        return [block for block in self.blocks if isinstance(block, RivalBlock)]


@dataclass(frozen=True)
class RivalKind:
    """A row of :data:`RIVALS`: how a network of so many input channels, classes, width and bits is built."""

    build: Callable[[int, int, float, int], Rival]
    bits: int
    meaning: str


def build_rival(name: str, inputs: int, classes: int, *, width: float, bits: int, seed: int) -> Rival:
    """A rival with weights drawn from the seed.

    Raises:
        InputError: there is none of this name, or a number is out of its range.
    """
    if name not in RIVALS:
        raise InputError(f"no network {name!r}; expected one of {', '.join(RIVALS)}")
    if not 0 < width <= 16:
        raise InputError(f"width {width:g}: expected a number above 0, at most 16")
    if bits != FLOAT and not 2 <= bits <= 8:
        raise InputError(f"bits {bits}: expected 2 to 8, or {FLOAT} for no quantization")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RIVALS[name].build(inputs, classes, width, bits)


def _resnet(per_width: int, *, first_bits: int | None) -> Callable[[int, int, float, int], Rival]:
    """Residual networks of 16, 32 and 64 channels with so many blocks each."""

    def build(inputs: int, classes: int, width: float, bits: int) -> Rival:
        sizes = [_scaled(channels, width) for channels in (16, 32, 64)]
        outer = bits if first_bits is None or bits == FLOAT else first_bits
        blocks: list[RivalBlock] = [QuantizedLayer(inputs, sizes[0], bits=outer)]
        before = sizes[0]
        for stage, channels in enumerate(sizes):
            for index in range(per_width):
                stride = 2 if stage and not index else 1
                blocks.append(ResidualBlock(before, channels, stride=stride, bits=bits))
                before = channels
        return Rival(blocks, before, classes, bits=bits)

    return build


def _ds_cnn(inputs: int, classes: int, width: float, bits: int) -> Rival:
    """Depthwise separable convolutions of 64 channels, with dropout before the first and after the last."""
    channels = _scaled(64, width)
    blocks: list[RivalBlock] = [QuantizedLayer(inputs, channels, (4, 10), stride=2, bits=8 if bits != FLOAT else bits)]
    blocks.append(Dropout(0.2))
    for _ in range(4):
        blocks.append(QuantizedLayer(channels, channels, groups=channels, bits=8 if bits != FLOAT else bits))
        blocks.append(QuantizedLayer(channels, channels, (1, 1), bits=bits))
    return Rival([*blocks, Dropout(0.4)], channels, classes, bits=bits)


RIVALS: dict[str, RivalKind] = {
    "resnet8": RivalKind(_resnet(1, first_bits=8), 8, "MLPerf Tiny's ResNet for images"),
    "resnet20": RivalKind(_resnet(3, first_bits=8), 4, "He et al.'s ResNet-20 for images"),
    "ds-cnn": RivalKind(_ds_cnn, 8, "MLPerf Tiny's DS-CNN for spectrograms"),
}
"""Every rival, with the bits of its weights if nobody says others."""


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _side_by_side(x: Tensor) -> Tensor:
    """Frames [B, T, C, H, W] as [B, T·C, H, W]; images as they are."""
    return x.flatten(1, 2) if x.dim() == 5 else x


def _largest(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def _learned_step(weight: Tensor, bits: int) -> nn.Parameter | None:
    """The first step [O, 1, …] of each channel, where steps are learned: below 8 bits."""
    if bits >= 8:
        return None
    return nn.Parameter(2 * _per_channel(weight.detach().abs().flatten(1).mean(1), weight) / math.sqrt(_largest(bits)))


def _steps(weight: Tensor, step: Tensor | None, bits: int) -> Tensor:
    """The step [O, 1, …] of each channel."""
    if step is not None:
        return step.abs().clamp_min(1e-8)
    return _per_channel(weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8), weight) / _largest(bits)


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(-1, *[1] * (weight.dim() - 1))


def _fake_weight(weight: Tensor, step: Tensor | None, bits: int) -> Tensor:
    """The weights rounded to their codes, with the gradients of LSQ: straight through where nothing is clipped."""
    if bits == FLOAT:
        return weight
    most = _largest(bits)
    if step is not None:
        factor = 1 / math.sqrt(weight[0].numel() * most)
        step = step * factor + (step - step * factor).detach()  # the same, with a smaller gradient
    steps = _steps(weight, step, bits)
    scaled = (weight / steps).clamp(-most, most)
    return (scaled + (scaled.round() - scaled).detach()) * steps


def _weight_codes(weight: Tensor, step: Tensor | None, bits: int) -> tuple[Tensor, Tensor]:
    """Codes float64 of the weights' shape, and the step float64 [O] of each channel.

    Fewer than 8 bits are the upper ones of an int8, as kernels unpack them: so the int32 bias, in units of the sums, is
    as fine as with int8 weights.
    """
    steps, unit = _steps(weight, step, bits), 2.0 ** (8 - bits)
    codes = (weight / steps).clamp(-_largest(bits), _largest(bits)).round()
    return codes.double() * unit, steps.flatten().double() / unit


def _accumulate(
    apply: Callable[[Tensor], Tensor], codes: Tensor, scales: Tensor, offsets: Tensor, x: Codes
) -> tuple[Tensor, Tensor]:
    """Sums int64 [B, O, …] with their bias, each of scale > 0 [O, 1, …]: sums · scale is the layer's real result.

    Args:
        apply: multiplies the input's codes by weights in float64, which holds every sum exactly.
        codes: of the weights.
        scales: of a code's product with a unit of the input [O], of either sign.
        offsets: real bias [O].
        x: the input.
    """
    signs = torch.where(scales < 0, -1.0, 1.0).to(scales)
    scale, weights = (scales * signs * x.step), codes * _per_channel(signs, codes)
    least = (
        offsets.abs() / _LARGEST_BIAS
    )  # of a smaller scale the bias would be beyond int32: such a channel is constant
    constant = scale <= least
    scale = torch.where(constant, (2 * least).clamp_min(1e-30), scale)
    weights = torch.where(_per_channel(constant, weights), torch.zeros_like(weights), weights)
    sums = apply(weights)
    bias = (offsets / scale).round()
    trailing = [1] * (sums.dim() - 2)
    return (sums + bias.view(-1, *trailing)).long(), scale.view(-1, *trailing)


def _rescaled(sums: Tensor, factors: Tensor) -> Tensor:
    """Sums · factors, rounded half up, by int32 multipliers and shifts as integer kernels have them."""
    exponents = torch.frexp(factors)[1].long()  # factors = mantissa · 2^exponent, mantissa in [0.5, 1)
    shifts = (_MULTIPLIER_BITS - exponents).clamp(1, 62)
    multipliers = (factors * torch.pow(2.0, shifts.double())).round().long()
    half = torch.bitwise_left_shift(torch.ones_like(shifts), shifts - 1)
    return torch.bitwise_right_shift(sums * multipliers + half, shifts)
