"""Shared libraries in C that were built with the package, loaded by ctypes and checked before use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path

from litesnn.errors import LitesnnError

__all__ = ["Signatures", "file_name", "load_shared_library"]

Signatures = Mapping[str, tuple[type | None, tuple[type, ...]]]
"""Of every function of a library: what it returns, and its parameters."""


def file_name(name: str) -> str:
    """The file name of the library ``name`` on this system."""
    return f"lib{name}" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def load_shared_library(path: Path, what: str, version: tuple[str, int], signatures: Signatures) -> ctypes.CDLL:
    """The library at ``path``, its functions declared.

    Args:
        what: what the library is, for errors.
        version: the function that tells its version, and the version that is expected.

    Raises:
        LitesnnError: the machine cannot load it, it is another library, or of another version.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LitesnnError(f"{path}: expected a shared library that this machine can load ({error})") from None
    function, expected = version
    try:
        found = getattr(library, function)()
        if found != expected:
            raise LitesnnError(f"{path}: version {found} of the {what}, expected {expected}: install litesnn again")
        for name, (result, parameters) in signatures.items():
            declared = getattr(library, name)
            declared.restype, declared.argtypes = result, parameters
    except AttributeError as error:
        raise LitesnnError(f"{path}: expected litesnn's {what} ({error})") from None
    return library
