from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from device_reads import no_reads
from litesnn.costs import COSTS
from litesnn.data.batches import Samples
from litesnn.data.sources import Data
from litesnn.files import JsonLog
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network
from litesnn.runs import RunFolder
from litesnn.snn.network import Network
from litesnn.train import evaluate as evaluate_module
from litesnn.train import fit as module
from litesnn.train.fit import Trainee, TrainLoop, auxiliary_cell, fit, validate
from litesnn.training_loop.checkpoint import load_tensors, save_tensors
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.schedule import Schedule
from litesnn.training_loop.session import Session, cosine_lr, input_info
from made import Clock
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
    assert fit(StageContext.of(run, data, session)) == path / "network.safetensors"
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

    def say(network: Network, found: Samples, *costs: Any) -> dict[str, float]:
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

    def interrupted(network: Network, found: Samples, *costs: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    say = scripted((1, 0.9, 1), (1, 0.5, 1))
    calls = iter([say, interrupted])
    monkeypatch.setattr(module, "validate", lambda network, found, *_: next(calls)(network, found))
    with pytest.raises(KeyboardInterrupt):
        fit(StageContext.of(run, data, session))
    monkeypatch.setattr(
        module, "validate", lambda *_: {"validation_loss": 1.0, "validation_accuracy": 0.5, "bit_synops": 1.0}
    )
    fit(StageContext.of(run, data, session))
    assert load_network(run.output("train")).backbone.classifier_bias.tolist() == [1.0] * 3
    assert [row["best"] for row in rows(run / "train.jsonl")] == [True, False, False]


def test_a_tight_limit_lowers_the_activity(problem: Problem, tmp_path: Path) -> None:
    changes = {"train.epochs": 6}
    fitted(tmp_path / "free", problem, changes)
    free = rows(tmp_path / "free" / "train.jsonl")
    limit = free[-1]["bit_synops"] / 2
    assert limit > 0
    assert [row["multipliers"] for row in free] == [{}] * len(free)
    fitted(tmp_path / "tight", problem, changes | {"budget": {"bit_synops": limit}})
    tight = rows(tmp_path / "tight" / "train.jsonl")
    assert tight[-1]["bit_synops"] < 0.75 * free[-1]["bit_synops"]
    fitted(tmp_path / "hopeless", problem, {"train.epochs": 1, "budget": {"bit_synops": 1.0}})
    assert rows(tmp_path / "hopeless" / "train.jsonl")[0]["multipliers"]["bit_synops"] > 0


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

    def once(network: Network, found: Samples, *costs: Any) -> dict[str, float]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(network, found)

    monkeypatch.setattr(module, "validate", once)
    with pytest.raises(KeyboardInterrupt):
        fit(StageContext.of(run, data, session))
    assert run.checkpoint("train").exists()
    fit(StageContext.of(run, data, session))
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
        fit(StageContext.of(run, data, Session(console=Console(file=text, width=400))))
        said.append([line for line in text.getvalue().splitlines() if "almost no spikes" in line])
    assert said[0] == []
    (line,) = said[1]
    assert line.startswith("almost no spikes on validation from stem (")
    assert line.endswith("; the limit of 1 M Bit-SynOps may be too tight")


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
    limits = {key: 100.0 for key, cost in COSTS.items() if cost.is_work}
    made = recipe(problem.data, {"budget": limits})
    trainee = Trainee(build_network(gene, tiny_input((1, 8, 8)), 0), made).train()
    loop = TrainLoop(trainee, made)
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    with no_reads():
        for _ in range(2):
            loop.step(x, y, 0.5)
    assert loop.multipliers["bit_synops"] > 0


# --- a training that keeps a time ---


def in_time(seconds: float, **changes: Any) -> dict[str, Any]:
    return {"train.epochs": 12, "made.seconds": 100.0, "made.training": seconds} | changes


@pytest.mark.parametrize(("most", "epochs"), [(0, 12), (14, 14), (100, 20)])
def test_a_training_that_is_faster_than_planned_uses_its_time(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, epochs: int
) -> None:
    run, data, session = derived(tmp_path / "run", problem, in_time(20.0, **{"made.most_epochs": most}))
    monkeypatch.setattr(module, "time", Clock([1.0]))
    fit(StageContext.of(run, data, session))
    log = rows(run / "train.jsonl")
    assert len(log) == epochs
    assert log[-1]["learning_rate"] < 0.2 * log[0]["learning_rate"]


def test_a_training_that_would_be_late_ends_in_time(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = StringIO()
    run, data, _ = derived(tmp_path / "run", problem, in_time(30.0))
    monkeypatch.setattr(module, "time", Clock([5.0]))
    fit(StageContext.of(run, data, Session(console=Console(file=text, width=400))))
    log = JsonLog.read(run / "train.jsonl")
    assert [row["seconds"] for row in log] == [5.0] * 6
    assert "steps take longer than planned: 6 epochs instead of 12" in text.getvalue()
    train = run.recipe().train
    rates = [row["learning_rate"] for row in log]
    assert rates == sorted(rates, reverse=True)
    assert len(data.train.y) // train.batch_size == 4
    last = Schedule(6, 1, 1 / 12).at(5 + 3 / 4)  # at the last of four steps
    assert rates[-1] == pytest.approx(cosine_lr(train.lr, train.lr_min, last))


def test_one_slow_epoch_does_not_count_for_ever(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace of the last three epochs is what is expected; what was cut is put back when there is time again."""
    run, data, session = derived(tmp_path / "run", problem, in_time(20.0))
    monkeypatch.setattr(module, "time", Clock([1.0, 1.0, 4.0, 1.0]))
    fit(StageContext.of(run, data, session))
    log = JsonLog.read(run / "train.jsonl")
    assert len(log) == 12
    assert sum(row["seconds"] for row in log) == 15


@pytest.mark.parametrize("changes", [in_time(0.0), in_time(1e9)])
def test_without_a_bound_or_within_it_all_epochs_are_trained(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    run, data, session = derived(tmp_path / "run", problem, changes)
    monkeypatch.setattr(module, "time", Clock([1e6]))
    fit(StageContext.of(run, data, session))
    assert len(rows(run / "train.jsonl")) == 12


def interrupted(run: RunFolder, data: Data, session: Session, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Train so many epochs, and die in the next one."""
    real, calls = module.validate, iter(range(99))

    def dies(network: Network, found: Samples, *costs: Any) -> dict[str, float]:
        if next(calls) == epochs:
            raise KeyboardInterrupt
        return real(network, found)

    with monkeypatch.context() as patched:
        patched.setattr(module, "validate", dies)
        with pytest.raises(KeyboardInterrupt):
            fit(StageContext.of(run, data, session))


DURATIONS = [1.0, 1.0, 3.0, 2.0, 5.0, 1.0]


@pytest.mark.parametrize("killed", [1, 3])
def test_a_training_that_was_cut_short_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    changes = in_time(13.0, **{"train.nesterov": True, "train.warmup": 0.2, "train.label_smoothing": 0.1})
    run, data, session = derived(tmp_path / "unbroken", problem, changes)
    monkeypatch.setattr(module, "time", Clock(DURATIONS))
    fit(StageContext.of(run, data, session))
    assert 4 < len(rows(run / "train.jsonl")) < 12

    broken, _, _ = derived(tmp_path / "broken", problem, changes)
    monkeypatch.setattr(module, "time", Clock(DURATIONS))
    interrupted(broken, data, session, monkeypatch, killed)
    assert len(rows(broken / "train.jsonl")) == killed
    monkeypatch.setattr(module, "time", Clock(DURATIONS, done=killed))
    fit(StageContext.of(broken, data, session))
    assert (broken / "train.jsonl").read_bytes() == (run / "train.jsonl").read_bytes()
    assert broken.output("train").read_bytes() == run.output("train").read_bytes()


def test_a_checkpoint_without_a_schedule_goes_on(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of earlier versions have none."""
    fitted(tmp_path / "unbroken", problem, {"train.epochs": 3})
    run, data, session = derived(tmp_path / "run", problem, {"train.epochs": 3})
    interrupted(run, data, session, monkeypatch, 1)
    tensors, info = load_tensors(run.checkpoint("train"), "train state")
    assert info.pop("schedule") == {"epochs": 3, "since": 0, "progress": 0.0}
    save_tensors(run.checkpoint("train"), "train state", tensors, info)
    fit(StageContext.of(run, data, session))
    assert run.output("train").read_bytes() == (tmp_path / "unbroken" / "network.safetensors").read_bytes()


def test_a_log_that_was_lost_does_not_end_a_training_early(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, session = derived(tmp_path / "run", problem, in_time(8.0))
    monkeypatch.setattr(module, "time", Clock([1.0]))
    interrupted(run, data, session, monkeypatch, 5)
    (run / "train.jsonl").write_text("")
    monkeypatch.setattr(module, "time", Clock([2.0]))
    fit(StageContext.of(run, data, session))
    assert [row["epoch"] for row in rows(run / "train.jsonl")] == [6, 7, 8, 9]  # time that nobody knows of is not spent


# --- settings of the steps ---


def counted(problem: Problem, path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> list[float]:
    """How far each step believes the training to be."""
    found: list[float] = []
    real = TrainLoop.step

    def step(self: TrainLoop[Any], x: torch.Tensor, y: torch.Tensor, progress: float) -> Any:
        found.append(progress)
        return real(self, x, y, progress)

    monkeypatch.setattr(TrainLoop, "step", step)
    run, data, session = derived(path, problem, changes)
    fit(StageContext.of(run, data, session))
    return found


def test_an_epoch_may_end_early(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counted(problem, tmp_path / "whole", monkeypatch, {})
    assert whole == pytest.approx([step / 8 for step in range(8)])  # 96 rows in batches of 24, two epochs
    monkeypatch.undo()
    early = counted(problem, tmp_path / "early", monkeypatch, {"train.epoch_steps": 3})
    assert early == pytest.approx([step / 6 for step in range(6)])
    monkeypatch.undo()
    more = counted(problem, tmp_path / "more", monkeypatch, {"train.epoch_steps": 99})
    assert more == whole
    same = [(tmp_path / name / "network.safetensors").read_bytes() for name in ("whole", "early", "more")]
    assert same[0] == same[2] != same[1]


@pytest.mark.parametrize("setting", [{"train.nesterov": True}, {"train.warmup": 0.5}, {"train.label_smoothing": 0.2}])
def test_each_setting_changes_what_is_learned(problem: Problem, tmp_path: Path, setting: dict[str, Any]) -> None:
    fitted(tmp_path / "plain", problem, {"train.epochs": 1})
    fitted(tmp_path / "other", problem, {"train.epochs": 1} | setting)
    plain, other = ((tmp_path / name / "network.safetensors").read_bytes() for name in ("plain", "other"))
    assert plain != other


def test_label_smoothing_and_nesterov_by_hand(problem: Problem) -> None:
    made = recipe(problem.data, {"train.label_smoothing": 0.3, "train.nesterov": True, "budget": {}})
    network = build_network(genotype(timesteps=2, edges=EDGES), tiny_input((1, 8, 8)), 0)
    loop = TrainLoop(Trainee(network, made).train(), made)
    assert loop.optimizers["weights"].defaults["nesterov"] is True
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    with torch.no_grad():
        logs = network(x).logits[-1].log_softmax(1)
    targets = 0.7 * torch.nn.functional.one_hot(y, 3) + 0.1
    loss = float(loop.step(x, y, 0.0)["train_loss"].detach())
    assert loss == pytest.approx(float(-(targets * logs).sum(1).mean()), rel=1e-4)


def test_a_warm_up_begins_at_nothing(problem: Problem) -> None:
    made = recipe(problem.data, {"train.warmup": 0.5, "budget": {}})
    network = build_network(genotype(timesteps=2, edges=EDGES), tiny_input((1, 8, 8)), 0)
    loop = TrainLoop(Trainee(network, made).train(), made)
    before = network.backbone.classifier.weight.detach().clone()
    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    loop.step(x, y, 0.0)
    assert torch.equal(network.backbone.classifier.weight, before)
    loop.step(x, y, 0.25)
    assert not torch.equal(network.backbone.classifier.weight, before)
    rate = float(loop.optimizers["weights"].param_groups[0]["lr"])
    assert rate == pytest.approx(0.5 * cosine_lr(made.train.lr, made.train.lr_min, 0.5))
