"""A batch norm in evaluation, as a gain and an offset of every channel: asked of the norm, not of its class.

In: a norm, of torch or a subclass with a forward of its own. Out: its :class:`Affine` map, or :class:`NotAffine`. The
norm is run, hooks and all, on random values; what torch's formula says is taken where the norm does that, since it is
exact, and what was measured where it is another map of each channel (threshold-dependent norms multiply by a constant).

Shapes: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from litesnn.compression.source import line_of

__all__ = ["Affine", "NotAffine", "affine_of", "require_affine"]

_BATCH = 3
_SIDE = 2
_SAME = 1e-5
"""Relative difference that float32 explains: a norm rounds about five times, and large means cancel."""
_MEASURED = 1e-9
"""The same tolerance in float64, in which a norm is measured if it can be."""


class NotAffine(Exception):
    """Why a norm is no gain and offset of each channel."""


@dataclass(frozen=True)
class Affine:
    """``gain·x + offset``, [C] each, float64."""

    gain: Tensor
    offset: Tensor


@torch.no_grad()
def affine_of(norm: nn.modules.batchnorm._BatchNorm) -> Affine:
    """The gain and offset of a norm in evaluation, with its present statistics.

    Raises:
        NotAffine: it is no map of each channel by itself that can be folded.
    """
    values = {name: value.detach() for name, value in (*norm.named_parameters(), *norm.named_buffers())}
    return _affine(norm, values)


@torch.no_grad()
def require_affine(norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Refuse a norm that cannot be folded, by what it does with random statistics and random gain and bias.

    A fresh norm has a mean and a bias of 0 and a gain of 1, which hides what is done with them.

    Raises:
        NotAffine: and why.
    """
    affine_of(norm)
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return (torch.rand(like.shape, generator=generator) + 0.5).to(like)

    values = {name: value.detach() for name, value in (*norm.named_parameters(), *norm.named_buffers())}
    known = {"weight": 1.0, "running_var": 1.0, "bias": -1.0, "running_mean": -1.0}
    _affine(norm, {name: known[name] * drawn(value) if name in known else value for name, value in values.items()})


def _affine(norm: nn.modules.batchnorm._BatchNorm, values: Mapping[str, Tensor]) -> Affine:
    formula = _formula(norm, values)
    generator = torch.Generator().manual_seed(1)
    shape = (_BATCH, norm.num_features, *[_SIDE] * (_dimensions(norm) - 2))
    probes = [scale * torch.randn(shape, generator=generator) for scale in (0.1, 1.0, 30.0)]
    device = formula.gain.device
    if all(_same(formula, x, _run(norm, values, x), _SAME) for x in (each.to(device) for each in probes)):
        return formula
    double = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
    try:
        kind, tolerance = torch.float64, _MEASURED
        measured = _measure(norm, double, torch.zeros(shape, dtype=kind, device=device))
    except NotAffine:  # its own forward may have float32 in it
        kind, tolerance, double = torch.float32, _SAME, dict(values)
        measured = _measure(norm, double, torch.zeros(shape, dtype=kind, device=device))
    for each in probes:
        x = each.to(device, kind)
        if not _same(measured, x, _run(norm, double, x), tolerance):
            raise NotAffine("it does more than scale and shift each channel")
        if not _same(measured, x.float(), _run(norm, values, x.float()), _SAME):
            raise NotAffine("it gives something else each time")
    return measured


def _formula(norm: nn.modules.batchnorm._BatchNorm, values: Mapping[str, Tensor]) -> Affine:
    """Torch's: (x − mean)/√(variance + ε)·weight + bias. A missing weight is 1, a missing bias 0."""
    gain = (values["running_var"].double() + norm.eps).rsqrt()
    if "weight" in values:
        gain = gain * values["weight"].double()
    offset = -gain * values["running_mean"].double()
    return Affine(gain, offset + values["bias"].double() if "bias" in values else offset)


def _measure(norm: nn.Module, values: Mapping[str, Tensor], zeros: Tensor) -> Affine:
    offset, one = (_run(norm, values, zeros + value).double()[0].flatten(1)[:, 0] for value in (0.0, 1.0))
    if not bool((offset.isfinite() & one.isfinite()).all()):
        raise NotAffine("it makes numbers that are not finite")
    return Affine(one - offset, offset)


def _run(norm: nn.Module, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
    training = [child for child in norm.modules() if child.training]
    norm.eval()
    try:
        out = functional_call(norm, dict(values), (x.clone(),))
    except Exception as error:  # whatever somebody's forward raises
        raise NotAffine(f"it fails on random values: {line_of(error)}") from error
    finally:
        for child in training:
            child.training = True
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise NotAffine("it makes something of another shape")
    return out


def _same(affine: Affine, x: Tensor, out: Tensor, tolerance: float) -> bool:
    along = (-1, *[1] * (x.dim() - 2))
    scaled, offset = affine.gain.view(along) * x.double(), affine.offset.view(along)
    room = tolerance * (scaled.abs() + offset.abs() + affine.gain.abs().view(along) + 1e-30)
    return bool(((scaled + offset - out.double()).abs() <= room).all())


def _dimensions(norm: nn.Module) -> int:
    return 2 if isinstance(norm, nn.BatchNorm1d) else 5 if isinstance(norm, nn.BatchNorm3d) else 4
