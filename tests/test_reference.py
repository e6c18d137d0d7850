"""The reference: sequences worked out by hand, and torch's convolution as the judge of ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, population_shapes
from litesnn.deploy.reference import Reference, Trace, quantize_input
from litesnn.errors import InputError
from packed_models import cell_model, random_input, random_model

few = settings(max_examples=30, deadline=None, derandomize=True)


def one(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


def single_neuron(*, scale: float, bias: float, timesteps: int, shape: tuple[int, int, int] = (1, 1, 1)) -> PackedModel:
    """One channel that reads the image by a 1×1 weight of code 1, and a readout ``2·(3·spikes)/t − 0.25``."""
    stem = Synapses((IMAGE,), 1, 1, 1, np.ones((1, 1, 1, 1), np.int8), one(scale))
    readout = Readout((0,), 2, np.array([[3]], np.int8), one(2), one(-0.25))
    spec = InputSpec(shape, "array", (0.0,) * shape[0], (1.0,) * shape[0])
    return PackedModel(spec, timesteps, 0.2, 0.5, ("a",), (Population((stem,), one(bias), None),), readout)


def hand_on(scale: float) -> Synapses:
    return Synapses((0,), 0, 1, 0, np.zeros((1, 0, 0, 0), np.int8), one(scale))


def image(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def run(model: PackedModel, x: NDArray[np.generic]) -> Trace:
    trace = Reference(model).run(x, record=True)
    assert trace.spikes is not None
    return trace


def spikes_of(trace: Trace, population: int = 0) -> NDArray[np.uint8]:
    assert trace.spikes is not None
    return trace.spikes[population]


def test_lif_by_hand() -> None:
    # x = 32/64 − 0.0625 = 0.4375: u = 0.4375, 0.525 (spike, reset), 0.4375, 0.525 (spike), 0.4375
    model = single_neuron(scale=1 / 64, bias=-0.0625, timesteps=5)
    trace = run(model, image(1.0))
    assert spikes_of(trace).reshape(-1).tolist() == [0, 1, 0, 1, 0]
    # y_t = 2·3·(spikes up to t)/t − 0.25
    assert trace.logits.reshape(-1).tolist() == [
        -0.25,
        2.75,
        np.float32(6) / np.float32(3) - np.float32(0.25),
        2.75,
        np.float32(12) / np.float32(5) - np.float32(0.25),
    ]
    assert trace.logits.dtype == np.float32


def test_the_threshold_is_strict() -> None:
    at, above = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    for bias, spike in ((at, 0), (above, 1)):
        model = single_neuron(scale=1.0, bias=float(bias), timesteps=1)
        assert spikes_of(run(model, image(0.0))).item() == spike


def test_a_negative_membrane_is_remembered() -> None:
    # The first population spikes at steps 2 and 4. The second then gets 0.95 − 0.4 = 0.55 > θ, but remembers
    # u = −0.4 (and −0.306) from the step before: 0.2·(−0.4) + 0.55 = 0.47 and 0.2·(−0.306) + 0.55 = 0.4888.
    model = single_neuron(scale=1 / 64, bias=-0.0625, timesteps=5)
    for bias, expected in ((-0.4, [0, 0, 0, 0, 0]), (-0.3, [0, 1, 0, 1, 0])):
        listener = Population((hand_on(0.95),), one(bias), None)
        trace = run(replace(model, populations=(*model.populations, listener)), image(1.0))
        assert spikes_of(trace, 1).reshape(-1).tolist() == expected


def test_bundles_are_added_in_the_order_of_the_file() -> None:
    # 2⁻²⁵ is lost beside 1 but not beside 2⁻²⁴: the order decides whether the current exceeds θ.
    big, small = 0.5, 2.0**-25
    stem = Synapses((IMAGE,), 1, 1, 1, np.ones((1, 1, 1, 1), np.int8), one(1.0))
    first = Population((stem,), one(0.0), None)

    for scales, spike in (((big, small, small), 0), ((small, small, big), 1)):
        second = Population(tuple(map(hand_on, scales)), one(0.0), None)
        model = single_neuron(scale=1.0, bias=0.0, timesteps=1)
        model = replace(model, populations=(first, second), readout=replace(model.readout, sources=(1,)))
        assert spikes_of(run(model, image(1.0)), 1).item() == spike


def test_input_quantization_by_hand() -> None:
    spec = InputSpec((1, 1, 1), "array", (1.0,), (2.0,))
    # 32·(x − 1)/2 = 16·(x − 1): halves go to the even neighbour, the ends are clipped
    x = image(1.0, 2.0, 1 + 0.5 / 16, 1 + 1.5 / 16, 1 - 0.5 / 16, 1 - 1.5 / 16, 8.9375, 9.5, -50.0, 1e38)
    quantized = quantize_input(spec, x)
    assert quantized.dtype == np.int8
    assert quantized.reshape(-1).tolist() == [0, 16, 0, 2, 0, -2, 127, 127, -127, 127]


def test_pixels_are_normalised_in_their_own_units() -> None:
    spec = InputSpec((2, 1, 1), "image", (127.5, 100.0), (64.0, 50.0))
    x = np.array([[255, 100], [0, 200]], np.uint8).reshape(2, 2, 1, 1)
    assert quantize_input(spec, x).reshape(2, 2).tolist() == [[64, 0], [-64, 64]]


@pytest.mark.parametrize(
    ("kind", "x", "message"),
    [
        ("image", np.zeros((1, 1, 2, 2), np.float32), "expected uint8 pixels, found float32"),
        ("image", np.zeros((1, 1, 2, 2), np.uint16), "expected uint8 pixels"),
        ("array", np.zeros((1, 1, 2, 2), np.bool_), "expected real numbers"),
        ("array", np.zeros((1, 1, 2, 2), np.complex64), "expected real numbers"),
        ("array", np.zeros((1, 1, 2, 3), np.float32), r"expected \[batch, 1, 2, 2\]"),
        ("array", np.zeros((1, 2, 2), np.float32), r"expected \[batch, 1, 2, 2\]"),
        ("array", np.full((1, 1, 2, 2), np.nan), "finite"),
        ("array", np.full((1, 1, 2, 2), 1e300), "finite"),
    ],
)
def test_inputs_that_are_not_what_the_model_expects(kind: str, x: NDArray[np.generic], message: str) -> None:
    spec = InputSpec((1, 2, 2), "image" if kind == "image" else "array", (0.0,), (1.0,))
    with pytest.raises(InputError, match=message):
        quantize_input(spec, x)


def torch_currents(
    population: Population, inputs: list[NDArray[np.uint8]], pixels: NDArray[np.int8], timesteps: int
) -> NDArray[np.float32]:
    """Currents by torch's convolution on exact float64 integers."""
    total: torch.Tensor | None = None
    for synapses in population.synapses:
        if synapses.sources == (IMAGE,):
            x = torch.from_numpy(np.broadcast_to(pixels, (timesteps, *pixels.shape)).astype(np.float64))
        else:
            x = torch.cat([torch.from_numpy(inputs[source].astype(np.float64)) for source in synapses.sources], 2)
        if synapses.kernel:
            weight = torch.from_numpy(synapses.codes.astype(np.float64))
            flat = torch.nn.functional.conv2d(
                x.flatten(0, 1), weight, stride=synapses.stride, padding=synapses.kernel // 2
            )
            x = flat.reshape(*x.shape[:2], *flat.shape[1:])
        current = torch.from_numpy(synapses.scale)[:, None, None] * x.float()
        total = current if total is None else total + current
    assert total is not None
    return (total + torch.from_numpy(population.bias)[:, None, None]).numpy()


@few
@given(st.integers(0, 2**32 - 1))
def test_every_population_and_the_readout_equal_torch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    x = random_input(rng, model.input, 3)
    trace = run(model, x)
    assert trace.spikes is not None
    pixels = quantize_input(model.input, x)
    for index, (population, shape) in enumerate(zip(model.populations, population_shapes(model), strict=True)):
        spikes = trace.spikes[index]
        assert spikes.shape == (model.timesteps, 3, *shape)
        currents = torch_currents(population, trace.spikes[:index], pixels, model.timesteps)
        u = np.zeros(currents.shape[1:], np.float32)
        for t in range(model.timesteps):
            u = np.float32(model.leak) * u + currents[t]
            np.testing.assert_array_equal(spikes[t], u > np.float32(model.threshold))
            u[spikes[t] == 1] = 0
    readout = model.readout
    counts = torch.cat([torch.from_numpy(trace.spikes[source]).sum((3, 4)) for source in readout.sources], 2)
    for t in range(1, model.timesteps + 1):
        total = counts[:t].sum(0).double() @ torch.from_numpy(readout.codes).double().T
        expected = torch.from_numpy(readout.scale) * total.float() / t + torch.from_numpy(readout.bias)
        np.testing.assert_array_equal(trace.logits[t - 1], expected.numpy())


def test_random_models_do_spike() -> None:
    """The comparison above would prove little on silent networks."""
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = random_model(rng, shape=(2, 8, 8), keep=0.5)
        trace = run(model, random_input(rng, model.input, 2))
        assert trace.spikes is not None
        rates += [float(spikes.mean()) for spikes in trace.spikes]
    assert 0.05 < np.mean(rates) < 0.9
    assert np.mean([0.01 < rate < 0.99 for rate in rates]) > 0.7


def test_samples_do_not_see_each_other() -> None:
    rng = np.random.default_rng(2)
    model = cell_model(rng, cells=1, width=4)
    x = random_input(rng, model.input, 4)
    reference = Reference(model)
    together = reference.run(x).logits
    for sample in range(4):
        np.testing.assert_array_equal(reference.run(x[sample : sample + 1]).logits[:, 0], together[:, sample])


def test_classify_is_the_largest_logit_of_the_last_step() -> None:
    rng = np.random.default_rng(4)
    model = cell_model(rng, cells=1, width=4)
    x = random_input(rng, model.input, 5)
    trace = Reference(model).run(x)
    assert trace.spikes is None
    np.testing.assert_array_equal(Reference(model).classify(x), trace.logits[-1].argmax(1))


def test_an_empty_batch_gives_empty_results() -> None:
    model = cell_model(np.random.default_rng(4), cells=1, width=4)
    assert Reference(model).run(np.zeros((0, 1, 8, 8), np.float32)).logits.shape == (4, 0, 10)
