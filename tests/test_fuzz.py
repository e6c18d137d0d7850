"""The fuzzers' seeds and findings without a fuzzer, and short runs of the fuzzers themselves."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import fuzzers
import make_seeds
import packed_promises
from litesnn.deploy import native, packed
from litesnn.errors import InputError

FUZZ = Path(__file__).parents[1] / "fuzz"


def inputs(name: str) -> list[Path]:
    return sorted(path for folder in ("seeds", "findings") for path in (FUZZ / folder / name).iterdir())


def load(image: bytes) -> int:
    """The status of loading an engine image with every kernel."""
    library, statuses = native.load_library(), set()
    for number in range(8):
        if (kernel := library.lsnn_kernel_name(number)) is None:
            break
        handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(256)
        statuses.add(library.lsnn_load(ctypes.byref(handle), image, len(image), kernel, -1, 1, message, 256))
        library.lsnn_free(handle)
    (status,) = statuses
    return int(status)


def test_seeds_are_those_that_are_made() -> None:
    for name, made in make_seeds.make_seeds().items():
        assert made == {path.name: path.read_bytes() for path in (FUZZ / "seeds" / name).iterdir()}
    assert sum(path.stat().st_size for path in (FUZZ / "seeds").rglob("*") if path.is_file()) < 2**19


@pytest.mark.parametrize("path", inputs("packed"), ids=lambda path: path.name)
def test_packed_inputs_keep_their_promises(path: Path) -> None:
    accepted = packed_promises.check(path.read_bytes())
    assert accepted == (path.parent.parent.name == "seeds")


@pytest.mark.parametrize("path", inputs("image"), ids=lambda path: path.name)
def test_image_inputs_are_loaded_or_refused(path: Path) -> None:
    assert load(path.read_bytes()) == native.Status.OK


def test_seeds_that_are_cut_or_changed_are_refused_or_keep_their_promises() -> None:
    """A fuzzer of a hundred lines less: every byte of a small file in turn."""
    data = min((path.read_bytes() for path in inputs("packed")), key=len)
    for at in range(0, len(data), 3):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]):
            packed_promises.check(changed)
    with pytest.raises(InputError):
        packed.from_bytes(data[:-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where fuzzers are built: the engine is compiled once for both."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(fuzzers.FUZZERS))
def test_a_short_run_finds_nothing(name: str, folder: Path) -> None:
    if reason := fuzzers.missing(name):
        pytest.skip(reason)
    outcome = fuzzers.fuzz(name, 30, folder)
    assert not outcome.found, outcome.log[-4000:]
    assert outcome.executions > 100
    assert outcome.coverage > 300  # of the reader alone, whatever the compiler
    assert "Custom-" in outcome.log  # new inputs come from our mutators
    assert any((folder / "corpus" / name).iterdir())
