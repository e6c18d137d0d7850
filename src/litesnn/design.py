"""The whole job, stage by stage, resumable: from data and a budget to a packed spiking network with a report.

A stage runs if its result is missing or an earlier stage has just run; so a design that was killed goes on where it
was, and deleting one result makes anew that result and what depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape

from litesnn import processes
from litesnn.budget import Budget
from litesnn.compression import stages as user_module
from litesnn.compression.network import SteppedNetwork
from litesnn.compression.source import allow_module, pin_loaded, require_allowed
from litesnn.compression.teachers import is_class, pinned_teacher, require_teacher, teacher_of
from litesnn.config import Recipe, load_recipe
from litesnn.data.given import source_of
from litesnn.data.settings import DATA_FILE
from litesnn.data.sources import Data, load
from litesnn.deploy.integerize import require_packable
from litesnn.deploy.packed import read
from litesnn.errors import BudgetExceeded, InputError, LitesnnError
from litesnn.network_file import load_network
from litesnn.planning.maker import Plan, foresee, renew_epochs
from litesnn.planning.request import Begun, Request, begin
from litesnn.planning.sensible import require_memory, require_sensible
from litesnn.references import Reference, function_of
from litesnn.report.examples import collect_examples
from litesnn.report.page import write_report
from litesnn.runs import RunFolder, held
from litesnn.search.derive import require_possible, unused_budget
from litesnn.search.joint import search
from litesnn.snn.execution import Execution
from litesnn.snn.network import Network
from litesnn.stages import STAGES
from litesnn.takeover import Takeover, take_over
from litesnn.train.evaluate import require_trained_on
from litesnn.train.fit import fit
from litesnn.training_loop.context import Handed, StageContext
from litesnn.training_loop.equal_parts import require_equal_parts, require_same_data
from litesnn.training_loop.pinned import keep_pin, pinned
from litesnn.training_loop.progress import Epoch
from litesnn.training_loop.session import Session, begin_session, find_device, input_info

if TYPE_CHECKING:
    from litesnn.data.given import GivenData

__all__ = [
    "Design",
    "Job",
    "check_budgets",
    "compress",
    "design",
    "make_recipe",
    "read_first",
    "renew_report",
    "trained_network",
]


def possible_search(context: StageContext) -> Path:
    """Search, unless the budget is impossible: nobody should wait for a search to learn that."""
    run, recipe, info, session = context.run, context.recipe, context.info, context.session
    processes.first_does(lambda: require_possible(recipe, info))
    processes.first_does(lambda: require_memory(recipe, info, session.device))
    if not run.checkpoint("search").exists():
        for note in processes.first_does(lambda: unused_budget(recipe, info)):
            session.show(f"[yellow]{escape(note)}[/]")
    return search(context)


def planned_fit(context: StageContext) -> Path:
    """Train; first set the epochs of a recipe that was made for a time, now that the network is known."""
    run = context.run
    if not run.checkpoint("train").exists():
        workers = processes.count()
        processes.first_does(lambda: renew_epochs(run, context.data, context.session, workers=workers))
        processes.copy_from_first(run.path, ["recipe.toml"])
        context = context.renewed()
    return fit(context, teacher_of(context))


def report(context: StageContext) -> Path:
    """Write ``report.html``. Raises ``InputError`` if what it needs is missing, packages included."""
    run = context.run
    if "pack" not in run.needs():
        return write_report(run.path)
    model = read(run.need("pack"))
    return write_report(run.path, collect_examples(model, context.data.test()))


def renew_report(run: RunFolder) -> None:
    """Write the report anew, if the run has one: what it tells has changed."""
    if run.done("report"):
        Job(run, Session(find_device("cpu"), Console(quiet=True))).do("report")


class Job:
    """A run folder with its data, which are loaded when a stage first needs them. All processes do the same job.

    Who has read the data already, in this process, may give them.
    """

    def __init__(self, run: RunFolder, session: Session, data: Data | None = None) -> None:
        self.run, self.session, self._read, self._handed = run, session, data, Handed()

    @cached_property
    def data(self) -> Data:
        """The data of the run's recipe. Raises ``InputError`` if they are not those that the run was begun with."""
        recipe = self.run.recipe()
        with processes.first_before_others():
            data = self._read or load(recipe.data, recipe.front_ends)
        require_sensible(recipe, data)
        require_same_data(data)
        data = pinned(self.run, data)
        self._tell_notes(data)
        return data

    def _tell_notes(self, data: Data) -> None:
        for note in data.notes:
            self.session.show(f"[dim]{escape(f'{data.name}: {note}')}[/]")

    def do(self, stage: str) -> Path:
        """Run one stage, whether or not it was done. Raises what the stage raises."""
        row, recipe = STAGES[stage], self.run.recipe()
        if (module := recipe.module) is not None:
            if row.runs_module:
                require_allowed(module, str(self.run / "recipe.toml"))
            if processes.count() > 1:
                raise InputError("a user's module is compressed by one process; start litesnn without torchrun")
            execution = self.session.execution
            if self.session.memory is not None or execution.compiled or execution.half:
                raise InputError("--memory, --compile and --bf16 do nothing for a user's module; leave them out")
        elif row.shared is not None:
            require_equal_parts(recipe, [stage])
            require_equal_parts(recipe, [stage], self.data)
        keep_pin(self.run, self.data)
        processes.first_does(lambda: self._require(row.needs))
        if module is not None:
            made = self._run(row.compress)
        elif row.shared is None:
            made = Path(processes.first_does(lambda: str(self._run(row.design))))
        else:
            processes.copy_from_first(self.run.path, list(row.shared))
            made = self._run(row.design)
        keep_pin(self.run, self.data, fit=True)
        return made

    def _require(self, stages: Sequence[str]) -> None:
        """Refuse to go on without the results of these stages."""
        for stage in stages:
            self.run.need(stage)

    def _run(self, function: Reference) -> Path:
        made: Path = function_of(function)(StageContext.of(self.run, self.data, self.session, self._handed))
        return made

    def take_over(self, source: RunFolder) -> None:
        """Take over what the recipes of ``source`` and of this run make alike, if the data are those of ``source``.

        Raises:
            InputError: they have changed, or a file is damaged; nothing stays that was copied.
        """
        taken = Takeover(**processes.first_does(lambda: asdict(take_over(source, self.run))))
        try:
            data = self.data
            if "train" in taken.stages and processes.is_first() and _trained(self.run).info != input_info(data):
                raise InputError(f"{data.name}: the data are not those that {source.path} was trained on")
        except BaseException:
            for name in reversed(taken.files):
                (self.run / name).unlink(missing_ok=True)
            raise
        self.session.show(escape(taken.describe(source)))

    def announce(self, plan: Plan | None = None, *, whole: bool = True, options: str = "") -> None:
        """Show what the run will do and for how long: of a recipe that was just made its plan.

        Of any other recipe that is only shown if the ``whole`` is asked for, since some steps have to be measured. A
        quiet session shows the estimate of the whole, and nothing else.

        Args:
            plan: of a recipe that was just made.
            whole: whether nothing is done afterwards.
            options: of the command line, to go on with.
        """
        planned = plan is not None
        if plan is None and whole:
            recipe, data, workers = self.run.recipe(), self.data, processes.count()
            if recipe.module is not None:
                raise InputError("what a user's module will take is not known before; leave out --dry-run")
            if processes.is_first():
                with processes.apart():
                    plan = foresee(recipe, data, self.session, workers=workers)
            processes.share(None)
        if plan is None:
            return
        if whole and self.session.console.quiet:
            if processes.is_first():
                print(f"estimate   {plan.estimate.describe()}")
            return
        for line in plan.lines():
            self.session.show(escape(line))
        if whole and planned:  # else they were told as the data were read
            self._tell_notes(plan.data)
        if whole:
            for note in unused_budget(plan.recipe, input_info(plan.data)):
                self.session.show(f"[yellow]{escape(note)}[/]")
            self.session.show(f"[dim]begun; go on with: {escape(self.run.go_on_command(options))}[/]")

    def finish(self) -> None:
        """Run every stage that is not done. Raises ``InputError`` at once if its end cannot be reached."""
        if (recipe := self.run.recipe()).module is None:
            require_packable(recipe.model.neuron, recipe.model.ops)
        require_equal_parts(recipe, STAGES)
        if recipe.train.teacher is not None and not processes.first_does(partial(self._is_done, "train")):
            require_teacher(recipe, input_info(self.data))
        for stage in STAGES:
            if not processes.first_does(partial(self._is_done, stage)):
                self.session.show(f"[bold]{stage}[/] → {escape(str(self.run.output(stage)))}")
                self.do(stage)

    def _is_done(self, stage: str) -> bool:
        return self.run.done(stage) or stage not in self.run.needs()


def trained_network(run: RunFolder, data: Data) -> Network | SteppedNetwork:
    """The trained network of a run, in evaluation mode.

    Raises:
        InputError: it is missing or damaged, or was trained on other data.
    """
    network = _trained(run)
    require_trained_on(network.info, data, run.output("train"))
    return network


def _trained(run: RunFolder) -> Network | SteppedNetwork:
    if run.recipe().module is not None:
        return user_module.load_compressed(run)
    return load_network(run.need("train"))


@dataclass(frozen=True)
class Design:
    """A finished design or compression: where it is, and what was measured."""

    path: Path
    metrics: Mapping[str, Any]

    def __repr__(self) -> str:
        accuracy, size = self.metrics["test_accuracy"], self.metrics["packed_bytes"]
        return f"Design({str(self.path)!r}, test accuracy {accuracy:.2%}, {size:,} B)"

    def load(self) -> Network | SteppedNetwork:
        """The trained network as a torch module, in evaluation mode."""
        return _trained(RunFolder(self.path))


def make_recipe(
    *,
    data: str | None = None,
    budget: Budget | str | None = None,
    recipe: str | Path | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
) -> Recipe:
    """A written recipe with what a person names in place of its own values.

    Left out, the recipe is "digits" for the data of this name, or "compress" with ``model``, a user's module as
    ``FILE.py:Class`` that may start from ``weights``. :func:`design` makes a recipe for all other data.

    Raises:
        InputError: a name, key or value is not understood, or other data are named without a recipe.
    """
    if data is not None and not isinstance(data, str):
        kind = type(data).__name__
        raise InputError(f"data: expected a name as recipes have it, found {kind}; arrays are for design()")
    request = Request(data, budget, recipe, seed, None, changes or {}, model, weights)
    written = request.written
    if written is None and data is None:
        raise InputError("no data are named; expected data='digits', or a recipe that names its own")
    if written is None:
        raise InputError(f"data {data!r}: nobody has written a recipe for it; name one, or let design() make it")
    return load_recipe(written, {"made": None} | request.values())


def design(
    *,
    data: GivenData | None = None,
    budget: Budget | str | None = None,
    recipe: str | Path | None = None,
    run: str | Path = "runs/design",
    seed: int | None = None,
    time: str | float | None = None,
    changes: Mapping[str, Any] | None = None,
    from_run: str | Path | None = None,
    teacher: str | Path | None = None,
    teacher_weights: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    tensorboard: bool = False,
    memory: str | None = None,
    compiled: bool = False,
    half: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Design:
    """Design a spiking network for a data set and a budget, or go on with a design that was interrupted.

    In a program that ``torchrun`` started, all its processes have to call it, and do the job together.

    Args:
        data: "digits", a folder, an ``.npz`` file, an archive of event recordings or a name on the Hugging Face hub;
            or ``(x, y)``, a dict of arrays or tensors named as in an ``.npz`` file, a
            ``torch.utils.data.Dataset`` of (image, label) pairs, or a dict of these with the keys "train" and "test":
            they are kept in the run folder as ``data.npz``, and compared with it if the run goes on. uint8 are images,
            floats are arrays of real numbers, but for uint8 divided by 255 in a dataset, which become uint8 again.
        budget: limits, such as ``"48 kB packed, 20 M Bit-SynOps, T <= 6"``; left out, those of the recipe.
        recipe: name of a shipped recipe or path of a TOML file; left out, one is made from the data, the budget and
            the time (for "digits" without a time, the shipped one).
        run: the run folder.
        seed: seed of weights, batches and augmentation.
        time: what the whole design may take if the recipe is made, as ``"30 min"`` or in seconds; left out, 30 minutes
            on a CPU and 10 on a GPU.
        changes: dotted recipe keys with other values, such as ``{"search.epochs": 3}``.
        from_run: the folder of another run, with whose recipe this one begins (leave out ``data`` and ``recipe``); its
            search, derivation and training are taken over as far as ``changes`` and the others do not touch them, and
            the data are the same.
        teacher: whose logits training learns besides the labels: "auto", a small network with ReLU that is trained
            first; the folder of another run, its ``network.safetensors`` or ``teacher.safetensors``; or
            ``"FILE.py:Class"``, a torch module, whose file is run.
        teacher_weights: a safetensors file of such a module's weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        console: where progress is shown; left out, nowhere, and warnings go to stderr.
        tensorboard: write TensorBoard logs as well.
        memory: most memory that a training step may take, such as ``"6 GB"``: cells are then recomputed for the
            backward pass, and batches parted, as far as it takes.
        compiled: let ``torch.compile`` make the kernels besides convolutions.
        half: compute the convolutions of training in bfloat16.
        threads: CPU threads of torch while this runs; left out, as many as it has.
        on_epoch: called with an :class:`~litesnn.training_loop.progress.Epoch` after each epoch of search and training,
            when its checkpoint is written. What it raises ends the run, and comes out of here; the same call goes on
            from that epoch. Of several processes the first calls it.

    Raises:
        InputError: bad input; the message says what was expected.
        BudgetExceeded: the finished network, all files of which are written, costs more than the budget allows.
        WorkerLost: one of several processes has ended; the others have raised what ended it, or ``EndedElsewhere``.
    """
    folder = RunFolder(run)
    with processes.joined(), _threads(threads):
        session = begin_session(
            device,
            console or Console(quiet=True),
            tensorboard=tensorboard,
            execution=Execution(compiled=compiled, half=half),
            memory=memory,
            on_epoch=on_epoch,
        )
        with _nothing_left(folder):
            source = processes.first_does(lambda: source_of(data, folder.path))
            _allow_teacher(teacher)
            request = Request(
                *(source, budget, recipe, seed, time, changes or {}),
                from_run=from_run,
                teacher=teacher,
                teacher_weights=teacher_weights,
            )
            begun = read_first(folder, begin(folder, request, session))
        return _finished(folder, begun, session, from_run=None if from_run is None else RunFolder(from_run))


def compress(
    model: str,
    *,
    weights: str | Path | None = None,
    data: GivenData | None = None,
    budget: Budget | str | None = None,
    recipe: str | Path | None = None,
    run: str | Path = "runs/compress",
    seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
    teacher: str | Path | None = None,
    teacher_weights: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    tensorboard: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Design:
    """Compress a spiking network that was given, or go on with a compression that was interrupted.

    Args:
        model: ``"FILE.py:Class"``, a torch module with convolutions; the file is run, and the modules beside it that it
            imports. No other file that a recipe or a run folder names is.
        weights: a safetensors file of its weights to start from; left out, they are drawn from the seed.
        data: as for :func:`design`, and so the others.
        budget: limits; left out, those of the recipe.
        recipe: name of a shipped recipe or path of a TOML file; left out, "compress".
        run: the run folder.
        seed: seed of weights, batches and augmentation.
        changes: dotted recipe keys with other values.
        teacher: as for :func:`design`, or "original": the module itself, as it is before it is compressed.
        teacher_weights: as for :func:`design`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        console: where progress is shown; left out, nowhere, and warnings go to stderr.
        tensorboard: write TensorBoard logs as well.
        threads: as for :func:`design`.
        on_epoch: as for :func:`design`.

    Raises:
        InputError: bad input; the message says what was expected. A module that cannot be packed is no error: the
            metrics say why under ``"packing"``, and there is no packed file.
        BudgetExceeded: the finished network, all files of which are written, costs more than the budget allows.
    """
    allow_module(model)
    _allow_teacher(teacher)
    with _threads(threads):
        session = begin_session(device, console or Console(quiet=True), tensorboard=tensorboard, on_epoch=on_epoch)
        folder = RunFolder(run)
        with _nothing_left(folder):
            request = Request(
                *(source_of(data, folder.path), budget, recipe, seed, None, changes or {}, model, weights),
                teacher=teacher,
                teacher_weights=teacher_weights,
            )
            begun = read_first(folder, begin(folder, request, session))
        return _finished(folder, begun, session)


def _allow_teacher(teacher: str | Path | None) -> None:
    """Let the file of a teacher's class be run, which the caller names."""
    if is_class(teacher):
        allow_module(str(teacher))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch with so many CPU threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    if count is not None:
        if type(count) is not int or count < 1:
            raise InputError(f"threads: expected a whole number from 1 on, found {count!r}")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_first(folder: RunFolder, begun: Begun) -> Begun:
    """Read the data of a new run, and try its module, before its folder is made: what is refused leaves none behind.

    Raises:
        InputError: the data cannot be read, settings of the recipe mean nothing for them, or a module is refused.
    """
    recipe, is_new = begun.recipe, not (folder / "recipe.toml").exists()  # the first of several processes has a recipe
    if recipe is not None and begun.plan is None and is_new:
        with processes.apart():
            data = begun.data or load(recipe.data, recipe.front_ends)
            require_sensible(recipe, data)
            data.check_test()
        begun = replace(begun, data=data)
    if recipe is not None and recipe.module is not None and processes.count() == 1:
        if is_new:
            assert begun.data is not None
            begun = replace(begun, recipe=user_module.try_out(recipe, begun.data))
        elif (known := folder.recipe().module) is not None and known.file == recipe.module.file:
            module = pin_loaded(recipe.module, known.helpers)
            begun = replace(begun, recipe=recipe.model_copy(update={"module": module}))
    if begun.recipe is not None and begun.data is not None:
        with processes.apart():
            begun = replace(begun, recipe=pinned_teacher(begun.recipe, input_info(begun.data)))
    processes.share(None)
    return begun


@contextmanager
def _nothing_left(folder: RunFolder) -> Iterator[None]:
    """Remove the folder that given data were kept in, if it is new and the run does not begin."""
    is_new = not folder.path.exists()
    try:
        yield
    except LitesnnError:
        if is_new and processes.is_first() and folder.path.is_dir():
            (folder / DATA_FILE).unlink(missing_ok=True)
            with suppress(OSError):
                folder.path.rmdir()
        raise


def _finished(folder: RunFolder, begun: Begun, session: Session, *, from_run: RunFolder | None = None) -> Design:
    """Do all that is not done of a run, nor of another one. Raises ``BudgetExceeded`` as :func:`design`."""
    with held(folder, begun.recipe, begun.reasons) as mine:
        job = Job(mine, session, begun.data)
        if from_run is not None:
            job.take_over(from_run)
        job.announce(begun.plan, whole=False)
        job.finish()
    metrics = processes.first_does(folder.metrics)
    check_budgets(metrics)
    return Design(folder.path, metrics)


def check_budgets(metrics: Mapping[str, Any]) -> None:
    """Raise ``BudgetExceeded``, naming every limit that the measured network breaks."""
    broken = [row for row in metrics["budgets"] if row["kept"] is False]
    if broken:
        parts = ", ".join(f"{row['name']} {row['value']:.10g} over its limit of {row['limit']:.10g}" for row in broken)
        raise BudgetExceeded(f"budget exceeded: {parts}")
