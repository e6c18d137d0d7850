"""The build backend: scikit-build-core, and where there is no C compiler the one that ``ziglang`` brings from PyPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from scikit_build_core import build as backend
from scikit_build_core.build import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, list[str] | str] | None

COMPILERS = ("cc", "gcc", "cl", "clang")  # in the order in which CMake looks for them
CMAKE_NAMES = ("CMAKE_C_COMPILER", "CMAKE_TOOLCHAIN_FILE")
ZIG = "ziglang>=0.13"


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What scikit-build-core needs, and a compiler if there is none."""
    return backend.get_requires_for_build_wheel(config_settings) + ([] if has_compiler() else [ZIG])


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What scikit-build-core needs, and a compiler if there is none."""
    return backend.get_requires_for_build_editable(config_settings) + ([] if has_compiler() else [ZIG])


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel with the shared library in it; returns its name."""
    with compiler():
        return backend.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the shared library in the source tree, and a wheel that points there; returns its name."""
    with compiler():
        return backend.build_editable(wheel_directory, config_settings, metadata_directory)


def has_compiler() -> bool:
    """Whether somebody named a C compiler, or the first that CMake will find makes programs.

    One that is there may still be of no use: without the headers of the C library, or a placeholder (macOS).
    """
    if os.environ.get("CC") or any(name in os.environ.get("CMAKE_ARGS", "") for name in CMAKE_NAMES):
        return True
    program = next(filter(None, map(shutil.which, COMPILERS)), None)
    if program is None or Path(program).stem == "cl":
        return program is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.c")
        source.write_text('#include <stdio.h>\nint main(void) { return puts("") < 0; }\n', encoding="utf-8")
        return subprocess.run([program, source.name], cwd=folder, capture_output=True, check=False).returncode == 0


@contextmanager
def compiler() -> Iterator[None]:
    """Tell CMake for the time of a build to take zig, with every CPU of this architecture in mind, if it has to."""
    if has_compiler():
        yield
        return
    if find_spec("ziglang") is None:
        raise RuntimeError("no working C compiler found: install one, name it in CC, or 'pip install ziglang'")
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CC"] = f"{sys.executable} -m ziglang cc -mcpu=baseline"
        os.environ["ZIG_LOCAL_CACHE_DIR"] = os.environ["ZIG_GLOBAL_CACHE_DIR"] = folder
        os.environ.setdefault("CMAKE_GENERATOR", "Ninja")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
