"""Training of a derived network from scratch.

In: ``genotype.json`` and data. Out: ``network.safetensors``, the best network on validation that keeps the limits on
work and the firing rate, and ``train.jsonl`` (one row per epoch).

    loss = loss over time + auxiliary weight · CE(auxiliary head) + constraints on work and firing rate

The loss over time is CE(y_T), or what :mod:`litesnn.train.losses` has besides, a teacher among it. The learning rates
fall; the pruning scores go on learning, ever slower. What is validated, kept and deployed may be an average of the
weights (:mod:`litesnn.train.averaging`), and the first epochs may be cheaper than the others
(:mod:`litesnn.train.phases`). Shapes: T timesteps, B batch, C channels.
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
from litesnn.costs.work import BIT_SYNOPS
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches, steps_per_epoch
from litesnn.errors import InputError
from litesnn.files import validated
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network, save_network
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate, estimate_step
from litesnn.snn.network import Network
from litesnn.snn.population import set_sharpness
from litesnn.snn.predictor import Predictor
from litesnn.train.averaging import Averages, renew_statistics
from litesnn.train.evaluate import measure, silence
from litesnn.train.firing import FIRING_RATE, eased, held_limits, meter_for, rank_limits, used, why_missed
from litesnn.train.flip_optimizer import flip_optimizer
from litesnn.train.initial import begin_weights
from litesnn.train.losses import loss_over_time
from litesnn.train.observe import Observer
from litesnn.train.parameter_groups import weight_groups
from litesnn.train.phases import Pace, Phase, Phases, stem_filters
from litesnn.train.quantized_layers import QuantizedLayer, quantized_layers
from litesnn.train.teacher import Teacher
from litesnn.training_loop.checkpoint import load_state, save_state
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.divergence import require_converging
from litesnn.training_loop.graphs import optimizer_options, recorded, set_lr
from litesnn.training_loop.memory import StepPlan
from litesnn.training_loop.micro_batches import backward_in_parts
from litesnn.training_loop.progress import Epoch, EpochLog, RunningMeans, progress_bar
from litesnn.training_loop.schedule import SavedSchedule, Schedule
from litesnn.training_loop.session import cosine_lr, one_cycle_lr, parameters

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

_EVALUATION_BATCH = 256

_RATES = {"cosine": cosine_lr, "one-cycle": one_cycle_lr}


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

    def quantized(self) -> list[QuantizedLayer]:
        """The layers with weights."""
        ...


class Trainee(nn.Module):
    """The network, its auxiliary head, and the best network so far."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        set_sharpness(network, recipe.train.surrogate_sharpness)
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

    def quantized(self) -> list[QuantizedLayer]:
        """Stem, connections and classifier."""
        return quantized_layers(self.network)


class TrainLoop(Generic[LearnerT]):
    """The state of a training between two steps, and the step."""

    def __init__(
        self,
        trainee: LearnerT,
        recipe: Recipe,
        *,
        execution: Execution = Execution(),
        micro_batches: int = 1,
        teacher: Teacher | None = None,
    ) -> None:
        settings = recipe.train
        self.trainee, self.settings, self.teacher = trainee, settings, teacher
        self.execution, self.micro_batches = execution, micro_batches
        device = trainee.network.device
        options = partial(optimizer_options, device, execution)
        rate = options(settings.lr)
        flips = flip_optimizer(settings, trainee.quantized())
        flipped = {id(weight) for weight in ([] if flips is None else parameters([flips]))}
        weights = [weight for weight in trainee.weights() if id(weight) not in flipped]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "weights": torch.optim.SGD(
                weight_groups(trainee.module, weights, settings, rate),
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
                **rate,
            ),
            "scores": torch.optim.Adam(trainee.scores(), **options(settings.score_lr, adam=True)),
        }
        if flips is not None:
            self.optimizers["flips"] = flips
        self.limits = held_limits(recipe, device)
        # Augmented images and batch statistics fire differently from what will be deployed. The limit is on the latter:
        # a training batch counts as so many times its cost, as measured after the epoch before.
        self._deployed_ratios = {key: torch.ones((), device=device) for key in self.limits}
        self._phase = Phase()
        self._ease = torch.ones((), device=device)  # for the firing rate alone
        self._compute = recorded(self._plain_step, device, execution)

    @property
    def phase(self) -> Phase:
        """What steps leave out."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        before, self._phase = self._phase, phase
        if phase == before:
            return
        for parameter in stem_filters(self.trainee.module):
            parameter.requires_grad_(not phase.frozen)
        if phase.times != before.times:  # what was measured is of other steps
            self.deployed_ratios = dict.fromkeys(self.limits, 1.0)
        self._compute = recorded(self._plain_step, self.trainee.network.device, self.execution)

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
        rate = _RATES[settings.schedule](settings.lr, settings.lr_min, progress, warmup=settings.warmup)
        set_lr(self.optimizers["weights"], rate)
        set_lr(self.optimizers["scores"], cosine_lr(settings.score_lr, 0.0, progress))
        if FIRING_RATE in self.limits:
            self._ease.fill_(eased(self.limits[FIRING_RATE].limit, progress))
        small = self._phase.inputs(x)
        if self.teacher is not None:  # beside the step, which may be recorded
            return self._compute(small, y, self.teacher(x, self.micro_batches))
        return self._compute(small, y)

    def _plain_step(self, x: Tensor, y: Tensor, *taught: Tensor) -> dict[str, Tensor]:
        settings, trainee = self.settings, self.trainee
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        found = backward_in_parts(x, y, self._forward, self.micro_batches, *taught)
        for key, limit in self.limits.items():
            limit.update(processes.agreed(found[f"train_{key}"] * self._factor(key)))
        processes.average_gradients(parameters(self.optimizers.values()))
        torch.nn.utils.clip_grad_norm_(trainee.weights(), settings.grad_clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return found

    def _forward(self, x: Tensor, y: Tensor, taught: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a (micro-)batch, for which the teacher has logits [B, K], and what is logged of it."""
        trainee, meter = self.trainee, meter_for(self.limits)
        output = trainee.network(x, meter=meter, tap=trainee.tap, execution=self.execution, **self._phase.options)
        loss, values = loss_over_time(output.logits, y, self.settings, taught)
        values["train_accuracy"] = (output.logits[-1].argmax(1) == y).float().mean()
        if trainee.auxiliary is not None and output.tap is not None:
            loss = loss + self.settings.auxiliary_weight * F.cross_entropy(trainee.auxiliary(output.tap), y)
        if meter is not None:
            found = used(self.limits, meter, trainee.network, self._phase.times)
            for key, value in found.items():
                values[f"train_{key}"] = value
                loss = loss + self.limits[key].loss(value * self._factor(key))
        return loss, values

    def _factor(self, key: str) -> Tensor:
        """By what the cost of a training batch is multiplied before it is compared with its limit."""
        ratio = self._deployed_ratios[key]
        return ratio * self._ease if key == FIRING_RATE else ratio


def fit(context: StageContext, teacher: Teacher | None = None) -> Path:
    """Train, from the last checkpoint if there is one. Returns the path of ``network.safetensors``.

    ``teacher`` is the one that the recipe names, if it names one.

    Raises:
        InputError: the genotype or a checkpoint is missing or damaged, a file cannot be written, or training diverges.
    """
    recipe, session = context.recipe, context.session
    genotype = Genotype.read(context.run.need("derive"))
    network = build_network(genotype, context.info, recipe.seed)
    begin_weights(network, recipe.train, lambda: session.samples(context.data.train, context.info).x)
    trainee = Trainee(network, recipe).to(session.device)

    plan = partial(session.plan, "train", partial(train_footprint, network))
    return fit_learner(
        *(context, trainee, plan),
        save=lambda path: save_network(path, network),
        load=lambda path: load_network(path).to(session.device),
        teacher=teacher,
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
    teacher: Teacher | None = None,
) -> Path:
    """The training of any network, as :func:`fit`.

    Args:
        context: of the stage.
        trainee: on the session's device.
        plan_steps: plans the steps of a batch size.
        save: writes the network of ``trainee``.
        load: reads it again, onto the session's device.
        teacher: that of the recipe, if it names one.
    """
    run, recipe, data, session = context.run, context.recipe, context.data, context.session
    network, module = trainee.network, trainee.module
    if (teacher is None) != (recipe.train.teacher is None):
        raise ValueError(f"train.teacher is {recipe.train.teacher}, and the teacher is {teacher}")
    train = session.samples(data.train, network.info, recipe.augment)
    validation = session.samples(data.validation, network.info)
    processes.equalize(module.state_dict().values())
    plan = plan_steps(min(recipe.train.batch_size, len(train)))
    execution, micro_batches = plan.execution, plan.micro_batches
    training = TrainLoop(trainee, recipe, execution=execution, micro_batches=micro_batches, teacher=teacher)
    averages = Averages(network.module, recipe.train.ema)
    phases = Phases(recipe.train, network.timesteps, network.info.shape[1:])
    checkpoint, best_path = run.checkpoint("train"), run.best
    done, best, schedule, ratios = 0, None, Schedule(recipe.train.epochs), training.deployed_ratios
    if checkpoint.exists() and best_path.exists():  # a finished training gives up one, then the other
        found = load_state(checkpoint, "train state", module, training.optimizers, averages.tensors)
        saved = validated(_SavedState, {"schedule": asdict(schedule)} | found, checkpoint)
        done, best = saved.epoch, saved.best
        if teacher is not None and saved.teacher != teacher.sha256:
            raise InputError(f"{checkpoint}: the training began with another teacher than {recipe.train.teacher}")
        schedule = saved.schedule.schedule()
        for key, limit in training.limits.items():
            if key not in saved.multipliers or key not in saved.deployed_ratios:
                raise InputError(f"{checkpoint} is damaged: it has no multiplier of {key}")
            limit.multiplier = saved.multipliers[key]
        ratios = saved.deployed_ratios
    training.phase = phases.at(schedule, done)
    training.deployed_ratios = ratios
    size = recipe.train.batch_size
    steps = steps_per_epoch(train, size, recipe.train.epoch_steps)
    ours = network if isinstance(network, Network) else None
    observer = Observer(trainee.quantized(), ours, validation, steps=steps, batch_size=size)
    if recipe.train.binary_optimizer != "sgd" and "flips" not in training.optimizers:
        session.warn("train.binary_optimizer is not needed: no layer has 1-bit weights")
    run.start("train")  # nothing is refused any more
    if not done:  # a checkpoint that was not taken is none for later either
        checkpoint.unlink(missing_ok=True)
    if done:
        session.show(f"[dim]train: goes on with epoch {done + 1} of {schedule.epochs}[/]")
    log = EpochLog(run, "train", done_epochs=done, tensorboard=session.tensorboard)
    bound, most = (0.0, 0) if recipe.made is None else (recipe.made.training, recipe.made.most_epochs)
    most = max(most, recipe.train.epochs)
    pace = Pace(phases, run / "train.jsonl", done)

    def augmented(purpose: str, epoch: int, most: int) -> Iterable[tuple[Tensor, Tensor]]:
        order = generator_for(recipe.seed, purpose, epoch)
        mirrored = mirrored_rows(recipe.augment, train, recipe.seed, epoch)
        return shuffled_batches(train, size, order, recipe.augment, most=most, mirrored=mirrored)

    with progress_bar(session.console) as bar:  # in steps of the whole network
        total, completed = (phases.epochs(schedule, epochs) * steps for epochs in (schedule.epochs, done))
        task = bar.add_task("train", total=total, completed=round(completed), status="")
        for epoch in itertools.count(done):
            if epoch >= schedule.epochs:
                break
            started, means = time.perf_counter(), RunningMeans()
            module.train()
            observer.begin(epoch)
            for step, (x, y) in enumerate(augmented("train", epoch, steps)):
                observer.before_step(step)
                progress = schedule.at(epoch + step / steps)
                means.add(training.step(x, y, progress))
                observer.after_step(step)
                averages.update(progress, schedule.at(epoch + (step + 1) / steps))
                bar.advance(task, training.phase.share)
            trained = means.means()
            stepped = time.perf_counter() if phases.any else started
            with averages.in_use():
                if averages or training.phase.reduced:
                    some = augmented("statistics", epoch, min(steps, recipe.train.statistics_batches))
                    renew_statistics(
                        *(network, (x for x, _ in some)), execution=plan.execution, micro_batches=plan.micro_batches
                    )
                measured, watched = validate(network, validation, training.limits), observer.row()
            require_converging(run, recipe, "train", {"epoch": epoch + 1} | trained | measured, module.parameters())
            rank = _rank(measured, rank_limits(recipe, training.limits))
            is_best = best is None or rank > tuple(best)
            if is_best:
                best = rank
            multipliers = training.multipliers
            row: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - started, 3)}
            training.deployed_ratios = {
                key: measured[key] / max(trained[f"train_{key}"], 1e-6 * limit.limit)
                for key, limit in training.limits.items()
            }
            row |= trained | measured | {"multipliers": multipliers, "best": is_best} | watched
            row["micro_batches"], row["options"] = plan.micro_batches, session.options()
            row |= pace.add(row["seconds"], round(stepped - started, 3), training.phase)
            row["learning_rate"] = float(training.optimizers["weights"].param_groups[0]["lr"])
            log.write(row)
            accuracy = f"validation accuracy {measured['validation_accuracy']:.1%}"
            bar.update(task, status=f"epoch {epoch + 1} of {schedule.epochs}, {accuracy}")
            if is_best:
                with averages.in_use():
                    save(best_path)
            memory: dict[str, Any] = {"epoch": epoch + 1, "best": best, "multipliers": multipliers}
            ahead = pace.ahead(schedule.at(epoch + 1))
            changed = schedule.after(epoch + 1, pace.taken, bound, most=most, ahead=ahead)
            if changed != schedule:
                session.warn(changed.describe_change(schedule))
                bar.update(task, total=phases.epochs(changed, changed.epochs) * steps)
            schedule = changed
            training.phase = phases.at(schedule, epoch + 1)
            memory["deployed_ratios"] = training.deployed_ratios
            memory["schedule"] = asdict(schedule)
            memory |= {} if teacher is None else {"teacher": teacher.sha256}
            save_state(checkpoint, "train state", module, training.optimizers, memory, averages.tensors)
            session.tell(Epoch("train", epoch + 1, schedule.epochs, row))
    log.close()
    chosen = measure(load(best_path), validation)
    for note in (silence(chosen.rates, "validation", recipe.budget), why_missed(recipe, chosen.firing_rate)):
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
    teacher: str | None = None

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
    """Loss, accuracy, Bit-SynOps, firing rate and further ``costs`` by key, per sample, on a split.

    All of it is that of the deployed arithmetic.
    """
    network.module.eval()
    keys = list(dict.fromkeys([BIT_SYNOPS.key, FIRING_RATE, *costs]))
    sums = torch.zeros(2 + len(keys), dtype=torch.float64)
    part = rows.part()
    with processes.apart():
        for x, y in part.batches(_EVALUATION_BATCH):
            meter = Meter()
            logits = network(x, meter=meter).logits[-1]
            loss, correct = float(F.cross_entropy(logits, y, reduction="sum")), int((logits.argmax(1) == y).sum())
            work = used(keys, meter, network)
            sums += torch.tensor([loss, correct, *(float(work[key]) * len(y) for key in keys)], dtype=torch.float64)
    loss, correct, *spent = (processes.total_(sums) / len(rows)).tolist()
    return {"validation_loss": loss, "validation_accuracy": correct} | dict(zip(keys, spent, strict=True))


def _rank(measured: Mapping[str, float], limits: Mapping[str, float]) -> tuple[float, float, float]:
    """Networks within the limits come before those beyond them; then accuracy counts, then loss."""
    excess = max((max(0.0, measured[key] / limit - 1) for key, limit in limits.items()), default=0.0)
    return (-excess, measured["validation_accuracy"], -measured["validation_loss"])
