"""A packed file on any data set: the figures of the run that made it, on the same rows, and refusals in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import event_data
import litesnn
import tiny
from event_data import write_tree
from image_data import image_folder
from litesnn import packed_evaluation
from litesnn.config import Recipe
from litesnn.data.sources import DataSettings, FrontEnds, load, open_test
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import PackedModel, read, write
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, FrontEnd, LogMel
from litesnn.input_spec import InputSpec
from litesnn.packed_evaluation import Evaluation, evaluate
from litesnn.snn.network import InputInfo
from sounds import commands_folder, ramp, sound
from whole_job import Problem, inputs, stamps
from whole_job import litesnn as command


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_evaluation, "ROUNDS", 1)
    monkeypatch.setattr(packed_evaluation, "SAMPLE_SECONDS", 0.001)


def model_for(
    shape: tuple[int, int, int],
    kind: Any,
    classes: Sequence[str],
    front_end: FrontEnd | None = None,
    *,
    timesteps: int = 2,
) -> PackedModel:
    """An untrained network of some input and classes, packed."""
    std = (60.0,) * shape[0] if kind == "image" else (1.5,) * shape[0]
    spec = InputSpec(shape, kind, (0.0,) * shape[0], std, front_end)
    info = InputInfo(spec, tuple(classes))
    return integerize(tiny.lively_network(tiny.genotype(timesteps=timesteps), info))


def without_times(found: Evaluation) -> dict[str, Any]:
    values = found.to_dict()
    for key in ("engine", "kernel", "threads", "additions", "speed", "model", "data"):
        del values[key]
    return values


def test_the_figures_are_those_of_the_run(problem: Problem, finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    before = stamps(finished)
    found = litesnn.evaluate(finished / "model.safetensors", str(problem.data), threads=2)
    assert stamps(finished) == before
    assert isinstance(found, litesnn.Evaluation)
    for ours, theirs in {
        "accuracy": "test_accuracy",
        "standard_error": "test_standard_error",
        "analog_macs": "stem_macs",
        **{
            key: key
            for key in ("accuracy_at", "balanced_accuracy", "confusion", "classes", "timesteps", "packed_bytes")
        },
    }.items():
        assert getattr(found, ours) == metrics[theirs], ours
    for key in ("synops", "bit_synops"):
        assert getattr(found, key) == pytest.approx(metrics[key], rel=1e-6)
        rows = [row[key] or 0 for row in metrics["layers"]]
        assert [row[key] for row in found.layers] == pytest.approx(rows, rel=1e-6)
    assert found.energy_nj == pytest.approx(metrics["energy"]["total_nj"], rel=1e-6)
    assert [row["rate"] for row in found.populations] == pytest.approx(
        [row["firing_rate"] for row in metrics["neurons"]], rel=1e-6
    )
    assert found.firing_rate == pytest.approx(1 - metrics["neurobench"]["activation_sparsity"], rel=1e-6)
    assert [(row["class"], row["recall"], row["precision"], row["rows"]) for row in found.per_class] == [
        (row["class"], row["recall"], row["precision"], row["test_rows"]) for row in metrics["per_class"]
    ]
    assert found.rows == metrics["data"]["test"]
    assert [row["batch"] for row in found.speed] == [1, min(256, found.rows)]
    assert all(row["us"] > 0 for row in found.speed)
    assert (found.engine, found.threads) == ("native", 2)
    assert found.additions is not None
    reference = evaluate(finished, str(problem.data), engine="reference")
    assert without_times(reference) == without_times(found)
    assert (reference.kernel, reference.additions, len(reference.speed)) == (None, None, 1)


def test_small_batches_give_the_same(finished: Path, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(finished, str(problem.data))
    monkeypatch.setattr(packed_evaluation, "_SPIKES", 1)
    assert without_times(evaluate(finished, str(problem.data))) == without_times(whole)


def test_the_command_prints_them(problem: Problem, finished: Path) -> None:
    file = finished / "model.safetensors"
    said = command("evaluate", file, "--data", problem.data, "--json")
    assert said.code == 0, said.err
    found = evaluate(file, str(problem.data))
    assert json.loads(said.out)["confusion"] == found.confusion
    assert set(json.loads(said.out)) == set(found.to_dict())
    for options in ([], ["--engine", "reference"]):
        tables = command("evaluate", file, "--data", problem.data, *options)
        assert tables.code == 0, tables.err
        for text in (f"{found.accuracy:.2%}", f"{found.packed_bytes:,}", f"{found.bit_synops:,.0f}", "recall"):
            assert text in tables.out
        assert options[-1:] != ["reference"] or "reference" in tables.out


def test_the_rows_are_those_of_a_design(problem: Problem, finished: Path) -> None:
    for settings in (DataSettings(source=str(problem.data)), DataSettings(source=str(problem.data), test_limit=7)):
        whole, only = load(settings).test(), open_test(settings).read((1, 8, 8))
        assert (only.x == whole.x).all()
        assert (only.y == whole.y).all()
    assert evaluate(finished, str(problem.data), changes={"data.test_limit": 7}).rows == 7
    outcome = command("evaluate", finished, "--data", problem.data, "--set", "data.test_fraction=0.1", "--json")
    assert json.loads(outcome.out)["rows"] == 15
    assert evaluate(finished, str(problem.data), recipe="digits").rows == 30


def test_classes_are_matched_by_their_names(finished: Path, tmp_path: Path) -> None:
    x, y = inputs()
    names = np.array(["2", "0", "1"])
    np.savez(tmp_path / "turned.npz", x=x, y=np.array([1, 2, 0])[y], classes=names)
    np.savez(tmp_path / "straight.npz", x=x, y=y, classes=np.array(["0", "1", "2"]))
    np.savez(tmp_path / "other.npz", x=x, y=y, classes=np.array(["0", "1", "two"]))
    straight = evaluate(finished, str(tmp_path / "straight.npz"))
    turned = evaluate(finished, str(tmp_path / "turned.npz"))
    assert straight.classes == turned.classes == ["0", "1", "2"]
    assert turned.accuracy > 0.5
    assert abs(turned.accuracy - straight.accuracy) < 0.2  # another third is cut
    with pytest.raises(InputError, match=r"run and .*other\.npz have different classes: 3 with '2' and 3 with 'two'"):
        evaluate(finished, str(tmp_path / "other.npz"))


def test_given_arrays(problem: Problem, finished: Path) -> None:
    x, y = inputs()
    assert without_times(evaluate(finished, (x, y))) == without_times(evaluate(finished, str(problem.data)))
    model = read(finished / "model.safetensors")
    apart = evaluate(model, {"train": (x[:120], y[:120]), "test": (x[120:], y[120:])})
    assert apart.accuracy == np.mean(litesnn.Reference(model).classify(x[120:]) == y[120:])
    with pytest.raises(InputError, match=r"^data: test rows: inputs are 1×4×8, but the network takes 1×8×8"):
        evaluate(model, (x[:, :, :4], y))


def test_images_in_files_are_rescaled_as_for_prediction(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", {"cat": 10, "dog": 10})  # of 4×5 pixels
    model = model_for((3, 4, 5), "image", ("cat", "dog"))
    found = evaluate(model, str(folder))
    test = load(DataSettings(source=str(folder))).test()
    assert found.accuracy == np.mean(litesnn.Reference(model).classify(test.x.numpy()) == test.y.numpy())
    square = model_for((3, 6, 6), "image", ("cat", "dog"))
    rescaled = load(DataSettings(source=str(folder), size=6)).test()
    accuracy = np.mean(litesnn.Reference(square).classify(rescaled.x.numpy()) == rescaled.y.numpy())
    assert evaluate(square, str(folder)).accuracy == accuracy
    assert evaluate(square, str(folder), changes={"data.size": 6}).accuracy == accuracy
    with pytest.raises(InputError, match=r"data\.size = 5, but the network takes 3×6×6"):
        evaluate(square, str(folder), changes={"data.size": 5})


def test_sound_becomes_what_the_file_says(tmp_path: Path) -> None:
    front_end = LogMel(sample_rate=1000, clip_ms=100, window_ms=30, hop_ms=10, mels=4, low_hz=20, high_hz=400)
    for name in ("loud", "quiet"):
        for number in range(6):
            samples = ramp(1000 * number) * (3 if name == "loud" else 1)
            write_tree(tmp_path / "sound", {f"{name}/{number}.wav": sound(samples)})
    source = str(tmp_path / "sound")
    model = model_for(front_end.shape, "array", ("loud", "quiet"), front_end)
    found = evaluate(model, source)
    test = load(DataSettings(source=source), FrontEnds(audio=front_end)).test()
    assert found.rows == len(test.y)
    assert found.accuracy == np.mean(litesnn.Reference(model).classify(test.x.numpy()) == test.y.numpy())
    plain = model_for(front_end.shape, "array", ("loud", "quiet"))
    with pytest.raises(InputError, match=r"^the model takes arrays of real numbers, but .*sound holds sound$"):
        evaluate(plain, source)
    with pytest.raises(InputError, match="takes sound, but digits holds images"):
        evaluate(model, "digits")


def test_the_twelve_commands_need_no_option(tmp_path: Path) -> None:
    words = dict.fromkeys(("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "tree"), 4)
    folder = commands_folder(tmp_path / "speech", words)
    front_end = LogMel(sample_rate=1000, clip_ms=100, window_ms=30, hop_ms=10, mels=4, low_hz=20, high_hz=400)
    data = load(DataSettings(source=str(folder), commands=12), FrontEnds(audio=front_end))
    found = evaluate(model_for(front_end.shape, "array", data.classes, front_end), str(folder))
    assert found.classes == list(data.classes)
    assert found.rows == len(data.test().y)


def test_events_become_the_frames_that_the_file_says(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "events", event_data.dataset())
    front_end = EventFrames(frame_ms=20.0, height=6, width=5, clip=2)
    model = model_for((2, 6, 5), "events", ("dark", "lit"), front_end, timesteps=3)
    found = evaluate(model, str(folder))
    test = load(DataSettings(source=str(folder)), FrontEnds(events=front_end, timesteps=3)).test()
    assert test.x.shape[1] == 3
    assert found.accuracy == np.mean(litesnn.Reference(model).classify(test.x.numpy()) == test.y.numpy())
    assert found.analog_macs == 3 * model.populations[0].synapses[0].codes.size * 6 * 5
    with pytest.raises(InputError, match="takes recordings of events, but digits holds images"):
        evaluate(model, "digits")


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((1, 9, 9), "image", r"digits: test rows: inputs are 1×8×8, but the network takes 1×9×9; data.size = 9 rescal"),
        ((2, 8, 8), "image", r"digits: test rows: inputs are 1×8×8, but the network takes 2×8×8$"),
        ((1, 8, 8), "array", r"the model takes arrays of real numbers, but digits holds images"),
    ],
)
def test_another_input_is_refused(shape: tuple[int, int, int], kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model_for(shape, kind, [str(digit) for digit in range(10)]), "digits")


def test_bad_arguments(finished: Path, tmp_path: Path) -> None:
    model = finished / "model.safetensors"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"engine": "torch"}, "engine: expected one of native, reference, found 'torch'"),
        ({"engine": "reference", "threads": 2}, "threads: the reference has one, found 2"),
        ({"changes": {"train.lr": 1}}, "train.lr: says nothing of the rows that are measured"),
        ({"changes": {"data.source": "x"}}, "data.source: the data set is named by --data"),
        ({"changes": {"data.limit": 1}}, "unknown key 'data.limit'"),
        ({"recipe": "none"}, "no recipe 'none'"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            evaluate(model, "digits", **options)
    with pytest.raises(InputError, match="model: expected a packed model or the path of one, found int"):
        evaluate(3, "digits")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nowhere: cannot be read as a packed model"):
        evaluate(tmp_path / "nowhere", "digits")


def test_the_command_refuses_in_one_line(finished: Path, problem: Problem, tmp_path: Path) -> None:
    model, data = finished / "model.safetensors", ["--data", str(problem.data)]
    shutil.copy(model, tmp_path / "mine.safetensors")
    for words, message in (
        ([tmp_path / "mine.safetensors"], "is no run folder; expected --data too"),
        ([finished, "--json"], "--json is for a packed model; expected --data too"),
        ([finished, "--set", "data.test_limit=3"], "--set is for a packed model"),
        ([finished, "--recipe", "digits"], "--recipe is for a packed model"),
        ([finished, "--engine", "reference"], "--engine reference is for a packed model"),
        ([model, *data, "--engine", "torch"], "--engine torch cannot run a packed model; expected native or reference"),
        ([model, *data, "--device", "cuda"], "a packed model runs on the CPU"),
        ([model, *data, "--model", "x.py:Net"], "--model is for a run folder"),
        ([finished / "network.safetensors", *data], "network.safetensors"),
        ([tmp_path, *data], "is not a run folder: it has no recipe.toml"),
        ([model, "--data", tmp_path / "none.npz"], "none.npz"),
    ):
        outcome = command("evaluate", *words)
        assert outcome.code == 2, (words, outcome)
        assert message in outcome.err, (words, outcome.err)
        assert len(outcome.err.splitlines()) == 1
        assert outcome.out == ""


def test_an_empty_recipe_is_the_default() -> None:
    assert packed_evaluation._settings(Recipe(), "digits", {}) == DataSettings(source="digits")


def test_a_file_that_was_written_is_measured_as_the_model(tmp_path: Path) -> None:
    model = model_for((1, 8, 8), "image", [str(digit) for digit in range(10)])
    write(model, tmp_path / "mine.safetensors")
    assert without_times(evaluate(tmp_path / "mine.safetensors", "digits")) == without_times(evaluate(model, "digits"))
