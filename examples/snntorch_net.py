"""A spiking network in snnTorch for images of 8×8 pixels, as its tutorials write them: forward makes all timesteps."""

import snntorch as snn
import torch
from torch import Tensor, nn

STEPS = 6


class Net(nn.Module):
    """Three convolutions, ten classes; membranes are handed on by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.lif2 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.norm3 = nn.BatchNorm2d(32)
        self.lif3 = snn.Leaky(beta=0.5, threshold=0.5, reset_mechanism="zero")
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        outputs = []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.conv1(x), mem1)
            spk2, mem2 = self.lif2(self.norm2(self.conv2(spk1)), mem2)
            spk3, mem3 = self.lif3(self.norm3(self.conv3(spk2)), mem3)
            outputs.append(self.fc(spk3.mean((2, 3))))
        return torch.stack(outputs)
