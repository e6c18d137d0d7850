"""litesnn designs lightweight spiking neural networks: from data and a budget to a packed network."""

import litesnn.threads  # noqa: F401  (before torch is imported)
from litesnn.budget import Budget
from litesnn.config import Recipe
from litesnn.deploy.engine import Engine
from litesnn.deploy.reference import Reference
from litesnn.design import Design, compress, design
from litesnn.errors import BudgetExceeded, InputError, LitesnnError
from litesnn.genotype import Genotype
from litesnn.networks import load
from litesnn.snn.network import Network
from litesnn.version import __version__

__all__ = [
    "Budget",
    "BudgetExceeded",
    "Design",
    "Engine",
    "Genotype",
    "InputError",
    "LitesnnError",
    "Network",
    "Recipe",
    "Reference",
    "__version__",
    "compress",
    "design",
    "load",
]
