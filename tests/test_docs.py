"""The API reference names what the package offers; whether the pages build is the lint step's business."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import litesnn

API = Path(__file__).parents[1] / "docs" / "api.md"


def test_every_public_name_is_in_the_api_reference() -> None:
    described = []
    for path in re.findall(r"^::: (\S+)$", API.read_text(encoding="utf-8"), re.MULTILINE):
        module, _, name = path.rpartition(".")
        described.append(getattr(importlib.import_module(module), name))
    missing = [name for name in litesnn.__all__ if getattr(litesnn, name) not in described]
    assert missing == ["__version__"]
