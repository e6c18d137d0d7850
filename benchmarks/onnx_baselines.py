"""Packed models as ONNX graphs for ONNX Runtime: float32, or int8 with pairs of quantize and dequantize nodes.

All timesteps of a layer are one batch of its convolutions; LIF is unrolled over the timesteps as elementwise nodes.

The int8 graph has what static quantisation gives (8-bit activations by calibrated range, symmetric 8-bit weights per
output channel), but for spikes: they are bytes from the start, so that no node has to quantize them.

T timesteps, B batch, N = T·B or B, C channels, H×W pixels, O output and I input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from float_layers import Convolution, Float, Network
from litesnn.arithmetic_limits import INPUT_STEPS
from torch_baselines import TimeBatched

__all__ = ["Ranges", "Shape", "float_graph", "int8_graph", "output_ranges", "session", "weight_bytes"]

Shape = tuple[int, int, int, int]
Ranges = list[list[tuple[float, float]]]
"""For every layer the smallest and the largest output of each of its convolutions, bias included."""

_OPSET, _IR = 17, 8
_IMAGE_ZERO = 128  # the byte that is 0 in the image


def float_graph(network: Network, shape: Shape, *, record: bool = False) -> onnx.ModelProto:
    """The graph from normalised images ``image`` [B, C, H, W] to ``logits`` [B, classes].

    With ``record``, the spikes of layer i are the output ``spikes_i`` [T·B, C, H, W].
    """
    return _FloatGraph(network, shape).build(record)


def int8_graph(network: Network, ranges: Ranges, shape: Shape, *, record: bool = False) -> onnx.ModelProto:
    """Like :func:`float_graph`, with convolutions of bytes whose outputs are quantized to ``ranges``."""
    return _Int8Graph(network, ranges, shape).build(record)


@torch.no_grad()
def output_ranges(network: Network, x: Float) -> Ranges:
    """What the convolutions give for the normalised images ``x``."""
    module, image = TimeBatched(network), torch.from_numpy(x)
    spikes: list[torch.Tensor] = []
    module(image, record=spikes)
    flat = [s.flatten(0, 1) for s in spikes]
    ranges: Ranges = []
    for index, layer in enumerate(network.layers):
        outputs = [module.part(index, number, image, flat) for number in range(len(layer.convolutions))]
        ranges.append([(float(output.min()), float(output.max())) for output in outputs])
    return ranges


def session(model: onnx.ModelProto, *, level: str = "all") -> onnxruntime.InferenceSession:
    """One thread that never spins; graph optimisation "all", or "extended", which leaves the memory layout alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = {
        "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    }[level]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants."""
    return sum(numpy_helper.to_array(constant).nbytes for constant in model.graph.initializer)


class _FloatGraph:
    """Builds a graph node by node. Values are known by their names."""

    def __init__(self, network: Network, shape: Shape) -> None:
        self.network, self.shape = network, shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.spikes: list[str] = []  # of the layers so far [T·B, C, H, W]

    def build(self, record: bool) -> onnx.ModelProto:
        """All of it."""
        for index in range(len(self.network.layers)):
            self.spikes.append(self.fire(self.steps(index), f"spikes_{index}"))
        self.read_out("logits")
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)
        recorded = [helper.make_empty_tensor_value_info(name) for name in self.spikes] if record else []
        graph = helper.make_graph(self.nodes, "network", [image], [logits, *recorded], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)

    def steps(self, index: int) -> list[str]:
        """The currents of layer ``index`` at every timestep, each [B, O, H, W]."""
        layer, timesteps = self.network.layers[index], self.network.timesteps
        total = ""
        for number, convolution in enumerate(layer.convolutions):
            part = self.part(index, number, convolution, layer.bias if number == 0 else None)
            total = self.node("Add", total, part) if total else part
        return [total] * timesteps if layer.static else self.split(total, timesteps)

    def part(self, index: int, number: int, convolution: Convolution, bias: Float | None) -> str:
        """What layer ``index`` gets by one convolution [N, O, H, W], as floats."""
        if convolution.kernel == 0:
            spikes = self.as_float(self.gather(convolution.sources))
            scaled = self.node("Mul", spikes, self.constant(convolution.weight[:, None, None]))
            return scaled if bias is None else self.node("Add", scaled, self.constant(bias[:, None, None]))
        return self.convolve(index, number, convolution, bias)

    def convolve(self, index: int, number: int, convolution: Convolution, bias: Float | None) -> str:
        """A convolution with weights."""
        x = "image" if self.network.layers[index].static else self.gather(convolution.sources)
        return self.conv_node(convolution, x, *map(self.constant, _present(convolution.weight, bias)))

    def conv_node(self, convolution: Convolution, *inputs: str) -> str:
        """The node Conv on input, weight and perhaps bias."""
        kernel, stride = convolution.kernel, convolution.stride
        return self.node("Conv", *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def fire(self, currents: Sequence[str], output: str) -> str:
        """LIF neurons: stored spikes [T·B, C, H, W] of the currents of each timestep."""
        threshold, leak, zero = (
            self.constant(np.float32(value)) for value in (self.network.threshold, self.network.leak, 0)
        )
        u, fired = currents[0], self.node("Greater", currents[0], threshold)
        spikes = [self.node("Cast", fired, to=self.stored)]
        for current in currents[1:]:
            u = self.node("Add", self.node("Mul", self.node("Where", fired, zero, u), leak), current)
            fired = self.node("Greater", u, threshold)
            spikes.append(self.node("Cast", fired, to=self.stored))
        return self.node("Concat", *spikes, axis=0, output=output)

    def read_out(self, output: str) -> None:
        """Logits of the spikes of all layers."""
        head = self.network.head
        spikes = self.as_float(self.gather(head.sources))
        counts = self.node("ReduceSum", spikes, self.constant(np.array([2, 3])), keepdims=0)  # [T·B, C]
        shape = np.array([self.network.timesteps, self.shape[0], head.weight.shape[1]])
        by_step = self.node("Reshape", counts, self.constant(shape))
        total = self.node("ReduceSum", by_step, self.constant(np.array([0])), keepdims=0)  # [B, C]
        self.node("Gemm", total, self.constant(head.weight), self.constant(head.bias), transB=1, output=output)

    stored: int = TensorProto.FLOAT
    """The type in which spikes are stored."""

    def as_float(self, spikes: str) -> str:
        """Stored spikes as floats."""
        return spikes

    def gather(self, sources: tuple[int, ...]) -> str:
        """The stored spikes of ``sources``, their channels concatenated."""
        names = [self.spikes[source] for source in sources]
        return names[0] if len(names) == 1 else self.node("Concat", *names, axis=1)

    def split(self, value: str, parts: int) -> list[str]:
        """Equal parts of the first axis."""
        if parts == 1:
            return [value]
        names = [f"part_{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], names, axis=0))
        return names

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output; the name of that."""
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value), name))
        return name


class _Int8Graph(_FloatGraph):
    """Convolutions are dequantize, convolve, quantize, which the runtime makes one operation on bytes."""

    stored = TensorProto.UINT8

    def __init__(self, network: Network, ranges: Ranges, shape: Shape) -> None:
        super().__init__(network, shape)
        self.ranges = ranges

    def convolve(self, index: int, number: int, convolution: Convolution, bias: Float | None) -> str:
        if self.network.layers[index].static:
            step, zero = np.float32(1 / INPUT_STEPS), np.uint8(_IMAGE_ZERO)
            x = self.dequantize(self.quantize("image", step, zero), step, zero)
        else:
            step = np.float32(1)
            x = self.as_float(self.gather(convolution.sources))
        weight = convolution.weight
        largest = np.abs(weight).max(axis=(1, 2, 3))  # [O]
        steps = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        inputs = [self.constants_of(weight, steps, np.int8)]
        if bias is not None:
            inputs.append(self.constants_of(bias, steps * step, np.int32))
        step, zero = _activation(*self.ranges[index][number])
        return self.dequantize(self.quantize(self.conv_node(convolution, x, *inputs), step, zero), step, zero)

    def as_float(self, spikes: str) -> str:
        return self.dequantize(spikes, np.float32(1), np.uint8(0))

    def quantize(self, value: str, step: np.float32, zero: np.uint8) -> str:
        """Floats as bytes."""
        return self.node("QuantizeLinear", value, self.constant(step), self.constant(zero))

    def dequantize(self, value: str, step: np.float32, zero: np.uint8) -> str:
        """Bytes as floats."""
        return self.node("DequantizeLinear", value, self.constant(step), self.constant(zero))

    def constants_of(self, array: Float, steps: Float, kind: type[np.signedinteger]) -> str:
        """Integers that stand for ``array``, with a step for each index of the first axis, dequantized."""
        integers = np.rint(array / steps.reshape(-1, *[1] * (array.ndim - 1))).astype(kind)
        zeros = np.zeros(len(steps), kind)
        return self.node(
            "DequantizeLinear", self.constant(integers), self.constant(steps), self.constant(zeros), axis=0
        )


def _activation(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Step and zero point with which bytes cover a range, zero included."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32(max(high - low, 1e-6) / 255)
    return step, np.uint8(np.clip(np.rint(-low / step), 0, 255))


def _present(*arrays: Float | None) -> list[Float]:
    return [array for array in arrays if array is not None]
