"""What says nothing about a network starts at once: help, the version, wrong options, ``import litesnn``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import litesnn

HEAVY = {"torch", "scipy", "numpy", "safetensors"}

PROGRAM = """
import atexit, json, resource, sys

def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([sorted(set(sys.modules)), used.ru_utime + used.ru_stime]), file=sys.stderr)

atexit.register(tell)
"""


def loaded(program: str, *arguments: str) -> tuple[int, set[str], float]:
    """The exit code of a program, the modules that it has loaded, and its CPU time in seconds."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    modules, seconds = json.loads(ended.stderr.splitlines()[-1])
    return ended.returncode, set(modules), seconds


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--wrong"], 2),
        (["nonsense"], 2),
        (["design", "--help"], 0),
        (["design", "--wrong"], 2),
        (["export", "nir", "--help"], 0),
        (["-h"], 0),
        (["predict", "-h"], 0),
    ],
)
def test_help_needs_no_torch(arguments: list[str], code: int) -> None:
    found, modules, seconds = loaded("import litesnn.cli\nlitesnn.cli.main()", *arguments)
    assert found == code
    assert "litesnn.cli" in modules
    assert not modules & HEAVY
    assert seconds < 1.0  # 0.1 to 0.3 on a quiet machine


INTERRUPTED_BY_AN_IMPORT = """
import os, signal, sys

name = sys.argv.pop(1)

class Interrupts:
    def find_spec(self, found, path=None, target=None):
        if found == name:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from litesnn.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["litesnn.cli", "typer", "numpy", "litesnn.console_tables"])
def test_an_interrupt_while_something_is_imported_is_one_line(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_BY_AN_IMPORT, module, "info", "nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "litesnn: interrupted\n")


def test_a_system_without_file_locks_is_refused_before_anything_else() -> None:
    """As Windows is: there is no fcntl."""
    for program in ("import litesnn.cli\nlitesnn.cli.main()", "import litesnn\nlitesnn.design"):
        command = [sys.executable, "-c", f"import sys; sys.modules['fcntl'] = None\n{program}", "design"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode != 0
        assert "litesnn runs on Linux and macOS, not on this system" in ended.stderr.splitlines()[-1]
        if "cli" in program:
            assert ended.stderr.startswith("litesnn: error: ")
            assert ended.returncode == 2


def test_the_shell_completes_commands_and_options() -> None:
    program = "import sys\nsys.argv = ['litesnn']\nfrom litesnn.cli import main\nmain()"
    for words, expected in (("litesnn des", "design"), ("litesnn design --thr", "--threads")):
        said = {"_LITESNN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | said
        )
        assert expected in done.stdout.split(), done


def test_importing_the_package_loads_next_to_nothing() -> None:
    code, modules, _ = loaded("import litesnn")
    assert code == 0
    assert not modules & {*HEAVY, "pydantic", "rich", "typer"}
    ours = {name.removeprefix("litesnn.") for name in modules if name.startswith("litesnn")}
    assert ours == {"litesnn", "cpu", "errors", "text", "threads"}


def test_public_names_come_when_they_are_used() -> None:
    lines = [f"assert {name!r} in dir(litesnn) and litesnn.{name} is litesnn.{name}" for name in litesnn.__all__]
    assert loaded("\n".join(["import litesnn", *lines]))[0] == 0


def test_the_function_keeps_the_name_that_its_module_has_too() -> None:
    program = (
        "import litesnn, litesnn.design\nfrom litesnn.design import Job\nimport sys\n"
        "assert litesnn.design is sys.modules['litesnn.design'].design\nassert callable(litesnn.design)"
    )
    assert loaded(program)[0] == 0


def test_modules_are_attributes_as_if_they_were_loaded() -> None:
    assert loaded("import litesnn\nassert litesnn.budget.Budget is litesnn.Budget")[0] == 0
    with pytest.raises(AttributeError, match="module 'litesnn' has no attribute 'nothing'"):
        getattr(litesnn, "noth" + "ing")
    assert not hasattr(litesnn, "__nothing__")
