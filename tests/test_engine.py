from __future__ import annotations

import copy
import ctypes
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import packed_models
from litesnn import Engine, InputError, Reference
from litesnn.deploy import native, packed
from litesnn.deploy.engine import KERNEL_VARIABLE, Method, available_kernels, full_adder_limit
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout
from litesnn.genotype import ArithmeticName

KERNELS = available_kernels()
METHODS: tuple[Method, ...] = ("auto", "bitsliced", "gather")
EDGES = (1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
BATCHES = (1, 2, 3, 5, 8, 9, 17)


def assert_exact(
    model: PackedModel,
    x: NDArray[np.generic],
    *,
    kernels: Sequence[str] = KERNELS,
    methods: Sequence[Method] = METHODS,
    threads: Sequence[int] = (1,),
) -> None:
    """Every spike and every logit of the engine are those of the reference."""
    truth = Reference(model).run(x, record=True)
    assert truth.spikes is not None
    for kernel in kernels:
        for method in methods:
            for count in threads:
                trace = Engine(model, kernel=kernel, method=method, threads=count).run(x, record=True)
                where = f"{kernel}, {method}, {count} threads"
                assert trace.spikes is not None
                for index, (mine, right) in enumerate(zip(trace.spikes, truth.spikes, strict=True)):
                    np.testing.assert_array_equal(mine, right, err_msg=f"{where}: spikes of population {index}")
                np.testing.assert_array_equal(trace.logits, truth.logits, err_msg=f"{where}: logits")
                assert (trace.integers is None) == (truth.integers is None)
                if truth.integers is not None:
                    np.testing.assert_array_equal(trace.integers, truth.integers, err_msg=f"{where}: integers")


def random_problem(seed: int) -> tuple[PackedModel, NDArray[np.generic]]:
    """A random network of any wiring, arithmetic and size, with binary or graded spikes, and inputs for it."""
    rng = np.random.default_rng(seed)
    levels = int(np.random.default_rng([seed, 1]).choice([1, 1, 2, 3, 7]))
    arithmetic: ArithmeticName = "fixed" if rng.random() < 0.4 else "float"
    kind = rng.random()
    if kind < 0.2:
        model = packed_models.cell_model(
            rng,
            width=int(rng.integers(1, 40)),
            bits=int(rng.integers(1, 5)),
            keep=float(rng.choice([0.0, 0.05, 0.3, 1.0])),
            arithmetic=arithmetic,
            levels=levels,
        )
    else:
        shape = None
        if kind < 0.6:
            shape = (int(rng.integers(1, 4)), int(rng.integers(1, 12)), int(rng.choice(EDGES)))
        model = packed_models.random_model(rng, shape=shape, arithmetic=arithmetic, levels=levels)
    return model, packed_models.random_input(rng, model.input, int(rng.choice(BATCHES)))


def check_random(seed: int) -> None:
    model, x = random_problem(seed)
    rng = np.random.default_rng(seed)
    assert_exact(model, x, threads=(int(rng.choice([1, 1, 1, 2, 3])),))


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks(seed: int) -> None:
    check_random(seed)


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
def test_thousands_of_random_networks(seed: int) -> None:
    check_random(seed)


@pytest.mark.parametrize("width", EDGES)
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_sizes_around_the_word_edge(width: int, arithmetic: ArithmeticName) -> None:
    rng = np.random.default_rng(width)
    for height in (1, 8, 9):
        model = packed_models.random_model(rng, shape=(2, height, width), populations=3, arithmetic=arithmetic)
        assert_exact(model, packed_models.random_input(rng, model.input, 3))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31])
def test_batches(batch: int) -> None:
    """One engine runs them all, so that it has to change its layout of memory on the way."""
    rng = np.random.default_rng(batch)
    model = packed_models.cell_model(rng)
    engine = Engine(model)
    for count in (1, batch, 2, batch):
        x = packed_models.random_input(rng, model.input, count)
        np.testing.assert_array_equal(engine.run(x).logits, Reference(model).run(x).logits)


@pytest.mark.parametrize("timesteps", [1, 2, 5, 6, 7, 12, 13, 64])
def test_timesteps(timesteps: int) -> None:
    rng = np.random.default_rng(timesteps)
    for arithmetic in ("float", "fixed"):
        model = packed_models.cell_model(rng, width=5, cells=1, arithmetic=arithmetic)
        if model.fraction is None or timesteps <= 6:  # more might not fit the integer logits
            model = replace(model, timesteps=timesteps)
        assert_exact(model, packed_models.random_input(rng, model.input, 2))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.2, 1.0])
def test_widths_and_keep_ratios(bits: int, keep: float) -> None:
    rng = np.random.default_rng(bits)
    model = packed_models.cell_model(rng, width=33, bits=bits, keep=keep)
    assert_exact(model, packed_models.random_input(rng, model.input, 2), threads=(1, 2))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 64])
@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
def test_strides_and_kernels(kernel: int, stride: int) -> None:
    """Rows of whole bytes after a stride of 2, which are cut in another way, among them."""
    rng = np.random.default_rng(kernel)
    for height, width in ((6, 16), (4, 32), (5, 16), (6, 17), (2, 48)):
        model = two_layers(rng, (height, width), channels=3, outputs=5, kernel=kernel, stride=stride)
        assert_exact(model, packed_models.random_input(rng, model.input, 2))


def test_more_inputs_than_a_segment_has() -> None:
    """36 864 inputs of a neuron: their planes have numbers of more than 16 bits."""
    rng = np.random.default_rng(0)
    model = two_layers(rng, (3, 3), channels=4096, outputs=3, kernel=3, stride=1)
    assert_exact(model, packed_models.random_input(rng, model.input, 1))


def test_sums_of_more_planes_than_are_exact() -> None:
    """18.75 million at most: gather takes over where bit-sliced sums would not fit 24 planes."""
    rng = np.random.default_rng(0)
    model = two_layers(rng, (1, 1), channels=50_000, outputs=1, kernel=5, stride=1)
    second = model.populations[1]
    codes = np.full_like(second.synapses[0].codes, 15)
    large = replace(second, synapses=(replace(second.synapses[0], codes=codes, bits=4),))
    model = replace(model, populations=(model.populations[0], large))
    assert_exact(model, packed_models.random_input(rng, model.input, 1), methods=("bitsliced",))
    assert [bundle.method for bundle in Engine(model, method="bitsliced").bundles()] == ["analog", "gather"]


def test_the_input_may_be_read_late_and_the_readout_may_read_the_stem() -> None:
    rng = np.random.default_rng(0)
    model = packed_models.cell_model(rng, cells=1, width=3)
    stem = model.populations[0].synapses[0]
    last = model.populations[-1]
    late = replace(last, synapses=(*last.synapses, stem))
    readout = replace(model.readout, sources=(0, len(model.populations) - 1), codes=model.readout.codes[:, :6])
    model = replace(model, populations=(*model.populations[:-1], late), readout=readout)
    assert_exact(model, packed_models.random_input(rng, model.input, 3), threads=(1, 2))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(threads: int) -> None:
    """More threads than tiles, and more than channels."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        model = packed_models.cell_model(rng, width=(2, 17)[seed % 2], keep=0.5)
        assert_exact(model, packed_models.random_input(rng, model.input, (1, 9)[seed // 2]), threads=(threads,))


def test_quantizes_as_the_reference_does() -> None:
    """Every pixel, halves, the ends of the range and beyond."""
    rng = np.random.default_rng(0)
    for mean, std in ((127.5, 73.9), (0.0, 1e-6), (300.0, 1e9)):
        spec = InputSpec((1, 16, 16), "image", (mean,), (std,))
        model = two_layers(rng, (16, 16), channels=2, outputs=2, kernel=1, stride=1, spec=spec)
        assert_exact(model, np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16))
    spec = InputSpec((1, 4, 4), "array", (0.5,), (0.5,))
    model = two_layers(rng, (4, 4), channels=2, outputs=2, kernel=1, stride=1, spec=spec)
    values = np.array([0.5, -0.0, 3.4e38, -3.4e38, 1e-45, 2.5, 0.5 + 1 / 128, 0.5 + 3 / 128] * 2, np.float64)
    assert_exact(model, values.reshape(1, 1, 4, 4))
    assert_exact(model, rng.integers(-9, 9, (2, 1, 4, 4)))


def two_layers(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    spec: InputSpec | None = None,
) -> PackedModel:
    spec = spec or InputSpec((1, *size), "array", (0.0,), (1.0,))
    stem = packed_models.random_synapses(rng, (IMAGE,), 1, channels, kernel=3, keep=1.0)
    synapses = packed_models.random_synapses(rng, (0,), channels, outputs, kernel=kernel, stride=stride, keep=0.5)
    populations = [
        Population((layer,), packed_models.halves(rng, len(layer.codes), 0.1), 0.2) for layer in (stem, synapses)
    ]
    codes = packed_models.random_codes(rng, (3, outputs), 4, 1.0)
    readout = Readout((1,), 4, codes, packed_models.halves(rng, 3, 0.01), packed_models.halves(rng, 3, 0.1))
    return PackedModel(spec, 3, 0.2, 0.5, ("a", "b", "c"), tuple(populations), readout)


# --- What the Python class promises. ---


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return packed_models.cell_model(np.random.default_rng(0))


@pytest.fixture(scope="module")
def x(model: PackedModel) -> NDArray[np.generic]:
    return packed_models.random_input(np.random.default_rng(1), model.input, 5)


def test_predicts_classes_and_logits(model: PackedModel, x: NDArray[np.generic]) -> None:
    engine, reference = Engine(model), Reference(model)
    classes, logits = engine.predict(x), engine.predict(x, logits=True)
    np.testing.assert_array_equal(classes, reference.classify(x))
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(logits, reference.run(x).logits[-1])
    assert logits.dtype == np.float32


def test_a_tensor_gives_a_tensor(model: PackedModel, x: NDArray[np.generic]) -> None:
    engine, tensor = Engine(model), torch.from_numpy(x).requires_grad_()
    classes = engine.predict(tensor)
    assert isinstance(classes, torch.Tensor)
    np.testing.assert_array_equal(classes.numpy(), engine.predict(x))
    assert torch.equal(engine.predict(tensor, logits=True), torch.from_numpy(engine.predict(x, logits=True)))


def test_inputs_need_not_be_contiguous(model: PackedModel, x: NDArray[np.generic]) -> None:
    engine, wide = Engine(model), np.repeat(x, 2, axis=3)[..., ::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(engine.predict(wide, logits=True), engine.predict(x, logits=True))
    flipped = np.ascontiguousarray(x[:, :, ::-1])
    np.testing.assert_array_equal(engine.predict(x[:, :, ::-1], logits=True), engine.predict(flipped, logits=True))


def test_an_empty_batch_gives_nothing(model: PackedModel, x: NDArray[np.generic]) -> None:
    engine = Engine(model)
    assert engine.predict(x[:0]).shape == (0,)
    assert engine.predict(x[:0], logits=True).shape == (0, 10)
    assert engine.run(x[:0], record=True).logits.shape == Reference(model).run(x[:0]).logits.shape


def test_reads_a_file(model: PackedModel, x: NDArray[np.generic], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    packed.write(model, path)
    np.testing.assert_array_equal(Engine(str(path)).predict(x), Engine(model).predict(x))
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read"):
        Engine(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[0],
        lambda x: x[:, :, :-1],
        lambda x: x > 0,
        lambda x: x.astype(complex),
        lambda x: np.where(x > 0, np.nan, x),
        lambda x: np.where(x > 0, np.inf, x),
        lambda x: x.astype(np.float64) * 1e300,
    ],
)
def test_refuses_inputs_as_the_reference_does(model: PackedModel, x: NDArray[np.generic], change: Any) -> None:
    with pytest.raises(InputError) as right:
        Reference(model).run(change(x))
    with pytest.raises(InputError) as mine:
        Engine(model).predict(change(x))
    assert str(mine.value) == str(right.value)


def test_pixels_have_to_be_bytes() -> None:
    rng = np.random.default_rng(0)
    spec = InputSpec((1, 4, 4), "image", (127.5,), (70.0,))
    model = two_layers(rng, (4, 4), channels=2, outputs=2, kernel=1, stride=1, spec=spec)
    with pytest.raises(InputError, match=r"input: expected uint8 pixels, found float64"):
        Engine(model).predict(np.zeros((1, 1, 4, 4)))


def test_kernels_are_chosen_by_name_variable_or_speed(model: PackedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
    assert KERNELS[-1] == "portable"
    assert Engine(model).kernel == KERNELS[0]
    monkeypatch.setenv(KERNEL_VARIABLE, "portable")
    assert Engine(model).kernel == "portable"
    assert Engine(model, kernel=KERNELS[0]).kernel == KERNELS[0]
    monkeypatch.setenv(KERNEL_VARIABLE, "mmx")
    with pytest.raises(InputError, match=r"LITESNN_KERNEL: expected a kernel that runs here, .*portable; found 'mmx'"):
        Engine(model)
    with pytest.raises(InputError, match=r"kernel: expected a kernel that runs here, .*portable; found 'sse'"):
        Engine(model, kernel="sse")


def test_refuses_other_methods_and_numbers_of_threads(model: PackedModel) -> None:
    with pytest.raises(InputError, match="method: expected one of auto, bitsliced, gather, found 'magic'"):
        Engine(model, method="magic")  # type: ignore[arg-type]
    for threads in (0, -1, 257):
        with pytest.raises(InputError, match=f"threads: expected 1 to 256, found {threads}"):
            Engine(model, threads=threads)


def test_counts_the_additions_of_bit_sliced_sums(model: PackedModel, x: NDArray[np.generic]) -> None:
    """Blocks of eight planes of 512 neurons each: never fewer than weights times neurons that have them."""
    engine = Engine(model, method="bitsliced")
    assert engine.additions == 0
    engine.predict(x[:1])
    once = engine.additions
    layers = [layer for population in model.populations for layer in population.synapses]
    for bundle, layer in zip(engine.bundles(), layers, strict=True):
        if bundle.method == "bitsliced":
            assert bundle.additions % (8 * 512) == 0
            assert bundle.additions >= np.count_nonzero(layer.codes) * model.timesteps * 64
            assert bundle.words < bundle.additions
        else:
            assert bundle.additions == layer.codes.size * 64
    engine.predict(x[:1])
    assert engine.additions == 2 * once
    engine.reset_counts()
    assert engine.additions == 0


def test_counts_the_additions_of_gather(model: PackedModel, x: NDArray[np.generic]) -> None:
    """One row of 64 weights for every spike and place it reaches, here found by the reference's spikes."""
    engine = Engine(model, method="gather")
    engine.predict(x)
    truth = Reference(model).run(x, record=True)
    assert truth.spikes is not None
    layers = [layer for population in model.populations for layer in population.synapses]
    for bundle, layer in zip(engine.bundles()[1:], layers[1:], strict=True):
        assert bundle.method == "gather"
        spikes = np.concatenate([truth.spikes[source] for source in layer.sources], axis=2)
        padded = np.pad(spikes, [(0, 0)] * 3 + [(1, 1)] * 2)
        reached = sum(
            int(padded[..., row : row + 8, column : column + 8].sum()) for row in range(3) for column in range(3)
        )
        assert bundle.additions == 64 * reached


def test_method_follows_the_firing_rates() -> None:
    """On a small map with many channels the inputs of silent populations are gathered, those of busy ones are not."""
    rng = np.random.default_rng(0)
    model = two_layers(rng, (3, 3), channels=64, outputs=64, kernel=3, stride=1)

    def methods(rate: float) -> list[str]:
        populations = tuple(replace(population, rate=rate) for population in model.populations)
        return [bundle.method for bundle in Engine(replace(model, populations=populations)).bundles()]

    assert methods(0.0) == ["analog", "gather"]
    assert methods(1.0) == ["analog", "bitsliced"]


def test_weights_are_small(model: PackedModel) -> None:
    engine = Engine(model, method="bitsliced")
    kept = sum(int(np.count_nonzero(layer.codes)) for population in model.populations for layer in population.synapses)
    assert 2 * kept < engine.weight_bytes < 8 * kept
    assert engine.weight_bytes > sum(bundle.weight_bytes for bundle in engine.bundles())
    assert engine.work_bytes > 0


def test_threads_may_share_an_engine(model: PackedModel, x: NDArray[np.generic]) -> None:
    engine, right = Engine(model, threads=2), Reference(model).run(x).logits[-1]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(engine.predict(x[number:], logits=True), right[number:]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_cannot_be_copied(model: PackedModel) -> None:
    engine = Engine(model)
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="an Engine cannot be copied or pickled"):
            copies(engine)


def test_full_adder_limit_is_a_speed() -> None:
    assert full_adder_limit("portable") > 1e8
    with pytest.raises(InputError, match="kernel: expected a kernel"):
        full_adder_limit("mmx")


# --- Images. ---


def load(image: bytes, method: int = -1) -> tuple[int, str]:
    """Status and message of loading an image; an engine that it gives is freed."""
    library = native.load_library()
    handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(256)
    status = library.lsnn_load(ctypes.byref(handle), image, len(image), None, method, 1, message, 256)
    library.lsnn_free(handle)
    assert (handle.value is None) == (status != native.Status.OK)
    return status, message.value.decode()


def test_image_begins_as_the_header_says(model: PackedModel) -> None:
    image = engine_image(model)
    words = np.frombuffer(image[:44], "<i4").tolist()
    assert image[:4] == b"LSNN"
    assert words[1:] == [1, len(image), 4, 1, 8, 8, 1, 10, 7, 0]
    assert np.frombuffer(image[44:60], "<f4").tolist() == pytest.approx([0.2, 0.5, 4.884164, 6.016788])
    assert load(image) == (native.Status.OK, "")


def test_an_image_that_ends_too_early_is_refused() -> None:
    rng = np.random.default_rng(3)
    for arithmetic in ("float", "fixed"):
        image = engine_image(packed_models.random_model(rng, shape=(1, 3, 3), arithmetic=arithmetic))
        for length in range(0, len(image), 4):
            cut = image[:8] + length.to_bytes(4, "little") + image[12:length] if length >= 12 else image[:length]
            status, message = load(cut)
            assert status == native.Status.BAD_IMAGE
            assert message
            assert "\n" not in message


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 0, "begins with LSNN"),
        (1, 5, "version: expected 1 to 4"),
        (2, 5, "size: expected the bytes of the image"),
        (3, 0, "timesteps: expected 1 to 64, found 0"),
        (4, 2**31 - 1, "channels: expected 1 to 67108864"),
        (5, 2**26, "expected at most 67108864 pixels and neurons"),
        (7, 3, "kind: expected 0 to 2, found 3"),
        (9, 5000, "populations: expected 1 to 4096, found 5000"),
        (11, 0x7FC00000, "leak: expected 0 to 1, found nan"),
        (12, 0, "threshold: expected a number above zero"),
        (14, 0, "std: expected numbers above zero"),
        (15, -1, "channels: expected 1 to 67108864, found -1"),
    ],
)
def test_wrong_words_are_refused(model: PackedModel, at: int, value: int, message: str) -> None:
    image = engine_image(model)
    status, text = load(image[: 4 * at] + value.to_bytes(4, "little", signed=value < 0) + image[4 * at + 4 :])
    assert status == native.Status.BAD_IMAGE
    assert message in text


def test_sums_that_could_overflow_are_refused() -> None:
    """Scales of a fixed-point model are proven against its weights at load, whoever wrote the image."""
    rng = np.random.default_rng(1)
    model = packed_models.cell_model(rng, cells=1, arithmetic="fixed")
    stem = replace(model.populations[0], bias=np.full_like(model.populations[0].bias, 2**15 - 1), bias_shift=15)
    status, message = load(engine_image(replace(model, populations=(stem, *model.populations[1:]))))
    assert status == native.Status.BAD_IMAGE
    assert message == "bias: the membranes of channel 0 could exceed int32"


def test_a_network_too_large_for_this_engine_is_refused() -> None:
    """Within the limits of the format, but its maps would take more than 4 GiB."""
    rng = np.random.default_rng(1)
    model = two_layers(rng, (64, 64), channels=2000, outputs=2, kernel=1, stride=1)
    wide = packed_models.random_synapses(rng, (0,), 2000, 3000, kernel=1, keep=0.001, bits=4)
    second = Population((wide,) * 8, packed_models.halves(rng, 3000, 0.1), 1.0)
    readout = replace(model.readout, codes=packed_models.random_codes(rng, (3, 3000), 4, 0.01))
    model = replace(model, populations=(model.populations[0], second), readout=readout, timesteps=13)
    status, message = load(engine_image(model), native.Method.GATHER)
    assert status == native.Status.NO_MEMORY, message
    assert message == "the network needs more memory than there is, or more than 4 GiB"
