"""Whether the plain networks compute what litesnn's compute; nothing is timed before this holds.

Logits, Bit-SynOps and the gradient of every parameter are compared, in float64: in float32 two ways to add round
differently, a membrane near the threshold then fires in one and not in the other, and the networks part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from litesnn.data.batches import generator_for
from litesnn.errors import LitesnnError
from litesnn.snn.cost import Meter
from step_cases import Case, search_loop, train_loop

__all__ = ["TOLERANCE", "Evidence", "evidence", "largest_difference", "require_agreement"]

TOLERANCE = 1e-7
BATCH = 2

Evidence = Mapping[str, Tensor]
"""Logits, Bit-SynOps per timestep, and the gradient of every parameter by name."""


@contextmanager
def _float64() -> Iterator[None]:
    """Everything made meanwhile is float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@_float64()
def evidence(case: Case, contender: str, batch: int = BATCH) -> Evidence:
    """What a contender of a case computes for ``batch`` images."""
    x, _ = case.images(3, batch)
    meter = Meter()
    if case.stage == "search":
        supernet = search_loop(case, contender).supernet
        noise = supernet.noise(generator_for(0, "draws")) if case.recipe.search.sampling else None
        logits = supernet(x, supernet.mixes(noise), meter=meter).logits
        named = dict(supernet.named_parameters())
    else:
        network = train_loop(case, contender).trainee.network
        backbone, steps = network.backbone, network.genotype.timesteps
        if contender == "ours":  # the network itself takes images to float32
            logits = backbone.run(x, steps, network.mixes(), integer=False, meter=meter).logits
        else:
            logits = network(x, meter=meter).logits
        named = dict(network.named_parameters())
    random = torch.Generator().manual_seed(4)
    factors = torch.randn(logits.shape, generator=random)
    spent = meter.bit_synops()
    # In logarithms the costs have gradients of the logits' size.
    scalar = (logits * factors).sum() + spent.log().sum()
    gradients = torch.autograd.grad(scalar, list(named.values()), allow_unused=True)
    found = {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
    return {"logits": logits.detach(), "bit_synops": spent.detach(), **found}


def largest_difference(ours: Evidence, others: Evidence) -> tuple[str, float]:
    """The tensor that differs most, and by how much, relative to its largest entry. Scores that are not pruned by may
    have a gradient of nothing in one of the two; nobody uses it.
    """
    unused = {"backbone.stem.conv.scores", "backbone.classifier.scores"}
    names = (set(ours) | set(others)) - unused
    if missing := sorted(names - (set(ours) & set(others))):
        return missing[0], float("inf")
    differences = {name: _relative(ours[name], others[name]) for name in names}
    worst = max(differences, key=lambda name: differences[name])
    return worst, differences[worst]


def require_agreement(case: Case) -> float:
    """The largest relative difference of both plain networks from litesnn's.

    Raises:
        LitesnnError: it is above the tolerance.
    """
    ours, found = evidence(case, "ours"), 0.0
    for contender in ("plain", "plain_once"):
        name, difference = largest_difference(ours, evidence(case, contender))
        if not difference <= TOLERANCE:
            raise LitesnnError(f"{case.stage} {case.name}: {name} of {contender} is off by {difference:.2g}")
        found = max(found, difference)
    return found


def _relative(ours: Tensor, other: Tensor) -> float:
    scale = max(float(other.abs().max()), 1e-12)
    return float((ours - other).abs().max()) / scale
