from __future__ import annotations

import pytest
import torch
from torch import Tensor

from litesnn.training_loop.micro_batches import backward_in_parts


@pytest.mark.parametrize(("size", "parts"), [(6, 1), (6, 2), (6, 6), (7, 3), (2, 5), (25, 8)])
def test_gradients_and_values_are_those_of_the_whole_batch(size: int, parts: int) -> None:
    rng = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 3, generator=rng), torch.randint(0, 2, (size,), generator=rng)
    weight = torch.randn(2, 3, generator=rng, requires_grad=True)
    seen: list[int] = []

    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(len(y))
        logits = x @ weight.T
        loss = torch.nn.functional.cross_entropy(logits, y)
        return loss, {"loss": loss, "logits": logits.mean(0)}

    expected, values = forward(x, y)
    (gradient,) = torch.autograd.grad(expected, weight)
    seen.clear()
    found = backward_in_parts(x, y, forward, parts)
    assert sum(seen) == size
    assert len(seen) == min(parts, size)
    assert max(seen) - min(seen) <= 1
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, gradient)
    torch.testing.assert_close(found, {name: value.detach() for name, value in values.items()})
    assert not found["loss"].requires_grad


def test_what_else_belongs_to_the_batch_is_parted_alike() -> None:
    x, y, other = torch.arange(10.0)[:, None], torch.arange(10), torch.arange(20.0).view(10, 2)
    weight = torch.ones(1, requires_grad=True)

    def forward(x: Tensor, y: Tensor, other: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert torch.equal(2 * x, other[:, :1])
        assert torch.equal(x[:, 0], y.float())
        return (weight * other).mean(), {"rows": other.mean()}

    found = backward_in_parts(x, y, forward, 3, other)
    torch.testing.assert_close(found["rows"], other.mean())
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, other.mean()[None])
