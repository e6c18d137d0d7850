"""Which files of a folder are tables for ``datasets``, and of which split each is.

In: what lies in a folder. Out: the reader of ``datasets`` and, for each split, patterns of files, none of which is left
to the guesses that ``datasets`` makes from parts of names.

A split is a folder at the top of the tables that is called one, or else what a table is called itself, as on the
Hugging Face hub: ``test.parquet``, ``test-00000-of-00002.parquet``, but not ``my_test.parquet``.
"""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from litesnn.data.listing import Listing, count_things, suffix_of, unread_note
from litesnn.data.split_names import SPLIT_NAMES, role_of
from litesnn.errors import InputError

__all__ = ["TableFiles", "find_tables"]

_READERS = {".parquet": "parquet", ".arrow": "arrow"}
_METADATA = {"image": "imagefolder", "sound": "audiofolder"}
_ORDER = list(SPLIT_NAMES)
_NUMBERED = re.compile(r"([a-z]+)([-_.]?\d[\d_.-]*(of-\d+)?)?")

_Parts = tuple[str, ...]


@dataclass(frozen=True)
class TableFiles:
    """``reader`` is a name that ``datasets.load_dataset`` takes, ``patterns`` its ``data_files``."""

    reader: str
    patterns: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()


def find_tables(found: Listing) -> TableFiles | None:
    """The tables of a folder, or ``None`` if it has none. Parquet goes before Arrow, and both before lists of files.

    Raises:
        InputError: tables lie in several folders that are no splits.
    """
    for suffix, reader in _READERS.items():
        tables = [parts for parts in found.files if suffix_of(parts[-1]) == suffix]
        if tables:
            return _tables(found, tables, reader)
    return _described(found) if found.tables() else None


def _tables(found: Listing, tables: Sequence[_Parts], reader: str) -> TableFiles:
    depth = 0
    while all(parts[: depth + 1] == tables[0][: depth + 1] and len(parts) > depth + 1 for parts in tables):
        depth += 1
    tops = sorted({parts[depth] for parts in tables if len(parts) > depth + 1})
    if strange := [top for top in tops if role_of(top) is None]:
        raise InputError(
            f"{found.folder}: has tables in {'/'.join((*tables[0][:depth], strange[0]))} and beside it; expected one "
            "data set, in one folder or in folders that are splits (train, validation, test)"
        )
    around = next((part for part in reversed(tables[0][:depth]) if role_of(part)), None)
    named: defaultdict[str, list[_Parts]] = defaultdict(list)
    for parts in tables:
        named[parts[depth] if len(parts) > depth + 1 else around or _split_of(parts[-1])].append(parts)
    nameless = named.pop("", [])
    notes: list[str] = []
    if nameless and "train" not in map(role_of, named):
        named["train"] = nameless
        if len(named) > 1:
            notes.append(f"{count_things(len(nameless), 'table')} of {found.folder} named after no split: training")
        nameless = []
    kept = {parts for rows in named.values() for parts in rows}
    said = [f"{count_things(len(nameless), 'table')} named after no split ({nameless[0][-1]})"] if nameless else []
    others = [parts[-1] for parts in found.files if parts not in kept and parts not in nameless]
    notes.extend(unread_note(found.folder, others, before=said))
    order = sorted(named, key=lambda split: (_ORDER.index(role_of(split) or "train"), split))
    folder = found.folder.resolve()
    patterns = {split: [glob.escape(str(folder.joinpath(*parts))) for parts in named[split]] for split in order}
    return TableFiles(reader, patterns, tuple(notes))


def _described(found: Listing) -> TableFiles:
    """Images or sound that ``metadata.csv`` or ``metadata.jsonl`` files describe."""
    lists = found.tables()
    tops = {parts[0] for parts in lists if len(parts) > 1 and role_of(parts[0])}
    folder = glob.escape(str(found.folder.resolve()))
    patterns = {top: [f"{folder}/{glob.escape(top)}/**"] for top in sorted(tops)} or {"train": [f"{folder}/**"]}
    inside = [parts for parts in found.files if not tops or parts[0] in tops]
    taken = {*lists, *(parts for parts in inside if parts in set(found.of(found.kind)))}
    return TableFiles(
        _METADATA[found.kind],
        patterns,
        unread_note(found.folder, [parts[-1] for parts in found.files if parts not in taken]),
    )


def _split_of(name: str) -> str:
    """The split that a table is named after, or nothing."""
    found = _NUMBERED.fullmatch(os.path.splitext(name)[0].lower())
    return found[1] if found and role_of(found[1]) else ""
