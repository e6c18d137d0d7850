"""The learned step by hand."""

from __future__ import annotations

import pytest
import torch

from litesnn.quantizers import MIDRISE
from litesnn.quantizers.learned_step import LEARNED_STEP
from litesnn.snn.compconv import CompConv, Compression
from litesnn.snn.undecayed import Undecayed, decay_groups

OWN = torch.tensor([1.0, 0.5, 0.25, 0.125])


def test_by_hand() -> None:
    """Two bits, a step of ½: levels ±¼ and ±¾; n = 4 weights, outermost level 1.5."""
    weights = torch.tensor([[-2.0, -0.3, 0.1, 0.9]])
    assert LEARNED_STEP.rule is not None
    codes, unit = LEARNED_STEP.codes(weights[0], 2, OWN)
    assert codes.tolist() == [-3, -1, 1, 3]
    assert float(unit) == 0.25
    gradient = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    of_weights, of_own = LEARNED_STEP.rule(gradient, weights, OWN[None], 2)
    assert of_weights.tolist() == [[0, 2, 4, 8]]  # −2 is four steps out, beyond the outermost cell
    assert of_own is not None
    slopes = 1 * -1.5 + 2 * (-0.5 + 0.6) + 4 * (0.5 - 0.2) + 8 * (1.5 - 1.8)
    assert of_own.tolist()[0] == pytest.approx([0, slopes / (4 * 1.5) ** 0.5, 0, 0])


def test_it_begins_as_midrise() -> None:
    conv, plain = CompConv(3, 4, 3, quantizer=LEARNED_STEP), CompConv(3, 4, 3)
    with torch.no_grad():
        plain.weight.copy_(conv.weight)
        plain.scores.copy_(conv.scores)
    for bits in LEARNED_STEP.bits:
        finished = Compression.fixed(bits, 0.5, torch.device("cpu"))
        assert torch.equal(
            conv.effective_weight(finished, conv.masks(finished)),
            plain.effective_weight(finished, plain.masks(finished)),
        )
        assert torch.equal(conv.codes(bits, torch.ones(1))[1], MIDRISE.codes(plain.weight, bits)[1])


@pytest.mark.parametrize("value", [-0.5, 0.0, 1e-12])
def test_a_step_is_positive_whatever_was_learned(value: float) -> None:
    weight = torch.tensor([-1.0, 0.3, 2.0])
    codes, unit = LEARNED_STEP.codes(weight, 3, torch.full((4,), value))
    assert float(unit) > 0
    assert (codes.sign() == weight.sign()).all()
    assert torch.equal(codes, LEARNED_STEP.codes(weight, 3, torch.full((4,), abs(value)))[0])


def test_a_step_learns_to_lose_less() -> None:
    """Begun four times too large, it comes back near the step of least squared error."""
    conv = CompConv(8, 8, 3, quantizer=LEARNED_STEP)
    assert isinstance(conv.quantization, Undecayed)
    target = conv.weight.detach().clone()
    with torch.no_grad():
        conv.quantization.mul_(4)
    finished = Compression.fixed(3, 1.0, torch.device("cpu"))
    groups = decay_groups([conv.weight, conv.quantization])
    assert groups[1]["weight_decay"] == 0
    conv.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([conv.quantization], lr=0.02)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (conv.effective_weight(finished, conv.masks(finished)) - target).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    best = (MIDRISE.codes(target, 3)[0] * MIDRISE.codes(target, 3)[1] - target).square().sum()
    assert losses[-1] < 0.2 * losses[0]
    assert losses[-1] < 1.1 * float(best)
