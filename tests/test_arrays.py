"""Arrays as others keep them: names, labels of several kinds, channels at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from image_data import encoded, npz, values, write_parquet
from litesnn.data.arrays import as_labels, channels_last, find_arrays, find_inputs
from litesnn.data.single import load_inputs
from litesnn.data.sources import Data, DataSettings, load
from litesnn.errors import InputError

X = np.arange(20, dtype=np.uint8)[:, None, None] + np.zeros((20, 4, 4), np.uint8)
Y = np.arange(20) % 2


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("tables")))


def loaded(path: Path, **arrays: Any) -> Data:
    return load(DataSettings(source=str(npz(path / "a.npz", **arrays))))


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y", "x_test", "y_test"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images", "labels", "images_test", "labels_test"),
        ("data", "target", "test_data", "test_target"),
        ("X", "Y", "X_eval", "Y_eval"),
        ("inputs", "targets", "x_testing", "label_testing"),
    ],
)
def test_names_of_arrays(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = loaded(tmp_path, **dict(zip(names, (X[:12], Y[:12], X[12:], Y[12:]), strict=True)), other=np.zeros(3))
    assert values(data.train.x) | values(data.validation.x) == set(range(12))
    assert values(data.test().x) == set(range(12, 20))
    assert data.notes == (f"1 array of {tmp_path / 'a.npz'} not read: other",)


def test_a_validation_of_its_own(tmp_path: Path) -> None:
    arrays = {"x_train": X[:12], "y_train": Y[:12], "x_val": X[12:16], "y_val": Y[12:16]}
    data = loaded(tmp_path, **arrays)
    assert values(data.test().x) == set(range(12, 16))
    assert "no test split: its split 'validation' is the test" in data.notes[0]
    data = loaded(tmp_path, **arrays, x_test=X[16:], y_test=Y[16:])
    assert [values(split.x) for split in (data.train, data.validation, data.test())] == [
        set(range(12)),
        set(range(12, 16)),
        set(range(16, 20)),
    ]


def test_the_plain_names_go_before_others() -> None:
    assert find_arrays(["data", "x", "y", "y_train", "mean"], "a")["train"].x == "x"
    assert find_inputs(["images", "x", "y"], "a") == "x"
    assert find_inputs(["test_images", "labels"], "a") == "test_images"
    with pytest.raises(InputError, match=r"several arrays of inputs \(data, images\)"):
        find_inputs(["images", "data"], "a")


class TestLabels:
    def test_names_become_classes(self, tmp_path: Path) -> None:
        names = np.array(["owl", "ant"])
        for kind in (str, bytes):
            y = names[Y].astype(kind)
            data = loaded(tmp_path, x=X, y=y, x_test=X[:3], y_test=y[:3])
            assert data.classes == ("ant", "owl")
            assert data.test().y.tolist() == [1, 0, 1]
        data = loaded(tmp_path, x=X, y=names[Y], x_test=X[:1], y_test=np.array(["yak"]))
        with pytest.raises(InputError, match="y_test: label 'yak' is not among the classes of the training rows"):
            data.test()
        assert loaded(tmp_path, x=X, y=names[Y], classes=names).classes == ("owl", "ant")

    def test_one_hot_and_columns(self, tmp_path: Path) -> None:
        for y in (np.eye(2)[Y], np.eye(2, dtype=np.uint8)[Y], np.eye(2, dtype=bool)[Y], Y[:, None], Y == 1):
            data = loaded(tmp_path, images=X, labels=y)
            assert data.classes == ("0", "1")
            assert [int(image[0, 0, 0]) % 2 for image in data.train.x] == data.train.y.tolist()
        assert loaded(tmp_path, x=X, y=np.eye(2)[Y], class_names=np.array(["b", "a"])).classes == ("b", "a")

    def test_whole_numbers_may_be_floats(self, tmp_path: Path) -> None:
        data = loaded(tmp_path, x=X, y=Y.astype(np.float32))
        assert data.classes == ("0", "1")
        assert data.train.y.dtype == torch.int64

    def test_numbers_from_1_on(self, tmp_path: Path) -> None:
        data = loaded(tmp_path, x=X, y=Y + 1, x_test=X[:3], y_test=Y[:3] + 1)
        assert (data.classes, data.test().y.tolist()) == (("1", "2"), [0, 1, 0])
        assert loaded(tmp_path, x=X, y=Y + 1, classes=np.array(["a", "b"])).class_counts == (6, 6)
        write_parquet(tmp_path / "t", "train", [encoded(x) for x in X], (Y + 1).tolist())
        data = load(DataSettings(source=str(tmp_path / "t")))
        assert (data.classes, sorted(set(data.test().y.tolist()))) == (("1", "2"), [0, 1])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.ones((20, 2)), "not one-hot: expected one 1 in each row"),
            (np.full((20, 2), 0.5), "not one-hot"),
            (np.eye(2)[Y][:5], r"has shape \[5, 2\]; expected|holds values of type float64"),
            (np.zeros((20, 2, 2), int), r"has shape \[20, 2, 2\]; expected \[20\]"),
            (Y / 2, r"label 0\.5 in row \d+ is no whole number"),
            (np.full(20, np.nan), r"label nan in row 0 is no whole number"),
            (Y * 1j, "expected integer labels, names or one-hot rows"),
        ],
    )
    def test_refuses(self, labels: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            as_labels(labels, 20, "a.npz: y")


class TestChannelsLast:
    @pytest.mark.parametrize(
        ("shape", "dtype", "last"),
        [
            ((28, 28, 1), np.uint8, True),
            ((40, 98, 1), np.float32, True),
            ((32, 24, 3), np.float32, True),
            ((30, 20, 4), np.uint8, True),
            ((32, 32, 4), np.float32, True),
            ((3, 32, 32), np.uint8, False),
            ((3, 4, 4), np.uint8, False),
            ((1, 8, 4), np.float32, False),
            ((2, 4, 1), np.float32, False),
            ((64, 4, 4), np.float32, False),
            ((9, 128, 2), np.float32, False),
            ((28, 28), np.uint8, False),
            ((28, 4, 1), np.uint8, True),
            ((8, 1, 3), np.uint8, True),
            ((3, 9, 3), np.uint8, False),
        ],
    )
    def test_where_it_is_plain(self, shape: tuple[int, ...], dtype: Any, last: bool) -> None:
        assert channels_last(np.zeros((2, *shape), dtype), "a") == last

    def test_it_is_turned_and_said(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).integers(0, 256, (20, 6, 7, 3)).astype(np.uint8)
        data = loaded(tmp_path, x=x, y=Y, x_test=x[:2], y_test=Y[:2])
        assert data.shape == (3, 6, 7)
        assert torch.equal(data.test().x, torch.from_numpy(x[:2].transpose(0, 3, 1, 2)))
        assert data.notes == ("x of shape [20, 6, 7, 3] is read as channels last, [N, H, W, C]",)

    def test_what_may_be_either_is_said(self, tmp_path: Path) -> None:
        data = loaded(tmp_path, x=np.zeros((20, 3, 9, 3), np.uint8), y=Y)
        assert data.notes == ("x of shape [20, 3, 9, 3] is read as channels first, [N, C, H, W]",)

    def test_prediction_takes_it_too(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
        first = torch.from_numpy(x.transpose(0, 3, 1, 2))
        assert torch.equal(load_inputs(npz(tmp_path / "a.npz", images=x), (3, 6, 7), "image"), first)
        np.save(tmp_path / "a.npy", x[0])
        assert torch.equal(load_inputs(tmp_path / "a.npy", (3, 6, 7), "image"), first[:1])
