"""What the command line prints: summary of a design, table of a network, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from litesnn.data.single import load_inputs
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import PackedModel, population_shapes, read, size_table
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.networks import load_network
from litesnn.runs import STAGES, RunFolder

__all__ = ["info_table", "predictions", "summary_table"]


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """What a design came to, beside its budget."""
    table = Table(title=f"{metrics['recipe']} on {metrics['data']['name']}, seed {metrics['seed']}")
    for column in ("figure", "measured", "budget", "kept"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    table.add_row("test accuracy", f"{metrics['test_accuracy']:.2%} of {metrics['data']['test']}", "", "")
    names = {"packed_bytes": "packed size, B", "bit_synops": "Bit-SynOps", "timesteps": "timesteps"}
    for row in metrics["budgets"]:
        limit = "" if row["limit"] is None else f"{row['limit']:,.0f}"
        kept = "" if row["limit"] is None else ("yes" if row["kept"] else "[bold red]NO[/]")
        table.add_row(names[row["name"]], f"{row['value']:,.0f}", limit, kept)
    table.add_row("SynOps", f"{metrics['synops']:,.0f}", "", "")
    table.add_row("stem MACs", f"{metrics['stem_macs']:,}", "", "")
    table.add_row("model size without positions, B", f"{metrics['model_size_bytes']:,.0f}", "", "")
    table.add_row("energy estimate, nJ", f"{metrics['energy']['total_nj']:,.2f}", "", "")
    return table


def info_table(path: Path) -> Table:
    """A packed model, a trained network or a run's, layer by layer.

    Raises:
        InputError: the path holds none of these, or it is damaged.
    """
    if path.is_dir():
        run = RunFolder(path)
        path = run.output("pack") if run.done("pack") else run.need("train")
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    model = integerize(load_network(path)) if path.name == STAGES["train"] else read(path)
    return _model_table(path, model)


def predictions(model_path: Path, inputs: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """For every input its class, the class's probability and the logits.

    Raises:
        InputError: the model or an input is missing, damaged or of another shape; before anything is printed for it.
    """
    model = read(model_path)
    reference = Reference(model)
    for path in inputs:
        rows = load_inputs(path, model.input.shape, model.input.kind).numpy()
        logits = reference.run(rows).logits[-1]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = exponents / exponents.sum(axis=1, keepdims=True)
        for number, (row, share) in enumerate(zip(logits, shares, strict=True)):
            best = int(row.argmax())
            yield {
                "input": str(path) if len(rows) == 1 else f"{path}[{number}]",
                "class": model.classes[best],
                "probability": float(share[best]),
                "logits": row.tolist(),
            }


def _model_table(path: Path, model: PackedModel) -> Table:
    sizes = size_table(model)
    channels, height, width = model.input.shape
    table = Table(
        title=f"{path}: {channels}×{height}×{width} → {len(model.classes)} classes, {model.timesteps} timesteps",
        caption=f"packed: {sizes.bytes:,} B, of which {sizes.header_bytes:,} B header",
    )
    for column in ("layer", "bits", "kept", "of", "positions", "B positions", "B codes", "B scales and biases"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer in sizes.layers:
        plain = [str(layer.bits), f"{layer.kept:,}", f"{layer.weights:,}", str(layer.coding)] if layer.weights else [""] * 4
        sums = [f"{size:,}" for size in (layer.positions_bytes, layer.codes_bytes, layer.affine_bytes)]
        table.add_row(layer.name, *plain, *sums)
    for index, (population, shape) in enumerate(zip(model.populations, population_shapes(model), strict=True)):
        rate = "" if population.rate is None else f", firing rate {population.rate:.1%}"
        table.add_row(f"population {index}: {'×'.join(map(str, shape))}{rate}")
    return table
