"""Genotypes, networks and recipes that are small enough to try out by the dozen."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from litesnn.config import Recipe
from litesnn.costs.size import layer_bytes
from litesnn.deploy.integerize import integerize
from litesnn.genotype import OPS, ArithmeticName, CellGene, Edge, Genotype, StemGene
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network
from litesnn.snn.network import InputInfo, Network

KEEPS = (0.05, 0.3, 0.5, 0.9, 1.0)


def input_info(shape: tuple[int, int, int] = (2, 6, 5), classes: int = 3) -> InputInfo:
    """Raw floats of mean 1 and spread 2."""
    names = tuple(f"class {index}" for index in range(classes))
    return InputInfo(InputSpec(shape, "array", (1.0,) * shape[0], (2.0,) * shape[0]), names)


def images(shape: tuple[int, int, int], batch: int = 2, seed: int = 0) -> Tensor:
    """Raw floats [B, C, H, W] for :func:`input_info`."""
    return 1 + 2 * torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def quantized_images(shape: tuple[int, int, int], batch: int = 2, seed: int = 0) -> Tensor:
    """Integers −127…127 as floats [B, C, H, W]."""
    return torch.randint(-127, 128, (batch, *shape), generator=torch.Generator().manual_seed(seed)).float()


def genotype(
    *,
    timesteps: int = 3,
    edges: tuple[tuple[int, int, str], ...] = ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 1, "conv1x1"), (1, 2, "skip")),
    levels: tuple[int, ...] = (0, 1),
    width: int = 3,
    bits: int = 2,
    keep: float = 0.5,
    stem: int = 4,
    stride: Literal[1, 2, 4] = 1,
    arithmetic: ArithmeticName = "float",
    neuron: str = "lif",
    spike_levels: int = 1,
) -> Genotype:
    """A genotype of which a test changes what it is about."""
    return Genotype(
        timesteps=timesteps,
        stem=StemGene(channels=stem, stride=stride, bits=4),
        edges=tuple(Edge(node=node, source=source, op=op) for node, source, op in edges),
        cells=tuple(CellGene(level=level, width=width, bits=bits, keep=keep) for level in levels),
        classifier_bits=4,
        arithmetic=arithmetic,
        neuron=neuron,
        spike_levels=spike_levels,
    )


@st.composite
def genotypes(draw: st.DrawFn, *, every_edge: bool = False, arithmetic: ArithmeticName = "float") -> Genotype:
    """Any small genotype; with ``every_edge``, every pair of node and source has exactly one op."""
    nodes = draw(st.integers(1, 3))
    ops = st.sampled_from(sorted(OPS))
    edges = []
    for node in range(nodes):
        if every_edge:
            chosen = [(source, draw(ops)) for source in range(node + 2)]
        else:
            possible = list(itertools.product(range(node + 2), sorted(OPS)))
            chosen = draw(st.lists(st.sampled_from(possible), min_size=1, max_size=3, unique=True))
        edges += [Edge(node=node, source=source, op=op) for source, op in chosen]
    levels = sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)))
    cells = [
        CellGene(
            level=level,
            width=draw(st.integers(1, 4)),
            bits=draw(st.integers(1, 4)),
            keep=draw(st.sampled_from(KEEPS)),
        )
        for level in levels
    ]
    stem = StemGene(
        channels=draw(st.integers(1, 5)), stride=draw(st.sampled_from((1, 2, 4))), bits=draw(st.integers(1, 4))
    )
    return Genotype(
        timesteps=draw(st.integers(1, 6)),
        stem=stem,
        edges=tuple(edges),
        cells=tuple(cells),
        classifier_bits=draw(st.integers(1, 4)),
        arithmetic=arithmetic,
    )


shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def liven(module: nn.Module, seed: int, levels: int = 1) -> None:
    """Statistics, gains and biases as a training may leave them, so that neither all nor no neurons fire.

    ``levels``: the largest spike; currents come as far.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                size = (layer.num_features,)
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.copy_(torch.randn(size, generator=rng) * 0.3)
                layer.running_var.copy_(torch.rand(size, generator=rng) * 2 + 0.1)
                layer.weight.copy_(levels * (torch.rand(size, generator=rng) + 0.3))
                layer.bias.copy_(levels * (torch.randn(size, generator=rng) * 0.5 + 0.2))
        for name, parameter in module.named_parameters():
            if name.endswith(("classifier_bias", "scores")):
                parameter.copy_(torch.randn(parameter.shape, generator=rng))


def values_of(spikes: Tensor) -> set[int]:
    """The values that spikes have."""
    return {int(spike) for spike in spikes.detach().flatten().tolist()}


def lively_network(gene: Genotype, info: InputInfo, seed: int = 0) -> Network:
    """A network with random weights and random statistics, in evaluation mode."""
    network = build_network(gene, info, seed)
    liven(network, seed, gene.spike_levels)
    return network.eval()


def most_layer_bytes(network: Network) -> int:
    """Bytes that the layers with weights never exceed in the packed file, with their scales (and the readout's)."""
    model = integerize(network)
    codes = [synapses.codes for population in model.populations for synapses in population.synapses]
    rows = zip(network.layers(), [*codes, model.readout.codes], strict=True)
    return sum(
        layer_bytes(row.weights, len(part), row.keep, row.bits, places=row.places) for row, part in rows if row.weights
    )


def recipe(
    *,
    bits: tuple[int, ...] = (1, 2, 4),
    keeps: tuple[float, ...] = (0.3, 1.0),
    widths: tuple[float, ...] = (0.5, 1.0),
    levels: tuple[int, ...] = (0, 1),
    timesteps: int = 3,
    nodes: int = 2,
    width: int = 3,
    ops: tuple[str, ...] = ("skip", "conv1x1", "conv3x3"),
    edges_per_node: int = 2,
) -> Recipe:
    """A small recipe without a budget."""
    model = {"width": width, "nodes": nodes, "levels": levels, "stem_channels": 4, "ops": ops}
    search = {"bits": bits, "keeps": keeps, "widths": widths, "timesteps": timesteps}
    return Recipe.model_validate({"model": model | {"edges_per_node": edges_per_node}, "search": search})
