"""Modules that somebody else may have written: a neuron by hand, and networks of layers in a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litesnn.compression.network import Given
from litesnn.snn.network import InputInfo

INFO = InputInfo((1, 8, 8), "image", (100.0,), (60.0,), ("a", "b", "c"))

MODULE = """
import torch
from torch import nn

class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.abs()).clamp_min(0)

class Lif(nn.Module):
    def __init__(self, tired=False):
        super().__init__()
        self.tired = tired
        self.reset()

    def reset(self):
        self.u = self.s = 0.0

    def forward(self, x):
        u = 0.5 * self.u + (x * (1 - self.s) if self.tired else x)
        s = Spike.apply(u - 1)
        self.u, self.s = u * (1 - s), s
        return s

class Net(nn.Module):
    tired = False

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.lif1 = Lif()
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.lif2 = Lif(self.tired)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.lif2(self.norm2(self.conv2(self.lif1(self.conv1(x)))))
        return self.head(x.mean((2, 3)))

class Tired(Net):
    tired = True  # a neuron that does not listen in the step after a spike

class Analog(Net):
    def __init__(self):
        super().__init__()
        self.lif1 = nn.ReLU()

class Sized(Net):
    def __init__(self, size):
        super().__init__()

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(x.flatten(1))

class Large(Net):
    def forward(self, x):
        return super().forward(x.reshape(len(x), 3, 32, 32))

class Events(Net):
    def __init__(self):
        super().__init__()
        self.conv1, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(6, 2)
        self.lif1 = nn.Sequential(nn.BatchNorm2d(4), Lif())

class Loop(Events):
    def forward(self, x):
        return torch.stack([super(Loop, self).forward(x) for _ in range(2)])

class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(3)

class Learned(nn.Module):
    def __init__(self, soft):
        super().__init__()
        self.w, self.soft = nn.Parameter(torch.tensor(0.0)), soft
        self.reset()

    def reset(self):
        self.u = 0.0

    def forward(self, x):
        u = torch.sigmoid(self.w) * self.u + x
        s = Spike.apply(u - 1)
        self.u = u - s if self.soft else u * (1 - s)
        return s

class Soft(Net):
    def __init__(self):
        super().__init__()
        self.lif1, self.lif2 = Learned(True), Learned(False)

class Other:
    pass
"""
"""The text of a file of modules for the images of the whole job, which are 1 × 8 × 8 in three classes.

``Events`` and ``Loop`` are for frames of events in two classes.
"""


class Lif(nn.Module):
    """u = leak·u·(1 − s) + x, or leak·(u − threshold·s) + x; one state, handed on from call to call."""

    def __init__(self, leak: float = 0.5, threshold: float = 1.0, *, soft: bool = False) -> None:
        super().__init__()
        self.leak, self.threshold, self.soft = leak, threshold, soft
        self.reset()

    def reset(self) -> None:
        self.membrane: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.leak * self.membrane + x
        spikes = (membrane > self.threshold).float()
        self.membrane = membrane - self.threshold * spikes if self.soft else membrane * (1 - spikes)
        return spikes


class LateLif(nn.Module):
    """As snnTorch's Leaky: the threshold is subtracted in the next timestep, after the leak (or nothing is)."""

    def __init__(self, leak: float = 0.5, threshold: float = 1.0, *, subtracted: float = 1.0) -> None:
        super().__init__()
        self.leak, self.threshold, self.subtracted = leak, threshold, subtracted
        self.reset()

    def reset(self) -> None:
        self.membrane: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        membrane = torch.zeros_like(x) if self.membrane is None else self.membrane
        fired = (membrane - self.threshold > 0).float()
        self.membrane = self.leak * membrane + x - fired * (self.subtracted * self.threshold)
        return (self.membrane - self.threshold > 0).float()


class ChargedLif(nn.Module):
    """As SpikingJelly's ParametricLIFNode (``v_reset=None``: soft): u += (x − u)·k, it fires at the threshold too."""

    def __init__(self, rate: float = 0.5, threshold: float = 1.0, *, soft: bool = True, learned: bool = False) -> None:
        super().__init__()
        logit = torch.logit(torch.tensor(rate))
        self.w = nn.Parameter(logit) if learned else logit
        self.threshold, self.soft = threshold, soft
        self.reset()

    def reset(self) -> None:
        self.membrane: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        membrane = self.membrane + (x - self.membrane) * torch.sigmoid(torch.as_tensor(self.w))
        spikes = (membrane >= self.threshold).float()
        self.membrane = membrane - spikes * self.threshold if self.soft else (1 - spikes) * membrane
        return spikes


class Row(nn.Module):
    """Layers in a row, one timestep per call."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def tail(channels: int = 4) -> list[nn.Module]:
    """Global average and three classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def given(*layers: nn.Module) -> Given:
    """Layers in a row as a given module with lively, trained-looking batch norms."""
    return known(Row(*layers))


def known(module: nn.Module, info: InputInfo = INFO) -> Given:
    """A given module."""
    found = Given(module, info, origin="net.py: class Net", io_bits=4)
    generator = torch.Generator().manual_seed(7)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.affine:
            assert child.running_mean is not None
            assert child.running_var is not None
            child.weight.data.uniform_(0.5, 2.0, generator=generator)
            child.bias.data.uniform_(-0.5, 0.5, generator=generator)
            child.running_mean.uniform_(-0.3, 0.3, generator=generator)
            child.running_var.uniform_(0.2, 1.5, generator=generator)
    return found


def pixels(batch: int = 16, seed: int = 0) -> Tensor:
    """Raw images uint8 [B, 1, 8, 8] of four shades of grey each, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    shades = torch.randint(0, 224, (batch, 1, 2, 2), generator=generator)
    noise = torch.randint(0, 32, (batch, 1, 8, 8), generator=generator)
    return (shades.repeat_interleave(4, 2).repeat_interleave(4, 3) + noise).to(torch.uint8)
