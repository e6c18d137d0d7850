"""Lists of files: a CSV table that names a file and its class in each row.

In: a ``.csv`` or ``.tsv`` file with a head of column names. Out: the files and labels of each split. Files are named
from the folder of the table on, or from one folder in it (``train.csv`` beside ``train``), with or without their
endings. A column of splits is optional; without it, splits are cut as for class folders.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from litesnn.data.bounds import require_file
from litesnn.data.class_folders import LabelledFiles, label_files
from litesnn.data.damaged import told_together
from litesnn.data.listing import HIDDEN, KINDS, FileKind, suffix_of, unread_note
from litesnn.data.settings import DataSettings
from litesnn.data.split_names import SPLIT_NAMES, role_of
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = ["is_file_list", "read_file_list"]

_SUFFIXES = (".csv", ".tsv")
_FILES = (
    *("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "img", "img_path"),
    *("audio", "audio_path", "wav", "fname", "image_name", "img_name", "image_id", "img_id", "file_id", "id"),
)
_LABELS = ("label", "labels", "class", "class_name", "classname", "target", "category", "y")
_SPLITS = ("split", "set", "subset")
_MEDIA = frozenset[str]().union(*KINDS.values())
_LOOKED_AT = 20  # rows that say from where files are named
_SHOWN_COLUMNS, _SHOWN_NAMES = 8, 6
_TABLE_OF_NUMBERS = 20  # columns from which on a table without names of files is taken for one
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_WHOLE = re.compile(r"-?\d+(\.0*)?")


def is_file_list(source: str) -> bool:
    """Whether a name is that of such a table."""
    return source.lower().endswith(_SUFFIXES)


def read_file_list(path: Path, settings: DataSettings) -> LabelledFiles:
    """Read a table. Columns are found by their names, or named by ``settings``.

    Raises:
        InputError: the table is missing or damaged, has no such columns, or rows lack something, name files that are
            missing or neither images nor sound, or files that stand in the table already: all of them are counted, and
            the first few named.
    """
    head, rows = _read(path)
    files = _column(path, head, settings.image_column or settings.audio_column, _FILES, "names of files")
    labels = _column(path, head, settings.label_column, _LABELS, "labels")
    splits = next((index for index, name in enumerate(head) if name.lower() in _SPLITS), None)
    names = [row[files].strip() for _, row in rows if len(row) == len(head)]
    place = _Place(path, [name for name in names if name])
    named: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    kinds: dict[FileKind, str] = {}
    seen: dict[str, int] = {}
    wrong: list[str] = []
    numbers = all(_WHOLE.fullmatch(row[labels].strip()) for _, row in rows if len(row) == len(head))
    for line, row in rows:
        try:
            if len(row) != len(head):
                raise InputError(f"has {len(row)} fields; expected {len(head)}, as in the head")
            name, label = row[files].strip(), row[labels].strip()
            if not name or not label:
                raise InputError(f"has no {head[files] if not name else head[labels]}")
            found = place.find(name)
            kinds.setdefault(_kind(found), found)
            if seen.setdefault(found, line) != line:
                raise InputError(f"{name} is named in line {seen[found]} already")
            split = "train" if splits is None else row[splits].strip()
            if role_of(split) is None:
                known = ", ".join(names[0] for names in SPLIT_NAMES.values())
                raise InputError(f"the {head[splits or 0]} is {split!r}; expected one of {known}")
            # Pandas writes whole numbers as 1.0 where a column once had a gap.
            named[split].append((found, label.partition(".")[0] if numbers else label))
        except InputError as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        many = f"{len(wrong)} of {len(rows)} rows cannot be used: " if len(wrong) > 1 else ""
        missing = f"; files are named from {place.folder} on" if any(_NOT_THERE in text for text in wrong) else ""
        raise InputError(f"{path}: {many}{told_together(wrong)}{missing}")
    if len(kinds) != 1:
        what = f"both images and sound ({', '.join(kinds.values())})" if kinds else "no files"
        raise InputError(f"{path}: names {what}; expected one of both kinds")
    kind = next(iter(kinds))
    return label_files(path.parent, kind, named, notes=(*place.notes, *_unlisted(path, kind, seen)))


_NOT_THERE = " is not there"


class _Place:
    """Where the files of a list are: in its folder, or all in one folder of that."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Look from where on the names of a list are those of files."""
        self.path, self.base = path, ""
        self._listed: dict[str, Mapping[str, list[str]]] = {}
        first = names[:_LOOKED_AT]
        if not first or any(self._all(name, "") for name in first):
            return
        own = [name for name in self._folders if name.lower() == path.stem.lower()]
        for bases in (own, self._folders):
            found = [base for base in bases if any(self._all(name, base) for name in first)]
            if len(found) > 1:
                raise InputError(
                    f"{path}: its files may be those in {' or in '.join(found)}, which have the same names; expected "
                    f"names from {path.parent} on, as in {found[0]}/{first[0]}"
                )
            if found:
                self.base = found[0]
                return

    @property
    def folder(self) -> Path:
        """From where on files are named."""
        return self.path.parent / self.base

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on it for the user."""
        return (f"files of {self.path} are named from {self.folder} on",) if self.base else ()

    def find(self, name: str) -> str:
        """The file of a name, from the folder of the list on. Raises ``InputError`` if there is none, or several."""
        found = self._all(name, self.base)
        if len(found) > 1:
            raise InputError(f"{name} may be {' or '.join(found)}; expected its whole name")
        if found:
            return found[0]
        if suffix_of(name) and _media(name) is None and (self.folder / name).is_file():
            raise InputError(f"{name} is neither an image nor sound by its suffix {suffix_of(name)!r}")
        endings = "" if _media(name) else ", nor an image or sound of this name with an ending"
        raise InputError(f"{name}{_NOT_THERE}{endings}")

    def _all(self, name: str, base: str) -> list[str]:
        """The files that a name may mean.

        A name from Windows has backslashes, and perhaps other capitals; on macOS letters are composed differently.
        """
        for form in dict.fromkeys((name, name.replace("\\", "/"))):
            whole = os.path.join(base, form)
            if _media(form) is not None and (self.path.parent / whole).is_file():
                return [whole]
            inside, last = os.path.split(whole)
            found = self._known(inside)
            for wanted in (last, _plainest(last)):
                if wanted in found:
                    return [os.path.join(inside, file) for file in found[wanted]]
        return []

    def _known(self, inside: str) -> Mapping[str, list[str]]:
        """The images and sound files in a folder by what they may be called: without endings, and as _plainest."""
        if inside not in self._listed:
            known: defaultdict[str, list[str]] = defaultdict(list)
            for file in _entries(self.path.parent / inside):
                if _media(file.name) is not None and file.is_file():
                    stem = os.path.splitext(file.name)[0]
                    for name in {stem, _plainest(stem), _plainest(file.name)}:
                        known[name].append(file.name)
            self._listed[inside] = known
        return self._listed[inside]

    @cached_property
    def _folders(self) -> list[str]:
        return sorted(entry.name for entry in _entries(self.path.parent) if entry.is_dir())


def _plainest(name: str) -> str:
    """A name in small letters that are composed in one way."""
    return normalize("NFC", name).casefold()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, but for hidden ones; nothing, if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(HIDDEN)]
    except (OSError, ValueError):  # a name from a list may hold anything
        return []


def _media(name: str) -> str | None:
    """The suffix of a name that is one of an image or of sound."""
    return suffix if (suffix := suffix_of(name)) in _MEDIA else None


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
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot be read as text: {reason_of(error)}; expected UTF-8, as a table program saves it if asked "
            "for (CSV UTF-8), and pandas by itself"
        ) from None
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
        more = len(head) - _SHOWN_COLUMNS
        columns = ", ".join(head[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")
        known = f"none of {', '.join(names[:_SHOWN_NAMES])}, …" if given is None else f"not {given}"
        raise InputError(f"{path}: has no column of {what}; its columns are {columns}, {known}{_hint(head, what)}")
    return found


def _hint(head: Sequence[str], what: str) -> str:
    """Advice for a table without a column of files or of labels."""
    if any(_media(name) is not None for name in head):
        return "; expected a first line with names of columns, such as file,label"
    if len(head) > _TABLE_OF_NUMBERS:
        return (
            "; a table of numbers (pixels, measurements) is read as arrays: shape them in Python, and keep them as "
            "np.savez('data.npz', x=x, y=y)"
        )
    key = "data.label_column" if what == "labels" else "data.image_column"
    known = {*_FILES, *_SPLITS} if what == "labels" else {*_LABELS, *_SPLITS}
    others = [name for name in head if name and name.lower() not in known]
    return f"; name it, as in --set {key}={others[0] if others else 'NAME'}"


def _kind(name: str) -> FileKind:
    return next(kind for kind, suffixes in KINDS.items() if suffix_of(name) in suffixes)
