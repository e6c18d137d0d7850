"""A genotype's packed model by shapes alone is that of every network of the genotype, but for its numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import PackedModel, population_shapes, size_bound
from litesnn.deploy.shapes import model_of_shapes
from litesnn.genotype import Genotype
from litesnn.snn.network import Network
from tiny import genotypes, input_info, shapes


def layers(model: PackedModel) -> list[tuple[object, ...]]:
    """Of every layer all but its numbers."""
    found: list[tuple[object, ...]] = [
        (row.sources, row.kernel, row.stride, row.bits, row.codes.shape, np.count_nonzero(row.codes), row.scale.dtype)
        for population in model.populations
        for row in population.synapses
    ]
    readout = model.readout
    return [*found, (readout.sources, readout.bits, readout.codes.shape, np.count_nonzero(readout.codes))]


@given(st.one_of(genotypes(), genotypes(arithmetic="fixed")), shapes)
def test_it_has_the_layers_and_the_size_of_a_network(gene: Genotype, shape: tuple[int, int, int]) -> None:
    info = input_info(shape)
    ours, built = model_of_shapes(gene, info.input, info.classes), integerize(Network(gene, info))
    assert layers(ours) == layers(built)
    assert population_shapes(ours) == population_shapes(built)
    for name in ("input", "timesteps", "leak", "threshold", "classes", "fraction"):
        assert getattr(ours, name) == getattr(built, name), name
    assert size_bound(ours) == size_bound(built)
