"""Data sets of 16 × 12 pixels on which one knows what a mirror does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from litesnn.data.sources import Data, Split
from litesnn.planning import mirror
from litesnn.planning.mirror import MirrorTest, compare_mirrored, why_mirror
from made import data_of

SHAPE = (3, 12, 16)


def data(x: Tensor, y: Tensor, *, classes: int = 2) -> Data:
    """Images [N, 3, H, W] of floats 0…255, the last quarter for validation."""
    x, cut = x.clamp(0, 255).byte(), len(y) * 3 // 4
    splits = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    names = tuple(map(str, range(classes)))
    shape = (x.shape[1], x.shape[2], x.shape[3])
    return Data(
        "pictures",
        names,
        shape,
        "image",
        (0.0,) * 3,
        (1.0,) * 3,
        *splits,
        read_test=lambda: splits[1],
        count_test=lambda: len(splits[1].y),
    )


def noise(rows: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 60 + 120 * torch.rand(rows, *SHAPE, generator=rng)


def skies(rows: int = 1200) -> Data:
    """Photographs, as it were: the class is in the colour above, and on either side anything may stand."""
    x, y = noise(rows), torch.arange(rows) % 2
    x[y == 0, 2, :6] += 40
    x[y == 1, 0, :6] += 40
    side = torch.arange(rows) % 3 == 0  # something yellow stands at one side, whatever the class
    x[side, :2, 6:, :5] += 60
    return data(x, y)


def arrows(rows: int = 1200) -> Data:
    """The class is the side on which it is brighter."""
    x, y = noise(rows), torch.arange(rows) % 2
    x[y == 0, :, :, :8] += 40
    x[y == 1, :, :, 8:] += 40
    return data(x, y)


def letters(rows: int = 1200, classes: int = 5) -> Data:
    """A fixed pattern for each class, which mirrored is none of them."""
    rng = torch.Generator().manual_seed(1)
    patterns = 200 * torch.rand(classes, *SHAPE, generator=rng)
    y = torch.arange(rows) % classes
    return data(patterns[y] + 0.3 * noise(rows), y, classes=classes)


def test_what_may_be_on_either_side_may_be_mirrored() -> None:
    found = compare_mirrored(skies())
    assert found.informative
    assert found.plain > 0.9
    assert found.mirrored == pytest.approx(found.plain, abs=0.03)
    harmless, why = why_mirror(skies())
    assert harmless
    assert why.startswith("a linear classifier knows ")
    assert f"{found.plain:.0%} of validation, and {found.mirrored:.0%} of it mirrored: mirroring is harmless" in why


@pytest.mark.parametrize("make", [arrows, letters])
def test_where_left_and_right_mean_something_nothing_is_mirrored(make: object) -> None:
    assert callable(make)
    found = compare_mirrored(make())
    assert found.plain > 0.9
    assert found.mirrored < 0.5
    harmless, why = why_mirror(make())
    assert not harmless
    assert why.endswith("mirroring may do harm")


def test_a_classifier_that_knows_nothing_says_nothing() -> None:
    random = data(noise(1200), torch.arange(1200) % 2)
    found = compare_mirrored(random)
    assert not found.informative
    assert not found.harmless
    harmless, why = why_mirror(random)
    assert not harmless
    assert why.endswith("too little to tell whether mirroring does harm")


@pytest.mark.parametrize("kind", ["grey", "one channel", "array", "events"])
def test_without_colour_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(mirror, "compare_mirrored", lambda _: pytest.fail("it was measured"))
    if kind == "grey":
        grey = noise(100)[:, :1].expand(100, *SHAPE)
        found = data(grey, torch.arange(100) % 2)
    elif kind == "one channel":
        found = data_of((1, 8, 8))
    elif kind == "array":
        found = data_of((3, 8, 8), kind="array")
    else:
        found = data_of((2, 8, 8), kind="events")
    assert why_mirror(found) == (False, "images without colour may be letters, digits or signs")


@pytest.mark.parametrize(
    ("plain", "mirrored", "chance", "rows", "informative", "harmless"),
    [
        (0.80, 0.80, 0.5, 1000, True, True),
        (0.80, 0.775, 0.5, 1000, True, True),  # a tenth of what it knows
        (0.80, 0.76, 0.5, 1000, True, False),
        (0.80, 0.76, 0.5, 100, True, True),  # which is noise with so few rows
        (0.80, 0.90, 0.5, 1000, True, True),
        (0.54, 0.54, 0.5, 1000, False, False),  # three standard errors are 4.7 %
        (0.55, 0.55, 0.5, 1000, True, True),
        (0.60, 0.60, 0.5, 100, False, False),
        (1.00, 0.99, 0.5, 1000, True, True),
        (1.00, 0.90, 0.5, 1000, True, False),
        (1.00, 1.00, 1.0, 10, False, False),
    ],
)
def test_how_the_numbers_are_read(
    plain: float, mirrored: float, chance: float, rows: int, informative: bool, harmless: bool
) -> None:
    found = MirrorTest(plain, mirrored, chance, rows)
    assert (found.informative, found.harmless) == (informative, harmless)


def test_chance_is_the_largest_class_of_validation() -> None:
    rows, y = 1200, (torch.arange(1200) % 4 == 0).long()
    found = compare_mirrored(data(noise(rows), y))
    assert found.chance == pytest.approx(0.75)
    assert found.rows == 300


def test_large_data_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare_mirrored(arrows())
    monkeypatch.setattr(mirror, "_ROWS", 250)
    part = compare_mirrored(arrows())
    assert part.rows == 150  # every second of 300
    assert part.plain == pytest.approx(whole.plain, abs=0.1)
    assert math.isfinite(part.mirrored)


def test_how_many_are_looked_at_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare_mirrored(letters())
    monkeypatch.setattr(mirror, "_AT_ONCE", 7)
    assert compare_mirrored(letters()) == whole


def test_large_images_are_made_small() -> None:
    small = arrows(400)
    large = data(
        torch.cat([split.x for split in (small.train, small.validation)])
        .float()
        .repeat_interleave(5, 2)
        .repeat_interleave(5, 3),
        torch.cat([small.train.y, small.validation.y]),
    )
    assert large.shape == (3, 60, 80)
    found = compare_mirrored(large)
    assert found.plain > 0.9
    assert found.mirrored < 0.2
