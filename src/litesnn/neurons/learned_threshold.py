"""The leaky integrate-and-fire neuron of which each channel learns its threshold θ_c = 0.5 · exp(w_c).

A neuron with threshold θ_c and currents x fires when one with threshold 0.5 and currents 0.5/θ_c · x does. So training
multiplies a channel's currents, and the deployed network has the usual neurons: its scales and biases hold the factor.
The surrogate slope is that of the membrane of this neuron, in units in which every threshold is 0.5.
"""

from __future__ import annotations

from typing import Any

from litesnn.neurons.model import THRESHOLD, Fire, Learned, Neuron, NeuronModel, Numbers, State, kept

__all__ = ["LIF_THRESHOLD"]


def _scale(numbers: Numbers) -> Any:
    """By which currents are multiplied."""
    return THRESHOLD / numbers["threshold"]


def _step(state: State, x: Any, numbers: Numbers, fire: Fire) -> tuple[State, Any]:
    """u_t = leak · u_{t−1} · (1 − s_{t−1}) + x_t, and a spike where u_t > θ_c."""
    u, s = state
    u = numbers["leak"] * u * kept(s, numbers) + x
    s = fire(u * _scale(numbers))
    return (u, s), s


LIF_THRESHOLD = NeuronModel(
    key="lif-threshold",
    meaning="leaky, set to zero by a spike, each channel learns its threshold",
    step=_step,
    learned=(Learned("threshold", "channel", lambda known: 0.0, lambda w: THRESHOLD * w.exp()),),
    scale=_scale,
    packed=lambda numbers: Neuron(leak=numbers["leak"]),
    arithmetics=("float", "fixed"),
    kernels=("c", "triton"),
    deployments=("reference", "engine", "c", "nir", "onnx"),
    graded=True,
)
