"""The listing of a folder, and of what is not read in it: nothing is passed over in silence, and nothing opened.

In: a folder. Out: the names of all files below it, and a line for the notes of a data set about those not read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litesnn.data.audio import AUDIO_SUFFIXES
from litesnn.data.images import IMAGE_SUFFIXES
from litesnn.errors import InputError

__all__ = [
    "HIDDEN",
    "KINDS",
    "TABLES",
    "FileKind",
    "Listing",
    "advice_for",
    "count_things",
    "list_files",
    "suffix_of",
    "unread_note",
    "what_lies_there",
]

FileKind = Literal["image", "sound"]

KINDS: dict[FileKind, frozenset[str]] = {"image": IMAGE_SUFFIXES, "sound": frozenset(AUDIO_SUFFIXES)}
"""The suffixes of files that are read."""

HIDDEN = (".", "__MACOSX")
"""How names of files and folders begin that systems leave beside the data, and that are not looked at."""

TABLES = (".parquet", ".arrow")
"""The suffixes of tables with images or sound in them."""

_MOST = 5  # suffixes that are named
_METADATA = ("metadata.csv", "metadata.jsonl")

_AS_ARRAYS = "read them in Python, and keep inputs and labels as np.savez('data.npz', x=x, y=y)"
_ADVICE = {
    "convert them to .jpg or .png": (".heic", ".heif", ".dng", ".cr2", ".nef", ".raw", ".svg", ".psd"),
    "convert them to .wav or .flac": (".m4a", ".aac", ".wma", ".amr", ".caf"),
    "keep single frames of them as .jpg or .png": (".mp4", ".mov", ".avi", ".mkv", ".webm"),
    "unpack them, and name the folder": (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"),
    _AS_ARRAYS: (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth", ".csv", ".tsv", ".xlsx"),
}
_ADVICE_OF = {suffix: advice for advice, suffixes in _ADVICE.items() for suffix in suffixes}
_Parts = tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """The parts of the names below a folder of all files, and of all folders in which there is nothing; sorted.

    ``others`` are neither: pipes, sockets, devices and broken links, which are never opened.
    """

    folder: Path
    files: tuple[_Parts, ...]
    empty: tuple[_Parts, ...]
    others: tuple[_Parts, ...] = ()

    def of(self, kind: FileKind) -> list[_Parts]:
        """The images, or the sound files."""
        return [parts for parts in self.files if suffix_of(parts[-1]) in KINDS[kind]]

    def tables(self) -> list[_Parts]:
        """Files that hold or describe tables with images or sound in them, for ``datasets``."""
        return [parts for parts in self.files if suffix_of(parts[-1]) in TABLES or parts[-1].lower() in _METADATA]

    @property
    def kind(self) -> FileKind:
        """Which of the two there are more of."""
        return max(KINDS, key=lambda kind: len(self.of(kind)))


def list_files(folder: Path) -> Listing:
    """The files below a folder. Links are followed, none twice. Raises ``InputError`` if a folder cannot be read."""
    files: list[_Parts] = []
    others: list[_Parts] = []
    empty: list[_Parts] = []
    seen: set[str] = set()
    waiting: list[_Parts] = [()]
    linked: list[_Parts] = []  # come last, so that a folder of the tree goes before a link to it
    while waiting or linked:
        inside = (waiting or linked).pop()
        place = folder.joinpath(*inside)
        entries: list[os.DirEntry[str]] = []
        if (real := os.path.realpath(place)) not in seen:
            try:
                with os.scandir(place) as listed:
                    entries = [entry for entry in listed if not entry.name.startswith(HIDDEN)]
            except OSError as error:
                raise InputError(f"{place}: cannot be read: {error.strerror or error}") from None
        seen.add(real)
        for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
            below = linked if entry.is_symlink() else waiting
            (below if entry.is_dir() else files if entry.is_file() else others).append((*inside, entry.name))
        if inside and not entries:
            empty.append(inside)
    return Listing(folder, *(tuple(sorted(kind, key="/".join)) for kind in (files, empty, others)))


def unread_note(place: Path | str, names: Iterable[str], *, before: Sequence[str] = ()) -> tuple[str, ...]:
    """A note that so many files of a place are not read, by their suffixes, or none if there are no such files.

    ``before`` says what some of the files are, ahead of the suffixes; those files are not among ``names`` then, but
    each text begins with how many they are.
    """
    suffixes = Counter(suffix_of(name) or "no suffix" for name in names)
    what = [*before, *(f"{count} {suffix}{_conversion(suffix)}" for suffix, count in suffixes.most_common(_MOST))]
    if len(suffixes) > _MOST:
        what.append("others")
    total = suffixes.total() + sum(int(text.partition(" ")[0]) for text in before)
    return (f"{count_things(total, 'file')} of {place} not read: {', '.join(what)}",) if total else ()


def _conversion(suffix: str) -> str:
    """How images or sound of a suffix become such as are read, in brackets; nothing of other files."""
    advice = advice_for(suffix)
    return f" ({advice})" if advice is not None and advice.startswith("convert") else ""


def what_lies_there(names: Iterable[str]) -> str:
    """How many files of each kind there are by their suffixes, and what is to be done with the first kind."""
    suffixes = Counter(suffix_of(name) or "no suffix" for name in names)
    if not suffixes:
        return "no files"
    first, *others = (f"{count} {suffix}" for suffix, count in suffixes.most_common(_MOST))
    advice = advice_for(suffixes.most_common(1)[0][0])
    said = [first + (f" ({advice})" if advice else ""), *others, *["others"] * (len(suffixes) > _MOST)]
    return ", ".join(said)


def advice_for(suffix: str) -> str | None:
    """Advice for files of a suffix that are not read as they are, if that is known."""
    return _ADVICE_OF.get(suffix)


def count_things(count: int, thing: str) -> str:
    """``"1 file"``, ``"2 files"``."""
    return f"{count} {thing}{'s' * (count != 1)}"


def suffix_of(name: str) -> str:
    """The last suffix of a name, in small letters, or nothing."""
    return os.path.splitext(name)[1].lower()
