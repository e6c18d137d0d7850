"""How large a single thing among the data may be: what a file says of its size is a claim, and is not taken for it.

A bound is compared with the claim first, and counted again while reading. docs/data.md states them all.
"""

from __future__ import annotations

from pathlib import Path

from litesnn.errors import InputError

__all__ = [
    "ARCHIVE_BYTES",
    "ARRAY_BYTES",
    "IMAGE_PIXELS",
    "RECORDING_BYTES",
    "SOUND_RATES",
    "SOUND_SAMPLES",
    "require_file",
]

ARRAY_BYTES = 2**34
"""Of one array in memory."""

IMAGE_PIXELS = 2**26
"""Width times height of an image."""

SOUND_RATES = (100, 500_000)
"""Least and most samples per second of a recording."""

SOUND_SAMPLES = 2**27
"""Of a recording, in all its channels, as it lies there and at the rate that is asked for."""

RECORDING_BYTES = 5 * 2**22
"""Of an event recording, so 2^22 events; one of N-MNIST has about 20,000 bytes."""

ARCHIVE_BYTES = 2**36
"""Of an archive of event recordings, unpacked."""


def require_file(path: Path | str, name: str | None = None) -> None:
    """Raise ``InputError`` unless a path is that of a regular file: others may never end, or wait for ever."""
    path, name = Path(path), name or str(path)
    if not path.exists():
        raise InputError(f"{name}: no such file or folder")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise InputError(f"{name}: is {what}; expected a file")
