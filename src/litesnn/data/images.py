"""Encoded images (JPEG, PNG and whatever else Pillow reads) to one uint8 tensor [N, C, H, W].

Grey images have one channel and colour images three; a set in which any image is in colour becomes all colour.
Transparency is dropped. Images turned by their EXIF tag are turned upright.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.extras import need

__all__ = ["Encoded", "decode_images"]

_GREY_MODES = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # more than 8 bits, which Pillow would clip to white
_ORIENTATION = 0x0112  # the EXIF tag
_CHUNK = 1024  # encoded images held in memory at a time
_BLOCK = 16  # images that a thread decodes at a time: handing over every tiny image costs more than it gains


@dataclass(frozen=True)
class Encoded:
    """One image file: its bytes, or where it lies. ``name`` is for errors."""

    content: bytes | None
    path: str | None
    name: str


class _ColourFoundError(Exception):
    """A colour image among images taken to be grey."""


def decode_images(
    read: Callable[[IntArray], Sequence[Encoded]],
    rows: IntArray,
    *,
    size: tuple[int, int] | None,
    shape: tuple[int, int, int] | None,
) -> Tensor:
    """Decode the images of ``rows``, which ``read`` fetches, into uint8 [N, C, H, W].

    ``size`` (H, W) rescales every image, whatever its aspect. ``shape`` is what the images must come out as;
    without it the first image fixes H and W, and C is 3 where any image is in colour. With it, C is as given and
    images are converted.

    Raises:
        InputError: an image is damaged, has more than 8 bits per channel, or differs in size from the others.
    """
    if len(rows) == 0:
        raise InputError("a data set must have at least one image")
    if shape is not None:
        return _decode(read, rows, size, shape[0], shape[1:], grey_only=False)
    try:
        return _decode(read, rows, size, 1, None, grey_only=True)
    except _ColourFoundError:
        return _decode(read, rows, size, 3, None, grey_only=False)


def _decode(
    read: Callable[[IntArray], Sequence[Encoded]],
    rows: IntArray,
    size: tuple[int, int] | None,
    channels: int,
    extent: tuple[int, int] | None,
    *,
    grey_only: bool,
) -> Tensor:
    if channels not in (1, 3):
        raise InputError(f"images have 1 or 3 channels, but {channels} are expected here")

    def decode(block: Sequence[Encoded]) -> list[npt.NDArray[np.uint8]]:
        return [_decode_one(image, size, channels, grey_only=grey_only) for image in block]

    out: npt.NDArray[np.uint8] | None = None
    # Pillow lets go of the interpreter's lock while it decodes and rescales, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), _CHUNK):
            images = read(rows[start : start + _CHUNK])
            blocks = [images[at : at + _BLOCK] for at in range(0, len(images), _BLOCK)]
            decoded = chain.from_iterable(pool.map(decode, blocks))
            for index, (image, pixels) in enumerate(zip(images, decoded, strict=True), start):
                height, width = extent = extent or pixels.shape[1:]
                if pixels.shape[1:] != extent:
                    raise InputError(
                        f"{image.name}: is {pixels.shape[2]} wide and {pixels.shape[1]} high, but the first image "
                        f"is {width} wide and {height} high; set data.size to rescale all images to one size"
                    )
                if out is None:
                    out = np.empty((len(rows), channels, height, width), np.uint8)
                out[index] = pixels
    return torch.from_numpy(out)  # [N, C, H, W]


def _decode_one(
    encoded: Encoded, size: tuple[int, int] | None, channels: int, *, grey_only: bool
) -> npt.NDArray[np.uint8]:
    pil: Any = need("PIL.Image", package="pillow", extra="data")
    if encoded.content is None and encoded.path is None:
        raise InputError(f"{encoded.name}: is missing")
    try:
        with pil.open(encoded.path if encoded.content is None else io.BytesIO(encoded.content)) as image:
            if grey_only and image.mode not in _GREY_MODES | _DEEP_MODES:
                raise _ColourFoundError
            return _pixels(image, encoded.name, size, channels)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, pil.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f" {encoded.path!r}", "")
        raise InputError(f"{encoded.name}: cannot be decoded as an image: {reason}") from None


def _pixels(image: Any, name: str, size: tuple[int, int] | None, channels: int) -> npt.NDArray[np.uint8]:
    """The pixels [C, H, W] of an opened Pillow image."""
    if image.mode in _DEEP_MODES:
        raise InputError(
            f"{name}: has more than 8 bits per channel (Pillow mode {image.mode}); expected an 8-bit image, "
            "or keep such data as float arrays in an .npz file"
        )
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = need("PIL.ImageOps", package="pillow", extra="data").exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of a palette with transparency that goes straight to RGB
    mode = "RGB" if channels == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], need("PIL.Image", package="pillow", extra="data").Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
