"""Names from files as part of a line: nothing in them reaches the terminal but what can be read there."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from fake_run import fake_genotype, fake_metrics
from litesnn.cli import app
from litesnn.console_tables import info_table, summary_table
from litesnn.deploy.packed import write
from litesnn.errors import InputError
from litesnn.text import plain, reason_of
from litesnn.training_loop.session import Session
from packed_models import cell_model

FORGED = "cat (99.9%)\nother.png: dog\x1b]0;owned\x07\x1b[2J\u202e\udcff[red]:warning:"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich, 猫, 100 % [ab]", "Zürich, 猫, 100 % [ab]"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x7f\x9b", r"\x1b[31mred\x7f\x9b"),
        ("\u2028\u202e\u200b\udcff", r"\u2028\u202e\u200b\udcff"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(shown) == shown


def test_reasons_are_one_line_and_never_empty() -> None:
    assert reason_of(ValueError("a\n  b\x1b")) == r"a b\x1b"
    assert reason_of(MemoryError()) == "MemoryError"
    assert reason_of(ValueError("a"), named=True) == "ValueError: a"
    assert len(reason_of(ValueError("a" * 1000))) == 300


def test_errors_are_one_line() -> None:
    assert str(InputError(f"{FORGED}: wrong")) == f"{plain(FORGED)}: wrong"


def test_what_a_stage_shows_is_one_line() -> None:
    file = io.StringIO()
    Session(console=Console(file=file, width=20)).show("[bold]a[/] cat\nother.png: dog\x1b[2J :warning:")
    assert file.getvalue() == "a cat\\nother.png: dog\\x1b[2J :warning:\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A packed model whose classes and folder have names like that; no file system takes a half of a pair."""
    folder = tmp_path / FORGED.replace("/", "").replace("\udcff", "")
    folder.mkdir()
    made = cell_model(np.random.default_rng(4), cells=1, width=8)
    write(replace(made, classes=(FORGED.replace("\udcff", ""),) * 10), folder / "model.safetensors")
    np.save(folder / "x.npy", np.zeros((1, 8, 8), np.float32))
    return folder


def test_predictions_are_one_line_each(model: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(model / "model.safetensors"), str(model / "x.npy")])
    assert result.exit_code == 0
    assert result.output.count("\n") == 1
    assert result.output.strip().isprintable()
    assert plain(FORGED.replace("\udcff", "")) in result.output


def shown(table: Table) -> str:
    console = Console(width=400, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_tables_hold_no_escapes(model: Path) -> None:
    metrics = fake_metrics(fake_genotype(), np.random.default_rng(1), classes=list("0123456789"), paper=False)
    warning = {"rule": "a", "label": FORGED, "grave": True, "text": "…"}
    metrics |= {"recipe": FORGED, "arithmetic": FORGED, "warnings": [warning]}
    for table in (info_table(model / "model.safetensors"), summary_table(metrics)):
        text = shown(table)
        assert text.replace("\n", "").isprintable()
        assert "[red]" in text
