"""Tables of `datasets`: parquet files in a folder, and data sets of the Hugging Face hub.

In: a folder or a name. Out: the splits with a column of encoded images or of sound, and one of labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from litesnn.data.arrays import numbered_classes
from litesnn.data.audio import Clip
from litesnn.data.images import Encoded
from litesnn.data.listing import Listing, what_lies_there
from litesnn.data.rows import Opened, Rows, image_rows, sound_rows
from litesnn.data.settings import EXPECTED, DataSettings
from litesnn.data.split_names import assign
from litesnn.data.splits import IntArray
from litesnn.data.table_files import find_tables
from litesnn.errors import InputError
from litesnn.extras import import_extra
from litesnn.front_end import LogMel
from litesnn.text import reason_of

__all__ = ["read_hub", "read_parquet"]

_IMAGE_NAMES = ("image", "img", "x")
_AUDIO_NAMES = ("audio",)
_PATIENCE = 5  # seconds until the hub has to answer
_CHUNK = 1024  # files held in memory at a time
_LABEL_NAMES = ("label", "labels", "fine_label", "y", "target")


def read_parquet(settings: DataSettings, audio: LogMel, listing: Listing) -> Opened:
    """A folder of parquet or Arrow files, or of images or sound that ``metadata.csv`` describes; reads no network.

    Raises:
        InputError: the folder holds nothing of the kind, or is damaged.
    """
    tables = find_tables(listing)
    if tables is None:
        held = what_lies_there(parts[-1] for parts in listing.files)
        raise InputError(
            f"{settings.source}: this folder holds no parquet files, no class folders of images or of sound, and no "
            f".bin recordings of events in Train/CLASS or CLASS, but {held}"
        )
    datasets = import_extra("datasets", package="datasets", extra="data")
    try:
        with _quiet(datasets):
            found = datasets.load_dataset(tables.reader, data_files=dict(tables.patterns))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{settings.source}: cannot be read as a data set: {_reason(error)}") from None
    return _open_tables(found, settings, audio, datasets, tables.notes)


def read_hub(settings: DataSettings, audio: LogMel) -> Opened:
    """A data set of the Hugging Face hub, downloaded once and kept in the cache of ``datasets``.

    Where the hub does not answer within seconds, only the cache is looked at.
    """
    datasets = import_extra("datasets", package="datasets", extra="data")
    name = settings.source
    try:
        with nullcontext() if _hub_answers(name) else _offline(datasets):
            found = datasets.load_dataset(name)
    except datasets.exceptions.DatasetNotFoundError:
        raise InputError(
            f"{name!r} is not on the Hugging Face hub, or is not open to you, and there is no folder of that name; "
            f"{EXPECTED}"
        ) from None
    except ConnectionError:
        raise InputError(
            f"{name!r} is not here and the Hugging Face hub cannot be reached to look for it; {EXPECTED}"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{name!r} of the Hugging Face hub cannot be read: {_reason(error)}") from None
    return _open_tables(found, settings, audio, datasets)


def _hub_answers(name: str) -> bool:
    """Whether the hub says anything of a data set, asked once: ``datasets`` would ask for half a minute."""
    hub = import_extra("huggingface_hub", package="datasets", extra="data")
    try:
        hub.HfApi().dataset_info(name, timeout=_PATIENCE)
    except hub.errors.HfHubHTTPError:  # an answer, if not a good one: datasets says what it means
        return True
    except Exception:  # whatever the HTTP library of this version of the hub's client raises
        return False
    return True


@contextmanager
def _offline(datasets: ModuleType) -> Iterator[None]:
    """Let ``datasets`` and the client of the hub ask nobody."""
    places: tuple[Any, ...] = (
        datasets.config,
        import_extra("huggingface_hub.constants", package="datasets", extra="data"),
    )
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _open_tables(
    found: Any, settings: DataSettings, audio: LogMel, datasets: ModuleType, notes: Sequence[str] = ()
) -> Opened:
    """The splits of a ``DatasetDict``, by their names."""
    splits = assign(found, settings.source)
    features = found[splits.train].features
    image_column = _image_column(features, settings, datasets)
    audio_column = _audio_column(features, settings, datasets) if image_column is None else None
    column = image_column or audio_column
    if column is None:
        raise InputError(
            f"{settings.source}: no image column found among {', '.join(features)}; set data.image_column, or "
            "data.audio_column for sound"
        )
    label_column = _label_column(features, settings, datasets)
    label_feature = features[label_column]
    classes, first = (
        (tuple(label_feature.names), 0)
        if isinstance(label_feature, datasets.ClassLabel)
        else _classes_of(found[splits.train], label_column, settings)
    )

    def rows(split: str) -> Rows:
        table = found[split]
        missing = {column, label_column} - set(table.column_names)
        if missing:
            raise InputError(f"{settings.source}: split {split!r} has no column {', '.join(sorted(missing))}")
        origin = f"{settings.source}: split {split!r}"
        labels = _labels_of(table, label_column, classes, first, origin)
        if audio_column is not None:
            fetch, paths = _encoded_files(table, audio_column, datasets.Audio, origin, "sound")
            return sound_rows(lambda wanted: [Clip(file) for file in fetch(wanted)], labels, audio, paths)
        fetch, paths = _encoded_files(table, column, datasets.Image, origin, "image")
        return image_rows(fetch, labels, settings, paths)

    return Opened(
        classes,
        "image" if audio_column is None else "array",
        train=rows(splits.train),
        validation=rows(splits.validation) if splits.validation else None,
        test=None if splits.test is None else partial(rows, splits.test),
        notes=(*splits.notes, *notes),
        front_end=None if audio_column is None else audio,
    )


def _image_column(features: Any, settings: DataSettings, datasets: ModuleType) -> str | None:
    if settings.image_column is not None:
        return _named_column(features, settings.image_column, "image_column", settings)
    if settings.audio_column is not None:
        return None
    images: list[str] = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) > 1:
        raise InputError(f"{settings.source}: has several image columns ({', '.join(images)}); set data.image_column")
    named = [name for name in _IMAGE_NAMES if name in features]
    return next(iter(images or named), None)


def _audio_column(features: Any, settings: DataSettings, datasets: ModuleType) -> str | None:
    if settings.audio_column is not None:
        return _named_column(features, settings.audio_column, "audio_column", settings)
    sounds: list[str] = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    if len(sounds) > 1:
        raise InputError(f"{settings.source}: has several audio columns ({', '.join(sounds)}); set data.audio_column")
    named = [name for name in _AUDIO_NAMES if name in features]
    return next(iter(sounds or named), None)


def _label_column(features: Any, settings: DataSettings, datasets: ModuleType) -> str:
    if settings.label_column is not None:
        return _named_column(features, settings.label_column, "label_column", settings)
    typed: list[str] = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(typed) == 1:
        return typed[0]
    for name in _LABEL_NAMES:
        if name in (typed or features):
            return name
    raise InputError(
        f"{settings.source}: no label column found among {', '.join(features)}; set data.label_column, "
        "or for a folder of images, sort them into one folder for each of at least 2 classes"
    )


def _named_column(features: Any, name: str, key: str, settings: DataSettings) -> str:
    if name not in features:
        raise InputError(f"{settings.source}: data.{key} is {name!r}, but the columns are {', '.join(features)}")
    return name


def _label_values(table: Any, column: str, origin: str) -> list[Any]:
    values: list[Any] = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    for row, value in enumerate(values):
        if isinstance(value, float) and value.is_integer():
            values[row] = int(value)
        elif not isinstance(value, int | str):
            what = "missing" if value is None else f"of type {type(value).__name__}"
            raise InputError(f"{origin}: the label in row {row} is {what}; expected one integer or name in every row")
    return values


def _classes_of(table: Any, column: str, settings: DataSettings) -> tuple[tuple[str, ...], int]:
    """Class names where the data has none, and the first number: the strings, sorted, or the numbers from 0 or 1 on."""
    values = _label_values(table, column, settings.source)
    if all(isinstance(value, str) for value in values):
        return tuple(sorted(set(values))), 0
    if any(isinstance(value, str) for value in values):
        raise InputError(f"{settings.source}: the labels in column {column!r} mix numbers and names")
    return numbered_classes(np.array(values, np.int64), f"{settings.source}: column {column!r}")


def _labels_of(table: Any, column: str, classes: tuple[str, ...], first: int, origin: str) -> IntArray:
    values = _label_values(table, column, origin)
    index = {name: label for label, name in enumerate(classes)}
    unknown = next((value for value in values if isinstance(value, str) and value not in index), None)
    if unknown is not None:
        raise InputError(f"{origin}: label {unknown!r} is not among the classes of the training rows")
    return np.array([index[value] if isinstance(value, str) else value - first for value in values], np.int64)


def _encoded_files(
    table: Any, column: str, feature: type, origin: str, what: str
) -> tuple[Callable[[IntArray], Sequence[Encoded]], Callable[[], Sequence[str | None]]]:
    """Fetch the files in rows of a column, as bytes or records of bytes and path; and the names of all files."""
    files = table.select_columns([column])
    if isinstance(files.features[column], feature):
        files = files.cast_column(column, feature(decode=False))

    def fetch(rows: IntArray) -> Sequence[Encoded]:
        values = files[rows.tolist()][column]
        return [_encoded(value, f"{origin}, row {row}", column, what) for value, row in zip(values, rows, strict=True)]

    def paths() -> Sequence[str | None]:
        names: list[str | None] = []
        for start in range(0, len(files), _CHUNK):
            names.extend(encoded.path for encoded in fetch(np.arange(start, min(start + _CHUNK, len(files)))))
        return names

    return fetch, paths


def _encoded(value: Any, name: str, column: str, what: str) -> Encoded:
    if isinstance(value, bytes):
        return Encoded(value, None, name)
    if value is None or (isinstance(value, dict) and value.keys() == {"bytes", "path"}):
        content, path = (value["bytes"], value["path"]) if value else (None, None)
        # Files inside an archive keep only a name, which is no path: their bytes count.
        return Encoded(content, path, f"{name} ({os.path.basename(path)})" if path else name)
    raise InputError(f"{name}: column {column!r} holds {type(value).__name__} values; expected {what} files as bytes")


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """No progress bars or log lines of ``datasets``: reading local files is quick, and errors are ours to tell."""
    verbosity, bars_off = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars_off:
            datasets.enable_progress_bars()


def _reason(error: Exception) -> str:
    """The cause of an error, of which ``datasets`` itself only says that something did."""
    return reason_of(error.__cause__ or error)
