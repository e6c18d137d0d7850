"""The native engine against torch and ONNX Runtime: one process, one thread each, in turns.

All compute the same network from the same packed model:
- the engine, with every kernel that this CPU has. It reads raw pixels, and is checked to equal litesnn.Reference in
  every spike and every logit on the very images of the timing;
- torch_eager: timestep by timestep;
- best_torch: all timesteps in one batched convolution per layer. The fastest of: compiled and frozen or eager, the
  convolutions of a node separate or joined, contiguous or channels last;
- ort_fp32 and ort_int8: ONNX Runtime in float32, and in int8 by static quantisation; the fastest of several graphs.

The networks are a synthetic one in the shape of a searched CIFAR-10 network, on noise, and those given by --model; one
in its run folder is given images of its own data set. Prints a table for each network and batch, and ends with one line
per figure. The figures of the synthetic network at batch 1 have no prefix. Times are medians of the rounds, speed-ups
medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import litesnn
import machine
from float_layers import normalise
from litesnn.data.sources import load
from litesnn.deploy import packed
from litesnn.deploy.engine import available_kernels, full_adder_limit
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.reference import Reference, Trace
from litesnn.errors import InputError, LitesnnError
from litesnn.files import write_atomically
from litesnn.runs import RunFolder
from prototype import PROTOTYPE, make_prototype, random_images, weights
from rounds import in_turns, number, numbers, print_figures, print_row, ratio
from torch_baselines import has_compiler

try:
    from contenders import Contender, baselines, timed
except ModuleNotFoundError as error:
    sys.exit(f"benchmarks/engine.py: {error.name} is missing: pip install 'litesnn[bench]'")

PROTOTYPE_NAME = "prototype"
CALIBRATION_IMAGES = 16
COMPARED_IMAGES = 4
"""The spikes of the baselines are compared on so many images; those of the engine on all."""


@dataclass(frozen=True)
class Case:
    """A network, raw images to time it on [B, C, H, W], and others to calibrate its int8 baseline."""

    name: str
    origin: str
    model: PackedModel
    images: NDArray[Any]
    calibration: NDArray[Any]


def prototype_case(count: int) -> Case:
    """The synthetic network on ``count`` images of noise."""
    images, calibration = (
        random_images(number, PROTOTYPE.size, seed=seed) for number, seed in ((count, 99), (CALIBRATION_IMAGES, 98))
    )
    return Case(PROTOTYPE_NAME, "synthetic, on noise", make_prototype(), images, calibration)


def file_case(text: str, count: int) -> Case:
    """The network that ``text``, NAME=PATH or PATH, names.

    Raises:
        InputError: the file or its data set cannot be read, or has too few images.
    """
    name, _, place = text.rpartition("=")
    path = Path(place)
    model = packed.read(path)
    if (path.parent / "recipe.toml").is_file():
        settings = RunFolder(path.parent).recipe().data
        data = load(settings)
        images, calibration = data.test().x.numpy()[:count], data.validation.x.numpy()[:CALIBRATION_IMAGES]
        origin = f"{path.name}, on test images of {Path(settings.source).name}"
    else:
        rng = np.random.default_rng(99)
        noise = [_noise(model, rng, number) for number in (count, CALIBRATION_IMAGES)]
        images, calibration, origin = *noise, f"{path.name}, on noise"
    if len(images) < count:
        raise InputError(f"{path}: expected {count} test images for the largest batch, found {len(images)}")
    return Case(name or path.resolve().parent.name, origin, model, images, calibration)


def _noise(model: PackedModel, rng: np.random.Generator, count: int) -> NDArray[Any]:
    spec = model.input
    if spec.kind == "image":
        return rng.integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
    return (mean + std * rng.normal(size=(count, *spec.shape))).astype(np.float32)


def check_engine(case: Case, kernel: str, truth: Trace) -> None:
    """Raise ``LitesnnError`` if the engine does not give ``truth``, bit for bit, for all images of the case."""
    trace = litesnn.Engine(case.model, kernel=kernel).run(case.images, record=True)
    assert trace.spikes is not None
    assert truth.spikes is not None
    same = [np.array_equal(mine, right) for mine, right in zip(trace.spikes, truth.spikes, strict=True)]
    if not all(same):
        raise LitesnnError(f"{case.name}, {kernel}: population {same.index(False)} spikes otherwise than the reference")
    if not np.array_equal(trace.logits, truth.logits):
        raise LitesnnError(f"{case.name}, {kernel}: logits are not those of the reference")


def compare(contender: Contender, case: Case, batch: int, truth: Trace) -> dict[str, float]:
    """How far a baseline is from the reference: its logits for the batch, and the spikes for the first images."""
    assert truth.spikes is not None
    logits, right_logits = contender.logits(), truth.logits[-1, :batch]
    images = case.images[: min(batch, COMPARED_IMAGES)]
    spikes = contender.outcome(normalise(case.model.input, images)).spikes
    right = [array[:, : len(images)] for array in truth.spikes]
    wrong = sum(int(np.count_nonzero(mine != his)) for mine, his in zip(spikes, right, strict=True))
    return {
        "spikes_differ": wrong / sum(array.size for array in right),
        "wrong_per_spike": wrong / max(1, sum(int(np.count_nonzero(array)) for array in right)),
        "classes_differ": float(np.mean(logits.argmax(-1) != right_logits.argmax(-1))),
        "logits_differ": float(np.abs(logits - right_logits).max()),
    }


def measure(case: Case, batch: int, truth: Trace, kernels: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Time all contenders on the first ``batch`` images of a case, in turns.

    Args:
        case: the network.
        batch: how many images at once.
        truth: what the reference gives for all images of the case.
        kernels: of the engine.
        rounds: how often each contender is timed.

    Returns:
        For every contender its weight bytes, times, and for a kernel the time that the full-adder limit allows, for a
        baseline its variant and how it differs from the reference: "spikes_differ" as a share of all neurons and
        timesteps, "wrong_per_spike" for each spike that there should be.
    """
    images = case.images[:batch]
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], object]] = {}
    for kernel in kernels:
        engine = litesnn.Engine(case.model, kernel=kernel)
        runs[kernel] = partial(engine.predict, images, logits=True)
        results[kernel] = {"weight_bytes": engine.weight_bytes, "work_bytes": engine.work_bytes}
        results[kernel] |= {"limit_us_per_image": _limit_us(engine, images)}
    for contender in baselines(case.model, images, case.calibration):
        runs[contender.name] = contender.run
        results[contender.name] = {"weight_bytes": contender.weight_bytes, "variant": contender.variant}
        results[contender.name] |= compare(contender, case, batch, truth)
    times = in_turns(runs, rounds, lambda call: round(1e6 * timed(call) / batch, 2))
    for name, result in results.items():
        result |= {"us_per_image": statistics.median(times[name]), "rounds_us_per_image": times[name]}
    return results


def _limit_us(engine: litesnn.Engine, images: NDArray[Any]) -> float:
    """Time per image if the additions of the bit-sliced kernel ran at the speed of full adders in registers."""

    def additions() -> int:
        return sum(bundle.additions for bundle in engine.bundles() if bundle.method == "bitsliced")

    before = additions()
    engine.predict(images)
    return 1e6 * (additions() - before) / full_adder_limit(engine.kernel) / len(images)


def figures_of(results: dict[str, dict[str, Any]], kernels: Sequence[str]) -> dict[str, float]:
    """The figures of one network and batch, without their prefix."""
    figures: dict[str, float] = {}
    rivals = [name for name in results if name not in kernels]
    for kernel in kernels:
        mine = results[kernel]
        for rival in rivals:
            figures[f"{kernel}.speedup_vs_{rival}"] = ratio(
                results[rival]["rounds_us_per_image"], mine["rounds_us_per_image"]
            )
        figures[f"{kernel}.us_per_image"] = mine["us_per_image"]
        figures[f"{kernel}.share_of_full_adder_limit"] = mine["limit_us_per_image"] / mine["us_per_image"]
        figures[f"{kernel}.weight_bytes"] = mine["weight_bytes"]
    for rival in rivals:
        figures[f"{rival}.us_per_image"] = results[rival]["us_per_image"]
        figures[f"{rival}.weight_bytes"] = results[rival]["weight_bytes"]
        figures[f"{rival}.spikes_differ"] = results[rival]["spikes_differ"]
        figures[f"{rival}.wrong_per_spike"] = results[rival]["wrong_per_spike"]
    return figures


COLUMNS = ("contender", "µs/image", "weights, kB", "wrong per spike", "share of adder limit", "variant")


def print_table(title: str, results: dict[str, dict[str, Any]]) -> None:
    """Show one network at one batch size as Markdown."""
    print(f"\n{title}\n")
    rows = []
    for name, result in results.items():
        time_us = result["us_per_image"]
        differ = f"{result['wrong_per_spike']:.3g}" if "wrong_per_spike" in result else "exact"
        limit = f"{result['limit_us_per_image'] / time_us:.0%}" if "limit_us_per_image" in result else ""
        kilobytes = f"{result['weight_bytes'] / 1000:,.0f}"
        rows.append((name, f"{time_us:,.1f}", kilobytes, differ, limit, result.get("variant", "")))
    for row in (COLUMNS, ("---", *["---:"] * 4, "---"), *rows):
        print_row(*row)


def conditions(options: argparse.Namespace, kernels: Sequence[str]) -> dict[str, Any]:
    """What the times depend on."""
    return {
        **machine.conditions(["numpy", "torch", "onnx", "onnxruntime"], threads=1),
        "compiler_for_torch": has_compiler(),
        "rounds": options.rounds,
        "kernels": list(kernels),
        "full_adders_per_second": {kernel: full_adder_limit(kernel) for kernel in kernels},
    }


def run(options: argparse.Namespace) -> dict[str, float]:
    """Everything: cases, tables, the JSON file. Gives the figures."""
    torch.set_num_threads(1)
    kernels = options.kernels or list(available_kernels())
    report: dict[str, Any] = {"conditions": conditions(options, kernels), "networks": {}}
    print(json.dumps(report["conditions"], indent=2))
    if not report["conditions"]["compiler_for_torch"]:
        print("No C++ compiler was found: best_torch is without torch.compile.")
    figures: dict[str, float] = {}
    count = max(options.batches)
    cases = [prototype_case(count), *(file_case(text, count) for text in options.model)]
    for case in cases:
        total, kept = weights(case.model)
        truth = Reference(case.model).run(case.images, record=True)
        for kernel in kernels:
            check_engine(case, kernel, truth)
        row: dict[str, Any] = {"origin": case.origin, "weights": total, "kept_weights": kept, "batches": {}}
        row["packed_bytes"] = len(packed.to_bytes(case.model))
        row["timesteps"] = case.model.timesteps
        report["networks"][case.name] = row
        for batch in options.batches:
            results = measure(case, batch, truth, kernels, options.rounds)
            row["batches"][batch] = results
            print_table(f"{case.name}, batch {batch} ({case.origin}; {kept:,} of {total:,} weights kept)", results)
            prefix = ([] if case.name == PROTOTYPE_NAME else [case.name]) + ([f"b{batch}"] if batch > 1 else [])
            figures |= {".".join([*prefix, name]): value for name, value in figures_of(results, kernels).items()}
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(options.json, json.dumps(report | {"figures": figures}, indent=2) + "\n")
    return figures


def main() -> None:
    """Read the options, run everything and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]PATH", help="a packed model; repeatable"
    )
    parser.add_argument("--batches", type=numbers, default=[1, 32], metavar="N,…", help="images at once")
    parser.add_argument(
        "--kernels", type=lambda text: text.split(","), metavar="NAME,…", help="all that run here if not given"
    )
    parser.add_argument("--rounds", type=number, default=9, help="how often each contender is timed")
    parser.add_argument("--quick", action="store_true", help="the same as --rounds 3 --batches 1")
    parser.add_argument("--json", type=Path, help="write conditions, all times and the figures here")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.batches = 3, [1]
    try:
        figures = run(options)
    except LitesnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print_figures(figures)


if __name__ == "__main__":
    main()
