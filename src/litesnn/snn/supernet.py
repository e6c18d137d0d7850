"""The supernet: every edge, every op, every bit-width, keep ratio and width at once, mixed by learned weights.

α [E, O] is shared by all cells; β [L, bits, keep ratios] and the width logits [L, widths] are per cell (the paper's β
is [L, bits]; keep ratio and width are given there); ψ [T] chooses the timesteps (LitE-SNN, section 3).

Shapes: E edges, O ops, L cells, T timesteps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litesnn.costs.cost import AnalogLayer, LayerBits
from litesnn.costs.size import extra_position_bits
from litesnn.genotype import OPS, Edge, Genotype, Op, all_edges, one_group
from litesnn.quantizers.quantizer import Quantizer
from litesnn.snn.backbone import Backbone, Output
from litesnn.snn.cell import Cell, CellMix
from litesnn.snn.compconv import Compression
from litesnn.snn.constants import constant, indices
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution

__all__ = ["Choices", "Supernet", "cell_width", "draw"]


@dataclass(frozen=True)
class Choices:
    """The candidates of a search."""

    ops: tuple[str, ...]
    bits: tuple[int, ...]
    keeps: tuple[float, ...]
    widths: tuple[float, ...]  # fractions of the full width
    edges_per_node: int  # how many incoming edges a derived node keeps


def cell_width(full: int, fraction: float) -> int:
    """Channels per node at a fraction of the full width: rounded, at least one."""
    return max(1, round(full * fraction))


class Supernet(nn.Module):
    """All candidates of a search, and the architecture parameters that weigh them.

    Args:
        genotype: macro path at full width; its edges, bits and keep ratios are replaced by the candidates.
        nodes: nodes per cell.
        choices: the candidates.
        shape: (C, H, W) of an image, or of a frame.
        classes: number of classes.
    """

    def __init__(
        self, genotype: Genotype, *, nodes: int, choices: Choices, shape: tuple[int, int, int], classes: int
    ) -> None:
        super().__init__()
        self.choices, self.pairs = choices, all_edges(nodes)
        edges = tuple(Edge(node=node, source=source, op=op) for node, source in self.pairs for op in choices.ops)
        self.backbone = Backbone(genotype.model_copy(update={"edges": edges}), shape, classes)
        cells = len(genotype.cells)
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(self.pairs), len(choices.ops)))
        self.beta = nn.Parameter(torch.zeros(cells, len(choices.bits), len(choices.keeps)))
        self.width = nn.Parameter(torch.zeros(cells, len(choices.widths)))
        self.psi = nn.Parameter(torch.zeros(genotype.timesteps))

    @property
    def timesteps(self) -> int:
        """T_max of the search."""
        return len(self.psi)

    header_bytes = 1000
    """Bytes of a packed file's header, near enough for a search; the derivation counts the real ones."""

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.backbone.device

    def architecture(self) -> dict[str, list[nn.Parameter]]:
        """α, and what learns at the rate of β."""
        return {"alpha": [self.alpha], "beta": [self.beta, self.width]}

    def describe(self) -> dict[str, Any]:
        """The architecture parameters but ψ as probabilities, for the log."""
        pairs = self.compression_weights()  # [L, bits, keeps]
        return {
            "alpha": self.alpha.softmax(1).tolist(),
            "ops": self.choices.ops,
            "bits": pairs.sum(2).tolist(),
            "bit_choices": self.choices.bits,
            "keep": pairs.sum(1).tolist(),
            "keep_choices": self.choices.keeps,
            "compression": pairs.tolist(),
            "width": self.width.softmax(1).tolist(),
            "width_choices": self.choices.widths,
        }

    def score_parameters(self) -> list[nn.Parameter]:
        """Pruning scores of all cells."""
        return [p for name, p in self.backbone.cells.named_parameters() if name.endswith(".scores")]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Weights, norms and biases: all that is neither a score nor an architecture parameter."""
        return [p for name, p in self.backbone.named_parameters() if not name.endswith("scores")]

    def compression_weights(self) -> Tensor:
        """softmax(β) over the pairs of bit-width and keep ratio of each cell [L, bits, keeps]."""
        return draw(self.beta, None)

    def noise(self, generator: torch.Generator) -> Tensor:
        """The random numbers of one draw of :meth:`mixes`, uniform in 0…1 [n], on the device of the generator."""
        cells, widths = len(self.beta), len(self.choices.widths)
        parts = [self.beta.numel(), *[widths] * (cells if widths > 1 else 0)]
        return torch.cat([torch.rand(size, generator=generator) for size in parts])

    def mixes(self, noise: Tensor | None = None) -> list[CellMix]:
        """The mixture of every cell. Compute it once per optimisation step.

        With :meth:`noise`, each cell draws one pair of bit-width and keep ratio and one width by its
        probabilities, and gradients go straight through the draw (Gumbel softmax; Jang et al., ICLR 2017). The weights
        then learn to work under every choice alone. Mixed, they would only learn to work under the mixture, in which
        the largest weights, kept at every keep ratio, speak loudest and low keep ratios look better than they are.
        """
        pair_noise, width_noise = None, None
        if noise is not None:
            pair_noise, width_noise = noise[: self.beta.numel()], noise[self.beta.numel() :]
        probabilities = self.alpha.softmax(1)  # [E, O]
        # A node derives to the strongest of its inputs; until they are known, each has the same chance.
        chances = tuple(min(1.0, self.choices.edges_per_node / (node + 2)) for node, _ in self.pairs)
        chance = constant(chances, probabilities.dtype, probabilities.device)[:, None]
        weights = probabilities.flatten()  # in the order of the cells' edges
        shares = (probabilities * chance).flatten()
        bits, keeps = self.choices.bits, self.choices.keeps
        pairs, widths = draw(self.beta, pair_noise), self._channel_weights(width_noise)
        return [
            CellMix(Compression(bits, keeps, pair), weights, shares, width)
            for pair, width in zip(pairs, widths, strict=True)
        ]

    def _channel_weights(self, noise: Tensor | None) -> list[Tensor] | list[None]:
        """Of each cell Σ_w softmax(width)_w · [channel exists at w] [C] (FBNetV2, Wan et al., CVPR 2020).

        ``None`` if there is one width.
        """
        cells = range(len(self.width))
        if len(self.choices.widths) == 1:
            return [None for _ in cells]
        present: list[Tensor] = []
        for index, shares in zip(cells, draw(self.width, noise), strict=True):
            full = self.backbone.cell(index).width
            kept = constant(tuple(cell_width(full, w) for w in self.choices.widths), torch.int64, shares.device)
            exists = torch.arange(full, device=shares.device) < kept[:, None]  # [widths, C]
            present.append((shares[:, None] * exists).sum(0))
        return present

    def forward(
        self,
        x: Tensor,
        mixes: Sequence[CellMix] | None = None,
        *,
        meter: Meter | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Quantized images [B, C, H, W], or frames [B, T_max, C, H, W] → logits y_t [T_max, B, K]."""
        mixes = self.mixes() if mixes is None else mixes
        return self.backbone.run(x, self.timesteps, mixes, integer=False, meter=meter, execution=execution)

    def expected_bits(self, mixes: Sequence[CellMix], layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of the derived network's layers, with ``affine`` for each of their biases; a scalar."""
        layers = list(self._layers(mixes))
        biases = torch.stack([part.biases for part in layers]).sum()
        parts = [(part.shares * layer(part.weights, part.outputs, part.pairs())).sum() for part in layers]
        return affine * biases + torch.stack(parts).sum()

    def position_bits(self, mixes: Sequence[CellMix]) -> Tensor | None:
        """Expected bits that say which weights are kept, beyond what formulas of a layer count; a scalar, or none."""
        cells = [self.backbone.cell(index) for index in range(len(mixes))]
        ends = self.backbone.classifier.quantizer
        if not any(self._grouped_edges(cell) or cell.quantizer.has_zero for cell in cells) and not ends.has_zero:
            return None
        rows = [extra for part in self._layers(mixes) if (extra := part.extra_position_bits()) is not None]
        return torch.stack(rows).sum() if rows else None

    def analog_layers(self, mixes: Sequence[CellMix], *, frames: bool) -> list[AnalogLayer]:
        """The stem, which reads the image once, or a frame at every timestep."""
        backbone = self.backbone
        bits = backbone.classifier.quantizer.code_bits(backbone.genotype.stem.bits)
        return [AnalogLayer(backbone.stem_macs(), bits, every_timestep=frames)]

    def _layers(self, mixes: Sequence[CellMix]) -> Iterator[_Layers]:
        backbone, one = self.backbone, self.psi.new_ones(())
        stem = one * backbone.stem.outputs
        quantizer = backbone.classifier.quantizer  # of both ends
        yield _Layers(one * backbone.stem.weights, stem, backbone.stem_compression(), one, stem, quantizer)
        channels = [stem, stem]  # expected channels of the two cells before
        for index, mix in enumerate(mixes):
            cell = backbone.cell(index)
            width = one * cell.width if mix.channel_weights is None else mix.channel_weights.sum()
            read = indices(tuple(min(edge.source, 2) for edge in cell.edges), one.device)
            taps = tuple(float(cell.connection(edge).kernel ** 2) for edge in cell.edges)
            weights = torch.stack([*channels, width])[read] * width * constant(taps, one.dtype, one.device)
            grouped = self._grouped(index, mixes)
            for group in grouped:
                weights = weights.index_put((indices(group.rows, one.device),), group.weights @ group.chances)
            shares = one if mix.edge_shares is None else mix.edge_shares
            yield _Layers(weights, width, mix.compression, shares, width * cell.nodes, cell.quantizer, grouped)
            channels = [channels[1], width * cell.nodes]
        classes = one * len(backbone.classifier_bias)
        compression = backbone.classifier_compression()
        yield _Layers(channels[1] * classes, classes, compression, one, classes, quantizer)

    def _grouped(self, index: int, mixes: Sequence[CellMix]) -> tuple[_Grouped, ...]:
        """The layers of a cell that have groups: how many depends on both widths, so that no mean width says it."""
        cell, found = self.backbone.cell(index), []
        kinds: dict[tuple[int, str], list[int]] = {}
        for row in self._grouped_edges(cell):
            kinds.setdefault((min(cell.edges[row].source, 2), cell.edges[row].op), []).append(row)
        for (source, op), rows in kinds.items():
            outputs = self._widths(index, mixes)
            if source == 2:  # of the same width as what it reads
                sizes = [(width, width) for width, _ in outputs]
                chances = torch.stack([chance for _, chance in outputs])
            else:
                inputs = self._widths(index - 2 + source, mixes)
                nodes = cell.nodes if index - 2 + source >= 0 else 1
                sizes = [(nodes * width, into) for width, _ in inputs for into, _ in outputs]
                chances = torch.stack([a * b for _, a in inputs for _, b in outputs])
            found.append(_Grouped(tuple(rows), OPS[op], tuple(sizes), chances))
        return tuple(found)

    def _grouped_edges(self, cell: Cell) -> list[int]:
        """The edges of a cell whose operation may have groups."""
        return [row for row, edge in enumerate(cell.edges) if OPS[edge.op].groups is not one_group]

    def _widths(self, index: int, mixes: Sequence[CellMix]) -> list[tuple[int, Tensor]]:
        """The candidate widths of a cell (of the stem, for negative indices), each with its probability."""
        one = self.psi.new_ones(())
        if index < 0:
            return [(self.backbone.stem.outputs, one)]
        full, exists = self.backbone.cell(index).width, mixes[index].channel_weights
        if exists is None:
            return [(full, one)]
        widths = sorted({cell_width(full, fraction) for fraction in self.choices.widths})
        # A channel exists at its own width and at all that are larger.
        at_least = [*(exists[width - 1] for width in widths), torch.zeros_like(exists[0])]
        return [(width, at_least[index] - at_least[index + 1]) for index, width in enumerate(widths)]


def draw(logits: Tensor, noise: Tensor | None) -> Tensor:
    """Softmax over all but the first dimension, or a one-hot draw from it with the gradient of a relaxed one."""
    flat = logits.flatten(1)
    if noise is None:
        return flat.softmax(1).view_as(logits)
    uniform = noise.view_as(flat).clamp(1e-9, 1 - 1e-9).to(flat)
    soft = (flat - torch.log(-torch.log(uniform))).softmax(1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    return (hard + soft - soft.detach()).view_as(logits)


@dataclass(frozen=True)
class _Layers:
    """Expected sizes of layers with the same outputs and compression, [layers] or a scalar; identities have 0 weights.

    ``biases`` are those of all of them together, a scalar.
    """

    weights: Tensor
    outputs: Tensor
    compression: Compression
    shares: Tensor
    biases: Tensor
    quantizer: Quantizer
    grouped: tuple[_Grouped, ...] = ()

    def pairs(self) -> list[tuple[int, float, Tensor]]:
        """(Bits of a code in the packed file, keep ratio, probability) of every candidate."""
        return [(self.quantizer.code_bits(bits), keep, share) for bits, keep, share in self.compression.pairs()]

    def extra_position_bits(self) -> Tensor | None:
        """Expected bits of positions beyond what formulas of a layer count, of all layers; ``None``: there are none."""
        has_zero, parts = self.quantizer.has_zero, []
        keeps = list(zip(self.compression.keeps, self.compression.weights.sum(0), strict=True))
        apart = {row for group in self.grouped for row in group.rows}
        if has_zero:
            sizes = self.shares * self.weights
            rest = tuple(row for row in range(sizes.numel()) if row not in apart)
            bits = sum(share * extra_position_bits(keep, has_zero=True) for keep, share in keeps)
            parts.append(sizes.reshape(-1)[indices(rest, sizes.device)].sum() * bits)
        for group in self.grouped:
            edges = self.shares.expand(self.weights.shape)[indices(group.rows, self.shares.device)].sum()
            bits = sum(share * (group.extra_position_bits(keep, has_zero) @ group.chances) for keep, share in keeps)
            parts.append(edges * bits)
        return torch.stack(parts).sum() if parts else None


@dataclass(frozen=True)
class _Grouped:
    """Layers of one operation with groups that read the same: ``rows`` of a cell's edges.

    ``sizes`` are the (inputs, outputs) that they may have, with their ``chances`` [sizes].
    """

    rows: tuple[int, ...]
    op: Op
    sizes: tuple[tuple[int, int], ...]
    chances: Tensor

    @property
    def weights(self) -> Tensor:
        """Weights of an edge of each size [sizes]."""
        return self._table(float(self.op.weights(*size)) for size in self.sizes)

    def extra_position_bits(self, keep: float, has_zero: bool) -> Tensor:
        """Of a layer of each size at a keep ratio [sizes]."""
        return self._table(
            weights * extra_position_bits(keep, places=self.op.places(*size) / weights, has_zero=has_zero)
            for size in self.sizes
            for weights in [self.op.weights(*size)]
        )

    def _table(self, values: Iterable[float]) -> Tensor:
        return constant(tuple(values), self.chances.dtype, self.chances.device)
