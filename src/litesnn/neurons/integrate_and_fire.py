"""The integrate-and-fire neuron, which does not leak: the paper's neuron with a leak of 1, and its hard reset.

In fixed point the leak is a shift, and a membrane that never leaks could pass int32: there it is refused.
"""

from __future__ import annotations

from typing import Any

from litesnn.neurons.model import Fire, Neuron, NeuronModel, Numbers, State, kept

__all__ = ["IF"]


def _integrate(state: State, x: Any, numbers: Numbers, fire: Fire) -> tuple[State, Any]:
    """u_t = u_{t−1} · (1 − s_{t−1}) + x_t."""
    u, s = state
    u = u * kept(s, numbers) + x
    s = fire(u)
    return (u, s), s


IF = NeuronModel(
    key="if",
    meaning="not leaky, set to zero by a spike",
    step=_integrate,
    packed=lambda numbers: Neuron(leak=1.0),
    kernels=("c", "triton"),
    deployments=("reference", "engine", "c", "onnx"),
    graded=True,
)
