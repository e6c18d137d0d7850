"""Which neuron is it? A module is given currents and answers with spikes; nobody asks how it is made.

In: a neuron of any library, and the way it was called. Out: leak and threshold of the hard-reset LIF that it is,

    u = λ·u·(1 − s) + x,   s = 1 if u > θ else 0

in units of its own input, or why it is none. The threshold is the largest float32 current that does not make a fresh
neuron fire, found by bisection: "fires at 1" is "fires above the float before 1", and a neuron that first divides its
input by τ has a threshold τ times as large, exactly. The leak follows from the current that a neuron which holds θ
needs to fire. Then random currents decide whether the module is that neuron: spike for spike, over many steps.

Shapes: T timesteps, B batch, whatever shape [B, …] the module was called with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litesnn.compression.tape import Call, tensors_in
from litesnn.snn.neuron import lif

__all__ = ["Lif", "NotLif", "drive", "identify", "reset_states"]

_LARGEST = 1e6
"""A neuron that takes a larger current to fire is none of those that we look for."""
_STEPS = 24
_SAME_LEAK = 3e-7  # bisection knows the leak to a few units in the last place of float32
_ROUNDING = 1e-4
"""Share of spikes that may differ on random currents: where a membrane meets the threshold to the last bit."""


class NotLif(Exception):
    """Why a module is no hard-reset LIF."""


@dataclass(frozen=True)
class Lif:
    """A hard-reset LIF neuron in units of its input."""

    leak: float
    threshold: float


def reset_states(module: nn.Module) -> None:
    """Put the states of all neurons back, by the ``reset()`` or ``reset_mem()`` that each module may have."""
    for child in module.modules():
        for name in ("reset_mem", "reset"):
            if callable(method := getattr(child, name, None)):
                method()
                break


@torch.no_grad()
def drive(call: Call, currents: Tensor) -> Tensor:
    """What the neuron of a call makes of currents [T, B, …] from its first state on: [T, B, …].

    States that the caller hands over begin as those of this call, the module's first, and are then its own outputs.
    """
    module = call.module
    assert module is not None
    reset_states(module)
    states = [value.tensor.clone() for value in call.inputs[1:]]
    outputs = []
    for x in currents:
        found = list(tensors_in(module(x.clone(), *states)))
        outputs.append(found[0].clone())
        states = [state.clone() for state in found[1:]] if states else []
    reset_states(module)
    return torch.stack(outputs)


@torch.no_grad()
def identify(call: Call) -> Lif:
    """The neuron of a module, by its first call on a tape.

    Raises:
        NotLif: it is none of ours, and why.
    """
    shape = call.inputs[0].shape
    answers = drive(call, torch.full((2, *shape), _LARGEST))
    if not bool(((answers == 0) | (answers == 1)).all()):
        raise NotLif("its output is not 0 or 1")
    if not answers[0].all():
        raise NotLif(f"a current of {_LARGEST:g} does not make it fire at once")
    if drive(call, torch.zeros(2, *shape)).any():
        raise NotLif("it fires without any current")
    threshold = _common(_bisect(lambda x: drive(call, x[None])[0], shape), "thresholds")
    held = torch.full(shape, threshold)
    if drive(call, torch.stack([held, torch.zeros(shape)]))[1].any():
        raise NotLif("its membrane grows without any current")
    second = _bisect(lambda x: drive(call, torch.stack([held, x]))[1], shape)
    leak = _shortest(1.0 - _common(second, "leaks", rounding=True) / threshold)
    _verify(call, Lif(leak, threshold), shape)
    return Lif(leak, threshold)


def _bisect(fires: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The largest float32 current, of every neuron of its own, that does not make it fire; 0 if every one does."""
    low = torch.zeros(shape, dtype=torch.int32)  # positive floats are in the order of their bits
    high = torch.full(shape, _LARGEST).view(torch.int32)
    while bool((high - low > 1).any()):
        middle = low + (high - low) // 2
        fired = fires(middle.view(torch.float32)) > 0
        high, low = torch.where(fired, middle, high), torch.where(fired, low, middle)
    return low.view(torch.float32)


def _common(values: Tensor, what: str, *, rounding: bool = False) -> float:
    least, most = float(values.min()), float(values.max())
    if most - least > (_SAME_LEAK * max(most, 1.0) if rounding else 0.0):
        raise NotLif(f"its neurons have different {what}")
    return (least + most) / 2 if rounding else least


def _shortest(leak: float) -> float:
    """The number of fewest decimals that the measured leak may be."""
    for digits in range(8):
        if abs(round(leak, digits) - leak) <= _SAME_LEAK / 2:
            return round(leak, digits) + 0.0  # not -0.0
    return leak


def _verify(call: Call, found: Lif, shape: torch.Size) -> None:
    """Compare on random currents. Raises ``NotLif``."""
    if not 0 <= found.leak <= 1:
        raise NotLif(f"it leaks to {found.leak:.4g} of its membrane, not to 0…1 of it")
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.3, 1.0, 2.0]).view(-1, *[1] * (len(shape) + 1))
    for scale in scales:
        noise = torch.randn(_STEPS, *shape, generator=generator) + 0.3
        currents = (scale * found.threshold * noise).reshape(_STEPS, *shape)
        theirs = drive(call, currents)
        ours = lif(currents, leak=found.leak, threshold=found.threshold)
        if float((theirs != ours).float().mean()) > _ROUNDING:
            raise NotLif(
                f"it does not reset to zero when it fires, as a LIF neuron with leak {found.leak:g} would "
                "(reset by subtraction? a state besides the membrane?)"
            )
