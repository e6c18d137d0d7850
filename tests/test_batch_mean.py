from __future__ import annotations

import pytest
import torch
from torch import Tensor

from litesnn.snn.batch_mean import with_batch_mean


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
