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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from litesnn.budget import Budget
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.costs.cost import Cost, Piece
from litesnn.costs.size import PACKED_BYTES
from litesnn.costs.work import BIT_SYNOPS
from litesnn.deploy.packed import size_bound
from litesnn.deploy.shapes import model_of_shapes
from litesnn.errors import InputError, LitesnnError
from litesnn.files import write_atomically
from litesnn.genotype import OPS, CellGene, Edge, Genotype, StemGene, all_edges, one_group
from litesnn.neurons import DEFAULT, NEURONS
from litesnn.quantizers import QUANTIZERS, ends_of
from litesnn.search.joint import read_search
from litesnn.search.outcome import FloatArray, Preferences, Ranking, read_outcome
from litesnn.snn.backbone import STEM_KERNEL
from litesnn.snn.cost import conv_output
from litesnn.snn.network import InputInfo
from litesnn.snn.supernet import Supernet, cell_width
from litesnn.training_loop.context import StageContext

__all__ = [
    "Option",
    "Preferences",
    "certain_prices",
    "choose",
    "choose_full",
    "choose_ranked",
    "choose_within",
    "costliest_wirings",
    "derive",
    "fill_budget",
    "fixed_prices",
    "is_far_too_large",
    "largest",
    "largest_candidate",
    "largest_file",
    "learned_preferences",
    "least_bytes_of",
    "preference",
    "priced",
    "priced_costs",
    "priced_options",
    "require_each",
    "require_fits",
    "require_possible",
    "smallest",
    "smallest_candidate",
    "smallest_price",
    "strongest_edges",
    "unused_budget",
    "wiring",
]

_REMEDY = "model.width, search.keeps or search.widths"
ChosenT = TypeVar("ChosenT")

_FAR, _HUGE = 2, 2_000_000
"""From so many times the limit, and so many bytes, on a network is refused by its price, not built and counted."""


@dataclass(frozen=True)
class Option:
    """One way to make one cell, given the widths of the two cells before it (indices into the candidate widths)."""

    older: int
    newer: int
    width: int
    bits: int
    keep: int
    score: float
    prices: Mapping[str, Any]
    """By the key of a cost: a number, or for what depends on firing rates what it comes to after each timestep [T]."""

    @property
    def size(self) -> int:
        """Bytes in the packed file."""
        size: int = self.prices[PACKED_BYTES.key]
        return size


def priced_costs(budget: Budget) -> list[Cost]:
    """The costs that options are priced at: those with a limit, and those that are always compared."""
    limited = budget.limits()
    return [cost for key, cost in COSTS.items() if cost.price and (cost.always_compared or key in limited)]


def priced(pieces: Sequence[Piece], costs: Iterable[Cost], timesteps: int) -> dict[str, Any]:
    """The price of some pieces together, as :attr:`Option.prices`."""
    found: dict[str, Any] = {}
    for cost in costs:
        assert cost.price is not None
        if cost.is_work:
            work = np.zeros(timesteps)
            for piece in pieces:
                work += cost.price(piece)
            found[cost.key] = work.cumsum()
        else:
            found[cost.key] = sum(map(cost.price, pieces))
    return found


def derive(context: StageContext) -> Path:
    """Derive the genotype of a search. Returns the path of ``genotype.json``.

    Raises:
        InputError: the search's result is missing or damaged, or nothing fits the packed-size budget.
    """
    run, recipe, info = context.run, context.recipe, context.info
    outcome = read_outcome(run.need("search"), recipe)
    if isinstance(outcome, Ranking):
        genotype, warning = choose_ranked(outcome, recipe, info), None
    else:
        if outcome is None:
            outcome = learned_preferences(*read_search(run, info.shape, len(info.classes)))
        genotype, warning = choose_full(outcome, recipe, info)
    if warning:
        context.session.warn(warning)
    run.start("derive")
    write_atomically(run.output("derive"), genotype.to_json())
    return run.output("derive")


def choose_ranked(ranking: Ranking, recipe: Recipe, info: InputInfo) -> Genotype:
    """The first genotype of a ranking that keeps every limit that is certain before training.

    Limits on work are training's business: how often neurons will fire is not known of a genotype.

    Raises:
        InputError: none does, the message says what the first one breaks; or one is not of the recipe's space.
    """
    first: InputError | None = None
    for number, genotype in enumerate(ranking.genotypes, start=1):
        prices = certain_prices(genotype, recipe, info)
        try:
            for key, need in prices.items():
                which = f"number {number} of the genotypes that the search ranks"
                require_fits(COSTS[key], need, recipe.budget, which, _REMEDY)
        except InputError as error:
            first = first or error
        else:
            return genotype
    assert first is not None
    raise first


def certain_prices(genotype: Genotype, recipe: Recipe, info: InputInfo) -> dict[str, float]:
    """The prices of a genotype of the recipe's space, whatever training does to it, by the keys of costs with a limit.

    The packed size is the most that the file can take. Work depends on firing rates, and is not among them.

    Raises:
        InputError: the genotype is not of the recipe's space.
    """
    search, model = recipe.search, recipe.model
    options = priced_options(recipe, info, genotype.edges, rate=0.0)
    chosen: list[Option] = []
    try:
        older = newer = 0
        for level, gene, row in zip(model.levels, genotype.cells, options, strict=True):
            width = [cell_width(model.width * 2**level, fraction) for fraction in search.widths].index(gene.width)
            bits, keep = search.bits.index(gene.bits), search.keeps.index(gene.keep)
            key = older, newer, width, bits, keep
            chosen += [each for each in row if (each.older, each.newer, each.width, each.bits, each.keep) == key]
            older, newer = newer, width
        known = _genotype(chosen, genotype.timesteps, genotype.edges, recipe) == genotype
    except (ValueError, IndexError):
        known = False
    pairs = all_edges(model.nodes)
    known &= all(edge.op in model.ops and (edge.node, edge.source) in pairs for edge in genotype.edges)
    if not known or genotype.timesteps > recipe.timesteps:
        raise _not_of(recipe)
    rest = fixed_prices(recipe, info, recipe.timesteps)
    return {
        cost.key: largest_file(genotype, info)
        if cost is PACKED_BYTES
        else sum(option.prices[cost.key] for option in chosen) + rest[cost.key]
        for cost in _certain(recipe.budget)
    }


def _certain(budget: Budget) -> list[Cost]:
    """The costs with a limit that can be kept for certain before training."""
    return [cost for cost in priced_costs(budget) if not cost.is_work and budget.limit(cost.key) is not None]


def _not_of(recipe: Recipe) -> InputError:
    return InputError(f"the genotype is not one that recipe {recipe.name!r} could have found")


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
    """The score that a search gives any genotype of its space: the summed log-probabilities of all its choices.

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
        raise _not_of(recipe) from None
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

    rest = fixed_prices(recipe, info, len(preferences.psi))
    require_each(
        options,
        recipe.budget,
        which="the smallest network of the chosen wiring",
        remedy=_REMEDY,
        bytes_of=lambda chosen: most_bytes(chosen, 1),
        rest=rest,
    )
    chosen, steps, warning = choose_within(
        options, preferences.psi, recipe.budget, most_bytes, rest=rest, least_bytes=least_bytes
    )
    return _genotype(chosen, steps, edges, recipe), warning


def choose_within(
    options: list[list[Option]],
    psi: FloatArray,
    budget: Budget,
    most_bytes: Callable[[Sequence[Option], int], int],
    *,
    rest: Mapping[str, Any] | None = None,
    least_bytes: int = 0,
) -> tuple[list[Option], int, str | None]:
    """The exact choice of one option per cell and of T: options, T, and a warning as of :func:`choose`.

    Args:
        options: per cell; the smallest of each, at T = 1, have to fit the budget.
        psi: log-probability of each T.
        budget: the limits.
        most_bytes: of the file that a choice at some T can take, header included.
        rest: prices of what there is whatever is chosen; of the packed size, which ``most_bytes`` knows, nothing.
        least_bytes: as of :func:`choose`.

    Raises:
        InputError: as :func:`choose`.
    """
    least = smallest(options)
    overhead = most_bytes(least, 1) - sum(option.size for option in least)
    while True:
        chosen, steps, warning = _choose_with(
            options, psi, budget, {**(rest or {}), PACKED_BYTES.key: overhead}, least_bytes
        )
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
    """Refuse, before anything is searched, limits on sizes that some wiring of the search could not keep.

    Whoever waits for a search then gets a genotype from it, whatever ops and sources it prefers.

    Raises:
        InputError: the budget is too small; the message says what the smallest network of the costliest wiring needs.
    """
    which = "with the costliest wiring that the search may choose, the smallest network"
    if recipe.budget.packed_bytes is not None:
        need = least_bytes_of(recipe, info)
        require_fits(PACKED_BYTES, need, recipe.budget, which, _REMEDY)
    if all(cost is PACKED_BYTES for cost in _certain(recipe.budget)):
        return
    for edges in costliest_wirings(recipe):
        options, rest = priced_options(recipe, info, edges, rate=0.0), fixed_prices(recipe, info, recipe.timesteps)
        require_each(options, recipe.budget, which=which, remedy=_REMEDY, bytes_of=None, rest=rest)


def unused_budget(recipe: Recipe, info: InputInfo) -> list[str]:
    """Notes on the parts of a budget that a recipe cannot use, in a line each.

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


def least_bytes_of(recipe: Recipe, info: InputInfo) -> int:
    """:func:`smallest_candidate`, or of what is far too large to be built :func:`smallest_price`."""
    return (smallest_price if is_far_too_large(recipe, info) else smallest_candidate)(recipe, info)


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
    """The wirings of which one has the most weights, or takes the most bytes: one op on every edge.

    That is the largest one, or one in groups: it has fewer weights, but where they are has to be told.
    """
    model = recipe.model
    largest = max(model.ops, key=lambda name: (OPS[name].kernel, not OPS[name].identity))
    grouped = [name for name in model.ops if OPS[name].groups is not one_group and name != largest]
    return [
        tuple(
            Edge(node=node, source=source, op=op)
            for node in range(model.nodes)
            for source in sorted(range(node + 2), reverse=nearest_first)[: model.edges_per_node]
        )
        for op in (largest, *grouped)
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


def require_fits(cost: Cost, need: float, budget: Budget, which: str, remedy: str) -> None:
    """Refuse a limit below ``need``, the cost of the network that ``which`` says.

    Raises:
        InputError: it is below.
    """
    limit = budget.limit(cost.key)
    if limit is not None and need > limit:
        raise InputError(
            f"the budget of {cost.write(limit)} cannot be kept: {which} needs {cost.write(need)}; allow more, or lower "
            f"{remedy}"
        )


def require_each(
    options: list[list[Option]],
    budget: Budget,
    *,
    which: str,
    remedy: str,
    bytes_of: Callable[[list[Option]], int] | None,
    rest: Mapping[str, Any] | None = None,
) -> None:
    """:func:`require_fits` of every limit that is certain before training, each with the choice that costs it least.

    Args:
        options: per cell or layer.
        budget: the limits.
        which: the network that is meant, for the message.
        remedy: what can be lowered, for the message.
        bytes_of: the packed size of a choice, which is more than its options' prices; ``None`` leaves it out.
        rest: prices of what there is whatever is chosen.
    """
    for cost in _certain(budget):
        if cost is not PACKED_BYTES:
            least = _best(options, [-option.prices[cost.key] for row in options for option in row])
            need = sum(option.prices[cost.key] for option in least) + (rest or {}).get(cost.key, 0)
            require_fits(cost, need, budget, which, remedy)
        elif bytes_of is not None:
            require_fits(cost, bytes_of(smallest(options)), budget, which, remedy)


def fixed_prices(recipe: Recipe, info: InputInfo, timesteps: int) -> dict[str, Any]:
    """Prices of the stem, which is the same whatever is chosen; its bytes are counted with the whole file."""
    model = recipe.model
    weights = STEM_KERNEL**2 * info.shape[0] * model.stem_channels
    macs = np.zeros(timesteps)
    macs[: None if info.frames else 1] = weights * math.prod(
        conv_output(size, model.stem_stride) for size in info.shape[1:]
    )
    stem = Piece(
        "stem", weights, model.stem_channels, ends_of(recipe.model.quantizer).code_bits(model.io_bits), macs=macs
    )
    return priced([stem], priced_costs(recipe.budget), timesteps)


def largest_file(genotype: Genotype, info: InputInfo) -> int:
    """Bytes that a packed network of this genotype never exceeds, whatever its weights.

    If its neurons cannot be packed, those of one with the usual neurons.
    """
    if NEURONS[genotype.neuron].packed is None:
        genotype = genotype.model_copy(update={"neuron": DEFAULT})
    return size_bound(model_of_shapes(genotype, info.input, info.classes))


def _choose_with(
    options: list[list[Option]], psi: FloatArray, budget: Budget, rest: Mapping[str, Any], least_bytes: int
) -> tuple[list[Option], int, str | None]:
    """:func:`choose_within` if what ``rest`` says is there whatever is chosen, the packed file's overhead included."""
    flat = [option for row in options for option in row]
    limited = [(cost, limit) for cost in priced_costs(budget) if (limit := budget.limit(cost.key)) is not None]

    def room(cost: Cost, limit: float, steps: int) -> tuple[list[float], float]:
        taken = rest.get(cost.key, 0.0)
        if not cost.is_work:
            return [option.prices[cost.key] for option in flat], limit - taken
        taken = taken[steps - 1] if isinstance(taken, np.ndarray) else taken
        return [option.prices[cost.key][steps - 1] for option in flat], limit - taken

    overhead = rest[PACKED_BYTES.key]
    timesteps = [steps for steps, score in enumerate(psi, start=1) if score > -np.inf]
    best: tuple[float, int, list[Option]] | None = None
    for steps in timesteps:
        limits = [room(cost, limit, steps) for cost, limit in limited]
        if least_bytes > overhead:
            limits.append(([-option.size for option in flat], overhead - least_bytes))
        found = _solve(options, [option.score for option in flat], limits)
        if found is None:
            continue
        score = sum(option.score for option in found) + psi[steps - 1]
        if best is None or score > best[0]:
            best = score, steps, found
    if best is not None:
        return best[2], best[1], None
    fewest, work = timesteps[0], [row for row in limited if row[0].is_work]
    certain = [room(cost, limit, fewest) for cost, limit in limited if not cost.is_work]
    scores = np.zeros(len(flat))
    for cost, limit in work or [(BIT_SYNOPS, 1.0)]:
        scores -= np.asarray(room(cost, limit, fewest)[0]) / limit
    frugal = _solve(options, list(scores), certain)
    if frugal is None:  # the smallest network fits, but by less than what the header's length may vary
        sizes = " and ".join(cost.write(limit) for cost, limit in limited if not cost.is_work)
        raise InputError(f"the budget of {sizes} cannot be kept: allow a few bytes more")
    if least_bytes or not work:
        return frugal, fewest, f"no choice of this wiring takes {least_bytes} B or more within {budget.describe()}"
    words = []
    for cost, limit in work:
        prices, left = room(cost, limit, fewest)
        price_of = dict(zip(map(id, flat), prices, strict=True))
        need = sum(price_of[id(option)] for option in frugal) + limit - left
        if need > limit or len(work) == 1:
            words.append(f"{cost.say(need)}, over the limit of {cost.say(limit)}")
    needs = " and ".join(words) or f"more than {budget.describe()} allow together"
    rates = f"at the search's firing rates even the cheapest choice needs {needs}"
    return frugal, fewest, f"{rates}; training will push the firing rates down"


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
        **model.kinds,
    )


def _cell_options(
    index: int, edges: tuple[Edge, ...], preferences: Preferences, recipe: Recipe, info: InputInfo
) -> list[Option]:
    """Every way to make cell ``index``, with its price."""
    quantizer = QUANTIZERS[recipe.model.quantizer]
    search, model, costs = recipe.search, recipe.model, priced_costs(recipe.budget)
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
            pieces = [Piece("biases", outputs=model.nodes * outputs)]
            for edge in edges:
                op = OPS[edge.op]
                channels = inputs[edge.source] if edge.source < 2 else outputs
                rate = rates[edge.source] if edge.source < 2 else inner
                if op.identity and (edge.source >= 2 or same[edge.source]):
                    pieces.append(Piece("identity", outputs=outputs, synops=rate * outputs * pixels))
                    continue
                weights = op.weights(channels, outputs)
                pieces.append(
                    Piece(
                        "layer",
                        weights,
                        outputs,
                        quantizer.code_bits(bits),
                        keep,
                        synops=rate * keep * weights * pixels,
                        places=op.places(channels, outputs),
                        has_zero=quantizer.has_zero,
                    )
                )
            if index == len(model.levels) - 1:
                weights = model.nodes * outputs * len(info.classes)
                synops = inner * weights * pixels
                ends = ends_of(recipe.model.quantizer)
                code_bits, has_zero = ends.code_bits(model.io_bits), ends.has_zero
                classifier = Piece(
                    "classifier", weights, len(info.classes), code_bits, synops=synops, has_zero=has_zero
                )
                pieces.append(classifier)
            score = preferences.compression[index, b, k] + preferences.width[index, width]
            prices = priced(pieces, costs, len(preferences.psi))
            options.append(Option(older, newer, width, b, k, float(score), prices))
    return options


def _source_widths(index: int, recipe: Recipe) -> list[int]:
    """Output channels of cell ``index`` at each candidate width; of the stem, which has one, for negative indices."""
    model = recipe.model
    if index < 0:
        return [model.stem_channels]
    full = model.width * 2 ** model.levels[index]
    return [model.nodes * cell_width(full, fraction) for fraction in recipe.search.widths]


def _rate(rates: Mapping[str, Sequence[float]], index: int, nodes: int) -> FloatArray:
    """Spikes per neuron and timestep [T] of a cell's output, or of the stem for negative indices."""
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
