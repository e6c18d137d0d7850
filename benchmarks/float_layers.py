"""A packed model as float32 layers, the common ground of the baselines in torch and in ONNX Runtime.

Codes times scales are folded into dense float32 weights, as one would deploy a trained network. All baselines read
normalised images; LIF, wiring and readout are those of ``litesnn.deploy.reference``, but for float32 rounding.

T timesteps, B batch, C channels, H×W pixels, O output and I input channels, k kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litesnn.arithmetic_limits import INPUT_STEPS
from litesnn.deploy.packed import (
    IMAGE,
    InputSpec,
    PackedModel,
    Population,
    Synapses,
    has_own_neurons,
    population_shapes,
)
from litesnn.deploy.reference import quantize_input
from litesnn.errors import InputError

__all__ = ["Convolution", "Float", "Head", "Layer", "Network", "fold", "normalise"]

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Convolution:
    """``weight`` [O, I, k, k] on the concatenated ``sources``; for an identity, which has kernel 0, [O]."""

    sources: tuple[int, ...]
    kernel: int
    stride: int
    weight: Float


@dataclass(frozen=True, eq=False)
class Layer:
    """A population: LIF neurons on the sum of ``convolutions`` and ``bias`` [O]. All read the image, or none does."""

    convolutions: tuple[Convolution, ...]
    bias: Float

    @property
    def static(self) -> bool:
        """Whether it reads the image, so that its current is the same at every timestep."""
        return self.convolutions[0].sources == (IMAGE,)


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier: ``weight`` [classes, C] on spikes that are summed over pixels and timesteps, plus ``bias``."""

    sources: tuple[int, ...]
    weight: Float
    bias: Float


@dataclass(frozen=True, eq=False)
class Network:
    """All of a model."""

    timesteps: int
    leak: float
    threshold: float
    layers: tuple[Layer, ...]
    head: Head


def fold(model: PackedModel, *, joined: bool) -> Network:
    """The layers of ``model``.

    Args:
        model: what to fold.
        joined: merge the convolutions into a population that have one geometry into a single one on concatenated
            sources; where they have the same source, their weights are added.

    Raises:
        InputError: the model is in fixed point or has other neurons, or a population reads the image and spikes, which
            no derived one does.
    """
    if model.fraction is not None:
        raise InputError("the baselines compute in floats: expected a float model, found one in fixed point")
    if has_own_neurons(model):
        raise InputError("the baselines have one leak and the hard reset: expected neurons of these, found others")
    shapes = population_shapes(model)
    widths = {IMAGE: model.input.shape[0]} | {index: shape[0] for index, shape in enumerate(shapes)}
    _, height, width = model.input.shape
    sizes = {IMAGE: (height, width)} | {index: shape[1:] for index, shape in enumerate(shapes)}
    layers = []
    for index, population in enumerate(model.populations):
        if len({synapses.sources == (IMAGE,) for synapses in population.synapses}) > 1:
            raise InputError(f"population {index}: expected the image or spikes as inputs, found both")
        convolutions = _join(population, widths, sizes) if joined else map(_convolution, population.synapses)
        layers.append(Layer(tuple(convolutions), population.bias.astype(np.float32)))
    readout = model.readout
    weight = (readout.codes * readout.scale[:, None] / model.timesteps).astype(np.float32)
    head = Head(readout.sources, weight, readout.bias.astype(np.float32))
    return Network(model.timesteps, model.leak, model.threshold, tuple(layers), head)


def normalise(spec: InputSpec, x: NDArray[np.generic]) -> Float:
    """What the network sees of raw inputs [B, C, H, W], as normalised numbers: multiples of 1/32."""
    return quantize_input(spec, x).astype(np.float32) / np.float32(INPUT_STEPS)


def _convolution(synapses: Synapses) -> Convolution:
    scale = (synapses.scale * (INPUT_STEPS if synapses.sources == (IMAGE,) else 1)).astype(np.float32)
    weight = scale if synapses.kernel == 0 else (synapses.codes * scale[:, None, None, None]).astype(np.float32)
    return Convolution(synapses.sources, synapses.kernel, synapses.stride, weight)


def _join(
    population: Population, widths: Mapping[int, int], sizes: Mapping[int, tuple[int, int]]
) -> Iterator[Convolution]:
    groups: dict[tuple[int, int, tuple[int, int]], dict[int, Float]] = {}
    for synapses in population.synapses:
        convolution = _convolution(synapses)
        if synapses.kernel == 0:
            yield convolution
            continue
        by_source = groups.setdefault((synapses.kernel, synapses.stride, sizes[synapses.sources[0]]), {})
        edges = np.cumsum([widths[source] for source in synapses.sources])[:-1]
        for source, weight in zip(synapses.sources, np.split(convolution.weight, edges, axis=1), strict=True):
            by_source[source] = by_source[source] + weight if source in by_source else weight
    for (kernel, stride, _), by_source in groups.items():
        yield Convolution(tuple(by_source), kernel, stride, np.concatenate(list(by_source.values()), axis=1))
