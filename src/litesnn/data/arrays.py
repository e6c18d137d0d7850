"""Inputs that are arrays already: reading NumPy files, and checking what they hold.

In: ``.npy`` and ``.npz`` files, never unpickled. Out: tensors [N, C, H, W], uint8 for images, else finite float32.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from litesnn.data.splits import IntArray
from litesnn.errors import InputError

__all__ = ["as_inputs", "as_labels", "read_npy", "read_npz", "resize_arrays"]

_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # what numpy raises on files it can't read


def read_npy(path: Path) -> npt.NDArray[np.generic]:
    """The array of a ``.npy`` file. Raises ``InputError`` if it is missing, damaged or holds Python objects."""
    try:
        found = np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        raise _unreadable(path, error) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise InputError(f"{path}: holds several arrays; expected one array, as np.save writes it")
    return found


def read_npz(path: Path, wanted: Collection[str]) -> tuple[dict[str, npt.NDArray[np.generic]], frozenset[str]]:
    """Those of the wanted arrays that an ``.npz`` file holds, and the names of all that it holds.

    Arrays that are not wanted are not read.

    Raises:
        InputError: the file is missing or damaged, is no ``.npz`` file, or a wanted array holds Python objects.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise InputError(f"{path}: holds a single unnamed array; expected arrays x and y, as np.savez writes")
            return {name: archive[name] for name in archive.files if name in wanted}, frozenset(archive.files)
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


def as_inputs(array: npt.NDArray[np.generic], origin: str) -> Tensor:
    """Inputs [N, C, H, W] from an array of that shape or [N, H, W]: uint8 as it is, other numbers as float32.

    Raises:
        InputError: the array is empty, of another shape, not of real numbers, or not finite in float32.
    """
    if array.ndim not in (3, 4):
        raise InputError(f"{origin}: has shape {list(array.shape)}; expected [N, C, H, W] or [N, H, W]")
    if array.size == 0:
        raise InputError(f"{origin}: is empty (shape {list(array.shape)})")
    if array.ndim == 4 and array.shape[1] == array.shape[2] > 4 and array.shape[3] in (1, 3, 4):
        raise InputError(
            f"{origin}: shape {list(array.shape)} looks like channels last; expected channels first, [N, C, H, W]"
        )
    if array.dtype.kind not in "buif":
        raise InputError(f"{origin}: holds values of type {array.dtype}; expected uint8 images or real numbers")
    if array.ndim == 3:
        array = array[:, None]  # [N, 1, H, W]
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        values = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"{origin}: {len(bad)} of {values.size} values are not finite (NaN or infinite as float32), "
            f"the first at {bad[0].tolist()}"
        )
    return torch.from_numpy(values)


def as_labels(array: npt.NDArray[np.generic], rows: int, origin: str) -> IntArray:
    """Labels [N] as int64. Raises ``InputError`` unless they are one integer for each of the N = ``rows`` inputs."""
    if array.dtype.kind not in "ui":
        raise InputError(f"{origin}: holds values of type {array.dtype}; expected integer labels")
    if array.shape != (rows,):
        raise InputError(f"{origin}: has shape {list(array.shape)}; expected [{rows}], one label for each input")
    return array.astype(np.int64)


def resize_arrays(x: Tensor, size: int) -> Tensor:
    """Images x uint8 [N, C, H, W] scaled to ``size`` × ``size`` by an antialiased triangle filter, as Pillow does."""
    return x if x.shape[2:] == (size, size) else F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file or folder")
    reason = "it holds Python objects" if "pickle" in str(error) else " ".join(str(error).split())
    return InputError(f"{path}: cannot be read as NumPy arrays: {reason}")
