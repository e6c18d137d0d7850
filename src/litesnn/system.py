"""Which operating systems this runs on: those whose files can be locked by ``fcntl``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from litesnn.errors import InputError

__all__ = ["require_supported"]


def require_supported() -> None:
    """Refuse a system on which nothing was tried, before anything is done there.

    Raises:
        InputError: there is no ``fcntl``, as on Windows.
    """
    if find_spec("fcntl") is None:
        raise InputError(
            f"litesnn runs on Linux and macOS, not on this system ({sys.platform}); on Windows, use it in WSL "
            "(the Windows Subsystem for Linux)"
        )
