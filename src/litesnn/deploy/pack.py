"""The packing stage: a trained network as one file of real low-bit bytes, proven to compute the same.

In: ``network.safetensors``, and the firing rates in ``metrics.json``. Out: ``model.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import PackedModel, from_bytes, to_bytes
from litesnn.deploy.reference import Reference
from litesnn.errors import LitesnnError
from litesnn.files import write_atomically
from litesnn.network_file import load_network
from litesnn.snn.network import Network
from litesnn.training_loop.context import StageContext

__all__ = ["PROOF_IMAGES", "Packed", "counted", "firing_rates", "pack", "prove_equal"]

PROOF_IMAGES = 64


@dataclass(frozen=True)
class Packed:
    """A packed model and the bytes of its file: evaluation counts them, and hands them on to packing."""

    model: PackedModel
    content: bytes

    @classmethod
    def of(cls, model: PackedModel) -> Packed:
        """A model with its bytes. Raises ``InputError`` if no packed file can hold it."""
        return cls(model, to_bytes(model))


def pack(context: StageContext) -> Path:
    """Pack the trained network of a run and check the file against it. Returns the path of ``model.safetensors``.

    Raises:
        InputError: the network or its metrics are missing or damaged, or the file cannot be written.
        LitesnnError: the file computes something else than the network, or has another size than evaluation said.
    """
    run, data = context.run, context.data
    network = load_network(run.need("train"))
    metrics = run.metrics()
    packed = context.handed.take(Packed) or Packed.of(integerize(network, firing_rates(metrics)))
    content = counted(packed, metrics)
    run.start("pack")
    prove_equal(network, from_bytes(content), data.validation.x[:PROOF_IMAGES])
    write_atomically(run.output("pack"), content)
    return run.output("pack")


def firing_rates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The measured firing rate of each population by name, as the metrics have it."""
    return {row["name"]: row["firing_rate"] for row in metrics["neurons"]}


def counted(packed: Packed, metrics: Mapping[str, Any]) -> bytes:
    """The packed file of a network. Raises ``LitesnnError`` if it has another size than the metrics say."""
    content = packed.content
    if len(content) != metrics["packed_bytes"]:
        raise LitesnnError(f"the packed file has {len(content)} B, but evaluation counted {metrics['packed_bytes']} B")
    return content


@torch.no_grad()
def prove_equal(network: Network, packed: PackedModel, images: torch.Tensor) -> None:
    """Run network and packed model on raw images [B, C, H, W]; every spike and every logit has to be the same.

    Raises:
        LitesnnError: they differ; the message names the first population that does.
    """
    record: dict[str, torch.Tensor] = {}
    logits = network.eval()(network.encode(images), record=record).logits
    trace = Reference(packed).run(images.numpy(), record=True)
    assert trace.spikes is not None
    for (name, ours), theirs in zip(record.items(), trace.spikes, strict=True):
        if not np.array_equal(ours.cpu().numpy().astype(np.uint8), theirs):
            raise LitesnnError(f"the packed model and the network differ in the spikes of {name}")
    if not np.array_equal(logits.cpu().numpy(), trace.logits):
        raise LitesnnError("the packed model and the network differ in their logits")
