"""Exactness on a trained network over a whole test set: torch, the NumPy reference and every kernel of the engine.

``python benchmarks/exactness.py runs/demo`` compares every spike of every population at every timestep, and every
logit, bit for bit; the exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from litesnn.data.sources import load
from litesnn.deploy.engine import Engine, Method, available_kernels
from litesnn.deploy.packed import PackedModel, read
from litesnn.deploy.reference import Reference
from litesnn.network_file import load_network
from litesnn.runs import RunFolder
from litesnn.snn.network import Network

__all__ = ["Comparison", "compare", "compare_run"]

BATCH = 100  # images at once; a remainder is a smaller batch


@dataclass(frozen=True)
class Comparison:
    """What one way of running a network has in common with torch."""

    name: str
    images: int
    spikes: int
    """Places where there may be a spike, that were compared."""
    logits: int
    different_spikes: int
    different_logits: int

    @property
    def exact(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.spikes > 0 < self.logits and not self.different_spikes and not self.different_logits


def compare_run(run: RunFolder) -> list[Comparison]:
    """As :func:`compare` for the packed file of a run and its trained network, on all test rows."""
    recipe = run.recipe()
    test = load(recipe.data, recipe.front_ends).test()
    return compare(load_network(run.need("train")), read(run.need("pack")), test.x)


@torch.no_grad()
def compare(network: Network, model: PackedModel, x: torch.Tensor) -> list[Comparison]:
    """The reference and every kernel with every method, on raw inputs [N, C, H, W], compared with torch."""
    ways: dict[str, Reference | Engine] = {"reference": Reference(model)}
    for kernel in available_kernels():
        for method in get_args(Method):
            ways[f"{kernel}, {method}"] = Engine(model, kernel=kernel, method=method)
    counts = {name: np.zeros(5, np.int64) for name in ways}
    for start in range(0, len(x), BATCH):
        images = x[start : start + BATCH]
        record: dict[str, torch.Tensor] = {}
        logits = network(network.encode(images), record=record).logits.numpy()
        spikes = [population.numpy().astype(np.uint8) for population in record.values()]
        for name, way in ways.items():
            trace = way.run(images.numpy(), record=True)
            assert trace.spikes is not None
            pairs = list(zip(trace.spikes, spikes, strict=True))
            counts[name] += (
                len(images),
                sum(theirs.size for _, theirs in pairs),
                logits.size,
                sum(_different(mine, theirs) for mine, theirs in pairs),
                _different(trace.logits.view(np.uint32), logits.view(np.uint32)),
            )
    return [Comparison(name, *map(int, row)) for name, row in counts.items()]


def _different(mine: NDArray[np.generic], theirs: NDArray[np.generic]) -> int:
    assert mine.shape == theirs.shape
    return int(np.count_nonzero(mine != theirs))


def _lines(rows: list[Comparison]) -> Iterator[str]:
    for row in rows:
        yield (
            f"{row.name}: {row.images} images, {row.different_spikes} of {row.spikes:,} spikes and "
            f"{row.different_logits} of {row.logits:,} logits differ from torch's"
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare torch, the reference and every kernel on a run's test set.")
    parser.add_argument("run", type=Path, help="a run folder with a trained and packed network")
    rows = compare_run(RunFolder(parser.parse_args().run))
    print("\n".join(_lines(rows)))
    return 0 if all(row.exact for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
