"""Networks for sound: the front end in both files, damage, prediction, the C export's README, a whole job."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import tiny
import whole_job
from litesnn.console_tables import info_table, predictions
from litesnn.deploy.engine import Engine
from litesnn.deploy.export_c.layout import lay_out
from litesnn.deploy.export_c.readme import readme
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import PackedModel, from_bytes, size_bound, size_table, to_bytes, write
from litesnn.deploy.packed_container import sealed
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.front_end import LogMel
from litesnn.genotype import ArithmeticName
from litesnn.input_spec import InputSpec
from litesnn.network_file import build_network, load_network, save_network
from litesnn.snn.network import InputInfo, Network

FRONT_END = LogMel(sample_rate=8000, clip_ms=60, window_ms=25, hop_ms=12.5, mels=5, low_hz=0.1, high_hz=3700.5)
INFO = InputInfo(InputSpec(FRONT_END.shape, "array", (-6.5,), (4.25,), FRONT_END), ("yes", "no", "_silence_"))
WITHOUT = replace(INFO, input=replace(INFO.input, front_end=None))
ARITHMETICS: tuple[ArithmeticName, ...] = ("float", "fixed")


def network(arithmetic: ArithmeticName = "float", info: InputInfo = INFO) -> Network:
    return build_network(tiny.genotype(arithmetic=arithmetic), info, 0).eval()


def packed(arithmetic: ArithmeticName = "float", info: InputInfo = INFO) -> PackedModel:
    return integerize(network(arithmetic, info))


def header(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["litesnn_packed"]))


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another JSON text, and the right checksum."""
    size = int.from_bytes(data[:8], "little")
    whole = json.loads(data[8 : 8 + size])
    record = json.loads(whole["__metadata__"]["litesnn_packed"])
    change(record)
    record["crc"] = "00000000"
    whole["__metadata__"]["litesnn_packed"] = json.dumps(record, separators=(",", ":"))
    text = json.dumps(whole, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sealed(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_front_end_survives_a_round_trip(arithmetic: ArithmeticName) -> None:
    model = packed(arithmetic)
    assert model.input.front_end == FRONT_END
    data = to_bytes(model)
    assert from_bytes(data) == model
    assert to_bytes(from_bytes(data)) == data
    record = header(data)
    assert record["version"] == {"float": 3, "fixed": 4}[arithmetic]
    assert record["front_end"] == ["log-mel", 8000, 60.0, 25.0, 12.5, 5, 0.1, 3700.5, 1e-6]
    assert list(record)[:3] == ["version", "input", "front_end"]
    assert size_table(model).bytes == len(data) <= size_bound(model)
    other = replace(model, input=replace(model.input, front_end=FRONT_END.model_copy(update={"floor": 1e-5})))
    assert other != model
    assert from_bytes(to_bytes(other)) == other


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_without_a_front_end_the_file_is_as_it_was(arithmetic: ArithmeticName) -> None:
    data = to_bytes(packed(arithmetic, WITHOUT))
    record = header(data)
    assert record["version"] == {"float": 1, "fixed": 2}[arithmetic]
    assert "front_end" not in record
    assert from_bytes(data).input.front_end is None


def put(value: object, *path: str | int) -> Callable[[dict[str, Any]], object]:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("front_end"), "header: expected the keys version, input, front_end"),
        (
            lambda record: record.update(version=record["version"] - 2),
            "header: expected the keys version, input, timesteps",
        ),
        (put(None, "front_end"), "front end: expected a list of at least 1"),
        (put([], "front_end"), "front end: expected a list of at least 1"),
        (put(["log-mel"], "front_end"), "front end: expected a list of 9"),
        (put("mfcc", "front_end", 0), "front end: expected one of log-mel, event-frames, found mfcc"),
        (put("event-frames", "front_end", 0), "front end: expected a list of 7"),
        (put("8000", "front_end", 1), "front end: sample_rate: expected a float32 number"),
        (put(True, "front_end", 5), "front end: mels: expected a float32 number"),
        (put(8000.0, "front_end", 1), "front end: sample_rate: expected an integer, found 8000.0"),
        (put(10**9, "front_end", 1), "front end: sample_rate: Input should be less than"),
        (put(10**12, "front_end", 2), "front end: clip_ms: Input should be less than"),
        (put(1e-3, "front_end", 4), "front end: settings: window_ms and hop_ms"),
        (put(4000.5, "front_end", 7), "front end: settings: low_hz must be below"),
        (put(0, "front_end", 8), "front end: floor: Input should be greater than 0"),
        (put(4, "front_end", 5), "input: expected array 1×4×3, found array 1×5×3"),
        (put(61.0, "front_end", 4), "input: expected array 1×5×1, found array 1×5×3"),
        (put(80.0, "front_end", 2), "input: expected array 1×5×5, found array 1×5×3"),
        (put("image", "input", 0), "input: expected array 1×5×3, found image 1×5×3"),
    ],
)
def test_a_damaged_front_end_is_refused_by_name(
    arithmetic: ArithmeticName, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    data = changed(to_bytes(packed(arithmetic)), lambda record: None)
    assert from_bytes(data) == packed(arithmetic)
    with pytest.raises(InputError, match=message) as caught:
        from_bytes(changed(data, change), "broken.safetensors")
    assert str(caught.value).startswith("broken.safetensors: ")
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_anywhere_in_the_front_end_is_refused() -> None:
    data = to_bytes(packed())
    start = data.index(b"front_end")
    for place in range(start, data.index(b"timesteps")):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            with pytest.raises(InputError):
                from_bytes(bytes(broken))


def test_a_writer_is_checked_like_a_reader() -> None:
    model = packed()
    with pytest.raises(InputError, match="input: expected array 1×5×3, found image"):
        to_bytes(replace(model, input=replace(model.input, kind="image")))


@pytest.mark.parametrize("info", [INFO, WITHOUT])
def test_trained_networks_keep_it(tmp_path: Path, info: InputInfo) -> None:
    save_network(tmp_path / "network.safetensors", network(info=info))
    assert load_network(tmp_path / "network.safetensors").info == info


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_predicts_sound(tmp_path: Path, arithmetic: ArithmeticName) -> None:
    model = packed(arithmetic)
    write(model, tmp_path / "model.safetensors")
    rng = np.random.default_rng(0)
    for name, rate, count in (("a.wav", 8000, 480), ("b.flac", 8000, 300), ("c.wav", 16000, 2000)):
        soundfile.write(tmp_path / name, rng.normal(0, 0.1, count), rate)
    paths = [tmp_path / name for name in ("a.wav", "b.flac", "c.wav")]
    rows = list(predictions(tmp_path / "model.safetensors", paths))
    assert [row["input"] for row in rows] == [str(path) for path in paths]
    assert rows == list(predictions(tmp_path / "model.safetensors", paths, reference=True))
    features = torch.randn(1, *FRONT_END.shape, generator=torch.Generator().manual_seed(0)).numpy()
    assert np.array_equal(Engine(model).run(features).logits, Reference(model).run(features).logits)
    np.save(tmp_path / "features.npy", features)
    (row,) = predictions(tmp_path / "model.safetensors", [tmp_path / "features.npy"])
    assert row["logits"] == Reference(model).run(features).logits[-1][0].tolist()
    assert "3 frames of 5 log-mel features" in str(info_table(tmp_path / "model.safetensors").title)


def test_networks_for_other_arrays_refuse_sound(tmp_path: Path) -> None:
    write(packed(info=WITHOUT), tmp_path / "model.safetensors")
    soundfile.write(tmp_path / "a.wav", np.zeros(480), 8000)
    with pytest.raises(InputError, match=r"a\.wav: this network takes arrays"):
        list(predictions(tmp_path / "model.safetensors", [tmp_path / "a.wav"]))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_export_says_what_the_caller_computes(arithmetic: ArithmeticName) -> None:
    text = readme(lay_out(packed(arithmetic)), (), name="words")
    for part in (
        "The input is not sound but its features",
        "windows of 200 samples that begin at\n0, 100, 200",
        "with zeros to\n256",
        "5 triangles",
        "from 0.1 to 3700.5 Hz",
        "1e-06",
        "-6.5 and 4.25",
    ):
        assert part in text
    assert "sound" not in readme(lay_out(packed(arithmetic, WITHOUT)), (), name="words")


def words_folder(folder: Path) -> Path:
    """Two words that differ in pitch, in the layout of Speech Commands."""
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"testing": [], "validation": []}
    for word, hertz in (("high", 2500), ("low", 300)):
        (folder / word).mkdir(parents=True)
        for clip in range(40):
            time = np.arange(480) / 8000
            x = 0.3 * np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6)) + rng.normal(0, 0.01, 480)
            soundfile.write(folder / word / f"{clip}.wav", x, 8000)
        lists["testing"] += [f"{word}/{clip}.wav" for clip in range(8)]
        lists["validation"] += [f"{word}/{clip}.wav" for clip in range(8, 16)]
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_" / "hiss.wav", rng.normal(0, 0.1, 4000), 8000)
    for name, rows in lists.items():
        (folder / f"{name}_list.txt").write_text("\n".join(rows))
    return folder


def test_the_whole_job_on_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    folder, run = words_folder(tmp_path / "words"), tmp_path / "run"
    recipe = tmp_path / "recipe.toml"
    text = whole_job.RECIPE.replace("crop = 1", "shift_ms = 3\nnoise = 0.2\ntime_mask = 1\nfrequency_mask = 1")
    audio = "sample_rate = 8000\nclip_ms = 60\nwindow_ms = 20\nhop_ms = 5\nmels = 10\nhigh_hz = 4000\n"
    recipe.write_text(f"{text}\n[audio]\n{audio}")
    made = whole_job.litesnn("design", "--run", run, "--data", folder, "--recipe", recipe, "--quiet")
    assert made.code == 0, made.err
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] == 1.0
    said = whole_job.litesnn("predict", run / "model.safetensors", folder / "high/0.wav", folder / "low/1.wav")
    assert [line.split()[1] for line in said.out.splitlines()] == ["high", "low"]
    before = (run / "network.safetensors").read_bytes()
    (run / "network.safetensors").unlink()
    (run / "report.html").unlink()
    assert whole_job.litesnn("design", "--run", run, "--quiet").code == 0
    assert (run / "network.safetensors").read_bytes() == before
