"""The record of a neuron model: all that search, training and deployment need to know of one.

A model is a row of :data:`litesnn.neurons.NEURONS`. Its meaning is :attr:`NeuronModel.step`, one timestep written with
operators alone, which Python's numbers, NumPy's arrays and torch's tensors all have: tests run it neuron by neuron, and
where there is nothing faster training runs it under autograd. Nothing here needs torch.

Every neuron fires where its membrane is strictly above :data:`THRESHOLD`, since currents are normalised to it. A model
with another threshold scales its membrane, or all of its currents, instead; the surrogate slope is then that of the
scaled membrane. A graded spike is the number of thresholds 0.5, 1.5, …, D − 0.5 that the membrane is above.

Shapes: T timesteps, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "LEAK",
    "MOST_LEVELS",
    "SHARPNESS",
    "THRESHOLD",
    "Fire",
    "Learned",
    "Neuron",
    "NeuronModel",
    "Numbers",
    "State",
    "kept",
    "logit",
]

LEAK = 0.2
THRESHOLD = 0.5
SHARPNESS = 3.0

State = tuple[Any, ...]
"""The numbers that a neuron keeps from one timestep to the next, all zero at first."""

Numbers = Mapping[str, Any]
"""Of a neuron: ``leak`` and ``threshold`` as the deployed arithmetic has them, or learned, and whatever else is."""

Fire = Callable[[Any], Any]
"""Membranes to spikes (0 or 1, or graded ones 0…D); in training with the surrogate slope."""

MOST_LEVELS = 7
"""The largest graded spike, which has three bits."""


@dataclass(frozen=True)
class Neuron:
    """The integrate-and-fire neuron that kernels and engines know; its equations are in :mod:`litesnn.snn.membrane`.

    ``leak``: what is left of the membrane after one timestep, in [0, 1]; it fires strictly above ``threshold``.

    ``reset``: what a spike takes from the membrane of the next timestep; ``None``: all of it.

    ``levels``: D, the largest spike. A spike is one of 0…D, the number of ``threshold``, ``threshold`` + 1, … that the
    membrane is above; more than one level has a hard reset.
    """

    leak: float = LEAK
    threshold: float = THRESHOLD
    sharpness: float = SHARPNESS
    reset: float | None = None
    levels: int = 1


@dataclass(frozen=True)
class Learned:
    """A number that is learned, by a parameter that may take any value.

    Attributes:
        name: under which the step finds the number, and networks keep the parameter.
        each: whether every channel of a population has its own, or the population has one. A population's is rounded to
            4 decimals when it is deployed, as a packed file says it.
        start: the parameter before training, given the neuron's constants.
        value: the number that a parameter (a tensor) stands for, differentiable.
    """

    name: str
    each: Literal["population", "channel"]
    start: Callable[[Mapping[str, float]], float]
    value: Callable[[Any], Any]


@dataclass(frozen=True)
class NeuronModel:
    """One neuron model.

    Attributes:
        key: its name in recipes and genotypes.
        meaning: for the settings' help.
        step: one timestep: (state, current, numbers, fire) → (state, spikes).
        states: how many numbers the state has.
        learned: the numbers that are learned, of every population its own.
        scale: of numbers, the factor [C] by which a population's currents are multiplied to give ``packed`` neurons the
            spikes of this model, if there is one. It is folded into scales and biases when a network is deployed.
        packed: of numbers, the neuron of kernels and engines that this is; ``None``: none of theirs. Its networks are
            searched and trained by autograd through ``step``, and cannot be packed.
        arithmetics: the deployed arithmetics in which it can be computed.
        kernels: what trains it besides torch: ``c``, ``triton``.
        deployments: what else computes it bit for bit: ``reference``, ``engine``, ``c``, ``nir``, ``onnx``.
        graded: whether its spikes may have more levels than 0 and 1; its step then resets by :func:`kept`.
    """

    key: str
    meaning: str
    step: Callable[[State, Any, Numbers, Fire], tuple[State, Any]]
    states: int = 2
    learned: tuple[Learned, ...] = ()
    scale: Callable[[Numbers], Any] | None = None
    packed: Callable[[Numbers], Neuron] | None = None
    arithmetics: tuple[str, ...] = ("float",)
    kernels: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()
    graded: bool = False


def kept(spikes: Any, numbers: Numbers) -> Any:
    """The part of a membrane that a hard reset leaves: 1 − s. Of graded spikes, 1 where there is none, and 0 elsewhere,
    without a gradient.
    """
    return 1 - spikes if numbers.get("levels", 1) == 1 else spikes == 0


def logit(probability: float) -> float:
    """The number whose sigmoid is ``probability``."""
    return math.log(probability / (1 - probability))
