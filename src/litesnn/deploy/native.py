"""The native engine's shared library, loaded by ctypes: the one place that mirrors ``csrc/litesnn.h``.

Installing the package builds the library and puts it beside this file. The environment variable
``LITESNN_LIBRARY`` names another one to load instead.
"""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum
from functools import cache
from pathlib import Path

from litesnn.cpu import check_limit
from litesnn.errors import InputError, LitesnnError
from litesnn.shared_library import file_name, load_shared_library

__all__ = ["ABI", "VARIABLE", "BundleInfo", "Method", "Status", "load_library"]

ABI = 1  # LSNN_ABI of the header that this file mirrors
VARIABLE = "LITESNN_LIBRARY"
FILE_NAME = file_name("litesnn")


class Status(IntEnum):
    """The status that ``lsnn_load`` and ``lsnn_run`` return: ``enum lsnn_status``."""

    OK = 0
    BAD_IMAGE = 1
    NO_MEMORY = 2
    BAD_INPUT = 3
    NO_KERNEL = 4


class Method(IntEnum):
    """How a bundle of synapses is computed: ``enum lsnn_method``."""

    BITSLICED = 0
    GATHER = 1
    ANALOG = 2
    IDENTITY = 3


class BundleInfo(ctypes.Structure):
    """``lsnn_bundle_info``: how one bundle is computed, and what that took since the last ``lsnn_reset_counts``."""

    _fields_ = (
        ("population", ctypes.c_int32),
        ("method", ctypes.c_int32),
        ("weight_bytes", ctypes.c_uint64),
        ("additions", ctypes.c_uint64),
        ("words", ctypes.c_uint64),
    )


# Name: (what it returns, its parameters). Engines and buffers are plain addresses: ``c_void_p`` takes what NumPy's
# ``array.ctypes.data`` gives, ``bytes``, ctypes arrays and None.
SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "lsnn_abi": (ctypes.c_int32, ()),
    "lsnn_kernel_name": (ctypes.c_char_p, (ctypes.c_int32,)),
    "lsnn_load": (
        ctypes.c_int,
        (
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_char_p,
            ctypes.c_size_t,
        ),
    ),
    "lsnn_free": (None, (ctypes.c_void_p,)),
    "lsnn_kernel": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "lsnn_run": (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)),
    ),
    "lsnn_bundle": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(BundleInfo))),
    "lsnn_reset_counts": (None, (ctypes.c_void_p,)),
    "lsnn_weight_bytes": (ctypes.c_uint64, (ctypes.c_void_p,)),
    "lsnn_work_bytes": (ctypes.c_uint64, (ctypes.c_void_p,)),
    "lsnn_full_adder_limit": (ctypes.c_double, (ctypes.c_char_p,)),
}


def load_library() -> ctypes.CDLL:
    """The shared library with every function of ``litesnn.h`` declared.

    Raises ``InputError`` if ``LITESNN_LIBRARY`` names something else than such a library, or ``LITESNN_CPU`` no CPU,
    and ``LitesnnError`` if the package was installed without a library or with one of another version.
    """
    check_limit()
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise InputError(f"{VARIABLE}: there is no file {named}; expected the native engine's shared library")
        try:
            return _load(Path(named).absolute())
        except LitesnnError as error:
            raise InputError(f"{VARIABLE}: {error}") from None
    path = Path(__file__).with_name(FILE_NAME)
    if not path.is_file():
        raise LitesnnError(f"{path} was not built: install litesnn again, or let {VARIABLE} name such a library")
    return _load(path)


@cache
def _load(path: Path) -> ctypes.CDLL:
    return load_shared_library(path, "native engine", ("lsnn_abi", ABI), SIGNATURES)
