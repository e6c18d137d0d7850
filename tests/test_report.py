"""The report page: complete, self-contained, safe and the same every time."""

from __future__ import annotations

import json
import re
import struct
import sys
import zlib
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_run import fake_genotype, write_fake_run
from litesnn.errors import InputError
from litesnn.genotype import OPS, Edge, all_edges
from litesnn.neurons import NEURONS
from litesnn.quantizers import QUANTIZERS
from litesnn.report import diagrams, plots
from litesnn.report.page import Examples, wilson_interval, write_report

SECTIONS = {"network", "search", "training", "costs", "errors", "examples", "conditions"}


class Page(HTMLParser):
    """The page's elements, attributes and text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def sections(self) -> set[str]:
        return {attributes["id"] for tag, attributes in self.elements if tag == "section" and "id" in attributes}


def _page(folder: Path, **options: Any) -> tuple[str, Page]:
    path = write_report(folder, write_fake_run(folder, **options))
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return text, page


def _change(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ``None`` removes the key."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nodes": 2, "timesteps": 1},
        {"nodes": 4, "cells": 8, "paper": True},
        {"classes": [f"c{i}" for i in range(30)]},
    ],
    ids=["plain", "one timestep", "paper", "thirty classes"],
)
def test_page_is_complete_and_stands_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    text, page = _page(tmp_path / "run", **options)
    assert page.sections == SECTIONS
    assert len(text.encode()) < 1_500_000
    assert not plots.PLACEHOLDER.search(text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "image"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)|@import", text)
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text):
        assert max(reference) in ids
    for tag, attributes in page.elements:
        assert tag != "svg" or attributes["aria-label"]
        assert tag != "img" or attributes["alt"]


def test_css_variables_of_the_drawings_are_defined(tmp_path: Path) -> None:
    text, _ = _page(tmp_path / "run")
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", text)), set(re.findall(r"(--[\w-]+):", text))
    assert {"--ink", "--series-1"} <= used <= defined


@pytest.mark.job
def test_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    examples = write_fake_run(tmp_path / "run")
    first = write_report(tmp_path / "run", examples).read_bytes()
    assert write_report(tmp_path / "run", examples).read_bytes() == first
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>\"&"
    write_fake_run(tmp_path / "run", classes=[hostile, "b", "c"])
    run = tmp_path / "run"
    _change(
        run / "metrics.json",
        command=hostile,
        data={"name": hostile, "test": 360},
        energy={"total_nj": 1, "note": hostile},
    )
    (run / "recipe.toml").write_text(f"# {hostile}")
    text = write_report(run, _two_examples(3)).read_text(encoding="utf-8")
    assert "<script" not in text
    assert {tag for tag, _ in Page(text).elements}.isdisjoint({"script"})
    assert "&lt;script&gt;" in text


def _two_examples(classes: int) -> Examples:
    """Two examples with one population."""
    rng = np.random.default_rng(0)
    return Examples(
        images=rng.integers(0, 256, (2, 3, 5, 4), dtype=np.uint8),
        labels=np.array([0, 1]),
        scores=rng.normal(size=(2, 2, classes)),
        spikes={"stem": rng.integers(0, 2, (2, 2, 6, 5, 4), dtype=np.uint8)},
    )


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    for name in ("train.jsonl", "recipe.toml"):
        (run / name).unlink()
    (run / "metrics.json").write_text('{"version": 1, "data": {"name": "bare"}, "test_accuracy": 0.5}')
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.sections == {"network", "conditions"}
    assert "No budget was set" in " ".join(page.words)


OPTIONAL = [
    "litesnn", "versions", "command", "seed", "mode", "test_loss", "validation_accuracy", "classes", "confusion",
    "test_standard_error", "balanced_accuracy", "per_class", "baselines", "warnings",
    "accuracy_at", "timesteps", "packed_bytes", "model_size_bytes", "weights", "kept_weights", "synops", "bit_synops",
    "stem_macs", "energy", "layers", "neurons", "size_table", "header_bytes", "budgets", "budgets_kept",
]  # fmt: skip


@pytest.mark.job
def test_each_optional_metric_may_be_missing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    examples = write_fake_run(run, search=False)
    (run / "train.jsonl").unlink()
    whole = (run / "metrics.json").read_text()
    assert set(json.loads(whole)) == {*OPTIONAL, "version", "data", "test_accuracy"}
    for key in OPTIONAL:
        (run / "metrics.json").write_text(whole)
        _change(run / "metrics.json", **{key: None})
        assert "conditions" in Page(write_report(run, examples).read_text(encoding="utf-8")).sections, key


@pytest.mark.parametrize("keys", [("psi", "keep", "packed_bytes"), ("alpha", "ops", "bits", "multipliers"), ("ops",)])
def test_search_records_may_be_missing(tmp_path: Path, keys: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    write_fake_run(run)
    lines = [json.loads(line) for line in (run / "search.jsonl").read_text().splitlines()[:1]]
    for line in lines:
        for key in keys:
            del line[key]
    (run / "search.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "search" in Page(write_report(run).read_text(encoding="utf-8")).sections


@pytest.mark.parametrize("name", ["cell 2 0_1_conv3x3", "cell 2 node 0 <- 1 conv3x3"])
def test_layers_meet_their_size_and_rate(tmp_path: Path, name: str) -> None:
    """The packed file names its layers in its own way; the order is the same."""
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    layer = {"name": name, "cell": 1, "bits": 2, "synops": 5, "bit_synops": 10}
    size = {"name": "population 1, synapses 0", "codes": 1234, "coding": "gap"}
    neurons = [{"name": "cell 2 node 0", "firing_rate": 0.123}]
    _change(run / "metrics.json", layers=[layer], size_table=[size], neurons=neurons)
    words = Page(write_report(run).read_text(encoding="utf-8")).words
    assert {"cell 2 node 0 ← 1 conv3x3", "1,234", "gap"} <= set(words)
    assert words.count("12.3\u202f%") == 2  # in the chart and in the table


def test_a_bias_counts_with_the_first_layer_of_its_population(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    layers = [{"name": f"cell 1 0_{source}_conv3x3", "cell": 0, "bits": 2, "keep": 0.5} for source in (0, 1)]
    layers.append({"name": "cell 1 1_0_skip", "cell": 0, "bits": 0, "keep": 1.0})
    sizes = [{"name": layer["name"], "codes": 1000, "affine": 30} for layer in layers]
    sizes[2:2] = [{"name": "cell 1 node 0 bias", "affine": 7}]
    sizes.append({"name": "cell 1 node 1 bias", "affine": 9})
    _change(run / "metrics.json", layers=layers, size_table=sizes, header_bytes=444, packed_bytes=3550)
    words = Page(write_report(run).read_text(encoding="utf-8")).words
    assert [word for word in words if word in ("1,037", "1,030", "1,039", "444", "3,550")] == [
        "1,037", "1,030", "1,039", "444", "3,550",
    ]  # fmt: skip
    assert words[words.index("cell 1 node 1 ← 0 skip") :][1:3] == ["–", "–"]  # no bits, no keep ratio


def test_the_last_of_the_best_epochs_is_marked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    lines = [json.loads(line) | {"best": number in (1, 5, 9)} for number, line in _numbered(run / "train.jsonl")]
    (run / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = " ".join(Page(write_report(run).read_text(encoding="utf-8")).words)
    assert "The dot marks epoch 9, the one that was kept." in words


def test_firing_flips_and_gradients_are_drawn_layer_by_layer(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    watched = {
        "firing_rate": 0.1234,
        "flips": {"stem": 0.01, "cell 1": 0.0312, "classifier": 0.0},
        "gradient_share": {"stem": 0.5, "cell 1 node 0": 0.2, "cell 1 node 1": 0.4},
    }
    lines = [json.loads(line) | (watched if number > 3 else {}) for number, line in _numbered(run / "train.jsonl")]
    (run / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _change(run / "metrics.json", firing_rate=0.131, firing_rate_target=0.12)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert "13.1\u202f%" in words
    assert "of all neurons, in a timestep; the target is 12.0\u202f%" in words
    assert "from 12.3\u202f% to 12.3\u202f%; the target is 12.0\u202f%." in words
    assert "Thick: the mean, 1.37\u202f% in the last epoch." in words
    assert "Thick: the mean, 40.0\u202f% in the last epoch." in words  # of stem 50 % and cell 1, 30 %
    assert {"Firing rate", "Codes that change", "Neurons with a gradient"} <= set(page.words)
    assert not any("\n" in word and "nan" in word for word in page.words)


def _numbered(path: Path) -> list[tuple[int, str]]:
    return list(enumerate(path.read_text().splitlines(), start=1))


def test_energies_are_named_in_words(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    table = {"stem_mac_4bit": 0.13, "synop_1bit": 0.02, "float_mac": 4.6}
    _change(run / "metrics.json", energy={"total_nj": 1, "table_pj": table})
    words = Page(write_report(run).read_text(encoding="utf-8")).words
    assert {"stem MAC, 4 bits", "SynOp, 1 bit", "float MAC"} <= set(words)


def test_over_budget_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    budgets = [{"name": "packed_bytes", "value": 9000, "limit": 8000, "kept": False}]
    _change(run / "metrics.json", budgets=budgets, budgets_kept=False)
    words = " ".join(Page(write_report(run).read_text(encoding="utf-8")).words)
    assert "Over budget: Packed size" in words
    assert "9\u202fkB of 8\u202fkB (112\u202f%)" in words


def verdicts(page: Page) -> list[str]:
    """The CSS classes of the verdicts: on accuracy, then on the budget."""
    return [
        attributes["class"].removeprefix("verdict ")
        for tag, attributes in page.elements
        if tag == "p" and attributes.get("class", "").startswith("verdict ")
    ]


BAD = [
    {"rule": "near_chance", "label": "accuracy: not usable", "grave": True, "text": "near <chance>: 16.2%"},
    {"rule": "rising", "label": "still rising: train longer", "grave": False, "text": "validation was still rising"},
]


@pytest.mark.parametrize(
    ("warnings", "kind", "sentence"),
    [
        ([], "kept", "Accuracy: no warnings"),
        (BAD, "over", "Accuracy: not usable, and 1 more warning"),
        (BAD[1:], "doubt", "Still rising: train longer"),
        (None, "none", "Accuracy was not judged"),
    ],
)
def test_no_network_that_is_no_good_has_a_bare_tick(tmp_path: Path, warnings: Any, kind: str, sentence: str) -> None:
    run = tmp_path / "run"
    examples = write_fake_run(run, search=False)
    _change(run / "metrics.json", warnings=warnings)
    text = write_report(run, examples).read_text(encoding="utf-8")
    page = Page(text)
    assert verdicts(page) == [kind, "kept"]
    words = " ".join(page.words)
    assert sentence in words
    assert text.index(sentence) < text.index("budgets are")
    for warning in warnings or []:
        assert warning["text"] in words
    assert "<chance>" not in text


def test_accuracy_stands_beside_simpler_classifiers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    examples = write_fake_run(run, search=False)
    words = Page(write_report(run, examples).read_text(encoding="utf-8")).words
    assert words[words.index("Linear classifier") :].index("91.0\u202f%") < 6
    assert "balanced 9" not in " ".join(words)  # as much as the plain one
    simple = {
        "chance": 0.1,
        "majority": 0.95,
        "linear": {"accuracy": 0.96, "balanced_accuracy": 0.6, "note": "of half"},
    }
    rows = [{"class": "0", "recall": 0, "test_rows": 3, "train_rows": 1_234}, {"class": "1", "recall": None}]
    _change(run / "metrics.json", baselines=simple, balanced_accuracy=0.5, per_class=rows)
    words = Page(write_report(run, examples).read_text(encoding="utf-8")).words
    said = " ".join(words)
    assert "96.0\u202f%, balanced 60.0\u202f%" in said
    assert "95.0\u202f%, balanced 10.0\u202f%" in said
    assert "Of half." in said
    cells = [word for word in words[: words.index("1,234") + 1] if word.strip()]
    assert cells[-5:] == ["0", "0.0\u202f%", "–", "3", "1,234"]
    assert "Balanced accuracy, the mean recall, is 50.0\u202f%" in said
    assert "1.0 standard error" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, r"metrics\.json: cannot be read"),
        ("metrics.json", '{\n"version": 1,', r"metrics\.json, line 2: not valid JSON"),
        ("metrics.json", '{"version": 2, "data": {"name": "x"}, "test_accuracy": 1}', r"metrics\.json: version"),
        ("metrics.json", '{"version": 1, "data": {"name": "x"}}', r"metrics\.json: test_accuracy"),
        ("genotype.json", None, r"genotype\.json"),
        ("train.jsonl", '{"epoch": 1}\n{"epoch": 2', r"train\.jsonl, line 2: not valid JSON"),
        ("search.jsonl", '{"epoch": 1}\n\n{"epoch": "x"}', r"search\.jsonl, line 3: epoch"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    run = tmp_path / "run"
    write_fake_run(run)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(InputError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_missing_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"the report needs {package}: pip install 'litesnn\[report\]'"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.0, 20, 0.0, 0.1611), (1.0, 1, 0.2065, 1.0)]
)
def test_wilson_interval(share: float, count: int, low: float, high: float) -> None:
    assert wilson_interval(share, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (7312, "B", "7.31 kB"),
        (999.9, "", "1 k"),
        (412, "B", "412 B"),
        (2.5e9, "", "2.5 G"),
        (0.07, "", "0.07"),
    ],
)
def test_si(value: float, unit: str, text: str) -> None:
    assert plots.si(value, unit) == text.replace(" ", "\u202f")


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_labels_of_the_cell_graph_do_not_overlap(nodes: int) -> None:
    ops = list(OPS)
    full = [Edge(node=node, source=source, op=ops[(3 * node + source) % len(ops)]) for node, source in all_edges(nodes)]
    for edges in (full, fake_genotype(nodes=nodes).edges):
        svg = diagrams.cell_graph(edges, alt="a cell")
        pills = re.findall(r'<rect class="pill [^"]*" x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)"', svg)
        boxes = [(float(x), float(y), float(width)) for x, y, width in pills]
        assert len(boxes) == len(edges) == svg.count('class="tip ')
        for index, (x, y, width) in enumerate(boxes):
            assert 0 <= x < x + width <= 342
            for other_x, other_y, other_width in boxes[:index]:
                assert abs(y - other_y) >= 18 or x + width <= other_x or other_x + other_width <= x


def _decode(uri: str) -> tuple[tuple[int, int, int], bytes]:
    """(width, height, colour type) and the raw lines of a PNG of ours."""
    data = b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, lines, header = 8, b"", (0, 0, 0)
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack(">I", data[position + 8 + length : position + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, _, colour_type = struct.unpack(">IIBB", body[:10])
            header = (width, height, colour_type)
        if kind == b"IDAT":
            lines = zlib.decompress(body)
        position += 12 + length
    return header, lines


def test_png_images() -> None:
    grey = np.array([[[0, 9], [255, 1], [2, 3]]], dtype=np.uint8)
    assert _decode(diagrams.png_image(grey)) == ((2, 3, 0), bytes([0, 0, 9, 0, 255, 1, 0, 2, 3]))
    two = np.array([[[7]], [[8]]], dtype=np.uint8)
    assert _decode(diagrams.png_image(two)) == ((1, 1, 2), bytes([0, 7, 0, 8]))
    assert _decode(diagrams.png_image(np.full((5, 1, 1), 10, dtype=np.uint8))) == ((1, 1, 0), bytes([0, 10]))
    assert _decode(diagrams.png_levels(np.array([[0.0, 1.0]]))) == ((2, 1, 3), bytes([0, 0, 15]))


def test_the_neuron_and_the_quantizer_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_fake_run(run, search=False)
    changed = {"neuron": "lif-soft", "quantizer": "learned_step"}
    genotype = run / "genotype.json"
    genotype.write_text(json.dumps(json.loads(genotype.read_text()) | changed))
    words = " ".join(Page(write_report(run).read_text(encoding="utf-8")).words)
    assert f"lif-soft: {NEURONS['lif-soft'].meaning}" in words
    assert f"learned_step: {QUANTIZERS['learned_step'].description}" in words


@pytest.mark.parametrize(
    ("nanojoules", "words"),
    [(4.5678, "4.57\u202fnJ"), (120_000, "120\u202fµJ"), (2.5e6, "2.5\u202fmJ"), (3e9, "3\u202fJ")],
)
def test_a_unit_with_a_prefix_gets_no_second_one(nanojoules: float, words: str) -> None:
    assert plots.si(nanojoules, "nJ") == words


@pytest.mark.job
def test_the_teacher_of_a_training_is_named(tmp_path: Path) -> None:
    examples = write_fake_run(tmp_path)
    assert "Teacher" not in Page(write_report(tmp_path, examples).read_text(encoding="utf-8")).words
    _change(tmp_path / "metrics.json", teacher={"name": "runs/big", "sha256": "0"})
    assert "runs/big" in Page(write_report(tmp_path, examples).read_text(encoding="utf-8")).words
    _change(tmp_path / "metrics.json", teacher={"name": "auto", "epochs": 2, "validation_accuracy": 0.875})
    (tmp_path / "teacher.jsonl").write_text('{"epoch": 1, "seconds": 60}\n{"epoch": 2, "seconds": 66}\n')
    words = Page(write_report(tmp_path, examples).read_text(encoding="utf-8")).words
    assert [word for word in words if "ReLU" in word] == [
        "a residual network with ReLU, 2 epochs in 2.1 minutes, validation accuracy 87.5\u202f%"
    ]
