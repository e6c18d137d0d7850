"""A small residual network with ReLU and floating-point weights: the teacher that ``train.teacher = "auto"`` trains.

In: encoded inputs, as a spiking network is given them. Out: logits. Images and spectrograms go through as they are. The
frames of events are averaged over at most four equal parts of the time, whose maps stand side by side as channels: so
the network knows in which order things happened, and costs no more for many frames. It is told nothing of timesteps.

A stem, three levels of residual blocks (He et al., arXiv 1512.03385; shortcuts average pixels before they have fewer,
as in arXiv 1812.01187) with w, 2w and 4w channels, the mean over pixels, and a linear classifier. The first level has
maps of at most 576 pixels, the next ones halve height and width as long as one of them is 8 or more.

Shapes: B batch, T frames, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.snn.backbone import INPUT_SCALE
from litesnn.snn.cost import conv_output
from litesnn.snn.network import InputInfo

__all__ = ["ResidualNetwork", "time_bins"]

_LEVELS = 3
_MOST_PIXELS = 576
_SMALLEST_SIDE = 8
_MOST_BINS = 4


def time_bins(info: InputInfo, frames: int) -> int:
    """The equal parts of the time over which so many frames are averaged; 1 for what has no frames."""
    return min(_MOST_BINS, frames) if info.frames else 1


class ResidualNetwork(nn.Module):
    """The network.

    Args:
        info: the input and the classes.
        bins: equal parts of the time, as :func:`time_bins` says.
        width: channels of the first level.
        blocks: residual blocks of each level.
    """

    def __init__(self, info: InputInfo, *, bins: int = 1, width: int = 32, blocks: int = 1) -> None:
        super().__init__()
        self.bins = bins
        channels, height, columns = info.shape
        halvings = 0
        while (height >> halvings) * (columns >> halvings) > _MOST_PIXELS:
            halvings += 1
        # The largest inputs are averaged over squares first, then the stem has a stride; the last halving is a maximum.
        self.averaged = 2 ** max(0, halvings - 2)
        self.pooled = halvings > 0
        self.stem = nn.Conv2d(channels * bins, width, 3, stride=2 if halvings > 1 else 1, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        side = conv_output(max(height, columns), 2**halvings)
        levels: list[nn.Module] = []
        inputs = width
        for level in range(_LEVELS):
            stride = 2 if level and side >= _SMALLEST_SIDE else 1
            side = conv_output(side, stride)
            for block in range(blocks):
                levels.append(_Block(inputs, width << level, stride if block == 0 else 1))
                inputs = width << level
        self.blocks = nn.Sequential(*levels)
        self.classifier = nn.Linear(inputs, len(info.classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Encoded images [B, C, H, W] or frames [B, T, C, H, W], numbers from −127 to 127 → logits [B, K].

        Maps are channels_last; weights stay as they are, so that an optimizer's state, when it is read again, is laid
        out as they are.
        """
        if x.dim() == 5:
            x = torch.cat([part.float().mean(1) for part in x.tensor_split(self.bins, dim=1)], dim=1)
        x = (x * INPUT_SCALE).contiguous(memory_format=torch.channels_last)
        if self.averaged > 1:
            x = F.avg_pool2d(x, self.averaged, ceil_mode=True)
        x = F.relu(self.norm(self.stem(x)))
        if self.pooled:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        logits: Tensor = self.classifier(self.blocks(x).mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions beside a shortcut. At first the block is its shortcut: the last scale begins at 0."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', ceil(H / stride), ceil(W / stride)]."""
        out = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(out + x)
