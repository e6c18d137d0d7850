"""Packed models as NIR graphs (Neuromorphic Intermediate Representation; Pedersen et al., Nature Communications 2024).

In: a :class:`~litesnn.deploy.packed.PackedModel` in floats. Out: a graph of Conv2d, LIF, SumPool2d and Flatten nodes,
and nothing else: what most readers know. It is written from the model, not traced.

NIR's neuron is an equation in continuous time, ``τ·v' = (v_leak − v) + r·x``, with a spike where v > v_threshold and
v = v_reset after it. A forward Euler step of length dt is ``v = (1 − dt/τ)·v + (r·dt/τ)·x``, so that ``τ = dt/(1 − λ)``
and ``r = τ/dt = 1/(1 − λ)`` make it our neuron: 1.25·dt and 1.25 for λ = 0.2.

A soft reset, which takes a number from the membrane, is none that NIR has. Nor are graded spikes: neurons with a
threshold for each level would not reset one another.

Nodes sum what arrives at them, and none concatenates. A convolution of concatenated sources is therefore one
convolution per source whose currents are summed, an identity a 1×1 convolution with a diagonal. The readout sums the
spikes of each source over its pixels, weighs them by a 1×1 convolution, and sums over the sources: the output at step
t is ``scale·acc_t + bias``, and the mean of the outputs of the steps 1 … t is y_t.

The input is what ``deploy.reference.quantize_input`` gives, int8 numbers as floats: of an image the same at every
timestep, of events a frame at each. Rounding is no operation of NIR. Weights are ``code·scale`` in float32, exactly;
codes and scales are in the nodes' metadata. Readers sum in an order of their own: currents may differ from ours in the
last bit, where float32 has to round them.

T timesteps, C channels, H×W pixels, O output and I input channels, k kernel size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.deploy.exchange.source import require_float, used_populations
from litesnn.deploy.packed import (
    IMAGE,
    Affine,
    PackedModel,
    Population,
    Readout,
    Synapses,
    neuron_of,
    population_shapes,
)
from litesnn.errors import InputError
from litesnn.extras import import_extra

__all__ = ["TIMESTEP", "nir_bytes", "nir_graph"]

TIMESTEP = 1e-4
"""dt in seconds. NIR has no timestep of its own; some readers take this one and no other."""


def nir_bytes(model: PackedModel, *, fires_at_threshold: bool = False) -> bytes:
    """The HDF5 file of :func:`nir_graph`; equal models give equal bytes. Raises ``InputError`` as it does."""
    graph = nir_graph(model, fires_at_threshold=fires_at_threshold)
    file = io.BytesIO()
    _nir().write(file, graph)
    return file.getvalue()


def nir_graph(model: PackedModel, *, fires_at_threshold: bool = False) -> Any:
    """The ``nir.NIRGraph`` of a model.

    Args:
        model: a packed model in floats.
        fires_at_threshold: for readers whose neurons also fire where v equals the threshold: it is the next float32
            above ours, so that they fire where ours do.

    Raises:
        InputError: the model is in fixed point, its spikes are graded, its neurons do not leak or have a soft reset, or
            the package ``nir`` is not installed.
    """
    require_float(model, "NIR")
    if model.levels > 1:
        raise InputError(
            f"NIR cannot carry graded spikes 0…{model.levels}: its neurons spike or do not; expected a design with "
            "--set model.spike_levels=1"
        )
    for index in used_populations(model):
        neuron = neuron_of(model, model.populations[index])
        if neuron.reset is not None:
            raise InputError(
                f"NIR cannot carry a soft reset: a spike of population {index} takes {neuron.reset:g} from its "
                "membrane, and neurons of NIR are reset to a fixed one"
            )
        if not neuron.leak < 1:
            raise InputError(f"NIR cannot carry a leaky neuron that keeps all of its membrane: leak {neuron.leak}")
    return _Builder(model, fires_at_threshold).build()


def _nir() -> Any:
    return import_extra("nir", purpose="the NIR export", package="nir", extra="nir")


class _Builder:
    """Collects nodes and edges. Values are known by the names of the nodes that give them."""

    def __init__(self, model: PackedModel, fires_at_threshold: bool) -> None:
        self.nir, self.model = _nir(), model
        self.shapes = population_shapes(model)
        self.threshold = np.float32(model.threshold)
        if fires_at_threshold:
            self.threshold = np.nextafter(self.threshold, np.float32(np.inf))
        self.nodes: dict[str, Any] = {"input": self.nir.Input(np.array(model.input.shape))}
        self.edges: list[tuple[str, str]] = []

    def build(self) -> Any:
        """All of it."""
        for index in used_populations(self.model):
            self.add_population(index, self.model.populations[index])
        self.add_readout(self.model.readout)
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=self.metadata())

    def add_population(self, index: int, population: Population) -> None:
        """LIF neurons, and before them a convolution for every source of every bundle of synapses."""
        name = _name(index)
        self.add(name, self.neurons(self.shapes[index], neuron_of(self.model, population).leak))
        bias = population.bias
        for number, synapses in enumerate(population.synapses):
            for place, (source, codes) in enumerate(self.by_source(synapses)):
                conv = f"{name}_synapses_{number}_source_{place}"
                before = "input" if source == IMAGE else _name(source)
                size = self.model.input.shape[1:] if source == IMAGE else self.shapes[source][1:]
                node = self.convolution(codes, synapses.scale, bias, stride=synapses.stride, size=size)
                node.metadata |= {"population": index, "synapses": number, "bits": synapses.bits}
                self.add(conv, node, before)
                self.edges.append((conv, name))
                bias = np.zeros_like(bias)  # the first one has it

    def add_readout(self, readout: Readout) -> None:
        """The nodes that add one timestep to the logits' sum."""
        end = self.nir.Flatten({"input": np.array([len(readout.bias), 1, 1])}, start_dim=-3, end_dim=-1)
        self.add("readout", end)  # dimensions from the end: readers differ in whether the batch counts
        bias, first = readout.bias, 0
        for place, source in enumerate(readout.sources):
            channels, *size = self.shapes[source]
            pool = self.nir.SumPool2d(np.array(size), np.array(size), np.array([0, 0]))
            self.add(f"readout_pool_{place}", pool, _name(source))
            codes = readout.codes[:, first : first + channels, None, None]
            node = self.convolution(codes, readout.scale, bias, stride=1, size=(1, 1))
            node.metadata |= {"bits": readout.bits}
            self.add(f"readout_source_{place}", node, f"readout_pool_{place}")
            self.edges.append((f"readout_source_{place}", "readout"))
            bias, first = np.zeros_like(bias), first + channels
        self.add("output", self.nir.Output(np.array([len(readout.bias)])), "readout")

    def add(self, name: str, node: Any, *before: str) -> None:
        """Add a node that reads the nodes ``before`` it."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in before]

    def by_source(self, synapses: Synapses) -> Iterator[tuple[int, NDArray[np.int8]]]:
        """The sources, each with the codes [O, I, k, k] of its channels; those of an identity are ones."""
        first = 0
        for source in synapses.sources:
            channels = self.model.input.shape[0] if source == IMAGE else self.shapes[source][0]
            if synapses.kernel == 0:
                yield source, np.eye(len(synapses.scale), channels, -first, np.int8)[:, :, None, None]
            else:
                yield source, synapses.codes[:, first : first + channels]
            first += channels

    def convolution(
        self, codes: NDArray[np.int8], scale: Affine, bias: Affine, *, stride: int, size: tuple[int, ...]
    ) -> Any:
        """A convolution with the weights codes·scale, which float32 holds exactly (4 and 11 bits)."""
        weight = codes * scale.astype(np.float32)[:, None, None, None]
        kernel = codes.shape[-1]
        return self.nir.Conv2d(
            input_shape=tuple(map(int, size)),
            weight=weight,
            stride=(stride, stride),
            padding=(kernel // 2, kernel // 2),
            dilation=(1, 1),
            groups=1,
            bias=bias.astype(np.float32),
            metadata={"codes": np.ascontiguousarray(codes), "scales": scale.astype(np.float32)},
        )

    def neurons(self, shape: tuple[int, int, int], leak: float) -> Any:
        """LIF neurons [C, H, W]. In float64: readers compute the leak 1 − dt/τ, and it has to round to ours."""
        gain = 1 / (1 - leak)
        values = {
            "tau": gain * TIMESTEP,
            "r": gain,
            "v_leak": 0.0,
            "v_threshold": float(self.threshold),
            "v_reset": 0.0,
        }
        return self.nir.LIF(**{name: np.full(shape, value, np.float64) for name, value in values.items()})

    def metadata(self) -> dict[str, Any]:
        """Metadata that a reader of the graph needs or may want."""
        model = self.model
        when = "of frame t at timestep t" if model.input.frames else "the same at every timestep"
        return {
            "origin": "litesnn",
            "discretization": "euler",
            "dt": TIMESTEP,
            "timesteps": model.timesteps,
            **({"leak": model.leak} if all(each.leak is None for each in model.populations) else {}),
            "threshold": model.threshold,
            "fires": "above threshold" if self.threshold == np.float32(model.threshold) else "at v_threshold or above",
            "input": f"clip(round({INPUT_STEPS} * (x - mean) / std), -{MAX_INPUT}, {MAX_INPUT}), {when}",
            "input_mean": np.array(model.input.mean, np.float32),
            "input_std": np.array(model.input.std, np.float32),
            "input_steps": INPUT_STEPS,
            "output": "logits: the mean over the timesteps",
            "classes": json.dumps(model.classes),
        }


def _name(population: int) -> str:
    return f"population_{population}"
