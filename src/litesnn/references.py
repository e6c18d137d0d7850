"""Functions by name, for tables in the lowest floors: the functions are in higher ones, and load when they are used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["Reference", "function_of"]

Reference = str | Callable[..., Any]
"""A function, or its name as ``"package.module:function"``."""


def function_of(reference: Reference) -> Callable[..., Any]:
    """The function that a reference names; its module is imported now, if it was not before.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such function.
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
