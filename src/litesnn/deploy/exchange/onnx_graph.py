"""Packed models as ONNX graphs that compute what the reference computes, bit for bit.

In: a :class:`~litesnn.deploy.packed.PackedModel` in floats. Out: a graph from raw inputs ``image`` [B, C, H, W], or
``frames`` [B, T, C, H, W], to ``logits`` [B, classes], with any batch size. Normalising and rounding the input are part
of it.

Weights stay low-bit integers: each layer has an INT2, INT4 or INT8 initializer and a DequantizeLinear that turns its
codes into whole float32 numbers. A convolution then sums integers, which float32 holds exactly up to 2^24 in whatever
order a runtime adds (the export sees to it), and its channels' scales follow as a node of their own: nothing is left to
the runtime that could make a spike differ.

A convolution sees all timesteps as one batch, [T·B, C, H, W]; the neurons are unrolled over the timesteps.

T timesteps, B batch, C channels, H×W pixels, O output and I input channels, k kernel size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litesnn.arithmetic_limits import INPUT_STEPS, MAX_INPUT
from litesnn.deploy.exchange.source import require_float, used_populations
from litesnn.deploy.packed import IMAGE, PackedModel, PackedNeuron, Readout, Synapses, neuron_of, population_shapes
from litesnn.errors import InputError
from litesnn.extras import import_extra

__all__ = ["onnx_graph"]

_LARGEST_EXACT = 2**24  # up to here float32 holds every integer
_OPSET_INT4, _IR_INT4 = 21, 10  # the first that have 4-bit integers, for as many runtimes as possible
_OPSET_INT2, _IR_INT2 = 25, 13


def onnx_graph(model: PackedModel, *, record: bool = False) -> Any:
    """The ``onnx.ModelProto`` of a model, checked by ``onnx.checker``.

    Args:
        model: a packed model in floats.
        record: the spikes [T·B, C, H, W] of every population that the logits need are outputs too, ``spikes_0`` ….

    Raises:
        InputError: the model is in fixed point, a layer's sums may be too large for float32, or the package ``onnx`` is
            not installed.
    """
    require_float(model, "ONNX")
    return _Builder(model).build(record)


def _need(module: str) -> Any:
    return import_extra(module, purpose="the ONNX export", package="onnx", extra="onnx")


class _Builder:
    """Builds a graph node by node. Values are known by their names."""

    def __init__(self, model: PackedModel) -> None:
        self.onnx, self.types = _need("onnx"), _need("ml_dtypes")
        self.model, self.shapes = model, population_shapes(model)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.known: dict[object, str] = {}  # the constants' names by their value
        self.spikes: dict[int, str] = {}  # [T·B, C, H, W] of the populations so far
        self.two_bits = False

    def build(self, record: bool) -> Any:
        """All of it."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        spec, timesteps = self.model.input, self.model.timesteps
        name = "frames" if spec.frames else "image"
        image = self.quantize_input(name)
        for index in used_populations(self.model):
            neuron = neuron_of(self.model, self.model.populations[index])
            self.spikes[index] = self.fire(self.currents(index, image), neuron, f"spikes_{index}")
        self.read_out(self.model.readout, "logits")
        kind = kinds.FLOAT if spec.kind == "array" else kinds.UINT8
        shape = ["batch", *([timesteps] if spec.frames else []), *spec.shape]
        inputs = [helper.make_tensor_value_info(name, kind, shape)]
        outputs = [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", len(self.model.classes)])]
        if record:
            outputs += [
                helper.make_tensor_value_info(name, kinds.FLOAT, [None, *self.shapes[index]])
                for index, name in self.spikes.items()
            ]
        graph = helper.make_graph(self.nodes, "litesnn", inputs, outputs, self.constants)
        opset, version = (_OPSET_INT2, _IR_INT2) if self.two_bits else (_OPSET_INT4, _IR_INT4)
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version, producer_name="litesnn"
        )
        helper.set_model_props(
            proto, {"classes": json.dumps(self.model.classes), "timesteps": str(self.model.timesteps)}
        )
        self.onnx.checker.check_model(proto, full_check=True)
        return proto

    def quantize_input(self, raw: str) -> str:
        """The quantized input of the network, as whole float32 numbers [B, C, H, W]; of frames [T·B, C, H, W]."""
        spec = self.model.input
        if spec.kind != "array":
            raw = self.node("Cast", raw, to=self.onnx.TensorProto.FLOAT)
        mean, std = (self.constant(np.array(values, np.float32)[:, None, None]) for values in (spec.mean, spec.std))
        normalised = self.node("Div", self.node("Sub", raw, mean), std)
        steps = self.node("Round", self.node("Mul", normalised, self.constant(np.float32(INPUT_STEPS))))
        limits = (self.constant(np.float32(limit)) for limit in (-MAX_INPUT, MAX_INPUT))
        clipped = self.node("Clip", steps, *limits)
        if not spec.frames:
            return clipped
        by_step = self.node("Transpose", clipped, perm=[1, 0, 2, 3, 4])  # [T, B, C, H, W]
        return self.node("Reshape", by_step, self.constant(np.array([-1, *spec.shape])))

    def currents(self, index: int, image: str) -> list[str]:
        """The input currents of a population at every timestep, each [B, C, H, W], summed in the file's order."""
        population, timesteps = self.model.populations[index], self.model.timesteps
        frames = self.model.input.frames
        static = not frames and all(synapses.sources == (IMAGE,) for synapses in population.synapses)
        total = ""
        for number, synapses in enumerate(population.synapses):
            part = self.current(synapses, image, f"population {index}, synapses {number}")
            if synapses.sources == (IMAGE,) and not static and not frames:
                part = self.node("Concat", *[part] * timesteps, axis=0)
            total = self.node("Add", total, part) if total else part
        total = self.node("Add", total, self.constant(_per_channel(population.bias)))
        return [total] * timesteps if static else self.split(total)

    def current(self, synapses: Synapses, image: str, name: str) -> str:
        """``scale·acc`` of a bundle of synapses."""
        x = image if synapses.sources == (IMAGE,) else self.gather(synapses.sources)
        if synapses.kernel:
            self.require_exact(synapses.codes, MAX_INPUT if x == image else self.model.levels, name)
            kernel = synapses.kernel
            weight = self.weight(synapses.codes)
            shape: dict[str, Any] = {
                "kernel_shape": [kernel] * 2,
                "pads": [kernel // 2] * 4,
                "strides": [synapses.stride] * 2,
            }
            x = self.node("Conv", x, weight, **shape)
        return self.node("Mul", x, self.constant(_per_channel(synapses.scale)))

    def fire(self, currents: Sequence[str], neuron: PackedNeuron, output: str) -> str:
        """The spikes [T·B, C, H, W], 0 or 1 or graded ones, of neurons with these currents."""
        spikes = []
        u = fired = ""
        for x in currents:
            u = self.node("Add", self.leaked(u, fired, neuron), x) if u else x
            fired = self.above(u, neuron, 0)
            spike = self.node("Cast", fired, to=self.onnx.TensorProto.FLOAT)
            for level in range(1, neuron.levels):
                more = self.node("Cast", self.above(u, neuron, level), to=self.onnx.TensorProto.FLOAT)
                spike = self.node("Add", spike, more)
            spikes.append(spike)
        return self.node("Concat", *spikes, axis=0, output=output)

    def above(self, u: str, neuron: PackedNeuron, level: int) -> str:
        """Whether membranes are above a threshold: a spike is how many they are above."""
        return self.node("Greater", u, self.constant(np.float32(neuron.threshold) + np.float32(level)))

    def leaked(self, u: str, fired: str, neuron: PackedNeuron) -> str:
        """The membranes that remain after a step: zero where a neuron fired, or less by its soft reset."""
        leaked = self.node("Mul", u, self.constant(np.float32(neuron.leak)))
        if neuron.reset is None:
            return self.node("Where", fired, self.constant(np.float32(0)), leaked)
        return self.node("Where", fired, self.node("Sub", leaked, self.constant(np.float32(neuron.reset))), leaked)

    def read_out(self, readout: Readout, output: str) -> None:
        """The logits of the last timestep, ``(scale·A_T)/T + bias``."""
        timesteps, (_, height, width) = self.model.timesteps, self.shapes[readout.sources[0]]
        self.require_exact(readout.codes, height * width * timesteps * self.model.levels, "readout")
        counts = self.node("ReduceSum", self.gather(readout.sources), self.constant(np.array([2, 3])), keepdims=0)
        sums = self.node("Gemm", counts, self.weight(readout.codes), transB=1)  # [T·B, classes]
        by_step = self.node("Reshape", sums, self.constant(np.array([timesteps, -1, len(readout.codes)])))
        total = self.node("ReduceSum", by_step, self.constant(np.array([0])), keepdims=0)
        scaled = self.node("Mul", total, self.constant(readout.scale.astype(np.float32)))
        mean = self.node("Div", scaled, self.constant(np.float32(timesteps)))
        self.node("Add", mean, self.constant(readout.bias.astype(np.float32)), output=output)

    def require_exact(self, codes: NDArray[np.int8], largest: int, name: str) -> None:
        """Raise ``InputError`` if sums of codes, each times at most ``largest``, may pass what float32 holds."""
        most = int(np.abs(codes.astype(np.int64)).reshape(len(codes), -1).sum(axis=1).max()) * largest
        if most > _LARGEST_EXACT:
            raise InputError(f"ONNX cannot carry {name}: its sums reach {most}, and float32 is exact to 2^24")

    def gather(self, sources: Sequence[int]) -> str:
        """The spikes of ``sources``, their channels concatenated."""
        names = [self.spikes[source] for source in sources]
        return names[0] if len(names) == 1 else self.node("Concat", *names, axis=1)

    def split(self, value: str) -> list[str]:
        """The timesteps of [T·B, C, H, W]."""
        timesteps = self.model.timesteps
        if timesteps == 1:
            return [value]
        names = [f"{value}_at_{step}" for step in range(1, timesteps + 1)]
        self.nodes.append(self.onnx.helper.make_node("Split", [value], names, axis=0, num_outputs=timesteps))
        return names

    def weight(self, codes: NDArray[np.int8]) -> str:
        """Codes as whole float32 numbers, kept in the smallest integers that hold them.

        Odd codes without a pruned one among them are 2·q + 1, and q has one bit less than they.
        """
        name, size = self.smallest(codes)
        halves = (codes - 1) // 2
        half_name, half_size = self.smallest(halves)
        if not codes.all() or half_size == size:
            return self.node("DequantizeLinear", self.integers(codes, name), self.constant(np.float32(1)))
        doubled = self.node("DequantizeLinear", self.integers(halves, half_name), self.constant(np.float32(2)))
        return self.node("Add", doubled, self.constant(np.float32(1)))

    def smallest(self, values: NDArray[np.int8]) -> tuple[str, int]:
        """Name and bits of the smallest integers that hold ``values``."""
        low, high = int(values.min()), int(values.max())
        bits = next(bits for bits in (2, 4, 8) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))
        return f"int{bits}", bits

    def integers(self, values: NDArray[np.int8], kind: str) -> str:
        """A constant of 2, 4 or 8-bit integers."""
        self.two_bits |= kind == "int2"
        return self.constant(values if kind == "int8" else values.astype(getattr(self.types, kind)))

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output; the name of that."""
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """The name of a constant, which is added if it is not there yet."""
        array = np.asarray(value)
        key = (array.dtype, array.shape, array.tobytes())
        name = self.known.setdefault(key, f"constant_{len(self.known)}")
        if len(self.known) > len(self.constants):
            self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name


def _per_channel(values: NDArray[Any]) -> NDArray[np.float32]:
    """[C] as [C, 1, 1], which goes with [B, C, H, W]."""
    return values.astype(np.float32)[:, None, None]
