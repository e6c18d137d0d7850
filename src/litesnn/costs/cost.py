"""A cost: all that a budget, the search, the exact choice, the measurement and the report need to know of one.

A cost is a row of :data:`litesnn.costs.COSTS`. Every cost is per inference and per sample, and none depends on the
batch size. Nothing here needs torch; tensors come in from the search.

Shapes: T timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DECIMAL",
    "NUMBER",
    "AnalogLayer",
    "Cost",
    "Expectation",
    "LayerBits",
    "Pairs",
    "Piece",
    "Priced",
    "WorkMeter",
    "in_units",
]

Pairs = Iterable[tuple[int, float, Any]]
"""(bits, keep ratio, probability) of every candidate of a layer."""

DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
"""Prefixes of counts, in lower case, as people write them in budgets."""


class LayerBits(Protocol):
    """A formula of the bits that a layer takes."""

    def __call__(self, weights: Any, outputs: Any, pairs: Pairs, /) -> Any:
        """Bits of a layer, from its weights (pruned ones included), its output channels and its candidates."""
        ...


@dataclass(frozen=True)
class AnalogLayer:
    """A layer that reads real numbers: its (expected) MACs of a pass, its bits, and whether each timestep is a pass."""

    macs: Any
    bits: Any
    every_timestep: bool


class Expectation(Protocol):
    """A network in the middle of a step: one that is searched, of whose candidates expectations are taken, or not."""

    def stored_bits(self, layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of all layers, with ``affine`` for each of their biases; a scalar."""
        ...

    def position_bits(self) -> Tensor | None:
        """Expected bits that say which weights are kept, beyond what a formula of layers can count, or ``None``.

        There are some where a kept weight may get the code 0, or a layer is packed with places that are always zero.
        """
        ...

    @property
    def header_bytes(self) -> int:
        """Bytes of a packed file's header, near enough for a search; the derivation counts the real ones."""
        ...

    def work(self, per_timestep: Callable[[WorkMeter], Tensor]) -> Tensor:
        """Σ_t softmax(ψ)_t · Σ_{t'≤t} of what is done at timestep t' [T], a scalar (section 3.3)."""
        ...

    def analog(self) -> Sequence[tuple[Any, Any]]:
        """Expected MACs per inference, and bits, of every layer that reads real numbers."""
        ...


class WorkMeter(Protocol):
    """The work that a forward pass has counted, layers summed, per timestep [T]."""

    def synops(self) -> Tensor:
        """SynOps."""
        ...

    def bit_synops(self) -> Tensor:
        """SynOps × bits."""
        ...


@dataclass(frozen=True)
class Piece:
    """A part of a network that may be chosen, with what it stores and does.

    ``kind``: a ``layer`` that is searched, the ``classifier``, the ``stem`` (which reads real numbers), an ``identity``
    (a skip connection without weights) or the ``biases`` of a cell. ``synops`` are expected per timestep, a number or
    [T]; so are ``macs``, of which there are none at the timesteps that read what was computed before. ``bits`` are
    those of a code in the packed file. ``places``: of the packed layer, if it has more than weights, the others being
    zero; ``has_zero``: whether a kept weight may get the code 0.
    """

    kind: Literal["layer", "classifier", "stem", "identity", "biases"]
    weights: int = 0
    outputs: int = 0
    bits: int = 1
    keep: float = 1.0
    synops: Any = 0.0
    macs: Any = 0.0
    places: int | None = None
    has_zero: bool = False


Priced = Callable[[Piece], Any]
"""The price of a piece: a number for what is known from the architecture, or per timestep [T] for work."""


@dataclass(frozen=True)
class Cost:
    """One cost.

    Attributes:
        key: its name in budgets, recipes, logs and metrics.
        title: its name in reports.
        row: its name in tables, with the unit.
        unit: of numbers in reports, to which prefixes are set.
        meaning: of the limit, for the settings' help.
        example: a limit as people write it in a budget.
        expects: what a budget may say of it, for a complaint; by default the example.
        pattern: what people write, in lower case, with the groups ``number`` and ``unit``.
        write: a limit as ``pattern`` reads it back, exactly.
        say: a number of it in words, for people.
        whole: whether it is a whole number.
        most: that a limit may be, if there is a bound.
        units: of the prefixes that people write, in lower case.
        measured: from the metrics of a finished network.
        is_work: whether it depends on how often neurons fire. A limit on what does not is certain before training.
        expected: the differentiable expectation of the search; ``None`` if no gradient follows it.
        price: of one piece for the exact choice; ``None`` as above.
        always_compared: whether metrics show it beside a budget that does not limit it.
    """

    key: str
    title: str
    row: str
    unit: str
    meaning: str
    example: str
    pattern: re.Pattern[str]
    write: Callable[[float], str]
    say: Callable[[float], str]
    measured: Callable[[Mapping[str, Any]], float]
    expects: str = ""
    whole: bool = False
    most: float | None = None
    units: Mapping[str, float] = field(default_factory=lambda: DECIMAL)
    is_work: bool = False
    expected: Callable[[Expectation], Tensor] | None = None
    price: Priced | None = None
    always_compared: bool = False

    def __post_init__(self) -> None:
        if not self.expects:
            object.__setattr__(self, "expects", repr(self.example))

    def read(self, part: str) -> float | None:
        """The limit that a part of a budget in lower case says, or ``None`` if it speaks of something else."""
        match = self.pattern.fullmatch(part)
        if match is None:
            return None
        number = match["number"] or match.groupdict()["worded"]
        return float(number) * self.units[match["unit"]]


NUMBER = r"(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
"""The part of a pattern that reads a number."""


def in_units(count: float, unit: str) -> str:
    """A count to three digits, as people write it: ``"2 M Bit-SynOps"``."""
    rounded = float(f"{count:.3g}")
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= size:
            return f"{rounded / size:,.10g} {prefix} {unit}"
    return f"{rounded:.10g} {unit}"
