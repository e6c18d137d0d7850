"""The leaky integrate-and-fire neuron of LitE-SNN (section 3.1): a spike resets the membrane to zero."""

from __future__ import annotations

from typing import Any

from litesnn.neurons.model import Fire, Neuron, NeuronModel, Numbers, State, kept

__all__ = ["LIF", "hard_reset"]


def hard_reset(state: State, x: Any, numbers: Numbers, fire: Fire) -> tuple[State, Any]:
    """u_t = leak · u_{t−1} · (1 − s_{t−1}) + x_t."""
    u, s = state
    u = numbers["leak"] * u * kept(s, numbers) + x
    s = fire(u)
    return (u, s), s


LIF = NeuronModel(
    key="lif",
    meaning="leaky, set to zero by a spike",
    step=hard_reset,
    packed=lambda numbers: Neuron(leak=numbers["leak"]),
    arithmetics=("float", "fixed"),
    kernels=("c", "triton"),
    deployments=("reference", "engine", "c", "nir", "onnx"),
    graded=True,
)
