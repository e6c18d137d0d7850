"""Convolutions by Winograd's algorithm against torch's in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.snn.convolve import convolve, convolve_backward
from litesnn.snn.native_library import instruction_sets, library, use_instruction_set
from litesnn.snn.winograd import Scheme, best_scheme, input_gradient, schemes, weight_gradient
from litesnn.snn.winograd import convolve as by_winograd

SCHEMES = schemes()
WITH_LOOPS = [name for name in instruction_sets() if name != "portable"]

pytestmark = pytest.mark.skipif(not SCHEMES, reason="this CPU has no vectors with a fused multiply-add")


@pytest.fixture(params=WITH_LOOPS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    use_instruction_set(request.param)
    yield request.param
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


def exact(x: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of the input and the weights, in double precision by torch."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = F.conv2d(x, weight, stride=stride, padding=1)
    return (out, *torch.autograd.grad(out, (x, weight), gradient.double()))


def check(found: Tensor, right: Tensor, terms: int) -> None:
    """Errors are a few millionths of what sums of so many terms of size 1 vary by."""
    assert found.shape == right.shape
    assert float((found - right.detach()).abs().max()) < 2e-5 * terms**0.5


@every_scheme
@every_size
def test_outputs_and_gradients(instruction_set: str, scheme: Scheme, size: tuple[int, ...]) -> None:
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


@every_scheme
def test_spikes_are_transformed_without_rounding(scheme: Scheme) -> None:
    """With one weight that is a power of two and all others zero, nothing is left that could round."""
    x = channels_last((random(3, 4, 5, 12, 12) > 1).float())
    weight = torch.zeros(3, 5, 3, 3)
    weight[1, 2, 1, 1] = 2.0
    out = by_winograd(x, weight, scheme)
    right = F.conv2d(x.double(), weight.double(), stride=scheme.stride, padding=1)
    assert float((out - right).abs().max()) < 1e-6


@every_scheme
@every_size
def test_instruction_sets_give_the_same_numbers(scheme: Scheme, size: tuple[int, ...]) -> None:
    x, weight, gradient = case(size, scheme.stride)
    found = []
    for name in WITH_LOOPS:
        use_instruction_set(name)
        found.append(
            [
                by_winograd(x, weight, scheme),
                input_gradient(gradient, weight, scheme, x.shape[2:]),
                weight_gradient(x, gradient, scheme),
            ]
        )
    use_instruction_set(instruction_sets()[0])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@every_scheme
def test_outputs_and_input_gradients_do_not_depend_on_the_threads(scheme: Scheme) -> None:
    x, weight, gradient = case((6, 24, 24, 16, 16), scheme.stride)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(
            [by_winograd(x, weight, scheme), input_gradient(gradient, weight, scheme, x.shape[2:])],
        )
        check(weight_gradient(x, gradient, scheme), exact(x, weight, gradient, scheme.stride)[2], 6 * 16 * 16)
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@every_scheme
def test_maps_may_be_some_channels_of_wider_ones_and_of_any_layout(scheme: Scheme) -> None:
    x, weight, gradient = case((2, 12, 20, 8, 8), scheme.stride)
    wide = channels_last(random(4, 2, 30, 8, 8))
    wide[:, 7:19] = x
    out = by_winograd(x, weight, scheme)
    for other in (wide[:, 7:19], x.contiguous()):
        assert torch.equal(by_winograd(other, weight, scheme), out)
        assert torch.equal(weight_gradient(other, gradient, scheme), weight_gradient(x, gradient, scheme))
    assert torch.equal(by_winograd(x, channels_last(weight), scheme), out)
    assert out.is_contiguous(memory_format=torch.channels_last)


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


def test_other_types_and_cpus_without_the_loops_take_torch() -> None:
    weight = torch.empty(2, 2, 3, 3)
    assert best_scheme(torch.empty(1, 2, 8, 8, dtype=torch.float64), weight.double(), 1) is None
    assert best_scheme(torch.empty(1, 2, 8, 8, device="meta"), weight.to("meta"), 1) is None
    use_instruction_set("portable")
    assert schemes() == ()
    assert best_scheme(torch.empty(1, 2, 8, 8), weight, 1) is None
    use_instruction_set(instruction_sets()[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "kind"), [(3, None), (1, None), (3, torch.bfloat16)])
def test_every_way_to_convolve(stride: int, kernel: int, kind: torch.dtype | None) -> None:
    x, weight, gradient = case((2, 6, 10, 16, 16), stride)
    weight = weight[:, :, :kernel, :kernel].contiguous()
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = F.conv2d(x, weight, stride=stride, padding=kernel // 2)
    right = torch.autograd.grad(out, (x, weight), gradient)
    close = {"rtol": 0.0, "atol": 1e-3 if kind is None else 1.0}
    torch.testing.assert_close(convolve(x.detach(), weight.detach(), stride=stride, kind=kind), out.detach(), **close)
    found = convolve_backward(gradient, x.detach(), weight.detach(), stride=stride, kind=kind)
    for ours, torchs in zip(found, right, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torchs, **close)
    alone = convolve_backward(gradient, x.detach(), weight.detach(), stride=stride, kind=kind, needs_input=False)
    assert alone[0] is None
    assert found[1] is not None
    assert torch.equal(alone[1], found[1])


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
