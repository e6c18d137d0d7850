"""The worked examples of docs/extending.md: each is added to a copy of the sources, where its row's tests then run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def examples(section: str) -> list[str]:
    """The blocks of Python in a section."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "src" / "litesnn", tmp_path / "litesnn", ignore=ignored)


def test_a_cost_takes_a_module_and_a_row(sources: Path) -> None:
    module, row = examples("A cost")
    (sources / "costs" / "slots.py").write_text(module, encoding="utf-8")
    with (sources / "costs" / "__init__.py").open("a", encoding="utf-8") as table:
        table.write("\n" + row)
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-k",
            "kept_weights",
            "tests/test_costs.py",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(sources.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    count = re.search(r"(\d+) passed", found.stdout)
    assert count is not None
    assert int(count[1]) >= 8


def test_a_neuron_takes_a_module_and_a_row(sources: Path) -> None:
    module, row = examples("A neuron")
    (sources / "neurons" / "subtract.py").write_text(module, encoding="utf-8")
    with (sources / "neurons" / "__init__.py").open("a", encoding="utf-8") as table:
        table.write("\n" + row)
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-k",
            "subtract",
            "tests/test_neurons.py",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(sources.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    count = re.search(r"(\d+) passed", found.stdout)
    assert count is not None
    assert int(count[1]) >= 16
