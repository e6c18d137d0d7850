"""A trained network over its whole test set: torch, the reference and every kernel of the engine are the same."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

import exactness
from litesnn.data.sources import load
from litesnn.deploy.engine import available_kernels
from litesnn.deploy.packed import population_shapes, read, write
from litesnn.runs import RunFolder


def test_everything_computes_the_same(finished: Path) -> None:
    run = RunFolder(finished)
    rows = exactness.compare(run)
    model = read(run.need("pack"))
    images = len(load(run.recipe().data).test().x)
    neurons = sum(int(np.prod(shape)) for shape in population_shapes(model))
    assert [row.name for row in rows] == [
        "reference",
        *(f"{kernel}, {method}" for kernel in available_kernels() for method in ("auto", "bitsliced", "gather")),
    ]
    for row in rows:
        assert row.exact, row
        assert row.images == images
        assert row.spikes == images * model.timesteps * neurons
        assert row.logits == images * model.timesteps * len(model.classes)


def test_a_difference_is_found(finished: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    path = run.need("pack")
    model = read(path)
    bias = -model.readout.bias
    write(dataclasses.replace(model, readout=dataclasses.replace(model.readout, bias=bias)), path)
    for row in exactness.compare(run):
        assert not row.exact
        assert row.different_logits
        assert not row.different_spikes
