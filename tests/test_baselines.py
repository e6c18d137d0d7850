"""The baselines: genotypes of the same space, under the same budget."""

from __future__ import annotations

import numpy as np
import pytest

from litesnn.budget import Budget
from litesnn.config import ModelSettings, Recipe, SearchSettings
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import to_bytes
from litesnn.errors import InputError
from litesnn.genotype import Genotype
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network
from litesnn.search.baselines import compress_uniformly, matched_random_genotype, random_genotype, uniform_genotype
from litesnn.search.derive import Preferences, largest_file
from litesnn.snn.network import InputInfo

INFO = InputInfo(InputSpec((1, 8, 8), "image", (0.0,), (1.0,)), ("a", "b", "c"))
NAMES = ("stem", "cell 1 node 0", "cell 1 node 1", "cell 2 node 0", "cell 2 node 1")
RATES = {name: [0.1, 0.1, 0.1] for name in NAMES}


def recipe(packed_bytes: int) -> Recipe:
    return Recipe(
        budget=Budget(packed_bytes=packed_bytes, timesteps=3),
        model=ModelSettings(width=8, nodes=2, levels=(0, 1), stem_channels=4, ops=("skip", "conv1x1", "conv3x3")),
        search=SearchSettings(timesteps=3, bits=(1, 2, 4), keeps=(0.2, 1.0), widths=(0.5, 1.0)),
    )


def packed_size(genotype: Genotype) -> int:
    return len(to_bytes(integerize(build_network(genotype, INFO, seed=1))))


@pytest.mark.parametrize("seed", range(5))
def test_random_genotypes_keep_the_budget_and_differ(seed: int) -> None:
    found = random_genotype(recipe(4000), INFO, RATES, seed=seed)
    assert packed_size(found) <= 4000
    assert found == random_genotype(recipe(4000), INFO, RATES, seed=seed)
    assert found != random_genotype(recipe(4000), INFO, RATES, seed=seed + 100)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("least", "timesteps"), [(3600, 1), (3600, 3), (1500, 2)])
def test_matched_random_genotypes_have_the_size_and_timesteps(seed: int, least: int, timesteps: int) -> None:
    def draw(seed: int) -> Genotype:
        return matched_random_genotype(recipe(4000), INFO, RATES, seed=seed, timesteps=timesteps, least_bytes=least)

    found = draw(seed)
    assert least <= largest_file(found, INFO) <= 4000
    assert packed_size(found) <= 4000
    assert found.timesteps == timesteps
    assert found == draw(seed)
    assert found != draw(seed + 100)


def test_matched_random_genotypes_keep_the_expected_bit_synops() -> None:
    """The same draws with less work allowed are other networks, and those that cannot keep the limit are left out."""
    limits = [None, 4_000.0]
    free, tight = (
        matched_random_genotype(
            recipe(4000).model_copy(update={"budget": Budget(packed_bytes=4000, bit_synops=limit)}),
            INFO,
            RATES,
            seed=3,
            timesteps=3,
            least_bytes=1000,
        )
        for limit in limits
    )
    assert free != tight
    nothing = recipe(4000).model_copy(update={"budget": Budget(packed_bytes=4000, bit_synops=1.0)})
    with pytest.raises(InputError, match="none of 5 random wirings with T = 3 allows 1000 B or more"):
        matched_random_genotype(nothing, INFO, RATES, seed=0, timesteps=3, least_bytes=1000, draws=5)


def test_a_size_that_no_wiring_has_is_refused() -> None:
    with pytest.raises(InputError, match="allows 900000 B or more within 1000000 B packed"):
        matched_random_genotype(recipe(1_000_000), INFO, RATES, seed=0, timesteps=1, least_bytes=900_000, draws=3)


def test_the_uniform_network_is_uniform_and_fills_the_budget() -> None:
    found = uniform_genotype(recipe(4000), INFO, RATES, bits=2)
    assert {cell.bits for cell in found.cells} == {2}
    assert {cell.keep for cell in found.cells} == {1.0}
    assert {edge.op for edge in found.edges} == {"conv3x3"}
    assert found.timesteps == 3
    assert abs(found.cells[1].width - 2 * found.cells[0].width) <= 1
    assert 3700 < packed_size(found) <= 4000


def test_compression_after_a_search_keeps_its_wiring_and_timesteps() -> None:
    alpha = np.log(np.full((5, 3), 1 / 3))
    alpha[[0, 1, 2, 4], 1] = 0.0  # conv1x1, and node 1 reads sources 0 and 2
    alpha[0, 2] = 1.0  # conv3x3: a cell has one edge with a spatial filter
    psi = np.log([0.1, 0.8, 0.1])
    searched = Preferences(alpha, np.zeros((2, 1, 1)), np.zeros((2, 1)), psi, RATES)
    found = compress_uniformly(recipe(4000), INFO, searched, bits=2, keep=1.0)
    assert [(edge.node, edge.source, edge.op) for edge in found.edges] == [
        (0, 0, "conv3x3"),
        (0, 1, "conv1x1"),
        (1, 0, "conv1x1"),
        (1, 2, "conv1x1"),
    ]
    assert found.timesteps == 2
    assert packed_size(found) <= 4000


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(InputError, match="no uniform network of 2 bits fits 100 B packed"):
        uniform_genotype(recipe(100), INFO, RATES, bits=2)
