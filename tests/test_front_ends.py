"""Front ends are found in their table by name: in network files, in packed files, and in files from before names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

import tiny
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import from_bytes, to_bytes
from litesnn.errors import InputError
from litesnn.front_end import FRONT_ENDS, EventFrames, FrontEnd, InputKind, LogMel, front_end_name, unnamed_front_end
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network, input_fields, load_network, save_network
from litesnn.snn.network import InputInfo
from litesnn.training_loop.checkpoint import load_tensors, save_tensors


class Cochlea(FrontEnd):
    """A front end that only these tests have."""

    channels: int = Field(8, ge=1, le=64)
    decay_ms: float = Field(5.0, gt=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [1, channels, 6]."""
        return 1, self.channels, 6

    @property
    def kind(self) -> InputKind:
        """The kind of its results."""
        return "array"


EXAMPLES: dict[str, FrontEnd] = {
    "log-mel": LogMel(sample_rate=8000, clip_ms=60, window_ms=25, hop_ms=12.5, mels=5, low_hz=0.1, high_hz=3700.5),
    "event-frames": EventFrames(height=7, width=6, clip=5),
    "cochlea": Cochlea(channels=5, decay_ms=2.5),
}


@pytest.fixture(autouse=True)
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FRONT_ENDS, "cochlea", Cochlea)


def info_of(front_end: FrontEnd) -> InputInfo:
    channels = front_end.shape[0]
    spec = InputSpec(front_end.shape, front_end.kind, (0.0,) * channels, (1.5,) * channels, front_end)
    return InputInfo(spec, ("yes", "no"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_front_end_survives_a_network_file_and_a_packed_file(name: str, tmp_path: Path) -> None:
    info = info_of(EXAMPLES[name])
    network = build_network(tiny.genotype(), info, 0).eval()
    save_network(tmp_path / "network.safetensors", network)
    loaded = load_network(tmp_path / "network.safetensors")
    assert loaded.info == info
    assert type(loaded.info.input.front_end) is FRONT_ENDS[name]
    model = integerize(loaded)
    assert model.input == info.input
    assert from_bytes(to_bytes(model)).input == info.input
    assert front_end_name(EXAMPLES[name]) == name


def rewritten(path: Path, **changes: Any) -> None:
    """The network file with other facts of its input; ``None`` leaves one out."""
    tensors, said = load_tensors(path, "network")
    said["input"] = {key: value for key, value in (said["input"] | changes).items() if value is not None}
    save_tensors(path, "network", tensors, said)


@pytest.mark.parametrize("name", ["log-mel", "event-frames"])
def test_files_from_before_names_are_read_by_their_kind(name: str, tmp_path: Path) -> None:
    path, info = tmp_path / "network.safetensors", info_of(EXAMPLES[name])
    save_network(path, build_network(tiny.genotype(), info, 0))
    rewritten(path, front_end_name=None)
    assert load_network(path).info == info
    assert isinstance(EXAMPLES[name], unnamed_front_end(info.kind))


def test_an_unknown_front_end_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_network(path, build_network(tiny.genotype(), info_of(EXAMPLES["cochlea"]), 0))
    rewritten(path, front_end_name="ear")
    with pytest.raises(InputError, match=r"front end: expected one of log-mel, event-frames, cochlea, found 'ear'"):
        load_network(path)
    rewritten(path, front_end_name="log-mel")
    with pytest.raises(InputError, match="front end: "):
        load_network(path)


def test_without_a_front_end_a_file_says_what_it_always_said() -> None:
    info = InputInfo(InputSpec((1, 2, 3), "array", (0.25,), (2.0,)), ("a", "b"))
    assert json.dumps(input_fields(info)) == (
        '{"input": {"shape": [1, 2, 3], "kind": "array", "mean": [0.25], "std": [2.0], "classes": ["a", "b"], '
        '"front_end": null}}'
    )


def test_a_front_end_that_is_not_in_the_table_has_no_name() -> None:
    class Other(FrontEnd):
        """Not in the table."""

    with pytest.raises(ValueError, match="Other is none of the front ends log-mel"):
        front_end_name(Other())
