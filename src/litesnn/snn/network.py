"""The derived network: one genotype, trained from scratch, saved as safetensors.

In: images, or a frame for each timestep. Out: logits. In training mode it computes with real-valued effective weights
and batch statistics; in evaluation mode with the deployed arithmetic (integer codes, folded scales), which the packed
file repeats bit by bit.

Shapes: T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from litesnn.genotype import Genotype
from litesnn.snn.backbone import Backbone, Output
from litesnn.snn.cell import CellMix, edge_key
from litesnn.snn.compconv import CompConv, Compression
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.predictor import InputInfo, Predictor, encode

__all__ = ["InputInfo", "LayerInfo", "Network", "encode"]


@dataclass(frozen=True)
class LayerInfo:
    """One layer with weights, or one identity (no weights), as reports name it.

    ``bits`` are those of a code in the packed file, ``kept`` the codes that are not 0. ``places`` are those of the
    packed layer: the weights, and the zeros between groups.
    """

    name: str
    kind: Literal["stem", "edge", "classifier"]
    cell: int | None
    bits: int
    keep: float
    weights: int
    kept: int
    places: int


class Network(Predictor):
    """A derived spiking network.

    Args:
        genotype: the architecture.
        info: the input and the classes.
    """

    def __init__(self, genotype: Genotype, info: InputInfo) -> None:
        super().__init__(info)
        self.genotype = genotype
        self.backbone = Backbone(genotype, info.shape, len(info.classes))

    def __repr__(self) -> str:
        genotype = self.genotype
        return (
            f"Network({self.info}, T = {self.timesteps}, {len(genotype.cells)} cells, "
            f"{sum(layer.weights for layer in self.layers()):,} weights, {genotype.kinds})"
        )

    @property
    def timesteps(self) -> int:
        """T."""
        return self.genotype.timesteps

    def mixes(self) -> list[CellMix]:
        """One-hot mixtures: what the genotype says."""
        device = self.backbone.device
        return [CellMix(Compression.fixed(gene.bits, gene.keep, device)) for gene in self.genotype.cells]

    def forward(
        self,
        x: Tensor,
        *,
        meter: Meter | None = None,
        record: dict[str, Tensor] | None = None,
        tap: int | None = None,
        execution: Execution = Execution(),
        timesteps: int | None = None,
    ) -> Output:
        """Encoded images [B, C, H, W] or frames [B, T, C, H, W] → logits y_t of every timestep [T, B, K].

        :meth:`encode` encodes them.

        Args:
            meter: collects costs.
            record: receives the spikes [T, B, C, H, W] of every population.
            tap: index of a cell whose spikes are returned as well.
            execution: how to train.
            timesteps: in training, fewer than T; left out: T.
        """
        return self.backbone.run(
            x.float(),
            self.genotype.timesteps if timesteps is None else timesteps,
            self.mixes(),
            integer=not self.training,
            meter=meter,
            record=record,
            tap=tap,
            execution=execution,
        )

    def layers(self) -> list[LayerInfo]:
        """Every layer in the order in which the packed file and the reports list it."""
        backbone, genotype = self.backbone, self.genotype
        assert backbone.stem.conv is not None
        rows = [_layer("stem", "stem", None, backbone.stem.conv, genotype.stem.bits, 1.0)]
        for index, gene in enumerate(genotype.cells):
            cell = backbone.cell(index)
            for node in range(cell.nodes):
                for edge in cell.edges_into(node):
                    conv = cell.connection(edge).conv
                    rows.append(_layer(f"cell {index + 1} {edge_key(edge)}", "edge", index, conv, gene.bits, gene.keep))
        rows.append(_layer("classifier", "classifier", None, backbone.classifier, genotype.classifier_bits, 1.0))
        return rows

    def stem_macs(self) -> int:
        """Multiply-accumulates of the stem per inference; of frames, at every timestep. Padding counts as work."""
        return self.backbone.stem_macs() * (self.genotype.timesteps if self.info.frames else 1)

    def analog_macs(self) -> list[tuple[int, int]]:
        """MACs per inference, and bits, of the stem, the one layer that reads real numbers."""
        return [(self.stem_macs(), self.backbone.classifier.quantizer.code_bits(self.genotype.stem.bits))]

    def model_size_bits(self) -> float:
        """Σ κ·params·bits, the paper's definition, with the kept weights counted."""
        return float(sum(layer.kept * layer.bits for layer in self.layers()))


def _layer(
    name: str,
    kind: Literal["stem", "edge", "classifier"],
    cell: int | None,
    conv: CompConv | None,
    bits: int,
    keep: float,
) -> LayerInfo:
    if conv is None:
        return LayerInfo(name, kind, cell, bits=0, keep=1.0, weights=0, kept=0, places=0)
    weights, quantizer = conv.weight.numel(), conv.quantizer
    code_bits, kept = quantizer.code_bits(bits), conv.kept(bits, keep)
    return LayerInfo(name, kind, cell, code_bits, keep, weights, kept, places=weights * conv.groups)
