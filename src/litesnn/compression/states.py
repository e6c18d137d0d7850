"""Neurons among a module's parts, and their states: put back before every input, handed on from call to call.

In: a trace. Out: the role of every module on it that somebody made, told by what it does, and a way to call a neuron
again with currents of one's own: its states begin as they did, and are handed on as the module hands them on.

Shapes: T timesteps, B batch, whatever shape [B, …] the neuron was called with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from litesnn.compression.trace import RESETS, Call, Role, Trace, Value, is_neuron, parts_of, tensors_in

__all__ = ["StateError", "call_again", "find_roles", "keeps_state", "reset_of", "reset_states", "resets_with_arguments"]

_PROBES = (0.3, 1.0, 3.0, 1e3)
_KEPT = {"clone", "detach", "detach_", "contiguous"}
"""Operations that may be applied to a state on its way to the next timestep."""

Path = tuple[Any, ...]


class StateError(Exception):
    """How a neuron hands on its states is not understood."""


def reset_of(module: nn.Module) -> Callable[[], Any] | None:
    """The ``reset()`` of a module, under one of its names, that can be called without arguments, if it has one."""
    for name in RESETS:
        if callable(method := getattr(module, name, None)) and not _required(method):
            return method  # type: ignore[no-any-return]
    return None


def reset_states(module: nn.Module) -> None:
    """Put the states of all neurons back, by the ``reset()``, under one of its names, that each module may have."""
    for child in module.modules():
        if (method := reset_of(child)) is not None:
            method()


def resets_with_arguments(module: nn.Module) -> list[str]:
    """The resets in a module that cannot be called, because they take arguments, as "name.reset(batch)"."""
    return [
        f"{path}.{name}({', '.join(needed)})".lstrip(".")
        for path, child in module.named_modules()
        if reset_of(child) is None
        for name in RESETS
        if callable(method := getattr(child, name, None)) and (needed := _required(method))
    ]


def _required(method: Callable[..., Any]) -> list[str]:
    """The arguments that a method cannot be called without."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def find_roles(trace: Trace) -> None:
    """Tell what each module of somebody's making on a trace is, and write it into its calls."""
    roles: dict[int, Role] = {}
    for call in trace.calls:
        if call.module is not None and is_neuron(call.module):
            if id(call.module) not in roles:
                roles[id(call.module)] = _role(call)
            call.role = roles[id(call.module)]


def keeps_state(call: Call) -> bool:
    """Whether a module remembers what it was given before, in itself."""
    found = _behaviour(call)
    return found is not None and not found.stateless


def _role(call: Call) -> Role:
    found = _behaviour(call)
    if found is None:
        return "neuron"
    if found.nothing:
        return "nothing"
    return "function" if found.stateless and not found.binary else "neuron"


@dataclass
class _Behaviour:
    """The behaviour of a module in each of its calls: gave back its input, gave the same as before, gave 0 or 1."""

    nothing: bool = True
    stateless: bool = True
    binary: bool = True


@torch.no_grad()
def _behaviour(call: Call) -> _Behaviour | None:
    """Of a module that makes one tensor of one tensor, by itself; ``None`` if it does not."""
    module = call.module
    assert module is not None
    if len(list(tensors_in(call.output))) != 1 or len(call.inputs) != 1:
        return None  # with a state that is handed over
    noise = torch.randn(call.inputs[0].shape, generator=torch.Generator().manual_seed(0)).to(call.inputs[0].tensor)
    found = _Behaviour()
    try:
        with torch.random.fork_rng(devices=[]):
            reset_states(module)
            for scale in _PROBES:
                answers = []
                for _ in range(3):
                    torch.manual_seed(0)
                    answers.append(next(tensors_in(_with_input(call, scale * noise))).clone())
                found.nothing &= all(torch.equal(answer, scale * noise) for answer in answers)
                found.stateless &= all(torch.equal(answer, answers[0]) for answer in answers)
                found.binary &= all(bool(((answer == 0) | (answer == 1)).all()) for answer in answers)
            reset_states(module)
    except Exception:  # whatever somebody's forward raises; driven as a neuron, it is asked why
        return None
    return found


def _with_input(call: Call, x: Tensor) -> Any:
    first = call.inputs[0].tensor
    args, kwargs = _rebuilt((call.args, dict(call.kwargs)), lambda part: x if part is first else _SAME)
    return call.target(*args, **kwargs)


def call_again(calls: Sequence[Call], currents: Sequence[Tensor]) -> list[Any]:
    """The outputs of a neuron for currents [B, …] of T timesteps, from its first state on.

    Args:
        calls: its first call, and the second if there is one, which shows how states are handed on.
        currents: of each timestep.

    Raises:
        StateError: a state is handed on otherwise than as the neuron gave it.
    """
    first, module = calls[0], calls[0].module
    assert module is not None
    places = _handed(first, calls[1] if len(calls) > 1 else None)
    reset_states(module)
    outputs: list[Any] = []
    for x in currents:
        call = calls[1] if outputs and len(calls) > 1 else first
        own = call.inputs[0].tensor
        given = x.clone()

        def swap(part: Any, own: Tensor = own, given: Tensor = given) -> Any:
            if part is own:
                return given
            if outputs and id(part) in places:
                return _at(outputs[-1], places[id(part)])
            return part.clone() if isinstance(part, Tensor) else _SAME

        args, kwargs = _rebuilt((call.args, dict(call.kwargs)), swap)
        outputs.append(_cloned(module(*args, **kwargs)))
    reset_states(module)
    return outputs


def _handed(first: Call, second: Call | None) -> dict[int, Path]:
    """Which arguments of a later call are what part of the output of the call before, by the ids of the arguments."""
    states = list(tensors_in(first.output))[1:]
    if second is None:
        before = first.inputs[1:]
        if before and len(before) != len(states):
            raise StateError("how it hands on its states is not understood")
        outs = [path for path, part in _walk(first.output) if isinstance(part, Tensor)][1:]
        return {id(value.tensor): path for value, path in zip(before, outs, strict=False)}
    made = {id(part): path for path, part in _walk(first.output) if path}
    found = {id(part): made[id(part)] for _, part in _walk((second.args, dict(second.kwargs))) if id(part) in made}
    constant = {id(value.tensor) for value in first.inputs}
    for value in second.inputs[1:]:
        if id(value.tensor) in found or id(value.tensor) in constant:
            continue
        origin = _origin(value)
        if id(origin.tensor) not in made:
            raise StateError("a state that it is given is not as it gave it; something happens to it in between")
        found[id(value.tensor)] = made[id(origin.tensor)]
    return found


def _origin(value: Value) -> Value:
    while value.call is not None and value.call.module is None and value.call.name in _KEPT:
        value = value.call.inputs[0]
    return value


_SAME = object()
"""The answer of :func:`_rebuilt` for what is not to be replaced."""


def _rebuilt(value: Any, swap: Callable[[Any], Any]) -> Any:
    """Nested containers with parts replaced, in their own form."""
    if (other := swap(value)) is not _SAME:
        return other
    if isinstance(value, Mapping):
        return {key: _rebuilt(part, swap) for key, part in value.items()}
    if isinstance(value, tuple | list):
        made = [_rebuilt(part, swap) for part in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{each.name: _rebuilt(getattr(value, each.name), swap) for each in fields(value) if each.init}
        )
    return value


def _cloned(value: Any) -> Any:
    return _rebuilt(value, lambda part: part.clone() if isinstance(part, Tensor) else _SAME)


def _walk(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every tensor and container in a value, with the way to it."""
    found = [(path, value)] if isinstance(value, Tensor) or list(parts_of(value)) else []
    for key, part in parts_of(value):
        found += _walk(part, (*path, key))
    return found


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = dict(parts_of(value))[key]
    return value
