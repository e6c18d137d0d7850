"""A spiking network in plain torch for images of 8×8 pixels, its neuron written by hand; one timestep per call."""

import torch
from torch import Tensor, nn


class Spike(torch.autograd.Function):
    """A step, with the slope of a triangle in its place for the gradient."""

    @staticmethod
    def forward(ctx, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).float()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return grad * (1 - distance.abs()).clamp_min(0)


class Lif(nn.Module):
    """u = leak·u + x; fires above the threshold, and is then 0."""

    def __init__(self, leak: float = 0.5, threshold: float = 1.0) -> None:
        super().__init__()
        self.leak, self.threshold = leak, threshold
        self.reset()

    def reset(self) -> None:
        """Before a new input."""
        self.membrane: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.leak * self.membrane + x
        spikes = Spike.apply(membrane - self.threshold)
        self.membrane = membrane * (1 - spikes)
        return spikes


class Net(nn.Module):
    """Two convolutions, a residual one, global average, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.lif1 = Lif()
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.lif2 = Lif()
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(32)
        self.lif3 = Lif()
        self.classes = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.norm1(self.conv1(x)))
        x = self.lif2(self.norm2(self.conv2(x)))
        x = self.lif3(self.norm3(self.conv3(x)) + x)
        return self.classes(x.mean(dim=(2, 3)))
