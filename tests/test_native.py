from __future__ import annotations

import _ctypes
import ctypes
import re
from enum import IntEnum
from pathlib import Path

import pytest

from litesnn.deploy import native
from litesnn.errors import InputError, LitesnnError

SOURCES = Path(__file__).parents[1] / "src" / "litesnn" / "deploy" / "csrc"
HEADER = re.sub(r"/\*.*?\*/", "", (SOURCES / "litesnn.h").read_text(encoding="utf-8"), flags=re.DOTALL)

SCALARS: dict[str, type] = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "double": ctypes.c_double,
}
POINTERS: dict[str, type] = {
    "char *": ctypes.c_char_p,
    "void *": ctypes.c_void_p,
    "float *": ctypes.c_void_p,
    "lsnn_engine *": ctypes.c_void_p,
    "lsnn_engine **": ctypes.POINTER(ctypes.c_void_p),
    "uint8_t **": ctypes.POINTER(ctypes.c_void_p),
    "lsnn_bundle_info *": ctypes.POINTER(native.BundleInfo),
}
TYPES: dict[str, type | None] = {"void": None, **SCALARS, **POINTERS}


def c_type(declaration: str) -> type | None:
    """The ctypes type of ``const char *name``; the last word is the name."""
    words, stars, _ = re.fullmatch(r"([\w ]+?)\s*((?:\*|const|\s)*)\b(\w+)", declaration.strip()).groups()  # type: ignore[union-attr]
    name = words.replace("const ", "").strip()
    return TYPES[f"{name} {'*' * stars.count('*')}".strip()]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return native.load_library()


def test_functions_are_those_of_the_header() -> None:
    declared = {}
    for head, parameters in re.findall(r"^LSNN_API ([^;(]*)\(([^;]*)\);", HEADER, flags=re.MULTILINE):
        name = head.split()[-1].lstrip("*")
        listed = [] if parameters == "void" else parameters.split(",")
        declared[name] = (c_type(head), tuple(c_type(parameter) for parameter in listed))
    assert len(declared) == HEADER.count("\nLSNN_API ")
    assert declared == native.SIGNATURES


def test_version_is_that_of_the_header() -> None:
    assert re.findall(r"#define LSNN_ABI (\d+)", HEADER) == [str(native.ABI)]


@pytest.mark.parametrize(("name", "mirror"), [("lsnn_status", native.Status), ("lsnn_method", native.Method)])
def test_enumerations_are_those_of_the_header(name: str, mirror: type[IntEnum]) -> None:
    body = re.search(rf"enum {name} {{([^}}]*)}}", HEADER)
    assert body is not None
    listed = re.findall(r"LSNN_(\w+) = (\d+)", body[1])
    assert listed == [(member.name, str(member.value)) for member in mirror]


def test_bundle_info_is_that_of_the_header() -> None:
    body = re.search(r"typedef struct {([^}]*)} lsnn_bundle_info;", HEADER)
    assert body is not None
    fields = re.findall(r"(\w+) (\w+);", body[1])
    assert [(name, SCALARS[kind]) for kind, name in fields] == list(native.BundleInfo._fields_)


def test_the_library_that_was_built(library: ctypes.CDLL) -> None:
    assert library.lsnn_abi() == native.ABI
    names: list[bytes] = []
    while (name := library.lsnn_kernel_name(len(names))) is not None:
        names.append(name)
    assert names[-1] == b"portable"
    assert len(set(names)) == len(names)


def test_the_library_is_as_new_as_its_sources(library: ctypes.CDLL) -> None:
    built = Path(library._name)
    if built.parent != SOURCES.parent:
        pytest.skip("the library that is tested was not built in the source tree")
    newest = max(SOURCES.glob("*"), key=lambda path: path.stat().st_mtime)
    assert built.stat().st_mtime >= newest.stat().st_mtime, (
        f"{newest.name} was edited: build again with 'pip install -e .'"
    )


def test_the_variable_names_another_library(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(Path(library._name).read_bytes())
    monkeypatch.setenv(native.VARIABLE, str(copy))
    named = native.load_library()
    assert named._name == str(copy)
    assert named.lsnn_abi() == native.ABI


def test_the_variable_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(InputError, match=r"LITESNN_LIBRARY: there is no file .*none\.so; expected the native engine's"):
        native.load_library()


def test_the_variable_names_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.so").write_text("text")
    monkeypatch.setenv(native.VARIABLE, str(tmp_path / "text.so"))
    with pytest.raises(InputError, match=r"LITESNN_LIBRARY: .*text\.so: expected a shared library"):
        native.load_library()


def test_the_variable_names_a_strange_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, _ctypes.__file__)
    with pytest.raises(InputError, match=r"LITESNN_LIBRARY: .*: expected litesnn's native engine \(.*lsnn_abi"):
        native.load_library()


def test_a_library_of_another_version_is_refused(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "old.so"
    copy.write_bytes(Path(library._name).read_bytes())
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    monkeypatch.setenv(native.VARIABLE, str(copy))
    with pytest.raises(
        InputError, match=rf"old\.so: version {native.ABI - 1} of the native engine, expected {native.ABI}"
    ):
        native.load_library()


def test_a_package_without_its_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "FILE_NAME", "none.so")
    with pytest.raises(LitesnnError, match=r"none\.so was not built: install litesnn again") as caught:
        native.load_library()
    assert not isinstance(caught.value, InputError)
