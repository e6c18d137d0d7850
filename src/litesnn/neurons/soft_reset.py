"""The leaky integrate-and-fire neuron with soft reset: a spike takes the threshold from the membrane before it leaks.

What a membrane has above the threshold is then not lost (Rueckauer et al., Frontiers in Neuroscience 2017; Han et al.,
CVPR 2020).
"""

from __future__ import annotations

from typing import Any

from litesnn.neurons.model import Fire, Neuron, NeuronModel, Numbers, State

__all__ = ["LIF_SOFT"]


def _reset(numbers: Numbers) -> Any:
    """The part of the threshold that is left one timestep later."""
    return numbers["leak"] * numbers["threshold"]


def _soft_reset(state: State, x: Any, numbers: Numbers, fire: Fire) -> tuple[State, Any]:
    """u_t = leak · (u_{t−1} − threshold · s_{t−1}) + x_t."""
    u, s = state
    u = numbers["leak"] * u - _reset(numbers) * s + x
    s = fire(u)
    return (u, s), s


LIF_SOFT = NeuronModel(
    key="lif-soft",
    meaning="leaky, a spike takes the threshold away",
    step=_soft_reset,
    packed=lambda numbers: Neuron(leak=numbers["leak"], reset=_reset(numbers)),
    arithmetics=("float", "fixed"),
    kernels=("c",),
    deployments=("reference", "engine", "c", "onnx"),
)
