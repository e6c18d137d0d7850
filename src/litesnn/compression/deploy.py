"""The deployed numbers of a user's module: codes, scales and biases of its graph, and the packed model made of them.

In: a :class:`~litesnn.compression.graph.Graph`, the module, and finished choices. Out: a :class:`Folding`, from which
the module itself computes in evaluation, and the :class:`~litesnn.deploy.packed.PackedModel` that is written.

Both take the same float16 numbers. The module's own neurons do the rest in float32 and may round a membrane otherwise
than the packed file's neuron does: SpikingJelly adds (x − u)/τ where the file has λ·u + x. Where a membrane meets the
threshold to the last bit a spike may then differ, which is what :func:`prove_equal` allows for.

Shapes: O output channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.compression.graph import IMAGE, Graph, Handing, Leaf, Node, Norm, Sum, TracedPopulation, leaves_of
from litesnn.compression.layers import CompressedLayer, Currents, Deployed, Summand
from litesnn.compression.norms import NotAffine, affine_of
from litesnn.deploy.integerize import array_of, codes_of
from litesnn.deploy.packed import PackedModel, Population, Readout, Synapses
from litesnn.deploy.reference import Reference
from litesnn.errors import LitesnnError
from litesnn.input_spec import shortest_decimal
from litesnn.snn.arithmetic import ARITHMETICS, Exact, FoldedGroup
from litesnn.snn.backbone import INPUT_SCALE
from litesnn.snn.compconv import Compression
from litesnn.snn.network import InputInfo

__all__ = ["Folding", "exact_populations", "fold_graph", "own_neuron", "packed_model", "prove_equal"]

_ROUNDING = 1e-4
"""Share of spikes that may differ between the module's neurons and the packed file's."""
_POOL_SCALE = 2.0  # times the threshold: one spike in the window is enough
_SAME = 1e-6
"""Leaks, and resets in units of the threshold, that are closer than this are those of one neuron: both are measured."""


@dataclass(frozen=True)
class Folding:
    """The numbers of every population, in the order of its summands, and of the readout.

    ``unfolded``: the layers of populations that share one, with nothing folded into them.
    """

    populations: tuple[FoldedGroup, ...]
    readout: FoldedGroup

    unfolded: Mapping[str, Deployed]

    def layers(self, graph: Graph) -> dict[str, Deployed]:
        """The numbers that each layer of the module computes with. A population's bias is added by its first layer.

        Layers of populations that share one have no scale that is right for all of them: they compute what they would
        with quantized weights, their norms stay, and :meth:`currents` takes the place of what comes of it.
        """
        found = dict(self.unfolded)
        for population, group in zip(graph.populations, self.populations, strict=True):
            if population.current is None or graph.shares(population):
                continue
            bias: Tensor | None = group.bias
            unit = population.lif.threshold / graph.lif.threshold
            for leaf, folded in zip(leaves_of(population.current), group.connections, strict=True):
                if leaf.layer is None:
                    continue
                assert folded.codes is not None
                steps = INPUT_STEPS if leaf.sources == (IMAGE,) else 1
                found[leaf.layer] = Deployed(folded.codes, steps, folded.scale, bias, unit)
                bias = None
        (part,) = self.readout.connections
        assert part.codes is not None
        found[graph.readout] = Deployed(part.codes, graph.readout_pixels, None, None)
        return found

    def currents(self, graph: Graph) -> dict[str, Currents]:
        """By the names of their neurons, the currents of the populations that share a layer."""
        found = {}
        for population, group in zip(graph.populations, self.populations, strict=True):
            if population.current is None or not graph.shares(population):
                continue
            summands = tuple(
                Summand(leaf.layer or graph.populations[leaf.sources[0]].name, part.scale, leaf.layer is not None)
                for leaf, part in zip(leaves_of(population.current), group.connections, strict=True)
            )
            found[population.name] = Currents(summands, group.bias, population.lif.threshold / graph.lif.threshold)
        return found


@torch.no_grad()
def fold_graph(
    graph: Graph,
    net: nn.Module,
    layers: Mapping[str, CompressedLayer],
    compressions: Mapping[str, Compression],
    timesteps: int,
) -> Folding:
    """Batch norm, quantization steps and thresholds as float16 scales and biases."""
    arithmetic = ARITHMETICS["float"]
    groups = [arithmetic.fold(*exact) for exact in exact_populations(graph, net, layers, compressions)]
    last = layers[graph.readout]
    exact_readout = last.exact(
        compressions[graph.readout],
        torch.ones(last.outputs, dtype=torch.float64, device=last.weight.device),
        input_scale=1 / graph.readout_pixels,
        largest_input=graph.readout_pixels * graph.readout_repeats * timesteps,
    )
    nothing = torch.zeros(last.outputs, dtype=torch.float64, device=last.weight.device)
    bias = nothing if last.bias is None else last.bias.double()
    unfolded = {
        leaf.layer: _unfolded(layers[leaf.layer], compressions[leaf.layer], leaf)
        for population in graph.populations
        if population.current is not None and graph.shares(population)
        for leaf in leaves_of(population.current)
        if leaf.layer is not None
    }
    return Folding(tuple(groups), arithmetic.fold_readout(exact_readout, bias, timesteps), unfolded)


def _unfolded(layer: CompressedLayer, compression: Compression, leaf: Leaf) -> Deployed:
    """A layer with quantized weights and nothing folded into it."""
    ones = torch.ones(layer.outputs, dtype=torch.float64, device=layer.weight.device)
    steps = INPUT_STEPS if leaf.sources == (IMAGE,) else 1
    exact = layer.exact(compression, ones, input_scale=1 / steps, largest_input=1)
    assert exact.codes is not None
    return Deployed(exact.codes, steps, exact.scale.float(), None if layer.bias is None else layer.bias.detach())


@torch.no_grad()
def exact_populations(
    graph: Graph, net: nn.Module, layers: Mapping[str, CompressedLayer], compressions: Mapping[str, Compression]
) -> list[tuple[list[Exact], Tensor]]:
    """Of every population its summands and its bias [O] before rounding, in units of the packed file's currents."""
    return [
        _Folder(net, layers, compressions, graph.lif.threshold / population.lif.threshold).fold(population, graph)
        for population in graph.populations
    ]


class _Folder:
    def __init__(
        self,
        net: nn.Module,
        layers: Mapping[str, CompressedLayer],
        compressions: Mapping[str, Compression],
        unit: float,
    ) -> None:
        self.net, self.layers, self.compressions, self.unit = net, layers, compressions, unit

    def fold(self, population: TracedPopulation, graph: Graph) -> tuple[list[Exact], Tensor]:
        """The summands of a population and its bias, in units of the packed file's currents."""
        ones = torch.ones(population.channels, dtype=torch.float64, device=self._device())
        if population.handing is not None:
            return [_handed(population.handing, ones * _POOL_SCALE * graph.lif.threshold)], torch.zeros_like(ones)
        assert population.current is not None
        return self._fold(population.current, self.unit * ones)

    def _fold(self, node: Node, gain: Tensor) -> tuple[list[Exact], Tensor]:
        match node:
            case Sum():
                (left, before), (right, after) = self._fold(node.left, gain), self._fold(node.right, gain)
                return left + right, before + after
            case Norm():
                norm = self.net.get_submodule(node.name)
                assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
                try:
                    affine = affine_of(norm)
                except NotAffine as error:  # with other numbers than those with which it was tried
                    raise LitesnnError(f"norm {node.name} cannot be folded: {error}") from None
                exact, bias = self._fold(node.child, gain * affine.gain)
                return exact, bias + gain * affine.offset
            case Leaf():
                nothing = torch.zeros_like(gain)
                if node.layer is None:
                    return [Exact(None, gain, torch.ones_like(gain))], nothing
                layer, image = self.layers[node.layer], node.sources == (IMAGE,)
                exact_layer = layer.exact(
                    self.compressions[node.layer],
                    gain,
                    input_scale=INPUT_SCALE if image else 1.0,
                    largest_input=MAX_INPUT if image else node.repeats,
                )
                return [exact_layer], nothing if layer.bias is None else gain * layer.bias.double()

    def _device(self) -> torch.device:
        return next(iter(self.layers.values())).weight.device


def _handed(handing: Handing, scale: Tensor) -> Exact:
    """A weight for each pixel that a neuron is handed, of its own channel."""
    outputs = torch.arange(len(scale), device=scale.device)
    size = (handing.kernel, handing.kernel)
    if handing.flattens is None:
        codes = torch.zeros(len(scale), len(scale), *size, device=scale.device)
        places = slice(handing.first, handing.first + handing.window)
        codes[outputs, outputs, places, places] = 1.0
    else:
        height, width = handing.flattens
        codes = torch.zeros(len(scale), len(scale) // (height * width), *size, device=scale.device)
        row, column = outputs // width % height + handing.first, outputs % width + handing.first
        codes[outputs, outputs // (height * width), row, column] = 1.0
    return Exact(codes, scale, torch.full_like(scale, float(handing.window**2)))


@torch.no_grad()
def packed_model(
    graph: Graph,
    folding: Folding,
    layers: Mapping[str, CompressedLayer],
    compressions: Mapping[str, Compression],
    info: InputInfo,
    timesteps: int,
    rates: Mapping[str, float] | None = None,
) -> PackedModel:
    """The packed form of a module that has a graph; ``rates``: measured firing rates by name of the neurons."""
    populations = []
    for population, group in zip(graph.populations, folding.populations, strict=True):
        synapses = []
        if (handing := population.handing) is not None:
            (part,) = group.connections
            assert part.codes is not None
            codes, scale = codes_of(part.codes), array_of(part.scale)
            synapses = [Synapses((handing.source,), handing.kernel, handing.stride, 1, codes, scale)]
        else:
            assert population.current is not None
            for leaf, part in zip(leaves_of(population.current), group.connections, strict=True):
                if leaf.layer is None or part.codes is None:
                    empty = np.zeros((population.channels, 0, 0, 0), np.int8)
                    synapses.append(Synapses(leaf.sources, 0, 1, 0, empty, array_of(part.scale)))
                    continue
                layer, (bits, _) = layers[leaf.layer], compressions[leaf.layer].choice()
                weights = part.codes[..., None, None] if layer.is_linear else part.codes
                codes, scale = codes_of(torch.cat([weights] * leaf.repeats, 1)), array_of(part.scale)
                synapses.append(Synapses(leaf.sources, layer.kernel, layer.stride, bits, codes, scale))
        rate, (leak, reset) = (rates or {}).get(population.name), own_neuron(graph, population)
        populations.append(Population(tuple(synapses), array_of(group.bias), rate, leak=leak, reset=reset))
    (head,) = folding.readout.connections
    assert head.codes is not None
    bits, _ = compressions[graph.readout].choice()
    return PackedModel(
        input=info.input,
        timesteps=timesteps,
        leak=graph.lif.leak,
        threshold=graph.lif.threshold,
        classes=info.classes,
        populations=tuple(populations),
        readout=Readout(
            graph.readout_sources,
            bits,
            codes_of(torch.cat([head.codes.flatten(1)] * graph.readout_repeats, 1)),
            array_of(head.scale),
            array_of(folding.readout.bias),
        ),
        reset=None if graph.lif.reset is None else shortest_decimal(graph.lif.reset),
    )


def own_neuron(graph: Graph, population: TracedPopulation) -> tuple[float | None, float | Literal["hard"] | None]:
    """The leak and the reset of a population in the packed file, in units of its currents; ``None``: those of the file.

    What hands on spikes is reset to zero, so that it has nothing that could leak.
    """
    shared, lif = graph.lif, population.lif
    if population.handing is not None or lif.reset is None:
        reset: float | Literal["hard"] | None = None if shared.reset is None else "hard"
    else:
        own = lif.reset * shared.threshold / lif.threshold
        same = shared.reset is not None and abs(own - shared.reset) <= _SAME * max(own, shared.threshold)
        reset = None if same else shortest_decimal(own)
    same_leak = population.handing is not None or abs(lif.leak - shared.leak) <= _SAME
    return None if same_leak else lif.leak, reset


@torch.no_grad()
def prove_equal(network: Any, graph: Graph, packed: PackedModel, images: Tensor) -> dict[str, int]:
    """Run module and packed model on raw images, or frames: equal predictions, and equal spikes but for rounding.

    Returns the images, and of all neurons and timesteps how many spikes were compared and how many differ.

    Raises:
        LitesnnError: they differ; the message names the first neuron that does.
    """
    record: dict[str, Tensor] = {}
    logits = network.eval()(network.encode(images), record=record).logits
    trace = Reference(packed).run(images.numpy(), record=True)
    assert trace.spikes is not None
    compared = different = 0
    for population, theirs in zip(graph.populations, trace.spikes, strict=True):
        if population.current is None:
            continue
        ours = record[population.name].cpu().numpy().astype(np.uint8).reshape(theirs.shape)
        count = int(np.count_nonzero(ours != theirs))
        if count > _ROUNDING * ours.size:
            raise LitesnnError(f"packed model and module differ in {count} spikes of {population.name}")
        compared, different = compared + ours.size, different + count
    same = int((logits[-1].argmax(1).cpu().numpy() == trace.logits[-1].argmax(1)).sum())
    if same != len(images):
        raise LitesnnError(f"packed model and module differ in {len(images) - same} predictions")
    return {"images": len(images), "spikes": compared, "different_spikes": different}
