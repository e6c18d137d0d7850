"""Where event recordings lie: folders of ``.bin`` files, or the archives in which such folders are handed out.

In: a folder, or a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip`` file. Out: for each split its files and labels, and their
bytes, and notes about what is not read. A file's last two folders are its split, such as ``Train`` or ``Test``
(:mod:`litesnn.data.split_names`), and its class. Archives are read as they are:
nothing is unpacked, and no name in them is used as a path. Files and folders that begin with a dot or with ``__MACOSX``
are what systems leave beside the data, and are not looked at.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from litesnn.data.bounds import ARCHIVE_BYTES, RECORDING_BYTES, require_file
from litesnn.data.damaged import Damaged
from litesnn.data.listing import HIDDEN, KINDS, TABLES, list_files, suffix_of, unread_note, what_lies_there
from litesnn.data.split_names import SPLIT_NAMES, Role, assign, role_of
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = ["EventFile", "EventFolder", "contents", "find_events", "is_events"]

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_SUFFIX = ".bin"
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (
    *(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    RuntimeError,  # encrypted
    *(ValueError, IndexError),  # names that are no text, or empty
)


@dataclass(frozen=True)
class EventFile:
    """One recording: a file, or the member of an archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    def state(self) -> tuple[str, str | None, int, int]:
        """The recording's identity: names, size and time of the file. Raises ``InputError`` if it is gone."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        return str(self.path), self.member, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, eq=False)
class EventFolder:
    """A data set: of the splits "train" and perhaps "validation" and "test" the files and labels [N]; and notes."""

    classes: tuple[str, ...]
    splits: dict[Role, tuple[list[EventFile], IntArray]]
    notes: tuple[str, ...] = ()


def is_events(place: Path) -> bool:
    """Whether a folder holds recordings or archives of them, or a file is such an archive; little is looked at."""
    if place.is_file():
        return _is_archive(place)
    if not place.is_dir():
        return False
    return next(_unpacked(place), None) is not None or any(map(_may_hold_recordings, _archives(place)))


def _may_hold_recordings(archive: Path) -> bool:
    """Whether there is a recording in an archive, or it is damaged, which reading will say."""
    try:
        return any(_is_recording(name) for name, _, _ in _each(archive))
    except InputError:
        return True


def find_events(place: Path) -> EventFolder:
    """Find the recordings of a folder or an archive. If only one split is there, it is called "train".

    Raises:
        InputError: an archive is damaged or has a file twice, or the place of a file does not say of which class it is.
    """
    found: defaultdict[str, list[tuple[str, str, EventFile]]] = defaultdict(list)
    unread: list[str] = []
    broken: list[str] = []
    for name, file in _members(place, unread, broken):
        parts = PurePosixPath(name).parts
        split = parts[-3].capitalize() if len(parts) > 2 and role_of(parts[-3]) else ""
        if len(parts) < 2 or role_of(parts[-2]):
            raise InputError(f"{place}: {name} lies in no folder of a class; expected Train/CLASS/NAME{_SUFFIX}")
        found[split].append((parts[-2], parts[-1], file))
    if not found:
        suffixes = set(map(suffix_of, unread))
        other = any(suffixes & kind for kind in (*KINDS.values(), set(TABLES)))
        unpack = "; images, sound and tables are not read from an archive: unpack it, and name the folder" * other
        raise InputError(
            f"{place}: holds no {_SUFFIX} recordings, but {what_lies_there(unread)}; expected "
            f"Train/CLASS/NAME{_SUFFIX}{unpack}"
        )
    if len(found) > 1 and "" in found:
        raise InputError(f"{found[''][0][2]}: lies neither in Train nor in Test, and other recordings do")
    assigned = assign(found, str(place))
    classes = tuple(sorted({row[0] for row in found[assigned.train]}))
    index = {name: label for label, name in enumerate(classes)}
    splits: dict[Role, tuple[list[EventFile], IntArray]] = {}
    named: dict[Role, str | None] = {"train": assigned.train, "validation": assigned.validation, "test": assigned.test}
    for role, split in ((role, split) for role, split in named.items() if split is not None):
        rows = sorted(found[split], key=lambda row: row[:2])
        if unknown := [row for row in rows if row[0] not in index]:
            raise InputError(f"{unknown[0][2]}: is of the class {unknown[0][0]!r}, which {assigned.train} has not")
        splits[role] = ([row[2] for row in rows], np.array([index[row[0]] for row in rows], np.int64))
    said = [f"{len(broken)} that cannot be data (pipe, device or broken link: {broken[0]})"] if broken else []
    return EventFolder(classes, splits, (*assigned.notes, *unread_note(place, unread, before=said)))


def contents(files: Sequence[EventFile], damaged: Damaged | None = None) -> Iterator[tuple[int, str, bytes]]:
    """Of every recording its row, its name for errors, and its bytes; an archive is read once, from its start.

    Files that are missing or too large are left out and told to ``damaged``, if that is there.

    Raises:
        InputError: a recording is missing, damaged or too large.
    """
    archived: defaultdict[Path, dict[str, int]] = defaultdict(dict)
    for row, file in enumerate(files):
        if file.member is not None:
            archived[file.path][file.member] = row
            continue
        content = None
        with nullcontext() if damaged is None else damaged.kept():
            content = _content(file.path)
        if content is not None:
            yield row, str(file), content
    for archive, rows in archived.items():
        for member, size, read in _each(archive):
            if member in rows:
                name = str(EventFile(archive, member))
                try:
                    content = _limited(name, size, read)
                except _DAMAGE as error:
                    raise _damaged(archive, error) from None
                yield rows.pop(member), name, content
        if rows:
            raise InputError(f"{archive}: has no {next(iter(rows))}")


def _content(path: Path) -> bytes:
    try:
        require_file(path)
        return _limited(str(path), path.stat().st_size, partial(_read_file, path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _limited(name: str, size: int, read: Callable[[int], bytes]) -> bytes:
    """The content of a recording that says to have so many bytes; ``read`` gives so many, or fewer at its end."""
    if size > RECORDING_BYTES:
        raise InputError(f"{name}: has {size} bytes; a recording may have {RECORDING_BYTES}")
    content = read(size + 1)
    if len(content) != size:
        raise InputError(
            f"{name}: says to have {size} bytes, and has {'more' if len(content) > size else len(content)}"
        )
    return content


def _read_file(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _members(place: Path, unread: list[str], broken: list[str]) -> Iterator[tuple[str, EventFile]]:
    """The name within its folder or archive, and the place, of every recording.

    Other files are put into ``unread``, and what is no file and no folder into ``broken``.

    A folder is looked at before an archive of the same name, which is then left alone.
    """
    unpacked = set()
    archives = _archives(place)
    if place.is_dir():
        listing = list_files(place)
        broken.extend("/".join(parts) for parts in listing.others)
        for parts in listing.files:
            if _is_recording(name := "/".join(parts)):
                unpacked.add(parts[0].lower())
                yield name, EventFile(place / name)
            elif place / name not in archives:
                unread.append(name)
    for archive in archives:
        split = archive.name.partition(".")[0]
        if split.lower() in unpacked:
            unread.append(archive.name)
            continue
        seen = set()
        for name, _, _ in _each(archive):
            if not _is_recording(name):
                if not any(part.startswith(HIDDEN) for part in PurePosixPath(name).parts):
                    unread.append(name)
                continue
            file = EventFile(archive, name)
            if name in seen:
                raise InputError(f"{file}: is in the archive twice")
            seen.add(name)
            named = place == archive or f"/{split}/".lower() in f"/{name}".lower()
            yield name if named else f"{split}/{name}", file


def _unpacked(place: Path) -> Iterator[str]:
    """Names of recordings below a folder, at most three levels down."""
    for pattern in (f"*{_SUFFIX}", f"*/*{_SUFFIX}", f"*/*/*{_SUFFIX}"):
        for path in place.glob(pattern):
            name = path.relative_to(place).as_posix()
            if _is_recording(name) and path.is_file():
                yield name


def _is_recording(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(HIDDEN) for part in parts if part not in (".", ".."))
    return name.endswith(_SUFFIX) and not hidden


def _archives(place: Path) -> list[Path]:
    """The archives in a folder that are named after a split, or the place itself if it is one."""
    if not place.is_dir():
        return [place] if _is_archive(place) else []
    names = {split + suffix for splits in SPLIT_NAMES.values() for split in splits for suffix in _ARCHIVES}
    return sorted(entry for entry in place.iterdir() if entry.name.lower() in names and entry.is_file())


def _is_archive(place: Path) -> bool:
    return place.name.lower().endswith(_ARCHIVES)


def _each(archive: Path) -> Iterator[tuple[str, int, Callable[[int], bytes]]]:
    """Name and size of every file in an archive, and what reads so many bytes, to be called before the next one."""
    require_file(archive)
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as opened:
                for entry in opened.infolist():
                    if not entry.is_dir():
                        _require_method(archive, entry)
                        yield entry.filename, entry.file_size, partial(_read_entry, opened, entry)
        else:
            with _unpacking(archive) as file, tarfile.open(fileobj=cast("Any", _Bounded(file)), mode="r:") as stream:
                while (member := stream.next()) is not None:
                    cast("Any", stream).members.clear()  # which tarfile keeps for nobody
                    if member.isreg():
                        yield member.name, member.size, partial(_read_member, stream, member)
    except _DAMAGE as error:
        raise _damaged(archive, error) from None


def _unpacking(archive: Path) -> IO[bytes]:
    return archive.open("rb") if archive.suffix.lower() == ".tar" else cast("IO[bytes]", gzip.open(archive))


class _Bounded:
    """A stream for ``tarfile``, which reads as much as headers say.

    Gives no more than a recording may have before it is sent elsewhere, as it is for the next member or a content.
    """

    name = None

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, RECORDING_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"its headers say {size} bytes; expected at most {RECORDING_BYTES}")
        return self.file.read(size)

    def seek(self, place: int) -> int:
        if place > ARCHIVE_BYTES:
            raise tarfile.ReadError(f"it has more than {ARCHIVE_BYTES} bytes unpacked")
        self.left = RECORDING_BYTES + tarfile.RECORDSIZE
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


def _require_method(archive: Path, entry: zipfile.ZipInfo) -> None:
    if entry.compress_type not in _ZIP_METHODS:
        name = EventFile(archive, entry.filename)
        raise InputError(f"{name}: is compressed by method {entry.compress_type}; expected 0 (stored) or 8 (deflated)")


def _read_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> bytes:
    with opened.open(entry) as file:
        return file.read(size)  # of a member that is larger than it says no more than this is unpacked


def _read_member(stream: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    file = stream.extractfile(member)
    assert file is not None  # a regular file has content
    return file.read(size)


def _damaged(archive: Path, error: Exception) -> InputError:
    return InputError(f"{archive}: cannot be read as an archive: {reason_of(error)}")
