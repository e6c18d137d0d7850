"""Files that appear whole or not at all, text and JSON that may be damaged, and logs of JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from litesnn.errors import InputError
from litesnn.interrupts import finished_first
from litesnn.text import first_complaint, short

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["JsonLog", "parse_json", "read_text", "validated", "write_atomically"]

RecordT = TypeVar("RecordT", bound="BaseModel")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that its name holds either the old content or all of the new one; an interrupt waits for that.

    Raises:
        InputError: the file cannot be written (a full disk, say); the old one is untouched and nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with finished_first():
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:  # whatever it is, nothing is left behind
            with contextlib.suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError):
                raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
            raise


def read_text(path: Path) -> str:
    """The text of a file. Raises ``InputError`` if it is no file, cannot be read, or is not UTF-8."""
    if path.exists() and not path.is_file():  # to read a pipe might take for ever
        raise InputError(f"{path}: cannot be read: it is no file")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: cannot be read as text: {error}") from None


def parse_json(text: str, origin: str, *, where: str = "") -> Any:
    """The value of a JSON text; ``origin`` is its name in an error, and ``where`` the place in it.

    Raises:
        InputError: it is no JSON, or nested too deep, or has integers of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{origin} is damaged: {where}nested too deep") from None
    except ValueError as error:
        raise InputError(f"{origin} is damaged: {where}{' '.join(str(error).split())}") from None


def validated(record: type[RecordT], value: object, path: Path) -> RecordT:
    """The content of a file, as the record that it has to be.

    Raises:
        InputError: it is no such record; the message names the file and the key.
    """
    from pydantic import ValidationError

    try:
        return record.model_validate(value)
    except ValidationError as error:
        where, first = first_complaint(error, "its description")
        raise InputError(f"{path} is damaged: {short(where)}: {first['msg']}, not {short(first['input'])}") from None


class JsonLog:
    """A log of one JSON object per line, each with an ``epoch``."""

    def __init__(self, path: Path, *, keep_epochs: int = 0) -> None:
        """Open the log and drop every line after epoch ``keep_epochs``: a resumed run writes those again."""
        self.path = path
        kept: list[dict[str, Any]] = []
        if path.exists() and keep_epochs:
            epochs = self.numbers(path, "epoch")
            kept = [row for row, epoch in zip(self.read(path), epochs, strict=True) if epoch <= keep_epochs]
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
        """All whole lines; a line that a kill cut off at the end is left out.

        Raises:
            InputError: the file cannot be read, or a line is no object.
        """
        rows = []
        for number, line in enumerate(read_text(path).split("\n")[:-1], start=1):
            row = parse_json(line, str(path), where=f"line {number}: ")
            if not isinstance(row, dict):
                raise InputError(f"{path} is damaged: line {number}: expected an object, not {short(row)}")
            rows.append(row)
        return rows

    @staticmethod
    def numbers(path: Path, key: str) -> list[float]:
        """The finite numbers that all whole lines have under a key.

        Raises:
            InputError: as :meth:`read`, or a line has no such number.
        """
        found = []
        for number, row in enumerate(JsonLog.read(path), start=1):
            value = row.get(key)
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
                raise InputError(f"{path} is damaged: line {number}: expected a number as {key}, not {short(value)}")
            found.append(float(value))  # type: ignore[arg-type]
        return found
