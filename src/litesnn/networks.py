"""Derived networks by name: drawn from a seed, saved as ``network.safetensors``, loaded again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import ValidationError

from litesnn.data.batches import generator_for
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, FrontEnd, LogMel
from litesnn.genotype import Genotype
from litesnn.loop.checkpoint import load_into, load_tensors, save_tensors
from litesnn.runs import RunFolder
from litesnn.snn.network import InputInfo, Network

__all__ = ["build_network", "load", "load_network", "save_network"]


def load(path: str | Path) -> Network:
    """The trained network of a run folder or of a ``network.safetensors`` file, a torch module in evaluation mode.

    ``network(network.encode(images)).logits[-1]`` are the logits [B, K] of raw images [B, C, H, W] (of events, frames
    [B, T, C, H, W]), computed with the deployed arithmetic; ``network.predict(images)`` are the classes.

    Raises:
        InputError: there is no such network, or it is damaged.
    """
    path = Path(path)
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
    genotype = Genotype.from_json(saved["genotype"], origin=str(path))
    fields = saved["input"]
    channels, height, width = fields["shape"]
    info = InputInfo(
        shape=(channels, height, width),
        kind=fields["kind"],
        mean=tuple(fields["mean"]),
        std=tuple(fields["std"]),
        classes=tuple(fields["classes"]),
        front_end=_front_end(fields.get("front_end"), fields["kind"], path),
    )
    network = Network(genotype, info)
    load_into(network, tensors, path)
    return network.eval()


def save_network(path: Path, network: Network) -> None:
    """Write ``network.safetensors``. Raises ``InputError`` if that fails."""
    fields = asdict(network.info)
    if network.info.front_end is not None:
        fields["front_end"] = network.info.front_end.model_dump()
    info = {"genotype": network.genotype.model_dump_json(), "input": fields}
    save_tensors(path, "network", network.state_dict(), info)


def _front_end(value: object, kind: str, path: Path) -> FrontEnd | None:
    """What the file says of the front end; files from before there was one say nothing."""
    try:
        return None if value is None else (EventFrames if kind == "events" else LogMel).model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path}: front end: {error.errors()[0]['msg']}") from None
