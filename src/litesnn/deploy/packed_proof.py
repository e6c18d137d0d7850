"""The proof that every integer of a fixed-point model fits int32, whatever the input.

In: a :class:`~litesnn.deploy.packed_model.PackedModel`. A model for which it fails is refused.

Membranes leak to a quarter, so that currents up to 2^30 keep them below 4/3·(2^30 + 1). A soft reset takes at most 2^30
from what is left of a membrane above the threshold, which is not negative, and the next current at most 2^30 more:
int32 has -2^31. The thresholds of graded spikes reach 2^30 + 6·2^24. Integer logits below 2^23 are exact in float32,
and stay different when they are divided.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from litesnn.arithmetic_limits import MAX_CURRENT, MAX_INPUT, MAX_LOGIT
from litesnn.deploy.json_checks import refuse
from litesnn.deploy.packed_model import IMAGE, Affine, PackedModel, population_shapes

__all__ = ["MAX_ACCUMULATOR", "MAX_CURRENT", "MAX_INPUT", "prove_int32"]

MAX_ACCUMULATOR = 2**31 - 1  # of every model: engines add in int32


def prove_int32(model: PackedModel, origin: str) -> None:
    """Raise ``InputError`` unless no input can take an integer of a fixed-point model out of int32.

    With a the largest accumulator of a channel (Σ|code|, times 127 for the image, times the largest spike D for spikes,
    which is that of an identity, and times D·H·W·T for the readout):
    |M|·a fits int32, a population's Σ_e ((|M_e|·a_e >> shift_e) + 1) + |B| stays within 2^30, and the readout's
    (|M|·a >> shift) + 1 + T·|B| below 2^23. A shift rounds down, which makes negative numbers larger by up to one. That
    a soft reset takes at most 2^30 is a rule of the header.
    """
    if model.fraction is None:
        return
    for index, population in enumerate(model.populations):
        where = f"{origin}: population {index}"
        current = np.abs(population.bias.astype(np.int64)) << population.bias_shift  # [C]
        for number, synapses in enumerate(population.synapses):
            inputs = MAX_INPUT if synapses.sources == (IMAGE,) else model.levels
            name = f"{where}, synapses {number}"
            current += _largest_result(synapses.codes, inputs, synapses.scale, synapses.shift, name)
        if (largest := int(current.max())) > MAX_CURRENT:
            refuse(where, f"currents of at most 2^30 = {MAX_CURRENT} for every input", largest)
    readout, where = model.readout, f"{origin}: readout"
    _, height, width = population_shapes(model)[readout.sources[0]]
    counts = height * width * model.timesteps * model.levels
    bias = model.timesteps * (np.abs(readout.bias.astype(np.int64)) << readout.bias_shift)
    logits = bias + _largest_result(readout.codes, counts, readout.scale, readout.shift, where)
    if (largest := int(logits.max())) > MAX_LOGIT:
        refuse(where, f"integer logits of at most {MAX_LOGIT} for every input", largest)


def _largest_result(codes: NDArray[np.int8], inputs: int, scale: Affine, shift: int, where: str) -> NDArray[np.int64]:
    """The largest magnitude [C] of (scale·Σ code·input) >> shift for inputs up to ``inputs``."""
    if codes.shape[-1]:
        sums = np.abs(codes.reshape(len(codes), -1).astype(np.int64)).sum(axis=1) * inputs
    else:
        sums = np.full(len(codes), inputs, np.int64)  # an identity
    products = np.abs(scale.astype(np.int64)) * sums
    if (largest := int(products.max())) > MAX_ACCUMULATOR:
        refuse(where, f"products of at most {MAX_ACCUMULATOR} for every input", largest)
    result: NDArray[np.int64] = (products >> shift) + 1
    return result
