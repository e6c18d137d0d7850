from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from litesnn.data.augment import AugmentSettings, augment

shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(*shape: int) -> Tensor:
    """Values 1, 2, 3, …: every pixel can be told from every other one and from the fill."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


@given(shapes)
def test_the_defaults_change_nothing(shape: tuple[int, int, int, int]) -> None:
    x = numbered(*shape)
    assert torch.equal(augment(x, AugmentSettings(), rng()), x)


@given(shapes, st.integers(0, 2**31))
def test_a_flip_mirrors_whole_images(shape: tuple[int, int, int, int], seed: int) -> None:
    x = numbered(*shape)
    for image, result in zip(x, augment(x, AugmentSettings(flip=True), rng(seed)), strict=True):
        assert torch.equal(result, image) or torch.equal(result, image.flip(-1))


@given(shapes, st.integers(1, 4), st.integers(0, 2**31))
def test_a_crop_is_one_shift_of_each_whole_image_filled_with_zeros(
    shape: tuple[int, int, int, int], crop: int, seed: int
) -> None:
    x = numbered(*shape)
    height, width = shape[2:]
    for image, result in zip(x, augment(x, AugmentSettings(crop=crop), rng(seed)), strict=True):
        padded = torch.nn.functional.pad(image, [crop] * 4)
        span = range(2 * crop + 1)
        shifts = (padded[:, top : top + height, left : left + width] for top in span for left in span)
        assert any(torch.equal(result, shifted) for shifted in shifts)


@given(shapes, st.integers(1, 12), st.integers(0, 2**31))
def test_a_cutout_zeroes_one_rectangle_of_at_most_its_size_in_all_channels(
    shape: tuple[int, int, int, int], size: int, seed: int
) -> None:
    x = numbered(*shape)
    result = augment(x, AugmentSettings(cutout=size), rng(seed))
    assert torch.equal(result[result != 0], x[result != 0])
    gone = result == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    for image in gone[:, 0]:
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns)
        for hit in (rows, columns):
            places = hit.nonzero().flatten()
            assert 1 <= len(places) <= size
            assert places[-1] - places[0] + 1 == len(places)


@given(shapes, st.integers(0, 3), st.booleans(), st.integers(0, 3), st.integers(0, 2**31))
@settings(max_examples=30)
def test_a_seed_fixes_the_result(
    shape: tuple[int, int, int, int], crop: int, flip: bool, cutout: int, seed: int
) -> None:
    x, chosen = numbered(*shape), AugmentSettings(crop=crop, flip=flip, cutout=cutout)
    before = x.clone()
    first, second = augment(x, chosen, rng(seed)), augment(x, chosen, rng(seed))
    assert torch.equal(first, second)
    assert torch.equal(x, before)
    assert first.shape == x.shape


def test_images_draw_for_themselves_and_use_the_whole_range() -> None:
    x = numbered(1, 1, 5, 5).expand(400, 1, 5, 5)
    shifted = augment(x, AugmentSettings(crop=2), rng())
    assert len({tuple(image.flatten().tolist()) for image in shifted}) == 25
    flipped = (augment(x, AugmentSettings(flip=True), rng()) != x).flatten(1).any(1).float().mean()
    assert 0.4 < flipped < 0.6
    cut = augment(x, AugmentSettings(cutout=3), rng())
    assert len({tuple(image.flatten().tolist()) for image in cut}) == 25  # one for each centre


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, 5, 4, dtype=dtype)
    assert augment(x, AugmentSettings(crop=1, flip=True, cutout=2), rng()).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree() -> None:
    x, chosen = numbered(6, 3, 9, 7), AugmentSettings(crop=2, flip=True, cutout=4)
    assert torch.equal(augment(x.cuda(), chosen, rng()).cpu(), augment(x, chosen, rng()))


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"cutout": -1}, {"mirror": True}])
def test_settings_refuse(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(wrong)


def test_a_shift_brings_in_black() -> None:
    x = torch.full((64, 2, 4, 4), 5.0)
    black = torch.tensor([-3, -7], dtype=torch.int8)
    result = augment(x, AugmentSettings(crop=1), rng(), black=black)
    assert set(result[:, 0].flatten().tolist()) == {-3.0, 5.0}
    assert set(result[:, 1].flatten().tolist()) == {-7.0, 5.0}
    assert torch.equal(result[:, 0] == -3, result[:, 1] == -7)
