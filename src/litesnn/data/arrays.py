"""Inputs that are arrays already: which of several is what, and whether they hold what they should.

In: arrays, and their names in an ``.npz`` file. Out: tensors [N, C, H, W], uint8 for images, else finite float32.

N inputs, K classes, C channels, H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from litesnn.data.split_names import SPLIT_NAMES, Role, role_of
from litesnn.data.splits import IntArray
from litesnn.errors import InputError

__all__ = [
    "Named",
    "array_meaning",
    "as_inputs",
    "as_labels",
    "channels_last",
    "find_arrays",
    "find_inputs",
    "layout_note",
    "numbered_classes",
    "resize_arrays",
]

_CHANNELS = (1, 3, 4)  # that may stand at the end
_LOOKED_AT = 100_000  # values, to see whether they may be pixels
_INPUTS = frozenset(("x", "images", "image", "data", "inputs"))
_PLAIN = ("x", "y", "x_test", "y_test")  # what goes before all others
_LABELS = frozenset(("y", "labels", "label", "targets", "target"))


@dataclass(frozen=True)
class Named:
    """The names of the arrays of inputs and labels of a split."""

    x: str
    y: str


def find_arrays(names: Collection[str], origin: str) -> dict[str, Named]:
    """The arrays of each split among the names of an ``.npz`` file, by the name of the split, the training first.

    Inputs are called x, images, image, data or inputs, labels y, labels, label, targets or target, in small or capital
    letters. The name of a split stands before or after them (``x_train``, ``test_images``), or none for training.

    Raises:
        InputError: there are no training inputs or labels, two for the same, or inputs without labels.
    """
    found: dict[Role, dict[str, str]] = {}
    for name in sorted(names, key=lambda name: (name not in _PLAIN, name)):
        role, what = array_meaning(name)
        if role is None or what is None:
            continue
        other = found.setdefault(role, {}).setdefault(what, name)
        if other != name and other not in _PLAIN:
            things = "inputs" if what == "x" else "labels"
            raise InputError(f"{origin}: has both {other} and {name} for the {role} {things}; expected one of them")
    held = ", ".join(sorted(names)) or "nothing"
    train = found.get("train", {})
    for what, wanted in (("x", "x_train, images or data"), ("y", "y_train, labels or target")):
        if what not in train:
            unnamed = "; expected names, as np.savez('data.npz', x=x, y=y) writes them" if "arr_0" in names else ""
            raise InputError(f"{origin}: has no array {what} (or {wanted}); it holds {held}{unnamed}")
    for arrays in found.values():
        if len(arrays) == 1:
            raise InputError(
                f"{origin}: has {next(iter(arrays.values()))} without its inputs or labels; it holds {held}"
            )
    return {role: Named(**found[role]) for role in SPLIT_NAMES if role in found}


def find_inputs(names: Collection[str], origin: str) -> str:
    """The only array of inputs among the names of an ``.npz`` file; x goes before others.

    Raises:
        InputError: there is none, or there are several.
    """
    found = [name for name in sorted(names) if array_meaning(name)[1] == "x"]
    if "x" in found:
        return "x"
    if len(found) != 1:
        what = f"several arrays of inputs ({', '.join(found)})" if found else "no array x"
        raise InputError(f"{origin}: has {what}; it holds {', '.join(sorted(names)) or 'nothing'}")
    return found[0]


def array_meaning(name: str) -> tuple[Role | None, str | None]:
    """Of which split an array is, and whether it is its inputs "x" or its labels "y"."""
    first, _, second = name.lower().partition("_")
    word, split = (first, second) if first in _INPUTS | _LABELS else (second, first)
    if word not in _INPUTS | _LABELS:
        return None, None
    role = role_of(split) if split else "train"
    return role, None if role is None else "x" if word in _INPUTS else "y"


def channels_last(array: npt.NDArray[np.generic], origin: str) -> bool:
    """Whether an array [N, …] of four dimensions has its channels at the end: [N, H, W, C] with C = 1, 3 or 4.

    It has, if there are so few of them there, and more after the N, where they may be first. Of real numbers there have
    to be more in third place too: [64, 4, 4] may be a map of features.

    Raises:
        InputError: it is not square, of real numbers, and has 4 at the end: channels, or a width of 4 pixels.
    """
    if array.ndim != 4 or array.shape[3] not in _CHANNELS or array.shape[1] <= max(_CHANNELS):
        return False
    if array.dtype != np.uint8 and array.shape[2] <= max(_CHANNELS):
        return False
    if array.shape[3] == 4 and array.dtype != np.uint8 and array.shape[1] != array.shape[2]:
        raise InputError(
            f"{origin}: shape {list(array.shape)} may have channels first or last; expected channels first, "
            "[N, C, H, W], and not so ambiguous: x.transpose(0, 3, 1, 2) if they are last"
        )
    return True


def layout_note(array: npt.NDArray[np.generic], name: str, origin: str) -> tuple[str, ...]:
    """Notes about how an array is read: one whose channels may be at the end, and numbers that may be pixels.

    Raises:
        InputError: as :func:`channels_last`.
    """
    return (*_pixel_note(array, name), *_order_note(array, name, origin))


def _pixel_note(array: npt.NDArray[np.generic], name: str) -> tuple[str, ...]:
    """A note about numbers that may be images, 0 to 255, or these divided by 255, and are no uint8."""
    if array.dtype == np.uint8 or array.dtype.kind not in "uif" or array.size == 0:
        return ()
    some = array.reshape(-1)[:: max(1, array.size // _LOOKED_AT)].astype(np.float64)
    scale = 1 if some.max() > 1 else 255
    pixels = np.rint(some * scale)
    if some.min() < 0 or not some.max() * scale > 16 or some.max() * scale > 255:
        return ()
    if np.abs(pixels - some * scale).max() > 1e-3:
        return ()
    made = name if scale == 1 else f"np.rint(255 * {name})"
    return (
        f"{name} of type {array.dtype} is read as numbers, not as images; if it holds images, keep it as "
        f"{made}.astype('uint8')",
    )


def _order_note(array: npt.NDArray[np.generic], name: str, origin: str) -> tuple[str, ...]:
    if array.ndim != 4 or array.shape[3] not in _CHANNELS:
        return ()
    last = channels_last(array, origin)
    order = "last, [N, H, W, C]" if last else "first, [N, C, H, W]"
    return (f"{name} of shape {list(array.shape)} is read as channels {order}",)


def as_inputs(array: npt.NDArray[np.generic], origin: str, *, channels_first: bool = False) -> Tensor:
    """Inputs [N, C, H, W] from an array of that shape, [N, H, W, C] or [N, H, W]: uint8 as it is, others as float32.

    ``channels_first`` says that the array is no [N, H, W, C], whatever it looks like.

    Raises:
        InputError: the array is empty, of another shape, not of real numbers, or not finite in float32.
    """
    if array.ndim == 2:
        raise InputError(
            f"{origin}: has shape {list(array.shape)}, one vector for each input; expected images [N, H, W] or "
            f"[N, C, H, W]{_reshape_hint(array.shape[1])}"
        )
    if array.ndim not in (3, 4):
        raise InputError(f"{origin}: has shape {list(array.shape)}; expected [N, C, H, W] or [N, H, W]")
    if array.size == 0:
        raise InputError(f"{origin}: is empty (shape {list(array.shape)})")
    if array.dtype.kind not in "buif":
        raise InputError(f"{origin}: holds values of type {array.dtype}; expected uint8 images or real numbers")
    if not channels_first and channels_last(array, origin):
        array = array.transpose(0, 3, 1, 2)  # [N, C, H, W]
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


def as_labels(
    array: npt.NDArray[np.generic], rows: int, origin: str, classes: Sequence[str] | None = None
) -> tuple[IntArray, tuple[str, ...] | None]:
    """Labels [N] as int64, one for each of the N = ``rows`` inputs, and the names of classes if they tell them.

    They may be [N] or [N, 1], integers (as floats too) or names of classes, or one-hot [N, K] with a single 1 in each
    row. Names are numbered as in ``classes``, or sorted.

    Raises:
        InputError: they are none of these, or name a class that is not in ``classes``.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[0] == rows and array.dtype.kind in "buif":
        if not (((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
            raise InputError(f"{origin}: has shape {list(array.shape)}, but is not one-hot: expected one 1 in each row")
        return array.argmax(axis=1).astype(np.int64), tuple(str(label) for label in range(array.shape[1]))
    if array.dtype.kind not in "buifUS":
        raise InputError(
            f"{origin}: holds values of type {array.dtype}; expected integer labels, names or one-hot rows"
        )
    if array.shape != (rows,):
        raise InputError(f"{origin}: has shape {list(array.shape)}; expected [{rows}], one label for each input")
    if array.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.isfinite(array) & (np.abs(array) < 2**53) & (array == np.rint(array))))
        if len(wrong):
            raise InputError(f"{origin}: label {array[wrong[0]]} in row {wrong[0]} is no whole number")
    if array.dtype.kind in "buif":
        return array.astype(np.int64), None
    names = np.char.decode(array.astype(np.bytes_), "utf-8", "replace") if array.dtype.kind == "S" else array
    known = sorted(set(names.tolist())) if classes is None else classes
    index = {name: label for label, name in enumerate(known)}
    if (unknown := next((name for name in names.tolist() if name not in index), None)) is not None:
        raise InputError(f"{origin}: label {unknown!r} is not among the classes of the training rows")
    return np.array([index[name] for name in names.tolist()], np.int64), tuple(known)


def numbered_classes(labels: IntArray, origin: str) -> tuple[tuple[str, ...], int]:
    """The names of classes that are numbers, and the number of the first: 1 if there are all from 1 on, else 0.

    Raises:
        InputError: the numbers cannot be those of classes.
    """
    largest = int(labels.max(initial=-1))
    if largest >= max(len(labels), 1):
        found = f"the largest label of {len(labels)} rows is {largest}"
        raise InputError(f"{origin}: {found}; expected classes counted from 0 or from 1")
    first = int(np.array_equal(np.unique(labels), np.arange(1, largest + 1)) and largest > 0)
    return tuple(str(label) for label in range(first, largest + 1)), first


def resize_arrays(x: Tensor, size: int) -> Tensor:
    """Images x uint8 [N, C, H, W] scaled to ``size`` × ``size`` by an antialiased triangle filter, as Pillow does."""
    return x if x.shape[2:] == (size, size) else F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _reshape_hint(length: int) -> str:
    """How vectors that are as long as square images are made such."""
    for channels in (1, 3):
        side = math.isqrt(length // channels)
        if side > 3 and channels * side**2 == length:
            shape = f"{channels}, {side}, {side}" if channels > 1 else f"{side}, {side}"
            return f", perhaps x.reshape(-1, {shape})"
    return "; vectors without an order in space are not what convolutions are for"
