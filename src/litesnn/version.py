"""The version of the package, read from its metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("litesnn")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"
