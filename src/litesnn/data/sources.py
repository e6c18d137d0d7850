"""Where data comes from: one name in, training, validation and test tensors out.

In: :class:`DataSettings`. Out: :class:`Data`, with inputs [N, C, H, W] (uint8 images, or float32 arrays) and labels
int64 [N] counted from 0. Sound becomes arrays: its log-mel features. Recordings of event cameras become frames of uint8
counts [N, T, C, H, W], one for each timestep. The table :data:`SOURCES` says which reader takes which name.

The rows of the three splits are fixed by the data alone, not by a training seed, and never overlap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from litesnn.data.arrays import as_inputs, as_labels, find_arrays, layout_note, numbered_classes
from litesnn.data.audio import Clip, Sound, decode
from litesnn.data.class_folders import LabelledFiles, count_files, find_class_folders
from litesnn.data.damaged import DamagedFilesError
from litesnn.data.event_files import EventFile, find_events, is_events
from litesnn.data.events import check_events, read_frames
from litesnn.data.file_lists import is_file_list, read_file_list
from litesnn.data.idx_files import find_idx, read_idx
from litesnn.data.images import Encoded, MixedSizesError, fitting_size, image_sizes
from litesnn.data.listing import TABLES, Listing, advice_for, count_things, list_files, suffix_of
from litesnn.data.numpy_files import read_npz
from litesnn.data.rows import Opened, Rows, Shape, array_rows, find_groups, image_rows, sound_rows
from litesnn.data.settings import EXPECTED, DataSettings, FrontEnds
from litesnn.data.speech_commands import SILENCE, is_speech_commands, read_commands
from litesnn.data.split_names import Role, assign, role_of
from litesnn.data.splits import IntArray, grouped_cut, stratified_cut, stratified_limit
from litesnn.data.tables import read_hub, read_parquet
from litesnn.errors import InputError
from litesnn.extras import import_extra
from litesnn.front_end import EventFrames, FrontEnd, InputKind
from litesnn.input_spec import InputSpec
from litesnn.text import shape_text

__all__ = [
    "SOURCES",
    "Data",
    "DataSettings",
    "FrontEnds",
    "Parts",
    "Source",
    "Split",
    "UnreadTest",
    "load",
    "open_source",
    "open_test",
    "part",
]

_DEFAULTS = FrontEnds()
_SHOWN_CLASSES = 5
_CHECKED = 1024  # files that are looked at together
_COLOUR_SAMPLE = 500  # images that are looked at
_CLASS_NAMES = ("classes", "class_names")  # of an .npz file
_GREY = 3.0  # of 256 levels; what JPEG files make of grey images is less


@dataclass(frozen=True, eq=False)
class Split:
    """Rows: inputs x and labels y int64 [N].

    x is [N, C, H, W], uint8 for images and float32 for arrays, or [N, T, C, H, W], uint8 for events. ``sound`` is what
    x was computed from, if that was sound. ``files`` gives the files of some rows, where there are files.
    """

    x: Tensor
    y: Tensor
    sound: Sound | None = None
    files: Callable[[IntArray], Sequence[Encoded | EventFile]] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Split({shape_text(self.x.shape[1:])}, {len(self.y)} rows)"


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
    count_test: Callable[[], int] = field(repr=False)
    """How many test rows there are, of which none is decoded: for estimates of time alone."""
    notes: tuple[str, ...] = ()
    front_end: FrontEnd | None = None
    check_test: Callable[[], None] = field(default=lambda: None, repr=False)
    """Raises ``InputError`` if files of test rows are seen to be damaged, without decoding what is whole."""

    @property
    def input(self) -> InputSpec:
        """The input of a network of these data."""
        return InputSpec(self.shape, self.kind, self.mean, self.std, self.front_end)

    def __repr__(self) -> str:
        shape = shape_text(self.shape)
        rows = f"{len(self.train.y)} training and {len(self.validation.y)} validation rows"
        return f"Data({self.name!r}, {shape} {self.kind} → {len(self.classes)} classes, {rows})"

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """How many training rows each class has."""
        return tuple(torch.bincount(self.train.y, minlength=len(self.classes)).tolist())

    @cached_property
    def colour(self) -> bool:
        """Whether the inputs are images of which at least every twentieth is in colour, not three equal channels."""
        if self.kind != "image" or self.shape[0] != 3:
            return False
        x = self.train.x[:: max(1, len(self.train.x) // _COLOUR_SAMPLE)].float()
        apart = (x.amax(1) - x.amin(1)).flatten(1).mean(1)  # grey levels between the channels of a pixel
        return bool((apart > _GREY).float().mean() >= 1 / 20)

    def test(self) -> Split:
        """The test rows. They are read and decoded now, not before, so that nothing earlier can depend on them.

        Raises:
            InputError: the test rows are damaged, or do not fit the training rows.
        """
        return self.read_test()


@dataclass(frozen=True)
class Source:
    """A row of :data:`SOURCES`: ``read`` opens every data set whose name ``takes`` accepts.

    Only in ``tables`` do settings name columns.
    """

    name: str
    takes: Callable[[str], bool]
    read: Callable[[DataSettings, FrontEnds], Opened]
    tables: bool = False


def open_source(settings: DataSettings, front_ends: FrontEnds = _DEFAULTS) -> Opened:
    """Find what a data set holds, without decoding anything but arrays.

    Raises:
        InputError: the data set is missing, damaged or not understood, or a setting does not fit it.
    """
    source = next((source for source in SOURCES if source.takes(settings.source)), None)
    if source is None:
        raise InputError(f"{settings.source!r} is not a data set; {EXPECTED}")
    if not source.tables:
        _require_no_columns(settings)
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
    return opened


@dataclass(frozen=True, eq=False)
class Parts:
    """The rows of each split, none decoded; the test rows are not even looked for before they are asked for."""

    train: Rows
    validation: Rows
    test: Callable[[], Rows]
    notes: tuple[str, ...]


def part(opened: Opened, settings: DataSettings) -> Parts:
    """Which rows are training, validation and test, by labels, and names of files if there is a pattern for groups.

    Raises:
        InputError: a class has too few rows, or there are no groups to cut.
    """
    groups, notes = _groups(opened, settings)

    def cut(rows: IntArray, fraction: float, what: str) -> tuple[IntArray, IntArray]:
        labels = opened.train.labels[rows]
        if groups is None:
            rest, cut = stratified_cut(labels, fraction)
        else:
            rest, cut = grouped_cut(labels, groups[rows], fraction)
            if len(cut) == 0:
                count = len(np.unique(groups[rows]))
                raise InputError(
                    f"{settings.source}: data.group_pattern finds {count} of the 2 or more groups that it takes to set "
                    f"some aside for {what}"
                )
        return rows[rest], rows[cut]

    rows, read_test = np.arange(len(opened.train.labels)), opened.test
    if read_test is None:
        rows, tested = cut(rows, settings.test_fraction, "the test")
        read_test = partial(opened.train.take, tested)
    if settings.train_limit is not None:
        rows = rows[stratified_limit(opened.train.labels[rows], settings.train_limit)]
    _check_classes(opened.train.labels[rows], opened, settings, least=2)
    validation = opened.validation
    if validation is None:
        rows, held_out = cut(rows, settings.validation_fraction, "validation")
        validation = opened.train.take(held_out)
    else:
        _check_labels(validation.labels, opened.classes, f"{settings.source}: validation rows")
        _check_classes(validation.labels, opened, settings, least=1, what="validation")
    return Parts(opened.train.take(rows), validation, read_test, (*opened.notes, *notes))


def _groups(opened: Opened, settings: DataSettings) -> tuple[IntArray | None, tuple[str, ...]]:
    """The groups of the training rows, if some of them are to be cut off by group, and notes about them."""
    pattern = settings.group_pattern
    if pattern is None:
        return None, ()
    if opened.test is not None and opened.validation is not None:
        raise InputError(
            f"{settings.source}: data.group_pattern says how a test or validation is cut, but this data has its own"
        )
    if opened.train.paths is None:
        raise InputError(f"{settings.source}: data.group_pattern is for files with names, but this holds arrays")
    groups, notes = find_groups(opened.train.paths(), pattern, settings.source)
    if opened.test is not None:
        notes = (*notes, "data.group_pattern parts validation from training; the test is the data's own")
    return groups, notes


def load(settings: DataSettings, front_ends: FrontEnds = _DEFAULTS) -> Data:
    """Read the training and validation rows of a data set; the test rows wait for :meth:`Data.test`.

    Where the data set has no test rows, they are cut from all rows, stratified, and by groups if there is a pattern for
    them. Then ``train_limit`` applies, and what rests is cut into training and validation rows, unless the data set has
    a test and a validation split of its own. ``front_ends`` say what recordings become.

    Images of mixed sizes are rescaled to one that fits the training images, and a note says so, unless
    ``settings.size`` says what they are rescaled to.

    Raises:
        InputError: the data set is missing, damaged or not understood, or a class has too few rows.
    """
    opened = open_source(settings, front_ends)
    parts = part(opened, settings)
    noise, size, notes = _noise(opened, parts.train), None, parts.notes
    with _others_looked_at(parts, lambda: parts.validation, parts.test):
        try:
            train = _split(parts.train, None, None, noise)
        except MixedSizesError:
            size, note = _common_size(parts.train)
            notes = (*notes, note)
            train = _split(parts.train, None, size, noise)
    shape = _shape(train.x)
    with _others_looked_at(parts, parts.test):
        validation = _split(parts.validation, shape, size, noise)
    mean, std = _normalisation(opened, train.x)

    def find_test() -> Rows:
        return _test_rows(opened, parts, settings)

    def read_test() -> Split:
        rows = find_test()
        return _fitting(_split(rows, shape, size), train, f"{settings.source}: test rows")

    def check_test() -> None:
        _check_files(find_test())

    return Data(
        name=_name(settings.source),
        classes=opened.classes,
        shape=shape,
        kind=opened.kind,
        mean=mean,
        std=std,
        train=train,
        validation=_fitting(validation, train, f"{settings.source}: validation rows"),
        read_test=read_test,
        count_test=cache(lambda: len(find_test().labels)),
        notes=notes,
        front_end=opened.front_end,
        check_test=check_test,
    )


@dataclass(frozen=True, eq=False)
class UnreadTest:
    """The test rows of a data set, found and not read; nothing is decoded of the other rows.

    ``front_end`` is what recordings become, ``notes`` what a reader of results should know about the splits.
    """

    settings: DataSettings
    name: str
    classes: tuple[str, ...]
    kind: InputKind
    front_end: FrontEnd | None
    notes: tuple[str, ...]
    rows: Rows = field(repr=False)

    def read(self, shape: Shape) -> Split:
        """Read and decode the rows for a network that takes [C, H, W] = ``shape``, of frames each of that shape.

        Images in files are converted to C channels and rescaled to H × W, as those of a design are to the shape of its
        training images; a line of the log says how many were.

        Raises:
            InputError: rows are damaged, or have another shape.
        """
        source, size = self.settings.source, self.settings.size
        if size is not None and (size, size) != shape[1:]:
            raise InputError(f"{source}: data.size = {size}, but the network takes {shape_text(shape)}")
        split = _split(self.rows, shape, None)
        if (found := _shape(split.x)) != shape:
            fits = self.kind == "image" and found[0] == shape[0] and shape[1] == shape[2]
            hint = f"; data.size = {shape[1]} rescales them" if fits else ""
            raise InputError(
                f"{source}: test rows: inputs are {shape_text(found)}, but the network takes {shape_text(shape)}{hint}"
            )
        return split


def open_test(settings: DataSettings, front_ends: FrontEnds = _DEFAULTS) -> UnreadTest:
    """Find the test rows of a data set: those of :meth:`Data.test`, without reading training and validation rows.

    Raises:
        InputError: the data set is missing, damaged or not understood, or a class has too few rows.
    """
    opened = open_source(settings, front_ends)
    parts = part(opened, settings)
    rows = _test_rows(opened, parts, settings)
    name, front_end = _name(settings.source), opened.front_end
    return UnreadTest(settings, name, opened.classes, opened.kind, front_end, parts.notes, rows)


def _test_rows(opened: Opened, parts: Parts, settings: DataSettings) -> Rows:
    """The test rows, none decoded. Raises ``InputError`` if labels are wrong."""
    rows = parts.test()
    _check_labels(rows.labels, opened.classes, f"{settings.source}: test rows")
    if settings.test_limit is not None:
        rows = rows.take(stratified_limit(rows.labels, settings.test_limit))
    return rows


@contextmanager
def _others_looked_at(parts: Parts, *others: Callable[[], Rows]) -> Iterator[None]:
    """Tell with damage of some rows also that of ``others``: nobody should have to mend one file for each try."""
    try:
        yield
    except DamagedFilesError as error:
        errors, total = list(error.errors), len(parts.train.labels) + len(parts.validation.labels)
        with suppress(InputError):  # if the test is wrong in other ways, that is told when these files are mended
            total += len(parts.test().labels)
        for find in others:
            try:
                _check_files(find())
            except DamagedFilesError as more:
                errors.extend(more.errors)
            except InputError:
                continue
        raise DamagedFilesError(errors, total) from None


def _check_files(rows: Rows) -> None:
    """Raise ``DamagedFilesError`` if files of rows are seen to be damaged; only some are held in memory at a time."""
    if rows.check is None:
        return
    errors: list[InputError] = []
    every = np.arange(len(rows.labels))
    for start in range(0, len(every), _CHECKED):
        try:
            rows.check(every[start : start + _CHECKED])
        except DamagedFilesError as error:
            errors.extend(error.errors)
    if errors:
        raise DamagedFilesError(errors, len(every))


def _split(rows: Rows, shape: Shape | None, size: int | None, noise: Callable[[], Tensor] | None = None) -> Split:
    every = np.arange(len(rows.labels))
    sound = rows.recordings and Sound(rows.recordings(every), noise)
    return Split(rows.read(every, shape, size), torch.from_numpy(rows.labels), sound, rows.files)


def _common_size(train: Rows) -> tuple[int, str]:
    """The size that training images of mixed sizes are rescaled to, and a note that says so."""
    assert train.files is not None  # arrays have one size
    files = [file for file in train.files(np.arange(len(train.labels))) if isinstance(file, Encoded)]
    sizes = image_sizes(files)
    size = fitting_size(sizes)
    (low, high), (left, right) = (np.percentile(sizes[:, axis], (0, 100)).astype(int) for axis in (0, 1))
    return size, (
        f"images have different sizes, {left} to {right} pixels wide and {low} to {high} high; all are rescaled to "
        f"{size} by {size}, and data.size sets another size"
    )


def _noise(opened: Opened, train: Rows) -> Callable[[], Tensor] | None:
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
    labels: IntArray, opened: Opened, settings: DataSettings, *, least: int, what: str = "training"
) -> None:
    things = "images" if opened.kind == "image" else "inputs"
    counts = np.bincount(labels, minlength=len(opened.classes))
    few = [(name, int(count)) for name, count in zip(opened.classes, counts, strict=True) if count < least]
    limited = what == "training" and settings.train_limit is not None
    cause = f" within data.train_limit = {settings.train_limit}" if limited and few else ""
    if len(few) == 1:
        ((name, count),) = few
        found = f"no {what} {things}" if count == 0 else f"only {count} of the {least} {what} {things} it needs"
        raise InputError(f"{settings.source}: class {name!r} has {found}{cause}")
    if few:
        named = ", ".join(f"{name!r} has {count or 'none'}" for name, count in few[:_SHOWN_CLASSES])
        more = len(few) - _SHOWN_CLASSES
        raise InputError(
            f"{settings.source}: {len(few)} of {len(counts)} classes have fewer than the {least} {what} {things} they "
            f"need{cause}: {named}{f' and {more} more' if more > 0 else ''}"
        )


def _fitting(split: Split, train: Split, origin: str) -> Split:
    if split.x.shape[1:] != train.x.shape[1:] or split.x.dtype != train.x.dtype:
        found, expected = [f"{list(x.shape[1:])} of type {x.dtype}" for x in (split.x, train.x)]
        raise InputError(f"{origin}: inputs are {found}, but the training rows are {expected}")
    return split


def _shape(x: Tensor) -> Shape:
    channels, height, width = x.shape[-3:]
    return channels, height, width


def _normalisation(opened: Opened, x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
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


def _read_digits(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """The 1797 digits of 8 × 8 pixels that come with scikit-learn; their grey levels 0 to 16 become 0 to 255."""
    bunch = import_extra("sklearn.datasets", package="scikit-learn", extra="demo").load_digits()
    x = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # [N, 1, 8, 8]
    classes = tuple(str(name) for name in bunch.target_names)
    return Opened(classes, "image", array_rows(x, bunch.target.astype(np.int64), settings))


def _read_npz(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """A file with inputs x and labels y, perhaps also of a test and validation; :func:`find_arrays` says their names.

    ``classes`` may name the classes; without it they have the names that labels have, or 0, 1, … up to the largest.
    """
    path = Path(settings.source).expanduser()
    names = read_npz(path, ())[1]
    found = find_arrays(names, str(path))
    splits = assign(found, settings.source)

    def read(split: str, known: Sequence[str] | None) -> tuple[Tensor, IntArray, tuple[str, ...] | None, list[str]]:
        named = found[split]
        arrays, _ = read_npz(path, {named.x, named.y})
        x = as_inputs(arrays[named.x], f"{path}: {named.x}")
        notes = [*layout_note(arrays[named.x], named.x, f"{path}: {named.x}")]
        y, classes = as_labels(arrays[named.y], len(x), f"{path}: {named.y}", known)
        return x, y, classes, notes

    given = _class_names(path, names)
    x, y, classes, notes = read(splits.train, given)
    first = 0
    if classes is None:
        classes, first = numbered_classes(y, f"{path}: {found[splits.train].y}")
        first = first if given is None or len(given) == len(classes) else 0
    known = given or classes
    used = {name for split in found.values() for name in (split.x, split.y)} | set(_CLASS_NAMES)
    if others := sorted(names - used):
        named = ", ".join(others[:5]) + ", …" * (len(others) > 5)
        notes.append(f"{count_things(len(others), 'array')} of {path} not read: {named}")

    def rows(split: str) -> Rows:
        x, y, _, _ = read(split, known)
        return array_rows(x, y - first, settings)

    return Opened(
        known,
        "image" if x.dtype == torch.uint8 else "array",
        array_rows(x, y - first, settings),
        validation=None if splits.validation is None else rows(splits.validation),
        test=None if splits.test is None else partial(rows, splits.test),
        notes=(*splits.notes, *notes),
    )


def _read_idx(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """A folder with the files of MNIST or of a data set like it; see :mod:`litesnn.data.idx_files`."""
    place = Path(settings.source).expanduser()
    found = find_idx(place)

    def read(role: Role) -> tuple[Tensor, IntArray]:
        for what in ("images", "labels"):
            if (role, what) not in found:
                other = found[role, "labels" if what == "images" else "images"]
                raise InputError(f"{place}: has no {what} of the {role}, only {other.name}; expected both")
        x = as_inputs(read_idx(found[role, "images"]), str(found[role, "images"]))
        y, _ = as_labels(read_idx(found[role, "labels"]), len(x), str(found[role, "labels"]))
        return x, y

    if not any(role == "train" for role, _ in found):
        raise InputError(f"{place}: has no training images; expected train-images-idx3-ubyte, perhaps with .gz")
    x, y = read("train")
    classes, first = numbered_classes(y, str(found["train", "labels"]))

    def rows(role: Role) -> Rows:
        x, y = read(role)
        return array_rows(x, y - first, settings)

    has_test = any(role == "test" for role, _ in found)
    return Opened(
        classes,
        "image",
        array_rows(x, y - first, settings),
        test=partial(rows, "test") if has_test else None,
    )


def _class_names(path: Path, names: Collection[str]) -> tuple[str, ...] | None:
    """The names of classes that an ``.npz`` file gives, if it does."""
    name = next((name for name in _CLASS_NAMES if name in names), None)
    if name is None:
        return None
    given = read_npz(path, {name})[0][name]
    if given.ndim != 1 or given.dtype.kind != "U":
        raise InputError(f"{path}: {name} must be a list of names, in the order of the labels")
    return tuple(given.tolist())


def _read_commands(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """The folder of Google Speech Commands as its authors publish it; see :mod:`litesnn.data.speech_commands`."""
    found, audio = read_commands(Path(settings.source).expanduser(), settings.commands), front_ends.audio

    def rows(split: str) -> Rows:
        clips, labels = found.splits[split]
        paths = [clip.encoded.path for clip in clips]
        return sound_rows(lambda wanted: [clips[row] for row in wanted], labels, audio, lambda: paths)

    def noise() -> Tensor:
        return torch.from_numpy(np.concatenate([decode(clip.encoded, audio.sample_rate) for clip in found.noise]))

    validation = rows("validation")
    return Opened(
        found.classes,
        "array",
        rows("train"),
        validation,
        test=lambda: rows("test"),
        notes=(
            f"validation and test are those of the lists in {settings.source}; none is cut from training",
            *found.notes,
        ),
        front_end=audio,
        noise=noise if found.noise else None,
    )


def _read_events(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """Recordings of an event camera in ``Train`` and ``Test``, or in archives; see :mod:`litesnn.data.event_files`."""
    place = Path(settings.source).expanduser()
    found = find_events(place)

    def rows(split: Role) -> Rows:
        files, labels = found.splits[split]
        return Rows(
            labels,
            lambda wanted, shape, size: read_frames(
                [files[row] for row in wanted], front_ends.events, front_ends.timesteps
            ),
            files=lambda wanted: [files[row] for row in wanted],
            check=lambda wanted: check_events([files[row] for row in wanted]),
            paths=lambda: [file.member or file.path.relative_to(place).as_posix() for file in files],
        )

    return Opened(
        found.classes,
        "events",
        rows("train"),
        validation=rows("validation") if "validation" in found.splits else None,
        test=(lambda: rows("test")) if "test" in found.splits else None,
        notes=found.notes,
        front_end=front_ends.events,
    )


def _read_list(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """A table of names of files and labels; see :mod:`litesnn.data.file_lists`."""
    return _open_files(read_file_list(Path(settings.source).expanduser(), settings), settings, front_ends)


def _read_folder(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """Class folders of images or of sound, perhaps in folders of splits, or else parquet files.

    Reads no network: a folder that exists goes before a data set of the hub with the same name.
    """
    folder = Path(settings.source).expanduser()
    if not folder.exists():
        raise InputError(f"{settings.source}: no such file or folder")
    if folder.is_file() and suffix_of(folder.name) in TABLES:
        return read_parquet(settings, front_ends.audio, Listing(folder.parent, ((folder.name,),), ()))
    if not folder.is_dir():
        advice = advice_for(suffix_of(folder.name)) if folder.is_file() else None
        raise InputError(
            f"{settings.source}: is not a folder, an .npz or a .csv file{f' ({advice})' if advice else ''}; {EXPECTED}"
        )
    listing = list_files(folder)
    media, tables = listing.of(listing.kind), listing.tables()
    found = find_class_folders(listing)
    if found is not None and (len(found.classes) > 1 or not tables) and len(media) > len(tables):
        _require_no_columns(settings)
        if len(found.classes) == 1:
            things = count_files(len(media), listing.kind)
            raise InputError(
                f"{settings.source}: holds {things}, and a single class folder, {found.classes[0]}; expected one "
                f"folder of files for each of 2 or more classes{_list_hint(listing)}"
            )
        return _open_files(found, settings, front_ends)
    if media and not tables:
        raise InputError(
            f"{settings.source}: holds {count_files(len(media), listing.kind)} in no class folders, the first is "
            f"{'/'.join(media[0])}; expected CLASS/NAME or train/CLASS/NAME{_list_hint(listing)}"
        )
    return read_parquet(settings, front_ends.audio, listing)


def _list_hint(listing: Listing) -> str:
    """The name to give instead of a folder that holds lists of its files."""
    lists = [str(listing.folder.joinpath(*parts)) for parts in listing.files if is_file_list(parts[-1])]
    if len(lists) == 1:
        return f", or name their list: --data {lists[0]}"
    return f", or name the one of its lists that has the classes, as in --data {_likeliest(lists)}" if lists else ""


def _likeliest(lists: Sequence[str]) -> str:
    """Of several lists the one whose name says the most of training or labels."""
    return max(lists, key=lambda name: any(word in Path(name).stem.lower() for word in ("train", "label")))


def _read_hub(settings: DataSettings, front_ends: FrontEnds) -> Opened:
    return read_hub(settings, front_ends.audio)


def _open_files(found: LabelledFiles, settings: DataSettings, front_ends: FrontEnds) -> Opened:
    """Images or sound in files."""
    audio = front_ends.audio

    def encoded(name: str) -> Encoded:
        path = str(found.folder / name)
        return Encoded(None, path, path)

    def rows(split: str) -> Rows:
        names, labels = found.splits[split]
        if found.kind == "image":
            return image_rows(lambda wanted: [encoded(names[row]) for row in wanted], labels, settings, lambda: names)
        return sound_rows(lambda wanted: [Clip(encoded(names[row])) for row in wanted], labels, audio, lambda: names)

    def noise() -> Tensor:
        return torch.from_numpy(np.concatenate([decode(encoded(name), audio.sample_rate) for name in found.noise]))

    return Opened(
        found.classes,
        "image" if found.kind == "image" else "array",
        rows("train"),
        validation=rows("validation") if "validation" in found.splits else None,
        test=(lambda: rows("test")) if "test" in found.splits else None,
        notes=found.notes,
        front_end=None if found.kind == "image" else audio,
        noise=noise if found.noise else None,
    )


def _require_no_columns(settings: DataSettings) -> None:
    for key in ("image_column", "audio_column", "label_column"):
        if getattr(settings, key) is not None:
            raise InputError(f"{settings.source}: data.{key} names a column of a table, but this is none")


def _is_path(source: str) -> bool:
    return (
        source.startswith((".", "/", "~"))
        or "\\" in source
        or _is_npz(source)
        or _is_list(source)
        or os.path.exists(source)
    )


def _is_commands(source: str) -> bool:
    return _is_path(source) and is_speech_commands(Path(source).expanduser())


def _is_events(source: str) -> bool:
    return _is_path(source) and is_events(Path(source).expanduser())


def _is_idx(source: str) -> bool:
    return _is_path(source) and bool(find_idx(Path(source).expanduser()))


def _is_list(source: str) -> bool:
    return is_file_list(source)


def _is_npz(source: str) -> bool:
    return source.lower().endswith(".npz")


def _name(source: str) -> str:
    if not _is_path(source):
        return source
    path = Path(source).expanduser().resolve()
    if not _is_npz(source) and not _is_list(source):
        return path.name
    return path.stem if role_of(path.stem) is None else path.parent.name  # "train" says nothing of what it trains


def _is_hub_name(source: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) is not None


SOURCES: tuple[Source, ...] = (
    Source("digits", lambda source: source == "digits", _read_digits),
    Source("npz", _is_npz, _read_npz),
    Source("speech commands", _is_commands, _read_commands),
    Source("file list", _is_list, _read_list, tables=True),
    Source("idx", _is_idx, _read_idx),
    Source("events", _is_events, _read_events),
    Source("folder", _is_path, _read_folder, tables=True),
    Source("hub", _is_hub_name, _read_hub, tables=True),
)
"""Every kind of source; the first row that takes a name reads it.

A new source is one more row and its function. Sound in tables is not a source but another kind of column, beside
images.
"""
