"""A fixed pooling of logits, as SpikingJelly's VotingLayer is one, becomes part of the linear layer before it.

In: the trace of a module whose output is A·(W·s + b) with a matrix A that pools: each of the layer's outputs counts for
one class at most. Out: the same function with A·W and A·b in the layer, which hands its results to the pooling as often
as that takes them. So a file holds K rows of weights, and not ten times as many.

Shapes: B batch, I inputs, V votes (the layer's outputs), K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litesnn.compression.layers import CompressedLayer
from litesnn.compression.trace import Call, Trace, Value

__all__ = ["before_votes"]


@torch.no_grad()
def before_votes(trace: Trace, output: Value) -> Value:
    """The output of a module before its votes are pooled, its layer changed so that pooling does nothing.

    ``output`` itself if it is no such pooling.
    """
    chain: list[Call] = []
    value = output
    while (call := value.call) is not None and not isinstance(call.module, CompressedLayer):
        if call.role == "neuron" or len(call.inputs) != 1:
            return output
        chain.append(call)
        value = call.inputs[0]
    if call is None or not chain:
        return output
    layer = call.module
    assert isinstance(layer, CompressedLayer)
    if not layer.is_linear or value.tensor.dim() != 2 or output.tensor.dim() != 2 or not _read_by_one(trace, call):
        return output
    if layer.unpooling is None:
        pooling = _matrix(chain[::-1], value.tensor)
        if pooling is None:
            return output
        layer.pool(pooling)
    return value


def _read_by_one(trace: Trace, call: Call) -> bool:
    return sum(value.call is call for other in trace.calls for value in other.inputs) == 1


def _matrix(chain: list[Call], votes: Tensor) -> Tensor | None:
    """A [K, V] of calls from votes [B, V] to logits [B, K] if they pool, else ``None``."""

    def pooled(x: Tensor) -> Tensor | None:
        for call in chain:
            try:
                x = call.again(x)
            except Exception:  # whatever somebody's forward raises on other numbers
                return None
        return x

    units = torch.eye(votes.shape[1], device=votes.device)
    columns = [pooled(unit.expand_as(votes)) for unit in units]
    noise = torch.randn(votes.shape, generator=torch.Generator().manual_seed(0)).to(votes)
    there = pooled(noise)
    if there is None or any(column is None for column in columns):
        return None
    matrix = torch.stack([column[0] for column in columns if column is not None], dim=1)  # [K, V]
    pools = bool(((matrix != 0).sum(0) <= 1).all()) and bool((matrix.sum(1) != 0).all())
    return matrix if pools and torch.allclose(noise @ matrix.T, there, rtol=1e-4, atol=1e-5) else None
