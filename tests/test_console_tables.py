"""What the command line prints: it fits 80 columns, adds up, and says what the model computes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from fake_run import fake_genotype, fake_metrics
from litesnn.console_tables import info_table, predictions, summary_table
from litesnn.deploy.packed import PackedModel, to_bytes, write
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.train.judgement import RULES
from packed_models import cell_model, random_input, random_model


def lines(table: Table, *, width: int = 80) -> list[str]:
    """The table as a terminal of ``width`` columns shows it, without blanks at the ends of lines."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def shown(model: PackedModel, folder: Path, **options: Any) -> list[str]:
    write(model, folder / "model.safetensors")
    return lines(info_table(folder / "model.safetensors"), **options)


def bytes_column(text: list[str]) -> dict[str, int]:
    """The bytes of each row by the row's first cell; rows of one name are added."""
    (header,) = (line for line in text if line.startswith("layer"))
    end = header.index("bytes") + len("bytes")
    found: dict[str, int] = {}
    for line in text[text.index(header) + 2 :]:
        if "k/s:" in line:
            break
        if line[end - 1 : end].strip():  # the column is set to the right
            name = line.split("  ")[0]
            found[name] = found.get(name, 0) + int(line[:end].split()[-1].replace(",", ""))
    return found


@pytest.mark.parametrize(("cells", "width", "keep"), [(1, 4, 0.2), (3, 16, 0.5), (8, 64, 0.2), (3, 200, 1.0)], ids=str)
def test_a_packed_model_fits_80_columns_and_adds_up(tmp_path: Path, cells: int, width: int, keep: float) -> None:
    model = cell_model(np.random.default_rng(0), cells=cells, width=width, keep=keep)
    text = shown(model, tmp_path)
    assert max(map(len, text)) <= 80
    assert "…" not in "".join(text[1:])  # the title may cut a long path
    sizes = bytes_column(text)
    bundles = sum(len(population.synapses) for population in model.populations)
    table = text[text.index(next(line for line in text if "─" in line)) + 1 :]
    assert sum("←" in line for line in table) == bundles + 1  # a row each, none folded
    assert sizes.pop("file") == len(to_bytes(model)) == sum(sizes.values())


@pytest.mark.parametrize("seed", range(20))
def test_every_packed_model_adds_up(tmp_path: Path, seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    sizes = bytes_column(shown(model, tmp_path))
    assert sizes.pop("file") == len(to_bytes(model)) == sum(sizes.values())


def test_the_rows_of_a_packed_model(tmp_path: Path) -> None:
    text = shown(cell_model(np.random.default_rng(0), cells=2, width=4), tmp_path)
    rows = [line.split() for line in text]
    assert ["0", "←", "image", "4×8×8", "3/1", "4", "36", "36", "all", "34", "12.3%"] in rows
    assert any(row[:6] == ["3", "←", "0", "4×8×8", "3/1", "2"] and row[-1].endswith("%") for row in rows)
    assert any(row[:5] == ["3", "←", "1,2", "3/1", "2"] for row in rows)  # the population's second row
    assert any(row[:4] == ["readout", "←", "3,4", "10"] for row in rows)


def test_an_identity_and_a_run_of_sources_are_named(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(0), cells=2, width=4)
    stem, *others = model.populations
    channels = len(stem.bias)
    identity = replace(
        stem.synapses[0], sources=(0,), kernel=0, stride=1, bits=0, codes=np.zeros((channels, 0, 0, 0), np.int8)
    )
    first = replace(others[0], synapses=(identity,), rate=None)
    codes = np.ones((10, 3 * channels), np.int8)
    readout = replace(model.readout, sources=(1, 2, 3), bits=1, codes=codes)
    text = shown(replace(model, populations=(stem, first, *others[1:]), readout=readout), tmp_path)
    rows = [line.split() for line in text]
    assert ["1", "←", "0", "4×8×8", "skip", "16"] in rows  # 4 scales and 4 biases of 2 bytes; no rate
    assert any(row[:4] == ["readout", "←", "1–3", "10"] for row in rows)


def test_names_are_no_markup(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]run[red]"
    folder.mkdir()
    text = shown(cell_model(np.random.default_rng(0), cells=1, width=2), folder)
    title = "".join("".join(text[: text.index(next(line for line in text if line.startswith("layer")))]).split())
    assert title.endswith("[bold]run[red]/model.safetensors:1×8×8→10classes,4timesteps")


def test_info_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file or folder"):
        info_table(tmp_path / "none")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a packed model"):
        info_table(tmp_path / "model.safetensors")


def fake_summary(*, paper: bool = False) -> dict[str, Any]:
    metrics = fake_metrics(fake_genotype(), np.random.default_rng(1), classes=list("0123456789"), paper=paper)
    return metrics | {"recipe": "digits"}


def test_the_summary_has_every_figure_beside_its_budget() -> None:
    metrics = fake_summary()
    metrics["budgets"][1] |= {"limit": 1000.0, "value": 1234.5, "kept": False}
    text = lines(summary_table(metrics))
    assert "…" not in "".join(text)
    assert "digits on digits, seed 0" in text[0]
    rows = {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("│").split("│")] for line in text)}
    assert rows["test accuracy"] == [f"{metrics['test_accuracy']:.2%} ± 1.0 of 360", "", ""]
    assert rows["balanced accuracy"] == [f"{metrics['balanced_accuracy']:.2%}", "", ""]
    assert rows["linear classifier"] == ["91.00%", "", ""]
    assert rows["always the commonest class"] == ["10.50%", "", ""]
    assert "warning" not in rows
    size = metrics["packed_bytes"]
    assert rows["packed size, B"] == [f"{size:,}", f"{size * 1.08:,.0f}", "yes"]
    assert rows["Bit-SynOps"] == ["1,234", "1,000", "NO"]
    assert rows["timesteps"] == ["3", "4", "yes"]
    assert rows["stem MACs"] == ["9,216", "", ""]
    assert rows["energy estimate, nJ"] == ["41.70", "", ""]


def test_the_summary_has_a_row_for_each_warning() -> None:
    warnings = [{"rule": rule.name, "label": rule.label, "grave": rule.grave, "text": "…"} for rule in RULES]
    text = lines(summary_table(fake_summary() | {"warnings": warnings}))
    found = [line.strip("│").split("│")[1].strip() for line in text if line.startswith("│ warning")]
    assert found == [rule.label for rule in RULES]  # none is folded
    assert max(map(len, text)) <= 80


def test_runs_of_older_versions_have_a_summary_too() -> None:
    metrics = fake_summary()
    for key in ("test_standard_error", "balanced_accuracy", "per_class", "baselines", "warnings"):
        del metrics[key]
    text = "\n".join(lines(summary_table(metrics)))
    assert f"{metrics['test_accuracy']:.2%} of 360" in text
    assert "linear" not in text
    assert "warning" not in text


def test_without_budgets_the_summary_judges_nothing() -> None:
    text = "\n".join(lines(summary_table(fake_summary(paper=True) | {"recipe": "[/x]"})))
    assert "[/x] on digits" in text
    assert "yes" not in text
    assert "NO" not in text


@pytest.mark.parametrize("kind", ["image", "array"])
def test_predictions_are_those_of_the_reference(tmp_path: Path, kind: Any) -> None:
    rng = np.random.default_rng(4)
    model = cell_model(rng, cells=1, width=8)
    model = replace(model, input=replace(model.input, kind=kind), classes=tuple("abcdefghij"))
    write(model, tmp_path / "model.safetensors")
    x = random_input(rng, model.input, 3)
    np.save(tmp_path / "three.npy", x)
    np.save(tmp_path / "one.npy", x[1])
    rows = list(predictions(tmp_path / "model.safetensors", [tmp_path / "three.npy", tmp_path / "one.npy"]))
    logits = Reference(model).run(x).logits[-1]
    assert [row["input"] for row in rows] == [
        *(f"{tmp_path / 'three.npy'}[{number}]" for number in range(3)),
        str(tmp_path / "one.npy"),
    ]
    for row, expected in zip(rows, logits[[0, 1, 2, 1]], strict=True):
        assert row["logits"] == expected.tolist()
        assert row["class"] == "abcdefghij"[int(expected.argmax())]
        assert row["probability"] == pytest.approx(1 / np.exp(expected - expected.max()).sum())


def test_huge_logits_still_have_a_probability(tmp_path: Path) -> None:
    model = cell_model(np.random.default_rng(4), cells=1, width=8)
    bias = np.array([60000.0] + [-60000.0] * 9, np.float32).astype(np.float16).astype(np.float32)
    write(replace(model, readout=replace(model.readout, bias=bias)), tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((8, 8), np.float32))
    (row,) = predictions(tmp_path / "model.safetensors", [tmp_path / "x.npy"])
    assert (row["class"], row["probability"]) == ("0", 1.0)


def test_a_bad_input_is_refused_where_it_stands(tmp_path: Path) -> None:
    write(cell_model(np.random.default_rng(4), cells=1, width=8), tmp_path / "model.safetensors")
    np.save(tmp_path / "good.npy", np.zeros((1, 8, 8), np.float32))
    np.save(tmp_path / "bad.npy", np.zeros((1, 9, 9), np.float32))
    found = predictions(tmp_path / "model.safetensors", [tmp_path / "good.npy", tmp_path / "bad.npy"])
    assert next(found)["input"] == str(tmp_path / "good.npy")
    with pytest.raises(InputError, match=r"bad\.npy: has shape \[1, 9, 9\]; expected \[N, 1, 8, 8\]"):
        next(found)
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read as a packed model"):
        next(predictions(tmp_path / "none.safetensors", []))
