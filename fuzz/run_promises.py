"""What the readers of recipes and of run folders promise, whatever is in the files.

A file is refused with one printable line that names it, or what is read of it can be used: the stage that reads it ends
with a result or with such a line. Nothing takes long or much memory for a few bytes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from litesnn.config import Recipe
from litesnn.console_tables import summary_table
from litesnn.data.sources import Data, load
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import pack
from litesnn.design import check_budgets
from litesnn.errors import InputError, LitesnnError
from litesnn.files import JsonLog
from litesnn.genotype import Genotype
from litesnn.network_file import build_network, load_network
from litesnn.report.page import write_report
from litesnn.report.records import read_run
from litesnn.runs import RunFolder
from litesnn.search.derive import derive, require_possible
from litesnn.search.joint import SearchLoop, build_supernet, search
from litesnn.train.evaluate import validation_curve
from litesnn.train.fit import Trainee, TrainLoop, fit
from litesnn.training_loop.checkpoint import save_state
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.pinned import pinned
from litesnn.training_loop.session import Session, input_info

__all__ = ["Promises", "check_recipe"]

MAX_MESSAGE = 700
MAX_SECONDS = 20.0
_SHAPE, _CLASSES = (1, 8, 8), 3


def check_recipe(data: bytes) -> bool:
    """Whether ``data`` is a recipe. Raises whatever breaks a promise."""
    origin = "recipe.toml"
    try:
        recipe = Recipe.from_toml(data.decode(errors="replace"), origin=origin)
    except InputError as error:
        _require_line(error, origin)
        return False
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    return True


class Promises:
    """The files of a finished run, of which one at a time is another.

    Args:
        folder: of the run, which is changed and put back.
        pages: whether to draw the pages of reports as well, which takes seconds.
    """

    def __init__(self, folder: Path, *, pages: bool = True) -> None:
        self.run, self.session, self.pages = RunFolder(folder), Session(), pages
        recipe = self.run.recipe()
        changes = {"search.epochs": 1, "train.epochs": 1, "search.warmup_epochs": 0}
        text = Recipe.from_toml(recipe.to_toml(), changes=changes).to_toml()
        (folder / "recipe.toml").write_text(text)
        self.data: Data = load(recipe.data)
        self.kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
        self._checkpoints()
        self.readers: dict[str, tuple[Callable[[], object], ...]] = {
            "recipe.toml": (self._recipe,),
            "metrics.json": (self._metrics, self._report, lambda: pack(self._context())),
            "search.jsonl": (lambda: JsonLog.numbers(folder / "search.jsonl", "seconds"), self._report),
            "train.jsonl": (lambda: validation_curve(self.run, self.data), self._report),
            "genotype.json": (self._genotype, self._report),
            "search.safetensors": (lambda: derive(self._context()),),
            "network.safetensors": (self._network,),
            "search.checkpoint.safetensors": (lambda: search(self._context()),),
            "train.checkpoint.safetensors": (lambda: fit(self._context()),),
            "data.json": (lambda: pinned(self.run, self.data),),
        }

    def _context(self) -> StageContext:
        return StageContext.of(self.run, self.data, self.session)

    def check(self, name: str, data: bytes) -> bool:
        """Whether all readers accept ``data`` as the file ``name``. Raises whatever breaks a promise."""
        self._put_back()
        path = self.run / name
        accepted = True
        for read in self.readers[name]:
            path.write_bytes(data)
            if name == "train.checkpoint.safetensors":
                self.run.best.write_bytes(self.kept["network.safetensors"])
            started = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", module="matplotlib")  # of a layout that has no room
                try:
                    read()
                except LitesnnError as error:
                    if isinstance(error, InputError):
                        _require_line(error, self.run.path.name)
                    accepted = False
            assert time.monotonic() - started < MAX_SECONDS
        return accepted

    def _put_back(self) -> None:
        for path in self.run.path.iterdir():
            if path.name not in self.kept:
                path.unlink()
        for name, content in self.kept.items():
            (self.run / name).write_bytes(content)

    def _checkpoints(self) -> None:
        """What a search and a training leave after one epoch; kept apart, since a finished run has none."""
        recipe, info = self.run.recipe(), input_info(self.data)
        supernet = build_supernet(recipe, info.shape, len(info.classes))
        loop = SearchLoop(recipe, supernet)
        rates = {"stem": [0.1] * recipe.timesteps}
        memory = {"epoch": 1, "rates": rates, "multipliers": dict.fromkeys(loop.constraints, 0.1)}
        self.seeds = {name: content for name, content in self.kept.items() if name != "model.safetensors"}
        path = self.run.checkpoint("search")
        for parameter in supernet.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in loop.optimizers.values():
            optimizer.step()
        save_state(path, "search state", supernet, loop.optimizers, memory)
        self.seeds[path.name] = path.read_bytes()
        path.unlink()
        network = build_network(Genotype.read(self.run.output("derive")), info, 0)
        training = TrainLoop(trainee := Trainee(network, recipe), recipe)
        for parameter in trainee.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in training.optimizers.values():
            optimizer.step()
        memory = {"epoch": 1, "best": (0.0, 0.5, -1.0), "multiplier": 0.1, "deployed_ratio": 1.0}
        memory["schedule"] = {"epochs": 1, "since": 0, "progress": 0.0}
        path = self.run.checkpoint("train")
        save_state(path, "train state", trainee, training.optimizers, memory)
        self.seeds[path.name] = path.read_bytes()
        path.unlink()

    def _recipe(self) -> None:
        recipe = self.run.recipe()
        require_possible(recipe, input_info(self.data))
        build_supernet(recipe, _SHAPE, _CLASSES)

    def _metrics(self) -> None:
        metrics = self.run.metrics()
        summary_table(metrics)
        check_budgets(metrics)

    def _report(self) -> None:
        if self.pages:
            write_report(self.run.path)
        else:
            read_run(self.run.path)

    def _genotype(self) -> None:
        build_network(Genotype.read(self.run.output("derive")), input_info(self.data), seed=0)

    def _network(self) -> None:
        network = load_network(self.run.output("train"))
        integerize(network)
        shape = network.info.shape
        if not network.info.frames and max(shape) < 64:
            kind = torch.uint8 if network.info.kind == "image" else torch.float32
            network.predict(torch.zeros(1, *shape, dtype=kind))


def _require_line(error: InputError, named: str) -> None:
    message = str(error)
    assert message.isprintable(), ascii(message)
    assert len(message) <= MAX_MESSAGE, message
    assert named in message or message.startswith(("the budget", "the network would", "an evaluation")), message
