"""BSO and T-BSO: 1-bit weights that learn by flips of their signs alone (Liang et al., ICML 2025, arXiv 2511.12502).

Nothing is kept of a weight but its sign w and a running mean M of its gradients G:

    M ← β₁·M + (1 − β₁)·G
    BSO:    w ← −w where w·M > γ
    T-BSO:  w ← −w where w·M > γ·√(v + ε),    v ← β₂·v + (1 − β₂)·mean(G²)

v is of each layer. In the paper it is also of each timestep; here the gradient of a weight comes out of the backward
pass as the sum over the timesteps, and so v is that of the sum.

**The scale.** The mid-rise quantizer takes a 1-bit weight to its sign times 0.798·std(W). Weights that learn in this
way are ±c, where c is the standard deviation that the layer's weights had when training began. It stays as it is: what
a layer is multiplied by is the matter of batch norm, or of the classifier's gain, both of which learn. G is the
gradient by the sign, which is that of the weight times its scale: no c changes which signs flip.

**Pruned weights** have no gradient: their M fades and their signs stay, until their score lets them in again.

Weight decay means nothing to a sign, and neither does a learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litesnn.config import TrainSettings
from litesnn.quantizers.midrise import GAUSSIAN_STEP, standard_deviation
from litesnn.train.quantized_layers import QuantizedLayer

__all__ = ["FlipOptimizer", "binary_weights", "flip_optimizer"]

_EPSILON = 1e-16
"""ε, of a mean of squares of gradients that are seldom above 1e-3."""


class FlipOptimizer(torch.optim.Optimizer):
    """BSO, or with ``scale_momentum`` T-BSO.

    Args:
        weights: those of 1-bit layers. They become ±c.
        threshold: γ.
        momentum: β₁.
        scale_momentum: β₂, or ``None``.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], *, threshold: float, momentum: float, scale_momentum: float | None = None
    ) -> None:
        super().__init__(
            list(weights), {"threshold": threshold, "momentum": momentum, "scale_momentum": scale_momentum}
        )
        with torch.no_grad():
            for weight in weights:
                size = standard_deviation(weight[None])[0]
                weight.copy_(torch.where(weight > 0, size, -size))  # as the quantizer has it, 0 is −1

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Flip what is to be flipped. Nothing in it waits for the device."""
        if closure is not None:
            raise ValueError("a flip optimizer computes no loss again; expected no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, group)

    def _step(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
            if group["scale_momentum"] is not None:
                state["square"] = weight.new_zeros(())
        assert weight.grad is not None
        gradient = weight.grad * _scale(weight)
        state["mean"].lerp_(gradient, 1 - group["momentum"])
        threshold: Tensor | float = group["threshold"]
        if group["scale_momentum"] is not None:
            state["square"].lerp_(gradient.square().mean(), 1 - group["scale_momentum"])
            threshold = threshold * (state["square"] + _EPSILON).sqrt()
        flips = weight.sign() * state["mean"] > threshold
        weight.mul_(1 - 2 * flips.to(weight.dtype))


def _scale(weight: Tensor) -> Tensor:
    """What the sign of a weight is multiplied by in the quantized layer."""
    return GAUSSIAN_STEP[1] / 2 * standard_deviation(weight[None])[0]


def binary_weights(layers: Sequence[QuantizedLayer]) -> list[nn.Parameter]:
    """The weights of layers of 1 bit, each once."""
    found = {id(layer.conv.weight): layer.conv.weight for layer in layers if layer.bits == 1}
    return list(found.values())


def flip_optimizer(settings: TrainSettings, layers: Sequence[QuantizedLayer]) -> FlipOptimizer | None:
    """The optimizer of all 1-bit weights; ``None``: that of the other weights has them too, or there are none."""
    weights = binary_weights(layers)
    if settings.binary_optimizer == "sgd" or not weights:
        return None
    return FlipOptimizer(
        weights,
        threshold=settings.binary_threshold,
        momentum=settings.binary_momentum,
        scale_momentum=settings.binary_scale_momentum if settings.binary_optimizer == "t-bso" else None,
    )
