"""Class folders of images and of sound: which files are of which split and class, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from event_data import encoded, write_tree
from image_data import image_folder, npz, parquet, values
from litesnn.data.cache import CACHE_VARIABLE
from litesnn.data.class_folders import LabelledFiles, find_class_folders
from litesnn.data.listing import list_files
from litesnn.data.sources import Data, DataSettings, FrontEnds, load
from litesnn.errors import InputError
from litesnn.front_end import LogMel
from sounds import ramp, sound

SMALL = LogMel(sample_rate=1000, clip_ms=100, window_ms=16, hop_ms=8, mels=4, low_hz=0, high_hz=500)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("tables")))


def write(folder: Path, *names: str, content: bytes = b"") -> Path:
    """Files by their names, and folders by names that end with a slash."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).write_bytes(content)
    return folder


def found(folder: Path) -> LabelledFiles:
    result = find_class_folders(list_files(folder))
    assert result is not None
    return result


def rows(files: LabelledFiles) -> dict[str, list[str]]:
    return {split: names for split, (names, _) in files.splits.items()}


def sound_folder(folder: Path, layout: dict[str, int], rate: int = 1000) -> Path:
    """So many clips in each folder; the first sample of each is a number of its own."""
    for place, (name, count) in enumerate(layout.items()):
        (folder / name).mkdir(parents=True)
        for clip in range(count):
            (folder / name / f"{clip}.wav").write_bytes(sound(ramp(1000 * place + clip), rate))
    return folder


def heard(folder: Path, **settings: Any) -> Data:
    return load(DataSettings(source=str(folder), **settings), FrontEnds(SMALL))


class TestFinding:
    def test_classes_and_splits(self, tmp_path: Path) -> None:
        files = found(write(tmp_path / "a", "dog/b.png", "cat/a.JPG", "cat/b.jpeg"))
        assert (files.classes, files.kind, files.notes) == (("cat", "dog"), "image", ())
        assert rows(files) == {"train": ["cat/a.JPG", "cat/b.jpeg", "dog/b.png"]}
        assert files.splits["train"][1].tolist() == [0, 0, 1]
        files = found(write(tmp_path / "b", "Training/c/a.flac", "Training/d/a.ogg", "Val/c/b.wav", "Testing/d/c.mp3"))
        assert (files.classes, files.kind) == (("c", "d"), "sound")
        assert rows(files) == {
            "train": ["Training/c/a.flac", "Training/d/a.ogg"],
            "validation": ["Val/c/b.wav"],
            "test": ["Testing/d/c.mp3"],
        }
        assert files.notes == (f"validation is the split 'Val' of {tmp_path / 'b'}; none is cut from training",)

    def test_a_validation_without_a_test_is_the_test(self, tmp_path: Path) -> None:
        files = found(write(tmp_path / "a", "train/c/a.png", "train/d/a.png", "dev/c/b.png"))
        assert rows(files)["test"] == ["dev/c/b.png"]
        assert "no test split: its split 'dev' is the test" in files.notes[0]

    @pytest.mark.parametrize(
        "names",
        [
            ("train_station/a.png", "bus_stop/a.png", "test_bench/a.png"),
            ("cat/my_test_1.png", "dog/train-2.png", "dog/validation.png"),
            ("train/a.png", "car/a.png"),  # a class of trains
            ("cat/test/a.png", "dog/train/b.png"),
            ("[a]/a*.png", "b?/[0-9].png", "**/a.png"),
            ("trained/a.png", "untested/b.png"),
        ],
    )
    def test_only_whole_names_at_the_top_are_splits(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        files = found(write(tmp_path / "a", *names))
        assert sorted(rows(files)["train"]) == sorted(names)
        assert list(rows(files)) == ["train"]
        assert set(files.classes) == {name.partition("/")[0] for name in names}

    def test_folders_around_the_data_stand_for_it(self, tmp_path: Path) -> None:
        files = found(write(tmp_path / "a", "set/images/train/c/a.png", "set/images/train/d/a.png", "set/README.txt"))
        assert files.classes == ("c", "d")
        assert rows(files) == {"train": ["set/images/train/c/a.png", "set/images/train/d/a.png"]}
        files = found(write(tmp_path / "b", "cat/a.png", "cat/inner/b.png"))
        assert files.classes == ("cat",)

    def test_nothing_is_passed_over_in_silence(self, tmp_path: Path) -> None:
        files = found(
            write(
                tmp_path / "a",
                *("cat/a.png", "cat/siamese/b.png", "dog/a.png", "over.png", "cat/a.txt", "dog/a.TXT", "LICENSE"),
                *("docs/manual.pdf", "empty/", ".git/config", "__MACOSX/cat/a.png", "cat/.DS_Store", "cat/a.wav"),
            )
        )
        assert rows(files) == {"train": ["cat/a.png", "cat/siamese/b.png", "dog/a.png"]}
        assert files.notes == (
            f"6 files of {tmp_path / 'a'} not read: 1 image in no class folder (the first is over.png), "
            "2 .txt, 1 no suffix, 1 .wav, 1 .pdf",
            "folders without images, which are no classes: docs, empty",
            "all that lies below a class folder is of that class: cat/siamese/b.png is 'cat'",
        )

    def test_unlabelled_test_images_are_no_test(self, tmp_path: Path) -> None:
        names = ("train/c/a.png", "train/d/a.png", "test/1.png", "test/2.png", "extra/c/a.png", "train/e/")
        files = found(write(tmp_path / "a", *names))
        assert list(rows(files)) == ["train"]
        assert files.notes == (
            f"3 files of {tmp_path / 'a'} not read: 3 images in no class folder (the first is extra/c/a.png)",
            "folders without images, which are no classes: train/e",
        )

    def test_numbers_are_sorted_as_numbers(self, tmp_path: Path) -> None:
        assert found(write(tmp_path / "a", *(f"{number}/a.png" for number in range(12)))).classes[2:4] == ("2", "3")

    def test_noise_is_no_class_of_sound(self, tmp_path: Path) -> None:
        names = ("a/1.wav", "b/1.wav", "_silence_/1.wav", "_background_noise_/hum.wav", "_background_noise_/README.md")
        files = found(write(tmp_path / "a", *names))
        assert files.classes == ("_silence_", "a", "b")
        assert files.noise == ("_background_noise_/hum.wav",)
        assert files.notes == (f"1 file of {tmp_path / 'a'} not read: 1 .md",)
        assert found(write(tmp_path / "b", "train/a/1.wav", "train/b/1.wav", names[3])).noise == (names[3],)

    def test_what_is_no_file_is_not_opened(self, tmp_path: Path) -> None:
        write(tmp_path / "a", "cat/a.png", "dog/a.png")
        os.mkfifo(tmp_path / "a" / "cat" / "b.png")
        files = found(tmp_path / "a")
        assert rows(files) == {"train": ["cat/a.png", "dog/a.png"]}
        assert files.notes == (
            f"1 file of {tmp_path / 'a'} not read: 1 that cannot be data (pipe, device or broken link: cat/b.png)",
        )

    def test_links_are_followed_but_not_for_ever(self, tmp_path: Path) -> None:
        write(tmp_path / "store", "1.png")
        write(tmp_path / "a", "cat/1.png")
        (tmp_path / "a" / "dog").symlink_to(tmp_path / "store")
        (tmp_path / "a" / "cat" / "back").symlink_to(tmp_path / "a")
        (tmp_path / "a" / "ape").symlink_to(tmp_path / "a" / "cat")  # a folder goes before a link to it
        assert rows(found(tmp_path / "a")) == {"train": ["cat/1.png", "dog/1.png"]}

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("train/c/a.png", "train/d/a.png", "test/e/a.png"), "test/e/a.png: is of the class 'e', which train has"),
            (("test/c/a.png", "val/d/a.png"), "has no split 'train'; it has test, val"),
            (("cat/a.png", "dog/a.png", "test/cat/a.png"), r"test holds class folders \(cat\) and lies beside such"),
        ],
    )
    def test_refuses(self, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            find_class_folders(list_files(write(tmp_path / "a", *names)))

    def test_no_class_folders(self, tmp_path: Path) -> None:
        for number, names in enumerate([(), ("a.png",), ("train/a.png", "test/b.png"), ("a.txt", "b/c.txt")]):
            assert find_class_folders(list_files(write(tmp_path / str(number), "x/", *names))) is None

    def test_class_names_may_be_composed_differently(self, tmp_path: Path) -> None:
        names = ("train/ä/1.png", "train/b/1.png", "test/a\u0308/1.png")
        files = found(write(tmp_path / "a", *names))
        assert files.classes == ("b", "ä")
        assert {split: labels.tolist() for split, (_, labels) in files.splits.items()} == {"train": [0, 1], "test": [1]}

    def test_loose_files_get_a_hint(self, tmp_path: Path) -> None:
        refused(write(tmp_path / "a", "a.png", "b.png"), r"holds 2 images in no class folders, the first is a")
        folder = write(tmp_path / "b", "train/a.png", "test/b.png", "labels.csv")
        refused(folder, rf"expected CLASS/NAME or train/CLASS/NAME, or name their list: --data {folder}/labels\.csv")
        refused(write(tmp_path / "c", "a.png", "a.csv", "labels.csv"), r"has the classes, as in --data .*/labels\.csv$")
        refused(write(tmp_path / "d", "a.png"), "train/CLASS/NAME$")

    def test_parquet_with_a_few_pictures_beside_it(self, tmp_path: Path) -> None:
        folder = parquet(tmp_path / "a", test=4)
        image_folder(folder / "docs", {"images": 1})
        assert load(DataSettings(source=str(folder))).classes == ("cat", "dog")


class TestLoading:
    def test_images_are_read_when_they_are_needed(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a[1]*", {"train/cat": 6, "train/dog": 6, "test/cat": 1, "test/dog": 2})
        (folder / "test" / "cat" / "0.png").write_bytes(b"damaged")
        data = load(DataSettings(source=str(folder)))
        assert (data.name, data.classes, data.shape, data.class_counts) == ("a[1]*", ("cat", "dog"), (3, 4, 5), (5, 5))
        with pytest.raises(InputError, match=r"test/cat/0\.png: cannot be decoded as an image"):
            data.test()

    def test_colour_and_grey(self, tmp_path: Path) -> None:
        def photo(folder: Path, pixels: Any) -> Data:
            return load(DataSettings(source=str(image_folder(folder, {"cat": 6, "dog": 6}, pixels))))

        rng = np.random.default_rng(0)
        grey = rng.integers(0, 256, (8, 8)).astype(np.uint8)
        assert photo(tmp_path / "a", rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).colour
        assert not photo(tmp_path / "b", np.repeat(grey[..., None], 3, 2)).colour
        assert not photo(tmp_path / "c", grey).colour

    def test_sound_of_any_rate(self, tmp_path: Path) -> None:
        folder = sound_folder(tmp_path / "a", {"go": 12, "no": 12})
        (folder / "go" / "0.wav").write_bytes(sound(np.zeros(230), 2300))
        data = heard(folder)
        assert (data.classes, data.kind, data.shape, data.front_end) == (("go", "no"), "array", (1, 4, 11), SMALL)
        assert [len(split.y) for split in (data.train, data.validation, data.test())] == [16, 4, 4]
        assert data.notes == ()
        assert data.train.sound is not None
        clips = data.train.sound.recordings.clips()
        starts = [(int(clip[0]) // 1000) for clip in clips]
        assert starts == data.train.y.tolist()
        assert data.train.sound.noise is None

    def test_noise_of_sound(self, tmp_path: Path) -> None:
        folder = sound_folder(tmp_path / "a", {"_background_noise_": 1, "go": 8, "no": 8})
        data = heard(folder)
        assert data.classes == ("go", "no")
        assert data.train.sound is not None
        assert data.train.sound.noise is not None
        assert torch.equal(data.train.sound.noise(), torch.from_numpy(ramp(0)))

    def test_columns_are_for_tables(self, tmp_path: Path) -> None:
        refused(
            image_folder(tmp_path / "a", {"c": 4, "d": 4}), "label_column names a column of a table", label_column="x"
        )


def spoken(folder: Path, speakers: int = 12, each: int = 3) -> Path:
    """Clips of two words by speakers with names as in Speech Commands; every clip begins with its speaker's number."""
    for word in ("go", "no"):
        (folder / word).mkdir(parents=True)
        for speaker in range(speakers):
            for clip in range(each):
                content = sound(np.full(100, speaker + 1, np.int16))
                (folder / word / f"{speaker:08x}_nohash_{clip}.wav").write_bytes(content)
    return folder


def speakers(split: Any) -> set[int]:
    return set(split.sound.recordings.clips()[:, 0].tolist())


class TestGroups:
    PATTERN = "([0-9a-f]+)_nohash"

    def test_no_speaker_is_in_two_splits(self, tmp_path: Path) -> None:
        data = heard(spoken(tmp_path / "a"), group_pattern=self.PATTERN)
        parts = [speakers(split) for split in (data.train, data.validation, data.test())]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12
        assert [len(part) for part in parts] == [8, 2, 2]
        assert data.notes == ("12 groups by data.group_pattern; none is in two splits",)
        apart = heard(tmp_path / "a")
        assert speakers(apart.train) & speakers(apart.test())

    def test_tables_have_groups_too(self, tmp_path: Path) -> None:
        files = [
            {"bytes": sound(np.full(100, row % 6 + 1, np.int16)), "path": f"{row % 6}-{row}.wav"} for row in range(36)
        ]
        found = datasets.Dataset.from_dict({"audio": files, "label": [row // 6 % 2 for row in range(36)]})
        (tmp_path / "a").mkdir()
        found.cast_column("audio", datasets.Audio(decode=False)).to_parquet(tmp_path / "a" / "train.parquet")
        data = heard(tmp_path / "a", group_pattern=r"^(\d)-")
        parts = [speakers(split) for split in (data.train, data.validation, data.test())]
        assert [len(part) for part in parts] == [4, 1, 1]
        assert len(set.union(*parts)) == 6

    def test_images_have_groups_too(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a", {"cat": 30, "dog": 30})
        data = load(DataSettings(source=str(folder), group_pattern=r"(\d)\.png"))
        digits = [{value % 10 for value in values(split.x)} for split in (data.train, data.validation, data.test())]
        assert sum(map(len, digits)) == len(set.union(*digits)) == 10

    def test_events_have_groups(self, tmp_path: Path) -> None:
        files = {f"{name}/{row % 5}_{row}.bin": encoded([(0, 0, 1, row)]) for name in "ab" for row in range(20)}
        data = load(DataSettings(source=str(write_tree(tmp_path / "9_", files)), group_pattern=r"(\d)_"))
        assert data.notes == ("5 groups by data.group_pattern; none is in two splits",)
        assert [len(split.y) for split in (data.train, data.validation, data.test())] == [24, 8, 8]

    def test_files_without_a_group_are_said(self, tmp_path: Path) -> None:
        folder = spoken(tmp_path / "a")
        (folder / "go" / "hello.wav").write_bytes(sound(np.full(100, 99, np.int16)))
        note = heard(folder, group_pattern=self.PATTERN).notes[0]
        assert note.endswith("1 of 73 files have no group and count as one each, the first is go/hello.wav")

    def test_a_test_of_its_own_stays(self, tmp_path: Path) -> None:
        spoken(tmp_path / "a" / "train")
        sound_folder(tmp_path / "a" / "test", {"go": 1, "no": 1})
        data = heard(tmp_path / "a", group_pattern=self.PATTERN)
        assert not speakers(data.train) & speakers(data.validation)
        assert "the test is the data's own" in data.notes[1]

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(xyz)", r"data.group_pattern = '\(xyz\)' is found in no name of a file; one of them is 'go/0000"),
            ("(_nohash)", "finds 1 of the 2 or more groups that it takes to set some aside for the test"),
        ],
    )
    def test_refuses(self, tmp_path: Path, pattern: str, message: str) -> None:
        refused(spoken(tmp_path / "a"), message, group_pattern=pattern)

    def test_refuses_data_without_a_use_for_groups(self, tmp_path: Path) -> None:
        refused("digits", "data.group_pattern is for files with names, but this holds arrays", group_pattern="(a)")
        x, y = np.zeros((8, 4, 4)), np.arange(8) % 2
        arrays = {f"{what}_{split}": {"x": x, "y": y}[what] for what in "xy" for split in ("train", "val", "test")}
        refused(npz(tmp_path / "a.npz", **arrays), "but this data has its own", group_pattern="(a)")

    @pytest.mark.parametrize("pattern", ["speaker", "(a)(b)", "(", ""])
    def test_a_pattern_has_one_group(self, pattern: str) -> None:
        with pytest.raises(ValidationError, match=r"one group|no regular expression"):
            DataSettings(group_pattern=pattern)


def refused(source: Path | str, message: str, **settings: Any) -> None:
    """Loading raises an error of one line that matches ``message``."""
    with pytest.raises(InputError, match=message) as caught:
        heard(Path(source), **settings)
    assert "\n" not in str(caught.value)
