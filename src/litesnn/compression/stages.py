"""The stages of ``litesnn compress``: the same files in the same run folder as those of ``litesnn design``.

In: a run whose recipe has a module, and data. Out: ``search.safetensors`` (the module with its candidates) →
``genotype.json`` (bits and keep ratio of every layer, and T) → ``network.safetensors`` (fine-tuned from the search) →
``metrics.json`` → ``model.safetensors`` (packed, if it can be) → ``report.html``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from litesnn.compression.deploy import packed_model, prove_equal
from litesnn.compression.network import Given, SteppedNetwork, extras, fixed_choice
from litesnn.compression.proof import compare_with_module, rehearse
from litesnn.compression.search import (
    Candidates,
    choose_layers,
    counted_layers,
    most_timesteps,
    require_small_enough,
)
from litesnn.compression.source import build_module, pin_loaded
from litesnn.compression.teachers import teacher_of
from litesnn.config import ModuleSettings, Recipe
from litesnn.costs import COSTS
from litesnn.costs.energy import energy_record
from litesnn.data.sources import Data
from litesnn.deploy.pack import PROOF_IMAGES, Packed, counted, firing_rates
from litesnn.deploy.packed import PackedModel, from_bytes, size_bound
from litesnn.errors import InputError, LitesnnError
from litesnn.files import write_atomically
from litesnn.genotype import Compressed
from litesnn.network_file import input_fields, input_from
from litesnn.neurons import DEFAULT
from litesnn.neurons.model import SHARPNESS
from litesnn.quantizers import QUANTIZERS
from litesnn.runs import RunFolder, budgets_kept
from litesnn.search.joint import SearchSpace, read_into, search_with
from litesnn.snn.network import InputInfo
from litesnn.strategies import STRATEGIES, strategy_named
from litesnn.train.evaluate import (
    again_command,
    assess,
    compare,
    measure,
    preamble,
    require_trained_on,
    silence,
    validation_curve,
)
from litesnn.train.fit import AuxiliaryHead, fit_learner
from litesnn.train.quantized_layers import QuantizedLayer
from litesnn.train.teacher import teacher_record
from litesnn.training_loop.checkpoint import load_into, load_tensors, require_numbers, save_tensors
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.memory import StepPlan
from litesnn.training_loop.session import Session, input_info

__all__ = ["compress_search", "derive", "evaluate", "fit", "load_compressed", "pack", "try_out"]

_KIND = "compressed network"

MODULE_IMAGES = 512
"""Test images on which the packed file is compared with the module itself, if there are as many."""


def try_out(recipe: Recipe, data: Data) -> Recipe:
    """Refuse a module, or a budget for it, before the run begins. Returns the recipe with all files that it loads.

    Raises:
        InputError: the module cannot be compressed, or the budget is impossible.
    """
    assert recipe.module is not None
    _require_sensible(recipe)
    build_module(recipe.module, recipe.seed)
    recipe = recipe.model_copy(update={"module": pin_loaded(recipe.module)})
    given = _given(recipe, input_info(data))
    if recipe.train.firing_rate is not None and not any(given.neuron_calls.values()):
        raise InputError(f"train.firing_rate: {given.origin} has no neurons of which it is known when they fire")
    require_small_enough(Candidates(given, recipe), recipe, lambda *choice: _finish(given, *choice))
    return recipe


def compress_search(context: StageContext) -> Path:
    """Search bits, keep ratios and T. Returns the path of ``search.safetensors``.

    Raises:
        InputError: the module cannot be compressed, the budget is impossible, or a file is damaged.
    """
    recipe, session = context.recipe, context.session
    _require_sensible(recipe)
    given = _given(recipe, context.info)
    candidates = Candidates(given, recipe)
    require_small_enough(candidates, recipe, lambda *choice: _finish(given, *choice))
    if given.reason is not None:
        session.warn(f"there will be no packed file: {given.reason}")
    limited = [COSTS[key].title for key in recipe.budget.limits() if COSTS[key].is_work]
    if given.uncounted and limited:
        session.warn(f"the limit on {' and '.join(limited)} cannot be held against all: {_uncounted(given)}")
    space = SearchSpace(candidates.to(session.device), _plan(session))
    return search_with(strategy_named(recipe.search.update), context, lambda: space)


def derive(context: StageContext) -> Path:
    """Choose bits and keep ratios within the budget. Returns the path of ``genotype.json``.

    Raises:
        InputError: the search's result is missing or damaged, or nothing fits the budget.
    """
    run, recipe = context.run, context.recipe
    given = _given(recipe, context.info)
    candidates = Candidates(given, recipe)
    activity = read_into(candidates, run, whole=counted_layers(given))
    choice, warning = choose_layers(candidates, activity.whole, recipe, lambda *picked: _finish(given, *picked))
    if warning:
        context.session.warn(warning)
    run.start("derive")
    write_atomically(run.output("derive"), choice.to_json())
    return run.output("derive")


class _Tuned(nn.Module):
    """A network that is fine-tuned, without an auxiliary head."""

    tap: int | None = None
    auxiliary: AuxiliaryHead | None = None

    def __init__(self, network: SteppedNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def module(self) -> nn.Module:
        """All that learns."""
        return self

    def scores(self) -> list[nn.Parameter]:
        """Pruning scores."""
        given = self.network.given
        return [given.layers[name].scores for name in given.searched]

    def weights(self) -> list[nn.Parameter]:
        """All other parameters."""
        return [p for name, p in self.named_parameters() if not name.endswith("scores")]

    def quantized(self) -> list[QuantizedLayer]:
        """All layers, each in a group of its own."""
        layers, genes = self.network.given.layers, self.network.choice.layers
        return [QuantizedLayer(gene.name, layers[gene.name], gene.bits, gene.keep) for gene in genes]


def fit(context: StageContext) -> Path:
    """Fine-tune the module with its choices, from what the search left. Returns the path of ``network.safetensors``.

    Raises:
        InputError: a file is missing or damaged, or cannot be written.
    """
    run, recipe, info, session = context.run, context.recipe, context.info, context.session
    choice = Compressed.read(run.need("derive"))
    given = _given(recipe, info)
    read_into(Candidates(given, recipe), run)
    network = SteppedNetwork(given, _checked(choice, given, run.output("derive"))).to(session.device)

    def save(path: Path) -> None:
        said = {"choice": choice.model_dump_json(), **input_fields(info)}
        save_tensors(path, _KIND, network.state_dict(), said)

    return fit_learner(
        *(context, _Tuned(network), _plan(session)),
        save=save,
        load=lambda path: _load(path, recipe).to(session.device),
        teacher=teacher_of(context),
    )


def evaluate(context: StageContext) -> Path:
    """Measure the fine-tuned module on test. Returns the path of ``metrics.json``.

    Raises:
        InputError: the network is missing or damaged, or does not fit the data.
    """
    run, recipe, data, session = context.run, context.recipe, context.data, context.session
    network = load_compressed(run).to(session.device)
    require_trained_on(network.info, data, run.output("train"))
    test = session.samples(data.test(), network.info)
    curve = validation_curve(run, data)
    run.start("evaluate")
    metrics = preamble(recipe, data, len(test), again_command(run, recipe))
    measured = measure(network, test)
    given = network.given
    assert recipe.module is not None
    stems = [(int(macs), bits) for macs, bits in network.analog_macs()]
    work = [key for key, cost in COSTS.items() if cost.is_work]
    metrics |= measured.summary(network.info.classes)
    metrics |= assess(network, measured, data, test, curve, session, longer="train.epochs")
    metrics |= {
        "arithmetic": "float",
        "module": f"{Path(recipe.module.file).name}:{recipe.module.name}",
        "packing": {"possible": given.graph is not None, "reason": given.reason},
        "stem_macs": sum(macs for macs, _ in stems),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "bits": layer.bits,
                "keep": layer.keep,
                "weights": layer.weights,
                "kept": layer.kept,
                "synops": measured.synops.get(layer.name),
                "bit_synops": measured.bit_synops.get(layer.name),
            }
            for layer in network.layers()
        ],
    }
    if given.graph is not None:
        metrics["layers"] += [
            {"name": name, "kind": "edge", "bits": 0, "keep": 1.0, "weights": 0, "kept": 0}
            | {"synops": measured.synops[name], "bit_synops": measured.bit_synops[name]}
            for name, _, _ in extras(given.graph)
        ]
    metrics["neurons"] = [
        {"name": name, "firing_rate": measured.rates[name]} for name in given.neurons if name in measured.rates
    ]
    metrics["weights"] = sum(layer["weights"] for layer in metrics["layers"])
    metrics["kept_weights"] = sum(layer["kept"] for layer in metrics["layers"])
    metrics["model_size_bytes"] = sum(layer["kept"] * layer["bits"] for layer in metrics["layers"]) / 8
    packed = None if given.graph is None else Packed.of(_packed(network, measured.rates))
    metrics["packed_bytes"] = network.estimated_bytes() if packed is None else len(packed.content)
    metrics["energy"] = energy_record(metrics["layers"], stems)
    metrics |= compare(metrics, recipe.budget, uncounted=work if given.uncounted else ()) | teacher_record(run, recipe)
    rates = {row["name"]: row["firing_rate"] for row in metrics["neurons"]}
    note = silence(rates, "test", recipe.budget)
    metrics["notes"] = [] if note is None else [note]
    if given.reason is not None:
        metrics["notes"].append(f"no packed file, its size is an estimate: {given.reason}")
    if given.uncounted:
        metrics["notes"].append(f"more work than Bit-SynOps say: {_uncounted(given)}")
    if note is not None:
        session.warn(note)
    write_atomically(run.output("evaluate"), json.dumps(metrics, indent=2) + "\n")
    if packed is not None and session.device.type == "cpu":  # where packing computes; another may round differently
        context.handed.leave(packed)
    return run.output("evaluate")


def pack(context: StageContext) -> Path:
    """Pack the module and check the file against it. Returns the path of ``model.safetensors``.

    Raises:
        InputError: the module has a part that the packed file has no words for; or a file is missing or damaged.
        LitesnnError: the file computes something else than the module by its own forward, of which the metrics then
            tell, or than its deployed form, or has another size than evaluation said.
    """
    run, recipe, data = context.run, context.recipe, context.data
    network = load_compressed(run)
    require_trained_on(network.info, data, run.output("train"))
    metrics = run.metrics()
    graph = network.given.graph
    if graph is None:
        raise InputError(f"{network.given.origin} cannot be packed: {network.given.reason}")
    packed = context.handed.take(Packed) or Packed.of(_packed(network, firing_rates(metrics)))
    content = counted(packed, metrics)
    run.start("pack")
    settings, test = recipe.module, data.test().x
    assert settings is not None
    rows = torch.linspace(0, len(test) - 1, min(len(test), MODULE_IMAGES)).round().long()  # they may be in order
    try:
        proof = prove_equal(network, graph, from_bytes(content), data.validation.x[:PROOF_IMAGES])
        module = build_module(settings, recipe.seed)
        agreement = compare_with_module(module, network, from_bytes(content), test[rows])
    except LitesnnError as error:
        run.amend_metrics(packing={"possible": False, "failed": True, "reason": str(error)}, **_judged(metrics, False))
        raise LitesnnError(f"{network.given.origin} is not packed: {error}") from error
    same = agreement.record() | {"of": len(test)}
    run.amend_metrics(packing={"possible": True, "reason": None, "proof": proof, "module": same})
    run.amend_metrics(**_judged(metrics, True))
    write_atomically(run.output("pack"), content)
    return run.output("pack")


def _judged(metrics: Mapping[str, Any], packed: bool) -> dict[str, Any]:
    """The budgets of a run whose file is packed, or is not, so that it is not known to keep a limit on its size."""
    rows = [dict(row) for row in metrics["budgets"]]
    for row in rows:
        if row["name"] == "packed_bytes" and row["limit"] is not None:
            row["kept"] = row["value"] <= row["limit"] if packed else None
    return {"budgets": rows, "budgets_kept": budgets_kept(rows)}


def load_compressed(run: RunFolder) -> SteppedNetwork:
    """The fine-tuned module of a run, in evaluation mode.

    Raises:
        InputError: it is missing or damaged.
    """
    return _load(run.need("train"), run.recipe())


def _load(path: Path, recipe: Recipe) -> SteppedNetwork:
    tensors, saved = load_tensors(path, _KIND)
    require_numbers(tensors, path)
    given = _given(recipe, input_from(saved, path))
    choice = _checked(Compressed.from_json(str(saved.get("choice")), origin=f"{path}: choice"), given, path)
    network = SteppedNetwork(given, choice)
    load_into(network, tensors, path)
    given.learn()
    return network.eval()


def _given(recipe: Recipe, info: InputInfo) -> Given:
    settings = recipe.module
    assert settings is not None
    origin, io_bits = _origin(settings), recipe.model.io_bits
    quantizer = QUANTIZERS[recipe.model.quantizer]
    given = Given(build_module(settings, recipe.seed), info, origin=origin, io_bits=io_bits, quantizer=quantizer)
    given.refuse(_rehearsed(settings.model_dump_json(), recipe.seed, info, io_bits, most_timesteps(given, recipe)))
    return given


def _origin(settings: ModuleSettings) -> str:
    return f"{settings.file}: class {settings.name}"


@lru_cache(maxsize=4)  # it takes seconds, and each stage of a job asks; the settings have the digests of all files
def _rehearsed(settings: str, seed: int, info: InputInfo, io_bits: int, timesteps: int) -> str | None:
    """Why a module, by its settings as JSON, cannot be packed, or ``None``: see :func:`rehearse`."""
    module = ModuleSettings.model_validate_json(settings)
    build = partial(build_module, module, seed)
    return rehearse(build, info, origin=_origin(module), io_bits=io_bits, timesteps=timesteps)


def _checked(choice: Compressed, given: Given, path: Path) -> Compressed:
    if [gene.name for gene in choice.layers] != list(given.layers):
        raise InputError(f"{path} was made for another module than {given.origin}: its layers differ")
    if choice.quantizer != given.quantizer.name:
        raise InputError(f"{path} was made with another quantizer: {choice.quantizer!r}, not {given.quantizer.name!r}")
    return choice


def _uncounted(given: Given) -> str:
    """The parts of a module that make no Bit-SynOps, in a line."""
    first, *more = given.uncounted
    return first + (f", and {len(more)} more" if more else "")


def _finish(given: Given, steps: int, picked: Mapping[str, tuple[int, float]]) -> tuple[Compressed, int]:
    """The record of a choice, and the most bytes that its file can take (an estimate, where there can be no file)."""
    choice = fixed_choice(given, steps, picked)
    network = SteppedNetwork(given, choice)
    return choice, network.estimated_bytes() if given.graph is None else size_bound(_packed(network))


def _packed(network: SteppedNetwork, rates: Mapping[str, float] | None = None) -> PackedModel:
    given = network.given
    assert given.graph is not None
    compressions = network.compressions()
    return packed_model(
        *(given.graph, network.folding(), given.layers, compressions, given.info, network.timesteps), rates
    )


def _require_sensible(recipe: Recipe) -> None:
    """Refuse settings that mean nothing for a user's module."""
    if recipe.search.widths != (1.0,):
        raise InputError("search.widths: a user's module keeps its widths; expected [1.0]")
    if not strategy_named(recipe.search.update).searches_modules:
        able = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.searches_modules)
        raise InputError(
            f"search.update: the strategy {recipe.search.update!r} searches no users' modules; expected one of {able}"
        )
    if recipe.model.arithmetic != "float":
        raise InputError("model.arithmetic: a user's module is packed with the arithmetic 'float' alone")
    quantizer = QUANTIZERS[recipe.model.quantizer]
    if quantizer.has_zero or not quantizer.at_both_ends:
        raise InputError(f"model.quantizer: {quantizer.name!r} is not there for users' modules")
    for key, default in (("short_epochs", 0), ("small_images", 0), ("init", "normal"), ("init_stem", "normal")):
        if getattr(recipe.train, key) != default:
            raise InputError(f"train.{key} is for networks of ours, not for users' modules; expected {default!r}")
    if recipe.model.neuron != DEFAULT:
        raise InputError(f"model.neuron: a user's module keeps its neurons; expected {DEFAULT!r}")
    if recipe.train.surrogate_sharpness != SHARPNESS:
        raise InputError(f"train.surrogate_sharpness: a user's module keeps its neurons; expected {SHARPNESS:g}")


def _plan(session: Session) -> Callable[..., StepPlan]:
    """Steps are neither planned nor recorded: what a user's module needs, and what its code does, is not known."""

    def plan(*batches: int) -> StepPlan:
        return StepPlan(replace(session.execution, graphs=False), micro_batches=1, bytes=0)

    return plan
