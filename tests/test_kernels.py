from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litesnn.errors import LitesnnError
from litesnn.neurons.hard_reset import LIF
from litesnn.snn import native_library, select_kernels
from litesnn.snn.kernels import CompiledKernels, Incoming, Node, TorchKernels
from litesnn.snn.membrane import Neuron
from litesnn.snn.memory_estimate import _held_maps
from litesnn.snn.native_kernels import NativeKernels
from litesnn.snn.native_library import instruction_sets, use_instruction_set
from litesnn.snn.population import Neurons
from litesnn.snn.select_kernels import kernels_for

PLAIN, NATIVE = TorchKernels(), NativeKernels()


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_map(seed: int, rows: int, columns: int, around: int, dtype: torch.dtype) -> Tensor:
    """Some columns of a map that is ``around`` wider on either side."""
    return random(seed, rows, columns + 2 * around, dtype=dtype)[:, around : around + columns]


def test_the_plain_kernel_is_always_there() -> None:
    assert instruction_sets()[-1] == "portable"
    assert len(set(instruction_sets())) == len(instruction_sets())


def test_the_cpu_takes_c_and_other_types_take_torch() -> None:
    assert isinstance(kernels_for(torch.zeros(1)), NativeKernels)
    assert isinstance(kernels_for(torch.zeros(1, dtype=torch.float64)), NativeKernels)
    assert isinstance(kernels_for(torch.zeros(1, dtype=torch.bfloat16)), TorchKernels)
    assert isinstance(kernels_for(torch.zeros(1, device="meta")), TorchKernels)
    assert isinstance(kernels_for(torch.zeros(1), compiled=True), CompiledKernels)


def test_triton_is_left_out_for_neurons_that_it_has_no_loops_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, torch's own kernels compute them."""
    monkeypatch.setattr(select_kernels, "_has_triton", lambda: True)
    found = [select_kernels._in_triton(neuron) for neuron in (Neuron(), Neuron(reset=0.1), Neuron(levels=2))]
    assert found == [True, False, False]
    meta = torch.device("meta")
    held = [
        _held_maps(Neurons(LIF, 2, 0.2, levels), device) for device in (meta, torch.device("cpu")) for levels in (1, 3)
    ]
    assert held == [0, 8, 0, 0]


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header = Path(native_library.__file__).with_name("csrc") / "training.h"
    assert re.findall(r"#define LSNN_TRAINING_ABI (\d+)", header.read_text()) == [str(native_library.ABI)]
    monkeypatch.setattr(native_library, "ABI", native_library.ABI + 1)
    version = rf"version {native_library.ABI - 1} of the training kernels, expected {native_library.ABI}: install"
    with pytest.raises(LitesnnError, match=version) as caught:
        native_library.library.__wrapped__()
    assert "\n" not in str(caught.value)


def test_a_neuron_has_the_fields_of_the_header() -> None:
    header = (Path(native_library.__file__).with_name("csrc") / "training.h").read_text()
    body = re.search(r"typedef struct {([^}]*)} lsnn_neuron;", header)
    assert body is not None
    kinds = {"double": ctypes.c_double, "int32_t": ctypes.c_int32}
    rows = [(kind, name) for kind, names in re.findall(r"(\w+) ([^;]*);", body[1]) for name in names.split(", ")]
    assert [(name, kinds[kind]) for kind, name in rows] == list(native_library.CNeuron._fields_)


# Rows below, at and above a block of 64; columns below, at and above a vector and a chunk of 64.
sizes = pytest.mark.parametrize(
    ("steps", "pixels", "columns"),
    [(1, 1, 1), (2, 3, 15), (3, 31, 16), (2, 32, 17), (1, 65, 63), (4, 16, 64), (2, 70, 130)],
)
neurons_of_all_kinds = pytest.mark.parametrize(
    "neuron", [Neuron(), Neuron(leak=0.7, reset=0.35), Neuron(levels=3)], ids=["hard", "soft", "graded"]
)
types = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])


@sizes
@types
def test_moments(
    instruction_set: str, steps: int, pixels: int, columns: int, dtype: torch.dtype, tolerance: float
) -> None:
    z = 3 + random_map(1, steps * pixels, columns, 2, dtype)
    for ours, plain in zip(NATIVE.mean_variance(z), PLAIN.mean_variance(z), strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


def test_a_large_mean_does_not_drown_the_variance() -> None:
    z = 1e4 + random(0, 10_000, 3).float()
    mean, variance = NATIVE.mean_variance(z)
    exact = torch.var_mean(z.double(), 0, correction=0)
    torch.testing.assert_close(variance.double(), exact[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(mean.double(), exact[1], rtol=1e-7, atol=0)
    assert NATIVE.mean_variance(torch.full((100, 2), 0.1))[1].tolist() == [0, 0]


@sizes
@types
@neurons_of_all_kinds
@pytest.mark.parametrize("terms", [1, 3])
def test_a_node(
    instruction_set: str,
    steps: int,
    pixels: int,
    columns: int,
    terms: int,
    neuron: Neuron,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    rows = steps * pixels
    maps = [random_map(seed, rows, columns, seed, dtype) for seed in range(terms)]
    scales, bias = random(7, terms, columns, dtype=dtype), random(8, columns, dtype=dtype)
    spikes = []
    for kernels in (NATIVE, PLAIN):
        wide = torch.full((rows, columns + 3), 9.0, dtype=dtype)
        rates = kernels.fire(Node(maps, scales, bias, steps, neuron), wide[:, 1 : columns + 1])
        torch.testing.assert_close(rates, wide[:, 1 : columns + 1].mean(0))
        spikes.append(wide)
    assert torch.equal(spikes[0], spikes[1])  # the same roundings in the same order
    assert 0 < spikes[0][:, 1 : columns + 1].mean() < neuron.levels or spikes[0].numel() < 100


@sizes
@types
@neurons_of_all_kinds
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("scaled", [0, 2])
def test_the_way_back_through_a_node(
    instruction_set: str,
    steps: int,
    pixels: int,
    columns: int,
    parts: int,
    scaled: int,
    neuron: Neuron,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    rows = steps * pixels
    maps = [random_map(10 + n, rows, columns, n, dtype) for n in range(3)]
    node = Node(maps, random(7, 3, columns, dtype=dtype), random(8, columns, dtype=dtype), steps, neuron)
    centres = random(9, 3, columns, dtype=dtype)
    gradients = [random_map(1 + n, rows, columns, n, dtype) for n in range(parts)]
    incoming = Incoming.of(gradients)
    if scaled:
        more = [random_map(20 + n, rows, columns, n, dtype) for n in range(scaled)]
        factors, of_spikes = random(5, scaled, columns, dtype=dtype), random(6, 2, columns, dtype=dtype)
        incoming = Incoming(gradients, more, factors, of_spikes)
        spikes = random(3, rows, columns, dtype=dtype).mul(neuron.levels).round().clamp(0, neuron.levels)
        plain = sum(gradients) + (factors[:, None] * torch.stack(more)).sum(0) + of_spikes[0] * spikes + of_spikes[1]
        torch.testing.assert_close(incoming.total(spikes), plain)
    found = []
    for kernels in (NATIVE, PLAIN):
        wide = torch.full((rows, columns + 3), 9.0, dtype=dtype)
        sums = kernels.fire_backward(node, incoming, centres, wide[:, 1 : columns + 1])
        found.append((wide, sums))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance * rows**0.5)


@sizes
@types
def test_spread_also_in_place(
    instruction_set: str, steps: int, pixels: int, columns: int, dtype: torch.dtype, tolerance: float
) -> None:
    rows = steps * pixels
    g, z = random_map(0, rows, columns, 3, dtype), random_map(1, rows, columns, 1, dtype)
    a, b, c = random(5, 3, columns, dtype=dtype)
    expected, apart = torch.empty(rows, columns, dtype=dtype), torch.empty(rows, columns, dtype=dtype)
    PLAIN.scaled_sum(g, z, a, b, c, expected)
    NATIVE.scaled_sum(g, z, a, b, c, apart)
    NATIVE.scaled_sum(g, z, a, b, c, z)
    for ours in (apart, z):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@types
@neurons_of_all_kinds
@given(st.integers(1, 6), st.sampled_from([1, 7, 1023, 1024, 1025, 40_000]), st.booleans(), st.integers(0, 2**31))
def test_neurons_alone(
    neuron: Neuron, dtype: torch.dtype, tolerance: float, steps: int, neurons: int, constant: bool, seed: int
) -> None:
    current = 0.4 + 0.5 * random(seed, 1 if constant else steps, neurons, dtype=dtype)
    current = (neuron.levels * current).expand(steps, neurons)
    ours, plain = NATIVE.lif(current, neuron), PLAIN.lif(current, neuron)
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])
    gradient = random(seed + 1, steps, neurons, dtype=dtype)
    torch.testing.assert_close(
        NATIVE.lif_backward(gradient, ours[0], neuron),
        PLAIN.lif_backward(gradient, ours[0], neuron),
        rtol=tolerance,
        atol=tolerance,
    )


@neurons_of_all_kinds
def test_instruction_sets_and_threads_change_no_bit_of_a_map(neuron: Neuron) -> None:
    maps, scales, bias = (
        [random(n, 6000, 20, dtype=torch.float32) for n in range(3)],
        random(3, 3, 20).float(),
        random(4, 20).float(),
    )
    node = Node(maps, scales, bias, 3, neuron)
    found = []
    before = torch.get_num_threads()
    try:
        for name in instruction_sets():
            for threads in (1, 2, 3):
                use_instruction_set(name)
                torch.set_num_threads(threads)
                spikes = torch.empty(6000, 20)
                NATIVE.fire(node, spikes)
                g = torch.empty(6000, 20)
                found.append((spikes, g, NATIVE.fire_backward(node, Incoming.of([maps[0]]), scales, g)))
    finally:
        torch.set_num_threads(before)
        use_instruction_set(instruction_sets()[0])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0][:2], other[:2], strict=True))
        torch.testing.assert_close(found[0][2:], other[2:], rtol=1.3e-6, atol=1e-5 * neuron.levels)
    for start in range(3, len(found), 3):  # the same threads add up in the same order
        for first, later in zip(found[:3], found[start : start + 3], strict=True):
            assert all(torch.equal(one, two) for one, two in zip(first[2:], later[2:], strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    z = random(0, 40_000, 3)
    expected = NATIVE.mean_variance(z)[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(NATIVE.mean_variance(z)[0], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.job
def test_threads_are_those_of_torch_whoever_else_has_loaded_openmp() -> None:
    """scikit-learn brings an OpenMP library of its own; its threads and torch's would take each other's cores."""
    script = (
        "import sklearn.cluster, torch, pathlib\n"
        "from litesnn.snn.native_library import _openmp_libraries\n"
        "maps = pathlib.Path('/proc/self/maps').read_text()\n"
        "print(maps.count('scikit_learn.libs/libgomp') > 0, _openmp_libraries(), torch.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded, libraries, torch_file = re.fullmatch(r"(\w+) (\[.*\]) (.*)\n", done.stdout).groups()  # type: ignore[union-attr]
    if loaded != "True":
        pytest.skip("this scikit-learn brings no OpenMP library")
    assert libraries.startswith(f"['{Path(torch_file).parent}/")
    assert "scikit_learn" not in libraries


@pytest.mark.parametrize(("value", "expected"), [("0", "None"), ("1", "found"), ("2", "LITESNN_OPENMP is '2'")])
def test_torchs_threads_can_be_left_alone(value: str, expected: str) -> None:
    """``LITESNN_OPENMP=0``: threads of their own, and the same results; what else there may be is refused."""
    script = (
        "import torch\n"
        "from litesnn.snn import native_library\n"
        "from litesnn.snn.native_kernels import NativeKernels\n"
        "z = torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0))\n"
        "mean = NativeKernels().mean_variance(z)[0]\n"
        "fork = native_library._openmp_fork()\n"
        "print(None if fork is None else 'found', mean.double().sum().item())"
    )
    environment = os.environ | {"LITESNN_OPENMP": value}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    if value == "2":
        assert done.returncode != 0
        assert expected in done.stderr
        return
    fork, mean = done.stdout.split()
    z = torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0))
    assert (fork, float(mean)) == (expected, NATIVE.mean_variance(z)[0].double().sum().item())
