"""Builds and runs the fuzzers: ``python fuzz/fuzzers.py [NAME …] [--seconds N]``, or ``make fuzz``.

``image`` is libFuzzer on the native engine, with the address and the undefined-behaviour sanitizer; ``packed`` is
atheris on the Python reader of packed files, and on the engine, built in the same way; ``recipe`` and ``run`` are
atheris on the readers of recipes and of the files of a run folder, which need no compiler. The first two start from
``fuzz/seeds``, from every input that ever was a finding (``fuzz/findings``) and from what runs before found
interesting, and stop at a finding: the input is then in ``fuzz/build/found``, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["BUILD", "FINDINGS", "FUZZERS", "Outcome", "build_image_fuzzer", "fuzz", "missing"]

HERE = Path(__file__).parent
ENGINE = HERE.parent / "src" / "litesnn" / "deploy" / "csrc"
SEEDS, FINDINGS, BUILD = HERE / "seeds", HERE / "findings", HERE / "build"

SANITIZERS = "-fsanitize=address,undefined"
FLAGS = ("-std=c99", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-Wall", "-Wextra", "-pedantic")
KERNELS: dict[str, tuple[str, ...]] = {"kernel_portable": ()} | {  # as in CMakeLists.txt; the others are left out
    f"kernel_{isa}": tuple(flags)
    for isa, architecture, *flags in map(str.split, (ENGINE / "isa_flags.txt").read_text(encoding="utf-8").splitlines())
    if architecture == "__x86_64__"
}
KERNEL_MACROS = ("-DLSNN_HAVE_AVX2", "-DLSNN_HAVE_AVX512", "-DUNROLL=")

# libFuzzer's clock is the wall's: what it calls a slow unit says how busy the machine is.
LIMITS = ("-timeout=30", "-report_slow_units=30", "-rss_limit_mb=4096", "-print_final_stats=1", "-verbosity=1")
MAX_BYTES = {"image": 32768, "packed": 16384, "recipe": 16384, "run": 2**20}
PLAIN = ("recipe", "run")  # in Python alone
ALLOCATION_MB = 256  # by one call: an image of a few bytes must not ask for much
GRACE = 120  # seconds


@dataclass(frozen=True)
class Outcome:
    """What a fuzzer did. ``found`` are the inputs that broke a promise; ``log`` is all that it said."""

    executions: int
    seconds: int
    coverage: int
    found: tuple[Path, ...]
    log: str


def missing(name: str) -> str | None:
    """What this machine lacks for the fuzzer ``name``, or None."""
    if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
        return "the fuzzers are built for Linux on x86-64"
    if name not in PLAIN and shutil.which("clang") is None:
        return "clang is missing: install it with its runtime libraries (on Debian: clang, libclang-rt-14-dev)"
    with tempfile.TemporaryDirectory() as folder:
        done = (
            None
            if name in PLAIN
            else _clang("-fsanitize=fuzzer", SANITIZERS, "-x", "c", "-", "-o", f"{folder}/empty", text=_EMPTY)
        )
    if done is not None and done.returncode:
        return f"clang has no libFuzzer or sanitizers (on Debian: libclang-rt-14-dev): {done.stderr.strip()[:200]}"
    if name != "image" and importlib.util.find_spec("atheris") is None:
        return "atheris is missing: pip install 'litesnn[fuzz]'"
    return None


_EMPTY = "int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { (void)data; return size > 9; }"


def build_image_fuzzer(folder: Path) -> Path:
    """The libFuzzer binary of ``image``, built in ``folder``."""
    objects = [*_engine_objects(folder), *_compile(folder, sorted(HERE.glob("*.c")))]
    binary = folder / "fuzz_image"
    _run_clang("-fsanitize=fuzzer", SANITIZERS, *objects, "-lm", "-lpthread", "-o", str(binary))
    return binary


def build_library(folder: Path) -> Path:
    """The engine as a shared library, for a Python into which sanitizers and fuzzer were loaded."""
    library = folder / "liblitesnn.so"
    _run_clang("-shared", *_engine_objects(folder), "-lm", "-lpthread", "-o", str(library))
    return library


@cache
def _engine_objects(folder: Path) -> list[str]:
    sources = sorted(ENGINE.glob("*.c"))
    return _compile(folder, [path for path in sources if path.stem in KERNELS or not path.stem.startswith("kernel_")])


def _compile(folder: Path, sources: Sequence[Path]) -> list[str]:
    """The object files of ``sources``. Coverage is of the engine only, comparisons are traced in its loader only."""

    def compile_one(source: Path) -> str:
        flags = [
            *FLAGS,
            SANITIZERS,
            "-fno-sanitize-recover=all",
            "-fPIC",
            *KERNEL_MACROS,
            *KERNELS.get(source.stem, ()),
        ]
        if source.parent == ENGINE:
            flags.append("-fsanitize=fuzzer-no-link")
            if source.stem != "loader":
                flags.append("-fno-sanitize-coverage=trace-cmp")
        made = str(folder / f"{source.stem}.o")
        _run_clang(*flags, f"-I{ENGINE}", f"-I{HERE}", "-c", str(source), "-o", made)
        return made

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def _clang(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["clang", *arguments], input=text, capture_output=True, text=True, check=False)


def _run_clang(*arguments: str) -> None:
    done = _clang(*arguments)
    if done.returncode:
        raise RuntimeError(f"clang {' '.join(arguments)}:\n{done.stderr}")


def _start_image(folder: Path) -> tuple[list[str], dict[str, str]]:
    return [str(build_image_fuzzer(folder)), f"-malloc_limit_mb={ALLOCATION_MB}"], {}


def _start_packed(folder: Path) -> tuple[list[str], dict[str, str]]:
    variables = {
        "LITESNN_LIBRARY": str(build_library(folder)),
        "LD_PRELOAD": ":".join(map(str, _atheris_libraries())),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until it ends
    }
    return [sys.executable, str(HERE / "packed_file.py")], variables


def _atheris_libraries() -> list[Path]:
    """Atheris' own sanitizers with libFuzzer, and what calls our mutator.

    A sanitizer without libFuzzer would swallow all coverage, and a libFuzzer finds no mutator that comes later.
    """
    spec = importlib.util.find_spec("atheris")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    return [package.parent / "asan_with_fuzzer.so", *package.glob("custom_mutator.*.so")]


def _start_recipe(folder: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, str(HERE / "run_file.py"), "--recipes"], {}


def _start_run(folder: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, str(HERE / "run_file.py")], {}


FUZZERS: dict[str, Callable[[Path], tuple[list[str], dict[str, str]]]] = {
    "image": _start_image,
    "packed": _start_packed,
    "recipe": _start_recipe,
    "run": _start_run,
}
"""What builds a fuzzer in a folder and says how to start it: the command and environment variables."""


def fuzz(name: str, seconds: int, folder: Path = BUILD) -> Outcome:
    """Build the fuzzer ``name`` in ``folder`` and run it for so long, or until it finds something."""
    command, variables = FUZZERS[name](folder)
    corpus, found = folder / "corpus" / name, folder / "found" / name
    for made in (corpus, found):
        made.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    inputs = [path for path in (corpus, SEEDS / name, FINDINGS / name) if path.is_dir()]
    limits = [*LIMITS, f"-max_len={MAX_BYTES[name]}", f"-max_total_time={seconds}", f"-artifact_prefix={found}/"]
    done = subprocess.run(
        [*command, *limits, *map(str, inputs)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=seconds + GRACE,
        check=False,
    )
    new = tuple(sorted(set(found.iterdir()) - before))
    if not new and done.returncode:
        raise RuntimeError(f"the fuzzer {name} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    coverage = _last(r"cov: (\d+)", done.stdout)
    if not new and not coverage:
        raise RuntimeError(f"the fuzzer {name} sees nothing of what it runs:\n{done.stdout[-4000:]}")
    return Outcome(
        executions=_last(r"stat::number_of_executed_units:\s*(\d+)", done.stdout),
        seconds=_last(r"Done \d+ runs in (\d+) second", done.stdout),
        coverage=coverage,
        found=new,
        log=done.stdout,
    )


def _last(pattern: str, text: str) -> int:
    return int((re.findall(pattern, text) or ["0"])[-1])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of untrusted files.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FUZZERS)}; default: all")
    parser.add_argument("--seconds", type=int, default=1800, help="for each (default: %(default)s)")
    arguments = parser.parse_args()
    status = 0
    for name in arguments.names or FUZZERS:
        if name not in FUZZERS:
            parser.error(f"{name}: expected one of {', '.join(FUZZERS)}")
        if reason := missing(name):
            print(f"{name}: {reason}", file=sys.stderr)
            return 2
        print(f"{name}: {arguments.seconds} s ...", flush=True)
        outcome = fuzz(name, arguments.seconds)
        print(f"{name}: {outcome.executions} executions in {outcome.seconds} s, coverage {outcome.coverage}")
        for path in outcome.found:
            print(f"{name}: found {path}\n{outcome.log[-4000:]}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
