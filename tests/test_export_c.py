"""The C export: what the C computes, what the plans promise, what is refused, and what a folder holds."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from fake_run import write_fake_run
from firmware import SANITIZED, STRICT, Firmware
from litesnn.cli import app
from litesnn.commands.export_c import export, random_inputs
from litesnn.config import load_recipe
from litesnn.deploy.export_c import folder as export_folder
from litesnn.deploy.export_c.folder import RUNTIME, export_c
from litesnn.deploy.export_c.layout import lay_out
from litesnn.deploy.export_c.memory import Buffer, plan_memory
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, write
from litesnn.deploy.reference import Reference
from litesnn.deploy.targets import TARGETS, missing_tools, run_target
from litesnn.errors import InputError, LitesnnError
from litesnn.report.page import write_report
from packed_models import cell_model, halves, random_codes, random_input, random_model

KERNELS: tuple[Literal["events", "sliced"], ...] = ("events", "sliced")
TOP = ("Makefile", "README.md", "library.properties")


def assert_equal(model: PackedModel, firmware: Firmware, x: NDArray[np.generic]) -> None:
    """Logits, with the signs of zeros, and the spikes of every population."""
    given, expected = firmware.run(x), Reference(model).run(x, record=True)
    assert given.spikes is not None
    assert expected.spikes is not None
    for ours, theirs in zip(given.spikes, expected.spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if model.fraction is None:
        np.testing.assert_array_equal(given.logits.view(np.uint32), expected.logits.view(np.uint32))
    else:
        assert expected.integers is not None
        np.testing.assert_array_equal(given.integers, expected.integers)


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
@pytest.mark.parametrize("seed", range(3))
def test_random_networks(tmp_path: Path, seed: int, arithmetic: Literal["float", "fixed"]) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, arithmetic=arithmetic, populations=5 - 2 * seed)
    x = random_input(rng, model.input, 2)
    for kernel in KERNELS:
        assert_equal(model, Firmware(model, tmp_path / kernel, kernel=kernel, flags=SANITIZED), x)


def layer_model(rng: np.random.Generator, size: tuple[int, int], timesteps: int, synapses: Synapses) -> PackedModel:
    """A stem of as many channels as ``synapses`` read, of which about a third spike, and a population behind it."""
    c_in = synapses.codes.shape[1]
    stem = Synapses((IMAGE,), 1, 1, 1, random_codes(rng, (c_in, 1, 1, 1), 1, 1.0), halves(rng, c_in, 1 / 32))
    populations = (
        Population((stem,), halves(rng, c_in, -0.1), 0.3),
        Population((synapses,), halves(rng, len(synapses.codes), 0.1), 0.3),
    )
    readout = Readout(
        (1,), 4, random_codes(rng, (3, len(synapses.codes)), 4, 1.0), halves(rng, 3, 0.01), halves(rng, 3, 1.0)
    )
    return PackedModel(
        InputSpec((1, *size), "array", (0.0,), (1.0,)), timesteps, 0.2, 0.5, ("a", "b", "c"), populations, readout
    )


# Sizes around the word edge and below it, every kernel size, strides that do not divide, all bits, all codings.
EDGES = [
    # C_in, C_out, H, W, kernel, stride, bits, keep, T
    (1, 1, 1, 1, 1, 1, 1, 1.0, 1),
    (3, 2, 1, 31, 3, 1, 4, 1.0, 1),
    (3, 2, 2, 32, 3, 2, 3, 0.5, 2),
    (5, 2, 3, 33, 5, 1, 2, 0.05, 3),
    (9, 3, 7, 5, 5, 3, 4, 0.7, 6),
    (33, 2, 4, 4, 3, 1, 4, 1.0, 7),
    (4, 3, 5, 7, 1, 2, 3, 1.0, 5),
    (2, 3, 6, 6, 7, 4, 2, 0.9, 2),
]


@pytest.mark.parametrize("row", EDGES, ids=lambda row: "-".join(map(str, row)))
def test_edge_sizes(tmp_path: Path, row: tuple[int, int, int, int, int, int, int, float, int]) -> None:
    c_in, c_out, height, width, kernel, stride, bits, keep, timesteps = row
    rng = np.random.default_rng(sum(row[:7]))
    codes = random_codes(rng, (c_out, c_in, kernel, kernel), bits, keep)
    conv = Synapses((0,), kernel, stride, bits, codes, halves(rng, c_out, 1 / (2**bits * c_in)))
    model = layer_model(rng, (height, width), timesteps, conv)
    x = random_input(rng, model.input, 2)
    for name in KERNELS:
        assert_equal(model, Firmware(model, tmp_path / name, kernel=name, flags=SANITIZED), x)


@pytest.mark.parametrize(("c_in", "sign"), [(2184, -1), (2185, 1)])
def test_accumulators_at_their_extremes(tmp_path: Path, c_in: int, sign: int) -> None:
    """2184 weights of ±15 make a sum of ±32760, one more makes ±32775: the first fits int16, the second does not."""
    rng = np.random.default_rng(0)
    conv = Synapses((0,), 1, 1, 4, np.full((1, c_in, 1, 1), 15 * sign, np.int8), halves(rng, 1, 2.0**-15))
    model = layer_model(rng, (1, 3), 2, conv)
    stem = model.populations[0]
    awake = replace(stem, bias=np.ones_like(stem.bias), synapses=(replace(stem.synapses[0], scale=0 * stem.bias),))
    model = replace(model, populations=(awake, model.populations[1]))
    for name in KERNELS:
        firmware = Firmware(model, tmp_path / name, kernel=name, flags=SANITIZED)
        assert firmware.layout.sum_bits == (16 if c_in == 2184 else 32)
        assert_equal(model, firmware, np.zeros((1, 1, 1, 3), np.float32))


def test_cheaper_kernel_is_chosen_by_firing_rate() -> None:
    rng = np.random.default_rng(1)
    conv = Synapses((0,), 3, 1, 4, random_codes(rng, (8, 16, 3, 3), 4, 0.5), halves(rng, 8, 0.01))
    model = layer_model(rng, (16, 16), 4, conv)
    for rate, chosen in ((0.001, "events"), (0.4, "sliced")):
        stem = replace(model.populations[0], rate=rate)
        layout = lay_out(replace(model, populations=(stem, model.populations[1])))
        bundle = layout.populations[1][0]
        assert bundle.method == chosen
        assert min(bundle.costs, key=lambda name: bundle.costs[name]) == chosen


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=12))
def test_memory_plan_never_overlaps_what_lives_together(rows: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(str(i), size, first, first + life) for i, (size, first, life) in enumerate(rows)]
    made = plan_memory(buffers)
    assert made.peak <= made.words <= sum(buffer.size for buffer in buffers)
    for i, a in enumerate(buffers):
        assert 0 <= made.offsets[i] <= made.words - a.size
        for j, b in enumerate(buffers[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert made.offsets[i] + a.size <= made.offsets[j] or made.offsets[j] + b.size <= made.offsets[i]


def test_memory_is_used_again_when_the_last_reader_is_done() -> None:
    chain = plan_memory([Buffer(str(step), 10, step, step + 1) for step in range(6)])
    assert chain.words == chain.peak == 20


def test_exported_folder_builds_tests_itself_and_is_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    out = tmp_path / "firmware"
    for seed in (1, 2):
        model = cell_model(np.random.default_rng(seed), cells=1, width=3)
        firmware = export_c(model, out, random_input(rng, model.input, 2), targets=["host"])
        assert {entry.name for entry in out.iterdir()} == {*TOP, "src", "test", "examples"}
        assert {entry.name for entry in (out / "src").iterdir()} == {*RUNTIME["src"], "model.c", "model.h"}
        assert {entry.name for entry in (out / "test").iterdir()} == {*RUNTIME["test"], "golden.c"}
        assert [row.inputs for row in firmware.measurements] == [2]
        assert "| host" in (out / "README.md").read_text()
    done = subprocess.run(["make", "-C", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    export_c(model, out, random_input(rng, model.input, 1))  # what the build left behind is ours too
    assert [entry.name for entry in tmp_path.iterdir()] == ["firmware"]


def test_runtime_is_all_of_the_package_data() -> None:
    packaged = {entry.name for entry in Path(export_folder.__file__).parents[1].joinpath("mcu").iterdir()}
    assert packaged == {name for names in RUNTIME.values() for name in names}


@pytest.mark.parametrize("table", ["golden_logits", "golden_spikes"])
def test_self_test_finds_a_wrong_golden_value(tmp_path: Path, table: str) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    export_c(model, tmp_path / "firmware", random_inputs(model, 2))
    golden = tmp_path / "firmware" / "test" / "golden.c"
    text = golden.read_text()
    start = text.index(table)
    place = re.compile(r"0x\d[.\d]").search(text, start)
    assert place is not None
    digit = place.start() + 2
    golden.write_text(text[:digit] + str(int(text[digit]) ^ 1) + text[digit + 1 :])
    with pytest.raises(LitesnnError, match=f"wrong_{table.removeprefix('golden_')} 1"):
        run_target(tmp_path / "firmware", "host")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_compilers_have_nothing_to_say(tmp_path: Path, compiler: str, arithmetic: Literal["float", "fixed"]) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    model = cell_model(np.random.default_rng(2), cells=1, width=3, arithmetic=arithmetic)
    model = replace(model, classes=("*/ x", "/* ??/", "a\\", 'é"\n', *model.classes[4:]))
    export_c(model, tmp_path / "firmware", random_inputs(model, 1))
    sources = [
        "test/main.c",
        "test/golden.c",
        "test/platform_host.c",
        *sorted(f"src/{p.name}" for p in tmp_path.glob("firmware/src/*.c")),
    ]
    command = [compiler, *STRICT, "-Wshadow", "-O2", "-Isrc", "-DSNN_TRACE=1", "-o", "t", *sources]
    done = subprocess.run(command, cwd=tmp_path / "firmware", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert subprocess.run([str(tmp_path / "firmware" / "t")], capture_output=True, check=False).returncode == 0


def test_fixed_point_has_no_float(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(2), cells=1, width=3, arithmetic="fixed")
    export_c(model, tmp_path / "firmware", random_inputs(model, 1))
    for name in ("snn.c", "snn_decode.c", "snn_events.c", "snn_memory.c", "snn_sliced.c", "model.c"):
        command = [shutil.which("cc") or "cc", "-E", "-P", "-DSNN_TRACE=0", name]
        text = subprocess.run(
            command, cwd=tmp_path / "firmware" / "src", capture_output=True, text=True, check=True
        ).stdout
        assert not re.search(r"\b(float|double)\b|\d\.\d|0x1\.", text)


def test_networks_that_are_too_large_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    conv = Synapses((0,), 3, 1, 1, random_codes(rng, (1, 1, 3, 3), 1, 1.0), halves(rng, 1, 0.1))
    wide = layer_model(rng, (200, 200), 4, conv)
    with pytest.raises(InputError, match=r"4 timesteps of 200×200 neurons take .* lanes"):
        export_c(wide, tmp_path / "firmware", random_inputs(wide, 1))
    conv = Synapses((0,), 1, 1, 1, random_codes(rng, (1, 3000, 1, 1), 1, 1.0), halves(rng, 1, 0.1))
    deep = layer_model(rng, (80, 80), 6, conv)
    with pytest.raises(InputError, match="bytes of RAM"):
        export_c(deep, tmp_path / "firmware", random_inputs(deep, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    out = tmp_path / "firmware"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds thesis\.txt"):
        export_c(model, out, random_inputs(model, 1))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        export_c(model, tmp_path / "file", random_inputs(model, 1))
    assert [entry.name for entry in out.iterdir()] == ["thesis.txt"]


def test_nothing_is_written_if_the_self_test_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    monkeypatch.setattr(export_folder, "golden_source", lambda *_: "this is no C\n")
    with pytest.raises(LitesnnError, match=r"host: .*error: "):
        export_c(model, tmp_path / "firmware", random_inputs(model, 1), targets=["host"])
    assert list(tmp_path.iterdir()) == []


def test_missing_tools_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="--target host needs make: apt-get install make"):
        missing_tools(["host"])
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected one of host, cortex-m4"):
        missing_tools(["z80"])
    if shutil.which("make"):
        monkeypatch.setattr(shutil, "which", lambda tool: None if "gcc" in tool else tool)
        with pytest.raises(InputError, match="needs arm-none-eabi-gcc: apt-get install gcc-arm-none-eabi"):
            missing_tools(["cortex-m0"])


def test_compiler_flags_of_the_environment_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement says which optimisation it is of."""
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    write(model, tmp_path / "model.safetensors")
    monkeypatch.setenv("CFLAGS", "-march=nonsense")
    (measured,) = export(tmp_path / "model.safetensors", tmp_path / "firmware", ["host"]).measurements
    assert measured.optimise == "-O3"


def test_measurements_reach_metrics_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    examples = write_fake_run(run)
    write_report(run, examples)
    write(cell_model(np.random.default_rng(1), cells=1, width=3), run / "model.safetensors")
    # the data are not here: the report is not made anew, which is said, and golden inputs are random
    recipe = load_recipe("small", {"data.source": str(tmp_path / "gone.npz")})
    (run / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("recipe", "seed"):
        metrics.setdefault(key, "small")
    (run / "metrics.json").write_text(json.dumps(metrics | {"targets": {"z80": {"target": "z80", "flash_bytes": 7}}}))
    old = (run / "report.html").read_bytes()
    export(run, tmp_path / "firmware", ["host"])
    assert (run / "report.html").read_bytes() == old
    assert "report.html was not made anew: " in capsys.readouterr().err
    after = json.loads((run / "metrics.json").read_text())
    assert set(after["targets"]) == {"host", "z80"}
    assert after["targets"]["z80"] == {"target": "z80", "flash_bytes": 7}
    assert after["targets"]["host"]["inputs"] == 4
    assert {key: after[key] for key in metrics} == metrics
    page = write_report(run, examples).read_text(encoding="utf-8")
    assert '<section id="targets">' in page
    assert "4 of 4 equal" in page


def test_a_packed_file_alone_is_enough(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    write(model, tmp_path / "model.safetensors")
    firmware = export(tmp_path / "model.safetensors", tmp_path / "deep" / "firmware")
    assert firmware.measurements == ()
    assert "Nothing was measured" in (tmp_path / "deep" / "firmware" / "README.md").read_text()


def test_command_line(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    write(model, tmp_path / "model.safetensors")
    arguments = ["export", "c", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "firmware")]
    done = CliRunner().invoke(app, [*arguments, "--target", "host"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "population 1" in done.output
    assert "4 of 4 equal" in done.output
    assert (tmp_path / "firmware" / "src" / "model.c").is_file()
    refused = CliRunner().invoke(app, [*arguments, "--target", "z80"])
    assert isinstance(refused.exception, InputError)


@pytest.mark.parametrize(
    ("target", "arithmetic"),
    [
        pytest.param(
            target, arithmetic, marks=[] if (target == "cortex-m4") == (arithmetic == "float") else pytest.mark.slow
        )
        for target in TARGETS
        for arithmetic in ("float", "fixed")
        if target != "host"
    ],
)
def test_devices_compute_the_same(tmp_path: Path, target: str, arithmetic: Literal["float", "fixed"]) -> None:
    try:
        missing_tools([target])
    except InputError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(5)
    model = cell_model(rng, cells=1, width=4, arithmetic=arithmetic)
    export_c(model, tmp_path / "firmware", random_input(rng, model.input, 2))
    row = run_target(tmp_path / "firmware", target)
    assert row.instructions is not None
    assert row.stack_bytes is not None
    assert 10_000 < row.instructions < 10_000_000
    assert 100 < row.stack_bytes < 4096
    assert row.flash_bytes is not None
    assert row.flash_bytes < 24_000
    if arithmetic == "fixed":
        symbols = _symbols(tmp_path / "firmware" / "build" / target / "app", target)
        assert "snn_run" in symbols
        assert not re.search(r"__aeabi_(f|d|i2f|ui2f)|__(add|sub|mul|div|float)\w*[sd]f", symbols)


def _symbols(program: Path, target: str) -> str:
    command = [f"{TARGETS[target].prefix}nm", str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


CPP = """
#include <cstdio>
#include <cstring>
#include "snn.h"
#include "golden.h"
#include "platform.h"

static const char *const names[SNN_CLASSES] = SNN_CLASS_NAMES;
static snn_logit logits[SNN_TIMESTEPS * SNN_CLASSES];

int main() {
    for (int i = 0; i < golden_count; i++) {
        if (!snn_run(golden_inputs + i * SNN_INPUTS, logits)) return 1;
        if (std::memcmp(logits, golden_logits + i * SNN_TIMESTEPS * SNN_CLASSES, sizeof logits)) return 2;
        std::printf("%d\\n", snn_class(logits));
    }
    for (const char *name : names) std::printf("%s%c", name, 0);
    platform_print("");
    return 0;
}
"""
ARDUINO = """
#include <cstdio>
#include <cstdlib>
static struct {
    void begin(long) {}
    void println(const char *name) { std::printf("%s\\n", name); std::exit(0); }
} Serial;
static void delay(long) { std::exit(1); }
"""
NAMES = ("*/ x", 'a "quoted" \\ one', "??/", "é1", "\n7", "\u2028", "\x1b[31m8", "'", "%d", "a" * 1024)


def build_as_others_do(folder: Path, program: Path, *more: str) -> Path:
    """Everything in ``src`` as GNU C, with the flags of no Makefile of ours, and a program in C++ with it."""
    objects = []
    for source in sorted((folder / "src").glob("*.c")):
        objects.append(str(folder.parent / f"{source.stem}.o"))
        fused = ["-mfma"] if platform.machine() == "x86_64" else []
        subprocess.run(["cc", "-std=gnu11", "-O2", *fused, "-c", str(source), "-o", objects[-1]], check=True)
    made = folder.parent / "program"
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder / 'src'}", f"-I{folder / 'test'}"]
    command = ["c++", "-std=c++11", *strict, "-x", "c++", str(program), "-x", "none", *more, *objects, "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return made


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_a_program_in_cpp_links_the_network(tmp_path: Path, arithmetic: Literal["float", "fixed"]) -> None:
    """Its logits are exact, and the names of classes survive."""
    model = replace(cell_model(np.random.default_rng(2), cells=1, width=9, arithmetic=arithmetic), classes=NAMES)
    x, folder = random_input(np.random.default_rng(3), model.input, 6), tmp_path / "firmware"
    export_c(model, folder, x)
    (tmp_path / "main.cpp").write_text(CPP)
    golden = []
    for name in ("golden", "platform_host"):
        golden.append(str(tmp_path / f"{name}.o"))
        source = str(folder / "test" / f"{name}.c")
        subprocess.run(["cc", f"-I{folder / 'src'}", "-c", source, "-o", golden[-1]], check=True)
    program = build_as_others_do(folder, tmp_path / "main.cpp", *golden)
    done = subprocess.run([str(program)], capture_output=True, check=False)
    assert done.returncode == 0
    *classes, names = done.stdout.split(b"\n", len(x))
    assert [int(each) for each in classes] == Reference(model).classify(x).tolist()
    assert names.decode().split("\0") == [*NAMES, ""]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for instructions of x86-64")
def test_products_and_sums_are_not_fused_whatever_the_flags(tmp_path: Path) -> None:
    """The leak's product with the membrane and its sum with the current are what a compiler likes to fuse."""
    model, folder = cell_model(np.random.default_rng(2), cells=1, width=3), tmp_path / "firmware"
    export_c(model, folder, random_inputs(model, 1))
    command = ["cc", "-std=gnu11", "-O2", "-mfma", "-S", "-o", "-"]
    for source in sorted((folder / "src").glob("snn*.c")):
        text = subprocess.run([*command, str(source)], capture_output=True, text=True, check=True).stdout
        assert not re.search("vfn?m(add|sub)", text)
    allowed = [*command, "-ffp-contract=fast", "-DSNN_NO_CONTRACTION", str(folder / "src" / "snn.c")]
    assert re.search("vfn?m(add|sub)", subprocess.run(allowed, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("which", ["sketch", "README"])
def test_the_sketch_and_the_readme_compile_as_cpp(tmp_path: Path, which: str) -> None:
    model = cell_model(np.random.default_rng(2), cells=1, width=3)
    folder = tmp_path / "firmware"
    export_c(model, folder, random_inputs(model, 1))
    if which == "sketch":
        text = (
            ARDUINO
            + (folder / "examples" / "Classify" / "Classify.ino").read_text()
            + "int main() { setup(); loop(); }"
        )
    else:
        (text,) = re.findall(r"```c\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
        assert subprocess.run(
            ["cc", *STRICT, f"-I{folder / 'src'}", "-x", "c", "-c", "-", "-o", str(tmp_path / "x.o")],
            input=text, text=True, check=False,
        ).returncode == 0  # fmt: skip
        text = "#include <cstdio>\n" + text + "int main() { std::puts(classify()); }"
    (tmp_path / "main.cpp").write_text(text)
    said = subprocess.run([str(build_as_others_do(folder, tmp_path / "main.cpp"))], capture_output=True, check=True)
    assert said.stdout.decode().strip() in model.classes


def test_library_tools_find_one_folder_of_sources_without_main(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(2), cells=1, width=3)
    export_c(model, tmp_path / "firmware", random_inputs(model, 1))
    lines = (tmp_path / "firmware" / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]{0,62}", properties["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["version"])
    assert (tmp_path / "firmware" / "src" / properties["includes"]).is_file()
    assert not any(" main(" in path.read_text() for path in (tmp_path / "firmware" / "src").iterdir())


@pytest.mark.job
def test_what_a_killed_export_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    out = tmp_path / "firmware"
    program = (
        "import os, numpy as np, sys; from pathlib import Path; from packed_models import cell_model\n"
        "from litesnn.commands.export_c import random_inputs\nfrom litesnn.deploy.export_c import folder\n"
        "folder.readme = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "model = cell_model(np.random.default_rng(1), cells=1, width=3)\n"
        "folder.export_c(model, Path(sys.argv[1]), random_inputs(model, 1))\n"
    )
    command = [sys.executable, "-c", program, str(out)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.firmware\.\w{8}\.tmp", left.name)
    for name in (".firmware.mine", ".firmware.12345678.tmp2", ".other.12345678.tmp"):
        (tmp_path / name).mkdir()
    busy = tmp_path / ".firmware.abcdefgh.tmp"
    busy.mkdir()
    held = export_folder._hold(busy)  # another export to the same place, which is running
    export_c(model, out, random_inputs(model, 1))
    assert not left.exists()
    assert {entry.name for entry in tmp_path.iterdir()} >= {".firmware.mine", ".other.12345678.tmp", busy.name}
    assert held is not None
    os.close(held)
    moved = tmp_path / ".firmware.hgfedcba.old"  # killed between two renames
    moved.mkdir()
    out.rename(moved / "firmware")
    with pytest.raises(InputError, match="z80"):
        export_c(model, out, random_inputs(model, 1), targets=["z80"])
    export_folder._clear(out)
    assert (out / "src" / "model.c").is_file()
    assert not moved.exists()
    assert not busy.exists()


def test_a_project_with_folders_of_the_same_names_is_left_alone(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(1), cells=1, width=3)
    out = tmp_path / "firmware"
    (out / "src").mkdir(parents=True)
    for name, where in (("src/mine.c", "src/mine.c"), ("README.md", "README.md"), ("src/snn.c", "README.md")):
        (out / name).write_text("mine")
        with pytest.raises(InputError, match=f"holds {where}, which is not from an export"):
            export_c(model, out, random_inputs(model, 1))
        if name == "src/mine.c":
            (out / name).unlink()
    assert (out / "README.md").read_text() == "mine"


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["float", "fixed"]), st.sampled_from(KERNELS))
def test_self_test_under_address_sanitizer(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    arithmetic: Literal["float", "fixed"],
    kernel: Literal["events", "sliced"],
) -> None:
    """Static arrays are as long as the plan says, and no access leaves them."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, arithmetic=arithmetic)
    folder = tmp_path_factory.mktemp("firmware") / "out"
    export_c(model, folder, random_input(rng, model.input, 2), method=kernel)
    flags = "OPTIMISE=-O1 -g -fsanitize=address,undefined -fno-sanitize-recover"
    done = subprocess.run(["make", "-C", str(folder), flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder)


@pytest.mark.slow
@settings(max_examples=250)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["float", "fixed"]), st.sampled_from([*KERNELS, None]))
def test_many_random_networks(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    arithmetic: Literal["float", "fixed"],
    kernel: Literal["events", "sliced"] | None,
) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, arithmetic=arithmetic)
    folder = tmp_path_factory.mktemp("firmware")
    assert_equal(model, Firmware(model, folder, kernel=kernel, flags=SANITIZED), random_input(rng, model.input, 2))
    shutil.rmtree(folder)
