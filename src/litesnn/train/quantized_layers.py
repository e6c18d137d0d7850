"""The layers of a network with the bits and the keep ratio that were chosen for them, while they learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litesnn.snn.compconv import CompConv
from litesnn.snn.network import Network
from litesnn.snn.prune import keep_mask

__all__ = ["QuantizedLayer", "quantized_layers"]


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with weights. ``group``: the stem, the cell or the classifier that it belongs to, or its own name."""

    group: str
    conv: CompConv
    bits: int
    keep: float

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor]:
        """The codes of all weights [O, I/groups, k, k], and which of them are kept, of the same shape."""
        kept = keep_mask(self.conv.scores, self.keep) != 0
        return self.conv.codes(self.bits, torch.ones_like(self.conv.weight))[0], kept


def quantized_layers(network: Network) -> list[QuantizedLayer]:
    """All layers with weights of a network of ours, from the stem to the classifier."""
    backbone, genotype = network.backbone, network.genotype
    found = []
    if backbone.stem.conv is not None:
        found.append(QuantizedLayer("stem", backbone.stem.conv, genotype.stem.bits, 1.0))
    for index, gene in enumerate(genotype.cells):
        cell = backbone.cell(index)
        convs = [cell.connection(edge).conv for edge in cell.edges]
        found += [QuantizedLayer(f"cell {index + 1}", conv, gene.bits, gene.keep) for conv in convs if conv is not None]
    return [*found, QuantizedLayer("classifier", backbone.classifier, genotype.classifier_bits, 1.0)]
