"""The average of a network's weights over the steps of its training, and batch statistics that fit the average.

What is averaged, after each step, is every parameter of the network: weights, gains and offsets of norms, the
classifier's bias and gain, the pruning scores, and what neurons and quantizers learn. Codes and masks are then made of
the averages, as they are of weights and scores otherwise; a mask is no average of masks.

    a ← a + (1 − exp(−Δp / min(r, p))) · (w − a)

p is the share of the training that is done after the step, Δp that of the step, and r the reach (``train.ema``): a step
that is r of the training ago counts 1/e of the last one, whatever the number of steps. As long as p < r the average is
over all steps so far (exponential averages: Polyak & Juditsky, 1992; of networks: Tarvainen & Valpola, 2017, arXiv
1703.01780).

Batch statistics are not averaged: currents of averaged weights have statistics of their own. They are made anew from
some augmented training batches, as those of a plain training are (Izmailov et al., 2018, arXiv 1803.05407, section 3).

Limits on work are on what is deployed, the average. A step counts its own work times the ratio of the average's, as
validated after the epoch before, and that of the steps of that epoch; so it holds the average under the limit, although
gradients are those of its own weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from litesnn.snn.execution import Execution
from litesnn.snn.predictor import Predictor

__all__ = ["Averages", "renew_statistics"]

_Norm = nn.modules.batchnorm._BatchNorm


class Averages:
    """Averages of the parameters of a network, each with the network's batch statistics for them.

    Args:
        network: whose parameters are averaged, beginning with what they are.
        reach: r, a share of the training; 0: there are no averages, and nothing here does anything.
    """

    def __init__(self, network: nn.Module, reach: float) -> None:
        self._reach = reach
        self._live: dict[str, Tensor] = {}
        self._count = 0  # of them, those that are averaged; the others are batch statistics
        if reach > 0:
            self._live = {name: parameter.detach() for name, parameter in network.named_parameters()}
            self._count = len(self._live)
            self._live |= {
                f"{name}.{key}": buffer
                for name, norm in network.named_modules()
                if isinstance(norm, _Norm)
                for key, buffer in norm.named_buffers(recurse=False)
            }
        self._own = {name: tensor.clone() for name, tensor in self._live.items()}

    def __bool__(self) -> bool:
        """Whether there are averages."""
        return self._count > 0

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The averages and their batch statistics by name, to be kept and put back in place."""
        return self._own

    @torch.no_grad()
    def update(self, before: float, after: float) -> None:
        """Take in the parameters after a step, from the share ``before`` of the training to the share ``after``."""
        if not self or after <= before:
            return
        share = -math.expm1((before - after) / min(self._reach, after))
        own, live = ([*tensors.values()][: self._count] for tensors in (self._own, self._live))
        torch._foreach_lerp_(own, live, share)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """In this block the network has the averages and their statistics, and what it had comes back afterwards.

        Statistics that are made anew in the block stay with the averages.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            own = self._own[name]
            kept = live.clone()
            live.copy_(own)
            own.copy_(kept)


@torch.no_grad()
def renew_statistics(
    network: Predictor,
    batches: Iterable[Tensor],
    *,
    execution: Execution = Execution(),
    micro_batches: int = 1,
) -> None:
    """Set the batch statistics of a network to their means over some batches x [B, …], which are as in training.

    Of several processes each has its part of every batch. ``micro_batches`` are as in a step: statistics are of those.
    """
    norms = [norm for norm in network.module.modules() if isinstance(norm, _Norm) and norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    network.module.train()
    seen = 0
    try:
        for batch in batches:
            for x in batch.tensor_split(min(micro_batches, len(batch))):
                seen += 1
                for norm in norms:
                    norm.momentum = 1 / seen  # the mean so far
                network(x, execution=execution)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
