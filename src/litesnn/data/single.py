"""Inputs for prediction: one image or sound, or arrays without labels, in the shape that a trained network takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from litesnn.data.arrays import as_inputs, read_npy, read_npz
from litesnn.data.audio import Clip, decode_clip, log_mel
from litesnn.data.images import Encoded, decode_images
from litesnn.errors import InputError
from litesnn.front_end import LogMel

__all__ = ["load_inputs"]


def load_inputs(
    path: Path, shape: tuple[int, int, int], kind: Literal["image", "array"], front_end: LogMel | None = None
) -> Tensor:
    """Read inputs [N, C, H, W] for a network whose input has ``shape`` (C, H, W) and ``kind``.

    An image file gives N = 1; it is converted to C channels and rescaled to H × W, as the training images were. So does
    a sound file, if the network has a front end for it: it becomes features, of its first clip if it is longer.
    A ``.npy`` file, or the array ``x`` of an ``.npz`` file, may be [N, C, H, W] or one input [C, H, W], or leave out
    a C of 1; it must have the right size already. Images are uint8, arrays float32.

    Raises:
        InputError: the file is missing or damaged, or holds inputs of another shape or kind.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder; expected a file' if path.is_dir() else 'no such file or folder'}")
    if path.suffix.lower() not in (".npy", ".npz"):
        file = Encoded(content=None, path=str(path), name=str(path))
        if front_end is not None:
            return log_mel(torch.from_numpy(decode_clip(Clip(file), front_end))[None], front_end)
        if kind == "array":
            raise InputError(f"{path}: this network takes arrays; expected a .npy or .npz file")
        return decode_images(lambda _: [file], np.zeros(1, np.int64), size=shape[1:], shape=shape)
    if path.suffix.lower() == ".npy":
        array = read_npy(path)
    else:
        arrays, names = read_npz(path, {"x"})
        if "x" not in arrays:
            raise InputError(f"{path}: has no array x; it holds {', '.join(sorted(names)) or 'nothing'}")
        array = arrays["x"]

    single = array.shape == shape or (shape[0] == 1 and array.shape == shape[1:])
    if not single and array.shape[1:] not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise InputError(f"{path}: has shape {list(array.shape)}; expected [N, {', '.join(map(str, shape))}]")
    if kind == "image" and array.dtype != np.uint8:
        raise InputError(
            f"{path}: holds values of type {array.dtype}; this network takes images of type uint8, 0 to 255"
        )
    if kind == "array" and array.dtype == np.uint8:
        raise InputError(f"{path}: holds images of type uint8; this network takes arrays of real numbers")
    return as_inputs(array.reshape(-1, *shape), str(path))
