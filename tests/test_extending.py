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


def passed(sources: Path, tests: str, name: str) -> int:
    """How many tests of a file that name a row pass with these sources; all have to."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", name, f"tests/{tests}"]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(sources.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    count = re.search(r"(\d+) passed", found.stdout)
    assert count is not None
    return int(count[1])


def add(sources: Path, module: str, table: str, section: str) -> None:
    """Write the module of a section's example, and append its row to the table."""
    text, row = examples(section)
    (sources / module).write_text(text, encoding="utf-8")
    append(sources / table, row)


def append(path: Path, row: str) -> None:
    """Add a row to the end of a table's file."""
    with path.open("a", encoding="utf-8") as table:
        table.write("\n" + row)


@pytest.mark.job
def test_a_cost_takes_a_module_and_a_row(sources: Path) -> None:
    add(sources, "costs/slots.py", "costs/__init__.py", "A cost")
    assert passed(sources, "test_costs.py", "kept_weights") >= 8


@pytest.mark.job
def test_a_stage_takes_a_module_and_a_row(sources: Path) -> None:
    add(sources, "digest.py", "stages.py", "A stage")
    assert passed(sources, "test_stages.py", "digest") >= 5


@pytest.mark.job
def test_a_strategy_takes_a_module_and_a_row(sources: Path) -> None:
    add(sources, "search/chance.py", "strategies.py", "A strategy of search")
    assert passed(sources, "test_strategies.py", "chance") >= 5


@pytest.mark.job
def test_a_quantizer_takes_a_module_and_a_row(sources: Path) -> None:
    add(sources, "quantizers/largest.py", "quantizers/__init__.py", "A quantizer")
    assert passed(sources, "test_quantizers.py", "largest") >= 10


@pytest.mark.job
def test_an_operation_takes_a_row(sources: Path) -> None:
    (row,) = examples("An operation")
    append(sources / "genotype.py", row)
    assert passed(sources, "test_operations.py", "trio3x3") >= 10


@pytest.mark.job
def test_a_neuron_takes_a_module_and_a_row(sources: Path) -> None:
    add(sources, "neurons/subtract.py", "neurons/__init__.py", "A neuron")
    assert passed(sources, "test_neurons.py", "subtract") >= 16
