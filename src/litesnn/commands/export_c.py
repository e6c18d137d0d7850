"""``litesnn export c``: from a run folder or a packed model to a firmware folder, and what was measured to its places.

In: a run folder or a ``model.safetensors``. Out: the firmware folder; for a run folder also ``targets`` in its
``metrics.json``, and its report anew if it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markdown import Markdown

from litesnn.data.sources import load
from litesnn.deploy.export_c.folder import Firmware, export_c
from litesnn.deploy.export_c.readme import memory_lines, target_lines
from litesnn.deploy.packed import PackedModel, read
from litesnn.deploy.targets import Measurement
from litesnn.design import renew_report
from litesnn.errors import InputError
from litesnn.front_end import EventFrames
from litesnn.genotype import require_engine_of
from litesnn.runs import RunFolder
from litesnn.training_loop.pinned import pinned
from litesnn.training_loop.session import Session

__all__ = ["GOLDEN_INPUTS", "export", "firmware_summary", "random_inputs"]

GOLDEN_INPUTS = 4
_CHEAP_BYTES = 2**26  # data files of at most this size are read for golden inputs


def export(path: Path, out: Path, targets: Sequence[str] = ()) -> Firmware:
    """Export a run's packed model, or one in a file, and measure it on ``targets``.

    Golden inputs are the first test rows of a run with data at hand (digits, or a small ``.npz`` file), else random.

    Raises:
        InputError: there is no such model, it is too large for a small device, ``out`` holds something else, or a tool
            is missing.
        LitesnnError: a target does not compute what the reference does.
    """
    if not path.is_dir():
        model = read(path)
        return export_c(model, out, random_inputs(model), targets=targets, name=path.name)
    run = RunFolder(path)
    model = read(run.need("pack"))
    require_engine_of(run.output("derive"), "c")
    with run.locked():
        firmware = export_c(model, out, _golden_inputs(run, model), targets=targets, name=path.resolve().name)
        if targets:
            _remember(run, firmware.measurements)
            try:
                renew_report(run)
            except InputError as error:  # what was measured is written; data of the report may be elsewhere
                Session().warn(f"{run.output('report')} was not made anew: {error}")
    return firmware


def firmware_summary(firmware: Firmware) -> Group:
    """The output of the command: the memory plan, and the table of what was measured."""
    tables = ["\n".join(memory_lines(firmware.layout))]
    if firmware.measurements:
        tables.append("\n".join(target_lines(firmware.measurements)))
    return Group(*map(Markdown, tables))


def random_inputs(model: PackedModel, count: int = GOLDEN_INPUTS) -> NDArray[np.generic]:
    """Raw inputs [count, C, H, W] or [count, T, C, H, W], always the same, that fill the range that a network sees."""
    rng, spec = np.random.default_rng(0), model.input
    if isinstance(spec.front_end, EventFrames):
        shape = (count, model.timesteps, *spec.shape)
        return rng.integers(0, min(spec.front_end.clip + 2, 256), shape, dtype=np.uint8)
    if spec.kind == "image":
        return rng.integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
    return (mean + std * rng.normal(size=(count, *spec.shape))).astype(np.float32)


def _golden_inputs(run: RunFolder, model: PackedModel) -> NDArray[np.generic]:
    settings = run.recipe().data
    source = Path(settings.source).expanduser()
    at_hand = source.suffix == ".npz" and source.is_file() and source.stat().st_size <= _CHEAP_BYTES
    if settings.source != "digits" and not at_hand:
        return random_inputs(model)
    rows: NDArray[np.generic] = pinned(run, load(settings)).test().x[:GOLDEN_INPUTS].numpy()
    return rows


def _remember(run: RunFolder, measurements: Sequence[Measurement]) -> None:
    """Put the measurements into ``metrics.json``, if the run has one; other targets measured before stay."""
    if not run.done("evaluate"):
        return
    before = run.metrics().get("targets", {})
    run.amend_metrics(targets=before | {row.target: row.to_json() for row in measurements})
