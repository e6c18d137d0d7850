"""torch, the reference and every kernel of the engine are the same: on a trained network and on derived ones."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exactness
import whole_job
from litesnn.data.sources import load
from litesnn.deploy.engine import available_kernels
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import population_shapes, read, write
from litesnn.genotype import OPS, ArithmeticName, Genotype
from litesnn.runs import RunFolder
from tiny import genotype, genotypes, images, input_info, lively_network, shapes


def test_a_trained_network_over_its_whole_test_set(finished: Path) -> None:
    run = RunFolder(finished)
    rows = exactness.compare_run(run)
    model = read(run.need("pack"))
    rows_of_test = len(load(run.recipe().data).test().x)
    neurons = sum(int(np.prod(shape)) for shape in population_shapes(model))
    assert [row.name for row in rows] == [
        "reference",
        *(f"{kernel}, {method}" for kernel in available_kernels() for method in ("auto", "bitsliced", "gather")),
    ]
    for row in rows:
        assert row.exact, row
        assert row.images == rows_of_test
        assert row.spikes == rows_of_test * model.timesteps * neurons
        assert row.logits == rows_of_test * model.timesteps * len(model.classes)


@pytest.mark.slow
def test_a_network_trained_in_fixed_point(problem: whole_job.Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = whole_job.litesnn("design", *problem.options(run), "--set", "model.arithmetic=fixed")
    assert outcome.code == 0, outcome.err
    assert read(RunFolder(run).need("pack")).fraction is not None
    for row in exactness.compare_run(RunFolder(run)):
        assert row.exact, row


def test_a_difference_is_found(finished: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    path = run.need("pack")
    model = read(path)
    bias = -model.readout.bias
    write(dataclasses.replace(model, readout=dataclasses.replace(model.readout, bias=bias)), path)
    for row in exactness.compare_run(run):
        assert not row.exact
        assert row.different_logits
        assert not row.different_spikes


def assert_exact(gene: Genotype, shape: tuple[int, int, int], seed: int) -> None:
    network = lively_network(gene, input_info(shape), seed)
    for row in exactness.compare(network, integerize(network), images(shape, 3, seed)):
        assert row.exact, row


@pytest.mark.parametrize("op", sorted(OPS))
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_every_operation(op: str, arithmetic: ArithmeticName) -> None:
    """Within a resolution and from one to the next, on odd maps wider than a word's neighbours."""
    edges = ((0, 0, op), (0, 1, op), (1, 0, op), (1, 2, op))
    assert_exact(genotype(edges=edges, levels=(0, 0, 1, 2), arithmetic=arithmetic), (2, 13, 11), 1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 5, 6])
def test_every_width_and_number_of_timesteps(bits: int, timesteps: int) -> None:
    keep = 1.0 if (bits + timesteps) % 2 else 0.3
    assert_exact(genotype(bits=bits, timesteps=timesteps, keep=keep, width=5), (1, 9, 7), bits)


@given(genotypes(), shapes, st.integers(0, 2**31))
def test_any_derived_network(gene: Genotype, shape: tuple[int, int, int], seed: int) -> None:
    assert_exact(gene, shape, seed)


@given(genotypes(arithmetic="fixed"), shapes, st.integers(0, 2**31))
def test_any_derived_network_in_fixed_point(gene: Genotype, shape: tuple[int, int, int], seed: int) -> None:
    assert_exact(gene, shape, seed)
