from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import litesnn
from litesnn.config import load_recipe
from litesnn.deploy.packed import read
from litesnn.design import make_recipe
from whole_job import ALL_FILES, Outcome, Problem, contents, inputs, stamps
from whole_job import litesnn as command

FAST = {"search.epochs": 1, "train.epochs": 1}
HEEDLESS = {"search.epochs": 1, "train.epochs": 4, "train.penalty": 1e-9, "train.dual_lr": 1e-9}
"""Training that all but ignores the Bit-SynOps limit."""


def test_the_public_names() -> None:
    assert len(litesnn.__all__) >= 10
    for name in litesnn.__all__:
        assert getattr(litesnn, name) is not None
    for name in ("design", "load", "Design", "Budget", "Recipe", "Genotype", "InputError", "BudgetExceeded"):
        assert name in litesnn.__all__
    assert sorted(litesnn.__all__) == sorted(set(litesnn.__all__))


def test_a_star_import_gives_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from litesnn import *", found)
    assert set(litesnn.__all__) <= set(found)


def test_errors_have_one_root_and_exit_codes() -> None:
    assert issubclass(litesnn.InputError, litesnn.LitesnnError)
    assert issubclass(litesnn.BudgetExceeded, litesnn.LitesnnError)
    assert (litesnn.LitesnnError.exit_code, litesnn.InputError.exit_code, litesnn.BudgetExceeded.exit_code) == (1, 2, 3)


@pytest.mark.job
def test_design_gives_what_the_command_gives(problem: Problem, finished: Path, tmp_path: Path) -> None:
    made = litesnn.design(data=str(problem.data), recipe=problem.recipe, run=tmp_path / "run", device="cpu")
    assert isinstance(made, litesnn.Design)
    assert made.path == tmp_path / "run"
    assert {path.name for path in made.path.iterdir()} == ALL_FILES
    assert contents(made.path) == contents(finished)
    assert made.metrics == json.loads((finished / "metrics.json").read_text())
    network = made.load()
    assert not network.training
    before = stamps(made.path)
    again = litesnn.design(data=str(problem.data), recipe=problem.recipe, run=str(tmp_path / "run"), device="cpu")
    assert again == made
    after = stamps(made.path)
    assert {name for name in after if after[name] != before[name]} <= {".lock"}


@pytest.mark.job
def test_design_is_silent_but_for_warnings(problem: Problem, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"data": str(problem.data), "recipe": problem.recipe, "run": tmp_path / "run"}
    litesnn.design(**options, budget=litesnn.Budget(packed_bytes=4000), seed=3, changes=FAST)  # type: ignore[arg-type]
    said = Outcome(0, *capfd.readouterr())
    assert (said.out, said.complaints) == ("", "")
    recipe = litesnn.Recipe.from_toml((tmp_path / "run" / "recipe.toml").read_text())
    assert (recipe.seed, recipe.search.epochs, recipe.budget.packed_bytes) == (3, 1, 4000)
    with pytest.raises(litesnn.InputError, match="another recipe"):
        litesnn.design(**options, seed=4)  # type: ignore[arg-type]


@pytest.mark.job
def test_over_budget_raises_and_leaves_every_file(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(litesnn.BudgetExceeded, match=r"bit_synops .* over its limit of 2") as caught:
        litesnn.design(
            data=str(problem.data), recipe=problem.recipe, budget="4 kB, 2 Bit-SynOps", run=run, changes=HEEDLESS
        )
    assert caught.value.exit_code == 3
    assert {path.name for path in run.iterdir()} == ALL_FILES


def test_bad_arguments(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(litesnn.InputError, match="not understood"):
        litesnn.design(budget="much", run=run)
    with pytest.raises(litesnn.InputError, match=r"unknown key 'search\.speed'"):
        litesnn.design(data="digits", changes={"search.speed": 1}, run=run)
    with pytest.raises(litesnn.InputError, match="no recipe"):
        litesnn.design(recipe="none", run=run)
    assert not run.exists()


class Columns:
    """As a table of pandas: its items are columns, not rows."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, name: str) -> Any:
        return {"x": [1, 2], "y": [0, 1]}[name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"budget": 8000},
            "budget 8000: expected text with units, as '8 kB, 1 M Bit-SynOps, T <= 4', or a litesnn.Bud",
        ),
        ({"budget": {"packed_bytes": 8000}}, "budget {.*}: expected text with units"),
        ({"recipe": 3}, "recipe 3: expected the name of a shipped recipe"),
        ({"changes": ["search.epochs=3"]}, "changes .*: expected dotted keys with values"),
        ({"time": [1]}, r"time \[1\] is no length of time"),
        ({"memory": 6e9}, "memory: expected bytes with a unit, for example '6 GB', found 6000000000"),
        ({"threads": 0}, "threads: expected a whole number from 1 on, found 0"),
        ({"threads": "2"}, "threads: expected a whole number from 1 on, found '2'"),
        ({"on_epoch": "print"}, "on_epoch: expected a function of an Epoch, found 'print'"),
        ({"data": 3}, "data: is of type int; expected the name of a data set"),
        ({"data": np.zeros((4, 1, 8, 8))}, "data: is of type ndarray; expected the name of a data set"),
        ({"data": Columns()}, r"data: a Columns has no item 0 \(KeyError\); expected the name of a data set"),
        ({"data": (np.zeros((4, 1, 8, 8)),)}, r"data\[0\]: is of type ndarray; expected a pair"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_line(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(litesnn.InputError, match=f"^{message}") as caught:
        litesnn.design(run=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert torch.get_num_threads() == threads


def test_only_design_makes_a_recipe_for_data_without_one(problem: Problem) -> None:
    assert make_recipe(recipe="digits") == make_recipe(data="digits") == load_recipe("digits")
    with pytest.raises(litesnn.InputError, match="no data are named"):
        make_recipe()
    assert make_recipe(data=str(problem.data), recipe=problem.recipe).data.source == str(problem.data)
    with pytest.raises(litesnn.InputError, match=r"data '.*blobs\.npz': nobody has written a recipe for it"):
        make_recipe(data=str(problem.data))
    with pytest.raises(litesnn.InputError, match="data: expected a name as recipes have it, found ndarray"):
        make_recipe(data=np.zeros((4, 1, 8, 8)))  # type: ignore[arg-type]


class Stop(Exception):
    """What a caller may raise."""


@pytest.mark.job
def test_a_call_after_each_epoch_may_stop_the_run_which_goes_on(
    problem: Problem, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seen: list[tuple[str, int, int]] = []

    def watch(epoch: litesnn.Epoch) -> None:
        assert torch.get_num_threads() == threads
        seen.append((epoch.stage, epoch.epoch, epoch.epochs))
        assert 0 <= epoch.values["validation_accuracy"] <= 1
        if (epoch.stage, epoch.epoch) in stops:
            raise Stop

    before = torch.get_num_threads()
    threads, stops = before, {("search", 2), ("train", 12)}
    for count in (2, 2 + 2 + 12, 2 + 2 + 12):
        with pytest.raises(Stop) if count > len(seen) else nullcontext():
            litesnn.design(
                data=str(problem.data), recipe=problem.recipe, run=run, device="cpu", threads=threads, on_epoch=watch
            )
        assert len(seen) == count
    assert seen == [*(("search", n, 4) for n in range(1, 5)), *(("train", n, 12) for n in range(1, 13))]
    assert contents(run) == contents(finished)
    threads, stops = before + 1, {("search", 1)}
    with pytest.raises(Stop):
        litesnn.design(
            data=str(problem.data), recipe=problem.recipe, run=tmp_path / "b", threads=threads, on_epoch=watch
        )
    assert torch.get_num_threads() == before


def test_load_a_run_and_a_file(finished: Path) -> None:
    x, _ = inputs()
    images = torch.from_numpy(x)
    networks = [litesnn.load(finished), litesnn.load(str(finished)), litesnn.load(finished / "network.safetensors")]
    for network in networks:
        assert isinstance(network, torch.nn.Module)
        assert isinstance(network, litesnn.Network)
        assert not network.training
        assert torch.equal(network.predict(images), networks[0].predict(images))


def test_load_refuses_what_is_no_network(finished: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", finished / "search.safetensors", finished / "metrics.json"):
        with pytest.raises(litesnn.InputError):
            litesnn.load(path)


def test_network_reference_and_command_agree(finished: Path, tmp_path: Path) -> None:
    """Three ways to the same logits: the torch module, the reference interpreter, ``litesnn predict``."""
    x, _ = inputs()
    x = x[:40]
    np.save(tmp_path / "x.npy", x)
    network, model = litesnn.load(finished), read(finished / "model.safetensors")
    with torch.no_grad():
        logits = network(network.encode(torch.from_numpy(x))).logits[-1].numpy()
    reference = litesnn.Reference(model)
    np.testing.assert_array_equal(reference.run(x).logits[-1], logits)
    outcome = command("predict", finished / "model.safetensors", tmp_path / "x.npy", "--json")
    said = [json.loads(line) for line in outcome.out.splitlines()]
    np.testing.assert_array_equal(np.array([row["logits"] for row in said], np.float32), logits)
    guesses = network.predict(torch.from_numpy(x)).tolist()
    assert [row["class"] for row in said] == [model.classes[guess] for guess in guesses]
    assert reference.classify(x).tolist() == guesses


def test_the_test_accuracy_can_be_had_again(finished: Path) -> None:
    """Whoever loads the network and the data measures what ``metrics.json`` says."""
    from litesnn.data.sources import load

    recipe = litesnn.Recipe.from_toml((finished / "recipe.toml").read_text())
    test = load(recipe.data).test()
    right = (litesnn.load(finished).predict(test.x) == test.y).double().mean()
    assert float(right) == json.loads((finished / "metrics.json").read_text())["test_accuracy"]


def test_importing_is_quiet_and_leaves_the_extras_alone() -> None:
    extras = {"datasets", "sklearn", "matplotlib", "PIL", "nir", "onnx"}
    program = f"import sys, litesnn; print(sorted({extras} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
