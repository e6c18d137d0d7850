"""What every figure depends on: the machine, its load, and the versions of what computes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import litesnn

__all__ = ["conditions", "cpu_name"]


def conditions(packages: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Date, processor, load and versions; ``packages`` names installed distributions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "threads": threads,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "litesnn": litesnn.__version__,
    }


def cpu_name() -> str:
    """The processor's model."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
