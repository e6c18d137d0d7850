"""A genotype's packed model by shapes alone: no weights are drawn, and no network of torch's is built.

In: a genotype, and what the network is given. Out: a :class:`~litesnn.deploy.packed_model.PackedModel` with the layers,
sources and numbers of kept weights of every network of that genotype, and with codes and scales that mean nothing.
:func:`litesnn.deploy.packed.size_bound` of it is the size that no such network's file exceeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from litesnn.costs.size import kept_count
from litesnn.deploy.integerize import own_neuron, shared_neuron
from litesnn.deploy.packed_model import IMAGE, Affine, PackedModel, Population, Readout, Synapses
from litesnn.genotype import OPS, Genotype
from litesnn.input_spec import InputSpec
from litesnn.neurons import NEURONS
from litesnn.quantizers import QUANTIZERS, Quantizer, ends_of
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.backbone import STEM_KERNEL
from litesnn.snn.neuron import THRESHOLD
from litesnn.snn.population import Neurons

__all__ = ["model_of_shapes"]


def model_of_shapes(genotype: Genotype, spec: InputSpec, classes: tuple[str, ...]) -> PackedModel:
    """The packed model of a genotype's shapes, for an input and classes."""
    arithmetic = ARITHMETICS[genotype.arithmetic]

    def affine(length: int) -> Affine:
        return np.zeros(length, np.float32) if arithmetic.fraction is None else np.zeros(length, np.int16)

    stem, inner, ends = genotype.stem, QUANTIZERS[genotype.quantizer], ends_of(genotype.quantizer)
    codes = _codes((stem.channels, spec.shape[0], STEM_KERNEL, STEM_KERNEL), 1.0, ends)
    bits = ends.code_bits(stem.bits)
    first = Synapses((IMAGE,), STEM_KERNEL, stem.stride, bits, codes, affine(stem.channels))
    neurons = Neurons(NEURONS[genotype.neuron], 1, arithmetic.leak)
    own = own_neuron(neurons)

    def population(synapses: tuple[Synapses, ...], channels: int) -> Population:
        return Population(synapses, affine(channels), None, **own)

    populations = [population((first,), stem.channels)]
    older = newer = _Source((0,), stem.channels, level=0)
    for gene in genotype.cells:
        sources = [older, newer]
        for node in range(genotype.nodes):
            synapses = []
            for edge in (edge for edge in genotype.edges if edge.node == node):
                source, op = sources[edge.source], OPS[edge.op]
                stride = 2 ** (gene.level - source.level)
                if op.identity and stride == 1 and source.channels == gene.width:
                    nothing = np.zeros((gene.width, 0, 0, 0), np.int8)
                    synapses.append(Synapses(source.populations, 0, 1, 0, nothing, affine(gene.width)))
                    continue
                weights, bits = op.weights(source.channels, gene.width), inner.code_bits(gene.bits)
                codes = _codes((gene.width, source.channels, op.kernel, op.kernel), gene.keep, inner, weights)
                synapses.append(Synapses(source.populations, op.kernel, stride, bits, codes, affine(gene.width)))
            sources.append(_Source((len(populations),), gene.width, gene.level))
            populations.append(population(tuple(synapses), gene.width))
        nodes = tuple(population for source in sources[2:] for population in source.populations)
        older, newer = newer, _Source(nodes, genotype.nodes * gene.width, gene.level)
    codes = _codes((len(classes), newer.channels), 1.0, ends)
    numbers = affine(len(classes))
    return PackedModel(
        input=spec,
        timesteps=genotype.timesteps,
        threshold=THRESHOLD,
        classes=classes,
        populations=tuple(populations),
        readout=Readout(newer.populations, ends.code_bits(genotype.classifier_bits), codes, numbers, numbers),
        fraction=arithmetic.fraction,
        levels=genotype.spike_levels,
        **shared_neuron(neurons),
    )


class _Source:
    """The input of a cell: populations, their channels in all, and the level of their resolution."""

    def __init__(self, populations: tuple[int, ...], channels: int, level: int) -> None:
        self.populations, self.channels, self.level = populations, channels, level


def _codes(shape: tuple[int, ...], keep: float, quantizer: Quantizer, weights: int | None = None) -> NDArray[np.int8]:
    """Codes that are not 0 of as many ``weights`` (left out: of all places) as take the most bytes at a keep ratio."""
    codes = np.zeros(shape, np.int8)
    weights = weights or codes.size
    codes.reshape(-1)[: quantizer.most_kept(kept_count(weights, keep), weights)] = 1
    return codes
