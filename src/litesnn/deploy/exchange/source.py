"""The input of an exporter: a packed model in floats, and the populations that its logits need."""

from __future__ import annotations

from litesnn.deploy.packed import IMAGE, PackedModel
from litesnn.errors import InputError

__all__ = ["require_float", "used_populations"]


def require_float(model: PackedModel, target: str) -> None:
    """Raise ``InputError`` if ``model`` is in fixed point, which ``target`` cannot carry."""
    if model.fraction is not None:
        raise InputError(
            f"{target} cannot carry a fixed-point network: expected model.arithmetic = 'float', found 'fixed'"
        )


def used_populations(model: PackedModel) -> tuple[int, ...]:
    """The populations that the readout reads, directly or through others, in order.

    A search may leave a cell that no later one reads; in an exchange format it would be a second output.
    """
    used = set(model.readout.sources)
    for index in reversed(range(len(model.populations))):
        if index in used:
            for synapses in model.populations[index].synapses:
                used.update(source for source in synapses.sources if source != IMAGE)
    return tuple(sorted(used))
