"""Tables that name files and their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import pytest
from PIL import Image

from image_data import file_list, image_folder, values
from litesnn.data.cache import CACHE_VARIABLE
from litesnn.data.sources import DataSettings, FrontEnds, load
from litesnn.errors import InputError
from litesnn.front_end import LogMel
from sounds import ramp, sound

SMALL = LogMel(sample_rate=1000, clip_ms=100, window_ms=16, hop_ms=8, mels=4, low_hz=0, high_hz=500)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


def table(folder: Path, text: str, name: str = "list.csv") -> Path:
    image_folder(folder, {"pictures": 16})
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def lines(head: str, row: str, count: int = 16) -> str:
    """A row for each picture: ``{0}`` is its number, ``{1}`` its class, ``{2}`` its split."""
    rows = [row.format(n, ("cat", "dog")[n % 2], ("train", "test", "train", "val")[n // 2 % 4]) for n in range(count)]
    return "\n".join([head, *rows]) + "\n"


def test_splits_are_cut(tmp_path: Path) -> None:
    data = load(DataSettings(source=str(file_list(tmp_path / "a"))))
    assert (data.name, data.classes, data.shape) == ("labels", ("cat", "dog"), (3, 4, 5))
    parts = [values(split.x) for split in (data.train, data.validation, data.test())]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert set.union(*parts) == set(range(20))
    assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()
    assert data.notes == ()


def test_files_that_stand_on_no_line_are_said(tmp_path: Path) -> None:
    path = file_list(tmp_path / "a")
    image_folder(tmp_path / "b", {"more": 2})
    for number in range(2):
        (tmp_path / "b" / "more" / f"{number}.png").rename(tmp_path / "a" / "images" / f"more{number}.png")
    assert load(DataSettings(source=str(path))).notes == (f"2 files of the folders of {path} not read: 2 .png",)


@pytest.mark.parametrize(
    ("head", "row", "name"),
    [
        ("file,label,split", "pictures/{0}.png,{1},{2}", "list.csv"),
        ("Split;Class;ID;Path", '{2};"{1}";7;pictures/{0}.png', "list.csv"),
        ("\ufeffimage\ttarget\tset\textra, more", "pictures/{0}.png\t{1}\t{2}\t", "list.tsv"),
    ],
)
def test_splits_of_its_own(tmp_path: Path, head: str, row: str, name: str) -> None:
    data = load(DataSettings(source=str(table(tmp_path / "a[1]", lines(head, row), name))))
    parts = [values(split.x) for split in (data.train, data.validation, data.test())]
    assert parts == [{0, 1, 4, 5, 8, 9, 12, 13}, {6, 7, 14, 15}, {2, 3, 10, 11}]
    assert len(data.notes) == 1


def test_columns_can_be_named_and_numbers_are_classes(tmp_path: Path) -> None:
    rows = "\n".join(f"x,pictures/{n}.png,{10 * (n % 2) + 2}" for n in range(16))
    path = table(tmp_path / "a", f"label,where,kind\n{rows}")
    assert load(DataSettings(source=str(path), image_column="where", label_column="kind")).classes == ("2", "12")


def test_sound(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.wav").write_bytes(sound(ramp(number)))
    (tmp_path / "a.csv").write_text("fname,label\n" + "\n".join(f"{n}.wav,{'ab'[n % 2]}" for n in range(12)))
    data = load(DataSettings(source=str(tmp_path / "a.csv")), FrontEnds(SMALL))
    assert (data.classes, data.kind, data.shape) == (("a", "b"), "array", (1, 4, 11))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a head"),
        ("file,label\n", "names no files"),
        ("name,label\n", "has no column of names of files; its columns are name, label, none of file, filename"),
        ("file,what\n", "has no column of labels; its columns are file, what"),
        ("file,label\npictures/0.png\n", "line 2: has 1 fields; expected 2"),
        ("file,label\npictures/0.png,\n", "line 2: has no label"),
        ("file,label\n,cat\n", "line 2: has no file"),
        ("file,label\npictures/99.png,cat\n", "line 2: pictures/99.png is not there; files are named from"),
        (
            "file,label\npictures/99,cat\n",
            "line 2: pictures/99 is not there, nor an image or sound of this name with an",
        ),
        ("file,label\nlist.csv,cat\n", "line 2: list.csv is neither an image nor sound by its suffix '.csv'"),
        ("id,breed\npictures/0.png,a\n", "has no column of labels; .*; name it, as in --set data.label_column=breed$"),
        ("what,breed,label\n", "names of files; .*; name it, as in --set data.image_column=what$"),
        ("pictures/0.png,a\npictures/1.png,b\n", "; expected a first line with names of columns, such as file,label$"),
        (
            "label," + ",".join(f"pixel{n}" for n in range(30)),
            "pixel6 and 23 more, none of .* is read as arrays: shape",
        ),
        (
            "file,label\n1.png,a\npictures/0.png,\n\n2.png,a\n3.png,b\npictures/1.png,b\n",
            "list.csv: 4 of 5 rows cannot be used: line 2: 1.png is not there; line 3: has no label; line 5: 2.png is "
            "not there; and 1 more; files are named from .*a on$",
        ),
        ("file,label\npictures/0.png,a\n\npictures/0.png,b\n", r"line 4: pictures/0\.png is named in line 2 already"),
        ("file,label,split\npictures/0.png,a,fold1\n", "line 2: the split is 'fold1'; expected one of train, valid"),
        ('file,label\n"pictures/0.png,a\n', "line 2: cannot be read as CSV"),
        ("file,label\npictures/0.png,a\n", "have 1 class"),
        (
            lines("file,label,split", "pictures/{0}.png,{1}{2},{2}"),
            "is of the class 'cat(test|val)', which train has not",
        ),
    ],
)
def test_refuses(tmp_path: Path, text: str, message: str) -> None:
    refused(table(tmp_path / "a", text), message)


def test_refuses_files_and_columns(tmp_path: Path) -> None:
    refused(tmp_path / "none.csv", "no such file or folder")
    path = table(tmp_path / "a", lines("file,label", "pictures/{0}.png,{1}"))
    refused(path, "its columns are file, label, not kind", label_column="kind")
    (tmp_path / "a" / "b.csv").write_bytes("file,label\na.png,groß\n".encode("latin-1"))
    refused(tmp_path / "a" / "b.csv", "cannot be read as text: 'utf-8' codec .*; expected UTF-8")
    (tmp_path / "a" / "x.wav").write_bytes(sound(ramp(0)))
    (tmp_path / "a" / "c.csv").write_text("file,label\nx.wav,a\npictures/0.png,b\n")
    refused(tmp_path / "a" / "c.csv", "names both images and sound")


@pytest.mark.parametrize(
    ("name", "encoding", "row"),
    [
        ("list.csv", "utf-16", "pictures/{0}.png,{1}"),  # as table programs save texts
        ("list.csv", "utf-8", "pictures\\{0}.png,{1}\r"),  # as pandas does on Windows
        ("list.csv", "utf-8", "pictures/{0},{1}"),  # without endings
        ("list.csv", "utf-8", "pictures/{0}.PNG,{1}"),
    ],
)
def test_lists_of_other_programs(tmp_path: Path, name: str, encoding: str, row: str) -> None:
    table(tmp_path / "a", "")
    (tmp_path / "a" / name).write_text(lines("file,label", row), encoding=encoding)
    data = load(DataSettings(source=str(tmp_path / "a" / name)))
    assert data.classes == ("cat", "dog")
    assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()
    assert data.notes == ()


def test_letters_may_be_composed_differently(tmp_path: Path) -> None:
    """The files come from macOS, and the list from elsewhere, or the other way round."""
    pairs: tuple[tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]], ...] = (("NFD", "NFC"), ("NFC", "NFD"))
    for written, listed in pairs:
        folder = image_folder(tmp_path / written, {"a": 16})
        for number in range(16):
            (folder / "a" / f"{number}.png").rename(folder / "a" / normalize(written, f"grün{number}.png"))
        rows = [normalize(listed if n % 3 else written, f"a/grün{n}.png,{'äö'[n % 2]}") for n in range(16)]
        (folder / "list.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
        data = load(DataSettings(source=str(folder / "list.csv")))
        assert data.classes == ("ä", "ö")
        assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()


def test_classes_that_differ_in_capitals_are_noted(tmp_path: Path) -> None:
    text = lines("file,label", "pictures/{0}.png,{1}")
    for number in (2, 4, 8):
        text = text.replace(f"/{number}.png,cat", f"/{number}.png,Cat")
    path = table(tmp_path / "a", text)
    assert load(DataSettings(source=str(path))).notes == ("classes that differ in capitals alone: 'Cat', 'cat'",)


def test_whole_numbers_may_be_floats(tmp_path: Path) -> None:
    """Pandas writes them so where a column once had a gap."""
    rows = "\n".join(f"pictures/{n}.png,{10 * (n % 2) + 2}.0" for n in range(16))
    path = table(tmp_path / "a", f"file,label\n{rows}\n")
    assert load(DataSettings(source=str(path))).classes == ("2", "12")
    path.write_text(f"file,label\n{rows}\n".replace("12.0", "12.5"))
    assert load(DataSettings(source=str(path))).classes == ("12.5", "2.0")


def test_files_in_the_folder_that_the_list_is_named_after(tmp_path: Path) -> None:
    """As competitions have it: ``train.csv`` with numbers, ``train`` with pictures, and ``test`` with others."""
    folder = image_folder(tmp_path / "a", {"train": 16, "test": 16})
    for number in range(16):
        Image.new("RGB", (5, 4), (200, 0, 0)).save(folder / "test" / f"{number}.png")
    (folder / "train.csv").write_text(lines("id,label", "{0},{1}"))
    data = load(DataSettings(source=str(folder / "train.csv")))
    assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()
    assert set.union(*(values(split.x) for split in (data.train, data.validation, data.test()))) == set(range(16))
    assert data.name == "a"
    assert data.notes == (f"files of {folder / 'train.csv'} are named from {folder / 'train'} on",)
    refused(folder, rf"32 images in no class folders, .*, or name their list: --data {folder}/train\.csv$")
    (folder / "sample.csv").write_text("id,label\n")
    refused(folder, rf", or name the one of its lists that has the classes, as in --data {folder}/train\.csv$")


def test_no_folder_is_guessed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a", {"one": 16, "two": 16})
    (folder / "list.csv").write_text(lines("id,label", "{0},{1}"))
    refused(folder / "list.csv", "its files may be those in one or in two, .* names from .*a on, as in one/0$")
    for number in range(16):
        (folder / "one" / f"{number}.png").rename(folder / "one" / f"other{number}.png")
    assert load(DataSettings(source=str(folder / "list.csv"))).notes == (
        f"files of {folder / 'list.csv'} are named from {folder / 'two'} on",
    )
    (folder / "two" / "3.png").rename(folder / "two" / "3.jpg")
    Image.new("RGB", (5, 4)).save(folder / "two" / "3.bmp")
    refused(folder / "list.csv", "line 5: 3 may be two/3.(bmp or two/3.jpg|jpg or two/3.bmp); expected its whole name")
    (folder / "two" / "3.bmp").unlink()
    (folder / "two" / "3.jpg").unlink()
    refused(folder / "list.csv", "line 5: 3 is not there, nor an .* with an ending; files are named from .*two on$")


def refused(source: Path, message: str, **settings: Any) -> None:
    """Loading raises an error of one line that matches ``message``."""
    with pytest.raises(InputError, match=message) as caught:
        load(DataSettings(source=str(source), **settings))
    assert "\n" not in str(caught.value)
