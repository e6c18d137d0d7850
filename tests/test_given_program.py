"""The file of a user's module is run like a program of its own, if the command line says so, and no other is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from given import MODULE
from litesnn.compression import source
from litesnn.compression.source import allow_module, build_module, describe_module, pin_loaded
from litesnn.config import ModuleSettings
from litesnn.design import read_first
from litesnn.errors import InputError
from litesnn.planning.request import Request, begin
from litesnn.runs import RunFolder
from litesnn.training_loop.session import begin_session
from test_cli import refused
from whole_job import RECIPE, litesnn, write_data

NET = "from torch import nn\n{0}\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{1}"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(source, "_allowed", set())
    yield
    for name in ("helper", "late", "net", "other", "litesnn_given_net", "litesnn_given_other"):
        sys.modules.pop(name, None)


def described(folder: Path, top: str = "", inner: str = "", **helpers: str) -> ModuleSettings:
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(NET.format(top, "".join(f"        {line}\n" for line in inner.splitlines())))
    for name, text in helpers.items():
        (folder / f"{name}.py").write_text(text)
    allow_module(f"{folder / 'net.py'}:Net")
    return describe_module(f"{folder / 'net.py'}:Net")


class TestLikeAProgram:
    def test_arguments_are_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["litesnn", "compress", "--model"])
        top = (
            "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--a', type=int, default=4)"
        )
        net = build_module(described(tmp_path, f"{top}\nargs = parser.parse_args()", "self.a = (args.a, sys.argv)"), 0)
        assert net.a == (4, [str(tmp_path / "net.py")])
        assert sys.argv == ["litesnn", "compress", "--model"]

    @pytest.mark.parametrize(("top", "inner"), [("import sys\nsys.exit('no')", ""), ("import sys", "sys.exit('no')")])
    def test_an_exit_is_one_line(self, tmp_path: Path, top: str, inner: str) -> None:
        what = "class Net: cannot be made" if inner else "cannot be imported"
        with pytest.raises(InputError, match=rf"net\.py: {what}: SystemExit: no"):
            build_module(described(tmp_path, top, inner), 0)

    def test_its_folder_is_there_until_the_module_is_made(self, tmp_path: Path) -> None:
        path = list(sys.path)
        net = build_module(described(tmp_path, "", "import late\nself.a = late.A", late="A = 5"), 0)
        assert net.a == 5
        assert sys.path == path
        assert not list(tmp_path.rglob("*.pyc"))

    def test_helpers_are_loaded_afresh(self, tmp_path: Path) -> None:
        for number in range(2):  # another folder with a helper of the same name
            settings = described(tmp_path / str(number), "import helper", "self.a = helper.A", helper=f"A = {number}")
            assert build_module(settings, 0).a == number
        settings = described(tmp_path / "1", "import helper", "self.a = helper.A", helper="A = 7")
        assert build_module(settings, 0).a == 7

    def test_installed_modules_stay(self, tmp_path: Path) -> None:
        numpy = sys.modules["numpy"]
        build_module(described(tmp_path, "import numpy, json", numpy="", json=""), 0)
        assert sys.modules["numpy"] is numpy


class TestHelpers:
    def test_they_are_found_wherever_they_are_imported(self, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "__init__.py").write_text("import other")
        (tmp_path / "parts" / "inner.py").touch()
        settings = described(
            tmp_path,
            "import torch, helper.x\nfrom parts.inner import *",
            "import late",
            helper="import net",
            late="def f(:",
            other="",
            unused="",
        )
        assert list(settings.helpers) == ["helper.py", "late.py", "other.py", "parts/__init__.py", "parts/inner.py"]

    @pytest.mark.parametrize("change", ["changed", "gone", "new"])
    def test_a_change_is_noticed(self, tmp_path: Path, change: str) -> None:
        settings = described(tmp_path, "import helper\ntry: import new\nexcept ImportError: pass", helper="A = 1")
        name = "new" if change == "new" else "helper"
        if change == "gone":
            (tmp_path / "helper.py").unlink()
        else:
            (tmp_path / f"{name}.py").write_text("A = 2")
        with pytest.raises(InputError, match=rf"{name}\.py has changed since the run began"):
            build_module(settings, 0)

    def test_what_no_statement_names_is_pinned_when_it_was_loaded(self, tmp_path: Path) -> None:
        top = "import importlib\nhelper = importlib.import_module('hel' + 'per')"
        settings = described(tmp_path, top, "self.a = helper.A", helper="A = 1", unused="")
        assert settings.helpers == {}
        build_module(settings, 0)
        pinned = pin_loaded(settings)
        assert list(pinned.helpers) == ["helper.py"]
        assert build_module(pinned, 0).a == 1
        (tmp_path / "helper.py").write_text("A = 2")
        assert build_module(settings, 0).a == 2  # it is loaded afresh
        with pytest.raises(InputError, match=r"helper\.py has changed since the run began"):
            build_module(pinned, 0)

    def test_the_run_keeps_what_was_loaded_and_goes_on(self, tmp_path: Path) -> None:
        (tmp_path / "helper.py").touch()
        (tmp_path / "net.py").write_text(f"__import__('helper')\n{MODULE}")
        (tmp_path / "a.toml").write_text(RECIPE)
        write_data(tmp_path / "blobs.npz")
        model = f"{tmp_path / 'net.py'}:Net"
        allow_module(model)
        changes = {"search.widths": [1.0]}
        request = Request(str(tmp_path / "blobs.npz"), None, tmp_path / "a.toml", None, None, changes, model)
        folder, session = RunFolder(tmp_path / "run"), begin_session("cpu", Console(quiet=True))
        for _ in range(2):
            recipe = read_first(folder, begin(folder, request, session)).recipe
            assert recipe is not None
            assert recipe.module is not None
            assert list(recipe.module.helpers) == ["helper.py"]
            folder.begin(recipe)
            (folder / "search.jsonl").touch()  # now it may not begin anew


def test_a_module_that_is_refused_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "a.toml").write_text(RECIPE)
    write_data(tmp_path / "blobs.npz")
    for name, words, why in (
        ("Large", (), "its forward fails on a batch of 1×8×8"),
        ("Net", ("--budget", "10 B"), "packed"),
        ("Net", ("--set", 'model.arithmetic="fixed"'), "model.arithmetic"),
        ("Net", ("--set", "model.neuron=if"), "model.neuron"),
    ):
        model = f"{tmp_path / 'net.py'}:{name}"
        common = ("--data", tmp_path / "blobs.npz", "--recipe", tmp_path / "a.toml", "--set", "search.widths=[1.0]")
        assert why in refused(litesnn("compress", "--model", model, "--run", tmp_path / "run", *common, *words))
        assert not (tmp_path / "run").exists()


class TestWhatMayRun:
    """A file that leaves a trace when it is run, named by a recipe and by a run folder."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        (tmp_path / "net.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{MODULE}")
        described = describe_module(f"{tmp_path / 'net.py'}:Net")
        (tmp_path / "a.toml").write_text(
            f"{RECIPE}\n[module]\nfile = '{described.file}'\nname = 'Net'\nsha256 = '{described.sha256}'\n"
        )
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.toml").write_text((tmp_path / "a.toml").read_text())
        write_data(tmp_path / "blobs.npz")
        return tmp_path

    @pytest.mark.parametrize(
        "words",
        [
            ("design", "--recipe", "{0}/a.toml", "--data", "{0}/blobs.npz", "--run", "{0}/new"),
            ("design", "--run", "{0}/run"),
            ("search", "--run", "{0}/run"),
            ("compress", "--run", "{0}/run"),
            ("compress", "--run", "{0}/run", "--recipe", "{0}/a.toml", "--data", "{0}/blobs.npz"),
            ("compress", "--run", "{0}/run", "--model", "{0}/other.py:Net"),
            ("compress", "--run", "{0}/new", "--model", "{0}/other.py:Net", "--set", "module.file='{0}/net.py'"),
            ("derive", "{0}/run"),
            ("train", "{0}/run", "--model", "{0}/other.py:Net"),
            ("evaluate", "{0}/run"),
            ("evaluate", "{0}/run", "--engine", "native"),
            ("pack", "{0}/run"),
        ],
    )
    def test_what_nobody_said_is_not_run(self, place: Path, words: tuple[str, ...]) -> None:
        (place / "other.py").write_text("raise ValueError")
        line = refused(litesnn(*(word.format(place) for word in words)))
        assert not (place / "ran").exists()
        assert not (place / "new").exists()
        if "native" not in words and ("other.py" not in str(words) or words[0] == "train"):
            assert line.endswith(f"add --model {place / 'net.py'}:Net")

    def test_what_was_said_is_run(self, place: Path) -> None:
        line = refused(litesnn("derive", place / "run", "--model", f"{place / 'net.py'}:Net"))
        assert "--model" not in line
