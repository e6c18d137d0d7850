"""Recordings of an event camera for tests: bytes of events, folders and archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

Event = tuple[int, int, int, int]
"""x, y, polarity, and time in µs."""


def encoded(events: Iterable[Event]) -> bytes:
    """The five bytes of each event."""
    return b"".join(bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big") for x, y, polarity, time in events)


def random_events(rng: np.random.Generator, count: int, *, size: tuple[int, int], last: int) -> list[Event]:
    """Events anywhere on H × W pixels and anywhen until ``last`` µs."""
    times = np.sort(rng.integers(0, last + 1, count))
    places = zip(
        rng.integers(0, size[1], count), rng.integers(0, size[0], count), rng.integers(0, 2, count), strict=True
    )
    return [(int(x), int(y), int(p), int(t)) for (x, y, p), t in zip(places, times, strict=True)]


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files by their names below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """The same files in a tar or zip archive, in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in files.items():
                made.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as stream:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            stream.addfile(entry, io.BytesIO(content))
    return path


def dataset(train: int = 6, test: int = 2, *, size: tuple[int, int] = (6, 5)) -> dict[str, bytes]:
    """Recordings of two classes: in "dark" nine of ten pixels become darker, in "lit" brighter."""
    rng = np.random.default_rng(0)
    files = {}
    for split, count in (("Train", train), ("Test", test)):
        for polarity, name in enumerate(("dark", "lit")):
            for number in range(count):
                events = random_events(rng, 40, size=size, last=60_000)
                turned = rng.random(len(events)) < 0.1
                rows = [(x, y, polarity ^ int(other), t) for (x, y, _, t), other in zip(events, turned, strict=True)]
                files[f"{split}/{name}/{number:05}.bin"] = encoded(rows)
    return files
