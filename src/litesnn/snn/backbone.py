"""Stem, cells and classifier: what supernet and derived network have in common.

In: quantized images [B, C, H, W] (integers −127…127 as floats), or a frame for each timestep [B, T, C, H, W]. Out: the
mean logits y_t of timesteps 1…t for every t.

An image is static, so the stem's convolution runs once and its current is repeated; frames are one batch of T·B images
to it. Of more than T frames the first T are seen: what comes later has not happened yet when the network decides.
Global pooling sums spikes and the classifier is linear in them. Shapes: T timesteps, B batch, C channels, H × W pixels,
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.errors import InputError
from litesnn.genotype import OPS, Genotype
from litesnn.neurons import NEURONS
from litesnn.quantizers import QUANTIZERS, ends_of
from litesnn.snn.arithmetic import ARITHMETICS, Exact, FoldedGroup
from litesnn.snn.cell import Cell, CellMix, Source, State
from litesnn.snn.compconv import CompConv, Compression, Connection, fold, masks_of_codes
from litesnn.snn.cost import Meter, conv_output, synops, tap_spikes
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import from_rows, to_rows
from litesnn.snn.population import Neurons

__all__ = ["INPUT_SCALE", "STEM_KERNEL", "Backbone", "Output", "count_weights", "first_frames"]

INITIAL_GAIN = 3.0

INPUT_SCALE = 1 / INPUT_STEPS
"""One unit of the int8 input, in units of the normalised image."""

_MOST_WEIGHTS = 2**28
"""Of a network that is built: 1 GiB as float32. A packed file holds a quarter of them; a supernet needs several ops for
each of its edges."""

STEM_KERNEL = 3
"""Height and width of the stem's kernel."""


@dataclass(frozen=True)
class Output:
    """``logits`` [T, B, K]: y_t, the mean logits of timesteps 1…t. ``tap``: spikes of the cell that was asked for."""

    logits: Tensor
    tap: Tensor | None = None


def first_frames(x: Tensor, timesteps: int) -> Tensor:
    """The frames that T timesteps see [B, T, C, H, W] of frames [B, T or more, C, H, W]."""
    if x.dim() != 5 or x.shape[1] < timesteps:
        raise ValueError(f"expected frames [B, {timesteps} or more, C, H, W], found {list(x.shape)}")
    return x[:, :timesteps]


def count_weights(genotype: Genotype, shape: tuple[int, int, int], classes: int, *, most: bool = True) -> int:
    """Weights of stem, cells and classifier, by shapes alone: the most that there can be, or the least.

    At most, operations that may be identities count as convolutions of 1 × 1, and those between groups count too.
    """
    older = newer = genotype.stem.channels
    total = 9 * shape[0] * genotype.stem.channels
    for gene in genotype.cells:
        for edge in genotype.edges:
            op = OPS[edge.op]
            if op.identity and not most:
                continue
            inputs = (older, newer, gene.width)[min(edge.source, 2)]
            total += (op.places if most else op.weights)(inputs, gene.width)
        older, newer = newer, genotype.nodes * gene.width
    return total + newer * classes


def _require_buildable(genotype: Genotype, shape: tuple[int, int, int], classes: int) -> None:
    """Refuse, before anything is allocated, a network that is too large to be one of ours. Raises ``InputError``."""
    if (weights := count_weights(genotype, shape, classes)) > _MOST_WEIGHTS:
        raise InputError(
            f"the network would have {weights:,} weights, and at most {_MOST_WEIGHTS:,} can be made; expected a "
            "smaller model.width, fewer model.levels or fewer model.nodes"
        )


class Backbone(nn.Module):
    """The modules of a genotype.

    Args:
        genotype: the architecture; for a supernet, the one with every edge, every op and the full width.
        shape: (C, H, W) of an image, or of a frame.
        classes: number of classes.
    """

    def __init__(self, genotype: Genotype, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        _require_buildable(genotype, shape, classes)
        self.genotype, self.shape = genotype, shape
        self.arithmetic = ARITHMETICS[genotype.arithmetic]
        quantizer = QUANTIZERS[genotype.quantizer]
        both_ends = ends_of(genotype.quantizer)
        stem = genotype.stem
        levels = genotype.spike_levels
        self.stem = Connection(
            shape[0], stem.channels, kernel=STEM_KERNEL, stride=stem.stride, quantizer=both_ends, levels=levels
        )
        self.stem_neurons = Neurons(NEURONS[genotype.neuron], stem.channels, self.arithmetic.leak, levels)
        older = newer = Source(stem.channels, level=0)
        self.cells = nn.ModuleList()
        for gene in genotype.cells:
            cell = Cell(
                older,
                newer,
                level=gene.level,
                width=gene.width,
                edges=genotype.edges,
                arithmetic=self.arithmetic,
                quantizer=quantizer,
                neuron=genotype.neuron,
                levels=levels,
            )
            self.cells.append(cell)
            older, newer = newer, cell.output
        self.classifier = CompConv(newer.channels, classes, kernel=1, quantizer=both_ends)
        self.classifier_bias = nn.Parameter(torch.zeros(classes))
        # Mean firing rates differ by a few percent between classes; the gain brings logits to order one at the start.
        self.classifier_gain = nn.Parameter(torch.tensor(INITIAL_GAIN / levels))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.classifier_bias.device

    def cell(self, index: int) -> Cell:
        """Cell ``index``, counted from 0."""
        cell = self.cells[index]
        assert isinstance(cell, Cell)
        return cell

    def map_size(self, level: int) -> tuple[int, int]:
        """Height and width of the spike maps of a level."""
        height, width = (conv_output(size, self.genotype.stem.stride) for size in self.shape[1:])
        return conv_output(height, 2**level), conv_output(width, 2**level)

    def stem_compression(self) -> Compression:
        """The stem is quantized, not pruned."""
        return Compression.fixed(self.genotype.stem.bits, 1.0, self.device)

    def classifier_compression(self) -> Compression:
        """The classifier is quantized, not pruned."""
        return Compression.fixed(self.genotype.classifier_bits, 1.0, self.device)

    def stem_macs(self) -> int:
        """Multiply-accumulates of the stem on one image or frame; padding counts as work."""
        height, width = self.map_size(0)
        return self.stem.weights * height * width

    def folded_stem(self) -> FoldedGroup:
        """The deployed form of the stem."""
        return fold(
            [self.stem],
            self.stem_compression(),
            self.arithmetic,
            input_scale=INPUT_SCALE,
            largest_input=MAX_INPUT,
            factor=self.stem_neurons.deployed_scale(),
        )

    @torch.no_grad()
    def folded_classifier(self) -> FoldedGroup:
        """The deployed form of the classifier: codes [K, C] on integer spike counts."""
        mask = self.classifier.masks(self.classifier_compression())[0]
        codes, unit = self.classifier.codes(self.genotype.classifier_bits, mask)
        height, width = self.map_size(self.genotype.cells[-1].level)
        scale = self.classifier_gain.double() * unit.double() / (height * width)
        timesteps = self.genotype.timesteps
        largest = codes.double().abs().sum(dim=(1, 2, 3)) * (height * width * timesteps * self.genotype.spike_levels)
        exact = Exact(codes.flatten(1), scale.expand(len(codes)), largest)
        return self.arithmetic.fold_readout(exact, self.classifier_bias.double(), timesteps)

    def run(
        self,
        x: Tensor,
        timesteps: int,
        mixes: Sequence[CellMix],
        *,
        integer: bool,
        meter: Meter | None = None,
        record: dict[str, Tensor] | None = None,
        tap: int | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Images [B, C, H, W] or frames [B, T, C, H, W], already quantized → logits of every prefix of the timesteps.

        Args:
            timesteps: T.
            mixes: one per cell.
            integer: the deployed arithmetic instead of the trainable one.
            execution: how to train.
            meter, record: collect costs, and the spikes of every population.
            tap: index of a cell whose spikes are returned as well.
        """
        spikes = self._stem_spikes(x, timesteps, integer=integer)
        state = State.of(spikes, self.genotype.spike_levels, counted=meter is not None)
        if record is not None:
            record["stem"] = spikes
        if meter is not None:
            meter.add_rate("stem", state.firing, state.mean)
        older = newer = state
        tapped = None
        for index, mix in enumerate(mixes):
            out = self.cell(index)(
                *(older, newer, mix),
                integer=integer,
                execution=execution,
                meter=meter,
                name=f"cell {index + 1}",
                record=record,
            )
            older, newer = newer, out
            tapped = out.spikes if index == tap else tapped
        if meter is not None and meter.costs:
            classifier, compression = self.classifier, self.classifier_compression()
            masks = [mask[None] for mask in classifier.masks(compression)]
            (mask,) = masks_of_codes([classifier], compression, masks)
            bits = classifier.quantizer.code_bits(self.genotype.classifier_bits)
            for way in (None, *(meter.ways if self.genotype.spike_levels > 1 else ())):
                mean = newer.mean if way is None else newer.mean_by(way)
                used = synops(tap_spikes(mean, 1, 1), mask[0].sum(0))[None]
                meter.add(["classifier"], used, used * bits, way)
        return Output(self._read_out(newer.spikes, integer=integer), tapped)

    def _stem_spikes(self, x: Tensor, timesteps: int, *, integer: bool) -> Tensor:
        """Spikes of the stem [T, B, C, H, W]. A static image has one current, S = 1, and frames have S = T."""
        batch = len(x)
        if x.dim() == 5:
            x = first_frames(x, timesteps).transpose(0, 1).flatten(0, 1)  # [S·B, C, H, W]
        if integer:
            stem = self.folded_stem()
            (part,) = stem.connections
            current = self.arithmetic.current(self.stem.accumulate(x, part), part) + stem.offset[:, None, None]
            currents = current.view(-1, batch, *current.shape[1:])  # [S, B, C, H, W]
            return self.stem_neurons.fire(currents.expand(timesteps, *currents.shape[1:]), self.arithmetic)
        scaled = (x * INPUT_SCALE).contiguous(memory_format=torch.channels_last)
        current = self.stem(scaled, self.stem_compression())
        rows = to_rows(current.contiguous(memory_format=torch.channels_last))  # [S·B·H·W, C]
        height, width = current.shape[-2:]
        currents = rows.view(-1, batch * height * width, rows.shape[-1])
        scale = self.stem_neurons.scale()
        if scale is not None:
            currents = currents * scale
        fired: Tensor = self.stem_neurons(currents.expand(timesteps, *currents.shape[1:]))  # [T, B·H·W, C]
        return from_rows(fired.flatten(0, 1), (height, width)).view(timesteps, batch, *current.shape[1:])

    def _read_out(self, spikes: Tensor, *, integer: bool) -> Tensor:
        """Spikes [T, B, C, H, W] → y_t for every t [T, B, K]."""
        if integer:
            folded = self.folded_classifier()
            (part,) = folded.connections
            assert part.codes is not None
            # Counts times codes may pass 2²⁴, where float32 stops holding every integer: float64 is exact here.
            counts = spikes.sum(dim=(3, 4), dtype=torch.float64)  # [T, B, C]
            totals = (counts @ part.codes.double().T).round_().cumsum(0)  # [T, B, K]
            return self.arithmetic.logits(totals, folded)
        elapsed = torch.arange(1, len(spikes) + 1, device=spikes.device, dtype=spikes.dtype)[:, None, None]
        rates = spikes.mean(dim=(3, 4))  # [T, B, C]
        compression = self.classifier_compression()
        weight = self.classifier.effective_weight(compression, self.classifier.masks(compression)).flatten(1)
        return self.classifier_gain * (rates @ weight.T).cumsum(0) / elapsed + self.classifier_bias
