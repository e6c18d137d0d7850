"""The command line: commands and their options; what they do is elsewhere.

Help, the version and wrong options need nothing of that, and least of all torch: a function here imports what it calls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from litesnn.cpu import check_limit
from litesnn.errors import EndedElsewhere, InputError, LitesnnError, memory_errors_told
from litesnn.snn.execution import Execution
from litesnn.text import plain
from litesnn.torchrun import is_one_of_several

if TYPE_CHECKING:
    from rich.console import Console

    from litesnn.loop.session import Session
    from litesnn.planning.request import Begun
    from litesnn.runs import RunFolder

__all__ = ["app", "main"]

_STARTED = time.perf_counter()

_INTERRUPTED = 130
"""The exit code into which typer turns a KeyboardInterrupt, before anything here can see it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Design lightweight spiking neural networks: from data and a budget to a packed network.",
)

export_app = typer.Typer(
    no_args_is_help=True, help="Write a network for other places: C for microcontrollers, NIR, ONNX."
)
app.add_typer(export_app, name="export")


SHARED_COMMANDS = {"design", "search", "train", "evaluate"}
"""The commands that several processes, started by ``torchrun``, do together; all others the first does alone."""


class Runtime(StrEnum):
    """What runs a trained network."""

    torch = "torch"
    native = "native"


class Interpreter(StrEnum):
    """What runs a packed model."""

    native = "native"
    reference = "reference"


class Mode(StrEnum):
    """How the search treats costs."""

    budget = "budget"
    paper = "paper"


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
    bool, typer.Option("--dry-run", help="begin the run, print what it would do and for how long, and stop there")
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


@app.command()
def design(
    run: RunOption = Path("runs/design"),
    data: DataOption = None,
    budget: BudgetOption = None,
    duration: TimeOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    mode: ModeOption = None,
    changes: SetOption = None,
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
    begun = _begin(run, session, data, budget, recipe, seed, mode, changes, duration=duration)
    _finish(_folder(run), begun, session, dry_run=dry_run)


@app.command()
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
    begun = _begin(run, session, data, budget, recipe, seed, None, changes, model=model, weights=weights)
    _finish(_folder(run), begun, session)


@app.command()
def search(
    run: RunOption = Path("runs/design"),
    data: DataOption = None,
    budget: BudgetOption = None,
    duration: TimeOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = None,
    mode: ModeOption = None,
    changes: SetOption = None,
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
    begun = _begin(run, session, data, budget, recipe, seed, mode, changes, duration=duration)
    _do_stage("search", _folder(run), session, begun)


@app.command()
def derive(run: RunArgument, model: ModelOption = None) -> None:
    """Choose the genotype that the search prefers within the packed-size budget."""
    _allow(model)
    _do_stage("derive", _folder(run), _session("cpu", None))


@app.command()
def train(
    run: RunArgument,
    model: ModelOption = None,
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


@app.command()
def evaluate(
    run: RunArgument,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: Annotated[
        Runtime, typer.Option("--engine", help="native: run the packed network in C instead, and time it beside torch")
    ] = Runtime.torch,
) -> None:
    """Measure the trained network on the test split. Exit code 3 if it breaks its budget."""
    _allow(model)
    folder = _folder(run)
    if engine is Runtime.native:
        if device not in ("auto", "cpu"):
            raise InputError(f"--engine native runs on the CPU; expected no --device, but it is {device!r}")
        _first_does(lambda: _evaluate_native(folder, threads or 1))
        return
    _do_stage("evaluate", folder, _session(device, threads))
    _conclude(folder)


@app.command()
def pack(run: RunArgument, model: ModelOption = None) -> None:
    """Pack the trained network into low-bit bytes, and prove that the file computes the same."""
    _allow(model)
    _do_stage("pack", _folder(run), _session("cpu", None))


@app.command()
def report(run: RunArgument) -> None:
    """Write the report, one self-contained HTML page."""
    _do_stage("report", _folder(run), _session("cpu", None))


@export_app.command("c")
def export_c(
    path: SourceArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to write")] = Path("firmware"),
    targets: TargetOption = None,
) -> None:
    """Write a folder of C99 that runs the packed network on a microcontroller, with a self-test."""
    from rich.console import Console

    from litesnn.deploy.export_c.command import export, firmware_summary

    firmware = export(path, out, targets or ())
    console = Console()
    console.print(firmware_summary(firmware))
    _print_line(console, firmware.path)


@export_app.command("nir")
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
    from litesnn.deploy.exchange.command import export_nir

    print(plain(export_nir(path, out, fires_at_threshold=fires_at_threshold).summary()))


@export_app.command("onnx")
def export_to_onnx(
    path: SourceArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="the file to write")] = Path("model.onnx"),
) -> None:
    """Write the packed network as ONNX, low-bit weights and all timesteps in one graph."""
    from litesnn.deploy.exchange.command import export_onnx

    print(plain(export_onnx(path, out).summary()))


@app.command()
def info(path: Annotated[Path, typer.Argument(help="a run folder, a network.safetensors or a packed model")]) -> None:
    """Print what a network is made of, and what it takes."""
    from rich.console import Console

    from litesnn.show import info_table

    Console().print(info_table(path))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="a packed model, model.safetensors")],
    inputs: Annotated[list[Path], typer.Argument(help="image, sound or event files, or arrays as .npy or .npz")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per input")] = False,
    engine: Annotated[
        Interpreter, typer.Option("--engine", help="the native engine, or the NumPy reference that it equals")
    ] = Interpreter.native,
) -> None:
    """Classify inputs with a packed model."""
    from litesnn.show import predictions

    for row in predictions(model, inputs, reference=engine is Interpreter.reference):
        print(json.dumps(row) if as_json else plain(f"{row['input']}: {row['class']} ({row['probability']:.1%})"))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="a recipe to print in full")] = None) -> None:
    """List the shipped recipes, or print every setting of one with its meaning."""
    from litesnn.config import describe_settings, load_recipe, shipped_recipes

    if name is None:
        for shipped in shipped_recipes():
            print(f"{shipped:20} {load_recipe(shipped).description.partition(chr(10))[0]}")
        return
    for key, value, meaning in describe_settings(load_recipe(name)):
        print(f"{key:34} = {json.dumps(value, default=str):24} # {meaning}")


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
        check_limit()
        with _joined(), memory_errors_told():
            app()
    except EndedElsewhere as error:
        sys.exit(error.exit_code)
    except LitesnnError as error:
        print(f"litesnn: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        print("litesnn: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    sys.exit(0)


def _joined() -> AbstractContextManager[None]:
    """The processes that ``torchrun`` started, joined, if it did."""
    if not is_one_of_several():
        return nullcontext()
    from litesnn import processes

    return processes.joined()


def _first_does(action: Callable[[], Any]) -> None:
    from litesnn import processes

    processes.first_does(action)


def _allow(model: str | None) -> None:
    """Let the file that the command line names be run."""
    if model is not None:
        from litesnn.compression.source import allow_module

        allow_module(model)


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
) -> Begun:
    """How the run begins that the options say."""
    from litesnn.config import parse_change
    from litesnn.planning.request import Request, begin

    said: dict[str, Any] = dict(map(parse_change, changes or []))
    if mode is not None:
        said["search.mode"] = str(mode)
    request = Request(data, budget, recipe, seed, duration, said, model, weights)
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

    from litesnn.loop.session import begin_session

    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(quiet=quiet)
    return begin_session(device, console, tensorboard=tensorboard, execution=execution, memory=memory)


def _finish(folder: RunFolder, begun: Begun, session: Session, *, dry_run: bool = False) -> None:
    """Do the stages that are left, and show what came out; or only say what they would do."""
    from litesnn.design import Job, read_first
    from litesnn.runs import held

    begun = read_first(folder, begun)
    with held(folder, begun.recipe, begun.reasons) as mine:
        job = Job(mine, session, begun.data)
        job.announce(begun.plan, whole=dry_run)
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

    from litesnn.deploy.native_evaluation import engine_table, evaluate_native
    from litesnn.design import Job, check_budgets
    from litesnn.runs import held

    with held(folder):
        metrics = evaluate_native(folder, Job(folder, _session("cpu", None)).data, threads=threads)
    Console().print(engine_table(metrics))
    check_budgets(metrics)


def _conclude(folder: RunFolder) -> None:
    _first_does(lambda: _show_results(folder))


def _print_line(console: Console, text: object) -> None:
    """A line with names that are no markup."""
    console.print(plain(text), soft_wrap=True, markup=False, emoji=False, highlight=False)


def _show_results(folder: RunFolder) -> None:
    from rich.console import Console

    from litesnn.design import check_budgets
    from litesnn.runs import STAGES
    from litesnn.show import summary_table

    metrics = folder.metrics()
    console = Console()
    console.print(summary_table(metrics))
    for stage in ("pack", "report"):
        if folder.done(stage):
            _print_line(console, f"{STAGES[stage]}: {folder.output(stage)}")
    if reason := metrics.get("packing", {}).get("reason"):
        _print_line(console, f"no {STAGES['pack']}, and its size is an estimate: {reason}")
    check_budgets(metrics)
