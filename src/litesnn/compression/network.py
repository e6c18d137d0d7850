"""A given module as a network over time: logits of every prefix of the timesteps, costs, and the deployed arithmetic.

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

from litesnn.compression.deploy import Folding, fold_graph
from litesnn.compression.graph import Graph, Inexpressible, build_graph, leaves_of, read_kinds
from litesnn.compression.layers import Deployed, swap_layers
from litesnn.compression.neurons import reset_states
from litesnn.compression.source import line_of
from litesnn.compression.tape import Tape, Value, is_neuron, leaves, tensors_in
from litesnn.errors import InputError
from litesnn.genotype import Compressed, LayerGene
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.backbone import INPUT_SCALE, Output, first_frames
from litesnn.snn.compconv import Compression
from litesnn.snn.cost import AFFINE_BITS, Meter, layer_bytes
from litesnn.snn.execution import Execution
from litesnn.snn.network import InputInfo, LayerInfo, encode
from litesnn.snn.prune import kept_count
from litesnn.snn.strided import Guard

__all__ = ["Given", "SteppedNetwork", "extras", "fixed_choice", "run", "whole_cost"]

_HEADER, _HEADER_PER_LAYER = 350, 50
"""Bytes of a packed file's header, near enough for a search and for modules of which there can be no file."""

_TRACED_STEPS = 2
_BATCH = 2  # of the tape: batch norm in training mode is not run on it, but shapes must show what is the batch


class Given(nn.Module):
    """A module whose layers were swapped, and what is known of it: how it is called, its graph, its neurons.

    Args:
        module: as its class makes it.
        info: the input and the classes.
        origin: its name in errors.
        io_bits: weight bits of the last linear layer.

    Attributes:
        own_timesteps: those that its forward makes itself, or ``None`` if it makes one.
        graph: how the packed file says it, or ``None``.
        reason: why there is no graph, or ``None``.
        calls, neuron_calls: how often each layer and each neuron is called in a timestep.
    """

    def __init__(self, module: nn.Module, info: InputInfo, *, origin: str, io_bits: int) -> None:
        super().__init__()
        self.net, self.info, self.origin, self.io_bits = module, info, origin, io_bits
        self.layers = swap_layers(module)
        if not any(not layer.is_linear for layer in self.layers.values()):
            raise InputError(f"{origin} has no convolution (torch.nn.Conv2d) to compress")
        for name, child in module.named_modules():
            if getattr(child, "step_mode", "s") != "s":
                raise InputError(
                    f"{origin}: {name} has step_mode {child.step_mode!r}; set step_mode 's', the timesteps are ours"
                )
        self.own_timesteps: int | None = None
        self.graph: Graph | None = None
        self.reason: str | None = None
        self.calls: dict[str, int] = {}
        self.neuron_calls: dict[str, int] = {}
        self.neurons = {name: leaf for name, leaf in leaves(module).items() if is_neuron(leaf)}
        self.heard: dict[str, list[Tensor]] | None = None
        self._other_bytes = 4 * sum(parameter.numel() for parameter in self._others())
        self.learn()
        for name, neuron in self.neurons.items():
            neuron.register_forward_hook(self._hear(name))
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.register_forward_hook(self._skip_norm)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.layers.values())).weight.device

    @property
    def header_bytes(self) -> int:
        """Of a packed file, near enough; with the parameters that no packed file can hold, as 32-bit floats."""
        return _HEADER + _HEADER_PER_LAYER * len(self.layers) + self._other_bytes

    def _others(self) -> Iterator[nn.Parameter]:
        """Parameters that are neither of a compressed layer nor of a norm or a neuron."""
        norms = [child for child in self.net.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
        accounted = [*self.layers.values(), *self.neurons.values(), *norms]
        known = {id(parameter) for child in accounted for parameter in child.parameters()}
        return (parameter for parameter in self.net.parameters() if id(parameter) not in known)

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
        reset_states(self.net)
        # Outputs are right without it, and what a module does in training need not be what it does in evaluation.
        with Guard() if torch.is_grad_enabled() else nullcontext():
            if self.own_timesteps is not None:
                return _output(self.net(x))[:timesteps]
            seen = first_frames(x, timesteps).unbind(1) if self.info.frames else [x] * timesteps
            return torch.stack([_output(self.net(image)) for image in seen])

    def learn(self) -> None:
        """Run the module on a tape: how it is called, what its layers read, and its graph.

        Again when weights were loaded: leaks and thresholds may be among them.
        """
        was_training = self.net.training
        self.net.eval()
        self.graph, self.reason = None, None
        for layer in self.layers.values():
            layer.prepare(Compression.fixed(4, 1.0, layer.weight.device))
        image = torch.randn(_BATCH, *self.info.shape, generator=torch.Generator().manual_seed(0), device=self.device)
        tape = Tape(image)
        reset_states(self.net)
        output = self._traced(tape, image)
        if output.dim() == 3:
            if self.info.frames:
                raise InputError(
                    f"{self.origin}: its forward makes all timesteps of one input; events need one that makes one "
                    "timestep of one frame, [B, C, H, W] → [B, K]"
                )
            steps = self.own_timesteps = len(output)
            value = _last_of(tape, output, steps)
        else:
            self._require_one_step(tape)
            steps = _TRACED_STEPS
            for _ in range(steps - 1):
                output = self._traced(tape, image)
            value = tape.value(output)
        for name, (kind, per_unit, calls) in read_kinds(tape).items():
            layer = self.layers[name]
            layer.reads, layer.spikes_per_unit = kind, per_unit
            self.calls[name] = 1 if calls < steps else calls // steps
            if kind == "spikes" and calls % steps:
                raise InputError(
                    f"{self.origin}: its forward calls layer {name}, which reads spikes, {calls} times in {steps} "
                    "timesteps; expected as often in each timestep"
                )
        for name, neuron in self.neurons.items():  # what is called otherwise than in every timestep is no neuron
            calls = len(tape.of(neuron))
            self.neuron_calls[name] = 0 if calls % steps else calls // steps
        unused = [name for name in self.layers if name not in self.calls]
        if unused:
            raise InputError(f"{self.origin}: its forward does not call the layers {', '.join(unused)}")
        self.layers = {name: self.layers[name] for name in self.calls}  # in the order of their first calls
        try:
            if value is None:
                raise Inexpressible("the outputs of the timesteps are not stacked with torch.stack")
            self.graph = build_graph(tape, value, steps, static=not self.info.frames)
        except Inexpressible as error:
            self.reason = str(error)
        reset_states(self.net)
        self.net.train(was_training)

    def _traced(self, tape: Tape, image: Tensor) -> Tensor:
        by = "×".join(map(str, self.info.shape))
        try:
            with Guard():
                output = _output(tape.record(self.net, lambda: self.net(image)))
        except Exception as error:  # whatever somebody's forward raises
            raise InputError(f"{self.origin}: its forward fails on a batch of {by}: {line_of(error)}") from error
        classes = len(self.info.classes)
        if output.shape[-2:] != (_BATCH, classes) or output.dim() not in (2, 3):
            raise InputError(
                f"{self.origin}: its forward makes {list(output.shape)} of {_BATCH} inputs; expected "
                f"[{_BATCH}, {classes}] for one timestep, or [T, {_BATCH}, {classes}] for all of them"
            )
        return output

    def _require_one_step(self, tape: Tape) -> None:
        for name, neuron in self.neurons.items():
            if (calls := len(tape.of(neuron))) > 1:
                raise InputError(
                    f"{self.origin}: its forward calls neuron {name} {calls} times and gives one output; "
                    "return the outputs of all timesteps, [T, B, K]"
                )
            if not any(callable(getattr(neuron, name, None)) for name in ("reset", "reset_mem")):
                raise InputError(
                    f"{self.origin}: {name} ({type(neuron).__name__}) has no reset() or reset_mem(), which a module "
                    "that makes one timestep at a time needs (snnTorch: init_hidden=True)"
                )

    def _hear(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self.heard is not None:
                self.heard.setdefault(name, []).append(_output(output))

        return hook

    def _skip_norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Folded into the layers before it, batch norm has nothing left to do."""
        return args[0] if any(layer.deployed is not None for layer in self.layers.values()) else output


class SteppedNetwork(nn.Module):
    """A given module with finished choices.

    Args:
        given: the module.
        choice: bits, keep ratio of every layer, and T.
    """

    def __init__(self, given: Given, choice: Compressed) -> None:
        super().__init__()
        self.given, self.choice = given, choice
        self.arithmetic = ARITHMETICS["float"]

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.given.device

    @property
    def info(self) -> InputInfo:
        """Input and classes."""
        return self.given.info

    @property
    def timesteps(self) -> int:
        """T."""
        return self.choice.timesteps

    def encode(self, x: Tensor) -> Tensor:
        """Raw images [B, C, H, W], or frames [B, T or more, C, H, W] of which the first T are seen → int8 input."""
        if self.info.frames:
            x = first_frames(x, self.timesteps)
        return encode(x.to(self.device), self.info.mean, self.info.std)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Raw images, or frames, as :meth:`encode` takes them → class indices [B], with what will be packed."""
        was_training = self.training
        self.eval()
        try:
            return self(self.encode(x)).logits[-1].argmax(1)  # type: ignore[no-any-return]
        finally:
            self.train(was_training)

    def compressions(self) -> dict[str, Compression]:
        """What was chosen for every layer."""
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
            rows.append(LayerInfo(gene.name, kind, None, gene.bits, gene.keep, weights, kept))
        return rows

    def estimated_bytes(self) -> int:
        """Bytes that a packed file would take, by the formulas of the search, where there can be none."""
        return self.given.header_bytes + sum(
            layer_bytes(layer.weight.numel(), layer.outputs, gene.keep, gene.bits) + layer.outputs * AFFINE_BITS // 8
            for gene in self.choice.layers
            for layer in [self.given.layers[gene.name]]
        )

    def analog_macs(self) -> list[tuple[float, int]]:
        """MACs per inference, and bits, of every layer that was last heard to read real numbers.

        What reads an image has the same work at every timestep, which counts once.
        """
        static = None if self.info.frames else "image"
        return [
            (
                layer.macs() * self.given.calls[gene.name] * (1 if layer.reads == static else self.timesteps),
                gene.bits,
            )
            for gene in self.choice.layers
            for layer in [self.given.layers[gene.name]]
            if layer.reads != "spikes"
        ]


def run(
    given: Given,
    x: Tensor,
    compressions: Mapping[str, Compression],
    timesteps: int,
    *,
    meter: Meter | None = None,
    record: dict[str, Tensor] | None = None,
    deployed: Mapping[str, Deployed] | None = None,
    read_out: Callable[[Tensor], Tensor] | None = None,
) -> Output:
    """Encoded images [B, C, H, W] or frames [B, T or more, C, H, W] → y_t [T, B, K].

    Args:
        given: the module.
        compressions: of every layer.
        timesteps: T.
        meter, record: collect costs, and the spikes of every neuron layer. Costs of a layer are named after it; the
            rates have also what it would cost if all weights were kept, in SynOps per timestep: see :func:`whole_cost`.
        deployed: the layers' deployed forms, of all or of none.
        read_out: makes y_t of the summed outputs of the steps 1…t [T, B, K] (float64).
    """
    given.heard = {} if meter is not None or record is not None else None
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
            _count(given, meter, timesteps)
            _count_extras(given, meter, spikes)
    finally:
        given.heard = None
        for layer in given.layers.values():
            layer.deployed = None
    if meter is not None:
        for name, fired in spikes.items():
            meter.rates[name] = fired.flatten(1).mean(1)
    if record is not None:
        record.update(spikes)
    if read_out is not None:
        return Output(read_out(outputs.double().cumsum(0)))
    elapsed = torch.arange(1, len(outputs) + 1, device=outputs.device, dtype=outputs.dtype)[:, None, None]
    return Output(outputs.cumsum(0) / elapsed)


def _by_timestep(rows: list[Tensor], calls: int, timesteps: int) -> Tensor:
    """The outputs of a neuron [T, B, …]; those of several ``calls`` in a timestep side by side [T, B, N]."""
    if calls == 1:
        return torch.stack(rows[:timesteps])
    parts = [row.flatten(1) for row in rows[: calls * timesteps]]
    return torch.stack([torch.cat(parts[start : start + calls], 1) for start in range(0, len(parts), calls)])


def whole_cost(name: str) -> str:
    """The key under which a layer's SynOps with all weights are kept among the rates."""
    return f"all weights of {name}"


def _count(given: Given, meter: Meter, timesteps: int) -> None:
    for name, layer in given.layers.items():
        if layer.reads == "spikes":
            used, bit_used, whole = layer.used(given.calls[name], timesteps)
            meter.add([name], used[None], bit_used[None])
            meter.rates[whole_cost(name)] = whole


def _count_extras(given: Given, meter: Meter, spikes: Mapping[str, Tensor]) -> None:
    """Identities and max pooling, which have no layer: each spike is handed on once, as one bit."""
    if given.graph is None:
        return
    populations = given.graph.populations

    def fired(index: int) -> Tensor:
        """[T, B, C, H, W] of a population."""
        pools = populations[index].pools
        if pools is None:
            return spikes[populations[index].name]
        before = fired(pools)
        return F.max_pool2d(before.flatten(0, 1), 2).unflatten(0, before.shape[:2])  # type: ignore[no-untyped-call, no-any-return]

    for name, sources in extras(given.graph):
        used = torch.stack([fired(source).flatten(2).sum(2).mean(1) for source in sources]).sum(0)[None]  # [1, T]
        meter.add([name], used, used)
        meter.rates[whole_cost(name)] = used[0]


def extras(graph: Graph) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What a packed file does besides the module's layers, by name, and the populations whose spikes it hands on."""
    for population in graph.populations:
        if population.pools is not None:
            yield population.name, (population.pools,)
        else:
            assert population.current is not None
            identities = [leaf for leaf in leaves_of(population.current) if leaf.layer is None]
            for number, leaf in enumerate(identities, start=1):
                yield f"identity {number} of {population.name}", leaf.sources


def _output(output: Any) -> Tensor:
    """What a module gives; of several tensors the first."""
    found = next(tensors_in(output), None)
    return torch.empty(0) if found is None else found


def _last_of(tape: Tape, output: Tensor, steps: int) -> Value | None:
    """The last timestep's output before all were stacked."""
    call = tape.value(output).call
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
    )
