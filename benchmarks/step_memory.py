"""Peak memory of one step, measured in a process of its own.

In: a case as JSON, the name of a contender, the number of threads. Out, on standard output: bytes. It is the highest
resident set during the step minus the one before, as Linux counts it: activations, gradients, what convolutions need on
the way and what the allocator wastes; not weights, optimizers, data and libraries, which are there before. A step on
two images goes first, so that code is loaded and optimizers have their state; what it has freed is given back to the
system before the measurement begins, so that nothing is counted as there before that is not.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import litesnn  # noqa: F401  (sets how threads wait, before torch is loaded)
from litesnn.errors import LitesnnError
from litesnn.training_loop.memory import reuse_buffers
from step_cases import Case, make_step

__all__ = ["peak_bytes", "peak_in_new_process"]

WARM_UP_BATCH = 2


def peak_in_new_process(case: Case, contender: str, *, threads: int, reuse: bool = True) -> int:
    """Bytes that a step of a contender takes.

    Raises:
        LitesnnError: the process failed, for example because memory ran out.
    """
    command = [sys.executable, __file__, case.to_json(), contender, "--threads", str(threads)]
    command += [] if reuse else ["--default-allocator"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LitesnnError(f"memory of {contender}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return int(done.stdout)


def peak_bytes(case: Case, contender: str) -> int:
    """Bytes that the step takes in this process, which has to be young."""
    step, _ = make_step(case, contender), make_step(case, contender, WARM_UP_BATCH)()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    step()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LitesnnError(f"/proc/self/status has no {key}: memory is measured on Linux only")


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Case.from_json)
    parser.add_argument("contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--default-allocator", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.default_allocator:
        reuse_buffers()
    print(peak_bytes(options.case, options.contender))


if __name__ == "__main__":
    main()
