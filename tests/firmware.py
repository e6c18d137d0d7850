"""Exported C, compiled for this computer and called from Python: what tests compare with the reference."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.export_c.folder import RUNTIME, write_sources
from litesnn.deploy.export_c.layout import Layout, lay_out
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.reference import Trace, quantize_input

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off")
SANITIZED = ("-O0", "-g", "-fsanitize=undefined", "-fno-sanitize-recover")
NETWORK = tuple(f"src/{name}" for name in (*RUNTIME["src"], "model.c") if name.endswith(".c"))


class Firmware:
    """The runtime with one model, as a shared library."""

    def __init__(
        self,
        model: PackedModel,
        folder: Path,
        *,
        kernel: Literal["events", "sliced"] | None = None,
        compiler: str = "cc",
        flags: Sequence[str] = ("-O1",),
    ) -> None:
        self.model = model
        self.layout: Layout = lay_out(model, method=kernel)
        folder.mkdir(parents=True, exist_ok=True)
        write_sources(self.layout, folder, _none(model))
        library = folder / "firmware.so"
        command = [compiler, *STRICT, *flags, "-DSNN_TRACE=1", "-shared", "-fPIC", "-o", str(library), *NETWORK]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(library))

    def run(self, x: NDArray[np.generic]) -> Trace:
        """Run raw inputs [B, C, H, W]; fixed-point logits are in ``integers``."""
        model, shapes = self.model, self.layout.shapes
        fixed = model.fraction is not None
        if model.input.kind == "array":
            x = quantize_input(model.input, x) if fixed else x.astype(np.float32)
        logits = np.zeros((len(x), model.timesteps, len(model.classes)), np.int32 if fixed else np.float32)
        spikes = [np.zeros((model.timesteps, len(x), *shape), np.uint8) for shape in shapes]
        sample = 0

        def watch(population: int) -> None:
            spike = self.library.snn_spike
            target = spikes[population][:, sample]
            for place in np.ndindex(*target.shape):
                target[place] = spike(population, *place)

        watcher = ctypes.CFUNCTYPE(None, ctypes.c_int)(watch)
        ctypes.c_void_p.in_dll(self.library, "snn_watch").value = ctypes.cast(watcher, ctypes.c_void_p).value
        for sample in range(len(x)):
            raw = np.ascontiguousarray(x[sample])
            assert self.library.snn_run(
                raw.ctypes.data_as(ctypes.c_void_p), logits[sample].ctypes.data_as(ctypes.c_void_p)
            )
        given = logits.transpose(1, 0, 2)
        if not fixed:
            return Trace(given.astype(np.float32, copy=False), spikes)
        return Trace(np.zeros(given.shape, np.float32), spikes, given.astype(np.int32, copy=False))


def _none(model: PackedModel) -> NDArray[np.generic]:
    frames = [model.timesteps] if model.input.frames else []
    return np.zeros((1, *frames, *model.input.shape), np.float32 if model.input.kind == "array" else np.uint8)
