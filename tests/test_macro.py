from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litesnn.config import ModelSettings, Recipe
from litesnn.genotype import CellGene, Edge, Genotype, StemGene
from litesnn.planning.macro import RATE, deepest_level, macro_paths, uniform_bytes, uniform_synops, widest
from litesnn.search.derive import costliest_wirings, largest_file
from tiny import input_info

sides = st.integers(1, 256)


@given(sides, sides, st.booleans())
def test_every_size_has_paths_that_a_recipe_may_have(height: int, width: int, frames: bool) -> None:
    paths = macro_paths(height, width, frames=frames)
    assert paths
    assert len(set(paths)) == len(paths)
    for path in paths:
        ModelSettings(stem_stride=path.stem_stride, levels=path.levels)
        halvings = int(math.log2(path.stem_stride)) + path.levels[-1]
        assert halvings <= deepest_level(height, width)
        assert min(height, width) / 2**halvings >= min(2, height, width)


@pytest.mark.parametrize("side", [12, 14, 16, 20, 24, 28, 32, 34, 40, 48, 64, 96, 128, 160, 224, 256])
def test_the_richest_path_begins_with_maps_of_about_16(side: int) -> None:
    path = macro_paths(side, side)[0]
    first = side / path.stem_stride / 2 ** path.levels[0]
    assert 11 < first < 23


@pytest.mark.parametrize("side", [28, 34, 64, 128])
def test_with_frames_the_stem_halves_before_the_first_cell(side: int) -> None:
    for path in macro_paths(side, side, frames=True):
        assert path.levels[0] == 0 or path.stem_stride > 1
    assert macro_paths(side, side, frames=True)[0].stem_stride > 1 or side < 24
    assert macro_paths(28, 28)[0].stem_stride == 1


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32), (40, 98), (64, 64), (128, 128)])
def test_from_the_richest_to_the_most_frugal(shape: tuple[int, int]) -> None:
    """By what a network of one width costs at a timestep on the first and on the last path."""
    info = input_info((3, *shape))
    costs = []
    for path in macro_paths(*shape):
        changes = {"model.stem_stride": path.stem_stride, "model.levels": list(path.levels), "model.width": 8}
        costs.append(uniform_synops(Recipe.from_toml("", changes=changes), info, bits=1))
    assert costs[0] == max(costs)
    assert costs[-1] < costs[0] / 2


@pytest.mark.parametrize(
    ("height", "width", "level"), [(1, 1, 0), (1, 20, 0), (3, 3, 0), (4, 4, 1), (7, 99, 1), (8, 8, 2), (224, 224, 6)]
)
def test_how_often_an_input_can_be_halved(height: int, width: int, level: int) -> None:
    assert deepest_level(height, width) == level


def of_width(width: int, **model: Any) -> Recipe:
    changes = {"model.width": width, "model.levels": [0, 1, 1], "model.stem_channels": 8}
    return Recipe.from_toml("", changes=changes | {f"model.{key}": value for key, value in model.items()})


@pytest.mark.parametrize("width", [4, 16, 40])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("classes", [2, 100])
def test_the_bytes_are_nearly_those_of_the_packer(width: int, bits: int, classes: int) -> None:
    recipe, info = of_width(width), input_info((3, 16, 16), classes)
    sizes = [largest_file(uniform(recipe, edges, bits), info) for edges in costliest_wirings(recipe)]
    found = uniform_bytes(recipe, info, bits=bits)
    names = 15 * classes  # of the header, which is guessed
    assert found == pytest.approx(max(sizes), rel=0.05, abs=500 + names)


def uniform(recipe: Recipe, edges: tuple[Edge, ...], bits: int) -> Genotype:
    model = recipe.model
    cells = [CellGene(level=level, width=model.width * 2**level, bits=bits, keep=1.0) for level in model.levels]
    stem = StemGene(channels=model.stem_channels, stride=model.stem_stride, bits=model.io_bits)
    return Genotype(timesteps=1, stem=stem, edges=edges, cells=tuple(cells), classifier_bits=model.io_bits)


def test_the_bit_synops_by_hand() -> None:
    recipe = of_width(3, levels=[0], nodes=1, edges_per_node=1, stem_channels=4)
    pixels, classes = 6 * 5, 3
    one_edge, classifier = 9 * 4 * 3 * 2 * pixels, 3 * pixels * classes * 4
    found = uniform_synops(recipe, input_info((1, 6, 5), classes), bits=2)
    assert found == pytest.approx(RATE * (one_edge + classifier))


def test_what_the_recipe_would_choose_does_not_matter() -> None:
    plain, info = of_width(8), input_info((3, 16, 16))
    search = plain.search.model_copy(update={"keeps": (0.1,), "widths": (0.5, 1.0), "timesteps": 9, "bits": (4,)})
    other = plain.model_copy(update={"search": search})
    assert uniform_bytes(other, info, bits=2) == uniform_bytes(plain, info, bits=2)
    assert uniform_synops(other, info, bits=2) == uniform_synops(plain, info, bits=2)


@given(st.integers(-3, 300))
def test_the_widest(limit: int) -> None:
    asked = []

    def fits(width: int) -> bool:
        asked.append(width)
        return width <= limit

    assert widest(fits) == min(256, max(1, limit))
    assert len(asked) <= 9
    assert widest(lambda width: width <= limit, 10) == min(10, max(1, limit))
