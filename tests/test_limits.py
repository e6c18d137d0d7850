"""Small files that ask for much: the reader in Python and the engine's loader in C refuse the same ones."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from litesnn import InputError, arithmetic_limits
from litesnn.console_tables import predictions
from litesnn.deploy import limits, native
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, from_bytes, to_bytes
from litesnn.deploy.packed_container import container
from litesnn.deploy.packed_header import write_header
from litesnn.deploy.packed_streams import affine_arrays, encode_layers

LOADER = Path(native.__file__).parent / "csrc" / "loader.c"


def ones(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.ones(count, np.float32)


def convolution(sources: tuple[int, ...], fan_in: int, channels: int, *, kernel: int = 1, stride: int = 1) -> Synapses:
    """Nearly all weights are pruned: in a file they take no bytes."""
    codes = np.zeros((channels, fan_in, kernel, kernel), np.int8)
    codes[0, 0, 0, 0] = 1
    return Synapses(sources, kernel, stride, 1, codes, ones(channels))


def identity(channels: int, source: int = 0) -> Synapses:
    return Synapses((source,), 0, 1, 0, np.zeros((channels, 0, 0, 0), np.int8), ones(channels))


def population(*synapses: Synapses) -> Population:
    return Population(synapses, ones(len(synapses[0].scale)), None)


def network(
    shape: tuple[int, int, int], *populations: Population, timesteps: int = 1, sources: tuple[int, ...] = (0,)
) -> PackedModel:
    """A readout of one class reads ``sources``, each of as many channels as the last population has."""
    channels = len(populations[-1].bias)
    codes = np.zeros((1, len(sources) * channels), np.int8)
    codes[0, 0] = 1
    readout = Readout(sources, 1, codes, ones(1), ones(1))
    spec = InputSpec(shape, "image", (0.0,) * shape[0], (1.0,) * shape[0])
    return PackedModel(spec, timesteps, 0.2, 0.5, ("a",), populations, readout)


def unchecked(model: PackedModel) -> bytes:
    """The bytes of a file as nobody should write it."""
    layers = encode_layers(model, "model")
    metadata = write_header(model, [layer.coding for layer in layers])
    affine = np.concatenate(list(affine_arrays(model))).astype("<f2")
    return container(metadata, affine, b"".join(layer.positions.data + layer.codes for layer in layers))


def load_in_c(model: PackedModel) -> tuple[int, str]:
    library, image = native.load_library(), engine_image(model)
    handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(256)
    status = library.lsnn_load(ctypes.byref(handle), image, len(image), None, -1, 1, message, 256)
    library.lsnn_free(handle)
    return status, message.value.decode()


STEM = population(convolution((IMAGE,), 1, 1))
WIDE = (1, 4096, 2048)  # 2^23 pixels

TOO_MUCH: dict[str, tuple[PackedModel, str, str]] = {
    "a source named many times": (
        network(WIDE, STEM, population(convolution((0,) * 9, 9, 1))),
        "population 1, synapses 0: expected at most 67108864 inputs, its fan-in times the pixels, found 75497472",
        "sources: expected at most 67108864 inputs, channels times pixels",
    ),
    "the same behind a stride, so that the results are small": (
        network(WIDE, STEM, population(convolution((0,) * 4096, 4096, 1, stride=64)), sources=(1,)),
        "population 1, synapses 0: expected at most 67108864 inputs",
        "sources: expected at most 67108864 inputs",
    ),
    "the same in the readout": (
        network(WIDE, STEM, sources=(0,) * 9),
        "readout: expected at most 67108864 inputs",
        "sources: expected at most 67108864 inputs",
    ),
    "timesteps": (
        network(WIDE, STEM, timesteps=33),
        "population 0: expected at most 268435456 neurons times timesteps in all, found 276824064",
        "expected at most 268435456 neurons times timesteps in all",
    ),
    "timesteps of several populations": (
        network(WIDE, STEM, population(identity(1)), timesteps=17),
        "population 1: expected at most 268435456 neurons times timesteps in all, found 285212672",
        "expected at most 268435456 neurons times timesteps in all",
    ),
    "neurons": (
        network((1, 8192, 8192), STEM),
        "population 0: expected at most 67108864 pixels and neurons in all, found 134217728",
        "expected at most 67108864 pixels and neurons in all",
    ),
    "weights": (
        network((1, 1, 1), population(convolution((IMAGE,), 1, 70_000, kernel=31))),
        "population 0, synapses 0: expected at most 67108864 weights in all, found 67270000",
        "codes: expected at most 67108864 weights in all",
    ),
    "sources": (
        network((1, 1, 1), STEM, sources=(0,) * 4097),
        "readout: expected at most 4096 sources, found 4097",
        "sources: expected 1 to 4096, found 4097",
    ),
    "populations": (
        network((1, 1, 1), STEM, *[population(identity(1))] * 4096),
        "model: expected at most 4096 populations, found 4097",
        "populations: expected 1 to 4096, found 4097",
    ),
    "bundles of one population": (
        network((1, 1, 1), STEM, population(*[identity(1)] * 4097)),
        "population 1: expected at most 4096 bundles of synapses, found 4097",
        "bundles: expected 1 to 4096, found 4097",
    ),
    "bundles of all populations": (
        network((1, 1, 1), STEM, *[population(*[identity(1)] * 4096)] * 4),
        "population 4: expected at most 16384 bundles of synapses in all, found 16385",
        "bundles: expected at most 16384 in all",
    ),
}

JUST_FITS: dict[str, PackedModel] = {
    "sources": network(WIDE, STEM, population(convolution((0,) * 4, 4, 1, stride=64)), sources=(1,)),
    "bundles": network((1, 1, 1), STEM, population(*[identity(1)] * 4096)),
    "populations": network((1, 1, 1), STEM, *[population(identity(1))] * 4095),
    "the largest numbers": replace(
        network((1, 1, 1), STEM),
        input=InputSpec((1, 1, 1), "array", (-3.4028234e38,), (3.4028234e38,)),
        threshold=3.4028234e38,
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_both_readers_refuse_a_small_file_that_asks_for_much(name: str) -> None:
    model, in_python, in_c = TOO_MUCH[name]
    data = unchecked(model)
    assert len(data) < 300_000
    with pytest.raises(InputError, match=re.escape(in_python)) as caught:
        from_bytes(data, "model")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=re.escape(in_python.replace("model: ", "packed model: "))):
        to_bytes(model)
    status, message = load_in_c(model)
    assert status == native.Status.BAD_IMAGE
    assert message.startswith(in_c)


@pytest.mark.parametrize("name", JUST_FITS)
def test_both_readers_take_what_just_fits(name: str) -> None:
    model = JUST_FITS[name]
    assert from_bytes(to_bytes(model)) == model
    assert load_in_c(model) == (native.Status.OK, "")


def test_limits_are_the_same_in_c() -> None:
    defined = dict(re.findall(r"#define (MAX_\w+) (.+?)(?: /\*.*)?\n", LOADER.read_text(encoding="utf-8")))
    header = LOADER.with_name("loader.h").read_text(encoding="utf-8")
    for name in ("MAX_STRIDE", "MAX_LEVELS"):
        defined[name] = re.findall(rf"#define LSNN_{name} (\d+)", header)[0]
    of_the_file = {"MAX_HEADER_BYTES", "MAX_NAME_BYTES"}
    names = set(limits.__all__) - of_the_file
    found = {name: eval(defined[name], {}) for name in names}  # as (1 << 26)
    assert found == {name: getattr(limits, name) for name in names}
    assert int(defined["MAX_INPUT"]) == arithmetic_limits.MAX_INPUT
    assert eval(defined["MAX_CURRENT"], {}) == arithmetic_limits.MAX_CURRENT
    quantizer = LOADER.with_name("maps.c").read_text(encoding="utf-8")
    assert f"rintf({arithmetic_limits.INPUT_STEPS}.0f * " in quantizer
    assert f"steps > {arithmetic_limits.MAX_INPUT}.0f" in quantizer


@pytest.mark.parametrize("reference", [True, False])
def test_predict_refuses_it_before_it_asks_for_memory(tmp_path: Path, reference: bool) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(unchecked(TOO_MUCH["a source named many times"][0]))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: population 1, synapses 0: expected at most"):
        next(predictions(path, [tmp_path / "x.npy"], reference=reference))
