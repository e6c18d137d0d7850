"""The firmware folder: written whole or not at all.

In: a packed model, golden inputs, targets to measure. Out: a folder with the model as C, the runtime, a self-test, a
Makefile and a README with what was measured.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.export_c.layout import Layout, lay_out
from litesnn.deploy.export_c.readme import readme
from litesnn.deploy.export_c.source import golden_source, model_header, model_source
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.targets import Measurement, missing_tools, run_target
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.version import __version__

__all__ = ["RUNTIME", "Firmware", "export_c", "write_sources"]

RUNTIME: dict[str, tuple[str, ...]] = {
    ".": ("Makefile",),
    "src": (
        "snn.c", "snn.h", "snn_decode.c", "snn_events.c", "snn_fixed.h", "snn_float.h", "snn_internal.h",
        "snn_memory.c", "snn_sliced.c", "snn_strict.h",
    ),
    "test": (
        "app.c", "bare.ld", "golden.h", "main.c", "platform.h", "platform_bare.h", "platform_cortexm.c",
        "platform_host.c", "platform_rv32.c",
    ),
    "examples/Classify": ("Classify.ino",),
}  # fmt: skip
"""Files of ``litesnn/deploy/mcu`` that every folder gets, and where.

This is how Arduino's tools, and those that follow them, know a library: everything in ``src`` is compiled together, and
nothing else, so that programs with a ``main`` lie elsewhere.
"""

_WRITTEN = ("README.md", "library.properties", "src/model.c", "src/model.h", "test/golden.c")
_OURS = {*_WRITTEN, *((Path(place) / name).as_posix() for place, names in RUNTIME.items() for name in names)}
_FLAT = {Path(name).name for name in _OURS}  # as the files lay at first
_BUILD = "build"
_SIGN = "/* Written by litesnn"  # how model.h begins
_BESIDE, _BEFORE = ".tmp", ".old"  # how folders end in which an export is made, or which it replaces

_PROPERTIES = f"""name=litesnn_network
version={__version__}
author=litesnn
maintainer=litesnn
sentence=A spiking neural network that litesnn designed and packed.
paragraph=C99 without heap. See README.md.
category=Data Processing
url=
architectures=*
includes=snn.h
"""


@dataclass(frozen=True, eq=False)
class Firmware:
    """A folder that was written, how the network lies on the device, and what was measured."""

    path: Path
    layout: Layout
    measurements: tuple[Measurement, ...]


def export_c(
    model: PackedModel,
    out: Path,
    inputs: NDArray[np.generic],
    *,
    targets: Sequence[str] = (),
    name: str = "network",
    method: Literal["events", "sliced"] | None = None,
) -> Firmware:
    """Write a firmware folder, and measure it on ``targets``; a folder of an earlier export is replaced.

    Args:
        model: the network.
        out: the folder.
        inputs: golden inputs [n, C, H, W], or frames [n, T, C, H, W], raw.
        targets: names of :data:`litesnn.deploy.targets.TARGETS`.
        name: what the README calls the network.
        method: force one, "events" or "sliced", for all spikes, instead of the cheaper.

    Raises:
        InputError: the network is too large, ``out`` holds something else, or a tool is missing. Nothing is written.
        LitesnnError: the self-test fails on a target. Nothing is written.
    """
    out = out.resolve()
    missing_tools(targets)
    _clear(out)
    _check_ours(out)
    layout = lay_out(model, method=method)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_BESIDE, dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    held = _hold(beside)
    try:
        write_sources(layout, beside, inputs)
        measurements = tuple(run_target(beside, target) for target in dict.fromkeys(targets))
        shutil.rmtree(beside / _BUILD, ignore_errors=True)
        write_atomically(beside / "README.md", readme(layout, measurements, name=name))
        _replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if held is not None:
            os.close(held)
    return Firmware(out, layout, measurements)


def write_sources(layout: Layout, folder: Path, inputs: NDArray[np.generic]) -> None:
    """Write the C files of a network into an existing folder, golden inputs included."""
    texts = {
        "library.properties": _PROPERTIES,
        "src/model.h": model_header(layout),
        "src/model.c": model_source(layout),
        "test/golden.c": golden_source(layout, inputs),
    }
    runtime = files("litesnn.deploy").joinpath("mcu")
    for place, names in RUNTIME.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        texts |= {f"{place}/{name}": runtime.joinpath(name).read_text(encoding="utf-8") for name in names}
    for name, text in texts.items():
        write_atomically(folder / name, text)


def _check_ours(out: Path) -> None:
    """Raise ``InputError`` unless ``out`` is absent, empty, or holds nothing but what an export writes or builds."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder, found a file")
    names = {entry.relative_to(out).as_posix() for entry in out.rglob("*") if not entry.is_dir() or entry.is_symlink()}
    built = {name for name in names if name.startswith(f"{_BUILD}/")}
    strangers = sorted(names - built - _OURS - _FLAT)
    if names and not strangers and not any(_is_signed(out / name) for name in ("src/model.h", "model.h")):
        strangers = sorted(names)
    if strangers:
        raise InputError(f"{out} is not empty, and holds {strangers[0]}, which is not from an export; choose another")


def _is_signed(header: Path) -> bool:
    """Whether there is a ``model.h`` that an export wrote."""
    try:
        return header.read_bytes().startswith(_SIGN.encode())
    except OSError:
        return False


def _hold(folder: Path) -> int | None:
    """Mark a folder as in use until what comes back is closed or this process ends; ``None`` if another one uses it."""
    found = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        return None
    return found


def _clear(out: Path) -> None:
    """Remove what exports to ``out`` that were killed have left beside it, and put back a folder that one had moved."""
    for kind in (_BESIDE, _BEFORE):
        for left in out.parent.glob(f".{glob.escape(out.name)}.????????{kind}"):
            if not left.is_dir() or left.is_symlink() or (held := _hold(left)) is None:
                continue
            try:
                if kind == _BEFORE and (left / out.name).exists() and not out.exists():
                    os.replace(left / out.name, out)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)


def _replace(new: Path, out: Path) -> None:
    """Put ``new`` in the place of ``out``; the old folder goes when the new one is there."""
    try:
        new.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_BEFORE, dir=out.parent))
            held = _hold(old)
            os.replace(out, old / out.name)
            try:
                os.replace(new, out)
            except OSError:
                os.replace(old / out.name, out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
                if held is not None:
                    os.close(held)
        else:
            os.replace(new, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
