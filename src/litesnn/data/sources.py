"""Where data comes from: one name in, training, validation and test tensors out.

In: :class:`DataSettings`. Out: :class:`Data`, with inputs [N, C, H, W] (uint8 images, or float32 arrays) and labels
int64 [N] counted from 0. Sound becomes arrays: its log-mel features. Recordings of event cameras become frames of uint8
counts [N, T, C, H, W], one for each timestep. The table :data:`SOURCES` says which reader takes which name.

The rows of the three splits are fixed by the data alone, not by a training seed, and never overlap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from litesnn.data.arrays import as_inputs, as_labels, read_npz, resize_arrays
from litesnn.data.audio import AUDIO_SUFFIXES, Clip, Recordings, Sound, decode
from litesnn.data.event_files import find_events, is_events
from litesnn.data.events import read_frames
from litesnn.data.images import Encoded, decode_images
from litesnn.data.speech_commands import SILENCE, is_speech_commands, read_commands
from litesnn.data.splits import IntArray, stratified_cut, stratified_limit
from litesnn.errors import InputError
from litesnn.extras import need
from litesnn.front_end import EventFrames, FrontEnd, InputKind, LogMel

__all__ = ["SOURCES", "Data", "DataSettings", "FrontEnds", "Source", "Split", "load"]

Shape = tuple[int, int, int]

_IMAGE_NAMES = ("image", "img", "x")
_AUDIO_NAMES = ("audio",)
_LABEL_NAMES = ("label", "labels", "fine_label", "y", "target")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_EXPECTED = (
    "expected 'digits', an .npz file, a folder of parquet files or images, the folder of Speech Commands, event "
    "recordings (.bin) in Train and Test or their archives, or the name of a data set on the Hugging Face hub"
)


@dataclass(frozen=True)
class FrontEnds:
    """What recordings become: sound its features, events so many frames (a frame for each of ``timesteps``)."""

    audio: LogMel = field(default_factory=LogMel)
    events: EventFrames = field(default_factory=EventFrames)
    timesteps: int = 1


_DEFAULTS = FrontEnds()


class DataSettings(BaseModel):
    """Which data set, which of its rows, and how large its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        default="digits", min_length=1, description=f"the data set: {_EXPECTED.removeprefix('expected ')}"
    )
    train_limit: int | None = Field(
        default=None,
        ge=1,
        description="use only this many training rows, evenly from all classes; validation is cut from them",
    )
    test_limit: int | None = Field(
        default=None, ge=1, description="use only this many test rows, evenly from all classes"
    )
    validation_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the training rows set aside for the search, where the data has no own",
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="share of all rows set aside for the test, where the data has no test rows"
    )
    image_column: str | None = Field(default=None, description="column with the images; found by itself if left out")
    audio_column: str | None = Field(default=None, description="column with the sound; found by itself if left out")
    label_column: str | None = Field(default=None, description="column with the labels; found by itself if left out")
    size: int | None = Field(default=None, ge=1, description="rescale images to this many pixels in height and width")
    commands: Literal[12, 35] | None = Field(
        default=None,
        description="classes of Speech Commands: 12 (ten words, silence, unknown) or 35 (all words); "
        "its folder is read so, other data must have so many",
    )


@dataclass(frozen=True, eq=False)
class Split:
    """Rows: inputs x and labels y int64 [N].

    x is [N, C, H, W], uint8 for images and float32 for arrays, or [N, T, C, H, W], uint8 for events. ``sound`` is what
    x was computed from, if that was sound.
    """

    x: Tensor
    y: Tensor
    sound: Sound | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, split. ``mean`` and ``std`` are those of each channel over the training rows, in raw units.

    A channel that is constant has a std of 1, so that normalising is defined. Events have those of their front end.
    ``notes`` says in one line each what a reader of results should know about the splits. ``front_end`` says what
    recordings have become. ``shape`` is [C, H, W], of each frame if there are several.
    """

    name: str
    classes: tuple[str, ...]
    shape: Shape
    kind: InputKind
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    validation: Split
    read_test: Callable[[], Split] = field(repr=False)
    notes: tuple[str, ...] = ()
    front_end: FrontEnd | None = None

    def test(self) -> Split:
        """The test rows. They are read and decoded now, not before, so that nothing earlier can depend on them.

        Raises:
            InputError: the test rows are damaged, or do not fit the training rows.
        """
        return self.read_test()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows not decoded yet. ``read(rows, shape)`` gives the inputs [len(rows), C, H, W] of some of them.

    ``shape`` is the shape of the training inputs, or None while those are read themselves. ``recordings`` gives some of
    the rows as sound, if they are.
    """

    labels: IntArray
    read: Callable[[IntArray, Shape | None], Tensor]
    recordings: Callable[[IntArray], Recordings] | None = None

    def take(self, rows: IntArray) -> _Rows:
        recordings = self.recordings
        return _Rows(
            self.labels[rows],
            lambda wanted, shape: self.read(rows[wanted], shape),
            recordings and (lambda wanted: recordings(rows[wanted])),
        )

    def split(self, shape: Shape | None, noise: Callable[[], Tensor] | None = None) -> Split:
        rows = np.arange(len(self.labels))
        sound = self.recordings and Sound(self.recordings(rows), noise)
        return Split(self.read(rows, shape), torch.from_numpy(self.labels), sound)


@dataclass(frozen=True, eq=False)
class _Opened:
    """What a reader finds. A ``validation`` or ``test`` of None is to be cut from the training rows.

    ``noise`` gives background noise int16 [any]; without it the training rows of the class ``_silence_`` are.
    """

    classes: tuple[str, ...]
    kind: InputKind
    train: _Rows
    validation: _Rows | None = None
    test: Callable[[], _Rows] | None = None
    notes: tuple[str, ...] = ()
    front_end: FrontEnd | None = None
    noise: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Source:
    """A row of :data:`SOURCES`: ``read`` opens every data set whose name ``takes`` accepts.

    Only in ``tables`` do settings name columns.
    """

    name: str
    takes: Callable[[str], bool]
    read: Callable[[DataSettings, FrontEnds], _Opened]
    tables: bool = False


def load(settings: DataSettings, front_ends: FrontEnds = _DEFAULTS) -> Data:
    """Read the training and validation rows of a data set; the test rows wait for :meth:`Data.test`.

    Where the data set has no test rows, they are cut from all rows, stratified. Then ``train_limit`` applies, and
    what rests is cut into training and validation rows, unless the data set has a test and a validation split of
    its own. ``front_ends`` say what recordings become.

    Raises:
        InputError: the data set is missing, damaged or not understood, or a class has too few rows.
    """
    source = next((source for source in SOURCES if source.takes(settings.source)), None)
    if source is None:
        raise InputError(f"{settings.source!r} is not a data set; {_EXPECTED}")
    for key in ("image_column", "audio_column", "label_column"):
        if getattr(settings, key) is not None and not source.tables:
            raise InputError(f"{settings.source}: data.{key} names a column of a table, but this is none")
    opened = source.read(settings, front_ends)
    if settings.size is not None and opened.kind != "image":
        found = {"events": "events", "array": "real numbers" if opened.front_end is None else "sound"}[opened.kind]
        raise InputError(f"{settings.source}: data.size rescales images of type uint8, but this holds {found}")
    if settings.commands not in (None, len(opened.classes)):
        raise InputError(
            f"{settings.source}: has {len(opened.classes)} classes, but data.commands is {settings.commands}; only the "
            "folder of Speech Commands can be read either way"
        )
    _check_labels(opened.train.labels, opened.classes, f"{settings.source}: training rows")

    train, read_test_rows = opened.train, opened.test
    if read_test_rows is None:
        rest, cut = stratified_cut(train.labels, settings.test_fraction)
        test_rows = train.take(cut)
        train, read_test_rows = train.take(rest), lambda: test_rows
    if settings.train_limit is not None:
        train = train.take(stratified_limit(train.labels, settings.train_limit))
    _check_classes(train.labels, opened, settings, least=2)
    validation = opened.validation
    if validation is None:
        rest, cut = stratified_cut(train.labels, settings.validation_fraction)
        train, validation = train.take(rest), train.take(cut)
    else:
        _check_labels(validation.labels, opened.classes, f"{settings.source}: validation rows")
        _check_classes(validation.labels, opened, settings, least=1, what="validation")

    noise = _noise(opened, train)
    train_split = train.split(None, noise)
    shape = _shape(train_split.x)
    mean, std = _normalisation(opened, train_split.x)

    def read_test() -> Split:
        rows = read_test_rows()
        _check_labels(rows.labels, opened.classes, f"{settings.source}: test rows")
        if settings.test_limit is not None:
            rows = rows.take(stratified_limit(rows.labels, settings.test_limit))
        return _fitting(rows.split(shape), train_split, f"{settings.source}: test rows")

    return Data(
        name=_name(settings.source),
        classes=opened.classes,
        shape=shape,
        kind=opened.kind,
        mean=mean,
        std=std,
        train=train_split,
        validation=_fitting(validation.split(shape, noise), train_split, f"{settings.source}: validation rows"),
        read_test=read_test,
        notes=opened.notes,
        front_end=opened.front_end,
    )


def _noise(opened: _Opened, train: _Rows) -> Callable[[], Tensor] | None:
    """Background noise for training: the data set's own, else what its class of silence holds."""
    if opened.noise is not None or train.recordings is None or SILENCE not in opened.classes:
        return opened.noise
    recordings = train.recordings(np.flatnonzero(train.labels == opened.classes.index(SILENCE)))
    return lambda: recordings.clips().flatten()


def _check_labels(labels: IntArray, classes: tuple[str, ...], origin: str) -> None:
    if len(classes) < 2:
        raise InputError(f"{origin}: have {len(classes)} class{'es' * (len(classes) != 1)}; at least 2 are needed")
    if len(labels) == 0:
        raise InputError(f"{origin}: there are none")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        hidden = " (-1 usually means that labels are withheld)" if labels[wrong[0]] == -1 else ""
        raise InputError(
            f"{origin}: {len(wrong)} of {len(labels)} labels are outside 0 to {len(classes) - 1}, "
            f"the first is {labels[wrong[0]]} in row {wrong[0]}{hidden}"
        )


def _check_classes(
    labels: IntArray, opened: _Opened, settings: DataSettings, *, least: int, what: str = "training"
) -> None:
    things = "images" if opened.kind == "image" else "inputs"
    counts = np.bincount(labels, minlength=len(opened.classes))
    for name, count in zip(opened.classes, counts, strict=True):
        if count < least:
            found = f"no {what} {things}" if count == 0 else f"only {count} of the {least} {what} {things} it needs"
            limited = what == "training" and settings.train_limit is not None
            cause = f" within data.train_limit = {settings.train_limit}" if limited else ""
            raise InputError(f"{settings.source}: class {name!r} has {found}{cause}")


def _fitting(split: Split, train: Split, origin: str) -> Split:
    if split.x.shape[1:] != train.x.shape[1:] or split.x.dtype != train.x.dtype:
        found, expected = [f"{list(x.shape[1:])} of type {x.dtype}" for x in (split.x, train.x)]
        raise InputError(f"{origin}: inputs are {found}, but the training rows are {expected}")
    return split


def _shape(x: Tensor) -> Shape:
    channels, height, width = x.shape[-3:]
    return channels, height, width


def _normalisation(opened: _Opened, x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of the training rows x or as the front end says."""
    front_end = opened.front_end
    return (front_end.mean, front_end.std) if isinstance(front_end, EventFrames) else _channel_stats(x)


def _channel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x [N, C, H, W], in float64 and channel by channel (memory)."""
    means, stds = [], []
    for channel in x.unbind(1):  # [N, H, W]
        std, mean = torch.std_mean(channel.double(), correction=0)
        means.append(mean.item())
        stds.append(std.item() or 1.0)
    return tuple(means), tuple(stds)


# --- readers: one function per kind of source ---


def _read_digits(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """The 1797 digits of 8 × 8 pixels that come with scikit-learn; their grey levels 0 to 16 become 0 to 255."""
    bunch = need("sklearn.datasets", package="scikit-learn", extra="demo").load_digits()
    x = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # [N, 1, 8, 8]
    classes = tuple(str(name) for name in bunch.target_names)
    return _Opened(classes, "image", _array_rows(x, bunch.target.astype(np.int64), settings))


def _read_npz(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """A file with x [N, C, H, W] or [N, H, W] and labels y [N]; if it has x_test and y_test, those are the test.

    ``classes`` may name the classes; without it they are called 0, 1, … up to the largest label of y.
    """
    path = Path(settings.source).expanduser()
    arrays, names = read_npz(path, {"x", "y", "classes"})
    for needed in ("x", "y"):
        if needed not in arrays:
            raise InputError(f"{path}: has no array {needed}; it holds {', '.join(sorted(names)) or 'nothing'}")
    has_test = "x_test" in names
    if has_test != ("y_test" in names):
        raise InputError(f"{path}: has only one of x_test and y_test; expected both or neither")
    x = as_inputs(arrays["x"], f"{path}: x")
    y = as_labels(arrays["y"], len(x), f"{path}: y")
    kind: InputKind = "image" if x.dtype == torch.uint8 else "array"
    if "classes" not in arrays:
        classes = _numbered(int(y.max()), len(y), f"{path}: y")
    elif arrays["classes"].ndim == 1 and arrays["classes"].dtype.kind == "U":
        classes = tuple(str(name) for name in arrays["classes"])
    else:
        raise InputError(f"{path}: classes must be a list of names, in the order of the labels")

    def test() -> _Rows:
        found, _ = read_npz(path, {"x_test", "y_test"})
        x_test = as_inputs(found["x_test"], f"{path}: x_test")
        return _array_rows(x_test, as_labels(found["y_test"], len(x_test), f"{path}: y_test"), settings)

    return _Opened(classes, kind, _array_rows(x, y, settings), test=test if has_test else None)


def _read_commands(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """The folder of Google Speech Commands as its authors publish it; see :mod:`litesnn.data.speech_commands`."""
    found, audio = read_commands(Path(settings.source).expanduser(), settings.commands), front_ends.audio

    def rows(split: str) -> _Rows:
        clips, labels = found.splits[split]
        return _sound_rows(lambda wanted: [clips[row] for row in wanted], labels, audio)

    def noise() -> Tensor:
        return torch.from_numpy(np.concatenate([decode(clip.encoded, audio.sample_rate) for clip in found.noise]))

    validation = rows("validation")
    return _Opened(
        found.classes,
        "array",
        rows("train"),
        validation,
        test=lambda: rows("test"),
        notes=(f"validation and test are those of the lists in {settings.source}; none is cut from training",),
        front_end=audio,
        noise=noise if found.noise else None,
    )


def _read_events(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """Recordings of an event camera in ``Train`` and ``Test``, or in archives; see :mod:`litesnn.data.event_files`."""
    found = find_events(Path(settings.source).expanduser())

    def rows(split: str) -> _Rows:
        files, labels = found.splits[split]
        return _Rows(
            labels,
            lambda wanted, shape: read_frames([files[row] for row in wanted], front_ends.events, front_ends.timesteps),
        )

    return _Opened(
        found.classes,
        "events",
        rows("train"),
        test=(lambda: rows("test")) if "test" in found.splits else None,
        front_end=front_ends.events,
    )


def _read_folder(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """A folder of parquet files, or of images in one folder per class; split folders or file names are understood.

    Reads no network: a folder that exists goes before a data set of the hub with the same name. Sound in folders that
    are not those of Speech Commands is refused with a message that says so.
    """
    folder = Path(settings.source).expanduser()
    if not folder.exists():
        raise InputError(f"{settings.source}: no such file or folder")
    if not folder.is_dir():
        raise InputError(f"{settings.source}: is not a folder or an .npz file; {_EXPECTED}")
    datasets = need("datasets", package="datasets", extra="data")
    try:
        with _quiet(datasets):
            found = datasets.load_dataset(str(folder.resolve()))
    except FileNotFoundError:
        raise InputError(
            f"{settings.source}: this folder holds no parquet files, no images and no .bin recordings of events in "
            "Train/CLASS or CLASS"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if any(file.suffix.lower() in AUDIO_SUFFIXES for file in folder.rglob("*")):
            raise InputError(
                f"{settings.source}: holds sound; expected parquet files with a column 'audio', or the folder of "
                "Speech Commands with its validation_list.txt and testing_list.txt"
            ) from None
        raise InputError(f"{settings.source}: cannot be read as a data set: {_one_line(error)}") from None
    return _open_tables(found, settings, front_ends.audio, datasets)


def _read_hub(settings: DataSettings, front_ends: FrontEnds) -> _Opened:
    """A data set of the Hugging Face hub, downloaded once and kept in the cache of ``datasets``."""
    datasets = need("datasets", package="datasets", extra="data")
    name = settings.source
    try:
        found = datasets.load_dataset(name)
    except datasets.exceptions.DatasetNotFoundError:
        raise InputError(
            f"{name!r} is not on the Hugging Face hub, or is not open to you, and there is no folder of that name; "
            f"{_EXPECTED}"
        ) from None
    except ConnectionError:
        raise InputError(
            f"{name!r} is not here and the Hugging Face hub cannot be reached to look for it; {_EXPECTED}"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{name!r} of the Hugging Face hub cannot be read: {_one_line(error)}") from None
    return _open_tables(found, settings, front_ends.audio, datasets)


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or "\\" in source or _is_npz(source) or os.path.exists(source)


def _is_commands(source: str) -> bool:
    return _is_path(source) and is_speech_commands(Path(source).expanduser())


def _is_events(source: str) -> bool:
    return _is_path(source) and is_events(Path(source).expanduser())


def _is_npz(source: str) -> bool:
    return source.lower().endswith(".npz")


def _name(source: str) -> str:
    if not _is_path(source):
        return source
    path = Path(source).expanduser().resolve()
    return path.stem if _is_npz(source) else path.name


def _is_hub_name(source: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) is not None


SOURCES: tuple[Source, ...] = (
    Source("digits", lambda source: source == "digits", _read_digits),
    Source("npz", _is_npz, _read_npz),
    Source("speech commands", _is_commands, _read_commands),
    Source("events", _is_events, _read_events),
    Source("folder", _is_path, _read_folder, tables=True),
    Source("hub", _is_hub_name, _read_hub, tables=True),
)
"""Every kind of source; the first row that takes a name reads it.

A new source is one more row and its function. Sound in tables is not a source but another kind of column, beside
images.
"""


# --- rows in memory, and rows of `datasets` tables ---


def _array_rows(x: Tensor, labels: IntArray, settings: DataSettings) -> _Rows:
    def read(rows: IntArray, shape: Shape | None) -> Tensor:
        taken = x[torch.from_numpy(rows)]
        return taken if settings.size is None else resize_arrays(taken, settings.size)

    return _Rows(labels, read)


def _open_tables(found: Any, settings: DataSettings, audio: LogMel, datasets: ModuleType) -> _Opened:
    """The splits of a ``DatasetDict``, by their names."""
    splits = list(found)
    train_name = splits[0] if len(splits) == 1 else "train"
    if train_name not in splits:
        raise InputError(f"{settings.source}: has no split 'train'; it has {', '.join(splits)}")
    validation_name = next((name for name in _VALIDATION_NAMES if name in splits and name != train_name), None)
    test_name: str | None = "test" if "test" in splits and train_name != "test" else None
    notes = []
    if test_name is None and validation_name is not None:
        notes.append(f"{settings.source} has no test split: its split {validation_name!r} is the test")
        test_name, validation_name = validation_name, None
    elif validation_name is not None:
        notes.append(f"validation is the split {validation_name!r} of {settings.source}; none is cut from training")

    features = found[train_name].features
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
    classes = (
        tuple(label_feature.names)
        if isinstance(label_feature, datasets.ClassLabel)
        else _classes_of(found[train_name], label_column, settings)
    )

    def rows(split: str) -> _Rows:
        table = found[split]
        missing = {column, label_column} - set(table.column_names)
        if missing:
            raise InputError(f"{settings.source}: split {split!r} has no column {', '.join(sorted(missing))}")
        origin = f"{settings.source}: split {split!r}"
        labels = _labels_of(table, label_column, classes, origin)
        if audio_column is not None:
            fetch = _encoded_files(table, audio_column, datasets.Audio, origin, "sound")
            return _sound_rows(lambda wanted: [Clip(file) for file in fetch(wanted)], labels, audio)
        return _image_rows(_encoded_files(table, column, datasets.Image, origin, "image"), labels, settings)

    return _Opened(
        classes,
        "image" if audio_column is None else "array",
        train=rows(train_name),
        validation=rows(validation_name) if validation_name else None,
        test=(lambda: rows(test_name)) if test_name else None,
        notes=tuple(notes),
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
        if not isinstance(value, int | str):
            what = "missing" if value is None else f"of type {type(value).__name__}"
            raise InputError(f"{origin}: the label in row {row} is {what}; expected one integer or name in every row")
    return values


def _classes_of(table: Any, column: str, settings: DataSettings) -> tuple[str, ...]:
    """Class names where the data has none: the distinct strings, sorted, or the numbers from 0 to the largest."""
    values = _label_values(table, column, settings.source)
    if all(isinstance(value, str) for value in values):
        return tuple(sorted(set(values)))
    if any(isinstance(value, str) for value in values):
        raise InputError(f"{settings.source}: the labels in column {column!r} mix numbers and names")
    return _numbered(max(values, default=-1), len(values), f"{settings.source}: column {column!r}")


def _numbered(largest: int, rows: int, origin: str) -> tuple[str, ...]:
    """The names of classes that are numbers. Raises ``InputError`` for numbers that cannot be those of classes."""
    if largest >= max(rows, 1):
        raise InputError(f"{origin}: the largest label of {rows} rows is {largest}; expected classes counted from 0")
    return tuple(str(label) for label in range(largest + 1))


def _labels_of(table: Any, column: str, classes: tuple[str, ...], origin: str) -> IntArray:
    values = _label_values(table, column, origin)
    index = {name: label for label, name in enumerate(classes)}
    unknown = next((value for value in values if isinstance(value, str) and value not in index), None)
    if unknown is not None:
        raise InputError(f"{origin}: label {unknown!r} is not among the classes of the training rows")
    return np.array([index[value] if isinstance(value, str) else value for value in values], np.int64)


def _encoded_files(
    table: Any, column: str, feature: type, origin: str, what: str
) -> Callable[[IntArray], Sequence[Encoded]]:
    """What fetches the files in rows of a column: their bytes, or records of bytes and path."""
    files = table.select_columns([column])
    if isinstance(files.features[column], feature):
        files = files.cast_column(column, feature(decode=False))

    def fetch(rows: IntArray) -> Sequence[Encoded]:
        values = files[rows.tolist()][column]
        return [_encoded(value, f"{origin}, row {row}", column, what) for value, row in zip(values, rows, strict=True)]

    return fetch


def _image_rows(fetch: Callable[[IntArray], Sequence[Encoded]], labels: IntArray, settings: DataSettings) -> _Rows:
    def read(rows: IntArray, shape: Shape | None) -> Tensor:
        size = None if settings.size is None else (settings.size, settings.size)
        return decode_images(fetch, rows, size=size, shape=shape)

    return _Rows(labels, read)


def _sound_rows(fetch: Callable[[IntArray], Sequence[Clip]], labels: IntArray, audio: LogMel) -> _Rows:
    def recordings(rows: IntArray) -> Recordings:
        return Recordings(fetch, rows, audio)

    return _Rows(labels, lambda rows, shape: recordings(rows).features(), recordings)


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:300]
