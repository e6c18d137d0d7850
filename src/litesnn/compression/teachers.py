"""The teacher that a recipe names, whatever it is: found, pinned, checked and loaded.

``train.teacher`` is one of four things. "auto": the network that the stage ``teacher`` has trained. A path: a spiking
network of ours, or the ``teacher.safetensors`` of another run. ``FILE.py:Class``: somebody's torch module with its
weights as safetensors, as ``litesnn compress`` takes them. "original": the module that is being compressed, as it was
given. What a teacher is made of is pinned by SHA-256 in the recipe of the run (``[teacher]``).

A module is called as :mod:`litesnn.compression.network` calls one: with images or frames in units of their standard
deviation. One whose parts have states to reset is called at every timestep, any other one once; of several outputs the
mean is taken.

Shapes: T timesteps, B batch, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litesnn.compression.source import (
    beside_others,
    build_module,
    describe_module,
    line_of,
    pin_loaded,
    require_allowed,
)
from litesnn.compression.states import reset_of, reset_states
from litesnn.compression.trace import tensors_in
from litesnn.config import AUTO, ORIGINAL, ModuleSettings, Recipe
from litesnn.errors import InputError
from litesnn.runs import RunFolder
from litesnn.snn.backbone import INPUT_SCALE
from litesnn.snn.network import InputInfo
from litesnn.text import shape_text
from litesnn.train.teacher import (
    Teacher,
    build_residual,
    digest_of,
    load_residual,
    network_file_of,
    network_teacher,
)
from litesnn.training_loop.context import StageContext

__all__ = [
    "describe_teacher",
    "is_class",
    "name_of_teacher",
    "pinned_teacher",
    "require_teacher",
    "require_teacher_allowed",
    "stand_in",
    "teacher_of",
    "with_known",
    "with_pins",
]

_OPTION = "--teacher"
_BATCH = 2


def is_class(teacher: str | Path | None) -> bool:
    """Whether a teacher is given as ``FILE.py:Class``, whose file is run."""
    return teacher is not None and ".py:" in str(teacher)


def name_of_teacher(teacher: str | Path) -> str:
    """The value of ``train.teacher`` for what a person said. Raises ``InputError`` if it is not understood."""
    if not isinstance(teacher, str | Path) or not str(teacher):
        raise InputError(
            f"teacher {teacher!r}: expected {AUTO!r}, a run folder, a network.safetensors or FILE.py:Class"
        )
    if is_class(teacher):
        file, _, name = str(teacher).rpartition(":")
        return f"{Path(file).absolute()}:{name}"
    return str(teacher) if teacher in (AUTO, ORIGINAL) else str(Path(teacher).absolute())


def describe_teacher(teacher: str | Path | None, weights: str | Path | None = None) -> dict[str, Any]:
    """The values of a recipe, by dotted key, for a teacher that a person named, and what pins it.

    Raises:
        InputError: it is not understood, or a file is missing.
    """
    values: dict[str, Any] = {"train.teacher": None, "teacher.sha256": None, "teacher.module": None}
    if weights is not None and not is_class(teacher):
        raise InputError("--teacher-weights are those of a module; expected --teacher FILE.py:CLASS too")
    if teacher is None:
        return values
    values["train.teacher"] = name_of_teacher(teacher)
    if is_class(teacher):
        values["teacher.module"] = describe_module(str(teacher), weights).model_dump(exclude_none=True)
    elif teacher not in (AUTO, ORIGINAL):
        values["teacher.sha256"] = digest_of(network_file_of(Path(values["train.teacher"])))
    return values


def require_teacher_allowed(recipe: Recipe, origin: str) -> None:
    """Raise ``InputError`` if the teacher is a class in a Python file that this process was not told to run."""
    if recipe.teacher.module is not None:
        require_allowed(recipe.teacher.module, origin, option=_OPTION)


def pinned_teacher(recipe: Recipe, info: InputInfo) -> Recipe:
    """The recipe with all that pins its teacher, which is tried: it has to fit the input and the classes.

    Raises:
        InputError: there is no such teacher, it does not fit, or its file may not be run; or it is not what it was.
    """
    recipe = with_pins(recipe)
    settings = recipe.teacher
    with beside_others():
        require_teacher(recipe, info)
        if settings.module is None:
            return recipe
        module = pin_loaded(settings.module)
    return recipe.model_copy(update={"teacher": settings.model_copy(update={"module": module})})


def with_pins(recipe: Recipe, known: Recipe | None = None) -> Recipe:
    """The recipe with what pins its teacher; one that was written by hand may name it alone.

    ``known`` is the recipe that the run already has. Raises ``InputError`` if a file is missing.
    """
    name, settings = recipe.train.teacher, recipe.teacher
    if name in (None, AUTO, ORIGINAL) or settings.sha256 is not None or settings.module is not None:
        return recipe
    said = describe_teacher(name)
    return recipe.changed(said if known is None else with_known(said, known))


def require_teacher(recipe: Recipe, info: InputInfo) -> None:
    """Refuse a teacher that cannot teach what has this input and these classes; one that is trained first can.

    Raises:
        InputError: as :func:`teacher_of`.
    """
    if recipe.train.teacher not in (None, AUTO):
        _teacher(recipe, info, torch.device("cpu"))


def teacher_of(context: StageContext) -> Teacher | None:
    """The teacher of a training, on the session's device; ``None`` if it has none.

    Raises:
        InputError: it is missing or damaged, is not what it was when the run began, does not fit, or may not be run.
    """
    return _teacher(context.recipe, context.info, context.session.device, context.run)


def stand_in(recipe: Recipe, info: InputInfo, device: torch.device) -> Teacher | None:
    """What takes as long as the teacher of a training: itself, or an untrained one where one is trained first.

    Raises:
        InputError: as :func:`teacher_of`.
    """
    if recipe.train.teacher == AUTO:
        network = build_residual(recipe, info).to(device)
        return Teacher(network.eval())
    return _teacher(recipe, info, device)


def _teacher(recipe: Recipe, info: InputInfo, device: torch.device, run: RunFolder | None = None) -> Teacher | None:
    name, settings = recipe.train.teacher, recipe.teacher
    if name is None:
        return None
    if name == AUTO:
        assert run is not None
        return load_residual(run.need("teacher"), info, device)
    if name == ORIGINAL or settings.module is not None:
        given = recipe.module if name == ORIGINAL else settings.module
        assert given is not None
        return _module_teacher(given, recipe, info, device, option="--model" if name == ORIGINAL else _OPTION)
    if is_class(name):
        raise InputError(
            f"train.teacher names the class {name}, whose file nobody has said to run; add --teacher {name}"
        )
    path = network_file_of(Path(name))
    if settings.sha256 is not None and digest_of(path) != settings.sha256:
        raise InputError(f"teacher {path} has changed since the run began; begin another run")
    return network_teacher(path, info, recipe.timesteps, device)


def _module_teacher(
    settings: ModuleSettings, recipe: Recipe, info: InputInfo, device: torch.device, *, option: str
) -> Teacher:
    """A user's module as a teacher, tried on zeros."""
    origin = f"teacher {settings.file}:{settings.name}"
    if settings.weights is None:
        raise InputError(f"{origin} has no weights, and would teach nothing; expected --teacher-weights")
    with beside_others():
        module = build_module(settings, recipe.seed, option=option)
    logits = _ModuleLogits(module.to(device).eval().requires_grad_(requires_grad=False), recipe.timesteps)
    shape = (_BATCH, recipe.timesteps, *info.shape) if info.frames else (_BATCH, *info.shape)
    wanted = [_BATCH, len(info.classes)]
    try:
        found = list(logits(torch.zeros(shape, device=device)).shape)
    except Exception as error:  # whatever somebody's forward raises
        by = shape_text(info.shape)
        raise InputError(f"{origin}: its forward fails on a batch of {by}: {line_of(error)}") from error
    if found != wanted:
        raise InputError(f"{origin}: its forward makes {found} of {_BATCH} inputs; expected {wanted}")
    return Teacher(logits, settings.weights_sha256)


class _ModuleLogits:
    """Calls a module as its way of writing asks for."""

    def __init__(self, module: nn.Module, timesteps: int) -> None:
        self._module = module
        self._timesteps = timesteps if any(reset_of(child) is not None for child in module.modules()) else 1

    @torch.no_grad()
    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits [B, K] of encoded images [B, C, H, W] or frames [B, T, C, H, W]."""
        x = x * INPUT_SCALE
        seen = x.unbind(1) if x.dim() == 5 else [x] * self._timesteps
        reset_states(self._module)
        outputs = torch.stack([_output(self._module(image.clone())) for image in seen])
        reset_states(self._module)
        if outputs.dim() == 4:  # it makes all timesteps of an image at once: [1, T, B, K]
            outputs = outputs.flatten(0, 1)
        return outputs.mean(0)


def _output(output: Any) -> Tensor:
    """The output of a module; of several tensors the first."""
    return next(tensors_in(output), torch.empty(0))


def with_known(said: Mapping[str, Any], found: Recipe) -> dict[str, Any]:
    """What a person said of a run's teacher, completed by what its recipe knows of the same class.

    These are its weights, where none were said, and the files that it loads besides those that its text imports.
    """
    own = found.teacher.module
    if own is None or said.get("teacher.module") is None or said["train.teacher"] != found.train.teacher:
        return dict(said)
    module = ModuleSettings.model_validate(said["teacher.module"])
    if module.weights is None and own.weights is not None:
        digest = digest_of(Path(own.weights))
        module = module.model_copy(update={"weights": own.weights, "weights_sha256": digest})
    return {**said, "teacher.module": pin_loaded(module, own.helpers).model_dump(exclude_none=True)}
