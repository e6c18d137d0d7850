"""Data that a Python program has already: arrays, tensors and datasets, kept in the run folder as an ``.npz`` file.

In: what a caller of :func:`litesnn.design` gives. Out: the name of a data set as a recipe has it, so that stages,
resumed runs and the record of a run go on from a file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from litesnn.data.arrays import array_meaning, find_arrays
from litesnn.data.numpy_files import read_npz
from litesnn.data.settings import DATA_FILE
from litesnn.data.split_names import Role, role_of
from litesnn.errors import InputError
from litesnn.files import write_atomically

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    GivenData = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any] | Dataset[Any]

__all__ = ["as_arrays", "source_of"]

_EXPECTED = (
    "expected the name of a data set, (x, y), a dict of arrays as in an .npz file, a dataset of (image, label) pairs, "
    "or a dict of such pairs or datasets with the keys 'train' and 'test'"
)


def source_of(data: GivenData | None, run: Path) -> str | None:
    """The name of a data set as it is; of other data the path of a file in the run folder, which is written if need be.

    Raises:
        InputError: the data is not understood, or the folder holds a run of other data or something else.
    """
    if data is None or isinstance(data, str | os.PathLike):
        return None if data is None else os.fspath(data)
    arrays = as_arrays(data)
    path = run / DATA_FILE
    content = io.BytesIO()
    cast("Any", np.savez)(content, **arrays)
    begun = [name for name in _names(run) if name not in (DATA_FILE, "recipe.toml", ".lock")]
    if path.is_file():
        kept = read_npz(path, arrays)
        if kept[1] == arrays.keys() and all(_equal(kept[0][name], array) for name, array in arrays.items()):
            return str(path.resolve())
        if begun or not (run / "recipe.toml").is_file():
            raise InputError(
                f"{path} holds other data than are given now; choose another folder, and give datasets without random "
                "augmentation"
            )
    elif begun:
        raise InputError(
            f"{run} holds {begun[0]} but no {DATA_FILE}, so no run of data given so; choose another folder"
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot be made: {error.strerror or error}") from None
    write_atomically(path, content.getvalue())
    return str(path.resolve())


def as_arrays(data: GivenData) -> dict[str, NDArray[np.generic]]:
    """Data as named arrays of an ``.npz`` file.

    ``(x, y)`` and dicts of arrays stay what they are: uint8 images, or real numbers. So do the images of a dataset
    [C, H, W], [H, W] or [H, W, C], but for floats that are uint8 divided by 255, as torchvision's ``ToTensor`` makes
    them: they become uint8 again, and the network one for images. Images of Pillow become uint8.

    Raises:
        InputError: the data is not understood, or the images of a dataset differ in shape or type.
    """
    if isinstance(data, Mapping):
        if data and all(isinstance(name, str) and role_of(name) for name in data):
            return _joined({cast("Role", role_of(name)): _pair(part, name) for name, part in data.items()})
        known = {str(name): value for name, value in data.items() if array_meaning(str(name))[1] or _is_array(value)}
        arrays = {name: _array(value, name) for name, value in known.items()}  # a description, say, is no array
        find_arrays(arrays, "data")  # says what is missing
        return arrays
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, tuple) and len(part) == 2 for part in data):
        return _joined({"train": _pair(data[0], "train"), "test": _pair(data[1], "test")})
    return _joined({"train": _pair(data, "data")})


def _joined(parts: Mapping[Role, Mapping[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """The arrays of all splits; the names of classes are those of training."""
    found = {f"{name}_{role}": part[name] for role, part in parts.items() for name in ("x", "y")}
    find_arrays(found, "data")  # says if there is no training
    return found | {name: array for name, array in parts["train"].items() if name == "classes"}


def _pair(part: Any, name: str) -> dict[str, NDArray[np.generic]]:
    """The arrays "x" and "y", and perhaps "classes", of (x, y) or of a dataset."""
    if isinstance(part, tuple) and len(part) == 2 and all(_is_array(one) for one in part):
        return {"x": _array(part[0], f"{name}: x"), "y": _array(part[1], f"{name}: y")}
    if isinstance(part, str | bytes | np.ndarray | Tensor) or not (
        hasattr(part, "__len__") and hasattr(part, "__getitem__")
    ):
        raise InputError(f"{name}: is of type {type(part).__name__}; {_EXPECTED}")
    return _read_dataset(part, name)


def _read_dataset(dataset: Any, name: str) -> dict[str, NDArray[np.generic]]:
    images, labels = [], []
    for number, (image, label) in enumerate(_items(dataset, name)):
        origin = f"{name}[{number}]"
        images.append(_image(image, origin))
        labels.append(_array(label, f"{origin}: label"))
        first, last = images[0], images[-1]
        if (first.shape, first.dtype) != (last.shape, last.dtype):
            raise InputError(
                f"{origin}: is {list(last.shape)} of type {last.dtype}, but the first image is {list(first.shape)} of "
                f"type {first.dtype}; expected images of one size, with as many channels"
            )
        if labels[0].shape != labels[-1].shape:
            raise InputError(
                f"{origin}: the label has shape {list(labels[-1].shape)}, the first {list(labels[0].shape)}"
            )
    if not images:
        raise InputError(f"{name}: is empty; {_EXPECTED}")
    found = {"x": _as_pixels(np.stack(images)), "y": _as_counted(np.stack(labels))}
    classes, y = getattr(dataset, "classes", None), found["y"]
    counted = y.ndim == 1 and y.dtype.kind in "ui"
    if (
        isinstance(classes, list | tuple)
        and all(isinstance(one, str) for one in classes)
        and (counted and int(y.max()) < len(classes))
    ):
        found["classes"] = np.array(classes, np.str_)
    return found


def _items(dataset: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """All (image, label) pairs of a dataset; items may also be dicts of the two."""
    for number in range(len(dataset)):
        try:
            item = dataset[number]
        except (KeyError, IndexError) as error:
            kind = type(dataset).__name__
            raise InputError(f"{name}: a {kind} has no item {number} ({type(error).__name__}); {_EXPECTED}") from None
        if isinstance(item, Mapping):
            named = {array_meaning(str(key))[1]: value for key, value in item.items()}
            item = (named["x"], named["y"]) if "x" in named and "y" in named else item
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"{name}[{number}]: is of type {type(item).__name__}; expected a pair (image, label)")
        yield item[0], item[1]


def _image(value: Any, origin: str) -> NDArray[np.generic]:
    """One image: of Pillow uint8 [H, W] or [C, H, W], else an array as it is."""
    if not (hasattr(value, "mode") and hasattr(value, "convert")):
        return _array(value, origin)
    grey = value.mode in ("1", "L", "LA")
    pixels = np.asarray(value.convert("L" if grey else "RGB"))
    return pixels if grey else pixels.transpose(2, 0, 1)


def _array(value: Any, origin: str) -> NDArray[np.generic]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        found: NDArray[np.generic] = value.numpy()
        return found
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{origin}: cannot be taken for an array: {error}") from None
    if found.dtype.kind == "T":  # NumPy's texts of any length, which no file holds without Python objects
        return np.array(found.tolist(), np.str_)
    return found if found.dtype.kind != "O" else _plain(found, origin, type(value).__name__)


def _is_array(value: object) -> bool:
    """Whether this is an array, or a column of pandas or the like that becomes one."""
    return isinstance(value, np.ndarray | Tensor | list) or hasattr(value, "__array__")


def _plain(array: NDArray[np.generic], origin: str, name: str) -> NDArray[np.generic]:
    """An array of Python objects, as columns of pandas are, as one of names or of numbers."""
    values = [value.item() if isinstance(value, np.generic) else value for value in array.ravel().tolist()]
    gap = next((row for row, value in enumerate(values) if _is_missing(value)), None)
    if gap is not None:
        count = sum(map(_is_missing, values))
        raise InputError(
            f"{origin}: {count} of {len(values)} values are missing, the first in row {gap}; leave them out"
        )
    for kinds, kind in (
        *(((str,), np.str_), ((bytes,), np.bytes_)),
        *(((bool, int), np.int64), ((bool, int, float), np.float64)),
    ):
        if values and all(isinstance(value, kinds) for value in values):
            try:
                return np.array(values, kind).reshape(array.shape)
            except OverflowError:
                break
    held = ", ".join(sorted({type(value).__name__ for value in values})[:3])
    raise InputError(f"{origin}: is of type {name}, which is no array of numbers or names (but of {held}); {_EXPECTED}")


def _is_missing(value: object) -> bool:
    """Whether a value is what pandas puts where there is none."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _as_pixels(x: NDArray[np.generic]) -> NDArray[np.generic]:
    """Floats that are uint8 divided by 255 as uint8, everything else as it is."""
    if x.dtype.kind != "f":
        return x
    values = x.astype(np.float32)
    pixels = np.rint(values * 255)
    if pixels.min() < 0 or pixels.max() > 255 or not np.array_equal(pixels / np.float32(255), values):
        return x
    return pixels.astype(np.uint8)


def _as_counted(y: NDArray[np.generic]) -> NDArray[np.generic]:
    """Labels that are floats, but whole, as integers; everything else as it is."""
    if y.dtype.kind != "f" or not np.array_equal(y, np.rint(y.astype(np.float64))) or np.abs(y).max() >= 2**53:
        return y
    return y.astype(np.int64)


def _equal(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    same = (first.dtype, first.shape) == (second.dtype, second.shape)
    return same and np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()


def _names(run: Path) -> list[str]:
    """The entries of a folder, but for what is left over from a kill while a file was written."""
    return sorted(entry.name for entry in run.iterdir() if not fnmatch(entry.name, ".*.tmp")) if run.is_dir() else []
