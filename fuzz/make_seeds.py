"""Writes the seeds of both fuzzers: ``python fuzz/make_seeds.py`` makes ``fuzz/seeds`` anew.

Out: ``seeds/packed/NAME`` packed files and ``seeds/image/NAME`` engine images of the same models, small ones that have
every feature of the format, in float and in fixed-point arithmetic. The same bytes on every machine.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, to_bytes
from litesnn.front_end import LogMel
from litesnn.genotype import ArithmeticName

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from packed_models import (  # noqa: E402  (a folder of its own)
    cell_model,
    halves,
    in_fixed_point,
    random_codes,
    random_model,
    random_synapses,
    with_events,
    with_neurons,
)

__all__ = ["KINDS", "SEEDS", "make_seeds"]

SEEDS = HERE / "seeds"
Kind = Literal["image", "packed"]
KINDS: tuple[Kind, ...] = ("image", "packed")
RANDOM_SEEDS = 10  # of each arithmetic
FRONT_END = LogMel(sample_rate=1000, clip_ms=88, window_ms=32, hop_ms=8, mels=8, low_hz=0, high_hz=500)
MAX_RANDOM_BYTES = 3000  # of an engine image: small seeds are tried more often


@dataclass(frozen=True)
class Layer:
    """A population with one bundle of synapses from the one before it, or from the input."""

    channels: int
    kernel: int = 1
    stride: int = 1
    keep: float = 0.5
    bits: int = 2


EDGES: dict[str, tuple[tuple[int, int, int], int, tuple[Layer, ...]]] = {
    # Name: shape of the input [C, H, W], timesteps, layers. Sizes at which the engine takes another way.
    "one-of-all": ((1, 1, 1), 1, (Layer(1),)),
    "channels-65": ((1, 2, 2), 2, (Layer(65), Layer(65, keep=0.1), Layer(3))),
    "wide-stride-2": ((1, 4, 32), 3, (Layer(3, 3), Layer(2, 3, 2), Layer(2, 1, 2))),
    "stride-5-kernel-3": ((2, 11, 13), 2, (Layer(3, 3), Layer(2, 3, 5))),
    "stride-64": ((1, 3, 70), 1, (Layer(2, 1, 64), Layer(2, 31, 64, keep=0.02))),
    "two-segments": ((1, 3, 3), 2, (Layer(9, keep=1.0), Layer(1, 31, keep=0.05, bits=4))),
    "many-tiles": ((1, 24, 24), 4, (Layer(2, 3, keep=1.0), Layer(2, 3), Layer(1, 5, 2))),
    "steps-64": ((1, 3, 5), 64, (Layer(2, 3), Layer(2))),
    "nothing-kept": ((1, 3, 3), 2, (Layer(2, 3, keep=0.0), Layer(2, 3, keep=0.0))),
}


def chain(
    rng: np.random.Generator, shape: tuple[int, int, int], timesteps: int, layers: tuple[Layer, ...]
) -> PackedModel:
    """A network without branches."""
    populations: list[Population] = []
    fan_in = shape[0]
    for index, layer in enumerate(layers):
        source = (index - 1,) if index else (IMAGE,)
        synapses = random_synapses(
            rng,
            source,
            fan_in,
            layer.channels,
            kernel=layer.kernel,
            stride=layer.stride,
            keep=layer.keep,
            bits=layer.bits,
        )
        populations.append(Population((synapses,), halves(rng, layer.channels, 0.1), None))
        fan_in = layer.channels
    codes = random_codes(rng, (2, fan_in), 3, 1.0)
    readout = Readout((len(layers) - 1,), 3, codes, halves(rng, 2, 0.01), halves(rng, 2, 0.1))
    spec = InputSpec(shape, "image", (127.5,) * shape[0], (64.25,) * shape[0])
    return PackedModel(spec, timesteps, 0.2, 0.5, ("a", "b"), tuple(populations), readout)


def models() -> Iterator[tuple[str, PackedModel]]:
    """The models of the seeds, with their names."""
    arithmetics: tuple[tuple[ArithmeticName, int], ...] = (("float", 0), ("fixed", 1000))
    for arithmetic, seed in arithmetics:
        made = 0
        while made < RANDOM_SEEDS:
            model = random_model(np.random.default_rng(seed), arithmetic=arithmetic)
            if len(engine_image(model)) <= MAX_RANDOM_BYTES:
                yield f"{arithmetic}-{seed}", model
                made += 1
            seed += 1
        model = cell_model(np.random.default_rng(0), cells=1, width=4, arithmetic=arithmetic)
        yield f"{arithmetic}-cell", model
        yield f"{arithmetic}-sound", replace(model, input=replace(model.input, front_end=FRONT_END))
        model = random_model(np.random.default_rng(7), shape=(2, 5, 6), populations=3, arithmetic=arithmetic)
        yield f"{arithmetic}-events", with_events(replace(model, timesteps=3), clip=4)
        rng = np.random.default_rng(3)
        model = random_model(rng, shape=(2, 4, 5), populations=4, keep=0.5, arithmetic=arithmetic)
        yield f"{arithmetic}-soft", with_neurons(rng, model, soft=True, own=False)
        yield f"{arithmetic}-neurons", with_neurons(rng, model, soft=True, own=True)
        for levels in (3, 6):
            rng = np.random.default_rng(levels)
            model = random_model(rng, shape=(2, 4, 5), populations=4, keep=0.5, arithmetic=arithmetic, levels=levels)
            yield f"{arithmetic}-levels-{levels}", model
        yield f"{arithmetic}-levels-neurons", with_neurons(rng, model, soft=False, own=True)
    for name, (shape, timesteps, layers) in EDGES.items():
        model = chain(np.random.default_rng(1), shape, timesteps, layers)
        yield name, model
        if name == "stride-5-kernel-3":
            yield f"{name}-fixed", in_fixed_point(np.random.default_rng(2), model)


def make_seeds() -> dict[Kind, dict[str, bytes]]:
    """The content of every seed file, by kind and name."""
    made: dict[Kind, dict[str, bytes]] = {kind: {} for kind in KINDS}
    for name, model in models():
        made["packed"][name] = to_bytes(model)
        made["image"][name] = engine_image(model)
    return made


def main() -> None:
    """Write the seeds."""
    if SEEDS.is_dir():
        shutil.rmtree(SEEDS)
    for kind, files in make_seeds().items():
        folder = SEEDS / kind
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        print(f"{folder}: {len(files)} seeds, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    main()
