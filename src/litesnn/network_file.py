"""Derived networks by name: drawn from a seed, saved as ``network.safetensors``, loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litesnn.data.batches import generator_for
from litesnn.errors import InputError
from litesnn.files import validated
from litesnn.front_end import FRONT_ENDS, FrontEnd, InputKind, front_end_name, unnamed_front_end
from litesnn.genotype import Genotype
from litesnn.input_spec import InputSpec
from litesnn.models import find_model
from litesnn.runs import RunFolder
from litesnn.snn.backbone import count_weights
from litesnn.snn.network import InputInfo, Network
from litesnn.text import first_complaint, short
from litesnn.training_loop.checkpoint import load_into, load_tensors, require_numbers, save_tensors

__all__ = ["build_network", "input_fields", "input_from", "load", "load_network", "save_network"]


def load(path: str | Path) -> Network:
    """The trained network of a run folder or of a ``network.safetensors`` file, a torch module in evaluation mode.

    ``network(network.encode(images)).logits[-1]`` are the logits [B, K] of raw images [B, C, H, W] (of events, frames
    [B, T, C, H, W]), computed with the deployed arithmetic; ``network.predict(images)`` are the classes.

    Raises:
        InputError: there is no such network, or it is damaged.
    """
    path = Path(path)
    if not path.exists() and find_model(path) != path:
        raise InputError(f"{path} is packed and no torch module any more; litesnn.Engine({str(path)!r}) runs it")
    return load_network(RunFolder(path).need("train") if path.is_dir() else path)


def build_network(genotype: Genotype, info: InputInfo, seed: int) -> Network:
    """A network with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "network").initial_seed())
        return Network(genotype, info)


def load_network(path: Path) -> Network:
    """The network of a ``network.safetensors`` file, in evaluation mode.

    Raises:
        InputError: the file is missing, damaged, or not a network.
    """
    tensors, saved = load_tensors(path, "network")
    require_numbers(tensors, path)
    genotype = Genotype.from_json(str(saved.get("genotype")), origin=f"{path}: genotype")
    info = input_from(saved, path)
    least = count_weights(genotype, info.shape, len(info.classes), most=False)
    if least > sum(tensor.numel() for tensor in tensors.values()):  # a few bytes must not ask for gigabytes
        raise InputError(f"{path} does not fit the network: it holds less than the {least:,} weights of its genotype")
    network = Network(genotype, info)
    load_into(network, tensors, path)
    return network.eval()


def save_network(path: Path, network: Network) -> None:
    """Write ``network.safetensors``. Raises ``InputError`` if that fails."""
    info = {"genotype": network.genotype.model_dump_json(), **input_fields(network.info)}
    save_tensors(path, "network", network.state_dict(), info)


def input_fields(info: InputInfo) -> dict[str, Any]:
    """The fields of a network's file for its input and classes, for :func:`input_from`."""
    spec = info.input
    fields: dict[str, Any] = {"shape": spec.shape, "kind": spec.kind, "mean": spec.mean, "std": spec.std}
    fields |= {"classes": info.classes, "front_end": None}
    if spec.front_end is not None:
        fields |= {"front_end": spec.front_end.model_dump(), "front_end_name": front_end_name(spec.front_end)}
    return {"input": fields}


def input_from(saved: Mapping[str, Any], path: Path) -> InputInfo:
    """The input and classes of a network's file. Raises ``InputError`` if it does not say them."""
    if "input" not in saved:
        raise InputError(f"{path}: does not say what its input is; train the network again")
    fields = validated(_Input, saved["input"], path)
    spec = InputSpec(fields.shape, fields.kind, fields.mean, fields.std, _front_end(fields, path))
    return InputInfo(spec, fields.classes)


_Size = Annotated[int, Field(ge=1, le=2**26)]


class _Input(BaseModel):
    """The input and classes of a network, as its file says them."""

    model_config = ConfigDict(allow_inf_nan=False)

    shape: tuple[_Size, _Size, _Size]
    kind: InputKind
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    classes: tuple[str, ...] = Field(min_length=1)
    front_end: Any = None
    front_end_name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> _Input:
        if {len(self.mean), len(self.std)} != {self.shape[0]}:
            raise ValueError("mean and std have to be as many as there are channels")
        return self


def _front_end(fields: _Input, path: Path) -> FrontEnd | None:
    """The front end that the file says; files from before there was one say nothing, later ones not all its name."""
    if fields.front_end is None:
        return None
    name = fields.front_end_name
    if name is not None and name not in FRONT_ENDS:
        raise InputError(f"{path}: front end: expected one of {', '.join(FRONT_ENDS)}, found {short(name)}")
    settings = unnamed_front_end(fields.kind) if name is None else FRONT_ENDS[name]
    try:
        return settings.model_validate(fields.front_end)
    except ValidationError as error:
        raise InputError(f"{path}: front end: {first_complaint(error, 'settings')[1]['msg']}") from None
