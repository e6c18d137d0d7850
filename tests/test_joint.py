from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from device_reads import no_reads
from litesnn.data.batches import generator_for
from litesnn.data.sources import load
from litesnn.genotype import Genotype
from litesnn.search import joint as module
from litesnn.search.derive import choose, derive, learned_preferences
from litesnn.search.joint import SearchLoop, build_supernet, read_search, search
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate
from litesnn.snn.supernet import Supernet
from litesnn.training_loop.checkpoint import load_tensors, save_state
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.memory import StepPlan, plan_step
from litesnn.training_loop.session import input_info
from tiny import quantized_images
from whole_job import Problem, begin, recipe, rows

PAPER = {"search.mode": "paper", "search.keeps": [0.5], "search.widths": [1.0], "search.sampling": False}
ONE = {"search.epochs": 1, "search.warmup_epochs": 0, "search.architecture_warmup_epochs": 0}
MIXED = {"search.sampling": False}
LOOSE: dict[str, Any] = {"budget": {}}
JOINT = {"search.update": "joint"}


def searched(path: Path, problem: Problem, *changes: dict[str, Any]) -> tuple[list[dict[str, Any]], Supernet, Supernet]:
    """The log of a search, the supernet before it and the one after it."""
    merged = {key: value for change in changes for key, value in change.items()}
    run, data, session = begin(path, problem.data, merged)
    assert search(StageContext.of(run, data, session)) == path / "search.safetensors"
    assert not run.checkpoint("search").exists()
    after, _ = read_search(run, data.shape, len(data.classes))
    return rows(path / "search.jsonl"), build_supernet(run.recipe(), data.shape, len(data.classes)), after


@pytest.mark.parametrize(("changes", "multipliers"), [(PAPER, set()), ({}, {"packed_bytes", "bit_synops"})])
def test_one_epoch_in_both_modes(
    problem: Problem, tmp_path: Path, changes: dict[str, Any], multipliers: set[str]
) -> None:
    (row,), before, after = searched(tmp_path / "run", problem, ONE, changes)
    assert row["epoch"] == 1
    assert set(row["multipliers"]) == multipliers
    for key in ("train_loss", "validation_loss", "packed_bytes", "bit_synops", "learning_rate"):
        assert row[key] > 0
    for key in ("train_accuracy", "validation_accuracy"):
        assert 0 <= row[key] <= 1
    for choice in ("bits", "keep", "width", "alpha"):
        assert all(sum(shares) == pytest.approx(1, abs=1e-5) for shares in row[choice])
    assert sum(row["psi"]) == pytest.approx(1, abs=1e-5)
    for name in ("alpha", "beta", "psi"):
        assert not torch.equal(getattr(before, name), getattr(after, name)), name
    assert not torch.equal(before.backbone.classifier.weight, after.backbone.classifier.weight)
    assert not torch.equal(before.score_parameters()[0], after.score_parameters()[0])


def test_only_what_has_a_limit_has_a_multiplier(problem: Problem, tmp_path: Path) -> None:
    (row,), _, _ = searched(tmp_path / "none", problem, ONE, LOOSE)
    assert row["multipliers"] == {}
    (row,), _, _ = searched(tmp_path / "one", problem, ONE, {"budget": {"bit_synops": 1.0}})
    assert set(row["multipliers"]) == {"bit_synops"}
    assert row["multipliers"]["bit_synops"] > 0


def test_psi_is_uniform_in_its_warm_up_and_learns_after_it(problem: Problem, tmp_path: Path) -> None:
    changes = {"search.epochs": 3, "search.warmup_epochs": 2, "search.architecture_warmup_epochs": 0}
    log, _, after = searched(tmp_path / "run", problem, changes)
    assert [row["psi"] for row in log[:2]] == [[0.5, 0.5]] * 2
    assert log[2]["psi"] != [0.5, 0.5]
    assert after.psi.softmax(0).tolist() == log[2]["psi"]
    assert log[0]["alpha"] != log[1]["alpha"]  # the other architecture parameters don't wait for ψ


@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_fixed_timesteps_are_never_searched(problem: Problem, tmp_path: Path, update: str) -> None:
    changes = {"search.epochs": 3, "search.fixed_timesteps": True, "search.update": update, "budget.timesteps": 3}
    log, before, after = searched(tmp_path / "run", problem, changes)
    assert [row["psi"] for row in log] == [[0.0, 0.0, 1.0]] * 3
    assert torch.equal(before.psi, after.psi)
    for row in (after.alpha, after.beta, after.width):
        assert row.isfinite().all()
    run, data, _ = begin(tmp_path / "run", problem.data, changes)
    _, rates = read_search(run, data.shape, len(data.classes))
    assert choose(learned_preferences(after, rates), run.recipe(), input_info(data))[0].timesteps == 3


def test_architecture_warm_up_leaves_the_choices_alone_while_weights_and_scores_learn(
    problem: Problem, tmp_path: Path
) -> None:
    changes = {"search.epochs": 2, "search.architecture_warmup_epochs": 2, "search.warmup_epochs": 0}
    _, before, after = searched(tmp_path / "run", problem, changes)
    for name in ("alpha", "beta", "width"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    for old, new in zip(before.score_parameters(), after.score_parameters(), strict=True):
        assert not torch.equal(old, new)
    assert not torch.equal(before.backbone.classifier.weight, after.backbone.classifier.weight)
    assert not torch.equal(before.psi, after.psi)  # ψ has a warm-up of its own


def test_the_architecture_learns_when_its_warm_up_is_over(problem: Problem, tmp_path: Path) -> None:
    log, before, after = searched(tmp_path / "run", problem, {"search.epochs": 2})
    assert log[0]["bits"] == [[0.5, 0.5]] * 2
    for name in ("alpha", "beta", "width"):
        assert not torch.equal(getattr(before, name), getattr(after, name)), name


def test_a_budget_caps_the_timesteps(problem: Problem, tmp_path: Path) -> None:
    for limit, steps in ((1, 1), (2, 2), (7, 3)):
        run, data, _ = begin(tmp_path / str(limit), problem.data, {"budget": {"timesteps": limit}})
        assert build_supernet(run.recipe(), data.shape, 3).timesteps == steps


def test_a_tight_size_limit_makes_the_supernet_smaller(problem: Problem, tmp_path: Path) -> None:
    fast = {**MIXED, **ONE, "search.epochs": 2, "search.penalty": 20.0}
    tight, _, _ = searched(tmp_path / "tight", problem, fast, {"budget": {"packed_bytes": 700}})
    loose, _, _ = searched(tmp_path / "loose", problem, fast, LOOSE)
    assert tight[-1]["packed_bytes"] < loose[-1]["packed_bytes"] - 5
    assert [row["multipliers"]["packed_bytes"] for row in tight] == sorted(
        row["multipliers"]["packed_bytes"] for row in tight
    )

    def bits_per_weight(row: dict[str, Any]) -> float:
        total: float = sum(
            share * bits * keep
            for cell in row["compression"]
            for shares, bits in zip(cell, row["bit_choices"], strict=True)
            for share, keep in zip(shares, row["keep_choices"], strict=True)
        )
        return total

    assert bits_per_weight(tight[-1]) < bits_per_weight(loose[-1]) - 0.02


def test_the_papers_size_weight_prefers_fewer_bits(problem: Problem, tmp_path: Path) -> None:
    fast = {**PAPER, **ONE, "search.epochs": 2}
    heavy, _, _ = searched(tmp_path / "heavy", problem, fast, {"search.size_weight": 1.0})
    for cell in range(2):
        one_bit, two_bits = heavy[-1]["bits"][cell]
        assert one_bit > 0.55 > two_bits


def test_the_same_seed_gives_the_same_bytes(problem: Problem, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        searched(tmp_path / name, problem, ONE, {"seed": seed})
    a, b, c = ((tmp_path / name / "search.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert rows(tmp_path / "a" / "search.jsonl") == rows(tmp_path / "b" / "search.jsonl")


def test_the_global_generator_is_neither_used_nor_moved(problem: Problem, tmp_path: Path) -> None:
    """A library that draws from torch's own generator would change its callers' results, and they its."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    searched(tmp_path / "a", problem, ONE)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    searched(tmp_path / "b", problem, ONE)
    assert (tmp_path / "a" / "search.safetensors").read_bytes() == (tmp_path / "b" / "search.safetensors").read_bytes()


def test_firing_rates_of_every_population_are_kept(problem: Problem, tmp_path: Path) -> None:
    run, data, session = begin(tmp_path / "run", problem.data, ONE)
    search(StageContext.of(run, data, session))
    _, info = load_tensors(run.output("search"), "search")
    names = {"stem", *(f"cell {cell} node {node}" for cell in (1, 2) for node in (0, 1))}
    assert set(info["rates"]) == names
    assert all(len(rates) == 2 and all(0 <= rate <= 1 for rate in rates) for rates in info["rates"].values())


@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_what_is_kept_of_graded_spikes_are_those_of_all_bit_planes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str
) -> None:
    """The derivation prices work with them; firing rates are less. It gives a genotype of such neurons."""
    meters: list[Meter] = []

    class Kept(Meter):
        def __init__(self) -> None:
            super().__init__()
            meters.append(self)

    monkeypatch.setattr(module, "Meter", Kept)
    settings = {**ONE, "search.update": update, "search.epoch_steps": 1, "model.spike_levels": 3}
    run, data, session = begin(tmp_path / "run", problem.data, settings)
    context = StageContext.of(run, data, session)
    search(context)
    _, info = load_tensors(run.output("search"), "search")
    last = meters[-1]
    for name, spikes in info["rates"].items():
        assert spikes == pytest.approx(last.spikes[name].tolist())
        assert sum(spikes) > float(last.rates[name].detach().sum())
    assert Genotype.from_json(derive(context).read_text()).spike_levels == 3


@pytest.mark.job
@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_an_epoch_may_end_early(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str) -> None:
    name, steps = "joint_step" if update == "joint" else "weight_step", [0]
    real = getattr(SearchLoop, name)

    def step(*arguments: Any, **options: Any) -> Any:
        steps[0] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(SearchLoop, name, step)
    changes = {"search.epochs": 2, "search.batch_size": 12, "search.update": update}
    whole = 10 if update == "joint" else 8
    for most, expected in ((3, 3), (99, whole), (None, whole)):
        searched(tmp_path / str(most), problem, changes, {"search.epoch_steps": most})
        assert steps[0] == 2 * expected
        steps[0] = 0
    found = [(tmp_path / str(most) / "search.safetensors").read_bytes() for most in (3, 99, None)]
    assert found[0] != found[1] == found[2]


def test_a_batch_larger_than_the_data(problem: Problem, tmp_path: Path) -> None:
    (row,), _, _ = searched(tmp_path / "run", problem, ONE, {"search.batch_size": 5000})
    assert row["train_loss"] > 0


@pytest.mark.parametrize(("update", "batches"), [("alternating", [48, 24]), ("joint", [48])])
def test_steps_are_planned_for_the_batches_that_they_take(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str, batches: list[int]
) -> None:
    """Of 96 training and 24 validation samples, 48 and 24 at a time; or of all of them together."""
    planned = []

    def plan(
        footprint: Callable[[Execution], MemoryEstimate], sizes: Sequence[int], *rest: Any, **more: Any
    ) -> StepPlan:
        planned.append(sizes)
        return plan_step(footprint, sizes, *rest, **more)

    monkeypatch.setattr("litesnn.training_loop.session.plan_step", plan)
    searched(tmp_path / "run", problem, ONE, {"search.update": update})
    assert planned == [batches]


@pytest.mark.parametrize("changes", [PAPER, {}])
def test_joint_updates_teach_everything_in_one_pass(problem: Problem, tmp_path: Path, changes: dict[str, Any]) -> None:
    (row,), before, after = searched(tmp_path / "run", problem, ONE, JOINT, changes)
    assert row["train_loss"] > 0
    assert row["packed_bytes"] > 0
    assert not [key for key in row if key.startswith("validation")]
    assert set(row["multipliers"]) == (set() if changes else {"packed_bytes", "bit_synops"})
    for name in ("alpha", "beta", "psi"):
        assert not torch.equal(getattr(before, name), getattr(after, name)), name
    for name, old in before.backbone.named_parameters():
        if name not in ("stem.conv.scores", "classifier.scores"):  # these two are not pruned
            assert not torch.equal(old, after.backbone.get_parameter(name)), name


def test_joint_updates_use_every_sample_once_an_epoch(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = Supernet.forward

    def counted(self: Supernet, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(x))
        return forward(self, x, *args, **kwargs)

    data = load(recipe(problem.data).data)
    both = len(data.train.y) + len(data.validation.y)
    monkeypatch.setattr(Supernet, "forward", counted)
    searched(tmp_path / "joint", problem, ONE, JOINT, {"search.batch_size": 20})
    assert seen == [20] * (both // 20)
    seen.clear()
    searched(tmp_path / "alternating", problem, ONE, {"search.batch_size": 20})
    assert seen == [20, 20] * (len(data.train.y) // 20)


def test_a_joint_step_by_hand(problem: Problem) -> None:
    """One gradient of loss and cost terms moves everything: weights by SGD, the others by Adam or SGD."""
    settings = {**MIXED, **JOINT, "budget": {"bit_synops": 10.0}, "search.warmup_epochs": 0, "search.grad_clip": 1e9}
    made = recipe(problem.data, settings)
    supernet, twin = (build_supernet(made, (1, 8, 8), 3).train() for _ in range(2))
    loop = SearchLoop(made, supernet)
    loop.constraints["bit_synops"].multiplier = 2.0
    x, y = quantized_images((1, 8, 8), 6, 3), torch.arange(6) % 3
    loop.joint_step(x, y, generator_for(0, "unused"), epoch=5)

    meter = Meter()
    logits, psi = twin(x, meter=meter).logits, twin.psi.softmax(0)
    loss = sum(p * torch.nn.functional.cross_entropy(step, y) for p, step in zip(psi, logits, strict=True))
    excess = torch.log((psi * meter.bit_synops().cumsum(0)).sum() / 10.0)  # far beyond: no kink
    total = loss + ((2 + excess) ** 2 - 4) / 2
    named = {
        name: p for name, p in twin.named_parameters() if not name.endswith(("stem.conv.scores", "classifier.scores"))
    }
    gradients = torch.autograd.grad(total, list(named.values()))
    assert loop.constraints["bit_synops"].multiplier == pytest.approx(2 + 0.05 * float(excess.detach()), rel=1e-5)
    with torch.no_grad():
        for (name, old), gradient in zip(named.items(), gradients, strict=True):
            new = supernet.get_parameter(name)
            if name in ("alpha", "beta", "width") or name.endswith("scores"):
                slope = gradient + 1e-3 * old
                rate = {"alpha": 1e-3, "beta": 0.1, "width": 0.1}.get(name, 1e-2)
                clear = slope.abs() > 1e-6  # Adam's first step is the gradient's sign
                torch.testing.assert_close((new - old)[clear], -rate * slope.sign()[clear], rtol=0.02, atol=1e-6)
                assert clear.any(), name
            elif name == "psi":
                torch.testing.assert_close(new, old - 0.2 * gradient)
            else:
                torch.testing.assert_close(new, old - 0.2 * (gradient + 3e-4 * old), rtol=1e-4, atol=1e-6)
                assert gradient.any(), name


@pytest.mark.parametrize("step", ["weight_step", "architecture_step"])
def test_an_alternating_step_moves_its_own_half(problem: Problem, step: str) -> None:
    made = recipe(problem.data, {"search.warmup_epochs": 0})
    supernet, before = (build_supernet(made, (1, 8, 8), 3).train() for _ in range(2))
    loop = SearchLoop(made, supernet)
    x, y = quantized_images((1, 8, 8), 6, 3), torch.arange(6) % 3
    getattr(loop, step)(x, y, generator_for(0, "draws"), epoch=5)
    weights = {id(p) for p in loop.weights}
    moved = {
        (id(p) in weights) for name, p in supernet.named_parameters() if not torch.equal(p, before.get_parameter(name))
    }
    assert moved == {step == "weight_step"}
    assert all(p.requires_grad for p in supernet.parameters())


def test_joint_updates_resume(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**JOINT, "search.epochs": 3}
    whole, _, _ = searched(tmp_path / "whole", problem, changes)
    run, data, session = begin(tmp_path / "broken", problem.data, changes)
    saved: list[Path] = []

    def full(path: Path, *others: Any) -> None:
        save_state(path, *others)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_state", full)
    with pytest.raises(KeyboardInterrupt):
        search(StageContext.of(run, data, session))
    monkeypatch.undo()
    search(StageContext.of(run, data, session))
    assert rows(run / "search.jsonl") == whole
    assert run.output("search").read_bytes() == (tmp_path / "whole" / "search.safetensors").read_bytes()


@pytest.mark.parametrize("step", ["weight_step", "architecture_step", "joint_step"])
def test_no_step_reads_values(problem: Problem, step: str) -> None:
    made = recipe(problem.data)
    loop = SearchLoop(made, build_supernet(made, (1, 8, 8), 3).train())
    x, y, draws = quantized_images((1, 8, 8), 6, 3), torch.arange(6) % 3, generator_for(0, "draws")
    for read in (lambda: float(x.sum()), lambda: x.tolist()):
        with pytest.raises(pytest.fail.Exception, match="read"), no_reads():
            read()
    with no_reads():
        for _ in range(2):
            getattr(loop, step)(x, y, draws, epoch=5)
