"""Class folders of images or of sound: one folder of files for each class, perhaps in folders of splits.

In: a folder. Out: for each split its files and labels, what is noise, and notes about everything that is not read.
Names of files are never patterns: any character may be in them. Files and folders that begin with a dot or with
``__MACOSX`` are what systems leave beside the data, and are not looked at.

A folder in which all images or all sound lie in one other folder stands for that one. Then the folders at the top are
splits, if one is called ``train`` or ``training`` and has folders of classes, else they are the classes. Whole names of
folders at the top decide, never those of classes or files. Everything below the folder of a class is of that class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from litesnn.data.listing import KINDS, FileKind, Listing, count_things, suffix_of, unread_note
from litesnn.data.speech_commands import NOISE
from litesnn.data.split_names import assign, role_of
from litesnn.data.splits import IntArray
from litesnn.errors import InputError

__all__ = ["LabelledFiles", "count_files", "find_class_folders", "label_files"]

_THINGS: dict[FileKind, str] = {"image": "image", "sound": "sound file"}
_SHOWN_CLASSES = 5
_Parts = tuple[str, ...]  # of a name below the folder


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """A data set of files: of the splits "train" and perhaps "validation" and "test" the files and labels [N].

    Files are named below ``folder``, with slashes. ``noise`` are recordings of background noise.
    """

    folder: Path
    kind: FileKind
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[list[str], IntArray]]
    noise: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_class_folders(found: Listing) -> LabelledFiles | None:
    """The class folders of images or sound in a folder, or ``None`` if it has none. The more frequent kind is read.

    Raises:
        InputError: folders of splits and of classes are mixed, or a split has a class that training has not.
    """
    kind = found.kind
    noise = [parts for parts in found.of(kind) if NOISE in parts[:-1]] if kind == "sound" else []
    rows = sorted(set(found.of(kind)) - set(noise), key="/".join)
    depth = _depth(rows)
    tops = sorted({parts[depth] for parts in rows if len(parts) > depth + 1})
    parted = {parts[depth] for parts in rows if len(parts) > depth + 2 and role_of(parts[depth])}
    if parted and (any(role_of(top) == "train" for top in parted) or all(role_of(top) for top in tops)):
        level = depth + 1
        used = [parts for parts in rows if len(parts) > level + 1 and parts[depth] in parted]
        named = {top: [parts for parts in used if parts[depth] == top] for top in sorted(parted)}
    else:
        if all(role_of(top) for top in tops):
            return None
        level = depth
        _require_no_split(found.folder, rows, tops, parted, depth)
        used = [parts for parts in rows if len(parts) > level + 1]
        named = {"train": used}
    notes = _notes(found, kind, used, noise, level)
    labelled = {split: [("/".join(parts), parts[level]) for parts in rows] for split, rows in named.items()}
    return label_files(found.folder, kind, labelled, noise=["/".join(parts) for parts in noise], notes=notes)


def label_files(
    folder: Path,
    kind: FileKind,
    named: Mapping[str, Sequence[tuple[str, str]]],
    *,
    noise: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> LabelledFiles:
    """The data set of files and class names of each split, as it calls its splits.

    Classes are those of training, sorted; as numbers, if all are whole numbers. A name of a class is the same however
    its letters are composed: macOS writes an ä as a and two dots. Names that differ in capitals are noted.

    Raises:
        InputError: there is no training split, or a split has a class that training has not.
    """
    assigned = assign(named, str(folder))
    named = {split: [(file, normalize("NFC", label)) for file, label in rows] for split, rows in named.items()}
    found = {name for _, name in named[assigned.train]}
    classes = sorted(found, key=lambda name: (int(name), name)) if all(map(_is_number, found)) else sorted(found)
    index = {name: label for label, name in enumerate(classes)}
    splits = {}
    for role, split in (("train", assigned.train), ("validation", assigned.validation), ("test", assigned.test)):
        rows = named[split] if split is not None else []
        if unknown := next((row for row in rows if row[1] not in index), None):
            known = ", ".join(classes[:_SHOWN_CLASSES]) + ", …" * (len(classes) > _SHOWN_CLASSES)
            raise InputError(
                f"{folder / unknown[0]}: is of the class {unknown[1]!r}, which {assigned.train} has not; expected "
                f"one of {known} (files whose class nobody knows have to lie elsewhere)"
            )
        if split is not None:
            splits[role] = ([row[0] for row in rows], np.array([index[row[1]] for row in rows], np.int64))
    notes = (*assigned.notes, *notes, *_alike(classes))
    return LabelledFiles(folder, kind, tuple(classes), splits, tuple(noise), notes)


def _alike(classes: Sequence[str]) -> tuple[str, ...]:
    """A note about classes that may be meant to be one."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[name.casefold()].append(name)
    several = [", ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return (f"classes that differ in capitals alone: {'; '.join(several[:_SHOWN_CLASSES])}",) if several else ()


def _depth(rows: Sequence[_Parts]) -> int:
    """How many folders all rows lie in, of those that hold folders of classes or of splits."""
    depth = 0
    while True:
        inner = [parts for parts in rows if len(parts) > depth + 1]
        tops = {parts[depth] for parts in inner}
        deeper = [len(parts) > depth + 2 for parts in inner]
        if len(tops) != 1 or not any(deeper) or not (all(deeper) or role_of(next(iter(tops)))):
            return depth
        depth += 1


def _require_no_split(
    folder: Path, rows: Sequence[_Parts], tops: Sequence[str], parted: Iterable[str], depth: int
) -> None:
    """Refuse a folder ``test`` of class folders that lies beside those of the training classes."""
    for split in parted:
        inner = {parts[depth + 1] for parts in rows if parts[depth] == split and len(parts) > depth + 2}
        if both := sorted(inner & set(tops)):
            raise InputError(
                f"{folder}: {split} holds class folders ({both[0]}) and lies beside such folders; expected those in a "
                "folder train"
            )


def _notes(
    found: Listing, kind: FileKind, used: Sequence[_Parts], noise: Sequence[_Parts], level: int
) -> Sequence[str]:
    """Notes on files that are not read, on empty folders, and on files that lie deeper than a class folder."""
    notes: list[str] = []
    taken = {*used, *noise}
    unread = [parts for parts in found.files if parts not in taken]
    loose = [parts for parts in unread if suffix_of(parts[-1]) in KINDS[kind]]
    others = [parts[-1] for parts in unread if suffix_of(parts[-1]) not in KINDS[kind]]
    said = [f"{count_files(len(loose), kind)} in no class folder (the first is {'/'.join(loose[0])})"] if loose else []
    if found.others:
        said.append(
            f"{len(found.others)} that cannot be data (pipe, device or broken link: {'/'.join(found.others[0])})"
        )
    notes.extend(unread_note(found.folder, others, before=said))
    places = {parts[: level + 1] for parts in found.files if len(parts) > level + 1} | set(found.empty)
    media = {parts[: level + 1] for parts in found.of(kind)}
    without = sorted({place[: level + 1] for place in places if len(place) > level} - media)
    if without := [place for place in without if NOISE not in place or kind != "sound"]:
        names = ", ".join("/".join(place) for place in without[:5]) + ", …" * (len(without) > 5)
        notes.append(f"folders without {_THINGS[kind]}s, which are no classes: {names}")
    if deep := next((parts for parts in used if len(parts) > level + 2), None):
        notes.append(f"all that lies below a class folder is of that class: {'/'.join(deep)} is {deep[level]!r}")
    return notes


def count_files(count: int, kind: FileKind | None = None) -> str:
    """So many files of a kind, in words."""
    return count_things(count, "file" if kind is None else _THINGS[kind])


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
