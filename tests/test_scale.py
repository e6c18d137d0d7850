from __future__ import annotations

import math
from typing import Any

import pytest

from litesnn.config import Recipe, load_recipe, shipped_recipes
from litesnn.data.sources import Data
from litesnn.planning import mirror
from litesnn.planning.mirror import MirrorTest
from litesnn.planning.scale import scaled
from made import data_of


@pytest.fixture(autouse=True)
def _mirrored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "compare_mirrored", lambda _: MirrorTest(0.9, 0.9, 0.1, 1000))


SMALL = load_recipe("small")
CIFAR = data_of((3, 32, 32), rows=40_000)


def changed(recipe: Recipe, data: Data, *said: str) -> dict[str, Any]:
    """What another recipe is made of it, by dotted key; each with a reason, and nothing else."""
    made, reasons = scaled(recipe, data, said)
    before, after = recipe.model_dump(), made.model_dump()
    found = {}
    for table, values in after.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if value != before[table][key]:
                found[f"{table}.{key}"] = list(value) if isinstance(value, tuple) else value
    assert found.keys() == reasons.keys()
    assert all(reasons.values())
    assert {key: value for key, value in after.items() if not isinstance(value, dict)} == {
        key: value for key, value in before.items() if not isinstance(value, dict)
    }
    return found


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith(("cifar", "small"))])
def test_data_like_those_of_the_recipe_change_nothing(name: str) -> None:
    recipe = load_recipe(name)
    made, reasons = scaled(recipe, CIFAR, ())
    assert made is recipe
    assert reasons == {}


@pytest.mark.parametrize(
    ("shape", "stride", "levels", "crop"),
    [
        ((3, 64, 64), 2, (0, 1, 1, 2), 4),
        ((3, 16, 16), 2, (0, 1, 1, 2), 2),
        ((1, 8, 8), 2, (0, 1, 1, 1), 1),
        ((1, 4, 9), 2, (0, 0, 0, 0), 1),
        ((1, 3, 3), 1, (0, 0, 0, 0), 1),
        ((1, 1, 20), 1, (0, 0, 0, 0), 1),
    ],
)
def test_halvings_and_shifts_follow_the_size(
    shape: tuple[int, int, int], stride: int, levels: tuple[int, ...], crop: int
) -> None:
    made, _ = scaled(SMALL, data_of(shape, rows=40_000), ())
    assert (made.model.stem_stride, made.model.levels, made.augment.crop) == (stride, levels, crop)
    assert min(shape[1:]) / (stride * 2 ** levels[-1]) >= min(2, *shape[1:])
    assert made.model.width == SMALL.model.width


def test_each_change_says_why() -> None:
    _, reasons = scaled(SMALL, data_of((1, 4, 4), rows=200), ())
    assert reasons["model.levels"] == "4×4 inputs cannot be halved more often"
    assert reasons["augment.crop"] == "4×4 inputs: an eighth instead of 4 pixels"
    assert reasons["augment.flip"] == "images without colour may be letters, digits or signs"
    assert reasons["train.epochs"] == "3 steps an epoch with 200 rows: 10 would be too few"


def test_a_recipe_that_shifts_nothing_goes_on_so() -> None:
    plain = Recipe.from_toml(SMALL.to_toml(), changes={"augment.crop": 0, "augment.flip": False})
    assert changed(plain, data_of((3, 16, 16), rows=40_000)) == {}


@pytest.mark.parametrize(("mirrored", "flip"), [(0.9, True), (0.3, False)])
def test_mirroring_follows_the_measurement(monkeypatch: pytest.MonkeyPatch, mirrored: float, flip: bool) -> None:
    monkeypatch.setattr(mirror, "compare_mirrored", lambda _: MirrorTest(0.9, mirrored, 0.1, 1000))
    assert changed(SMALL, CIFAR) == ({} if flip else {"augment.flip": False})


def test_mirroring_is_never_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "compare_mirrored", lambda _: pytest.fail("it was measured"))
    plain = Recipe.from_toml(SMALL.to_toml(), changes={"augment.flip": False})
    assert changed(plain, CIFAR) == {}


@pytest.mark.parametrize(("rows", "epochs"), [(200, 200), (640, 100), (6400, 10), (64_000, 10), (1300, 50)])
def test_few_rows_are_seen_more_often(rows: int, epochs: int) -> None:
    """So that there are a thousand steps, in two hundred epochs at most."""
    made, _ = scaled(SMALL, data_of((3, 32, 32), rows=rows), ())
    assert made.train.epochs == epochs
    steps = max(1, rows // 64)
    assert made.train.epochs * steps >= 1000 or epochs == 200
    assert made.search.epochs == max(2, min(200, math.ceil(150 / steps)))


def test_the_search_sees_validation_too_if_it_is_joint() -> None:
    joint = Recipe.from_toml(SMALL.to_toml(), changes={"search.update": "joint"})
    data = data_of((3, 32, 32), rows=640, validation=320)
    assert scaled(joint, data, ())[0].search.epochs == 10  # of 15 steps
    assert scaled(SMALL, data, ())[0].search.epochs == 15


@pytest.mark.parametrize("said", ["train.epochs", "train"])
def test_what_was_said_stays(said: str) -> None:
    few = data_of((1, 8, 8), rows=200)
    free, held = changed(SMALL, few), changed(SMALL, few, said, "augment.flip")
    assert free.keys() - held.keys() == {"train.epochs", "augment.flip"}
    assert changed(SMALL, few, *free) == {}
    assert changed(SMALL, few, "model", "augment", "search", "train") == {}


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name not in ("paper", "compress")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 50), (1, 1, 9)])
def test_every_shipped_recipe_scales_to_anything(name: str, shape: tuple[int, int, int]) -> None:
    recipe = load_recipe(name)
    made, reasons = scaled(recipe, data_of(shape, rows=50, classes=2, kind="array"), ())
    assert Recipe.from_toml(made.to_toml(reasons)) == made
    assert made.budget == recipe.budget
    assert made.model.levels[-1] + int(math.log2(made.model.stem_stride)) <= max(0, int(math.log2(min(shape[1:]))))
