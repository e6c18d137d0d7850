"""Files that appear whole or not at all, and logs of JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litesnn.errors import InputError

__all__ = ["JsonLog", "write_atomically"]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that its name holds either the old content or all of the new one.

    Raises:
        InputError: the file cannot be written (a full disk, say); the old one is untouched and nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # an interrupt leaves nothing behind either
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        raise


class JsonLog:
    """A log of one JSON object per line, each with an ``epoch``."""

    def __init__(self, path: Path, *, keep_epochs: int = 0) -> None:
        """Open the log and drop every line after epoch ``keep_epochs``: a resumed run writes those again."""
        self.path = path
        kept = [row for row in self.read(path) if row["epoch"] <= keep_epochs] if path.exists() and keep_epochs else []
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line. Raises ``InputError`` if the file cannot be written."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines; a line that a kill cut off at the end is left out."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                rows.append(json.loads(line))
        return rows
