"""``LITESNN_CPU``: act as on a CPU that has no more than this, torch included; imported before torch, which looks once.

``avx512``, ``avx2`` or ``x86-64``. It is there to test on one machine what others will do: the loops of both native
libraries (``csrc/cpu.c`` reads the variable too), torch's own kernels, oneDNN's and MKL's. Under ``x86-64`` ours are
plain C, and oneDNN and MKL take the least that they can be told, SSE 4.1 and 4.2. What the CPU does not have is never
used. Variables of torch, oneDNN and MKL that are set already stay as they are.
"""

from __future__ import annotations

import os
import sys
import warnings

from litesnn.errors import InputError

__all__ = ["VARIABLE", "check_limit", "limit_torch"]

VARIABLE = "LITESNN_CPU"

_TORCH = {
    "avx512": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "x86-64": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
"""The environment variables by which torch and its libraries are told the same."""


def check_limit() -> None:
    """Raise ``InputError`` if the variable has another value than those above."""
    value = os.environ.get(VARIABLE)
    if value and value not in _TORCH:
        raise InputError(f"{VARIABLE} is {value!r}; expected {', '.join(_TORCH)}, or nothing")


def limit_torch() -> None:
    """Hand the limit on to torch and its libraries, which read it when they are loaded; a wrong value does nothing."""
    wanted = _TORCH.get(os.environ.get(VARIABLE, ""), {})
    missing = {name: value for name, value in wanted.items() if not os.environ.get(name)}
    if missing and "torch" in sys.modules:
        warnings.warn(
            f"{VARIABLE}: torch was imported before litesnn, and keeps to what this CPU has",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ.update(missing)


limit_torch()
