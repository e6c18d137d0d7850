"""The firmware folder: written whole or not at all.

In: a packed model, golden inputs, targets to measure. Out: a folder with the model as C, the runtime, a self-test, a
Makefile and a README with what was measured.
"""

from __future__ import annotations

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

__all__ = ["RUNTIME", "Firmware", "export_c", "write_sources"]

RUNTIME = (
    "Makefile", "app.c", "bare.ld", "golden.h", "main.c", "platform.h", "platform_bare.h", "platform_cortexm.c",
    "platform_host.c", "platform_rv32.c", "snn.c", "snn.h", "snn_decode.c", "snn_events.c", "snn_fixed.h",
    "snn_float.h", "snn_internal.h", "snn_sliced.c",
)  # fmt: skip
"""Files of ``litesnn/deploy/mcu`` that every folder gets."""

_WRITTEN = ("README.md", "golden.c", "model.c", "model.h")
_BUILD = "build"


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
    kernel: Literal["events", "sliced"] | None = None,
) -> Firmware:
    """Write a firmware folder, and measure it on ``targets``; a folder of an earlier export is replaced.

    Args:
        model: the network.
        out: the folder.
        inputs: golden inputs [n, C, H, W], or frames [n, T, C, H, W], raw.
        targets: names of :data:`litesnn.deploy.targets.TARGETS`.
        name: what the README calls the network.
        kernel: force one kernel for all spikes, instead of the cheaper.

    Raises:
        InputError: the network is too large, ``out`` holds something else, or a tool is missing. Nothing is written.
        LitesnnError: the self-test fails on a target. Nothing is written.
    """
    out = out.resolve()
    missing_tools(targets)
    _check_ours(out)
    layout = lay_out(model, kernel=kernel)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    try:
        write_sources(layout, beside, inputs)
        measurements = tuple(run_target(beside, target) for target in dict.fromkeys(targets))
        shutil.rmtree(beside / _BUILD, ignore_errors=True)
        write_atomically(beside / "README.md", readme(layout, measurements, name=name))
        _replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Firmware(out, layout, measurements)


def write_sources(layout: Layout, folder: Path, inputs: NDArray[np.generic]) -> None:
    """Write the C files of a network into an existing folder, golden inputs included."""
    texts = {
        "model.h": model_header(layout),
        "model.c": model_source(layout),
        "golden.c": golden_source(layout, inputs),
    }
    runtime = files("litesnn.deploy").joinpath("mcu")
    for name in RUNTIME:
        texts[name] = runtime.joinpath(name).read_text(encoding="utf-8")
    for name, text in texts.items():
        write_atomically(folder / name, text)


def _check_ours(out: Path) -> None:
    """Raise ``InputError`` unless ``out`` is absent, empty, or holds nothing but what an export writes or builds."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder, found a file")
    names = {entry.name for entry in out.iterdir()}
    if strangers := sorted(names - {*RUNTIME, *_WRITTEN, _BUILD}):
        raise InputError(f"{out} is not empty, and holds {strangers[0]}, which is not from an export; choose another")


def _replace(new: Path, out: Path) -> None:
    """Put ``new`` in the place of ``out``; the old folder goes when the new one is there."""
    try:
        new.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            os.replace(out, old / out.name)
            try:
                os.replace(new, out)
            except OSError:
                os.replace(old / out.name, out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(new, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
