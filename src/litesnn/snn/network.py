"""The derived network: one genotype, trained from scratch, saved as safetensors.

In: images, or a frame for each timestep. Out: logits. In training mode it computes with real-valued effective weights
and batch statistics; in evaluation mode with the deployed arithmetic (integer codes, folded scales), which the packed
file repeats bit by bit.

Shapes: T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from litesnn.front_end import FrontEnd, InputKind
from litesnn.genotype import Genotype
from litesnn.snn.backbone import Backbone, Output, first_frames
from litesnn.snn.cell import CellMix, edge_key
from litesnn.snn.compconv import CompConv, Compression
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.prune import kept_count

__all__ = ["InputInfo", "LayerInfo", "Network", "encode"]


@dataclass(frozen=True)
class InputInfo:
    """How raw data becomes what the network sees.

    ``shape`` is (C, H, W); ``kind`` is "image" (pixels 0…255), "array" (floats) or "events" (counts 0…255, another
    frame of this shape at each timestep); ``mean`` and ``std`` are per channel, in raw units; ``classes`` are the names
    of the labels. ``front_end`` says what recordings have become, if that is what the data are.
    """

    shape: tuple[int, int, int]
    kind: InputKind
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    front_end: FrontEnd | None = None

    @property
    def frames(self) -> bool:
        """Whether the network sees another frame at each timestep."""
        return self.kind == "events"


@dataclass(frozen=True)
class LayerInfo:
    """One layer with weights, or one identity (no weights), as reports name it."""

    name: str
    kind: Literal["stem", "edge", "classifier"]
    cell: int | None
    bits: int
    keep: float
    weights: int
    kept: int


def encode(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Raw data [..., C, H, W] → int8 input: ``round(32·(x − mean)/std)`` clipped to ±127.

    The order of the float32 roundings is part of the deployed arithmetic.
    """
    shift, spread = (
        torch.tensor(values, dtype=torch.float32, device=x.device)[:, None, None] for values in (mean, std)
    )
    normalised = (x.float() - shift) / spread
    return (normalised * 32).round_().clamp_(-127, 127).to(torch.int8)


class Network(nn.Module):
    """A derived spiking network.

    Args:
        genotype: the architecture.
        info: the input and the classes.
    """

    def __init__(self, genotype: Genotype, info: InputInfo) -> None:
        super().__init__()
        self.genotype, self.info = genotype, info
        self.backbone = Backbone(genotype, info.shape, len(info.classes))

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.backbone.device

    @property
    def timesteps(self) -> int:
        """T."""
        return self.genotype.timesteps

    def mixes(self) -> list[CellMix]:
        """One-hot mixtures: what the genotype says."""
        device = self.backbone.device
        return [CellMix(Compression.fixed(gene.bits, gene.keep, device)) for gene in self.genotype.cells]

    def encode(self, x: Tensor) -> Tensor:
        """Raw images [B, C, H, W], or frames [B, T or more, C, H, W] of which the first T are seen → int8 input."""
        if self.info.frames:
            x = first_frames(x, self.genotype.timesteps)
        return encode(x.to(self.backbone.device), self.info.mean, self.info.std)

    def forward(
        self,
        x: Tensor,
        *,
        meter: Meter | None = None,
        record: dict[str, Tensor] | None = None,
        tap: int | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Encoded images [B, C, H, W] or frames [B, T, C, H, W] → logits y_t of every timestep [T, B, K].

        :meth:`encode` encodes them.

        Args:
            meter: collects costs.
            record: receives the spikes [T, B, C, H, W] of every population.
            tap: index of a cell whose spikes are returned as well.
            execution: how to train.
        """
        return self.backbone.run(
            x.float(),
            self.genotype.timesteps,
            self.mixes(),
            integer=not self.training,
            meter=meter,
            record=record,
            tap=tap,
            execution=execution,
        )

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Raw images, or frames, as :meth:`encode` takes them → class indices [B], with the deployed arithmetic."""
        was_training = self.training
        self.eval()
        try:
            return self(self.encode(x)).logits[-1].argmax(1)  # type: ignore[no-any-return]
        finally:
            self.train(was_training)

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
        return LayerInfo(name, kind, cell, bits=0, keep=1.0, weights=0, kept=0)
    weights = conv.weight.numel()
    return LayerInfo(name, kind, cell, bits, keep, weights, kept_count(weights, keep))
