"""The parametric leaky integrate-and-fire neuron: each population learns its leak (Fang et al., ICCV 2021).

The leak is the sigmoid of a parameter w, and begins as that of the usual neuron. Fang et al. multiply currents by one
minus the leak as well; here batch normalisation learns the size of currents.
"""

from __future__ import annotations

from litesnn.neurons.hard_reset import hard_reset
from litesnn.neurons.model import Learned, Neuron, NeuronModel, logit

__all__ = ["PLIF"]

PLIF = NeuronModel(
    key="plif",
    meaning="leaky, set to zero by a spike, each population learns its leak",
    step=hard_reset,
    learned=(Learned("leak", "population", lambda known: logit(known["leak"]), lambda w: w.sigmoid()),),
    packed=lambda numbers: Neuron(leak=numbers["leak"]),
    deployments=("reference", "engine", "c", "nir", "onnx"),
    graded=True,
)
