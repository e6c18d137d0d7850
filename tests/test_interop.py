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
from litesnn.data.sources import load
from litesnn.deploy.exchange.command import export_nir, export_onnx
from litesnn.deploy.exchange.nir_graph import TIMESTEP
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.packed import IMAGE, InputSpec, PackedModel, Population, Readout, Synapses, read, write
from litesnn.deploy.reference import Reference, Trace, quantize_input
from litesnn.runs import RunFolder

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
    short = ("search.epochs=12", "train.epochs=15")
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
