"""The data of a run stay those that it was begun with: every stage looks, and refuses others.

Else a run that goes on with other data would mix two: rows that its network was trained on may have become test rows.
The run folder keeps what is compared as ``data.json`` (:mod:`litesnn.data.pin`). A run without that file, as older ones
are, gets it at its next stage.
"""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import ValidationError

from litesnn import processes
from litesnn.data.pin import DataPin, RowsPin, first_change, pin_rows, rows_change
from litesnn.data.sources import Data, Split
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.runs import RunFolder

__all__ = ["keep_pin", "pinned"]


def pinned(run: RunFolder, data: Data) -> Data:
    """The data, found to be those of the run; that its test rows are too is found when they are read.

    Of several processes the first looks, in whose folder the file is. A run without results may still get other data.

    Raises:
        InputError: they have changed since the run was begun (the message says what), or ``data.json`` is damaged.
    """
    processes.first_does(lambda: _require_same(run, data))

    def read_test() -> Split:
        test = data.read_test()
        kept = _read(run)
        if kept is not None:
            found = _rows(test)
            if kept.test is None:
                _write(run, kept.model_copy(update={"test": found}))
            elif change := rows_change(kept.test, found, "test"):
                _refuse(run, data, change)
        return test

    return replace(data, read_test=read_test)


def _require_same(run: RunFolder, data: Data) -> None:
    then = _read(run)
    if then is not None and (change := first_change(then, _pin(data))):
        _refuse(run, data, change)


def keep_pin(run: RunFolder, data: Data, *, fit: bool = False) -> None:
    """Keep what the data of a run are, if that is not kept already; they are :func:`pinned`.

    Of a run with results that has no pin, as older ones are, they are kept only when a stage has found that they
    ``fit`` these.

    Raises:
        InputError: the file cannot be written.
    """

    def keep() -> None:
        if _read(run) is None and (fit or not run.has_results(run.recipe())):
            _write(run, _pin(data))

    processes.first_does(keep)


def _read(run: RunFolder) -> DataPin | None:
    """The pin that was kept; nothing counts that is left of a run without results."""
    path = run.data_pin
    if not path.exists() or not run.has_results(run.recipe()):
        return None
    try:
        pin = DataPin.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror or error
        raise InputError(f"{path} is damaged: {reason}; without it the data are taken as they are now") from None
    if pin.version != 1:
        raise InputError(f"{path}: unknown version {pin.version}; expected 1")
    return pin


def _write(run: RunFolder, pin: DataPin) -> None:
    write_atomically(run.data_pin, json.dumps(pin.model_dump(exclude_none=True), indent=2) + "\n")


def _pin(data: Data) -> DataPin:
    return DataPin(
        kind=data.kind,
        shape=data.shape,
        classes=data.classes,
        train=_rows(data.train),
        validation=_rows(data.validation),
    )


def _rows(split: Split) -> RowsPin:
    return pin_rows(split.x, split.y, split.files)


def _refuse(run: RunFolder, data: Data, change: str) -> None:
    raise InputError(
        f"{data.name}: the data have changed since {run.path} was begun: {change}; bring the old ones back, or design "
        "anew in another folder"
    )
