"""Packed models in torch, as float32 networks: step by step, or all timesteps in one batched convolution per layer.

T timesteps, B batch, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from float_layers import Network
from litesnn.snn.strided import conv2d

__all__ = ["StepByStep", "TimeBatched", "compile_frozen", "has_compiler"]


class _Baseline(nn.Module):
    """Holds the folded numbers. Subclasses give logits [B, classes] for normalised images [B, C, H, W]."""

    def __init__(self, network: Network, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.network, self.memory_format = network, memory_format
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterList()
        for index, layer in enumerate(network.layers):
            for number, convolution in enumerate(layer.convolutions):
                weight = torch.from_numpy(convolution.weight)
                if convolution.kernel:
                    weight = weight.to(memory_format=memory_format)
                self.weights[f"{index}_{number}"] = nn.Parameter(weight, requires_grad=False)
            self.biases.append(nn.Parameter(torch.from_numpy(layer.bias), requires_grad=False))
        self.head_weight = nn.Parameter(torch.from_numpy(network.head.weight), requires_grad=False)
        self.head_bias = nn.Parameter(torch.from_numpy(network.head.bias), requires_grad=False)

    def currents(self, index: int, image: Tensor, spikes: list[Tensor]) -> Tensor:
        """What layer ``index`` gets from the image or from the spikes of the layers before it, [N, O, H, W]."""
        total = self.part(index, 0, image, spikes)
        for number in range(1, len(self.network.layers[index].convolutions)):
            total = total + self.part(index, number, image, spikes)
        return total

    def part(self, index: int, number: int, image: Tensor, spikes: list[Tensor]) -> Tensor:
        """What comes by convolution ``number``; the bias comes by the first."""
        layer = self.network.layers[index]
        convolution = layer.convolutions[number]
        weight: Tensor = self.weights[f"{index}_{number}"]
        bias = self.biases[index] if number == 0 else None
        x = image if layer.static else _gather(spikes, convolution.sources)
        if convolution.kernel == 0:
            x = x * weight[:, None, None]
            return x if bias is None else x + bias[:, None, None]
        out: Tensor = conv2d(x, weight, bias, stride=convolution.stride, padding=convolution.kernel // 2)
        return out

    def read_out(self, spikes: list[Tensor], batch: int) -> Tensor:
        """Logits [B, classes] of the spikes of all layers [N, C, H, W], N = B or T·B."""
        counts = _gather(spikes, self.network.head.sources).sum((2, 3))  # [N, C]
        return F.linear(counts.view(-1, batch, counts.shape[1]).sum(0), self.head_weight, self.head_bias)


class StepByStep(_Baseline):
    """One timestep after the other, as the equations are written; only the image's currents are computed once.

    ``record`` receives the spikes of every population [T, B, C, H, W].
    """

    def forward(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W]."""
        network = self.network
        static = [self.currents(i, x, []) if layer.static else None for i, layer in enumerate(network.layers)]
        u: list[Tensor] = []
        spikes: list[Tensor] = []
        totals: list[Tensor] = []  # spikes of the timesteps so far, where the readout needs them
        kept: list[list[Tensor]] = []
        for t in range(network.timesteps):
            for i, fixed in enumerate(static):
                current = self.currents(i, x, spikes) if fixed is None else fixed
                if t == 0:
                    u.append(current)
                    spikes.append((current > network.threshold).float())
                else:
                    u[i] = (network.leak * u[i]) * (1 - spikes[i]) + current
                    spikes[i] = (u[i] > network.threshold).float()
            totals = [
                spikes[i] if t == 0 else totals[i] + spikes[i] if i in network.head.sources else spikes[i]
                for i in range(len(spikes))
            ]
            kept.append(list(spikes) if record is not None else [])
        if record is not None:
            record.extend(torch.stack(steps) for steps in zip(*kept, strict=True))
        return self.read_out(totals, len(x))


class TimeBatched(_Baseline):
    """Layer by layer, all timesteps at once: spikes are [T·B, C, H, W].

    ``record`` receives the spikes of every population [T, B, C, H, W].
    """

    def forward(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W]."""
        network = self.network
        x = x.contiguous(memory_format=self.memory_format)
        spikes: list[Tensor] = []
        for i, layer in enumerate(network.layers):
            currents = self.currents(i, x, spikes)
            steps = [currents] * network.timesteps if layer.static else list(currents.chunk(network.timesteps))
            spikes.append(self.fire(steps))
        if record is not None:
            record.extend(s.view(network.timesteps, len(x), *s.shape[1:]) for s in spikes)
        return self.read_out(spikes, len(x))

    def fire(self, currents: list[Tensor]) -> Tensor:
        """Spikes [T·B, C, H, W] of the currents of each timestep [B, C, H, W]."""
        u = currents[0]
        spikes = [(u > self.network.threshold).float()]
        for current in currents[1:]:
            u = (self.network.leak * u) * (1 - spikes[-1]) + current
            spikes.append((u > self.network.threshold).float())
        return torch.cat(spikes)


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compile_frozen(network: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """torch.compile with the weights as constants, for inputs like ``example``. Call it under ``torch.no_grad``."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(network.eval(), dynamic=False)
    with inductor.patch(freezing=True):
        compiled(example)
    return compiled


def _gather(spikes: list[Tensor], sources: tuple[int, ...]) -> Tensor:
    return spikes[sources[0]] if len(sources) == 1 else torch.cat([spikes[source] for source in sources], dim=1)
