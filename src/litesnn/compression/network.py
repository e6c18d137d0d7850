"""A user's module as a network over time: logits of every prefix of the timesteps, costs, and the deployed arithmetic.

In: quantized images [B, C, H, W], or frames [B, T, C, H, W] of events (integers −127…127). Out: the mean outputs y_t
of timesteps 1…t for every t. The module sees the image in units of its standard deviation, in steps of 1/32, the same
at every timestep, or frame t at timestep t. It may be written in two ways, and shows which when it is first run:

- it makes one timestep: [B, C, H, W] → [B, K]; its neurons keep their states, and have ``reset()`` or ``reset_mem()``;
- it makes all timesteps of an image: [B, C, H, W] → [T, B, K], with states that it hands on itself.

In evaluation the layers compute with what will be packed: integer codes, float16 scales and biases, batch norm folded.
The neurons are the module's own, in training and in evaluation.

Shapes: T timesteps, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litesnn.compression.deploy import Folding, fold_graph, own_neuron
from litesnn.compression.graph import Graph, Handing, Inexpressible, build_graph, leaves_of, made_of_image, read_kinds
from litesnn.compression.layers import Currents, Deployed, swap_layers
from litesnn.compression.plain import require_plain, settle_weights
from litesnn.compression.source import line_of
from litesnn.compression.states import find_roles, keeps_state, reset_of, reset_states, resets_with_arguments
from litesnn.compression.trace import Trace, Value, leaves, tensors_in
from litesnn.compression.votes import before_votes
from litesnn.costs.size import AFFINE_BITS, kept_count, layer_bytes
from litesnn.deploy.limits import MAX_WEIGHTS
from litesnn.errors import InputError, LitesnnError
from litesnn.genotype import Compressed, LayerGene
from litesnn.quantizers import MIDRISE, Quantizer
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.backbone import INPUT_SCALE, Output, first_frames
from litesnn.snn.compconv import Compression
from litesnn.snn.cost import Axis, Meter, taps_along
from litesnn.snn.execution import Execution
from litesnn.snn.network import InputInfo, LayerInfo
from litesnn.snn.predictor import Predictor
from litesnn.snn.strided import Guard
from litesnn.text import shape_text

__all__ = ["Given", "SteppedNetwork", "extras", "fixed_choice", "run", "steps_of"]

_HEADER, _HEADER_PER_LAYER = 350, 50
"""Bytes of a packed file's header, near enough for a search and for modules of which there can be no file."""
_NEURONS, _OWN_NEURON, _SHARED_NEURON = 32, 26, 5
"""More of them if a file says other neurons than those of one leak and the hard reset: in all, and by population."""

_RESET_NAMES = "reset() or reset_mem()"
_TRACED_STEPS = 2
_FLOAT16_ROUNDING = 2.0**-10  # of a scale, and as much again for the float32 sums; 2^-11 is the rounding itself
_SMALLEST_SCALE = 2.0**-14  # of float16 with all its bits
_BATCH = 2  # of the trace: batch norm in training mode is not run on it, but shapes must show what is the batch


class Given(nn.Module):
    """A module whose layers were swapped, and what is known of it: how it is called, its graph, its neurons.

    Args:
        module: as its class makes it.
        info: the input and the classes.
        origin: its name in errors.
        io_bits: weight bits of the last linear layer.
        quantizer: of the weights of all layers.

    Attributes:
        own_timesteps: those that its forward makes itself, or ``None`` if it makes one.
        graph: how the packed file says it, or ``None``.
        reason: why there is no graph, or ``None``.
        unpackable: why there can be no graph, whatever the trace says, or ``None``: see :meth:`refuse`.
        changes_input: whether its forward changes its input in place.
        calls, neuron_calls: how often each layer and each neuron is called in a timestep.
        neurons: the modules that are neurons, by name.
        uncounted: what makes work that is no Bit-SynOps, though it is not for the image alone, and why.
    """

    def __init__(
        self, module: nn.Module, info: InputInfo, *, origin: str, io_bits: int, quantizer: Quantizer = MIDRISE
    ) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.net, self.info, self.origin, self.io_bits = module, info, origin, io_bits
        self.unpackable: str | None = None
        for name, child in module.named_modules():
            if getattr(child, "step_mode", "s") != "s":
                raise InputError(
                    f"{origin}: {name} has step_mode {child.step_mode!r}; expected 's' everywhere, as "
                    "functional.set_step_mode(net, 's') sets it, and a forward that makes one timestep, "
                    "[B, C, H, W] → [B, K], or calls such a net for each timestep and stacks the outputs"
                )
        settle_weights(module)
        require_plain(module, origin)
        self._runs_plain = self._runs()
        self.layers = swap_layers(module, quantizer)
        if not self.layers:
            raise InputError(f"{origin} has no convolution (torch.nn.Conv2d) to compress")
        if all(layer.is_linear for layer in self.layers.values()) and info.shape[1:] != (1, 1):
            raise InputError(
                f"{origin} has no convolution (torch.nn.Conv2d) to compress; fully connected networks are packed for "
                f"inputs of 1×1 pixels, and these have {shape_text(info.shape[1:])}"
            )
        self.own_timesteps: int | None = None
        self.changes_input = False
        self.graph: Graph | None = None
        self.reason: str | None = None
        self.calls: dict[str, int] = {}
        self.neuron_calls: dict[str, int] = {}
        self.neurons: dict[str, nn.Module] = {}
        self.uncounted: list[str] = []
        self.heard: dict[str, list[Tensor]] | None = None
        self.currents: Mapping[str, Currents] = {}
        self.fired: dict[str, Tensor] = {}
        self._unfolded_norms: set[int] = set()
        self._other_bytes = self._handed_bytes = 0
        self.learn()
        for name, neuron in self.neurons.items():
            neuron.register_forward_pre_hook(self._deliver(name), with_kwargs=True)
            neuron.register_forward_hook(self._hear(name))
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.register_forward_hook(self._skip_norm, with_kwargs=True)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.layers.values())).weight.device

    def copies(self, name: str) -> int:
        """How often a layer is in the packed file, and computed: once for each population that its currents reach."""
        return 1 if self.graph is None else self.graph.copies[name]

    def passes(self, name: str) -> int:
        """How often a layer is computed in a timestep: each of its copies, at each of its calls."""
        return self.calls[name] * self.copies(name)

    def weight_copies(self, name: str) -> int:
        """How often the packed file has the weights of a layer."""
        return 1 if self.graph is None else self.graph.weight_copies[name]

    def analog(self, *, frames: bool) -> list[tuple[str, float, bool]]:
        """Every layer that reads real numbers: its name, MACs of a pass with all weights, whether each timestep is one.

        What reads an image has the same work at every timestep, which counts once.
        """
        static = None if frames else "image"
        return [
            (name, layer.whole_macs() * self.passes(name), layer.reads != static)
            for name, layer in self.layers.items()
            if layer.reads != "spikes"
        ]

    @property
    def header_bytes(self) -> int:
        """Bytes of a packed file's header, near enough for a search.

        Parameters that no packed file can hold count as 32-bit floats. What hands on spikes without a layer is part of
        it, as nothing of that is chosen.
        """
        neurons = 0 if self.graph is None else _neuron_bytes(self.graph)
        return _HEADER + _HEADER_PER_LAYER * len(self.layers) + neurons + self._other_bytes + self._handed_bytes

    def _others(self) -> dict[str, nn.Parameter]:
        """Parameters that no packed file holds: neither of a compressed layer nor of a norm, nor of a neuron in it."""
        norms = [child for child in self.net.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
        accounted = [*self.layers.values(), *norms, *([] if self.graph is None else self.neurons.values())]
        known = {id(parameter) for child in accounted for parameter in child.parameters()}
        return {name: each for name, each in self.net.named_parameters() if id(each) not in known}

    def _uncounted(self, trace: Trace) -> list[str]:
        """Layers of real numbers that are not made of the image alone, and weights of what is no such layer."""
        layers = [
            f"layer {name} reads real numbers"
            for name, layer in self.layers.items()
            if layer.reads == "analog" and not made_of_image(trace, name)
        ]
        others = [
            f"{name} is no weight of a Conv2d or Linear" for name, each in self._others().items() if _connects(each)
        ]
        return layers + others

    @property
    def searched(self) -> list[str]:
        """The layers whose bits and keep ratio are to be chosen: all but the last linear one."""
        return [name for name in self.layers if name != self.last]

    @property
    def last(self) -> str | None:
        """The linear layer that makes the classes: quantized to ``io_bits`` and not pruned, as the classifier is."""
        linear = [name for name, layer in self.layers.items() if layer.is_linear]
        return linear[-1] if linear else None

    def steps(self, x: Tensor, timesteps: int) -> Tensor:
        """The module's output at each timestep [T, B, K] of images [B, C, H, W], or of frames [B, T or more, C, H, W].

        Raises:
            ValueError: there are fewer frames than timesteps.
        """
        # Outputs are right without it, and what a module does in training need not be what it does in evaluation.
        with Guard() if torch.is_grad_enabled() else nullcontext():
            return steps_of(self.net, x, timesteps, self)

    def refuse(self, reason: str | None) -> None:
        """Have no graph, for a reason that the trace does not show (or have one, for ``None``)."""
        self.unpackable = reason
        if reason is not None:
            self.graph, self.reason = None, reason

    def learn(self) -> None:
        """Run the module on a trace: how it is called, what its layers read, and its graph.

        Again when weights were loaded: leaks and thresholds may be among them.
        """
        was_training = self.net.training
        self.net.eval()
        self.graph, self.reason, self._handed_bytes = None, None, 0
        for layer in self.layers.values():
            layer.prepare(Compression.fixed(max(self.quantizer.bits), 1.0, layer.weight.device))
        image = torch.randn(_BATCH, *self.info.shape, generator=torch.Generator().manual_seed(0), device=self.device)
        kept = image.clone()
        trace = Trace(image)
        self._reset()
        output = self._traced(trace, image)
        self.changes_input = trace.value(image).call is not None
        if output.dim() == 3:
            self._require_batch_second(output)
            if self.info.frames:
                raise InputError(
                    f"{self.origin}: its forward makes all timesteps of one input; events need one that makes one "
                    "timestep of one frame, [B, C, H, W] → [B, K]"
                )
            steps = self.own_timesteps = len(output)
            value = _last_of(trace, output, steps)
            find_roles(trace)
        else:
            steps = _TRACED_STEPS
            for _ in range(steps - 1):
                image = kept.clone()
                trace.begin_again(image)
                output = self._traced(trace, image)
            value = trace.value(output)
            find_roles(trace)
            self._require_one_step(trace)
        self._require_reset(kept)
        self.neurons = {
            name: leaf
            for name, leaf in leaves(self.net).items()
            if any(call.role == "neuron" for call in trace.of(leaf))
        }
        for name, (kind, per_unit, calls) in read_kinds(trace).items():
            layer = self.layers[name]
            layer.reads, layer.spikes_per_unit = kind, per_unit
            self.calls[name] = 1 if calls < steps else calls // steps
            if kind == "spikes" and calls % steps:
                often = f"{calls} times" if calls > 1 else "once"
                raise InputError(
                    f"{self.origin}: its forward calls layer {name}, which reads spikes, {often} for {steps} "
                    "timesteps; expected as often in each timestep (several timesteps as one batch cannot be "
                    "compressed)"
                )
        self._require_no_loop()
        for name, neuron in self.neurons.items():  # what is called otherwise than in every timestep is no neuron
            calls = len(trace.of(neuron))
            self.neuron_calls[name] = 0 if calls % steps else calls // steps
        unused = [name for name in self.layers if name not in self.calls]
        if unused:
            raise InputError(f"{self.origin}: its forward does not call the layers {', '.join(unused)}")
        self.layers = {name: self.layers[name] for name in self.calls}  # in the order of their first calls
        try:
            if value is None:
                raise Inexpressible("the outputs of the timesteps are not stacked with torch.stack")
            if self.unpackable is not None:
                raise Inexpressible(self.unpackable)
            value = before_votes(trace, value)
            graph = build_graph(trace, value, steps, static=not self.info.frames)
            copies, handed = graph.weight_copies, _handed_weights(graph)
            weights = sum(copies[name] * layer.weight.numel() for name, layer in self.layers.items())
            weights += sum(each for each, _, _ in handed)
            if weights > MAX_WEIGHTS:
                among = " (those that hand on flattened or pooled maps among them)" if handed else ""
                raise Inexpressible(
                    f"it has {weights:,} weights{among} in the packed file, which has room for {MAX_WEIGHTS:,}"
                )
            self.graph = graph
            self._handed_bytes = sum(layer_bytes(size, outputs, kept / size, 1) for size, kept, outputs in handed)
        except Inexpressible as error:
            self.reason = str(error)
        if self.graph is not None:
            sharing = [population for population in self.graph.populations if self.graph.shares(population)]
            self._unfolded_norms = {id(self.net.get_submodule(name)) for each in sharing for name in each.norms}
        self._other_bytes = 4 * sum(parameter.numel() for parameter in self._others().values())
        self.uncounted = self._uncounted(trace)
        self._reset()
        self.net.train(was_training)

    @torch.no_grad()
    def _runs(self) -> bool:
        """Whether the module makes something of an input, as it is."""
        was_training = self.net.training
        parameter = next(self.net.parameters(), None)
        device = None if parameter is None else parameter.device
        try:
            with torch.random.fork_rng(devices=[]):
                self.net.eval()(torch.randn(_BATCH, *self.info.shape, device=device))
        except Exception:  # whatever somebody's forward raises; it is told when the module is run with our layers
            return False
        finally:
            self.net.train(was_training)
        return True

    def _traced(self, trace: Trace, image: Tensor) -> Tensor:
        return self._called(lambda: trace.record(self.net, lambda: self.net(image)), len(image))

    def _called(self, call: Callable[[], Any], batch: int) -> Tensor:
        """The output of the module for a batch, if it is of a shape that it may be of."""
        by = shape_text(self.info.shape)
        try:
            with Guard():
                output = _output(call())
        except Exception as error:  # whatever somebody's forward raises
            why = f"its forward fails on a batch of {by}: {line_of(error)}"
            if self._runs_plain:
                why += (
                    "; it runs with torch's own layers, so it asks its Conv2d and Linear layers for more than their "
                    "outputs, weight, bias and plain attributes (isinstance, for example)"
                )
            raise InputError(f"{self.origin}: {why}") from error
        classes = len(self.info.classes)
        if output.shape[-2:] != (batch, classes) or output.dim() not in (2, 3):
            raise InputError(
                f"{self.origin}: its forward makes {list(output.shape)} of {batch} inputs; expected "
                f"[{batch}, {classes}] for one timestep, or [T, {batch}, {classes}] for all of them"
            )
        return output

    @torch.no_grad()
    def _require_batch_second(self, output: Tensor) -> None:
        """Refuse outputs [B, T, K], which look like [T, B, K] where there are as many timesteps as images."""
        if len(output) == output.shape[1]:
            images = torch.randn(len(output) + 1, *self.info.shape, device=self.device)
            self._reset()
            self._called(lambda: self.net(images), len(images))

    def _require_one_step(self, trace: Trace) -> None:
        """Refuse a loop over timesteps that gives one output for all of them, and neurons that cannot be reset."""
        for name, leaf in leaves(self.net).items():
            calls = [call for call in trace.of(leaf) if call.role == "neuron"]
            if len(calls) > _TRACED_STEPS:
                raise InputError(
                    f"{self.origin}: its forward calls neuron {name} {len(calls) // _TRACED_STEPS} times and gives one "
                    "output; expected one call of each neuron for one timestep, or the outputs of all timesteps, "
                    "[T, B, K], where forward makes them all"
                )
            if calls and reset_of(leaf) is None and keeps_state(calls[0]):
                has = f"has no {_RESET_NAMES}"
                if taking := resets_with_arguments(leaf):
                    has = f"has no {_RESET_NAMES} without arguments, but {taking[0]}"
                raise InputError(
                    f"{self.origin}: {name} ({type(leaf).__name__}) {has}, which a module "
                    "that makes one timestep at a time needs (snnTorch: init_hidden=True)"
                )

    def _require_no_loop(self) -> None:
        """Refuse a loop whose neurons are functions: it calls every layer that does not read the image again."""
        often = [calls for name, calls in self.calls.items() if self.layers[name].reads != "image"]
        if self.own_timesteps is None and often and min(often) > 1:
            raise InputError(
                f"{self.origin}: its forward calls every layer {min(often)} times and gives one output; expected one "
                "call for one timestep, or the outputs of all timesteps, [T, B, K], where forward makes them all"
            )

    def _reset(self) -> None:
        _reset(self.net, self.origin)

    @torch.no_grad()
    def _require_reset(self, image: Tensor) -> None:
        """Refuse a module that gives something else for the same input after a reset: what it keeps stays in it."""
        for scale in (1.0, 30.0):
            outputs = []
            for _ in range(2):
                self._reset()
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    images = scale * image
                    outputs.append(self._called(lambda images=images: self.net(images), len(images)))  # type: ignore[misc]
            first, second = outputs
            if not torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True):
                taking = resets_with_arguments(self.net)
                raise InputError(
                    f"{self.origin}: after a reset it gives something else for the same input, so it keeps a state "
                    f"that no {_RESET_NAMES} without arguments puts back"
                    + (f"; not called, because of its arguments: {', '.join(taking)}" if taking else "")
                )

    def _hear(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self.heard is not None:
                self.heard.setdefault(name, []).append(_output(output))
            if self.currents:
                self.fired[name] = _output(output)

        return hook

    def _deliver(self, name: str) -> Callable[..., Any]:
        """Of a neuron that shares a layer with others: give it its own deployed currents."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if (currents := self.currents.get(name)) is None:
                return None
            theirs = next(tensors_in((args, kwargs)))
            ours = self._deployed(name, currents, theirs)
            return (
                tuple(ours if arg is theirs else arg for arg in args),
                {key: ours if arg is theirs else arg for key, arg in kwargs.items()},
            )

        return hook

    def _deployed(self, name: str, currents: Currents, theirs: Tensor) -> Tensor:
        """Deployed currents in the place of the module's own, which are the same but for float16 scales.

        Raises:
            LitesnnError: they are not: between layer and neuron is something that the file does not know.
        """
        along = (-1, *[1] * (theirs.dim() - 2))
        total: Tensor | float = 0.0
        room: Tensor | float = 0.0
        for summand in currents.summands:
            given = self.layers[summand.name].accumulated if summand.of_layer else self.fired.get(summand.name)
            assert given is not None
            given = given.float().reshape(theirs.shape)
            part = given * summand.scale.view(along)
            total = part if isinstance(total, float) else total + part
            room = room + part.abs() + _SMALLEST_SCALE * given.abs()
        assert isinstance(total, Tensor)
        bias = currents.bias.view(along)
        ours = total + bias
        ours = ours if currents.unit == 1.0 else ours * currents.unit
        room = (_FLOAT16_ROUNDING * (room + bias.abs() + 1.0)) * currents.unit
        if bool(((ours - theirs).abs() > room)[ours.isfinite() & theirs.isfinite()].any()):
            raise LitesnnError(
                f"{self.origin}: neuron {name} gets other currents than the sum of its layers and their norms"
            )
        return ours

    def _skip_norm(self, norm: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """Folded into the layers before it, batch norm has nothing left to do."""
        if id(norm) in self._unfolded_norms or all(layer.deployed is None for layer in self.layers.values()):
            return output
        return next(tensors_in((args, kwargs)))


def steps_of(net: nn.Module, x: Tensor, timesteps: int, given: Given) -> Tensor:
    """Outputs at each timestep [T, B, K] of a module, called as ``given`` is, for ``x``: see :meth:`Given.steps`."""
    _reset(net, given.origin)
    if given.own_timesteps is not None:
        return _output(net(x.clone() if given.changes_input else x))[:timesteps]
    seen = first_frames(x, timesteps).unbind(1) if given.info.frames else [x] * timesteps
    return torch.stack([_output(net(image.clone() if given.changes_input else image)) for image in seen])


def _reset(net: nn.Module, origin: str) -> None:
    try:
        reset_states(net)
    except Exception as error:  # whatever somebody's reset raises
        raise InputError(f"{origin}: its reset fails: {line_of(error)}") from error


class SteppedNetwork(Predictor):
    """A user's module with finished choices.

    Args:
        given: the module.
        choice: bits, keep ratio of every layer, and T.
    """

    def __init__(self, given: Given, choice: Compressed) -> None:
        super().__init__(given.info)
        self.given, self.choice = given, choice
        self.arithmetic = ARITHMETICS["float"]

    def __repr__(self) -> str:
        name, layers = type(self.given.net).__name__, len(self.choice.layers)
        return f"SteppedNetwork({name}, {self.info}, T = {self.timesteps}, {layers} layers)"

    @property
    def timesteps(self) -> int:
        """T."""
        return self.choice.timesteps

    def compressions(self) -> dict[str, Compression]:
        """The choice for every layer."""
        return {gene.name: Compression.fixed(gene.bits, gene.keep, self.device) for gene in self.choice.layers}

    def forward(
        self,
        x: Tensor,
        *,
        meter: Meter | None = None,
        record: dict[str, Tensor] | None = None,
        tap: int | None = None,
        execution: Execution = Execution(),
    ) -> Output:
        """Encoded images [B, C, H, W] or frames [B, T or more, C, H, W] → logits y_t of every timestep [T, B, K].

        Args:
            meter: collects costs.
            record: receives the spikes [T, B, …] of every neuron layer.
            tap, execution: have no meaning here.
        """
        compressions = self.compressions()
        if self.training or self.given.graph is None:
            return run(self.given, x, compressions, self.timesteps, meter=meter, record=record)
        with torch.no_grad():
            folding = self.folding()
            deployed = folding.layers(self.given.graph)
            return run(
                *(self.given, x, compressions, self.timesteps),
                meter=meter,
                record=record,
                deployed=deployed,
                currents=folding.currents(self.given.graph),
                read_out=lambda totals: self.arithmetic.logits(totals, folding.readout),
            )

    def folding(self) -> Folding:
        """The numbers of the packed file. Raises ``ValueError`` if there can be none."""
        if self.given.graph is None:
            raise ValueError("there is no graph to fold")
        return fold_graph(self.given.graph, self.given.net, self.given.layers, self.compressions(), self.timesteps)

    def layers(self) -> list[LayerInfo]:
        """Every layer, in the module's order."""
        rows = []
        for gene in self.choice.layers:
            layer = self.given.layers[gene.name]
            weights = layer.weight.numel()
            kind: Literal["stem", "edge", "classifier"] = "classifier" if gene.name == self.given.last else "edge"
            kind = "stem" if layer.reads == "image" else kind
            kept = kept_count(weights, gene.keep)
            rows.append(LayerInfo(gene.name, kind, None, gene.bits, gene.keep, weights, kept, places=weights))
        return rows

    def estimated_bytes(self) -> int:
        """Bytes that a packed file would take, by the formulas of the search, where there can be none."""
        return self.given.header_bytes + sum(
            layer_bytes(layer.weight.numel(), layer.outputs, gene.keep, gene.bits) + layer.outputs * AFFINE_BITS // 8
            for gene in self.choice.layers
            for layer in [self.given.layers[gene.name]]
        )

    def analog_macs(self) -> list[tuple[Tensor, int]]:
        """MACs per inference with the kept weights, scalars, and bits of every layer that reads real numbers."""
        bits, layers = {gene.name: gene.bits for gene in self.choice.layers}, self.given.layers
        return [
            (self.given.passes(name) * layers[name].macs() * (self.timesteps if every else 1), bits[name])
            for name, _, every in self.given.analog(frames=self.info.frames)
        ]


def run(
    given: Given,
    x: Tensor,
    compressions: Mapping[str, Compression],
    timesteps: int,
    *,
    meter: Meter | None = None,
    whole: bool = False,
    record: dict[str, Tensor] | None = None,
    deployed: Mapping[str, Deployed] | None = None,
    currents: Mapping[str, Currents] | None = None,
    read_out: Callable[[Tensor], Tensor] | None = None,
) -> Output:
    """Encoded images [B, C, H, W] or frames [B, T or more, C, H, W] → y_t [T, B, K].

    Args:
        given: the module.
        compressions: of every layer.
        timesteps: T.
        meter, record: collect costs, and the spikes of every neuron layer. Costs of a layer are named after it.
        whole: let the meter have also what a layer would cost if all weights were kept, in SynOps per timestep.
        deployed: the layers' deployed forms, of all or of none.
        currents: the deployed currents of neurons that share a layer, by name.
        read_out: makes y_t of the summed outputs of the steps 1…t [T, B, K] (float64).
    """
    given.heard = {} if meter is not None or record is not None else None
    given.currents = currents or {}
    for name, layer in given.layers.items():
        layer.prepare(compressions[name])
        layer.deployed = None if deployed is None else deployed.get(name)
        layer.listen(on=meter is not None)
    try:
        outputs = given.steps(x.float() * INPUT_SCALE, timesteps)
        spikes = {
            name: _by_timestep(rows, given.neuron_calls[name], timesteps)
            for name, rows in (given.heard or {}).items()
            if given.neuron_calls[name]
        }
        if meter is not None:
            wholes = _count(given, meter, timesteps) | _count_extras(given, meter, spikes)
            meter.whole.update(wholes if whole else {})
    finally:
        given.heard = None
        given.currents, given.fired = {}, {}
        for layer in given.layers.values():
            layer.deployed = layer.accumulated = None
    if meter is not None:
        for name, fired in spikes.items():
            meter.rates[name] = fired.flatten(1).mean(1)
            meter.neurons[name] = fired[0, 0].numel()
    if record is not None:
        record.update(spikes)
    if read_out is not None:
        # Accumulators are integers; pooling as many as there are votes may have rounded them.
        return Output(read_out(outputs.double().round().cumsum(0)))
    elapsed = torch.arange(1, len(outputs) + 1, device=outputs.device, dtype=outputs.dtype)[:, None, None]
    return Output(outputs.cumsum(0) / elapsed)


def _by_timestep(rows: list[Tensor], calls: int, timesteps: int) -> Tensor:
    """The outputs of a neuron [T, B, …]; those of several ``calls`` in a timestep side by side [T, B, N]."""
    if calls == 1:
        return torch.stack(rows[:timesteps])
    parts = [row.flatten(1) for row in rows[: calls * timesteps]]
    return torch.stack([torch.cat(parts[start : start + calls], 1) for start in range(0, len(parts), calls)])


def _connects(parameter: nn.Parameter) -> bool:
    """Whether a parameter may be weights between neurons: more than one number for each channel."""
    return sum(size > 1 for size in parameter.shape) > 1


def _count(given: Given, meter: Meter, timesteps: int) -> dict[str, Tensor]:
    """Layers of spikes; returns what they would cost with all weights [T], by name."""
    wholes = {}
    nothing = torch.zeros(0, timesteps, device=given.device)
    meter.add([], nothing, nothing)  # where no layer reads spikes, there are none of its work
    for name, layer in given.layers.items():
        if layer.reads == "spikes":
            used, bit_used, whole = (given.copies(name) * part for part in layer.used(given.calls[name], timesteps))
            meter.add([name], used[None], bit_used[None])
            wholes[name] = whole
    return wholes


def _count_extras(given: Given, meter: Meter, spikes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Identities and max pooling, which have no layer: each spike is handed on once, as one bit. As :func:`_count`."""
    if given.graph is None:
        return {}
    populations = given.graph.populations

    def fired(index: int) -> Tensor:
        """[T, B, C, H, W] of a population."""
        handing = populations[index].handing
        if handing is None:
            return spikes[populations[index].name]
        before = fired(handing.source)
        if handing.flattens is not None:
            return before.flatten(2)[..., None, None]
        padding = handing.kernel // 2 - handing.first
        pooled = F.max_pool2d(before.flatten(0, 1), handing.window, handing.stride, padding)
        return pooled.view(*before.shape[:2], *pooled.shape[1:])

    def handed(index: int, handing: Handing | None) -> Tensor:
        """How often a spike of a population is handed on per sample [T]: once, or to each window that it is in."""
        mean = fired(index).mean(1)  # [T, C, H, W]
        if handing is None or handing.flattens is not None:
            return mean.flatten(1).sum(1)
        axis = Axis(handing.kernel, handing.stride, handing.kernel // 2, handing.kernel // 2)
        window = slice(handing.first, handing.first + handing.window)
        return taps_along(mean, axis, axis)[..., window, window].flatten(1).sum(1)

    wholes = {}
    for name, sources, handing in extras(given.graph):
        used = torch.stack([handed(source, handing) for source in sources]).sum(0)[None]  # [1, T]
        meter.add([name], used, used)
        wholes[name] = used[0]
    return wholes


def extras(graph: Graph) -> Iterator[tuple[str, tuple[int, ...], Handing | None]]:
    """Operations of a packed file besides the module's layers: populations whose spikes are handed on, and how.

    ``None``: as they are.
    """
    for population in graph.populations:
        if population.handing is not None:
            yield population.name, (population.handing.source,), population.handing
        else:
            assert population.current is not None
            identities = [leaf for leaf in leaves_of(population.current) if leaf.layer is None]
            for number, leaf in enumerate(identities, start=1):
                yield f"identity {number} of {population.name}", leaf.sources, None


def _handed_weights(graph: Graph) -> list[tuple[int, int, int]]:
    """Of everything that hands on spikes without a layer: its weights in the file, those that are kept, and outputs."""
    found = []
    for population in graph.populations:
        if (handing := population.handing) is not None:
            inputs = graph.populations[handing.source].channels
            kept = population.channels * handing.window**2
            found.append((population.channels * inputs * handing.kernel**2, kept, population.channels))
    return found


def _neuron_bytes(graph: Graph) -> int:
    """Bytes of the header for neurons that are not all alike, or will not be when leaks are learned apart."""
    apart = len({population.learned for population in graph.populations if population.handing is None}) > 1
    own = [
        (apart and population.handing is None) or own_neuron(graph, population) != (None, None)
        for population in graph.populations
    ]
    if not any(own):
        return 0 if graph.lif.reset is None else _NEURONS
    return _NEURONS + sum(_OWN_NEURON if each else _SHARED_NEURON for each in own)


def _output(output: Any) -> Tensor:
    """The output of a module; of several tensors the first."""
    found = next(tensors_in(output), None)
    return torch.empty(0) if found is None else found


def _last_of(trace: Trace, output: Tensor, steps: int) -> Value | None:
    """The last timestep's output before all were stacked."""
    call = trace.value(output).call
    if call is None or call.name != "stack" or call.module is not None or len(call.inputs) != steps:
        return None
    return call.inputs[-1]


def fixed_choice(given: Given, timesteps: int, chosen: Mapping[str, tuple[int, float]]) -> Compressed:
    """Choices for the searched layers, with what the last layer gets."""
    return Compressed(
        timesteps=timesteps,
        layers=tuple(
            LayerGene(name=name, bits=bits, keep=keep)
            for name in given.layers
            for bits, keep in [chosen.get(name, (given.io_bits, 1.0))]
        ),
        quantizer=given.quantizer.name,
    )
