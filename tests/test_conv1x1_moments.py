"""Matrix products of spikes, and convolutions by moments, against torch in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.snn.conv1x1_moments import Coefficients, Edges, Moments
from litesnn.snn.native_library import instruction_sets, library, use_instruction_set
from litesnn.snn.spike_products import combine, gram, moments


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spikes(seed: int, rows: int, columns: int, rate: float = 0.2) -> Tensor:
    """Some columns of a wider map."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, columns + 3, generator=rng) < rate).float()[:, 1 : columns + 1]


# P, I, O: rows below, at and above what is looked up at once, and enough for sums to be put away in between; columns
# below, at and above a vector, several panels, and none.
sizes = pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 1, 1), (7, 15, 17), (32, 16, 48), (33, 50, 3), (5000, 12, 20), (70, 100, 130), (0, 4, 5), (9, 0, 4)],
)


@pytest.mark.parametrize("adding", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@sizes
def test_combining(instruction_set: str, rows: int, inputs: int, outputs: int, rate: float, adding: bool) -> None:
    maps = [spikes(0, rows, inputs, rate), spikes(1, rows, 9, rate)]
    dense = random(2, rows, 30)[:, 2:-1]
    matrix, factors, bias = random(3, inputs + 9, outputs), random(4, 27, outputs), random(5, outputs)
    wide = random(6, rows, outputs + 2)
    out = wide.clone()
    combine(out[:, 1:-1], maps, matrix, dense=(dense, factors), bias=bias, adding=adding)
    right = torch.cat(maps, 1).double() @ matrix.double() + dense.double() @ factors.double() + bias.double()
    right += wide[:, 1:-1].double() if adding else 0
    torch.testing.assert_close(out[:, 1:-1].double(), right, rtol=0, atol=1e-6 * (inputs + 40))
    assert torch.equal(out[:, [0, -1]], wide[:, [0, -1]])  # what lies beside it stays
    combine(out[:, 1:-1], maps, matrix)
    torch.testing.assert_close(out[:, 1:-1], torch.cat(maps, 1) @ matrix, rtol=0, atol=1e-6 * (inputs + 40))


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@sizes
def test_gram_matrices(instruction_set: str, rows: int, inputs: int, outputs: int, rate: float) -> None:
    x, y = spikes(0, rows, inputs, rate), random(1, rows, outputs + 5)[:, 2:-3]
    right = x.double().T @ y.double()
    torch.testing.assert_close(gram(x, y), right, rtol=0, atol=2e-6 * max(rows, 1) ** 0.5 + 1e-7 * rows)
    sums, products = moments(x)
    assert torch.equal(sums, x.double().sum(0))  # counts of spikes are exact
    assert torch.equal(products, x.double().T @ x.double())


def test_any_values_are_multiplied() -> None:
    x, matrix = random(0, 40, 20), random(1, 20, 30)
    x[x.abs() < 0.5] = 0
    out = torch.empty(40, 30)
    combine(out, [x], matrix)
    torch.testing.assert_close(out, x @ matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gram(x, x).float(), x.T @ x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments(x)[0].float(), x.sum(0), rtol=1e-5, atol=1e-5)


@pytest.fixture
def as_before() -> Iterator[None]:
    """Whatever a test chose, the next finds what it expects."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    use_instruction_set(instruction_sets()[0])


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_instruction_sets_with_loops_give_the_same(threads: int) -> None:
    """On rows that threads share."""
    x, y, matrix = spikes(0, 3000, 30), random(1, 3000, 40), random(2, 30, 40)
    torch.set_num_threads(threads)
    found = []
    for name in instruction_sets()[:-1]:
        use_instruction_set(name)
        out = torch.empty(3000, 40)
        combine(out, [x], matrix)
        found.append((out, gram(x, y)))
        torch.testing.assert_close(out, x @ matrix, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[-1][1], x.double().T @ y.double(), rtol=0, atol=1e-4)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.skipif(instruction_sets()[0] == "portable", reason="this CPU has no loops for it")
def test_without_memory_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = spikes(0, 5, 6)
    for name in ("lsnn_gram", "lsnn_combine"):
        monkeypatch.setattr(library(), name, lambda *_: 1)
    with pytest.raises(MemoryError, match="sums of a product"):
        gram(x, x)
    with pytest.raises(MemoryError, match="matrices of a product"):
        combine(torch.empty(5, 2), [x], random(0, 6, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutions_by_moments_are_what_autograd_makes_of_convolutions(dtype: torch.dtype) -> None:
    """Three edges into nodes 1, 3 and 1 again: their sums into the nodes, and all gradients."""
    rows, inputs, channels, nodes = 400, 7, 5, (1, 3, 1)
    x = spikes(0, rows, inputs, 0.3).to(dtype).requires_grad_()
    weight = random(1, len(nodes) * channels, inputs).to(dtype).requires_grad_()
    scales = random(2, len(nodes), channels).to(dtype).requires_grad_()
    gradient = random(3, rows, 3 * channels).to(dtype)  # of the nodes 1 to 3
    z = (x @ weight.T).view(rows, len(nodes), channels)
    variance, mean = torch.var_mean(z, 0, correction=0)
    normal = F.batch_norm(z.flatten(1), None, None, training=True, eps=1e-5).view_as(z) * scales
    sums = torch.stack([normal[:, 0] + normal[:, 2], torch.zeros_like(normal[:, 0]), normal[:, 1]], 1).flatten(1)
    right = torch.autograd.grad(sums, (x, weight, scales), gradient)

    edges, known = Edges(weight.detach(), nodes), Moments.of(x.detach())
    assert (edges.first, edges.count) == (1, 3)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    ours = edges.statistics(known)
    torch.testing.assert_close(ours, (mean.detach(), variance.detach()), **close)
    spread = (ours[1] + 1e-5).rsqrt()
    out = torch.empty(rows, 3 * channels, dtype=dtype)
    combine(out, [x.detach()], edges.into_nodes(scales.detach() * spread))
    offset = scales.detach() * spread * ours[0]
    shift = torch.cat([offset[0] + offset[2], torch.zeros_like(offset[0]), offset[1]])
    torch.testing.assert_close(out - shift, sums.detach(), **close)

    found = gram(x.detach(), gradient)
    of_edges = gradient.double().sum(0).view(3, channels)[[0, 2, 0]]
    products = edges.products(found, of_edges, ours[0])
    torch.testing.assert_close((products * spread).to(dtype), right[2], **close)
    a = (scales.detach() * spread).double()
    b = -a * spread.double().square() * products / rows
    coefficients = Coefficients(a, b, -a * of_edges / rows - b * ours[0].double())
    torch.testing.assert_close(edges.weight_gradient(found, known, coefficients), right[1], **close)
    grad_x = torch.ones(rows, inputs, dtype=dtype)
    edges.input_gradient(gradient, x.detach(), coefficients, grad_x, adding=True)
    torch.testing.assert_close(grad_x - 1, right[0], **close)
    none = Coefficients(a, torch.zeros_like(a), torch.zeros_like(a))  # statistics that were given
    torch.testing.assert_close(
        edges.weight_gradient(found, None, none), edges.weight_gradient(found, known, none), **close
    )
