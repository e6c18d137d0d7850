"""``litesnn evaluate --engine native``: the packed network in the native engine, on the test set, beside torch.

In: a run folder with a packed model. Out: ``engine`` in its ``metrics.json``, and its report anew if it has one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from litesnn.data.sources import Data
from litesnn.deploy.engine import Engine
from litesnn.deploy.spike_costs import SpikeCosts
from litesnn.design import renew_report, trained_network
from litesnn.genotype import require_engine_of
from litesnn.packed_evaluation import microseconds_per_input
from litesnn.runs import RunFolder

__all__ = ["engine_table", "evaluate_native"]

BATCHES = (1, 256)
"""Inputs at once when the engine and torch are timed."""
ROUNDS = 7
SAMPLE_SECONDS = 0.1
"""Engine and torch are timed in turns, so often and for about so long each time."""
_RECORDED = 32
"""Inputs at once whose spikes are kept."""


def evaluate_native(run: RunFolder, data: Data, *, threads: int = 1) -> dict[str, Any]:
    """Run the packed model of a run on all test rows, count its additions, and time it in turns with torch.

    Returns the metrics of the run, with what was measured under "engine".

    Raises:
        InputError: the run is not evaluated or not packed yet, or something of it is damaged.
    """
    run.metrics()
    require_engine_of(run.output("derive"), "native")
    engine = Engine(run.need("pack"), threads=threads)
    network = trained_network(run, data)
    test = data.test()
    x, y = test.x.numpy(), test.y.numpy()
    largest = max(BATCHES)
    chunks = [slice(start, start + largest) for start in range(0, len(x), largest)]
    guesses = np.concatenate([engine.predict(x[chunk]) for chunk in chunks])
    additions = engine.additions / len(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            theirs = torch.cat([network.predict(test.x[chunk]) for chunk in chunks]).numpy()
            speed = [_time(engine.predict, network.predict, x, min(batch, len(x))) for batch in BATCHES]
    finally:
        torch.set_num_threads(before)
    measured = {
        "kernel": engine.kernel,
        "threads": threads,
        "test": len(x),
        "test_accuracy": float(np.mean(guesses == y)),
        "same_predictions": int(np.count_nonzero(guesses == theirs)),
        "additions": additions,
        "weight_bytes": engine.weight_bytes,
        "work_bytes": engine.work_bytes,
        "speed": speed,
    }
    if engine.model.levels > 1:
        measured |= _synops(engine, x)
    metrics = run.amend_metrics(engine=measured)
    renew_report(run)
    return metrics


def _synops(engine: Engine, x: NDArray[Any]) -> dict[str, float]:
    """SynOps and Bit-SynOps per input of the engine's graded spikes, in bit planes and in virtual timesteps."""
    costs = SpikeCosts(engine.model)
    for start in range(0, len(x), _RECORDED):
        spikes = engine.run(x[start : start + _RECORDED], record=True).spikes
        assert spikes is not None
        costs.add(spikes)
    names = ("synops", "bit_synops", "synops_virtual", "bit_synops_virtual")
    return {name: sum(getattr(layer, name) for layer in costs.layers()) for name in names}


def engine_table(metrics: Mapping[str, Any]) -> Table:
    """The measurements of :func:`evaluate_native`."""
    measured = metrics["engine"]
    threads = f"{measured['threads']} thread{'s' if measured['threads'] > 1 else ''}"
    table = Table(
        title=f"native engine, kernel {measured['kernel']}, {threads}", caption=_caption(metrics), box=box.SIMPLE_HEAD
    )
    for column in ("batch", "engine, µs/image", "torch, µs/image", "ratio"):
        table.add_column(column, justify="right")
    for row in measured["speed"]:
        engine, rival = row["engine_us"], row["torch_us"]
        table.add_row(str(row["batch"]), f"{engine:,.1f}", f"{rival:,.1f}", f"{row['ratio']:.1f}×")
    return table


def _caption(metrics: Mapping[str, Any]) -> str:
    measured = metrics["engine"]
    graded = ""
    if "synops_virtual" in measured:
        graded = (
            f"its graded spikes made {measured['synops']:,.0f} SynOps per image in bit planes, "
            f"{measured['synops_virtual']:,.0f} in virtual timesteps of binary spikes; "
        )
    return (
        f"test accuracy {measured['test_accuracy']:.2%} of {measured['test']}, "
        f"{measured['same_predictions']} of {measured['test']} predictions as torch's; "
        f"{measured['additions']:,.0f} additions of one bit lane per image ({metrics['synops']:,.0f} SynOps); "
        f"{graded}{measured['weight_bytes']:,} B of weights in memory"
    )


def _time(
    engine: Callable[[NDArray[Any]], object],
    network: Callable[[torch.Tensor], object],
    x: NDArray[Any],
    batch: int,
) -> dict[str, Any]:
    """Medians of the times per image at one batch; the ratio is the median of those of every pair of samples."""
    tensor = torch.from_numpy(x)
    rounds = []
    for _ in range(ROUNDS):
        ours = microseconds_per_input(lambda rows: engine(x[rows]), len(x), batch, seconds=SAMPLE_SECONDS)
        theirs = microseconds_per_input(lambda rows: network(tensor[rows]), len(x), batch, seconds=SAMPLE_SECONDS)
        rounds.append((ours, theirs))
    return {
        "batch": batch,
        "engine_us": statistics.median(ours for ours, _ in rounds),
        "torch_us": statistics.median(theirs for _, theirs in rounds),
        "ratio": statistics.median(theirs / ours for ours, theirs in rounds),
        "rounds": ROUNDS,
    }
