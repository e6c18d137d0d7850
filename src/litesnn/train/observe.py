"""What is watched of an epoch besides loss and accuracy: how often codes change, and how many neurons have a gradient.

``flips``: of the weights that are kept, the share whose code changes in one step, by stem, cell and classifier. It is
measured at the step in the middle of an epoch. Of 1-bit weights every change is a flip of the sign; too many of them
keep such a network from settling (Liang et al., AAAI 2025, arXiv 2502.14344).

``gradient_share``: the share of a population's neurons whose membrane lies where the surrogate slope is not zero
(0 < u < 1, of graded spikes 0 < u < D) at one timestep at least: all others hand no gradient on. It is measured with
the deployed arithmetic on a few validation rows.

Both together take a hundredth of the training at most: there are so few rows, and where epochs are short only some of
them are watched, the first one always.

Shapes: T timesteps, B batch, C channels, H × W pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from litesnn import processes
from litesnn.data.batches import Samples
from litesnn.neurons.model import Fire, Neuron
from litesnn.snn.membrane import integrate, spikes_of, surrogate_slope
from litesnn.snn.network import Network
from litesnn.snn.population import Neurons
from litesnn.train.quantized_layers import QuantizedLayer

__all__ = ["Observer", "count_flips", "gradient_shares", "membranes_of", "populations_in"]

_MOST_ROWS = 64

_TRAINING_ROWS_PER_ROW = 250
"""For so many rows of training one is evaluated, which takes three quarters of the time of one in training: 0.3 %."""

_STEPS_BETWEEN = 60
"""Steps from one epoch that is watched to the next one at least: what does not depend on the number of rows takes 0.4
steps (batches of 32 images of 32 × 32 pixels, 1-bit layers, one thread of a CPU)."""


class Observer:
    """Watches the epochs of a training. Nothing that it does changes what is trained, or draws random numbers.

    Args:
        layers: whose codes are compared.
        network: whose populations are watched, or ``None``.
        rows: validation.
        steps: of an epoch.
        batch_size: of a step, over all processes.
    """

    def __init__(
        self,
        layers: Sequence[QuantizedLayer],
        network: Network | None,
        rows: Samples,
        *,
        steps: int,
        batch_size: int,
    ) -> None:
        self._layers, self._network, self._middle = layers, network, steps // 2
        self._epochs_between, self._watches = -(-_STEPS_BETWEEN // steps), False
        trained = self._epochs_between * steps * batch_size
        count = max(1, min(_MOST_ROWS, trained // _TRAINING_ROWS_PER_ROW, len(rows)))
        chosen = torch.linspace(0, len(rows) - 1, count).round().long()  # rows may be in the order of their classes
        self._x = rows.x[chosen.to(rows.x.device)]
        self._before: list[tuple[Tensor, Tensor]] = []
        self._flips: dict[str, float] = {}

    def begin(self, epoch: int) -> None:
        """To be called before each epoch, counted from 0."""
        self._watches = epoch % self._epochs_between == 0

    def before_step(self, step: int) -> None:
        """To be called before each step of an epoch, counted from 0."""
        if self._watches and step == self._middle:
            self._before = [layer.codes() for layer in self._layers]

    def after_step(self, step: int) -> None:
        """To be called after each step of an epoch."""
        if self._watches and step == self._middle:
            self._flips = count_flips(self._layers, self._before)
            self._before = []

    def row(self) -> dict[str, Any]:
        """What the log says of the epoch that is over; nothing, if it was not watched."""
        if not self._watches:
            return {}
        found: dict[str, Any] = {"flips": self._flips}
        if self._network is not None:
            found["gradient_share"] = gradient_shares(self._network, self._x.float())
        return found


def count_flips(layers: Sequence[QuantizedLayer], before: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """By group, the share of weights kept then and now whose code is another one now.

    ``before``: :meth:`QuantizedLayer.codes` of each layer then.
    """
    changed: defaultdict[str, Tensor | int] = defaultdict(int)
    kept: defaultdict[str, Tensor | int] = defaultdict(int)
    for layer, (old, was_kept) in zip(layers, before, strict=True):
        new, is_kept = layer.codes()
        both = was_kept & is_kept
        changed[layer.group] += ((old != new) & both).sum()
        kept[layer.group] += both.sum()
    return {group: float(changed[group]) / max(1, int(kept[group])) for group in kept}


def populations_in(network: Network) -> dict[str, Neurons]:
    """The populations by the names that costs and metrics have for them."""
    backbone = network.backbone
    found = {"stem": backbone.stem_neurons}
    for index in range(len(backbone.cells)):
        cell = backbone.cell(index)
        found |= {f"cell {index + 1} node {node}": cell.neurons(node) for node in range(cell.nodes)}
    return found


@torch.no_grad()
def gradient_shares(network: Network, x: Tensor) -> dict[str, float]:
    """By population, the share of neurons within reach of the surrogate slope at one timestep at least.

    Args:
        network: is in the same mode afterwards as before.
        x: encoded images [B, C, H, W] or frames [B, T, C, H, W].
    """
    shares: dict[str, Tensor] = {}
    populations, was_training = populations_in(network), network.training

    def listen(name: str, neurons: Neurons) -> None:
        def see(currents: Tensor, fraction: int | None) -> None:
            slopes = surrogate_slope(membranes_of(neurons, currents, fraction), levels=neurons.levels)
            shares[name] = (slopes > 0).any(0).double().mean()

        neurons.listener = see

    network.eval()
    try:
        for name, neurons in populations.items():
            listen(name, neurons)
        with processes.apart():  # every process looks at the same rows
            network.backbone.run(x, network.timesteps, network.mixes(), integer=True)
    finally:
        for neurons in populations.values():
            neurons.listener = None
        network.train(was_training)
    return {name: float(share) for name, share in shares.items()}


def membranes_of(neurons: Neurons, currents: Tensor, fraction: int | None) -> Tensor:
    """Membranes of deployed neurons, in units in which they fire above ½ [T, B, C, H, W].

    Args:
        neurons: of one population.
        currents: as the deployed arithmetic has them [T, B, C, H, W].
        fraction: fractional bits of integer currents; ``None``: they are floats.
    """
    currents = currents if fraction is None else currents.float() / 2**fraction
    dynamics = neurons.deployed()
    if isinstance(dynamics, Neuron):
        return integrate(currents, dynamics)[0]
    membranes: list[Tensor] = []

    def fire(membrane: Tensor) -> Tensor:
        membranes.append(membrane)
        return spikes_of(membrane, levels=dynamics.levels)

    firing: Fire = fire
    state: tuple[Any, ...] = (torch.zeros_like(currents[0]),) * dynamics.states
    for current in currents:
        state, _ = dynamics.step(state, current, dynamics.numbers, firing)
    return torch.stack(membranes)
