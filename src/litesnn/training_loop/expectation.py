"""Expected costs of a step: of a network that is searched, or of one that is trained.

In: what a forward pass has counted, and for a search the mixtures of its candidates. Out: what the rows of
:data:`litesnn.costs.COSTS` take their expectations of, as tensors with a gradient.

Shapes: T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from litesnn.costs import COSTS
from litesnn.costs.cost import AnalogLayer, LayerBits, WorkMeter

__all__ = ["Fixed", "Mixed", "MixedNetwork", "work_costs"]


class MixedNetwork(Protocol):
    """The facts of a network whose layers are mixtures of candidates."""

    @property
    def header_bytes(self) -> int:
        """Bytes of a packed file's header, near enough for a search."""
        ...

    def expected_bits(self, mixes: Any, layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of all layers by a formula, with ``affine`` for each of their biases; a scalar."""
        ...

    def position_bits(self, mixes: Any) -> Tensor | None:
        """As :class:`litesnn.costs.cost.Expectation` has it."""
        ...

    def analog_layers(self, mixes: Any, *, frames: bool) -> list[AnalogLayer]:
        """The layers that read real numbers; ``frames``: whether the input differs at every timestep."""
        ...


@dataclass(frozen=True)
class Mixed:
    """Expectations over the candidates of a searched network, and over the numbers of timesteps.

    Attributes:
        network: that is searched.
        mixes: of its candidates, never drawn.
        meter: of a forward pass over T_max timesteps.
        psi: probabilities of the numbers of timesteps [T].
        frames: whether the input differs at every timestep.
    """

    network: MixedNetwork
    mixes: Any
    meter: WorkMeter
    psi: Tensor
    frames: bool

    @property
    def header_bytes(self) -> int:
        """As :class:`litesnn.costs.cost.Expectation` has it, like the other methods."""
        return self.network.header_bytes

    def stored_bits(self, layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of all layers."""
        return self.network.expected_bits(self.mixes, layer, affine=affine)

    def position_bits(self) -> Tensor | None:
        """Expected bits of positions beyond those."""
        return self.network.position_bits(self.mixes)

    def work(self, per_timestep: Callable[[WorkMeter], Tensor]) -> Tensor:
        """Σ_t ψ_t · Σ_{t'≤t} of the work at t', a scalar."""
        return (self.psi * per_timestep(self.meter).cumsum(0)).sum()

    def analog(self) -> Sequence[tuple[Any, Any]]:
        """Expected MACs and bits of the layers that read real numbers."""
        timesteps = sum(share * steps for steps, share in enumerate(self.psi.unbind(), start=1))
        rows = self.network.analog_layers(self.mixes, frames=self.frames)
        return [(row.macs * (timesteps if row.every_timestep else 1), row.bits) for row in rows]


@dataclass(frozen=True)
class Fixed:
    """The work of a network without candidates: ``meter`` of a pass, and what gives MACs and bits of analog layers.

    What the meter has counted stands for so many ``times`` as much.
    """

    meter: WorkMeter
    macs: Callable[[], Sequence[tuple[Any, int]]]
    times: float = 1.0

    @property
    def header_bytes(self) -> int:
        """Its size is known and not expected."""
        raise NotImplementedError

    def stored_bits(self, layer: LayerBits, *, affine: float) -> Tensor:
        """Its size is known and not expected."""
        raise NotImplementedError

    def position_bits(self) -> Tensor | None:
        """Its size is known and not expected."""
        raise NotImplementedError

    def work(self, per_timestep: Callable[[WorkMeter], Tensor]) -> Tensor:
        """Σ_t of the work at t, a scalar."""
        work = per_timestep(self.meter).sum()
        return work if self.times == 1 else work * self.times

    def analog(self) -> Sequence[tuple[Any, Any]]:
        """MACs and bits of the layers that read real numbers."""
        return self.macs()


def work_costs(keys: Iterable[str], network: Fixed) -> Mapping[str, Tensor]:
    """By key, the costs of those keys that depend on how often neurons fire."""
    return {key: expected(network) for key in keys if COSTS[key].is_work and (expected := COSTS[key].expected)}
