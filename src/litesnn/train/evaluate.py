"""Evaluation on the test split: what the network is worth, and what it costs.

In: ``network.safetensors`` and the test rows, read here for the first time. Out: ``metrics.json``. Everything is
measured with the deployed arithmetic; costs are counted, per sample and as means over the test set. Accuracy is put
beside a linear classifier's and judged (:mod:`litesnn.train.judgement`); what is no good becomes a warning.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from litesnn import processes
from litesnn.budget import Budget
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.costs.energy import energy_record
from litesnn.data.batches import Samples
from litesnn.data.sources import Data
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import Packed
from litesnn.deploy.packed import SizeTable, population_shapes, size_table
from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically
from litesnn.network_file import load_network
from litesnn.runs import METRICS_VERSION, RunFolder, budgets_kept
from litesnn.snn.cost import WAYS, LayerSynops, Meter, Way
from litesnn.snn.network import InputInfo, Network
from litesnn.snn.predictor import Predictor
from litesnn.train.judgement import Curve, Facts, compare_rows, judge, standard_error
from litesnn.train.linear_baseline import fit_linear
from litesnn.train.neurobench import Watch, neurobench_metrics
from litesnn.train.teacher import teacher_record
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session
from litesnn.version import __version__

__all__ = [
    "SplitMeasurements",
    "assess",
    "compare",
    "evaluate",
    "measure",
    "preamble",
    "require_trained_on",
    "silence",
    "validation_curve",
]

_BATCH = 256

SILENT_RATE = 1e-3
"""Spikes per neuron and timestep below which a population is called silent."""


def evaluate(context: StageContext) -> Path:
    """Measure the trained network of a run on test. Returns the path of ``metrics.json``.

    Raises:
        InputError: the network is missing or damaged, or does not fit the data.
    """
    run, recipe, data, session = context.run, context.recipe, context.data, context.session
    path = run.need("train")
    network = load_network(path).to(session.device)
    require_trained_on(network.info, data, path)
    test = session.samples(data.test(), network.info)
    curve = validation_curve(run, data)
    run.start("evaluate")
    metrics = preamble(recipe, data, len(test), again_command(run, recipe))
    metrics["arithmetic"] = network.genotype.arithmetic
    if network.genotype.spike_levels > 1:
        metrics["spike_levels"] = network.genotype.spike_levels
    with Watch(network) as watch:
        measured = measure(network, test)
    watch.add_up()
    metrics |= measured.summary(network.info.classes)
    packed = Packed.of(integerize(network, measured.rates))
    metrics |= assess(network, measured, data, test, curve, session) | _sizes(network, measured, packed)
    metrics["neurobench"] = neurobench_metrics(
        packed.model,
        watch,
        layers=metrics["layers"],
        neurons=metrics["neurons"],
        packed_bytes=metrics["packed_bytes"],
    )
    metrics["energy"] = energy_record(metrics["layers"], network.analog_macs())
    metrics |= compare(metrics, recipe.budget) | teacher_record(run, recipe)
    note = silence(measured.rates, "test", recipe.budget)
    metrics["notes"] = [] if note is None else [note]
    if note is not None:
        session.warn(note)
    write_atomically(run.output("evaluate"), json.dumps(metrics, indent=2) + "\n")
    if session.device.type == "cpu":  # where packing computes; another device may round differently
        context.handed.leave(packed)
    return run.output("evaluate")


def require_trained_on(info: InputInfo, data: Data, path: Path) -> None:
    """Refuse a network that was trained on inputs or classes of another kind.

    Raises:
        InputError: ``path``, where the network is from, and what differs.
    """
    if (info.shape, info.classes) != (data.shape, data.classes):
        raise InputError(f"{path} was trained on other data than {data.name}: shapes or classes differ")


def again_command(run: RunFolder, recipe: Recipe) -> str:
    """The command that makes a run again, if given in its folder: on the device and threads that it was trained with.

    Raises:
        InputError: the log of the training is damaged.
    """
    log = run / "train.jsonl"
    try:
        rows = JsonLog.read(log) if log.exists() else []
        options = str(rows[-1].get("options", "")) if rows else ""
    except (ValueError, AttributeError) as error:
        raise InputError(f"{log} is damaged: {error}") from None
    return f"{recipe.command()} --recipe recipe.toml --run AGAIN {options}".rstrip()


def preamble(recipe: Recipe, data: Data, test: int, command: str) -> dict[str, Any]:
    """The part of ``metrics.json`` that is known before anything is measured.

    Args:
        recipe, data: of the run.
        test: test rows.
        command: what makes the run again.
    """
    return {
        "version": METRICS_VERSION,
        "litesnn": __version__,
        "data": {
            "name": data.name,
            "shape": data.shape,
            "train": len(data.train.y),
            "validation": len(data.validation.y),
            "test": test,
            "notes": data.notes,
        },
        "recipe": recipe.name,
        "mode": recipe.search.mode,
        "seed": recipe.seed,
        "firing_rate_target": recipe.train.firing_rate,
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }


@dataclass(frozen=True)
class SplitMeasurements:
    """Measurements of a split. Per sample: ``synops`` by layer; ``rates``: mean firing rate by population.

    SynOps of graded spikes are those of bit planes. Of graded spikes there are besides, by layer, the SynOps of as many
    virtual timesteps of binary spikes, and the multiplications of a spike by a weight; by population, spikes per neuron
    and timestep, those of all bit planes. Of binary spikes all these are empty.

    ``firing_rate``: of all neurons; ``None``: no population is known.
    """

    loss: float
    accuracy_at: list[float]  # accuracy of y_t for t = 1…T
    confusion: list[list[int]]  # rows: true class, columns: predicted class
    synops: dict[str, float]
    bit_synops: dict[str, float]
    rates: dict[str, float]
    firing_rate: float | None = None
    predicted: tuple[int, ...] = ()  # the class of each row
    virtual_synops: Mapping[str, float] = field(default_factory=dict)
    virtual_bit_synops: Mapping[str, float] = field(default_factory=dict)
    macs: Mapping[str, float] = field(default_factory=dict)
    bit_macs: Mapping[str, float] = field(default_factory=dict)
    spikes: Mapping[str, float] = field(default_factory=dict)

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """The part of ``metrics.json`` that comes from here."""
        return {
            "test_accuracy": self.accuracy_at[-1],
            "test_loss": self.loss,
            "accuracy_at": self.accuracy_at,
            "classes": list(classes),
            "confusion": self.confusion,
            "timesteps": len(self.accuracy_at),
            "synops": sum(self.synops.values()),
            "bit_synops": sum(self.bit_synops.values()),
            "firing_rate": self.firing_rate,
            **self._of_virtual_timesteps(),
        }

    def _of_virtual_timesteps(self) -> dict[str, float]:
        if not self.virtual_synops:
            return {}
        synops, bit_synops = (sum(each.values()) for each in (self.virtual_synops, self.virtual_bit_synops))
        return {"synops_virtual": synops, "bit_synops_virtual": bit_synops}

    def other_work(self, layer: str) -> dict[str, float]:
        """What a layer of graded spikes costs in the other ways; nothing of binary spikes, or of the input."""
        if layer not in self.virtual_synops:
            return {}
        return {
            "synops_virtual": self.virtual_synops[layer],
            "bit_synops_virtual": self.virtual_bit_synops[layer],
            "macs": self.macs[layer],
            "bit_macs": self.bit_macs[layer],
        }


@torch.no_grad()
def measure(network: Predictor, rows: Samples) -> SplitMeasurements:
    """Run a network over a split with the deployed arithmetic, and count; several processes share the rows."""
    network.module.eval()
    classes, count = len(network.info.classes), len(rows)
    correct = torch.zeros(network.timesteps, dtype=torch.int64)
    confusion = torch.zeros(classes**2, dtype=torch.int64)
    predicted = torch.zeros(count, dtype=torch.int64)
    loss = 0.0
    work: dict[Way | None, _Work] = {way: _Work() for way in (None, *WAYS)}
    rates: defaultdict[str, float] = defaultdict(float)
    firing_rate = 0.0
    spikes: defaultdict[str, float] = defaultdict(float)
    part, row = rows.part(), processes.part(count).start
    with processes.apart():
        for x, y in part.batches(_BATCH):
            meter, share = Meter(WAYS), len(y) / count
            logits = network(x, meter=meter).logits  # [T, B, K]
            loss += float(F.cross_entropy(logits[-1], y, reduction="sum")) / count
            guesses = logits.argmax(2)  # [T, B]
            correct += (guesses == y).sum(1).cpu()
            predicted[row : row + len(y)] = guesses[-1].cpu()
            row += len(y)
            confusion += torch.bincount((y * classes + guesses[-1]).cpu(), minlength=classes**2)
            for way, found in work.items():
                found.add(meter.layers_by(way), share)
            for name, rate in meter.rates.items():
                rates[name] += float(rate.double().mean()) * share
            firing_rate += float(meter.firing_rate()) * share
            for name, per_neuron in meter.graded.items():
                spikes[name] += float(per_neuron.double().mean()) * share
    return SplitMeasurements(
        loss=processes.total_(torch.tensor(loss, dtype=torch.float64)).item(),
        accuracy_at=[int(value) / count for value in processes.total_(correct)],
        confusion=processes.total_(confusion).view(classes, classes).tolist(),
        synops=_summed(work[None].synops),
        bit_synops=_summed(work[None].bit_synops),
        rates=_summed(rates),
        firing_rate=processes.total_(torch.tensor(firing_rate, dtype=torch.float64)).item() if rates else None,
        predicted=tuple(processes.total_(predicted).tolist()),
        virtual_synops=_summed(work["virtual"].synops),
        virtual_bit_synops=_summed(work["virtual"].bit_synops),
        macs=_summed(work["values"].synops),
        bit_macs=_summed(work["values"].bit_synops),
        spikes=_summed(spikes),
    )


@dataclass(frozen=True)
class _Work:
    """SynOps and Bit-SynOps by layer, summed over the batches of a split."""

    synops: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bit_synops: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, layers: Mapping[str, LayerSynops], share: float) -> None:
        """Add those of a batch, by its share of the split."""
        for name, layer in layers.items():
            self.synops[name] += float(layer.synops.double().sum()) * share
            self.bit_synops[name] += float(layer.bit_synops.double().sum()) * share


def _summed(values: Mapping[str, float]) -> dict[str, float]:
    """Every value summed over all processes, which have the same keys."""
    if not values:
        return {}
    totals = processes.total_(torch.tensor(list(values.values()), dtype=torch.float64))
    return dict(zip(values, totals.tolist(), strict=True))


def validation_curve(run: RunFolder, data: Data) -> Curve:
    """How validation accuracy went in training, as the first process has it; empty if there is no log of it.

    Raises:
        InputError: ``train.jsonl`` is damaged.
    """
    path = run / "train.jsonl"

    def values() -> list[float]:
        return JsonLog.numbers(path, "validation_accuracy") if path.exists() else []

    return Curve(tuple(processes.first_does(values)), len(data.validation.y))


def assess(
    network: Predictor,
    measured: SplitMeasurements,
    data: Data,
    test: Samples,
    curve: Curve,
    session: Session,
    *,
    longer: str = "--time, or train.epochs",
) -> dict[str, Any]:
    """An assessment of accuracy for ``metrics.json``: beside chance and a linear classifier, by class, with warnings.

    The warnings are told as well. Of several processes the first does all of it; all of them get the result.
    ``longer`` is what they tell to change so that training takes longer.
    """
    found: dict[str, Any] = processes.first_does(lambda: _assessed(network, measured, data, test, curve, longer))
    for warning in found["warnings"]:
        session.warn(warning["text"])
    return found


def _assessed(
    network: Predictor, measured: SplitMeasurements, data: Data, test: Samples, curve: Curve, longer: str
) -> dict[str, Any]:
    classes = len(data.classes)
    fitted = fit_linear(data, test, network.info, network.timesteps)
    linear = compare_rows(test.y.tolist(), measured.predicted, fitted.predicted, classes)
    facts = Facts(
        classes=data.classes,
        train_rows=tuple(torch.bincount(data.train.y, minlength=classes).tolist()),
        confusion=tuple(map(tuple, measured.confusion)),
        linear=linear,
        curve=curve,
        longer=longer,
    )
    return {
        "test_standard_error": standard_error(facts.accuracy, facts.rows),
        "balanced_accuracy": facts.balanced_accuracy,
        "per_class": facts.per_class(),
        "baselines": {
            "chance": facts.chance,
            "majority": facts.majority,
            "linear": {
                "accuracy": linear.accuracy,
                "balanced_accuracy": linear.balanced_accuracy,
                "gain": linear.gain,
                "gain_standard_error": linear.gain_error,
                "rows": fitted.rows,
                "features": fitted.features,
                "penalty": fitted.penalty,
                "note": fitted.note,
            },
        },
        "warnings": judge(facts),
    }


def silence(rates: Mapping[str, float], split: str, budget: Budget) -> str | None:
    """A warning that names the populations that (nearly) never fire on a split; ``None`` if all do.

    ``rates``: mean firing rate by population. A silent population tells the next ones nothing about the input.
    """
    silent = [f"{name} ({rate:.2%})" for name, rate in rates.items() if rate < SILENT_RATE]
    if not silent:
        return None
    limits = " and ".join(COSTS[key].say(limit) for key, limit in budget.limits().items() if COSTS[key].is_work)
    why = f"; the limit of {limits} may be too tight" if limits else ""
    return f"almost no spikes on {split} from {', '.join(silent)}{why}"


def _sizes(network: Network, measured: SplitMeasurements, packed: Packed) -> dict[str, Any]:
    """Sizes in bytes, and every layer and population with what it costs."""
    table = size_table(packed.model)
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "cell": layer.cell,
            "bits": layer.bits,
            "keep": layer.keep,
            "weights": layer.weights,
            "kept": layer.kept,
            "synops": measured.synops.get(layer.name),
            "bit_synops": measured.bit_synops.get(layer.name),
            **measured.other_work(layer.name),
        }
        for layer in network.layers()
    ]
    shapes = population_shapes(packed.model)
    neurons = [
        {"name": name, "channels": c, "height": h, "width": w, "firing_rate": measured.rates[name]}
        | ({"spikes": measured.spikes[name]} if measured.spikes else {})
        for name, (c, h, w) in zip(measured.rates, shapes, strict=True)
    ]
    return {
        "packed_bytes": len(packed.content),
        "header_bytes": table.header_bytes,
        "size_table": _size_rows(table, [layer.name for layer in network.layers()], list(measured.rates)),
        "weights": sum(layer.weights for layer in network.layers()),
        "kept_weights": sum(layer.kept for layer in network.layers()),
        "model_size_bytes": network.model_size_bits() / 8,
        "stem_macs": network.stem_macs(),
        "layers": layers,
        "neurons": neurons,
    }


def _size_rows(table: SizeTable, layers: Sequence[str], populations: Sequence[str]) -> list[dict[str, Any]]:
    """Where the bytes go, under the names that the rest of the metrics uses; the file knows only numbers."""
    names, owners = iter(layers), iter(populations)
    return [
        {
            "name": f"{next(owners)} bias" if layer.name.endswith("bias") else next(names),
            "coding": layer.coding,
            "positions": layer.positions_bytes,
            "codes": layer.codes_bytes,
            "affine": layer.affine_bytes,
        }
        for layer in table.layers
    ]


def compare(metrics: Mapping[str, Any], budget: Budget, *, uncounted: Collection[str] = ()) -> dict[str, Any]:
    """The costs that are limited or always compared, beside the limits, and whether all limits are kept.

    ``uncounted``: figures of which a part is not counted; below their limits they may be kept or not: ``None``.
    """
    rows = []
    for key, cost in COSTS.items():
        value, limit = cost.measured(metrics), budget.limit(key)
        kept: bool | None = limit is None or value <= limit
        if kept and limit is not None and key in uncounted:
            kept = None
        if limit is not None or cost.always_compared:
            rows.append({"name": key, "value": value, "limit": limit, "kept": kept})
    return {"budgets": rows, "budgets_kept": budgets_kept(rows)}
