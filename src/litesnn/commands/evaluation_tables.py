"""What ``litesnn evaluate MODEL --data D`` and ``litesnn models`` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from litesnn.models import ModelRecord
from litesnn.packed_evaluation import Evaluation
from litesnn.text import plain

__all__ = ["evaluation_tables", "models_table"]

_CONFUSED = 5
"""Pairs of classes that are named."""


def evaluation_tables(found: Evaluation) -> Iterator[Table]:
    """The figures of an evaluation; then a row for each class, population and layer; then what is confused most."""
    yield _figures(found)
    yield _classes(found)
    if found.accuracy < 1:
        yield _confused(found)
    yield _populations(found)
    yield _layers(found)


def _figures(found: Evaluation) -> Table:
    name = f"{found.model} on {found.data}" if found.model else found.data
    table = Table(title=Text(plain(name)), box=box.SIMPLE_HEAD)
    table.add_column("figure")
    table.add_column("measured", justify="right")
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    by = found.engine if found.kernel is None else f"{found.engine} engine, kernel {found.kernel}, {threads}"
    rows = [
        ("test accuracy", f"{found.accuracy:.2%} ± {100 * found.standard_error:.2f} of {found.rows:,}"),
        ("balanced accuracy", f"{found.balanced_accuracy:.2%}"),
        ("after each timestep", ", ".join(f"{share:.2%}" for share in found.accuracy_at)),
        ("packed size, B", f"{found.packed_bytes:,}"),
        ("timesteps", str(found.timesteps)),
        ("SynOps", f"{found.synops:,.0f}"),
        ("Bit-SynOps", f"{found.bit_synops:,.0f}"),
        ("MACs of the input", f"{found.analog_macs:,}"),
        ("energy estimate, nJ", f"{found.energy_nj:,.4g}"),
        ("neurons that fire at a timestep", f"{found.firing_rate:.2%}"),
        ("computed by", by),
    ]
    if found.synops_virtual != found.synops:
        virtual = f"{found.synops_virtual:,.0f} and {found.bit_synops_virtual:,.0f}"
        rows.append(("both in virtual timesteps", virtual))
    if found.additions is not None:
        rows.append(("additions of one bit lane", f"{found.additions:,.0f}"))
    rows += [(f"time at batch {row['batch']:g}, µs/input", f"{row['us']:,.1f}") for row in found.speed]
    for row in rows:
        table.add_row(*row)
    return table


def _classes(found: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("class", "recall", "precision", "rows"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in found.per_class:
        shares = ("–" if row[key] is None else f"{row[key]:.2%}" for key in ("recall", "precision"))
        table.add_row(Text(plain(row["class"])), *shares, f"{row['rows']:,}")
    return table


def _confused(found: Evaluation) -> Table:
    """The pairs of classes that are confused most; all of them are in the JSON."""
    pairs = [
        (count, truth, guess)
        for truth, row in enumerate(found.confusion)
        for guess, count in enumerate(row)
        if truth != guess and count
    ]
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("confused most", "taken for", "rows"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    for count, truth, guess in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_CONFUSED]:
        table.add_row(Text(plain(found.classes[truth])), Text(plain(found.classes[guess])), f"{count:,}")
    return table


def _populations(found: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("neurons", "C×H×W", "firing rate"):
        table.add_column(column, justify="left" if column == "neurons" else "right")
    for row in found.populations:
        table.add_row(row["name"], f"{row['channels']}×{row['height']}×{row['width']}", f"{row['rate']:.2%}")
    return table


def _layers(found: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("layer", "bits", "kept", "of", "SynOps", "Bit-SynOps"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for row in found.layers:
        counts = (f"{row[key]:,.0f}" for key in ("kept", "weights", "synops", "bit_synops"))
        table.add_row(row["name"], str(row["bits"]), *counts)
    return table


def models_table(records: Sequence[ModelRecord]) -> Table:
    """A row for each shipped network. It fits 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        caption="litesnn evaluate NAME --data DATA measures one again; litesnn models NAME prints its record",
        caption_justify="left",
    )
    for column in ("name", "data", "test accuracy", "bytes", "T", "Bit-SynOps", "firing"):
        table.add_column(column, justify="left" if column in ("name", "data") else "right", no_wrap=True)
    for each in records:
        accuracy = f"{each.accuracy:.2%} ± {100 * each.standard_error:.1f}"
        costs = (f"{each.bytes:,}", str(each.timesteps), f"{each.bit_synops:,.0f}", f"{each.firing_rate:.1%}")
        table.add_row(Text(plain(each.name)), Text(plain(each.data)), accuracy, *costs)
    return table
