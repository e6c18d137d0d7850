"""Learning that diverges: one line, no state of it as a checkpoint, and a way on with a lower rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from litesnn.runs import RunFolder
from litesnn.training_loop import divergence
from litesnn.training_loop.checkpoint import load_tensors, save_tensors
from litesnn.training_loop.divergence import require_converging
from litesnn.training_loop.progress import RunningMeans
from whole_job import ALL_FILES, Problem, contents, litesnn, recipe


@pytest.mark.job
@pytest.mark.parametrize("stage", ["search", "train"])
def test_too_large_a_rate_is_one_line_and_a_lower_one_goes_on(
    problem: Problem, finished: Path, tmp_path: Path, stage: str
) -> None:
    run = tmp_path / "run"
    outcome = litesnn("design", *problem.options(run), "--set", f"{stage}.lr=1e30")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    what = {"search": "the search", "train": "the training"}[stage]
    assert outcome.err.startswith(f"litesnn: error: {run}: {what} diverged in epoch 1: ")
    assert f"'litesnn design --run {run} --set {stage}.lr=…' begins it anew" in outcome.err
    assert not (run / f"{stage}.checkpoint.safetensors").exists()
    other = litesnn("design", "--run", run, "--quiet", "--set", f"{stage}.lr=0.2", "--set", f"{stage}.batch_size=50")
    assert "another recipe" in other.err
    again = litesnn("design", "--run", run, "--quiet", "--device", "cpu", "--set", f"{stage}.lr=0.2")
    assert (again.code, again.complaints) == (0, "")
    assert contents(run) == contents(finished)
    assert {path.name for path in run.iterdir()} == ALL_FILES


def test_it_goes_on_after_the_last_good_epoch(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real, epochs = tmp_path / "run", RunningMeans.means, iter(range(1, 5))

    def means(self: RunningMeans) -> dict[str, float]:
        return real(self) | ({"train_loss": float("nan")} if next(epochs) == 3 else {})

    monkeypatch.setattr(RunningMeans, "means", means)
    outcome = litesnn("search", *problem.options(run))
    assert "diverged in epoch 3: train_loss is nan" in outcome.err
    assert "goes on after epoch 2" in outcome.err
    assert (run / "search.jsonl").read_text().count("\n") == 2
    monkeypatch.undo()
    tensors, info = load_tensors(run / "search.checkpoint.safetensors", "search state")
    assert info["epoch"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert litesnn("search", "--run", run, "--quiet", "--device", "cpu", "--set", "search.lr=0.1").code == 0
    assert (run / "search.jsonl").read_text().count("\n") == 4
    assert "lr = 0.1\n" in (run / "recipe.toml").read_text()
    assert not (run / "search.diverged").exists()


def test_only_rates_of_the_stage_may_change(problem: Problem, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    old = recipe(problem.data)
    lower = recipe(problem.data, {"search.lr": 0.01, "search.score_lr": 0.001})
    assert not run.may_change(old, lower)
    run.diverged("search").touch()
    assert run.may_change(old, lower)
    assert not run.may_change(old, old)
    for changes in ({"train.lr": 0.1}, {"search.epochs": 3}, {"seed": 1}, {"search.lr": 0.1, "model.width": 2}):
        assert not run.may_change(old, recipe(problem.data, changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2e6])
def test_weights_count_too(problem: Problem, tmp_path: Path, value: float) -> None:
    """A mean over an epoch is finite if the last step alone went wrong."""
    weights = [torch.nn.Parameter(torch.tensor([0.5, value]))]
    with pytest.raises(Exception, match="weights have grown to"):
        require_converging(RunFolder(tmp_path), recipe(problem.data), "train", {"epoch": 1, "train_loss": 0.5}, weights)


def test_what_must_not_be_chosen_has_not_diverged(problem: Problem, tmp_path: Path) -> None:
    psi = [torch.nn.Parameter(torch.tensor([-torch.inf, 0.0]))]
    require_converging(RunFolder(tmp_path), recipe(problem.data), "search", {"epoch": 1, "loss": 0.5}, psi)
    assert divergence._largest(psi) == 0


def test_a_diverged_result_of_an_older_search_is_refused_by_name(
    problem: Problem, finished: Path, tmp_path: Path
) -> None:
    tensors, info = load_tensors(finished / "search.safetensors", "search")
    tensors["alpha"][0, 0] = float("nan")
    run = RunFolder(tmp_path / "run")
    run.begin(recipe(problem.data))
    save_tensors(run.output("search"), "search", tensors, info)
    outcome = litesnn("derive", run.path)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{run.output('search')}: 'alpha' holds values that are no numbers" in outcome.err
