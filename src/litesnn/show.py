"""What the command line prints: summary of a design, table of a network, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from litesnn.data.single import load_inputs
from litesnn.deploy.engine import Engine
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import IMAGE, PackedModel, population_shapes, read, size_table
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.networks import load_network
from litesnn.raw_inputs import probabilities
from litesnn.runs import STAGES, RunFolder
from litesnn.text import plain

__all__ = ["info_table", "predictions", "summary_table"]


_KEPT = {True: "yes", False: "[bold red]NO[/]", None: "[yellow]not all counted[/]"}


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """What a design came to, beside its budget."""
    table = Table(title=Text(plain(f"{metrics['recipe']} on {metrics['data']['name']}, seed {metrics['seed']}")))
    for column in ("figure", "measured", "budget", "kept"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, figure in _accuracy_rows(metrics):
        table.add_row(name, figure, "", "")
    table.add_row("arithmetic", Text(plain(metrics.get("arithmetic", "float"))), "", "")
    size = "packed size, B" if metrics.get("packing", {}).get("possible", True) else "size if packed, B (estimate)"
    names = {"packed_bytes": size, "bit_synops": "Bit-SynOps", "timesteps": "timesteps"}
    for row in metrics["budgets"]:
        limit = "" if row["limit"] is None else f"{row['limit']:,.0f}"
        kept = "" if row["limit"] is None else _KEPT[row["kept"]]
        table.add_row(names[row["name"]], f"{row['value']:,.0f}", limit, kept)
    table.add_row("SynOps", f"{metrics['synops']:,.0f}", "", "")
    if engine := metrics.get("engine"):
        table.add_row("additions of the native engine", f"{engine['additions']:,.0f}", "", "")
    table.add_row("stem MACs", f"{metrics['stem_macs']:,.0f}", "", "")
    table.add_row("model size without positions, B", f"{metrics['model_size_bytes']:,.0f}", "", "")
    table.add_row("energy estimate, nJ", f"{metrics['energy']['total_nj']:,.2f}", "", "")
    for warning in metrics.get("warnings", ()):
        colour = "bold red" if warning["grave"] else "yellow"
        table.add_row(f"[{colour}]warning[/]", Text(plain(warning["label"]), style=colour), "", "")
    return table


def _accuracy_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Test accuracy with its standard error, and what simple classifiers have; older runs know only the first."""
    error = metrics.get("test_standard_error")
    margin = "" if error is None else f" ± {100 * error:.1f}"
    yield "test accuracy", f"{metrics['test_accuracy']:.2%}{margin} of {metrics['data']['test']}"
    if "balanced_accuracy" in metrics:
        yield "balanced accuracy", f"{metrics['balanced_accuracy']:.2%}"
    if baselines := metrics.get("baselines"):
        yield "linear classifier", f"{baselines['linear']['accuracy']:.2%}"
        yield "always the commonest class", f"{baselines['majority']:.2%}"


def info_table(path: Path) -> Table:
    """A packed model, a trained network or a run's, layer by layer.

    Raises:
        InputError: the path holds none of these, or it is damaged.
    """
    if path.is_dir():
        run = RunFolder(path)
        if not run.done("pack") and (run / "recipe.toml").exists() and "pack" not in run.needs():
            raise InputError(f"{run.path}: its module cannot be packed; metrics.json says why, and what its layers are")
        path = run.output("pack") if run.done("pack") else run.need("train")
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    model = integerize(load_network(path)) if path.name == STAGES["train"] else read(path)
    return _model_table(path, model)


def predictions(model_path: Path, inputs: Sequence[Path], *, reference: bool = False) -> Iterator[dict[str, Any]]:
    """For every input its class, the class's probability and the logits, by the native engine or the reference.

    Raises:
        InputError: the model or an input is missing, damaged or of another shape; before anything is printed for it.
    """
    model = read(model_path)
    runner = Reference(model) if reference else Engine(model)
    for path in inputs:
        spec = model.input
        rows = load_inputs(path, spec.shape, spec.kind, spec.front_end, timesteps=model.timesteps).numpy()
        logits = runner.run(rows).logits[-1]
        for number, (row, share) in enumerate(zip(logits, probabilities(logits), strict=True)):
            best = int(row.argmax())
            yield {
                "input": str(path) if len(rows) == 1 else f"{path}[{number}]",
                "class": model.classes[best],
                "probability": float(share[best]),
                "logits": row.tolist(),
            }


def _model_table(path: Path, model: PackedModel) -> Table:
    """One row for every bundle of synapses; the first of a population has its shape, its rate and its bias' bytes."""
    sizes = size_table(model)
    task = f"{_by(model.input.shape)} → {len(model.classes)} classes"
    kind = "" if model.fraction is None else f", fixed point with {model.fraction} fractional bits"
    kind += "" if model.input.front_end is None else f"; input: {model.input.front_end}"
    table = Table(
        title=Text(plain(f"{path}: {task}, {model.timesteps} timesteps{kind}")),
        caption="k/s: kernel/stride; a population's first row has its bias and rate",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("layer", "shape", "k/s", "bits", "kept", "of", "coding", "bytes", "rate"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    rows = iter(sizes.layers)
    for index, (population, shape) in enumerate(zip(model.populations, population_shapes(model), strict=True)):
        layers = [next(rows) for _ in population.synapses]
        left = next(rows).bytes  # the bias
        rate = "" if population.rate is None else f"{population.rate:.1%}"
        fixed = [_by(shape), rate]
        for synapses, layer in zip(population.synapses, layers, strict=True):
            weights = ["", "skip", "", "", ""]
            if synapses.kernel:
                kernel = f"{synapses.kernel}/{synapses.stride}"
                weights = [kernel, str(layer.bits), f"{layer.kept:,}", f"{layer.weights:,}", layer.coding]
            name = f"{index} ← {_sources(synapses.sources)}"
            table.add_row(name, fixed[0], *weights, f"{layer.bytes + left:,}", fixed[1])
            fixed, left = ["", ""], 0
    last = next(rows)
    name = f"readout ← {_sources(model.readout.sources)}"
    counts = [str(last.bits), f"{last.kept:,}", f"{last.weights:,}", last.coding]
    table.add_row(name, str(len(model.classes)), "", *counts, f"{last.bytes:,}", "")
    table.add_row("header", *[""] * 6, f"{sizes.header_bytes:,}", "", end_section=True)
    table.add_row("file", *[""] * 6, f"{sizes.bytes:,}", "")
    return table


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _sources(sources: Sequence[int]) -> str:
    """``image``, ``3``, ``3,5``, or ``3–6`` for three or more in a row."""
    if tuple(sources) == (IMAGE,):
        return "image"
    if len(sources) > 2 and list(sources) == list(range(sources[0], sources[0] + len(sources))):
        return f"{sources[0]}–{sources[-1]}"
    return ",".join(map(str, sources))
