"""The outcome of a search: the state of a supernet, preferences, or a ranking of genotypes; and its file.

A strategy returns one of the three, the search stage keeps it as ``search.safetensors``, and the derivation makes a
genotype of it. Shapes: E edges, O ops, L cells, T timesteps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.files import validated
from litesnn.genotype import Genotype, all_edges
from litesnn.training_loop.checkpoint import kind_of, load_tensors, require_numbers, save_tensors

__all__ = [
    "Activity",
    "FloatArray",
    "Learned",
    "Outcome",
    "Preferences",
    "Ranking",
    "SavedActivity",
    "populations_of",
    "read_outcome",
    "require_possible_outcome",
    "save_outcome",
]

FloatArray = npt.NDArray[np.float64]

_WHOLE = "all weights of "
"""In files, before the name of a layer among the names of populations."""


@dataclass(frozen=True)
class Activity:
    """Spikes and work of a search.

    ``rates``: spikes per neuron and timestep [T] of each population, which work is estimated from: its firing rate, or
    if spikes are graded the spikes of all bit planes, which may be more than one. ``whole``: of a user's module the
    SynOps per timestep [T] that each of its layers would cost if all its weights were kept.
    """

    rates: Mapping[str, Sequence[float]]
    whole: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def fields(self) -> dict[str, Sequence[float]]:
        """All of it as files have it, under names of one list."""
        return {**{_WHOLE + name: row for name, row in self.whole.items()}, **self.rates}

    @classmethod
    def from_fields(cls, rows: Mapping[str, Sequence[float]]) -> Activity:
        """The activity that :meth:`fields` wrote."""
        whole = {name.removeprefix(_WHOLE): row for name, row in rows.items() if name.startswith(_WHOLE)}
        return cls({name: row for name, row in rows.items() if not name.startswith(_WHOLE)}, whole)


class SavedActivity(BaseModel):
    """Activity as a file says it, besides tensors."""

    model_config = ConfigDict(allow_inf_nan=False)

    rates: dict[str, list[float]]

    def require(self, steps: int, path: Path, populations: Iterable[str] = (), whole: Iterable[str] = ()) -> Activity:
        """The activity, if it has ``steps`` numbers for each of these populations and layers.

        Raises:
            InputError: it has not.
        """
        names = (*populations, *(_WHOLE + layer for layer in whole))
        _require_lengths(self.rates, names, steps, f"{path} is damaged")
        return Activity.from_fields(self.rates)


@dataclass(frozen=True)
class Learned:
    """The state of a trained supernet, and what its neurons did in the last step."""

    state: Mapping[str, Tensor]
    activity: Activity


@dataclass(frozen=True)
class Preferences:
    """The preferences of a search, as log-probabilities, and the spikes that it saw.

    ``alpha`` [E, O]; ``compression`` [L, bits, keeps]; ``width`` [L, widths]; ``psi`` [T], −∞ for a T that must not be
    chosen; ``rates``: population → [T], as of :class:`Activity`.
    """

    alpha: FloatArray
    compression: FloatArray
    width: FloatArray
    psi: FloatArray
    rates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Ranking:
    """Genotypes of the recipe's space, the best first. The derivation takes the first that keeps the budget."""

    genotypes: tuple[Genotype, ...]


Outcome = Learned | Preferences | Ranking

_TABLES = ("alpha", "compression", "width", "psi")


def populations_of(recipe: Recipe) -> list[str]:
    """The names of the populations of a recipe's networks."""
    cells, nodes = range(len(recipe.model.levels)), range(recipe.model.nodes)
    return ["stem", *(f"cell {cell + 1} node {node}" for cell in cells for node in nodes)]


def save_outcome(path: Path, outcome: Outcome) -> None:
    """Write ``search.safetensors``. Raises ``InputError`` if that fails."""
    if isinstance(outcome, Learned):
        save_tensors(path, "search", outcome.state, {"rates": outcome.activity.fields()})
    elif isinstance(outcome, Preferences):
        tables = {name: torch.from_numpy(np.asarray(getattr(outcome, name), np.float64)) for name in _TABLES}
        save_tensors(path, "preferences", tables, {"rates": {name: list(row) for name, row in outcome.rates.items()}})
    else:
        save_tensors(path, "ranking", {}, {"genotypes": [genotype.to_json() for genotype in outcome.genotypes]})


def read_outcome(path: Path, recipe: Recipe) -> Preferences | Ranking | None:
    """The outcome that :func:`save_outcome` wrote, if it is not the state of a supernet.

    Raises:
        InputError: the file is damaged, or belongs to another recipe.
    """
    kind = kind_of(path)
    if kind == "preferences":
        tensors, info = load_tensors(path, kind)
        require_numbers(tensors, path)
        if set(tensors) != set(_TABLES):
            raise InputError(f"{path} is damaged: it has not the tables {', '.join(_TABLES)}")
        alpha, compression, width, psi = (tensors[name].double().numpy() for name in _TABLES)
        rates = validated(SavedActivity, info, path).rates
        found: Preferences | Ranking = Preferences(alpha, compression, width, psi, rates)
    elif kind == "ranking":
        _, info = load_tensors(path, kind)
        texts = validated(_SavedRanking, info, path).genotypes
        found = Ranking(tuple(Genotype.from_json(text, origin=f"{path}: genotype") for text in texts))
    else:
        return None
    require_possible_outcome(found, recipe, str(path))
    return found


class _SavedRanking(BaseModel):
    genotypes: list[str]


def require_possible_outcome(outcome: Outcome, recipe: Recipe, origin: str) -> None:
    """Refuse what cannot be of the search of a recipe; ``origin`` is where it is from.

    Raises:
        InputError: tables have other shapes than the recipe has choices, or no T is possible; or there is no genotype.
    """
    if isinstance(outcome, Ranking) and not outcome.genotypes:
        raise InputError(f"{origin}: the search ranks no genotype")
    if not isinstance(outcome, Preferences):
        return
    model, search = recipe.model, recipe.search
    expected = {
        "alpha": (len(all_edges(model.nodes)), len(model.ops)),
        "compression": (len(model.levels), len(search.bits), len(search.keeps)),
        "width": (len(model.levels), len(search.widths)),
        "psi": (recipe.timesteps,),
    }
    for name, shape in expected.items():
        if (found := np.shape(getattr(outcome, name))) != shape:
            raise InputError(f"{origin}: {name} has the shape {list(found)}; the recipe's choices are {list(shape)}")
    if not np.isfinite(outcome.psi).any():
        raise InputError(f"{origin}: psi allows no number of timesteps")
    _require_lengths(outcome.rates, populations_of(recipe), recipe.timesteps, origin)


def _require_lengths(rates: Mapping[str, Sequence[float]], names: Iterable[str], steps: int, origin: str) -> None:
    """Refuse firing rates that are not there for each of these names and of ``steps`` timesteps."""
    for name in names:
        if len(rates.get(name, ())) != steps:
            raise InputError(f"{origin}: it has no {steps} firing rates of {name}")
