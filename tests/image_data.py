"""Data sets of images made for tests: folders, tables and arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

__all__ = ["encoded", "file_list", "image_folder", "npz", "parquet", "pictures", "values", "write_parquet"]


def encoded(pixels: np.ndarray, mode: str | None = None, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(count: int, height: int = 4, width: int = 5, channels: int = 3) -> list[np.ndarray]:
    """Images that all differ: each holds its own number."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return [np.full(shape, number, np.uint8) for number in range(count)]


def write_parquet(
    folder: Path, split: str, images: list[Any], labels: list[Any], names: list[str] | None = None, **columns: Any
) -> None:
    folder.mkdir(exist_ok=True)
    rows = {"img": [{"bytes": image, "path": None} for image in images], "label": labels, **columns}
    table = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())
    if names:
        table = table.cast_column("label", datasets.ClassLabel(names=names))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def parquet(folder: Path, rows: int = 12, **splits: int) -> Path:
    """A folder of parquet files: ``rows`` training images of two classes, and further splits of given lengths."""
    for split, count in {"train": rows, **splits}.items():
        images = [encoded(picture) for picture in pictures(count)]
        write_parquet(folder, split, images, [row % 2 for row in range(count)], ["cat", "dog"])
    return folder


def image_folder(folder: Path, layout: dict[str, int], pixels: Any = None) -> Path:
    for place, count in layout.items():
        (folder / place).mkdir(parents=True)
        for number, picture in enumerate(pictures(count)):
            Image.fromarray(picture if pixels is None else pixels).save(folder / place / f"{number}.png")
    return folder


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def values(x: torch.Tensor) -> set[int]:
    """The numbers of the images of :func:`pictures`."""
    return set(x.flatten(1)[:, 0].tolist())


def file_list(folder: Path, rows: int = 20) -> Path:
    """Images beside a table of their names and classes."""
    image_folder(folder, {"images": rows})
    lines = [f"images/{number}.png,{('cat', 'dog')[number % 2]}" for number in range(rows)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    return folder / "labels.csv"
