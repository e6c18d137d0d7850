"""The kernels of :mod:`litesnn.snn.kernels` on a GPU, in Triton: few launches, each one pass over memory.

Programs share the rows and columns of a map in blocks. Sums over rows are made block by block and then added up, always
in the same order, so that equal inputs give equal results. Products and sums may be fused: results round differently
from those of the CPU. Batch statistics are torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from litesnn.snn.kernels import Incoming, Node, TorchKernels
from litesnn.snn.membrane import Neuron

__all__ = ["TritonKernels"]

_BLOCK = 1024  # elements of a block
_WIDEST = 64  # columns of a block
_PROGRAMS = 1024  # most programs that share the rows of a map where they are summed


@triton.jit
def _current(terms, strides, scales, bias, row, column, columns, here):  # type: ignore[no-untyped-def]
    """Currents at some rows and columns."""
    x = tl.load(bias + column, mask=column < columns, other=0.0)
    for n in tl.static_range(len(terms)):
        scale = tl.load(scales + n * columns + column, mask=column < columns, other=0.0)
        x = x + scale * tl.load(terms[n] + row * strides[n] + column, mask=here, other=0.0)
    return x


@triton.jit
def _slope(membrane, threshold, sharpness, peak):  # type: ignore[no-untyped-def]
    """The surrogate slope: 1 − tanh²(v) = 4·σ(2v)·(1 − σ(2v))."""
    sigmoid = 1.0 / (1.0 + tl.exp(-2.0 * sharpness * (membrane - threshold)))
    inside = (membrane > 0.0) & (membrane < 1.0)
    return tl.where(inside, peak * 4.0 * sigmoid * (1.0 - sigmoid), 0.0)


@triton.jit
def _fire(  # type: ignore[no-untyped-def]
    terms, strides, scales, bias, spikes, spikes_stride, pixels, columns, leak, threshold,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here = (pixel < pixels) & (column < columns)
    left = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)  # of the membrane, after reset and leak
    for t in tl.static_range(STEPS):
        row = t * pixels + pixel
        membrane = left + _current(terms, strides, scales, bias, row, column, columns, here)
        fired = membrane > threshold
        tl.store(spikes + row * spikes_stride + column, fired.to(tl.float32), mask=here)
        left = tl.where(fired, 0.0, leak * membrane)


@triton.jit
def _fire_backward(  # type: ignore[no-untyped-def]
    terms, strides, scales, bias, gradients, gradient_strides, scaled, scaled_strides, factors, of_spikes,
    g, g_stride, sums, pixels, columns, leak, threshold, sharpness, peak, SCALED: tl.constexpr,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(tl.program_id(0) * ROWS, pixels, tl.num_programs(0) * ROWS):
        pixel = tl.cast(start, tl.int64) + tl.arange(0, ROWS)[:, None]
        here = (pixel < pixels) & (column < columns)
        left = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for t in tl.static_range(STEPS):  # membranes, which wait in g
            row = t * pixels + pixel
            membrane = left + _current(terms, strides, scales, bias, row, column, columns, here)
            tl.store(g + row * g_stride + column, membrane, mask=here)
            left = tl.where(membrane > threshold, 0.0, leak * membrane)
        tl.debug_barrier()  # another thread may read what one has written
        later = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)  # leak · gradient of the timestep after this one
        for back in tl.static_range(STEPS):
            row = (STEPS - 1 - back) * pixels + pixel
            membrane = tl.load(g + row * g_stride + column, mask=here, other=0.0)
            spike = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            for n in tl.static_range(len(gradients)):
                spike = spike + tl.load(gradients[n] + row * gradient_strides[n] + column, mask=here, other=0.0)
            for n in tl.static_range(SCALED):
                factor = tl.load(factors + n * columns + column, mask=column < columns, other=0.0)
                spike += factor * tl.load(scaled[n] + row * scaled_strides[n] + column, mask=here, other=0.0)
            if SCALED > 0:
                slope_of = tl.load(of_spikes + column, mask=column < columns, other=0.0)
                offset = tl.load(of_spikes + columns + column, mask=column < columns, other=0.0)
                spike += tl.where(membrane > threshold, slope_of, 0.0) + offset
            slope = _slope(membrane, threshold, sharpness, peak)
            gradient = slope * (spike - later * membrane) + tl.where(membrane > threshold, 0.0, later)
            gradient = tl.where(here, gradient, 0.0)
            tl.store(g + row * g_stride + column, gradient, mask=here)
            total = total + gradient
            later = leak * gradient
    row = tl.program_id(0) * columns
    tl.store(sums + row + column, tl.sum(total, axis=0, keep_dims=True), mask=column < columns)


@triton.jit
def _products(  # type: ignore[no-untyped-def]
    terms, strides, centres, g, g_stride, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    for n in tl.static_range(len(terms)):
        centre = tl.load(centres + n * columns + column, mask=column < columns, other=0.0)
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
            row = tl.cast(start, tl.int64) + tl.arange(0, ROWS)[:, None]
            here = (row < rows) & (column < columns)
            factor = tl.load(g + row * g_stride + column, mask=here, other=0.0)
            total += factor * (tl.load(terms[n] + row * strides[n] + column, mask=here, other=0.0) - centre)
        place = (tl.program_id(0) * len(terms) + n) * columns
        tl.store(sums + place + column, tl.sum(total, axis=0, keep_dims=True), mask=column < columns)


@triton.jit
def _spread(  # type: ignore[no-untyped-def]
    g, g_stride, z, z_stride, a, b, c, out, out_stride, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    exists = column < columns
    here = (row < rows) & exists
    value = tl.load(a + column, mask=exists, other=0.0) * tl.load(g + row * g_stride + column, mask=here, other=0.0)
    value += tl.load(b + column, mask=exists, other=0.0) * tl.load(z + row * z_stride + column, mask=here, other=0.0)
    value += tl.load(c + column, mask=exists, other=0.0)
    tl.store(out + row * out_stride + column, value, mask=here)


@triton.jit
def _lif(  # type: ignore[no-untyped-def]
    current, current_stride, membranes, spikes, neurons, leak, threshold, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < neurons
    left = tl.zeros((BLOCK,), dtype=tl.float32)
    for t in tl.static_range(STEPS):
        membrane = left + tl.load(current + t * current_stride + place, mask=here, other=0.0)
        fired = membrane > threshold
        tl.store(membranes + t * neurons + place, membrane, mask=here)
        tl.store(spikes + t * neurons + place, fired.to(tl.float32), mask=here)
        left = tl.where(fired, 0.0, leak * membrane)


@triton.jit
def _lif_backward(  # type: ignore[no-untyped-def]
    gradient, membranes, g, neurons, leak, threshold, sharpness, peak, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < neurons
    later = tl.zeros((BLOCK,), dtype=tl.float32)
    for back in tl.static_range(STEPS):
        t = STEPS - 1 - back
        membrane = tl.load(membranes + t * neurons + place, mask=here, other=0.0)
        spike = tl.load(gradient + t * neurons + place, mask=here, other=0.0)
        slope = _slope(membrane, threshold, sharpness, peak)
        total = slope * (spike - later * membrane) + tl.where(membrane > threshold, 0.0, later)
        tl.store(g + t * neurons + place, total, mask=here)
        later = leak * total


class TritonKernels:
    """:class:`litesnn.snn.kernels.Kernels` for float32 on CUDA devices."""

    def mean_variance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        return TorchKernels().mean_variance(z)

    def fire(self, node: Node, spikes: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        pixels, (rows, columns) = len(spikes) // node.steps, _block(spikes.shape[1])
        _fire[triton.cdiv(pixels, rows), triton.cdiv(spikes.shape[1], columns)](
            *_node(node),
            *(spikes, spikes.stride(0), pixels, spikes.shape[1], node.neuron.leak, node.neuron.threshold),
            *(node.steps, rows, columns),
        )
        return spikes.mean(0)

    def fire_backward(self, node: Node, incoming: Incoming, centres: Tensor, g: Tensor) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        pixels, (rows, columns) = len(g) // node.steps, _block(g.shape[1])
        programs = min(_PROGRAMS, triton.cdiv(pixels, rows))
        sums = g.new_empty(programs, g.shape[1])
        scaled = incoming.scaled or incoming.maps[:1]  # a kernel takes no empty tuple; it reads none of these
        _fire_backward[programs, triton.cdiv(g.shape[1], columns)](
            *_node(node),
            *(tuple(incoming.maps), _strides(incoming.maps)),
            *(tuple(scaled), _strides(scaled)),
            *(incoming.factors.contiguous(), incoming.of_spikes.contiguous()),
            *(g, g.stride(0), sums, pixels, g.shape[1]),
            *(*_surrogate(node.neuron), len(incoming.scaled), node.steps, rows, columns),
        )
        return torch.cat([sums.sum(0, keepdim=True), self._products(node, centres, g)])

    def _products(self, node: Node, centres: Tensor, g: Tensor) -> Tensor:
        """Of each term that has a centre Σ_p g · (term − centre) [M, C]."""
        rows, columns = _block(g.shape[1])
        programs, terms = min(_PROGRAMS, triton.cdiv(len(g), rows)), node.terms[: len(centres)]
        sums = g.new_empty(programs, len(terms), g.shape[1])
        _products[programs, triton.cdiv(g.shape[1], columns)](
            *(tuple(terms), _strides(terms), centres.contiguous()),
            *(g, g.stride(0), sums, *g.shape, rows, columns),
        )
        return sums.sum(0)

    def scaled_sum(self, g: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, out: Tensor) -> None:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        rows, columns = _block(g.shape[1])
        _spread[triton.cdiv(len(g), rows), triton.cdiv(g.shape[1], columns)](
            *(g, g.stride(0), z, z.stride(0), a.contiguous(), b.contiguous(), c.contiguous(), out, out.stride(0)),
            *(*g.shape, rows, columns),
        )

    def lif(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        steps, neurons = current.shape[0], current[0].numel()
        constant = current.stride(0) == 0
        read = (current[0] if constant else current).contiguous()
        membranes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        spikes = torch.empty_like(membranes)
        _lif[(triton.cdiv(neurons, _BLOCK),)](
            *(read, 0 if constant else neurons, membranes, spikes, neurons, neuron.leak, neuron.threshold),
            *(steps, _BLOCK),
        )
        return membranes, spikes

    def lif_backward(self, gradient: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """See :class:`litesnn.snn.kernels.Kernels`."""
        g, neurons = torch.empty_like(membranes), membranes[0].numel()
        _lif_backward[(triton.cdiv(neurons, _BLOCK),)](
            gradient.contiguous(), membranes, g, neurons, *_surrogate(neuron), len(membranes), _BLOCK
        )
        return g


def _block(columns: int) -> tuple[int, int]:
    """Rows and columns of a block for maps of so many columns: powers of two."""
    across = min(_WIDEST, triton.next_power_of_2(columns))
    return _BLOCK // across, across


def _node(node: Node) -> tuple[object, ...]:
    """The arguments that a node's kernels begin with."""
    return tuple(node.terms), _strides(node.terms), node.scales.contiguous(), node.bias.contiguous()


def _strides(maps: Sequence[Tensor]) -> tuple[int, ...]:
    """Of maps [P, C] whose columns lie side by side, how far apart their rows are."""
    assert all(map_.stride(1) == 1 or map_.shape[1] == 1 for map_ in maps)
    return tuple(map_.stride(0) for map_ in maps)


def _surrogate(neuron: Neuron) -> tuple[float, float, float, float]:
    """Leak, threshold, sharpness, and the slope at the threshold."""
    peak = neuron.sharpness / (2 * math.tanh(neuron.sharpness / 2))
    return neuron.leak, neuron.threshold, neuron.sharpness, peak
