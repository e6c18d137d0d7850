"""Derivation: from learned preferences to one genotype that keeps the packed-size budget, whatever training does to it.

In: ``search.safetensors``. Out: ``genotype.json``.

1. Wiring, shared by all cells: each node keeps its strongest incoming edges, an edge's strength being the probability
   of its strongest op (Liu et al., DARTS, 2019, section 2.4). ``model.spatial_edges`` of them have a filter larger than
   1×1, whatever the search likes: under a tight limit on Bit-SynOps identities are the cheapest, and a network of
   nothing else cannot see how pixels are arranged.
2. Bits, keep ratio and width of every cell and the number of timesteps: the exact maximum of the summed
   log-probabilities subject to the packed size and the estimated Bit-SynOps, as one mixed-integer program per T
   (solved by HiGHS). The packed size has a lower limit too, a share of the upper one: a supernet trains its narrow
   candidates most, as they are part of the wide ones, and would leave room that a network trained alone can use. That
   is a share of what the largest candidates of the wiring need, where they need less than the limit.

Sizes are the packer's guaranteed upper bounds in whole bytes, header included, so that the file of the trained network
cannot be larger. Shapes: E edges, O ops, L cells, T timesteps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from litesnn.budget import Budget, describe_bit_synops
from litesnn.config import Recipe
from litesnn.data.sources import Data
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import size_bound
from litesnn.errors import InputError, LitesnnError
from litesnn.files import write_atomically
from litesnn.genotype import OPS, CellGene, Edge, Genotype, StemGene, all_edges
from litesnn.loop.session import Session, input_info
from litesnn.networks import build_network
from litesnn.runs import RunFolder
from litesnn.search.joint import read_search
from litesnn.snn.cost import AFFINE_BITS, conv_output, layer_bytes
from litesnn.snn.network import InputInfo
from litesnn.snn.supernet import Supernet, cell_width

__all__ = [
    "Option",
    "Preferences",
    "choose",
    "choose_full",
    "choose_within",
    "costliest_wirings",
    "derive",
    "fill_budget",
    "is_far_too_large",
    "largest",
    "largest_candidate",
    "largest_file",
    "learned_preferences",
    "preference",
    "priced_options",
    "require_fits",
    "require_possible",
    "smallest",
    "smallest_candidate",
    "smallest_price",
    "strongest_edges",
    "unused_budget",
    "wiring",
]

FloatArray = npt.NDArray[np.float64]
ChosenT = TypeVar("ChosenT")

_FAR, _HUGE = 2, 2_000_000
"""From so many times the limit, and so many bytes, on a network is refused by its price, not built and counted."""


@dataclass(frozen=True)
class Preferences:
    """What a search prefers, as log-probabilities, and the firing rates that it saw.

    ``alpha`` [E, O]; ``compression`` [L, bits, keeps]; ``width`` [L, widths]; ``psi`` [T], −∞ for a T that must not be
    chosen; ``rates``: population → [T].
    """

    alpha: FloatArray
    compression: FloatArray
    width: FloatArray
    psi: FloatArray
    rates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Option:
    """One way to make one cell, given the widths of the two cells before it (indices into the candidate widths)."""

    older: int
    newer: int
    width: int
    bits: int
    keep: int
    score: float
    size: int  # bytes
    bit_synops: FloatArray  # [T], cumulative


def derive(run: RunFolder, data: Data, session: Session) -> Path:
    """Derive the genotype of a search. Returns the path of ``genotype.json``.

    Raises:
        InputError: the search's result is missing or damaged, or nothing fits the packed-size budget.
    """
    recipe, info = run.recipe(), input_info(data)
    supernet, rates = read_search(run, info.shape, len(info.classes))
    genotype, warning = choose_full(learned_preferences(supernet, rates), recipe, info)
    if warning:
        session.warn(warning)
    run.start("derive")
    write_atomically(run.output("derive"), genotype.to_json())
    return run.output("derive")


def learned_preferences(supernet: Supernet, rates: Mapping[str, Sequence[float]]) -> Preferences:
    """The log-probabilities of a searched supernet."""
    beta = supernet.beta
    alpha, pairs, width, psi = (
        row.detach().double().log_softmax(-1).cpu().numpy()
        for row in (supernet.alpha, beta.flatten(1), supernet.width, supernet.psi)
    )
    return Preferences(alpha, pairs.reshape(beta.shape), width, psi, rates)


def strongest_edges(
    alpha: FloatArray, ops: Sequence[str], nodes: int, edges_per_node: int, *, spatial: int = 0
) -> tuple[Edge, ...]:
    """Of each node the ``edges_per_node`` incoming edges whose best op is most probable, each with that op.

    At least ``spatial`` of the edges (all, if there are fewer) have a filter larger than 1×1, if ``ops`` have one:
    those that lose the least log-probability by it are changed.

    ``alpha`` [E, O] holds log-probabilities, rows in the order of :func:`litesnn.genotype.all_edges`. Of equals the
    first wins.
    """
    chosen: dict[int, int] = {}  # row of alpha → column of its op, in the order of the rows
    pairs = all_edges(nodes)
    for node in range(nodes):
        rows = [row for row, pair in enumerate(pairs) if pair[0] == node]
        best = sorted(rows, key=lambda row: -alpha[row].max())[:edges_per_node]
        chosen |= {row: int(alpha[row].argmax()) for row in sorted(best)}
    filters = [column for column, op in enumerate(ops) if OPS[op].kernel > 1]
    if filters:
        blind = [row for row, column in chosen.items() if column not in filters]
        blind.sort(key=lambda row: alpha[row].max() - alpha[row, filters].max())
        for row in blind[: max(0, spatial - (len(chosen) - len(blind)))]:
            chosen[row] = filters[int(alpha[row, filters].argmax())]
    return tuple(Edge(node=pairs[row][0], source=pairs[row][1], op=ops[column]) for row, column in chosen.items())


def preference(genotype: Genotype, preferences: Preferences, recipe: Recipe) -> float:
    """What a search thinks of any genotype of its space: the summed log-probabilities of all its choices.

    Raises:
        InputError: the genotype is not of the recipe's space.
    """
    model, search, pairs = recipe.model, recipe.search, all_edges(recipe.model.nodes)
    try:
        score = preferences.psi[genotype.timesteps - 1]
        for edge in genotype.edges:
            score += preferences.alpha[pairs.index((edge.node, edge.source)), model.ops.index(edge.op)]
        for index, (level, cell) in enumerate(zip(model.levels, genotype.cells, strict=True)):
            widths = [cell_width(model.width * 2**level, fraction) for fraction in search.widths]
            bits, keep = search.bits.index(cell.bits), search.keeps.index(cell.keep)
            score += preferences.compression[index, bits, keep]
            score += preferences.width[index, widths.index(cell.width)]
    except (ValueError, IndexError):
        raise InputError(f"the genotype is not one that recipe {recipe.name!r} could have found") from None
    return float(score)


def choose(
    preferences: Preferences,
    recipe: Recipe,
    info: InputInfo,
    *,
    edges: tuple[Edge, ...] | None = None,
    least_bytes: int = 0,
) -> tuple[Genotype, str | None]:
    """The best genotype within the budget, and a warning if Bit-SynOps are expected to pass their limit.

    ``edges`` fixes the wiring; left out, it is read off α. ``least_bytes`` is a lower limit of the packed size: unless
    there is a warning, it is kept too, up to what the header's length varies.

    The packed size is certain before training. Bit-SynOps depend on the firing rates that training will bring, so their
    limit guides the choice as long as it can be met; otherwise the cheapest network is taken, and training and
    evaluation have the last word.

    Raises:
        InputError: no choice fits the packed-size budget; the message says what the smallest one needs.
    """
    edges = edges or wiring(preferences, recipe)
    options = [_cell_options(index, edges, preferences, recipe, info) for index in range(len(recipe.model.levels))]

    def most_bytes(chosen: Sequence[Option], steps: int) -> int:
        return largest_file(_genotype(chosen, steps, edges, recipe), info)

    _require(most_bytes(smallest(options), 1), recipe, "the smallest network of the chosen wiring")
    chosen, steps, warning = choose_within(options, preferences.psi, recipe.budget, most_bytes, least_bytes=least_bytes)
    return _genotype(chosen, steps, edges, recipe), warning


def choose_within(
    options: list[list[Option]],
    psi: FloatArray,
    budget: Budget,
    most_bytes: Callable[[Sequence[Option], int], int],
    *,
    least_bytes: int = 0,
) -> tuple[list[Option], int, str | None]:
    """The exact choice of one option per cell and of T: options, T, and a warning as of :func:`choose`.

    Args:
        options: per cell; the smallest of each, at T = 1, have to fit the budget.
        psi: log-probability of each T.
        budget: the limits.
        most_bytes: of the file that a choice at some T can take, header included.
        least_bytes: as of :func:`choose`.

    Raises:
        InputError: as :func:`choose`.
    """
    least = smallest(options)
    overhead = most_bytes(least, 1) - sum(option.size for option in least)
    while True:
        chosen, steps, warning = _choose_with(options, psi, budget, overhead, least_bytes)
        size = most_bytes(chosen, steps)
        if budget.packed_bytes is None or size <= budget.packed_bytes:
            return chosen, steps, warning
        # Header, stem and classifier are not in the program's sizes: learn what they take, and choose again.
        overhead = max(overhead + 1, size - sum(option.size for option in chosen))


def choose_full(preferences: Preferences, recipe: Recipe, info: InputInfo) -> tuple[Genotype, str | None]:
    """:func:`choose` among the networks that :func:`fill_budget`.

    Raises:
        InputError: as :func:`choose`.
    """
    most = largest_candidate(recipe, info, wiring(preferences, recipe))
    return fill_budget(recipe, most, lambda least: choose(preferences, recipe, info, least_bytes=least))


def fill_budget(
    recipe: Recipe, largest: int, choose: Callable[[int], tuple[ChosenT, str | None]]
) -> tuple[ChosenT, str | None]:
    """The choice among what needs ``search.fill`` or more of the packed-size budget, or of ``largest`` if that is less.

    If there is none, the share is lowered by tenths until there is.

    Args:
        recipe: of the run.
        largest: bytes of the largest candidate.
        choose: the choice, and a warning or none, among what needs at least so many bytes.
    """
    limit = recipe.budget.packed_bytes
    if limit is not None and recipe.search.mode == "budget":
        for share in np.arange(recipe.search.fill, 0, -0.1):
            chosen, warning = choose(int(share * min(limit, largest)))
            if warning is None:
                return chosen, None
    return choose(0)


def require_possible(recipe: Recipe, info: InputInfo) -> None:
    """Refuse, before anything is searched, a packed-size budget that some wiring of the search could not keep.

    Whoever waits for a search then gets a genotype from it, whatever ops and sources it prefers.

    Raises:
        InputError: the budget is too small; the message says what the smallest network of the costliest wiring needs.
    """
    if recipe.budget.packed_bytes is not None:
        need = (smallest_price if is_far_too_large(recipe, info) else smallest_candidate)(recipe, info)
        _require(need, recipe, "with the costliest wiring that the search may choose, the smallest network")


def unused_budget(recipe: Recipe, info: InputInfo) -> list[str]:
    """What a recipe cannot use of its budget, in a line each.

    Of a made recipe the plan has said why its networks are no wider: the time, the Bit-SynOps, or what a person said.
    """
    budget, notes = recipe.budget, []
    if budget.packed_bytes is not None:
        most = largest_candidate(recipe, info)
        if most < 0.8 * budget.packed_bytes:
            notes.append(
                f"the largest network of this recipe needs {most:,} of the {budget.packed_bytes:,} B allowed"
                + ("; a larger model.width would use more" if recipe.made is None else "")
            )
    if budget.timesteps is not None and recipe.search.timesteps < budget.timesteps:
        notes.append(f"T <= {budget.timesteps} is allowed, but search.timesteps is {recipe.search.timesteps}")
    return notes


def smallest_candidate(recipe: Recipe, info: InputInfo) -> int:
    """Bytes that the smallest network of a recipe needs with the costliest wiring that its search may choose."""
    return max(_extreme_candidate(recipe, info, edges, smallest) for edges in costliest_wirings(recipe))


def smallest_price(recipe: Recipe, info: InputInfo) -> int:
    """Bytes of the cells of that network, near enough: by their prices, without building what may be huge."""
    every = [priced_options(recipe, info, edges, rate=0.0) for edges in costliest_wirings(recipe)]
    return max(sum(option.size for option in smallest(options)) for options in every)


def is_far_too_large(recipe: Recipe, info: InputInfo) -> bool:
    """Whether no network of a recipe comes near to its limit of bytes, seen without building one."""
    limit = recipe.budget.packed_bytes
    return limit is not None and smallest_price(recipe, info) > max(_FAR * limit, _HUGE)


def largest_candidate(recipe: Recipe, info: InputInfo, edges: tuple[Edge, ...] | None = None) -> int:
    """Bytes that the largest network of a recipe needs, with these ``edges`` or with the costliest."""
    choices = costliest_wirings(recipe) if edges is None else [edges]
    return max(_extreme_candidate(recipe, info, choice, largest) for choice in choices)


def costliest_wirings(recipe: Recipe) -> list[tuple[Edge, ...]]:
    """The wirings of which one has the most weights: the largest op on every edge."""
    model = recipe.model
    op = max(model.ops, key=lambda name: (OPS[name].kernel, not OPS[name].identity))
    return [
        tuple(
            Edge(node=node, source=source, op=op)
            for node in range(model.nodes)
            for source in sorted(range(node + 2), reverse=nearest_first)[: model.edges_per_node]
        )
        for nearest_first in (True, False)  # the most weights come from the cells before, or behind a narrow stem
    ]


def priced_options(recipe: Recipe, info: InputInfo, edges: tuple[Edge, ...], rate: float) -> list[list[Option]]:
    """Every option of every cell with its price, none preferred, if all neurons fire at ``rate`` per timestep."""
    model, search, cells = recipe.model, recipe.search, len(recipe.model.levels)
    names = ["stem", *(f"cell {index + 1} node {node}" for index in range(cells) for node in range(model.nodes))]
    indifferent = Preferences(
        alpha=np.zeros((1, 1)),
        compression=np.zeros((cells, len(search.bits), len(search.keeps))),
        width=np.zeros((cells, len(search.widths))),
        psi=np.zeros(recipe.timesteps),
        rates={name: [rate] * recipe.timesteps for name in names},
    )
    return [_cell_options(index, edges, indifferent, recipe, info) for index in range(cells)]


def smallest(options: list[list[Option]]) -> list[Option]:
    """The choice of the fewest bytes."""
    return _best(options, [-option.size for row in options for option in row])


def largest(options: list[list[Option]]) -> list[Option]:
    """The choice of the most bytes."""
    return _best(options, [option.size for row in options for option in row])


def _best(options: list[list[Option]], scores: Sequence[float]) -> list[Option]:
    found = _solve(options, scores, limits=[])
    assert found is not None
    return found


def _extreme_candidate(
    recipe: Recipe,
    info: InputInfo,
    edges: tuple[Edge, ...],
    pick: Callable[[list[list[Option]]], list[Option]],
) -> int:
    chosen = pick(priced_options(recipe, info, edges, rate=0.0))
    return largest_file(_genotype(chosen, 1, edges, recipe), info)


def wiring(preferences: Preferences, recipe: Recipe) -> tuple[Edge, ...]:
    """The edges that the preferences lead to, shared by all cells of the derived network."""
    model = recipe.model
    return strongest_edges(
        *(preferences.alpha, model.ops, model.nodes, model.edges_per_node), spatial=model.spatial_edges
    )


def require_fits(need: int, budget: Budget, which: str, remedy: str) -> None:
    """Refuse a budget below ``need`` bytes, the size of the network that ``which`` says.

    Raises:
        InputError: it is below.
    """
    limit = budget.packed_bytes
    if limit is not None and need > limit:
        raise InputError(
            f"the budget of {limit} B packed cannot be kept: {which} needs {need} B; allow more, or lower {remedy}"
        )


def _require(need: int, recipe: Recipe, which: str) -> None:
    require_fits(need, recipe.budget, which, "model.width, search.keeps or search.widths")


def largest_file(genotype: Genotype, info: InputInfo) -> int:
    """Bytes that a packed network of this genotype never exceeds, whatever its weights."""
    return size_bound(integerize(build_network(genotype, info, seed=0)))


def _choose_with(
    options: list[list[Option]], psi: FloatArray, budget: Budget, overhead: int, least_bytes: int
) -> tuple[list[Option], int, str | None]:
    room = None if budget.packed_bytes is None else budget.packed_bytes - overhead
    timesteps = [steps for steps, score in enumerate(psi, start=1) if score > -np.inf]
    best: tuple[float, int, list[Option]] | None = None
    for steps in timesteps:
        limits: list[tuple[list[float], float]] = []
        if room is not None:
            limits.append(([option.size for row in options for option in row], room))
        if least_bytes > overhead:
            limits.append(([-option.size for row in options for option in row], overhead - least_bytes))
        if budget.bit_synops is not None:
            limits.append(([option.bit_synops[steps - 1] for row in options for option in row], budget.bit_synops))
        found = _solve(options, [option.score for row in options for option in row], limits)
        if found is None:
            continue
        score = sum(option.score for option in found) + psi[steps - 1]
        if best is None or score > best[0]:
            best = score, steps, found
    if best is not None:
        return best[2], best[1], None
    size_only = [] if room is None else [([float(option.size) for row in options for option in row], float(room))]
    fewest = timesteps[0]
    frugal = _solve(options, [-option.bit_synops[fewest - 1] for row in options for option in row], size_only)
    if frugal is None:  # the smallest network fits, but by less than what the header's length may vary
        raise InputError(f"the budget of {budget.packed_bytes} B packed cannot be kept: allow a few bytes more")
    if least_bytes or budget.bit_synops is None:
        return frugal, fewest, f"no choice of this wiring takes {least_bytes} B or more within {budget.describe()}"
    expected = sum(option.bit_synops[fewest - 1] for option in frugal)
    warning = (
        f"at the search's firing rates even the cheapest choice needs {describe_bit_synops(expected)}, over the limit "
        f"of {describe_bit_synops(budget.bit_synops)}; training will push the firing rates down"
    )
    return frugal, fewest, warning


def _genotype(chosen: Sequence[Option], timesteps: int, edges: tuple[Edge, ...], recipe: Recipe) -> Genotype:
    model, search = recipe.model, recipe.search
    cells = tuple(
        CellGene(
            level=level,
            width=cell_width(model.width * 2**level, search.widths[option.width]),
            bits=search.bits[option.bits],
            keep=search.keeps[option.keep],
        )
        for level, option in zip(model.levels, chosen, strict=True)
    )
    stem = StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits)
    return Genotype(
        timesteps=timesteps,
        stem=stem,
        edges=edges,
        cells=cells,
        classifier_bits=model.io_bits,
        arithmetic=model.arithmetic,
    )


def _cell_options(
    index: int, edges: tuple[Edge, ...], preferences: Preferences, recipe: Recipe, info: InputInfo
) -> list[Option]:
    """Every way to make cell ``index``, with its price."""
    search, model = recipe.search, recipe.model
    sources = [_source_widths(index - 2, recipe), _source_widths(index - 1, recipe)]
    level = model.levels[index]
    full = model.width * 2**level
    rates = [_rate(preferences.rates, index - 2, model.nodes), _rate(preferences.rates, index - 1, model.nodes)]
    inner = _rate(preferences.rates, index, model.nodes)
    pixels = math.prod(conv_output(conv_output(size, model.stem_stride), 2**level) for size in info.shape[1:])
    options = []
    for older, newer, width in itertools.product(
        range(len(sources[0])), range(len(sources[1])), range(len(search.widths))
    ):
        outputs = cell_width(full, search.widths[width])
        inputs = [sources[0][older], sources[1][newer]]
        same = [  # whether a skip from this source needs no weights
            source == outputs and (model.levels[before] if before >= 0 else 0) == level
            for source, before in zip(inputs, (index - 2, index - 1), strict=True)
        ]
        for (b, bits), (k, keep) in itertools.product(enumerate(search.bits), enumerate(search.keeps)):
            size, cost = model.nodes * outputs * AFFINE_BITS // 8, np.zeros(len(preferences.psi))
            for edge in edges:
                op = OPS[edge.op]
                channels = inputs[edge.source] if edge.source < 2 else outputs
                rate = rates[edge.source] if edge.source < 2 else inner
                if op.identity and (edge.source >= 2 or same[edge.source]):
                    size += outputs * AFFINE_BITS // 8
                    cost += rate * outputs * pixels
                    continue
                weights = op.kernel**2 * channels * outputs
                size += layer_bytes(weights, outputs, keep, bits)
                cost += rate * keep * weights * pixels * bits
            if index == len(model.levels) - 1:
                classes = len(info.classes)
                size += math.ceil(model.nodes * outputs * classes * model.io_bits / 8)
                cost += inner * model.nodes * outputs * pixels * classes * model.io_bits
            score = preferences.compression[index, b, k] + preferences.width[index, width]
            options.append(Option(older, newer, width, b, k, float(score), size, cost.cumsum()))
    return options


def _source_widths(index: int, recipe: Recipe) -> list[int]:
    """Output channels of cell ``index`` at each candidate width; of the stem, which has one, for negative indices."""
    model = recipe.model
    if index < 0:
        return [model.stem_channels]
    full = model.width * 2 ** model.levels[index]
    return [model.nodes * cell_width(full, fraction) for fraction in recipe.search.widths]


def _rate(rates: Mapping[str, Sequence[float]], index: int, nodes: int) -> FloatArray:
    """Firing rate per timestep [T] of a cell's output, or of the stem for negative indices."""
    names = ["stem"] if index < 0 else [f"cell {index + 1} node {node}" for node in range(nodes)]
    means: FloatArray = np.mean([rates[name] for name in names], axis=0)
    return means


def _solve(
    options: list[list[Option]], scores: Sequence[float], limits: Sequence[tuple[Sequence[float], float]]
) -> list[Option] | None:
    """One option per cell with the largest summed score, widths consistent, every limit kept; ``None`` if impossible.

    Args:
        options: per cell.
        scores: one per option, cells one after the other.
        limits: (cost per option, most that the chosen ones may cost together).
    """
    flat = [(index, option) for index, row in enumerate(options) for option in row]
    rows: list[dict[int, float]] = [{} for _ in options]
    for column, (index, _) in enumerate(flat):
        rows[index][column] = 1.0
    bounds = [1.0] * len(options)
    for index in range(len(options) - 1):
        # The widths that cell index + 1 believes its two predecessors to have are the ones that they have.
        links: dict[tuple[int, int], dict[int, float]] = {}
        for column, (owner, option) in enumerate(flat):
            if owner == index:
                links.setdefault((option.newer, option.width), {})[column] = 1.0
            elif owner == index + 1:
                links.setdefault((option.older, option.newer), {})[column] = -1.0
        rows += links.values()
        bounds += [0.0] * len(links)
    equal = LinearConstraint(_matrix(rows, len(flat)), bounds, bounds)
    # Whole bytes are compared exactly below; the solver's tolerance is absolute, so rows are scaled to about one.
    scaled = [
        LinearConstraint(np.asarray([costs]) / abs(limit), -np.inf, math.copysign(1.0, limit))
        for costs, limit in limits
    ]
    result = milp(
        -np.asarray(scores),
        constraints=[equal, *scaled],
        integrality=np.ones(len(flat)),
        bounds=(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.status == 2:
        return None
    if result.x is None:
        raise LitesnnError(f"the exact choice failed: {result.message}")
    chosen = [column for column, value in enumerate(result.x) if value > 0.5]
    if any(sum(costs[column] for column in chosen) > limit for costs, limit in limits):
        # Within the solver's tolerance, but over the limit: ask for a hair less.
        return _solve(options, scores, [(costs, limit - abs(limit) * 2e-6) for costs, limit in limits])
    return [flat[column][1] for column in chosen]


def _matrix(rows: Sequence[Mapping[int, float]], columns: int) -> coo_array:
    entries = [(row, column, value) for row, cells in enumerate(rows) for column, value in cells.items()]
    at_row, at_column, values = zip(*entries, strict=True)
    return coo_array((values, (at_row, at_column)), shape=(len(rows), columns)).tocsr()
