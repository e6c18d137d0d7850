"""Networks that see another frame at each timestep: torch, engine, exports, files, prediction, a whole job."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import exactness
import oracle
import whole_job
from event_data import dataset, encoded, random_events, write_archive, write_tree
from firmware import SANITIZED, Firmware
from litesnn.commands.export_c import random_inputs
from litesnn.console_tables import info_table, predictions
from litesnn.data.sources import Split
from litesnn.deploy.engine import Engine, available_kernels
from litesnn.deploy.exchange.nir_graph import TIMESTEP, nir_graph
from litesnn.deploy.exchange.onnx_graph import onnx_graph
from litesnn.deploy.exchange.source import used_populations
from litesnn.deploy.export_c.folder import export_c
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import (
    IMAGE,
    PackedModel,
    Population,
    Readout,
    Synapses,
    from_bytes,
    size_bound,
    size_table,
    to_bytes,
    write,
)
from litesnn.deploy.reference import Reference, quantize_input
from litesnn.errors import InputError
from litesnn.front_end import EventFrames
from litesnn.genotype import ArithmeticName, Genotype
from litesnn.input_spec import InputSpec
from litesnn.network_file import load_network, save_network
from litesnn.report.examples import collect_examples
from litesnn.runs import RunFolder
from litesnn.snn.cost import Meter
from litesnn.snn.network import InputInfo, Network
from litesnn.train.neurobench import Watch, neurobench_metrics
from nir_simulator import simulate
from packed_models import in_fixed_point, random_frames, random_model, with_events
from test_onnx_graph import session
from test_sound_model import changed, header, put
from tiny import genotype, genotypes, lively_network

ARITHMETICS: tuple[ArithmeticName, ...] = ("float", "fixed")
KERNELS: tuple[Literal["events", "sliced"], ...] = ("events", "sliced")
FRONT_END = EventFrames(by="count", frame_ms=0.1, frame_events=77, height=7, width=6, clip=5)


def event_info(size: tuple[int, int] = (7, 6), clip: int = 5) -> InputInfo:
    front_end = FRONT_END.model_copy(update={"height": size[0], "width": size[1], "clip": clip})
    names = ("dark", "lit", "none")
    return InputInfo(InputSpec(front_end.shape, "events", front_end.mean, front_end.std, front_end), names)


def counts(info: InputInfo, timesteps: int, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """Frames [B, T, C, H, W] of counts, half of them 0."""
    rng = torch.Generator().manual_seed(seed)
    shape = (batch, timesteps, *info.shape)
    return (torch.randint(0, 7, shape, generator=rng) * torch.randint(0, 2, shape, generator=rng)).to(torch.uint8)


def network(arithmetic: ArithmeticName = "float", **settings: Any) -> Network:
    return lively_network(genotype(arithmetic=arithmetic, **settings), event_info(), 0)


def event_model(seed: int, arithmetic: ArithmeticName = "float", size: tuple[int, int] = (5, 9)) -> PackedModel:
    rng = np.random.default_rng(seed)
    model = random_model(rng, shape=(2, *size), populations=4, arithmetic=arithmetic)
    return with_events(replace(model, timesteps=int(rng.integers(1, 5))), clip=int(rng.choice([1, 3, 255])))


class TestTorch:
    def test_training_is_the_oracles(self) -> None:
        """Forward and gradients, with a different frame at each timestep; the frames after T are not seen."""
        gene = genotype(levels=(0, 0, 1), stride=2)
        made = lively_network(gene, event_info()).double().train()
        x = made.encode(counts(event_info(), 5)).double()
        mixtures = [oracle.Mixture({(cell.bits, cell.keep): 1.0}) for cell in gene.cells]
        backbone = made.backbone
        # the classifier keeps all of its weights, and no optimizer sees its scores
        parameters = [parameter for name, parameter in backbone.named_parameters() if name != "classifier.scores"]
        weights = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = []
        for logits in (
            backbone.run(x, 3, made.mixes(), integer=False).logits,
            oracle.backbone(backbone, x, 3, mixtures),
        ):
            found.append((logits, torch.autograd.grad((logits * weights).sum(), parameters)))
        (ours, our_gradients), (theirs, their_gradients) = found
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        for mine, other in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)
        assert sum(bool(gradient.count_nonzero()) for gradient in our_gradients) > len(parameters) / 2

    def test_frames_that_are_all_alike_are_an_image(self) -> None:
        for arithmetic in ARITHMETICS:
            made = network(arithmetic)
            frames = counts(event_info(), 1).expand(-1, 3, -1, -1, -1)
            x = made.encode(frames)
            with torch.no_grad():
                assert torch.equal(made(x).logits, made(x[:, 0]).logits)

    def test_the_first_frames_decide_and_their_order_matters(self) -> None:
        made = network()
        x = counts(event_info(), 6, batch=8)
        with torch.no_grad():
            logits = made(made.encode(x)).logits
            assert torch.equal(logits, made(made.encode(x[:, :3])).logits)
            later = torch.cat([x[:, :2], x[:, 5:]], dim=1)
            assert torch.equal(logits[:2], made(made.encode(later)).logits[:2])
            assert not torch.equal(logits[2], made(made.encode(later)).logits[2])
            assert not torch.equal(logits, made(made.encode(x[:, [1, 0, 2]])).logits)
        assert torch.equal(made.predict(x), logits[-1].argmax(1))
        with pytest.raises(InputError, match="expected at least 3 frames, found 2"):
            made.encode(x[:, :2])

    def test_costs_count_the_stem_at_every_timestep(self) -> None:
        made = network(stem=4, stride=2)
        assert made.stem_macs() == 3 * made.backbone.stem_macs() == 3 * (4 * 2 * 9) * 4 * 3
        model, frames = integerize(made), counts(event_info(), 4)
        meter = Meter()
        with torch.no_grad(), Watch(made) as watch:
            made(made.encode(frames), meter=meter)
        layers = [{"weights": 2, "kept": 1, "synops": 0.0, "bit_synops": 0.0}]
        neurons = [{"channels": 1, "height": 1, "width": 1, "firing_rate": 0.5}]
        figures = neurobench_metrics(model, watch, layers=layers, neurons=neurons, packed_bytes=1)
        mask = torch.from_numpy(model.populations[0].synapses[0].codes != 0).double()
        seen = (made.encode(frames) != 0).flatten(0, 1).double()  # [B·T, C, H, W]
        reached = torch.nn.functional.conv2d(seen, mask, stride=2, padding=1)
        assert figures["effective_macs"] == pytest.approx(float(reached.sum()) / 3)
        images = replace(model, input=replace(model.input, kind="image", front_end=None))
        with torch.no_grad(), Watch(made) as watch:
            made(made.encode(frames))
        static = neurobench_metrics(images, watch, layers=layers, neurons=neurons, packed_bytes=1)["dense"]
        inside = torch.nn.functional.conv2d(torch.ones(1, 2, 7, 6), torch.ones(4, 2, 3, 3), stride=2, padding=1).sum()
        assert figures["dense"] - static == 2 * int(inside)

    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    def test_networks_are_saved_with_their_front_end(self, tmp_path: Path, arithmetic: ArithmeticName) -> None:
        made = network(arithmetic)
        save_network(tmp_path / "network.safetensors", made)
        again = load_network(tmp_path / "network.safetensors")
        assert again.info == made.info
        assert again.info.input.front_end == FRONT_END
        x = counts(event_info(), 3)
        assert torch.equal(again.predict(x), made.predict(x))


class TestExactness:
    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    @pytest.mark.parametrize("stride", [1, 2, 4])
    @pytest.mark.parametrize("timesteps", [1, 2, 5])
    def test_torch_reference_and_every_kernel(
        self, arithmetic: ArithmeticName, stride: Literal[1, 2, 4], timesteps: int
    ) -> None:
        info = event_info((13, 11), clip=3)
        made = lively_network(genotype(arithmetic=arithmetic, stride=stride, timesteps=timesteps), info, 1)
        for row in exactness.compare(made, integerize(made), counts(info, timesteps + 1, 11)):
            assert row.exact, row

    @settings(max_examples=10)
    @given(
        genotypes(), genotypes(arithmetic="fixed"), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 99)
    )
    def test_any_network(self, gene: Genotype, fixed: Genotype, size: tuple[int, int], seed: int) -> None:
        for one in (gene, fixed):
            info = event_info(size)
            made = lively_network(one, info, seed)
            for row in exactness.compare(made, integerize(made), counts(info, one.timesteps, 3, seed)):
                assert row.exact, row

    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    def test_random_wirings_with_threads(self, arithmetic: ArithmeticName) -> None:
        """Also a stem of two bundles, and more events than are counted."""
        lively = 0
        for seed in range(12):
            rng = np.random.default_rng(seed)
            model = reading_twice(event_model(seed, size=(int(rng.integers(1, 12)), int(rng.integers(1, 12)))))
            if arithmetic == "fixed":
                model = with_events(in_fixed_point(rng, model), clip=3)
            x = random_frames(rng, model, int(rng.choice([1, 3, 9])), more=int(rng.integers(0, 2)))
            expected = Reference(model).run(x, record=True)
            assert expected.spikes is not None
            lively += any(0.01 < spikes.mean() < 0.99 for spikes in expected.spikes)
            for kernel in available_kernels():
                found = Engine(model, kernel=kernel, threads=1 + seed % 3).run(x, record=True)
                assert found.spikes is not None
                np.testing.assert_array_equal(found.logits.view(np.uint32), expected.logits.view(np.uint32))
                for ours, theirs in zip(found.spikes, expected.spikes, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
        assert lively > 6

    def test_a_neuron_by_hand(self) -> None:
        """One neuron of weight 1 sees two events of at most three (64 steps), none, then three (96 steps)."""
        model = one_neuron()
        x = np.zeros((1, 4, 2, 1, 1), np.uint8)
        x[0, :, 1, 0, 0] = [2, 0, 3, 9]
        for runner in (Reference(model), Engine(model)):
            trace = runner.run(x, record=True)
            assert trace.spikes is not None
            # currents 0.5, 0, 0.75 and 0.99 (127 steps): membranes 0.5, 0.1, 0.77 and, after a reset, 0.99
            assert trace.spikes[0].ravel().tolist() == [0, 0, 1, 1]
            assert trace.logits.ravel().tolist() == [0, 0, np.float32(1 / 3), 0.5]

    def test_additions_are_those_of_every_frame(self) -> None:
        model = one_neuron()
        engines = [Engine(model), Engine(replace(model, input=replace(model.input, kind="image", front_end=None)))]
        engines[0].run(np.zeros((1, 4, 2, 1, 1), np.uint8))
        engines[1].run(np.zeros((1, 2, 1, 1), np.uint8))
        assert engines[0].additions == 4 * engines[1].additions > 0

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((1, 2, 1, 1), np.uint8), r"expected \[batch, timesteps, 2, 1, 1\], found \[1, 2, 1, 1\]"),
            (np.zeros((1, 4, 2, 1, 2), np.uint8), r"expected \[batch, timesteps, 2, 1, 1\]"),
            (np.zeros((1, 3, 2, 1, 1), np.uint8), "expected at least 4 frames, found 3"),
            (np.zeros((1, 4, 2, 1, 1), np.float32), "expected uint8 counts of events, found float32"),
        ],
    )
    def test_other_inputs_are_refused(self, x: NDArray[np.generic], message: str) -> None:
        for runner in (Reference(one_neuron()), Engine(one_neuron())):
            with pytest.raises(InputError, match=message):
                runner.run(x)


def one_neuron() -> PackedModel:
    """It adds the brighter events: scale 1/128 makes 64 steps the threshold, which is not passed."""
    stem = Synapses((IMAGE,), 1, 1, 1, np.array([[[[0]], [[1]]]], np.int8), np.array([1 / 128], np.float32))
    head = Readout((0,), 1, np.array([[1]], np.int8), np.ones(1, np.float32), np.zeros(1, np.float32))
    model = with_events(random_model(np.random.default_rng(0), shape=(2, 1, 1)))
    population = Population((stem,), np.zeros(1, np.float32), None)
    return replace(model, timesteps=4, leak=0.2, classes=("a",), populations=(population,), readout=head)


def reading_twice(model: PackedModel) -> PackedModel:
    """The model with the stem's weights once more as a second bundle of the stem, which is the same group."""
    first, *rest = model.populations
    (stem,) = first.synapses
    return replace(model, populations=(replace(first, synapses=(stem, stem)), *rest))


class TestFiles:
    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    def test_the_front_end_survives_a_round_trip(self, arithmetic: ArithmeticName) -> None:
        model = integerize(network(arithmetic))
        data = to_bytes(model)
        assert from_bytes(data) == model
        assert to_bytes(from_bytes(data)) == data
        record = header(data)
        assert record["version"] == {"float": 3, "fixed": 4}[arithmetic]
        assert record["front_end"] == ["event-frames", "count", 0.1, 77, 7, 6, 5]
        assert record["input"] == ["events", 2, 7, 6, [0.0, 0.0], [1.6666666, 1.6666666]]
        assert size_table(model).bytes == len(data) <= size_bound(model)

    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (put("log-mel", "front_end", 0), "front end: expected a list of 9"),
            (put("frames", "front_end", 0), "front end: expected one of log-mel, event-frames, found frames"),
            (put(["log-mel"], "front_end", 0), "front end: expected one of log-mel, event-frames"),
            (put("never", "front_end", 1), "front end: by: Input should be 'time' or 'count'"),
            (put(3, "front_end", 1), "front end: by: Input should be 'time' or 'count'"),
            (put("1", "front_end", 2), "front end: frame_ms: expected a float32 number"),
            (put(0, "front_end", 2), "front end: frame_ms: Input should be greater"),
            (put(77.0, "front_end", 3), "front end: frame_events: expected an integer"),
            (put(8, "front_end", 4), "input: expected events 2×8×6, found events 2×7×6"),
            (put(300, "front_end", 5), "front end: width: Input should be less than or equal to 256"),
            (put(True, "front_end", 6), "front end: clip: expected a float32 number"),
            (put(0, "front_end", 6), "front end: clip: Input should be greater"),
            (put("image", "input", 0), "input: expected events 2×7×6, found image 2×7×6"),
            (put("frames", "input", 0), "input: kind: expected one of image, array, events, found frames"),
            (put([], "input", 0), "input: kind: expected one of image, array, events"),
        ],
    )
    def test_damage_is_refused_by_name(
        self, arithmetic: ArithmeticName, change: Callable[[dict[str, Any]], object], message: str
    ) -> None:
        data = to_bytes(integerize(network(arithmetic)))
        with pytest.raises(InputError, match=message) as caught:
            from_bytes(changed(data, change), "broken.safetensors")
        assert str(caught.value).startswith("broken.safetensors: ")
        assert "\n" not in str(caught.value)

    def test_events_need_a_front_end(self) -> None:
        model = integerize(network())
        with pytest.raises(InputError, match="input: kind: expected a front end for events"):
            to_bytes(replace(model, input=replace(model.input, front_end=None)))

    def test_frames_count_as_so_many_pixels(self) -> None:
        """Of the 1024 maps of 256 × 256 that a file may have, 64 frames are 128, and 32 frames 64."""
        side = EventFrames(height=256, width=256)
        model = one_neuron()
        spec = replace(model.input, shape=side.shape, front_end=side)
        for timesteps, message in ((64, "at most 67108864 pixels and neurons"), (32, "neurons times timesteps")):
            data = to_bytes(replace(model, input=spec, timesteps=timesteps))
            assert from_bytes(data).timesteps == timesteps
            with pytest.raises(InputError, match=message):
                from_bytes(changed(data, put(900, "populations", 0, 1)))


class TestExports:
    @pytest.mark.parametrize("arithmetic", ARITHMETICS)
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_firmware(self, tmp_path: Path, arithmetic: ArithmeticName, kernel: Literal["events", "sliced"]) -> None:
        seed = {"events": 3, "sliced": 7}[kernel]
        model = event_model(seed, arithmetic)
        assert model.timesteps > 1
        x = random_frames(np.random.default_rng(seed), model, 2)
        given = Firmware(model, tmp_path / "out", kernel=kernel, flags=SANITIZED).run(x)
        expected = Reference(model).run(x, record=True)
        assert given.spikes is not None
        assert expected.spikes is not None
        assert any(0 < spikes.mean() < 1 for spikes in expected.spikes)
        for ours, theirs in zip(given.spikes, expected.spikes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        if arithmetic == "float":
            np.testing.assert_array_equal(given.logits.view(np.uint32), expected.logits.view(np.uint32))
        else:
            np.testing.assert_array_equal(given.integers, expected.integers)

    def test_the_firmware_folder(self, tmp_path: Path) -> None:
        model = event_model(7)
        firmware = export_c(model, tmp_path / "out", random_inputs(model), targets=["host"])
        assert firmware.measurements[0].inputs == 4
        text = (tmp_path / "out/README.md").read_text()
        shape = f"[{model.timesteps}, 2, 5, 9]"
        for part in ("uint8 counts of events", shape, "Frame t has the events of 50 ms", "polarity p"):
            assert part in text
        by_count = with_events(model, by="count")
        export_c(by_count, tmp_path / "out", random_inputs(by_count))
        assert "Frame t has the events of 500 events" in (tmp_path / "out/README.md").read_text()

    @settings(max_examples=15)
    @given(st.integers(0, 2**32 - 1))
    def test_onnx(self, seed: int) -> None:
        model = event_model(seed)
        graph = session(onnx_graph(model, record=True).SerializeToString())
        assert graph.get_inputs()[0].shape == ["batch", model.timesteps, *model.input.shape]
        for batch in (1, 3):
            x = random_frames(np.random.default_rng(seed), model, batch)
            trace = Reference(model).run(x, record=True)
            assert trace.spikes is not None
            logits, *spikes = graph.run(None, {"frames": x})
            np.testing.assert_array_equal(logits, trace.logits[-1])
            for index, fired in zip(used_populations(model), spikes, strict=True):
                np.testing.assert_array_equal(fired.reshape(trace.spikes[index].shape), trace.spikes[index])

    @settings(max_examples=15)
    @given(st.integers(0, 2**32 - 1))
    def test_nir(self, seed: int) -> None:
        model = event_model(seed)
        x = random_frames(np.random.default_rng(seed), model, 2)
        trace = Reference(model).run(x, record=True)
        assert trace.spikes is not None
        graph = nir_graph(model)
        assert graph.metadata["input"].endswith("of frame t at timestep t")
        frames = quantize_input(model.input, x).swapaxes(0, 1).astype(np.float32)
        _, spikes = simulate(graph, frames, dt=TIMESTEP, timesteps=model.timesteps)
        for name, fired in spikes.items():
            np.testing.assert_array_equal(fired, trace.spikes[int(name.split("_")[1])])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_predicts_recordings(tmp_path: Path, arithmetic: ArithmeticName) -> None:
    model = integerize(network(arithmetic))
    write(model, tmp_path / "model.safetensors")
    events = random_events(np.random.default_rng(0), 500, size=(7, 6), last=100_000)
    (tmp_path / "a.bin").write_bytes(encoded(events))
    x = np.zeros((1, 4, 2, 7, 6), np.uint8)
    for number, (column, row, polarity, _) in enumerate(events):
        if number // 77 < 4 and x[0, number // 77, polarity, row, column] < 5:
            x[0, number // 77, polarity, row, column] += 1
    np.save(tmp_path / "one.npy", x[0])
    np.savez(tmp_path / "all.npz", x=np.concatenate([x, x[:, ::-1]]))
    paths = [tmp_path / name for name in ("a.bin", "one.npy", "all.npz")]
    rows = list(predictions(tmp_path / "model.safetensors", paths))
    assert [row["input"] for row in rows] == [*map(str, paths[:2]), f"{paths[2]}[0]", f"{paths[2]}[1]"]
    expected = Reference(model).run(x).logits[-1][0].tolist()
    assert [row["logits"] for row in rows[:3]] == [expected] * 3
    assert rows == list(predictions(tmp_path / "model.safetensors", paths, reference=True))
    title = str(info_table(tmp_path / "model.safetensors").title)
    assert "frames of 77 events, 7×6 pixels of two polarities, counts up to 5" in title


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"1234", "a.bin: has 4 bytes"),
        ("none.bin", None, "no such file"),
        (
            "a.npy",
            np.zeros((2, 2, 7, 6), np.uint8),
            r"has shape \[2, 2, 7, 6\]; expected \[N, T, 2, 7, 6\] with T = 3 frames",
        ),
        ("a.npy", np.zeros((1, 3, 2, 6, 7), np.uint8), r"expected \[N, T, 2, 7, 6\]"),
        ("a.npy", np.zeros((0, 3, 2, 7, 6), np.uint8), r"expected \[N, T, 2, 7, 6\]"),
        (
            "a.npy",
            np.zeros((1, 3, 2, 7, 6), np.float32),
            "values of type float32; this network takes counts of type uint8",
        ),
    ],
)
def test_what_cannot_be_predicted(tmp_path: Path, name: str, content: Any, message: str) -> None:
    write(integerize(network()), tmp_path / "model.safetensors")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        list(predictions(tmp_path / "model.safetensors", [tmp_path / name]))
    assert str(tmp_path / name) in str(caught.value)


def test_the_whole_job_on_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an archive to a report, and to the exports."""
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    data, run = write_archive(tmp_path / "a.tar.gz", dataset(train=40, test=10)), tmp_path / "run"
    recipe = tmp_path / "recipe.toml"
    shorter = whole_job.RECIPE.replace("epochs = 12", "epochs = 8")
    recipe.write_text(f"{shorter}\n[events]\nframe_ms = 20.0\nheight = 6\nwidth = 5\n")
    made = whole_job.litesnn("design", "--run", run, "--data", data, "--recipe", recipe, "--quiet")
    assert made.code == 0, made.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_accuracy"] == 1.0
    assert metrics["stem_macs"] == metrics["timesteps"] * 4 * 2 * 9 * 30
    for row in exactness.compare_run(RunFolder(run)):
        assert row.exact, row
    assert (run / "report.html").read_text().count("data:image/png") > 4
    measured = whole_job.litesnn("evaluate", run, "--engine", "native")
    assert measured.code == 0, measured.err
    assert json.loads((run / "metrics.json").read_text())["engine"]["same_predictions"] == 20
    for target, name in (("c", "firmware"), ("nir", "model.nir"), ("onnx", "model.onnx")):
        done = whole_job.litesnn("export", target, run, "-o", tmp_path / name)
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"Train/lit/00003.bin": b"1234"}, "Train/lit/00003.bin: has 4 bytes, which are no whole events of 5"),
        ({"Train/lit/00003.bin": encoded([(5, 0, 0, 5)])}, "event 0 is at x = 5, y = 0, outside of events.width = 5"),
        ({"Test/none/00000.bin": b""}, "Test/none/00000.bin: is of the class 'none', which Train has not"),
    ],
)
def test_a_job_on_damaged_recordings_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: dict[str, bytes], message: str
) -> None:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    data, run = write_tree(tmp_path / "data", dataset() | damage), tmp_path / "run"
    changes = ("--set", "events.height=6", "--set", "events.width=5")
    failed = whole_job.litesnn("design", "--run", run, "--data", data, "--quiet", *changes)
    assert failed.code == 2
    assert message in failed.err
    assert failed.err.count("\n") == 1
    assert not run.exists()  # there is no recipe before the data are read


def test_examples_show_all_events_that_are_seen() -> None:
    model = one_neuron()
    x = torch.zeros(2, 5, 2, 1, 1, dtype=torch.uint8)
    x[0, :, 0], x[0, 1, 1], x[1, 4, 0] = 1, 2, 3
    examples = collect_examples(model, Split(x, torch.tensor([0, 1])))
    assert examples is not None
    assert examples.images.reshape(2, 2).tolist() == [[255, 128], [0, 0]]
