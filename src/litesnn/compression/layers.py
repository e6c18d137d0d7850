"""The layers that take the place of a user's module's convolutions and linear layers.

Each is a :class:`~litesnn.snn.compconv.CompConv` in the geometry of the layer that it replaces: one weight and one
score tensor for all bit-widths and keep ratios, W_eff computed once per optimisation step however often the layer is
called. It listens to its input, which is what its SynOps are counted from.

Shapes: T timesteps, B batch, I input and O output channels, H × W pixels; a linear layer has 1 × 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.deploy.limits import MAX_KERNEL, MAX_STRIDE
from litesnn.quantizers import MIDRISE, Quantizer
from litesnn.snn.compconv import CompConv, Compression, accumulate, layer_synops
from litesnn.snn.cost import Axis, taps_along
from litesnn.snn.strided import conv2d

__all__ = ["CompressedLayer", "Currents", "Deployed", "Kind", "Summand", "layers_in", "swap_layers"]

_TORCHS_OWN = set(vars(nn.Module()))
"""Attributes of every module, its parts among them."""

Kind = Literal["image", "analog", "spikes"]


@dataclass(frozen=True)
class Deployed:
    """A layer's numbers in evaluation: ``(scale·acc + bias)·unit`` on integer inputs ``x·input_steps``.

    ``scale`` and ``bias`` [O] are those of the packed file; without a scale the layer gives its accumulators. ``unit``
    is what the packed network's unit of current is worth to the module's own neuron.
    """

    codes: Tensor
    input_steps: int
    scale: Tensor | None
    bias: Tensor | None
    unit: float = 1.0


@dataclass(frozen=True)
class Summand:
    """A bundle of synapses' contribution to a population: ``scale·acc`` of a layer, or of the spikes of a neuron."""

    name: str
    scale: Tensor  # [O]
    of_layer: bool


@dataclass(frozen=True)
class Currents:
    """The deployed currents of one population: ``(Σ scale·acc + bias)·unit``, summed in the packed file's order."""

    summands: tuple[Summand, ...]
    bias: Tensor  # [O]
    unit: float


class CompressedLayer(CompConv):
    """A convolution or linear layer that was given, compressed.

    Attributes:
        unpooling: how often what reads it gets each output [V, K], after :meth:`pool`; else ``None``.
        reads: what its input is: the image, other real numbers, or spikes.
        spikes_per_unit: of spikes: how many of them an input of 1 stands for (the pixels of an average).
        places: pixels of the output, or vectors that a linear layer turns into others, in the last call.
        heard: mean input per sample of every call [I, H, W] since :meth:`listen`, or ``None``.
        deployed: how to compute instead with integers, or ``None``.
        accumulated: the integer accumulators of its last call with integers.
    """

    unpooling: Tensor | None

    def __init__(self, given: nn.Conv2d | nn.Linear, quantizer: Quantizer = MIDRISE) -> None:
        super().__init__(1, 1, 1, quantizer=quantizer)
        self.weight = nn.Parameter(given.weight.detach().clone())
        self.begin()
        self.bias = None if given.bias is None else nn.Parameter(given.bias.detach().clone())
        self.given_padding: tuple[int, int] | str = (0, 0)
        self.padding_mode = "zeros"
        if isinstance(given, nn.Conv2d):
            self.is_linear = False
            self.strides, self.dilations, self.groups = _pair(given.stride), _pair(given.dilation), given.groups
            self.given_padding = given.padding if isinstance(given.padding, str) else _pair(given.padding)
            self.padding_mode = given.padding_mode
            self._padded = list(given._reversed_padding_repeated_twice)
        else:
            self.is_linear = True
            self.strides, self.dilations, self.groups = (1, 1), (1, 1), 1
        self.kernel, self.stride = self.weight.shape[-1] if not self.is_linear else 1, self.strides[0]
        self.reads: Kind = "analog"
        self.spikes_per_unit = 1.0
        self.heard: list[Tensor] | None = None
        self.places = 0
        self.deployed: Deployed | None = None
        self.accumulated: Tensor | None = None
        self.register_buffer("unpooling", None, persistent=False)
        self._mixed: Tensor | None = None
        self._masks: list[Tensor] = []
        self._compression: Compression | None = None
        for name, value in vars(given).items():  # what somebody's forward may ask it for, a threshold for example
            if not hasattr(self, name):
                setattr(self, name, value)

    @property
    def outputs(self) -> int:
        """O."""
        return self.weight.shape[0]

    def dense(self, weight: Tensor) -> Tensor:
        """The weight as it is: :meth:`convolve` knows groups."""
        return weight

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The convolution along rows and along columns; borders that repeat the image count as zeros."""
        kernel = (1, 1) if self.is_linear else tuple(self.weight.shape[2:])
        if self.given_padding == "valid":
            before = after = [0, 0]
        elif self.given_padding == "same":
            whole = [d * (k - 1) for d, k in zip(self.dilations, kernel, strict=True)]
            before, after = [size // 2 for size in whole], [size - size // 2 for size in whole]
        else:
            before = after = [int(size) for size in self.given_padding]
        rows, columns = (Axis(kernel[i], self.strides[i], before[i], after[i], self.dilations[i]) for i in range(2))
        return rows, columns

    def unusual(self) -> str | None:
        """The property of the geometry that the packed file cannot hold, or ``None``."""
        if self.is_linear:
            return None
        rows, columns = self.axes
        if self.groups != 1:
            return f"groups = {self.groups}; the packed file has groups = 1"
        if rows.dilation != 1 or columns.dilation != 1:
            return f"dilation = {self.dilations}; the packed file has 1"
        if self.padding_mode != "zeros":
            return f"padding_mode = {self.padding_mode!r}; the packed file has zeros"
        if rows != columns:
            return "rows and columns differ in kernel, stride or padding; the packed file has square ones"
        if rows.kernel % 2 == 0:
            return f"a kernel of {rows.kernel}; the packed file has odd ones"
        if rows.kernel > MAX_KERNEL or rows.stride > MAX_STRIDE:
            return (
                f"a kernel of {rows.kernel} and a stride of {rows.stride}; "
                f"the packed file has kernels to {MAX_KERNEL} and strides to {MAX_STRIDE}"
            )
        if rows.before != rows.kernel // 2:
            return f"padding = {rows.before}; the packed file has kernel // 2 = {rows.kernel // 2}"
        return None

    @torch.no_grad()
    def pool(self, pooling: Tensor) -> None:
        """Of a linear layer: give K outputs that are pooled from its V, each as often as ``pooling`` [K, V] takes it.

        What pooled the outputs before gives the same as before, and there is nothing left for it to do.
        """
        self.weight = nn.Parameter(pooling @ self.weight)
        self.begin()
        self.bias = None if self.bias is None else nn.Parameter(pooling @ self.bias)
        self.unpooling = ((pooling != 0) / pooling.sum(1, keepdim=True)).T.contiguous()
        if self._compression is not None:
            self.prepare(self._compression)

    def prepare(self, compression: Compression) -> None:
        """Compute W_eff for the calls that follow."""
        self._compression, self._masks = compression, self.masks(compression)
        self._mixed = self.effective_weight(compression, self._masks)

    def listen(self, *, on: bool) -> None:
        """Begin to keep what the layer is given, or stop."""
        self.heard = [] if on else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] → [B, O, H', W'], or [..., I] → [..., O]."""
        out = self._computed(x)
        return out if self.unpooling is None else F.linear(out, self.unpooling)

    def _computed(self, x: Tensor) -> Tensor:
        self.places = self._places(x)
        if self.heard is not None:
            self.heard.append(self._mean_input(x))
        if (deployed := self.deployed) is None:
            assert self._mixed is not None
            out = self.convolve(x, self._mixed)
            return out if self.bias is None else out + self._along(self.bias)
        out = self.accumulated = accumulate(self, (x * deployed.input_steps).round(), deployed.codes)
        if deployed.scale is None:
            return out
        out = out.float() * self._along(deployed.scale)
        if deployed.bias is not None:
            out = out + self._along(deployed.bias)
        return out if deployed.unit == 1.0 else out * deployed.unit

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer without its bias, with another weight."""
        if self.is_linear:
            return F.linear(x, weight)
        if self.padding_mode != "zeros":
            return conv2d(
                F.pad(x, self._padded, self.padding_mode), weight, None, self.strides, 0, self.dilations, self.groups
            )
        return conv2d(x, weight, None, self.strides, self.given_padding, self.dilations, self.groups)

    def used(self, calls: int, timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
        """SynOps, Bit-SynOps, and SynOps if all weights were kept, per timestep [T] each, of what was heard.

        Args:
            calls: in one timestep.
            timesteps: T.
        """
        assert self.heard
        assert self._compression is not None
        mean = torch.stack(self.heard[: calls * timesteps])  # [T, I, H, W]
        mean = mean.view(timesteps, calls, *mean.shape[1:]).sum(1)
        taps = taps_along(mean, *self.axes)
        used, bit_used = layer_synops(self._compression, torch.stack(list(map(self._reached, self._masks)))[None], taps)
        whole = torch.einsum("tckl,ckl->t", taps, self._reached(torch.ones_like(self.weight)))
        return used[0], bit_used[0], whole

    def macs(self) -> Tensor:
        """Multiply-accumulates of one call with the weights that are kept, a scalar; padding counts as work."""
        return self._masks[0].sum() * self.places

    def whole_macs(self) -> int:
        """:meth:`macs` if all weights were kept."""
        return self.weight.numel() * self.places

    def _places(self, x: Tensor) -> int:
        """Places of the output at which the kernel is applied."""
        if self.is_linear:
            return x[0, ..., 0].numel()
        return math.prod(axis.outputs(size) for axis, size in zip(self.axes, x.shape[-2:], strict=True))

    def _mean_input(self, x: Tensor) -> Tensor:
        """Mean spikes per sample [I, H, W]; of what are no spikes, how many values are not zero."""
        if self.reads != "spikes":
            x = (x != 0).float()
        mean = x.mean(0)
        if self.is_linear:
            mean = mean.reshape(-1, mean.shape[-1]).sum(0)[:, None, None]
        return mean * self.spikes_per_unit

    def _reached(self, mask: Tensor) -> Tensor:
        """How many weights a spike at each place of the kernel reaches [I, k, k]."""
        if self.is_linear:
            return mask.sum(0)[:, None, None]
        return mask.view(self.groups, -1, *mask.shape[1:]).sum(1).flatten(0, 1)

    def _along(self, values: Tensor) -> Tensor:
        """[O] as it goes with an output."""
        return values if self.is_linear else values[:, None, None]


def swap_layers(module: nn.Module, quantizer: Quantizer = MIDRISE) -> dict[str, CompressedLayer]:
    """Put a compressed layer in the place of every ``Conv2d`` and ``Linear``; returns them by name, in order.

    ``quantizer``: of all their weights.
    """
    made: dict[int, CompressedLayer] = {}
    names: dict[str, CompressedLayer] = {}
    for path, parent, name, child in list(layers_in(module)):
        if id(child) not in made:
            made[id(child)] = names[path] = CompressedLayer(child, quantizer)
        setattr(parent, name, made[id(child)])
    for part in module.modules():
        for key, value in list(vars(part).items()):
            if isinstance(value, list | tuple | dict) and key not in _TORCHS_OWN:
                vars(part)[key] = _swapped(value, made)
    return names


def _swapped(value: Any, made: Mapping[int, CompressedLayer]) -> Any:
    """Lists and dictionaries, which a module may keep its layers in as well, with the layers that take their place."""
    match value:
        case nn.Conv2d() | nn.Linear():
            return made.get(id(value), value)
        case list():
            value[:] = [_swapped(part, made) for part in value]
        case dict():
            value.update({key: _swapped(part, made) for key, part in value.items()})
        case tuple() if type(value) is tuple:
            return tuple(_swapped(part, made) for part in value)
    return value


def layers_in(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Conv2d | nn.Linear]]:
    """Every place of a layer in a module: its path, the module that holds it, its name there, and itself."""
    for path, parent in module.named_modules(remove_duplicate=True):
        for name, child in parent._modules.items():  # named_children() would leave out a second name
            if isinstance(child, nn.Conv2d | nn.Linear):
                yield f"{path}.{name}" if path else name, parent, name, child


def _pair(values: int | tuple[int, ...]) -> tuple[int, int]:
    return (values, values) if isinstance(values, int) else (values[0], values[1])
