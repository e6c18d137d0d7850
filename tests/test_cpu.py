"""``LITESNN_CPU``: torch and our kernels keep to it, and a wrong value is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from litesnn.cpu import VARIABLE
from litesnn.deploy.engine import available_kernels
from litesnn.snn.native_library import instruction_sets

TOLD = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
ASK = """
import json
import litesnn
from litesnn.deploy.engine import available_kernels
from litesnn.snn.native_library import instruction_set, instruction_sets
import torch
print(json.dumps([torch.backends.cpu.get_cpu_capability(), available_kernels(), instruction_sets(), instruction_set()]))
"""


def ended(code: str, said: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A program in an environment where nothing else says which CPU this is."""
    rest = {name: value for name, value in os.environ.items() if name not in (VARIABLE, *TOLD)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**rest, **said}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.job
@pytest.mark.parametrize(
    ("value", "capability", "without"),
    [("avx512", "", set()), ("avx2", "AVX2", {"avx512"}), ("x86-64", "DEFAULT", {"avx512", "avx2"})],
)
def test_all_act_as_on_such_a_cpu(value: str, capability: str, without: set[str]) -> None:
    everything = json.loads(ended(ASK, {}).stdout)
    torchs, engines, ours, used = json.loads(ended(ASK, {VARIABLE: value}).stdout)
    if capability and everything[0] in ("AVX512", "AVX2"):
        assert torchs == capability
    assert engines == [name for name in everything[1] if name not in without]
    assert ours == [name for name in everything[2] if name not in without]
    assert used == ours[0]
    assert {"portable"} <= set(engines) & set(ours)


def test_what_is_said_already_stays() -> None:
    code = f"import os, litesnn\nprint(*(os.environ.get(name) for name in {TOLD}))"
    said = {VARIABLE: "avx2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    assert ended(code, said).stdout.split() == ["avx2", "SSE41", "AVX2"]
    assert ended(code, {}).stdout.split() == ["None"] * 3
    assert ended(code, {VARIABLE: ""}).stdout.split() == ["None"] * 3


@pytest.mark.job
def test_torch_may_be_there_already() -> None:
    found = ended("import torch, litesnn", {VARIABLE: "avx2"})
    assert found.returncode == 0
    assert "RuntimeWarning: LITESNN_CPU: torch was imported before litesnn" in found.stderr
    assert ended("import torch, litesnn", {}).stderr == ""


@pytest.mark.parametrize(
    "code",
    [
        "import litesnn.cli\nlitesnn.cli.main()",
        "from litesnn.deploy.engine import available_kernels\navailable_kernels()",
        "from litesnn.snn.native_library import library\nlibrary()",
    ],
)
def test_a_wrong_value_is_one_line(code: str) -> None:
    found = ended(code, {VARIABLE: "sse9"})
    line = "LITESNN_CPU is 'sse9'; expected avx512, avx2, x86-64, or nothing"
    assert found.returncode == (2 if "main" in code else 1)
    assert found.stderr.splitlines()[-1].endswith(f"rror: {line}")
    assert "main" not in code or found.stderr == f"litesnn: error: {line}\n"


def test_this_process_keeps_to_it_too() -> None:
    beyond = {"avx2": {"avx512"}, "x86-64": {"avx512", "avx2"}}.get(os.environ.get(VARIABLE, ""), set())
    assert not beyond & {*available_kernels(), *instruction_sets()}
