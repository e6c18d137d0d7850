"""Console output of the command line: summary of a design, table of a network, predictions."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from litesnn.costs import COSTS
from litesnn.costs.size import PACKED_BYTES
from litesnn.deploy.engine import Engine
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import IMAGE, PackedModel, population_shapes, read, size_table
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.models import find_model
from litesnn.network_file import load_network
from litesnn.prediction_inputs import input_files
from litesnn.raw_inputs import probabilities
from litesnn.run_state import cut_middle
from litesnn.runs import RunFolder
from litesnn.stages import STAGES
from litesnn.text import plain, shape_text

__all__ = ["info_table", "prediction_writer", "predictions", "summary_table"]

_WIDTH, _NAME_WIDTH = 80, 28
"""Columns of a terminal at least, and those that a name may take in a title."""


_KEPT = {True: "yes", False: "[bold red]NO[/]", None: "[yellow]not all counted[/]"}


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """The result of a design, beside its budget."""
    names = [cut_middle(plain(name), _NAME_WIDTH) for name in (metrics["recipe"], metrics["data"]["name"])]
    table = Table(title=Text(f"{names[0]} on {names[1]}, seed {metrics['seed']}"))
    for column in ("figure", "measured", "budget", "kept"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, figure in _accuracy_rows(metrics):
        table.add_row(name, figure, "", "")
    table.add_row("arithmetic", Text(plain(metrics.get("arithmetic", "float"))), "", "")
    size = "packed size, B" if metrics.get("packing", {}).get("possible", True) else "size if packed, B (estimate)"
    compared = {row["name"]: row for row in metrics["budgets"]}
    for key, row in compared.items():
        cost = COSTS[key]
        limit = "" if row["limit"] is None else f"{row['limit']:,.0f}"
        kept = "" if row["limit"] is None else _KEPT[row["kept"]]
        table.add_row(size if cost is PACKED_BYTES else cost.row, f"{row['value']:,.0f}", limit, kept)
    others = {key: (cost.row, cost.measured(metrics)) for key, cost in COSTS.items() if key not in compared}
    others["stem_macs"] = "stem MACs", metrics["stem_macs"]
    if engine := metrics.get("engine"):
        others["additions"] = "additions of the native engine", engine["additions"]
    for name, value in others.values():
        table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:,.2f}", "", "")
    if (rate := metrics.get("firing_rate")) is not None:
        target = metrics.get("firing_rate_target")
        beside = ("", "") if target is None else (f"{target:.1%}", _KEPT[rate <= target])
        table.add_row("neurons that fire in a timestep", f"{rate:.1%}", *beside)
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
    path = find_model(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    model = integerize(load_network(path)) if path.name == STAGES["train"].output else read(path)
    return _model_table(path, model)


def predictions(
    model_path: Path,
    inputs: Sequence[Path],
    *,
    reference: bool = False,
    top: int = 1,
    failed: Callable[[InputError], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """For every input its class, the class's probability and the logits, by the native engine or the reference.

    Args:
        model_path: a packed model, or a run folder with one.
        inputs: files, folders of files, or ``-`` for standard input.
        reference: compute with the reference.
        top: so many of the most probable classes are in ``"top"``, each with its probability.
        failed: called with what is wrong with an input, after which the next one has its turn.
        note: called with what a person should know of the inputs, such as files that are not read.

    Raises:
        InputError: the model is missing or damaged, or so is an input, or that has another shape, and nobody is called;
            before anything is printed for it.
    """
    model = read(_packed_model(model_path))
    runner = Reference(model) if reference else Engine(model)
    for name, read_rows in input_files(inputs, model, note):
        try:
            rows = read_rows().numpy()
        except InputError as error:
            if failed is None:
                raise
            failed(error)
            continue
        logits = runner.run(rows).logits[-1]
        for number, (row, share) in enumerate(zip(logits, probabilities(logits), strict=True)):
            best = [int(index) for index in np.argsort(-row, kind="stable")[:top]]
            yield {
                "input": name if len(rows) == 1 else f"{name}[{number}]",
                "class": model.classes[best[0]],
                "probability": float(share[best[0]]),
                "top": [{"class": model.classes[index], "probability": float(share[index])} for index in best],
                "logits": row.tolist(),
            }


def prediction_writer(form: Literal["text", "json", "csv"]) -> Callable[[Mapping[str, Any]], None]:
    """A printer of rows of :func:`predictions`: lines for people, JSON, or rows of a table with a header."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    header_due = True

    def write(row: Mapping[str, Any]) -> None:
        nonlocal header_due
        classes = row["top"]
        if form == "json":
            print(json.dumps(row))
        elif form == "csv":
            if header_due:
                ranks = ["" if rank == 0 else f"_{rank + 1}" for rank in range(len(classes))]
                table.writerow(["input", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability"))])
                header_due = False
            cells = [row["input"], *(value for each in classes for value in each.values())]
            table.writerow([plain(cell) if isinstance(cell, str) else cell for cell in cells])
        else:
            said = ", ".join(f"{each['class']} ({each['probability']:.1%})" for each in classes)
            print(plain(f"{row['input']}: {said}"))

    return write


def _packed_model(path: Path) -> Path:
    """The packed model of a run folder, or the file itself. Raises ``InputError`` if the run has none."""
    if not path.is_dir():
        return path
    run = RunFolder(path)
    if not run.done("pack"):
        run.recipe()  # or it is no run
    return run.need("pack")


def _model_table(path: Path, model: PackedModel) -> Table:
    """One row for every bundle of synapses; the first of a population has its shape, its rate and its bias' bytes."""
    sizes = size_table(model)
    task = f"{shape_text(model.input.shape)} → {len(model.classes)} classes"
    kind = "" if model.fraction is None else f", fixed point with {model.fraction} fractional bits"
    kind += "" if model.input.front_end is None else f"; input: {model.input.front_end}"
    table = Table(
        title=Text(f"{cut_middle(plain(path), _WIDTH - 1)}:\n{plain(task)}, {model.timesteps} timesteps{kind}"),
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
        fixed = [shape_text(shape), rate]
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


def _sources(sources: Sequence[int]) -> str:
    """``image``, ``3``, ``3,5``, or ``3–6`` for three or more in a row."""
    if tuple(sources) == (IMAGE,):
        return "image"
    if len(sources) > 2 and list(sources) == list(range(sources[0], sources[0] + len(sources))):
        return f"{sources[0]}–{sources[-1]}"
    return ",".join(map(str, sources))
