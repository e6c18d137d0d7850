"""The pages that run: every command and every piece of Python in them, in order, in one folder."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from litesnn.cli import app
from litesnn.commands import native_evaluation
from whole_job import litesnn

ROOT = Path(__file__).parents[1]
GUIDE, COMPRESS = (ROOT / "docs" / name for name in ("guide.md", "compress.md"))
BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)

CHANGES = (
    "model.width=4",
    "model.levels=[0, 1]",
    "model.stem_channels=4",
    "search.epochs=2",
    "search.warmup_epochs=1",
    "search.architecture_warmup_epochs=1",
    "search.timesteps=2",
    "train.epochs=1",
)
COMPRESS_CHANGES = (
    "data.train_limit=200",
    "data.test_limit=50",
    "search.epochs=1",
    "search.warmup_epochs=0",
    "search.timesteps=2",
    "train.epochs=1",
)
SHORT = {
    command: [word for change in changes for word in ("--set", change)]
    for command, changes in (("design", CHANGES), ("compress", COMPRESS_CHANGES))
}


class Block(NamedTuple):
    """A fenced block, and what has to be there to run it: commands, or modules."""

    language: str
    text: str
    needs: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if not (shutil.which(name) or importlib.util.find_spec(name))]


def blocks(page: Path = GUIDE) -> list[Block]:
    matches = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"], tuple((match["needs"] or "").split())) for match in matches]


def commands(block: Block) -> Iterator[list[str]]:
    return map(shlex.split, block.text.replace("\\\n", " ").splitlines())


def run_guide(page: Path = GUIDE, *, short: bool) -> list[str]:
    """Run it in this folder, with a small job if ``short``; what was missing for blocks that were left out."""
    left_out = []
    for block in blocks(page):
        if block.missing:
            left_out += block.missing
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), {})
        else:
            for name, *arguments in commands(block):
                if name == "litesnn":
                    outcome = litesnn(*arguments, *(SHORT.get(arguments[0], []) if short else ()))
                    assert outcome.code == 0, f"{shlex.join(arguments)}\n{outcome.out}\n{outcome.err}"
    return left_out


def test_the_guide_is_commands_and_python() -> None:
    assert {block.language for block in blocks()} == {"sh", "python"}
    assert GUIDE.read_text().count("```") == 2 * len(blocks())
    said = [command for block in blocks() if block.language == "sh" for command in commands(block)]
    assert {command[0] for command in said} == {"pip", "litesnn"}
    names = {command.name for command in app.registered_commands} | {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert {command[1] for command in said if command[0] == "litesnn"} <= {*names, "export"}


def test_it_installs_extras_that_exist() -> None:
    (command,) = [row for block in blocks() if block.language == "sh" for row in commands(block) if row[0] == "pip"]
    extras = re.fullmatch(r"\.\[(.*)\]", command[2])
    assert command[1] == "install"
    assert extras
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras[1].split(",")) <= set(known)


@pytest.mark.job
def test_the_guide_with_a_short_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left_out = run_guide(short=True)
    assert set(left_out) <= {"arm-none-eabi-gcc", "qemu-system-arm", "spikingjelly"}
    assert {"firmware", "digits.nir", "digits.onnx", "digit.npy"} <= {path.name for path in tmp_path.iterdir()}


def copy_examples(folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples")


def test_compress_is_commands() -> None:
    page = blocks(COMPRESS)
    assert {block.language for block in page} == {"sh"}
    assert COMPRESS.read_text().count("```") == 2 * len(page)
    said = [command for block in page for command in commands(block)]
    assert {command[0] for command in said} == {"litesnn"}
    models = [command[command.index("--model") + 1] for command in said if command[1] == "compress"]
    files = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(model.partition(":")[0] for model in models) == [f"examples/{name}" for name in files]


@pytest.mark.job
def test_compress_with_a_short_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_examples(tmp_path)
    monkeypatch.setattr(native_evaluation, "ROUNDS", 1)
    monkeypatch.setattr(native_evaluation, "SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(Block, "missing", property(lambda block: list(block.needs)))  # the libraries take seconds
    assert run_guide(COMPRESS, short=True) == ["snntorch", "spikingjelly"]
    assert (tmp_path / "mine.nir").exists()


@pytest.mark.interop
@pytest.mark.filterwarnings("default")  # the packages of others have warnings of their own
def test_compress_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_examples(tmp_path)
    assert run_guide(COMPRESS, short=False) == []
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mine", "snntorch", "jelly"}


@pytest.mark.interop
@pytest.mark.filterwarnings("default")  # the packages of others have warnings of their own
def test_the_guide_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "spikingjelly" not in run_guide(short=False)
