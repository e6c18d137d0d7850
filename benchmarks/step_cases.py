"""The networks whose search and training steps are measured, and the ways to compute a step.

``ours`` is litesnn's own step, and ``recomputed`` the same with cells run again in the backward pass, as ``--memory``
may choose; ``plain`` and ``plain_once`` compute the same one timestep by timestep (plain.py), the
latter with effective weights made once per pass. A search step is one architecture pass and one weight pass on batches
of their own; ``joint`` is litesnn's single pass instead. ``floor`` is the convolutions of those passes alone
(conv_floor.py), ``floor_joint`` those of the single one.

Data are noise; nothing here depends on what they are, but for firing rates, which are those of an untrained network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from conv_floor import Floor, convolutions, merged
from litesnn.config import Recipe, load_recipe
from litesnn.data.batches import generator_for
from litesnn.errors import LitesnnError
from litesnn.genotype import CellGene, Edge, Genotype, StemGene
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn.backbone import Backbone
from litesnn.snn.execution import Execution
from litesnn.snn.network import InputInfo, Network
from litesnn.snn.supernet import Supernet
from litesnn.train.fit import Trainee, TrainLoop
from plain import PlainNetwork, PlainSupernet

__all__ = ["SHAPES", "Case", "Step", "backbone_of", "derived_genotype", "make_step", "search_loop", "train_loop"]

Step = Callable[[], "float | None"]
"""Does one step and gives its training loss, or ``None`` if it has none."""

SHAPES: Mapping[str, tuple[int, int, int]] = {"paper": (3, 32, 32), "digits": (1, 8, 8)}
"""Recipes that can be measured, with the shape of an image."""

CLASSES = 10
LATE_EPOCH = 10**6  # all warm-ups are over
CELL_BITS = (4, 2, 1)
DERIVED: Mapping[str, tuple[dict[str, Any], tuple[tuple[int, int, str], ...]]] = {
    # The paper trains a network four times as wide as its supernet; each node keeps two inputs.
    "paper": (
        {"model.width": 48, "model.stem_channels": 192},
        (
            (0, 0, "conv3x3"), (0, 1, "conv3x3"), (1, 1, "conv3x3"), (1, 2, "skip"),
            (2, 0, "conv3x3"), (2, 3, "conv3x3"), (3, 1, "conv3x3"), (3, 4, "conv3x3"),
        ),
    ),
    "digits": (
        {},
        (
            (0, 0, "conv3x3"), (0, 1, "conv3x3"),
            (1, 0, "conv3x3"), (1, 1, "conv3x3"), (1, 2, "conv3x3"),
        ),
    ),
}  # fmt: skip
"""Per recipe, what changes from search to training, and the edges of the derived cell."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        stage: "search" or "train".
        name: of a shipped recipe in ``SHAPES``.
        batch: images per batch.
        changes: dotted recipe keys with other values.
    """

    stage: str
    name: str
    batch: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe with all changes; seeds are fixed by it."""
        widened = DERIVED[self.name][0] if self.stage == "train" else {}
        return load_recipe(self.name, {**widened, **self.changes})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return SHAPES[self.name]

    def contenders(self) -> list[str]:
        """Names that :func:`make_step` takes, the floors last."""
        joint = self.stage == "search"
        return [
            "ours",
            "recomputed",
            *(["joint"] if joint else []),
            "plain",
            "plain_once",
            "floor",
            *(["floor_joint"] if joint else []),
        ]

    def images(self, seed: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Encoded noise [B, C, H, W] and labels [B]."""
        random = torch.Generator().manual_seed(seed)
        size = self.batch if batch is None else batch
        x = torch.randn(size, *self.shape, generator=random).mul_(32).round_().clamp_(-127, 127)
        return x, torch.randint(0, CLASSES, (size,), generator=random)

    def to_json(self) -> str:
        """For :meth:`from_json` in another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Back from :meth:`to_json`."""
        return cls(**json.loads(text))


def derived_genotype(case: Case) -> Genotype:
    """A network of the kind that a search finds: bits mixed, the recipe's lowest keep ratio, all its timesteps."""
    recipe = case.recipe
    model, search = recipe.model, recipe.search
    return Genotype(
        timesteps=min(search.timesteps, recipe.budget.timesteps or search.timesteps),
        stem=StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits),
        edges=tuple(Edge(node=node, source=source, op=op) for node, source, op in DERIVED[case.name][1]),
        cells=tuple(
            CellGene(
                level=level,
                width=model.width * 2**level,
                bits=CELL_BITS[index % len(CELL_BITS)],
                keep=min(search.keeps),
            )
            for index, level in enumerate(model.levels)
        ),
        classifier_bits=model.io_bits,
    )


def search_loop(case: Case, contender: str) -> SearchLoop[Supernet]:
    """A search at its first step."""
    supernet: Supernet = build_supernet(case.recipe, case.shape, CLASSES)
    if contender.startswith("plain"):
        supernet = PlainSupernet(supernet, once=contender == "plain_once")
    return SearchLoop(case.recipe, supernet.train(), execution=_execution(contender))


def train_loop(case: Case, contender: str) -> TrainLoop[Trainee]:
    """A training at its first step."""
    channels = case.shape[0]
    names = tuple(str(number) for number in range(CLASSES))
    info = InputInfo(InputSpec(case.shape, "image", (0.0,) * channels, (1.0,) * channels), names)
    network: Network = build_network(derived_genotype(case), info, seed=0)
    if contender.startswith("plain"):
        network = PlainNetwork(network, once=contender == "plain_once")
    return TrainLoop(Trainee(network, case.recipe).train(), case.recipe, execution=_execution(contender))


def _execution(contender: str) -> Execution:
    return Execution(recompute=contender == "recomputed")


def make_step(case: Case, contender: str, batch: int | None = None) -> Step:
    """A function that does one step of a contender on ``batch`` images (left out: those of the case).

    Raises:
        LitesnnError: there is no such contender.
    """
    if contender not in case.contenders():
        raise LitesnnError(f"no contender {contender!r}; expected one of {', '.join(case.contenders())}")
    size = case.batch if batch is None else batch
    if contender.startswith("floor"):
        return _floor_step(case, size, joint=contender == "floor_joint")
    one, other = case.images(1, size), case.images(2, size)
    if case.stage == "train":
        training = train_loop(case, contender)
        return lambda: _loss(training.step(*one, 0.0))
    loop, draws = search_loop(case, contender), generator_for(0, "draws")
    if contender == "joint":
        return lambda: _loss(loop.joint_step(*one, draws, epoch=LATE_EPOCH))

    def alternate() -> float:
        loop.architecture_step(*other, draws, epoch=LATE_EPOCH)
        return _loss(loop.weight_step(*one, draws, epoch=LATE_EPOCH))

    return alternate


def _loss(values: Mapping[str, Tensor | float]) -> float:
    loss = values["train_loss"]
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def backbone_of(case: Case) -> Backbone:
    """The modules that the case computes with."""
    if case.stage == "train":
        return train_loop(case, "ours").trainee.network.backbone
    return search_loop(case, "ours").supernet.backbone


def _floor_step(case: Case, batch: int, *, joint: bool) -> Step:
    backbone = backbone_of(case)
    floor = Floor(merged(convolutions(backbone)), timesteps=backbone.genotype.timesteps, batch=batch)
    if case.stage == "train" or joint:
        return floor.run

    def alternate() -> None:
        floor.run(stem_learns=False)  # weights are frozen in an architecture step
        floor.run()

    return alternate
