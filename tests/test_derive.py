"""The exact choice, against trying everything."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import milp

from litesnn.budget import Budget
from litesnn.config import MadeFor, Recipe
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import size_bound, to_bytes
from litesnn.errors import InputError
from litesnn.genotype import OPS, CellGene, Edge, Genotype, StemGene, all_edges
from litesnn.search.derive import (
    Preferences,
    choose,
    choose_full,
    fill_budget,
    largest_candidate,
    largest_file,
    learned_preferences,
    preference,
    smallest_candidate,
    strongest_edges,
    unused_budget,
    wiring,
)
from litesnn.search.joint import build_supernet
from litesnn.snn.network import InputInfo, Network
from tiny import input_info, lively_network, most_layer_bytes, recipe

INFO = input_info((1, 7, 6))


def random_preferences(of: Recipe, seed: int) -> Preferences:
    rng = np.random.default_rng(seed)
    search, model = of.search, of.model
    cells = len(model.levels)

    def logs(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        draw = rng.normal(size=(shape[0], math.prod(shape[1:]))) * 2
        return np.asarray((draw - np.log(np.exp(draw).sum(1, keepdims=True))).reshape(shape), np.float64)

    names = ["stem", *(f"cell {cell + 1} node {node}" for cell in range(cells) for node in range(model.nodes))]
    return Preferences(
        logs(len(all_edges(model.nodes)), len(model.ops)),
        logs(cells, len(search.bits), len(search.keeps)),
        logs(cells, len(search.widths)),
        logs(1, search.timesteps)[0],
        {name: rng.uniform(0.05, 0.5, search.timesteps).tolist() for name in names},
    )


def expected_bit_synops(gene: Genotype, rates: dict[str, Sequence[float]], info: InputInfo) -> list[float]:
    """Up to each timestep: κ · params · bits · firing rate · output pixels, and one bit per identity's spike."""
    height, width = info.shape[1:]
    populations = [["stem"], ["stem"], *([f"cell {i + 1} node {n}" for n in range(gene.nodes)] for i in range(9))]
    outputs = [(gene.stem.channels, 0), (gene.stem.channels, 0)] + [(gene.nodes * c.width, c.level) for c in gene.cells]
    total = np.zeros(len(rates["stem"]))
    for index, cell in enumerate(gene.cells):
        pixels = math.ceil(height / 2**cell.level) * math.ceil(width / 2**cell.level)
        for edge in gene.edges:
            inside = edge.source >= 2
            names = populations[2 + index] if inside else populations[index + edge.source]
            rate = np.mean([rates[name] for name in names], axis=0)
            channels, level = (cell.width, cell.level) if inside else outputs[index + edge.source]
            if OPS[edge.op].identity and (channels, level) == (cell.width, cell.level):
                total += rate * channels * pixels
            else:
                total += rate * cell.keep * OPS[edge.op].kernel ** 2 * channels * cell.width * pixels * cell.bits
    last = np.mean([rates[name] for name in populations[1 + len(gene.cells)]], axis=0)
    total += last * gene.nodes * gene.cells[-1].width * pixels * len(info.classes) * gene.classifier_bits
    return [float(x) for x in total.cumsum()]


def all_genotypes(of: Recipe, edges: tuple[Edge, ...], preferences: Preferences) -> dict[Genotype, float]:
    """Every genotype of one timestep that the recipe allows, with what the search thinks of it."""
    search, model = of.search, of.model
    tables = [range(len(search.widths)), range(len(search.bits)), range(len(search.keeps))]
    found: dict[Genotype, float] = {}
    for rows in itertools.product(itertools.product(*tables), repeat=len(model.levels)):
        cells, score = [], 0.0
        for index, (w, b, k) in enumerate(rows):
            level = model.levels[index]
            width = max(1, round(model.width * 2**level * search.widths[w]))
            cells.append(CellGene(level=level, width=width, bits=search.bits[b], keep=search.keeps[k]))
            score += preferences.width[index, w] + preferences.compression[index, b, k]
        stem = StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits)
        gene = Genotype(timesteps=1, stem=stem, edges=edges, cells=tuple(cells), classifier_bits=model.io_bits)
        found[gene] = max(score, found.get(gene, -math.inf))
    return found


def parts_bytes(network: Network) -> int:
    """Layers, scales of identities and biases, without the header."""
    gene, total = network.genotype, most_layer_bytes(network)
    for index, cell in enumerate(gene.cells):
        same = sum(network.backbone.cell(index).connection(edge).conv is None for edge in gene.edges)
        total += 2 * cell.width * (same + gene.nodes)
    return total


@pytest.mark.job
@settings(max_examples=12)
@given(st.integers(0, 2**31), st.floats(0, 1), st.none() | st.floats(0, 1), st.sampled_from([(0, 0), (0, 1), (1, 1)]))
def test_the_choice_is_the_best_of_all(seed: int, room: float, work: float | None, levels: tuple[int, ...]) -> None:
    """``room`` and ``work`` place the limits between the cheapest and the dearest genotype."""
    plain = recipe(bits=(1, 4), keeps=(0.2, 1.0), levels=levels)
    preferences = random_preferences(plain, seed)
    edges = wiring(preferences, plain)
    scores = all_genotypes(plain, edges, preferences)
    networks = {gene: Network(gene, INFO) for gene in scores}
    sizes = {gene: size_bound(integerize(network)) for gene, network in networks.items()}
    costs = {gene: expected_bit_synops(gene, dict(preferences.rates), INFO) for gene in scores}
    # The header's length varies by some digits, which the program learns from one genotype and applies to all.
    headers = [sizes[gene] - parts_bytes(network) for gene, network in networks.items()]
    slack = max(headers) - min(headers)
    assert slack < 30

    limit = min(sizes.values()) + slack + round(room * (max(sizes.values()) - min(sizes.values())))
    low, high = min(cost[0] for cost in costs.values()), max(cost[-1] for cost in costs.values())
    most = None if work is None else low * (high / low) ** work * 1.001
    budget = Budget(packed_bytes=limit, bit_synops=most, timesteps=None)
    gene, warning = choose(preferences, plain.model_copy(update={"budget": budget}), INFO)
    assert warning is None or most is not None

    single = gene.model_copy(update={"timesteps": 1})
    assert gene.edges == edges
    assert sizes[single] <= limit
    bounds = [  # the best with a little less room, and the best
        max(
            (
                scores[other] + preferences.psi[steps]
                for other in scores
                for steps in range(3)
                if sizes[other] <= limit - less and (most is None or costs[other][steps] <= most)
            ),
            default=None,
        )
        for less in (slack, 0)
    ]
    if warning is not None:
        assert bounds[0] is None
        assert gene.timesteps == 1
        assert costs[single][0] <= min(costs[other][0] for other in scores if sizes[other] <= limit - slack) + 1e-6
        return
    assert most is None or costs[single][gene.timesteps - 1] <= most * (1 + 1e-9)
    found = scores[single] + preferences.psi[gene.timesteps - 1]
    assert bounds[1] is not None
    assert found <= bounds[1] + 1e-9
    assert bounds[0] is None or found >= bounds[0] - 1e-5


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_without_a_budget_everybody_gets_what_they_like_best(seed: int) -> None:
    plain = recipe(levels=(0, 1, 1), widths=(0.34, 0.67, 1.0))
    preferences = random_preferences(plain, seed)
    gene, warning = choose(preferences, plain, INFO)
    assert warning is None
    assert gene.timesteps == 1 + int(preferences.psi.argmax())
    for index, cell in enumerate(gene.cells):
        b, k = np.unravel_index(preferences.compression[index].argmax(), preferences.compression[index].shape)
        assert (cell.bits, cell.keep) == (plain.search.bits[b], plain.search.keeps[k])
        full = 3 * 2 ** plain.model.levels[index]
        assert cell.width == round(full * plain.search.widths[int(preferences.width[index].argmax())])


def limited(of: Recipe, packed_bytes: int) -> Recipe:
    return of.model_copy(update={"budget": Budget(packed_bytes=packed_bytes, bit_synops=None, timesteps=None)})


@pytest.mark.parametrize("packed_bytes", [1, 100, 400, 600])
def test_an_impossible_budget_is_refused_and_the_size_it_names_is_possible(packed_bytes: int) -> None:
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 0)
    with pytest.raises(InputError, match=f"the budget of {packed_bytes} B packed cannot be kept") as caught:
        choose(preferences, limited(plain, packed_bytes), INFO)
    named = re.search(r"needs (\d+) B", str(caught.value))
    assert named is not None
    gene, _ = choose(preferences, limited(plain, int(named[1])), INFO)
    assert size_bound(integerize(Network(gene, INFO))) <= int(named[1])
    assert int(named[1]) > packed_bytes


@pytest.mark.parametrize("seed", range(5))
def test_no_training_breaks_the_packed_size(seed: int) -> None:
    plain = recipe(levels=(0, 1, 1), keeps=(0.1, 0.5, 1.0), width=6)
    preferences = random_preferences(plain, seed)
    free, _ = choose(preferences, plain, INFO)
    smallest = [cell.model_copy(update={"width": 3 * 2**cell.level, "bits": 1, "keep": 0.1}) for cell in free.cells]
    least, most = (
        size_bound(integerize(Network(free.model_copy(update={"cells": tuple(cells)}), INFO)))
        for cells in (smallest, free.cells)
    )
    assert least < most
    limit = round(0.5 * least + 0.5 * most)
    gene, _ = choose(preferences, limited(plain, limit), INFO)
    assert gene != free
    for training in range(4):
        network = lively_network(gene, INFO, training)
        assert len(to_bytes(integerize(network, dict.fromkeys(preferences.rates, 0.98765)))) <= limit


def test_the_room_is_used() -> None:
    """With everybody for the dearest, a budget that only just holds it gets it."""
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 1)
    preferences.compression[:, -1, -1] += 50
    preferences.width[:, -1] += 50
    dearest, _ = choose(preferences, plain, INFO)
    assert [(cell.bits, cell.keep, cell.width) for cell in dearest.cells] == [(4, 1.0, 3), (4, 1.0, 6)]
    size = size_bound(integerize(Network(dearest, INFO)))
    assert choose(preferences, limited(plain, size), INFO)[0] == dearest
    assert choose(preferences, limited(plain, size - 1), INFO)[0] != dearest


def test_learning_the_headers_size_takes_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte too little for the favourite, which is far from the largest that the program thinks could fit."""
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 1)
    favourite, _ = choose(preferences, plain, INFO)
    size = size_bound(integerize(Network(favourite, INFO)))
    solved = []

    def counting(*arguments: Any, **options: Any) -> Any:
        solved.append(1)
        return milp(*arguments, **options)

    monkeypatch.setattr("litesnn.search.derive.milp", counting)
    assert choose(preferences, limited(plain, size - 1), INFO)[0] != favourite
    assert 1 < len(solved) < 50


def test_a_given_wiring_is_kept() -> None:
    plain = recipe(levels=(0, 1))
    edges = (Edge(node=0, source=1, op="conv3x3"), Edge(node=1, source=2, op="skip"))
    gene, _ = choose(random_preferences(plain, 0), plain, INFO, edges=edges)
    assert gene.edges == edges


def test_strongest_edges_by_hand() -> None:
    alpha = np.log(
        [
            [0.6, 0.4],  # node 0 ← 0
            [0.1, 0.9],  # node 0 ← 1
            [0.5, 0.5],  # node 1 ← 0
            [0.3, 0.7],  # node 1 ← 1
            [0.8, 0.2],  # node 1 ← 2
        ]
    )

    def wiring(edges_per_node: int) -> list[tuple[int, int, str]]:
        found = strongest_edges(alpha, ("skip", "conv3x3"), 2, edges_per_node)
        return [(edge.node, edge.source, edge.op) for edge in found]

    assert wiring(1) == [(0, 1, "conv3x3"), (1, 2, "skip")]
    assert wiring(2) == [(0, 0, "skip"), (0, 1, "conv3x3"), (1, 1, "conv3x3"), (1, 2, "skip")]
    assert wiring(9) == [(0, 0, "skip"), (0, 1, "conv3x3"), (1, 0, "skip"), (1, 1, "conv3x3"), (1, 2, "skip")]


def test_of_equal_edges_the_first_wins() -> None:
    found = strongest_edges(np.log(np.full((5, 2), 0.5)), ("skip", "conv3x3"), 2, 1)
    assert [(edge.node, edge.source, edge.op) for edge in found] == [(0, 0, "skip"), (1, 0, "skip")]


SKIPS = np.log(np.tile([0.99, 0.005, 0.005], (5, 1)))  # of skip, conv1x1 and conv3x3 on every edge
OPS3 = ("skip", "conv1x1", "conv3x3")


def kernels(edges: Sequence[Edge]) -> list[int]:
    return [OPS[edge.op].kernel for edge in edges]


@pytest.mark.parametrize(("spatial", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (99, 4)])
def test_so_many_edges_see_more_than_a_pixel(spatial: int, expected: int) -> None:
    found = strongest_edges(SKIPS, OPS3, 2, 2, spatial=spatial)
    assert kernels(found).count(3) == expected
    assert [(edge.node, edge.source) for edge in found] == [
        (edge.node, edge.source) for edge in strongest_edges(SKIPS, OPS3, 2, 2)
    ]


def test_those_that_lose_least_by_a_filter_get_it() -> None:
    alpha = SKIPS.copy()
    alpha[3] = np.log([0.6, 0.01, 0.39])  # node 1 ← 1
    alpha[2] = np.log([0.3, 0.4, 0.3])  # node 1 ← 0, the second weakest
    alpha[4] = np.log([0.98, 0.01, 0.01])  # node 1 ← 2
    (first,) = [edge for edge in strongest_edges(alpha, OPS3, 2, 2, spatial=1) if edge.op == "conv3x3"]
    assert (first.node, first.source) == (1, 1)
    more = [edge for edge in strongest_edges(alpha, OPS3, 2, 9, spatial=2) if edge.op == "conv3x3"]
    assert [(edge.node, edge.source) for edge in more] == [(1, 0), (1, 1)]


def test_filters_that_are_there_count_and_of_several_the_better_one_is_taken() -> None:
    alpha = np.log([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    plain = strongest_edges(alpha, ("skip", "conv3x3"), 2, 2)
    assert kernels(plain).count(3) == 1
    assert strongest_edges(alpha, ("skip", "conv3x3"), 2, 2, spatial=1) == plain
    two = np.log(np.tile([0.9, 0.02, 0.08], (5, 1)))
    assert "conv5x5" in OPS
    (edge,) = [
        edge for edge in strongest_edges(two, ("skip", "conv3x3", "conv5x5"), 2, 2, spatial=1) if edge.op != "skip"
    ]
    assert edge.op == "conv5x5"


def test_candidates_without_a_filter_are_left_alone() -> None:
    found = strongest_edges(SKIPS[:, :2], ("skip", "conv1x1"), 2, 2, spatial=2)
    assert found == strongest_edges(SKIPS[:, :2], ("skip", "conv1x1"), 2, 2)


def test_a_derived_network_sees_how_pixels_are_arranged_unless_told_not_to() -> None:
    plain = recipe(levels=(0, 1))
    preferences = replace(random_preferences(plain, 0), alpha=SKIPS)
    assert plain.model.spatial_edges == 1
    assert kernels(choose(preferences, plain, INFO)[0].edges).count(3) == 1
    model = plain.model.model_copy(update={"spatial_edges": 0})
    free, _ = choose(preferences, plain.model_copy(update={"model": model}), INFO)
    assert {edge.op for edge in free.edges} == {"skip"}


def test_spatial_edges_cost_no_possible_budget() -> None:
    """The smallest network that is promised before a search has the costliest wiring, filters everywhere."""
    plain = recipe(levels=(0, 1))
    model = plain.model.model_copy(update={"spatial_edges": 9})
    spatial = plain.model_copy(update={"model": model})
    need = smallest_candidate(spatial, INFO)
    assert need == smallest_candidate(plain, INFO)
    gene, _ = choose_full(replace(random_preferences(plain, 0), alpha=SKIPS), limited(spatial, need), INFO)
    assert kernels(gene.edges) == [3, 3, 3, 3]
    assert largest_file(gene, INFO) <= need


def test_learned_preferences_are_log_probabilities() -> None:
    supernet = build_supernet(recipe(), (1, 7, 6), 3)
    with torch.no_grad():
        for row in (supernet.alpha, supernet.beta, supernet.width, supernet.psi):
            row.copy_(torch.randn(row.shape, generator=torch.Generator().manual_seed(row.numel())))
    found = learned_preferences(supernet, {"stem": [0.5]})
    for logs in (found.alpha, found.width, found.psi, found.compression.reshape(2, -1)):
        assert np.exp(logs).sum(-1) == pytest.approx(1)
    assert found.compression.shape == (2, 3, 2)
    expected = supernet.beta[1].detach().flatten().log_softmax(0).numpy()
    assert found.compression[1].flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.rates == {"stem": [0.5]}


def test_a_search_that_is_very_sure_can_still_be_derived() -> None:
    supernet = build_supernet(recipe(), (1, 7, 6), 3)
    with torch.no_grad():
        for row in (supernet.alpha, supernet.beta, supernet.width, supernet.psi):
            row.flatten()[0] = 500.0
    preferences = learned_preferences(supernet, random_preferences(recipe(), 0).rates)
    for logs in (preferences.alpha, preferences.compression, preferences.width, preferences.psi):
        assert np.isfinite(logs).all()
    gene, _ = choose(preferences, recipe(), INFO)
    assert gene.timesteps == 1
    assert (gene.cells[0].bits, gene.cells[0].keep) == (1, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_a_least_size_gives_the_best_of_the_large_ones(seed: int) -> None:
    plain = recipe(bits=(1, 4), keeps=(0.2, 1.0))
    preferences = random_preferences(plain, seed)
    edges = wiring(preferences, plain)
    scores = all_genotypes(plain, edges, preferences)
    sizes = {gene: largest_file(gene, INFO) for gene in scores}
    least, slack = round(0.3 * min(sizes.values()) + 0.7 * max(sizes.values())), 30
    gene, warning = choose(preferences, plain, INFO, least_bytes=least)
    single = gene.model_copy(update={"timesteps": 1})
    assert warning is None
    assert sizes[single] >= least - slack
    assert scores[single] >= max(scores[other] for other in scores if sizes[other] >= least + slack) - 1e-9
    assert choose(preferences, plain, INFO, least_bytes=max(sizes.values()) + slack)[1] is not None


def modest(seed: int) -> tuple[Recipe, Preferences, int]:
    """A search that likes narrow cells of few bits, and the size of the largest network of its wiring."""
    plain = recipe(bits=(1, 4), keeps=(0.2, 1.0))
    preferences = random_preferences(plain, seed)
    preferences.width[:, 0] += 20
    preferences.compression[:, 0, 0] += 20
    edges = wiring(preferences, plain)
    return plain, preferences, max(largest_file(gene, INFO) for gene in all_genotypes(plain, edges, preferences))


def filled(plain: Recipe, fill: float, limit: int, mode: str = "budget", bit_synops: float | None = None) -> Recipe:
    search = plain.search.model_copy(update={"fill": fill, "mode": mode})
    budget = Budget(packed_bytes=limit, bit_synops=bit_synops)
    return plain.model_copy(update={"budget": budget, "search": search})


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_the_budget_is_filled_where_the_search_would_take_less(seed: int) -> None:
    plain, preferences, largest = modest(seed)
    free, _ = choose_full(preferences, filled(plain, 0, largest), INFO)
    full, warning = choose_full(preferences, filled(plain, 0.9, largest), INFO)
    assert free == choose(preferences, filled(plain, 0, largest), INFO)[0]
    assert largest_file(free, INFO) < 0.9 * largest - 30
    assert 0.9 * largest - 30 <= largest_file(full, INFO) <= largest
    assert warning is None


def test_a_share_that_nothing_fills_is_lowered_by_tenths() -> None:
    plain, preferences, largest = modest(0)
    limit = round(largest / 0.65)
    full, warning = choose_full(preferences, filled(plain, 0.9, limit), INFO)
    assert 0.6 * limit - 30 <= largest_file(full, INFO) <= largest
    assert warning is None


@pytest.mark.parametrize("seed", range(3))
def test_a_larger_budget_never_gives_a_smaller_network(seed: int) -> None:
    """Past the size of the largest candidate too: there a share of the limit would be more than anything needs."""
    plain = recipe(bits=(1, 4), keeps=(0.2, 1.0), widths=(0.5, 0.75, 1.0), levels=(0, 1, 1), width=36)
    preferences = random_preferences(plain, seed)
    preferences.alpha[:, -1] += 20
    preferences.width[:, 0] += 20
    preferences.compression[:, 0, 0] += 20
    largest = largest_candidate(plain, INFO, wiring(preferences, plain))
    assert 150_000 < largest < 300_000
    sizes, genes = [], []
    for limit in (20_000, 150_000, 300_000, 1_000_000, 10_000_000):
        gene, warning = choose_full(preferences, filled(plain, 0.9, limit), INFO)
        assert warning is None
        sizes.append(largest_file(gene, INFO))
        genes.append(gene)
        assert 0.9 * min(limit, largest) - 30 <= sizes[-1] <= limit
    assert sizes == sorted(sizes)
    assert genes[2] == genes[3] == genes[4]


@pytest.mark.parametrize(
    ("fill", "limit", "largest", "possible", "asked"),
    [
        (0.9, 1000, 5000, 1000, [900]),
        (0.9, 1000, 400, 1000, [360]),  # of the largest candidate, where that needs less than the limit
        (0.9, 1000, 5000, 750, [900, 800, 700]),
        (0.9, 1000, 5000, 50, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (0.5, 1000, 5000, 1000, [500]),
        (0.0, 1000, 5000, 1000, [0]),
        (0.9, None, 5000, 1000, [0]),
    ],
)
def test_which_sizes_are_asked_for(
    fill: float, limit: int | None, largest: int, possible: int, asked: list[int]
) -> None:
    found: list[int] = []

    def choose(least: int) -> tuple[int, str | None]:
        found.append(least)
        return least, None if least <= possible else "nothing is so large"

    plain = filled(recipe(), fill, limit or 1)
    of = plain if limit is not None else plain.model_copy(update={"budget": Budget()})
    assert fill_budget(of, largest, choose) == (asked[-1], None)
    assert found == pytest.approx(asked, abs=1)


def test_the_largest_candidate_is_the_largest_of_all() -> None:
    plain = recipe(bits=(1, 4), keeps=(0.2, 1.0))
    preferences = random_preferences(plain, 0)
    edges = wiring(preferences, plain)
    sizes = [largest_file(gene, INFO) for gene in all_genotypes(plain, edges, preferences)]
    assert largest_candidate(plain, INFO, edges) == pytest.approx(max(sizes), abs=30)
    assert largest_candidate(plain, INFO) >= max(sizes) - 30
    assert smallest_candidate(plain, INFO) >= min(sizes) - 30


def test_what_a_recipe_cannot_use_of_its_budget() -> None:
    plain = recipe(timesteps=3)
    most = largest_candidate(plain, INFO)
    assert unused_budget(plain, INFO) == []
    assert unused_budget(limited(plain, most), INFO) == []
    assert unused_budget(limited(plain, round(most / 0.81)), INFO) == []
    (line,) = unused_budget(limited(plain, round(most / 0.79)), INFO)
    assert line.startswith(f"the largest network of this recipe needs {most:,} of the {round(most / 0.79):,} B allowed")
    assert line.endswith("; a larger model.width would use more")
    made = limited(plain, round(most / 0.79)).model_copy(update={"made": MadeFor(seconds=60)})
    assert unused_budget(made, INFO) == [line.partition(";")[0]]  # its plan has said what the width follows from
    for allowed, lines in ((2, []), (3, []), (5, ["T <= 5 is allowed, but search.timesteps is 3"])):
        assert unused_budget(plain.model_copy(update={"budget": Budget(timesteps=allowed)}), INFO) == lines


def test_the_limit_on_bit_synops_goes_before_the_share() -> None:
    plain, preferences, largest = modest(0)
    tight = filled(plain, 0.9, largest, bit_synops=1.0)
    assert choose_full(preferences, tight, INFO) == choose(preferences, tight, INFO)
    assert "training will push the firing rates down" in str(choose_full(preferences, tight, INFO)[1])


def test_nothing_is_filled_in_paper_mode_or_without_a_limit() -> None:
    plain, preferences, largest = modest(0)
    assert choose_full(preferences, plain, INFO) == choose(preferences, plain, INFO)
    paper = filled(plain, 0.9, largest, mode="paper")
    assert choose_full(preferences, paper, INFO) == choose(preferences, paper, INFO)


def test_an_impossible_number_of_timesteps_is_never_chosen() -> None:
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 0)
    preferences.psi[:2] = -np.inf
    assert choose(preferences, plain, INFO)[0].timesteps == 3
    frugal = plain.model_copy(update={"budget": Budget(bit_synops=1.0)})
    gene, warning = choose(preferences, frugal, INFO)
    assert warning is not None
    assert gene.timesteps == 3


def test_preference_is_what_the_choice_maximises() -> None:
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 2)
    gene, _ = choose(preferences, plain, INFO)
    logs = [preferences.alpha[[0, 1]].max(1).sum()]  # node 0 has as many sources as it keeps
    logs.append(np.sort(preferences.alpha[2:].max(1))[-2:].sum())
    logs += [preferences.compression[i].max() + preferences.width[i].max() for i in range(2)]
    assert preference(gene, preferences, plain) == pytest.approx(sum(logs) + preferences.psi.max())
    other = gene.model_copy(update={"timesteps": 1 + int(preferences.psi.argmin())})
    lost = preferences.psi.max() - preferences.psi.min()
    assert preference(other, preferences, plain) == pytest.approx(preference(gene, preferences, plain) - lost)


@pytest.mark.parametrize("change", [{"timesteps": 4}, {"cells": ()}, {"cells": (0,)}])
def test_a_foreign_genotype_has_no_preference(change: dict[str, Any]) -> None:
    plain = recipe(levels=(0, 1))
    preferences = random_preferences(plain, 2)
    gene, _ = choose(preferences, plain, INFO)
    if change == {"cells": (0,)}:
        change = {"cells": (gene.cells[0].model_copy(update={"width": 17}), gene.cells[1])}
    with pytest.raises(InputError, match="is not one that recipe"):
        preference(gene.model_copy(update=change), preferences, plain)
