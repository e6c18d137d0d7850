"""A command for which there is not enough memory says so in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from litesnn import console_tables
from litesnn.errors import OutOfMemory, memory_errors_told
from packed_models import cell_model
from whole_job import litesnn


def python() -> object:
    raise MemoryError


def system() -> object:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def gpu() -> object:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB")


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: np.ones((2**50,)), r"out of memory, asked for 8\.00 PiB more"),
    (lambda: np.ones((2**45,)), "out of memory, asked for 256. TiB more"),
    (lambda: torch.ones(2**45), "out of memory, asked for 140737488355328 bytes more"),
    (python, "out of memory; try"),
    (system, "out of memory; try"),
    (gpu, r"out of memory of the GPU, asked for 2\.00 GiB more"),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_it_is_one_line(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    raises, message = ERRORS[number]
    monkeypatch.setattr(console_tables, "info_table", lambda _: raises())
    outcome = litesnn("info", "run")
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    with pytest.raises(OutOfMemory, match=f"^{message}"), memory_errors_told():
        raises()
    assert outcome.err.startswith("litesnn: error: out of memory")


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), OSError(errno.ENOENT, "no such file")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors_told():
        raise error
    assert caught.value is error


@pytest.mark.job
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_prediction_without_memory(tmp_path: Path) -> None:
    from litesnn.deploy.packed import write

    model = cell_model(np.random.default_rng(0))
    write(model, tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((200_000, 1, 8, 8), np.float32))
    program = (
        "import resource, sys; import litesnn.console_tables; from litesnn.cli import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28)); main()"
    )
    command = ["predict", "model.safetensors", "x.npy", "--engine", "reference"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("litesnn: error: out of memory")
    assert done.stderr.count("\n") == 1
