"""Ternary weights by hand, and what their zeros cost."""

from __future__ import annotations

import pytest
import torch

from litesnn.costs.size import layer_bytes
from litesnn.deploy.bits import encode_positions
from litesnn.quantizers.ternary import TERNARY


def test_by_hand() -> None:
    """mean |W| = 5/6, δ = 0.58333; above it 1, 1, 2, whose mean is 4/3."""
    weight = torch.tensor([-2.0, -1.0, -0.5, 0.25, 0.25, 1.0])
    codes, unit = TERNARY.codes(weight, 2)
    assert codes.tolist() == [-1, -1, 0, 0, 0, 1]
    assert float(unit) == pytest.approx(4 / 3)


def test_of_a_gaussian_the_share_of_zeros_and_the_error_are_the_published_ones() -> None:
    """δ = 0.7 · 0.798 σ: 42 % of the weights are zero; no other threshold has a much smaller squared error."""
    weight = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    codes, unit = TERNARY.codes(weight, 2)
    assert float((codes == 0).float().mean()) == pytest.approx(0.4235, abs=0.005)

    def loss(threshold: float) -> float:
        kept = weight.abs() > threshold
        return float((weight.sign() * kept * weight.abs()[kept].mean() - weight).square().mean())

    found = float((codes * unit - weight).square().mean())
    assert found <= 1.02 * min(loss(step / 20) for step in range(4, 24))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("weights", [1, 2, 9, 12, 100, 1000])
def test_no_pattern_of_zeros_takes_more_than_was_counted(weights: int, keep: float) -> None:
    rng = torch.Generator().manual_seed(weights)
    bound = layer_bytes(weights, 0, keep, 1, has_zero=True)
    most = max(1, round(weights * keep))
    for kept in range(1, most + 1, max(1, most // 20)):
        for count in {kept, most}:
            mask = torch.zeros(weights, dtype=torch.bool)
            mask[torch.randperm(weights, generator=rng)[:count]] = True
            assert (count + 7) // 8 + len(encode_positions(mask.numpy()).data) <= bound
