from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from litesnn.config import Recipe, describe_settings, load_recipe, parse_change, shipped_recipes
from litesnn.errors import InputError
from litesnn.search.derive import require_possible
from litesnn.snn.network import InputInfo


def test_recipes_are_shipped() -> None:
    assert "digits" in shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("task", ["speech-commands-12", "speech-commands-35", "cifar10", "cifar100"])
def test_tasks_have_three_sizes(task: str) -> None:
    limits = [load_recipe(f"{task}-{size}").budget.packed_bytes or 0 for size in "sml"]
    assert 0 < limits[0] < limits[1] < limits[2]
    for size in "sml":
        assert "arXiv" in load_recipe(f"{task}-{size}").description
        assert "differs" in load_recipe(f"{task}-{size}").description


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "digits"])
def test_no_shipped_recipe_has_an_impossible_budget(name: str) -> None:
    recipe = load_recipe(name)
    classes = tuple(map(str, range(recipe.data.commands or (100 if "100" in name else 10))))
    info = InputInfo((3, 32, 32), "image", (0.0,) * 3, (1.0,) * 3, classes)
    if name.startswith("speech"):
        info = InputInfo(recipe.audio.shape, "array", (0.0,), (1.0,), classes, recipe.audio)
    require_possible(recipe, info)
    if recipe.budget.packed_bytes is not None:
        with pytest.raises(InputError):
            require_possible(load_recipe(name, {"budget.packed_bytes": 500}), info)


def test_the_defaults_are_the_papers_and_survive_a_round_trip() -> None:
    recipe = Recipe.from_toml("")
    assert recipe == Recipe.from_toml(recipe.to_toml())
    assert recipe.search.epochs == 50
    assert recipe.search.keeps == (0.2,)
    assert recipe.search.bits == (1, 2, 4)
    assert recipe.model.levels == (0, 0, 1, 1, 1, 2, 2, 2)
    assert recipe.train.auxiliary_weight == 0.4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("version = 2", "version"),
        ("colour = 'red'", "unknown key 'colour'"),
        ("[search]\nepoch = 3", "unknown key 'search.epoch'"),
        ("[budget]\nbytes = 3", "unknown key 'budget.bytes'"),
        ("[search]\nepochs = 0", "search.epochs"),
        ("[search]\nepochs = 'many'", "search.epochs"),
        ("[search]\nbits = [1, 5]", "search.bits"),
        ("[search]\nbits = [1, 1]", "search.bits"),
        ("[search]\nbits = []", "search.bits"),
        ("[search]\nkeeps = [0.0]", "search.keeps"),
        ("[search]\nkeeps = [1.1]", "search.keeps"),
        ("[search]\nwidths = [0.5, 0.5]", "search.widths"),
        ("[search]\nlr = nan", "search.lr"),
        ("[search]\nmomentum = 1.0", "search.momentum"),
        ("[search]\nmode = 'fast'", "search.mode"),
        ("[search]\nmode = 'paper'\nkeeps = [0.2, 0.5]", "one keep ratio and one width"),
        ("[search]\nmode = 'paper'\nwidths = [0.5, 1.0]", "one keep ratio and one width"),
        ("[search]\ntimesteps = 65", "search.timesteps"),
        ("[model]\nops = ['conv9x9']", "unknown op 'conv9x9'"),
        ("[model]\nops = ['skip', 'skip']", "model.ops"),
        ("[model]\nlevels = [1, 0]", "model.levels"),
        ("[model]\nlevels = [0, 7]", "model.levels"),
        ("[model]\nlevels = [-1]", "model.levels"),
        ("[model]\nstem_stride = 3", "model.stem_stride"),
        ("[train]\nbatch_size = 1", "train.batch_size"),
        ("[budget]\npacked_bytes = -1", "budget.packed_bytes"),
        ("seed = -1", "seed"),
        ("seed = 4294967296", "seed"),
        ("search = 3", "search"),
        ("[search", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_toml(text, origin="my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paper_mode_with_one_keep_ratio_and_one_width() -> None:
    assert Recipe.from_toml("[search]\nmode = 'paper'\nkeeps = [0.5]").search.mode == "paper"


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_toml("").seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("search.epochs=3", ("search.epochs", 3)),
        ("search.lr = 0.1", ("search.lr", 0.1)),
        ("search.bits=[1, 2]", ("search.bits", [1, 2])),
        ("augment.flip=true", ("augment.flip", True)),
        ("data.source=digits", ("data.source", "digits")),
        ("data.source='a b'", ("data.source", "a b")),
        ("data.source=/x/y=z", ("data.source", "/x/y=z")),
        ("name=", ("name", "")),
    ],
)
def test_changes_by_hand(text: str, change: tuple[str, Any]) -> None:
    assert parse_change(text) == change


@pytest.mark.parametrize("text", ["", "search.epochs", "=3", " = 3"])
def test_a_change_needs_key_and_value(text: str) -> None:
    with pytest.raises(InputError, match="key=value"):
        parse_change(text)


def test_changes_are_applied_and_checked() -> None:
    recipe = Recipe.from_toml("[search]\nepochs = 3\nlr = 0.5", changes={"search.epochs": 7, "budget.timesteps": 2})
    assert (recipe.search.epochs, recipe.search.lr, recipe.budget.timesteps) == (7, 0.5, 2)
    assert Recipe.from_toml("[search]\nepochs = 3", changes={"search.epochs": None}).search.epochs == 50
    with pytest.raises(InputError, match=r"unknown key 'search\.epoch'"):
        Recipe.from_toml("", changes={"search.epoch": 7})
    with pytest.raises(InputError, match=r"seed\.x"):
        Recipe.from_toml("seed = 3", changes={"seed.x": 7})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nwidth = 5\n", encoding="utf-8")
    assert load_recipe(path).model.width == 5
    assert load_recipe(path, {"model.width": 6}).model.width == 6
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"mine\.toml: cannot be read"):
        load_recipe(path)
    with pytest.raises(InputError, match=r"expected a TOML file or one of .*digits"):
        load_recipe("no-such-recipe")
    with pytest.raises(InputError, match="no recipe"):
        load_recipe(tmp_path)


def test_every_setting_is_described() -> None:
    rows = list(describe_settings(Recipe.from_toml("")))
    assert len(rows) > 40
    assert [key for key, _, text in rows if not text] == []
    assert len({key for key, _, _ in rows}) == len(rows)
    values = {key: value for key, value, _ in rows}
    assert values["search.epochs"] == 50
    assert values["budget.packed_bytes"] is None


def test_described_settings_are_the_keys_of_the_file() -> None:
    table = tomllib.loads(Recipe.from_toml("").to_toml())
    flat = {f"{key}.{inner}" for key, value in table.items() if isinstance(value, dict) for inner in value}
    flat |= {key for key, value in table.items() if not isinstance(value, dict)}
    assert flat <= {key for key, _, _ in describe_settings(Recipe.from_toml(""))}
