"""Which files of a folder are tables, and of which split: whole names decide, never parts of them."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from image_data import encoded, image_folder, parquet, pictures, write_parquet
from litesnn.data.cache import CACHE_VARIABLE
from litesnn.data.listing import list_files
from litesnn.data.sources import DataSettings, load
from litesnn.data.table_files import TableFiles, find_tables
from litesnn.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("tables")))


def tables(folder: Path, *names: str) -> TableFiles | None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return find_tables(list_files(folder))


def names(found: TableFiles | None) -> dict[str, list[str]]:
    assert found is not None
    return {split: [Path(path).name for path in paths] for split, paths in found.patterns.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("my_test_1.parquet", "b.parquet"), {"train": ["b.parquet", "my_test_1.parquet"]}),
        (("train_station.parquet", "airport.parquet"), {"train": ["airport.parquet", "train_station.parquet"]}),
        (("Test-00000-of-00001.parquet", "train_1.parquet"), None),
        (("data/test.parquet", "data/train-0.parquet"), {"train": ["train-0.parquet"], "test": ["test.parquet"]}),
        (("d/val/0.parquet", "d/train/my_test.parquet"), {"train": ["my_test.parquet"], "val": ["0.parquet"]}),
        (("a.parquet", "test.parquet"), {"train": ["a.parquet"], "test": ["test.parquet"]}),
    ],
)
def test_whole_names_are_splits(tmp_path: Path, files: tuple[str, ...], expected: dict[str, list[str]] | None) -> None:
    wanted = expected or {"train": ["train_1.parquet"], "test": ["Test-00000-of-00001.parquet"]}
    assert names(tables(tmp_path / "a", *files)) == wanted


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    found = tables(tmp_path / "a", "train.parquet", "more.parquet", "test.parquet", "README.md")
    assert names(found) == {"train": ["train.parquet"], "test": ["test.parquet"]}
    assert found is not None
    assert found.notes == (f"2 files of {tmp_path / 'a'} not read: 1 table named after no split (more.parquet), 1 .md",)
    assert tables(tmp_path / "b", "a.txt") is None


def test_several_data_sets_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has tables in coarse and beside it; expected one data set"):
        tables(tmp_path / "a", "fine/train.parquet", "coarse/train.parquet")


def test_all_rows_are_read(tmp_path: Path) -> None:
    """`datasets` itself would take the file with "test" in its name for all there is."""
    folder = parquet(tmp_path / "a")
    (folder / "train-00000-of-00001.parquet").rename(folder / "pets.parquet")
    write_parquet(folder, "my_test", [encoded(picture) for picture in pictures(8)], [0, 1] * 4, ["cat", "dog"])
    data = load(DataSettings(source=str(folder)))
    assert len(data.train.y) + len(data.validation.y) + len(data.test().y) == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # `datasets` leaves the list open
@pytest.mark.parametrize("name", ["a", "[a]*?"])
def test_images_that_a_list_describes(tmp_path: Path, name: str) -> None:
    folder = image_folder(tmp_path / name, {"train": 10, "test": 4})
    for split, count in (("train", 10), ("test", 4)):
        for row in range(count):
            (folder / split / f"{row}.png").rename(folder / split / f"my_test_{row}.png")
        lines = [f"my_test_{row}.png,{row % 2}" for row in range(count)]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    (folder / "notes.txt").touch()
    data = load(DataSettings(source=str(folder)))
    assert (len(data.train.y), len(data.validation.y), len(data.test().y)) == (8, 2, 4)
    assert data.notes == (f"1 file of {folder} not read: 1 .txt",)
