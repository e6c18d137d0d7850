from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from device_reads import no_reads
from litesnn.data.batches import Samples
from litesnn.data.sources import Data
from litesnn.genotype import Genotype
from litesnn.loop.checkpoint import load_tensors
from litesnn.loop.session import Session, input_info
from litesnn.networks import build_network, load_network
from litesnn.runs import RunFolder
from litesnn.snn.network import Network
from litesnn.train import evaluate as evaluate_module
from litesnn.train import fit as module
from litesnn.train.fit import Trainee, TrainLoop, auxiliary_cell, fit, validate
from tiny import genotype, lively_network, quantized_images
from tiny import input_info as tiny_input
from whole_job import Problem, begin, recipe, rows

EDGES = ((0, 0, "conv3x3"), (0, 1, "skip"))


def derived(
    path: Path, problem: Problem, changes: dict[str, Any], gene: Genotype | None = None
) -> tuple[RunFolder, Data, Session]:
    """A run folder as the derivation leaves it, and what else a training takes."""
    run, data, session = begin(path, problem.data, {"budget": {}, "train.epochs": 2} | changes)
    run.output("derive").write_text((gene or genotype(timesteps=2, edges=EDGES)).to_json())
    return run, data, session


def fitted(path: Path, problem: Problem, changes: dict[str, Any], gene: Genotype | None = None) -> Network:
    """The network of a whole training."""
    run, data, session = derived(path, problem, changes, gene)
    assert fit(run, data, session) == path / "network.safetensors"
    assert {entry.name for entry in path.iterdir()} == {
        ".lock",
        "recipe.toml",
        "genotype.json",
        "network.safetensors",
        "train.jsonl",
    }
    return load_network(path / "network.safetensors")


@pytest.mark.parametrize(
    ("cells", "read"),
    # the paper's 8 cells, as in DARTS: the last one before the second reduction
    [(1, None), (2, None), (3, 1), (4, 1), (5, 2), (6, 3), (7, 3), (8, 4), (9, 5), (20, 12)],
)
def test_which_cell_the_auxiliary_head_reads(cells: int, read: int | None) -> None:
    assert auxiliary_cell(cells) == read


def test_the_auxiliary_head_teaches_and_is_not_kept(problem: Problem, tmp_path: Path) -> None:
    gene = genotype(timesteps=2, edges=EDGES, levels=(0, 1, 1))
    weights = []
    for weight in (0.0, 0.4):
        fitted(tmp_path / str(weight), problem, {"train.auxiliary_weight": weight}, gene)
        tensors, _ = load_tensors(tmp_path / str(weight) / "network.safetensors", "network")
        assert not [name for name in tensors if "auxiliary" in name]
        weights.append(tensors["backbone.classifier.weight"])
        stem = next(name for name in tensors if name.startswith("backbone.stem") and name.endswith("weight"))
        weights.append(tensors[stem])
    assert not torch.equal(weights[1], weights[3])  # the stem lies below the cell that the head reads


def scripted(*measured: tuple[float, float, float]) -> Any:
    """Validation that says what the script says, and marks the network with the number of its epoch."""
    epochs = iter(enumerate(measured, 1))

    def say(network: Network, found: Samples) -> dict[str, float]:
        epoch, (bit_synops, accuracy, loss) = next(epochs)
        with torch.no_grad():
            network.backbone.classifier_bias.fill_(epoch)
        return {"validation_loss": loss, "validation_accuracy": accuracy, "bit_synops": bit_synops}

    return say


@pytest.mark.parametrize(
    ("limit", "script", "best"),
    [
        # Beyond the limit a smaller excess wins; within it accuracy, then loss; and never the other way round.
        (
            1000,
            [
                (3000, 0.9, 1),
                (2000, 0.1, 1),
                (900, 0.5, 1),
                (100, 0.4, 1),
                (960, 0.6, 1),
                (960, 0.6, 0.9),
                (999, 0.99, 0),
            ],
            [True, True, True, False, True, True, False],
        ),
        (1000, [(960, 0.2, 1), (971, 0.9, 1)], [True, False]),  # the margin of 3 % counts as beyond
        (None, [(9e9, 0.5, 1), (1, 0.4, 1), (9e9, 0.6, 1)], [True, False, True]),
        (None, [(5, 0.5, 1), (5, 0.5, 1)], [True, False]),  # of equals the first
    ],
)
def test_the_best_network_is_the_one_that_is_kept(
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None,
    script: list[tuple[float, float, float]],
    best: list[bool],
) -> None:
    monkeypatch.setattr(module, "validate", scripted(*script))
    changes = {"budget": {} if limit is None else {"bit_synops": limit}, "train.epochs": len(script)}
    network = fitted(tmp_path / "run", problem, changes)
    log = rows(tmp_path / "run" / "train.jsonl")
    assert [row["best"] for row in log] == best
    chosen = max(row["epoch"] for row in log if row["best"])
    assert network.backbone.classifier_bias.tolist() == [chosen] * 3


def test_the_best_network_survives_an_interruption(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, session = derived(tmp_path / "run", problem, {"train.epochs": 3})

    def interrupted(network: Network, found: Samples) -> dict[str, float]:
        raise KeyboardInterrupt

    say = scripted((1, 0.9, 1), (1, 0.5, 1))
    calls = iter([say, interrupted])
    monkeypatch.setattr(module, "validate", lambda network, found: next(calls)(network, found))
    with pytest.raises(KeyboardInterrupt):
        fit(run, data, session)
    monkeypatch.setattr(
        module, "validate", lambda *_: {"validation_loss": 1.0, "validation_accuracy": 0.5, "bit_synops": 1.0}
    )
    fit(run, data, session)
    assert load_network(run.output("train")).backbone.classifier_bias.tolist() == [1.0] * 3
    assert [row["best"] for row in rows(run / "train.jsonl")] == [True, False, False]


def test_a_tight_limit_lowers_the_activity(problem: Problem, tmp_path: Path) -> None:
    changes = {"train.epochs": 6}
    fitted(tmp_path / "free", problem, changes)
    free = rows(tmp_path / "free" / "train.jsonl")
    limit = free[-1]["bit_synops"] / 2
    assert limit > 0
    assert {row["activity_multiplier"] for row in free} == {0.0}
    fitted(tmp_path / "tight", problem, changes | {"budget": {"bit_synops": limit}})
    tight = rows(tmp_path / "tight" / "train.jsonl")
    assert tight[-1]["bit_synops"] < 0.75 * free[-1]["bit_synops"]
    fitted(tmp_path / "hopeless", problem, {"train.epochs": 1, "budget": {"bit_synops": 1.0}})
    assert rows(tmp_path / "hopeless" / "train.jsonl")[0]["activity_multiplier"] > 0


def test_a_limit_that_is_never_reached_changes_nothing(problem: Problem, tmp_path: Path) -> None:
    fitted(tmp_path / "free", problem, {})
    fitted(tmp_path / "roomy", problem, {"budget": {"bit_synops": 1e12}})
    free, roomy = (load_tensors(tmp_path / name / "network.safetensors", "network")[0] for name in ("free", "roomy"))
    assert all(torch.equal(free[name], roomy[name]) for name in free)


def test_an_interrupted_training_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.epochs": 3, "budget": {"bit_synops": 100.0}}
    gene = genotype(timesteps=2, edges=EDGES, levels=(0, 1, 1))  # with an auxiliary head and a multiplier
    fitted(tmp_path / "unbroken", problem, changes, gene)
    run, data, session = derived(tmp_path / "broken", problem, changes, gene)
    real, calls = module.validate, iter(range(9))

    def once(network: Network, found: Samples) -> dict[str, float]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(network, found)

    monkeypatch.setattr(module, "validate", once)
    with pytest.raises(KeyboardInterrupt):
        fit(run, data, session)
    assert run.checkpoint("train").exists()
    fit(run, data, session)
    for name in ("network.safetensors", "genotype.json"):
        assert (run / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert rows(run / "train.jsonl") == rows(tmp_path / "unbroken" / "train.jsonl")


def test_training_teaches(problem: Problem, tmp_path: Path) -> None:
    """Three patterns in noise: far beyond chance, in the deployed arithmetic, on rows that training does not see."""
    fitted(
        tmp_path / "run",
        problem,
        {"train.epochs": 15, "train.batch_size": 12},
        genotype(timesteps=2, edges=EDGES, width=6),
    )
    log = rows(tmp_path / "run" / "train.jsonl")
    assert max(row["validation_accuracy"] for row in log) > 0.8
    assert log[-1]["train_loss"] < 0.7 * log[0]["train_loss"]
    assert log[0]["learning_rate"] > log[-1]["learning_rate"] > 0


def test_the_same_seed_gives_the_same_bytes(problem: Problem, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))
        fitted(tmp_path / name, problem, {"seed": seed})
    a, b, c = ((tmp_path / name / "network.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_silent_populations_are_named_after_training(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for rate in (0.0, 1.1):  # nobody counts as silent, or everybody
        monkeypatch.setattr(evaluate_module, "SILENT_RATE", rate)
        text = StringIO()
        run, data, _ = derived(tmp_path / str(rate), problem, {"budget.bit_synops": 1e6, "train.epochs": 1})
        fit(run, data, Session(console=Console(file=text, width=400)))
        said.append([line for line in text.getvalue().splitlines() if "almost no spikes" in line])
    assert said[0] == []
    (line,) = said[1]
    assert line.startswith("almost no spikes on validation from stem (")
    assert line.endswith("; the limit of 1e+06 Bit-SynOps may be too tight")


def test_validation_does_not_depend_on_the_batch_size(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data, session = begin(tmp_path / "run", problem.data)
    info = input_info(data)
    network = lively_network(genotype(), info)
    found = []
    for size in (1, 7, 24, 256):
        monkeypatch.setattr(module, "_EVALUATION_BATCH", size)
        found.append(validate(network.train(), session.samples(data.validation, info)))
        assert not network.training
    assert found[0]["bit_synops"] > 0
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_no_step_reads_values(problem: Problem, tmp_path: Path) -> None:
    """On a GPU each read would make the program wait for it."""
    gene = genotype(timesteps=2, edges=EDGES, levels=(0, 1, 1))
    made = recipe(problem.data, {"budget": {"bit_synops": 100.0}})
    trainee = Trainee(build_network(gene, tiny_input((1, 8, 8)), 0), made).train()
    loop = TrainLoop(trainee, made)
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    with no_reads():
        for _ in range(2):
            loop.step(x, y, 0.5)
    assert loop.activity is not None
    assert loop.activity.multiplier > 0
