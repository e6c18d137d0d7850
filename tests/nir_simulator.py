"""A NIR graph as NIR's equations say, by forward Euler, in NumPy: it knows nothing of litesnn.

In: a graph read from a file, an input that is the same at every timestep, or one for each. Out: the graph's output at
every timestep, and the spikes of every LIF node.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def simulate(graph: Any, image: Float, *, dt: float, timesteps: int) -> tuple[Float, dict[str, Float]]:
    """Outputs [T, B, …] for ``image`` [B, C, H, W] or frames [T, B, C, H, W], and spikes [T, B, C, H, W] by node."""
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for before, after in graph.edges:
        sources[after].append(before)
    membranes: dict[str, Float] = {}
    outputs: list[Float] = []
    spikes: dict[str, list[Float]] = {}
    for step in range(timesteps):
        values: dict[str, Float] = {}
        while len(values) < len(graph.nodes):
            ready = [
                name for name in graph.nodes if name not in values and all(before in values for before in sources[name])
            ]
            for name in ready:
                node = graph.nodes[name]
                parts = [values[before] for before in sorted(sources[name])]
                x = sum(parts[1:], start=parts[0]) if parts else image if image.ndim == 4 else image[step]
                if type(node).__name__ == "LIF":
                    values[name] = _lif(node, x, membranes, name, dt)
                    spikes.setdefault(name, []).append(values[name])
                else:
                    values[name] = _OPERATIONS[type(node).__name__](node, x)
        outputs.append(values["output"])
    return np.stack(outputs), {name: np.stack(steps) for name, steps in spikes.items()}


def _lif(node: Any, x: Float, membranes: dict[str, Float], name: str, dt: float) -> Float:
    """One Euler step of ``τ·v' = (v_leak − v) + r·x``, then spike and reset where v > v_threshold."""
    assert not node.v_leak.any()
    decay, gain = (1 - dt / node.tau).astype(np.float32), (dt / node.tau * node.r).astype(np.float32)
    v = decay * membranes.get(name, np.zeros_like(x)) + gain * x
    fired = v > node.v_threshold.astype(np.float32)
    membranes[name] = np.where(fired, node.v_reset.astype(np.float32), v)
    spikes: Float = fired.astype(np.float32)
    return spikes


def _conv(node: Any, x: Float) -> Float:
    (stride, other), (padding, _) = map(tuple, (node.stride, node.padding))
    assert stride == other
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kernel = node.weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::stride, ::stride]
    sums = np.einsum("bihwkl,oikl->bohw", windows, node.weight, dtype=np.float32)
    currents: Float = sums + node.bias[:, None, None]
    return currents


def _pool(node: Any, x: Float) -> Float:
    assert tuple(node.kernel_size) == tuple(node.stride) == x.shape[2:]
    counts: Float = x.sum(axis=(2, 3), keepdims=True)
    return counts


def _flatten(node: Any, x: Float) -> Float:
    assert (node.start_dim, node.end_dim) == (-3, -1)
    return x.reshape(len(x), -1)


_OPERATIONS = {
    "Input": lambda node, x: x,
    "Output": lambda node, x: x,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "Flatten": _flatten,
}
