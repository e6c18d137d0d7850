"""Google Speech Commands in the folders in which its authors publish it (Warden, arXiv 1804.03209).

In: a folder with one folder of recordings for each word, ``_background_noise_``, ``validation_list.txt`` and
``testing_list.txt``. Out: for each split its clips and labels.

Training is what stands on neither list. With 12 classes there are ten words, ``_silence_`` and ``_unknown_``, done as
in the authors' own training program: in every split a tenth as many clips as there are of the ten words is silence, and
as many are other words, drawn by chance. Silence is a piece of background noise at a random place and volume; all
splits cut it from the same recordings. Draws depend on the folder's files alone (they are not the authors' own draws).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from litesnn.data.audio import AUDIO_SUFFIXES, Clip
from litesnn.data.images import Encoded
from litesnn.data.listing import HIDDEN, list_files, unread_note
from litesnn.data.splits import IntArray
from litesnn.errors import InputError

__all__ = ["NOISE", "SILENCE", "UNKNOWN", "WORDS", "Commands", "is_speech_commands", "read_commands"]

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE, UNKNOWN = "_silence_", "_unknown_"

NOISE = "_background_noise_"
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_SHARE = 0.1  # of silence, and of other words
_SEED = 59185  # the authors'


@dataclass(frozen=True, eq=False)
class Commands:
    """The data set: of "train", "validation" and "test" the clips and labels [N]; and files of noise, and notes."""

    classes: tuple[str, ...]
    splits: dict[str, tuple[list[Clip], IntArray]]
    noise: list[Clip]
    notes: tuple[str, ...] = ()


def is_speech_commands(folder: Path) -> bool:
    """Whether a folder has the two lists of the data set."""
    return all((folder / name).is_file() for name in _LISTS.values())


def read_commands(folder: Path, commands: int | None) -> Commands:
    """Find the clips of a folder; ``commands`` is 12, or 35 or ``None`` for all words that it has.

    Raises:
        InputError: a list is damaged, or something of what is asked for is missing.
    """
    words = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(("_", ".")))
    if commands == 35 and len(words) != 35:
        raise InputError(f"{folder}: has {len(words)} folders of words; data.commands = 35 needs 35")
    if commands == 12 and (missing := [word for word in WORDS if word not in words]):
        raise InputError(f"{folder}: has no folder {missing[0]!r}, which data.commands = 12 needs")
    listed = {split: _read_list(folder / name) for split, name in _LISTS.items()}
    if both := sorted(listed["validation"] & listed["test"]):
        raise InputError(f"{folder}: {both[0]} stands on both lists")
    found: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for word in words:
        for name in _recordings(folder / word):
            row = f"{word}/{name}"
            split = next((split for split, rows in listed.items() if row in rows), "train")
            found[split].append(row)
    for split, wanted in listed.items():
        if lost := sorted(wanted - set(found[split])):
            raise InputError(f"{folder / _LISTS[split]}: lists {lost[0]}, which is not there")
    noise = [_clip(folder, f"{NOISE}/{name}") for name in _recordings(folder / NOISE)]
    listing = list_files(folder)
    taken = {*_LISTS.values(), *(row for rows in found.values() for row in rows)}
    others = [name for name in map("/".join, (*listing.files, *listing.others)) if name not in taken]
    notes = unread_note(folder, [name for name in others if not name.startswith(f"{NOISE}/")])
    if commands != 12:
        classes = tuple(words)
        labelled = {split: _labelled(folder, rows, classes) for split, rows in found.items()}
        return Commands(classes, labelled, noise, notes)
    if not noise:
        raise InputError(f"{folder}: has no recordings in {NOISE}, from which data.commands = 12 cuts silence")
    classes = (*WORDS, SILENCE, UNKNOWN)
    splits, spare = {}, 0
    for number, (split, rows) in enumerate(found.items()):
        rng = np.random.RandomState([_SEED, number])  # whose stream numpy guarantees for ever
        known = [row for row in rows if row.partition("/")[0] in WORDS]
        others = [row for row in rows if row.partition("/")[0] not in WORDS]
        count = math.ceil(_SHARE * len(known))
        drawn = sorted(others[index] for index in rng.permutation(len(others))[:count])
        spare += len(others) - len(drawn)
        clips, labels = _labelled(folder, known + drawn, classes)
        silence = [
            Clip(noise[rng.randint(len(noise))].encoded, rng.random_sample(), rng.random_sample()) for _ in range(count)
        ]
        labels = np.concatenate([labels, np.full(count, classes.index(SILENCE))])
        splits[split] = (clips + silence, labels)
    if spare:
        notes = (*notes, f"{spare} recordings of other words not read: {UNKNOWN} gets a tenth as many as the ten words")
    return Commands(classes, splits, noise, notes)


def _labelled(folder: Path, rows: Sequence[str], classes: tuple[str, ...]) -> tuple[list[Clip], IntArray]:
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[word] if (word := row.partition("/")[0]) in index else index[UNKNOWN] for row in rows]
    return [_clip(folder, row) for row in rows], np.array(labels, np.int64)


def _clip(folder: Path, row: str) -> Clip:
    path = str(folder / row)
    return Clip(Encoded(None, path, path))


def _recordings(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    entries = (entry for entry in folder.iterdir() if entry.suffix.lower() in AUDIO_SUFFIXES)
    return sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith(HIDDEN))


def _read_list(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    for line in lines:
        if line.count("/") != 1:
            raise InputError(f"{path}: {line[:80]!r} is not understood; expected word/file")
    return set(lines)
