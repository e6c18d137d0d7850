"""The house has the floors that docs/design.md lists: imports run down, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "litesnn"
WITHOUT_TORCH = (
    "costs",
    "neurons",
    "quantizers",
    "budget",
    "genotype",
    "errors",
    "text",
    "files",
    "durations",
    "stages",
    "strategies",
    "input_spec",
)


def floors() -> dict[str, int]:
    """The floor of every file and folder at the top, 0 is the highest."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"^## The house\n.*?```\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    names = [line.split("  ")[0].split() for line in listing.splitlines()]
    return {name.removesuffix("/").removesuffix(".py"): floor for floor, row in enumerate(names) for name in row}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules of litesnn that a file imports, at its top or when a function runs, as parts of their names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "litesnn":
            base = tuple(node.module.split(".")[1:])
            for alias in node.names:
                is_module = (SOURCES.joinpath(*base, alias.name)).is_dir() or (
                    SOURCES.joinpath(*base, alias.name).with_suffix(".py").is_file()
                )
                if found := (*base, alias.name) if is_module else base:
                    yield found
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("litesnn."))


def sources() -> dict[tuple[str, ...], Path]:
    """All files but the package's own, by the parts of their names."""
    found = {path.relative_to(SOURCES).with_suffix("").parts: path for path in sorted(SOURCES.rglob("*.py"))}
    named = {parts[:-1] if parts[-1] == "__init__" else parts: path for parts, path in found.items()}
    return {parts: path for parts, path in named.items() if parts}


def test_every_file_and_folder_has_a_floor() -> None:
    there = {parts[0] for parts in sources()} - {"recipes"}
    assert len(there) > 30
    assert there == set(floors())


@pytest.mark.parametrize("path", sources().values(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_imports_run_down(path: Path) -> None:
    floor, own = floors(), path.relative_to(SOURCES).with_suffix("").parts[0]
    up = [".".join(found) for found in imports(path) if floor.get(found[0], 99) < floor.get(own, 99)]
    assert up == []


def test_no_imports_go_round_in_a_circle() -> None:
    known = sources()
    edges = {parts: {found for found in imports(path) if found in known} - {parts} for parts, path in known.items()}
    assert sum(map(len, edges.values())) > 500
    while leaves := [parts for parts, needed in edges.items() if not needed & edges.keys()]:
        for parts in leaves:
            del edges[parts]
    assert {".".join(parts) for parts in edges} == set()


def test_the_lowest_floors_do_not_name_torch() -> None:
    for parts, path in sources().items():
        if parts[0] not in WITHOUT_TORCH:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
        only_types = {id(node) for block in typed for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import) and id(node) not in only_types:
                assert "torch" not in ast.dump(node), path
