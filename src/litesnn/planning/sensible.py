"""Settings and data that lead to no network: they are refused, before they are planned with or worked with."""

from __future__ import annotations

import torch

from litesnn.config import Recipe
from litesnn.data.augment import require_meaningful
from litesnn.data.sources import Data
from litesnn.deploy.packed import require_packable_input
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, LogMel
from litesnn.planning.macro import uniform_bytes
from litesnn.snn.memory_estimate import least_bytes
from litesnn.snn.network import InputInfo
from litesnn.train.phases import require_phases
from litesnn.training_loop.memory import free_bytes

__all__ = ["require_memory", "require_sensible"]


def require_memory(recipe: Recipe, info: InputInfo, device: torch.device) -> None:
    """Refuse a recipe whose weights alone take more memory to train than is free, before anything so large is built.

    Raises:
        InputError: there is not so much memory.
    """
    weights = 8 * uniform_bytes(recipe, info, bits=1)
    need, free = least_bytes(weights), free_bytes(device)
    if need > free:
        raise InputError(
            f"{recipe.name}: with model.width = {recipe.model.width} and model.levels = {list(recipe.model.levels)} "
            f"the widest network has about {weights / 1e6:,.0f} million weights, and training takes more than "
            f"{need / 1e9:,.0f} GB of memory, of which {free / 1e9:,.1f} GB are free; expected a smaller model.width"
        )


def require_sensible(recipe: Recipe, data: Data) -> None:
    """Refuse settings of a recipe that mean nothing for its data, and data for which no network could be packed.

    Raises:
        InputError: the recipe says what recordings of another kind become, or how inputs of another kind are augmented
            or trained with;
            or no packed file can hold what the data's classes are called, or mean and deviation of its inputs.
    """
    require_packable_input(data.input, data.classes, data.name)
    sound = data.train.sound
    noise = sound is not None and sound.noise is not None
    require_meaningful(recipe.augment, data.kind, sound=sound is not None, noise=noise, origin=data.name)
    require_phases(recipe, data.shape, data.kind, sound=sound is not None, origin=data.name)
    if not isinstance(data.front_end, LogMel) and recipe.audio != LogMel():
        raise InputError(f"{recipe.name}: [audio] says how sound becomes features, but {data.name} holds no sound")
    if not isinstance(data.front_end, EventFrames) and recipe.events != EventFrames():
        raise InputError(f"{recipe.name}: [events] says how events become frames, but {data.name} holds no events")
