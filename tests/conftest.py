"""One thread and one hypothesis profile for the whole suite: the same examples everywhere, no flaky deadlines.

Fixtures are what several files share: a tiny problem, a design of it that must not be changed, and every set of
instructions that training has loops for.
"""

from __future__ import annotations

import litesnn  # isort: skip  (before torch, to which LITESNN_CPU is handed on)

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import whole_job
from litesnn.snn.native_library import instruction_sets, use_instruction_set

torch.set_num_threads(1)
settings.register_profile("litesnn", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("litesnn")


def pytest_report_header() -> str:
    """What is tested here: LITESNN_CPU may say less than the CPU has."""
    capability = torch.backends.cpu.get_cpu_capability()
    ours = ", ".join(instruction_sets())
    return f"litesnn {litesnn.__version__}: torch's kernels are for {capability}, litesnn's for {ours}"


@pytest.fixture(params=instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of one, in use until the test has ended."""
    use_instruction_set(request.param)
    yield request.param
    use_instruction_set(instruction_sets()[0])


@pytest.fixture(scope="session")
def problem(tmp_path_factory: pytest.TempPathFactory) -> whole_job.Problem:
    """Data and recipe files of the whole job."""
    return whole_job.write_problem(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="session")
def first_design(
    problem: whole_job.Problem, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, whole_job.Outcome]:
    """A run folder that ``litesnn design`` made without a break, and what it said; to be read or copied."""
    run = tmp_path_factory.mktemp("finished") / "run"
    return run, whole_job.litesnn("design", *problem.options(run))


@pytest.fixture(scope="session")
def finished(first_design: tuple[Path, whole_job.Outcome]) -> Path:
    """The run folder of the first design; to be read or copied."""
    run, outcome = first_design
    assert outcome.code == 0, outcome.err
    return run
