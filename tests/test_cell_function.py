"""A cell by hand against autograd is in test_cell.py; here is what is particular to doing it by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from litesnn.genotype import Edge, all_edges
from litesnn.snn import cell_function
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.cell import Cell, CellMix, Source, State
from litesnn.snn.compconv import Compression
from litesnn.snn.convolve import convolve_measured
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import Kernels, TorchKernels, from_rows, to_rows
from litesnn.snn.membrane import Neuron
from litesnn.snn.spike_products import has_loops
from litesnn.snn.winograd import best_scheme, schemes
from tiny import liven, values_of

CPU = torch.device("cpu")
OPS = ("skip", "conv1x1", "conv3x3")


def make_cell(
    *,
    nodes: int = 2,
    level: int = 0,
    width: int = 4,
    ops: tuple[str, ...] = OPS,
    edges: Sequence[Edge] = (),
    levels: int = 1,
) -> Cell:
    edges = edges or [Edge(node=node, source=source, op=op) for node, source in all_edges(nodes) for op in ops]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arithmetic = ARITHMETICS["float"]
        cell = Cell(
            *(Source(width, 0), Source(3, 0)),
            level=level,
            width=width,
            edges=edges,
            arithmetic=arithmetic,
            levels=levels,
        )
    liven(cell, 0, levels)
    return cell.train()


def spikes(seed: int, channels: int, dtype: torch.dtype = torch.float64, levels: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = (3, 2, channels, 7, 5)
    found: Tensor = sum(torch.rand(shape, generator=rng) < 0.4 for _ in range(levels)).to(dtype)  # type: ignore[union-attr]
    return found


def states(cell: Cell, dtype: torch.dtype = torch.float64) -> tuple[State, State]:
    channels, levels = cell.connection(cell.edges[0]).outputs, cell.levels
    return (
        State.of(spikes(0, channels, dtype, levels), counted=False),
        State.of(spikes(1, 3, dtype, levels), counted=False),
    )


def outcome(cell: Cell, execution: Execution = Execution(), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Spikes, every gradient, and the running statistics afterwards."""
    cell = cell.to(dtype)
    inputs = [State.of(state.spikes.requires_grad_(), counted=False) for state in states(cell, dtype)]
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    out = cell(*inputs, CellMix(Compression.fixed(2, 0.5, CPU)), execution=execution).spikes
    rng = torch.Generator().manual_seed(9)
    loss = (out * torch.randn(out.shape, generator=rng, dtype=torch.float64).to(dtype)).sum()
    found = [out, *torch.autograd.grad(loss, [*cell.parameters(), *(state.spikes for state in inputs)])]
    found += [value.clone() for name, value in cell.state_dict().items() if "running" in name]
    cell.load_state_dict(before)
    return found


def test_rows_and_back() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    rows = to_rows(x)
    assert rows.shape == (12, 2)
    assert rows[1].tolist() == [1, 13]
    assert rows.data_ptr() == x.data_ptr()
    again = from_rows(rows, (3, 4))
    assert torch.equal(again, x)
    assert again.data_ptr() == x.data_ptr()


def test_rows_of_one_image_in_torchs_layout_lie_side_by_side() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)  # whose pixels torch could see as rows with columns far apart
    assert to_rows(x).stride() == (2, 1)
    assert to_rows(x)[1].tolist() == [1, 13]


@pytest.mark.parametrize("level", [0, 1])
def test_recomputing_changes_no_bit(level: int) -> None:
    cell = make_cell(level=level)
    kept, again = outcome(cell), outcome(cell, Execution(recompute=True))
    assert all(torch.equal(one, two) for one, two in zip(kept, again, strict=True))
    assert 0 < kept[0].detach().mean() < 1


def test_what_is_soon_computed_again_is_not_kept() -> None:
    cell = make_cell().float()
    out = cell(*states(cell, torch.float32), CellMix(Compression.fixed(2, 0.5, CPU))).spikes
    function = out.grad_fn
    while not hasattr(function, "inside"):
        assert function is not None
        function = function.next_functions[0][0]
    kept = {conv.kernel: z is not None for conv, z in zip(function.settings.plan.convs, function.inside.z, strict=True)}
    assert kept == {1: False, 3: True}


def with_kernels(monkeypatch: pytest.MonkeyPatch, kernels: Kernels) -> None:
    def chosen(_like: Tensor, _neuron: Neuron, *, compiled: bool = False) -> Kernels:
        return kernels

    monkeypatch.setattr(cell_function, "kernels_for", chosen)


@pytest.mark.parametrize("level", [0, 1])
def test_the_kernels_in_torch_give_the_same(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(level=level)
    native = outcome(cell)
    with_kernels(monkeypatch, TorchKernels())
    plain = outcome(cell)
    assert torch.equal(native[0], plain[0])
    for one, two in zip(native, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.slow  # compilers take their time
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch, as it compiles
def test_compiled_kernels_give_the_same() -> None:
    cell = make_cell(nodes=1, ops=("skip", "conv3x3"))
    native, compiled = outcome(cell), outcome(cell, Execution(compiled=True))
    for one, two in zip(native, compiled, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def test_bfloat16_convolutions_are_near() -> None:
    """Spikes are exact in bfloat16 and sums are kept in more; weights keep 8 bits."""
    cell = make_cell(nodes=1, ops=("conv3x3",))
    exact, half = (outcome(cell, Execution(half=value), torch.float32) for value in (False, True))
    assert float((exact[0] != half[0]).float().mean()) < 0.02
    assert not torch.equal(exact[1], half[1])
    for one, two in zip(exact[1:-2], half[1:-2], strict=True):
        assert float((one - two).norm() / one.norm().clamp_min(1e-6)) < 0.2 or float(one.norm()) < 1e-6


def test_convolutions_of_one_state_are_merged_and_one_state_for_both_inputs_more_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = make_cell(nodes=2, width=3)
    calls: list[tuple[int, ...]] = []

    def of_three(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those of kernel 3: with the loops for spikes, those of kernel 1 have no outputs."""
        found = [shape for shape in shapes if shape[2:] == (3, 3)]
        assert len(found) == len(shapes) or not has_loops()
        return found

    def counted(x: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(tuple(weight.shape))
        return convolve_measured(x, weight, **options)

    monkeypatch.setattr(cell_function, "convolve_measured", counted)
    one = State.of(spikes(0, 3, torch.float32), counted=False)
    other = State.of(spikes(1, 3, torch.float32), counted=False)
    mix = CellMix(Compression.fixed(2, 0.5, CPU))
    apart = cell.float()(one, other, mix).spikes
    assert sorted(of_three(calls)) == [(3, 3, 3, 3), *[(6, 3, 3, 3)] * 2]
    calls.clear()
    together = cell(one, one, mix).spikes
    assert sorted(of_three(calls)) == [(3, 3, 3, 3), (12, 3, 3, 3)]
    copied = cell(one, State.of(one.spikes.clone(), counted=False), mix).spikes
    assert torch.equal(together, copied)
    assert not torch.equal(together, apart)


LATE = [  # only the second node, and the third, read by convolutions of kernel 1
    Edge(node=0, source=0, op="conv3x3"),
    Edge(node=1, source=2, op="conv1x1"),
    Edge(node=2, source=1, op="skip"),
    Edge(node=2, source=2, op="skip"),
]


@pytest.mark.skipif(not schemes(), reason="this CPU has no vectors with a fused multiply-add")
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        {"ops": OPS},
        {"ops": ("conv1x1",)},
        {"ops": ("skip",), "nodes": 3},
        {"edges": LATE},
        {"ops": OPS, "levels": 3},
        {"ops": ("skip",), "nodes": 3, "levels": 3},
    ],
    ids=["all", "conv1x1", "skip", "late", "graded all", "graded skip"],
)
def test_a_cell_in_c_is_the_cell_that_double_precision_gives(
    level: int, training: bool, recompute: bool, shape: dict[str, Any]
) -> None:
    """Double precision is computed by torch's functions, and agrees with autograd as test_cell.py shows."""
    cell = make_cell(level=level, **shape).train(training)
    assert best_scheme(torch.empty(6, 4, 7, 5), torch.empty(4, 4, 3, 3), 1 + level) is not None
    exact, single = outcome(cell), outcome(cell, Execution(recompute=recompute), dtype=torch.float32)
    assert torch.equal(single[0].double(), exact[0])
    assert 0 < exact[0].detach().mean() < cell.levels
    assert values_of(exact[0]) == set(range(cell.levels + 1))
    tolerance = 2e-5 if cell.levels == 1 else 2e-4  # larger membranes are rounded more coarsely, and slopes are steep
    for one, two in zip(single[1:], exact[1:], strict=True):
        torch.testing.assert_close(one.double(), two, rtol=0, atol=tolerance * max(1.0, float(two.abs().max())))


def test_inputs_that_need_no_gradient_get_none() -> None:
    cell, mix = make_cell().float(), CellMix(Compression.fixed(2, 0.5, CPU))
    older, newer = states(cell, torch.float32)
    learns = State.of(newer.spikes.clone().requires_grad_(), counted=False)
    grads = []
    for first in (older, State.of(older.spikes.clone().requires_grad_(), counted=False)):
        out = cell(first, learns, mix).spikes.square().sum()
        grads.append(torch.autograd.grad(out, [*cell.parameters(), learns.spikes]))
        cell.load_state_dict(make_cell().state_dict())
    assert all(map(torch.equal, *grads))


def test_cells_that_read_the_same_state_share_its_moments() -> None:
    cell, mix = make_cell().float(), CellMix(Compression.fixed(2, 0.5, CPU))
    older, newer = states(cell, torch.float32)
    first = cell(older, newer, mix).spikes
    assert newer.moments.keys() == older.moments.keys() == ({1} if schemes() else set())
    known = dict(newer.moments)
    assert torch.equal(cell(older, newer, mix).spikes, first)
    assert all(newer.moments[stride] is moments for stride, moments in known.items())


def test_the_way_back_can_be_gone_once() -> None:
    cell = make_cell()
    inputs = [State.of(state.spikes.requires_grad_(), counted=False) for state in states(cell, torch.float32)]
    out = cell.float()(*inputs, CellMix(Compression.fixed(2, 0.5, CPU))).spikes
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        out.sum().backward()


def test_running_statistics_are_those_of_torch() -> None:
    cell = make_cell(nodes=1, width=2, ops=("skip",)).float()
    mix = CellMix(Compression.fixed(2, 0.5, CPU))
    inputs = [State.of(spikes(seed, channels, torch.float32), counted=False) for seed, channels in ((0, 2), (1, 3))]
    norm = torch.nn.BatchNorm2d(2)
    ours = cell.connection(cell.edges[0]).norm  # an identity: normalises its input
    norm.load_state_dict(ours.state_dict())
    cell(*inputs, mix)
    norm(inputs[0].spikes.flatten(0, 1))
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("execution", [Execution(), Execution(recompute=True), Execution(compiled=True)])
def test_the_gpu_gives_what_the_cpu_gives(execution: Execution) -> None:
    cell = make_cell().double().train()
    mix = CellMix(Compression.fixed(2, 0.5, CPU))
    inputs = states(cell)
    cpu = cell(*inputs, mix).spikes
    gpu = cell.cuda()(
        *(State.of(state.spikes.cuda(), counted=False) for state in inputs),
        CellMix(Compression.fixed(2, 0.5, torch.device("cuda"))),
        execution=execution,
    ).spikes
    assert torch.equal(cpu, gpu.cpu())
