"""The report page: a run folder in, one self-contained ``report.html`` out.

In: the files that :mod:`litesnn.report.records` reads, and a few examples with their spikes. Out: a page that
loads nothing, runs no script and forbids itself both (Content-Security-Policy). Here the numbers become words,
bars and figures; where each goes is the template's matter. All text is escaped by the template.

Shapes: N examples, T timesteps, K classes, C channels, H×W pixels.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from litesnn.costs import COSTS
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.genotype import Compressed, Genotype, all_edges
from litesnn.neurons import NEURONS
from litesnn.quantizers import QUANTIZERS
from litesnn.report import diagrams, plots
from litesnn.report.plots import si
from litesnn.report.records import Metrics, Run, SearchEpoch, TrainEpoch, read_run

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["Examples", "wilson_interval", "write_report"]

MAX_EXAMPLES = 8
NUMBERED_CLASSES = 12
"""The confusion matrix shows its numbers up to this many classes."""


@dataclass(frozen=True)
class Examples:
    """A few test samples and what the network did with them.

    ``images`` uint8 [N, C, H, W]; ``labels`` [N]; ``scores`` [N, T, K], the mean logits of steps 1…t;
    ``spikes`` maps a population's name to its spikes, uint8 [T, N, C, H, W]. At most 8 are shown.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating]
    spikes: Mapping[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and a sentence that says what one sees."""

    title: str
    caption: str
    drawing: Markup


@dataclass(frozen=True)
class Bar:
    """A labelled bar; ``share`` and ``mark`` (a limit) are positions in 0…1 of its track."""

    label: str
    text: str
    share: float
    mark: float | None = None
    over: bool = False


@dataclass(frozen=True)
class Choice:
    """The choice for a cell in one respect, and the learned share of each choice as (label, share, palette step)."""

    text: str
    shares: tuple[tuple[str, float, int], ...] = ()


@dataclass(frozen=True)
class MacroRow:
    """One line of the macro path."""

    name: str
    level: str
    shape: str
    width: Choice
    bits: Choice
    keep: Choice


@dataclass(frozen=True)
class ExampleCard:
    """One example: its image, its verdict and rows of cells over time."""

    image: str
    label: str
    predicted: str
    right: bool
    spikes: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # (population, one (PNG, rate) per timestep)
    scores: tuple[tuple[str, tuple[float, ...], bool], ...]  # (class, share per timestep, is the true class)


def write_report(run: Path | str, examples: Examples | None = None) -> Path:
    """Write ``report.html`` into the run folder, whole or not at all, and return its path.

    Raises:
        InputError: a file of the run is missing or damaged, the ``report`` extra is not installed, or the
            page cannot be written.
    """
    for package in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the report needs {package}: pip install 'litesnn[report]'")
    folder = Path(run)
    page = _render(_view(read_run(folder), examples))
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def wilson_interval(share: float, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share measured on ``count`` samples (Wilson 1927, score interval)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _render(view: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("litesnn.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["si"] = si
    environment.filters["percent"] = _percent
    environment.filters["operation"] = _operation
    environment.filters["short"] = lambda name: name if len(name) <= 24 else name[:23] + "…"
    template = environment.from_string(folder.joinpath("template.html.jinja").read_text(encoding="utf-8"))
    return template.render(view, style=Markup(folder.joinpath("template.css").read_text(encoding="utf-8")))


def _view(run: Run, examples: Examples | None) -> dict[str, Any]:
    metrics = run.metrics
    names = _class_names(metrics, examples)
    return {
        "metrics": metrics,
        "genotype": run.genotype,
        "recipe": run.recipe,
        "summary": _summary(metrics, run.genotype),
        "tiles": _tiles(metrics, run.genotype),
        "quality": _quality(metrics),
        "simple": _simple_bars(metrics),
        "verdict": _verdict(metrics),
        "budgets": [bar for bar in map(_budget_bar, metrics.budgets) if bar],
        "cell": _cell_figure(run.genotype),
        "macro": _macro(run),
        "alpha": _alpha_figures(run),
        "search_figures": _search_figures(run),
        "train_figures": _train_figures(run),
        "rates": _rate_bars(metrics),
        "work": _work_bars(metrics),
        "size": _size_parts(metrics),
        "layers": _layer_rows(metrics),
        "confusion": _confusion(metrics, names),
        "accuracy_at": _accuracy_at(metrics),
        "confused": _worst_pairs(metrics, names),
        "examples": _example_cards(examples, names) if examples is not None else [],
        "conditions": _conditions(run),
    }


# Words and headline numbers


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\u202f%"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _summary(metrics: Metrics, genotype: Genotype | Compressed) -> str:
    if isinstance(genotype, Compressed):
        text = f"A spiking neural network that was given, {metrics.module}, compressed: "
        text += f"{_plural(len(genotype.layers), 'layer')}, "
    else:
        text = f"A spiking neural network searched for this data: {_plural(len(genotype.cells), 'cell')}, "
    text += f"{_plural(genotype.timesteps, 'timestep')}"
    if metrics.kept_weights is not None:
        text += f", {si(metrics.kept_weights)} weights of " + _bits_range(genotype)
    text += f". It labels {_percent(metrics.test_accuracy)} of"
    text += f" {metrics.data.test:,}" if metrics.data.test else " the"
    text += " unseen test samples correctly"
    if metrics.packed_bytes is not None:
        text += f" and fits in {si(metrics.packed_bytes, 'B')}"
    return text + "."


def _bits_range(genotype: Genotype | Compressed) -> str:
    if isinstance(genotype, Compressed):
        bits = {layer.bits for layer in genotype.layers}
    else:
        bits = {genotype.stem.bits, genotype.classifier_bits, *(cell.bits for cell in genotype.cells)}
    return _plural(min(bits), "bit") if len(bits) == 1 else f"{min(bits)} to {max(bits)} bits"


def _tiles(metrics: Metrics, genotype: Genotype | Compressed) -> list[tuple[str, str, str]]:
    """(label, number, note) of each headline number."""
    note = ""
    if metrics.data.test:
        low, high = wilson_interval(metrics.test_accuracy, metrics.data.test)
        error = (
            "" if metrics.test_standard_error is None else f"± {100 * metrics.test_standard_error:.1f} standard error, "
        )
        note = f"{error}95\u202f% interval {100 * low:.1f} to {_percent(high)}, {metrics.data.test:,} samples"
    tiles = [("Test accuracy", _percent(metrics.test_accuracy), note)]
    if metrics.packed_bytes is not None:
        note = "the whole file on disk" if metrics.packing.possible else "an estimate: it cannot be packed"
        if metrics.weights and metrics.kept_weights is not None and metrics.packing.possible:
            note = f"{_percent(metrics.kept_weights / metrics.weights, 0)} of {si(metrics.weights)} weights kept"
        if (same := metrics.packing.module) is not None:
            note += (
                f"; {same.predictions_equal:,} of {same.images:,} predictions are the module's own, logits within "
                f"{same.largest_logit_difference:.1g}"
            )
        tiles.append(("Packed size", si(metrics.packed_bytes, "B"), note))
    if metrics.bit_synops is not None:
        note = f"{si(metrics.synops)} SynOps per inference" if metrics.synops is not None else "per inference"
        if metrics.synops_virtual is not None:
            note += (
                f", one for each bit of a spike; {si(metrics.synops_virtual)} as {metrics.spike_levels} virtual "
                "timesteps of binary spikes"
            )
        tiles.append(("Bit-SynOps", si(metrics.bit_synops), note))
    tiles.append(("Timesteps", f"T = {genotype.timesteps}", "per inference"))
    if metrics.firing_rate is not None:
        target = metrics.firing_rate_target
        note = "of all neurons, in a timestep" + ("" if target is None else f"; the target is {_percent(target)}")
        tiles.append(("Firing", _percent(metrics.firing_rate), note))
    if metrics.energy is not None:
        tiles.append(("Energy, estimated", si(metrics.energy.total_nj, "nJ"), "per inference, arithmetic only"))
    return tiles


def _quality(metrics: Metrics) -> tuple[str, str]:
    """(CSS class, sentence) on what accuracy is worth: budgets can be kept by a network that has learned nothing."""
    if metrics.warnings is None:
        return "none", "Accuracy was not judged by the version that made this run; litesnn evaluate does"
    if not metrics.warnings:
        return "kept", "Accuracy: no warnings"
    first, more = metrics.warnings[0], len(metrics.warnings) - 1
    label = first.label[:1].upper() + first.label[1:]
    return "over" if first.grave else "doubt", label + (f", and {_plural(more, 'more warning')}" if more else "")


def _simple_bars(metrics: Metrics) -> list[Bar]:
    """Accuracies of the network and of simpler classifiers; balanced ones too where they differ."""
    simple = metrics.baselines
    if simple is None:
        return []
    rows = [("This network", metrics.test_accuracy, metrics.balanced_accuracy)]
    if simple.linear is not None:
        rows.append(("Linear classifier", simple.linear.accuracy, simple.linear.balanced_accuracy))
    rows += [("Commonest class", simple.majority, simple.chance), ("Guesses", simple.chance, simple.chance)]
    unlike = any(balanced is not None and abs(plain - balanced) >= 0.01 for _, plain, balanced in rows)
    return [
        Bar(
            name,
            _percent(plain) + (f", balanced {_percent(balanced)}" if unlike and balanced is not None else ""),
            plain,
        )
        for name, plain, balanced in rows
    ]


def _verdict(metrics: Metrics) -> tuple[str, str]:
    """(CSS class, sentence)."""
    limited = [row for row in metrics.budgets if row.limit is not None]
    if not limited:
        return "none", "No budget was set"
    over = [_cost_title(row.name) for row in limited if row.kept is False]
    if over or metrics.budgets_kept is False:
        return "over", "Over budget: " + (", ".join(over) or "see below")
    if unknown := [_cost_title(row.name) for row in limited if row.kept is None]:
        return "over", "Not known to be kept, as not all is counted: " + ", ".join(unknown)
    count = {1: "The budget is", 2: "Both budgets are", 3: "All three budgets are"}
    return "kept", count.get(len(limited), f"All {len(limited)} budgets are") + " kept"


def _cost_title(key: str) -> str:
    return COSTS[key].title if key in COSTS else key


def _budget_bar(row: Any) -> Bar | None:
    unit = COSTS[row.name].unit if row.name in COSTS else ""
    label = _cost_title(row.name)
    if row.limit is None:
        return None
    share = row.value / row.limit
    scale = max(1.0, share) * 1.04
    text = f"{si(row.value, unit, digits=4)} of {si(row.limit, unit, digits=4)} ({_percent(share, 0)})"
    return Bar(label, text, share / scale, mark=1 / scale, over=row.kept is not True)


# The network


def _cell_figure(genotype: Genotype | Compressed) -> Figure | None:
    if isinstance(genotype, Compressed):
        return None
    sources = ["cell k−2", "cell k−1", *(f"node {node}" for node in range(genotype.nodes))]
    listed = "; ".join(f"node {edge.node} from {sources[edge.source]} by {edge.op}" for edge in genotype.edges)
    caption = (
        f"Every cell repeats this graph of {_plural(genotype.nodes, 'node')} and "
        f"{_plural(len(genotype.edges), 'edge')}. Each node sums the currents of its edges and fires; "
        "the cell hands on the spikes of all its nodes."
    )
    return Figure("The found cell", caption, _drawn(diagrams.cell_graph(genotype.edges, alt=f"Cell graph: {listed}.")))


def _given_layers(run: Run, genotype: Compressed) -> list[MacroRow]:
    """The layers of a user's module: what was chosen for each."""
    last = run.search[-1] if run.search else None
    searched = last.layers if last else ()
    rows = []
    for layer in genotype.layers:
        index = searched.index(layer.name) if layer.name in searched else len(searched)
        rows.append(
            MacroRow(
                name=layer.name,
                level="–",
                shape="–",
                width=Choice("as given"),
                bits=Choice(str(layer.bits), _shares(last, "bits", index, lambda bits: _plural(int(bits), "bit"))),
                keep=Choice(_keep(layer.keep), _shares(last, "keep", index, _keep)),
            )
        )
    return rows


def _macro(run: Run) -> list[MacroRow]:
    genotype, metrics = run.genotype, run.metrics
    if isinstance(genotype, Compressed):
        return _given_layers(run, genotype)
    last = run.search[-1] if run.search else None
    shapes = {row.name: f"{row.height}×{row.width}" for row in metrics.neurons if row.height and row.width}

    def fixed(value: object) -> Choice:
        return Choice(str(value))

    stem = genotype.stem
    keeps = {layer.kind: layer.keep for layer in metrics.layers if layer.keep is not None}
    rows = [
        MacroRow(
            "stem",
            "–",
            shapes.get("stem", "–"),
            fixed(stem.channels),
            fixed(stem.bits),
            fixed(_keep(keeps.get("stem"))),
        )
    ]
    for index, cell in enumerate(genotype.cells):
        name = _cell_name(index)
        rows.append(
            MacroRow(
                name=name,
                level=str(cell.level),
                shape=shapes.get(f"{name} node 0", "–"),
                width=Choice(f"{genotype.nodes} × {cell.width}", _shares(last, "width", index, _keep)),
                bits=Choice(str(cell.bits), _shares(last, "bits", index, lambda bits: _plural(int(bits), "bit"))),
                keep=Choice(_keep(cell.keep), _shares(last, "keep", index, _keep)),
            )
        )
    rows.append(
        MacroRow(
            "classifier", "–", "–", fixed(len(metrics.classes) or "–"), fixed(genotype.classifier_bits),
            fixed(_keep(keeps.get("classifier"))),
        )
    )  # fmt: skip
    return rows


def _keep(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}\u202f%"


def _shares(last: SearchEpoch | None, key: str, cell: int, label: Any) -> tuple[tuple[str, float, int], ...]:
    if last is None:
        return ()
    shares = getattr(last, key)
    choices = {"bits": last.bit_choices, "keep": last.keep_choices, "width": last.width_choices}[key]
    if cell >= len(shares) or len(shares[cell]) != len(choices) or len(choices) < 2:
        return ()
    steps = [1 + round(5 * index / (len(choices) - 1)) for index in range(len(choices))]
    return tuple((label(choice), share, step) for choice, share, step in zip(choices, shares[cell], steps, strict=True))


# Search and training


def _search_figures(run: Run) -> list[Figure]:
    """The search's figures, each only where every epoch has its numbers."""
    lines = run.search
    if not lines:
        return []
    epochs = [line.epoch for line in lines]
    limits = {row.name: row.limit for row in run.metrics.budgets}
    figures = []
    t_max = len(lines[-1].psi)
    if t_max > 1 and all(len(line.psi) == t_max for line in lines):
        best = max(range(t_max), key=lambda index: lines[-1].psi[index])
        caption = (
            "Share of each number of timesteps (softmax of ψ). The search ends with "
            f"{_percent(lines[-1].psi[best], 0)} on T = {best + 1}; "
            f"the network runs {_plural(run.genotype.timesteps, 'timestep')}."
        )
        alt = f"Stacked areas over {len(epochs)} epochs. {caption}"
        drawing = plots.timestep_shares(epochs, [line.psi for line in lines], alt=alt)
        figures.append(Figure("How many timesteps", caption, _drawn(drawing)))
    figures += _learning_figures("search", lines)
    for key, cost in COSTS.items():
        values = [line.costs.get(key) for line in lines]
        if _present(values):
            limit, unit = limits.get(key), cost.unit
            title = f"Expected {cost.title[0].lower() + cost.title[1:] if cost.title[1:].islower() else cost.title}"
            caption = f"{title} of the mixture, from {_ends(values, unit)}"
            caption += f"; the budget is {si(limit, unit)}." if limit else "; no budget was set on it."
            drawing = plots.curves(
                f"search-{key.replace('_', '-')}", epochs, {"expected": values},
                alt=caption, limit=limit, log=_positive(values), unit=unit,
            )  # fmt: skip
            figures.append(Figure(title, caption + " Logarithmic scale.", _drawn(drawing)))
    keys = sorted({key for line in lines for key in line.multipliers})
    if keys:
        series = {_cost_title(key): [line.multipliers.get(key) for line in lines] for key in keys}
        caption = "The price of each limit: it rises while the limit is broken and falls back once it is kept."
        drawing = plots.curves("multipliers", epochs, series, alt=caption)
        figures.append(Figure("Multipliers", caption, _drawn(drawing)))
    return figures


def _alpha_figures(run: Run) -> dict[str, Figure | None]:
    """How the search decided on the cell's operations: ``certainty`` over the epochs and the ``final`` α."""
    lines, genotype = run.search, run.genotype
    figures: dict[str, Figure | None] = {"certainty": None, "final": None}
    if isinstance(genotype, Compressed):
        return figures
    pairs = all_edges(genotype.nodes)
    ops = lines[-1].ops if lines else ()
    if not ops or any([len(row) for row in line.alpha] != [len(ops)] * len(pairs) for line in lines):
        return figures
    if len(ops) > 1:
        entropies = [[_entropy(row) / math.log(len(ops)) for row in line.alpha] for line in lines]
        final = sum(entropies[-1]) / len(entropies[-1])
        caption = (
            f"How undecided each edge still is: entropy of softmax(α) as a share of its maximum. The mean ends at "
            f"{_percent(final, 0)}; 0\u202f% is a choice without doubt."
        )
        drawing = plots.alpha_entropy([line.epoch for line in lines], entropies, alt=caption)
        figures["certainty"] = Figure("Certainty of the operations", caption, _drawn(drawing))
    chosen = frozenset(
        (pairs.index((edge.node, edge.source)), ops.index(edge.op)) for edge in genotype.edges if edge.op in ops
    )
    names = [f"{('k−2', 'k−1')[s] if s < 2 else s - 2} → {node}" for node, s in pairs]
    texts = [[f"{100 * share:.0f}" for share in row] for row in lines[-1].alpha]
    caption = "Final share of each operation on each edge, in percent. Outlined: the operations of the found cell."
    drawing = diagrams.heat_map(names, ops, lines[-1].alpha, texts, alt=caption, cell_width=62, framed=chosen)
    figures["final"] = Figure("Operations on the edges", caption, _drawn(drawing))
    return figures


def _train_figures(run: Run) -> list[Figure]:
    figures, lines = [], run.train
    if lines:
        figures += _learning_figures("train", lines)
        limits = {row.name: row.limit for row in run.metrics.budgets}
        for key, cost in COSTS.items():
            values = [line.costs.get(key) for line in lines]
            if _present(values):
                limit, unit = limits.get(key), cost.unit
                caption = f"{cost.title} per inference while training, from {_ends(values, unit)}"
                caption += f"; the budget is {si(limit, unit)}." if limit else "; no budget was set on it."
                drawing = plots.curves(
                    f"train-{key.replace('_', '-')}", [line.epoch for line in lines], {cost.title: values},
                    alt=caption, limit=limit, unit=unit,
                )  # fmt: skip
                figures.append(Figure("Activity", caption, _drawn(drawing)))
        figures += _firing_figures(run.metrics, lines)
        figures += _depth_figures(lines)
    return figures


def _firing_figures(metrics: Metrics, lines: Sequence[TrainEpoch]) -> list[Figure]:
    """How often neurons fire, beside the target, if there is one."""
    values = [line.firing_rate for line in lines]
    known = [value for value in values if value is not None]
    if not known:
        return []
    target = metrics.firing_rate_target
    caption = f"Share of all neurons that fire in a timestep on validation data, from {_percent(known[0])} to "
    caption += f"{_percent(known[-1])}" + ("." if target is None else f"; the target is {_percent(target)}.")
    drawing = plots.curves(
        "train-firing", [line.epoch for line in lines], {"firing rate": values},
        alt=caption, limit=target, percent=True, limit_name="target",
    )  # fmt: skip
    return [Figure("Firing rate", caption, _drawn(drawing))]


def _depth_figures(lines: Sequence[TrainEpoch]) -> list[Figure]:
    """How often codes change, and how many neurons have a gradient, layer by layer."""
    lines = [line for line in lines if line.flips or line.gradient_share]  # not all epochs are watched
    epochs, figures = [line.epoch for line in lines], []
    flips = _by_name([line.flips for line in lines])
    if flips:
        caption = (
            "Share of the kept weights whose code changes in one step, in the middle of each epoch; of 1-bit weights "
            f"those whose sign flips. Thick: the mean, {_percent(_last_mean(flips), 2)} in the last epoch."
        )
        drawing = plots.by_depth("train-flips", epochs, flips, alt=caption, percent=True)
        figures.append(Figure("Codes that change", caption, _drawn(drawing)))
    shares = _by_name([_by_cell(line.gradient_share) for line in lines])
    if shares:
        caption = (
            "Share of neurons whose membrane comes to where the surrogate slope is not zero, on a few validation rows; "
            f"all others hand on no gradient. Thick: the mean, {_percent(_last_mean(shares))} in the last epoch."
        )
        drawing = plots.by_depth("train-gradients", epochs, shares, alt=caption, percent=True)
        figures.append(Figure("Neurons with a gradient", caption, _drawn(drawing)))
    return figures


def _by_cell(shares: Mapping[str, float]) -> dict[str, float]:
    """The means of a cell's nodes, which are equally large."""
    cells: dict[str, list[float]] = {}
    for name, share in shares.items():
        cells.setdefault(name.partition(" node ")[0], []).append(share)
    return {name: sum(values) / len(values) for name, values in cells.items()}


def _by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """The values of all epochs by name; epochs of earlier versions have none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _last_mean(series: Mapping[str, Sequence[float | None]]) -> float:
    values = [column[-1] for column in series.values()]
    known = [value for value in values if value is not None]
    return sum(known) / max(1, len(known))


def _learning_figures(stage: str, lines: Sequence[SearchEpoch] | Sequence[TrainEpoch]) -> list[Figure]:
    epochs = [line.epoch for line in lines]
    best = [line.epoch for line in lines if isinstance(line, TrainEpoch) and line.best]
    mark = best[-1] if best else None  # every epoch that was the best so far says so
    figures = []
    for key, title in (("loss", "Loss"), ("accuracy", "Accuracy")):
        series = {
            label: [getattr(line, f"{label}_{key}") for line in lines]
            for label in ("train", "validation")
            if _present([getattr(line, f"{label}_{key}") for line in lines])
        }
        if not series:
            continue
        final = [value for value in list(series.values())[-1] if value is not None][-1]
        shown = _percent(final) if key == "accuracy" else f"{final:.3g}"
        caption = f"{title} per epoch on {' and '.join(series)} data; the last {list(series)[-1]} value is {shown}."
        if mark is not None and "validation" in series:
            caption += f" The dot marks epoch {mark}, the one that was kept."
        drawing = plots.curves(
            f"{stage}-{key}", epochs, series, alt=caption, percent=key == "accuracy",
            log=key == "loss" and all(map(_positive, series.values())), mark=mark,
        )  # fmt: skip
        figures.append(Figure(title, caption, _drawn(drawing)))
    return figures


def _present(values: Iterable[float | None]) -> bool:
    return any(value is not None and math.isfinite(value) for value in values)


def _positive(values: Iterable[float | None]) -> bool:
    return all(value > 0 for value in values if value is not None)


def _ends(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return f"{si(known[0], unit)} to {si(known[-1], unit)}"


def _entropy(shares: Sequence[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


# Costs


def _rate_bars(metrics: Metrics) -> list[Bar]:
    top = max((row.firing_rate for row in metrics.neurons), default=0) or 1.0
    return [Bar(row.name, _percent(row.firing_rate), row.firing_rate / top) for row in metrics.neurons]


def _work_bars(metrics: Metrics) -> list[tuple[str, float, float, float, float]]:
    """(stem, cell or classifier; SynOps; Bit-SynOps; both as a share of the greatest Bit-SynOps)."""
    groups: dict[str, tuple[float, float]] = {}
    for layer in metrics.layers:
        if layer.kind == "stem" or layer.synops is None or layer.bit_synops is None:
            continue
        name = layer.name if layer.cell is None else _cell_name(layer.cell)
        synops, bit_synops = groups.get(name, (0.0, 0.0))
        groups[name] = (synops + layer.synops, bit_synops + layer.bit_synops)
    top = max((max(pair) for pair in groups.values()), default=0) or 1.0
    return [(name, synops, bits, synops / top, bits / top) for name, (synops, bits) in groups.items()]


def _size_parts(metrics: Metrics) -> list[tuple[str, int, float, str]]:
    """(what, bytes, share of the file, explanation)."""
    rows = metrics.size_table
    if not rows:
        return []
    parts = [
        ("weight codes", sum(row.codes for row in rows), "the kept weights, at their bit-widths"),
        ("positions", sum(row.positions for row in rows), "which weights were kept"),
        ("scales and biases", sum(row.affine for row in rows), "folded batch norm, per channel"),
    ]
    if metrics.header_bytes:
        parts.append(("header", metrics.header_bytes, "the genotype and the shapes"))
    total = sum(size for _, size, _ in parts) or 1
    return [(name, size, size / total, note) for name, size, note in parts if size]


def _layer_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Each layer with its bytes and the firing rate of the population that it feeds.

    The bias of a population has a row of its own in the size table; here the population's first layer has its bytes.
    """
    sizes = {row.name: row for row in metrics.size_table}
    if len(metrics.size_table) == len(metrics.layers):  # the packed file has names of its own, but the same order
        sizes |= {layer.name: row for layer, row in zip(metrics.layers, metrics.size_table, strict=True)}
    rates = {row.name: row.firing_rate for row in metrics.neurons}
    rows = []
    for layer in metrics.layers:
        name = _layer_name(layer.name)
        population = name.split(" ← ")[0]
        size, bias = sizes.get(layer.name), sizes.pop(f"{population} bias", None)
        if size is not None and bias is not None:
            size = size.model_copy(update={"affine": size.affine + bias.affine})
        rows.append({"name": name, "layer": layer, "size": size, "rate": rates.get(population)})
    return rows


def _cell_name(index: int) -> str:
    """Cells count from 1 in every name that a person reads."""
    return f"cell {index + 1}"


def _layer_name(name: str) -> str:
    """``cell 1 0_2_conv3x3`` or ``cell 1 node 0 <- 2 conv3x3`` as ``cell 1 node 0 ← 2 conv3x3``."""
    return re.sub(r"^(cell \d+) (\d+)_(\d+)_(\w+)$", r"\1 node \2 ← \3 \4", name).replace(" <- ", " ← ")


def _operation(key: str) -> str:
    """``stem_mac_4bit`` as ``stem MAC, 4 bits``."""
    words = key.replace("_", " ").replace("mac", "MAC").replace("synop", "SynOp")
    return re.sub(r" (\d+)bit$", lambda match: f", {_plural(int(match[1]), 'bit')}", words)


# Errors and examples


def _class_names(metrics: Metrics, examples: Examples | None) -> list[str]:
    count = max(
        len(metrics.classes), len(metrics.confusion), examples.scores.shape[2] if examples is not None else 0
    )  # fmt: skip
    return [metrics.classes[index] if index < len(metrics.classes) else f"class {index}" for index in range(count)]


def _confusion(metrics: Metrics, names: Sequence[str]) -> Figure | None:
    table = metrics.confusion
    if not table:
        return None
    count, right = sum(map(sum, table)), sum(table[k][k] for k in range(len(table)))
    caption = f"Rows are the true classes, columns the predictions; {right:,} of {count:,} samples lie on the diagonal."
    # The square root makes a single error visible beside a full diagonal.
    shades = [[math.sqrt(value / (sum(row) or 1)) for value in row] for row in table]
    if len(table) <= NUMBERED_CLASSES:
        texts = [[str(value) if value else "" for value in row] for row in table]
        slanted = max(map(len, names)) > 3
        svg = diagrams.heat_map(names, names, shades, texts, alt=caption, cell_width=29, slanted=slanted)
        return Figure("Confusion matrix", caption, _drawn(svg))
    from markupsafe import Markup

    image = Markup('<img class="matrix pixels" src="{}" alt="{}">').format(
        diagrams.png_levels(np.array(shades)), caption
    )
    return Figure("Confusion matrix", caption + " The darker, the larger the share of its row.", image)


def _accuracy_at(metrics: Metrics) -> Figure | None:
    accuracy = metrics.accuracy_at
    if not accuracy:
        return None
    caption = f"Test accuracy if one stops after t timesteps: {_percent(accuracy[0])} after the first"
    caption += f", {_percent(accuracy[-1])} after all {len(accuracy)}." if len(accuracy) > 1 else "."
    return Figure("Accuracy at every timestep", caption, _drawn(plots.accuracy_over_time(accuracy, alt=caption)))


def _worst_pairs(metrics: Metrics, names: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """The most frequent errors as (true class, prediction, how often, share of the true class)."""
    pairs = [
        (names[row], names[column], value, value / sum(values))
        for row, values in enumerate(metrics.confusion)
        for column, value in enumerate(values)
        if value and row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:8]


def _example_cards(examples: Examples, names: Sequence[str]) -> list[ExampleCard]:
    scores = np.asarray(examples.scores, dtype=np.float64)
    exponents = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares = exponents / exponents.sum(axis=2, keepdims=True)  # [N, T, K]
    cards = []
    for n in range(min(MAX_EXAMPLES, len(examples.images))):
        label, predicted = int(examples.labels[n]), int(shares[n, -1].argmax())
        ranked = [int(k) for k in np.argsort(-shares[n, -1], kind="stable")[:3]]
        if label not in ranked:
            ranked[-1] = label
        cards.append(
            ExampleCard(
                image=diagrams.png_image(examples.images[n]),
                label=names[label],
                predicted=names[predicted],
                right=label == predicted,
                spikes=tuple((name, _frames(spikes[:, n])) for name, spikes in examples.spikes.items()),
                scores=tuple((names[k], tuple(map(float, shares[n, :, k])), k == label) for k in ranked),
            )
        )
    return cards


def _frames(spikes: npt.NDArray[np.uint8]) -> tuple[tuple[str, str], ...]:
    """One (PNG of the share of channels that fire at each place, firing rate) per timestep. ``spikes`` [T, C, H, W]."""
    maps = (spikes > 0).astype(np.float64).mean(axis=1)  # [T, H, W]
    # The square root lifts single spikes among many channels above the threshold of sight.
    return tuple((diagrams.png_levels(np.sqrt(frame)), _percent(float(frame.mean()), 0)) for frame in maps)


# Conditions


def _conditions(run: Run) -> list[tuple[str, str]]:
    metrics, data = run.metrics, run.metrics.data
    split = ((data.train, "training"), (data.validation, "validation"), (data.test, "test"))
    rows = [
        ("Data set", data.name),
        ("Sample shape", " × ".join(map(str, data.shape))),
        ("Samples", ", ".join(f"{count:,} {name}" for count, name in split if count is not None)),
        ("Mode", metrics.mode),
        ("Arithmetic", "fixed point, integers alone" if metrics.arithmetic == "fixed" else metrics.arithmetic),
        ("Neuron", _neuron(run.genotype)),
        ("Quantizer", f"{run.genotype.quantizer}: {QUANTIZERS[run.genotype.quantizer].description}"),
        ("Notes", "; ".join((*metrics.data.notes, *metrics.notes))),
        ("Seed", "" if metrics.seed is None else str(metrics.seed)),
        ("Search", _epochs(run.search)),
        ("Teacher", _teacher(run)),
        ("Training", _epochs(run.train)),
        ("Software", ", ".join(f"{name} {version}" for name, version in _versions(metrics).items())),
    ]
    return [(name, text) for name, text in rows if text]


def _neuron(genotype: Genotype | Compressed) -> str:
    """The neuron of a network of ours; a user's module has its own."""
    if isinstance(genotype, Compressed):
        return ""
    spikes = "" if genotype.spike_levels == 1 else f"; graded spikes 0…{genotype.spike_levels}"
    return f"{genotype.neuron}: {NEURONS[genotype.neuron].meaning}{spikes}"


def _versions(metrics: Metrics) -> dict[str, str]:
    return ({"litesnn": metrics.litesnn} if metrics.litesnn else {}) | metrics.versions


def _epochs(lines: Sequence[SearchEpoch] | Sequence[TrainEpoch]) -> str:
    if not lines:
        return ""
    seconds = sum(line.seconds or 0 for line in lines)
    text = _plural(len(lines), "epoch")
    return text + (
        f" in {seconds / 60:.1f} minutes" if seconds >= 90 else f" in {seconds:.0f} seconds" if seconds else ""
    )


def _teacher(run: Run) -> str:
    """The teacher of the training, or nothing if it had none."""
    teacher = run.metrics.teacher
    if teacher is None or teacher.validation_accuracy is None:
        return "" if teacher is None else teacher.name
    known = _percent(teacher.validation_accuracy)
    return f"a residual network with ReLU, {_epochs(run.teacher)}, validation accuracy {known}"


def _drawn(svg: str) -> Markup:
    """SVG text of this package, already escaped, for the template."""
    from markupsafe import Markup

    return Markup(svg)
