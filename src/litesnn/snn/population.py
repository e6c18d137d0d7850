"""The neurons of one population: what they have learned, and how they fire in training and when they are deployed.

Every row of :data:`litesnn.neurons.NEURONS` comes into networks here. Shapes: T timesteps, B batch, C channels, H × W
pixels, P = B·H·W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from litesnn.neurons.model import SHARPNESS, THRESHOLD, Learned, Neuron, NeuronModel
from litesnn.snn.arithmetic import Arithmetic
from litesnn.snn.neuron import fire
from litesnn.snn.stepped import Stepped, step_through
from litesnn.snn.undecayed import Undecayed

__all__ = ["Dynamics", "Neurons", "set_sharpness"]

Dynamics = Neuron | Stepped
"""The dynamics of neurons: the recursion that kernels and engines know, or any step."""

_DECIMALS = 4
"""Decimals of a learned number in a packed file."""


class Neurons(nn.Module):
    """One population. A model without learned numbers has no parameters.

    Args:
        model: a row of the table.
        channels: C.
        leak: that of the deployed arithmetic, unless the model has another.
        levels: D, the largest spike.

    Attributes:
        sharpness: b of the surrogate slope in training.
        listener: is given the deployed currents [T, B, C, H, W] and their fractional bits (``None``: floats), if it is
            there.
    """

    listener: Callable[[Tensor, int | None], None] | None

    def __init__(self, model: NeuronModel, channels: int, leak: float, levels: int = 1) -> None:
        super().__init__()
        self.model, self.levels = model, levels
        self.constants = {"leak": leak, "threshold": THRESHOLD, "levels": levels}
        self.sharpness, self.listener = SHARPNESS, None
        for learned in model.learned:
            size = (channels,) if learned.each == "channel" else ()
            self.register_parameter(learned.name, Undecayed(torch.full(size, learned.start(self.constants))))

    def _values(self) -> Iterable[tuple[Learned, Tensor]]:
        return ((learned, self.get_parameter(learned.name)) for learned in self.model.learned)

    def numbers(self) -> dict[str, Any]:
        """The model's numbers in training; those that are learned are tensors, [] or [C]."""
        return self.constants | {learned.name: learned.value(raw) for learned, raw in self._values()}

    def scale(self) -> Tensor | None:
        """By which currents are multiplied in training [C]; ``None``: they are taken as they are."""
        return None if self.model.scale is None else self.model.scale(self.numbers())

    def dynamics(self) -> Dynamics:
        """The dynamics of the neurons in training, given scaled currents."""
        return replace(self._dynamics(self.numbers()), sharpness=self.sharpness)

    def _dynamics(self, numbers: dict[str, Any]) -> Dynamics:
        if self.model.packed is not None:
            neuron = self.model.packed(numbers)
            if not isinstance(neuron.leak, Tensor) and not isinstance(neuron.reset, Tensor):
                return replace(neuron, levels=self.levels)
        return Stepped(self.model.step, self.model.states, numbers, self.levels)

    def forward(self, currents: Tensor) -> Tensor:
        """Scaled currents [T, P, C] → spikes [T, P, C], in training."""
        dynamics = self.dynamics()
        return fire(currents, dynamics) if isinstance(dynamics, Neuron) else step_through(currents, dynamics)

    @torch.no_grad()
    def deployed_scale(self) -> Tensor | None:
        """:meth:`scale` in float64, to be folded into the population's scales and biases."""
        if self.model.scale is None:
            return None
        return self.model.scale(  # type: ignore[no-any-return]
            self.constants | {learned.name: learned.value(raw.double()) for learned, raw in self._values()}
        )

    @property
    def are_own(self) -> bool:
        """Whether a population's neuron differs from others', by a number that it has learned."""
        return any(learned.each == "population" for learned in self.model.learned)

    def packed(self) -> Neuron:
        """The neuron of a packed file; only of a model that has one."""
        found = self.deployed()
        assert isinstance(found, Neuron)
        return found

    @torch.no_grad()
    def deployed(self) -> Dynamics:
        """The dynamics of the neurons when they are deployed, given currents [T, B, C, H, W] with folded scales."""
        numbers: dict[str, Any] = dict(self.constants)
        for learned, raw in self._values():
            # On the CPU: another device might round otherwise, and the packed file has to say what was evaluated.
            value = learned.value(raw.double().cpu())
            if learned.each == "population":
                numbers[learned.name] = round(float(value), _DECIMALS)
            else:
                numbers[learned.name] = value.float().to(raw.device)[:, None, None]
        return self._dynamics(numbers)

    def fire(self, currents: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Currents [T, B, C, H, W] with folded scales → spikes 0. … D of the same shape, as they are deployed."""
        if self.listener is not None:
            self.listener(currents, arithmetic.fraction)
        dynamics = self.deployed()
        if isinstance(dynamics, Neuron):
            return arithmetic.fire(currents, dynamics)
        with torch.no_grad():
            return step_through(currents, dynamics)


def set_sharpness(module: nn.Module, sharpness: float) -> None:
    """Give all populations in a module this b of the surrogate slope; it is no part of what is saved or deployed."""
    for child in module.modules():
        if isinstance(child, Neurons):
            child.sharpness = sharpness
