"""Convolutions by Winograd's algorithm against torch's in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.snn.convolve import convolve, convolve_backward, convolve_measured
from litesnn.snn.kernels import TorchKernels, from_rows, to_rows
from litesnn.snn.native_library import instruction_sets, library, use_instruction_set
from litesnn.snn.winograd import Normalised, Scheme, best_scheme, input_gradient, schemes, takes, weight_gradient
from litesnn.snn.winograd import convolve as by_winograd
from litesnn.snn.winograd import convolve_measured as by_winograd_measured

SCHEMES = schemes()
WITH_LOOPS = [name for name in instruction_sets() if name != "portable"]

pytestmark = pytest.mark.skipif(not SCHEMES, reason="this CPU has no vectors with a fused multiply-add")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test chose, the next finds what it expects."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    use_instruction_set(instruction_sets()[0])


every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.side}-{scheme.stride}")

# (N, I, O, H, W). Maps below, at and above a tile and odd ones; channels below, at and above a vector, a panel of
# columns and the inputs at once; more tiles than are taken at once.
SIZES = [
    (1, 1, 1, 1, 1),
    (3, 5, 7, 3, 6),
    (2, 12, 36, 7, 9),
    (2, 15, 50, 4, 4),
    (2, 17, 48, 8, 8),
    (3, 40, 70, 9, 5),
    (40, 3, 24, 10, 10),
    (1, 400, 90, 5, 5),
]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def case(size: tuple[int, ...], stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weights and the gradient of the output."""
    count, inputs, outputs, height, width = size
    x, weight = random(0, count, inputs, height, width), random(1, outputs, inputs, 3, 3)
    return channels_last(x), weight, channels_last(random(2, count, outputs, -(-height // stride), -(-width // stride)))


def exact(x: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and the weights, in double precision by torch."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = F.conv2d(x, weight, stride=stride, padding=1)
    return (out, *torch.autograd.grad(out, (x, weight), gradient.double()))


def check(found: Tensor, right: Tensor, terms: int) -> None:
    """Errors are at most some millionths of what sums of so many terms of size 1 vary by."""
    assert found.shape == right.shape
    assert float((found - right.detach()).abs().max()) < 2e-5 * terms**0.5


@every_scheme
@every_size
@pytest.mark.parametrize("name", WITH_LOOPS)
def test_outputs_and_gradients(name: str, scheme: Scheme, size: tuple[int, ...]) -> None:
    use_instruction_set(name)
    x, weight, gradient = case(size, scheme.stride)
    out, grad_x, grad_weight = exact(x, weight, gradient, scheme.stride)
    check(by_winograd(x, weight, scheme), out, 9 * size[1])
    check(input_gradient(gradient, weight, scheme, x.shape[2:]), grad_x, 9 * size[2])
    check(weight_gradient(x, gradient, scheme), grad_weight, gradient[:, 0].numel())


@every_scheme
def test_errors_are_a_few_times_those_of_a_direct_convolution(scheme: Scheme) -> None:
    x, weight, gradient = case((8, 48, 96, 16, 16), scheme.stride)
    out = exact(x, weight, gradient, scheme.stride)[0].detach()
    direct = F.conv2d(x, weight, stride=scheme.stride, padding=1)
    errors = [float((found - out).square().mean().sqrt()) for found in (by_winograd(x, weight, scheme), direct)]
    assert errors[0] < (5 if scheme.side > 2 else 2) * errors[1]


@pytest.mark.parametrize("tap", [(0, 0), (0, 1), (1, 1), (2, 2)])
@every_scheme
def test_each_tap_moves_the_map(scheme: Scheme, tap: tuple[int, int]) -> None:
    x = channels_last((random(3, 4, 5, 12, 12) > 1).float())
    weight = torch.zeros(3, 5, 3, 3)
    weight[1, 2, tap[0], tap[1]] = 1.0
    out = by_winograd(x, weight, scheme)
    lines, columns = (slice(at, at + 12, scheme.stride) for at in tap)
    torch.testing.assert_close(out[:, 1], F.pad(x[:, 2], (1, 1, 1, 1))[:, lines, columns], rtol=0, atol=3e-6)
    assert not out[:, [0, 2]].any()


@pytest.mark.skipif(len(WITH_LOOPS) < 2, reason="there is only one with loops")
@every_scheme
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [*SIZES, (8, 4, 4, 32, 32), (16, 24, 24, 16, 16), (24, 400, 90, 8, 8)], ids=str)
def test_instruction_sets_give_the_same_numbers(scheme: Scheme, size: tuple[int, ...], threads: int) -> None:
    x, weight, gradient = case(size, scheme.stride)
    torch.set_num_threads(threads)
    found = []
    for name in WITH_LOOPS:
        use_instruction_set(name)
        found.append(
            [
                *by_winograd_measured(x, weight, scheme),
                input_gradient(gradient, weight, scheme, x.shape[2:]),
                weight_gradient(x, gradient, scheme),
            ]
        )
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@every_scheme
@pytest.mark.parametrize("size", [(16, 24, 24, 16, 16), (24, 400, 90, 8, 8)], ids=str)
def test_threads_share_the_tiles(scheme: Scheme, size: tuple[int, ...]) -> None:
    x, weight, gradient = case(size, scheme.stride)
    right = exact(x, weight, gradient, scheme.stride)[2]
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append([by_winograd(x, weight, scheme), input_gradient(gradient, weight, scheme, x.shape[2:])])
        check(weight_gradient(x, gradient, scheme), right, gradient[:, 0].numel())
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@every_scheme
@pytest.mark.parametrize("count", [1, 2])
def test_maps_may_be_some_channels_of_wider_ones_and_of_any_layout(scheme: Scheme, count: int) -> None:
    x, weight, gradient = case((count, 12, 20, 8, 8), scheme.stride)

    def in_wider(map_: Tensor) -> Tensor:
        wide = channels_last(random(4, count, 40, *map_.shape[2:]))
        wide[:, 7 : 7 + map_.shape[1]] = map_
        return wide[:, 7 : 7 + map_.shape[1]]

    out = by_winograd(x, weight, scheme)
    grad_x, grad_weight = input_gradient(gradient, weight, scheme, x.shape[2:]), weight_gradient(x, gradient, scheme)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    for change in (in_wider, Tensor.contiguous):
        other_x, other_gradient = change(x), change(gradient)
        assert torch.equal(by_winograd(other_x, weight, scheme), out)
        assert torch.equal(input_gradient(other_gradient, weight, scheme, x.shape[2:]), grad_x)
        assert torch.equal(weight_gradient(other_x, other_gradient, scheme), grad_weight)
    assert torch.equal(by_winograd(x, channels_last(weight), scheme), out)
    same = x[:, :1].expand(-1, 12, -1, -1)
    assert torch.equal(by_winograd(same, weight, scheme), by_winograd(channels_last(same), weight, scheme))


def test_the_scheme_with_the_fewest_multiplications_is_taken() -> None:
    def side(height: int, width: int, stride: int = 1, kernel: int = 3) -> int | None:
        weight = torch.empty(2, 2, kernel, kernel)
        found = best_scheme(torch.empty(1, 2, height, width), weight, stride)
        return None if found is None else found.side

    assert side(32, 32) == side(8, 4) == 4
    assert side(6, 6) == side(2, 2) == 2  # 9 tiles of 16 multiplications rather than 4 of 36
    assert side(1, 1) is None  # 9 multiplications, not 16
    assert side(16, 16, stride=2) == 4
    assert side(4, 4, stride=2) is None  # 36 multiplications, not 81
    assert side(16, 16, stride=3) is side(16, 16, kernel=1) is side(16, 16, kernel=5) is None
    assert best_scheme(torch.empty(1, 0, 8, 8), torch.empty(2, 0, 3, 3), 1) is None


def test_other_types_and_cpus_without_the_loops_take_torch() -> None:
    weight = torch.empty(2, 2, 3, 3)
    assert best_scheme(torch.empty(1, 2, 8, 8, dtype=torch.float64), weight.double(), 1) is None
    assert best_scheme(torch.empty(1, 2, 8, 8, device="meta"), weight.to("meta"), 1) is None
    with pytest.raises(ValueError, match="expected float32"):
        by_winograd(torch.empty(1, 2, 8, 8), weight.double(), SCHEMES[0])
    use_instruction_set("portable")
    assert schemes() == ()
    assert best_scheme(torch.empty(1, 2, 8, 8), weight, 1) is None
    with pytest.raises(ValueError, match="expected float32 on the CPU and one of"):
        by_winograd(torch.empty(1, 2, 8, 8), weight, SCHEMES[0])


def test_nothing_is_convolved_into_nothing() -> None:
    x, weight, gradient = case((0, 3, 4, 8, 8), 1)
    assert by_winograd(x, weight, SCHEMES[0]).shape == (0, 4, 8, 8)
    assert input_gradient(gradient, weight, SCHEMES[0], (8, 8)).shape == (0, 3, 8, 8)
    assert not weight_gradient(x, gradient, SCHEMES[0]).any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "kind"), [(3, None), (1, None), (3, torch.bfloat16)])
def test_every_way_to_convolve(stride: int, kernel: int, kind: torch.dtype | None) -> None:
    x, weight, gradient = case((2, 6, 10, 16, 16), stride)
    weight = weight[:, :, :kernel, :kernel].contiguous()
    assert (best_scheme(x, weight, stride) is not None) == (kernel == 3)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = F.conv2d(x.contiguous(), weight, stride=stride, padding=kernel // 2)  # channels_last: see litesnn.snn.strided
    right = torch.autograd.grad(out, (x, weight), gradient)
    error = 1e-3 if kind is None else 1.0
    found_out = convolve(x.detach(), weight.detach(), stride=stride, kind=kind)
    torch.testing.assert_close(found_out, out.detach(), rtol=0, atol=error)
    settings: dict[str, Any] = {"stride": stride, "kind": kind, "kernels": TorchKernels()}
    measured = convolve_measured(x.detach(), weight.detach(), **settings)
    assert torch.equal(measured[0], found_out)
    torch.testing.assert_close(measured[1:], TorchKernels().mean_variance(to_rows(found_out)), rtol=1e-5, atol=1e-5)
    found = convolve_backward(gradient, x.detach(), weight.detach(), **settings)
    for ours, torchs in zip(found, right, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torchs, rtol=0, atol=error)
    assert found[0] is not None
    alone = convolve_backward(gradient, x.detach(), weight.detach(), **settings, needs_input=False)
    assert alone[0] is None
    assert found[1] is not None
    assert torch.equal(alone[1], found[1])
    # With a normalisation that hands the gradient back, the output takes its place.
    g, ones, zeros = to_rows(gradient), torch.ones(10), torch.zeros(10)
    z = found_out.clone()
    through = convolve_backward(
        z, x.detach(), weight.detach(), **settings, normalised=Normalised(g, ones, zeros, zeros)
    )
    assert torch.equal(z, gradient)
    assert through[0] is not None
    assert torch.equal(through[0], found[0])
    assert torch.equal(through[1], found[1])


@every_scheme
@pytest.mark.parametrize("name", WITH_LOOPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_statistics_of_the_output(name: str, scheme: Scheme, size: tuple[int, ...]) -> None:
    use_instruction_set(name)
    x, weight, _ = case(size, scheme.stride)
    out, mean, variance = by_winograd_measured(x, weight, scheme)
    assert torch.equal(out, by_winograd(x, weight, scheme))
    right = torch.var_mean(to_rows(out).double(), 0, correction=0)
    torch.testing.assert_close(variance.double(), right[0], rtol=1e-5, atol=1e-6)
    assert bool(((mean.double() - right[1]).abs() <= 1e-6 * (right[0].sqrt() + right[1].abs())).all())


def test_a_large_mean_does_not_drown_the_variance() -> None:
    """Outputs of about 3000 that vary by 1."""
    x = channels_last(1 + 1e-3 * random(0, 8, 32, 24, 24))
    weight = torch.zeros(16, 32, 3, 3)
    weight[:, :, 1, 1] = 100 + random(1, 16, 32)
    out, mean, variance = by_winograd_measured(x, weight, SCHEMES[0])
    right = torch.var_mean(to_rows(out).double(), 0, correction=0)
    assert float((right[1].square() / right[0]).min()) > 1e6
    torch.testing.assert_close(variance.double(), right[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(mean.double(), right[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WITH_LOOPS)
@pytest.mark.parametrize("channels", [16, 17])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_that_outgrow_the_cache(name: str, channels: int, stride: int) -> None:
    """More than 2²³ floats: with whole lines and AVX-512 they are written past it."""
    use_instruction_set(name)
    torch.set_num_threads(2)
    side = 738  # whose last tiles are not whole
    x, weight = channels_last(random(0, 1, 1, side * stride, side * stride)), random(1, channels, 1, 3, 3)
    scheme = next(scheme for scheme in SCHEMES if (scheme.side, scheme.stride) == (4, stride))
    check(by_winograd(x, weight, scheme), F.conv2d(x.double(), weight.double(), stride=stride, padding=1), 9)
    gradient, back = channels_last(random(2, 1, 1, -(-side // stride), -(-side // stride))), weight.transpose(0, 1)
    whole = torch.zeros(1, channels, side, side, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(whole, back.double(), stride=stride, padding=1)
    (right,) = torch.autograd.grad(out, whole, gradient.double())
    check(input_gradient(gradient, back, scheme, (side, side)), right, 9)


@every_scheme
@pytest.mark.parametrize("name", WITH_LOOPS)
@pytest.mark.parametrize(("outputs", "columns"), [(32, 16), (96, 48), (48, 48), (14, 7), (10, 10)])
@pytest.mark.parametrize("inputs", [5, 400])
def test_a_normalisation_on_the_way(name: str, scheme: Scheme, outputs: int, columns: int, inputs: int) -> None:
    """In loops for it, where groups of outputs begin with a vector, or before; with many inputs in several parts."""
    use_instruction_set(name)
    x, weight, z = case((3, inputs, outputs, 9, 7), scheme.stride)
    count, _, height, width = z.shape
    g, (a, b, c) = random(5, count * height * width, columns + 2)[:, 1:-1], random(6, 3, outputs)
    groups = outputs // columns
    right = from_rows(a * g.repeat(1, groups) + b * to_rows(z) + c, (height, width))
    expected = exact(x, weight, right, scheme.stride)
    normalised = Normalised(g, a, b, c)
    assert takes(normalised, outputs) == (columns != 7)
    found = convolve_backward(
        z, x, weight, stride=scheme.stride, kernels=TorchKernels(), normalised=normalised, needs_input=True
    )
    torch.testing.assert_close(z, right, rtol=1e-5, atol=1e-5)
    assert found[0] is not None
    check(found[0], expected[1], 9 * outputs)
    check(found[1], expected[2], count * height * width)


def test_without_memory_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _ = case((1, 2, 2, 8, 8), 1)
    monkeypatch.setattr(library(), "lsnn_winograd", lambda *_: 1)
    with pytest.raises(MemoryError, match="no memory for the transforms"):
        by_winograd(x, weight, SCHEMES[0])


def test_the_profiler_shows_them() -> None:
    x, weight, _ = case((1, 2, 2, 8, 8), 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        by_winograd(x, weight, SCHEMES[0])
    assert "litesnn::convolution" in {row.key for row in profile.key_averages()}
