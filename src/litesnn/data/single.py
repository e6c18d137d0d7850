"""Inputs for prediction: one image, sound or recording, or arrays without labels, in the shape that a network takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litesnn.data.arrays import as_inputs, find_inputs
from litesnn.data.audio import Clip, decode_clip, log_mel
from litesnn.data.bounds import require_file
from litesnn.data.event_files import EventFile, contents
from litesnn.data.events import decode_events, event_frames
from litesnn.data.images import Encoded, decode_images
from litesnn.data.numpy_files import read_npy, read_npz
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, FrontEnd, InputKind, LogMel, front_end_name

__all__ = ["load_inputs"]


def load_inputs(
    path: Path,
    shape: tuple[int, int, int],
    kind: InputKind,
    front_end: FrontEnd | None = None,
    *,
    timesteps: int = 1,
) -> Tensor:
    """Read inputs [N, C, H, W], or of events [N, T, C, H, W], for a network whose input has ``shape`` and ``kind``.

    An image file gives N = 1; it is converted to C channels and rescaled to H × W, as the training images were. So does
    a sound file, if the network has a front end for it: it becomes features, of its first clip if it is longer. A
    recording of events becomes its first T = ``timesteps`` frames.
    A ``.npy`` file, or the array ``x`` (or ``images``, ``x_test``, …) of an ``.npz`` file, may be [N, C, H, W] or one
    input [C, H, W], or leave out a C of 1, or have C at the end; it must have the right size already. Of events it is
    [N, T, C, H, W] or [T, C, H, W], with T frames or more. Images and events are uint8, arrays float32.

    Raises:
        InputError: the file is missing or damaged, or holds inputs of another shape or kind.
    """
    path = path.expanduser()
    require_file(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        file = Encoded(content=None, path=str(path), name=str(path))
        if isinstance(front_end, EventFrames):
            return _frames(path, front_end, timesteps)
        if isinstance(front_end, LogMel):
            return log_mel(torch.from_numpy(decode_clip(Clip(file), front_end))[None], front_end)
        if front_end is not None:
            name = front_end_name(front_end)
            raise InputError(f"{path}: no recordings are read for the front end {name}; expected a .npy or .npz file")
        if kind == "array":
            raise InputError(f"{path}: this network takes arrays; expected a .npy or .npz file")
        return decode_images(lambda _: [file], np.zeros(1, np.int64), size=shape[1:], shape=shape)
    if path.suffix.lower() == ".npy":
        array = read_npy(path)
    else:
        name = find_inputs(read_npz(path, ())[1], str(path))
        array = read_npz(path, (name,))[0][name]

    if kind == "events":
        return _checked_frames(array, shape, timesteps, path)
    last = (*shape[1:], shape[0])
    if shape != last and shape not in (array.shape, array.shape[1:]) and last in (array.shape, array.shape[1:]):
        array = np.moveaxis(array, -1, -3)
    single = array.shape == shape or (shape[0] == 1 and array.shape == shape[1:])
    if not single and array.shape[1:] not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise InputError(f"{path}: has shape {list(array.shape)}; expected [N, {', '.join(map(str, shape))}]")
    if kind == "image" and array.dtype != np.uint8:
        raise InputError(
            f"{path}: holds values of type {array.dtype}; this network takes images of type uint8, 0 to 255"
        )
    if kind == "array" and array.dtype == np.uint8:
        raise InputError(f"{path}: holds images of type uint8; this network takes arrays of real numbers")
    return as_inputs(array.reshape(-1, *shape), str(path), channels_first=True)


def _frames(path: Path, front_end: EventFrames, timesteps: int) -> Tensor:
    """The frames [1, T, C, H, W] of one recording."""
    ((_, name, content),) = contents([EventFile(path)])
    return torch.from_numpy(event_frames(decode_events(content, name), front_end, timesteps, name)[None])


def _checked_frames(array: NDArray[np.generic], shape: tuple[int, int, int], timesteps: int, path: Path) -> Tensor:
    """Frames [N, T, C, H, W] of an array that may be those of one recording, [T, C, H, W]."""
    frames = array[None] if array.ndim == 4 else array
    if frames.ndim != 5 or len(frames) == 0 or frames.shape[2:] != shape or frames.shape[1] < timesteps:
        sizes = ", ".join(map(str, shape))
        raise InputError(
            f"{path}: has shape {list(array.shape)}; expected [N, T, {sizes}] with T = {timesteps} frames or more"
        )
    if frames.dtype != np.uint8:
        raise InputError(f"{path}: holds values of type {frames.dtype}; this network takes counts of type uint8")
    return torch.from_numpy(np.ascontiguousarray(frames))
