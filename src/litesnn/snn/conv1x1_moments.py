"""1 × 1 convolutions and the batch normalisation after them, without their outputs.

What z_e = W_e x of an edge e is needed for follows from sums over the pixels of its input x, most of whose values are 0
where x are spikes (:mod:`litesnn.snn.spike_products`):

    mean and variance       W_e x̄ and diag(W_e Cov(x) W_eᵀ)
    sum into a node         Σ_e scale_e · z_e = (Σ_e scale_e · W_e) x, one matrix for all edges that read x
    gradient of W_e         Σ_p dz_e xᵀ = a_e · Σ_p g xᵀ + b_e · W_e Σ_p x xᵀ + c_e Σ_p xᵀ
    gradient of x           Σ_e W_eᵀ dz_e = (Σ_e a_e · W_e)ᵀ g + (Σ_e W_eᵀ b_e W_e) x + Σ_e W_eᵀ c_e

where dz_e = a_e · g + b_e · z_e + c_e is what normalisation makes of the gradient g of a node's currents. That spares
memory to write and read z; there are I² more sums of products, which are those of spikes with spikes.

Shapes: P pixels, I input channels, C channels per node, E edges that read the same state and lead to N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litesnn.snn import spike_products
from litesnn.snn.constants import indices

__all__ = ["Coefficients", "Edges", "Moments"]


@dataclass(frozen=True)
class Moments:
    """Of a state: P, Σ_p x [I] and Σ_p x xᵀ [I, I], in double precision and of this process alone."""

    pixels: int
    sums: Tensor
    products: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of a map [P, I]."""
        return cls(len(x), *spike_products.moments(x))


@dataclass(frozen=True)
class Coefficients:
    """dz_e = a_e · g + b_e · z_e + c_e: [E, C] each."""

    a: Tensor
    b: Tensor
    c: Tensor


class Edges:
    """1 × 1 convolutions that read the same state, and lead to ``count`` nodes from ``first`` on.

    Args:
        weight: of the merged convolution [E·C, I].
        nodes: to which node each edge leads.
    """

    def __init__(self, weight: Tensor, nodes: tuple[int, ...]) -> None:
        self.weight = weight.double().view(len(nodes), -1, weight.shape[1])  # [E, C, I]
        self.first, self.type = min(nodes), weight.dtype
        self.count = 1 + max(nodes) - self.first
        self.nodes = indices(tuple(node - self.first for node in nodes), weight.device)

    def statistics(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Mean and variance of every z_e, [E, C] each."""
        mean = moments.sums / moments.pixels
        covariance = moments.products / moments.pixels - torch.outer(mean, mean)
        variance = ((self.weight @ covariance) * self.weight).sum(-1).clamp_min(0)
        return (self.weight @ mean).to(self.type), variance.to(self.type)

    def into_nodes(self, scales: Tensor) -> Tensor:
        """The matrix [I, N·C] by which a state is added to these nodes, with z_e times scales [E, C]."""
        return self._by_node(scales).T.to(self.type)

    def products(self, gram: Tensor, sums: Tensor, mean: Tensor) -> Tensor:
        """Σ_p g · (z_e − mean_e) [E, C].

        Args:
            gram: Σ_p x gᵀ [I, N·C] with the gradients of these nodes' currents.
            sums: Σ_p g of each edge's node [E, C].
            mean: [E, C].
        """
        return (self.weight * self._of_edges(gram)).sum(-1) - mean.double() * sums

    def weight_gradient(self, gram: Tensor, moments: Moments | None, found: Coefficients) -> Tensor:
        """[E·C, I]; without moments b and c are 0."""
        grad = found.a[..., None] * self._of_edges(gram)
        if moments is not None:
            grad += found.b[..., None] * (self.weight @ moments.products) + found.c[..., None] * moments.sums
        return grad.flatten(0, 1).to(self.type)

    def input_gradient(self, g: Tensor, x: Tensor, found: Coefficients, out: Tensor, *, adding: bool) -> None:
        """Set out [P, I], or add to it, from these nodes' g [P, N·C] and the state x [P, I]."""
        back = self._by_node(found.a).to(self.type)
        through = torch.einsum("eci,ec,ecj->ij", self.weight, found.b, self.weight).to(self.type)
        bias = torch.einsum("eci,ec->i", self.weight, found.c).to(self.type)
        spike_products.combine(out, [x], through, dense=(g, back), bias=bias, adding=adding)

    def _by_node(self, factors: Tensor) -> Tensor:
        """Σ_e factors_e · W_e of each node [N·C, I]."""
        scaled = factors.double()[..., None] * self.weight
        found = scaled.new_zeros(self.count, *scaled.shape[1:])
        return found.index_add_(0, self.nodes, scaled).flatten(0, 1)

    def _of_edges(self, gram: Tensor) -> Tensor:
        """[I, N·C] → of each edge its node's [E, C, I]."""
        return gram.T.view(-1, *self.weight.shape[1:])[self.nodes]
