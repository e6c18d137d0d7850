"""atheris target: bytes that may be a packed file, against the promises of ``packed_promises``.

The arguments are libFuzzer's: ``python fuzz/packed_file.py -max_total_time=60 CORPUS fuzz/seeds/packed``. With a file
in place of the folders that input is run once.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["litesnn"]):
    from litesnn.deploy.native import load_library
    from packed_mutations import mutate
    from packed_promises import check


def _mutator(data: bytes, most: int, seed: int) -> bytes:
    return mutate(data, most, seed, atheris.Mutate)


def main() -> None:
    """Fuzz until an argument says to stop; a finding ends the process."""
    load_library()  # before the fuzzer counts what it can cover
    atheris.Setup(sys.argv, check, custom_mutator=_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
