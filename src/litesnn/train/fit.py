"""Training of a derived network from scratch.

In: ``genotype.json`` and data. Out: ``network.safetensors``, the best network on validation that keeps the Bit-SynOps
limit, and ``train.jsonl`` (one row per epoch).

    loss = CE(y_T) + auxiliary weight · CE(auxiliary head) + Bit-SynOps constraint

Cosine learning rates; the pruning scores go on learning, ever slower. Shapes: T timesteps, B batch, C channels.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from litesnn import processes
from litesnn.config import Recipe
from litesnn.data.batches import Samples, generator_for, shuffled_batches, steps_per_epoch
from litesnn.data.sources import Data
from litesnn.files import JsonLog, validated
from litesnn.genotype import Genotype
from litesnn.loop.checkpoint import load_state, save_state
from litesnn.loop.constraint import Constraint
from litesnn.loop.divergence import require_converging
from litesnn.loop.graphs import optimizer_options, recorded, set_lr
from litesnn.loop.memory import StepPlan
from litesnn.loop.micro_batches import backward_in_parts
from litesnn.loop.progress import Epoch, EpochLog, RunningMeans, progress_bar
from litesnn.loop.schedule import SavedSchedule, Schedule
from litesnn.loop.session import Session, cosine_lr, input_info, parameters
from litesnn.networks import build_network, load_network, save_network
from litesnn.runs import RunFolder
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.footprint import Footprint, step_footprint
from litesnn.snn.network import Network
from litesnn.train.evaluate import MeasurableNetwork, measure, silence

__all__ = [
    "AuxiliaryHead",
    "Learner",
    "TrainLoop",
    "Trainee",
    "auxiliary_cell",
    "fit",
    "fit_learner",
    "train_footprint",
    "validate",
]

LearnerT = TypeVar("LearnerT", bound="Learner")

LIMIT_MARGIN = 0.97
"""Training aims a little below the Bit-SynOps limit: the test set fires a little differently from validation."""

_EVALUATION_BATCH = 256


def auxiliary_cell(cells: int) -> int | None:
    """The cell, two thirds of the way, that an auxiliary head reads; ``None`` below three cells."""
    return None if cells < 3 else 2 * cells // 3 - 1


class AuxiliaryHead(nn.Module):
    """Pooled spikes of an inner cell, averaged over time, to logits. Only training has it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, spikes: Tensor) -> Tensor:
        """[T, B, C, H, W] → [B, K]."""
        logits: Tensor = self.linear(spikes.mean(dim=(0, 3, 4)))
        return logits


class Learner(Protocol):
    """A network with what only training has."""

    tap: int | None
    auxiliary: AuxiliaryHead | None

    @property
    def module(self) -> nn.Module:
        """All that learns."""
        ...

    @property
    def network(self) -> MeasurableNetwork:
        """What is trained."""
        ...

    def scores(self) -> list[nn.Parameter]:
        """Pruning scores that learn."""
        ...

    def weights(self) -> list[nn.Parameter]:
        """All other parameters that learn."""
        ...


class Trainee(nn.Module):
    """The network, its auxiliary head, and the best network so far."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        tap = auxiliary_cell(len(network.genotype.cells))
        self.tap = tap if recipe.train.auxiliary_weight > 0 else None
        self.auxiliary: AuxiliaryHead | None = None
        if self.tap is not None:
            channels = network.backbone.cell(self.tap).output.channels
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(generator_for(recipe.seed, "auxiliary").initial_seed())
                self.auxiliary = AuxiliaryHead(channels, len(network.info.classes))

    @property
    def module(self) -> nn.Module:
        """All that learns."""
        return self

    def scores(self) -> list[nn.Parameter]:
        """Pruning scores of the cells."""
        return [p for name, p in self.network.backbone.cells.named_parameters() if name.endswith(".scores")]

    def weights(self) -> list[nn.Parameter]:
        """All other parameters that learn."""
        return [p for name, p in self.named_parameters() if not name.endswith("scores")]


class TrainLoop(Generic[LearnerT]):
    """The state of a training between two steps, and the step."""

    def __init__(
        self, trainee: LearnerT, recipe: Recipe, *, execution: Execution = Execution(), micro_batches: int = 1
    ) -> None:
        settings = recipe.train
        self.trainee, self.settings = trainee, settings
        self.execution, self.micro_batches = execution, micro_batches
        device = trainee.network.device
        options = partial(optimizer_options, device, execution)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "weights": torch.optim.SGD(
                trainee.weights(),
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
                **options(settings.lr),
            ),
            "scores": torch.optim.Adam(trainee.scores(), **options(settings.score_lr, adam=True)),
        }
        limit = recipe.budget.bit_synops
        self.activity = (
            None
            if limit is None
            else Constraint(
                LIMIT_MARGIN * limit,
                penalty=settings.penalty,
                dual_lr=settings.dual_lr,
                device=device,
            )
        )
        # Augmented images and batch statistics fire differently from what will be deployed. The limit is on the latter:
        # a training batch counts as so many times its Bit-SynOps, as measured after the epoch before.
        self._deployed_ratio = torch.ones((), device=device)
        self._compute = recorded(self._plain_step, device, execution)

    @property
    def deployed_ratio(self) -> float:
        """Bit-SynOps as deployed ÷ those of a training batch. Reading it waits for the device."""
        return float(self._deployed_ratio)

    @deployed_ratio.setter
    def deployed_ratio(self, value: float) -> None:
        self._deployed_ratio.fill_(value)

    def step(self, x: Tensor, y: Tensor, progress: float) -> Mapping[str, Tensor]:
        """One optimisation step after the fraction ``progress`` of all steps; nothing in it waits for the device.

        What it returns is to be read before the next step.
        """
        settings = self.settings
        set_lr(self.optimizers["weights"], cosine_lr(settings.lr, settings.lr_min, progress, warmup=settings.warmup))
        set_lr(self.optimizers["scores"], cosine_lr(settings.score_lr, 0.0, progress))
        return self._compute(x, y)

    def _plain_step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        settings, trainee = self.settings, self.trainee
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        found = backward_in_parts(x, y, self._forward, self.micro_batches)
        if self.activity is not None:
            self.activity.update(processes.agreed(found["train_bit_synops"] * self._deployed_ratio))
        processes.average_gradients(parameters(self.optimizers.values()))
        torch.nn.utils.clip_grad_norm_(trainee.weights(), settings.grad_clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return found

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a (micro-)batch, and what is logged of it."""
        trainee, meter = self.trainee, None if self.activity is None else Meter()
        output = trainee.network(x, meter=meter, tap=trainee.tap, execution=self.execution)
        loss = F.cross_entropy(output.logits[-1], y, label_smoothing=self.settings.label_smoothing)
        values = {"train_loss": loss, "train_accuracy": (output.logits[-1].argmax(1) == y).float().mean()}
        if trainee.auxiliary is not None and output.tap is not None:
            loss = loss + self.settings.auxiliary_weight * F.cross_entropy(trainee.auxiliary(output.tap), y)
        if self.activity is not None and meter is not None:
            used = meter.bit_synops().sum()
            values["train_bit_synops"] = used
            loss = loss + self.activity.loss(used * self._deployed_ratio)
        return loss, values


def fit(run: RunFolder, data: Data, session: Session) -> Path:
    """Train, from the last checkpoint if there is one. Returns the path of ``network.safetensors``.

    Raises:
        InputError: the genotype or a checkpoint is missing or damaged, a file cannot be written, or training diverges.
    """
    recipe, info = run.recipe(), input_info(data)
    genotype = Genotype.read(run.need("derive"))
    network = build_network(genotype, info, recipe.seed)
    trainee = Trainee(network, recipe).to(session.device)

    plan = partial(session.plan, "train", partial(train_footprint, network))
    return fit_learner(
        *(run, data, session, trainee, plan),
        save=lambda path: save_network(path, network),
        load=lambda path: load_network(path).to(session.device),
    )


def train_footprint(network: Network, execution: Execution) -> Footprint:
    """The memory that a step of training takes."""
    return step_footprint(network.backbone, network.timesteps, execution, frames=network.info.frames)


def fit_learner(
    run: RunFolder,
    data: Data,
    session: Session,
    trainee: Learner,
    plan_steps: Callable[[int], StepPlan],
    *,
    save: Callable[[Path], None],
    load: Callable[[Path], MeasurableNetwork],
) -> Path:
    """The training of any network, as :func:`fit`.

    Args:
        trainee: on the session's device.
        plan_steps: plans the steps of a batch size.
        save: writes the network of ``trainee``.
        load: reads it again, onto the session's device.
    """
    recipe, network, module = run.recipe(), trainee.network, trainee.module
    train = session.samples(data.train, network.info, recipe.augment)
    validation = session.samples(data.validation, network.info)
    processes.equalize(module.state_dict().values())
    plan = plan_steps(min(recipe.train.batch_size, len(train)))
    training = TrainLoop(trainee, recipe, execution=plan.execution, micro_batches=plan.micro_batches)
    checkpoint, best_path = run.checkpoint("train"), run.best
    done, best, schedule = 0, None, Schedule(recipe.train.epochs)
    if checkpoint.exists() and best_path.exists():  # a finished training gives up one, then the other
        found = load_state(checkpoint, "train state", module, training.optimizers)
        saved = validated(_SavedState, {"schedule": asdict(schedule)} | found, checkpoint)
        done, best = saved.epoch, saved.best
        schedule = saved.schedule.schedule()
        if training.activity is not None:
            training.activity.multiplier = saved.multiplier
            training.deployed_ratio = saved.deployed_ratio
    size = recipe.train.batch_size
    steps = steps_per_epoch(train, size, recipe.train.epoch_steps)
    run.start("train")  # nothing is refused any more
    if not done:  # a checkpoint that was not taken is none for later either
        checkpoint.unlink(missing_ok=True)
    if done:
        session.show(f"[dim]train: goes on with epoch {done + 1} of {schedule.epochs}[/]")
    log = EpochLog(run, "train", done_epochs=done, tensorboard=session.tensorboard)
    bound = 0.0 if recipe.made is None else recipe.made.training
    taken = JsonLog.numbers(run / "train.jsonl", "seconds") if done else []  # seconds of each epoch
    with progress_bar(session.console) as bar:
        task = bar.add_task("train", total=schedule.epochs * steps, completed=done * steps, status="")
        for epoch in itertools.count(done):
            if epoch >= schedule.epochs:
                break
            started, means = time.perf_counter(), RunningMeans()
            module.train()
            order = generator_for(recipe.seed, "train", epoch)
            batches = shuffled_batches(train, size, order, recipe.augment, most=steps)
            for step, (x, y) in enumerate(batches):
                means.add(training.step(x, y, schedule.at(epoch + step / steps)))
                bar.advance(task)
            trained, measured = means.means(), validate(network, validation)
            require_converging(run, recipe, "train", {"epoch": epoch + 1} | trained | measured, module.parameters())
            rank = _rank(measured, None if training.activity is None else training.activity.limit)
            is_best = best is None or rank > tuple(best)
            if is_best:
                best = rank
            multiplier = 0.0 if training.activity is None else training.activity.multiplier
            row: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - started, 3)}
            if training.activity is not None:
                training.deployed_ratio = measured["bit_synops"] / max(trained["train_bit_synops"], 1.0)
            row |= trained | measured | {"activity_multiplier": multiplier, "best": is_best}
            row["micro_batches"], row["options"] = plan.micro_batches, session.options()
            row["learning_rate"] = float(training.optimizers["weights"].param_groups[0]["lr"])
            log.write(row)
            accuracy = f"validation accuracy {measured['validation_accuracy']:.1%}"
            bar.update(task, status=f"epoch {epoch + 1} of {schedule.epochs}, {accuracy}")
            if is_best:
                save(best_path)
            memory: dict[str, Any] = {"epoch": epoch + 1, "best": best, "multiplier": multiplier}
            memory["deployed_ratio"] = training.deployed_ratio
            taken.append(row["seconds"])
            changed = schedule.after(epoch + 1, taken, bound, most=recipe.train.epochs)
            if changed != schedule:
                session.warn(changed.describe_change(schedule))
                bar.update(task, total=changed.epochs * steps)
            schedule = changed
            memory["schedule"] = asdict(schedule)
            save_state(checkpoint, "train state", module, training.optimizers, memory)
            session.tell(Epoch("train", epoch + 1, schedule.epochs, row))
    log.close()
    note = silence(measure(load(best_path), validation).rates, "validation", recipe.budget)
    if note is not None:
        session.warn(note)
    best_path.replace(run.output("train"))
    checkpoint.unlink(missing_ok=True)
    run.diverged("train").unlink(missing_ok=True)
    return run.output("train")


class _SavedState(BaseModel):
    """What a checkpoint of a training says besides tensors."""

    model_config = ConfigDict(allow_inf_nan=False)

    epoch: int = Field(ge=1, le=2**31)
    best: tuple[float, float, float]
    multiplier: float
    deployed_ratio: float
    schedule: SavedSchedule


@torch.no_grad()
def validate(network: MeasurableNetwork, rows: Samples) -> dict[str, float]:
    """Loss, accuracy and Bit-SynOps per sample of the deployed arithmetic on a split."""
    network.module.eval()
    loss = correct = bit_synops = 0.0
    part = rows.part()
    with processes.apart():
        for x, y in part.batches(_EVALUATION_BATCH):
            meter = Meter()
            logits = network(x, meter=meter).logits[-1]
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            correct += int((logits.argmax(1) == y).sum())
            bit_synops += float(meter.bit_synops().sum()) * len(y)
    sums = processes.total_(torch.tensor([loss, correct, bit_synops], dtype=torch.float64))
    loss, correct, bit_synops = (sums / len(rows)).tolist()
    return {"validation_loss": loss, "validation_accuracy": correct, "bit_synops": bit_synops}


def _rank(measured: dict[str, float], limit: float | None) -> tuple[float, float, float]:
    """Networks within the limit come before those beyond it; then accuracy counts, then loss."""
    excess = 0.0 if limit is None else max(0.0, measured["bit_synops"] / limit - 1)
    return (-excess, measured["validation_accuracy"], -measured["validation_loss"])
