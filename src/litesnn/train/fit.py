"""Training of a derived network from scratch.

In: ``genotype.json`` and data. Out: ``network.safetensors``, the best network on validation that keeps the Bit-SynOps
limit, and ``train.jsonl`` (one row per epoch).

    loss = CE(y_T) + auxiliary weight · CE(auxiliary head) + Bit-SynOps constraint

Cosine learning rates; the pruning scores go on learning, ever slower. Shapes: T timesteps, B batch, C channels.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from litesnn import processes
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.costs.work import BIT_SYNOPS
from litesnn.data.batches import Samples, generator_for, shuffled_batches, steps_per_epoch
from litesnn.errors import InputError
from litesnn.files import JsonLog, validated
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network, save_network
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate, estimate_step
from litesnn.snn.network import Network
from litesnn.snn.predictor import Predictor
from litesnn.snn.undecayed import decay_groups
from litesnn.train.evaluate import measure, silence
from litesnn.training_loop.checkpoint import load_state, save_state
from litesnn.training_loop.constraint import Constraint
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.divergence import require_converging
from litesnn.training_loop.expectation import Fixed, work_costs
from litesnn.training_loop.graphs import optimizer_options, recorded, set_lr
from litesnn.training_loop.memory import StepPlan
from litesnn.training_loop.micro_batches import backward_in_parts
from litesnn.training_loop.progress import Epoch, EpochLog, RunningMeans, progress_bar
from litesnn.training_loop.schedule import SavedSchedule, Schedule
from litesnn.training_loop.session import cosine_lr, parameters

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
    def network(self) -> Predictor:
        """The module that is trained."""
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
                decay_groups(trainee.weights()),
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
                **options(settings.lr),
            ),
            "scores": torch.optim.Adam(trainee.scores(), **options(settings.score_lr, adam=True)),
        }
        self.limits = {
            key: Constraint(LIMIT_MARGIN * limit, penalty=settings.penalty, dual_lr=settings.dual_lr, device=device)
            for key, limit in recipe.budget.limits().items()
            if COSTS[key].is_work
        }
        # Augmented images and batch statistics fire differently from what will be deployed. The limit is on the latter:
        # a training batch counts as so many times its cost, as measured after the epoch before.
        self._deployed_ratios = {key: torch.ones((), device=device) for key in self.limits}
        self._compute = recorded(self._plain_step, device, execution)

    @property
    def multipliers(self) -> dict[str, float]:
        """The multiplier of each limit. Reading waits for the device."""
        return {key: limit.multiplier for key, limit in self.limits.items()}

    @property
    def deployed_ratios(self) -> dict[str, float]:
        """For each limited cost, deployed ÷ that of a training batch. Reading waits for the device."""
        return {key: float(ratio) for key, ratio in self._deployed_ratios.items()}

    @deployed_ratios.setter
    def deployed_ratios(self, values: Mapping[str, float]) -> None:
        for key, ratio in self._deployed_ratios.items():
            ratio.fill_(values[key])

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
        for key, limit in self.limits.items():
            limit.update(processes.agreed(found[f"train_{key}"] * self._deployed_ratios[key]))
        processes.average_gradients(parameters(self.optimizers.values()))
        torch.nn.utils.clip_grad_norm_(trainee.weights(), settings.grad_clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return found

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a (micro-)batch, and what is logged of it."""
        trainee, meter = self.trainee, Meter() if self.limits else None
        output = trainee.network(x, meter=meter, tap=trainee.tap, execution=self.execution)
        loss = F.cross_entropy(output.logits[-1], y, label_smoothing=self.settings.label_smoothing)
        values = {"train_loss": loss, "train_accuracy": (output.logits[-1].argmax(1) == y).float().mean()}
        if trainee.auxiliary is not None and output.tap is not None:
            loss = loss + self.settings.auxiliary_weight * F.cross_entropy(trainee.auxiliary(output.tap), y)
        if meter is not None:
            for key, used in work_costs(self.limits, Fixed(meter, trainee.network.analog_macs)).items():
                values[f"train_{key}"] = used
                loss = loss + self.limits[key].loss(used * self._deployed_ratios[key])
        return loss, values


def fit(context: StageContext) -> Path:
    """Train, from the last checkpoint if there is one. Returns the path of ``network.safetensors``.

    Raises:
        InputError: the genotype or a checkpoint is missing or damaged, a file cannot be written, or training diverges.
    """
    recipe, session = context.recipe, context.session
    genotype = Genotype.read(context.run.need("derive"))
    network = build_network(genotype, context.info, recipe.seed)
    trainee = Trainee(network, recipe).to(session.device)

    plan = partial(session.plan, "train", partial(train_footprint, network))
    return fit_learner(
        *(context, trainee, plan),
        save=lambda path: save_network(path, network),
        load=lambda path: load_network(path).to(session.device),
    )


def train_footprint(network: Network, execution: Execution) -> MemoryEstimate:
    """The memory that a step of training takes."""
    return estimate_step(network.backbone, network.timesteps, execution, frames=network.info.frames)


def fit_learner(
    context: StageContext,
    trainee: Learner,
    plan_steps: Callable[[int], StepPlan],
    *,
    save: Callable[[Path], None],
    load: Callable[[Path], Predictor],
) -> Path:
    """The training of any network, as :func:`fit`.

    Args:
        context: of the stage.
        trainee: on the session's device.
        plan_steps: plans the steps of a batch size.
        save: writes the network of ``trainee``.
        load: reads it again, onto the session's device.
    """
    run, recipe, data, session = context.run, context.recipe, context.data, context.session
    network, module = trainee.network, trainee.module
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
        for key, limit in training.limits.items():
            if key not in saved.multipliers or key not in saved.deployed_ratios:
                raise InputError(f"{checkpoint} is damaged: it has no multiplier of {key}")
            limit.multiplier = saved.multipliers[key]
        training.deployed_ratios = saved.deployed_ratios
    size = recipe.train.batch_size
    steps = steps_per_epoch(train, size, recipe.train.epoch_steps)
    run.start("train")  # nothing is refused any more
    if not done:  # a checkpoint that was not taken is none for later either
        checkpoint.unlink(missing_ok=True)
    if done:
        session.show(f"[dim]train: goes on with epoch {done + 1} of {schedule.epochs}[/]")
    log = EpochLog(run, "train", done_epochs=done, tensorboard=session.tensorboard)
    bound, most = (0.0, 0) if recipe.made is None else (recipe.made.training, recipe.made.most_epochs)
    most = max(most, recipe.train.epochs)
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
            trained, measured = means.means(), validate(network, validation, training.limits)
            require_converging(run, recipe, "train", {"epoch": epoch + 1} | trained | measured, module.parameters())
            rank = _rank(measured, {key: limit.limit for key, limit in training.limits.items()})
            is_best = best is None or rank > tuple(best)
            if is_best:
                best = rank
            multipliers = training.multipliers
            row: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - started, 3)}
            training.deployed_ratios = {
                key: measured[key] / max(trained[f"train_{key}"], 1e-6 * limit.limit)
                for key, limit in training.limits.items()
            }
            row |= trained | measured | {"multipliers": multipliers, "best": is_best}
            row["micro_batches"], row["options"] = plan.micro_batches, session.options()
            row["learning_rate"] = float(training.optimizers["weights"].param_groups[0]["lr"])
            log.write(row)
            accuracy = f"validation accuracy {measured['validation_accuracy']:.1%}"
            bar.update(task, status=f"epoch {epoch + 1} of {schedule.epochs}, {accuracy}")
            if is_best:
                save(best_path)
            memory: dict[str, Any] = {"epoch": epoch + 1, "best": best, "multipliers": multipliers}
            memory["deployed_ratios"] = training.deployed_ratios
            taken.append(row["seconds"])
            changed = schedule.after(epoch + 1, taken, bound, most=most)
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
    """The metadata of a training's checkpoint."""

    model_config = ConfigDict(allow_inf_nan=False)

    epoch: int = Field(ge=1, le=2**31)
    best: tuple[float, float, float]
    multipliers: dict[str, float]
    deployed_ratios: dict[str, float]
    schedule: SavedSchedule

    @model_validator(mode="before")
    @classmethod
    def _from_one_limit(cls, values: Any) -> Any:
        """Checkpoints once had the limit on Bit-SynOps alone."""
        if isinstance(values, dict) and {"multiplier", "deployed_ratio"} <= values.keys():
            values = {
                "multipliers": {BIT_SYNOPS.key: values["multiplier"]},
                "deployed_ratios": {BIT_SYNOPS.key: values["deployed_ratio"]},
            } | values
        return values


@torch.no_grad()
def validate(network: Predictor, rows: Samples, costs: Iterable[str] = ()) -> dict[str, float]:
    """Loss, accuracy, Bit-SynOps and further ``costs`` by key, per sample, of the deployed arithmetic on a split."""
    network.module.eval()
    keys = list(dict.fromkeys([BIT_SYNOPS.key, *costs]))
    sums = torch.zeros(2 + len(keys), dtype=torch.float64)
    part = rows.part()
    with processes.apart():
        for x, y in part.batches(_EVALUATION_BATCH):
            meter = Meter()
            logits = network(x, meter=meter).logits[-1]
            loss, correct = float(F.cross_entropy(logits, y, reduction="sum")), int((logits.argmax(1) == y).sum())
            work = work_costs(keys, Fixed(meter, network.analog_macs))
            sums += torch.tensor([loss, correct, *(float(work[key]) * len(y) for key in keys)], dtype=torch.float64)
    loss, correct, *used = (processes.total_(sums) / len(rows)).tolist()
    return {"validation_loss": loss, "validation_accuracy": correct} | dict(zip(keys, used, strict=True))


def _rank(measured: Mapping[str, float], limits: Mapping[str, float]) -> tuple[float, float, float]:
    """Networks within the limits come before those beyond them; then accuracy counts, then loss."""
    excess = max((max(0.0, measured[key] / limit - 1) for key, limit in limits.items()), default=0.0)
    return (-excess, measured["validation_accuracy"], -measured["validation_loss"])
