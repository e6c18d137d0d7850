"""atheris target: a file of a run folder, or a recipe, against the promises of ``run_promises``.

The arguments are libFuzzer's: ``python fuzz/run_file.py -max_total_time=60 CORPUS``. An input is the name of a file, a
line feed and its content; an empty corpus is begun with the files of a run that is made first. With ``--recipes`` in
front it is a recipe.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parents[1] / "tests"))

with atheris.instrument_imports(include=["litesnn"]):
    from litesnn.config import load_recipe, shipped_recipes
    from run_mutations import mutate_run_file
    from run_promises import Promises, check_recipe
    from whole_job import litesnn, write_problem

_RECIPE = "recipe.toml"


def main() -> None:
    """Fuzz until an argument says to stop; a finding ends the process."""
    only_recipes = "--recipes" in sys.argv
    arguments = [argument for argument in sys.argv if argument != "--recipes"]
    folder = Path(tempfile.mkdtemp(prefix="litesnn-fuzz-"))
    if only_recipes:
        seeds = {name: load_recipe(name).to_toml().encode() for name in shipped_recipes()}
        named, promises = {_RECIPE: seeds["digits"]}, None
    else:
        run = folder / "run"
        assert litesnn("design", *write_problem(folder).options(run)).code == 0
        promises = Promises(run)
        named = seeds = promises.seeds
    (folder / "seeds").mkdir()
    for name, content in seeds.items():
        head = _RECIPE if only_recipes else name
        (folder / "seeds" / name).write_bytes(head.encode() + b"\n" + content)

    def check(data: bytes) -> None:
        head, _, content = data.partition(b"\n")
        name = head.decode(errors="replace")
        if promises is None:
            check_recipe(content)
        elif name in promises.readers:
            promises.check(name, content)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        head, _, content = data.partition(b"\n")
        name = head.decode(errors="replace")
        if name not in named:
            name, content = sorted(named)[seed % len(named)], named[sorted(named)[seed % len(named)]]
        try:
            changed = mutate_run_file(name, content, seed)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):  # it is no such file any more
            changed = atheris.Mutate(content, most - len(name) - 1)
        made: bytes = name.encode() + b"\n" + changed
        return made if len(made) <= most else data

    atheris.Setup([*arguments, os.fspath(folder / "seeds")], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
