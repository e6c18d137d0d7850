"""Recipes and files of a run folder that are damaged on purpose: one line, or a result; never a traceback."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from litesnn.config import load_recipe, shipped_recipes
from run_mutations import mutate_run_file
from run_promises import Promises, check_recipe

ROUNDS = {".toml": 60, ".json": 60, ".jsonl": 40, ".safetensors": 40}
"""Mutations of a file by its suffix; ``fuzz/run_file.py`` makes them without an end."""


@pytest.fixture(scope="module")
def promises(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Promises:
    run = tmp_path_factory.mktemp("spoilt") / "run"
    shutil.copytree(finished, run)
    return Promises(run, pages=False)


def test_the_files_as_they_are_keep_their_promises(promises: Promises) -> None:
    assert {name for name in promises.readers if not promises.check(name, promises.seeds[name])} == set()


FILES = [
    *("recipe.toml", "metrics.json", "search.jsonl", "train.jsonl", "genotype.json", "data.json"),
    *("search.safetensors", "network.safetensors", "search.checkpoint.safetensors", "train.checkpoint.safetensors"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_or_can_be_used(promises: Promises, name: str) -> None:
    accepted = 0
    for seed in range(ROUNDS[Path(name).suffix]):
        data = mutate_run_file(name, promises.seeds[name], seed)
        try:
            accepted += promises.check(name, data)
        except Exception as error:
            error.add_note(f"{name}, seed {seed}")
            raise
    assert accepted < ROUNDS[Path(name).suffix]


def test_changed_recipes_are_refused_or_written_again() -> None:
    texts = [load_recipe(name).to_toml().encode() for name in shipped_recipes()]
    choose = random.Random(0)
    accepted = [check_recipe(mutate_run_file("recipe.toml", choose.choice(texts), seed)) for seed in range(300)]
    assert 30 < sum(accepted) < 270
