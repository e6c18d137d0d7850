"""Tensors and their description in one safetensors file that a kill cannot tear and damage cannot pass.

The description is JSON under one metadata key, with a version; a SHA-256 over all tensor bytes finds damage that the
container itself does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from litesnn import processes
from litesnn.errors import InputError
from litesnn.files import write_atomically
from litesnn.text import short

__all__ = [
    "kind_of",
    "load_into",
    "load_state",
    "load_tensors",
    "require_numbers",
    "save_state",
    "save_tensors",
    "seal",
]

_VERSION = 1

_UNREADABLE = (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError)
"""RuntimeError is torch's for types and sizes that it does not take, and a description that is nested too deep."""


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``info`` (JSON) as a file of the given ``kind``, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, seal(kind, tensors, info))


def seal(kind: str, tensors: Mapping[str, Tensor], info: object) -> bytes:
    """The content of the file that :func:`save_tensors` writes."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    description = {"version": _VERSION, "kind": kind, "sha256": _digest(plain, info), "info": info}
    return safetensors.torch.save(plain, metadata={"litesnn": json.dumps(description)})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        InputError: the file is missing, damaged, of another kind or of an unknown version.
    """
    tensors = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  (an open file, not a dictionary)
                tensors[name] = file.get_tensor(name)
        description = json.loads(metadata.get("litesnn", "null"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or not a safetensors file ({reason})") from None
    if not isinstance(description, dict) or description.get("kind") != kind:
        raise InputError(f"{path} is not a litesnn {kind} file")
    if description.get("version") != _VERSION:
        raise InputError(f"{path}: unknown version {short(description.get('version'))}; expected {_VERSION}")
    if not isinstance(description.get("info"), dict):
        raise InputError(f"{path} is damaged: it has no description of its tensors")
    if description.get("sha256") != _digest(tensors, description.get("info")):
        raise InputError(f"{path} is damaged: its checksum does not match")
    return tensors, description["info"]


def kind_of(path: Path) -> str | None:
    """The kind of a file that :func:`save_tensors` wrote; ``None`` if it is damaged, missing or another file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("litesnn", "null"))
    except _UNREADABLE:
        return None
    kind = description.get("kind") if isinstance(description, dict) else None
    return kind if isinstance(kind, str) else None


def require_numbers(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what a search or training has left that diverged; −∞ is the logit of a T that must not be chosen.

    Raises:
        InputError: a tensor of the file holds NaN or +∞.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (tensor < torch.inf).all():
            raise InputError(
                f"{path}: {short(name)} holds values that are no numbers: what made them has diverged; make it anew"
            )


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Load a module's state. Raises ``InputError`` if names or shapes do not fit."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{origin} does not fit the network: {reason}") from None


def save_state(
    path: Path,
    kind: str,
    module: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    info: Mapping[str, Any],
    others: Mapping[str, Tensor] | None = None,
) -> None:
    """Everything that a loop needs to go on: a module, its optimizers, and ``info``. Raises as :func:`save_tensors`.

    ``others`` are tensors beside these, such as averages of the weights.

    Of several processes only the first writes: their states are equal, and each is given that file before it goes on.
    """
    if not processes.is_first():
        return
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{name}.{index}.{key}"] = torch.as_tensor(value)
    tensors |= {f"others.{name}": value for name, value in (others or {}).items()}
    save_tensors(path, kind, tensors, info)


def load_state(
    path: Path,
    kind: str,
    module: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    others: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Put back what :func:`save_state` took and return its ``info``. Raises ``InputError`` as :func:`load_tensors`.

    The tensors of ``others`` are changed in place.
    """
    tensors, info = load_tensors(path, kind)
    require_numbers(tensors, path)
    load_into(module, _below("module", tensors), path)
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
        for full, value in _below(f"optimizer.{name}", tensors).items():
            index, _, key = full.partition(".")
            if not index.isascii() or not index.isdigit() or len(index) > 9 or int(index) >= len(shapes):
                raise InputError(f"{path} does not fit the network: optimizer.{name} has no parameter {short(index)}")
            if value.shape not in ((), shapes[int(index)]):
                raise InputError(f"{path} does not fit the network: shape of optimizer.{name}.{short(full)}")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    found = _below("others", tensors)
    for name, tensor in (others or {}).items():
        if name not in found or found[name].shape != tensor.shape:
            raise InputError(f"{path} does not fit the network: it has no average of {name}")
        tensor.copy_(found[name])
    return info


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _digest(tensors: Mapping[str, Tensor], info: Any) -> str:
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
