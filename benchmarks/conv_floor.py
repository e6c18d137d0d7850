"""The convolutions of a network alone, forward and backward: the floor under the time of its steps.

All timesteps are one batch, convolutions that read the same state with the same kernel and stride are one convolution
with more output channels, tensors are channels last. Left out is everything else: neurons, normalisation, effective
weights, mixing, costs, optimizers, and the classifier, which is a small matrix product.

T timesteps, B batch, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litesnn.snn.backbone import Backbone
from litesnn.snn.cell import Source
from litesnn.snn.cost import conv_output
from litesnn.snn.strided import conv2d

__all__ = ["Convolution", "Floor", "convolutions", "merged"]

IMAGE, STEM = "image", "stem"
FIRING_RATE = 0.15


@dataclass(frozen=True)
class Convolution:
    """One convolution, and the state that it reads: its name, channels and size."""

    state: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    height: int
    width: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, padding included."""
        pixels = conv_output(self.height, self.stride) * conv_output(self.width, self.stride)
        return self.inputs * self.outputs * self.kernel**2 * pixels


def convolutions(backbone: Backbone) -> list[Convolution]:
    """Every convolution of the network in its order, the stem first."""
    conv = backbone.stem.conv
    assert conv is not None
    channels, height, width = backbone.shape
    rows = [Convolution(IMAGE, channels, backbone.stem.outputs, conv.kernel, conv.stride, height, width)]
    older = newer = (STEM, Source(backbone.stem.outputs, 0))
    for index in range(len(backbone.genotype.cells)):
        cell = backbone.cell(index)
        states = [older, newer]
        states += [(f"cell {index + 1} node {node}", Source(cell.width, cell.level)) for node in range(cell.nodes)]
        for edge in cell.edges:
            conv = cell.connection(edge).conv
            if conv is not None:
                name, source = states[edge.source]
                size = backbone.map_size(source.level)
                rows.append(Convolution(name, source.channels, cell.width, conv.kernel, conv.stride, *size))
        older, newer = newer, (f"cell {index + 1}", cell.output)
    return rows


def merged(rows: Iterable[Convolution]) -> list[Convolution]:
    """Those that read the same state with the same kernel and stride as one."""
    found: dict[tuple[str, int, int], Convolution] = {}
    for row in rows:
        key = row.state, row.kernel, row.stride
        found[key] = replace(row, outputs=row.outputs + found[key].outputs) if key in found else row
    return list(found.values())


class Floor:
    """The convolutions with random spikes, weights and output gradients.

    Args:
        rows: the convolutions; the one that reads the image runs on B images, the others on T·B maps.
        timesteps: T.
        batch: B.
    """

    def __init__(self, rows: Sequence[Convolution], *, timesteps: int, batch: int) -> None:
        random = torch.Generator().manual_seed(0)
        inputs: dict[str, Tensor] = {}
        self.work: list[tuple[Convolution, Tensor, Tensor, Tensor]] = []
        for row in rows:
            images = batch if row.state == IMAGE else timesteps * batch
            if row.state not in inputs:
                maps = torch.rand(images, row.inputs, row.height, row.width, generator=random) < FIRING_RATE
                inputs[row.state] = maps.float().to(memory_format=torch.channels_last)
            weight = torch.randn(row.outputs, row.inputs, row.kernel, row.kernel, generator=random)
            size = conv_output(row.height, row.stride), conv_output(row.width, row.stride)
            gradient = torch.randn(images, row.outputs, *size, generator=random)
            weight, gradient = (tensor.to(memory_format=torch.channels_last) for tensor in (weight, gradient))
            self.work.append((row, inputs[row.state], weight.requires_grad_(), gradient))

    def run(self, *, stem_learns: bool = True) -> None:
        """One pass. No gradient goes to the image; if the stem does not learn, none to it and its spikes."""
        for row, x, weight, gradient in self.work:
            fixed = row.state == IMAGE or (row.state == STEM and not stem_learns)
            source = x.detach().requires_grad_(not fixed)
            kernel = weight if stem_learns or row.state != IMAGE else weight.detach()
            out = conv2d(source, kernel, stride=row.stride, padding=row.kernel // 2)
            if out.requires_grad:
                wanted = [tensor for tensor in (source, kernel) if tensor.requires_grad]
                torch.autograd.grad(out, wanted, gradient)
