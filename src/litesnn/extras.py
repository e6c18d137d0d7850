"""Packages that only some uses need, imported when one of those is wanted."""

from __future__ import annotations

import importlib
from types import ModuleType

from litesnn.errors import InputError

__all__ = ["import_extra"]


def import_extra(module: str, *, package: str, extra: str, purpose: str = "this data") -> ModuleType:
    """Import ``module`` of the installable ``package``, which the extra ``extra`` of litesnn brings.

    Raises:
        InputError: the package is not installed; ``purpose`` needs it. An installed package that fails to import raises
            its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in {module, module.partition(".")[0]}:
            raise
        raise InputError(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'litesnn[{extra}]'"
        ) from None
