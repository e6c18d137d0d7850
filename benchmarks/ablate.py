"""What each part of the training is worth: one network trained again and again, with one setting changed each time.

In: a study, which is a TOML file. Out: a run folder for each variant and seed, one JSON file in ``RUNS/results`` for
each that is finished, and a table of them.

    recipe = "cifar10-s"                    # of all variants
    data = "cifar10-folder"                 # left out: the recipe's
    seeds = [0, 1]
    network = { bits = 2, packed_bytes = 32000 }    # or { genotype = "genotype.json" }

    [set]                                   # recipe keys of all variants
    "train.epochs" = 10

    [variants.today]
    [variants.smoothing]
    "train.label_smoothing" = 0.1
    [variants.one_bit]
    "network.bits" = 1

A network is the uniform one of so many bits: plain 3×3 convolutions, nothing pruned, every cell as wide as fits
``packed_bytes`` (or of ``width`` at level 0), all timesteps of the recipe. A genotype keeps its layers; neuron,
quantizer, arithmetic and spike levels are the variant's.

Accuracies are on the validation split, by which settings may be chosen; ``--test`` measures the test split as well.
Every run can be killed at any time: the next call goes on at its last epoch and never repeats a finished one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from litesnn.config import Recipe
from litesnn.data.sources import Data, load
from litesnn.design import Job, make_recipe
from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically
from litesnn.genotype import CellGene, Genotype, StemGene
from litesnn.network_file import load_network
from litesnn.runs import RunFolder, held
from litesnn.search.baselines import plain_edges
from litesnn.search.derive import largest_file
from litesnn.snn.cost import Meter
from litesnn.snn.network import InputInfo
from litesnn.train.fit import validate
from litesnn.training_loop.session import Session, begin_session, input_info
from machine import conditions

__all__ = ["Study", "Variant", "network_of", "table", "uniform_network"]

COLUMNS = ("variant", "n", "validation", "s.e.", "loss", "test", "packed B", "Bit-SynOps", "firing", "T", "D", "s")

_WIDEST = 4096


@dataclass(frozen=True)
class Variant:
    """One network, and one training of it."""

    name: str
    seed: int
    network: Mapping[str, Any]
    recipe: Recipe

    @property
    def run_name(self) -> str:
        """Name of its run folder and of its result."""
        return f"{self.name}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """All variants of a study file, in its order, seed by seed."""

    variants: tuple[Variant, ...]

    @classmethod
    def read(cls, path: Path) -> Study:
        """Raises ``InputError`` if the file is not a study."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a study: {error}") from None
        known = {"recipe", "data", "seeds", "network", "set", "variants"}
        if unknown := sorted(values.keys() - known):
            raise InputError(f"{path}: unknown key {unknown[0]!r}; expected {', '.join(sorted(known))}")
        if not values.get("variants"):
            raise InputError(f"{path}: no variants; expected tables such as [variants.today]")
        common, found = _dotted(values.get("set", {})), []
        for seed in values.get("seeds", [0]):
            for name, changes in values["variants"].items():
                said = common | _dotted(changes)
                own = {key.removeprefix("network."): said.pop(key) for key in [*said] if key.startswith("network.")}
                recipe = make_recipe(recipe=values.get("recipe"), data=values.get("data"), seed=seed, changes=said)
                found.append(Variant(name, seed, values.get("network", {}) | own, recipe))
        return cls(tuple(found))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def uniform_network(recipe: Recipe, *, bits: int, width: int, timesteps: int) -> Genotype:
    """The plain network of a recipe's macro path: 3×3 convolutions from the nearest sources, one bit-width."""
    model = recipe.model
    return Genotype(
        timesteps=timesteps,
        stem=StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits),
        edges=plain_edges(recipe),
        cells=tuple(CellGene(level=level, width=width * 2**level, bits=bits, keep=1.0) for level in model.levels),
        classifier_bits=model.io_bits,
        **model.kinds,
    )


def network_of(variant: Variant, info: InputInfo) -> Genotype:
    """The genotype of a variant. Raises ``InputError`` if its network is not understood, or nothing fits."""
    said, recipe = dict(variant.network), variant.recipe
    if "genotype" in said:
        read = Genotype.read(Path(said["genotype"])).model_dump()
        changed = {"timesteps": said["timesteps"]} if "timesteps" in said else {}
        return Genotype.model_validate(read | recipe.model.kinds | changed)
    unknown = sorted(said.keys() - {"bits", "packed_bytes", "width", "timesteps"})
    if unknown or "bits" not in said or ("width" in said) == ("packed_bytes" in said):
        raise InputError(f"{variant.name}: network: expected bits, and packed_bytes or width; found {said}")

    def made(width: int) -> Genotype:
        return uniform_network(
            recipe, bits=said["bits"], width=width, timesteps=said.get("timesteps", recipe.timesteps)
        )

    if "width" in said:
        return made(said["width"])
    low, high = 0, _WIDEST  # the size grows with the width: bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if largest_file(made(middle), info) <= said["packed_bytes"] else (low, middle)
    if low == 0:
        raise InputError(f"{variant.name}: no width fits {said['packed_bytes']} B")
    return made(low)


class Bench:
    """One process that trains variants; it reads the data once."""

    def __init__(self, runs: Path, session: Session, *, test: bool) -> None:
        self.runs, self.session, self.test = runs, session, test
        self._data: dict[str, Data] = {}

    def data(self, recipe: Recipe) -> Data:
        """The data of a recipe."""
        key = repr((recipe.data, recipe.front_ends))
        if key not in self._data:
            self._data[key] = load(recipe.data, recipe.front_ends)
        return self._data[key]

    def result_path(self, variant: Variant) -> Path:
        """Where the result of a variant is written."""
        return self.runs / "results" / f"{variant.run_name}.json"

    def done(self, variant: Variant) -> bool:
        """Whether a variant is finished. Raises ``InputError`` if it was, with other settings."""
        path = self.result_path(variant)
        if not path.exists():
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
        said = variant.recipe.model_dump(mode="json")
        if found["settings"] != said or found["network"] != dict(variant.network):
            raise InputError(f"{path} was made with other settings; choose another name or another folder for --runs")
        return not self.test or "test_accuracy" in found

    def train(self, variant: Variant) -> dict[str, Any]:
        """Train, or go on; then measure. Returns the result, which is written as well."""
        run, recipe, data = RunFolder(self.runs / variant.run_name), variant.recipe, self.data(variant.recipe)
        genotype = network_of(variant, input_info(data))
        run.begin(recipe)
        if not run.done("derive"):
            write_atomically(run.output("derive"), genotype.to_json())
        job = Job(run, self.session, data)
        with held(run, recipe):
            for stage in ("teacher", "train", "evaluate")[: 3 if self.test else 2]:
                if stage in run.needs() and not run.done(stage):
                    job.do(stage)
        result = self.measured(variant, run, genotype, data)
        path = self.result_path(variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def measured(self, variant: Variant, run: RunFolder, genotype: Genotype, data: Data) -> dict[str, Any]:
        """All that is kept of a finished training."""
        log = JsonLog.read(run / "train.jsonl")
        network = load_network(run.need("train")).to(self.session.device).eval()
        validation = self.session.samples(data.validation, network.info)
        found = validate(network, validation)
        meter = Meter()
        with torch.no_grad():
            network(next(iter(validation.batches(256)))[0], meter=meter)
        rates = {name: float(rate.mean()) for name, rate in meter.rates.items()}
        return {
            "version": 1,
            "name": variant.name,
            "seed": variant.seed,
            "network": dict(variant.network),
            "genotype": json.loads(genotype.to_json()),
            **found,
            "largest_file": largest_file(genotype, input_info(data)),
            "firing_rates": rates,
            "firing_rate": float(meter.firing_rate()),
            "n_validation": len(validation),
            "train_seconds": sum(row["seconds"] for row in log),
            "epochs": [
                {key: row[key] for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")}
                for row in log
            ],
            **({key: run.metrics()[key] for key in ("test_accuracy", "packed_bytes")} if self.test else {}),
            "conditions": conditions(["torch"], threads=torch.get_num_threads()),
            "settings": variant.recipe.model_dump(mode="json"),
        }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: one row per variant, means over its seeds."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    for name in dict.fromkeys(result["name"] for result in results):
        rows = [result for result in results if result["name"] == name]
        accuracies = [row["validation_accuracy"] for row in rows]
        spread = statistics.stdev(accuracies) / len(rows) ** 0.5 if len(rows) > 1 else None
        tests = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
        sizes = [row.get("packed_bytes", row["largest_file"]) for row in rows]
        genotype = rows[0]["genotype"]
        cells = (
            name,
            str(len(rows)),
            f"{statistics.mean(accuracies):.2%}",
            "" if spread is None else f"{spread:.2%}",
            f"{statistics.mean(row['validation_loss'] for row in rows):.3f}",
            f"{statistics.mean(tests):.2%}" if tests else "",
            f"{statistics.mean(sizes):,.0f}",
            f"{statistics.mean(row['bit_synops'] for row in rows) / 1e6:.2f} M",
            f"{statistics.mean(row['firing_rate'] for row in rows):.1%}",
            str(genotype["timesteps"]),
            str(genotype.get("spike_levels", 1)),
            f"{statistics.mean(row['train_seconds'] for row in rows):.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Train what is missing and print the table. Raises ``InputError`` for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="TOML file")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs and results")
    parser.add_argument("--only", help="names of variants, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--test", action="store_true", help="measure the test split as well")
    parser.add_argument("--report-only", action="store_true", help="start nothing: report on what is finished")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    variants = Study.read(options.study).variants
    if options.only:
        wished = options.only.split(",")
        if unknown := sorted(set(wished) - {variant.name for variant in variants}):
            raise InputError(f"--only: {options.study} has no variant {unknown[0]!r}")
        variants = tuple(variant for variant in variants if variant.name in wished)
    bench = Bench(options.runs, begin_session(options.device, Console(quiet=True)), test=options.test)
    results = []
    for variant in variants:
        if bench.done(variant):
            results.append(json.loads(bench.result_path(variant).read_text(encoding="utf-8")))
        elif not options.report_only:
            results.append(bench.train(variant))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
