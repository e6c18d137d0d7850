"""Recordings of event cameras: bytes, frames, folders and archives, splits, cache, augmentation, refusals."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from event_data import Event, dataset, encoded, random_events, write_archive, write_tree
from litesnn.config import Recipe, load_recipe
from litesnn.data import event_files
from litesnn.data.augment import AugmentSettings, augment
from litesnn.data.batches import generator_for
from litesnn.data.damaged import Damaged
from litesnn.data.event_files import EventFile, contents, find_events, is_events
from litesnn.data.events import decode_events, event_frames, read_frames
from litesnn.data.sources import Data, DataSettings, FrontEnds, load
from litesnn.data.split_names import Role
from litesnn.errors import InputError
from litesnn.front_end import EventFrames
from litesnn.planning.request import Request
from litesnn.planning.sensible import require_sensible

SMALL = EventFrames(frame_ms=20, height=6, width=5, clip=2)
ENDS = FrontEnds(events=SMALL, timesteps=3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))


def frames(events: list[Event], timesteps: int = 3, settings: EventFrames = SMALL) -> torch.Tensor:
    return torch.from_numpy(event_frames(decode_events(encoded(events), "a.bin"), settings, timesteps, "a.bin"))


class TestBytes:
    def test_an_event_by_hand(self) -> None:
        events = decode_events(bytes([3, 33, 0x81, 0x02, 0x03, 4, 5, 0x7F, 0xFF, 0xFF]), "a.bin")
        assert events.x.tolist() == [3, 4]
        assert events.y.tolist() == [33, 5]
        assert events.polarity.tolist() == [1, 0]
        assert events.time.tolist() == [0x010203, 2**23 - 1]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "holds no events"),
            (encoded([(1, 1, 0, 5)])[:4], "has 4 bytes, which are no whole events of 5"),
            (encoded([(1, 1, 0, 5), (1, 1, 1, 5)]) + b"\0", "has 11 bytes"),
            (
                encoded([(1, 1, 0, 5), (1, 1, 1, 5), (1, 1, 1, 4)]),
                "event 2 is at 4 µs, before the one that precedes it",
            ),
            (encoded([(1, 1, 0, 5), (5, 1, 0, 6)]), "event 1 is at x = 5, y = 1, outside of events.width = 5"),
            (encoded([(1, 6, 0, 5)]), "event 0 is at x = 1, y = 6, outside of .*events.height = 6"),
        ],
    )
    def test_damage_is_refused_in_one_line_that_names_the_file(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        files = dataset() | {"Train/lit/00003.bin": content}
        with pytest.raises(InputError, match=message) as caught:
            load(DataSettings(source=str(write_tree(tmp_path / "a", files))), ENDS)
        assert str(caught.value).startswith(str(tmp_path / "a/Train/lit/00003.bin"))
        archive = write_archive(tmp_path / "b/all.tar.gz", files)
        with pytest.raises(InputError, match=message) as caught:
            load(DataSettings(source=str(archive)), ENDS)
        assert str(caught.value).startswith(f"{archive}: Train/lit/00003.bin: ")
        assert "\n" not in str(caught.value)


class TestFrames:
    def test_by_time(self) -> None:
        events = [(0, 0, 0, 0), (1, 0, 1, 19_999), (1, 0, 1, 20_000), (4, 5, 0, 59_999), (4, 5, 0, 60_000)]
        found = frames(events)
        assert found.shape == (3, 2, 6, 5)
        assert found.dtype == torch.uint8
        assert found.nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1], [2, 0, 5, 4]]
        assert found.sum() == 4  # the event at 60 ms is in a frame that nobody sees

    def test_a_network_with_fewer_timesteps_sees_the_first_of_the_same_frames(self) -> None:
        events = random_events(np.random.default_rng(0), 300, size=(6, 5), last=100_000)
        for settings in (SMALL, SMALL.model_copy(update={"by": "count", "frame_events": 70})):
            assert torch.equal(frames(events, 5, settings)[:2], frames(events, 2, settings))

    def test_by_count(self) -> None:
        settings = SMALL.model_copy(update={"by": "count", "frame_events": 2})
        events = [(0, 0, 0, 7), (1, 0, 0, 7), (2, 0, 0, 8), (3, 0, 0, 999_999), (4, 0, 0, 1_000_000)]
        assert frames(events, 4, settings).nonzero()[:, [0, 3]].tolist() == [[0, 0], [0, 1], [1, 2], [1, 3], [2, 4]]

    def test_counts_are_clipped(self) -> None:
        events = [(2, 3, 1, time) for time in range(5)]
        assert frames(events)[0, 1, 3, 2] == 2
        assert frames(events, 3, SMALL.model_copy(update={"clip": 255}))[0, 1, 3, 2] == 5
        assert frames(events, 3, SMALL.model_copy(update={"clip": 1}))[0, 1, 3, 2] == 1
        assert frames([(0, 0, 0, 0)] * 300, 3, SMALL.model_copy(update={"clip": 255})).max() == 255

    def test_a_frame_may_be_shorter_than_a_millisecond(self) -> None:
        settings = SMALL.model_copy(update={"frame_ms": 0.5})
        assert frames([(0, 0, 0, 499), (1, 0, 0, 500)], 2, settings).nonzero()[:, [0, 3]].tolist() == [[0, 0], [1, 1]]

    def test_no_event_is_zero_and_the_largest_count_is_96_steps(self) -> None:
        for clip in (1, 3, 7, 255):
            settings = EventFrames(clip=clip)
            steps = 32 * np.array([0, clip], np.float32) / np.float32(settings.std[0])
            assert np.rint(steps).tolist() == [0, 96]
            assert settings.mean == (0, 0)


def part(files: dict[str, bytes], split: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(split)}


def two_archives(folder: Path, files: dict[str, bytes]) -> Path:
    for split in ("Train", "Test"):
        write_archive(folder / f"{split}.tar.gz", part(files, split))
    return folder


def two_archives_of_classes(folder: Path, files: dict[str, bytes]) -> Path:
    for split in ("Train", "Test"):
        inside = {name.partition("/")[2]: content for name, content in part(files, split).items()}
        write_archive(folder / f"{split.lower()}.zip", inside)
    return folder


def folder_and_archive(folder: Path, files: dict[str, bytes]) -> Path:
    write_archive(write_tree(folder, part(files, "Train")) / "Test.tgz", part(files, "Test"))
    return folder


def folder_before_archive(folder: Path, files: dict[str, bytes]) -> Path:
    write_archive(write_tree(folder, files) / "Train.zip", {"Train/other/1.bin": b"no events"})
    return folder


LAYOUTS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_tree,
    "tar.gz": lambda folder, files: write_archive(folder / "all.tar.gz", files),
    "tar": lambda folder, files: write_archive(folder / "all.tar", files),
    "zip": lambda folder, files: write_archive(folder / "all.zip", files),
    "further down": lambda folder, files: write_archive(folder / "a.zip", {f"N/{n}": files[n] for n in files}),
    "two archives": two_archives,
    "two archives of classes": two_archives_of_classes,
    "folder and archive": folder_and_archive,
    "folder before archive": folder_before_archive,
}


def loaded(place: Path, **settings: object) -> Data:
    return load(DataSettings.model_validate({"source": str(place), **settings}), ENDS)


class TestPlaces:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_gives_the_same_rows(self, tmp_path: Path, layout: str) -> None:
        files = dataset()
        shuffled = dict(sorted(files.items(), key=lambda item: hash_of(item[0])))
        place = LAYOUTS[layout](tmp_path / "data", shuffled)
        expected = {
            name: event_frames(decode_events(content, name), SMALL, 3, name) for name, content in sorted(files.items())
        }
        found = find_events(place)
        assert found.classes == ("dark", "lit")
        counts: dict[Role, int] = {"train": 12, "test": 4}
        for split, count in counts.items():
            rows, labels = found.splits[split]
            wanted = [expected[name] for name in expected if name.lower().startswith(split)]
            assert len(wanted) == count
            np.testing.assert_array_equal(read_frames(rows, SMALL, 3).numpy(), np.stack(wanted))
            assert labels.tolist() == [0] * (count // 2) + [1] * (count // 2)

    def test_validation_is_cut_from_train_and_test_is_test(self, tmp_path: Path) -> None:
        files = dataset(train=10)
        data = loaded(write_tree(tmp_path / "a", files), validation_fraction=0.3)
        assert (data.kind, data.shape, data.classes) == ("events", (2, 6, 5), ("dark", "lit"))
        assert (data.mean, data.std) == ((0, 0), (2 / 3, 2 / 3))
        assert data.front_end == SMALL
        assert data.train.x.shape == (14, 3, 2, 6, 5)
        assert data.train.x.dtype == torch.uint8
        assert data.validation.y.bincount().tolist() == [3, 3]
        assert data.test().y.bincount().tolist() == [2, 2]
        rows = torch.cat([data.train.x, data.validation.x]).flatten(1)
        assert len(np.unique(rows.numpy(), axis=0)) == 20

    def test_splits_have_their_usual_names(self, tmp_path: Path) -> None:
        """These would all be training, if the folders of splits were passed over."""
        files = {
            name.replace("Train", "training").replace("Test/lit/00001", "val/lit/1").replace("Test", "testing"): content
            for name, content in dataset().items()
        }
        for place in (write_tree(tmp_path / "a", files), write_archive(tmp_path / "a.zip", files)):
            found = find_events(place)
            assert {split: len(rows) for split, (rows, _) in found.splits.items()} == {
                "train": 12,
                "validation": 1,
                "test": 3,
            }

    def test_what_is_not_read_is_said(self, tmp_path: Path) -> None:
        files = dataset() | {"README.md": b"", "Train/lit/1.aedat": b"", "__MACOSX/a.txt": b""}
        for place in (write_tree(tmp_path / "a", files), write_archive(tmp_path / "a.zip", files)):
            assert loaded(place).notes == (f"2 files of {place} not read: 1 .md, 1 .aedat",)
        os.mkfifo(tmp_path / "a" / "Train" / "lit" / "2.bin")
        assert "1 that cannot be data (pipe, device or broken link: Train/lit/2.bin)" in loaded(tmp_path / "a").notes[0]

    def test_test_rows_are_not_read_before_they_are_asked_for(self, tmp_path: Path) -> None:
        data = loaded(write_tree(tmp_path / "a", dataset() | {"Test/lit/9.bin": b"damaged"}))
        with pytest.raises(InputError, match=r"9\.bin: has 7 bytes"):
            data.test()

    @pytest.mark.parametrize("split", ["Train", "Test", ""])
    def test_one_split_alone_is_the_whole_data_set(self, tmp_path: Path, split: str) -> None:
        files = {
            f"{split}/{name.partition('/')[2]}".lstrip("/"): content
            for name, content in dataset(train=10).items()
            if name.startswith("Train")
        }
        data = loaded(write_tree(tmp_path / "a", files))
        assert (len(data.train.y), len(data.validation.y), len(data.test().y)) == (12, 4, 4)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"Train/1.bin": b""}, "Train/1.bin lies in no folder of a class; expected Train/CLASS/NAME.bin"),
            ({"1.bin": b""}, "1.bin lies in no folder of a class"),
            ({"Train/a/1.bin": b"", "other/b/2.bin": b""}, "other/b/2.bin: lies neither in Train nor in Test"),
            ({"Train/a/1.bin": b"", "Test/b/2.bin": b""}, "Test/b/2.bin: is of the class 'b', which Train has not"),
        ],
    )
    def test_files_in_other_places(self, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
        for place in (write_tree(tmp_path / "a", files), write_archive(tmp_path / "a.tar", files)):
            with pytest.raises(InputError, match=message) as caught:
                loaded(place)
            assert str(caught.value).startswith(str(place))

    def test_a_file_that_is_in_an_archive_twice(self, tmp_path: Path) -> None:
        """One of them would be read, and the other row would stay without events."""
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as stream:
            for name, content in [*dataset().items(), ("Train/lit/00003.bin", encoded([(0, 0, 0, 0)]))]:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                stream.addfile(entry, io.BytesIO(content))
        with pytest.raises(InputError, match=r"a\.tar: Train/lit/00003\.bin: is in the archive twice"):
            loaded(path)

    def test_what_systems_leave_beside_the_data_is_not_read(self, tmp_path: Path) -> None:
        names = ("__MACOSX/Train/lit/._1.bin", "Train/lit/._1.bin", "Test/.trash/1.bin", ".old/lit/2.bin")
        files = dataset() | dict.fromkeys(names, b"no events")
        for place in (write_tree(tmp_path / "a", files), write_archive(tmp_path / "a.zip", files)):
            found = find_events(place)
            assert found.classes == ("dark", "lit")
            assert (len(found.splits["train"][0]), len(found.splits["test"][0])) == (12, 4)

    def test_archives_that_are_damaged_empty_or_gone(self, tmp_path: Path) -> None:
        whole = write_archive(tmp_path / "a.tar.gz", dataset())
        (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:-200])
        (tmp_path / "b.zip").write_bytes(b"PK no zip")
        write_archive(tmp_path / "c.tar", {"readme.txt": b"nothing"})
        for name, message in (
            ("cut.tar.gz", r"cut\.tar\.gz: cannot be read as an archive"),
            ("b.zip", r"b\.zip: cannot be read as an archive"),
            ("c.tar", r"c\.tar: holds no \.bin recordings"),
        ):
            with pytest.raises(InputError, match=message) as caught:
                loaded(tmp_path / name)
            assert "\n" not in str(caught.value)
        rows, _ = find_events(whole).splits["train"]
        write_archive(whole, {"Train/dark/00000.bin": b""})
        with pytest.raises(InputError, match=r"a\.tar\.gz: has no Train/dark/00001\.bin|holds no events"):
            read_frames(rows, SMALL, 3)
        whole.unlink()
        with pytest.raises(InputError, match=r"a\.tar\.gz: cannot be read: No such file"):
            read_frames(rows, SMALL, 3)

    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
    def test_any_damage_of_an_archive_is_refused_or_does_no_harm(self, tmp_path: Path, name: str) -> None:
        """Bytes are turned, and the end is cut off: nothing but ``InputError`` comes out, and no row is lost."""
        place = write_archive(tmp_path / name, dataset(train=2, test=1))
        content, rng, messages = place.read_bytes(), np.random.default_rng(0), []
        for _ in range(60):
            broken = bytearray(content)
            for index in rng.integers(0, len(content), rng.integers(1, 6)):
                broken[index] = rng.integers(0, 256)
            place.write_bytes(broken[: rng.integers(len(content) // 2, 2 * len(content))])
            try:
                for rows, _ in find_events(place).splits.values():
                    assert sorted(row for row, _, _ in contents(rows)) == list(range(len(rows)))
            except InputError as error:
                messages.append(str(error))
        assert all(message.startswith(str(place)) and "\n" not in message for message in messages)
        assert len(messages) > 10

    @pytest.mark.parametrize(("flag", "message"), [(1, "encrypted"), (0x800, "decode byte")])
    def test_archives_of_other_kinds(self, tmp_path: Path, flag: int, message: str) -> None:
        """A password, or names that are not the UTF-8 that they are said to be: bits of the general purpose flag."""
        place = write_archive(tmp_path / "a.zip", {"Train/dark/1.bin": b"12345"})
        content = bytearray(place.read_bytes().replace(b"1.bin", b"\xff.bin"))
        for start, offset in ((content.index(b"PK\3\4"), 6), (content.index(b"PK\1\2"), 8)):
            content[start + offset : start + offset + 2] = flag.to_bytes(2, "little")
        place.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.zip: cannot be read as an archive: .*{message}"):
            list(contents(find_events(place).splits["train"][0]))

    def test_other_compressions_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as made:
            made.writestr("Train/dark/1.bin", b"12345")
        with pytest.raises(InputError, match=r"a\.zip: Train/dark/1\.bin: is compressed by method 12; expected 0"):
            find_events(tmp_path / "a.zip")
        with tarfile.open(tmp_path / "a.tar", "w:bz2"):
            pass
        with pytest.raises(InputError, match=r"a\.tar: cannot be read as an archive"):
            find_events(tmp_path / "a.tar")

    def test_names_in_archives_are_never_paths(self, tmp_path: Path) -> None:
        escaping = {f"../../{name}": content for name, content in dataset().items()}
        place = write_archive(tmp_path / "deep/er/a.tar", escaping)
        before = sorted(tmp_path.rglob("*"))
        assert len(loaded(place).test().y) == 4
        assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before

    def test_missing_recordings_are_told_together(self, tmp_path: Path) -> None:
        rows, _ = find_events(write_tree(tmp_path / "a", dataset())).splits["train"]
        for file in rows[:5]:
            file.path.unlink()
        with pytest.raises(
            InputError, match=r"^5 of 12 files cannot be read: .*0\.bin: .*1\.bin: .*2\.bin: .*; and 2 more$"
        ):
            read_frames(rows, SMALL, 3)

    def test_bad_recordings_of_the_test_are_seen_early(self, tmp_path: Path) -> None:
        place = write_tree(tmp_path / "a", dataset())
        data = loaded(place)
        data.check_test()
        for number, content in enumerate((b"", b"1234")):
            next(place.glob(f"Test/lit/*{number}.bin")).write_bytes(content)
        with pytest.raises(
            InputError, match=r"2 of 4 files cannot be read: .*holds no events; .*no whole events of 5$"
        ):
            data.check_test()

    @pytest.mark.parametrize("name", ["images.zip", "images.tar.gz"])
    def test_archives_of_other_things(self, tmp_path: Path, name: str) -> None:
        files = {f"pets/{kind}/{n}.png": b"a" for kind in ("cat", "dog") for n in range(2)}
        with pytest.raises(
            InputError, match=r"holds no \.bin recordings, but 4 \.png; .*: unpack it, and name the folder$"
        ):
            loaded(write_archive(tmp_path / name, files))

    def test_an_archive_of_images_beside_them_is_no_place_of_events(self, tmp_path: Path) -> None:
        write_archive(tmp_path / "train.zip", {"cat/1.png": b"a"})
        assert not is_events(tmp_path)
        write_archive(tmp_path / "test.zip", {"lit/1.bin": b"a"})
        assert is_events(tmp_path)

    def test_recordings_that_are_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_files, "RECORDING_BYTES", 10)
        for place in (write_tree(tmp_path / "a", dataset()), write_archive(tmp_path / "b.zip", dataset())):
            with pytest.raises(InputError, match="has 200 bytes; a recording may have 10"):
                loaded(place)

    def test_what_is_no_place_of_events(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("")
        assert not is_events(tmp_path)
        assert not is_events(tmp_path / "a.txt")
        assert not is_events(tmp_path / "none.zip")
        with pytest.raises(
            InputError, match=r"a: this folder holds no parquet files, .* no \.bin recordings of events"
        ):
            loaded(write_tree(tmp_path / "a", {"1/2/3/4.bin": b"too deep"}))


def hash_of(text: str) -> int:
    """Some order that is not that of the names, the same every time."""
    return zlib.crc32(text.encode())


class TestCache:
    def test_frames_are_kept_until_settings_or_files_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []
        real = event_files.contents

        def counted(files: Sequence[EventFile], damaged: Damaged) -> Iterator[tuple[int, str, bytes]]:
            read.extend(file.path for file in files)
            return real(files, damaged)

        monkeypatch.setattr("litesnn.data.events.contents", counted)
        place = write_tree(tmp_path / "a", dataset())
        rows, _ = find_events(place).splits["train"]
        first = read_frames(rows, SMALL, 3)
        assert torch.equal(read_frames(rows, SMALL, 3), first)
        assert len(read) == 12
        assert not torch.equal(read_frames(rows, SMALL.model_copy(update={"clip": 1}), 3), first)
        assert torch.equal(read_frames(rows, SMALL, 2), first[:, :2])
        assert len(read) == 36
        changed = place / "Train/dark/00000.bin"
        changed.write_bytes(encoded([(0, 0, 1, 0)]))
        os.utime(changed, ns=(1, 1))
        assert not torch.equal(read_frames(rows, SMALL, 3)[0], first[0])
        assert len(read) == 48


class TestAugmentation:
    def test_all_frames_of_a_recording_move_alike(self) -> None:
        x = torch.zeros(256, 4, 2, 7, 6)
        x[:, :, 1, 3, 2] = 32
        found = augment(x, AugmentSettings(crop=2), generator_for(0, "a"))
        assert found.shape == x.shape
        assert torch.equal(found, found[:, :1].expand_as(found))
        places = {tuple(place) for place in found[:, 0, 1].nonzero()[:, 1:].tolist()}
        assert places == {(row, column) for row in range(1, 6) for column in range(5)}
        assert found[:, :, 0].count_nonzero() == 0

    def test_each_frame_is_changed_as_an_image_would_be(self) -> None:
        x = torch.randn(5, 3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
        settings = AugmentSettings(crop=2, flip=True, cutout=3)
        found = augment(x, settings, generator_for(1, "a"))
        for frame in range(3):
            assert torch.equal(found[:, frame], augment(x[:, frame], settings, generator_for(1, "a")))
        part = augment(x[2:4], settings, generator_for(1, "a"), place=(slice(2, 4), 5))
        assert torch.equal(part, found[2:4])


class TestRecipes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[augment]\ntime_mask = 1", "augment.time_mask is 1, but a holds events; expected 0"),
            ("[augment]\nshift_ms = 1.0", "augment.shift_ms is 1.0, but a holds no sound"),
            ("[audio]\nmels = 20", r"\[audio\] says how sound becomes features, but a holds no sound"),
        ],
    )
    def test_settings_that_mean_nothing_for_events(self, tmp_path: Path, text: str, message: str) -> None:
        data = loaded(write_tree(tmp_path / "a", dataset()))
        require_sensible(Recipe.from_toml("[augment]\ncrop = 1\ncutout = 2"), data)
        with pytest.raises(InputError, match=message):
            require_sensible(Recipe.from_toml(text), data)

    def test_settings_of_events_mean_nothing_for_images(self) -> None:
        with pytest.raises(InputError, match=r"\[events\] says how events become frames, but digits holds no events"):
            require_sensible(Recipe.from_toml("[events]\nclip = 1"), load(DataSettings(train_limit=40)))

    def test_images_have_no_size_of_events(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"data\.size rescales images of type uint8, but this holds events"):
            loaded(write_tree(tmp_path / "a", dataset()), size=8)

    @pytest.mark.parametrize(("budget", "expected"), [(4, 4), (64, 6), (None, 6)])
    def test_as_many_frames_are_read_as_there_can_be_timesteps(self, budget: int | None, expected: int) -> None:
        recipe = load_recipe("nmnist-s", {"budget.timesteps": budget, "search.timesteps": 6})
        assert recipe.front_ends == FrontEnds(recipe.audio, recipe.events, expected)

    def test_events_have_a_made_recipe_or_one_of_their_own(self, tmp_path: Path) -> None:
        data = str(write_tree(tmp_path / "a", dataset()))
        assert Request(data=data).written is None
        assert Request(data=data, recipe="nmnist-s").written == "nmnist-s"
        for size in "sml":
            recipe = load_recipe(f"nmnist-{size}")
            assert not recipe.augment.flip
            assert recipe.events.shape == (2, 34, 34)

    @pytest.mark.parametrize(
        "text", ["by = 'events'", "frame_ms = 0.0", "frame_events = 0", "clip = 256", "width = 257"]
    )
    def test_settings_out_of_their_range(self, text: str) -> None:
        with pytest.raises(InputError, match=r"recipe: events\."):
            Recipe.from_toml(f"[events]\n{text}")
