"""The joint search: weights, α, β, pruning scores and ψ learned together.

In: a recipe and data. Out: ``search.safetensors`` (the trained supernet) and ``search.jsonl`` (one row per epoch).

    loss = Σ_t softmax(ψ)_t · CE(y_t) + cost terms                                    (LitE-SNN, section 3.4)

In mode "paper" the cost terms are fixed weights on model size and Bit-SynOps; in mode "budget" each limit is a
constraint. How steps follow one another is said by the strategy (:mod:`litesnn.search.updates`); a strategy need not
learn at all (:mod:`litesnn.strategies`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from litesnn import processes
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.costs.cost import AnalogLayer, LayerBits
from litesnn.costs.size import model_size_bits
from litesnn.costs.work import BIT_SYNOPS
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches, steps_per_epoch
from litesnn.errors import InputError
from litesnn.files import JsonLog, validated
from litesnn.genotype import CellGene, Edge, Genotype, StemGene
from litesnn.references import function_of
from litesnn.runs import RunFolder
from litesnn.search.outcome import (
    Activity,
    Learned,
    Outcome,
    SavedActivity,
    populations_of,
    require_possible_outcome,
    save_outcome,
)
from litesnn.snn.backbone import Output
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.memory_estimate import MemoryEstimate, estimate_step
from litesnn.snn.network import InputInfo
from litesnn.snn.supernet import Choices, Supernet
from litesnn.snn.undecayed import decay_groups
from litesnn.strategies import Strategy, strategy_named
from litesnn.training_loop.checkpoint import load_into, load_state, load_tensors, require_numbers, save_state
from litesnn.training_loop.constraint import Constraint
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.divergence import require_converging
from litesnn.training_loop.expectation import Mixed
from litesnn.training_loop.graphs import Step, optimizer_options, recorded, set_lr
from litesnn.training_loop.memory import StepPlan
from litesnn.training_loop.micro_batches import backward_in_parts
from litesnn.training_loop.progress import Epoch, EpochLog, RunningMeans, progress_bar
from litesnn.training_loop.schedule import SavedSchedule, Schedule
from litesnn.training_loop.session import cosine_lr, parameters

__all__ = [
    "SearchContext",
    "SearchLoop",
    "SearchSpace",
    "Searchable",
    "StepFunction",
    "Told",
    "Update",
    "build_supernet",
    "estimate_search_step",
    "learn",
    "read_into",
    "read_search",
    "search",
    "search_with",
]


@dataclass(frozen=True)
class _Rate:
    """Stands for the spikes per neuron and timestep [T] of a population among the values of a step."""

    population: str


@dataclass(frozen=True)
class _Whole:
    """Stands for the SynOps per timestep [T] that a layer would cost with all weights among the values of a step."""

    layer: str


_Value = str | _Rate | _Whole
"""The kind of a step's value: one that is logged under a name, or what neurons did."""

_Forward = Callable[[Tensor, Tensor], tuple[Tensor, dict[_Value, Tensor]]]
"""A forward pass: of a batch x [B, C, H, W], y [B] the loss, and values to be logged or kept."""

StepFunction = Callable[[Tensor, Tensor], Iterable[Mapping[str, Tensor]]]
"""Makes the steps of a batch x [B, C, H, W], y [B], one after the other; the values of each hold until the next."""


@dataclass(frozen=True)
class _Kind:
    """Steps that compute the same, and are recorded once: the method, and the optimizers that take part."""

    method: Callable[..., Mapping[str, Tensor]]
    learning: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """The accuracy that a progress bar shows of an epoch, by its key in the log, and of which samples it is."""

    samples: str
    key: str


MixT = TypeVar("MixT")
NetT = TypeVar("NetT", bound="Searchable[Any]")


class Searchable(Protocol[MixT]):
    """The interface of a searchable network: one with weights, and architecture parameters that weigh its candidates.

    ``MixT`` is what :meth:`mixes` makes of these parameters, once per step.
    """

    psi: nn.Parameter
    """The logits of the numbers of timesteps [T]."""

    @property
    def header_bytes(self) -> int:
        """Bytes of a packed file's header, near enough for a search; the derivation counts the real ones."""
        ...

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    def architecture(self) -> dict[str, list[nn.Parameter]]:
        """Architecture parameters besides ψ; ``"alpha"`` learns at its own rate, all others at that of β."""
        ...

    def weight_parameters(self) -> list[nn.Parameter]:
        """All that is neither a score nor an architecture parameter."""
        ...

    def score_parameters(self) -> list[nn.Parameter]:
        """Pruning scores."""
        ...

    def noise(self, generator: torch.Generator) -> Tensor:
        """The random numbers of one draw of :meth:`mixes` [n], on the device of the generator."""
        ...

    def mixes(self, noise: Tensor | None = None) -> list[MixT]:
        """The mixtures of a step, or with :meth:`noise` one draw from each."""
        ...

    def __call__(
        self, x: Tensor, mixes: list[MixT], *, meter: Meter | None = None, execution: Execution = Execution()
    ) -> Output:
        """Quantized images [B, C, H, W], or frames [B, T, C, H, W] → logits y_t [T, B, K]."""
        ...

    def expected_bits(self, mixes: list[MixT], layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of all layers by a formula, with ``affine`` for each of their biases; a scalar."""
        ...

    def position_bits(self, mixes: list[MixT]) -> Tensor | None:
        """Expected bits that say which weights are kept, beyond what formulas of layers count, or ``None``."""
        ...

    def analog_layers(self, mixes: list[MixT], *, frames: bool) -> list[AnalogLayer]:
        """The layers that read real numbers; ``frames``: whether the input differs at every timestep."""
        ...

    def describe(self) -> dict[str, Any]:
        """The architecture parameters as probabilities, for the log."""
        ...


def build_supernet(recipe: Recipe, shape: tuple[int, int, int], classes: int) -> Supernet:
    """The supernet of a recipe, its weights drawn from the recipe's seed."""
    model, settings = recipe.model, recipe.search
    full = Genotype(
        timesteps=recipe.timesteps,
        stem=StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits),
        edges=(Edge(node=0, source=0, op=model.ops[0]),),  # replaced by all candidates
        cells=tuple(
            CellGene(level=level, width=model.width * 2**level, bits=max(settings.bits), keep=max(settings.keeps))
            for level in model.levels
        ),
        classifier_bits=model.io_bits,
        **model.kinds,
    )
    choices = Choices(model.ops, settings.bits, settings.keeps, settings.widths, model.edges_per_node)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(recipe.seed, "supernet").initial_seed())
        supernet = Supernet(full, nodes=model.nodes, choices=choices, shape=shape, classes=classes)
    if settings.fixed_timesteps:
        # Probability 0, and a gradient of 0: no step changes that, and the derivation skips what is impossible.
        supernet.psi.data[:-1] = -torch.inf
    return supernet


class SearchLoop(Generic[NetT]):
    """The state of a search between two steps, and the steps. No step waits for the device."""

    def __init__(
        self, recipe: Recipe, supernet: NetT, *, execution: Execution = Execution(), micro_batches: int = 1
    ) -> None:
        self.settings, self.supernet, self.recipe = recipe.search, supernet, recipe
        self.execution, self.micro_batches = execution, micro_batches
        settings = recipe.search
        self.weights, self.scores = supernet.weight_parameters(), supernet.score_parameters()
        self.device = device = supernet.device
        options = partial(optimizer_options, device, execution)

        def adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
            decay = settings.architecture_weight_decay
            return torch.optim.Adam(parameters, weight_decay=decay, **options(lr, adam=True))

        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "weights": torch.optim.SGD(
                decay_groups(self.weights),
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                **options(settings.lr),
            ),
            **{
                name: adam(parameters, settings.alpha_lr if name == "alpha" else settings.beta_lr)
                for name, parameters in supernet.architecture().items()
            },
            "scores": adam(self.scores, settings.score_lr),
            "psi": torch.optim.SGD([supernet.psi], **options(settings.psi_lr)),
        }
        self.constraints = _constraints(recipe, device) if settings.mode == "budget" else {}
        self.expected = {
            key: cost.expected
            for key, cost in COSTS.items()
            if cost.expected is not None and (cost.always_compared or key in self.constraints)
        }
        self._rates: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        self._steps: dict[_Kind, Step] = {}

    @property
    def rates(self) -> dict[str, list[float]]:
        """Spikes per neuron and timestep of each population in the last step with costs; reading waits for the device.

        They are firing rates, or of graded spikes those of all bit planes.
        """
        return {name: rate.tolist() for name, rate in self._rates.items()}

    @property
    def activity(self) -> Activity:
        """Spikes of the last step with costs. Reading waits for the device."""
        return Activity(self.rates, {name: work.tolist() for name, work in self._whole.items()})

    @activity.setter
    def activity(self, found: Activity) -> None:
        self._rates = {name: torch.tensor(row) for name, row in found.rates.items()}
        self._whole = {name: torch.tensor(row) for name, row in found.whole.items()}

    def psi(self, epoch: int) -> Tensor:
        """softmax(ψ) [T], held uniform over the possible timesteps during the warm-up."""
        psi = self.supernet.psi
        if epoch >= self.settings.warmup_epochs:
            return psi.softmax(0)
        return torch.where(psi.detach() == -torch.inf, psi.detach(), 0.0).softmax(0)

    def weight_step(self, x: Tensor, y: Tensor, generator: torch.Generator, *, epoch: int) -> Mapping[str, Tensor]:
        """One step of the weights on a training batch. What it returns is to be read before the next step."""
        return self._run(self._weight_step, x, y, generator, epoch)

    def architecture_step(
        self, x: Tensor, y: Tensor, generator: torch.Generator, *, epoch: int
    ) -> Mapping[str, Tensor]:
        """One step of α, β, widths, scores and ψ on a validation batch; returns as :meth:`weight_step`."""
        return self._run(self._architecture_step, x, y, generator, epoch)

    def joint_step(self, x: Tensor, y: Tensor, generator: torch.Generator, *, epoch: int) -> Mapping[str, Tensor]:
        """One step of everything, weights included, on one batch; returns as :meth:`weight_step`."""
        return self._run(self._joint_step, x, y, generator, epoch)

    def _run(
        self, step: Callable[..., Mapping[str, Tensor]], x: Tensor, y: Tensor, generator: torch.Generator, epoch: int
    ) -> Mapping[str, Tensor]:
        """A step with the noise that it draws; those of epochs that do the same are recorded as one."""
        noise = self.supernet.noise(generator) if self.settings.sampling else torch.empty(0)
        kind = _Kind(step, tuple(self._learning(epoch)))
        if kind not in self._steps:
            # Recorded steps of an earlier phase hold memory of their own, and will not be taken again.
            self._steps = {known: step for known, step in self._steps.items() if known.learning == kind.learning}
            self._steps[kind] = recorded(partial(step, epoch=epoch), self.device, self.execution)
        return self._steps[kind](x, y, noise.to(self.device, non_blocking=True))

    def _weight_step(self, x: Tensor, y: Tensor, noise: Tensor, *, epoch: int) -> Mapping[str, Tensor]:
        with torch.no_grad():
            psi, mixes = self.psi(epoch), self._mixes(noise)

        def forward(x: Tensor, y: Tensor) -> tuple[Tensor, dict[_Value, Tensor]]:
            logits = self.supernet(x, mixes, execution=self.execution).logits
            loss, accuracy = _weighted_loss(logits, y, psi)
            return loss, {"train_loss": loss, "train_accuracy": accuracy}

        with _frozen(self.scores):
            found = self._backward(x, y, forward, ["weights"])
        self._update_weights()
        return _logged(found)

    def _architecture_step(self, x: Tensor, y: Tensor, noise: Tensor, *, epoch: int) -> Mapping[str, Tensor]:
        with _frozen(self.weights):
            found = self._backward(x, y, self._with_costs("validation", noise, epoch), self._learning(epoch))
        return self._update_architecture(found, epoch)

    def _joint_step(self, x: Tensor, y: Tensor, noise: Tensor, *, epoch: int) -> Mapping[str, Tensor]:
        learning = ["weights", *self._learning(epoch)]
        found = self._backward(x, y, self._with_costs("train", noise, epoch), learning)
        self._update_weights()
        return self._update_architecture(found, epoch)

    def _mixes(self, noise: Tensor) -> list[Any]:
        return self.supernet.mixes(noise if self.settings.sampling else None)

    def _with_costs(self, split: str, noise: Tensor, epoch: int) -> _Forward:
        """The forward pass with costs of a step: the loss with its cost terms; the values, named after ``split``.

        Every micro-batch of the step draws the same. Sizes are expectations, never drawn.
        """
        supernet = self.supernet

        def forward(x: Tensor, y: Tensor) -> tuple[Tensor, dict[_Value, Tensor]]:
            psi, mixes, meter = self.psi(epoch), self._mixes(noise), Meter()
            output = supernet(x, mixes, meter=meter, execution=self.execution)
            loss, accuracy = _weighted_loss(output.logits, y, psi)
            mixed = Mixed(supernet, supernet.mixes(), meter, psi, frames=x.dim() == 5)
            costs = {key: expected(mixed) for key, expected in self.expected.items()}
            total = loss
            if self.settings.mode == "paper":
                total = total + self.settings.size_weight * mixed.stored_bits(model_size_bits, affine=0)
                total = total + self.settings.synops_weight * costs[BIT_SYNOPS.key]
            for key, constraint in self.constraints.items():
                total = total + constraint.loss(costs[key])
            values: dict[_Value, Tensor] = {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
            for key, used in costs.items():
                values[key] = used
            values |= {_Rate(name): rate for name, rate in meter.spikes.items()}
            return total, values | {_Whole(name): work for name, work in meter.whole.items()}

        return forward

    def _backward(self, x: Tensor, y: Tensor, forward: _Forward, learning: Iterable[str]) -> dict[_Value, Tensor]:
        """Gradients for the optimizers named in ``learning``: means over micro-batches and over all processes.

        Returns the values of the forward pass.
        """
        self.supernet.module.zero_grad(set_to_none=True)
        found = backward_in_parts(x, y, forward, self.micro_batches)
        processes.average_gradients(parameters([self.optimizers[name] for name in learning]))
        return found

    def _update_weights(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.weights, self.settings.grad_clip)
        self.optimizers["weights"].step()

    def _update_architecture(self, found: dict[_Value, Tensor], epoch: int) -> dict[str, Tensor]:
        """Returns what is to be logged of ``found``; what neurons did is kept."""
        for name in self._learning(epoch):
            self.optimizers[name].step()
        for key, constraint in self.constraints.items():
            constraint.update(processes.agreed(found[key]))
        self._rates = {key.population: value for key, value in found.items() if isinstance(key, _Rate)}
        self._whole = {key.layer: value for key, value in found.items() if isinstance(key, _Whole)}
        return _logged(found)

    def _learning(self, epoch: int) -> Iterator[str]:
        """The optimizers that take part in the architecture's updates of an epoch."""
        yield "scores"
        if epoch >= self.settings.architecture_warmup_epochs:
            yield from self.supernet.architecture()
        if epoch >= self.settings.warmup_epochs:
            yield "psi"

    def describe(self) -> dict[str, Any]:
        """The architecture parameters as probabilities, for the log."""
        return {
            "psi": self.supernet.psi.softmax(0).tolist(),
            **self.supernet.describe(),
            "multipliers": {key: constraint.multiplier for key, constraint in self.constraints.items()},
        }


class Update(Protocol):
    """How the steps of a supernet's search follow one another, made of (recipe, info, data, session, batch size)."""

    samples: Samples
    """An epoch takes its batches from these."""
    told: Told

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The size of the largest batch of each kind that a step computes with."""
        ...

    def steps(self, loop: SearchLoop[Any], draws: torch.Generator, epoch: int) -> StepFunction:
        """The function that makes the steps of an epoch, given one batch of ``samples`` at a time."""
        ...


@dataclass(frozen=True)
class SearchSpace:
    """A network with all candidates at once, on the session's device, and what plans the steps of batch sizes."""

    network: Searchable[Any]
    plan_steps: Callable[..., StepPlan]


@dataclass(frozen=True)
class SearchContext(StageContext):
    """The input of a strategy: the context of the search stage, and what builds the network of all candidates.

    Prices of single choices, and of whole genotypes, are in :mod:`litesnn.search.derive`.
    """

    build: Callable[[], SearchSpace] = field(kw_only=True)


def search(context: StageContext) -> Path:
    """Search a network of ours by the recipe's strategy. Returns the path of ``search.safetensors``.

    Raises:
        InputError: as the strategy; of those that learn: the checkpoint is damaged, a file cannot be written, or the
            search diverges.
    """
    recipe, info, session = context.recipe, context.info, context.session

    def build() -> SearchSpace:
        supernet = build_supernet(recipe, info.shape, len(info.classes)).to(session.device)
        footprint = partial(estimate_search_step, supernet, info)
        return SearchSpace(supernet, partial(session.plan, "search", footprint))

    return search_with(strategy_named(recipe.search.update), context, build)


def search_with(strategy: Strategy, context: StageContext, build: Callable[[], SearchSpace]) -> Path:
    """:func:`search` by a strategy, of the network that ``build`` makes."""
    run, recipe = context.run, context.recipe
    stage = {each.name: getattr(context, each.name) for each in fields(StageContext)}
    outcome: Outcome = function_of(strategy.search)(SearchContext(**stage, build=build))
    require_possible_outcome(outcome, recipe, f"strategy {strategy.name!r}")
    if not isinstance(outcome, Learned):  # which has begun when nothing was refused any more
        run.start("search")
    save_outcome(run.output("search"), outcome)
    run.checkpoint("search").unlink(missing_ok=True)
    run.diverged("search").unlink(missing_ok=True)
    return run.output("search")


def estimate_search_step(supernet: Supernet, info: InputInfo, execution: Execution) -> MemoryEstimate:
    """The memory that a step of the search takes."""
    choices = supernet.choices
    return estimate_step(
        supernet.backbone,
        supernet.timesteps,
        execution,
        frames=info.frames,
        bits=len(choices.bits),
        keeps=len(choices.keeps),
    )


def learn(context: SearchContext) -> Learned:
    """Train a network of all candidates, from the last checkpoint if there is one, by the steps of the strategy.

    Raises:
        InputError: as :func:`search`.
    """
    run, recipe, session = context.run, context.recipe, context.session
    space, size = context.build(), recipe.search.batch_size
    supernet = space.network
    strategy = strategy_named(recipe.search.update)
    assert strategy.update is not None
    update: Update = function_of(strategy.update)(recipe, context.info, context.data, session, size)
    train = update.samples
    module = supernet.module.train()
    processes.equalize(module.state_dict().values())
    plan = space.plan_steps(*update.batch_sizes)
    state = SearchLoop(recipe, supernet, execution=plan.execution, micro_batches=plan.micro_batches)
    checkpoint, done, schedule = run.checkpoint("search"), 0, Schedule(recipe.search.epochs)
    if checkpoint.exists():
        found = load_state(checkpoint, "search state", module, state.optimizers)
        saved = validated(_SavedState, {"schedule": asdict(schedule)} | found, checkpoint)
        done, schedule = saved.epoch, saved.schedule.schedule()
        state.activity = Activity.from_fields(saved.rates)
        for key, constraint in state.constraints.items():
            if key not in saved.multipliers:
                raise InputError(f"{checkpoint} is damaged: it has no multiplier of {key}")
            constraint.multiplier = saved.multipliers[key]
    steps = steps_per_epoch(train, size, recipe.search.epoch_steps)
    run.start("search")  # nothing is refused any more
    if done:
        session.show(f"[dim]search: goes on with epoch {done + 1} of {schedule.epochs}[/]")
    log = EpochLog(run, "search", done_epochs=done, tensorboard=session.tensorboard)
    bound = 0.0 if recipe.made is None else recipe.made.search
    taken = JsonLog.numbers(run / "search.jsonl", "seconds") if done else []  # seconds of each epoch
    with progress_bar(session.console) as bar:
        task = bar.add_task("search", total=schedule.epochs * steps, completed=done * steps, status="")
        for epoch in itertools.count(done):
            if epoch >= schedule.epochs:
                break
            started, sums = time.perf_counter(), RunningMeans()
            step_batch = update.steps(state, generator_for(recipe.seed, "draws", epoch), epoch)
            order = generator_for(recipe.seed, "search", epoch)
            mirrored = mirrored_rows(recipe.augment, train, recipe.seed, epoch)
            batches = shuffled_batches(train, size, order, recipe.augment, most=steps, mirrored=mirrored)
            for step, (x, y) in enumerate(batches):
                lr = cosine_lr(recipe.search.lr, recipe.search.lr_min, schedule.at(epoch + step / steps))
                set_lr(state.optimizers["weights"], lr)
                for values in step_batch(x, y):
                    sums.add(values)
                bar.advance(task)
            row: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - started, 3)}
            measured = {"epoch": epoch + 1} | sums.means()
            require_converging(run, recipe, "search", measured, module.parameters())
            row |= measured | {"learning_rate": lr, "micro_batches": plan.micro_batches} | state.describe()
            row["options"] = session.options()
            log.write(row)
            accuracy = f"{update.told.samples} accuracy {row[update.told.key]:.1%}"
            bar.update(task, status=f"epoch {epoch + 1} of {schedule.epochs}, {accuracy}")
            multipliers = {key: constraint.multiplier for key, constraint in state.constraints.items()}
            taken.append(row["seconds"])
            planned = recipe.search.epochs
            changed = schedule.after(epoch + 1, taken, bound, most=planned, least=-(-planned // 2))
            if changed != schedule:
                session.warn(f"search: {changed.describe_change(schedule)}")
                bar.update(task, total=changed.epochs * steps)
            schedule = changed
            memory = {"epoch": epoch + 1, "rates": state.activity.fields(), "multipliers": multipliers}
            memory["schedule"] = asdict(schedule)
            save_state(checkpoint, "search state", module, state.optimizers, memory)
            session.tell(Epoch("search", epoch + 1, schedule.epochs, row))
    log.close()
    return Learned(module.state_dict(), state.activity)


def read_search(run: RunFolder, shape: tuple[int, int, int], classes: int) -> tuple[Supernet, dict[str, list[float]]]:
    """The searched supernet, and of each of its populations the spikes per neuron and timestep.

    Raises:
        InputError: the file is missing or damaged, or belongs to another recipe.
    """
    recipe = run.recipe()
    supernet = build_supernet(recipe, shape, classes)
    activity = read_into(supernet, run, populations_of(recipe))
    return supernet, {name: list(row) for name, row in activity.rates.items()}


def read_into(
    module: nn.Module, run: RunFolder, populations: Iterable[str] = (), *, whole: Iterable[str] = ()
) -> Activity:
    """Give a module the state that a search left; returns what neurons did in it.

    Args:
        module: with the state of the search.
        run: that has searched.
        populations: those that need a rate for each of the timesteps that the search considered.
        whole: the layers that need so many costs with all weights.

    Raises:
        InputError: as :func:`read_search`.
    """
    path = run.need("search")
    tensors, info = load_tensors(path, "search")
    require_numbers(tensors, path)
    load_into(module, tensors, path)
    for name in ("alpha", "beta", "width"):
        if name in tensors and not tensors[name].isfinite().all():
            raise InputError(f"{path} is damaged: {name} holds infinite values")
    if not tensors["psi"].isfinite().any():
        raise InputError(f"{path} is damaged: psi allows no number of timesteps")
    return validated(SavedActivity, info, path).require(tensors["psi"].numel(), path, populations, whole)


class _SavedState(SavedActivity):
    """The metadata of a search's checkpoint."""

    epoch: int = Field(ge=1, le=2**31)
    multipliers: dict[str, float]
    schedule: SavedSchedule


def _logged(found: Mapping[_Value, Tensor]) -> dict[str, Tensor]:
    """The values of a step that are logged."""
    return {key: value for key, value in found.items() if isinstance(key, str)}


def _constraints(recipe: Recipe, device: torch.device) -> dict[str, Constraint]:
    settings = recipe.search
    return {
        key: Constraint(limit, penalty=settings.penalty, dual_lr=settings.dual_lr, device=device)
        for key, limit in recipe.budget.limits().items()
        if COSTS[key].expected is not None
    }


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters that need no gradient meanwhile: theirs are not computed only to be thrown away."""
    rows = list(parameters)
    for parameter in rows:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in rows:
            parameter.requires_grad_(True)


def _weighted_loss(logits: Tensor, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t ψ_t · CE(y_t) for logits [T, B, K], and the accuracy at the last timestep."""
    losses = torch.stack([F.cross_entropy(step, y) for step in logits])  # [T]
    return (psi * losses).sum(), (logits[-1].argmax(1) == y).float().mean()
