"""What an edge engineer would take instead: small int8 (or 4-bit) networks, on the very data of a litesnn run.

In: a rival of ``rival_networks.py``, and a recipe with data, or the folder of a litesnn run (``--like``) whose data,
augmentation, epochs, batches and label smoothing it is trained with: every batch is the one that litesnn's training
with the same seed gets. Out: a folder per network and, once it is measured, one JSON file in ``RUNS/results``, from
which ``--table`` makes the Markdown table.

Quantization-aware from the first step to the last; SGD with Nesterov's momentum and one warm-up cosine. The epoch with
the best validation accuracy is taken; then it is turned into integers, and the test split is read, once: the accuracies
in the result are those of the integer network.

Every training can be killed at any time: the same call goes on after its last epoch, and ends with the same bytes. Ends
with code 3 if ``--time-limit`` ended it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

import litesnn
from litesnn.config import Recipe, parse_change
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches, steps_per_epoch
from litesnn.data.pin import DataPin, pin_rows
from litesnn.data.sources import Data, load
from litesnn.design import make_recipe
from litesnn.errors import InputError
from litesnn.files import JsonLog, parse_json, read_text, validated, write_atomically
from litesnn.planning.sensible import require_sensible
from litesnn.runs import RunFolder, first_difference
from litesnn.train.judgement import standard_error
from litesnn.train.losses import divergence
from litesnn.train.teacher import Teacher, digest_of, network_file_of, network_teacher, validate_plainly
from litesnn.training_loop.checkpoint import load_into, load_state, load_tensors, save_state, save_tensors
from litesnn.training_loop.graphs import set_lr
from litesnn.training_loop.pinned import pinned
from litesnn.training_loop.session import Session, begin_session, cosine_lr, input_info
from machine import cpu_name
from rival_networks import FLOAT, RIVALS, Rival, build_rival
from rounds import print_row

RESULT_VERSION = 1
_BATCH = 256


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=Path, required=True, help="folder of all runs and results")
    made.add_argument("--network", choices=list(RIVALS), help="which; left out, only --table is done")
    made.add_argument("--width", type=float, default=1.0, help="factor of all channels")
    made.add_argument("--bits", type=int, help=f"of the weights, 2 to 8, or {FLOAT} for a network of floats")
    made.add_argument("--like", type=Path, metavar="RUN", help="a litesnn run: its recipe and its data")
    made.add_argument("--recipe", help="or a shipped recipe or a TOML file")
    made.add_argument("--data", help="source or folder; left out, the recipe's")
    made.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="other recipe values")
    made.add_argument("--seed", type=int, help="left out, the recipe's")
    made.add_argument("--epochs", type=int, help="left out, those of the recipe's training")
    made.add_argument("--lr", type=float, default=0.1, help="largest learning rate, for batches of 128; it is scaled")
    made.add_argument("--weight-decay", type=float, default=5e-4, help="of convolutions and classifier")
    made.add_argument("--warmup", type=float, default=0.05, help="share of the steps in which the rate rises from 0")
    made.add_argument(
        "--teacher",
        type=Path,
        help="a litesnn run, a network.safetensors or teacher.safetensors, or a run of this program; weight and "
        "temperature are those of the recipe's train.teacher_weight and train.temperature",
    )
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--time-limit", type=float, metavar="SECONDS", help="end after an epoch; the next call goes on")
    made.add_argument("--table", action="store_true", help="print the table of all results in --runs")
    return made


def rivals(arguments: Sequence[str]) -> int:
    """Train and measure a network, and print the table if asked. Returns the exit code.

    Raises:
        InputError: an option means nothing, the data cannot be read, or a folder holds another run.
    """
    options, began = parser().parse_args(arguments), time.monotonic()
    if options.network is None and not options.table:
        raise InputError("nothing to do; expected --network, --table or both")
    in_time = True
    if options.network is not None:
        torch.set_num_threads(options.threads)
        session = begin_session(options.device, Console(stderr=True))
        limit = None if options.time_limit is None else began + options.time_limit
        job = RivalTraining(options, session)
        in_time = job.done() or job.train(limit)
        if in_time and not job.done():
            job.measure()
        session.show(f"{job.result_path}" if in_time else "the time is up; the same call goes on")
    if options.table:
        print_table(read_results(options.runs))
    return 0 if in_time else 3


class RivalTraining:
    """One network: its settings, its folder, and what is done with it.

    Raises:
        InputError: as :func:`rivals`.
    """

    def __init__(self, options: argparse.Namespace, session: Session) -> None:
        self.session, self.threads = session, options.threads
        self.recipe = _recipe_of(options)
        self.data = _data_of(options, self.recipe)
        self.info = input_info(self.data)
        train, bits = self.recipe.train, options.bits or RIVALS[options.network].bits
        if options.epochs is not None and options.epochs < 1:
            raise InputError(f"--epochs {options.epochs}: expected a number from 1 on")
        size = min(train.batch_size, len(self.data.train.y))
        self.settings: dict[str, Any] = {
            "network": options.network,
            "width": options.width,
            "bits": bits,
            "seed": self.recipe.seed,
            "epochs": options.epochs or train.epochs,
            "epoch_steps": train.epoch_steps,
            "batch_size": size,
            "lr": options.lr * size / 128,
            "weight_decay": options.weight_decay,
            "warmup": options.warmup,
            "label_smoothing": train.label_smoothing,
            "augment": self.recipe.augment.model_dump(mode="json"),
            "data": json.loads(_pin(self.data).model_dump_json(exclude_none=True)),
        }
        self.teacher = None if options.teacher is None else load_teacher(options.teacher, self, session)
        self.settings["teacher"] = None if self.teacher is None else self.teacher.sha256
        self.settings["teacher_weight"] = 0.0 if self.teacher is None else train.teacher_weight
        self.settings["temperature"] = 0.0 if self.teacher is None else train.temperature
        self.network = self.build()
        taught = "" if options.teacher is None else "-taught"
        self.name = f"{options.network}-w{options.width:g}-b{bits}{taught}-{self.recipe.seed}"
        self.folder = options.runs / self.name
        self.result_path = options.runs / "results" / f"{self.name}.json"

    @property
    def channels(self) -> int:
        """Those of the input; frames have theirs side by side."""
        return self.info.shape[0] * (self.recipe.timesteps if self.info.frames else 1)

    def of_settings(self, settings: Mapping[str, Any], seed: int) -> Rival:
        """The network that settings name, for the data of this training."""
        return build_rival(
            settings["network"],
            self.channels,
            len(self.info.classes),
            width=settings["width"],
            bits=settings["bits"],
            seed=seed,
        )

    def build(self) -> Rival:
        """The network with its first weights, on the device."""
        network = self.of_settings(self.settings, generator_for(self.settings["seed"], "rival").initial_seed())
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return network.to(self.session.device)

    def done(self) -> bool:
        """Whether it is measured. Raises ``InputError`` if it was, with other settings."""
        if not self.result_path.exists():
            return False
        _require_same(read_result(self.result_path)["settings"], self.settings, self.result_path)
        return True

    @property
    def best(self) -> Path:
        """The file of the best network so far."""
        return Path(self.folder / "best.safetensors")

    def train(self, limit: float | None = None) -> bool:
        """Train from the last epoch; whether it came to its end before ``limit``, a time of the monotonic clock."""
        settings, session, network = self.settings, self.session, self.network
        epochs, size = settings["epochs"], settings["batch_size"]
        train = session.samples(self.data.train, self.info, self.recipe.augment)
        validation = session.samples(self.data.validation, self.info)
        optimizer = torch.optim.SGD(
            _groups(network, settings["weight_decay"]),
            lr=settings["lr"],
            momentum=0.9,
            nesterov=True,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint, log_path = self.folder / "checkpoint.safetensors", self.folder / "train.jsonl"
        done, best = 0, None
        if checkpoint.exists():
            found = load_state(checkpoint, "rival state", network, {"weights": optimizer})
            saved = validated(_Saved, found, checkpoint)
            _require_same(saved.settings, settings, checkpoint)
            done, best = saved.epoch, saved.best
        log = JsonLog(log_path, keep_epochs=done)
        steps = steps_per_epoch(train, size, settings["epoch_steps"])
        for epoch in itertools.count(done):
            if epoch >= epochs:
                return True
            if limit is not None and epoch > done and time.monotonic() > limit:
                return False
            started, (loss, correct, rows) = time.perf_counter(), (torch.zeros((), device=session.device),) * 2 + (0,)
            network.train()
            torch.manual_seed(generator_for(settings["seed"], "rival dropout", epoch).initial_seed())
            order = generator_for(settings["seed"], "train", epoch)  # as litesnn's own training
            augment = self.recipe.augment
            mirrored = mirrored_rows(augment, train, settings["seed"], epoch)
            batches = shuffled_batches(train, size, order, augment, most=steps, mirrored=mirrored)
            for step, (x, y) in enumerate(batches):
                progress = (epoch + step / steps) / epochs
                set_lr(optimizer, cosine_lr(settings["lr"], 0.0, progress, warmup=settings["warmup"]))
                logits = network(x)
                value = self.loss(logits, x, y)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                loss, correct = loss + value.detach() * len(y), correct + (logits.argmax(1) == y).sum()
                rows += len(y)
            if not torch.isfinite(loss):
                raise InputError(f"{self.folder}: training diverged in epoch {epoch + 1}; try a lower --lr")
            measured = validate_plainly(network, validation)
            rank = (measured["validation_accuracy"], -measured["validation_loss"])
            is_best = best is None or rank > tuple(best)
            row: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - started, 3)}
            row |= {"train_loss": float(loss) / rows, "train_accuracy": float(correct) / rows} | measured
            log.write(row | {"best": is_best, "learning_rate": float(optimizer.param_groups[0]["lr"])})
            if is_best:
                best = rank
                save_tensors(self.best, "rival", network.state_dict(), {"settings": settings, "epoch": epoch + 1})
            memory = {"epoch": epoch + 1, "best": best, "settings": settings}
            save_state(checkpoint, "rival state", network, {"weights": optimizer}, memory)
            accuracy = f"validation accuracy {measured['validation_accuracy']:.1%}"
            session.show(f"{self.name}: epoch {epoch + 1} of {epochs}, {row['seconds']:.1f} s, {accuracy}")
        return True

    def loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy of a batch, and the divergence from the teacher's logits as litesnn's training has it."""
        loss = F.cross_entropy(logits, y, label_smoothing=self.settings["label_smoothing"])
        if self.teacher is None:
            return loss
        apart = divergence(logits[None], self.teacher(x), self.settings["temperature"])
        taught: Tensor = loss + self.settings["teacher_weight"] * apart
        return taught

    def measure(self) -> dict[str, Any]:
        """Turn the best network into integers, measure it on validation and, once, on test, and write the result."""
        tensors, said = load_tensors(self.best, "rival")
        _require_same(said.get("settings", {}), self.settings, self.best)
        network, session = self.network, self.session
        load_into(network, tensors, self.best)
        network.eval()
        validation = session.samples(self.data.validation, self.info)
        test = session.samples(self.data.test(), self.info)
        (accuracy, same), (validated_accuracy, _) = (_integer_accuracy(network, rows) for rows in (test, validation))
        counts = network.count(self.info.shape[1:])
        log = JsonLog.read(self.folder / "train.jsonl")
        device = session.device
        result = {
            "version": RESULT_VERSION,
            "name": self.name,
            "settings": self.settings,
            "data": {"name": self.data.name, "shape": list(self.info.shape), "kind": self.info.kind},
            "rows": {"train": len(self.data.train.y), "validation": len(validation), "test": len(test)},
            "recipe": self.recipe.name,
            "epoch": said["epoch"],
            "test_accuracy": accuracy,
            "test_standard_error": standard_error(accuracy, len(test)),
            "validation_accuracy": validated_accuracy,
            "predictions_as_fake_quantized": same,
            "parameters": counts.parameters,
            "bytes": counts.bytes(),
            "weight_bytes": counts.weight_bytes(),
            "macs": counts.macs,
            "train_seconds": sum(row["seconds"] for row in log),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "threads": self.threads,
            "torch": torch.__version__,
            "litesnn": litesnn.__version__,
        }
        self.result_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.result_path, json.dumps(result, indent=2) + "\n")
        return result


class _Saved(BaseModel):
    """The metadata of a checkpoint."""

    model_config = ConfigDict(allow_inf_nan=False)

    epoch: int = Field(ge=1, le=2**31)
    best: tuple[float, float]
    settings: dict[str, Any]


def _groups(network: Rival, decay: float) -> list[dict[str, Any]]:
    """Weights, and all that has no weight decay: batch norm, biases and learned steps."""
    weights = [
        parameter for name, parameter in network.named_parameters() if name.endswith(".weight") and parameter.dim() > 1
    ]
    kept = {id(parameter) for parameter in weights}
    others = [parameter for parameter in network.parameters() if id(parameter) not in kept]
    return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _recipe_of(options: argparse.Namespace) -> Recipe:
    changes = dict(map(parse_change, options.set))
    if options.like is None:
        return make_recipe(data=options.data, recipe=options.recipe, seed=options.seed, changes=changes)
    if options.recipe is not None or options.data is not None:
        raise InputError("--like has a recipe and data of its own; leave out --recipe and --data")
    if any(key.partition(".")[0] in ("data", "audio", "events") for key in changes):
        raise InputError("--like means its own data; leave out --set with keys of data, audio and events")
    if options.seed is not None:
        changes["seed"] = options.seed
    return RunFolder(options.like).recipe().changed(changes)


def _data_of(options: argparse.Namespace, recipe: Recipe) -> Data:
    """The data of a recipe; of a run, found to be still those that it was trained on."""
    data = load(recipe.data, recipe.front_ends)
    require_sensible(recipe, data)
    return data if options.like is None else pinned(RunFolder(options.like), data)


def _pin(data: Data) -> DataPin:
    train, validation = (pin_rows(split.x, split.y, split.files) for split in (data.train, data.validation))
    return DataPin(kind=data.kind, shape=data.shape, classes=data.classes, train=train, validation=validation)


def _require_same(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    difference = first_difference(then, now)
    if difference is not None:
        raise InputError(f"{path} was made with other settings ({difference}); choose another folder for --runs")


def load_teacher(path: Path, training: RivalTraining, session: Session) -> Teacher:
    """A litesnn network, one that ``train.teacher = "auto"`` has trained, or a rival, trained on the same kind of data.

    Raises:
        InputError: there is none, or it has another input or other classes.
    """
    best = path / "best.safetensors"
    if not best.is_file():
        found = network_file_of(path)
        return network_teacher(found, training.info, training.recipe.timesteps, session.device)
    tensors, said = load_tensors(best, "rival")
    settings = said["settings"]
    if settings["data"] != training.settings["data"]:
        raise InputError(f"--teacher {path} was trained on other data than {training.data.name}")
    network = training.of_settings(settings, seed=0)
    load_into(network, tensors, best)
    return Teacher(network.to(session.device).eval().requires_grad_(requires_grad=False), digest_of(best))


@torch.no_grad()
def _integer_accuracy(network: Rival, rows: Samples) -> tuple[float, float]:
    """The accuracy of the integer network, and the share of predictions that are those of the fake-quantized one."""
    correct = same = 0
    for x, y in rows.batches(_BATCH):
        guesses = network.classify(x)
        correct += int((guesses == y).sum())
        same += int((guesses == network(x).argmax(1)).sum())
    return correct / len(rows), same / len(rows)


def read_results(runs: Path) -> list[dict[str, Any]]:
    """All results in a folder of runs. Raises ``InputError`` if one is damaged."""
    return [read_result(path) for path in sorted((runs / "results").glob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """One result. Raises ``InputError`` if it is damaged."""
    found = parse_json(read_text(path), str(path))
    if not isinstance(found, dict) or found.get("version") != RESULT_VERSION:
        raise InputError(f"{path} is damaged or of another version; expected version {RESULT_VERSION}")
    return found


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """A row for each network: the mean over its seeds, and its standard error; of one seed that of the test."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results:
        settings = {key: value for key, value in row["settings"].items() if key != "seed"}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(row)
    columns = ("network", "data", "bits", "seeds", "epochs", "test accuracy", "validation", "parameters")
    print_row(*columns, "bytes", "of weights", "MACs", "teacher", "train minutes")
    print_row(*["---"] * 2, *["---:"] * 9, "---", "---:")
    for rows in groups.values():
        first = rows[0]
        settings = first["settings"]
        width = "" if settings["width"] == 1 else f", width {settings['width']:g}"
        accuracies = [row["test_accuracy"] for row in rows]
        error = first["test_standard_error"]
        if len(rows) > 1:
            error = statistics.stdev(accuracies) / len(rows) ** 0.5
        print_row(
            settings["network"] + width,
            first["data"]["name"],
            "float" if settings["bits"] == FLOAT else str(settings["bits"]),
            str(len(rows)),
            str(settings["epochs"]),
            f"{statistics.mean(accuracies):.2%} ± {100 * error:.2f}",
            f"{statistics.mean(row['validation_accuracy'] for row in rows):.2%}",
            *(f"{first[key]:,}" for key in ("parameters", "bytes", "weight_bytes", "macs")),
            "no" if settings["teacher"] is None else "yes",
            f"{statistics.mean(row['train_seconds'] for row in rows) / 60:.0f}",
        )


def main() -> None:
    try:
        code = rivals(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
