"""The engine in builds that Python cannot load: on another machine, and watched by sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import packed_models
from litesnn import Reference
from litesnn.deploy.engine import available_kernels
from litesnn.deploy.engine_image import engine_image
from litesnn.deploy.packed import PackedModel, population_shapes

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "litesnn" / "deploy" / "csrc"
FLAGS = ["-std=c99", "-O2", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{SOURCES}"]
X86_KERNELS = {
    isa: flags
    for isa, architecture, *flags in map(
        str.split, (SOURCES / "isa_flags.txt").read_text(encoding="utf-8").splitlines()
    )
    if architecture == "__x86_64__"
}


@dataclass(frozen=True)
class Build:
    """A program that runs images, and how it is started."""

    program: Path
    start: tuple[str, ...] = ()

    def check(self, model: PackedModel, x: NDArray[np.generic], kernel: str, method: int, threads: int) -> None:
        """Every spike and every logit are those of the reference."""
        folder = self.program.parent
        truth = Reference(model).run(x, record=True)
        assert truth.spikes is not None
        right: list[NDArray[Any]] = [truth.logits, *truth.spikes]
        (folder / "image").write_bytes(engine_image(model))
        inputs = np.ascontiguousarray(x, np.uint8 if model.input.kind == "image" else np.float32)
        (folder / "inputs").write_bytes(inputs.tobytes())
        sizes = ",".join(str(part.nbytes) for part in right)
        command = [*self.start, self.program, kernel, method, threads, "image", "inputs", len(x), sizes, "out"]
        made = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        data = (folder / "out").read_bytes()
        assert len(right) == 1 + len(population_shapes(model))
        for part in right:
            mine, data = data[: part.nbytes], data[part.nbytes :]
            np.testing.assert_array_equal(np.frombuffer(mine, part.dtype).reshape(part.shape), part)
        assert not data


def build(folder: Path, compiler: str, kernels: dict[str, list[str]], flags: Sequence[str] = ()) -> Build:
    objects = []
    defines = [f"-DLSNN_HAVE_{name.upper()}" for name in kernels]
    special = {f"kernel_{name}": own for name, own in kernels.items()}
    for source in [*sorted(SOURCES.glob("*.c")), TESTS / "engine_runner.c"]:
        if source.stem.startswith("kernel_") and source.stem not in {*special, "kernel_portable"}:
            continue
        target = folder / f"{source.stem}.o"
        words = [compiler, *FLAGS, *flags, *defines, *special.get(source.stem, []), "-c", source, "-o", target]
        subprocess.run([str(word) for word in words], check=True)
        objects.append(str(target))
    program = folder / "engine_runner"
    subprocess.run([compiler, *flags, *objects, "-o", str(program), "-lm", "-lpthread"], check=True)
    return Build(program)


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")


def problems(count: int) -> list[tuple[PackedModel, NDArray[np.generic]]]:
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        if seed % 3:
            shape = (2, int(rng.integers(1, 10)), int(rng.choice([7, 8, 9, 16, 33])))
            model = packed_models.random_model(rng, shape=shape, arithmetic="fixed" if seed % 2 else "float")
        else:
            model = packed_models.cell_model(rng, width=int(rng.integers(1, 20)), arithmetic="float")
        made.append((model, packed_models.random_input(rng, model.input, int(rng.choice([1, 3, 9])))))
        if seed % 4 == 1:  # another one with soft resets and leaks of its own
            model = packed_models.with_neurons(rng, model, soft=seed % 8 == 1, own=True)
            made.append((model, packed_models.random_input(rng, model.input, 3)))
    return made


@pytest.mark.slow
def test_neon(tmp_path: Path) -> None:
    """Run by an emulator: nothing here is timed."""
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    made = build(tmp_path, "aarch64-linux-gnu-gcc", {"neon": []}, ["-static"])
    made = Build(made.program, ("qemu-aarch64",))
    for model, x in problems(40):
        for kernel in ("neon", "portable"):
            for method in (-1, 0, 1):
                made.check(model, x, kernel, method, 1)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizers: str, tmp_path: Path) -> None:
    need("gcc")
    if os.uname().machine != "x86_64":
        pytest.skip("the kernels are those of x86-64")
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    made = build(tmp_path, "gcc", X86_KERNELS, flags)
    for model, x in problems(20):
        for kernel in available_kernels():
            for method in (0, 1):
                made.check(model, x, kernel, method, 3)
