"""Data of a Python program: arrays, tensors and datasets, and the run folder that keeps them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

import litesnn
from litesnn.data.given import as_arrays, source_of
from litesnn.data.sources import DataSettings, load
from litesnn.errors import InputError
from whole_job import Problem, inputs
from whole_job import litesnn as command_line

pandas: Any = pytest.importorskip("pandas")  # which datasets brings

X = (np.arange(20, dtype=np.uint8)[:, None, None, None] + np.arange(48, dtype=np.uint8).reshape(3, 4, 4)).astype(
    np.uint8
)
Y = np.arange(20) % 2


class Column:
    """What a column of pandas is: no array, but it becomes one of Python objects."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, object)


class Images(Dataset[Any]):
    """Items made of X and Y, with names of classes as torchvision's datasets have them."""

    classes = ["even", "odd"]  # noqa: RUF012

    def __init__(self, image: Any, label: Any = int) -> None:
        self.image, self.label = image, label

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Any:
        return self.image(X[row]), self.label(Y[row])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (X.tolist(), Y.tolist()),
        {"images": X, "labels": torch.from_numpy(Y)},
        {"train": (X, Y)},
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        (X, Y.astype(np.float64)),
        (X, np.array(Y.tolist(), object)),
        (X, Column(Y.tolist())),
        Images(torch.from_numpy),
        Images(lambda x: torch.from_numpy(x).float() / 255),
        Images(lambda x: x.astype(np.float32) / np.float32(255), np.int64),
        Images(lambda x: Image.fromarray(x.transpose(1, 2, 0)), lambda y: torch.tensor(int(y))),
        Images(lambda x: Image.fromarray(x.transpose(1, 2, 0)).convert("RGBA")),
        Subset(Images(torch.from_numpy), list(range(20))),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        {"train": Images(torch.from_numpy)},
    ],
)
def test_all_forms_say_the_same(tmp_path: Path, data: Any) -> None:
    source = source_of(data, tmp_path / "run")
    assert source == str(tmp_path / "run" / "data.npz")
    with np.load(source) as kept:
        arrays = dict(kept)
    x = next(array for name, array in arrays.items() if name[0] in "xi")
    y = next(array for name, array in arrays.items() if name[0] in "yl")
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    given_as_list = isinstance(data, tuple) and isinstance(data[0], list)
    assert x.dtype == (np.int64 if given_as_list else np.uint8)
    found = load(DataSettings(source=source))
    assert found.shape == (3, 4, 4)
    assert found.classes == (("even", "odd") if "classes" in arrays else ("0", "1"))
    assert source_of(data, tmp_path / "run") == source


@pytest.mark.parametrize(
    "data",
    [
        {"train": Images(torch.from_numpy), "test": (X[:4], Y[:4])},
        {"Training": (X, Y), "val": (X[:2], Y[:2]), "TEST": (X[:4], Y[:4])},
        ((X, Y), (X[:4], Y[:4])),
        {"x_train": X, "y_train": Y, "x_test": X[:4], "y_test": Y[:4]},
        {"train": [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)], "test": (X[:4], Y[:4])},
    ],
)
def test_tests_of_their_own(tmp_path: Path, data: Any) -> None:
    source = source_of(data, tmp_path)
    assert source is not None
    test = load(DataSettings(source=source)).test()
    assert torch.equal(test.x, torch.from_numpy(X[:4]))
    assert test.y.tolist() == Y[:4].tolist()


def test_names_may_be_objects(tmp_path: Path) -> None:
    names = ["odd" if label else "even" for label in Y]
    texts = np.dtypes.StringDType()
    for labels in (Column(names), np.array(names, object), pandas.Series(names), np.array(names, texts)):
        assert as_arrays((X, labels))["y_train"].tolist() == names
    found = as_arrays((X, Column([name.encode() for name in names])))["y_train"]
    assert found.astype(np.str_).tolist() == names


def test_descriptions_among_arrays_are_left_out() -> None:
    found = as_arrays({"images": X, "target": Y, "frame": None, "DESCR": "twenty", "other": [1, 2]})
    assert set(found) == {"images", "target", "other"}


def test_whole_labels_may_be_floats(tmp_path: Path) -> None:
    whole = Y.astype(np.float32) + 1
    for labels in (whole, torch.from_numpy(whole), pandas.Series(whole), Column(list(whole)), whole[:, None]):
        source = source_of((X, labels), tmp_path / "run")
        data = load(DataSettings(source=str(source)))
        assert data.classes == ("1", "2")
        assert set(data.train.y.tolist()) == {0, 1}
        shutil.rmtree(tmp_path / "run")
    assert as_arrays(Images(torch.from_numpy, float))["classes"].tolist() == Images.classes


def test_names_stay_names(tmp_path: Path) -> None:
    assert source_of("digits", tmp_path) == "digits"
    assert source_of(tmp_path / "a.npz", tmp_path) == str(tmp_path / "a.npz")
    assert source_of(None, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_floats_stay_what_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3, 4, 4)).astype(np.float32)
    assert as_arrays((X / np.float32(255), Y))["x_train"].dtype == np.float32
    found = as_arrays([(image, int(label)) for image, label in zip(x, Y, strict=True)])["x_train"]
    assert np.array_equal(found, x)
    halves = torch.from_numpy(x).to(torch.bfloat16)
    assert as_arrays((halves, Y))["x_train"].dtype == np.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"data: is of type int; expected the name of a data set, \(x, y\), a dict"),
        (X, "data: is of type ndarray; expected"),
        ([], "data: is empty"),
        ({}, "data: has no array x"),
        ({"x": X}, "data: has no array y"),
        ({"test": (X, Y)}, "data: has no array x"),
        ({"x": [[object()]], "y": Y}, "x: is of type list, which is no array of numbers or names"),
        (([[1], [2, 3]], [0, 1]), "data: x: cannot be taken for an array"),
        ([(X[0], 0), (X[1][:, :2], 1)], r"data\[1\]: is \[3, 2, 4\] of type uint8, but the first image is \[3, 4, 4\]"),
        ([(X[0], 0), (X[1], [1, 0])], r"data\[1\]: the label has shape \[2\], the first \[\]"),
        ([X[0], X[1], X[2]], r"data\[0\]: is of type ndarray; expected a pair \(image, label\)"),
        ({"train": 3, "test": 3}, "train: is of type int"),
        (iter([]), "data: is of type list_iterator; expected"),
        (
            (X, Column(["a", 1] * 10)),
            "data: y: is of type Column, .* .but of int, str",
        ),
        (
            (X, Column(["a", None] * 10)),
            "data: y: 10 of 20 values are missing, the first in row 1; leave them out",
        ),
        ((X, Column(["a", "b", float("nan"), None])), "data: y: 2 of 4 values are missing, the first in row 2"),
    ],
)
def test_refuses(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        source_of(data, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class TestRunFolder:
    def test_what_is_refused_leaves_none(self, problem: Problem, tmp_path: Path) -> None:
        x, y = inputs()
        for labels in (y[:5], y / 2):
            with pytest.raises(InputError, match="y_train: "):
                litesnn.design(data=(x, labels), recipe=problem.recipe, run=tmp_path / "run", device="cpu")
            assert not (tmp_path / "run").exists()
        np.savez(tmp_path / "a.npz", x=x, y=y[:5])
        options = {"--data": tmp_path / "a.npz", "--recipe": problem.recipe, "--run": tmp_path / "run"}
        for command in ("design", "search"):
            outcome = command_line(command, *(word for option in options.items() for word in option))
            assert outcome.code == 2
            assert not (tmp_path / "run").exists()

    def test_other_data_are_refused_once_a_run_has_begun(self, tmp_path: Path) -> None:
        source_of((X, Y), tmp_path)
        with pytest.raises(InputError, match=r"data\.npz holds other data than are given now; choose another folder"):
            source_of((X + 1, Y), tmp_path)  # not ours, as far as one can tell
        (tmp_path / "recipe.toml").touch()
        source_of((X + 1, Y), tmp_path)
        (tmp_path / "search.jsonl").touch()
        source_of((X + 1, Y), tmp_path)
        with pytest.raises(InputError, match=r"data\.npz holds other data"):
            source_of((X, Y), tmp_path)

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"holds thesis\.tex but no data\.npz"):
            source_of((X, Y), tmp_path)
        assert not (tmp_path / "data.npz").exists()

    @pytest.mark.job
    def test_a_design_of_arrays_goes_on(self, problem: Problem, tmp_path: Path) -> None:
        x, y = inputs()
        options: dict[str, Any] = {"recipe": problem.recipe, "run": tmp_path / "run", "device": "cpu"}
        options["changes"] = {"search.epochs": 1, "search.warmup_epochs": 0, "train.epochs": 1}
        options["changes"]["search.architecture_warmup_epochs"] = 0
        with pytest.raises(InputError, match=r"budget"):
            litesnn.design(data=(x, y), budget="10 B, T <= 2", **options)  # the folder can be used again
        made = litesnn.design(data=(x, y), budget="1 MB, 100 M Bit-SynOps, T <= 2", **options)
        assert made.metrics["data"]["name"] == "data"
        assert (made.path / "data.npz").is_file()
        (made.path / "report.html").unlink()
        again = litesnn.design(data={"x_train": x, "y_train": y}, budget="1 MB, 100 M Bit-SynOps, T <= 2", **options)
        assert again == made
        assert (made.path / "report.html").is_file()
        with pytest.raises(InputError, match="holds other data"):
            litesnn.design(data=(x[1:], y[1:]), **options)
