"""Baselines for a searched network: other genotypes from the same space, under the same budget.

In: a recipe, the input and, where a baseline asks for them, a search's preferences. Out: a genotype. All of them end in
the same exact choice under the packed-size budget as the derivation, so that only the preferences differ. Shapes:
E edges, O ops, L cells, T timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from litesnn.config import Recipe
from litesnn.errors import InputError
from litesnn.genotype import Edge, Genotype, all_edges
from litesnn.search.derive import Preferences, choose, largest_file, wiring
from litesnn.snn.network import InputInfo

__all__ = ["compress_uniformly", "matched_random_genotype", "plain_edges", "random_genotype", "uniform_genotype"]


def random_genotype(recipe: Recipe, info: InputInfo, rates: Mapping[str, Sequence[float]], *, seed: int) -> Genotype:
    """A genotype by chance: wiring, ops, bits, keep ratios, widths and T follow Gumbel noise instead of preferences.

    ``rates``: firing rates [T_max] by population, for the estimate of Bit-SynOps; the same as the searched network's.

    Raises:
        InputError: nothing fits the packed-size budget.
    """
    return choose(_noise(np.random.default_rng(seed), recipe, rates), recipe, info)[0]


def matched_random_genotype(
    recipe: Recipe,
    info: InputInfo,
    rates: Mapping[str, Sequence[float]],
    *,
    seed: int,
    timesteps: int,
    least_bytes: int,
    draws: int = 200,
) -> Genotype:
    """A random genotype as large as a searched one: :func:`random_genotype` with T given and a least packed size.

    Wirings that allow no such choice within the limit on expected Bit-SynOps are drawn anew.

    ``rates``: as there. The packed size is the guaranteed upper bound that the derivation uses too; the file of the
    trained network is a little smaller.

    Raises:
        InputError: nothing fits the packed-size budget, or no wiring among so many draws can be that large.
    """
    random = np.random.default_rng(seed)
    psi = np.full(len(next(iter(rates.values()))), -np.inf)
    psi[timesteps - 1] = 0.0
    for _ in range(draws):
        noise = replace(_noise(random, recipe, rates), psi=psi)
        genotype, warning = choose(noise, recipe, info, least_bytes=least_bytes)
        if warning is None and largest_file(genotype, info) >= least_bytes:
            return genotype
    raise InputError(
        f"none of {draws} random wirings with T = {timesteps} allows {least_bytes} B or more within "
        f"{recipe.budget.describe()}"
    )


def _noise(random: np.random.Generator, recipe: Recipe, rates: Mapping[str, Sequence[float]]) -> Preferences:
    """Preferences of which no choice is likelier than another."""
    model, search = recipe.model, recipe.search
    cells, steps = len(model.levels), len(next(iter(rates.values())))
    return Preferences(
        alpha=random.gumbel(size=(len(all_edges(model.nodes)), len(model.ops))),
        compression=random.gumbel(size=(cells, len(search.bits), len(search.keeps))),
        width=random.gumbel(size=(cells, len(search.widths))),
        psi=random.gumbel(size=steps),
        rates=rates,
    )


def uniform_genotype(recipe: Recipe, info: InputInfo, rates: Mapping[str, Sequence[float]], *, bits: int) -> Genotype:
    """The plain network of the same macro path: 3×3 convolutions from the nearest sources, one bit-width, all T.

    No weight is pruned, and all cells have the same fraction of the full width: the largest that fits the budget.

    Raises:
        InputError: not even the narrowest fits.
    """
    return _widest(recipe, info, rates, plain_edges(recipe), bits, keep=1.0)


def plain_edges(recipe: Recipe) -> tuple[Edge, ...]:
    """The plain wiring: into each node 3×3 convolutions from the nearest sources."""
    return tuple(
        Edge(node=node, source=source, op="conv3x3")
        for node in range(recipe.model.nodes)
        for source in range(max(0, node + 2 - recipe.model.edges_per_node), node + 2)
    )


def compress_uniformly(recipe: Recipe, info: InputInfo, searched: Preferences, *, bits: int, keep: float) -> Genotype:
    """Search first, then compress: the wiring and T that a search without compression prefers, then one bit-width and
    keep ratio for all cells and the largest common width that fits.

    Raises:
        InputError: nothing fits the packed-size budget.
    """
    edges = wiring(searched, recipe)
    steps = int(np.argmax(searched.psi)) + 1
    genotype = _widest(recipe, info, searched.rates, edges, bits, keep)
    return genotype.model_copy(update={"timesteps": steps})


def _widest(
    recipe: Recipe,
    info: InputInfo,
    rates: Mapping[str, Sequence[float]],
    edges: tuple[Edge, ...],
    bits: int,
    keep: float,
) -> Genotype:
    """The widest network with the same bits, keep ratio and width fraction everywhere, at the largest T."""
    cells = len(recipe.model.levels)
    steps = len(next(iter(rates.values())))
    latest = np.full(steps, -1e3)
    latest[-1] = 0.0
    indifferent = Preferences(
        alpha=np.zeros((1, 1)),
        compression=np.zeros((cells, 1, 1)),
        width=np.zeros((cells, 1)),
        psi=latest,
        rates=rates,
    )
    low, high, best = 0.05, 4.0, None
    for _ in range(12):  # the size grows with the width: bisection
        middle = (low + high) / 2
        search = recipe.search.model_copy(update={"bits": (bits,), "keeps": (keep,), "widths": (middle,)})
        # Only sizes decide here: limits on work are training's business, as for every network.
        budget = recipe.budget.certain()
        trial = recipe.model_copy(update={"search": search, "budget": budget})
        try:
            best = choose(indifferent, trial, info, edges=edges)[0]
            low = middle
        except InputError:
            high = middle
    if best is None:
        raise InputError(f"no uniform network of {bits} bits fits {recipe.budget.describe()}")
    return best
