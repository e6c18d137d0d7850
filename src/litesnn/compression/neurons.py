"""Which neuron is it? A module is given currents and answers with spikes; nobody asks how it is made.

In: a neuron of any library, and the way it was called. Out: leak, threshold and reset of the LIF neuron that it is,

    u = λ·u·(1 − s) + x   or, with a soft reset,   u = λ·u − R·s + x,   s = 1 if u > θ else 0

in units of its own input, or why it is none. The threshold is the largest float32 current that does not make a fresh
neuron fire, found by bisection: "fires at 1" is "fires above the float before 1", and a neuron that first divides its
input by τ has a threshold τ times as large, exactly. The leak follows from the current that a neuron which holds θ
needs to fire, the reset from the currents that one needs which has just fired: a neuron that was reset to where it
began needs θ again, however far above θ it was; one from whose membrane R was taken, θ + R less what is left. A
threshold that is subtracted before the membrane leaks is R = λ·θ, one that is subtracted afterwards R = θ. Then random
currents decide whether the module is that neuron: spike for spike, over many steps.

Shapes: T timesteps, B batch, whatever shape [B, …] the module was called with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litesnn.compression.source import line_of
from litesnn.compression.states import StateError, call_again, reset_states
from litesnn.compression.tape import Call, tensors_in
from litesnn.snn.neuron import lif

__all__ = ["Lif", "NotLif", "drive", "identify", "learned_leak", "reset_states"]

_LARGEST = 1e6
"""A neuron that takes a larger current to fire is none of those that we look for."""
_STEPS = 24
_SAME_LEAK = 3e-7  # bisection knows the leak to a few units in the last place of float32
_ROUNDING = 1e-4
"""Share of spikes that may differ on random currents: where a membrane meets the threshold to the last bit."""


class NotLif(Exception):
    """Why a module is no LIF neuron of the packed file."""


class Uneven(NotLif):
    """The neurons of a module differ."""


@dataclass(frozen=True)
class Lif:
    """A LIF neuron in units of its input; ``reset``: what a spike takes from the next membrane, ``None``: all of it."""

    leak: float
    threshold: float
    reset: float | None = None


@torch.no_grad()
def drive(calls: Call | Sequence[Call], currents: Tensor) -> Tensor:
    """What the neuron of a call makes of currents [T, B, …] from its first state on: [T, B, …].

    States that the caller hands over begin as those of its first call, and are then its own outputs, in the form in
    which a second call gets them.

    Raises:
        NotLif: it cannot be called so.
    """
    calls = [calls] if isinstance(calls, Call) else calls
    try:
        outputs = call_again(calls, currents.unbind())
    except StateError as error:
        raise NotLif(str(error)) from None
    except Exception as error:  # whatever somebody's forward raises
        raise NotLif(f"it fails on other currents: {line_of(error)}") from error
    return torch.stack([next(tensors_in(output)) for output in outputs])


@torch.no_grad()
def identify(calls: Call | Sequence[Call]) -> Lif:
    """The neuron of a module, by its first calls on a tape: one, or two if states are handed over.

    Raises:
        NotLif: it is none of ours, and why.
    """
    calls = [calls] if isinstance(calls, Call) else calls
    shape, device = calls[0].inputs[0].shape, calls[0].inputs[0].tensor.device
    answers = drive(calls, torch.full((2, *shape), _LARGEST, device=device))
    if answers.shape[1:] != shape:
        raise NotLif(f"it makes {list(answers.shape[1:])} of currents {list(shape)}")
    if not bool(((answers == 0) | (answers == 1)).all()):
        raise NotLif("its output is not 0 or 1")
    if not answers[0].all():
        raise NotLif(f"a current of {_LARGEST:g} does not make it fire at once")
    if drive(calls, torch.zeros(2, *shape, device=device)).any():
        raise NotLif("it fires without any current")
    threshold = _common(_bisect(lambda x: drive(calls, x[None])[0], shape, device), "thresholds")
    if threshold == 0:
        raise NotLif("every current above 0 makes it fire")
    held = torch.full(shape, threshold, device=device)
    if drive(calls, torch.stack([held, torch.zeros_like(held)]))[1].any():
        raise NotLif("its membrane grows without any current")
    second = _bisect(lambda x: drive(calls, torch.stack([held, x]))[1], shape, device)
    leak = _shortest(1.0 - _common(second, "leaks", rounding=True) / threshold, _SAME_LEAK / 2)
    if not 0 <= leak <= 1:
        raise NotLif(f"it leaks to {leak:.4g} of its membrane, not to 0…1 of it")
    found = Lif(leak, threshold, _reset(calls, leak, threshold, shape, device))
    _verify(calls, found, shape, device)
    return found


@torch.no_grad()
def learned_leak(calls: Sequence[Call], found: Lif) -> tuple[int, ...]:
    """The ids of the parameters by which training moves the leak of a neuron that is ``found`` now.

    Raises:
        NotLif: training will give its channels leaks or thresholds of their own.
    """
    module = calls[0].module
    assert module is not None
    moving = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        before = parameter.clone()
        noise = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter)
        try:
            parameter.sub_(0.05 * (before.abs() + 0.1) * (1 + noise))
            if abs(identify(calls).leak - found.leak) > _SAME_LEAK:
                moving.append(id(parameter))
        except Uneven as error:
            raise NotLif(f"as it learns, {error}") from None
        except NotLif:
            moving.append(id(parameter))
        finally:
            parameter.copy_(before)
    return tuple(sorted(moving))


def _bisect(fires: Callable[[Tensor], Tensor], shape: torch.Size, device: torch.device) -> Tensor:
    """The largest float32 current, of every neuron of its own, that does not make it fire; 0 if every one does."""
    low = torch.zeros(shape, dtype=torch.int32, device=device)  # positive floats are in the order of their bits
    high = torch.full(shape, _LARGEST, device=device).view(torch.int32)
    while bool((high - low > 1).any()):
        middle = low + (high - low) // 2
        fired = fires(middle.view(torch.float32)) > 0
        high, low = torch.where(fired, middle, high), torch.where(fired, low, middle)
    return low.view(torch.float32)


def _common(values: Tensor, what: str, *, rounding: bool = False) -> float:
    least, most = float(values.min()), float(values.max())
    if most - least > (_SAME_LEAK * max(most, 1.0) if rounding else 0.0):
        raise Uneven(f"its neurons have different {what}")
    return (least + most) / 2 if rounding else least


def _reset(
    calls: Sequence[Call], leak: float, threshold: float, shape: torch.Size, device: torch.device
) -> float | None:
    """What a spike takes from the membrane of the next timestep; ``None``: all of it. Raises ``NotLif``."""

    def needed(first: float) -> float:
        before = torch.full(shape, first, device=device)
        second = _bisect(lambda x: drive(calls, torch.stack([before, x]))[1], shape, device)
        return _common(second, "resets", rounding=True)

    just_fired = needed(float(np.nextafter(np.float32(threshold), np.float32(_LARGEST))))
    if all(abs(each - threshold) <= _SAME_LEAK * threshold for each in (just_fired, needed(1.5 * threshold))):
        return None
    reset = just_fired - threshold + leak * threshold
    tolerance = 2 * _SAME_LEAK * max(threshold, abs(reset))
    if reset < -tolerance:
        raise NotLif(f"a spike adds {-reset:.4g} to its membrane")
    even = _shortest(threshold, tolerance)  # of a neuron that fires at its threshold, ours is the float before
    likely = [each for each in (leak * even, even) if abs(each - reset) <= tolerance]
    return likely[0] if likely else max(0.0, _shortest(reset, tolerance))


def _shortest(value: float, tolerance: float) -> float:
    """The number of fewest decimals that a measured value may be."""
    for digits in range(8):
        if abs(round(value, digits) - value) <= tolerance:
            return round(value, digits) + 0.0  # not -0.0
    return value


def _verify(calls: Sequence[Call], found: Lif, shape: torch.Size, device: torch.device) -> None:
    """Compare on random currents. Raises ``NotLif``."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.3, 1.0, 2.0]).view(-1, *[1] * (len(shape) + 1))
    for scale in scales:
        noise = torch.randn(_STEPS, *shape, generator=generator) + 0.3
        currents = (scale * found.threshold * noise).reshape(_STEPS, *shape).to(device)
        theirs = drive(calls, currents)
        ours = lif(currents, leak=found.leak, threshold=found.threshold, reset=found.reset)
        if float((theirs != ours).float().mean()) > _ROUNDING:
            raise NotLif(
                f"it does not reset to zero when it fires, as a LIF neuron with leak {found.leak:g} would, and not by "
                "subtraction (a state besides the membrane?)"
            )
