"""Put the packed network of a finished run into the package, with its recipe and with what it measures.

In: a run folder whose stages are all done, and a name. Out: ``NAME.safetensors``, ``NAME.toml`` and ``NAME.json`` in
``src/litesnn/models`` (:mod:`litesnn.models` says what they are). The network is measured again, with the native engine
on the test rows, and has to have the accuracy and the bytes of the run's ``metrics.json``. A network of that name is
replaced only with ``--replace``.

What is shipped names no place of this machine: the source of the data is a word for people.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically
from litesnn.models import FOLDER, MOST_BYTES, MOST_BYTES_IN_ALL, ModelRecord, files_of
from litesnn.packed_evaluation import Evaluation, evaluate
from litesnn.runs import RunFolder

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_TIMES = ("speed", "kernel", "threads", "engine")
"""What differs from machine to machine and is not kept."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    made.add_argument("name", metavar="NAME", help="as digits-8k: the data, and the size")
    made.add_argument("--description", required=True, help="what it is for, and how it was made, in a few sentences")
    made.add_argument("--data", help="where the run's data are now; left out, where its recipe says")
    made.add_argument("--source", help="what people say as --data, such as CIFAR10_FOLDER; left out, the data's name")
    made.add_argument("--folder", type=Path, default=FOLDER, help="where the files go")
    made.add_argument("--replace", action="store_true", help="replace a network of this name")
    return made


def ship(arguments: Sequence[str]) -> dict[str, Path]:
    """Write the three files; returns their paths. Nothing is written if anything is refused.

    Raises:
        InputError: the run is not finished, or does not measure what it says; or the files would be too large.
    """
    options = parser().parse_args(arguments)
    if not _NAME.fullmatch(options.name):
        raise InputError(f"name {options.name!r}: expected small letters, digits and hyphens, as digits-8k")
    run, files = RunFolder(options.run), files_of(options.name, options.folder)
    if not options.replace and (there := [path for path in files.values() if path.exists()]):
        raise InputError(f"{there[0]} is there; --replace replaces it")
    recipe, metrics = run.recipe(), run.metrics()
    content = run.need("pack").read_bytes()
    found = evaluate(run.path, options.data or recipe.data.source)
    for key, (ours, theirs) in {
        "test accuracy": (found.accuracy, metrics["test_accuracy"]),
        "packed bytes": (found.packed_bytes, metrics["packed_bytes"]),
        "test rows": (found.rows, metrics["data"]["test"]),
    }.items():
        if ours != theirs:
            raise InputError(f"{run.path}: {key} are {ours} here, but {theirs} in its metrics")
    source = options.source or metrics["data"]["name"]
    record = record_of(options.name, options.description, source, run, recipe, metrics, found)
    contents = {
        "model": content,
        "recipe": recipe.changed({"data.source": source, "made": None}).to_toml().encode(),
        "record": (json.dumps(record.model_dump(), indent=1, ensure_ascii=False) + "\n").encode(),
    }
    _require_small(options.folder, files, contents)
    for kind, path in files.items():
        write_atomically(path, contents[kind])
    return files


def record_of(
    name: str,
    description: str,
    source: str,
    run: RunFolder,
    recipe: Recipe,
    metrics: Mapping[str, Any],
    found: Evaluation,
) -> ModelRecord:
    """The record of a run's network."""
    train = JsonLog.read(run / "train.jsonl")
    best = [row for row in train if row["best"]][-1]
    logs = {"search": run / "search.jsonl", "train": run / "train.jsonl"}
    seconds = {stage: sum(JsonLog.numbers(log, "seconds")) for stage, log in logs.items() if log.exists()}
    measured = {key: value for key, value in found.to_dict().items() if key not in (*_TIMES, "model", "data")}
    return ModelRecord(
        name=name,
        description=" ".join(description.split()),
        data=metrics["data"]["name"],
        source=source,
        recipe=recipe.name,
        seed=recipe.seed,
        date=datetime.now(UTC).date().isoformat(),
        litesnn=metrics["litesnn"],
        rows={split: metrics["data"][split] for split in ("train", "validation", "test")},
        seconds={stage: round(value, 1) for stage, value in seconds.items()},
        options=train[-1]["options"],
        validation_accuracy=best["validation_accuracy"],
        accuracy=found.accuracy,
        standard_error=found.standard_error,
        bytes=found.packed_bytes,
        timesteps=found.timesteps,
        bit_synops=found.bit_synops,
        synops=found.synops,
        firing_rate=found.firing_rate,
        measured=measured,
    )


def _require_small(folder: Path, files: Mapping[str, Path], contents: Mapping[str, bytes]) -> None:
    if len(contents["model"]) > MOST_BYTES:
        raise InputError(f"{files['model'].name}: has {len(contents['model']):,} B; at most {MOST_BYTES:,} are shipped")
    others = [path for suffix in (".safetensors", ".toml", ".json") for path in folder.glob(f"*{suffix}")]
    total = sum(path.stat().st_size for path in others if path not in files.values()) + sum(map(len, contents.values()))
    if total > MOST_BYTES_IN_ALL:
        raise InputError(f"{folder}: would hold {total:,} B; at most {MOST_BYTES_IN_ALL:,} are shipped")


def main() -> None:
    try:
        for path in ship(sys.argv[1:]).values():
            print(path)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
