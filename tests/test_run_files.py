"""Recipes and files of a run folder that are damaged on purpose: one line, or a result; never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from litesnn.config import load_recipe, shipped_recipes
from litesnn.errors import InputError
from litesnn.network_file import load_network
from litesnn.training_loop.checkpoint import load_tensors, save_tensors
from run_mutations import mutate_run_file
from run_promises import Promises, check_recipe
from whole_job import Problem, litesnn

ROUNDS = {
    "recipe.toml": 20,
    "metrics.json": 15,
    "search.jsonl": 30,
    "train.jsonl": 30,
    "genotype.json": 30,
    "data.json": 30,
    "search.safetensors": 10,
    "network.safetensors": 10,
    "search.checkpoint.safetensors": 6,
    "train.checkpoint.safetensors": 6,
}
"""So many changes of each file; ``fuzz/run_file.py`` makes them without an end."""


@pytest.fixture(scope="module")
def promises(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Promises:
    run = tmp_path_factory.mktemp("spoilt") / "run"
    shutil.copytree(finished, run)
    return Promises(run, pages=False)


def test_the_files_as_they_are_keep_their_promises(promises: Promises) -> None:
    assert promises.readers.keys() == ROUNDS.keys()
    assert {name for name in promises.readers if not promises.check(name, promises.seeds[name])} == set()


@pytest.mark.parametrize("name", list(ROUNDS))
def test_a_changed_file_is_refused_or_can_be_used(promises: Promises, name: str) -> None:
    accepted = 0
    for seed in range(ROUNDS[name]):
        data = mutate_run_file(name, promises.seeds[name], seed)
        try:
            accepted += promises.check(name, data)
        except Exception as error:
            error.add_note(f"{name}, seed {seed}")
            raise
    assert accepted < ROUNDS[name]


def test_changed_recipes_are_refused_or_written_again() -> None:
    texts = [load_recipe(name).to_toml().encode() for name in shipped_recipes()]
    choose = random.Random(0)
    accepted = [check_recipe(mutate_run_file("recipe.toml", choose.choice(texts), seed)) for seed in range(150)]
    assert 10 < sum(accepted) < 140


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.width=4000", "the budget of 2500 B packed cannot be kept"),
        ("model.width=65536", "the budget of 2500 B packed cannot be kept"),
        ("model.width=1000000000", "model.width: "),
        (f"model.levels={[0] * 10_000}", "model.levels: "),
        ("budget.packed_bytes=0", "budget.packed_bytes: "),
        ("budget.bit_synops=0", "budget.bit_synops: "),
        ("budget.timesteps=0", "budget.timesteps: "),
        (f"budget.packed_bytes={'9' * 400}", "budget.packed_bytes: "),
        (f"seed={'9' * 5000}", "seed: "),
        ("search.lr=nan", "search.lr: "),
        ("search.lr=inf", "search.lr: "),
        (f"search.keeps={'[' * 3000}", "search.keeps: "),
    ],
    ids=lambda text: text[:32],
)
def test_settings_beyond_all_bounds_are_refused_quickly(
    problem: Problem, tmp_path: Path, change: str, said: str
) -> None:
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--set", change)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert said in outcome.err
    assert len(outcome.err) < 500


def test_a_small_file_does_not_make_a_large_network(finished: Path, tmp_path: Path) -> None:
    """Its genotype may say what it likes: the weights have to be there."""
    tensors, info = load_tensors(finished / "network.safetensors", "network")
    genotype = json.loads(info["genotype"])
    for cell in genotype["cells"]:
        cell["width"] = 1500
    path = tmp_path / "network.safetensors"
    save_tensors(path, "network", tensors, info | {"genotype": json.dumps(genotype)})
    with pytest.raises(InputError, match=r"network\.safetensors does not fit the network: it holds less than the"):
        load_network(path)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("design", "recipe.toml", f"x = {DEEP}"),
        ("export", "recipe.toml", f"x = {DEEP}"),
        ("info", "genotype.json", DEEP),  # which it does not read
        ("train", "genotype.json", DEEP),
        ("design", "metrics.json", DEEP),
        ("pack", "metrics.json", DEEP),
        ("report", "metrics.json", DEEP),
        ("report", "search.jsonl", DEEP + "\n"),
        ("evaluate", "train.jsonl", DEEP + "\n"),
        ("report", "genotype.json", DEEP),
    ],
)
def test_files_that_are_nested_too_deep_are_refused_by_name(
    finished: Path, tmp_path: Path, command: str, name: str, text: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / name).write_text(text)
    if command == "design":
        (run / "report.html").unlink()
    arguments: dict[str, list[str | Path]] = {
        "design": ["design", "--run", run],
        "export": ["export", "c", run, "-o", tmp_path / "firmware"],
    }
    outcome = litesnn(*arguments.get(command, [command, run]))
    if command == "info":
        assert outcome.code == 0
        return
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert str(run / name) in outcome.err
