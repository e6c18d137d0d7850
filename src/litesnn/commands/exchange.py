"""``litesnn export nir`` and ``litesnn export onnx``: from a run folder or a packed model to one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litesnn.deploy.exchange.nir_graph import nir_bytes
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.packed import PackedModel, read
from litesnn.files import write_atomically
from litesnn.genotype import EngineName, require_engine_of
from litesnn.models import find_model
from litesnn.runs import RunFolder

__all__ = ["Exported", "export_nir", "export_onnx"]


@dataclass(frozen=True)
class Exported:
    """A file that was written, and the packed model's size beside its own."""

    path: Path
    bytes: int
    packed_bytes: int

    def summary(self) -> str:
        """One line for a person."""
        return f"{self.path}: {self.bytes:,} B (the packed model has {self.packed_bytes:,} B)"


def export_nir(path: Path, out: Path, *, fires_at_threshold: bool = False) -> Exported:
    """Write a run's packed model, or one in a file, as NIR.

    Raises:
        InputError: there is no such model, NIR cannot carry it, the package ``nir`` is missing, or ``out`` cannot be
            written.
    """
    return _export(path, out, "nir", lambda model: nir_bytes(model, fires_at_threshold=fires_at_threshold))


def export_onnx(path: Path, out: Path) -> Exported:
    """Write a run's packed model, or one in a file, as ONNX. Raises ``InputError`` as :func:`export_nir`."""
    return _export(path, out, "onnx", lambda model: onnx_graph(model).SerializeToString(deterministic=True))


def _export(path: Path, out: Path, engine: EngineName, encode: Callable[[PackedModel], bytes]) -> Exported:
    packed = path
    if path.is_dir():
        run = RunFolder(path)
        packed = run.need("pack")
        require_engine_of(run.output("derive"), engine)
    packed = find_model(packed)
    data = encode(read(packed))
    write_atomically(out, data)
    return Exported(out, len(data), packed.stat().st_size)
