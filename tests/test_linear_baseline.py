"""The linear yardstick: it finds what is linear, chooses nothing by the test, and stays within its bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.data.batches import Samples
from litesnn.data.sources import Data, Split
from litesnn.train import linear_baseline as module
from litesnn.train.linear_baseline import LinearBaseline, fit_linear
from litesnn.training_loop.session import Session, input_info


def made(
    x: Tensor, y: Tensor, *, kind: Any = "image", classes: int = 2, shape: tuple[int, int, int] | None = None
) -> Data:
    """Rows cut into training, validation and test: 60, 20 and 20 of 100."""
    first, second = len(y) * 6 // 10, len(y) * 8 // 10
    train = x[:first].float().transpose(0, -3).flatten(1)
    mean, std = ((0.0,), (1.0,)) if kind == "events" else (train.mean(1).tolist(), train.std(1).tolist())
    channels = x.shape[-3]
    return Data(
        name="made",
        classes=tuple(f"c{k}" for k in range(classes)),
        shape=shape or tuple(x.shape[-3:]),  # type: ignore[arg-type]
        kind=kind,
        mean=tuple(mean) * (channels // len(mean)),
        std=tuple(std) * (channels // len(std)),
        train=Split(x[:first], y[:first]),
        validation=Split(x[first:second], y[first:second]),
        read_test=lambda: Split(x[second:], y[second:]),
        count_test=lambda: len(y) - second,
    )


def fit(data: Data, timesteps: int = 1) -> tuple[LinearBaseline, float]:
    """The classifier, and its test accuracy."""
    info = input_info(data)
    test = Session().samples(data.test(), info)
    found = fit_linear(data, test, info, timesteps)
    return found, float(np.mean(np.array(found.predicted) == test.y.numpy()))


def stripes(rows: int = 300, size: int = 8, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 [N, 1, size, size]: noise, and a bright row of pixels that tells the class."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    x = rng.integers(0, 200, (rows, 1, size, size))
    x[np.arange(rows), 0, y * size // classes] += 55
    return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y)


def parity(rows: int = 2000) -> tuple[Tensor, Tensor]:
    """Images whose two pixels are alike or not: no linear classifier can tell."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (rows, 1, 1, 2))
    return torch.from_numpy((255 * bits).astype(np.uint8)), torch.from_numpy(bits.sum((1, 2, 3)) % 2)


@pytest.mark.parametrize("classes", [2, 4])
def test_what_is_linear_is_found(classes: int) -> None:
    found, accuracy = fit(made(*stripes(600, classes=classes), classes=classes))
    assert accuracy > 0.9
    assert (found.rows, found.features, found.note) == (360, 64, None)
    assert found.penalty in module.PENALTIES


def test_what_is_not_linear_is_not_found() -> None:
    _, accuracy = fit(made(*parity()))
    assert accuracy < 0.65


def test_arrays_and_events_of_any_shape() -> None:
    x, y = stripes(400)
    assert fit(made(x.float() / 100 - 1, y, kind="array"))[1] > 0.9
    assert fit(made(x.flatten(2)[..., None], y, kind="array"))[1] > 0.9  # [N, 1, 64, 1]
    frames = torch.zeros(400, 3, 1, 8, 8, dtype=torch.uint8)  # [N, T, C, H, W]: only the second frame tells
    frames[:, 1] = x // 40
    data = made(frames, y, kind="events", shape=(1, 8, 8))
    found, accuracy = fit(data, timesteps=2)
    assert accuracy > 0.9
    assert found.features == 2 * 64
    blind, accuracy = fit(data, timesteps=1)  # a network of T = 1 sees the first alone
    assert accuracy < 0.7
    assert blind.features == 64


def test_it_is_the_same_every_time_and_the_test_chooses_nothing() -> None:
    data = made(*stripes(200))
    info = input_info(data)
    test = Session().samples(data.test(), info)
    first = fit_linear(data, test, info, 1)
    assert fit_linear(data, test, info, 1) == first
    other = fit_linear(data, Samples(test.x[:5], 1 - test.y[:5]), info, 1)
    assert other == replace(first, predicted=first.predicted[:5])


@pytest.mark.parametrize(
    ("most", "classes", "rows", "features", "note"),
    [
        (60 * 256, 2, 60, 256, None),
        (60 * 256 - 1, 2, 60, 64, "to bound its time, it was fitted on means of 2 × 2 neighbouring pixels"),
        (60 * 64 - 1, 2, 59, 64, "means of 2 × 2 neighbouring pixels and 59 of 60 training rows"),
        (45 * 64, 20, 45 // 2 * 4, 16, "means of 4 × 4 neighbouring pixels"),
    ],
)
def test_time_and_memory_are_bounded(
    monkeypatch: pytest.MonkeyPatch, most: int, classes: int, rows: int, features: int, note: str | None
) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", most)
    monkeypatch.setattr(module, "_ENOUGH_FEATURES", 64)
    monkeypatch.setattr(module, "_FEW_FEATURES", 16)
    found, accuracy = fit(made(*stripes(100, size=16, classes=classes), classes=classes))
    assert found.features == features
    assert found.rows <= min(60, max(most * 10 // max(10, classes) // features, 2 * classes))
    if classes == 2:
        assert found.rows == rows
        assert accuracy >= 0.8
    assert (found.note is None) == (note is None)
    assert note is None or note in str(found.note)


def test_odd_sizes_are_averaged_to_their_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 100)
    monkeypatch.setattr(module, "_ENOUGH_FEATURES", 1)
    x, y = stripes(100, size=5)
    found, _ = fit(made(x, y))
    assert found.features == 1  # 5 → 3 → 2 → 1
    monkeypatch.setattr(module, "_ENOUGH_FEATURES", 9)
    assert fit(made(x, y))[0].features == 9
    flat = x.flatten(2)[:, :, None]  # [N, 1, 1, 25]
    assert fit(made(flat, y, kind="array"))[0].features == 7  # 25 → 13 → 7


def test_constant_inputs_have_nothing_to_tell() -> None:
    x, y = stripes(100)
    found, accuracy = fit(made(torch.full_like(x, 7) + (torch.arange(100) < 0)[:, None, None, None], y))
    assert len(set(found.predicted)) == 1
    assert accuracy <= 0.7


def test_gradients_may_be_off_where_it_is_called() -> None:
    with torch.no_grad():
        assert fit(made(*stripes(200)))[1] > 0.9


def test_the_gradient_is_that_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 7, generator=generator).double(), torch.arange(50) % 4
    weights = torch.randn(4, 8, generator=generator).double().requires_grad_()
    loss, gradient = module._loss(x, y, weights.detach(), 0.3)
    plain = F.cross_entropy(x @ weights[:, :-1].t() + weights[:, -1], y) + 0.15 * weights[:, :-1].square().sum()
    (expected,) = torch.autograd.grad(plain, weights)
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(gradient, expected)
