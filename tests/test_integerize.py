from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import IMAGE, from_bytes, population_shapes, size_bound, to_bytes
from litesnn.genotype import Genotype
from litesnn.network_file import build_network
from litesnn.snn.network import Network
from tiny import genotype, genotypes, input_info, lively_network, shapes

EDGES = ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 2, "skip"))


def test_wiring_by_hand() -> None:
    """Sources of a cell: the populations of the two cells before, all nodes side by side; of the first, the stem."""
    model = integerize(build_network(genotype(edges=EDGES, levels=(0, 1, 1)), input_info(), 0))
    sources = [[synapses.sources for synapses in population.synapses] for population in model.populations]
    assert sources == [
        [(IMAGE,)],
        [(0,), (0,)],  # cell 1 node 0
        [(1,)],
        [(0,), (1, 2)],  # cell 2 node 0: the stem, and cell 1
        [(3,)],
        [(1, 2), (3, 4)],  # cell 3 node 0: cell 1 and cell 2
        [(5,)],
    ]
    assert model.readout.sources == (5, 6)
    assert population_shapes(model) == ((4, 6, 5), *[(3, 6, 5)] * 2, *[(3, 3, 3)] * 4)
    kinds = [[(s.kernel, s.stride, s.bits) for s in population.synapses] for population in model.populations]
    assert kinds[3] == [(3, 2, 2), (1, 2, 2)]  # a skip over a resolution step is a convolution
    assert kinds[4] == [(0, 1, 0)]  # a skip from node to node is none


def test_numbers_by_hand() -> None:
    network = build_network(genotype(edges=((0, 0, "skip"),), levels=(0,), width=4), input_info(), 0)
    with torch.no_grad():
        norm = network.backbone.cell(0).connection(network.genotype.edges[0]).norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.fill_(3.0)
        norm.running_var.fill_(4.0 - norm.eps)
        norm.running_mean.fill_(0.5)
        norm.bias.fill_(0.25)
    model = integerize(network, {"stem": 0.123456, "cell 1 node 0": 0.5})
    assert model.populations[1].synapses[0].scale.tolist() == [1.5] * 4
    assert model.populations[1].bias.tolist() == [0.25 - 1.5 * 0.5] * 4
    assert [population.rate for population in model.populations] == [0.1235, 0.5]
    assert (model.leak, model.threshold, model.timesteps) == (0.2, 0.5, 3)
    assert model.input.mean == (1.0, 1.0)
    assert model.input.std == (2.0, 2.0)
    assert model.classes == ("class 0", "class 1", "class 2")
    # The classifier divides spike counts by the map's 30 pixels and multiplies by its gain.
    weight, gain = network.backbone.classifier.weight.detach(), float(network.backbone.classifier_gain.detach())
    expected = gain * 0.336 * float(weight.std(correction=0)) / 2 / 30
    assert model.readout.scale.tolist() == pytest.approx([expected] * 3, rel=1e-3)
    assert np.array_equal(np.sign(model.readout.codes), np.sign(weight.flatten(1).numpy()))


def test_rates_are_left_out_where_unknown() -> None:
    model = integerize(build_network(genotype(), input_info(), 0))
    assert {population.rate for population in model.populations} == {None}


@given(genotypes(), shapes, st.integers(0, 2**31))
def test_what_is_packed_is_what_the_layers_say(gene: Genotype, shape: tuple[int, int, int], seed: int) -> None:
    network = lively_network(gene, input_info(shape), seed)
    model = integerize(network)
    assert from_bytes(to_bytes(model)) == model
    rows = iter(network.layers())
    for population in model.populations:
        for synapses in population.synapses:
            row = next(rows)
            kept = synapses.codes[synapses.codes != 0]
            assert (synapses.codes.size, len(kept), synapses.bits) == (row.places, row.kept, row.bits), row.name
            assert (kept % 2 != 0).all()
            assert not len(kept) or abs(kept).max() < 2**synapses.bits
    assert (model.readout.codes.size, model.readout.bits) == (next(rows).weights, gene.classifier_bits)
    assert next(rows, None) is None


@given(genotypes(), shapes, st.integers(0, 2**31))
def test_no_training_makes_the_file_larger_than_the_bound(
    gene: Genotype, shape: tuple[int, int, int], seed: int
) -> None:
    bound = size_bound(integerize(Network(gene, input_info(shape))))
    for after in (seed, seed + 1):
        assert len(to_bytes(integerize(lively_network(gene, input_info(shape), after), {"stem": 0.98765}))) <= bound
