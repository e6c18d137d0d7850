"""A laid-out model as C source: constant tables, and golden inputs with what they must give.

In: a :class:`~litesnn.deploy.export_c.layout.Layout`. Out: the texts of ``model.h``, ``model.c`` and ``golden.c``.
Floats are hexadecimal literals, which say them exactly. The streams of weights are those of the packed file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from litesnn.deploy import bits as bitstrings
from litesnn.deploy.export_c.layout import BundleLayout, Layout
from litesnn.deploy.packed import PackedModel, Population, bit_planes, neuron_of
from litesnn.deploy.reference import Reference, quantize_input, take_input
from litesnn.version import __version__

__all__ = ["golden_source", "model_header", "model_source"]

_KINDS = {"image": "SNN_FROM_IMAGE", "identity": "SNN_IDENTITY", "events": "SNN_EVENTS", "sliced": "SNN_SLICED"}
_CODINGS = {"all": "SNN_ALL_KEPT", "map": "SNN_BITMAP", "gap": "SNN_GAPS"}
_NO_WEIGHTS = "{0, 0, 0, 0, 0, 0, SNN_ALL_KEPT, 0}"


def model_header(layout: Layout) -> str:
    """``model.h``: what the runtime is compiled for, and what a program wants to know about the network."""
    model = layout.model
    kinds = {bundle.method for bundle in layout.bundles()}
    channels, height, width = model.input.shape
    fixed = model.fraction is not None
    bits = f"{model.fraction} fractional bits" if fixed else ""
    thresholds = [_membrane(model.threshold, model, level) for level in range(model.levels)]
    neuron = [
        *([] if fixed else [("LEAK", _real(model.leak), "")]),
        ("LEVELS", model.levels, "the largest spike: 1, or of graded ones more"),
        ("SPIKE_BITS", bit_planes(model.levels), "of a spike"),
        ("THRESHOLD", thresholds[0], bits),
        *([("THRESHOLDS", f"{{{', '.join(thresholds)}}}", bits)] if model.levels > 1 else []),
        ("RESET", _membrane(model.reset or 0.0, model), "what a spike takes from the membrane with a soft reset"),
        ("SOFT_RESET", int(model.reset is not None), "0: a spike takes all of it"),
        ("OWN_NEURONS", int(_own_neurons(model)), "1: populations have leaks and resets of their own"),
    ]
    rows: list[tuple[str, object, str]] = [
        ("FRAMES", layout.image.frames, "of the input, [FRAMES, C, H, W]: 1, or another one at each timestep"),
        ("CHANNELS", channels, ""),
        ("HEIGHT", height, ""),
        ("WIDTH", width, ""),
        ("INPUTS", layout.image.frames * channels * height * width, ""),
        ("TIMESTEPS", model.timesteps, ""),
        ("CLASSES", len(model.classes), ""),
        ("POPULATIONS", len(model.populations), ""),
        ("FIXED", int(fixed), "1: int32 fixed point, 0: float32"),
        ("IMAGE_INPUT", int(model.input.kind != "array"), "inputs are 1: uint8 pixels or counts, 0: numbers"),
        *neuron,
        ("WITH_EVENTS", int("events" in kinds), "kernels that are used"),
        ("WITH_SLICED", int("sliced" in kinds), ""),
        ("SUM_BITS", layout.sum_bits, "enough for every sum of weights"),
        ("COUNTERS", layout.counters, "bits of the bit-sliced kernel's counters, enough likewise"),
        ("COUNT_BITS", layout.count_bits, "enough for every count of spikes of a channel"),
        ("BUNDLES", max(map(len, layout.populations)), "of one population at most"),
        ("ARENA_WORDS", layout.arena_words, "static memory, from here on"),
        ("ROW_WEIGHTS", layout.row_weights, ""),
        ("SUMS", layout.sums, ""),
        ("EVENT_COUNT", layout.events, ""),
        ("CURRENTS", layout.currents, ""),
        ("COUNTS", layout.counts, ""),
    ]
    defines = "\n".join(
        f"#define {f'SNN_{name}':20} {value}" + (f" /* {meaning} */" if meaning else "")
        for name, value, meaning in rows
    )
    classes = "\n".join(f" *   {index}: {_comment(name)}" for index, name in enumerate(model.classes))
    names = ", \\\n    ".join(map(_string, model.classes))
    return f"""{_banner("sizes of the network, and what the runtime is compiled for")}
#ifndef MODEL_H
#define MODEL_H

/* Classes:
{classes}
 */
{defines}

/* The names of the classes in UTF-8: static const char *const names[SNN_CLASSES] = SNN_CLASS_NAMES; */
#define SNN_CLASS_NAMES {{ \\
    {names} \\
}}

#endif
"""


def model_source(layout: Layout) -> str:
    """``model.c``: the network as constant tables."""
    return _ModelWriter(layout).text()


def golden_source(layout: Layout, inputs: NDArray[np.generic]) -> str:
    """``golden.c``: raw inputs [n, C, H, W] or [n, T, C, H, W], and the reference's logits and spikes for them.

    Of the spikes of a population the CRC-32 of [T, C, H, W] bytes, 0 and 1 or graded, is kept.
    """
    model = layout.model
    inputs = take_input(model, inputs)
    trace = Reference(model).run(inputs, record=True)
    assert trace.spikes is not None
    count = len(inputs)
    if model.fraction is None:
        logits = _list(map(_real, trace.logits.transpose(1, 0, 2).ravel()))
    else:
        assert trace.integers is not None
        logits = _list(map(str, trace.integers.transpose(1, 0, 2).ravel()))
    if model.input.kind != "array":
        raw = _list(map(str, inputs.ravel()))
    elif model.fraction is None:
        raw = _list(map(_real, inputs.astype(np.float32).ravel()))
    else:
        raw = _list(map(str, quantize_input(model.input, inputs).ravel()))
    shapes = _list(f"{{{c}, {h}, {w}}}" for c, h, w in layout.shapes)
    checksums = [
        f"{zlib.crc32(np.ascontiguousarray(spikes[:, sample]).tobytes()):#010x}u"
        for sample in range(count)
        for spikes in trace.spikes
    ]
    return f"""{_banner("inputs, and what the NumPy reference makes of them")}
#include "golden.h"

const int golden_count = {count};

const snn_input golden_inputs[] = {{ /* [{count}, FRAMES, C, H, W] */
{raw}
}};

const snn_logit golden_logits[] = {{ /* [{count}, T, classes] */
{logits}
}};

const struct golden_shape golden_shapes[] = {{ /* C, H, W of each population */
{shapes}
}};

const uint32_t golden_spikes[] = {{ /* [{count}, populations], CRC-32 */
{_list(checksums)}
}};
"""


class _ModelWriter:
    """Collects tables and the structs that point into them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.streams: list[bytes] = []
        self.stream_bytes = 0
        self.numbers: list[str] = []  # scales and biases
        self.sources: list[int] = []
        self.taps: dict[tuple[tuple[tuple[int, int], ...], int], int] = {}  # each table once, with its index
        self.tap_count = 0

    def text(self) -> str:
        layout, model = self.layout, self.layout.model
        offsets = layout.memory.offsets
        bundles: list[str] = []
        populations: list[str] = []
        for index, (population, laid) in enumerate(zip(model.populations, layout.populations, strict=True)):
            start = len(bundles)
            words = layout.grids[layout.grid_of[index]].words
            bundles += [self._bundle(bundle, words) for bundle in laid]
            bias = self._numbers(population.bias)
            folds = [i for i, fold in enumerate(layout.folds) if fold.population == index]
            first_fold = f"&folds[{folds[0]}]" if folds else "0"
            populations.append(
                f"{{&bundles[{start}], {first_fold}, {bias}, {len(laid)}, {len(folds)}, {population.bias_shift}, "
                f"{index}, {layout.frames(index)}{_neuron(model, population)}}}"
            )
        readout = model.readout
        weights = self._weights(readout.codes, readout.bits, 1)
        readout_row = (
            f"{{{weights}, {self._sources(readout.sources)}, {self._numbers(readout.scale)}, "
            f"{self._numbers(readout.bias)}, {readout.codes.shape[1]}, {len(model.classes)}, {len(readout.sources)}, "
            f"{readout.shift}, {readout.bias_shift}}}"
        )
        grids = [f"{{{g.height}, {g.width}, {g.pitch}, {g.frame}, {g.words}}}" for g in layout.grids]
        maps = [
            f"{{{offset + layout.grids[m.grid].guard}, {layout.grids[m.grid].guard}, {m.channels}, {m.planes}, "
            f"{m.grid}}}"
            for m, offset in zip(layout.maps, offsets, strict=False)  # the image comes after the maps
        ]
        image = layout.image
        raw = "mean, std" if model.fraction is None else "steps" if self._steps() else "0"
        image_row = (
            f"{{{4 * offsets[-1] + image.lead}, {image.lead}, {image.channels}, {image.height}, {image.width}, "
            f"{image.pitch}, {image.plane}, {raw}}}"
        )
        folds_rows = [f"{{{fold.source}, {fold.target}, {fold.stride}}}" for fold in layout.folds]
        taps = [
            f"{{{offset}, {plane}, {32 * words * plane + offset}}}"
            for table, words in self.taps
            for offset, plane in table
        ]
        return "\n".join(
            [
                _banner("the network as constant tables"),
                '#include "snn.h"\n',
                self._input_tables(),
                "/* Places and codes of kept weights, as in the packed file; and a byte: no table is empty. */",
                _table("uint8_t", "streams", [str(byte) for byte in b"".join(self.streams) + b"\0"]),
                "/* Scales and biases. */",
                _table("snn_scale", "numbers", self.numbers),
                "/* Lists of maps. */",
                _table("uint8_t", "sources", [str(source) for source in self.sources]),
                "/* {offset, plane, lanes} of each weight of a kernel. */",
                _table("snn_tap", "taps", taps) if taps else "",
                _table("snn_grid", "grids", grids, lines=True),
                "/* {first, guard, channels, planes, grid}: a map for each population, then the folds. */",
                _table("snn_map", "maps", maps, lines=True),
                _table("snn_fold", "folds", folds_rows, lines=True) if folds_rows else "",
                _table("snn_bundle", "bundles", bundles, lines=True),
                _table("snn_population", "populations", populations, lines=True),
                "const snn_model snn_network = {",
                f"    {image_row},",
                "    grids,",
                "    maps,",
                "    populations,",
                f"    {readout_row},",
                f"    {len(populations)}}};\n",
            ]
        )

    def _bundle(self, bundle: BundleLayout, words: int) -> str:
        synapses = bundle.synapses
        scale = self._numbers(synapses.scale)
        if bundle.method == "identity":
            return f"{{{_NO_WEIGHTS}, {self._sources(bundle.maps)}, 0, {scale}, SNN_IDENTITY, 1, {synapses.shift}}}"
        weights = self._weights(synapses.codes, synapses.bits, synapses.kernel**2)
        table = (bundle.taps, words)
        if table not in self.taps:
            self.taps[table] = self.tap_count
            self.tap_count += len(bundle.taps)
        maps = self._sources(bundle.maps) if bundle.maps else "0"
        return (
            f"{{{weights}, {maps}, &taps[{self.taps[table]}], {scale}, {_KINDS[bundle.method]}, "
            f"{synapses.stride}, {synapses.shift}}}"
        )

    def _weights(self, codes: NDArray[np.int8], bits: int, taps: int) -> str:
        kept = codes[codes != 0]
        positions = bitstrings.encode_positions(codes != 0)
        places = self._stream(positions.data) if positions.data else "0"
        fields = bitstrings.pack_fields(bitstrings.codes_to_fields(kept, bits), bits)
        return (
            f"{{{places}, {self._stream(fields)}, {len(kept)}, {codes[0].size}, {taps}, {bits}, "
            f"{_CODINGS[positions.coding]}, {positions.rice}}}"
        )

    def _stream(self, data: bytes) -> str:
        start = self.stream_bytes
        self.streams.append(data)
        self.stream_bytes += len(data)
        return f"&streams[{start}]"

    def _numbers(self, values: NDArray[np.generic]) -> str:
        start = len(self.numbers)
        self.numbers += [_real(value) if values.dtype.kind == "f" else str(value) for value in values]
        return f"&numbers[{start}]"

    def _sources(self, maps: Sequence[int]) -> str:
        start = len(self.sources)
        self.sources += maps
        return f"&sources[{start}]"

    def _steps(self) -> bool:
        """Whether pixels or counts become steps by a table: the fixed-point runtime has no floats to compute them."""
        model = self.layout.model
        return model.fraction is not None and model.input.kind != "array"

    def _input_tables(self) -> str:
        spec = self.layout.model.input
        if self._steps():
            pixels = np.arange(256, dtype=np.uint8)
            every = np.broadcast_to(pixels[:, None, None, None], (256, *spec.shape))
            steps = quantize_input(replace(spec, kind="image"), every)[:, :, 0, 0].T  # [C, 256]
            return "/* Steps of each value, for each channel. */\n" + _table(
                "int8_t", "steps", [str(step) for step in steps.ravel()]
            )
        if self.layout.model.fraction is not None:
            return ""
        tables = [_table("float", name, list(map(_real, getattr(spec, name)))) for name in ("mean", "std")]
        return "/* Of each input channel. */\n" + "\n".join(tables)


def _banner(what: str) -> str:
    return f"/* Written by litesnn {__version__}, export c: {what}. */"


def _comment(text: str) -> str:
    """A name as a C comment may hold it: nothing that could end the comment, or that a compiler warns of."""
    return re.sub(r"[^A-Za-z0-9 .,:;()+-]", "_", text)


def _string(text: str) -> str:
    """A name as a C string in UTF-8: what is not plain ASCII in octal digits, always three, so that any may follow.

    A question mark is escaped too, since two of them may begin a trigraph.
    """
    plain = range(0x20, 0x7F)
    escaped = [
        f"\\{chr(byte)}" if chr(byte) in '"\\?' else chr(byte) if byte in plain else f"\\{byte:03o}"
        for byte in text.encode()
    ]
    return f'"{"".join(escaped)}"'


def _own_neurons(model: PackedModel) -> bool:
    return any(population.leak is not None or population.reset is not None for population in model.populations)


def _neuron(model: PackedModel, population: Population) -> str:
    """The leak and reset of a population, as the end of its row; nothing where all have those of the model."""
    if not _own_neurons(model):
        return ""
    neuron = neuron_of(model, population)
    leak = f"{_real(neuron.leak)}, " if model.fraction is None else ""
    return f", {{{leak}{_membrane(neuron.reset or 0.0, model)}, {int(neuron.reset is not None)}}}"


def _membrane(value: float, model: PackedModel, more: int = 0) -> str:
    """A number in the units of membranes, and so many units more; floats are added in float32."""
    if model.fraction is None:
        return _real(np.float32(value) + np.float32(more))
    return f"INT32_C({round((value + more) * 2**model.fraction)})"


def _real(value: float | np.floating) -> str:
    return f"{float(np.float32(value)).hex()}f"


def _list(items: Iterable[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) > 116:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line])


def _table(kind: str, name: str, items: Sequence[str], *, lines: bool = False) -> str:
    body = "\n".join(f"    {item}," for item in items) if lines else _list(items)
    return f"static const {kind} {name}[] = {{\n{body}\n}};\n"
