"""How a network is trained on a machine, as opposed to what it computes. The command line has this without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """Choices between time, memory and rounding in training; evaluation has its own, exact arithmetic.

    Attributes:
        recompute: keep only the spikes between cells for the backward pass, which runs every cell again. The numbers
            stay the same.
        compiled: let ``torch.compile`` make the kernels besides convolutions. Sums round differently.
        half: compute convolutions in bfloat16. Spikes are exact in it; weights keep 8 bits of precision, which is more
            than any of theirs but not more than that of a mixture of several.
        graphs: on a single GPU, record a step once as a CUDA graph and replay it. The numbers stay the same.
    """

    recompute: bool = False
    compiled: bool = False
    half: bool = False
    graphs: bool = True

    @property
    def convolution_type(self) -> torch.dtype | None:
        """The type of convolutions; ``None``: that of their inputs."""
        if not self.half:
            return None
        import torch

        return torch.bfloat16
