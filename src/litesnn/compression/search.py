"""The search of a user's module: bits and keep ratio of every layer and T, its architecture as it is.

In: a recipe with a module, and data. Out: what :mod:`litesnn.search.joint` and :mod:`litesnn.search.derive` write, by
their loop, constraints and exact choice.

Shapes: L searched layers, T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from litesnn.compression.network import Given, extras, run
from litesnn.config import Recipe
from litesnn.costs.cost import AnalogLayer, Cost, LayerBits, Piece
from litesnn.genotype import Compressed
from litesnn.search.derive import (
    Option,
    choose_within,
    fill_budget,
    largest,
    priced,
    priced_costs,
    require_each,
)
from litesnn.search.outcome import FloatArray
from litesnn.snn.backbone import Output
from litesnn.snn.compconv import Compression
from litesnn.snn.cost import Meter
from litesnn.snn.execution import Execution
from litesnn.snn.supernet import draw

__all__ = ["Candidates", "choose_layers", "counted_layers", "most_timesteps", "require_small_enough"]


def most_timesteps(given: Given, recipe: Recipe) -> int:
    """T_max of the search: the least that recipe, budget and module allow."""
    return min(recipe.timesteps, given.own_timesteps or recipe.timesteps)


class Candidates(nn.Module):
    """A user's module with every bit-width and keep ratio at once, mixed by learned weights.

    β [L, bits, keeps] is per layer, ψ [T] chooses the timesteps; as in :class:`~litesnn.snn.supernet.Supernet`.
    """

    def __init__(self, given: Given, recipe: Recipe) -> None:
        super().__init__()
        self.given = given
        self.bits, self.keeps = recipe.search.bits, recipe.search.keeps
        self.beta = nn.Parameter(torch.zeros(len(given.searched), len(self.bits), len(self.keeps)))
        self.psi = nn.Parameter(torch.zeros(most_timesteps(given, recipe)))

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.beta.device

    @property
    def header_bytes(self) -> int:
        """Bytes of a packed file's header, near enough for a search."""
        return self.given.header_bytes

    def architecture(self) -> dict[str, list[nn.Parameter]]:
        """Architecture parameters besides ψ."""
        return {"beta": [self.beta]}

    def score_parameters(self) -> list[nn.Parameter]:
        """Pruning scores of the searched layers."""
        return [self.given.layers[name].scores for name in self.given.searched]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything that the module learns."""
        return [p for name, p in self.given.named_parameters() if not name.endswith("scores")]

    def noise(self, generator: torch.Generator) -> Tensor:
        """The random numbers of one draw of :meth:`mixes`, uniform in 0…1 [n], on the device of the generator."""
        return torch.rand(self.beta.numel(), generator=generator)

    def mixes(self, noise: Tensor | None = None) -> list[Compression]:
        """The mixture of every searched layer, or with :meth:`noise` one draw from each."""
        return [Compression(self.bits, self.keeps, pairs) for pairs in draw(self.beta, noise)]

    def forward(
        self,
        x: Tensor,
        mixes: Sequence[Compression] | None = None,
        *,
        meter: Meter | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Encoded images [B, C, H, W], or frames [B, T_max, C, H, W] → y_t [T_max, B, K].

        ``execution`` has no meaning here.
        """
        mixes = self.mixes() if mixes is None else mixes
        return run(self.given, x, self._named(mixes), len(self.psi), meter=meter, whole=True)

    def expected_bits(self, mixes: Sequence[Compression], layer: LayerBits, *, affine: float) -> Tensor:
        """Expected bits of all layers in a packed file, with ``affine`` for each output's bias; a scalar."""
        one = self.psi.new_ones(())
        rows = [
            (self.given.weight_copies(name), self.given.layers[name], mix) for name, mix in self._named(mixes).items()
        ]
        return torch.stack(
            [
                copies * (layer(one * part.weight.numel(), one * part.outputs, mix.pairs()) + affine * part.outputs)
                for copies, part, mix in rows
            ]
        ).sum()

    def position_bits(self, mixes: Sequence[Compression]) -> Tensor | None:
        """None: formulas of layers count all bits."""
        return None

    def analog_layers(self, mixes: Sequence[Compression], *, frames: bool) -> list[AnalogLayer]:
        """The layers that read real numbers: each candidate with its share of the MACs."""
        named = self._named(mixes)
        return [
            AnalogLayer(share * keep * macs, bits, every_timestep)
            for name, macs, every_timestep in self.given.analog(frames=frames)
            for bits, keep, share in named[name].pairs()
        ]

    def describe(self) -> dict[str, Any]:
        """β as probabilities, for the log."""
        pairs = draw(self.beta, None)
        return {
            "layers": self.given.searched,
            "bits": pairs.sum(2).tolist(),
            "bit_choices": self.bits,
            "keep": pairs.sum(1).tolist(),
            "keep_choices": self.keeps,
            "compression": pairs.tolist(),
        }

    def _named(self, mixes: Sequence[Compression]) -> dict[str, Compression]:
        """The compression of every layer, the last one's with them."""
        named = dict(zip(self.given.searched, mixes, strict=True))
        if self.given.last is not None:
            named[self.given.last] = Compression.fixed(self.given.io_bits, 1.0, self.device)
        return named


def choose_layers(
    candidates: Candidates,
    whole: Mapping[str, Sequence[float]],
    recipe: Recipe,
    finish: Callable[[int, Mapping[str, tuple[int, float]]], tuple[Compressed, int]],
) -> tuple[Compressed, str | None]:
    """The exact best choice within the budget, and a warning if Bit-SynOps are expected to pass their limit.

    Args:
        candidates: as searched.
        whole: of each of :func:`counted_layers` what it would cost with all weights, SynOps per timestep [T].
        recipe: of the run.
        finish: makes of T and the choices by layer the record, and the most bytes that its file can take.

    Raises:
        InputError: no choice fits the packed-size budget.
    """
    options = _options(candidates, whole, priced_costs(recipe.budget))
    names = list(candidates.given.layers)

    def record(chosen: Sequence[Option], steps: int) -> tuple[Compressed, int]:
        picked = {
            name: (candidates.bits[option.bits], candidates.keeps[option.keep])
            for name, option in zip(names, chosen, strict=True)
            if name != candidates.given.last
        }
        return finish(steps, picked)

    psi = candidates.psi.detach().double().log_softmax(0).cpu().numpy()
    require_each(
        options,
        recipe.budget,
        which="the smallest choice",
        remedy="search.keeps or search.bits",
        bytes_of=lambda chosen: record(chosen, 1)[1],
    )

    def choose(least_bytes: int) -> tuple[Compressed, str | None]:
        chosen, steps, warning = choose_within(
            options, psi, recipe.budget, lambda *choice: record(*choice)[1], least_bytes=least_bytes
        )
        return record(chosen, steps)[0], warning

    return fill_budget(recipe, record(largest(options), 1)[1], choose)


def require_small_enough(
    candidates: Candidates,
    recipe: Recipe,
    finish: Callable[[int, Mapping[str, tuple[int, float]]], tuple[Compressed, int]],
) -> None:
    """Refuse, before anything is searched, a packed-size budget that no choice keeps. Raises ``InputError``."""
    silent = [0.0] * len(candidates.psi)
    idle = dict.fromkeys(counted_layers(candidates.given), silent)
    free = recipe.model_copy(update={"budget": recipe.budget.certain()})
    choose_layers(candidates, idle, free, finish)


def counted_layers(given: Given) -> list[str]:
    """The names of what a search counts the work of: layers of spikes, and what hands on spikes without a layer."""
    names = [name for name, layer in given.layers.items() if layer.reads == "spikes"]
    return names + ([] if given.graph is None else [name for name, _, _ in extras(given.graph)])


def _options(candidates: Candidates, whole: Mapping[str, Sequence[float]], costs: Sequence[Cost]) -> list[list[Option]]:
    """Every choice of every layer with its price; the last layer has one."""
    given, options, timesteps = candidates.given, [], len(candidates.psi)
    analog = {name: (macs, every) for name, macs, every in given.analog(frames=given.info.frames)}
    scores = dict(
        zip(
            given.searched,
            candidates.beta.detach().double().flatten(1).log_softmax(1).view_as(candidates.beta).tolist(),
            strict=True,
        )
    )
    others = [] if given.graph is None else [np.asarray(whole[name]) for name, _, _ in extras(given.graph)]
    fixed: FloatArray = np.sum([np.zeros(len(candidates.psi)), *others], axis=0)  # whatever is chosen
    for name, layer in given.layers.items():
        work, macs = np.zeros(timesteps), np.zeros(timesteps)
        if layer.reads == "spikes":
            work = np.asarray(whole[name], np.float64)
        elif name in analog:
            macs[: None if analog[name][1] else 1] = analog[name][0]
        pairs = (
            [(0, 0, given.io_bits, 1.0)]
            if name == given.last
            else [
                (b, k, bits, keep) for b, bits in enumerate(candidates.bits) for k, keep in enumerate(candidates.keeps)
            ]
        )
        row = []
        for b, k, bits, keep in pairs:
            # Everything is counted once for each of the layer's copies; operations have been, when they were measured.
            layers = [Piece("layer", layer.weight.numel(), layer.outputs, bits, keep)] * given.weight_copies(name)
            done = [Piece("identity", synops=fixed), Piece("layer", bits=bits, synops=work * keep, macs=macs * keep)]
            score = 0.0 if name == given.last else scores[name][b][k]
            row.append(Option(0, 0, 0, b, k, score, _prices(layers, done, costs, timesteps)))
        options.append(row)
        fixed = np.zeros_like(fixed)  # it is counted with the first layer
    return options


def _prices(stored: Sequence[Piece], done: Sequence[Piece], costs: Sequence[Cost], timesteps: int) -> dict[str, Any]:
    """Prices of what is stored, and of what is done."""
    work = [cost for cost in costs if cost.is_work]
    return priced(stored, [cost for cost in costs if not cost.is_work], timesteps) | priced(done, work, timesteps)
