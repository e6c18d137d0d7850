from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import litesnn_build

ROOT = Path(__file__).parents[1]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of the search path, empty; nobody names a compiler."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.chdir(ROOT)
    return folder


def write_compiler(path: Path, status: int) -> None:
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)


def wants_zig() -> bool:
    answers = {
        any(line.startswith("ziglang") for line in ask())
        for ask in (litesnn_build.get_requires_for_build_wheel, litesnn_build.get_requires_for_build_editable)
    }
    assert len(answers) == 1
    return answers.pop()


def model_files() -> set[str]:
    """The files of the networks that come with the package."""
    return {path.name for path in (ROOT / "src/litesnn/models").iterdir() if path.suffix in (".safetensors", ".json")}


def test_without_a_compiler_zig_is_required(programs: Path) -> None:
    assert wants_zig()


def test_with_a_compiler_it_is_not(programs: Path) -> None:
    write_compiler(programs / "gcc", 0)
    assert not wants_zig()


def test_a_compiler_that_makes_no_program_does_not_count(programs: Path) -> None:
    write_compiler(programs / "cc", 1)
    write_compiler(programs / "gcc", 0)  # CMake would take cc
    assert wants_zig()


@pytest.mark.parametrize(
    ("variable", "value"), [("CC", "tcc"), ("CMAKE_ARGS", "-DCMAKE_C_COMPILER=tcc"), ("CMAKE_ARGS", "--fresh")]
)
def test_a_compiler_that_is_named_counts(
    programs: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert wants_zig() == (value == "--fresh")


def test_zig_compiles_for_every_cpu_of_the_architecture(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litesnn_build, "find_spec", lambda name: name)
    before = dict(os.environ)
    with litesnn_build.compiler():
        assert os.environ["CC"] == f"{sys.executable} -m ziglang cc -mcpu=baseline"
        assert Path(os.environ["ZIG_GLOBAL_CACHE_DIR"]).is_dir()
    assert dict(os.environ) == before


def test_neither_a_compiler_nor_zig(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litesnn_build, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="no working C compiler found: install one"), litesnn_build.compiler():
        pass


def test_source_archive_has_what_a_build_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / litesnn_build.build_sdist(str(tmp_path))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "src/litesnn/deploy/csrc").iterdir()}
    sources |= {f"src/litesnn/models/{name}" for name in model_files()}
    needed = {"CMakeLists.txt", "build_backend/litesnn_build.py", "pyproject.toml", "README.md", "LICENSE"}
    assert needed | sources <= inside
    assert not [name for name in inside if name.endswith((".so", ".dylib", ".dll"))]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_one_wheel_for_every_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name = litesnn_build.build_wheel(str(tmp_path))
    assert "-py3-none-" in name
    with zipfile.ZipFile(tmp_path / name) as wheel:
        libraries = [entry for entry in wheel.namelist() if "deploy/liblitesnn." in entry]
        assert {f"litesnn/models/{name}" for name in model_files()} <= set(wheel.namelist())
    assert len(libraries) == 1
