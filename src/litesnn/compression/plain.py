"""The convolutions and linear layers of a user's module as what torch's own compute with one weight and one bias.

What makes a weight anew at each call (weight norm, spectral norm, pruning, parametrizations) is taken out, and the
weight that it makes, of the weights that were loaded, stays: it is what is compressed. A layer whose forward or hooks
compute something else is refused, since the layer that takes its place would make another network of the module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from litesnn.compression.layers import CompressedLayer, layers_in
from litesnn.compression.source import line_of
from litesnn.errors import InputError

__all__ = ["require_plain", "settle_weights"]

_SAME = 1e-4
_BATCH = 3


@torch.no_grad()
def settle_weights(module: nn.Module) -> None:
    """Let the weights that are made anew at each call stay as they are."""
    for layer in _unique(module).values():
        training = layer.training
        layer.eval()  # a spectral norm goes on with its iteration in training
        for name in list(getattr(layer, "parametrizations", {})):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]
        layer.train(training)


@torch.no_grad()
def require_plain(module: nn.Module, origin: str) -> None:
    """Refuse layers that compute something else than a convolution, or product, with their weight and bias.

    Raises:
        InputError: names the layer.
    """
    for path, layer in _unique(module).items():
        if not _is_torchs_own(layer) and (why := _other(layer)) is not None:
            raise InputError(
                f"{origin}: layer {path} ({type(layer).__name__}) computes something else than torch's "
                f"{'Conv2d' if isinstance(layer, nn.Conv2d) else 'Linear'} with its weight and bias, by a forward or "
                f"a hook of its own ({why}); it cannot be compressed"
            )


def _unique(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    found: dict[int, str] = {}
    layers = {}
    for path, _, _, layer in list(layers_in(module)):
        if found.setdefault(id(layer), path) == path:
            layers[path] = layer
    return layers


def _is_torchs_own(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether nothing of somebody else's runs when the layer is called."""
    base = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    names = ["__call__", "forward", *(["_conv_forward"] if base is nn.Conv2d else [])]
    own = all(getattr(type(layer), name) is getattr(base, name) and name not in vars(layer) for name in names)
    return own and not layer._forward_hooks and not layer._forward_pre_hooks


def _other(layer: nn.Conv2d | nn.Linear) -> str | None:
    """A behaviour with other weights in which a layer differs from a compressed one; ``None``: nothing."""
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like) + 0.3

    compressed = CompressedLayer(layer)
    values = {name: value.detach().clone() for name, value in (*layer.named_parameters(), *layer.named_buffers())}
    values |= {name: drawn(value) for name, value in values.items() if name in ("weight", "bias")}
    if isinstance(layer, nn.Conv2d):
        sides = [axis.dilation * (axis.kernel - 1) + 1 + 2 * axis.stride for axis in compressed.axes]
        x = torch.randn(_BATCH, layer.in_channels, *sides, generator=generator)
    else:
        x = torch.randn(_BATCH, layer.in_features, generator=generator)
    x = x.to(layer.weight)
    expected = compressed.convolve(x, values["weight"])
    if "bias" in values:
        expected = expected + (values["bias"] if compressed.is_linear else values["bias"][:, None, None])
    room = _SAME * float(expected.abs().max())
    training = [child for child in layer.modules() if child.training]
    try:
        for mode in (False, True):
            layer.train(mode)
            out = functional_call(layer, {name: value.clone() for name, value in values.items()}, (x.clone(),))
            if not isinstance(out, Tensor) or out.shape != expected.shape:
                return "it gives something of another shape"
            if not bool(((out - expected).abs() <= room).all()):
                return f"in {'training' if mode else 'evaluation'} its outputs are others"
    except Exception as error:  # whatever somebody's forward raises
        return f"it fails on a random input: {line_of(error)}"
    finally:
        for child in layer.modules():
            child.training = any(child is each for each in training)
    return None
