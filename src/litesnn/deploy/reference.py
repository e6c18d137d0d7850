"""What a packed model computes, in plain NumPy: the meaning that every engine must match bit for bit.

In: a :class:`~litesnn.deploy.packed.PackedModel` and a batch of raw inputs. Out: logits, and every spike if asked.

Sums of codes are integers and exact. Everything after them is float32, one rounding per operation, in the order
written here. With s the spikes of the step before, per timestep and population:

    acc_e = Σ code·input                        integer, for each bundle of synapses e
    x = scale_1·acc_1; x = x + scale_2·acc_2; …; x = x + bias
    u = (λ·u)·(1 − s) + x                       LIF with hard reset, u = s = 0 at first
    s = 1 if u > θ else 0

and at the readout, with A_t the sum of its integer accumulators over the steps 1 … t:

    y_t = (scale·A_t)/t + bias

The input is static: the current that it makes is the same at every step.

T timesteps, B batch, C channels, H×W pixels, k kernel size, s stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Synapses
from litesnn.errors import InputError

__all__ = ["INPUT_STEPS", "Reference", "Trace", "quantize_input"]

INPUT_STEPS = 32
"""Integer steps of the quantized input per standard deviation. The stem's scales have 1/32 in them."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run gave: ``logits[t − 1]`` is y_t; ``spikes`` holds one array for each population, if recorded."""

    logits: NDArray[np.float32]  # [T, B, classes]
    spikes: list[NDArray[np.uint8]] | None  # each [T, B, C, H, W]


class Reference:
    """Runs one packed model. It trusts the model, as those from ``packed.read`` may be."""

    def __init__(self, model: PackedModel) -> None:
        self.model = model

    def run(self, x: NDArray[np.generic], record: bool = False) -> Trace:
        """Run raw inputs ``x`` [B, C, H, W] for all timesteps.

        Raises:
            InputError: as :func:`quantize_input`.
        """
        model = self.model
        image = quantize_input(model.input, x)  # [B, C, H, W]
        spikes: list[NDArray[np.uint8]] = []
        for population in model.populations:
            currents = _currents(population, image, spikes, model.timesteps)
            spikes.append(_fire(currents, np.float32(model.leak), np.float32(model.threshold)))
        return Trace(self._read_out(spikes), spikes if record else None)

    def classify(self, x: NDArray[np.generic]) -> NDArray[np.int64]:
        """The class index [B] with the largest logit after the last timestep; of equals, the first."""
        classes: NDArray[np.int64] = np.argmax(self.run(x).logits[-1], axis=-1).astype(np.int64)
        return classes

    def _read_out(self, spikes: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        readout = self.model.readout
        inputs = np.concatenate([spikes[source] for source in readout.sources], axis=2)  # [T, B, C, H, W]
        counts = inputs.sum(axis=(3, 4), dtype=np.int64)  # [T, B, C]
        totals = np.cumsum(counts @ readout.codes.T.astype(np.int64), axis=0)  # [T, B, classes]
        steps = np.arange(1, len(totals) + 1, dtype=np.float32).reshape(-1, 1, 1)
        return (readout.scale * totals.astype(np.float32)) / steps + readout.bias


def quantize_input(spec: InputSpec, x: NDArray[np.generic]) -> NDArray[np.int8]:
    """Raw inputs [B, C, H, W] as the integers that the network sees: ``clip(rint(32·(x − mean)/std), −127, 127)``.

    In float32: subtract, divide, multiply, round half to even. An ``"image"`` must be uint8, an ``"array"`` real.

    Raises:
        InputError: ``x`` has another shape or type, or is not finite in float32.
    """
    kinds = "u" if spec.kind == "image" else "iuf"
    if x.dtype.kind not in kinds or (spec.kind == "image" and x.dtype != np.uint8):
        expected = "uint8 pixels" if spec.kind == "image" else "real numbers"
        raise InputError(f"input: expected {expected}, found {x.dtype}")
    if x.ndim != 4 or x.shape[1:] != spec.shape:
        raise InputError(f"input: expected [batch, {', '.join(map(str, spec.shape))}], found {list(x.shape)}")
    mean = np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(spec.std, np.float32).reshape(-1, 1, 1)
    with np.errstate(over="ignore"):  # an overflow is clipped like every large number
        raw = x.astype(np.float32)
        if not np.isfinite(raw).all():
            raise InputError("input: expected finite float32 numbers, found others")
        normalised = (raw - mean) / std
        steps = np.rint(np.float32(INPUT_STEPS) * normalised)
    quantized: NDArray[np.int8] = np.clip(steps, -127, 127).astype(np.int8)
    return quantized


def _currents(
    population: Population, image: NDArray[np.int8], spikes: list[NDArray[np.uint8]], timesteps: int
) -> NDArray[np.float32]:
    """The input current x [T, B, C, H, W] of a population."""
    total: NDArray[np.float32] | None = None
    for synapses in population.synapses:
        accumulators = _accumulators(synapses, image, spikes, timesteps).astype(np.float32)
        current = synapses.scale.reshape(-1, 1, 1) * accumulators
        total = current if total is None else total + current
    assert total is not None  # a population has at least one bundle of synapses
    return total + population.bias.reshape(-1, 1, 1)


def _accumulators(
    synapses: Synapses, image: NDArray[np.int8], spikes: list[NDArray[np.uint8]], timesteps: int
) -> NDArray[np.float64]:
    """Integer accumulators [T, B, C, H, W], as float64 that hold them exactly."""
    if synapses.sources == (IMAGE,):
        once = _convolve(image, synapses)
        return np.broadcast_to(once, (timesteps, *once.shape))
    inputs = np.concatenate([spikes[source] for source in synapses.sources], axis=2)  # [T, B, C_in, H, W]
    if synapses.kernel == 0:
        return inputs.astype(np.float64)
    return np.stack([_convolve(step, synapses) for step in inputs])


def _convolve(x: NDArray[np.integer], synapses: Synapses) -> NDArray[np.float64]:
    """Sums of code·x over the k×k neighbourhoods of x [B, C_in, H, W] with zeros around it: [B, C, ⌈H/s⌉, ⌈W/s⌉].

    One matrix product for each place in the kernel. In float64, for BLAS: every product and partial sum is an
    integer below 2³¹ (the packed format sees to it), so that float64 is exact in whatever order BLAS adds.
    """
    kernel, stride = synapses.kernel, synapses.stride
    batch, channels, height, width = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    border = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border))).astype(np.float64)
    codes = synapses.codes.astype(np.float64)
    total = np.zeros((batch, len(codes), out_height * out_width))
    for row in range(kernel):
        for column in range(kernel):
            shifted = padded[:, :, row : row + height : stride, column : column + width : stride]
            total += codes[:, :, row, column] @ shifted.reshape(batch, channels, out_height * out_width)
    return total.reshape(batch, len(codes), out_height, out_width)


def _fire(currents: NDArray[np.float32], leak: np.float32, threshold: np.float32) -> NDArray[np.uint8]:
    """Spikes of LIF neurons with the input currents [T, B, C, H, W]."""
    spikes = np.zeros(currents.shape, np.uint8)
    u = np.zeros(currents.shape[1:], np.float32)
    s = np.zeros(currents.shape[1:], np.float32)
    for t, x in enumerate(currents):
        u = (leak * u) * (np.float32(1) - s) + x
        s = (u > threshold).astype(np.float32)
        spikes[t] = s
    return spikes
