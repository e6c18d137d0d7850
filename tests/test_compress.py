"""``litesnn compress``: the whole job on a module in a file, its errors, and its resumption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import litesnn as package
from event_data import dataset, write_tree
from given import MODULE
from litesnn.commands import native_evaluation
from litesnn.compression import stages
from litesnn.compression.search import Candidates
from litesnn.compression.source import allow_module, build_module, describe_module
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.data.sources import load
from litesnn.deploy.engine import Engine
from litesnn.deploy.packed import neuron_of, read
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError, LitesnnError
from litesnn.genotype import Compressed
from litesnn.runs import RunFolder
from litesnn.search import joint
from litesnn.search.joint import SearchSpace
from litesnn.strategies import Strategy
from litesnn.train import fit
from litesnn.training_loop import checkpoint
from litesnn.training_loop.context import StageContext
from test_cli import refused
from whole_job import ALL_FILES, STAGE_RESULTS, Outcome, contents, litesnn, rows, stamps, write_data

RECIPE = """
version = 1
name = "tiny"

[budget]
packed_bytes = 900
bit_synops = 3e4
timesteps = 2

[search]
epochs = 3
warmup_epochs = 1
architecture_warmup_epochs = 1
batch_size = 24
timesteps = 3
bits = [1, 2, 4]
keeps = [0.5, 1.0]
sampling = true
lr = 0.2
beta_lr = 0.1
psi_lr = 0.2

[train]
epochs = 8
batch_size = 24
lr = 0.2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, data and a recipe."""
    folder = tmp_path_factory.mktemp("compress")
    (folder / "net.py").write_text(MODULE)
    (folder / "tiny.toml").write_text(RECIPE)
    write_data(folder / "blobs.npz")
    return folder


def compress(place: Path, run: Path, *more: str, name: str = "Net") -> Outcome:
    options = ["--data", str(place / "blobs.npz"), "--recipe", str(place / "tiny.toml"), "--device", "cpu", "--quiet"]
    return litesnn("compress", "--model", f"{place / 'net.py'}:{name}", "--run", run, *options, *more)


def named(place: Path, name: str = "Net") -> tuple[str, str]:
    """What lets the module of a run be run."""
    return "--model", f"{place / 'net.py'}:{name}"


@pytest.fixture(scope="module")
def first(place: Path) -> tuple[Path, Outcome]:
    """A finished run, and what the command said; to be read or copied."""
    run = place / "first"
    outcome = compress(place, run)
    assert outcome.code == 0, outcome.err
    return run, outcome


@pytest.fixture
def copy(first: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    shutil.copytree(first[0], tmp_path / "run")
    return tmp_path / "run"


# --- the whole job ---


def test_it_leaves_the_files_of_a_design(first: tuple[Path, Outcome]) -> None:
    run, outcome = first
    assert outcome.complaints == ""
    assert {path.name for path in run.iterdir()} == ALL_FILES
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.8
    assert metrics["packed_bytes"] == (run / "model.safetensors").stat().st_size <= 900
    assert metrics["budgets_kept"] is True
    assert metrics["bit_synops"] == pytest.approx(sum(row["bit_synops"] or 0 for row in metrics["layers"]))
    assert [row["name"] for row in metrics["layers"]] == ["conv1", "conv2", "head"]
    assert [row["name"] for row in metrics["neurons"]] == ["lif1", "lif2"]
    assert metrics["packing"]["possible"] is True
    assert metrics["packing"]["proof"]["different_spikes"] == 0
    same = metrics["packing"]["module"]
    assert (same["images"], same["of"], same["predictions_equal"]) == (30, 30, 30)
    assert same["largest_logit_difference"] < 1e-4
    assert "30 of 30 predictions are the module&#39;s own" in (run / "report.html").read_text()


@pytest.mark.job
def test_a_file_that_differs_from_the_module_is_not_packed(
    copy: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: object) -> None:
        raise LitesnnError("packed file and module differ in the currents of neuron lif1")

    for name in ("model.safetensors", "report.html"):
        (copy / name).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(stages, "compare_with_module", differ)
        for _ in range(2):  # going on with the run does not hide it
            line = refused(litesnn("compress", "--run", copy, *named(place), "--quiet"), code=1)
            assert line.endswith(
                "class Net is not packed: packed file and module differ in the currents of neuron lif1"
            )
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["packing"]["possible"] is False
    assert "proof" not in metrics["packing"]
    assert {row["name"]: row["kept"] for row in metrics["budgets"]}["packed_bytes"] is None
    assert metrics["budgets_kept"] is None
    assert not (copy / "model.safetensors").exists()
    assert litesnn("compress", "--run", copy, *named(place), "--quiet").code == 0
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["packing"]["possible"] is True
    assert metrics["budgets_kept"] is True


def test_what_cannot_be_packed_is_said_before_the_search(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "search_with", lambda *_: (_ for _ in ()).throw(InputError("seen")))
    text = MODULE + (
        "\nclass Late(Net):\n    def reset(self):\n        self.t = 0\n    def forward(self, x):\n        self.t += 1\n"
        "        x.data = x if self.t < 2 else 0.5 * x\n        return super().forward(x)\n"
    )
    (tmp_path / "net.py").write_text(text)
    outcome = litesnn(
        *("compress", "--model", f"{tmp_path / 'net.py'}:Late", "--run", tmp_path / "run"),
        *("--data", str(place / "blobs.npz"), "--recipe", str(place / "tiny.toml"), "--device", "cpu", "--quiet"),
    )
    assert (
        "there will be no packed file: tried with random weights, packed file and module differ in the currents of"
        in (outcome.err)
    )


def test_the_choice_is_that_of_the_metrics(first: tuple[Path, Outcome]) -> None:
    choice = Compressed.read(first[0] / "genotype.json")
    metrics = json.loads((first[0] / "metrics.json").read_text())
    assert [(gene.name, gene.bits, gene.keep) for gene in choice.layers] == [
        (row["name"], row["bits"], row["keep"]) for row in metrics["layers"]
    ]
    assert choice.layers[-1].bits == 4
    assert choice.timesteps == metrics["timesteps"] <= 2


@pytest.mark.job
@pytest.mark.parametrize("key", [key for key, cost in COSTS.items() if cost.expected is not None])
def test_every_cost_can_be_limited(first: tuple[Path, Outcome], place: Path, tmp_path: Path, key: str) -> None:
    limit = 1.1 * COSTS[key].measured(json.loads((first[0] / "metrics.json").read_text()))
    limit = int(limit) if COSTS[key].whole else limit
    outcome = compress(place, tmp_path / "run", "--set", f"budget={{{key} = {limit}}}")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (row,) = [row for row in metrics["budgets"] if row["limit"] is not None]
    assert (row["name"], row["value"], row["kept"]) == (key, COSTS[key].measured(metrics), True)
    assert list(rows(tmp_path / "run" / "search.jsonl")[-1]["multipliers"]) == [key]


def test_the_engine_predicts_what_the_module_does(first: tuple[Path, Outcome]) -> None:
    run = first[0]
    test = load(RunFolder(run).recipe().data).test()
    metrics = json.loads((run / "metrics.json").read_text())
    allow_module(f"{first[0].parent / 'net.py'}:Net")
    network = package.Design(run, metrics).load()
    classes = network.predict(test.x)
    np.testing.assert_array_equal(package.Engine(run / "model.safetensors").predict(test.x), classes.numpy())
    assert float((classes == test.y).float().mean()) == pytest.approx(metrics["test_accuracy"])


def test_the_engine_is_measured_like_that_of_a_design(copy: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_evaluation, "ROUNDS", 1)
    monkeypatch.setattr(native_evaluation, "SAMPLE_SECONDS", 0.001)
    assert litesnn("evaluate", copy, *named(place), "--engine", "native").code == 0
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["engine"]["same_predictions"] == metrics["engine"]["test"] == 30


def test_the_report_tells_of_layers_and_not_of_cells(first: tuple[Path, Outcome]) -> None:
    page = (first[0] / "report.html").read_text()
    for words in ("net.py:Net", "Layer by layer", "conv2", "lif2"):
        assert words in page
    assert "The found cell" not in page


def test_a_finished_run_is_left_as_it_is(copy: Path, place: Path) -> None:
    before = stamps(copy)
    assert compress(place, copy).code == 0
    assert litesnn("compress", "--run", copy, *named(place), "--quiet").code == 0
    after = stamps(copy)
    assert {name for name in before if before[name] != after[name]} <= {".lock"}


@pytest.mark.job
@pytest.mark.parametrize("stage", ["search", "train"])
def test_a_stage_that_was_cut_short_goes_on(
    stage: str, first: tuple[Path, Outcome], place: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a stage, at its second checkpoint, and begun again."""
    for name in STAGE_RESULTS[STAGE_RESULTS.index(f"{'search' if stage == 'search' else 'network'}.safetensors") :]:
        (copy / name).unlink()
    (copy / f"{stage}.jsonl").unlink()
    saved: list[Path] = []

    def save_and_die(path: Path, *rest: object) -> None:
        checkpoint.save_state(path, *rest)  # type: ignore[arg-type]
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(joint if stage == "search" else fit, "save_state", save_and_die)
        assert compress(place, copy).code == 130
    assert len(saved) == 2
    assert (copy / f"{stage}.checkpoint.safetensors").exists()
    assert compress(place, copy).code == 0
    assert contents(copy) == contents(first[0])


def test_weights_to_start_from_are_started_from(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(place, tmp_path)

    def look(strategy: Strategy, context: StageContext, build: Callable[[], SearchSpace]) -> Path:
        candidates = build().network
        assert isinstance(candidates, Candidates)
        state = candidates.given.net.state_dict()
        for name, value in safetensors.torch.load_file(path).items():
            assert torch.equal(state[name], value), name
        raise InputError("seen")

    monkeypatch.setattr(stages, "search_with", look)
    assert refused(compress(place, tmp_path / "run", "--weights", str(path))) == "seen"
    module = RunFolder(tmp_path / "run").recipe().module
    assert module is not None
    assert module.weights == str(path)


def test_python_does_the_same(place: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same arguments it is the same run, of which one stage is missing here."""
    (copy / "report.html").unlink()
    found = package.compress(
        f"{place / 'net.py'}:Net", data=str(place / "blobs.npz"), recipe=place / "tiny.toml", run=copy, device="cpu"
    )
    assert found.metrics == json.loads((copy / "metrics.json").read_text())
    assert (copy / "report.html").exists()


# --- events ---


def compress_events(name: str, place: Path, folder: Path, run: Path) -> Outcome:
    """Compress a module on recordings of two classes that are made for it."""
    data = write_tree(folder / "recordings", dataset(train=40, test=10))
    (folder / "events.toml").write_text(f"{RECIPE}\n[events]\nframe_ms = 20.0\nheight = 6\nwidth = 5\n")
    options = ["--data", str(data), "--recipe", str(folder / "events.toml"), "--device", "cpu", "--quiet"]
    return litesnn("compress", "--model", f"{place / 'net.py'}:{name}", "--run", run, *options)


@pytest.mark.job
def test_a_module_that_makes_one_timestep_sees_a_frame_in_each(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    outcome = compress_events("Events", place, tmp_path, run)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in run.iterdir()} == ALL_FILES
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.8
    assert metrics["packing"]["proof"]["different_spikes"] == 0
    conv1 = metrics["layers"][0]
    assert (conv1["name"], conv1["weights"]) == ("conv1", 4 * 2 * 9)
    assert metrics["stem_macs"] == metrics["timesteps"] * conv1["kept"] * 6 * 5


def test_a_module_that_makes_all_timesteps_of_an_image_is_refused_for_events(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    line = refused(compress_events("Loop", place, tmp_path, tmp_path / "run"))
    assert "class Loop: its forward makes all timesteps of one input; events need one that makes one timestep" in line


@pytest.mark.job
def test_soft_resets_and_leaks_that_neurons_learn_are_in_the_file(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = compress(place, run, name="Soft")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["packing"]["possible"] is True
    assert metrics["packing"]["proof"]["different_spikes"] == 0
    assert metrics["packing"]["module"]["predictions_equal"] == metrics["packing"]["module"]["images"] == 30
    model = read(run / "model.safetensors")
    first, second = (neuron_of(model, population) for population in model.populations)
    assert first.reset == pytest.approx(first.leak, rel=1e-6)  # the threshold of 1, before the leak
    assert second.reset is None
    assert len({first.leak, second.leak, 0.5}) == 3  # they have learned
    x = load(RunFolder(run).recipe().data).test().x.numpy()
    np.testing.assert_array_equal(Engine(model).run(x).logits, Reference(model).run(x).logits)


# --- what cannot be packed, and what costs too much ---


@pytest.mark.job
def test_a_module_that_cannot_be_packed_is_measured_and_reported(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = compress(place, run, name="Tired")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in run.iterdir()} == ALL_FILES - {"model.safetensors"}
    assert "no model.safetensors, and its size is an estimate: neuron lif2 (Lif)" in outcome.out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["packing"]["possible"] is False
    assert metrics["test_accuracy"] > 0.8
    assert metrics["packed_bytes"] > 0
    assert "an estimate: it cannot be packed" in (run / "report.html").read_text()
    line = refused(litesnn("pack", run, *named(place, "Tired")))
    assert "class Tired cannot be packed: neuron lif2" in line
    assert "cannot be packed" in refused(litesnn("info", run))
    before = stamps(run)
    assert litesnn("compress", "--run", run, *named(place, "Tired"), "--quiet").code == 0
    assert {name for name in before if stamps(run)[name] != before[name]} <= {".lock"}


def test_a_limit_on_what_is_not_all_counted_is_never_said_to_be_kept(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = compress(place, run, "--set", "search.epochs=1", "--set", "train.epochs=1", name="Analog")
    assert outcome.code == 0, outcome.err
    why = "the limit on Bit-SynOps cannot be held against all: layer conv2 reads real numbers"
    assert why in " ".join(outcome.err.split())
    metrics = json.loads((run / "metrics.json").read_text())
    assert {row["name"]: row["kept"] for row in metrics["budgets"]} == {
        "packed_bytes": True,
        "bit_synops": None,
        "timesteps": True,
    }
    assert metrics["budgets_kept"] is None
    assert "more work than Bit-SynOps say: layer conv2 reads real numbers" in metrics["notes"]
    page = (run / "report.html").read_text()
    assert "Not known to be kept, as not all is counted: Bit-SynOps" in page
    assert "budgets are kept" not in page
    assert "not all counted" in outcome.out


def test_a_broken_budget_is_exit_code_3(copy: Path, place: Path) -> None:
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(recipe.replace("bit_synops = 30000.0", "bit_synops = 10.0"))
    (copy / "metrics.json").unlink()
    line = refused(litesnn("compress", "--run", copy, *named(place), "--quiet"), code=3)
    assert line.startswith("budget exceeded: bit_synops")
    assert (copy / "report.html").exists()


def test_an_impossible_budget_is_refused_before_the_search(place: Path, tmp_path: Path) -> None:
    line = refused(compress(place, tmp_path / "run", "--budget", "300 B"))
    assert "the budget of 300 B packed cannot be kept: the smallest choice needs" in line
    assert not (tmp_path / "run" / "search.jsonl").exists()


# --- errors ---


def write_weights(place: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | None = None) -> Path:
    allow_module(f"{place / 'net.py'}:Net")
    tensors = dict(build_module(describe_module(f"{place / 'net.py'}:Net"), seed=5).state_dict())
    if change is not None:
        change(tensors)
    safetensors.torch.save_file(tensors, folder / "start.safetensors")
    return folder / "start.safetensors"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("net.py", "model 'net.py' is not understood; expected FILE.py:Class"),
        ("net:Net", "is not understood"),
        ("none.py:Net", "none.py: no such file or folder"),
        (
            "net.py:Missing",
            "class Missing is not in it; it has Spike, Lif, Net, Tired, Analog, Sized, Flat, Large, Events, ",
        ),
        ("net.py:Other", "class Other is no torch module"),
        ("net.py:Sized", "class Sized needs the arguments size; give them defaults"),
        ("net.py:Flat", "class Flat has no convolution (torch.nn.Conv2d) to compress"),
        ("net.py:Large", "class Large: its forward fails on a batch of 1×8×8: RuntimeError: shape"),
        ("broken.py:Net", "broken.py: cannot be imported: ZeroDivisionError"),
        ("raises.py:Net", "class Net: cannot be made: ValueError: no"),
        ("net.py:Lazy", "class Lazy: head.weight belongs to a lazy layer; give the layer its sizes"),
    ],
)
def test_modules_that_are_none(
    model: str, why: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(place / "net.py", tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "raises.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        raise ValueError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(place / "blobs.npz"), "--recipe", str(place / "tiny.toml"), "--quiet"]
    assert why in refused(litesnn("compress", "--model", model, "--run", tmp_path / "run", *options))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tensors: tensors.pop("conv2.weight"), "has no conv2.weight"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has the unknown extra"),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(4)}),
            "has other shapes: head.bias is [4] and not [3]",
        ),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[dict[str, torch.Tensor]], None], why: str, place: Path, tmp_path: Path
) -> None:
    path = write_weights(place, tmp_path, change)
    line = refused(compress(place, tmp_path / "run", "--weights", str(path)))
    assert line == f"{path} does not fit Net: it {why}"


def test_weights_are_safetensors_alone(place: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "start.pt")
    line = refused(compress(place, tmp_path / "run", "--weights", str(tmp_path / "start.pt")))
    assert "start.pt is damaged or not a safetensors file" in line


@pytest.mark.job
def test_settings_that_mean_nothing(place: Path, tmp_path: Path) -> None:
    widths = compress(place, tmp_path / "run", "--set", "search.widths=[0.5, 1.0]")
    assert refused(widths).startswith("search.widths: a user's module keeps its widths")
    slope = compress(place, tmp_path / "run", "--set", "train.surrogate_sharpness=2.0")
    assert refused(slope).startswith("train.surrogate_sharpness: a user's module keeps its neurons")
    fixed = compress(place, tmp_path / "run", "--set", "model.arithmetic=fixed")
    assert refused(fixed).startswith("model.arithmetic")
    assert "expected --model FILE.py:CLASS" in refused(litesnn("compress", "--run", tmp_path / "none", "--quiet"))
    kept = compress(place, tmp_path / "run", "--set", "search.epochs=1")
    assert kept.code in (0, 3)
    for option in (["--memory", "6 GB"], ["--bf16"]):
        message = refused(litesnn("train", tmp_path / "run", *named(place), *option, "--quiet", "--device", "cpu"))
        assert message == "--memory, --compile and --bf16 do nothing for a user's module; leave them out"
    assert "--weights" in refused(litesnn("compress", "--run", tmp_path / "none", "--weights", "a.safetensors"))


@pytest.mark.parametrize("command", ["evaluate", "pack"])
def test_a_network_for_other_data(copy: Path, place: Path, tmp_path: Path, command: str) -> None:
    """The same shape and as many classes, under other names: their order may be another."""
    with np.load(place / "blobs.npz") as arrays:
        np.savez(tmp_path / "other.npz", **arrays, classes=np.array(["x", "y", "z"]))
    text = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(text.replace(str(place / "blobs.npz"), str(tmp_path / "other.npz")))
    assert "class 0 is called 'x', not '0'" in refused(litesnn(command, copy, *named(place)))
    (copy / "data.json").unlink()  # as in runs from before there was one
    before = stamps(copy)
    assert "was trained on other data than other" in refused(litesnn(command, copy, *named(place)))
    assert stamps(copy) | {".lock": 0} == before | {".lock": 0}


def test_a_module_that_changed_is_not_mixed_with_the_old_one(copy: Path, place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "net.py", tmp_path)
    recipe = RunFolder(copy).recipe()
    assert recipe.module is not None
    moved = recipe.model_copy(update={"module": recipe.module.model_copy(update={"file": str(tmp_path / "net.py")})})
    (copy / "recipe.toml").write_text(moved.to_toml())
    (tmp_path / "net.py").write_text(MODULE + "\n# changed\n")
    (copy / "network.safetensors").unlink()
    line = refused(litesnn("compress", "--run", copy, *named(tmp_path), "--quiet"))
    assert "net.py has changed since the run began" in line
    assert Recipe.from_toml(moved.to_toml()) == moved
