"""Neurons: one row per model, which is all that it takes to search, train, deploy and refuse one.

A new neuron is a module here that makes a :class:`~litesnn.neurons.model.NeuronModel`, and a row in :data:`NEURONS`.
Nothing here imports torch.
"""

from __future__ import annotations

from litesnn.neurons.hard_reset import LIF
from litesnn.neurons.integrate_and_fire import IF
from litesnn.neurons.learned_leak import PLIF
from litesnn.neurons.learned_threshold import LIF_THRESHOLD
from litesnn.neurons.model import MOST_LEVELS, Learned, Neuron, NeuronModel
from litesnn.neurons.soft_reset import LIF_SOFT

__all__ = [
    "DEFAULT",
    "MOST_LEVELS",
    "NEURONS",
    "Learned",
    "Neuron",
    "NeuronModel",
    "check_neuron",
    "check_spike_levels",
    "described_neurons",
]

NEURONS: dict[str, NeuronModel] = {model.key: model for model in (LIF, LIF_SOFT, IF, PLIF, LIF_THRESHOLD)}
"""Every neuron by its key."""

DEFAULT = LIF.key


def check_neuron(name: str, arithmetic: str) -> str:
    """Return ``name`` if the table has it and its neuron can be deployed in this arithmetic; else ``ValueError``."""
    if name not in NEURONS:
        raise ValueError(f"unknown neuron {name!r}; expected one of {', '.join(NEURONS)}")
    if arithmetic not in NEURONS[name].arithmetics:
        able = ", ".join(key for key, model in NEURONS.items() if arithmetic in model.arithmetics)
        raise ValueError(f"neuron {name!r} has no arithmetic {arithmetic!r}; expected one of {able}")
    return name


def check_spike_levels(levels: int, neuron: str) -> int:
    """Return ``levels`` if this neuron's spikes may have so many besides 0; else ``ValueError``."""
    if levels > 1 and neuron in NEURONS and not NEURONS[neuron].graded:
        able = ", ".join(key for key, model in NEURONS.items() if model.graded)
        raise ValueError(f"neuron {neuron!r} has no graded spikes; expected spike_levels 1, or one of {able}")
    return levels


def described_neurons() -> str:
    """The rows in words, for the settings' help."""
    return "; ".join(f"{key}: {model.meaning}" for key, model in NEURONS.items())
