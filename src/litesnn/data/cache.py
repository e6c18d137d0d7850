"""Tensors that take long to compute, kept on disk under a key that names all that they depend on.

The folder is ``litesnn`` in the user's cache folder, or the one that the environment variable ``LITESNN_CACHE`` names.
It can be deleted at any time. Nothing depends on it but time: a file that is damaged is made anew, and said to be.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.text import plain

__all__ = ["CACHE_VARIABLE", "cache_folder", "cached"]

CACHE_VARIABLE = "LITESNN_CACHE"

_METADATA_KEY = "litesnn_cache"
_log = logging.getLogger("litesnn")


def cache_folder() -> Path:
    """Where tensors are kept: the folder of ``LITESNN_CACHE``, or ``litesnn`` in ``XDG_CACHE_HOME`` or ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or Path(base) / "litesnn").expanduser()


def cached(name: str, key: str, make: Callable[[], Tensor]) -> Tensor:
    """The tensor of ``key``: read, or made and kept. ``name`` says what it is in the file's name.

    Where it cannot be kept (a full disk, say), a line of the log says so.
    """
    path = cache_folder() / f"{name}-{key[:32]}.safetensors"
    if path.exists():
        found = _read(path, key)
        if found is not None:
            return found
        _log.warning("litesnn: %s is damaged, and made anew", plain(path))
    x = make().contiguous()
    record = json.dumps({"key": key, "crc": _crc(x)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.torch.save({"x": x}, {_METADATA_KEY: record}))
    except (OSError, InputError) as error:
        _log.warning("litesnn: not kept for the next time: %s", error)
    return x


def _read(path: Path, key: str) -> Tensor | None:
    """The tensor of a file, or ``None`` if that is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {})[_METADATA_KEY])
            x: Tensor = file.get_tensor("x")
    except (OSError, safetensors.SafetensorError, ValueError, KeyError):
        return None
    return x if record == {"key": key, "crc": _crc(x)} else None


def _crc(x: Tensor) -> int:
    return zlib.crc32(x.numpy().tobytes(), zlib.crc32(f"{x.dtype} {list(x.shape)}".encode()))
