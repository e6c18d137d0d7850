"""A network trained on the digits, exported, in readers that we did not write: the same spikes and predictions.

Run with ``make test-interop``, which installs the readers. Each counts spikes on the whole test set (359 images).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import whole_job
from litesnn.commands.exchange import export_nir, export_onnx
from litesnn.data.batches import Samples
from litesnn.data.sources import load
from litesnn.deploy.exchange.nir_graph import TIMESTEP
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.integerize import integerize
from litesnn.deploy.pack import Packed
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, read, write
from litesnn.deploy.reference import Reference, Trace, quantize_input
from litesnn.runs import RunFolder
from litesnn.train.evaluate import _sizes, measure
from litesnn.train.neurobench import Watch, neurobench_metrics
from tiny import genotype, images, input_info, lively_network, quantized_images

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("default"),  # the packages of others have warnings of their own
]

LOGIT_TOLERANCE = 1e-5  # a reader sums over the timesteps, sources and weights in an order of its own

Steps = list[torch.Tensor]
Heard = tuple[Steps, dict[str, Steps]]
"""What a reader gives: the outputs [B, classes] of every timestep, and the spikes [B, C, H, W] of every population."""
Reader = Callable[[Path, NDArray[np.int8], int], Heard]


class Trained(NamedTuple):
    """A run folder, its packed model, the raw test images, and what the reference makes of them."""

    run: Path
    model: PackedModel
    images: NDArray[np.generic]
    trace: Trace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short design for the digits: not the best network, but a trained one."""
    run = tmp_path_factory.mktemp("interop") / "run"
    short = ("search.epochs=5", "train.epochs=15")
    changes = [option for change in short for option in ("--set", change)]
    budget = ["--budget", "8 kB, 1 M Bit-SynOps, T <= 4"]
    outcome = whole_job.litesnn("design", "--data", "digits", *budget, "--run", str(run), "--quiet", *changes)
    assert outcome.code == 0, outcome.err
    folder = RunFolder(run)
    assert folder.metrics()["test_accuracy"] > 0.85
    model, images = read(folder.need("pack")), load(folder.recipe().data).test().x.numpy()
    return Trained(run, model, images, Reference(model).run(images, record=True))


def compare(trained: Trained, reader: Reader, path: Path) -> int:
    """Spikes that differ, over all populations; asserts equal predictions and close logits if none does."""
    outputs, spikes = reader(path, quantize_input(trained.model.input, trained.images), trained.model.timesteps)
    assert set(spikes) == {f"population_{index}" for index in used_populations(trained.model)}
    assert trained.trace.spikes is not None
    different = 0
    for name, steps in spikes.items():
        ours = trained.trace.spikes[int(name.split("_")[1])]
        different += int((torch.stack(steps).numpy() != ours).sum())
    logits = (torch.stack(outputs).double().mean(dim=0)).numpy()
    gap = float(np.abs(logits - trained.trace.logits[-1]).max())
    same = int((logits.argmax(1) == trained.trace.logits[-1].argmax(1)).sum())
    print(f"\n{path.name}: {different} spikes differ, {same}/{len(logits)} predictions equal, logits within {gap:.2g}")
    if not different:
        assert same == len(logits)
        assert gap < LOGIT_TOLERANCE
    return different


@torch.no_grad()
def spikingjelly(path: Path, image: NDArray[np.int8], timesteps: int) -> Heard:
    from spikingjelly.activation_based.neuron import LIFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    network: Any = import_from_nir(path, dt=TIMESTEP)
    assert any(isinstance(module, LIFNode) for module in network.modules())
    return run(network, image, timesteps)


@torch.no_grad()
def snntorch(path: Path, image: NDArray[np.int8], timesteps: int) -> Heard:
    import nir
    from snntorch import Leaky
    from snntorch.import_nir import import_from_nir

    network: Any = import_from_nir(nir.read(path))  # it knows no timestep but 1e-4, which is ours
    assert any(isinstance(module, Leaky) for module in network.modules())
    return run(network, image, timesteps)


def run(network: Any, image: NDArray[np.int8], timesteps: int) -> Heard:
    """Run a torch module that takes and gives its state, and listen to its neurons."""
    spikes: dict[str, Steps] = {}

    def listen(name: str) -> Callable[[Any, Any, Any], None]:
        def hear(_: Any, __: Any, output: Any) -> None:
            spikes.setdefault(name, []).append(output[0] if isinstance(output, tuple) else output)

        return hear

    for name, module in network.named_children():
        if name.startswith("population_") and "synapses" not in name:
            module.register_forward_hook(listen(name))
    outputs: Steps = []
    state = None
    for _ in range(timesteps):
        output, state = network(torch.from_numpy(image).float(), state)
        outputs.append(output)
    return outputs, spikes


def test_spikingjelly_makes_the_same_spikes(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "at_threshold.nir"
    export_nir(trained.run, path, fires_at_threshold=True)
    assert compare(trained, spikingjelly, path) == 0


def test_snntorch_makes_the_same_spikes(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.nir"
    export_nir(trained.run, path)
    assert compare(trained, snntorch, path) == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("reader", [spikingjelly, snntorch])
def test_every_part_of_a_network(reader: Reader, seed: int, tmp_path: Path) -> None:
    """Identities, strides, all kernels, all bits, pruned weights, several sources: networks that are not trained."""
    rng = np.random.default_rng(seed)
    gene = genotype(
        timesteps=int(rng.integers(1, 5)),
        edges=(
            (0, 0, "conv5x5"),
            (0, 1, "skip"),
            (1, 0, "conv1x1"),
            (1, 2, "skip"),
            (2, 1, "conv3x3"),
            (2, 3, "conv3x3"),
        ),
        levels=(0, 1, 1),
        bits=1 + seed % 4,
        keep=float(rng.choice([0.3, 0.5, 1.0])),
        stride=2 if seed % 2 else 1,
    )
    model = integerize(lively_network(gene, input_info((2, 11, 9)), seed))
    write(model, tmp_path / "model.safetensors")
    x = images((2, 11, 9), batch=20, seed=seed).numpy()
    path = tmp_path / "model.nir"
    export_nir(tmp_path / "model.safetensors", path, fires_at_threshold=reader is spikingjelly)
    assert compare(Trained(tmp_path, model, x, Reference(model).run(x, record=True)), reader, path) == 0


def test_spikingjelly_also_fires_at_the_threshold(tmp_path: Path) -> None:
    """A neuron whose membrane is exactly the threshold, which is why the export has an option for it."""
    stem = Synapses((IMAGE,), 1, 1, 1, np.ones((1, 1, 1, 1), np.int8), np.array([0.5], np.float32))
    nothing = np.zeros(1, np.float32)
    head = Readout((0,), 1, np.ones((1, 1), np.int8), np.ones(1, np.float32), nothing)
    spec = InputSpec((1, 1, 1), "array", (0.0,), (1.0,))
    model = PackedModel(spec, 1, 0.2, 0.5, ("only",), (Population((stem,), nothing, None),), head)
    write(model, tmp_path / "model.safetensors")
    image = np.ones((1, 1, 1, 1), np.int8)
    fired = []
    for name, at in (("as it is", False), ("next float", True)):
        export_nir(tmp_path / "model.safetensors", tmp_path / f"{name}.nir", fires_at_threshold=at)
        _, spikes = spikingjelly(tmp_path / f"{name}.nir", image, 1)
        fired.append([int(step.sum()) for step in spikes["population_0"]])
    trace = Reference(model).run(np.full((1, 1, 1, 1), 1 / 32, np.float32), record=True)
    assert trace.spikes is not None
    assert trace.spikes[0].sum() == 0
    assert fired == [[1], [0]]


def test_onnx_runtime_predicts_the_same(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exported = export_onnx(trained.run, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": trained.images})
    np.testing.assert_array_equal(logits, trained.trace.logits[-1])
    print(f"\n{exported.summary()}")


class Mirror(torch.nn.Module):
    """A packed model as NeuroBench sees networks: torch's convolutions with float weights and snnTorch's neurons."""

    def __init__(self, model: PackedModel) -> None:
        from snntorch import Leaky

        super().__init__()
        self.model = model
        self.convolutions = torch.nn.ModuleDict()
        self.scales, self.biases = torch.nn.ParameterDict(), torch.nn.ParameterList()
        self.neurons = torch.nn.ModuleList()
        for index, population in enumerate(model.populations):
            for number, synapses in enumerate(population.synapses):
                scale = torch.from_numpy(synapses.scale.astype(np.float32))[:, None, None]
                if synapses.kernel == 0:
                    self.scales[f"{index}_{number}"] = torch.nn.Parameter(scale)
                else:
                    weight = torch.from_numpy(synapses.codes) * scale[:, None]
                    self.convolutions[f"{index}_{number}"] = _convolution(weight, synapses.stride)
            self.biases.append(torch.nn.Parameter(torch.from_numpy(population.bias.astype(np.float32))[:, None, None]))
            self.neurons.append(Leaky(0.2, threshold=0.5, init_hidden=True, reset_mechanism="zero", reset_delay=False))
        readout = model.readout
        weight = torch.from_numpy(readout.codes * readout.scale[:, None].astype(np.float32))
        self.classifier = _convolution(weight[:, :, None, None], 1)
        self.biases.append(torch.nn.Parameter(torch.from_numpy(readout.bias.astype(np.float32))))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] → the outputs of the timesteps [T, B, classes]; the image is convolved once."""
        static = self.convolutions["0_0"](image) + self.biases[0]
        neurons: list[Any] = list(self.neurons)
        for neuron in neurons:
            neuron.reset_mem()
        outputs = []
        for _ in range(self.model.timesteps):
            spikes: list[torch.Tensor] = []
            for index, population in enumerate(self.model.populations):
                current = static if index == 0 else self.biases[index]
                for number, synapses in enumerate(population.synapses if index else ()):
                    x, key = torch.cat([spikes[source] for source in synapses.sources], dim=1), f"{index}_{number}"
                    current = current + (self.scales[key] * x if synapses.kernel == 0 else self.convolutions[key](x))
                spikes.append(neurons[index](current))
            x = torch.cat([spikes[source] for source in self.model.readout.sources], dim=1)
            outputs.append(self.classifier(x).sum(dim=(2, 3)) + self.biases[-1])
        return torch.stack(outputs)


def _convolution(weight: torch.Tensor, stride: int) -> torch.nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    convolution = torch.nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    convolution.weight = torch.nn.Parameter(weight)
    return convolution


@torch.no_grad()
def neurobench(model: PackedModel, image: NDArray[np.int8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What the real NeuroBench measures of a network on int8 inputs [B, C, H, W]."""
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity, ParameterCount
    from neurobench.metrics.workload import (
        ActivationSparsity,
        ClassificationAccuracy,
        MembraneUpdates,
        SynapticOperations,
    )
    from neurobench.models import SNNTorchModel

    data = torch.utils.data.TensorDataset(torch.from_numpy(image).float(), torch.from_numpy(labels))
    found: dict[str, Any] = Benchmark(
        SNNTorchModel(Mirror(model), custom_forward=True),
        torch.utils.data.DataLoader(data, batch_size=50),
        [],
        [lambda outputs: outputs.mean(dim=1).argmax(dim=-1)],  # [B, T, classes]
        [
            [ConnectionSparsity, ParameterCount],
            [ActivationSparsity, ClassificationAccuracy, MembraneUpdates, SynapticOperations],
        ],
    ).run(quiet=True)
    return found


def test_neurobench_measures_what_the_metrics_say(trained: Trained) -> None:
    metrics = RunFolder(trained.run).metrics()
    labels = load(RunFolder(trained.run).recipe().data).test().y.numpy()
    found = neurobench(trained.model, quantize_input(trained.model.input, trained.images), labels)
    assert found["ClassificationAccuracy"] == pytest.approx(metrics["test_accuracy"])
    compare_figures(found, metrics["neurobench"])


def test_neurobench_measures_a_pruned_network() -> None:
    network = lively_network(genotype(keep=0.3), input_info((2, 9, 7)))
    x = quantized_images((2, 9, 7), batch=60).to(torch.int8)
    x[:, :, ::2] = 0
    labels = torch.zeros(60, dtype=torch.int64)
    with Watch(network) as watch:
        measured = measure(network, Samples(x, labels))
    model = integerize(network, measured.rates)
    rows = _sizes(network, measured, Packed.of(model))
    ours = neurobench_metrics(model, watch, **{key: rows[key] for key in ("layers", "neurons", "packed_bytes")})
    compare_figures(neurobench(model, x.numpy(), labels.numpy()), ours)


def compare_figures(found: dict[str, Any], ours: dict[str, Any]) -> None:
    print(f"\nNeuroBench: {found}\nlitesnn: {ours}")
    assert found["ParameterCount"] == ours["parameters"]
    assert found["ConnectionSparsity"] == round(ours["connection_sparsity"], 4)
    assert found["ActivationSparsity"] == pytest.approx(ours["activation_sparsity"], abs=1e-6)
    operations = found["SynapticOperations"]
    assert operations["Effective_MACs"] == pytest.approx(ours["effective_macs"])
    assert operations["Effective_ACs"] == pytest.approx(ours["effective_acs"], rel=1e-5)
    assert operations["Dense"] == ours["dense"]
    assert found["MembraneUpdates"] == pytest.approx(ours["membrane_updates"])
