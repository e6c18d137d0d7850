"""The inputs that a person names for prediction: files, folders of them, and standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from litesnn.data.audio import AUDIO_SUFFIXES
from litesnn.data.images import IMAGE_SUFFIXES
from litesnn.data.single import load_inputs
from litesnn.deploy.packed import PackedModel
from litesnn.errors import InputError
from litesnn.front_end import EventFrames

__all__ = ["input_files"]

_STANDARD_INPUT = "-"
_ARRAYS = {".npy", ".npz"}


def input_files(
    inputs: Sequence[Path], model: PackedModel, note: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Each input's name, and what reads it for a model (:func:`litesnn.data.single.load_inputs`) or refuses it.

    A folder stands for the files below it of the kind that the model takes, in the order of their names. Hidden ones
    are left out, and ``note`` is called with how many others are.
    """
    for path in inputs:
        if str(path) == _STANDARD_INPUT:
            yield _STANDARD_INPUT, partial(_read_standard_input, model)
        elif path.expanduser().is_dir():
            found, others = _files_below(path.expanduser(), _suffixes(model))
            if others and found:
                note(f"{path}: {others} other file{'s are' if others > 1 else ' is'} not read")
            for file in found:
                yield str(file), partial(_read, file, model)
            if not found:
                yield str(path), partial(_refuse_folder, path, model)
        else:
            yield str(path), partial(_read, path, model)


def _read(path: Path, model: PackedModel) -> Tensor:
    spec = model.input
    return load_inputs(path, spec.shape, spec.kind, spec.front_end, timesteps=model.timesteps)


def _suffixes(model: PackedModel) -> set[str]:
    """Those of the files that a model takes."""
    spec = model.input
    if isinstance(spec.front_end, EventFrames):
        return {".bin", *_ARRAYS}
    if spec.front_end is not None:
        return {*AUDIO_SUFFIXES, *_ARRAYS}
    return {*IMAGE_SUFFIXES, *_ARRAYS} if spec.kind == "image" else _ARRAYS


def _files_below(folder: Path, suffixes: set[str]) -> tuple[list[Path], int]:
    """The files with one of the suffixes, and how many others there are; none that is hidden."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    found = [path for path in files if path.suffix.lower() in suffixes]
    return found, len(files) - len(found)


def _refuse_folder(folder: Path, model: PackedModel) -> Tensor:
    expected = ", ".join(sorted(_suffixes(model)))
    raise InputError(f"{folder}: is a folder without a file for this network; expected {expected}")


def _read_standard_input(model: PackedModel) -> Tensor:
    """The one file that standard input holds. What kind of array it is, its first bytes say."""
    content = sys.stdin.buffer.read()
    if not content:
        raise InputError("standard input is empty; expected the bytes of one file")
    suffix = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz"}
    ending = next((name for start, name in suffix.items() if content.startswith(start)), "")
    with TemporaryDirectory(prefix="litesnn-") as scratch:
        path = Path(scratch) / f"input{ending}"
        path.write_bytes(content)
        try:
            return _read(path, model)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "standard input")) from None
