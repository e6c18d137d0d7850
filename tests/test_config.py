from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from litesnn.config import Recipe, describe_settings, load_recipe, parse_change, shipped_recipes, with_numbers
from litesnn.errors import InputError
from litesnn.input_spec import InputSpec
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
    info = InputInfo(InputSpec((3, 32, 32), "image", (0.0,) * 3, (1.0,) * 3), classes)
    if name.startswith("speech"):
        info = InputInfo(InputSpec(recipe.audio.shape, "array", (0.0,), (1.0,), recipe.audio), classes)
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


REASONS = {
    "seed": "a reason at the top level",
    "budget.packed_bytes": "one word " * 40,
    "model.levels": "above a list of several lines",
    "search.epochs": 'with "quotes", [brackets] = and # signs',
    "train.epochs": "another section with the same name of a key",
}


def test_reasons_are_comments_above_their_keys() -> None:
    recipe = Recipe.from_toml("seed = 3\n[budget]\npacked_bytes = 5\n[model]\nlevels = [0, 1, 1]")
    text = recipe.to_toml(REASONS)
    assert Recipe.from_toml(text) == recipe
    assert tomllib.loads(text) == tomllib.loads(recipe.to_toml())
    lines = text.splitlines()
    assert lines[lines.index("seed = 3") - 1] == "# a reason at the top level"
    assert lines[lines.index("levels = [") - 1] == "# above a list of several lines"
    assert lines[lines.index("epochs = 50") - 1] == '# with "quotes", [brackets] = and # signs'
    assert lines[lines.index("epochs = 200") - 1] == "# another section with the same name of a key"
    at = lines.index("packed_bytes = 5")
    wrapped = [line for line in lines[:at] if line.startswith("# one word")]
    assert lines[at - len(wrapped) : at] == wrapped
    assert len(wrapped) == 4
    assert " ".join(line.removeprefix("# ") for line in wrapped) == REASONS["budget.packed_bytes"].strip()
    assert all(len(line) <= 120 for line in wrapped)
    assert [line for line in lines if not line.startswith("#")] == recipe.to_toml().splitlines()


def test_a_reason_of_a_key_that_is_not_there_is_left_out() -> None:
    recipe = Recipe.from_toml("")
    assert recipe.to_toml({"budget.packed_bytes": "no limit", "made.seconds": "nobody said"}) == recipe.to_toml({})
    assert recipe.to_toml({}) == recipe.to_toml()


def test_a_description_of_several_lines_is_no_section() -> None:
    recipe = Recipe.from_toml("", changes={"description": 'first\n[search]\nepochs = 3\n# "no"'})
    assert Recipe.from_toml(recipe.to_toml({"search.epochs": "a reason"})) == recipe
    assert with_numbers(recipe.to_toml(), {"search.epochs": 50}, {}) == recipe.to_toml()


def test_other_numbers_in_a_text() -> None:
    recipe = Recipe.from_toml("[train]\nepoch_steps = 7\n[made]\nseconds = 60.5")
    text = recipe.to_toml(REASONS)
    found = with_numbers(
        text, {"train.epochs": 12, "train.epoch_steps": 9, "made.training": 33}, {"train.epochs": "new"}
    )
    other = Recipe.from_toml(found)
    assert (other.train.epochs, other.train.epoch_steps) == (12, 9)
    assert other.made is not None
    assert (other.made.training, other.made.seconds) == (33.0, 60.5)
    assert other.search == recipe.search
    assert "# new\nepochs = 12\n" in found
    assert REASONS["train.epochs"] not in found
    assert "# " + REASONS["search.epochs"] + "\nepochs = 50\n" in found
    assert "\nepoch_steps = 9\n" in found
    assert with_numbers(text, {}, {"train.epochs": "no number, no reason"}) == text
    assert with_numbers(found, {"train.epochs": 12}, {"train.epochs": "new"}) == found


def test_a_key_that_a_text_does_not_have_is_not_added() -> None:
    text = Recipe.from_toml("").to_toml()
    assert "epoch_steps" not in text
    assert with_numbers(text, {"train.epoch_steps": 3, "made.training": 5}, {}) == text


def test_what_a_recipe_was_made_for() -> None:
    assert Recipe.from_toml("").made is None
    assert "[made]" not in Recipe.from_toml("").to_toml()
    made = Recipe.from_toml("[made]\nseconds = 60").made
    assert made is not None
    assert made.model_dump() == {"seconds": 60, "epochs_follow": True} | dict.fromkeys(
        ("spent", "search", "training", "most_epochs"), 0
    )
    for text in ("seconds = 0", "seconds = -1", "seconds = nan", "spent = 1", "seconds = 1\nspent = -1"):
        with pytest.raises(InputError, match=r"my\.toml: made\.s"):
            Recipe.from_toml(f"[made]\n{text}", origin="my.toml")
    written = Recipe.from_toml("[made]\nseconds = 60", changes={"made": None})
    assert written == Recipe.from_toml("")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[train]\nnesterov = true\nmomentum = 0", "nesterov needs a momentum above 0"),
        ("[train]\nwarmup = 1.0", "train.warmup"),
        ("[train]\nwarmup = -0.1", "train.warmup"),
        ("[train]\nlabel_smoothing = 1.0", "train.label_smoothing"),
        ("[train]\nepoch_steps = 0", "train.epoch_steps"),
        ("[search]\nepoch_steps = 0", "search.epoch_steps"),
        ("[search]\nfill = 1.0", "search.fill"),
        ("[model]\nspatial_edges = -1", "model.spatial_edges"),
    ],
)
def test_new_settings_are_checked(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_toml(text, origin="my.toml")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_most_timesteps_are_those_of_the_search_within_the_budget() -> None:
    for budget, search, most in ((None, 6, 6), (4, 6, 4), (9, 6, 6)):
        recipe = Recipe.from_toml("", changes={"budget.timesteps": budget, "search.timesteps": search})
        assert recipe.timesteps == recipe.front_ends.timesteps == most


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("search.epoch", "'search.epochs' or 'search.epoch_steps'"),
        ("epochs", "'search.epochs' or 'train.epochs' or 'teacher.epochs'"),
        ("batchsize", "'search.batch_size' or 'train.batch_size' or 'teacher.batch_size'"),
        ("serach.epochs", "'search'"),
        ("sead", "'seed'"),
        ("budget.bytes", "'budget.packed_bytes'"),
        ("name.x", "'name'"),
    ],
)
def test_a_mistyped_key_is_told_what_it_is_like(key: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_toml('name = "mine"', origin="my.toml", changes={key: 3})
    assert str(caught.value).startswith("my.toml: unknown key '")
    assert str(caught.value).endswith(f"; did you mean {meant}?")


def test_a_mistyped_key_of_a_file_is_told_too() -> None:
    with pytest.raises(InputError, match=r"^recipe: unknown key 'serach'; did you mean 'search'\?$"):
        Recipe.from_toml("[serach]\nepochs = 3")


@pytest.mark.parametrize("key", ["nonsense", "nonsense.lr", "xyz.abc", "colour"])
def test_a_key_like_none_is_not_guessed(key: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_toml("", changes={key: 3})
    assert "did you mean" not in str(caught.value)
