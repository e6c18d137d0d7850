"""Teachers: the network of ours and its stage, networks of other runs, users' modules; pinned, resumed, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import litesnn as package
from given import MODULE
from litesnn.compression import source
from litesnn.compression.source import allow_module
from litesnn.compression.teachers import describe_teacher, pinned_teacher, require_teacher, stand_in, teacher_of
from litesnn.config import Recipe
from litesnn.data.sources import load
from litesnn.errors import InputError
from litesnn.front_end import EventFrames
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network, save_network
from litesnn.planning import maker
from litesnn.planning.timing import Pace, teacher_pace
from litesnn.runs import RunFolder
from litesnn.snn.network import InputInfo
from litesnn.train import fit as fit_module
from litesnn.train import teacher as module
from litesnn.train.fit import Trainee, TrainLoop, fit
from litesnn.train.residual import ResidualNetwork, time_bins
from litesnn.train.teacher import Teacher, load_residual, network_teacher, teacher_record, train_teacher
from litesnn.training_loop.checkpoint import load_tensors, save_tensors
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session, input_info
from made import data_of, plan_for, pretend
from test_cli import refused
from tiny import genotype, lively_network, quantized_images
from tiny import input_info as tiny_input
from whole_job import Problem, begin, litesnn, recipe, rows

CPU = torch.device("cpu")
AUTO = {"train.teacher": "auto", "teacher.width": 4, "teacher.epochs": 3, "teacher.batch_size": 24}
EDGES = ((0, 0, "conv3x3"), (0, 1, "skip"))

PLAIN = """
import torch
from torch import nn

class Net(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        type(self).calls += 1
        return self.head(x.flatten(1))

class Keeps(Net):
    def reset(self):
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        return self.seen * super().forward(x)

class Steps(Net):
    def forward(self, x):
        return torch.stack([super(Steps, self).forward(x), torch.zeros(len(x), 3)])

class Four(Net):
    def forward(self, x):
        return torch.cat([super().forward(x), x.flatten(1)[:, :1]], 1)

class Fails(Net):
    def forward(self, x):
        raise RuntimeError("no")
"""


@pytest.fixture(autouse=True)
def nobody_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_allowed", set())


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A file of somebody's classes, with weights beside it."""
    (tmp_path / "others.py").write_text(PLAIN)
    weights = {
        "head.weight": torch.randn(3, 64, generator=torch.Generator().manual_seed(0)),
        "head.bias": torch.ones(3),
    }
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    return tmp_path / "others.py"


def derived(path: Path, problem: Problem, changes: dict[str, Any]) -> StageContext:
    """A run as the derivation leaves it."""
    run, data, session = begin(path, problem.data, {"budget": {}, "train.epochs": 3} | changes)
    run.output("derive").write_text(genotype(timesteps=2, edges=EDGES).to_json())
    return StageContext.of(run, data, session)


def broken(function: Callable[[], object], monkeypatch: pytest.MonkeyPatch, place: Any, name: str, calls: int) -> None:
    """Call a function that dies at one of its calls of another."""
    real, count = getattr(place, name), iter(range(99))

    def dies(*words: Any, **more: Any) -> Any:
        if next(count) == calls:
            raise KeyboardInterrupt
        return real(*words, **more)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, dies)
        with pytest.raises(KeyboardInterrupt):
            function()


# --- the network ---


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [((3, 32, 32), 16), ((1, 8, 8), 16), ((1, 1, 1), 1), ((4, 1, 20), 5), ((1, 40, 98), 21), ((3, 97, 65), 35)],
)
def test_it_takes_every_shape(shape: tuple[int, int, int], pixels: int) -> None:
    network = ResidualNetwork(tiny_input(shape, classes=5), width=2, blocks=2)
    seen: list[Tensor] = []
    network.blocks.register_forward_hook(lambda *call: seen.append(call[2]))
    assert network(quantized_images(shape, 3)).shape == (3, 5)
    assert seen[0].shape[1] == 8
    assert seen[0][0, 0].numel() == pixels
    torch.autograd.backward(network(quantized_images(shape, 3)).square().mean())
    assert all(each.grad is not None and each.grad.isfinite().all() for each in network.parameters())


def test_frames_are_averaged_over_parts_of_the_time() -> None:
    info = InputInfo(InputSpec((2, 8, 8), "events", (0.0,) * 2, (1.0,) * 2, EventFrames(height=8, width=8)), ("a", "b"))
    assert [time_bins(info, frames) for frames in (1, 3, 4, 6, 64)] == [1, 3, 4, 4, 4]
    assert time_bins(tiny_input(), 6) == 1
    network = ResidualNetwork(info, bins=2, width=2).eval()
    frames = quantized_images((8, 8, 8), 3).view(3, 4, 2, 8, 8)
    together = torch.cat([frames[:, :2].mean(1), frames[:, 2:].mean(1)], 1)
    same = torch.stack([together[:, :2]] * 2 + [together[:, 2:]] * 2, 1)
    torch.testing.assert_close(network(frames), network(same))
    assert not torch.allclose(network(frames), network(frames.flip(1)))


# --- its stage ---


def test_it_learns_and_says_so(problem: Problem, tmp_path: Path) -> None:
    context = derived(tmp_path, problem, AUTO | {"teacher.epochs": 12})
    assert train_teacher(context) == tmp_path / "teacher.safetensors"
    log = rows(tmp_path / "teacher.jsonl")
    assert [row["epoch"] for row in log] == list(range(1, 13))
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    assert log[-1]["validation_accuracy"] > 0.7
    assert log[-1]["learning_rate"] < 0.01
    assert not context.run.checkpoint("teacher").exists()
    record = teacher_record(context.run, context.recipe)["teacher"]
    assert (record["name"], record["epochs"], record["width"]) == ("auto", 12, 4)
    assert record["validation_accuracy"] == log[-1]["validation_accuracy"]
    found = load_residual(tmp_path / "teacher.safetensors", context.info, CPU)
    x = context.session.samples(context.data.validation, context.info)
    accuracy = (found(x.x.float(), parts=4).argmax(1) == x.y).float().mean()
    assert float(accuracy) == pytest.approx(log[-1]["validation_accuracy"])


@pytest.mark.parametrize("flip", [False, "alternating"])
def test_it_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: bool | str
) -> None:
    changes = AUTO | {"augment.flip": flip}
    unbroken = derived(tmp_path / "a", problem, changes)
    train_teacher(unbroken)
    context = derived(tmp_path / "b", problem, changes)
    torch.manual_seed(5)
    broken(lambda: train_teacher(context), monkeypatch, module, "validate_plainly", 2)
    assert context.run.checkpoint("teacher").exists()
    assert not context.run.done("teacher")
    train_teacher(context)
    assert context.run.output("teacher").read_bytes() == unbroken.run.output("teacher").read_bytes()
    assert rows(context.run / "teacher.jsonl") == rows(unbroken.run / "teacher.jsonl")


def test_a_run_without_it_has_no_such_stage(problem: Problem, tmp_path: Path) -> None:
    context = derived(tmp_path / "a", problem, {})
    assert "teacher" not in context.run.needs()
    with pytest.raises(InputError, match=r"has no teacher; one is trained where train\.teacher is 'auto'"):
        train_teacher(context)
    assert "teacher" in derived(tmp_path / "b", problem, AUTO).run.needs()
    assert teacher_record(context.run, context.recipe) == {}


def test_a_rate_that_is_too_large_is_told(problem: Problem, tmp_path: Path) -> None:
    context = derived(tmp_path, problem, AUTO | {"teacher.lr": 1e30})
    with pytest.raises(InputError, match=r"the teacher's training diverged in epoch 1: .* rate teacher\.lr is 1e\+30"):
        train_teacher(context)
    assert not context.run.done("teacher")
    lower = context.recipe.changed({"teacher.lr": 0.1})
    assert context.run.may_change(context.recipe, lower)


# --- a training with a teacher ---


def test_a_training_goes_on_as_if_unbroken(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = AUTO | {"train.loss": "tet", "train.self_distillation": 0.5, "train.label_smoothing": 0.1}
    unbroken = derived(tmp_path / "a", problem, changes)
    with pytest.raises(InputError, match=r"teacher\.safetensors is missing: run 'litesnn teacher"):
        teacher_of(unbroken)
    train_teacher(unbroken)
    fit(unbroken, teacher_of(unbroken))
    log = rows(unbroken.run / "train.jsonl")
    assert all(row["train_teacher"] > 0 and row["train_self_distillation"] > 0 for row in log)

    context = derived(tmp_path / "b", problem, changes)
    train_teacher(context)
    broken(lambda: fit(context, teacher_of(context)), monkeypatch, fit_module, "validate", 2)
    shutil.copytree(context.run.path, tmp_path / "c")
    fit(context, teacher_of(context))
    assert context.run.output("train").read_bytes() == unbroken.run.output("train").read_bytes()
    assert rows(context.run / "train.jsonl") == log

    other = replace(context, run=RunFolder(tmp_path / "c"))
    tensors, info = load_tensors(other.run.output("teacher"), "teacher")
    save_tensors(other.run.output("teacher"), "teacher", {name: x + 1 for name, x in tensors.items()}, info)
    with pytest.raises(InputError, match="the training began with another teacher than auto"):
        fit(other, teacher_of(other))
    with pytest.raises(ValueError, match=r"train\.teacher is auto, and the teacher is None"):
        fit(context)


def test_parts_of_a_batch_have_their_own_logits(problem: Problem) -> None:
    made = recipe(problem.data, {"budget": {}, "train.teacher": "x"})
    seen: list[int] = []

    def logits(x: Tensor, /) -> Tensor:
        seen.append(len(x))
        assert not torch.is_grad_enabled()
        return x.flatten(1)[:, :3] / 50

    x, y = quantized_images((1, 8, 8), 6), torch.arange(6) % 3
    for parts in (1, 3):
        trainee = Trainee(build_network(genotype(), tiny_input((1, 8, 8)), 0), made).train()
        loop = TrainLoop(trainee, made, micro_batches=parts, teacher=Teacher(logits))
        assert loop.step(x, y, 0.5)["train_teacher"] > 0
    assert seen == [6, 2, 2, 2]


# --- networks of other runs ---


def spec(info: InputInfo, **changes: Any) -> InputInfo:
    return InputInfo(replace(info.input, **changes), info.classes)


def test_a_network_that_was_encoded_otherwise(tmp_path: Path) -> None:
    info = tiny_input((1, 8, 8))
    own = spec(info, mean=(0.5,), std=(1.5,))
    network = lively_network(genotype(), own)
    save_network(tmp_path / "network.safetensors", network)
    teacher = network_teacher(tmp_path / "network.safetensors", info, 4, CPU)
    encoded = quantized_images((1, 8, 8), 5).clamp(-60, 60)
    raw = encoded / 32 * 2.0 + 1.0  # as a mean of 1 and a deviation of 2 mean it
    expected = network(network.encode(raw).float()).logits[-1]
    assert torch.equal(teacher(encoded), expected)
    assert torch.equal(
        network_teacher(tmp_path / "network.safetensors", own, 4, CPU)(encoded), network(encoded).logits[-1]
    )


def test_what_does_not_fit_is_refused_by_name(problem: Problem, tmp_path: Path) -> None:
    context = derived(tmp_path / "run", problem, {})
    info = context.info
    for number, (other, complaint) in enumerate(
        [
            (InputInfo(info.input, ("a", "b", "c")), "has the classes a, b, c, and the data have 0, 1, 2"),
            (spec(info, shape=(1, 9, 8)), "has the inputs of the shape 1×9×8, and the data have 1×8×8"),
            (spec(info, kind="array"), "has the inputs of the kind array, and the data have image"),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_network(path, lively_network(genotype(), other))
        made = context.recipe.changed(describe_teacher(path))
        with pytest.raises(InputError) as caught:
            pinned_teacher(made, info)
        assert str(caught.value) == f"teacher {path} {complaint}"


def test_what_is_no_teacher_is_refused(finished: Path, tmp_path: Path) -> None:
    for teacher, complaint in (
        (finished / "model.safetensors", r"is no trained network of ours \(a packed model does not run in torch\)"),
        (finished / "search.safetensors", "is no trained network of ours"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path, "is not a run folder"),
        ("no.py:Class", "no such file"),
        ("", "expected 'auto', a run folder"),
    ):
        with pytest.raises(InputError, match=complaint):
            describe_teacher(teacher)
    with pytest.raises(InputError, match="--teacher-weights are those of a module"):
        describe_teacher(finished, "w.safetensors")
    with pytest.raises(InputError, match=r"train\.teacher is 'original', the module of litesnn compress"):
        Recipe.from_toml("", changes={"train.teacher": "original"})


# --- users' modules ---


def with_module(problem: Problem, classes: Path, name: str = "Net", weights: bool = True) -> Recipe:
    said = describe_teacher(f"{classes}:{name}", classes.parent / "w.safetensors" if weights else None)
    return recipe(problem.data, {"budget": {}} | said)


def test_a_module_teaches(problem: Problem, classes: Path) -> None:
    info = derived(classes.parent / "run", problem, {}).info
    x = quantized_images((1, 8, 8), 5)
    tensors = safetensors.torch.load_file(classes.parent / "w.safetensors")
    plain = (x / 32).flatten(1) @ tensors["head.weight"].T + tensors["head.bias"]
    for name, factor in (("Net", 1.0), ("Keeps", 1.5), ("Steps", 0.5)):  # the budget allows two timesteps, 1 + 2 is 3
        made = with_module(problem, classes, name).changed({"budget.timesteps": 2})
        with pytest.raises(InputError, match=f"which nobody said; .* add --teacher {classes}:{name}"):
            pinned_teacher(made, info)
        allow_module(f"{classes}:{name}")
        assert pinned_teacher(made, info) == made
        found = stand_in(made, info, CPU)
        assert found is not None
        torch.testing.assert_close(found(x), factor * plain)


def test_a_module_that_teaches_nothing_is_refused(problem: Problem, classes: Path) -> None:
    info = derived(classes.parent / "run", problem, {}).info
    for name, complaint in (
        ("Four", r"makes \[2, 4\] of 2 inputs; expected \[2, 3\]"),
        ("Fails", "its forward fails on a batch of 1×8×8: RuntimeError: no"),
        ("None_", "class None_ is not in it"),
    ):
        allow_module(f"{classes}:{name}")
        with pytest.raises(InputError, match=complaint):
            require_teacher(with_module(problem, classes, name), info)
    allow_module(f"{classes}:Net")
    with pytest.raises(InputError, match="has no weights, and would teach nothing; expected --teacher-weights"):
        require_teacher(with_module(problem, classes, weights=False), info)
    made = with_module(problem, classes)
    (classes.parent / "w.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"w\.safetensors has changed since the run began"):
        require_teacher(made, info)


# --- the whole job ---

SHORT = [
    *("--set", "train.epochs=1", "--set", "search.epochs=1", "--set", "search.warmup_epochs=0"),
    *("--set", "search.architecture_warmup_epochs=0"),
]


@pytest.mark.job
def test_a_design_with_a_module(problem: Problem, classes: Path, tmp_path: Path) -> None:
    """Named again it goes on; nobody else's file is run, and no other teacher is taken."""
    run, name = tmp_path / "run", f"{classes}:Net"
    named = ("--teacher", name, "--teacher-weights", str(tmp_path / "w.safetensors"))
    line = refused(litesnn("design", *problem.options(run), *SHORT, "--teacher", name))
    assert line.endswith(f"teacher {name} has no weights, and would teach nothing; expected --teacher-weights")
    assert not run.exists()
    assert litesnn("search", *problem.options(run), *SHORT, *named).code == 0
    found = RunFolder(run)
    assert found.recipe().teacher.module is not None
    assert found.go_on_command() == f"litesnn design {' '.join(named)} --run {run}"
    assert "add --teacher" in refused(litesnn("design", "--run", run, "--device", "cpu"))
    assert litesnn("derive", run).code == 0
    assert "add --teacher" in refused(litesnn("train", run, "--device", "cpu", "--quiet"))
    other = refused(litesnn("train", run, "--teacher", "auto", "--device", "cpu"))
    assert f"its train.teacher is {name}, and not auto" in other
    assert litesnn("train", run, "--teacher", name, "--device", "cpu", "--quiet").code == 0
    assert litesnn("design", "--run", run, "--teacher", name, "--device", "cpu", "--quiet").code == 0
    assert json.loads((run / "metrics.json").read_text())["teacher"]["name"] == name
    (run / "network.safetensors").unlink()
    classes.write_text(PLAIN + "\n")
    line = refused(litesnn("design", "--run", run, "--teacher", name, "--device", "cpu", "--quiet"))
    assert line.endswith(f"{classes} has changed since the run began; begin another run")


def test_a_design_with_another_run(problem: Problem, finished: Path, tmp_path: Path) -> None:
    """In Python; the teacher is pinned, and another one in its place is refused before anything is done."""
    run, old = tmp_path / "run", shutil.copytree(finished, tmp_path / "old")
    done = package.design(from_run=finished, run=run, teacher=old, changes={"train.epochs": 1}, device="cpu")
    for name in ("search.safetensors", "genotype.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    assert done.metrics["teacher"] == {"name": str(old), "sha256": RunFolder(run).recipe().teacher.sha256}
    assert str(old) in (run / "report.html").read_text()
    assert rows(run / "train.jsonl")[0]["train_teacher"] > 0
    (run / "network.safetensors").unlink()
    save_network(
        old / "network.safetensors", lively_network(genotype(), input_info(load(RunFolder(run).recipe().data)))
    )
    line = refused(litesnn("design", "--run", run, "--device", "cpu"))
    assert line.endswith(f"teacher {old / 'network.safetensors'} has changed since the run began; begin another run")
    assert "teacher.sha256 was" in refused(litesnn("design", "--run", run, "--teacher", old, "--seed", "0"))


@pytest.mark.job
def test_compress_with_the_module_as_it_was(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    name = f"{tmp_path / 'net.py'}:Net"
    allow_module(name)
    torch.manual_seed(0)
    made = source.build_module(source.describe_module(name), 3)
    safetensors.torch.save_file(made.state_dict(), tmp_path / "w.safetensors")
    run = tmp_path / "run"
    options: list[str | Path] = [
        *("compress", "--model", name, "--weights", tmp_path / "w.safetensors", "--run", run, "--data", problem.data),
        *(
            "--budget",
            "900 B, T <= 2",
            "--device",
            "cpu",
            "--quiet",
            "--teacher",
            "original",
            "--set",
            "search.epochs=1",
        ),
        *("--set", "search.warmup_epochs=0", "--set", "train.epochs=1", "--set", "search.architecture_warmup_epochs=0"),
    ]
    outcome = litesnn(*options)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "train.jsonl").read_text())["train_teacher"] > 0
    assert json.loads((run / "metrics.json").read_text())["teacher"]["name"] == "original"
    del options[3:5]
    line = refused(litesnn(*options))
    assert "train.teacher is 'original', the module of litesnn compress with its weights" in line


# --- its time ---

GREY = data_of((1, 8, 8), rows=6000)


def planned(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], seconds: float, step: float = 0.01) -> Any:
    pretend(monkeypatch, GREY)
    monkeypatch.setattr(maker, "teacher_pace", lambda *_, **__: Pace(step, step, 1e-5, 0))
    return plan_for(said, seconds)


@pytest.mark.parametrize(("seconds", "step"), [(60, 0.01), (600, 0.01), (600, 2.0), (36000, 0.01)])
def test_a_plan_leaves_it_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch, seconds: float, step: float) -> None:
    plain = planned(monkeypatch, {}, seconds, step)
    plan = planned(monkeypatch, {"train.teacher": "auto"}, seconds, step)
    assert "teacher" not in plain.estimate.seconds
    assert not any("teacher" in line for line in plain.lines())
    share = plan.estimate.seconds["teacher"]
    assert 0 < share <= 0.16 * seconds
    assert plan.estimate.total <= max(seconds, plain.estimate.total + 1)
    assert plan.recipe.teacher.epochs >= 3
    assert any(line.startswith("teacher    auto, ") for line in plan.lines())
    assert "teacher.epochs" in plan.reasons


def test_what_was_said_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"train.teacher": "auto", "teacher.epochs": 2, "teacher.epoch_steps": 5, "teacher.batch_size": 10}
    plan = planned(monkeypatch, said, 600, 1.0)
    assert (plan.recipe.teacher.epochs, plan.recipe.teacher.epoch_steps) == (2, 5)
    assert plan.estimate.seconds["teacher"] == pytest.approx(2 * (5 + 1e-5 * len(GREY.validation.y)))


def test_its_seconds_are_gone_when_training_begins(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "train_pace", lambda *_, **__: Pace(0.01, 0.01, 1e-5, 0))
    bounds = []
    for name, taken in (("a", 1.0), ("b", 31.0)):
        context = derived(tmp_path / name, problem, AUTO | {"made.seconds": 100.0})
        (tmp_path / name / "teacher.jsonl").write_text(json.dumps({"epoch": 1, "seconds": taken}) + "\n")
        maker.renew_epochs(context.run, context.data, Session())
        made = context.run.recipe().made
        assert made is not None
        bounds.append(made.training)
    assert bounds[0] - bounds[1] == pytest.approx(0.96 * 30, abs=1)


def test_its_steps_are_measured(problem: Problem, tmp_path: Path) -> None:
    context = derived(tmp_path, problem, AUTO)
    pace = teacher_pace(context.recipe, context.data, context.session, seconds=0.0)
    assert 0 < pace.best <= pace.step
    assert pace.image > 0
