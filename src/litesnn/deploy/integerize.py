"""From a trained network to the records of the packed format.

In: a :class:`~litesnn.snn.network.Network`. Out: a :class:`~litesnn.deploy.packed.PackedModel` that computes the same
spikes and logits. The numbers are the ones that the network itself uses in evaluation mode; nothing is rounded here.
They are integers if the network's arithmetic is fixed point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litesnn.deploy.packed import Affine, PackedModel, Population, Readout, Synapses
from litesnn.errors import InputError
from litesnn.genotype import require_engine
from litesnn.neurons import NEURONS
from litesnn.snn.arithmetic import Folded, FoldedGroup
from litesnn.snn.compconv import Connection
from litesnn.snn.network import Network
from litesnn.snn.neuron import THRESHOLD
from litesnn.snn.population import Neurons

__all__ = ["array_of", "codes_of", "integerize", "own_neuron", "require_packable", "shared_neuron"]

_IMAGE = -1


@torch.no_grad()
def integerize(network: Network, rates: Mapping[str, float] | None = None) -> PackedModel:
    """The packed form of a network.

    Args:
        network: on any device.
        rates: measured firing rate of each population by name ("stem", "cell 1 node 0", …), to be stored in the file.

    Raises:
        InputError: the packed file cannot hold an operation or the neurons of the network.
    """
    genotype = network.genotype
    require_packable(genotype.neuron, (edge.op for edge in genotype.edges))
    backbone, rates = network.backbone, rates or {}
    group = backbone.folded_stem()
    stem = _synapses(backbone.stem, group.connections[0], (_IMAGE,), network.genotype.stem.bits)
    populations = [_population((stem,), group, rates.get("stem"), backbone.stem_neurons)]
    older: tuple[int, ...] = (0,)
    newer = older
    for index, mix in enumerate(network.mixes()):
        cell = backbone.cell(index)
        bits, _ = mix.compression.choice()
        sources: list[tuple[int, ...]] = [older, newer]
        for node in range(cell.nodes):
            group = cell.folded(node, mix.compression)
            synapses = tuple(
                _synapses(cell.connection(edge), folded, sources[edge.source], bits)
                for edge, folded in zip(cell.edges_into(node), group.connections, strict=True)
            )
            rate = rates.get(f"cell {index + 1} node {node}")
            sources.append((len(populations),))
            populations.append(_population(synapses, group, rate, cell.neurons(node)))
        older, newer = newer, tuple(population for source in sources[2:] for population in source)
    group = backbone.folded_classifier()
    (head,) = group.connections
    assert head.codes is not None
    readout = Readout(
        newer,
        backbone.classifier.quantizer.code_bits(network.genotype.classifier_bits),
        codes_of(head.codes),
        array_of(head.scale),
        array_of(group.bias),
        shift=head.shift,
        bias_shift=group.bias_shift,
        fraction=group.fraction,
    )
    info, arithmetic = network.info, backbone.arithmetic
    return PackedModel(
        input=info.input,
        timesteps=network.genotype.timesteps,
        threshold=THRESHOLD,
        classes=info.classes,
        populations=tuple(populations),
        readout=readout,
        fraction=arithmetic.fraction,
        levels=network.genotype.spike_levels,
        **shared_neuron(backbone.stem_neurons),
    )


def require_packable(neuron: str, ops: Iterable[str]) -> None:
    """Refuse a neuron or operations that the packed file cannot hold. Raises ``InputError``, which names it."""
    require_engine(ops, "reference")
    if NEURONS[neuron].packed is None:
        able = ", ".join(key for key, model in NEURONS.items() if model.packed is not None)
        raise InputError(f"model.neuron: networks of {neuron!r} neurons cannot be packed; expected one of {able}")


def _population(synapses: tuple[Synapses, ...], group: FoldedGroup, rate: float | None, neurons: Neurons) -> Population:
    return Population(synapses, array_of(group.bias), rate, bias_shift=group.bias_shift, **own_neuron(neurons))


def shared_neuron(neurons: Neurons) -> dict[str, Any]:
    """Leak and reset of a packed model whose populations have such neurons."""
    if neurons.are_own:  # each population says its own
        return {"leak": neurons.constants["leak"], "reset": None}
    neuron = neurons.packed()
    return {"leak": neuron.leak, "reset": neuron.reset}


def own_neuron(neurons: Neurons) -> dict[str, Any]:
    """Leak and reset of a packed population; nothing if they are those of all."""
    if not neurons.are_own:
        return {}
    neuron = neurons.packed()
    return {"leak": neuron.leak, "reset": neuron.reset}


def _synapses(connection: Connection, folded: Folded, sources: tuple[int, ...], bits: int) -> Synapses:
    scale = array_of(folded.scale)
    if folded.codes is None:
        nothing = np.zeros((connection.outputs, 0, 0, 0), np.int8)
        return Synapses(sources, kernel=0, stride=1, bits=0, codes=nothing, scale=scale, shift=folded.shift)
    assert connection.conv is not None
    codes, bits = codes_of(folded.codes), connection.conv.quantizer.code_bits(bits)
    return Synapses(sources, connection.kernel, connection.stride, bits, codes, scale, shift=folded.shift)


def array_of(values: Tensor) -> Affine:
    """Scales or biases: float32, or int16 where they are integers."""
    array = values.cpu().numpy()
    return array.astype(np.float32) if values.is_floating_point() else array.astype(np.int16)


def codes_of(values: Tensor) -> npt.NDArray[np.int8]:
    """Codes, of the same shape."""
    return values.to(torch.int8).contiguous().cpu().numpy()
