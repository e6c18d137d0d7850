"""Example predictions for the report: a few test images through the packed model, with every spike kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from litesnn.data.sources import Split
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.reference import Reference, take_input
from litesnn.report.page import Examples

__all__ = ["collect_examples"]


def collect_examples(model: PackedModel, test: Split, *, count: int = 6) -> Examples | None:
    """The first test image of each of ``count`` classes, run by the packed model; ``None`` if inputs are numbers.

    Events are shown as the image of all of them that the model sees.
    """
    if model.input.kind == "array":
        return None
    labels = test.y.numpy()
    rows = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:count]]
    inputs = test.x[rows].numpy()
    trace = Reference(model).run(inputs, record=True)
    assert trace.spikes is not None
    shown = {"stem": trace.spikes[0], "last node": trace.spikes[-1]}
    images = _all_events(take_input(model, inputs)) if model.input.frames else inputs
    return Examples(images=images, labels=labels[rows], scores=trace.logits.transpose(1, 0, 2), spikes=shown)


def _all_events(frames: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Counts over all frames [N, T, C, H, W] as pixels [N, C, H, W]; the largest of each recording is white."""
    counts = frames.sum(axis=1, dtype=np.float64)
    largest = np.maximum(counts.max(axis=(1, 2, 3), keepdims=True), 1)
    pixels: npt.NDArray[np.uint8] = np.rint(255 * counts / largest).astype(np.uint8)
    return pixels
