"""Strategies of search, a row each: how a network is found among the candidates of a recipe (``search.update``).

A strategy is a function from a :class:`~litesnn.search.joint.SearchContext` to what it prefers, in one of three forms
(:mod:`litesnn.search.outcome`): the state of a supernet that it has trained, preferences for every single choice, or
a ranking of genotypes. The derivation makes one genotype of any of them, within the budget, and training goes on from
there. The functions are in higher floors and are imported when a search begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from litesnn.references import Reference

__all__ = ["STRATEGIES", "Strategy", "strategy_named"]


@dataclass(frozen=True)
class Strategy:
    """One strategy.

    Attributes:
        name: as recipes say it.
        meaning: how it learns, for the list of settings.
        search: the function; it returns ``Learned``, ``Preferences`` or ``Ranking``.
        update: of a strategy that trains a supernet by steps the class of its steps
            (:class:`~litesnn.search.joint.Update`): the planning of a recipe measures them. ``None``: it has no steps,
            and plans leave it no time.
        joins_splits: whether its epochs take batches of training and validation samples together.
        searches_modules: whether ``litesnn compress`` can search with it.
    """

    name: str
    meaning: str
    search: Reference
    update: Reference | None = None
    joins_splits: bool = False
    searches_modules: bool = False


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            name="alternating",
            meaning="weights on training batches, architecture on held-out ones, two passes per step",
            search="litesnn.search.joint:learn",
            update="litesnn.search.updates:Alternating",
            searches_modules=True,
        ),
        Strategy(
            name="joint",
            meaning="both at once on batches of all these samples, one pass per step",
            search="litesnn.search.joint:learn",
            update="litesnn.search.updates:Joint",
            joins_splits=True,
            searches_modules=True,
        ),
    )
}
"""Every strategy by its name. A new one is one more row."""


def strategy_named(name: str) -> Strategy:
    """The strategy of a name. Raises ``ValueError`` if there is none, with the names that there are."""
    if name not in STRATEGIES:
        raise ValueError(f"expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
