from __future__ import annotations

import pytest
import torch
from torch import Tensor

from litesnn.snn.batch_mean import Count, batch_mean, plane_spikes, whether_fired, with_batch_mean


def spikes(*, channels_last: bool) -> Tensor:
    shape = (3, 4, 5, 2, 6) if channels_last else (3, 4, 6, 5, 2)
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.4).double()
    return (x.permute(0, 1, 4, 2, 3) if channels_last else x).requires_grad_()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
def test_mean_and_gradient_are_those_of_autograd(channels_last: bool, parts: tuple[bool, bool]) -> None:
    x = spikes(channels_last=channels_last)
    random = torch.Generator().manual_seed(1)
    factors = [torch.randn(shape, generator=random, dtype=x.dtype) for shape in (x.shape, x[:, 0].shape)]

    def loss(one: Tensor, mean: Tensor) -> Tensor:
        terms = [(one * factors[0]).sum(), (mean.square() * factors[1]).sum()]
        return torch.stack([term for term, wanted in zip(terms, parts, strict=True) if wanted]).sum()

    same, mean = with_batch_mean(x)
    assert torch.equal(same, x)
    torch.testing.assert_close(mean, x.mean(1), rtol=1e-15, atol=0)
    (ours,) = torch.autograd.grad(loss(same, mean), x)
    (plain,) = torch.autograd.grad(loss(x, x.mean(1)), x)
    torch.testing.assert_close(ours, plain, rtol=1e-14, atol=1e-15)


def test_counts_of_graded_spikes_by_hand() -> None:
    spikes = torch.arange(8.0)
    assert plane_spikes(7)(spikes).tolist() == [0, 1, 1, 2, 1, 2, 2, 3]
    assert plane_spikes(3)(spikes[:4]).tolist() == [0, 1, 1, 2]
    assert plane_spikes(4)(spikes[:5]).tolist() == [0, 1, 1, 2, 1]
    assert whether_fired(7)(spikes).tolist() == [0, *[1] * 7]
    assert (plane_spikes(1), whether_fired(1)) == (plane_spikes(1), plane_spikes(1))
    assert plane_spikes(1)(spikes) is spikes
    slopes = {levels: (plane_spikes(levels).slope, whether_fired(levels).slope) for levels in (1, 2, 3, 7)}
    assert slopes == {1: (1, 1), 2: (1 / 2, 1 / 2), 3: (2 / 3, 1 / 3), 7: (3 / 7, 1 / 7)}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("count", [plane_spikes(3), whether_fired(3)], ids=["planes", "fired"])
def test_means_of_counts_pass_their_slope_on(channels_last: bool, count: Count) -> None:
    binary = spikes(channels_last=channels_last).detach()
    x = (binary + binary.roll(1, 1) + binary.roll(2, 1)).requires_grad_()
    factors = torch.randn(x[:, 0].shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    same, mean = with_batch_mean(x, count)
    assert torch.equal(same, x)
    expected = torch.stack([count(sample) for sample in x.detach().unbind(1)]).mean(0)
    torch.testing.assert_close(mean.detach(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(batch_mean(x, count), expected, rtol=1e-14, atol=0)
    (ours,) = torch.autograd.grad((mean * factors).sum(), x, retain_graph=True)
    torch.testing.assert_close(ours, (count.slope / 4 * factors).unsqueeze(1).expand_as(x), rtol=1e-13, atol=0)
    (both,) = torch.autograd.grad((mean * factors).sum() + same.sum(), x)
    torch.testing.assert_close(both, ours + 1, rtol=1e-13, atol=0)
