"""Fits the constants of the C export's cost model to instruction counts of a Cortex-M4 under qemu.

Each network is a stem and one convolution. What the convolution takes is the difference to the same network with no
weight kept. Prints the constants of ``src/litesnn/deploy/export_c/cost.py`` and how well they fit.

    python benchmarks/mcu_kernels.py
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import norm

from litesnn.deploy.export_c.cost import event_features, sliced_features
from litesnn.deploy.export_c.folder import write_sources
from litesnn.deploy.export_c.layout import Layout, lay_out
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses
from litesnn.deploy.reference import Reference
from litesnn.deploy.targets import run_target

Kernel = Literal["events", "sliced"]
KERNELS: tuple[Kernel, ...] = ("events", "sliced")

# C_in, C_out, H = W, T, bits, keep ratio, stride, quantile of the currents that fires
NETWORKS = [
    (16, 6, 4, 3, 1, 1.0, 1, 0.6), (16, 6, 4, 3, 2, 1.0, 1, 0.8), (16, 6, 8, 3, 1, 1.0, 1, 0.9),
    (16, 6, 8, 3, 4, 1.0, 1, 0.6), (16, 6, 8, 5, 4, 0.2, 1, 0.9), (16, 6, 8, 5, 1, 0.2, 1, 0.6),
    (8, 4, 16, 4, 2, 0.2, 1, 0.9), (8, 4, 16, 4, 3, 0.5, 1, 0.95), (8, 4, 16, 1, 1, 0.1, 1, 0.98),
    (24, 4, 8, 3, 1, 1.0, 2, 0.8), (24, 4, 8, 3, 4, 0.3, 2, 0.9), (8, 4, 16, 3, 2, 0.5, 2, 0.95),
    (40, 4, 4, 6, 1, 0.1, 1, 0.98), (40, 4, 4, 6, 4, 1.0, 1, 0.98), (12, 4, 5, 2, 3, 0.7, 1, 0.7),
]  # fmt: skip


def network(rng: np.random.Generator, row: tuple[int, int, int, int, int, float, int, float]) -> PackedModel:
    """A stem of C_in channels whose biases set the firing rate, and a convolution."""
    c_in, c_out, size, timesteps, bits, keep, stride, quiet = row

    def codes(shape: tuple[int, ...], bits: int, keep: float) -> NDArray[np.int8]:
        drawn = 2 * rng.integers(0, 2**bits, shape) - (2**bits - 1)
        kept: NDArray[np.int8] = (drawn * (rng.random(shape) < keep)).astype(np.int8)
        return kept

    def ones(count: int, value: float) -> NDArray[np.float32]:
        return np.full(count, value, np.float16).astype(np.float32)

    stem = Synapses((IMAGE,), 3, 1, 4, codes((c_in, 1, 3, 3), 4, 1.0), ones(c_in, 2.0**-8))
    spread = 2.0**-8 * 32 * 3 * 9.2  # standard deviation of its currents: 9 codes of about 9.2 on steps of about 32
    bias = ones(c_in, 0.5 - spread * float(norm.ppf(quiet)))
    conv = Synapses((0,), 3, stride, bits, codes((c_out, c_in, 3, 3), bits, keep), ones(c_out, 0.01))
    populations = (Population((stem,), bias, None), Population((conv,), ones(c_out, 0.0), None))
    readout = Readout((1,), 1, codes((2, c_out), 1, 1.0), ones(2, 1.0), ones(2, 0.0))
    spec = InputSpec((1, size, size), "array", (0.0,), (1.0,))
    return PackedModel(spec, timesteps, 0.2, 0.5, ("a", "b"), populations, readout)


def instructions(layout: Layout, x: NDArray[np.generic]) -> int:
    """Mean of one inference."""
    with tempfile.TemporaryDirectory() as folder:
        write_sources(layout, Path(folder), x)
        measured = run_target(Path(folder), "cortex-m4").instructions
    assert measured is not None
    return measured


def main() -> None:
    """Measure, fit, print."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[NDArray[np.float64]]] = {"events": [], "sliced": []}
    measured: dict[str, list[int]] = {"events": [], "sliced": []}
    rates: list[float] = []
    for row in NETWORKS:
        model = network(rng, row)
        x = rng.normal(size=(2, *model.input.shape)).astype(np.float32)
        trace = Reference(model).run(x, record=True)
        assert trace.spikes is not None
        conv = model.populations[1].synapses[0]
        layout = lay_out(model)
        words = layout.grids[layout.grid_of[1]].words
        spikes = float(trace.spikes[0].sum()) / len(x) / (row[0] * conv.stride**2)
        rates.append(round(float(trace.spikes[0].mean()), 3))
        features = {
            "events": event_features(conv, layout.populations[1][0].taps, words, spikes),
            "sliced": sliced_features(conv, words),
        }
        empty = replace(conv, codes=np.zeros_like(conv.codes))
        silent = replace(model, populations=(model.populations[0], replace(model.populations[1], synapses=(empty,))))
        for kernel in KERNELS:
            full = lay_out(model, method=kernel)
            # Arrays as long as those of the full network: compilers unroll loops over short ones.
            base = replace(lay_out(silent, method="events"), row_weights=full.row_weights, sum_bits=full.sum_bits)
            took = instructions(full, x) - instructions(base, x)
            rows[kernel].append(features[kernel])
            measured[kernel].append(took)
    print("firing rates", rates)
    for kernel in KERNELS:
        matrix, counts = np.array(rows[kernel]), np.array(measured[kernel], float)
        constants, _ = nnls(matrix / counts[:, None], np.ones(len(counts)))
        off = matrix @ constants / counts - 1
        print(kernel, constants.round(1).tolist(), "errors", off.round(2).tolist())
        print("  measured", measured[kernel])


if __name__ == "__main__":
    main()
