from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from litesnn.data.sources import Data, load
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import pack, prove_equal
from litesnn.deploy.packed import PackedModel, from_bytes, read, to_bytes
from litesnn.errors import InputError, LitesnnError
from litesnn.runs import RunFolder
from litesnn.snn.network import Network
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.session import Session
from tiny import genotype, images, input_info, lively_network
from whole_job import ALL_FILES

INFO = input_info((2, 6, 5))
IMAGES = images(INFO.shape, batch=64)


@pytest.fixture(scope="module")
def network() -> Network:
    return lively_network(genotype(), INFO, seed=3)


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> tuple[RunFolder, Data]:
    """A finished run that a test may spoil, and its data."""
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    return run, load(run.recipe().data)


def packed_with(network: Network, change: Callable[[PackedModel], PackedModel]) -> PackedModel:
    """What the file of a network holds that was changed on the way."""
    return from_bytes(to_bytes(change(integerize(network))))


def with_code(population: int, place: int) -> Callable[[PackedModel], PackedModel]:
    """One code, the ``place``-th that is not pruned, with its sign flipped."""

    def change(model: PackedModel) -> PackedModel:
        old = model.populations[population]
        codes = old.synapses[0].codes.copy()
        codes.flat[np.flatnonzero(codes)[place]] *= -1
        synapses = (dataclasses.replace(old.synapses[0], codes=codes), *old.synapses[1:])
        populations = list(model.populations)
        populations[population] = dataclasses.replace(old, synapses=synapses)
        return dataclasses.replace(model, populations=tuple(populations))

    return change


def test_what_is_packed_computes_the_same(network: Network) -> None:
    prove_equal(network, packed_with(network, lambda model: model), IMAGES)


def test_the_images_are_worth_something_as_a_proof(network: Network) -> None:
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        network(network.encode(IMAGES), record=record)
    assert all(0.01 < float(spikes.mean()) < 0.99 for spikes in record.values())


@pytest.mark.parametrize(
    ("population", "place", "name"),
    [
        (0, 0, "stem"),
        (1, 0, "cell 1 node 0"),
        (2, 0, "cell 1 node 1"),
        (3, 3, "cell 2 node 0"),
        (4, 3, "cell 2 node 1"),
    ],
)
def test_one_flipped_code_is_found(network: Network, population: int, place: int, name: str) -> None:
    """And the message names the population in which it first shows.

    A flip that changes no spike on the proof's images cannot be found by running them; these change some.
    """
    packed = packed_with(network, with_code(population, place))
    with pytest.raises(LitesnnError, match=f"differ in the spikes of {name}$"):
        prove_equal(network, packed, IMAGES)


def test_a_flipped_code_of_the_classifier_is_found(network: Network) -> None:
    def change(model: PackedModel) -> PackedModel:
        codes = model.readout.codes.copy()
        codes[0, 0] *= -1
        return dataclasses.replace(model, readout=dataclasses.replace(model.readout, codes=codes))

    with pytest.raises(LitesnnError, match="differ in their logits"):
        prove_equal(network, packed_with(network, change), IMAGES)


def test_the_smallest_other_bias_is_found(network: Network) -> None:
    def change(model: PackedModel) -> PackedModel:
        bias = model.readout.bias.astype(np.float16)
        bias[-1] = np.nextafter(bias[-1], np.float16(np.inf))
        return dataclasses.replace(model, readout=dataclasses.replace(model.readout, bias=bias.astype(np.float32)))

    with pytest.raises(LitesnnError, match="differ in their logits"):
        prove_equal(network, packed_with(network, change), IMAGES)


def test_another_number_of_timesteps_is_found(network: Network) -> None:
    packed = packed_with(network, lambda model: dataclasses.replace(model, timesteps=2))
    with pytest.raises(LitesnnError, match="differ in the spikes of stem"):
        prove_equal(network, packed, IMAGES)


def test_packing_again_gives_the_same_bytes_with_rates_and_classes(job: tuple[RunFolder, Data]) -> None:
    run, data = job
    before = run.output("pack").read_bytes()
    assert pack(StageContext.of(run, data, Session())) == run.output("pack")
    assert run.output("pack").read_bytes() == before
    model = read(run.output("pack"))
    assert model.classes == data.classes
    rates = [row["firing_rate"] for row in run.metrics()["neurons"]]
    assert [population.rate for population in model.populations] == pytest.approx(rates, rel=1e-2, abs=1e-4)


def test_a_file_of_another_size_than_evaluation_said_is_refused(job: tuple[RunFolder, Data]) -> None:
    run, data = job
    metrics = run.metrics()
    run.output("evaluate").write_text(json.dumps(metrics | {"packed_bytes": metrics["packed_bytes"] - 1}))
    with pytest.raises(LitesnnError, match=r"has \d+ B, but evaluation counted \d+ B"):
        pack(StageContext.of(run, data, Session()))
    assert run.done("pack")  # a refusal takes nothing away


def test_a_file_that_computes_something_else_is_not_left(
    job: tuple[RunFolder, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the packer had a fault: stem codes of the other sign, in a file of the right size."""
    run, data = job

    def faulty(network: Network, rates: dict[str, float]) -> PackedModel:
        model = integerize(network, rates)
        for place in range(4):
            model = with_code(0, place)(model)
        return model

    monkeypatch.setattr("litesnn.deploy.pack.integerize", faulty)
    with pytest.raises(LitesnnError, match="differ in the spikes of stem"):
        pack(StageContext.of(run, data, Session()))
    assert not run.done("pack")


def test_an_interrupted_proof_leaves_no_file(
    job: tuple[RunFolder, Data], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = job

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("litesnn.deploy.pack.prove_equal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(StageContext.of(run, data, Session()))
    assert {path.name for path in run.path.iterdir()} == ALL_FILES - {"model.safetensors", "report.html"}


@pytest.mark.parametrize("name", ["network.safetensors", "metrics.json"])
def test_packing_needs_network_and_metrics(job: tuple[RunFolder, Data], name: str) -> None:
    run, data = job
    (run / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        pack(StageContext.of(run, data, Session()))
    assert run.done("pack")  # a refusal takes nothing away
