"""The command line: commands and their options; what they do is elsewhere.

Help, the version and wrong options need nothing of that, and least of all torch: a function here imports what it calls.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from litesnn.cpu import check_limit
from litesnn.errors import EndedElsewhere, InputError, LitesnnError, memory_errors_told
from litesnn.interrupts import INTERRUPTED, raise_again
from litesnn.snn.execution import Execution
from litesnn.stages import STAGES, Stage
from litesnn.system import require_supported
from litesnn.text import plain
from litesnn.torchrun import is_one_of_several

if TYPE_CHECKING:
    from rich.console import Console

    from litesnn.planning.request import Begun
    from litesnn.runs import RunFolder
    from litesnn.training_loop.session import Session

__all__ = ["app", "main"]

_STARTED = time.perf_counter()


class _Command(TyperCommand):
    """A command whose help shows options that take no value as what they are, without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options and arguments, ``--help`` included."""
        return _without_types_of_flags(super().get_params(ctx))


class _Group(TyperGroup):
    """A group of commands, as :class:`_Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, ``--help`` included."""
        return _without_types_of_flags(super().get_params(ctx))


def _without_types_of_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Design lightweight spiking neural networks: from data and a budget to a packed network.",
)

export_app = typer.Typer(
    cls=_Group, no_args_is_help=True, help="Write a network for other places: C for microcontrollers, NIR, ONNX."
)
app.add_typer(export_app, name="export")

_command = partial(app.command, cls=_Command)
_export_command = partial(export_app.command, cls=_Command)

SHARED_COMMANDS = {"design", *(stage.name for stage in STAGES.values() if stage.shared is not None)}
"""The commands that several processes, started by ``torchrun``, do together; all others the first does alone."""

_RESUMED_COMMANDS = {"design", "compress", *(stage.name for stage in STAGES.values() if stage.log is not None)}
"""The commands that go on, if they are given again, where an interrupt ended them."""

_HOW = ("device", "threads", "tensorboard", "memory", "compiled", "half", "graphs", "quiet")
"""The parameters of commands that say how to compute, not what: a run folder does not keep them."""


class Runtime(StrEnum):
    """The implementations that can run a trained network."""

    torch = "torch"
    native = "native"
    reference = "reference"


class Interpreter(StrEnum):
    """The implementations that can run a packed model."""

    native = "native"
    reference = "reference"


class Mode(StrEnum):
    """How the search treats costs."""

    budget = "budget"
    paper = "paper"


FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="begin with the recipe of this run, and take over its stages that --set and the others do not touch",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="the run folder")]
SourceArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="a run folder or a packed model, model.safetensors")
]
RunOption = Annotated[Path, typer.Option("--run", help="the run folder; made if it is not there")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE.py:CLASS",
        help="a torch module with convolutions and spiking neurons; the file is run, and no other that a recipe names",
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="auto|RUN|FILE.py:CLASS",
        help="a network to learn from: auto trains a small one first; a run, or its network.safetensors or "
        "teacher.safetensors; or a torch module, whose file is run",
    ),
]
CompressTeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="original|auto|RUN|FILE.py:CLASS",
        help="a network to learn from: original is the module with its --weights; all others as for design",
    ),
]
TeacherWeightsOption = Annotated[
    Path | None, typer.Option("--teacher-weights", help="the weights of such a module, as a safetensors file")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, a folder (images, sound, parquet files, event recordings), an .npz or .csv file, or a hub name",
    ),
]
BudgetOption = Annotated[str | None, typer.Option("--budget", help='limits, as in "8 kB, 1 M Bit-SynOps, T <= 4"')]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="a shipped recipe or a TOML file, see recipes; left out, one is made from the data"),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="seed of weights, batches and augmentation")]
TimeOption = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="what the whole design may take, as in '30 min' (the default; on a GPU '10 min'): a recipe is made for it",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="begin the run, print what it would do and for how long (with --quiet the estimate alone), and stop there",
    ),
]
ModeOption = Annotated[Mode | None, typer.Option("--mode", help="limits as constraints, or the paper's fixed weights")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a recipe key, as in search.epochs=3")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; left out, torch decides")]
BoardOption = Annotated[bool, typer.Option("--tensorboard", help="write TensorBoard logs into the run folder")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", help="build, run and measure on host, cortex-m4, cortex-m0 or rv32; may be repeated"),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory", help="most memory of a step, as in '6 GB': cells are recomputed, and batches parted, to keep it"
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="let torch.compile make the kernels besides convolutions; rounds differently")
]
HalfOption = Annotated[bool, typer.Option("--bf16", help="convolutions of training in bfloat16; rounds differently")]
GraphsOption = Annotated[
    bool, typer.Option("--graphs/--no-graphs", help="on a GPU, record steps as CUDA graphs: the same numbers, faster")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no progress bars; warnings go to stderr")]


@_command()
def design(
    context: typer.Context,
    run: RunOption = Path("runs/design"),
    data: DataOption = None,
    budget: BudgetOption = None,
    duration: TimeOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    mode: ModeOption = None,
    changes: SetOption = None,
    from_run: FromOption = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeightsOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tensorboard: BoardOption = False,
    memory: MemoryOption = None,
    compiled: CompileOption = False,
    half: HalfOption = False,
    graphs: GraphsOption = True,
    quiet: QuietOption = False,
) -> None:
    """Do the whole job, or go on with one that was interrupted. Exit code 3 if the result breaks its budget."""
    session = _session(
        device,
        threads,
        Execution(compiled=compiled, half=half, graphs=graphs),
        memory,
        tensorboard=tensorboard,
        quiet=quiet,
    )
    if dry_run and from_run is not None:
        raise InputError("--dry-run cannot say what --from leaves to do; leave out one")
    begun = _begin(
        *(run, session, data, budget, recipe, seed, mode, changes),
        duration=duration,
        from_run=from_run,
        teacher=teacher,
        teacher_weights=teacher_weights,
    )
    _finish(_folder(run), begun, session, options=_how(context), from_run=from_run, dry_run=dry_run)


@_command()
def compress(
    run: RunOption = Path("runs/compress"),
    model: ModelOption = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="its weights to start from, as a safetensors file")
    ] = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    changes: SetOption = None,
    teacher: CompressTeacherOption = None,
    teacher_weights: TeacherWeightsOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tensorboard: BoardOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compress a spiking network of your own, written with snnTorch, SpikingJelly or plain torch.

    Its architecture stays; bits and keep ratio of every layer and the timesteps are searched under the budget. Goes on
    with a run that was interrupted. Exit code 3 if the result breaks its budget.
    """
    _allow(model)
    if model is None and not ((run / "recipe.toml").exists() and _folder(run).recipe().module):
        if weights is not None:
            raise InputError("--weights are those of a module; expected --model FILE.py:CLASS too")
        raise InputError(f"{run}: no module is given; expected --model FILE.py:CLASS, as in my_module.py:Net")
    session = _session(device, threads, tensorboard=tensorboard, quiet=quiet)
    begun = _begin(
        *(run, session, data, budget, recipe, seed, None, changes),
        model=model,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
    )
    _finish(_folder(run), begun, session)


@_command()
def search(
    run: RunOption = Path("runs/design"),
    data: DataOption = None,
    budget: BudgetOption = None,
    duration: TimeOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    mode: ModeOption = None,
    changes: SetOption = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeightsOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tensorboard: BoardOption = False,
    memory: MemoryOption = None,
    compiled: CompileOption = False,
    half: HalfOption = False,
    graphs: GraphsOption = True,
    quiet: QuietOption = False,
) -> None:
    """Begin a run and search: weights, operations, bits, keep ratios, widths and timesteps together."""
    session = _session(
        device,
        threads,
        Execution(compiled=compiled, half=half, graphs=graphs),
        memory,
        tensorboard=tensorboard,
        quiet=quiet,
    )
    begun = _begin(
        *(run, session, data, budget, recipe, seed, mode, changes),
        duration=duration,
        teacher=teacher,
        teacher_weights=teacher_weights,
    )
    _do_stage("search", _folder(run), session, begun)


@_command()
def derive(run: RunArgument, model: ModelOption = None) -> None:
    """Choose the genotype that the search prefers within the packed-size budget."""
    _allow(model)
    _do_stage("derive", _folder(run), _session("cpu", None))


@_command(help=STAGES["teacher"].meaning)
def teacher(
    run: RunArgument,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tensorboard: BoardOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the teacher of a run."""
    _do_stage("teacher", _folder(run), _session(device, threads, tensorboard=tensorboard, quiet=quiet))


@_command()
def train(
    run: RunArgument,
    model: ModelOption = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="FILE.py:CLASS", help="the run's teacher, if it is a torch module"),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tensorboard: BoardOption = False,
    memory: MemoryOption = None,
    compiled: CompileOption = False,
    half: HalfOption = False,
    graphs: GraphsOption = True,
    quiet: QuietOption = False,
) -> None:
    """Train the derived network from scratch."""
    _allow(model)
    _allow_teacher(teacher, _folder(run))
    _do_stage(
        "train",
        _folder(run),
        _session(
            device,
            threads,
            Execution(compiled=compiled, half=half, graphs=graphs),
            memory,
            tensorboard=tensorboard,
            quiet=quiet,
        ),
    )


@_command()
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|MODEL", help="a run folder; or a packed model, a file or a name that models lists"),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="measure the packed model on the test rows of this data set instead, named as for design"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="with --data: a recipe whose data section says which rows and classes are meant"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="with --data: change a key of it, as in data.test_limit=1000"),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: Annotated[
        Runtime | None,
        typer.Option(
            "--engine",
            help="torch, or native: run the packed network in C, and time it beside torch. With --data: native, or the "
            "NumPy reference, which it equals",
            show_default="torch, with --data native",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="with --data: one JSON object instead of tables")] = False,
) -> None:
    """Measure a run's trained network on its test split, or any packed model on any data set (--data).

    Exit code 3 if a run breaks its budget.
    """
    if data is not None:
        _measure_packed(run, data, recipe, changes, model, device, threads, engine or Runtime.native, as_json=as_json)
        return
    with_data = {
        "--recipe": recipe,
        "--set": changes,
        "--json": as_json,
        "--engine reference": engine is Runtime.reference,
    }
    if said := [option for option, value in with_data.items() if value]:
        raise InputError(f"{said[0]} is for a packed model; expected --data too, the data set to measure it on")
    from litesnn.models import find_model

    if find_model(run).is_file():
        raise InputError(f"{run} is no run folder; expected --data too, the data set to measure a packed model on")
    _allow(model)
    folder = _folder(run)
    if engine is Runtime.native:
        if device not in ("auto", "cpu"):
            raise InputError(f"--engine native runs on the CPU; expected no --device, but it is {device!r}")
        _first_does(lambda: _evaluate_native(folder, threads or 1))
        return
    _do_stage("evaluate", folder, _session(device, threads))
    _conclude(folder)


def _add_stage(stage: Stage) -> None:
    """The command of a stage that has no options of its own."""

    def alone(run: RunArgument) -> None:
        _do_stage(stage.name, _folder(run), _session("cpu", None))

    def with_module(run: RunArgument, model: ModelOption = None) -> None:
        _allow(model)
        alone(run)

    command = with_module if stage.runs_module else alone
    command.__name__ = stage.name
    _command(stage.name, help=stage.meaning)(command)


_with_options = {command.callback.__name__ for command in app.registered_commands if command.callback}
for _stage in STAGES.values():
    if _stage.name not in _with_options:
        _add_stage(_stage)


@_export_command("c")
def export_c(
    path: SourceArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to write")] = Path("firmware"),
    targets: TargetOption = None,
) -> None:
    """Write a folder of C99 that runs the packed network on a microcontroller, with a self-test."""
    from rich.console import Console

    from litesnn.commands.export_c import export, firmware_summary

    raise_again()
    firmware = export(path, out, targets or ())
    console = Console()
    console.print(firmware_summary(firmware))
    _print_line(console, firmware.path)


@_export_command("nir")
def export_to_nir(
    path: SourceArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="the file to write")] = Path("model.nir"),
    fires_at_threshold: Annotated[
        bool,
        typer.Option(
            "--fires-at-threshold",
            help="for readers that fire at the threshold too, as SpikingJelly does: the next float",
        ),
    ] = False,
) -> None:
    """Write the packed network as NIR, for simulators and neuromorphic chips."""
    from litesnn.commands.exchange import export_nir

    raise_again()
    print(plain(export_nir(path, out, fires_at_threshold=fires_at_threshold).summary()))


@_export_command("onnx")
def export_to_onnx(
    path: SourceArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="the file to write")] = Path("model.onnx"),
) -> None:
    """Write the packed network as ONNX, low-bit weights and all timesteps in one graph."""
    from litesnn.commands.exchange import export_onnx

    raise_again()
    print(plain(export_onnx(path, out).summary()))


@_command()
def info(path: Annotated[Path, typer.Argument(help="a run folder, a network.safetensors or a packed model")]) -> None:
    """Print what a network is made of, and what it takes; of an unfinished run also what is left to do."""
    from rich.console import Console

    from litesnn.console_tables import info_table
    from litesnn.run_state import state_lines
    from litesnn.runs import RunFolder

    raise_again()
    console, run = Console(), RunFolder(path)
    left = state_lines(run) if path.is_dir() else []
    if not left or run.done("train"):
        console.print(info_table(path))
    for line in left:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


@_command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="the folder that holds run folders")] = Path("runs"),
) -> None:
    """List the runs in a folder with their accuracy and costs, or how far they are."""
    from rich.console import Console

    from litesnn.run_state import find_runs, run_table

    raise_again()
    if runs := find_runs(folder):
        Console().print(run_table(folder, runs))
    else:
        print(f"{folder}: no runs")


@_command()
def predict(
    model: Annotated[Path, typer.Argument(help="a run folder or a packed model, model.safetensors")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="image, sound or event files, arrays as .npy or .npz, folders of these, or - for standard input"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per input")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="a table with a header, values separated by commas")] = False,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="the K most probable classes")] = 1,
    engine: Annotated[
        Interpreter, typer.Option("--engine", help="the native engine, or the NumPy reference that it equals")
    ] = Interpreter.native,
) -> None:
    """Classify inputs with a packed model. What cannot be read is said at the end, with exit code 2."""
    if as_json and as_csv:
        raise InputError("--json and --csv are two forms of the same; leave out one")
    from litesnn.console_tables import prediction_writer, predictions

    raise_again()
    write = prediction_writer("json" if as_json else "csv" if as_csv else "text")
    errors: list[InputError] = []

    def note(text: str) -> None:
        print(f"litesnn: warning: {text}", file=sys.stderr)

    for row in predictions(
        model, inputs, reference=engine is Interpreter.reference, top=top, failed=errors.append, note=note
    ):
        write(row)
    for error in errors[:-1]:
        print(f"litesnn: error: {error}", file=sys.stderr)
    if errors:
        sys.stdout.flush()
        raise errors[-1]


@_command()
def models(
    name: Annotated[str | None, typer.Argument(help="a network of the list, to print all that is known of it")] = None,
) -> None:
    """List the packed networks that come with litesnn, or print the record of one. Commands take a name as a path."""
    from litesnn.models import read_record, shipped_models

    if name is not None:
        print(json.dumps(read_record(name).model_dump(), indent=2))
        return
    from rich.console import Console

    from litesnn.commands.evaluation_tables import models_table

    Console().print(models_table([read_record(each) for each in shipped_models()]))


@_command()
def recipes(name: Annotated[str | None, typer.Argument(help="a recipe to print in full")] = None) -> None:
    """List the shipped recipes, or print every setting of one with its meaning."""
    from litesnn.config import describe_settings, load_recipe, shipped_recipes

    if name is None:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        for shipped in shipped_recipes():
            table.add_row(shipped, load_recipe(shipped).description.partition("\n")[0])
        Console(highlight=False).print(table)
        return
    columns = shutil.get_terminal_size().columns
    for key, value, meaning in describe_settings(load_recipe(name)):
        for line in textwrap.wrap(meaning, columns, initial_indent="# ", subsequent_indent="# "):
            print(line)
        for line in textwrap.wrap(f"{key} = {json.dumps(value, default=str)}", columns, subsequent_indent="    "):
            print(line)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if context.invoked_subcommand not in SHARED_COMMANDS and is_one_of_several():
        from litesnn import processes

        if not processes.is_first():
            raise typer.Exit
        context.with_resource(processes.apart())
    if version:
        from litesnn.version import __version__

        print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; errors that a person caused become one line and an exit code."""
    try:
        require_supported()
        check_limit()
        with _joined(), memory_errors_told():
            app()
    except EndedElsewhere as error:
        sys.exit(error.exit_code)
    except LitesnnError as error:
        print(f"litesnn: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt) as end:
        # typer turns a KeyboardInterrupt into this exit code, before anything here can see it.
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        print(f"litesnn: interrupted{_how_to_go_on()}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _how_to_go_on() -> str:
    """The message for an interrupted command; empty, if there is nothing to go on with."""
    if sys.argv[1:2] == [] or sys.argv[1] not in _RESUMED_COMMANDS:
        return ""
    if is_one_of_several():  # what torchrun was told is not known here
        return "; the same command goes on from the last finished epoch"
    return f"; go on from the last finished epoch with: {shlex.join(['litesnn', *sys.argv[1:]])}"


def _joined() -> AbstractContextManager[None]:
    """The processes that ``torchrun`` started, joined, if it did."""
    if not is_one_of_several():
        return nullcontext()
    from litesnn import processes

    raise_again()
    return processes.joined()


def _first_does(action: Callable[[], Any]) -> None:
    from litesnn import processes

    processes.first_does(action)


def _allow(model: str | None) -> None:
    """Let the file that the command line names be run."""
    if model is not None:
        from litesnn.compression.source import allow_module

        allow_module(model)


def _allow_teacher(teacher: str | None, folder: RunFolder | None = None) -> None:
    """Let the file of a teacher's class be run; only the one of the run in ``folder``, if there is one."""
    if teacher is None:
        return
    from litesnn.compression.source import allow_module
    from litesnn.compression.teachers import is_class, name_of_teacher

    if folder is not None and (own := folder.recipe().train.teacher) != name_of_teacher(teacher):
        raise InputError(
            f"{folder.path}: its train.teacher is {own or 'not there'}, and not {teacher}; expected another run, for "
            f"example with design --from {folder.path}"
        )
    if is_class(teacher):
        allow_module(teacher)


def _how(context: typer.Context) -> str:
    """The options of the command line that say how to compute, as they were given."""
    words: list[str] = []
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name not in _HOW or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[param.name]
        if isinstance(value, bool):
            words += (param.opts if value else param.secondary_opts)[:1]
        else:
            words += [param.opts[0], str(value)]
    return shlex.join(words)


def _folder(run: Path) -> RunFolder:
    from litesnn.runs import RunFolder

    return RunFolder(run)


def _begin(
    run: Path,
    session: Session,
    data: str | None,
    budget: str | None,
    recipe: str | None,
    seed: int | None,
    mode: Mode | None,
    changes: list[str] | None,
    *,
    duration: str | None = None,
    model: str | None = None,
    weights: Path | None = None,
    from_run: Path | None = None,
    teacher: str | None = None,
    teacher_weights: Path | None = None,
) -> Begun:
    """How the run begins that the options say."""
    from litesnn.config import parse_change
    from litesnn.planning.request import Request, begin

    said: dict[str, Any] = dict(map(parse_change, changes or []))
    if mode is not None:
        said["search.mode"] = str(mode)
    _allow_teacher(teacher)
    request = Request(data, budget, recipe, seed, duration, said, model, weights, from_run, teacher, teacher_weights)
    return begin(_folder(run), request, session, spent=time.perf_counter() - _STARTED)


def _session(
    device: str,
    threads: int | None,
    execution: Execution = Execution(),
    memory: str | None = None,
    *,
    tensorboard: bool = False,
    quiet: bool = False,
) -> Session:
    import torch
    from rich.console import Console

    import litesnn.design  # noqa: F401  (which imports all that commands need)
    from litesnn.training_loop.session import begin_session

    raise_again()
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(quiet=quiet)
    return begin_session(device, console, tensorboard=tensorboard, execution=execution, memory=memory)


def _finish(
    folder: RunFolder,
    begun: Begun,
    session: Session,
    *,
    options: str = "",
    from_run: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do the stages that are left, and show what came out; or only say what they would do."""
    from litesnn.design import Job, read_first
    from litesnn.runs import held

    begun = read_first(folder, begun)
    with held(folder, begun.recipe, begun.reasons) as mine:
        job = Job(mine, session, begun.data)
        if from_run is not None:
            job.take_over(_folder(from_run))
        job.announce(begun.plan, whole=dry_run, options=options)
        if dry_run:
            return
        job.finish()
    _conclude(folder)


def _do_stage(stage: str, folder: RunFolder, session: Session, begun: Begun | None = None) -> None:
    from rich.markup import escape

    from litesnn.design import Job, read_first
    from litesnn.runs import held

    if begun is not None:
        begun = read_first(folder, begun)
    recipe, reasons, data = (None, None, None) if begun is None else (begun.recipe, begun.reasons, begun.data)
    with held(folder, recipe, reasons) as mine:
        session.show(escape(str(Job(mine, session, data).do(stage))))


def _evaluate_native(folder: RunFolder, threads: int) -> None:
    from rich.console import Console

    from litesnn.commands.native_evaluation import engine_table, evaluate_native
    from litesnn.design import Job, check_budgets
    from litesnn.runs import held

    with held(folder):
        metrics = evaluate_native(folder, Job(folder, _session("cpu", None)).data, threads=threads)
    Console().print(engine_table(metrics))
    check_budgets(metrics)


def _measure_packed(
    path: Path,
    data: str,
    recipe: str | None,
    changes: list[str] | None,
    model: str | None,
    device: str,
    threads: int | None,
    engine: Runtime,
    *,
    as_json: bool,
) -> None:
    """Measure a packed model on a data set, and print what came out."""
    if model is not None:
        raise InputError("--model is for a run folder; a packed model needs no module: leave out --model or --data")
    if engine is Runtime.torch:
        raise InputError("--engine torch cannot run a packed model; expected native or reference")
    if device not in ("auto", "cpu"):
        raise InputError(f"a packed model runs on the CPU; expected no --device, but it is {device!r}")
    from litesnn.config import parse_change
    from litesnn.packed_evaluation import evaluate as measure

    raise_again()
    said = dict(map(parse_change, changes or []))
    name: Any = engine.value

    def first() -> None:
        found = measure(path, data, recipe=recipe, changes=said, engine=name, threads=threads or 1)
        if as_json:
            print(json.dumps(found.to_dict(), indent=2))
            return
        from rich.console import Console

        from litesnn.commands.evaluation_tables import evaluation_tables

        console = Console()
        for note in found.notes:
            _print_line(console, f"{found.data}: {note}")
        for table in evaluation_tables(found):
            console.print(table)

    _first_does(first)


def _conclude(folder: RunFolder) -> None:
    _first_does(lambda: _show_results(folder))


def _print_line(console: Console, text: object) -> None:
    """A line with names that are no markup."""
    console.print(plain(text), soft_wrap=True, markup=False, emoji=False, highlight=False)


def _show_results(folder: RunFolder) -> None:
    from rich.console import Console

    from litesnn.console_tables import summary_table
    from litesnn.design import check_budgets

    metrics = folder.metrics()
    console = Console()
    console.print(summary_table(metrics))
    names = list(STAGES)
    for stage in names[names.index("evaluate") + 1 :]:
        if folder.done(stage):
            _print_line(console, f"{STAGES[stage].output}: {folder.output(stage)}")
    if reason := metrics.get("packing", {}).get("reason"):
        _print_line(console, f"no {STAGES['pack'].output}, and its size is an estimate: {reason}")
    check_budgets(metrics)
