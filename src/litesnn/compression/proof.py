"""The packed file against the module that was given: its own forward, with all its norms, activations and hooks.

In: the module, made anew, a network with finished choices, its packed model, and raw images. Out: how far the two
agree, or a ``LitesnnError`` that names the first neuron that differs.

The module gets as weights the packed file's codes times its float16 scales, divided by the gain of what we found
between the layer and its neuron (and biases accordingly), so that what it computes is what the file computes, but for
the rounding of float32, if nothing is there that we did not find. It runs; its neurons' inputs and spikes are recorded.
Then every part of the file computes from *the module's own spikes*, which keeps a difference where it is made:

- The currents of each neuron may differ by ``(n + 16)·2⁻²⁴·Σ|terms|`` of its n summands, the bound on any order of
  float32 sums, and by what float16 makes of a scale that no weight can hold: that of an identity, of a layer that
  makes currents of several neurons, and of what is rounded to zero; and by 16 roundings of the biases and means that
  the module adds by themselves, which cancel in the file.
- Its spikes may differ where the membrane is as close to the threshold as the currents may differ, and 2⁻²⁰ of both
  for the module's own rounding and the leak, which is measured. With a soft reset nothing is forgotten, and 2⁻²⁰ of
  what is left and of what a spike takes are added.
- The readout of the module's spikes may differ from its outputs by the rounding of float32.

Where no spike differs in that way, the file, run by itself, has to make the module's spikes and predictions.

Before the search, :func:`rehearse` does the same with random weights and statistics: what a module does that the packed
file cannot say is known before anybody waits for it.

Shapes: T timesteps, B batch, K classes, O output channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from litesnn.compression.deploy import Folding, exact_populations, packed_model, prove_equal
from litesnn.compression.graph import Graph, Leaf, Node, Norm, Sum, leaves_of
from litesnn.compression.layers import CompressedLayer
from litesnn.compression.network import Given, SteppedNetwork, fixed_choice, steps_of
from litesnn.compression.norms import affine_of
from litesnn.compression.plain import settle_weights
from litesnn.compression.source import line_of
from litesnn.compression.trace import tensors_in
from litesnn.deploy.packed import PackedModel, PackedNeuron, Population, neuron_of
from litesnn.deploy.reference import Reference, quantize_input, take_input
from litesnn.errors import InputError, LitesnnError
from litesnn.snn.backbone import INPUT_SCALE
from litesnn.snn.network import InputInfo

__all__ = ["Agreement", "compare_with_module", "rehearse"]

_BATCH = 32
_FLOAT32 = 2.0**-24
_NEURON = 2.0**-20
_ROUNDINGS = 16
"""Rounding steps of float32, for what a module adds that is no summand of the file."""
_REHEARSED_IMAGES = 4
_REHEARSED_CHOICE = (2, 0.7)

Floats = NDArray[np.float32]
Spikes = NDArray[np.uint8]
_Heard = dict[str, list[Floats]]


@dataclass
class Agreement:
    """How far a packed file and its module agree.

    Attributes:
        images: compared, of so many in the split ``of``.
        predictions_equal: images of which the predictions are equal.
        largest_logit_difference: over all images and timesteps.
        spikes, different_spikes: of all neurons and timesteps; those that differ lie at the threshold.
        rounded_images: those in which a spike differs.
    """

    images: int = 0
    of: int = 0
    predictions_equal: int = 0
    largest_logit_difference: float = 0.0
    spikes: int = 0
    different_spikes: int = 0
    rounded_images: int = 0

    def record(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return asdict(self)


@dataclass(frozen=True)
class _Gap:
    """Float16's differences between the module and a population's folding: of its scales and bias [O]."""

    scales: tuple[Floats, ...]
    bias: Floats


@torch.no_grad()
def compare_with_module(module: nn.Module, network: SteppedNetwork, packed: PackedModel, images: Tensor) -> Agreement:
    """Run ``module``, as its class makes it, with the packed numbers of ``network``, beside the packed file.

    Args:
        module: made anew; it is changed.
        network: what was packed, on the CPU and in evaluation mode.
        packed: as read from the file.
        images: raw images, or frames, as :meth:`SteppedNetwork.encode` takes them.

    Raises:
        LitesnnError: they differ by more than rounding explains; it names the first neuron that does.
    """
    graph = network.given.graph
    assert graph is not None
    gaps = _fill(module, network, graph)
    found = Agreement()
    for start in range(0, len(images), _BATCH):
        _compare(module.eval(), network, graph, packed, gaps, images[start : start + _BATCH], found)
    return found


def _fill(module: nn.Module, network: SteppedNetwork, graph: Graph) -> list[_Gap]:
    """Give a module the packed numbers. Returns what is left between it and every population."""
    given, compressions, folding = network.given, network.compressions(), network.folding()
    settle_weights(module)
    paths = [path for path, child in given.net.named_modules(remove_duplicate=False) if _is_compressed(child)]
    ours = module.state_dict()
    state = {
        name: value
        for name, value in given.net.state_dict().items()
        if name.rpartition(".")[0] not in paths and name in ours and ours[name].shape == value.shape
    }
    module.load_state_dict(state, strict=False)
    exact = exact_populations(graph, given.net, given.layers, compressions)
    readers: defaultdict[str, int] = defaultdict(int)
    for population in graph.populations:
        for leaf in [] if population.current is None else leaves_of(population.current):
            readers[leaf.layer or ""] += 1
    for name, layer in given.layers.items():
        _put(module, name, layer, layer.exact(compressions[name], _ones(layer), input_scale=1.0, largest_input=1))
    gaps = []
    for population, group, (parts, bias) in zip(graph.populations, folding.populations, exact, strict=True):
        scales: list[Floats] = []
        own_bias, rounded = bias, False
        summands = [None] if population.current is None else leaves_of(population.current)
        for summand, part, folded in zip(
            summands,
            parts,
            group.connections,
            strict=True,
        ):
            if summand is None or summand.layer is None or readers[summand.layer] > 1:
                scales.append(_between(part.scale, folded.scale))
                continue
            layer = given.layers[summand.layer]
            plain = layer.exact(compressions[summand.layer], _ones(layer), input_scale=1.0, largest_input=1)
            ratio = folded.scale.double() / part.scale
            usable = ratio.isfinite() & (ratio > 0.5) & (ratio < 2.0)
            ratio = torch.where(usable, ratio, 1.0)
            scales.append(_between(part.scale * ratio, folded.scale))
            if not rounded:  # the bias of a population goes with its first layer
                steps = INPUT_SCALE if summand.sources == (-1,) else 1.0
                shift = (group.bias.double() - bias) * plain.scale * steps / part.scale
                shift = torch.where(usable & shift.isfinite(), shift, 0.0)
                own_bias = torch.where(usable & shift.isfinite(), group.bias.double(), bias)
                rounded = True
            else:
                shift = torch.zeros_like(bias)
            _put(module, summand.layer, layer, replace(plain, scale=plain.scale * ratio), shift)
        constants = torch.zeros_like(bias)
        if population.current is not None:
            unit = torch.full_like(bias, graph.lif.threshold / population.lif.threshold)
            constants = _constants(population.current, given, unit)
        gap = _between(own_bias, group.bias) + _ROUNDINGS * _FLOAT32 * constants.numpy()
        gaps.append(_Gap(tuple(scales), gap.astype(np.float32)))
    _put_readout(module, graph, given.layers[graph.readout], folding)
    return gaps


def _constants(node: Node, given: Given, gain: Tensor) -> Tensor:
    """The magnitudes [O] of the biases and means that the module adds by themselves, of which the file has the sum.

    They can cancel: a channel that is nearly constant has a small variance, so that its norm multiplies the rounding of
    a bias less its mean by a large gain.
    """
    match node:
        case Leaf():
            bias = None if node.layer is None else given.layers[node.layer].bias
            return torch.zeros_like(gain) if bias is None else (gain * bias.detach().double()).abs()
        case Sum():
            return _constants(node.left, given, gain) + _constants(node.right, given, gain)
        case Norm():
            norm = given.net.get_submodule(node.name)
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            assert norm.running_mean is not None
            affine = affine_of(norm)
            inner = gain * affine.gain
            own = (inner * norm.running_mean.double()).abs() + (gain * affine.offset).abs()
            return own + _constants(node.child, given, inner)


def _is_compressed(module: nn.Module) -> bool:
    return isinstance(module, CompressedLayer)


def _ones(layer: CompressedLayer) -> Tensor:
    return torch.ones(layer.outputs, dtype=torch.float64)


def _put(module: nn.Module, name: str, layer: CompressedLayer, exact: Any, shift: Tensor | None = None) -> None:
    """Set a layer's weight to codes times scales [O], and its bias to the trained one and a ``shift`` [O]."""
    target = module.get_submodule(name)
    assert isinstance(target, nn.Conv2d | nn.Linear)
    along = (-1, *[1] * (layer.weight.dim() - 1))
    target.weight.data = _spread(layer, exact.codes.double() * exact.scale.view(along)).float()
    bias = torch.zeros(layer.outputs) if layer.bias is None else layer.bias.detach()
    if shift is not None:
        bias = (bias.double() + shift).float()
    bias = _spread(layer, bias)
    if target.bias is not None or bool((bias != 0).any()):
        target.bias = nn.Parameter(bias.clone(), requires_grad=False)


def _put_readout(module: nn.Module, graph: Graph, layer: CompressedLayer, folding: Folding) -> None:
    (part,) = folding.readout.connections
    target = module.get_submodule(graph.readout)
    assert isinstance(target, nn.Linear)
    assert part.codes is not None
    weight = part.codes.double() * part.scale.double()[:, None] * graph.readout_pixels
    target.weight.data = _spread(layer, weight).float()
    target.bias = nn.Parameter(_spread(layer, folding.readout.bias.double()).float().clone(), requires_grad=False)


def _spread(layer: CompressedLayer, rows: Tensor) -> Tensor:
    """Of a layer whose outputs are pooled, rows [V, …] for all that is pooled, from those [K, …] of the classes."""
    return rows if layer.unpooling is None else layer.unpooling.to(rows.dtype) @ rows


def _compare(
    module: nn.Module,
    network: SteppedNetwork,
    graph: Graph,
    packed: PackedModel,
    gaps: list[_Gap],
    images: Tensor,
    found: Agreement,
) -> None:
    """Compare one batch. Raises ``LitesnnError``; adds to ``found``."""
    given, steps = network.given, packed.timesteps
    names = [population.name for population in graph.populations if population.current is not None]
    with _listening(module, names) as (inputs, outputs):
        made = steps_of(module, network.encode(images).float() * INPUT_SCALE, steps, given)
    raw = images.numpy()
    image = quantize_input(packed.input, take_input(packed, raw))
    image = image.swapaxes(0, 1) if packed.input.frames else image
    reference = Reference(packed)
    spikes: list[Spikes] = []
    touched = np.zeros(len(images), bool)
    for index, (population, rows) in enumerate(zip(graph.populations, packed.populations, strict=True)):
        currents = reference.currents(rows, image, spikes)
        if population.current is None:  # what its own spikes pool to
            spikes.append(_fires(currents, neuron_of(packed, rows), np.zeros(currents.shape, np.uint8))[0])
            continue
        room = _room(reference, rows, gaps[index], image, spikes)
        unit = population.lif.threshold / graph.lif.threshold
        theirs = _stacked(inputs[population.name], steps, currents.shape) / unit
        _require_close(theirs, currents, room, f"the currents of neuron {population.name}")
        fired = _stacked(outputs[population.name], steps, currents.shape).astype(np.uint8)
        ours, unlike = _fires(currents, neuron_of(packed, rows), fired, room)
        if unlike.any():
            raise LitesnnError(
                f"packed file and module differ in {int(unlike.sum())} spikes of neuron {population.name}, "
                "though its currents are the same"
            )
        different = ours != fired
        touched |= different.any(axis=(0, 2, 3, 4))
        found.spikes += different.size
        found.different_spikes += int(different.sum())
        spikes.append(fired)
    elapsed = np.arange(1, steps + 1).reshape(-1, 1, 1)
    logits = made.double().cumsum(0).numpy() / elapsed
    room = _readout_room(packed, spikes)
    _require_close(logits, reference.read_out(spikes)[0], room, "the outputs for the same spikes")
    trace = reference.run(raw, record=True)
    assert trace.spikes is not None
    for population, theirs_, ours in zip(graph.populations, spikes, trace.spikes, strict=True):
        if (theirs_ != ours)[:, ~touched].any():
            raise LitesnnError(f"packed file and module differ in spikes of neuron {population.name}")
    best = np.argmax(logits[-1], axis=1)
    chosen = np.argmax(trace.logits[-1], axis=1)
    lead = np.take_along_axis(logits[-1], best[:, None], 1) - np.take_along_axis(logits[-1], chosen[:, None], 1)
    if ((lead[:, 0] > 2 * room[-1].max(axis=1)) & ~touched).any():
        raise LitesnnError("packed file and module differ in predictions, though all spikes are the same")
    found.images += len(images)
    found.predictions_equal += int((best == chosen).sum())
    found.rounded_images += int(touched.sum())
    found.largest_logit_difference = max(found.largest_logit_difference, float(np.abs(logits - trace.logits).max()))


@contextmanager
def _listening(module: nn.Module, names: list[str]) -> Iterator[tuple[_Heard, _Heard]]:
    """Record the first tensor that each of these neurons is given, and the first that it makes."""
    inputs: _Heard = {name: [] for name in names}
    outputs: _Heard = {name: [] for name in names}
    handles = []

    def listen(name: str) -> None:
        neuron = module.get_submodule(name)

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            inputs[name].append(next(tensors_in((args, kwargs))).numpy().copy())

        def after(_: nn.Module, __: Any, output: Any) -> None:
            outputs[name].append(next(tensors_in(output)).numpy().copy())

        handles.append(neuron.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(neuron.register_forward_hook(after))

    for name in names:
        listen(name)
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _stacked(rows: list[Floats], steps: int, shape: tuple[int, ...]) -> Floats:
    if len(rows) < steps:
        raise LitesnnError("packed file and module differ: a neuron is not called in each timestep")
    return np.stack(rows[:steps]).reshape(shape)


def _absolute(population: Population) -> Population:
    """The sum of the magnitudes of all terms, as a population."""
    synapses = tuple(replace(each, codes=np.abs(each.codes), scale=np.abs(each.scale)) for each in population.synapses)
    return replace(population, synapses=synapses, bias=np.abs(population.bias))


def _room(
    reference: Reference, population: Population, gap: _Gap, image: NDArray[np.int8], spikes: list[Spikes]
) -> Floats:
    """By how much currents [T, B, C, H, W] may differ."""
    absolute = _absolute(population)
    size = np.abs(image)
    terms = reference.currents(absolute, size, spikes)
    summands = sum(max(1, each.codes[0].size) for each in population.synapses)
    rounded = replace(
        absolute,
        synapses=tuple(replace(each, scale=scale) for each, scale in zip(absolute.synapses, gap.scales, strict=True)),
        bias=gap.bias,
    )
    float16 = reference.currents(rounded, size, spikes)
    return np.asarray((summands + 16) * _FLOAT32 * terms + 1.001 * float16, np.float32)


def _between(own: Tensor, folded: Tensor) -> Floats:
    gap: Floats = (own - folded.double()).abs().float().numpy()
    return gap


def _readout_room(packed: PackedModel, spikes: list[Spikes]) -> Floats:
    readout = packed.readout
    absolute = replace(
        packed,
        readout=replace(readout, codes=np.abs(readout.codes), scale=np.abs(readout.scale), bias=np.abs(readout.bias)),
    )
    terms = Reference(absolute).read_out(spikes)[0]
    pixels = int(np.prod(spikes[readout.sources[0]].shape[3:]))
    return np.asarray((readout.codes.shape[1] + pixels + packed.timesteps + 16) * _FLOAT32 * terms, np.float32)


def _require_close(theirs: NDArray[Any], ours: Floats, room: Floats, what: str) -> None:
    """Raise ``LitesnnError`` with the largest difference that rounding does not explain."""
    gap = np.abs(theirs.astype(np.float64) - ours)
    over = ~(gap <= room)  # also what is not a number
    if not over.any():
        return
    place = np.unravel_index(np.argmax(np.where(over, np.nan_to_num(gap, nan=np.inf), -1.0)), gap.shape)
    raise LitesnnError(
        f"packed file and module differ in {what}: the module has {theirs[place]:.6g} where the file has "
        f"{ours[place]:.6g}, at timestep {place[0] + 1} in channel {place[2]}; rounding explains {room[place]:.1g}"
    )


def _fires(
    currents: Floats, neuron: PackedNeuron, before: Spikes, room: Floats | None = None
) -> tuple[Spikes, NDArray[np.bool_]]:
    """Spikes [T, B, C, H, W] of a population's neurons if they are reset when ``before`` fires, and where the two
    differ by more than ``room``. Without room, they are reset when they fire.
    """
    leak, threshold, one = np.float32(neuron.leak), np.float32(neuron.threshold), np.float32(1)
    taken = np.float32(neuron.reset or 0)
    ours = np.zeros(currents.shape, np.uint8)
    unlike = np.zeros(currents.shape, bool)
    u, s, slack = np.zeros_like(currents[0]), np.zeros_like(currents[0]), np.zeros_like(currents[0])
    for t, x in enumerate(currents):
        left = leak * u
        u = (left * (one - s) if neuron.reset is None else left - taken * s) + x
        ours[t] = u > threshold
        s = (ours if room is None else before)[t].astype(np.float32)
        if room is not None:
            spiked = before[t - 1].astype(np.float32) if t else np.float32(0)
            kept, size = one - spiked, np.abs(u) + threshold
            if neuron.reset is not None:  # nothing is forgotten, and what a spike takes is measured too
                kept, size = one, size + taken * spiked + np.abs(left)
            slack = leak * slack * kept + room[t] + np.float32(_NEURON) * size
            unlike[t] = (ours[t] != before[t]) & (np.abs(u - threshold) > slack)
    return ours, unlike


@torch.no_grad()
def rehearse(
    build: Callable[[], nn.Module], info: InputInfo, *, origin: str, io_bits: int, timesteps: int
) -> str | None:
    """Pack a module with random weights and statistics, and compare. Returns why it cannot be packed, or ``None``.

    Raises:
        InputError: it does not run for so many timesteps.
    """
    given = Given(build(), info, origin=origin, io_bits=io_bits)
    images = _random_images(info, timesteps)
    network = SteppedNetwork(given, fixed_choice(given, timesteps, dict.fromkeys(given.searched, _REHEARSED_CHOICE)))
    network.eval()
    module = build()
    try:
        steps_of(given.net, network.encode(images).float() * INPUT_SCALE, timesteps, given)
    except Exception as error:  # whatever somebody's forward raises
        raise InputError(f"{origin}: its forward fails in {timesteps} timesteps: {line_of(error)}") from error
    if given.graph is None:
        return given.reason
    _enliven(network, images)
    compressions = network.compressions()
    packed = packed_model(given.graph, network.folding(), given.layers, compressions, info, timesteps)
    try:
        compare_with_module(module, network, packed, images)
        prove_equal(network, given.graph, packed, images)
    except LitesnnError as error:
        return f"tried with random weights, {error}"
    return None


def _random_images(info: InputInfo, timesteps: int) -> Tensor:
    """Raw images, or frames, of random pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (_REHEARSED_IMAGES, *((timesteps,) if info.frames else ()), *info.shape)
    if info.kind == "array":
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.input.mean, info.input.std))
        return mean + std * torch.randn(shape, generator=generator)
    return torch.randint(0, 4 if info.frames else 256, shape, generator=generator).to(torch.uint8)


def _enliven(network: SteppedNetwork, images: Tensor) -> None:
    """Random norms, and weights that are large enough that all neurons fire, if there are any."""
    generator = torch.Generator().manual_seed(0)
    for norm in network.given.net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for name, low, high in (
                *(("weight", 0.5, 1.5), ("bias", -0.3, 0.7)),
                *(("running_mean", -0.3, 0.3), ("running_var", 0.3, 1.5)),
            ):
                if (values := getattr(norm, name, None)) is not None:
                    values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    for _ in range(6):
        record: dict[str, Tensor] = {}
        network(network.encode(images), record=record)
        if all(bool(spikes.any()) for spikes in record.values()):
            return
        for layer in network.given.layers.values():
            layer.weight.mul_(2.0)
