"""Sources, with the files they rest on: arrays, encoded images, single inputs."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from pydantic import ValidationError

import event_data
from event_data import write_tree
from image_data import encoded, file_list, image_folder, npz, parquet, pictures, values, write_parquet
from litesnn.data import rows as rows_module
from litesnn.data import tables
from litesnn.data.cache import CACHE_VARIABLE
from litesnn.data.images import Encoded, check_images, decode_images, fitting_size
from litesnn.data.single import load_inputs
from litesnn.data.sources import SOURCES, Data, DataSettings, load
from litesnn.data.splits import IntArray
from litesnn.errors import InputError
from sounds import commands_folder


def idx_folder(folder: Path, rows: int = 20, test: int = 4, ending: str = "") -> Path:
    """Files as MNIST has them: images of 5 × 4 pixels, each of which holds its own number, and their labels."""
    folder.mkdir(parents=True)
    for split, count in {"train": rows, "t10k": test}.items():
        images = np.stack(pictures(count, channels=1)) if count else np.zeros((0, 4, 5), np.uint8)
        for name, array in (
            (f"{split}-images-idx3-ubyte", images),
            (f"{split}-labels-idx1-ubyte", np.arange(count) % 2),
        ):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
            content = head + array.astype(np.uint8).tobytes()
            if count:
                (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


SAMPLES: dict[str, Callable[[Path], Path | str]] = {
    "digits": lambda folder: "digits",
    "npz": lambda folder: npz(folder / "a.npz", x=np.arange(320).reshape(20, 4, 4) % 97, y=np.arange(20) % 2),
    "file list": lambda folder: file_list(folder / "a"),
    "idx": lambda folder: idx_folder(folder / "raw"),
    "events": lambda folder: write_tree(folder / "recordings", event_data.dataset(train=20)),
    "speech commands": lambda folder: commands_folder(folder / "words", {"go": 20, "no": 20}),
    "folder": lambda folder: parquet(folder / "a"),
    "hub": lambda folder: "someone/pets",
}


HUB_ANSWERS = tables._hub_answers


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_hub_answers", lambda name: True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that holds one data set."""
    held = datasets.load_dataset(str(parquet(tmp_path / "hub", test=4)))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: held)


def test_every_source_has_a_sample() -> None:
    assert SOURCES
    assert set(SAMPLES) == {source.name for source in SOURCES}


@pytest.mark.parametrize("name", [source.name for source in SOURCES])
def test_every_source_gives_data(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "hub":
        request.getfixturevalue("hub")
    chosen = str(SAMPLES[name](tmp_path))
    assert next(source.name for source in SOURCES if source.takes(chosen)) == name
    data = load(DataSettings(source=chosen))
    for split in (data.train, data.validation, data.test()):
        assert split.x.shape[-3:] == data.shape
        assert split.x.dtype == (torch.float32 if data.kind == "array" else torch.uint8)
        assert split.y.dtype == torch.int64
        assert len(split.x) == len(split.y) > 0
        assert set(split.y.tolist()) <= set(range(len(data.classes)))
    raw = data.train.x.double()
    if data.kind == "events":  # normalised by their front end
        raw = torch.tensor([-1.0, 1.0]).double().view(2, 1, 1, 1).expand(2, 2, 1, 1)
    assert data.mean == pytest.approx(raw.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(raw.std((0, 2, 3), correction=0).tolist())
    again = load(DataSettings(source=chosen))
    assert torch.equal(again.train.x, data.train.x)
    assert torch.equal(again.test().x, data.test().x)


def test_digits() -> None:
    data = load(DataSettings())
    assert (data.name, data.shape, data.kind) == ("digits", (1, 8, 8), "image")
    assert data.classes == tuple("0123456789")
    sizes = [len(split.y) for split in (data.train, data.validation, data.test())]
    assert sum(sizes) == 1797
    assert sizes == pytest.approx([1150, 288, 359], abs=3)
    assert data.train.x.max() == 255
    assert load(DataSettings(size=5)).test().x.shape[1:] == (1, 5, 5)


@pytest.mark.parametrize("extra", [{}, {"train_limit": 30}, {"train_limit": 30, "test_limit": 7}])
@pytest.mark.parametrize("own_test", [False, True])
def test_splits_never_overlap_and_limits_hold(tmp_path: Path, extra: dict[str, Any], own_test: bool) -> None:
    x = np.arange(100, dtype=np.uint8)[:, None, None] + np.zeros((100, 3, 2), np.uint8)
    test = {"x_test": x[80:], "y_test": np.arange(20) % 2} if own_test else {}
    rows = 80 if own_test else 100
    path = npz(tmp_path / "a.npz", x=x[:rows], y=np.arange(rows) % 2, **test)
    data = load(DataSettings(source=str(path), **extra))
    parts = [values(split.x) for split in (data.train, data.validation, data.test())]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(parts[0]) + len(parts[1]) == extra.get("train_limit", 80)
    assert len(parts[1]) == 0.2 * extra.get("train_limit", 80)
    assert len(parts[2]) == extra.get("test_limit", 20)
    assert parts[2] <= values(load(DataSettings(source=str(path))).test().x)
    for split in (data.train, data.validation, data.test()):
        assert [int(row[0, 0, 0]) % 2 for row in split.x] == split.y.tolist()


def test_test_rows_are_not_read_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = np.zeros((8, 2, 2), np.float32), np.full((8, 2, 2), np.nan)
    path = npz(tmp_path / "a.npz", x=good + np.arange(8)[:, None, None], y=np.arange(8) % 2, x_test=bad, y_test=good)
    data = load(DataSettings(source=str(path)))  # does not notice
    with pytest.raises(InputError, match=r"x_test: 32 of 32 values are not finite .* \[0, 0, 0, 0\]"):
        data.test()

    folder = parquet(tmp_path / "b", test=4)
    decoded: list[int] = []

    def counted(read: Any, rows: IntArray, **options: Any) -> torch.Tensor:
        decoded.append(len(rows))
        return decode_images(read, rows, **options)

    monkeypatch.setattr(rows_module, "decode_images", counted)
    data = load(DataSettings(source=str(folder)))
    assert decoded == [10, 2]  # training and validation
    assert len(data.test().y) == 4
    assert decoded == [10, 2, 4]


def test_load_never_calls_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Data, "test", lambda self: pytest.fail("test rows were read"))
    assert len(load(DataSettings(train_limit=40)).train.y) == 30


class TestNpz:
    def test_images_arrays_and_class_names(self, tmp_path: Path) -> None:
        y = np.arange(12) % 3
        data = load(DataSettings(source=str(npz(tmp_path / "toys.npz", x=np.ones((12, 4, 5), np.uint8), y=y))))
        assert (data.name, data.kind, data.shape, data.classes) == ("toys", "image", (1, 4, 5), ("0", "1", "2"))
        assert (data.mean, data.std) == ((1.0,), (1.0,))  # constant: the std is 1
        x, names = np.arange(96).reshape(12, 2, 4, 1), np.array(["a", "b", "c"])
        data = load(DataSettings(source=str(npz(tmp_path / "b.npz", x=x, y=y.astype(np.uint8), classes=names))))
        assert (data.kind, data.shape, data.classes) == ("array", (2, 4, 1), ("a", "b", "c"))
        assert values(data.train.x) | values(data.validation.x) | values(data.test().x) == set(range(0, 96, 8))

    def test_resizes_images(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 6)).astype(np.uint8)
        path = npz(tmp_path / "a.npz", x=x, y=np.zeros(10, int) + np.arange(10) // 5, x_test=x[:1], y_test=[0])
        result = load(DataSettings(source=str(path), size=4)).test().x[0].int()
        pillow = Image.fromarray(x[0].transpose(1, 2, 0)).resize((4, 4), Image.Resampling.BILINEAR)
        assert (result - torch.from_numpy(np.array(pillow).transpose(2, 0, 1))).abs().max() <= 1

    X, Y = np.zeros((8, 4, 4)), np.arange(8) % 2

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": X}, "has no array y .*; it holds x"),
            ({"y": Y}, "has no array x .*; it holds y"),
            ({}, "has no array x .*; it holds nothing"),
            ({"x": X, "y": Y, "x_test": X}, "has x_test without its inputs or labels"),
            ({"x": X[:, 0, 0], "y": Y}, r"x: has shape \[8\]; expected \[N, C, H, W\]"),
            ({"x": X[:, :0], "y": Y}, "x: is empty"),
            ({"x": np.zeros((8, 9, 6, 4)), "y": Y}, r"may have channels first or last; .* x.transpose\(0, 3, 1, 2\)"),
            ({"x": np.zeros((8, 784)), "y": Y}, r"\[8, 784\], one vector .* perhaps x.reshape\(-1, 28, 28\)"),
            ({"x": np.zeros((8, 3072)), "y": Y}, r"perhaps x.reshape\(-1, 3, 32, 32\)"),
            ({"x": np.zeros((8, 13)), "y": Y}, "vectors without an order in space"),
            ({"x": X, "images": X, "x_train": X, "y": Y, "labels": Y, "y_train": Y, "y_val": Y}, "y_val without its"),
            ({"images": X, "data": X, "y": Y}, "has both data and images for the train inputs; expected one"),
            ({"x": X, "y": Y, "x_test": X, "labels_test": Y, "Targets_Test": Y}, "both Targets_Test and labels_test"),
            ({"x": X.astype(str), "y": Y}, "x: holds values of type <U32"),
            ({"x": X.astype(complex), "y": Y}, "x: holds values of type complex128"),
            ({"x": X.astype(object), "y": Y}, "Python objects"),
            ({"x": np.where(np.arange(16).reshape(4, 4) == 5, np.nan, X), "y": Y}, r"x: 8 of 128 .* \[0, 0, 1, 1\]"),
            ({"x": X + 1e39, "y": Y}, "128 of 128 values are not finite"),
            ({"x": X, "y": Y[:5]}, r"y: has shape \[5\]; expected \[8\]"),
            ({"x": X, "y": np.eye(8)[:, :2].astype(int)}, r"y: has shape \[8, 2\], but is not one-hot"),
            ({"x": X, "y": Y / 2}, r"y: label 0\.5 in row \d is no whole number"),
            ({"x": X, "y": Y - 1}, "have 1 class; at least 2 are needed"),
            (
                {"x": X, "y": np.where(Y, 2, -1)},
                "4 of 8 labels are outside 0 to 2, the first is -1 in row 0 .*withheld",
            ),
            ({"x": X, "y": 2 * Y}, "class '1' has no training inputs"),
            (
                {"x": X, "y": 10**9 * Y},
                "largest label of 8 rows is 1000000000; expected classes counted from 0 or from 1",
            ),
            ({"x": X, "y": 0 * Y}, "have 1 class; at least 2 are needed"),
            ({"x": X, "y": Y, "classes": np.array(["a"])}, "have 1 class;"),
            ({"x": X, "y": Y, "classes": np.array(["a", "b", "c"])}, "class 'c' has no training inputs"),
            ({"x": X, "y": Y, "classes": np.arange(2)}, "classes must be a list of names"),
            ({"x": X.astype(np.uint8), "y": np.array([0] * 6 + [1, 1])}, "'1' has only 1 of the 2 training images"),
        ],
    )
    def test_refuses(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        refused(npz(tmp_path / "a.npz", **arrays), message)

    def test_refuses_files_that_are_not_npz(self, tmp_path: Path) -> None:
        refused(tmp_path / "none.npz", "no such file or folder")
        path = tmp_path / "a.npz"
        path.write_bytes(b"")
        refused(path, "cannot be read as NumPy arrays")
        path.write_bytes(b"PK\x03\x04 and then something else")
        refused(path, "cannot be read as NumPy arrays")
        with path.open("wb") as file:
            np.save(file, self.X)
        refused(path, "a single unnamed array")
        whole = npz(path, x=self.X, y=self.Y).read_bytes()
        path.write_bytes(whole[:300] + b"damage" + whole[306:])
        refused(path, "cannot be read as NumPy arrays")
        refused(npz(tmp_path / "b.npz", x=self.X, y=self.Y), "rescales images of type uint8", size=4)
        refused(npz(tmp_path / "b.npz", x=self.X, y=self.Y), "label_column names a column of a table", label_column="y")

    def test_refuses_test_rows_that_do_not_fit(self, tmp_path: Path) -> None:
        x = np.arange(8.0)[:, None, None] + self.X
        for x_test, y_test, message in [
            (self.X[:, :3], self.Y, r"are \[1, 3, 4\] .* training rows are \[1, 4, 4\]"),
            (self.X.astype(np.uint8), self.Y, "torch.uint8"),
            (self.X, self.Y + 1, "outside 0 to 1"),
        ]:
            data = load(DataSettings(source=str(npz(tmp_path / "a.npz", x=x, y=self.Y, x_test=x_test, y_test=y_test))))
            with pytest.raises(InputError, match=message):
                data.test()


class TestParquet:
    def test_reads_the_splits_it_has(self, tmp_path: Path) -> None:
        data = load(DataSettings(source=str(parquet(tmp_path / "pets", test=6))))
        assert (data.name, data.shape, data.classes, data.notes) == ("pets", (3, 4, 5), ("cat", "dog"), ())
        assert values(data.train.x) | values(data.validation.x) == set(range(12))
        assert values(data.test().x) == set(range(6))
        assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()

    def test_a_validation_split_of_its_own(self, tmp_path: Path) -> None:
        data = load(DataSettings(source=str(parquet(tmp_path / "a", validation=4, test=6))))
        assert [len(split.y) for split in (data.train, data.validation, data.test())] == [12, 4, 6]
        assert "'validation'" in data.notes[0]
        data = load(DataSettings(source=str(parquet(tmp_path / "b", validation=4))))
        assert len(data.train.y) + len(data.validation.y) == 12
        assert len(data.test().y) == 4
        assert "no test split" in data.notes[0]

    def test_only_one_split(self, tmp_path: Path) -> None:
        data = load(DataSettings(source=str(parquet(tmp_path / "a", rows=20)), test_fraction=0.5))
        assert [len(split.y) for split in (data.train, data.validation, data.test())] == [8, 2, 10]

    @pytest.mark.parametrize(
        ("labels", "classes"), [([0, 1, 2] * 4, ("0", "1", "2")), (["owl", "ant", "bee"] * 4, ("ant", "bee", "owl"))]
    )
    def test_labels_without_class_names(self, tmp_path: Path, labels: list[Any], classes: tuple[str, ...]) -> None:
        images = [encoded(picture) for picture in pictures(12)]
        write_parquet(tmp_path / "a", "train", images, labels)
        write_parquet(tmp_path / "a", "test", images[:3], labels[:3])
        data = load(DataSettings(source=str(tmp_path / "a")))
        assert data.classes == classes
        assert [data.classes[label] for label in data.test().y] == [str(label) for label in labels[:3]]
        write_parquet(tmp_path / "a", "test", images[:1], ["yak" if isinstance(labels[0], str) else 3])
        with pytest.raises(InputError, match=r"'yak' is not among|outside 0 to 2"):
            load(DataSettings(source=str(tmp_path / "a"))).test()

    def test_the_finer_of_two_labels_is_taken(self, tmp_path: Path) -> None:
        """CIFAR-100's layout: ``img``, ``fine_label`` and ``coarse_label``."""
        images = [{"bytes": encoded(picture), "path": None} for picture in pictures(12)]
        rows = {"img": images, "coarse_label": [0] * 12, "fine_label": [0, 1] * 6}
        found = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())
        found = found.cast_column("fine_label", datasets.ClassLabel(names=["bee", "ant"]))
        (tmp_path / "a").mkdir()
        found.cast_column("coarse_label", datasets.ClassLabel(names=["insect", "bird"])).to_parquet(
            tmp_path / "a" / "train-00000-of-00001.parquet"
        )
        assert load(DataSettings(source=str(tmp_path / "a"))).classes == ("bee", "ant")

    def test_columns_can_be_named(self, tmp_path: Path) -> None:
        images = [encoded(picture) for picture in pictures(12)]
        write_parquet(tmp_path / "a", "train", images, [0] * 12, kind=[0, 1] * 6)
        data = load(DataSettings(source=str(tmp_path / "a"), label_column="kind", image_column="img"))
        assert data.classes == ("0", "1")
        refused(
            tmp_path / "a", "data.label_column is 'sort', but the columns are img, label, kind", label_column="sort"
        )
        refused(tmp_path / "a", "data.image_column is 'x'", image_column="x")
        refused(tmp_path / "a", "'kind' holds int values", image_column="kind", label_column="kind")
        refused(tmp_path / "a", "have 1 class;")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"text": ["a"] * 8, "label": [0, 1] * 4}, "no image column found among text, label"),
            ({"image": [b"a"] * 8, "size": [0, 1] * 4}, "no label column found among image, size"),
            ({"image": [b"a"] * 8, "label": [0, 1] * 4}, r"row \d: cannot be decoded as an image"),
            ({"image": [None] * 8, "label": [0, 1] * 4}, r"row \d: is missing"),
            ({"image": [b"a"] * 8, "label": [0, None] * 4}, "label in row 1 is missing"),
            ({"image": [b"a"] * 8, "label": [0.5] * 8}, "label in row 0 is of type float"),
            ({"image": [b"a"] * 8, "label": [[0], [1]] * 4}, "label in row 0 is of type list"),
            ({"image": [b"a"] * 8, "label": [-1, 1] * 4}, "labels are withheld"),
        ],
    )
    def test_refuses_columns(self, tmp_path: Path, columns: dict[str, Any], message: str) -> None:
        (tmp_path / "a").mkdir()
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "a" / "train.parquet")
        refused(tmp_path / "a", message)

    def test_refuses_what_it_cannot_choose(self, tmp_path: Path) -> None:
        images = [{"bytes": encoded(picture), "path": None} for picture in pictures(4)]
        table = datasets.Dataset.from_dict({"img": images, "second": images, "label": [0, 1] * 2})
        (tmp_path / "b").mkdir()
        for column in ("img", "second"):
            table = table.cast_column(column, datasets.Image())
        table.to_parquet(tmp_path / "b" / "a.parquet")
        refused(tmp_path / "b", r"several image columns \(img, second\)")
        sound = datasets.Dataset.from_dict({"audio": [b"a"], "label": [0]}).cast_column(
            "audio", datasets.Audio(decode=False)
        )
        (tmp_path / "c").mkdir()
        sound.to_parquet(tmp_path / "c" / "a.parquet")
        refused(tmp_path / "c", "have 1 class; at least 2 are needed")

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        images = [encoded(picture) for picture in pictures(12)]
        images[7] = images[7][:45]
        write_parquet(tmp_path / "a", "train", images, [0, 1] * 6)
        write_parquet(tmp_path / "a", "test", images[:4], [0, 1] * 2)
        refused(tmp_path / "a", "split 'train', row 7: cannot be decoded as an image")

    def test_classes_that_a_limit_empties(self, tmp_path: Path) -> None:
        refused(parquet(tmp_path / "a"), r"class 'dog' has only 1 .* within data.train_limit = 3", train_limit=3)


class TestIdx:
    @pytest.mark.parametrize("ending", ["", ".gz"])
    def test_splits_are_read(self, tmp_path: Path, ending: str) -> None:
        idx_folder(tmp_path / "FashionMNIST" / "raw", ending=ending)
        for place in (tmp_path, tmp_path / "FashionMNIST" / "raw"):
            data = load(DataSettings(source=str(place)))
            assert (data.kind, data.shape, data.classes) == ("image", (1, 4, 5), ("0", "1"))
            assert values(data.train.x) | values(data.validation.x) == set(range(20))
            assert (data.train.x[:, 0, 0, 0] % 2).tolist() == data.train.y.tolist()
            assert data.test().y.tolist() == [0, 1, 0, 1]

    def test_an_unpacked_file_goes_first_and_a_test_is_cut(self, tmp_path: Path) -> None:
        folder = idx_folder(tmp_path / "a", test=0)
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
        data = load(DataSettings(source=str(folder)))
        assert len(data.train.y) + len(data.validation.y) + len(data.test().y) == 20

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (
                "train-labels-idx1-ubyte",
                None,
                "has no labels of the train, only train-images-idx3-ubyte; expected both",
            ),
            ("train-labels-idx1-ubyte", b"", "train-labels-idx1-ubyte: cannot be read as an IDX file"),
            ("train-labels-idx1-ubyte", b"\0\0\x0d\1" + bytes(4), "it does not begin with 0, 0, 8"),
            ("train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\3ab", r"its shape \[3\] takes 3 bytes, and it has 2"),
            ("train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\3abcd", r"its shape \[3\] takes 3 bytes, and it has more"),
            ("train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\3abc", r"has shape \[3\]; expected \[20\]"),
            ("train-images-idx3-ubyte", b"\0\0\x08\3" + b"\xff" * 12, "an array may 17179869184"),
        ],
    )
    def test_refuses(self, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
        folder = idx_folder(tmp_path / "a")
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        refused(folder, message)

    def test_several_data_sets_are_not_mixed(self, tmp_path: Path) -> None:
        for name in ("FashionMNIST", "MNIST"):
            idx_folder(tmp_path / name / "raw")
        refused(
            tmp_path, r"holds several data sets like MNIST: .*/FashionMNIST/raw, .*/MNIST/raw; expected one of these"
        )

    def test_refuses_a_test_alone_and_damaged_archives(self, tmp_path: Path) -> None:
        refused(idx_folder(tmp_path / "a", rows=0), "has no training images; expected train-images-idx3-ubyte")
        folder = idx_folder(tmp_path / "b", ending=".gz")
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-9])
        refused(folder, r"train-images-idx3-ubyte\.gz: cannot be read as an IDX file")


class TestImages:
    def test_folders_are_classes(self, tmp_path: Path) -> None:
        image_folder(tmp_path / "flat", {"cat": 8, "dog": 8})
        data = load(DataSettings(source=str(tmp_path / "flat")))
        assert (data.classes, data.shape) == (("cat", "dog"), (3, 4, 5))
        assert sum(len(split.y) for split in (data.train, data.validation, data.test())) == 16
        image_folder(tmp_path / "split", {"train/cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 2})
        assert load(DataSettings(source=str(tmp_path / "split"))).test().y.tolist() == [0, 1, 1]

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "holds no parquet files, no class folders of images or of sound, and no .bin recordings"),
            ({"a.dat": b"a", "b.dat": b"b"}, "holds no parquet files, no class folders of images or of sound"),
            ({"notes.txt": b"a"}, "holds no parquet files, no class folders of images or of sound"),
            ({"a/1.heic": b"a", "b/2.HEIC": b"a", "c.db": b""}, r", but 2 \.heic \(convert them to .*\), 1 \.db$"),
            ({"a/1.npy": b"a"}, r", but 1 \.npy \(read them in Python, and keep inputs and labels as np\.savez\("),
            ({"train.zip": b""}, r"cannot be read as an archive"),
            ({"train.parquet": b"nonsense"}, "cannot be read as a data set"),
            (
                {"a/1.wav": b"a", "b/2.wav": b"b", "b/3.wav": b"b", "b/4.wav": b"b", "b/5.wav": b"b"},
                "'a' has only 1 of the",
            ),
            (
                {"cat/a.png": b"a"},
                "holds 1 image, and a single class folder, cat; expected one folder of files for each",
            ),
            (
                {"cat/a.png": b"a", "dog/a.png": b"a"},
                "2 of 2 classes have fewer than the 2 training images they need: 'cat' has 1, 'dog' has 1$",
            ),
            (
                {**{f"{name}/a.png": b"a" for name in "abcdefg"}, **{f"h/{n}.png": b"a" for n in range(5)}},
                "7 of 8 classes have .*: 'a' has 1, 'b' has 1, 'c' has 1, 'd' has 1, 'e' has 1 and 2 more$",
            ),
            ({f"{name}/{n}.png": b"a" for name in ("cat", "dog") for n in range(4)}, r"a/cat/\d.png: cannot be"),
        ],
    )
    def test_refuses_folders(self, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
        (tmp_path / "a").mkdir()
        for name, content in files.items():
            (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "a" / name).write_bytes(content)
        refused(tmp_path / "a", message)

    def test_damage_of_all_splits_is_told_at_once(self, tmp_path: Path) -> None:
        """Nobody has to mend one file for each try, the last of them after the training."""
        layout = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in ("cat", "dog")}
        folder = image_folder(tmp_path / "a", layout)
        (folder / "train/cat/0.png").write_bytes(b"")
        (folder / "val/dog/1.png").write_bytes((folder / "val/dog/1.png").read_bytes()[:45])
        Image.fromarray(np.zeros((4, 5), np.uint16)).save(folder / "test/cat/2.png")
        (folder / "test/dog/3.png").write_bytes(b"<html>")
        refused(
            folder,
            r"^4 of 24 files cannot be read: .*cat/0\.png: .*the file is empty; .*dog/1\.png: .*cat/2\.png: has more"
            ".*; and 1 more$",
        )
        for place in ("train/cat/0.png", "val/dog/1.png"):
            (folder / place).unlink()
        data = load(DataSettings(source=str(folder)))
        with pytest.raises(
            InputError, match=r"^2 of 8 files cannot be read: .*test/cat/2\.png: .*test/dog/3\.png: cann"
        ):
            data.check_test()

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
    def test_images_that_end_too_early_are_found(self, kind: str) -> None:
        content = encoded(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), kind=kind)
        check_images([Encoded(content, None, "whole")])
        with pytest.raises(InputError, match="cut: cannot be decoded"):
            check_images([Encoded(content[: len(content) // 2], None, "cut")])
        with pytest.raises(InputError, match=r"a\.HEIC: cannot be decoded .*; convert it to \.jpg or \.png$"):
            check_images([Encoded(b"ftypheic", None, "a.HEIC")])

    def test_mixed_sizes_get_one_that_fits(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a", {"cat": 6, "dog": 6}, np.zeros((50, 40, 3), np.uint8))
        for number in range(1, 6):
            Image.new("RGB", (90, 70)).save(folder / "cat" / f"{number}.png")
        data = load(DataSettings(source=str(folder)))
        assert data.shape == (3, 32, 32)
        assert data.test().x.shape[1:] == data.validation.x.shape[1:] == (3, 32, 32)
        assert data.notes == (
            "images have different sizes, 40 to 90 pixels wide and 50 to 70 high; all are rescaled to 32 by 32, and "
            "data.size sets another size",
        )
        assert load(DataSettings(source=str(folder), size=6)).test().x.shape[1:] == (3, 6, 6)

    @pytest.mark.parametrize(
        ("sides", "size"),
        [([12, 13, 15], 12), ([5, 6], 8), ([32, 40], 32), ([47, 50], 48), ([30, 64, 500], 64), ([3000] * 2, 64)],
    )
    def test_fitting_sizes(self, sides: list[int], size: int) -> None:
        assert fitting_size(np.array([(side, side) for side in sides])) == size

    def test_other_sizes_in_the_test_are_rescaled_and_a_line_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        layout = {"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 2}
        folder = image_folder(tmp_path / "a", layout)
        Image.new("RGB", (9, 7)).save(folder / "test" / "cat" / "0.png")
        data = load(DataSettings(source=str(folder)))
        assert (data.notes, caplog.messages) == ((), [])
        assert data.test().x.shape == (4, 3, 4, 5)
        (line,) = caplog.messages
        assert "1 of 4 images are rescaled to the size of the training images, 5 wide and 4 high; one is" in line

    def test_photos_that_are_not_square_stay_as_they_are(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a", {"cat": 6, "dog": 6}, np.zeros((90, 120, 3), np.uint8))
        data = load(DataSettings(source=str(folder)))
        assert (data.shape, data.notes) == ((3, 90, 120), ())

    @pytest.mark.parametrize(
        ("modes", "channels"),
        [(["L"], 1), (["1"], 1), (["LA"], 1), (["RGB"], 3), (["P"], 3), (["RGBA"], 3), (["L", "RGB"], 3)],
    )
    def test_modes(self, tmp_path: Path, modes: list[str], channels: int) -> None:
        images = [encoded(picture, modes[row // 2 % len(modes)]) for row, picture in enumerate(pictures(16))]
        write_parquet(tmp_path / "a", "train", images, [0, 1] * 8)
        data = load(DataSettings(source=str(tmp_path / "a")))
        assert data.shape == (channels, 4, 5)
        assert data.test().x.shape[1:] == data.shape

    def test_deep_images_are_refused(self, tmp_path: Path) -> None:
        images = [encoded(np.full((4, 4), 300, np.uint16)) for _ in range(12)]
        write_parquet(tmp_path / "a", "train", images, [0, 1] * 6)
        refused(tmp_path / "a", r"more than 8 bits per channel \(Pillow mode I;16\)")

    def test_turned_images_are_turned_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encoded(np.zeros((4, 6, 3), np.uint8), kind="JPEG", exif=exif)
        write_parquet(tmp_path / "a", "train", [content] * 12, [0, 1] * 6)
        assert load(DataSettings(source=str(tmp_path / "a"))).shape == (3, 6, 4)

    def test_many_images_keep_their_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("litesnn.data.images._CHUNK", 20)
        data = load(DataSettings(source=str(parquet(tmp_path / "a", rows=150))))
        assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()
        assert len(values(data.train.x)) == len(data.train.y)


class TestHubAndNames:
    @pytest.mark.parametrize(
        ("error", "asked"),
        [
            (ConnectionError("no route"), False),
            (HfHubHTTPError("no such data set", response=mock.Mock()), True),
            (None, True),
        ],
    )
    def test_a_hub_that_does_not_answer_is_asked_once(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception | None, asked: bool
    ) -> None:
        """`datasets` itself asks six times, for half a minute."""
        monkeypatch.setattr(tables, "_hub_answers", HUB_ANSWERS)
        calls: list[object] = []

        def ask(self: object, name: str, timeout: float) -> None:
            assert timeout <= 5
            calls.append(name)
            if error is not None:
                raise error

        def fail(name: str) -> None:
            calls.append(datasets.config.HF_HUB_OFFLINE)
            raise ConnectionError

        monkeypatch.setattr(HfApi, "dataset_info", ask)
        monkeypatch.setattr(datasets, "load_dataset", fail)
        before = datasets.config.HF_HUB_OFFLINE
        refused("a/b", "'a/b' is not here and the Hugging Face hub cannot be reached")
        assert calls == ["a/b", before or not asked]
        assert before == datasets.config.HF_HUB_OFFLINE

    def test_reads_it(self, hub: None) -> None:
        data = load(DataSettings(source="someone/pets"))
        assert (data.name, len(data.test().y)) == ("someone/pets", 4)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (ConnectionError("Couldn't reach it"), "'a/b' is not here and the Hugging Face hub cannot be reached"),
            (datasets.exceptions.DatasetNotFoundError("doesn't\nexist"), "'a/b' is not on the Hugging Face hub"),
            (ValueError("Config name is missing.\nPick one"), "cannot be read: Config name is missing. Pick one"),
            (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
        ],
    )
    def test_its_errors_are_one_line(self, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
        def fail(name: str) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        refused("a/b", message)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("./nowhere", "./nowhere: no such file or folder"),
            ("/nowhere/at/all", "no such file or folder"),
            ("~/nowhere/at/all", "no such file or folder"),
            ("one/two/three", "is not a data set; expected 'digits', an .npz file"),
            ("has space", "is not a data set"),
            ("x" * 5000 + "/" * 2, "is not a data set"),
            (__file__, "is not a folder, an .npz or a .csv file; expected 'digits'"),
        ],
    )
    def test_refuses_names(self, source: str, message: str) -> None:
        refused(source, message)

    def test_a_missing_train_split_is_named(self, tmp_path: Path) -> None:
        for split in ("validation", "test"):
            parquet(tmp_path / "a", **{split: 4})
        (tmp_path / "a" / "train-00000-of-00001.parquet").unlink()
        refused(tmp_path / "a", "has no split 'train'; it has validation, test")

    @pytest.mark.parametrize(
        ("source", "module", "message"),
        [
            ("digits", "sklearn.datasets", r"'scikit-learn'.*pip install 'litesnn\[demo\]'"),
            ("parquet", "datasets", r"'datasets'.*pip install 'litesnn\[data\]'"),
            ("a/b", "datasets", r"'datasets'.*pip install 'litesnn\[data\]'"),
        ],
    )
    def test_a_missing_package_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, module: str, message: str
    ) -> None:
        named = str(parquet(tmp_path / "a")) if source == "parquet" else source
        monkeypatch.setitem(sys.modules, module, None)
        refused(named, message)

    def test_patterns_in_a_name_are_none(self, tmp_path: Path) -> None:
        for _ in range(2):
            (tmp_path / "[ab]*?").mkdir(exist_ok=True)
            data = load(DataSettings(source=str(parquet(tmp_path / "[ab]*?" / "c", test=4))))
            assert (data.name, len(data.test().y)) == ("c", 4)

    def test_the_quiet_of_a_folder_ends_with_it(self, tmp_path: Path) -> None:
        before = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
        load(DataSettings(source=str(parquet(tmp_path / "a"))))
        assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before

    @pytest.mark.parametrize(
        "wrong",
        [{"source": ""}, {"train_limit": 0}, {"validation_fraction": 1.0}, {"test_fraction": 0}, {"size": 0}, {"a": 1}],
    )
    def test_settings_refuse(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            DataSettings.model_validate(wrong)


class TestLoadInputs:
    def test_an_image_takes_the_shape_of_the_network(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        same = load_inputs(tmp_path / "a.png", (3, 6, 5), "image")
        assert torch.equal(same, torch.from_numpy(pixels.transpose(2, 0, 1))[None])
        assert load_inputs(tmp_path / "a.png", (1, 9, 8), "image").shape == (1, 1, 9, 8)

    @pytest.mark.parametrize(
        ("found", "shape", "rows"),
        [
            ((5, 3, 4, 2), (3, 4, 2), 5),
            ((3, 4, 2), (3, 4, 2), 1),
            ((5, 4, 2), (1, 4, 2), 5),
            ((4, 2), (1, 4, 2), 1),
            ((1, 1, 1), (1, 1, 1), 1),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.uint8, np.float64])
    def test_arrays(
        self, tmp_path: Path, found: tuple[int, ...], shape: tuple[int, int, int], rows: int, dtype: Any
    ) -> None:
        array = np.arange(np.prod(found)).reshape(found).astype(dtype)
        np.save(tmp_path / "a.npy", array)
        npz(tmp_path / "a.npz", x=array, y=np.array([object()]))  # what is not asked for is not read
        for name in ("a.npy", "a.npz"):
            x = load_inputs(tmp_path / name, shape, "image" if dtype == np.uint8 else "array")
            assert x.shape == (rows, *shape)
            assert x.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
            assert x.flatten().tolist() == list(range(array.size))

    @pytest.mark.parametrize(
        ("array", "kind", "message"),
        [
            (np.zeros((2, 3, 5, 4), np.uint8), "image", r"has shape \[2, 3, 5, 4\]; expected \[N, 3, 4, 5\]"),
            (np.zeros((2, 4, 5), np.uint8), "image", r"expected \[N, 3, 4, 5\]"),
            (np.zeros((0, 3, 4, 5), np.uint8), "image", "is empty"),
            (np.zeros((3, 4, 5)), "image", "takes images of type uint8"),
            (np.zeros((3, 4, 5), np.uint8), "array", "takes arrays of real numbers"),
            (np.full((3, 4, 5), np.inf), "array", "60 of 60 values are not finite"),
            (np.full((3, 4, 5), None), "array", "Python objects"),
        ],
    )
    def test_refuses_arrays(self, tmp_path: Path, array: Any, kind: Any, message: str) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InputError, match=message) as caught:
            load_inputs(tmp_path / "a.npy", (3, 4, 5), kind)
        assert "\n" not in str(caught.value)

    def test_refuses_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"nonsense")
        (tmp_path / "a.npy").write_bytes(b"nonsense")
        npz(tmp_path / "a.npz", y=[1])
        with (tmp_path / "b.npy").open("wb") as file:
            np.savez(file, x=[1])
        cases: list[tuple[str, Literal["image", "array"], str]] = [
            ("a.png", "image", "a.png: cannot be decoded as an image"),
            ("a.png", "array", "this network takes arrays"),
            ("a.npy", "image", "cannot be read as NumPy arrays"),
            ("a.npz", "image", "has no array x; it holds y"),
            ("b.npy", "image", "holds several arrays"),
            ("none.png", "image", "no such file or folder"),
            (".", "image", "is a folder; expected a file"),
        ]
        for name, kind, message in cases:
            with pytest.raises(InputError, match=message) as caught:
                load_inputs(tmp_path / name, (3, 4, 5), kind)
            assert "\n" not in str(caught.value)


def refused(source: Path | str, message: str, **settings: Any) -> None:
    """Loading raises an error of one line that matches ``message``."""
    with pytest.raises(InputError, match=message) as caught:
        load(DataSettings(source=str(source), **settings))
    assert "\n" not in str(caught.value)
