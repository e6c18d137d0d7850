"""litesnn designs lightweight spiking neural networks: from data and a budget to a packed network.

Importing the package loads next to nothing: each name below is loaded, and torch with most of them, at its first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import litesnn.cpu  # before torch is imported
import litesnn.threads  # noqa: F401  (likewise)

if TYPE_CHECKING:
    from litesnn.budget import Budget
    from litesnn.config import Recipe
    from litesnn.deploy.engine import Engine
    from litesnn.deploy.reference import Reference
    from litesnn.design import Design, compress, design
    from litesnn.errors import BudgetExceeded, InputError, LitesnnError
    from litesnn.genotype import Genotype
    from litesnn.network_file import load
    from litesnn.packed_evaluation import Evaluation, evaluate
    from litesnn.snn.network import Network
    from litesnn.training_loop.progress import Epoch
    from litesnn.version import __version__

__all__ = [
    "Budget",
    "BudgetExceeded",
    "Design",
    "Engine",
    "Epoch",
    "Evaluation",
    "Genotype",
    "InputError",
    "LitesnnError",
    "Network",
    "Recipe",
    "Reference",
    "__version__",
    "compress",
    "design",
    "evaluate",
    "load",
]

_HOMES = {
    "Budget": "budget",
    "BudgetExceeded": "errors",
    "Design": "design",
    "Engine": "deploy.engine",
    "Epoch": "training_loop.progress",
    "Evaluation": "packed_evaluation",
    "Genotype": "genotype",
    "InputError": "errors",
    "LitesnnError": "errors",
    "Network": "snn.network",
    "Recipe": "config",
    "Reference": "deploy.reference",
    "__version__": "version",
    "compress": "design",
    "design": "design",
    "evaluate": "packed_evaluation",
    "load": "network_file",
}
"""The module of each public name."""


if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> Any:
        """A public name, or a module of the package, when it is first asked for."""
        if name in _HOMES:
            value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
            return value
        if not name.startswith("_"):
            try:
                return import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":  # there is such a module, but not what it needs
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``litesnn.design`` the function; whoever imports the module of that name would put it there instead."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.design if name == "design" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
