"""What spikes cost, counted from a packed model: by hand, and as the torch network counts it."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from litesnn.data.batches import Samples
from litesnn.deploy.engine import Engine
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import IMAGE, PackedModel, Population, Readout, Synapses
from litesnn.deploy.reference import Reference
from litesnn.deploy.spike_costs import SpikeCosts, input_macs, spike_bytes
from litesnn.input_spec import InputSpec
from litesnn.snn.network import encode
from litesnn.train.evaluate import measure


def by_hand() -> PackedModel:
    """1×1×3 pixels → two channels → an identity and a convolution of 3 whose outer weights are pruned but one."""
    one = np.ones(2, np.float32)
    stem = Synapses((IMAGE,), 1, 1, 4, np.array([[[[1]]], [[[3]]]], np.int8), one)
    around = np.zeros((2, 2, 3, 3), np.int8)
    around[0, 0, 1, 1] = around[1, 0, 1, 2] = 1  # a weight for the pixel itself, one for that to the right
    second = (Synapses((0,), 0, 1, 0, np.zeros((2, 0, 0, 0), np.int8), one), Synapses((0,), 3, 1, 2, around, one))
    readout = Readout((1,), 3, np.array([[1, 0], [1, 3]], np.int8), one, one)
    spec = InputSpec((1, 1, 3), "array", (0.0,), (1.0,))
    return PackedModel(
        spec, 2, 0.5, 0.5, ("a", "b"), (Population((stem,), one, None), Population(second, one, None)), readout
    )


def spikes(scale: int = 1) -> list[np.ndarray]:
    """Of two timesteps and two inputs: the first population [T, B, 2, 1, 3], then the second."""
    first, second = np.zeros((2, 2, 2, 2, 1, 3), np.uint8)
    first[0, 0, 0, 0] = [1, 0, 1]
    first[1, 1, 1, 0] = [1, 1, 1]
    second[0, 0, 0, 0, 0] = second[1, 1, 1, 0, 2] = 1
    return [first * scale, second * scale]


def test_synops_by_hand() -> None:
    costs = SpikeCosts(by_hand())
    costs.add(spikes())
    stem, identity, convolution, readout = costs.layers()
    assert (stem.synops, stem.weights, stem.kept) == (0, 2, 2)
    assert (identity.synops, identity.bit_synops, identity.bits) == (5 / 2, 5 / 2, 0)
    # Pixels 0 and 2 of channel 0 reach the middle weight, and pixel 2 also the right one, of pixel 1's output.
    assert convolution.synops == 3 / 2
    assert convolution.bit_synops == 2 * 3 / 2
    assert (convolution.weights, convolution.kept) == (36, 2)
    assert readout.synops == (2 + 1) / 2
    assert readout.bit_synops == 3 * 3 / 2
    assert [rate.rate for rate in costs.rates()] == [5 / 24, 2 / 24]
    assert costs.mean_rate() == 7 / 48
    assert input_macs(by_hand()) == [(6, 4)]
    assert spike_bytes(by_hand()) == 24


def test_a_graded_spike_is_counted_by_its_bits_and_by_its_value() -> None:
    binary, graded = SpikeCosts(by_hand()), SpikeCosts(by_hand())
    binary.add(spikes())
    graded.add(spikes(3))
    for one, three in zip(binary.layers(), graded.layers(), strict=True):
        assert (one.synops_virtual, one.bit_synops_virtual) == (one.synops, one.bit_synops)
        assert (three.synops, three.synops_virtual) == (2 * one.synops, 3 * one.synops)
        assert (three.bit_synops, three.bit_synops_virtual) == (2 * one.bit_synops, 3 * one.bit_synops)
    assert graded.rates() == binary.rates()


@pytest.mark.parametrize("stride", [1, 2])
def test_they_are_those_of_the_torch_network(stride: int) -> None:
    info = tiny.input_info((2, 7, 5))
    network = tiny.lively_network(tiny.genotype(stride=stride), info)  # type: ignore[arg-type]
    images = tiny.images((2, 7, 5), 9)
    model = integerize(network)
    rows = Samples(encode(images, info.input.mean, info.input.std), images[:, 0, 0, 0].long() * 0)
    measured = measure(network, rows)
    for runner in (Engine(model), Reference(model)):
        costs = SpikeCosts(model)
        for part in (images[:4], images[4:]):
            trace = runner.run(part.numpy(), record=True)
            assert trace.spikes is not None
            costs.add(trace.spikes)
        layers = costs.layers()
        assert [layer.synops for layer in layers[1:]] == pytest.approx(list(measured.synops.values()), rel=1e-6)
        assert [layer.bit_synops for layer in layers[1:]] == pytest.approx(list(measured.bit_synops.values()), rel=1e-6)
        assert [each.rate for each in costs.rates()] == pytest.approx(list(measured.rates.values()), rel=1e-6)
    assert [count for count, _ in input_macs(model)] == [network.stem_macs()]
