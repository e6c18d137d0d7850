"""Lists of files: a CSV table that names a file and its class in each row.

In: a ``.csv`` or ``.tsv`` file with a head of column names. Out: the files and labels of each split. Files are named
from the folder of the table on. A column of splits is optional; without it, splits are cut as for class folders.
"""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from litesnn.data.bounds import require_file
from litesnn.data.class_folders import LabelledFiles, label_files
from litesnn.data.listing import KINDS, FileKind, suffix_of, unread_note
from litesnn.data.settings import DataSettings
from litesnn.data.split_names import SPLIT_NAMES, role_of
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = ["is_file_list", "read_file_list"]

_SUFFIXES = (".csv", ".tsv")
_FILES = (
    *("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "img", "img_path"),
    *("audio", "audio_path", "wav", "fname"),
)
_LABELS = ("label", "labels", "class", "class_name", "classname", "target", "category", "y")
_SPLITS = ("split", "set", "subset")


def is_file_list(source: str) -> bool:
    """Whether a name is that of such a table."""
    return source.lower().endswith(_SUFFIXES)


def read_file_list(path: Path, settings: DataSettings) -> LabelledFiles:
    """Read a table. Columns are found by their names, or named by ``settings``.

    Raises:
        InputError: the table is missing or damaged, has no such columns, or a row lacks something, names a file that
            is missing or neither an image nor sound, or a file that stands in the table already.
    """
    head, rows = _read(path)
    files = _column(path, head, settings.image_column or settings.audio_column, _FILES, "names of files")
    labels = _column(path, head, settings.label_column, _LABELS, "labels")
    splits = next((index for index, name in enumerate(head) if name.lower() in _SPLITS), None)
    named: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    kinds: dict[FileKind, str] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        origin = f"{path}: line {line}"
        if len(row) != len(head):
            raise InputError(f"{origin}: has {len(row)} fields; expected {len(head)}, as in the head")
        name, label = row[files].strip(), row[labels].strip()
        if not name or not label:
            raise InputError(f"{origin}: has no {head[files] if not name else head[labels]}")
        kinds.setdefault(_kind(name, origin), name)
        if not (path.parent / name).is_file():
            raise InputError(f"{origin}: {name} is not there; files are named from {path.parent} on")
        if seen.setdefault(name, line) != line:
            raise InputError(f"{origin}: {name} is named in line {seen[name]} already")
        split = "train" if splits is None else row[splits].strip()
        if role_of(split) is None:
            known = ", ".join(names[0] for names in SPLIT_NAMES.values())
            raise InputError(f"{origin}: the {head[splits or 0]} is {split!r}; expected one of {known}")
        named[split].append((name, label))
    if len(kinds) != 1:
        what = f"both images and sound ({', '.join(kinds.values())})" if kinds else "no files"
        raise InputError(f"{path}: names {what}; expected one of both kinds")
    kind = next(iter(kinds))
    return label_files(path.parent, kind, named, notes=_unlisted(path, kind, seen))


def _unlisted(path: Path, kind: FileKind, named: Iterable[str]) -> tuple[str, ...]:
    """A note about files of the kind that lie beside those of the list, in the same folders, and are not in it."""
    known = {os.path.realpath(path.parent / name) for name in named}
    folders = {os.path.dirname(name) for name in known}
    found = [entry for folder in folders for entry in os.scandir(folder) if suffix_of(entry.name) in KINDS[kind]]
    return unread_note(f"the folders of {path}", [entry.name for entry in found if entry.path not in known])


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The head, and the rows with the numbers of their lines. Fields are parted by commas, semicolons or tabs."""
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: cannot be read as CSV: {error}") from None
    if not rows:
        raise InputError(f"{path}: is empty; expected a head with the names of columns, such as file,label")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _column(path: Path, head: Sequence[str], given: str | None, names: Sequence[str], what: str) -> int:
    """Where a column stands: the one that a setting names, or the first of the names that it may have."""
    wanted = names if given is None else (given,)
    small = [name.lower() for name in head] if given is None else list(head)
    found = next((small.index(name) for name in wanted if name in small), None)
    if found is None:
        known = f"none of {', '.join(names)}" if given is None else f"not {given}"
        raise InputError(f"{path}: has no column of {what}; its columns are {', '.join(head)[:200]}, {known}")
    return found


def _kind(name: str, origin: str) -> FileKind:
    suffix = Path(name).suffix.lower()
    kind = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), None)
    if kind is None:
        raise InputError(f"{origin}: {name} is neither an image nor sound by its suffix {suffix!r}")
    return kind
