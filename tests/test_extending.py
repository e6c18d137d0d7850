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


def tests_of_row(sources: Path, row: str, path: str) -> int:
    """Run the tests of one row in a copy of the sources; how many there were, all of which have to pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", row, path]
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


def append(path: Path, text: str) -> None:
    """Add a row to the end of a file."""
    with path.open("a", encoding="utf-8") as table:
        table.write("\n" + text)


def test_a_cost_takes_a_module_and_a_row(sources: Path) -> None:
    module, row = examples("A cost")
    (sources / "costs" / "slots.py").write_text(module, encoding="utf-8")
    append(sources / "costs" / "__init__.py", row)
    assert tests_of_row(sources, "kept_weights", "tests/test_costs.py") >= 8


def test_a_quantizer_takes_a_module_and_a_row(sources: Path) -> None:
    module, row = examples("A quantizer")
    (sources / "quantizers" / "largest.py").write_text(module, encoding="utf-8")
    append(sources / "quantizers" / "__init__.py", row)
    assert tests_of_row(sources, "largest", "tests/test_quantizers.py") >= 10


def test_an_operation_takes_a_row(sources: Path) -> None:
    (row,) = examples("An operation")
    append(sources / "genotype.py", row)
    assert tests_of_row(sources, "trio3x3", "tests/test_operations.py") >= 10
