"""A trace of what a module does: its calls of layers and of torch functions, and which call made what each one read.

In: a module and an input. Out: a :class:`Trace`. The module is run, not parsed, so that its Python may be what it
likes; what depends on values takes the way that this input takes.

Shapes: B batch, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from litesnn.compression.layers import CompressedLayer

__all__ = ["RESETS", "Call", "Role", "Trace", "Value", "is_neuron", "leaves", "parts_of", "tensors_in"]

Role = Literal["neuron", "function", "nothing"]
"""The role of a user's module: it fires, it computes something else without a state, or nothing at all."""

RESETS = ("reset_mem", "reset", "reset_states", "reset_state", "n_reset")
"""Names of methods that reset a module's state: as snnTorch, SpikingJelly, Sinabs and BrainCog call it."""

_TORCH_OPERATIONS = (
    *(nn.modules.batchnorm._BatchNorm, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd),
    *(nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.conv._ConvNd),
    *(nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten, nn.Identity, nn.Linear),
)


@dataclass(frozen=True)
class Value:
    """A tensor that a call read or made: the call that made it (``None``: it was there before), and itself."""

    tensor: Tensor
    call: Call | None

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self.tensor.shape


@dataclass(eq=False)
class Call:
    """One call of a leaf module or of a torch function.

    Attributes:
        index: its place on the trace.
        target: what was called.
        name: the module's path, or the function's name.
        inputs: the tensors among its arguments, lists taken apart.
        versions: how often each of the inputs had been changed in place before.
        output: what it returned.
        role: of a module of somebody's making that may be a neuron, what it is; ``None`` until that is found out.
    """

    index: int
    target: nn.Module | Callable[..., Any]
    name: str
    inputs: tuple[Value, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None
    versions: tuple[int, ...] = ()
    role: Role | None = None

    @property
    def module(self) -> nn.Module | None:
        """The module that was called, if it was one."""
        return self.target if isinstance(self.target, nn.Module) else None

    def again(self, x: Tensor) -> Tensor:
        """The output of the call for another first tensor of the same shape."""
        first = self.inputs[0].tensor
        out = self.target(*(x if arg is first else arg for arg in self.args), **self.kwargs)
        assert isinstance(out, Tensor)
        return out


@dataclass(eq=False)
class Trace:
    """Calls in their order. ``image`` is the input, of which :meth:`begin_again` makes others."""

    image: Tensor
    calls: list[Call] = field(default_factory=list)
    _makers: dict[int, Call] = field(default_factory=dict)
    _versions: dict[int, int] = field(default_factory=dict)  # of tensors when they were made, or last changed in a call
    _kept: list[Any] = field(default_factory=list)  # so that no tensor's id is given to another

    def __post_init__(self) -> None:
        self._images = [self.image]
        self._versions[id(self.image)] = _version(self.image)

    def begin_again(self, image: Tensor) -> None:
        """Take another tensor for the input of what follows, as the module may have changed the one before."""
        self._images.append(image)
        self._versions[id(image)] = _version(image)

    def value(self, tensor: Tensor) -> Value:
        """A tensor with the call that made it, or last changed it in place."""
        made = self._makers.get(id(tensor))
        version = _version(tensor)
        if self._versions.get(id(tensor), version) != version:  # through a view of it
            made = Call(len(self.calls), _changed_in_place, "a change in place", (Value(tensor, made),), (tensor,), {})
        return Value(tensor, made)

    def is_image(self, value: Value) -> bool:
        """Whether a value is the input, as it was given."""
        return value.call is None and any(value.tensor is image for image in self._images)

    def of(self, module: nn.Module) -> list[Call]:
        """The calls of a module."""
        return [call for call in self.calls if call.target is module]

    def record(self, module: nn.Module, run: Callable[[], Any]) -> Any:
        """Add what ``run`` does with ``module`` to the trace; returns what it returns. No gradients."""
        with torch.no_grad(), _Listener(self, leaves(module)):
            return run()

    def _begin(self, target: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        inputs = tuple(map(self.value, tensors_in((args, kwargs))))
        versions = tuple(_version(value.tensor) for value in inputs)
        return Call(len(self.calls), target, name, inputs, args, kwargs, versions=versions)

    def _end(self, call: Call, output: Any) -> None:
        read = [value.tensor for value in call.inputs]
        changed = [tensor for tensor, version in zip(read, call.versions, strict=True) if _version(tensor) != version]
        self._kept.append((call.args, output))
        if not (made := list(tensors_in(output))) and not changed:
            return
        call.index, call.output = len(self.calls), output
        self.calls.append(call)
        handed_on = [] if call.module is None else read  # what a module gives back as it was is not of its making
        for tensor in [*(each for each in made if not any(each is old for old in handed_on)), *changed]:
            self._makers[id(tensor)] = call
            self._versions[id(tensor)] = _version(tensor)


def _version(tensor: Tensor) -> int:
    """How often a tensor, or what it is a view of, was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _changed_in_place(tensor: Tensor) -> Tensor:
    """Stands for what cannot be called again."""
    return tensor


def leaves(module: nn.Module) -> dict[str, nn.Module]:
    """The modules whose insides do not matter: layers, torch's operations, and neurons, by name."""
    found: dict[str, nn.Module] = {}

    def visit(path: str, module: nn.Module) -> None:
        if isinstance(module, CompressedLayer) or is_neuron(module) or _is_operation(module):
            found[path] = module
            return
        for name, child in module.named_children():
            visit(f"{path}.{name}" if path else name, child)

    for name, child in module.named_children():
        visit(name, child)
    return found


def is_neuron(module: nn.Module) -> bool:
    """Whether a module of somebody's making may be a neuron: nothing in it is a layer of torch's or a neuron itself.

    What is in it may be its surrogate gradient.
    """
    if isinstance(module, (CompressedLayer, *_TORCH_OPERATIONS)) or type(module).__module__.startswith("torch.nn."):
        return False
    inside = [child for child in module.modules() if child is not module]
    if any(isinstance(child, (CompressedLayer, *_TORCH_OPERATIONS)) for child in inside):
        return False
    return _has_reset(module) or not any(map(_has_reset, inside))


def _has_reset(module: nn.Module) -> bool:
    return any(callable(getattr(module, name, None)) for name in RESETS)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    else:
        for _, part in parts_of(value):
            yield from tensors_in(part)


def parts_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a tuple, list, dictionary or dataclass, with their index, key or name."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((each.name, getattr(value, each.name)) for each in fields(value))


def _is_operation(module: nn.Module) -> bool:
    return isinstance(module, _TORCH_OPERATIONS) or (
        type(module).__module__.startswith("torch.nn.")
        and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        and not list(module.children())
    )


class _Listener(TorchFunctionMode):
    """Puts calls on a trace while it is a context; what happens inside a leaf is part of the leaf's call."""

    def __init__(self, trace: Trace, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trace, self.modules, self.open = trace, modules, 0
        self.pending: list[Call] = []
        self.hooks: list[Any] = []

    def __enter__(self) -> _Listener:
        for name, module in self.modules.items():
            self.hooks.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._after, with_kwargs=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self.hooks:
            hook.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.open += 1
            if self.open == 1:
                self.pending.append(self.trace._begin(module, name, args, kwargs))

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.open == 1:
            self.trace._end(self.pending.pop(), output)
        self.open -= 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.open:
            return func(*args, **kwargs)
        call = self.trace._begin(func, getattr(func, "__name__", str(func)), args, kwargs)
        output = func(*args, **kwargs)
        self.trace._end(call, output)
        return output
