"""Every row of the table of neurons: spikes, gradients, search, training, deployment and refusals, whatever it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import exactness
import oracle
from litesnn.config import Recipe
from litesnn.deploy.integerize import integerize
from litesnn.errors import InputError
from litesnn.genotype import Edge, Genotype
from litesnn.network_file import build_network, load_network
from litesnn.neurons import DEFAULT, NEURONS, Learned, Neuron, NeuronModel
from litesnn.neurons.model import Fire, Numbers, State
from litesnn.runs import RunFolder
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn.arithmetic import ARITHMETICS
from litesnn.snn.backbone import Backbone
from litesnn.snn.cell import Cell, CellMix, Source
from litesnn.snn.cell import State as CellState
from litesnn.snn.compconv import Compression
from litesnn.snn.execution import Execution
from litesnn.snn.kernels import TorchKernels
from litesnn.snn.memory_estimate import estimate_step
from litesnn.snn.native_kernels import NativeKernels
from litesnn.snn.network import Network
from litesnn.snn.population import Neurons
from litesnn.snn.select_kernels import kernels_for
from litesnn.train import fit as fit_module
from litesnn.train.fit import Trainee, TrainLoop
from litesnn.training_loop import checkpoint
from tiny import genotype, images, input_info, lively_network, liven, quantized_images, values_of
from tiny import recipe as tiny_recipe
from whole_job import Problem, litesnn, recipe

ROWS = list(NEURONS.values())
PACKED = [model for model in ROWS if model.packed is not None]
LEARNING = [model for model in ROWS if model.learned]
GRADED = [model for model in ROWS if model.graded]
LEVELS = 3
"""The largest graded spike that is tried out."""
EXPORTS = ("c", "nir", "onnx")
CPU = torch.device("cpu")

every_row = pytest.mark.parametrize("model", ROWS, ids=lambda model: model.key)
every_graded_row = pytest.mark.parametrize("model", GRADED, ids=lambda model: model.key)
every_packed_row = pytest.mark.parametrize("model", PACKED, ids=lambda model: model.key)
every_learning_row = pytest.mark.parametrize("model", LEARNING, ids=lambda model: model.key)
both_arithmetics = pytest.mark.parametrize("arithmetic", list(ARITHMETICS))


def _adapt(state: State, x: Any, numbers: Numbers, fire: Fire) -> tuple[State, Any]:
    """The threshold rises with every spike, and falls again."""
    u, s, a = state
    a = 0.9 * a + numbers["gain"] * s
    u = numbers["leak"] * u * (1 - s) + x
    s = fire(u - a)
    return (u, s, a), s


ADAPTIVE = NeuronModel(
    key="adaptive",
    meaning="with a threshold that adapts",
    step=_adapt,
    states=3,
    learned=(Learned("gain", "channel", lambda _: -2.0, lambda raw: raw.exp()),),
)
"""A neuron that no kernel and no engine knows."""


@pytest.fixture
def adaptive(monkeypatch: pytest.MonkeyPatch) -> NeuronModel:
    """A row more in the table."""
    monkeypatch.setitem(NEURONS, ADAPTIVE.key, ADAPTIVE)
    return ADAPTIVE


of_all_levels = pytest.mark.parametrize(
    ("model", "levels"),
    [*((model, 1) for model in (*ROWS, ADAPTIVE)), *((model, LEVELS) for model in GRADED)],
    ids=lambda value: value.key if isinstance(value, NeuronModel) else str(value),
)
"""Rows and the largest spikes that their neurons may have."""


def population(model: NeuronModel, channels: int = 4, *, leak: float = 0.2, seed: int = 0, levels: int = 1) -> Neurons:
    """Neurons of some training, in double precision."""
    neurons = Neurons(model, channels, leak, levels)
    shake(neurons, seed)
    return neurons.double()


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Give all neurons other learned numbers than those that they begin with."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, Neurons):
                for parameter in part.parameters():
                    parameter.add_(0.5 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))


def currents(*shape: int, seed: int = 0, levels: int = 1) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6 + 0.35
    return levels * x


def scaled(neurons: Neurons, x: Tensor) -> Tensor:
    scale = neurons.scale()
    return x if scale is None else x * scale


def one_by_one(neurons: Neurons, x: Tensor) -> list[list[list[int]]]:
    """Spikes [T, P, C] of currents of this shape: one neuron after the other, in Python's numbers."""
    model, found = neurons.model, torch.empty(x.shape, dtype=torch.int64)

    def fire(u: float) -> float:
        return float(sum(u > 0.5 + level for level in range(neurons.levels)))

    values = {learned.name: learned.value(getattr(neurons, learned.name).detach()) for learned in model.learned}
    for p in range(x.shape[1]):
        for c in range(x.shape[2]):
            own = {name: float(value[c] if value.dim() else value) for name, value in values.items()}
            state: tuple[float, ...] = (0.0,) * model.states
            for t in range(x.shape[0]):
                state, s = model.step(state, float(x[t, p, c]), neurons.constants | own, fire)
                found[t, p, c] = int(s)
    return found.tolist()


def test_the_table_has_rows_under_their_own_keys() -> None:
    assert len(ROWS) >= 5
    assert all(key == model.key for key, model in NEURONS.items())
    assert next(iter(NEURONS)) == DEFAULT == Recipe().model.neuron
    assert len({model.meaning for model in ROWS}) == len(ROWS)
    assert len(PACKED) >= 5
    assert len(LEARNING) >= 2
    assert len(GRADED) >= 4
    for model in ROWS:
        assert set(model.arithmetics) <= set(ARITHMETICS)
        assert set(model.kernels) <= {"c", "triton"}
        assert set(model.deployments) <= {"reference", "engine", *EXPORTS}
        assert (model.packed is not None) == ("reference" in model.deployments)


@of_all_levels
def test_spikes_are_those_of_the_step_neuron_by_neuron(model: NeuronModel, levels: int) -> None:
    neurons, x = population(model, levels=levels), currents(7, 9, 4, levels=levels)
    ours = neurons(scaled(neurons, x))
    assert ours.tolist() == one_by_one(neurons, x)
    assert 0.05 < float(ours.detach().mean()) < 0.95 * levels
    assert values_of(ours) == set(range(levels + 1))


@of_all_levels
def test_gradients_are_those_of_autograd_through_the_step(model: NeuronModel, levels: int) -> None:
    neurons, x = population(model, levels=levels), currents(6, 11, 4, levels=levels).requires_grad_()
    factors = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ours = neurons(scaled(neurons, x))
    images = x.transpose(1, 2)[..., None, None]  # [T, C, P, 1, 1], of which the oracle takes C as channels
    theirs = torch.stack(oracle.stepped(neurons, list(images.transpose(1, 2)))).squeeze((-1, -2))
    assert torch.equal(ours, theirs)
    wanted = [x, *neurons.parameters()]
    gradients = [torch.autograd.grad((spikes * factors).sum(), wanted) for spikes in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        assert mine.abs().sum() > 0
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@of_all_levels
@pytest.mark.parametrize("recompute", [False, True])
def test_a_cell_of_them_is_the_oracles(model: NeuronModel, levels: int, recompute: bool, adaptive: NeuronModel) -> None:
    edges = [
        Edge(node=n, source=s, op=op)
        for n, s, op in ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 2, "conv1x1"), (1, 1, "skip"))
    ]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        source = Source(3, 0)
        cell = Cell(
            *(source, source),
            level=0,
            width=3,
            edges=edges,
            arithmetic=ARITHMETICS["float"],
            neuron=model.key,
            levels=levels,
        ).double()
    liven(cell, 1, levels)
    shake(cell, 1)
    rng = torch.Generator().manual_seed(4)
    inputs = [
        (torch.rand(4, 2, 3, 6, 5, generator=rng) * levels + 0.4).floor().double().requires_grad_() for _ in range(2)
    ]
    mix = CellMix(Compression.fixed(2, 0.5, CPU), channel_weights=torch.rand(3, generator=rng, dtype=torch.float64))
    ours = cell(*(CellState.of(x, counted=False) for x in inputs), mix, execution=Execution(recompute=recompute)).spikes
    mixture = oracle.Mixture({(2, 0.5): 1.0}, channels=mix.channel_weights)
    theirs = torch.stack(oracle.cell(cell, list(inputs[0]), list(inputs[1]), mixture))
    assert torch.equal(ours, theirs)
    assert 0.05 < float(ours.detach().mean()) < 0.95 * levels
    assert values_of(ours) == set(range(levels + 1))
    factors = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    wanted = dict(cell.named_parameters()) | dict(zip("ab", inputs, strict=True))
    gradients = [torch.autograd.grad((out * factors).sum(), list(wanted.values())) for out in (ours, theirs)]
    for name, mine, other in zip(wanted, *gradients, strict=True):
        assert mine.abs().sum() > 0, name
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


@of_all_levels
def test_a_whole_network_of_them_is_the_oracles(model: NeuronModel, levels: int, adaptive: NeuronModel) -> None:
    gene = genotype(neuron=model.key, spike_levels=levels)
    network = build_network(gene, input_info((2, 6, 5)), 0).double().train()
    shake(network)
    x = quantized_images((2, 6, 5), 4).double()
    ours = network.backbone.run(x, 3, network.mixes(), integer=False).logits
    mixtures = [oracle.Mixture({(gene.bits, gene.keep): 1.0}) for gene in network.genotype.cells]
    theirs = oracle.backbone(network.backbone, x, 3, mixtures)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    learned = [own for part in network.modules() if isinstance(part, Neurons) for own in part.parameters()]
    assert len(learned) == 5 * len(model.learned)
    if learned:
        for mine, other in zip(*(torch.autograd.grad(y.square().sum(), learned) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


@of_all_levels
def test_fast_kernels_are_those_that_the_row_names(model: NeuronModel, levels: int) -> None:
    dynamics = Neurons(model, 3, 0.2, levels).dynamics()
    assert dynamics.levels == levels
    fast = isinstance(dynamics, Neuron) and isinstance(kernels_for(torch.zeros(1), dynamics), NativeKernels)
    assert fast == ("c" in model.kernels)
    if not isinstance(dynamics, Neuron):
        return
    x = currents(6, 40, levels=levels)
    assert torch.equal(kernels_for(x, dynamics).lif(x, dynamics)[1], TorchKernels().lif(x, dynamics)[1])


def deployed_oracle(neurons: Neurons, x: NDArray[Any], fraction: int | None) -> NDArray[Any]:
    """Spikes of currents [T, …], as :mod:`litesnn.deploy.reference` has them."""
    neuron = neurons.deployed()
    assert isinstance(neuron, Neuron)
    u = s = np.zeros_like(x[0])
    spikes = []
    for current in x:
        if fraction is None:
            left = np.float32(neuron.leak) * u
            left = left * (s == 0) if neuron.reset is None else left - np.float32(neuron.reset) * s
            u = left + current
            s = sum((u > np.float32(0.5 + level)).astype(np.float32) for level in range(neuron.levels))
        else:
            left = u >> 2
            left = left * (s == 0) if neuron.reset is None else left - int(neuron.reset * 2**fraction) * s
            u = left + current
            s = sum((u > 2 ** (fraction - 1) + level * 2**fraction).astype(x.dtype) for level in range(neuron.levels))
        spikes.append(s)
    return np.stack(spikes)


@pytest.mark.parametrize(
    ("model", "levels"),
    [*((model, 1) for model in PACKED), *((model, LEVELS) for model in PACKED if model.graded)],
    ids=lambda value: value.key if isinstance(value, NeuronModel) else str(value),
)
@both_arithmetics
def test_deployed_neurons_are_the_oracles_bit_for_bit(model: NeuronModel, levels: int, arithmetic: str) -> None:
    if arithmetic not in model.arithmetics:
        with pytest.raises(
            InputError, match=rf"neuron '{model.key}' has no arithmetic '{arithmetic}'; expected one of"
        ):
            Recipe.from_toml(f"[model]\nneuron = '{model.key}'\narithmetic = '{arithmetic}'")
        with pytest.raises(ValueError, match="has no arithmetic"):
            genotype(neuron=model.key, arithmetic=arithmetic)  # type: ignore[arg-type]
        return
    rules = ARITHMETICS[arithmetic]  # type: ignore[index]
    neurons = Neurons(model, 4, rules.leak, levels)
    shake(neurons)
    x = currents(6, 5, 4, 7, 3, levels=levels).float()
    if rules.fraction is not None:
        x = (x * 2**rules.fraction).round().to(torch.int32)
    ours = neurons.fire(x, rules)
    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), deployed_oracle(neurons, x.numpy(), rules.fraction))
    assert 0.05 < float(ours.mean()) < 0.95 * levels
    assert values_of(ours) == set(range(levels + 1))


@of_all_levels
def test_what_is_deployed_is_what_was_trained_but_for_rounding(model: NeuronModel, levels: int) -> None:
    """Folded scales and rounded numbers change few spikes."""
    neurons = population(model, levels=levels)
    x = currents(6, 5, 4, 7, 3, levels=levels)
    scale = neurons.deployed_scale()
    given = x if scale is None else x * scale[:, None, None]
    deployed = neurons.float().fire(given.float(), ARITHMETICS["float"])
    rows = x.movedim(2, -1)
    trained = neurons.double()(scaled(neurons, rows.flatten(1, 3))).view(rows.shape).movedim(-1, 2)
    assert float((deployed != trained).double().mean()) < 2e-3


@every_packed_row
@both_arithmetics
def test_derived_networks_are_the_same_in_torch_reference_and_engine(model: NeuronModel, arithmetic: str) -> None:
    if arithmetic not in model.arithmetics:
        return
    gene = genotype(neuron=model.key, arithmetic=arithmetic, timesteps=5, bits=4, keep=0.8)  # type: ignore[arg-type]
    network = lively_network(gene, input_info((2, 13, 11)))
    shake(network)
    rows = exactness.compare(network, integerize(network), images((2, 13, 11), 4))
    for row in rows:
        assert row.exact, row
    assert ("engine" in model.deployments) == (len(rows) > 1)


@every_row
def test_genotypes_say_it_unless_it_is_the_usual_one(model: NeuronModel) -> None:
    gene = genotype(neuron=model.key)
    assert Genotype.from_json(gene.to_json()) == gene
    assert json.loads(gene.to_json()).get("neuron", DEFAULT) == model.key
    assert ("neuron" in json.loads(gene.to_json())) == (model.key != DEFAULT)


@every_graded_row
def test_genotypes_say_how_large_spikes_are_unless_they_are_binary(model: NeuronModel) -> None:
    gene = genotype(neuron=model.key, spike_levels=LEVELS)
    assert Genotype.from_json(gene.to_json()) == gene
    assert json.loads(gene.to_json())["spike_levels"] == LEVELS
    assert "spike_levels" not in json.loads(genotype(neuron=model.key).to_json())
    assert gene.kinds.endswith("spikes 0…3")
    assert Recipe.from_toml(f"[model]\nneuron = '{model.key}'\nspike_levels = 7").model.spike_levels == 7


@every_row
def test_neurons_without_graded_spikes_refuse_them_by_name(model: NeuronModel) -> None:
    if model.graded:
        return
    with pytest.raises(InputError, match=rf"'{model.key}' has no graded spikes; expected spike_levels 1, or") as caught:
        Recipe.from_toml(f"[model]\nneuron = '{model.key}'\nspike_levels = 2")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has no graded spikes"):
        genotype(neuron=model.key, spike_levels=2)


@pytest.mark.parametrize("levels", [0, 8, -1])
def test_other_levels_are_refused(levels: int) -> None:
    with pytest.raises(InputError, match=r"model\.spike_levels: .*(greater|less) than or equal to") as caught:
        Recipe.from_toml(f"[model]\nspike_levels = {levels}")
    assert "\n" not in str(caught.value)


def test_the_usual_neuron_has_no_parameters() -> None:
    names = list(build_network(genotype(), input_info(), 0).state_dict())
    assert not any("neurons" in name or "populations" in name for name in names)


@pytest.mark.parametrize("text", ["neuron = 'izhikevich'", "neuron = ''"])
def test_an_unknown_neuron_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"model\.neuron: .*unknown neuron .*; expected one of lif, ") as caught:
        Recipe.from_toml(f"[model]\n{text}")
    assert "\n" not in str(caught.value)


def learned_numbers(module: torch.nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{own}": parameter.detach().clone()
        for name, part in module.named_modules()
        if isinstance(part, Neurons)
        for own, parameter in part.named_parameters()
    }


@of_all_levels
def test_search_and_training_move_what_is_learned_and_do_not_decay_it(
    model: NeuronModel, levels: int, adaptive: NeuronModel
) -> None:
    base = tiny_recipe(width=4)
    changed = base.model.model_dump() | {"neuron": model.key, "spike_levels": levels}
    made = Recipe.model_validate(base.model_dump() | {"model": changed})
    shape = (2, 8, 8)
    x, y = quantized_images(shape, 12), torch.arange(12) % 3
    supernet = build_supernet(made, shape, 3).train()
    search = SearchLoop(made, supernet)
    gene = genotype(neuron=model.key, keep=0.9, bits=4, spike_levels=levels)
    network = build_network(gene, input_info(shape), 0).train()
    training = TrainLoop(Trainee(network, made), made)
    for module, loop in ((supernet, search), (network, training)):
        before = learned_numbers(module)
        assert bool(before) == bool(model.learned)
        for _ in range(3):
            if isinstance(loop, SearchLoop):
                loop.weight_step(x, y, torch.Generator().manual_seed(0), epoch=9)
                loop.architecture_step(x, y, torch.Generator().manual_seed(0), epoch=9)
            else:
                loop.step(x, y, 0.3)
        after = learned_numbers(module)
        assert all(torch.isfinite(value).all() for value in after.values())
        moved = [not torch.equal(before[name], after[name]) for name in before]
        assert sum(moved) >= 0.8 * len(moved)
        groups = loop.optimizers["weights"].param_groups
        assert [group["weight_decay"] > 0 for group in groups] == ([True, False] if model.learned else [True])


@every_row
def test_memory_is_estimated_with_what_slow_kernels_take(model: NeuronModel) -> None:
    def bytes_per_image(key: str) -> int:
        backbone = Backbone(genotype(neuron=key), (2, 8, 8), 3)
        return estimate_step(backbone, 3, Execution()).per_image

    if "c" in model.kernels:
        assert bytes_per_image(model.key) == bytes_per_image(DEFAULT)
    else:
        assert bytes_per_image(model.key) > bytes_per_image(DEFAULT)


@pytest.fixture(scope="module", params=[model.key for model in PACKED])
def design(request: pytest.FixtureRequest, problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole job with such neurons."""
    run = tmp_path_factory.mktemp("neurons") / request.param
    outcome = litesnn("design", *problem.options(run), "--set", f"model.neuron={request.param}")
    assert outcome.code == 0, outcome.err
    return RunFolder(run)


@pytest.mark.job
def test_the_whole_job_ends_with_a_network_that_is_exact(design: RunFolder) -> None:
    model = NEURONS[design.recipe().model.neuron]
    network = load_network(design.need("train"))
    assert isinstance(network, Network)
    assert network.genotype.neuron == model.key
    metrics = json.loads(design.output("evaluate").read_text())
    assert metrics["test_accuracy"] > 0.4
    assert all(row["kept"] for row in metrics["budgets"])
    started = learned_numbers(build_network(network.genotype, network.info, 0))
    learned = learned_numbers(network)
    assert all(not torch.equal(started[name], learned[name]) for name in learned)
    for row in exactness.compare_run(design):
        assert row.exact, row


@pytest.mark.parametrize("target", EXPORTS)
def test_exports_carry_it_or_refuse_it_in_one_line(design: RunFolder, target: str, tmp_path: Path) -> None:
    model = NEURONS[design.recipe().model.neuron]
    out = tmp_path / "export"
    outcome = litesnn("export", target, design.path, "-o", out)
    if target in model.deployments:
        assert outcome.code == 0, outcome.err
        assert out.exists()
    else:
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert not out.exists()


def test_what_cannot_be_packed_is_searched_and_trained_but_not_designed(
    adaptive: NeuronModel, problem: Problem, tmp_path: Path
) -> None:
    run, changed = tmp_path / "run", ("--set", f"model.neuron={adaptive.key}")
    refused = litesnn("design", *problem.options(run), *changed)
    assert refused.code == 2
    assert f"networks of '{adaptive.key}' neurons cannot be packed; expected one of lif" in refused.err
    assert refused.err.count("\n") == 1
    assert not (run / "search.jsonl").exists()
    searched = litesnn("search", *problem.options(tmp_path / "other"), *changed, "--set", "search.epochs=2")
    assert searched.code == 0, searched.err
    for stage in ("derive", "train"):
        outcome = litesnn(stage, tmp_path / "other")
        assert outcome.code == 0, outcome.err
    outcome = litesnn("evaluate", tmp_path / "other")
    assert outcome.code == 2
    assert "cannot be packed" in outcome.err
    assert recipe(problem.data, {"model.neuron": adaptive.key}).model.neuron == adaptive.key


def test_graded_spikes_are_searched_and_trained_to_the_same_bytes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From search to training, once in one go and once interrupted in it."""
    settings = ("model.spike_levels=3", "search.epochs=2", "train.epochs=3")
    changed = [each for setting in settings for each in ("--set", setting)]
    one, two = tmp_path / "one", tmp_path / "two"
    for command in (("search", *problem.options(one), *changed), ("derive", one), ("train", one)):
        outcome = litesnn(*command)
        assert outcome.code == 0, outcome.err
    network = load_network(one / "network.safetensors")
    assert isinstance(network, Network)
    assert network.genotype.spike_levels == 3
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        network(quantized_images(network.info.shape, 8), record=record)
    assert values_of(record["stem"]) == {0, 1, 2, 3}
    shutil.copytree(one, two)
    for name in ("network.safetensors", "train.jsonl"):
        (two / name).unlink()
    run = RunFolder(two)
    save = checkpoint.save_state

    def interrupt(path: Path, *rest: Any) -> None:
        save(path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "save_state", interrupt)
        assert litesnn("train", two).code != 0
    assert run.checkpoint("train").exists()
    assert litesnn("train", two).code == 0
    assert (one / "network.safetensors").read_bytes() == (two / "network.safetensors").read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@of_all_levels
def test_steps_are_recorded_on_a_gpu_and_are_those_of_the_cpu(
    model: NeuronModel, levels: int, adaptive: NeuronModel
) -> None:
    made = tiny_recipe(width=4)
    gene = genotype(neuron=model.key, keep=0.9, bits=4, spike_levels=levels)
    x, y = quantized_images((2, 8, 8), 12), torch.arange(12) % 3
    found = []
    for device in ("cpu", "cuda"):
        network = build_network(gene, input_info((2, 8, 8)), 0).train()
        loop = TrainLoop(Trainee(network, made).to(device), made)
        for _ in range(6):
            loop.step(x.to(device), y.to(device), 0.3)
        found.append({name: value.cpu() for name, value in learned_numbers(network).items()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=0.05) for name in found[0])
