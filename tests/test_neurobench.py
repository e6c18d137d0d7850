"""The figures in NeuroBench's terms, against hand-made values and against a brute count over the packed model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litesnn.data.batches import Samples
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import Packed
from litesnn.deploy.packed import IMAGE, PackedModel, to_bytes
from litesnn.genotype import ArithmeticName, Genotype
from litesnn.snn.network import Network
from litesnn.train.evaluate import _sizes, measure
from litesnn.train.neurobench import Watch, membrane_updates, neurobench_metrics
from packed_models import cell_model
from tiny import genotype, genotypes, input_info, lively_network, quantized_images

SHAPE = (2, 6, 5)


def metrics_of(network: Network, x: Tensor) -> tuple[dict[str, Any], Watch]:
    """The section that the evaluation writes for int8 inputs ``x`` [B, C, H, W]."""
    with Watch(network) as watch:
        measured = measure(network, Samples(x.to(torch.int8), torch.zeros(len(x), dtype=torch.int64)))
    packed = Packed.of(integerize(network, measured.rates))
    sizes = _sizes(network, measured, packed)
    rows = {key: sizes[key] for key in ("layers", "neurons", "packed_bytes")}
    return neurobench_metrics(integerize(network), watch, **rows), watch


@pytest.mark.parametrize(
    ("currents", "expected"),
    [
        ([0.25, 0.25, 0.25], 3),  # 0.25, 0.3, 0.31
        ([1.0, 1.0, 1.0], 1),  # fires and is reset every time
        ([0.0, 0.0, 0.0], 1),
        ([0.25, 1.0, 1.0], 2),  # 0.25, reset, reset
        ([1.0, 0.25, -0.05], 3),  # reset, 0.25, 0
    ],
)
def test_membrane_updates_of_one_neuron(currents: list[float], expected: int) -> None:
    x = torch.tensor(currents)[:, None]
    spikes = (x > 0.5).float()
    assert membrane_updates(x, spikes, 0.2) == expected


def test_membrane_updates_in_integers() -> None:
    """−1 >> 2 is −1, so a membrane of −1 without current stays; 7 leaks to 1, then to 0."""
    x = torch.tensor([[-1, 7], [0, 0], [0, 0], [0, 0]], dtype=torch.int32)
    assert membrane_updates(x, torch.zeros_like(x), None) == 2 + 1 + 1


def test_membrane_updates_with_a_soft_reset() -> None:
    """Half of 1 less 0.5 is 0, as it was before the second current; in integers 9 >> 2 less 2 is 0."""
    x = torch.tensor([1.0, 1.0, 0.25])[:, None]
    assert membrane_updates(x, (x > 0.5).float(), 0.5, 0.5) == 2
    assert membrane_updates(x, (x > 0.5).float(), 0.5, 0.25) == 3
    whole = torch.tensor([[9], [9], [0]], dtype=torch.int32)
    assert membrane_updates(whole, (whole > 8).float(), None, 2) == 1


@given(genotypes(), st.integers(0, 99), st.sampled_from(["float", "fixed"]))
def test_counts_against_the_packed_model(gene: Genotype, seed: int, arithmetic: ArithmeticName) -> None:
    gene = gene.model_copy(update={"arithmetic": arithmetic})
    network = lively_network(gene, input_info(SHAPE), seed)
    x = quantized_images(SHAPE, batch=3, seed=seed)
    x[:, :, ::2] = 0
    found, _ = metrics_of(network, x)
    model = integerize(network)
    spikes: dict[str, Tensor] = {}
    network(x, record=spikes)
    fired = list(spikes.values())  # each [T, B, C, H, W]
    assert found["effective_macs"] == pytest.approx(operations(model, x, fired, image=True, dense=False))
    assert found["effective_acs"] == pytest.approx(operations(model, x, fired, image=False, dense=False), rel=1e-5)
    dense = sum(operations(model, x, fired, image=image, dense=True) for image in (True, False))
    assert found["dense"] == dense
    zeros = sum(int((spike == 0).sum()) for spike in fired)
    assert found["activation_sparsity"] == pytest.approx(zeros / sum(spike.numel() for spike in fired), abs=1e-6)
    codes = [synapses.codes for population in model.populations for synapses in population.synapses if synapses.kernel]
    codes.append(model.readout.codes)
    kept, weights = sum(np.count_nonzero(part) for part in codes), sum(part.size for part in codes)
    assert found["connection_sparsity"] == pytest.approx(1 - kept / weights)
    assert abs(found["footprint"] - len(to_bytes(model))) <= 6 * len(fired)  # without the rates' digits
    neurons = sum(spike[0, 0].numel() for spike in fired)
    assert neurons <= found["membrane_updates"] <= model.timesteps * neurons


def test_graded_spikes_are_multiplied_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litesnn.deploy.integerize.require_packable", lambda *_: None)
    network = lively_network(genotype(spike_levels=3), input_info(SHAPE), 2)
    x = quantized_images(SHAPE, batch=3)
    found, watch = metrics_of(network, x)
    model = integerize(network)
    spikes: dict[str, Tensor] = {}
    network(x, record=spikes)
    fired = list(spikes.values())
    image, spiking = (operations(model, x, fired, image=image, dense=False) for image in (True, False))
    assert found["effective_macs"] == pytest.approx(image + spiking, rel=1e-5)
    assert found["effective_acs"] == found["effective_bit_acs"] == 0
    assert found["effective_bit_macs"] > 4 * image + 2 * spiking
    zeros = sum(int((spike == 0).sum()) for spike in fired)
    assert found["activation_sparsity"] == pytest.approx(zeros / sum(spike.numel() for spike in fired), abs=1e-6)
    assert watch.updates > 0


def operations(model: PackedModel, x: Tensor, fired: list[Tensor], *, image: bool, dense: bool) -> float:
    """Operations per sample of all layers that read the image, or spikes: a convolution of ones with ones."""
    total = 0.0
    for population in model.populations:
        for synapses in population.synapses:
            if synapses.kernel == 0 or (synapses.sources == (IMAGE,)) != image:
                continue
            inputs = x if image else torch.cat([fired[source] for source in synapses.sources], dim=2).flatten(0, 1)
            total += count(inputs, torch.from_numpy(synapses.codes), synapses.stride, dense=dense) / len(x)
    if not image:
        inputs = torch.cat([fired[source] for source in model.readout.sources], dim=2).flatten(0, 1)
        total += count(inputs, torch.from_numpy(model.readout.codes)[:, :, None, None], 1, dense=dense) / len(x)
    return total


def count(inputs: Tensor, codes: Tensor, stride: int, *, dense: bool) -> float:
    ones, weights = ((value != 0).double() for value in (inputs, codes))
    if dense:
        ones, weights = torch.ones_like(ones), torch.ones_like(weights)
    return float(F.conv2d(ones, weights, stride=stride, padding=codes.shape[-1] // 2).sum())


def test_the_bits_weigh_the_operations() -> None:
    network = lively_network(genotype(bits=3), input_info(SHAPE))
    found, _ = metrics_of(network, quantized_images(SHAPE))
    assert found["effective_bit_macs"] == 4 * found["effective_macs"]  # the stem of that genotype
    assert 3 * found["effective_acs"] < found["effective_bit_acs"] < 4 * found["effective_acs"]


def test_watching_changes_nothing_and_ends() -> None:
    network = lively_network(genotype(), input_info(SHAPE))
    x = quantized_images(SHAPE, batch=5)
    before, arithmetics = network(x).logits, [network.backbone.arithmetic, network.backbone.cell(0).arithmetic]
    with Watch(network) as watch:
        assert torch.equal(network(x).logits, before)
    assert (watch.samples, watch.updates > 0) == (5, True)
    assert [network.backbone.arithmetic, network.backbone.cell(0).arithmetic] == arithmetics
    network(x)
    assert watch.samples == 5


def test_figures_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively_network(genotype(), input_info(SHAPE))
    x = quantized_images(SHAPE, batch=7)
    whole, _ = metrics_of(network, x)
    monkeypatch.setattr("litesnn.train.evaluate._BATCH", 3)
    parts, _ = metrics_of(network, x)
    assert parts == pytest.approx(whole)


def test_the_section_is_in_the_metrics_file(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    section = metrics["neurobench"]
    assert section["footprint"] == metrics["packed_bytes"] == (finished / "model.safetensors").stat().st_size
    assert section["connection_sparsity"] == 1 - metrics["kept_weights"] / metrics["weights"]
    assert section["effective_macs"] <= metrics["stem_macs"]
    assert section["effective_acs"] <= metrics["synops"]
    assert section["effective_acs"] + section["effective_macs"] <= section["dense"]
    assert section["footprint_float32"] == 4 * section["parameters"]


def test_the_section_is_in_the_report(finished: Path) -> None:
    section = json.loads((finished / "metrics.json").read_text())["neurobench"]
    page = (finished / "report.html").read_text()
    assert 'id="neurobench"' in page
    assert f"<td>{section['footprint']:,} B</td>" in page
    assert f"<td>{section['activation_sparsity']:.4f}</td>" in page


def test_parameters_are_weights_biases_and_the_scales_of_identities() -> None:
    from litesnn.train.neurobench import _parameters

    model = cell_model(np.random.default_rng(0), width=4)
    stem, first, others = 9 * 4, (4 + 4) * 9 * 4, (8 + 4) * 9 * 4
    last = (8 + 8) * 9 * 4
    biases = 7 * 4 + 10
    assert _parameters(model) == stem + 2 * first + 2 * others + 2 * last + 8 * 10 + biases
