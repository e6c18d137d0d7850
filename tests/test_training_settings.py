"""Settings of training that are off by default: averages, mirroring in turns, cheap epochs, first weights, rates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from litesnn import processes
from litesnn.compression.stages import _require_sensible as require_sensible_module
from litesnn.config import Recipe, TrainSettings
from litesnn.data.augment import AugmentSettings, augment
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches
from litesnn.data.sources import Data, load
from litesnn.errors import InputError
from litesnn.files import JsonLog
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network
from litesnn.planning import timing
from litesnn.planning.sensible import require_sensible
from litesnn.planning.timing import train_pace
from litesnn.quantizers import QUANTIZERS
from litesnn.runs import RunFolder
from litesnn.snn.compconv import CompConv
from litesnn.snn.cost import Meter
from litesnn.snn.network import Network
from litesnn.train import fit as module
from litesnn.train.averaging import Averages, renew_statistics
from litesnn.train.fit import Trainee, TrainLoop, fit
from litesnn.train.initial import begin_weights, hand_on, patch_components, whiten
from litesnn.train.phases import Pace, Phase, Phases, require_phases, stem_filters
from litesnn.training_loop.checkpoint import load_tensors, save_tensors
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.expectation import Fixed, work_costs
from litesnn.training_loop.schedule import Schedule
from litesnn.training_loop.session import Session, input_info, one_cycle_lr
from made import data_of
from several import as_one_of, together
from tiny import genotype, lively_network, quantized_images
from tiny import input_info as tiny_input
from whole_job import Problem, begin, recipe, rows

GENE = genotype(timesteps=2, edges=((0, 0, "conv3x3"), (0, 1, "skip")))
SHAPE = (1, 8, 8)
EVERYTHING = {
    "augment.flip": "alternating",
    "train.ema": 0.2,
    "train.statistics_batches": 2,
    "train.schedule": "one-cycle",
    "train.warmup": 0.2,
    "train.bias_lr": 4.0,
    "train.short_epochs": 0.4,
    "train.small_images": 0.2,
    "train.init": "identity",
    "train.init_stem": "whitening",
    "train.freeze_stem": 0.6,
}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate(changes)


def derived(path: Path, data: Path, changes: dict[str, Any], gene: Genotype = GENE) -> tuple[RunFolder, Data, Session]:
    """A run folder as the derivation leaves it, and what else a training takes."""
    run, found, session = begin(path, data, {"budget": {}, "train.epochs": 5, "train.epoch_steps": 2} | changes)
    run.output("derive").write_text(gene.to_json())
    return run, found, session


def fitted(path: Path, data: Path, changes: dict[str, Any]) -> RunFolder:
    run, found, session = derived(path, data, changes)
    fit(StageContext.of(run, found, session))
    return run


def loop_of(data: Path, changes: dict[str, Any], gene: Genotype = GENE) -> TrainLoop[Trainee]:
    made = recipe(data, {"budget": {"bit_synops": 1000.0}} | changes)
    return TrainLoop(Trainee(build_network(gene, tiny_input(SHAPE), 0), made).train(), made)


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return quantized_images(SHAPE, size), torch.arange(size) % 3


def log_of(run: RunFolder) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "step_seconds"} for row in rows(run / "train.jsonl")]


# --- mirroring in turns ---

IN_TURNS = AugmentSettings(flip="alternating")


def test_every_image_is_mirrored_in_every_second_epoch() -> None:
    turns = [mirrored_rows(IN_TURNS, range(1000), 3, epoch) for epoch in range(4)]
    first, second, third, fourth = (turn for turn in turns if turn is not None)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert torch.equal(first, ~second)
    assert 0.4 < first.float().mean() < 0.6
    other = mirrored_rows(IN_TURNS, range(1000), 4, 0)
    assert other is not None
    assert not torch.equal(first, other)
    assert mirrored_rows(AugmentSettings(flip=True), range(9), 0, 0) is None
    assert mirrored_rows(None, range(9), 0, 0) is None


@pytest.mark.parametrize("crop", [0, 1])
def test_batches_hold_the_mirrored_rows(crop: int) -> None:
    x = torch.arange(5 * 3).view(5, 1, 1, 3).to(torch.int8)
    samples = Samples(x, torch.arange(5))
    turn = torch.tensor([True, False, True, False, False])
    order = generator_for(0, "order")
    (found,) = shuffled_batches(samples, 5, order, AugmentSettings(flip="alternating", crop=crop), mirrored=turn)
    for image, row in zip(*found, strict=True):
        middle, seen = float(x[row, 0, 0, 1]), image[0, 0].tolist()
        if crop == 0:
            assert seen == (x[row].flip(2) if turn[row] else x[row]).flatten().tolist()
        elif middle in seen[:2] and seen[seen.index(middle) + 1]:
            assert seen[seen.index(middle) + 1] == middle + (-1 if turn[row] else 1)


def test_parts_of_a_batch_are_mirrored_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(quantized_images((1, 4, 5), 12).to(torch.int8), torch.arange(12))
    turn = mirrored_rows(IN_TURNS, samples, 0, 1)

    def epoch() -> list[Tensor]:
        return [x for x, _ in shuffled_batches(samples, 6, generator_for(0, "a"), IN_TURNS, mirrored=turn)]

    whole, parts = epoch(), []
    for rank in range(2):
        as_one_of(monkeypatch, rank, 2)
        parts.append(epoch())
    for x, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(x, torch.cat(shares))


def test_frames_are_mirrored_alike_and_a_turn_has_to_be_said() -> None:
    x = torch.arange(24.0).view(2, 3, 1, 1, 4)
    found = augment(x, IN_TURNS, generator_for(0), mirrored=torch.tensor([True, False]))
    assert torch.equal(found, torch.stack([x[0].flip(3), x[1]]))
    with pytest.raises(ValueError, match="has to be said"):
        augment(x, IN_TURNS, generator_for(0))


@pytest.mark.parametrize("said", ["sometimes", 2, None, 0.5])
def test_other_ways_of_mirroring_are_refused(said: Any) -> None:
    with pytest.raises(InputError, match=r"augment\.flip: expected true, false or 'alternating', not"):
        Recipe.from_toml("[augment]\nflip = []", changes={"augment.flip": said} if said is not None else {})


def test_a_recipe_with_all_of_it_survives_a_round_trip() -> None:
    made = Recipe.from_toml("", changes=EVERYTHING)
    assert made.augment.flip == "alternating"
    assert Recipe.from_toml(made.to_toml()) == made


# --- rates ---


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.6, 0.6), (1.0, 0.2)])
def test_one_cycle_by_hand(progress: float, rate: float) -> None:
    assert one_cycle_lr(1.0, 0.2, progress, warmup=0.2) == pytest.approx(rate)
    assert one_cycle_lr(1.0, 0.0, progress) == pytest.approx(1 - progress)


def test_the_schedule_and_the_rate_of_biases_reach_the_optimizer(problem: Problem) -> None:
    loop = loop_of(problem.data, {"train.schedule": "one-cycle", "train.bias_lr": 8.0, "train.lr_min": 0.0})
    loop.step(*batch(), 0.75)
    weights, biases = loop.optimizers["weights"].param_groups
    assert weights["lr"] == pytest.approx(0.25 * loop.settings.lr)
    assert biases["lr"] == pytest.approx(8 * weights["lr"])
    assert biases["weight_decay"] == pytest.approx(loop.settings.weight_decay / 8)
    names = {id(parameter): name for name, parameter in loop.trainee.named_parameters()}
    slow, fast = ({names[id(each)] for each in group["params"]} for group in (weights, biases))
    assert {name for name in slow | fast if name.endswith("bias")} == fast != set()
    assert {"network.backbone.classifier_bias", "network.backbone.stem.norm.bias"} <= fast
    assert len(slow) + len(fast) == len(loop.trainee.weights())


def test_biases_move_as_much_faster(problem: Problem) -> None:
    moved = []
    for multiple in (1.0, 8.0):
        loop = loop_of(problem.data, {"train.bias_lr": multiple, "train.weight_decay": 0.0, "train.warmup": 0.0})
        before = {name: each.detach().clone() for name, each in loop.trainee.named_parameters()}
        loop.step(*batch(), 0.0)
        moved.append({name: each.detach() - before[name] for name, each in loop.trainee.named_parameters()})
    slow, fast = moved
    assert slow["network.backbone.classifier_bias"].abs().max() > 0
    for name, step in slow.items():
        torch.testing.assert_close(fast[name], (8 if name.endswith("bias") else 1) * step, rtol=1e-3, atol=1e-6)


# --- averages of the weights ---


class Layer(nn.Module):
    """A weight and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.zeros(())), nn.BatchNorm1d(1)

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)


def averaged(steps: int, reach: float) -> float:
    """The average after weights that were, after each step, the share of the training that was done."""
    layer = Layer()
    averages = Averages(layer, reach)
    for step in range(1, steps + 1):
        layer.set(step / steps)
        averages.update((step - 1) / steps, step / steps)
    return averages.tensors["weight"].item()


@pytest.mark.parametrize("reach", [0.05, 0.2, 0.9])
def test_an_average_does_not_depend_on_the_number_of_steps(reach: float) -> None:
    """As long as p < r it is the mean so far, p/2 with weights exp(…): then it follows at the distance r."""
    few, many = averaged(500, reach), averaged(4000, reach)
    assert few == pytest.approx(many, abs=0.003)
    if reach <= 0.2:
        assert many == pytest.approx(1 - reach, abs=0.01)


def test_averages_are_those_of_all_steps_at_first() -> None:
    layer, values = Layer(), [4.0, 2.0, 6.0]
    averages = Averages(layer, 0.9)
    found = 0.0
    for step, value in enumerate(values, 1):
        layer.set(value)
        averages.update((step - 1) / 100, step / 100)
        found += (1 - math.exp(-1 / step)) * (value - found)
    assert averages.tensors["weight"].item() == pytest.approx(found)


def test_a_network_has_its_averages_in_a_block_and_its_own_weights_after_it() -> None:
    layer = Layer()
    averages = Averages(layer, 0.5)
    assert averages
    mean = layer.norm.running_mean
    assert mean is not None
    before = {name: value.clone() for name, value in averages.tensors.items()}
    assert "norm.running_mean" in before
    layer.set(7.0)
    with averages.in_use():
        assert torch.equal(layer.weight, before["weight"])
        mean.fill_(3.0)
    assert layer.weight.item() == 7.0
    assert mean.item() == 0.0
    assert averages.tensors["norm.running_mean"].item() == 3.0
    with pytest.raises(KeyError), averages.in_use():
        raise KeyError
    assert layer.weight.item() == 7.0
    nothing = Averages(layer, 0.0)
    assert not nothing
    nothing.update(0.1, 0.2)
    with nothing.in_use():
        assert layer.weight.item() == 7.0


@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_are_the_means_over_the_batches(parts: int) -> None:
    network = lively_network(GENE, tiny_input(SHAPE))
    batches = [quantized_images(SHAPE, 6, seed) for seed in range(3)]
    norm = network.backbone.stem.norm
    found = []
    for x in (part for each in batches for part in each.tensor_split(parts)):
        norm.momentum = 1.0
        with torch.no_grad():
            network.train()(x)
        found.append(torch.stack(network.backbone.stem.running()))
    norm.momentum = 0.1
    renew_statistics(network, batches, micro_batches=parts)
    assert norm.momentum == 0.1
    torch.testing.assert_close(torch.stack(network.backbone.stem.running()), torch.stack(found).mean(0))


def shared_statistics(data: Path) -> dict[str, Any]:
    """Averages and statistics of a lively network after a step on this process's part of a batch."""
    with processes.joined():
        made = recipe(data, {"budget": {}, "train.ema": 0.5, "train.bias_lr": 2.0})
        network = lively_network(GENE, tiny_input(SHAPE)).train()
        loop, averages = TrainLoop(Trainee(network, made), made), Averages(network, 0.5)
        loop.phase = Phase(timesteps=1, of=2, pixels=4.0)
        x, y = batch(8)
        part = processes.part(8)
        loop.step(x[part], y[part], 0.3)
        averages.update(0.3, 0.4)
        with averages.in_use():
            renew_statistics(network, [x[part]])
        return {name: value.double().numpy().copy() for name, value in averages.tensors.items()}


def test_several_processes_have_the_averages_and_statistics_of_one(problem: Problem) -> None:
    alone = shared_statistics(problem.data)
    for found in together(2, shared_statistics, problem.data):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert np.abs(found[name] - value).max() <= 1e-4 * max(np.abs(value).max(), 1e-2), name


def test_the_averages_are_what_is_kept(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    real = module.validate

    def watch(network: Any, *rest: Any) -> dict[str, float]:
        found = real(network, *rest)
        seen.append({name: value.clone() for name, value in network.module.state_dict().items()})
        return found | {"validation_accuracy": 0.1 * len(seen)}

    monkeypatch.setattr(module, "validate", watch)
    run = fitted(tmp_path / "run", problem.data, {"train.ema": 0.3})
    kept = load_network(run.output("train")).state_dict()
    assert len(seen) == 5
    assert all(torch.equal(kept[name], value) for name, value in seen[-1].items())
    plain = fitted(tmp_path / "plain", problem.data, {})
    assert not torch.equal(
        load_network(plain.output("train")).backbone.classifier_bias, kept["backbone.classifier_bias"]
    )
    for one, other in zip(log_of(run), log_of(plain), strict=True):
        assert one["train_loss"] == other["train_loss"]  # steps do not see the averages


# --- going on ---


@pytest.mark.parametrize(
    ("changes", "killed"),
    [({"train.ema": 0.3}, 2), (EVERYTHING, 1), (EVERYTHING, 2)],
)
def test_a_training_with_these_settings_goes_on_as_if_unbroken(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], killed: int
) -> None:
    changes = changes | {"budget": {"bit_synops": 500.0}}
    unbroken = fitted(tmp_path / "unbroken", problem.data, changes)
    run, data, session = derived(tmp_path / "broken", problem.data, changes)
    real, calls = module.validate, iter(range(9))

    def dies(network: Any, *rest: Any) -> dict[str, float]:
        if next(calls) == killed:
            raise KeyboardInterrupt
        return real(network, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(module, "validate", dies)
        with pytest.raises(KeyboardInterrupt):
            fit(StageContext.of(run, data, session))
    fit(StageContext.of(run, data, session))
    assert run.output("train").read_bytes() == unbroken.output("train").read_bytes()
    assert log_of(run) == log_of(unbroken)


def test_a_checkpoint_without_its_averages_is_refused(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, session = derived(tmp_path / "run", problem.data, {"train.ema": 0.3})
    calls = iter(range(9))

    def dies(*_: Any) -> dict[str, float]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return {"validation_loss": 1.0, "validation_accuracy": 0.5, "bit_synops": 1.0}

    monkeypatch.setattr(module, "validate", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(StageContext.of(run, data, session))
    tensors, info = load_tensors(run.checkpoint("train"), "train state")
    others = {name: value for name, value in tensors.items() if not name.startswith("others.")}
    assert len(others) < len(tensors)
    save_tensors(run.checkpoint("train"), "train state", others, info)
    with pytest.raises(InputError, match=r"does not fit the network: it has no average of backbone\."):
        fit(StageContext.of(run, data, session))


# --- phases ---


def test_phases_by_hand() -> None:
    phases = Phases(settings(short_epochs=0.6, small_images=0.3), 4, (8, 8))
    found = [phases.at(Schedule(10), epoch) for epoch in range(10)]
    assert [phase.timesteps for phase in found] == [1] * 6 + [None] * 4
    assert [phase.pixels for phase in found] == [4.0] * 3 + [1.0] * 7
    assert [phase.share for phase in found] == [1 / 16] * 3 + [1 / 4] * 3 + [1.0] * 4
    assert [phase.reduced for phase in found] == [True] * 6 + [False] * 4
    assert phases.epochs(Schedule(10), 10) == pytest.approx(3 / 16 + 3 / 4 + 4)
    assert [share for share, _ in phases.spans()] == pytest.approx([0.3, 0.3, 0.4])
    assert [phase.share for _, phase in phases.spans()] == [1 / 16, 1 / 4, 1.0]
    assert [share for share, _ in phases.spans(0.5)] == pytest.approx([0.2, 0.8])
    assert phases.ahead(0.5, seconds=7.0, steps=2.0, share=1 / 4) == pytest.approx(5 + 8 * (0.2 / 4 + 0.8))


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_the_last_epoch_is_whole(epochs: int) -> None:
    phases = Phases(settings(short_epochs=0.95, small_images=0.95), 2, (8, 8))
    assert phases.at(Schedule(epochs), epochs - 1) == Phase()
    assert all(phases.at(Schedule(epochs), epoch).reduced for epoch in range(epochs - 1))


def test_without_shares_there_is_one_phase() -> None:
    phases = Phases(settings(), 4, (8, 8))
    assert phases.spans() == [(1.0, Phase())]
    assert not phases.any
    assert not Phases(settings(short_epochs=0.5, short_timesteps=4), 4, (8, 8)).any  # as many as there are
    assert not Phases(settings(freeze_stem=0.5, init_stem="whitening"), 4, (8, 8)).any


def test_phases_follow_a_schedule_that_was_cut() -> None:
    phases = Phases(settings(short_epochs=0.5), 2, (8, 8))
    cut = Schedule(6, 2, 0.2)  # of 10 epochs, after two
    assert [phases.at(cut, epoch).timesteps for epoch in range(2, 6)] == [1, 1, None, None]


def test_small_images_are_means_of_four_pixels() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    found = Phase(pixels=2.5).inputs(x)
    assert found.tolist() == [[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]]
    frames = torch.stack([x, 2 * x], dim=1)
    assert torch.equal(Phase(pixels=2.5).inputs(frames), torch.stack([found, 2 * found], dim=1))
    assert Phase().inputs(x) is x


@pytest.mark.parametrize(("timesteps", "groups"), [(1, [[0, 1, 2, 3, 4]]), (2, [[0, 1, 2], [3, 4]])])
def test_no_event_is_left_out_of_fewer_timesteps(timesteps: int, groups: list[list[int]]) -> None:
    frames = torch.arange(7.0).view(1, 7, 1, 1, 1).expand(2, 7, 3, 2, 2)
    found = Phase(timesteps=timesteps, of=5).inputs(frames)
    assert found.shape == (2, timesteps, 3, 2, 2)
    assert found[0, :, 0, 0, 0].tolist() == [sum(group) / len(group) for group in groups]


def test_work_that_is_counted_is_that_of_the_whole_network() -> None:
    network = lively_network(GENE, tiny_input(SHAPE)).train()
    x = quantized_images(SHAPE, 4)
    counted: list[list[float]] = []
    for phase in (Phase(), Phase(timesteps=1, of=2), Phase(pixels=4.0), Phase(timesteps=1, of=2, pixels=4.0)):
        meter = Meter()
        with torch.no_grad():
            output = network(phase.inputs(x), meter=meter, **phase.options)
        assert len(output.logits) == (phase.timesteps or 2)
        found = work_costs(["bit_synops", "synops", "energy_nj"], Fixed(meter, network.analog_macs, phase.times))
        counted.append([float(found[key]) for key in ("bit_synops", "synops", "energy_nj")])
        assert min(counted[-1]) > 0
    for other in counted[1:]:
        assert all(0.6 < one / all_of_it < 1.6 for one, all_of_it in zip(other, counted[0], strict=True))


def test_the_measured_ratio_begins_anew_where_the_work_of_a_step_changes(problem: Problem) -> None:
    loop = loop_of(problem.data, {})
    for phase, kept in ((Phase(frozen=True), True), (Phase(1, 2), False), (Phase(1, 2), True), (Phase(), False)):
        loop.deployed_ratios = {"bit_synops": 2.0}
        loop.phase = phase
        assert loop.deployed_ratios == {"bit_synops": 2.0 if kept else 1.0}
    loop.phase = Phase(1, 2)
    short = loop.step(*batch(), 0.1)
    assert short["train_bit_synops"] > 0


def test_steps_of_a_phase_are_recorded_anew(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def recorded(step: Any, *_: Any) -> Any:
        made.append(step)
        return step

    monkeypatch.setattr(module, "recorded", recorded)
    loop = loop_of(problem.data, {})
    for phase in (Phase(), Phase(1, 2), Phase(1, 2), Phase()):
        loop.phase = phase
    assert len(made) == 3


def test_a_training_goes_through_its_phases(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    forward = Network.forward

    def watch(self: Any, x: Tensor, **options: Any) -> Any:
        sizes.append((len(x), x.shape[-1], options.get("timesteps") or 2))
        return forward(self, x, **options)

    monkeypatch.setattr(Network, "forward", watch)
    changes = {"train.short_epochs": 0.4, "train.small_images": 0.2, "train.statistics_batches": 1}
    run = fitted(tmp_path / "run", problem.data, changes)
    log = JsonLog.read(run / "train.jsonl")
    assert [row["step_timesteps"] for row in log] == [1, 1, 2, 2, 2]
    assert [row["step_share"] for row in log] == [1 / 8, 1 / 2, 1.0, 1.0, 1.0]
    assert all(0 < row["step_seconds"] <= row["seconds"] for row in log)
    step, small, short = (24, 8, 2), (24, 4, 1), (24, 8, 1)
    validated = [(24, 8, 2)]
    wanted = [small] * 2 + [step] + validated + [short] * 2 + [step] + validated + 3 * ([step] * 2 + validated)
    assert sizes[: len(wanted)] == wanted


@pytest.mark.parametrize("kind", ["image", "array", "events"])
def test_images_too_small_and_what_is_no_image_are_refused(kind: Any) -> None:
    made = Recipe.from_toml("", changes={"train.small_images": 0.3, "model.levels": [0, 1, 2]})
    data = data_of((2 if kind == "events" else 1, 7, 9), kind=kind)
    with pytest.raises(InputError, match=r"^train\.small_images is 0\.3, but equal holds"):
        require_sensible(made, data)
    require_sensible(made.changed({"train.small_images": 0.0}), data)
    if kind == "image":
        require_sensible(made, data_of((1, 8, 9)))
    require_phases(made, (1, 40, 98), "array", sound=True, origin="sound")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train.short_timesteps": 2}, "short_timesteps needs short_epochs"),
        ({"train.freeze_stem": 0.5}, "freeze_stem needs init_stem 'whitening'"),
        ({"train.short_epochs": 1.0}, "train.short_epochs"),
        ({"train.ema": 1.0}, "train.ema"),
        ({"train.schedule": "step"}, "train.schedule"),
        ({"train.bias_lr": 0}, "train.bias_lr"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Recipe.from_toml("", changes=changes)


@pytest.mark.parametrize(
    ("key", "value"), [("short_epochs", 0.5), ("small_images", 0.5), ("init", "identity"), ("init_stem", "whitening")]
)
def test_users_modules_have_none_of_what_changes_their_forward(key: str, value: Any) -> None:
    made = Recipe.from_toml("", changes={f"train.{key}": value})
    with pytest.raises(InputError, match=rf"^train\.{key} is for networks of ours, not for users' modules; expected"):
        require_sensible_module(made)
    require_sensible_module(Recipe.from_toml("", changes={"train.ema": 0.1, "train.bias_lr": 2.0}))


# --- time ---


def test_the_pace_of_cheap_epochs_is_none_of_whole_ones(tmp_path: Path) -> None:
    """Ten epochs, six of them at a quarter: those that are done say what the mean of the others will take."""
    phases, schedule = Phases(settings(short_epochs=0.6), 4, (8, 8)), Schedule(10)
    pace = Pace(phases, tmp_path / "none", 0)
    log = tmp_path / "train.jsonl"
    with log.open("w") as file:
        for epoch in range(10):
            phase = phases.at(schedule, epoch)
            steps = 8.0 * phase.share
            row = pace.add(steps + 1.0, steps, phase)
            file.write(json.dumps({"epoch": epoch + 1, "seconds": steps + 1.0} | row) + "\n")
            left = sum(8 * phases.at(schedule, later).share + 1 for later in range(epoch + 1, 10))
            ahead = pace.ahead(schedule.at(epoch + 1))
            assert ahead is not None
            if epoch < 9:
                assert ahead == pytest.approx([left / (9 - epoch)] * (epoch + 1))
            whole = schedule.after(epoch + 1, pace.taken, 54.0, most=20, ahead=ahead)
            assert whole == schedule  # 12 + 32 + 10 s: it ends in time, and has no time for more
    assert schedule.after(1, [3.0], 54.0, most=20) != schedule  # without knowing of phases
    again = Pace(phases, log, 10)
    assert (again.taken, again.ahead(0.5)) == (pace.taken, pace.ahead(0.5))
    assert Pace(Phases(settings(), 4, (8, 8)), tmp_path / "none", 0).ahead(0.5) is None


def test_the_planned_pace_is_that_of_the_mean_epoch(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Phase] = []
    real = TrainLoop.step

    def step(self: TrainLoop[Any], *arguments: Any) -> Any:
        found.append(self.phase)
        return real(self, *arguments)

    def measured(step: Any, *_: Any) -> tuple[float, float]:
        step()
        return 8.0 * found[-1].share, 4.0 * found[-1].share

    monkeypatch.setattr(TrainLoop, "step", step)
    monkeypatch.setattr(timing, "_measured", measured)
    monkeypatch.setattr(timing, "_checkpoint_seconds", lambda *_: 1.0)
    clock = iter(range(99))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    made = recipe(problem.data, {"train.short_epochs": 0.5, "train.statistics_batches": 3})
    data = load(made.data)
    pace = train_pace(made, GENE, data, Session())
    assert [phase.timesteps for phase in found] == [1, None]
    assert (pace.step, pace.best) == (6.0, 3.0)
    assert pace.epoch == 1.0 + 0.5 * 3
    assert train_pace(recipe(problem.data), GENE, data, Session()).epoch == 1.0


# --- first weights ---


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 4, 1), (3, 5, 1), (5, 3, 1), (6, 6, 6), (4, 8, 2)])
def test_first_channels_hand_on_what_they_read(inputs: int, outputs: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = CompConv(inputs, outputs, 3, groups=groups)
    drawn = conv.weight.detach().clone()
    hand_on(conv)
    x = torch.rand(2, inputs, 5, 5)
    handed = min(inputs, outputs) // groups
    y = conv.convolve(x, conv.dense(conv.weight.detach())) / math.sqrt(2)
    for group in range(groups):
        first_out, first_in = group * outputs // groups, group * inputs // groups
        rest = drawn[first_out : first_out + handed] * 0.1
        for channel in range(handed):
            one = conv.weight[first_out + channel].detach().clone()
            one[channel, 1, 1] -= math.sqrt(2)
            torch.testing.assert_close(one, rest[channel])
            noise = (y[:, first_out + channel] - x[:, first_in + channel]).abs().mean()
            assert noise < 0.5
        assert torch.equal(
            conv.weight[first_out + handed : (group + 1) * outputs // groups],
            drawn[first_out + handed : (group + 1) * outputs // groups],
        )
    assert torch.equal(conv.scores, conv.weight / conv.weight.std(correction=0))


def test_the_cells_of_a_network_begin_so_and_nothing_else() -> None:
    gene = genotype(edges=((0, 0, "conv3x3"), (0, 1, "conv1x1"), (1, 2, "skip")))
    plain, other = (build_network(gene, tiny_input(SHAPE), 0) for _ in range(2))
    begin_weights(other, settings(init="identity"), lambda: torch.empty(0))
    changed = [
        name
        for (name, one), two in zip(plain.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    assert changed
    assert all("conv3x3" in name and name.endswith(("weight", "scores")) for name in changed)
    begin_weights(plain, settings(), lambda: torch.empty(0))
    assert [name for name in changed if torch.equal(plain.get_parameter(name), other.get_parameter(name))] == []


def smooth(count: int = 200, channels: int = 3) -> Tensor:
    """Images int8 whose neighbours are alike, in space and in colour."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, 12, 12, generator=rng)
    for _ in range(3):
        x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + 3 * x.mean(1, keepdim=True) + 0.02 * torch.randn(x.shape, generator=rng)
    return (x * 32 / x.std()).round().clamp(-127, 127).to(torch.int8)


def correlation(filters: Tensor, covariance: Tensor) -> float:
    """The mean |correlation| of different outputs."""
    joint = filters.double().flatten(1) @ covariance @ filters.double().flatten(1).T
    deviation = joint.diagonal().clamp_min(1e-12).sqrt()
    found = (joint / deviation / deviation[:, None]).abs()
    return float((found.sum() - len(found)) / (len(found) * (len(found) - 1)))


def test_components_are_white() -> None:
    components, variances, covariance = patch_components(smooth(), 3)
    joint = components @ covariance @ components.T
    torch.testing.assert_close(joint, torch.diag(variances), rtol=1e-6, atol=1e-6 * float(variances[0]))
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)
    assert variances[0] > 100 * variances[-1]
    grey = smooth(channels=1).expand(-1, 3, -1, -1)
    assert len(patch_components(grey, 3)[0]) == 9  # what never varies is no component
    tiny, _, _ = patch_components(smooth()[:, :, :2, :2], 3)
    assert tiny.shape[1] == 27
    frames = smooth().view(50, 4, 3, 12, 12)
    torch.testing.assert_close(patch_components(frames, 3)[1], variances)


@pytest.mark.parametrize("quantizer", ["midrise", "learned_step"])
def test_a_whitening_stem_survives_four_bits(quantizer: str) -> None:
    torch.manual_seed(0)
    conv = CompConv(3, 54, 3, quantizer=QUANTIZERS[quantizer])
    inputs = smooth()
    components, _, covariance = patch_components(inputs, 3)

    def after_rounding() -> Tensor:
        return conv.codes(4, torch.ones_like(conv.weight))[0][::2]  # without the negatives

    drawn = correlation(after_rounding(), covariance)
    with torch.no_grad():
        conv.weight.copy_(torch.stack([components, -components], 1).flatten(0, 1).view_as(conv.weight))
    conv.begin()
    plain = correlation(after_rounding(), covariance)
    whiten(conv, 4, inputs)
    found = correlation(after_rounding(), covariance)
    assert found < 0.7 * plain < drawn
    codes = conv.codes(4, torch.ones_like(conv.weight))[0]
    assert torch.equal(codes[::2], -codes[1::2])


@pytest.mark.parametrize(("outputs", "drawn"), [(5, 0), (18, 0), (25, 7)])
def test_a_stem_has_as_many_components_as_it_has_filters(outputs: int, drawn: int) -> None:
    conv = CompConv(1, outputs, 3)
    before = conv.weight.detach().clone()
    whiten(conv, 4, smooth(channels=1))
    alike = nn.functional.cosine_similarity(conv.weight.flatten(1), before.flatten(1)) > 0.95
    assert int(alike[len(alike) - drawn :].sum()) == drawn
    assert not alike[: len(alike) - drawn].any()
    assert torch.equal(conv.scores, conv.weight / conv.weight.std(correction=0))


def test_a_frozen_stem_keeps_its_filters_and_then_learns(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters: list[Tensor] = []
    real = module.validate

    def watch(network: Any, *rest: Any) -> dict[str, float]:
        filters.append(network.backbone.stem.conv.weight.detach().clone())
        return real(network, *rest)

    monkeypatch.setattr(module, "validate", watch)
    fitted(tmp_path / "run", problem.data, {"train.init_stem": "whitening", "train.freeze_stem": 0.4})
    assert torch.equal(filters[0], filters[1])
    assert not torch.equal(filters[1], filters[2])
    info = tiny_input(SHAPE)
    network = build_network(GENE, info, 0)
    data = load(recipe(problem.data).data)
    begin_weights(network, settings(init_stem="whitening"), lambda: Session().samples(data.train, input_info(data)).x)
    assert network.backbone.stem.conv is not None
    assert torch.equal(network.backbone.stem.conv.weight, filters[0])


def test_what_a_stem_freezes_is_found_by_name(problem: Problem) -> None:
    loop = loop_of(problem.data, {"train.init_stem": "whitening", "train.freeze_stem": 0.5})
    (weight,) = stem_filters(loop.trainee)
    assert weight is loop.trainee.network.backbone.stem.conv.weight  # type: ignore[union-attr]
    loop.phase = Phase(frozen=True)
    before = weight.detach().clone()
    loop.step(*batch(), 0.1)
    assert torch.equal(weight, before)
    loop.phase = Phase()
    loop.step(*batch(), 0.1)
    assert not torch.equal(weight, before)
