"""A spiking network in SpikingJelly for images of 8×8 pixels, in its single-step mode: one timestep per call."""

from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn


class Net(nn.Module):
    """Three convolutions with max pooling of the spikes, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            layer.Conv2d(1, 16, 3, padding=1, bias=False),
            layer.BatchNorm2d(16),
            neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(16, 32, 3, padding=1, bias=False),
            layer.BatchNorm2d(32),
            neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(32, 32, 3, padding=1, bias=False),
            layer.BatchNorm2d(32),
            neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.AdaptiveAvgPool2d((1, 1)),
            layer.Flatten(),
        )
        self.classifier = layer.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
