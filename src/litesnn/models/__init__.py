"""Packed networks that come with the package, each with its recipe and with what it measured, and their names.

A network NAME is three files: ``NAME.safetensors`` (packed, as ``litesnn pack`` writes it), ``NAME.toml`` (its recipe)
and ``NAME.json`` (a :class:`ModelRecord`). ``benchmarks/ship_model.py`` makes them from a finished run. Wherever a
packed file is read, the name does for the path, unless there is a file of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from litesnn.errors import InputError
from litesnn.files import parse_json, read_text, validated

__all__ = [
    "FOLDER",
    "MOST_BYTES",
    "MOST_BYTES_IN_ALL",
    "RECORD_VERSION",
    "ModelRecord",
    "files_of",
    "find_model",
    "read_record",
    "shipped_models",
]

FOLDER = Path(__file__).parent
"""Where the files of all shipped networks are."""

MOST_BYTES, MOST_BYTES_IN_ALL = 600_000, 2_000_000
"""Bytes of a packed network that comes with the package, and of all files of all of them."""

RECORD_VERSION: Literal[1] = 1


class ModelRecord(BaseModel):
    """What is known of a shipped network: where it is from, and what it measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = RECORD_VERSION
    name: str
    description: str = Field(description="what it is for, and under which conditions it was made, in a few sentences")
    data: str = Field(description="the data set, as a person names it")
    source: str = Field(description="what --data has to be for it: a name, or in capitals the kind of place")
    recipe: str = Field(description="name of the recipe, which is beside")
    seed: int
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="when it was shipped")
    litesnn: str = Field(description="version that trained it")
    rows: dict[str, int] = Field(description="rows of each split: train, validation, test")
    seconds: dict[str, float] = Field(description="of its search and its training, as far as they are known")
    options: str = Field(description="device and threads, as options of the command line")
    validation_accuracy: float = Field(ge=0, le=1, description="of the epoch that was taken")
    accuracy: float = Field(ge=0, le=1, description="of the test rows, by the native engine")
    standard_error: float = Field(gt=0)
    bytes: int = Field(ge=1, description="of the packed file")
    timesteps: int = Field(ge=1)
    bit_synops: float = Field(ge=0, description="per input, mean over the test rows")
    synops: float = Field(ge=0)
    firing_rate: float = Field(ge=0, le=1, description="share of the neurons that fire at a timestep")
    measured: dict[str, Any] = Field(description="all that litesnn evaluate measured, but for times")

    @property
    def check(self) -> str:
        """The command that measures it again."""
        return f"litesnn evaluate {self.name} --data {self.source}"


def shipped_models() -> list[str]:
    """The names of all networks that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def files_of(name: str, folder: Path = FOLDER) -> dict[str, Path]:
    """The three files of a network by what they are: "model", "recipe" and "record"."""
    return {
        "model": folder / f"{name}.safetensors",
        "recipe": folder / f"{name}.toml",
        "record": folder / f"{name}.json",
    }


def read_record(name: str) -> ModelRecord:
    """The record of a shipped network. Raises ``InputError`` if there is none of this name."""
    if name not in shipped_models():
        raise InputError(f"no model {name!r}: expected one of {', '.join(shipped_models())}")
    path = files_of(name)["record"]
    return validated(ModelRecord, parse_json(read_text(path), str(path)), path)


def find_model(path: str | Path) -> Path:
    """The path of a packed network that is named by its path, or by its name if it comes with the package.

    A file or folder of that name goes before the package's.
    """
    found = Path(path)
    if found.exists() or str(path) not in shipped_models():
        return found
    return files_of(str(path))["model"]
