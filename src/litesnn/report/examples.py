"""Example predictions for the report: a few test images through the packed model, with every spike kept."""

from __future__ import annotations

import numpy as np

from litesnn.data.sources import Split
from litesnn.deploy.packed import PackedModel
from litesnn.deploy.reference import Reference
from litesnn.report.page import Examples

__all__ = ["collect_examples"]


def collect_examples(model: PackedModel, test: Split, *, count: int = 6) -> Examples | None:
    """The first test image of each of ``count`` classes, run by the packed model; ``None`` if inputs are no images."""
    if model.input.kind != "image":
        return None
    labels = test.y.numpy()
    rows = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:count]]
    images = test.x[rows].numpy()
    trace = Reference(model).run(images, record=True)
    assert trace.spikes is not None
    shown = {"stem": trace.spikes[0], "last node": trace.spikes[-1]}
    return Examples(images=images, labels=labels[rows], scores=trace.logits.transpose(1, 0, 2), spikes=shown)
