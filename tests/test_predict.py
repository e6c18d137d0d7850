"""What a person asks of a network: the torch module, the reference and the engine take, refuse and say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import litesnn
from litesnn.data.sources import Data, Split
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import write
from litesnn.input_spec import InputSpec
from litesnn.snn.network import InputInfo, Network
from tiny import genotype, lively_network, recipe

IMAGES = InputInfo(InputSpec((2, 6, 5), "image", (100.0, 90.0), (60.0, 70.0)), ("cat", "dog", "eel"))
ARRAYS = InputInfo(InputSpec((2, 6, 5), "array", (0.0, 0.5), (1.0, 2.0)), ("cat", "dog", "eel"))
X = np.random.default_rng(0).integers(0, 256, (9, 2, 6, 5), dtype=np.uint8)


def runners(info: InputInfo) -> tuple[Network, litesnn.Engine, litesnn.Reference]:
    network = lively_network(genotype(), info)
    model = integerize(network)
    return network, litesnn.Engine(model), litesnn.Reference(model)


@pytest.fixture(scope="module")
def three() -> tuple[Network, litesnn.Engine, litesnn.Reference]:
    return runners(IMAGES)


Three = tuple[Network, litesnn.Engine, litesnn.Reference]


def test_classes_and_probabilities(three: Three) -> None:
    network, engine, reference = three
    assert network.classes == engine.classes == reference.classes == ("cat", "dog", "eel")
    logits = engine.predict(X, logits=True)
    expected = torch.from_numpy(logits).softmax(1).numpy()
    for runner in three:
        shares: Any = runner.predict_proba(X)
        assert isinstance(shares, np.ndarray)
        assert shares.dtype == np.float32
        np.testing.assert_allclose(shares, expected, rtol=1e-5)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(network.predict(X), engine.predict(X))
    np.testing.assert_array_equal(network.predict(X), reference.classify(torch.from_numpy(X)))


def test_arrays_give_arrays_and_tensors_tensors(three: Three) -> None:
    network, engine, _ = three
    for runner in (network, engine):
        for ask in (runner.predict, runner.predict_proba):
            of_array, of_tensor = ask(X), ask(torch.from_numpy(X))
            assert isinstance(of_array, np.ndarray)
            assert isinstance(of_tensor, torch.Tensor)
            np.testing.assert_array_equal(of_array, of_tensor.numpy())


def test_floats_are_pixels_only_if_the_caller_says_how(three: Three) -> None:
    network, engine, reference = three
    unit = X.astype(np.float32) / np.float32(255)
    expected = engine.predict(X)
    for x in (unit, unit.astype(np.float64), torch.from_numpy(unit), torch.from_numpy(unit).double()):
        for ask in (network.predict, engine.predict, reference.classify):
            with pytest.raises(litesnn.InputError, match=r"^input: expected uint8 pixels, found float.*say scale=255$"):
                ask(x)  # type: ignore[type-var]
            np.testing.assert_array_equal(np.asarray(ask(x, scale=255)), expected)  # type: ignore[type-var]


NUMBERS = X.astype(np.float32)
WRONG: list[tuple[InputInfo, Any, dict[str, float], str]] = [
    (IMAGES, X.tolist(), {}, "input: expected a NumPy array or a torch tensor, found list"),
    (IMAGES, None, {}, "input: expected a NumPy array or a torch tensor, found NoneType"),
    (IMAGES, X.astype(np.int64), {}, "input: expected uint8 pixels, found int64"),
    (IMAGES, X > 3, {}, "input: expected uint8 pixels, found bool"),
    (IMAGES, X[0], {}, r"input: expected \[batch, 2, 6, 5\], found \[2, 6, 5\]; x\[None\] is a batch of one input"),
    (IMAGES, X.transpose(0, 2, 3, 1), {}, r"input: expected \[batch, 2, 6, 5\], found \[9, 6, 5, 2\]"),
    (IMAGES, X, {"scale": 255}, "scale: is for floats, found .*uint8"),
    (IMAGES, NUMBERS, {"scale": 255}, "input: expected numbers that scale=255 makes 0 to 255, found 0 to 65025"),
    (IMAGES, NUMBERS - 1, {"scale": 1}, "input: expected numbers that scale=1 makes 0 to 255, found -1 to 254"),
    (IMAGES, NUMBERS * np.nan, {"scale": 1}, "input: expected numbers that scale=1 makes 0 to 255, found nan"),
    (IMAGES, NUMBERS, {"scale": 0}, "scale: expected a number above zero, such as 255, found 0"),
    (IMAGES, NUMBERS[0], {"scale": 1}, r"input: expected \[batch, 2, 6, 5\], found \[2, 6, 5\]"),
    (ARRAYS, NUMBERS, {"scale": 255}, "scale: is for images, but this network takes real numbers"),
    (ARRAYS, NUMBERS * np.nan, {}, "input: expected finite float32 numbers, found others"),
    (ARRAYS, NUMBERS.astype(np.float64) * 1e300, {}, "input: expected finite float32 numbers, found others"),
    (ARRAYS, NUMBERS.astype(complex), {}, "input: expected real numbers, found complex128"),
    (ARRAYS, X > 3, {}, "input: expected real numbers, found bool"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_all_refuse_the_same_in_one_line(number: int) -> None:
    info, x, options, message = WRONG[number]
    network, engine, reference = runners(info)
    inputs = [x]
    if isinstance(x, np.ndarray):
        inputs.append(torch.from_numpy(x))
    for ask in (network.predict, network.predict_proba, engine.predict, engine.predict_proba, reference.classify):
        for given in inputs:
            with pytest.raises(litesnn.InputError, match=f"^{message}"):
                ask(given, **options)


def test_what_is_encoded_is_checked_too(three: Three) -> None:
    with pytest.raises(litesnn.InputError, match="expected uint8 pixels, found float32"):
        three[0].encode(torch.rand(1, 2, 6, 5))


def test_a_half_precision_tensor_is_read() -> None:
    network, engine, _ = runners(ARRAYS)
    x = torch.from_numpy(NUMBERS[:3]).bfloat16()
    assert torch.equal(network.predict(x), engine.predict(x.float()))
    assert torch.equal(engine.predict(x), engine.predict(x.float()))


def test_a_reference_takes_a_path(three: Three, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(three[2].model, path)
    for name in (path, str(path)):
        np.testing.assert_array_equal(litesnn.Reference(name).classify(X), three[2].classify(X))
    with pytest.raises(litesnn.InputError, match=r"none\.safetensors: cannot be read as a packed model"):
        litesnn.Reference(tmp_path / "none.safetensors")


def test_public_objects_are_shown_in_one_line(three: Three) -> None:
    network, engine, reference = three
    model = reference.model
    rows = Split(torch.from_numpy(X), torch.zeros(9, dtype=torch.int64))
    data = Data(
        "digits",
        IMAGES.classes,
        IMAGES.shape,
        "image",
        IMAGES.input.mean,
        IMAGES.input.std,
        rows,
        rows,
        lambda: rows,
        lambda: 9,
    )
    found: list[object] = [network, engine, reference, model, model.input, *model.populations, model.readout]
    found += [model.populations[0].synapses[0], reference.run(X, record=True), rows, data, recipe(), genotype()]
    found += [
        litesnn.Budget.parse("8 kB, T <= 4"),
        litesnn.Design(Path("run"), {"test_accuracy": 0.9, "packed_bytes": 7}),
    ]
    for each in found:
        for text in (repr(each), str(each)):
            assert text.startswith(type(each).__name__) or isinstance(each, litesnn.Budget)
            assert "\n" not in text
            assert len(text) < 400
            assert "array(" not in text
            assert "tensor(" not in text
    assert repr(model).startswith("PackedModel(2×6×5 image → 3 classes, T = ")
    assert repr(engine).endswith(f"kernel {engine.kernel}, 1 thread)")
