"""Encoded images (JPEG, PNG and whatever else Pillow reads) to one uint8 tensor [N, C, H, W].

Grey images have one channel and colour images three; a set in which any image is in colour becomes all colour.
Transparency is dropped. Images turned by their EXIF tag are turned upright.
"""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litesnn.data.bounds import IMAGE_PIXELS, require_file
from litesnn.data.damaged import Damaged
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.extras import import_extra
from litesnn.text import plain, reason_of

__all__ = [
    "IMAGE_SUFFIXES",
    "Encoded",
    "MixedSizesError",
    "check_images",
    "decode_images",
    "fitting_size",
    "image_sizes",
]

IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm", ".png"),
        *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)

_GREY_MODES = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # more than 8 bits, which Pillow would clip to white
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # its values for images that lie on a side
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        MemoryError,
        RuntimeError,
    ),  # of headers that make no sense
)
"""The exceptions that Pillow raises on images that it cannot read."""

_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # what the last bytes of a whole file hold
_END_BYTES = 4096
_EMPTY = "the file is empty"
_OF_PHONES = (".heic", ".heif")  # which Pillow reads with a plugin alone

_CHUNK = 1024  # encoded images held in memory at a time
_BLOCK = 16  # images that a thread decodes at a time: handing over every tiny image costs more than it gains
_log = logging.getLogger("litesnn")


@dataclass(frozen=True)
class Encoded:
    """One image file: its bytes, or where it lies. ``name`` is for errors."""

    content: bytes | None
    path: str | None
    name: str

    def is_empty(self) -> bool:
        """Whether there is not a single byte."""
        if self.content is not None:
            return not self.content
        return self.path is not None and os.path.isfile(self.path) and os.path.getsize(self.path) == 0


class MixedSizesError(InputError):
    """Images of several sizes, and no size that all are to be rescaled to."""


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

    ``size`` (H, W) rescales every image, whatever its aspect. ``shape`` is what the images come out as: they are
    converted to its C, and rescaled to its H and W; without a ``size`` a line of the log says how many were. Without
    ``shape`` the first image fixes H and W, and C is 3 where any image is in colour.

    Raises:
        MixedSizesError: images differ in size, and there is neither ``size`` nor ``shape``.
        InputError: an image is damaged, or has more than 8 bits per channel.
    """
    if len(rows) == 0:
        raise InputError("a data set must have at least one image")
    if shape is not None:
        return _decode(read, rows, size, shape[0], shape[1:], grey_only=False)
    try:
        return _decode(read, rows, size, 1, None, grey_only=True)
    except _ColourFoundError:
        return _decode(read, rows, size, 3, None, grey_only=False)


def image_sizes(images: Sequence[Encoded]) -> npt.NDArray[np.int64]:
    """Height and width [N, 2] of images as they are upright, by their headers alone.

    Raises:
        InputError: an image is missing, or has no header that can be read.
    """
    damaged = Damaged()

    def size_of(place: int, image: Encoded) -> tuple[int, int]:
        with damaged.kept(place):
            return _size_of(image)
        return 0, 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(size_of, range(len(images)), images))
    damaged.complain(len(images))
    return np.array(found, np.int64).reshape(-1, 2)


def check_images(images: Sequence[Encoded]) -> None:
    """See that images can be read: by their headers and their ends, or decoded if they end like none of their format.

    Raises:
        InputError: some are missing or damaged, or have more than 8 bits per channel.
    """
    damaged = Damaged()

    def check(place: int, image: Encoded) -> None:
        with damaged.kept(place), _open(image) as opened:
            _require_shallow(opened, image.name)
            end = _ENDS.get(str(opened.format))
            if end is None or end not in _last_bytes(image):
                opened.load()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, range(len(images)), images))
    damaged.complain(len(images))


def _last_bytes(image: Encoded) -> bytes:
    if image.content is not None:
        return image.content[-_END_BYTES:]
    with open(str(image.path), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
        return file.read()


def fitting_size(sizes: npt.NDArray[np.int64]) -> int:
    """A height and width for images of ``sizes`` [N, 2]: 64, 48 or 32, or less where most of them are smaller.

    The side of a square as large as the middle one of the images decides.
    """
    side = float(np.median(np.sqrt(sizes.prod(axis=1))))
    return next((size for size in (64, 48, 32) if side >= size), max(8, 4 * round(side / 4)))


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

    damaged = Damaged()

    def decode(first: int, block: Sequence[Encoded]) -> list[tuple[npt.NDArray[np.uint8] | None, bool]]:
        found: list[tuple[npt.NDArray[np.uint8] | None, bool]] = []
        for place, image in enumerate(block, first):
            with damaged.kept(place):
                found.append(_decode_one(image, size or extent, channels, grey_only=grey_only))
                continue
            found.append((None, False))
        return found

    out: npt.NDArray[np.uint8] | None = None
    count, example, expected = 0, "", extent
    # Pillow lets go of the interpreter's lock while it decodes and rescales, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), _CHUNK):
            images = read(rows[start : start + _CHUNK])
            blocks = [images[at : at + _BLOCK] for at in range(0, len(images), _BLOCK)]
            firsts = range(start, start + len(images), _BLOCK)
            decoded = chain.from_iterable(pool.map(decode, firsts, blocks))
            for index, (image, (pixels, rescaled)) in enumerate(zip(images, decoded, strict=True), start):
                if pixels is None:
                    continue
                height, width = expected = expected or pixels.shape[1:]
                if rescaled:
                    count, example = count + 1, image.name
                if pixels.shape[1:] != expected:
                    raise MixedSizesError(
                        f"{image.name}: is {pixels.shape[2]} wide and {pixels.shape[1]} high, but the first image "
                        f"is {width} wide and {height} high; set data.size to rescale all images to one size"
                    )
                if out is None:
                    out = np.empty((len(rows), channels, height, width), np.uint8)
                out[index] = pixels
    damaged.complain(len(rows))
    if extent is not None and size is None and count:
        _log.warning(
            "litesnn: %d of %d images are rescaled to the size of the training images, %d wide and %d high; one is %s",
            *(count, len(rows), extent[1], extent[0], plain(example)),
        )
    return torch.from_numpy(out)  # [N, C, H, W]


def _decode_one(
    encoded: Encoded, size: tuple[int, int] | None, channels: int, *, grey_only: bool
) -> tuple[npt.NDArray[np.uint8], bool]:
    with _open(encoded) as image:
        if grey_only and image.mode not in _GREY_MODES | _DEEP_MODES:
            raise _ColourFoundError
        return _pixels(image, encoded.name, size, channels)


def _size_of(encoded: Encoded) -> tuple[int, int]:
    """Height and width, upright."""
    with _open(encoded) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
        return (width, height) if turned else (height, width)


@contextmanager
def _open(encoded: Encoded) -> Iterator[Any]:
    """The Pillow image of a file. Raises ``InputError`` for what goes wrong there and in what is done with it."""
    pil: Any = import_extra("PIL.Image", package="pillow", extra="data")
    if encoded.content is None:
        if encoded.path is None:
            raise InputError(f"{encoded.name}: is missing")
        require_file(encoded.path, encoded.name)
    try:
        with pil.open(encoded.path if encoded.content is None else io.BytesIO(encoded.content)) as image:
            width, height = image.size
            if width * height > IMAGE_PIXELS:
                raise InputError(f"{encoded.name}: is {width} wide and {height} high; at most {IMAGE_PIXELS} pixels go")
            yield image
    except (*_DAMAGE, pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
        reason = _EMPTY if encoded.is_empty() else reason_of(error).replace(f" {encoded.path!r}", "")
        reason += "; convert it to .jpg or .png" * encoded.name.lower().endswith(_OF_PHONES)
        raise InputError(f"{encoded.name}: cannot be decoded as an image: {reason}") from None


def _require_shallow(image: Any, name: str) -> None:
    if image.mode in _DEEP_MODES:
        raise InputError(
            f"{name}: has more than 8 bits per channel (Pillow mode {image.mode}); expected an 8-bit image, "
            "or keep such data as float arrays in an .npz file"
        )


def _pixels(image: Any, name: str, size: tuple[int, int] | None, channels: int) -> tuple[npt.NDArray[np.uint8], bool]:
    """The pixels [C, H, W] of an opened Pillow image, and whether it had to be rescaled."""
    _require_shallow(image, name)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = import_extra("PIL.ImageOps", package="pillow", extra="data").exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of a palette with transparency that goes straight to RGB
    mode = "RGB" if channels == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    rescaled = size is not None and image.size != size[::-1]
    if size is not None and rescaled:
        image = image.resize(size[::-1], import_extra("PIL.Image", package="pillow", extra="data").Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), rescaled
