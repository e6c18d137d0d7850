"""A given module: the class in somebody's Python file, and the weights that it starts from.

In: ``FILE.py:Class`` and a safetensors file. Out: a torch module. The file is run, as Python does when it imports it;
weights are read from safetensors alone, which cannot run anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from litesnn.config import ModuleSettings
from litesnn.data.batches import generator_for
from litesnn.errors import InputError

__all__ = ["build_module", "describe_module", "line_of"]


def describe_module(model: str, weights: str | Path | None = None) -> ModuleSettings:
    """What a recipe says of ``FILE.py:Class`` and the weights to start from: where they are, and what is in them.

    Raises:
        InputError: ``model`` is not understood, or a file is missing.
    """
    file, colon, name = model.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"model {model!r} is not understood; expected FILE.py:Class, as in my_module.py:Net")
    path = Path(file).absolute()
    return ModuleSettings(
        file=str(path),
        name=name,
        sha256=_digest(path),
        weights=None if weights is None else str(Path(weights).absolute()),
        weights_sha256=None if weights is None else _digest(Path(weights)),
    )


def build_module(settings: ModuleSettings, seed: int) -> nn.Module:
    """The module, with its weights if it is given some and else drawn from the seed.

    Raises:
        InputError: a file is missing, has changed, or is not what it should be; there is no such class, it takes
            arguments, or it cannot be made.
    """
    path = Path(settings.file)
    _require_same(path, settings.sha256)
    found = _load_class(path, settings.name)
    origin = f"{path}: class {settings.name}"
    _require_no_arguments(found, origin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "network").initial_seed())
        try:
            module = found()
        except Exception as error:  # whatever somebody's constructor raises
            raise InputError(f"{origin}: cannot be made: {line_of(error)}") from error
    if lazy := next((key for key, value in module.named_parameters() if is_lazy(value)), None):
        raise InputError(f"{origin}: {lazy} belongs to a lazy layer; give the layer its sizes")
    if settings.weights is not None:
        weights = Path(settings.weights)
        _require_same(weights, settings.weights_sha256)
        _load_weights(module, weights)
    return module


def _load_class(path: Path, name: str) -> type[nn.Module]:
    """The class, its file imported with its own folder first on the path, as ``python FILE.py`` would."""
    key = f"litesnn_given_{path.stem}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's file raises
        raise InputError(f"{path}: cannot be imported: {line_of(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        classes = [
            key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == spec.name
        ]
        what = "is no torch module" if found is not None else "is not in it"
        raise InputError(f"{path}: class {name} {what}; it has {', '.join(classes) or 'no class'}")
    return found


def _require_no_arguments(found: type[nn.Module], origin: str) -> None:
    needed = [
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(f"{origin} needs the arguments {', '.join(needed)}; give them defaults")


def _load_weights(module: nn.Module, path: Path) -> None:
    """Every tensor of the module's state, by name. Raises ``InputError`` naming what does not fit."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({line_of(error)})") from None
    state = module.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)} and not {list(value.shape)}"
        for name, value in state.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    complaints = [
        ("has no", sorted(set(state) - set(tensors))),
        ("has the unknown", sorted(set(tensors) - set(state))),
        ("has other shapes:", shapes),
    ]
    said = [f"{what} {_some(names)}" for what, names in complaints if names]
    if said:
        raise InputError(f"{path} does not fit {type(module).__name__}: it {'; it '.join(said)}")
    module.load_state_dict(tensors)


def _require_same(path: Path, sha256: str | None) -> None:
    if _digest(path) != sha256:
        raise InputError(f"{path} has changed since the run began; begin another run")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _some(names: Iterable[str], most: int = 3) -> str:
    rows = list(names)
    return ", ".join(rows[:most]) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def line_of(error: BaseException) -> str:
    """An error of somebody else's code as part of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
