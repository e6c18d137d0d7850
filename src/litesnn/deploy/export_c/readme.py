"""The README of a firmware folder: how to build it, what it takes, and where the memory goes."""

from __future__ import annotations

from collections.abc import Sequence

from litesnn.deploy.export_c.layout import Layout
from litesnn.deploy.packed import InputSpec, bit_planes
from litesnn.deploy.targets import Measurement
from litesnn.front_end import EventFrames, LogMel

__all__ = ["memory_lines", "readme", "target_lines"]


def readme(layout: Layout, measurements: Sequence[Measurement], *, name: str) -> str:
    """The whole text, Markdown."""
    model = layout.model
    channels, height, width = model.input.shape
    frames = f"{layout.image.frames}, " if model.input.frames else ""
    if model.input.frames:
        given = "uint8 counts of events"
    elif model.input.kind == "image":
        given = "uint8 pixels"
    elif model.fraction is None:
        given = "floats"
    else:
        given = "int8 steps `clip(round(32·(x − mean)/std), −127, 127)`"
    front_end = ""
    if isinstance(model.input.front_end, LogMel):
        front_end = _features_text(model.input, model.input.front_end)
    elif isinstance(model.input.front_end, EventFrames):
        front_end = _frames_text(model.input.front_end, layout.image.frames)
    if model.fraction is None:
        arithmetic = "float32, one rounding per operation"
        logits = "`logits[t * SNN_CLASSES + k]` is the float logit after timestep t + 1."
    else:
        arithmetic = f"int32 fixed point with {model.fraction} fractional bits, no float anywhere"
        logits = (
            f"`logits[t * SNN_CLASSES + k]` is an int32: divided by (t + 1)·2^{model.readout.fraction} it is the logit "
            "after timestep t + 1."
        )
    if model.levels > 1:
        arithmetic += f"; spikes are graded, 0 to {model.levels}, kept as {bit_planes(model.levels)} bits"
    measured = (
        "\n".join(target_lines(measurements)) if measurements else "Nothing was measured: no `--target` was given."
    )
    return f"""# Firmware of {name}

Written by `litesnn export c`: C99, no heap, no library but what the compiler itself calls. Arithmetic: {arithmetic}.

```c
#include "snn.h"

static snn_input input[SNN_INPUTS];                  /* {given}, [{frames}{channels}, {height}, {width}] */
static snn_logit logits[SNN_TIMESTEPS * SNN_CLASSES];
static const char *const names[SNN_CLASSES] = SNN_CLASS_NAMES;

/* What is in the input, or 0 if one of its numbers is not finite. */
const char *classify(void) {{
    return snn_run(input, logits) ? names[snn_class(logits)] : 0;
}}
```

This is C and C++ alike: the headers say `extern "C"`.

{logits}
{front_end}The network is all of `src`; nothing else need be compiled. The folder is a library for Arduino's tools,
PlatformIO and others that read `library.properties`, with a sketch in `examples`. Compile `src/*.c` as C, with
`-std=c99 -ffp-contract=off` if flags are yours to choose; never with `-ffast-math`. `make` builds and runs the
self-test on this computer, `make TARGET=cortex-m4` (or `cortex-m0`, `rv32`) on a microcontroller under qemu. The
self-test compares logits, and the CRC-32 of the spikes of every population, with those of the reference, bit for bit.

## Measured

{measured}

Flash and RAM are those of the smallest complete program as linked (`test/app.c`: vectors, start-up, runtime, C library,
model, one input and its logits); in brackets with the self-test, its golden data and its output instead. RAM is without
the stack, whose high-water mark was read from painted memory while the self-test classified. Instructions are the mean
of one inference over the golden inputs, counted by qemu (`-icount shift=0`) as the difference between three inferences
and one.

## Memory plan

{chr(10).join(memory_lines(layout))}

## Kernels

| bundle | sources | kernel | estimated instructions |
|---|---|---|---|
{chr(10).join(_kernel_rows(layout))}
"""


def _frames_text(front_end: EventFrames, frames: int) -> str:
    """How the caller counts events."""
    if front_end.by == "time":
        length, unit = front_end.frame_ms, "ms"
    else:
        length, unit = front_end.frame_events, "events"
    return f"""
The input is {frames} frames, one for each timestep. Frame t has the events of {length:g} {unit}, those that follow
the first t·{length:g} {unit}: x[t][p][y][x] is how many there were at pixel (y, x) with polarity p (0: it became
darker, 1: brighter), and {front_end.clip} if there were more.

"""


def _features_text(spec: InputSpec, front_end: LogMel) -> str:
    """The features that callers compute from sound; it is not exported, since no two Fourier transforms round alike."""
    window, hop = front_end.window, front_end.hop
    return f"""
The input is not sound but its features, which the caller has to compute: {front_end}. From
samples in −1…1, of which those that are missing are 0, for each of the windows of {window} samples that begin at
0, {hop}, {2 * hop}, …: multiply by a Hann window `0.5 − 0.5·cos(2πn/{window})`; fill up with zeros to
{front_end.fft}, take the squared magnitude of the Fourier transform; weigh it by {front_end.mels} triangles with
peak 1, evenly spaced from {front_end.low_hz:g} to {front_end.high_hz:g} Hz in `2595·log10(1 + f/700)`; take the
natural logarithm of each sum, or of {front_end.floor:g} if that is more. Filter m of window w is x[0][m][w]. Mean
and standard deviation of all of them in training, which the network's own normalisation uses:
{spec.mean[0]:.9g} and {spec.std[0]:.9g}.

"""


def target_lines(measurements: Sequence[Measurement]) -> list[str]:
    """The table of what was measured."""
    lines = [
        "| target | flash, B | static RAM, B | stack, B | instructions per inference | compiler, flags | golden |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measurements:
        flash = _with(row.flash_bytes, row.selftest_flash_bytes)
        ram = _with(row.ram_bytes, row.selftest_ram_bytes)
        lines.append(
            f"| {row.target}: {row.conditions} | {flash} | {ram} | {_number(row.stack_bytes)} | "
            f"{_number(row.instructions)} | {row.compiler}, {row.optimise} | {row.inputs} of {row.inputs} equal |"
        )
    return lines


def memory_lines(layout: Layout) -> list[str]:
    """Where the static RAM of the runtime goes: its arrays, then the buffers that share the arena."""
    ram = layout.ram()
    lines = ["| static array | bytes |", "|---|---|"]
    lines += [f"| {name} | {size:,} |" for name, size in ram.items()]
    lines.append(f"| **together** | **{sum(ram.values()):,}** |")
    plan = layout.memory
    lines += [
        "",
        f"The arena: {len(plan.buffers)} buffers of {4 * sum(b.size for b in plan.buffers):,} bytes share "
        f"{4 * plan.words:,}; the most that live at once are {4 * plan.peak:,}. Step i runs population i; the readout "
        f"is step {len(layout.populations)}.",
        "",
        "| buffer | from byte | bytes | written at step | read until step |",
        "|---|---|---|---|---|",
    ]
    for buffer, offset in zip(plan.buffers, plan.offsets, strict=True):
        lines.append(f"| {buffer.name} | {4 * offset:,} | {4 * buffer.size:,} | {buffer.first} | {buffer.last} |")
    return lines


def _kernel_rows(layout: Layout) -> list[str]:
    rows = []
    for index, bundles in enumerate(layout.populations):
        for number, bundle in enumerate(bundles):
            sources = ", ".join("image" if source < 0 else str(source) for source in bundle.synapses.sources)
            costs = ", ".join(f"{name} {cost:,.0f}" for name, cost in sorted(bundle.costs.items())) or "–"
            rows.append(f"| population {index}, synapses {number} | {sources} | {bundle.method} | {costs} |")
    return rows


def _with(value: int | None, whole: int | None) -> str:
    return "–" if value is None else f"{value:,} ({whole:,})"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
