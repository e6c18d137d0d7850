"""1 × 1 convolutions with a stride: the same numbers as torch's, and never in the way that overwrites memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from given import Lif, Row, known, pixels, tail
from litesnn.compression.layers import CompressedLayer
from litesnn.compression.network import SteppedNetwork, fixed_choice
from litesnn.snn.compconv import CompConv
from litesnn.snn.convolve import convolve, convolve_backward
from litesnn.snn.kernels import TorchKernels
from litesnn.snn.strided import conv2d, conv_transpose2d

ROOT = Path(__file__).parents[1]
BOTH_WAYS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class Refuse(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses the convolutions whose gradient overwrites memory; counts all others."""

    seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in BOTH_WAYS:
            first = BOTH_WAYS.index(func) + 1
            self.seen += 1
            assert args[first].shape[2:] != (1, 1) or set(args[first + 2]) == {1}
        return func(*args, **(kwargs or {}))


class Functional(nn.Module):
    """Calls 1 × 1 convolutions with a stride itself, with weights that no layer has, also inside a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.neuron, self.after = nn.Conv2d(1, 4, 3, padding=1), Mixing(), Lif()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.up, self.head = nn.ConvTranspose2d(4, 3, 1, 2, output_padding=1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(self.conv(x))
        out: Tensor = self.head(self.up(self.after(F.conv2d(spikes, self.weight, stride=2))).mean((2, 3)))
        return out


class Mixing(Lif):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.conv2d(x, self.mix, stride=[2, 2]))


class OnlyInTraining(nn.Module):
    """Has an auxiliary path with a strided 1 × 1 convolution, which evaluation does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.neuron, self.head = nn.Conv2d(1, 4, 3, padding=1), Lif(), nn.Linear(4, 3)
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(self.conv(x))
        out: Tensor = self.head(spikes.mean((2, 3)))
        return out + F.conv2d(spikes, self.weight, stride=2).mean() if self.training else out


def channels_last(*sizes: int) -> Tensor:
    values = torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes)))
    return values.contiguous(memory_format=torch.channels_last)


def ours() -> None:
    """A step of :mod:`litesnn.snn.convolve`."""
    x, weight = channels_last(9, 4, 32, 32), channels_last(6, 4, 1, 1)
    gradient = torch.ones_like(convolve(x, weight, stride=2))
    convolve_backward(gradient, x, weight, stride=2, kernels=TorchKernels())
    convolve_backward(gradient, x, weight, stride=2, kernels=TorchKernels(), kind=torch.bfloat16)


def layer(conv: CompConv) -> None:
    """A step of a compressed convolution."""
    x = channels_last(9, 4, 32, 32).requires_grad_()
    torch.autograd.grad(conv.convolve(x, conv.weight).sum(), [x, conv.weight])


def given(make: Callable[[], nn.Module]) -> None:
    """A training step and an evaluation of a user's module."""
    found = known(make())
    network = SteppedNetwork(found, fixed_choice(found, 2, dict.fromkeys(found.searched, (2, 0.5))))
    images = network.encode(pixels()).float().contiguous(memory_format=torch.channels_last)
    torch.autograd.backward(network.train()(images).logits.square().mean())
    network.eval()(images)


STEPS: dict[str, Callable[[], None]] = {
    "convolve": ours,
    "CompConv": lambda: layer(CompConv(4, 6, 1, 2)),
    "Conv2d": lambda: layer(CompressedLayer(nn.Conv2d(4, 6, 1, 2))),
    "oblong": lambda: layer(CompressedLayer(nn.Conv2d(4, 6, 1, (1, 2)))),
    "valid": lambda: layer(CompressedLayer(nn.Conv2d(4, 6, 1, (2, 1), padding="valid"))),
    "border": lambda: layer(CompressedLayer(nn.Conv2d(4, 6, 1, 2, padding_mode="reflect"))),
    "given": lambda: given(lambda: Row(nn.Conv2d(1, 4, 3, padding=1), Lif(), nn.Conv2d(4, 4, 1, 2), Lif(), *tail())),
    "functional": lambda: given(Functional),
    "only in training": lambda: given(OnlyInTraining),
}


@pytest.mark.parametrize("name", STEPS)
def test_none_reaches_torch(name: str) -> None:
    with Refuse() as mode:  # type: ignore[no-untyped-call]
        STEPS[name]()
    assert mode.seen >= 2


def test_what_is_refused() -> None:
    with pytest.raises(AssertionError), Refuse():  # type: ignore[no-untyped-call]
        F.conv2d(channels_last(1, 4, 4, 4), channels_last(4, 4, 1, 1), stride=2)


def test_all_of_the_package_convolves_in_the_guarded_way() -> None:
    called = re.compile(r"\b(F|functional|torch|aten)\.conv\w*\(")
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    found = {file.name for file in files if called.search(file.read_text(encoding="utf-8"))}
    assert found == {"strided.py", "convolve.py", "prototype.py"}  # the last has kernels of 3 × 3 alone


ARGUMENTS: list[dict[str, Any]] = [
    {"stride": 2},
    {"stride": (3, 1)},
    {"stride": [2], "padding": [0]},
    {"stride": 2, "groups": 2},
    {"stride": 2, "dilation": 2},
    {"stride": 2, "padding": 1},
    {},
]


@pytest.mark.parametrize("arguments", [*ARGUMENTS, {"stride": 3, "padding": "valid"}, {"padding": "same"}], ids=str)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 6)])
def test_the_same_as_torch(arguments: dict[str, Any], height: int, width: int) -> None:
    groups = arguments.get("groups", 1)
    for biased in (False, True):
        check(conv2d, F.conv2d, channels_last(2, 4, height, width), (6, 4 // groups, 1, 1), biased, arguments)


@pytest.mark.parametrize("arguments", [*ARGUMENTS, {"stride": (2, 3), "output_padding": (0, 2)}], ids=str)
def test_the_same_as_torch_transposed(arguments: dict[str, Any]) -> None:
    groups = arguments.get("groups", 1)
    for biased in (False, True):
        check(
            conv_transpose2d, F.conv_transpose2d, channels_last(2, 4, 7, 5), (4, 6 // groups, 1, 1), biased, arguments
        )


def check(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    x: Tensor,
    shape: tuple[int, ...],
    biased: bool,
    arguments: dict[str, Any],
) -> None:
    """Integers, so that no rounding hides or makes a difference; torch's in the layout that it computes rightly."""
    tensors = [(4 * tensor).round() for tensor in (x, torch.randn(shape), *([torch.randn(6)] if biased else []))]
    results = []
    for function, contiguous in ((ours, False), (theirs, True)):
        given = [(tensor.contiguous() if contiguous else tensor.clone()).requires_grad_() for tensor in tensors]
        out = function(*given, **arguments)
        total = (out * (torch.arange(out.numel()).view(out.shape) % 7)).sum()
        results.append((out, *torch.autograd.grad(total, given)))
    for ours_, theirs_ in zip(*results, strict=True):
        assert torch.equal(ours_, theirs_)


def test_unbatched() -> None:
    x, weight = torch.randn(4, 6, 6), torch.randn(3, 4, 1, 1)
    torch.testing.assert_close(conv2d(x, weight, stride=2), F.conv2d(x, weight, stride=2))


@pytest.mark.job
@pytest.mark.parametrize(("torchs", "onednn"), [("avx2", "AVX2"), ("default", "SSE41"), ("", "")])
def test_no_memory_is_overwritten(torchs: str, onednn: str) -> None:
    """On a CPU with AVX2 the process dies without the guard."""
    chosen = {"ATEN_CPU_CAPABILITY": torchs, "ONEDNN_MAX_CPU_ISA": onednn} if torchs else {}
    script = "import test_strided\nfor step in test_strided.STEPS.values():\n    for _ in range(20):\n        step()"
    command = [sys.executable, "-W", "ignore", "-c", f"import torch\ntorch.set_num_threads(1)\n{script}\nprint('done')"]
    ended = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, **chosen, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
