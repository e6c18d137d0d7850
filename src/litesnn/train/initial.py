"""The first weights of a training: as they were drawn, or better ones that need no training to be found.

**Identity** (``train.init``). Of every convolution of a cell with a filter larger than 1 × 1, the first output channels
of each group, as many as there are input channels in it, hand on the input channel of their number: the middle of the
filter is √2, so that a filter is as long as a drawn one on average, and the rest is a tenth of what was drawn
(partial-identity initialisation, Jordan, 2024, arXiv 2404.00498, section 3.3, there without noise). A quantizer
without a zero makes the noise as large as its least level: an identity is hardly left of it at 1 bit.

**Whitening** (``train.init_stem``). The filters of the stem are the principal components of patches of the training
inputs, the one of the largest variance first, each followed by its negative, since neurons fire for positive currents
alone (ibid., section 3.2). They have length one: batch normalisation behind the stem divides each by
the deviation of its output, which makes the outputs white. As the largest variance is often a thousand times a later
one, plain rounding of a filter to few bits lets so much of the former into the latter that nothing else is seen. So
filters are rounded together with that in view: with e the error and Σ the covariance of patches, coordinate by
coordinate to the level that makes e'(Σ + λI)e least, λ being the filter's own variance.

Shapes: N inputs, C channels, H × W pixels, O filters, k kernel, D = C·k².
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.config import TrainSettings
from litesnn.quantizers.quantizer import Quantizer
from litesnn.snn.compconv import CompConv
from litesnn.snn.network import Network

__all__ = ["begin_weights", "hand_on", "patch_components", "rounded_filters", "whiten"]

_NOISE = 0.1
_INPUTS, _AT_ONCE = 2000, 100
_NEGLIGIBLE = 1e-6
"""Of the largest variance; components with less are left out."""

_SWEEPS = 20


def begin_weights(network: Network, settings: TrainSettings, inputs: Callable[[], Tensor]) -> None:
    """Give a network that was drawn its first weights.

    Args:
        network: as it was drawn; weights, scores and what quantizers learn are changed.
        settings: of training.
        inputs: gives the encoded training inputs int8 [N, C, H, W] or [N, T, C, H, W], if they are needed.
    """
    backbone = network.backbone
    if settings.init == "identity":
        for index in range(len(backbone.cells)):
            cell = backbone.cell(index)
            for edge in cell.edges:
                conv = cell.connection(edge).conv
                if conv is not None and conv.kernel > 1:
                    hand_on(conv)
    if settings.init_stem == "whitening":
        assert backbone.stem.conv is not None
        whiten(backbone.stem.conv, network.genotype.stem.bits, inputs())


@torch.no_grad()
def hand_on(conv: CompConv) -> None:
    """Let the first output channels of each group hand on the input channels."""
    weight, groups = conv.weight, conv.groups
    outputs, inputs, middle = weight.shape[0] // groups, weight.shape[1], conv.kernel // 2
    for group in range(groups):
        for channel in range(min(outputs, inputs)):
            kernels = weight[group * outputs + channel]  # [I/groups, k, k]
            kernels.mul_(_NOISE)
            kernels[channel, middle, middle] += math.sqrt(2)
    conv.begin()


@torch.no_grad()
def whiten(conv: CompConv, bits: int, inputs: Tensor) -> None:
    """Let a convolution begin with the principal components of patches of its inputs, as :func:`begin_weights`.

    What it has more filters than these are stays as it was drawn, but of length one.
    """
    components, variances, covariance = patch_components(inputs, conv.kernel)
    weight = conv.weight
    flat = weight.detach().flatten(1).double().cpu()  # [O, D]
    flat /= flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found = min(len(components), math.ceil(len(flat) / 2))
    pairs = torch.stack([components[:found], -components[:found]], dim=1).flatten(0, 1)[: len(flat)]
    flat[: len(pairs)] = pairs
    own = variances[:found].repeat_interleave(2)[: len(pairs)]
    flat = rounded_filters(flat, own, covariance, conv.quantizer, bits)
    weight.copy_(flat.view_as(weight))
    conv.begin()


def patch_components(inputs: Tensor, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of the patches of inputs [N, (T,) C, H, W], the one of the largest variance first.

    Returns:
        Components of length one [K, D], whose largest entry is positive, their variances [K], and the covariance of
        patches [D, D]; float64. K ≤ D: components without variance are left out.
    """
    x = inputs[:: max(1, math.ceil(len(inputs) / _INPUTS))].cpu()
    padding = 0 if min(x.shape[-2:]) >= kernel else kernel // 2
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for part in torch.split(x, _AT_ONCE):
        images = part.flatten(0, -4).float()
        patches = F.unfold(images, kernel, padding=padding).transpose(1, 2).flatten(0, 1).double()  # [P, D]
        count, total, square = count + len(patches), total + patches.sum(0), square + patches.T @ patches
    mean = total / count
    covariance = square / count - mean[:, None] * mean
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.T.flip(0)
    kept = values > _NEGLIGIBLE * values[0]
    values, vectors = values[kept], vectors[kept]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * largest.sign(), values, covariance


def rounded_filters(filters: Tensor, variances: Tensor, covariance: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """Filters at the levels of a quantizer, rounded so that little of what has much variance comes in.

    Args:
        filters: [O, D], the first F of them components; the others are rounded plainly.
        variances: of the components [F].
        covariance: of patches [D, D].
        quantizer: of the layer, with levels that are one apart.
        bits: of its weights.

    Returns:
        The rounded filters [O, D]; or ``filters``, if the quantizer makes other levels of them.
    """

    def levels_of(values: Tensor) -> tuple[Tensor, Tensor]:
        weights = values.float()[None]
        initial = quantizer.initial
        own = None if initial is None else initial(weights[0])[None]
        levels, steps = quantizer.quantize(weights, quantizer.prepare(weights, own), bits)
        return levels[0].double(), steps.flatten()[0].double()

    levels, step = levels_of(filters)
    least, most = levels.min(), levels.max()
    rows = slice(0, len(variances))
    chosen = levels[rows].clone()
    weighed = covariance.diagonal() + variances[:, None]  # [F, D]
    error = chosen * step - filters[rows]
    for _ in range(_SWEEPS):
        before = chosen.clone()
        for place in range(filters.shape[1]):
            slope = error @ covariance[place] + variances * error[:, place]
            moved = (chosen[:, place] - (slope / weighed[:, place] / step).round()).clamp(least, most)
            error[:, place] += (moved - chosen[:, place]) * step
            chosen[:, place] = moved
        if torch.equal(before, chosen):
            break
    result = levels.clone()
    result[rows] = chosen
    rounded = result * step
    return rounded if torch.equal(levels_of(rounded)[0], result) else filters
