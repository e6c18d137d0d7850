"""Matrix products of spikes: most values are 0, and what is multiplied by them is left out.

On the CPU and in float32 they are computed in C (``csrc/spike_products.h``) and take as long as there are spikes;
elsewhere, and where an instruction set has no loops for it, by torch. Inputs need not be spikes: any values are
multiplied.

Maps are matrices [P, C], as in :mod:`litesnn.snn.kernels`; I input and O output channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from litesnn.snn.native_library import address, as_maps, library, workers

__all__ = ["combine", "gram", "has_loops", "moments"]


def combine(
    out: Tensor,
    spikes: Sequence[Tensor],
    matrix: Tensor,
    *,
    dense: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    adding: bool = False,
) -> None:
    """Set out = [spikes_0, spikes_1, ...] · matrix + dense · its matrix + bias, or add that to it.

    Args:
        out: [P, O].
        spikes: maps [P, I_n].
        matrix: [Σ I_n, O].
        dense: one more map [P, J], of few zeros, and its matrix [J, O].
        bias: [O].
        adding: to what is there.

    Raises:
        MemoryError: there is no memory for the matrices.
    """
    bias = out.new_zeros(out.shape[1]) if bias is None else bias
    if not _in_c(out):
        total = bias + sum(x @ part for x, part in _pairs(spikes, matrix, dense))
        _ = out.add_(total) if adding else out.copy_(total)
        return
    columns = [x.shape[1] for x in spikes]
    other, factors = dense or (out, out[:0])
    matrix, factors, bias = matrix.contiguous(), factors.contiguous(), bias.contiguous()
    failed = library().lsnn_combine(
        *(workers()[0], len(out), len(spikes), as_maps(spikes), (ctypes.c_int64 * len(columns))(*columns)),
        *(address(matrix), as_maps([other]), len(factors), address(factors), address(bias)),
        *(adding, as_maps([out]), out.shape[1]),
    )
    if failed:
        raise MemoryError("no memory for the matrices of a product")


def gram(x: Tensor, y: Tensor) -> Tensor:
    """Σ_p x_p y_pᵀ [I, O] for spikes x [P, I] and any map y [P, O].

    In double precision, to which in C the sums of some rows are added up.

    Raises:
        MemoryError: there is no memory for the sums.
    """
    return _gram(x, y, None)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_p x_p [I] and Σ_p x_p x_pᵀ [I, I], as :func:`gram`, for spikes x [P, I].

    Raises:
        MemoryError: there is no memory for the sums.
    """
    sums = torch.empty(x.shape[1], dtype=torch.float64, device=x.device)
    return sums, _gram(x, x, sums)


def has_loops() -> bool:
    """Whether the instruction set in use has loops for products of spikes."""
    return bool(library().lsnn_has_spike_products())


def _gram(x: Tensor, y: Tensor, sums: Tensor | None) -> Tensor:
    """Also sets ``sums``, if there are any."""
    if not _in_c(x):
        if sums is not None:
            torch.sum(x, 0, dtype=sums.dtype, out=sums)
        return (x.T @ y).double()
    found = torch.empty(x.shape[1], y.shape[1], dtype=torch.float64)
    failed = library().lsnn_gram(
        *(workers()[0], len(x), as_maps([x]), x.shape[1], as_maps([y]), y.shape[1], address(found)),
        None if sums is None else address(sums),
    )
    if failed:
        raise MemoryError("no memory for the sums of a product")
    return found


def _in_c(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and has_loops()


def _pairs(
    spikes: Sequence[Tensor], matrix: Tensor, dense: tuple[Tensor, Tensor] | None
) -> list[tuple[Tensor, Tensor]]:
    """Maps and their matrices."""
    parts = torch.split(matrix, [x.shape[1] for x in spikes])
    return [*zip(spikes, parts, strict=True), *([dense] if dense else [])]
