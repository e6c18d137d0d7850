"""Targets of the C export: build the self-test and the smallest program for a device, run it under qemu, and measure.

In: a folder that :mod:`litesnn.deploy.export_c.folder` has written. Out: a :class:`Measurement` for a target. Nothing
is estimated: sizes are those of linked programs, and instructions and stack are counted while the golden inputs run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litesnn.errors import InputError, LitesnnError

__all__ = ["TARGETS", "Measurement", "Target", "missing_tools", "run_target"]

_REASON = re.compile(r"\berror: |undefined reference|cannot find|/ld: |will not fit|overflowed|^wrong_\w+ [1-9]")
_TIMEOUT = 540  # seconds that one build or run may take


@dataclass(frozen=True)
class Target:
    """A device to build for: its tools with the Debian packages that bring them, and a line about how it runs."""

    name: str
    tools: Mapping[str, str]
    prefix: str  # of the cross-compiler's tools
    conditions: str


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("host", {"cc": "gcc", "make": "make"}, "", "this computer, its own compiler"),
        Target(
            "cortex-m4",
            {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"},
            "arm-none-eabi-",
            "Cortex-M4 with FPU, qemu mps2-an386",
        ),
        Target(
            "cortex-m0",
            {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"},
            "arm-none-eabi-",
            "code for Cortex-M0 without FPU, qemu mps2-an385",
        ),
        Target(
            "rv32",
            {
                "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
                "qemu-system-riscv32": "qemu-system-misc",
            },
            "riscv64-unknown-elf-",
            "RV32IMAC without FPU, qemu virt",
        ),
    )
}


@dataclass(frozen=True)
class Measurement:
    """The result of a run on a target. Bytes and instructions are ``None`` where they mean nothing, on the host.

    ``flash_bytes`` and ``ram_bytes`` are those of the smallest complete program: vectors, start-up, runtime, C library,
    model, one input and its logits, without the self-test; RAM without the stack. ``stack_bytes`` is the most stack
    that was in use while the self-test classified; ``instructions`` is the mean of one inference over ``inputs``.
    """

    target: str
    conditions: str
    compiler: str
    optimise: str
    inputs: int
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    stack_bytes: int | None = None
    instructions: int | None = None
    selftest_flash_bytes: int | None = None
    selftest_ram_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as a row of ``metrics.json``."""
        return asdict(self)


def missing_tools(targets: Sequence[str]) -> None:
    """Check that targets are known and that their tools are there.

    Raises:
        InputError: names the first that is not, with the Debian package that brings it.
    """
    for name in targets:
        if name not in TARGETS:
            raise InputError(f"--target {name}: expected one of {', '.join(TARGETS)}")
        tools = {"make": "make", **TARGETS[name].tools}
        for tool, package in tools.items():
            if shutil.which(tool) is None:
                raise InputError(f"--target {name} needs {tool}: apt-get install {package}")


def run_target(folder: Path, name: str, *, optimise: str = "-O3") -> Measurement:
    """Build and run the self-test of a firmware folder, and measure.

    Raises:
        InputError: a tool is missing.
        LitesnnError: the source does not compile, or the device computes something else than the reference.
    """
    missing_tools([name])
    target = TARGETS[name]
    compiler = f"{target.prefix}gcc" if target.prefix else "cc"
    variables = [f"TARGET={name}", f"OPTIMISE={optimise}", f"CFLAGS={optimise}", f"CC={compiler}"]
    said = _self_test(folder, name, variables)
    inputs = said["inputs"]
    facts: dict[str, Any] = {}
    if name != "host":
        # The difference between three inferences and one is two, and nothing else.
        facts["instructions"] = round((said["instructions_thrice"] - said["instructions_once"]) / (2 * inputs))
        facts["stack_bytes"] = said["stack"]
        _make(folder, [*variables, "app"])
        facts["flash_bytes"], facts["ram_bytes"] = _size(target, folder / "build" / name / "app")
        sizes = _size(target, folder / "build" / name / "selftest")
        facts["selftest_flash_bytes"], facts["selftest_ram_bytes"] = sizes
    version = _run([compiler, "--version"], folder, name).splitlines()[0]
    return Measurement(name, target.conditions, version, optimise, inputs, **facts)


def _self_test(folder: Path, name: str, variables: Sequence[str]) -> dict[str, int]:
    shutil.rmtree(folder / "build" / name, ignore_errors=True)
    output = _make(folder, [*variables, "test"])
    numbers = {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)$", output, flags=re.MULTILINE)}
    if not re.search(r"^passed$", output, flags=re.MULTILINE) or not numbers.get("inputs"):
        raise LitesnnError(f"{name}: the self-test did not pass: {output.strip().splitlines()[-1:]}")
    return numbers


def _make(folder: Path, arguments: Sequence[str]) -> str:
    return _run(["make", "--no-print-directory", *arguments], folder, arguments[0])


def _run(command: Sequence[str], folder: Path, what: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise LitesnnError(f"{what}: {command[0]} did not end within {_TIMEOUT} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = next((line for line in lines if _REASON.search(line)), lines[-1] if lines else "it said nothing")
        raise LitesnnError(f"{what}: {command[0]} failed: {told}")
    return done.stdout + done.stderr  # qemu prints what semihosting says to the latter


def _size(target: Target, program: Path) -> tuple[int, int]:
    """Bytes of flash (code, constants, initial values) and of static RAM (variables) of a linked program."""
    output = _run([f"{target.prefix}size", str(program)], program.parent, target.name)
    text, data, bss = map(int, output.splitlines()[1].split()[:3])
    return text + data, data + bss
