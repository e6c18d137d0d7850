"""A user's module: the class in somebody's Python file, and the weights that it starts from.

In: ``FILE.py:Class`` and a safetensors file. Out: a torch module. The file is run like a program of its own, with the
modules beside it that it imports; weights are read from safetensors alone, which cannot run anything.

Nothing else in litesnn runs code that a file names, and a file is run only if somebody told this process to
(:func:`allow_module`): a recipe or a run folder may come from elsewhere.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from litesnn.config import ModuleSettings
from litesnn.data.batches import generator_for
from litesnn.data.bounds import require_file
from litesnn.errors import InputError
from litesnn.text import reason_of

__all__ = [
    "GIVEN_PREFIX",
    "allow_module",
    "beside_others",
    "build_module",
    "describe_module",
    "line_of",
    "pin_loaded",
    "require_allowed",
]

GIVEN_PREFIX = "litesnn_given_"
"""Begins the name under which a given file is loaded."""

_allowed: set[tuple[str, str]] = set()  # files and classes that this process was told to run
_loaded: dict[str, Path] = {}  # modules that given files have loaded from beside them, by name


def allow_module(model: str) -> None:
    """Let this process run ``FILE.py:Class``: what the command line or a caller names. Raises as describe_module."""
    path, name = _parted(model)
    _allowed.add((str(path), name))


def require_allowed(settings: ModuleSettings, origin: str, *, option: str = "--model") -> None:
    """Raise ``InputError`` unless this process was told, by an option, to run the file that a recipe names."""
    if (settings.file, settings.name) not in _allowed:
        raise InputError(
            f"{origin}: names a Python file to be run, which nobody said; if you trust that file and those that it "
            f"imports, add {option} {settings.file}:{settings.name}"
        )


def describe_module(model: str, weights: str | Path | None = None) -> ModuleSettings:
    """The entry of a recipe for ``FILE.py:Class`` and the weights to start from: where they are, and what is in them.

    Raises:
        InputError: ``model`` is not understood, or a file is missing.
    """
    path, name = _parted(model)
    return ModuleSettings(
        file=str(path),
        name=name,
        sha256=_digest(path),
        helpers=_helpers(path),
        weights=None if weights is None else str(Path(weights).absolute()),
        weights_sha256=None if weights is None else _digest(Path(weights)),
    )


def build_module(settings: ModuleSettings, seed: int, *, option: str = "--model") -> nn.Module:
    """The module, with its weights if it is given some and else drawn from the seed.

    Its file and the modules beside it are loaded afresh, in place of modules of the same names that were there.
    ``option`` is the one of the command line that lets the file be run.

    Raises:
        InputError: nobody said to run it; a file is missing, has changed, or is not what it should be; there is no such
            class, it takes arguments, or it cannot be made.
    """
    path = Path(settings.file)
    require_allowed(settings, "the recipe", option=option)
    _require_same(path, settings.sha256)
    helpers = _helpers(path) | _digests(path.parent, settings.helpers)
    for helper in sorted(helpers.keys() | settings.helpers.keys()):
        if helpers.get(helper) != settings.helpers.get(helper):
            raise _changed(path.parent / helper)
    with _as_program(path, helpers):
        found = _load_class(path, settings.name)
        origin = f"{path}: class {settings.name}"
        _require_no_arguments(found, origin)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, "network").initial_seed())
            try:
                module = found()
            except (Exception, SystemExit) as error:  # whatever somebody's constructor raises
                raise InputError(f"{origin}: cannot be made: {line_of(error)}") from error
    if lazy := next((key for key, value in module.named_parameters() if is_lazy(value)), None):
        raise InputError(f"{origin}: {lazy} belongs to a lazy layer; give the layer its sizes")
    if settings.weights is not None:
        weights = Path(settings.weights)
        _require_same(weights, settings.weights_sha256)
        _load_weights(module, weights)
    return module


def pin_loaded(settings: ModuleSettings, others: Iterable[str] = ()) -> ModuleSettings:
    """Settings that pin each file beside the given one that running it has loaded, however it did, and ``others``.

    Of what no import statement names, only that tells.
    """
    folder = Path(settings.file).parent
    files = [file.relative_to(folder).as_posix() for file in _loaded.values() if file.is_relative_to(folder)]
    helpers = settings.helpers | _digests(folder, {*files, *others} - settings.helpers.keys())
    return settings.model_copy(update={"helpers": dict(sorted(helpers.items()))})


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of those of the files that are there."""
    return {name: _digest(folder / name) for name in names if (folder / name).is_file()}


def _parted(model: str) -> tuple[Path, str]:
    file, colon, name = model.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"model {model!r} is not understood; expected FILE.py:Class, as in my_module.py:Net")
    return Path(file).absolute(), name


def _helpers(path: Path) -> dict[str, str]:
    """The SHA-256 of each file beside a Python file that it imports, at once or through another, by name from there.

    What is imported is read from the text, wherever it stands in it; of a package all files count.
    """
    folder, waiting, found = path.parent, [path], dict[str, str]()
    while waiting:
        for file in (file for name in _imported(waiting.pop()) for file in _files_of(folder, name)):
            if file != path and (key := file.relative_to(folder).as_posix()) not in found:
                found[key] = _digest(file)
                waiting.append(file)
    return dict(sorted(found.items()))


def _imported(path: Path) -> set[str]:
    """The first names of all modules that a file imports; none if it is no Python, which importing it will say."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def _files_of(folder: Path, name: str) -> list[Path]:
    if (folder / name).is_dir() and (package := sorted((folder / name).rglob("*.py"))):
        return package
    return [folder / f"{name}.py"] if (folder / f"{name}.py").is_file() else []


@contextmanager
def beside_others() -> Iterator[None]:
    """Whatever file is loaded in this block, what an earlier one has loaded from beside itself stays loaded too."""
    files = dict(_loaded)
    modules = {name: sys.modules[name] for name in files if name in sys.modules}
    try:
        yield
    finally:
        _loaded.update(files)
        sys.modules.update(modules)


@contextmanager
def _as_program(path: Path, helpers: Iterable[str]) -> Iterator[None]:
    """Python as ``python FILE.py`` finds it: own arguments, own folder first on the path, own helpers not yet loaded.

    Helpers stay loaded, since a module may import them later. No compiled files are left beside those of others.
    """
    tops = {helper.partition("/")[0].removesuffix(".py") for helper in helpers} - sys.stdlib_module_names
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        if not _is_installed(sys.modules.get(name.partition(".")[0])):
            del sys.modules[name]
    for name in _loaded:
        sys.modules.pop(name, None)
    _loaded.clear()
    before = set(sys.modules)
    importlib.invalidate_caches()
    folder, arguments, writes_none = str(path.parent), sys.argv, sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.argv, sys.dont_write_bytecode = [str(path)], True
    try:
        yield
    finally:
        sys.argv, sys.dont_write_bytecode = arguments, writes_none
        found = {name: _file_beside(sys.modules[name], path) for name in sys.modules.keys() - before}
        _loaded.update({name: file for name, file in found.items() if file is not None})
        if folder in sys.path:
            sys.path.remove(folder)


def _file_beside(module: ModuleType | None, path: Path) -> Path | None:
    """The Python file of a module that lies beside a given file or below, and is neither that file nor installed."""
    name = getattr(module, "__file__", None)
    if not isinstance(name, str) or not name.endswith(".py") or _is_installed(module):
        return None
    file = Path(name)
    own = file != path and file.is_relative_to(path.parent) and "site-packages" not in file.parts
    return file if own else None


def _is_installed(module: ModuleType | None) -> bool:
    """Whether a module that is loaded is one of Python's or of an installed package, which others have in use."""
    file = getattr(module, "__file__", None)
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return file is not None and any(Path(file).is_relative_to(place) for place in places if place)


def _load_class(path: Path, name: str) -> type[nn.Module]:
    """The class, of its file that is run now."""
    key = f"{GIVEN_PREFIX}{path.stem}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever somebody's file raises
        raise InputError(f"{path}: cannot be imported: {line_of(error)}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        classes = [
            key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == spec.name
        ]
        what = "is no torch module" if found is not None else "is not in it"
        raise InputError(f"{path}: class {name} {what}; it has {', '.join(classes) or 'no class'}")
    return found


def _require_no_arguments(found: type[nn.Module], origin: str) -> None:
    needed = [
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(f"{origin} needs the arguments {', '.join(needed)}; give them defaults")


def _load_weights(module: nn.Module, path: Path) -> None:
    """Every tensor of the module's state, by name. Raises ``InputError`` naming what does not fit."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({line_of(error)})") from None
    state = module.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)} and not {list(value.shape)}"
        for name, value in state.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    complaints = [
        ("has no", sorted(set(state) - set(tensors))),
        ("has the unknown", sorted(set(tensors) - set(state))),
        ("has other shapes:", shapes),
    ]
    said = [f"{what} {_some(names)}" for what, names in complaints if names]
    if said:
        raise InputError(f"{path} does not fit {type(module).__name__}: it {'; it '.join(said)}")
    module.load_state_dict(tensors)


def _require_same(path: Path, sha256: str | None) -> None:
    if _digest(path) != sha256:
        raise _changed(path)


def _changed(path: Path) -> InputError:
    return InputError(f"{path} has changed since the run began; begin another run")


def _digest(path: Path) -> str:
    require_file(path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _some(names: Iterable[str], most: int = 3) -> str:
    rows = list(names)
    return ", ".join(rows[:most]) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def line_of(error: BaseException) -> str:
    """An error of somebody else's code as part of one line."""
    return reason_of(error, named=True)
