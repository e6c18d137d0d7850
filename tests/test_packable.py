"""What no packed file can hold is found before anything is searched."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import litesnn
from given import MODULE
from litesnn.deploy.limits import MAX_HEADER_BYTES, MAX_NAME_BYTES
from litesnn.deploy.packed import InputSpec, require_packable_input
from litesnn.errors import InputError

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = RNG.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "an empty name": (
        {"classes": np.array(["a", "", "c"])},
        r"classes: expected names, which are text of 1 to 1024 bytes, found ''$",
    ),
    "a name of a megabyte": (
        {"classes": np.array(["a", "b" * 10**6, "c"])},
        r"classes: expected names, which are text of 1 to 1024 bytes, found bbb",
    ),
    "half a character": (
        {"classes": np.array(["a", "b\ud800", "c"])},
        r"classes: expected names, which are text of 1 to 1024 bytes, found b\\ud800",
    ),
    "numbers that are hardly more than zero": (
        {"x": (RNG.random((60, 1, 8, 8)) * 2e-45).astype(np.float32)},
        r"input: std: expected a float32 number above zero, found 0\.0",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["design", "compress"])
def test_it_is_found_before_the_search(tmp_path: Path, name: str, command: str) -> None:
    changes, message = CASES[name]
    data = {"x": X, "y": Y} | changes
    (tmp_path / "module.py").write_text(MODULE)
    call: Any = litesnn.design
    if command == "compress":
        call = partial(litesnn.compress, f"{tmp_path / 'module.py'}:Net")
    with pytest.raises(InputError, match=rf"^data: {message}") as caught:
        call(data=data, budget="8 kB", run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not (tmp_path / "run" / "search.jsonl").exists()


def test_names_that_leave_no_room_for_the_network_are_refused() -> None:
    spec = InputSpec((1, 8, 8), "image", (0.0,), (1.0,))
    many = tuple(f"{index:0{MAX_NAME_BYTES}}" for index in range(MAX_HEADER_BYTES // 2 // MAX_NAME_BYTES))
    require_packable_input(spec, many[:500], "data")
    with pytest.raises(InputError, match="data: names of 512 classes: expected at most 524288 bytes in all, found 5"):
        require_packable_input(spec, many, "data")
