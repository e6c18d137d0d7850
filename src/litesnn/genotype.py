"""The vocabulary of architectures: operations, edges, cells, the genotype. No torch.

A genotype is everything that the search decides. It is the one record from which the network
is built, and it is handed over as JSON. With the input's shape and the number of classes it
fixes the shape of every layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from litesnn.errors import InputError
from litesnn.neurons import DEFAULT, MOST_LEVELS, check_neuron, check_spike_levels
from litesnn.quantizers import MIDRISE, quantizer_named
from litesnn.text import first_complaint

__all__ = [
    "BIT_WIDTHS",
    "ENGINES",
    "MOST_CELLS",
    "MOST_CHANNELS",
    "MOST_NODES",
    "OPS",
    "ArithmeticName",
    "CellGene",
    "Compressed",
    "Edge",
    "EngineName",
    "Genotype",
    "LayerGene",
    "Op",
    "StemGene",
    "all_edges",
    "check_op",
    "one_group",
    "read_genotype",
    "require_engine",
    "require_engine_of",
]

BIT_WIDTHS = (1, 2, 3, 4)

MOST_CHANNELS = 2**16
"""Of a stem, or of a node at level 0."""

MOST_CELLS, MOST_NODES = 64, 8
GENOTYPE_VERSION: Literal[1] = 1

ArithmeticName = Literal["float", "fixed"]
"""The arithmetic of a deployed network: float32 and a leak of 0.2, or integers alone and a leak of 0.25."""


EngineName = Literal["reference", "native", "c", "nir", "onnx"]
"""The engines of a packed network: in NumPy, natively, as exported C, or as an exported graph."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)


def one_group(inputs: int, outputs: int) -> int:
    """Every output channel reads every input channel."""
    return 1


def up_to_four_groups(inputs: int, outputs: int) -> int:
    """The largest number of groups, up to four, that divides both."""
    return max(count for count in range(1, 5) if math.gcd(inputs, outputs) % count == 0)


@dataclass(frozen=True)
class Op:
    """A candidate operation of an edge: a spiking convolution.

    Where ``identity`` is set and an edge changes neither channels nor resolution, the operation hands the
    spikes on without weights; everywhere else it is a compressive convolution of ``kernel`` × ``kernel``.

    Attributes:
        kernel: odd height and width of the filter.
        identity: see above.
        groups: of input and output channels, into how many groups both are divided (a common divisor): an output
            reads the inputs of its own group alone, as in torch's ``conv2d``. The layer has no other weights; where
            it is computed or packed as one of all channels, those between groups are zero.
        engines: what computes it when it is packed. A packed layer has all channels, so that each engine computes each
            convolution; a row that lacks some is refused there by name, and by the packer if it lacks the reference.
    """

    kernel: int
    identity: bool = False
    groups: Callable[[int, int], int] = one_group
    engines: tuple[EngineName, ...] = ENGINES

    def weights(self, inputs: int, outputs: int) -> int:
        """Weights of the convolution."""
        return self.kernel**2 * inputs * outputs // self.groups(inputs, outputs)

    def places(self, inputs: int, outputs: int) -> int:
        """Weights of a convolution of all channels: those, and the zeros between groups."""
        return self.kernel**2 * inputs * outputs


OPS: dict[str, Op] = {
    "skip": Op(kernel=1, identity=True),
    "conv1x1": Op(kernel=1),
    "conv3x3": Op(kernel=3),
    "conv5x5": Op(kernel=5),
    "dwconv3x3": Op(kernel=3, groups=math.gcd),
    "gconv3x3": Op(kernel=3, groups=up_to_four_groups),
}
"""Every operation that the search can choose from. A convolution of another size or in groups is one more row."""


def require_engine(ops: Iterable[str], engine: EngineName) -> None:
    """Refuse operations that an engine does not have. Raises ``InputError``, which names the first one."""
    for name in ops:
        if engine not in OPS[name].engines:
            what = "cannot be packed" if engine == "reference" else f"is not there in the engine {engine!r}"
            raise InputError(f"operation {name!r} {what}; it has {', '.join(OPS[name].engines) or 'no engine'}")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Edge(_Record):
    """One edge of a cell: ``op`` carries the spikes of ``source`` to ``node``.

    Sources 0 and 1 are the outputs of the two cells before (0 the older one); source 2 + j is node j of this cell.
    """

    node: int = Field(ge=0, lt=MOST_NODES)
    source: int = Field(ge=0, lt=MOST_NODES + 1)
    op: str

    @model_validator(mode="after")
    def _check(self) -> Edge:
        check_op(self.op)
        if self.source >= self.node + 2:
            raise ValueError(f"node {self.node} cannot read source {self.source}: sources must come before the node")
        return self


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what it would not have had before there was a choice."""
    defaults = {"arithmetic": "float", "quantizer": MIDRISE.name, "neuron": DEFAULT, "spike_levels": 1}
    return {key: value for key, value in record.items() if key not in defaults or value != defaults[key]}


class StemGene(_Record):
    """The 3×3 convolution that turns the analog input into spikes."""

    channels: int = Field(ge=1, le=MOST_CHANNELS)
    stride: Literal[1, 2, 4] = 1
    bits: int = Field(ge=1, le=4)


class CellGene(_Record):
    """The search's choice for one cell. Each of its nodes has ``width`` channels."""

    level: int = Field(ge=0, le=6)
    width: int = Field(ge=1, le=2**6 * MOST_CHANNELS)
    bits: int = Field(ge=1, le=4)
    keep: float = Field(gt=0, le=1)


class Genotype(_Record):
    """A network, but for its weights. ``edges`` is shared by all cells, as in the paper."""

    version: Literal[1] = GENOTYPE_VERSION
    timesteps: int = Field(ge=1, le=64)
    stem: StemGene
    edges: tuple[Edge, ...] = Field(min_length=1)
    cells: tuple[CellGene, ...] = Field(min_length=1, max_length=MOST_CELLS)
    classifier_bits: int = Field(ge=1, le=4)
    arithmetic: ArithmeticName = "float"
    quantizer: str = MIDRISE.name
    neuron: str = DEFAULT
    spike_levels: int = Field(1, ge=1, le=MOST_LEVELS)

    @model_validator(mode="after")
    def _check(self) -> Genotype:
        row = quantizer_named(self.quantizer)
        both_ends = (self.stem.bits, self.classifier_bits) if row.at_both_ends else ()
        for bits in (*(cell.bits for cell in self.cells), *both_ends):
            row.require(bits)
        if {edge.node for edge in self.edges} != set(range(self.nodes)):
            raise ValueError("edges must give every node, counted from 0 without a gap, at least one input")
        keys = [(edge.node, edge.source, edge.op) for edge in self.edges]
        if len(set(keys)) != len(keys):
            raise ValueError("edges must not repeat")
        levels = [cell.level for cell in self.cells]
        if levels != sorted(levels):
            raise ValueError("levels must not decrease from cell to cell")
        check_neuron(self.neuron, self.arithmetic)
        check_spike_levels(self.spike_levels, self.neuron)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Genotypes with the first arithmetic, neuron and quantizer look as they did before there were others."""
        return _without_defaults(serialize(self))

    def __repr__(self) -> str:
        edges = ", ".join(f"{edge.source}→{edge.node} {edge.op}" for edge in self.edges)
        return f"Genotype(T = {self.timesteps}, {len(self.cells)} cells of {edges}, {self.kinds})"

    __str__ = __repr__

    @property
    def kinds(self) -> str:
        """The arithmetic, and the neuron and its spikes unless they are the usual ones, for people."""
        neuron = () if self.neuron == DEFAULT else (self.neuron,)
        spikes = () if self.spike_levels == 1 else (f"spikes 0…{self.spike_levels}",)
        return ", ".join((self.arithmetic, *neuron, *spikes))

    @property
    def nodes(self) -> int:
        """Nodes of a cell."""
        return 1 + max(edge.node for edge in self.edges)

    def to_json(self) -> str:
        """The genotype as JSON text that :meth:`from_json` reads back."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, origin: str = "genotype") -> Genotype:
        """Read a genotype; ``origin`` is the name that an error gives the text.

        Raises:
            InputError: the text is not a genotype of a known version.
        """
        return _validated(cls, text, origin)

    @classmethod
    def read(cls, path: Path) -> Genotype:
        """Read a genotype file. Raises ``InputError`` if it is missing or damaged."""
        return cls.from_json(_text(path, "a genotype"), origin=str(path))


class LayerGene(_Record):
    """The choice for one layer of a user's module; the last linear layer has all weights."""

    name: str
    bits: int = Field(ge=1, le=4)
    keep: float = Field(gt=0, le=1)


class Compressed(_Record):
    """The choices of the compression of a user's module, whose architecture stays as it is: ``litesnn compress``."""

    kind: Literal["compressed"] = "compressed"
    version: Literal[1] = GENOTYPE_VERSION
    timesteps: int = Field(ge=1, le=64)
    layers: tuple[LayerGene, ...] = Field(min_length=1)
    quantizer: str = MIDRISE.name

    @model_validator(mode="after")
    def _check(self) -> Compressed:
        row = quantizer_named(self.quantizer)
        for layer in self.layers:
            row.require(layer.bits)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Choices with the first quantizer look as they did before there were others."""
        return _without_defaults(serialize(self))

    def to_json(self) -> str:
        """The choice as JSON text that :meth:`read` reads back."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, origin: str) -> Compressed:
        """Read choices; ``origin`` is the name that an error gives the text. Raises ``InputError`` if it is none."""
        return _validated(cls, text, origin)

    @classmethod
    def read(cls, path: Path) -> Compressed:
        """Read a file of choices. Raises ``InputError`` if it is missing or damaged."""
        return cls.from_json(_text(path, "the choices of a compression"), origin=str(path))


def read_genotype(path: Path) -> Genotype | Compressed:
    """Read a genotype file of either kind. Raises ``InputError`` if it is missing or damaged."""
    text = _text(path, "a genotype")
    try:
        kind = json.loads(text).get("kind")
    except (ValueError, AttributeError, RecursionError):
        kind = None  # the validation below says what is wrong
    if kind == "compressed":
        return _validated(Compressed, text, str(path))
    return Genotype.from_json(text, origin=str(path))


def require_engine_of(path: Path, engine: EngineName) -> None:
    """Refuse the network of a genotype file, if there is one, where an engine lacks one of its operations.

    Raises:
        InputError: the engine does, or the file is damaged.
    """
    if path.exists() and isinstance(genotype := read_genotype(path), Genotype):
        require_engine((edge.op for edge in genotype.edges), engine)


def check_op(name: str) -> str:
    """Return ``name`` if the operation table has it; raise ``ValueError`` if not."""
    if name not in OPS:
        raise ValueError(f"unknown op {name!r}; expected one of {', '.join(OPS)}")
    return name


RecordT = TypeVar("RecordT", bound=_Record)


def _validated(record: type[RecordT], text: str, origin: str) -> RecordT:
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        where, first = first_complaint(error, "the file")
        raise InputError(f"{origin}: {where}: {first['msg']}") from None


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {what}: {error}") from None


def all_edges(nodes: int) -> list[tuple[int, int]]:
    """The (node, source) pairs of a full cell in the order of α's rows."""
    return [(node, source) for node in range(nodes) for source in range(node + 2)]
