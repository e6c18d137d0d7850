"""The GPU's kernels: on a GPU where there is one, else in Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from litesnn.snn.kernels import Incoming, Kernels, Node, TorchKernels
from litesnn.snn.membrane import Neuron
from litesnn.snn.select_kernels import kernels_for

pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs CUDA, or TRITON_INTERPRET=1", allow_module_level=True)

from litesnn.snn.triton_kernels import TritonKernels  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
NEURON = Neuron()
TRITON, PLAIN = TritonKernels(), TorchKernels()

sizes = pytest.mark.parametrize(
    ("steps", "pixels", "columns"), [(1, 1, 1), (2, 3, 15), (3, 31, 16), (1, 65, 63), (4, 16, 64), (2, 700, 130)]
)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def random_map(seed: int, rows: int, columns: int) -> Tensor:
    """Some columns of a wider map."""
    return random(seed, rows, columns + 2 * seed)[:, seed : seed + columns]


def assert_close(ours: Tensor, plain: Tensor, rows: int = 1) -> None:
    torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-5 * rows**0.5)


def node(terms: int, steps: int, pixels: int, columns: int) -> Node:
    maps = [random_map(1 + n, steps * pixels, columns) for n in range(terms)]
    return Node(maps, random(7, terms, columns), random(8, columns), steps, NEURON)


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
def test_the_gpu_takes_triton() -> None:
    assert isinstance(kernels_for(torch.zeros(1, device="cuda")), TritonKernels)
    assert isinstance(kernels_for(torch.zeros(1, device="cuda", dtype=torch.float64)), TorchKernels)


@sizes
@pytest.mark.parametrize("terms", [1, 3])
def test_a_node(steps: int, pixels: int, columns: int, terms: int) -> None:
    given = node(terms, steps, pixels, columns)
    fired = []
    for kernels in (TRITON, PLAIN):
        wide = torch.full((steps * pixels, columns + 3), 9.0, device=DEVICE)
        rates = kernels.fire(given, wide[:, 1 : columns + 1])
        torch.testing.assert_close(rates, wide[:, 1 : columns + 1].mean(0))
        fired.append(wide)
    # A membrane within a rounding of the threshold may fall on either side of it.
    assert (fired[0] != fired[1]).float().mean() < 1e-4


@sizes
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("scaled", [0, 2])
def test_the_way_back_through_a_node(steps: int, pixels: int, columns: int, parts: int, scaled: int) -> None:
    given = node(2, steps, pixels, columns)
    gradients = [random_map(1 + n, steps * pixels, columns) for n in range(parts)]
    incoming = Incoming.of(gradients)
    if scaled:
        more = [random_map(20 + n, steps * pixels, columns) for n in range(scaled)]
        incoming = Incoming(gradients, more, random(5, scaled, columns), random(6, 2, columns))
    centres = random(9, 2, columns)
    found: list[Sequence[Tensor]] = []
    for kernels in (TRITON, PLAIN):
        wide = torch.full((steps * pixels, columns + 3), 9.0, device=DEVICE)
        found.append((wide, kernels.fire_backward(given, incoming, centres, wide[:, 1 : columns + 1])))
    for ours, plain in zip(*found, strict=True):
        assert_close(ours, plain, steps * pixels)


@sizes
def test_spread_also_in_place(steps: int, pixels: int, columns: int) -> None:
    rows = steps * pixels
    g, z = random_map(3, rows, columns), random_map(1, rows, columns)
    a, b, c = random(5, 3, columns)
    expected, apart = torch.empty(2, rows, columns, device=DEVICE)
    PLAIN.scaled_sum(g, z, a, b, c, expected)
    TRITON.scaled_sum(g, z, a, b, c, apart)
    TRITON.scaled_sum(g, z, a, b, c, z)
    for ours in (apart, z):
        assert_close(ours, expected)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("steps", "neurons"), [(1, 1), (3, 1023), (6, 1025)])
def test_neurons_alone(steps: int, neurons: int, constant: bool) -> None:
    current = (0.4 + 0.5 * random(0, 1 if constant else steps, neurons)).expand(steps, neurons)
    gradient = random(1, steps, neurons)
    kernels: Sequence[Kernels] = (TRITON, PLAIN)
    (membranes, spikes), (plain_membranes, plain_spikes) = (each.lif(current, NEURON) for each in kernels)
    assert_close(membranes, plain_membranes)
    assert torch.equal(spikes, plain_spikes)
    assert_close(TRITON.lif_backward(gradient, membranes, NEURON), PLAIN.lif_backward(gradient, membranes, NEURON))
