"""Sound: the front end, decoding, the cache, Speech Commands' folders, sound in tables, augmentation."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from litesnn.config import Recipe
from litesnn.data import audio
from litesnn.data.audio import Clip, Recordings, decode, decode_clip, log_mel
from litesnn.data.augment import AugmentSettings, augment, augment_sound
from litesnn.data.batches import generator_for, joined, shuffled_batches
from litesnn.data.cache import cache_folder, cached
from litesnn.data.images import Encoded
from litesnn.data.single import load_inputs
from litesnn.data.sources import DataSettings, FrontEnds, load
from litesnn.data.speech_commands import SILENCE, UNKNOWN, WORDS, read_commands
from litesnn.errors import InputError
from litesnn.front_end import LogMel, mel_filters
from litesnn.planning.sensible import require_sensible
from litesnn.training_loop.session import Session, input_info
from sounds import commands_folder, ramp, sound

SMALL = LogMel(sample_rate=1000, clip_ms=100, window_ms=16, hop_ms=8, mels=4, low_hz=0, high_hz=500)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "tables"))
    return tmp_path / "cache"


def tone(hertz: float, settings: LogMel) -> torch.Tensor:
    """A clip [1, S] of a sine."""
    time = torch.arange(settings.samples, dtype=torch.float64) / settings.sample_rate
    return torch.sin(2 * torch.pi * hertz * time).float()[None]


class TestFrontEnd:
    def test_sizes_of_the_defaults(self) -> None:
        found = LogMel()
        assert (found.samples, found.window, found.hop, found.fft) == (16000, 480, 160, 512)
        assert found.shape == (1, 40, 98)
        assert str(found) == "98 frames of 40 log-mel features from 16000 samples at 16,000 Hz"

    def test_filters_by_hand(self) -> None:
        # Two triangles between 0, 1, 2 and 3 thirds of mel(500); bins at multiples of 62.5 Hz.
        settings = SMALL.model_copy(update={"mels": 2})
        top = 2595 * np.log10(1 + 500 / 700)
        first, second = (700 * (10 ** (top * third / 3 / 2595) - 1) for third in (1, 2))
        assert (first, second) == pytest.approx((137.772, 302.660), abs=1e-2)
        filters = mel_filters(settings)
        assert filters.shape == (2, 9)
        assert filters[0, :5] == pytest.approx(
            [0, 62.5 / first, 125 / first, (second - 187.5) / (second - first), (second - 250) / (second - first)]
        )
        assert filters[0, 5:].tolist() == [0, 0, 0, 0]
        assert filters[1, 8] == pytest.approx(0, abs=1e-9)
        assert filters[1, 5] == pytest.approx((500 - 312.5) / (500 - second))

    def test_features_by_hand(self) -> None:
        """One window of a constant: the spectrum of the window itself, which is zero but for three bins."""
        settings = LogMel(sample_rate=1000, clip_ms=16, window_ms=16, hop_ms=8, mels=2, low_hz=0, high_hz=500)
        x = log_mel(torch.full((1, 16), 0.5), settings)
        assert x.shape == (1, 1, 2, 1)
        # Σ of a periodic Hann window of 16 is 8, its first bin −4: squared and halved twice 16 and 4; bin 0 weighs 0.
        expected = np.log(np.maximum(mel_filters(settings)[:, 1] * 4, settings.floor))
        assert x.flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-5)

    def test_silence_is_the_floor_and_a_tone_is_in_its_band(self) -> None:
        settings = LogMel()
        silent = log_mel(torch.zeros(1, 16000, dtype=torch.int16), settings)
        assert silent.shape == (1, *settings.shape)
        assert torch.equal(silent, torch.full_like(silent, float(torch.tensor(1e-6).log())))
        loud = log_mel(tone(1000, settings), settings)[0, 0]
        bands = mel_filters(settings)[:, 32]  # 1000 Hz
        assert loud.mean(1).argmax() == bands.argmax()
        assert torch.allclose(loud[:, 10], loud[:, 60], atol=1e-2)

    def test_int16_is_full_scale_and_batches_do_not_matter(self) -> None:
        clips = torch.randint(-32768, 32768, (3, 100), generator=torch.Generator().manual_seed(0)).to(torch.int16)
        whole = log_mel(clips, SMALL)
        assert torch.allclose(whole, log_mel(clips.float() / 32768, SMALL))
        assert torch.allclose(whole[1:2], log_mel(clips[1:2], SMALL))

    def test_equals_librosa(self) -> None:
        librosa = pytest.importorskip("librosa")
        settings = LogMel(window_ms=32)  # as long as its Fourier transform
        x = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
        mel = librosa.feature.melspectrogram(
            y=x.numpy(), sr=16000, n_fft=512, hop_length=160, win_length=512, window="hann", center=False, power=2.0,
            n_mels=40, fmin=20, fmax=8000, htk=True, norm=None,
        )  # fmt: skip
        expected = np.log(np.maximum(mel, 1e-6))
        assert log_mel(x[None], settings)[0, 0].numpy() == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"sample_rate": 8000}, "at most half of sample_rate"),
            ({"low_hz": 8000}, "low_hz must be below high_hz"),
            ({"clip_ms": 20}, "at least one window"),
            ({"window_ms": 0.05}, "at least 2 samples"),
            ({"hop_ms": 0.01}, "at least 2 samples and 1 sample"),
            ({"mels": 400}, "more mel filters than"),
            ({"clip_ms": 600000, "sample_rate": 192000}, "at most 4194304 samples"),
            ({"floor": 0}, "greater than 0"),
            ({"mels": 0}, "greater than or equal to 1"),
            ({"hop": 3}, "Extra inputs"),
        ],
    )
    def test_refuses(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            LogMel.model_validate(values)

    def test_a_recipe_names_the_key(self) -> None:
        with pytest.raises(InputError, match=r"my.toml: audio: .*more mel filters"):
            Recipe.from_toml("[audio]\nmels = 400", origin="my.toml")
        assert Recipe.from_toml("[audio]\nmels = 20").audio.mels == 20


class TestDecode:
    def test_samples_are_exact(self) -> None:
        samples = np.array([-32768, -1, 0, 1, 32767], np.int16)
        for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("WAV", "FLOAT")):
            content = sound(samples / 32768 if subtype == "FLOAT" else samples, format=kind, subtype=subtype)
            assert decode(Encoded(content, None, "a"), 1000).tolist() == samples.tolist()

    def test_channels_are_averaged_and_loud_floats_clipped(self) -> None:
        stereo = np.array([[100, 300], [-2, -4]], np.int16)
        assert decode(Encoded(sound(stereo), None, "a"), 1000).tolist() == [200, -3]
        assert decode(Encoded(sound(np.array([2.0, -2.0]), subtype="FLOAT"), None, "a"), 1000).tolist() == [
            32767,
            -32768,
        ]

    def test_other_rates_are_resampled(self) -> None:
        time = np.arange(2000) / 2000
        x = decode(Encoded(sound(0.5 * np.sin(2 * np.pi * 50 * time), 2000), None, "a"), 1000)
        assert len(x) == 1000
        expected = 16384 * np.sin(2 * np.pi * 50 * np.arange(1000) / 1000)
        assert np.abs(x - expected)[50:-50].max() < 60

    def test_short_clips_end_in_zeros_and_long_ones_are_cut(self) -> None:
        assert decode_clip(Clip(Encoded(sound(ramp(1, 60)), None, "a")), SMALL).tolist() == [*range(1, 61), *[0] * 40]
        assert decode_clip(Clip(Encoded(sound(ramp(1, 101)), None, "a")), SMALL).tolist() == list(range(1, 101))

    @pytest.mark.parametrize(
        ("place", "length", "first"), [(0.0, 103, 0), (0.5, 103, 2), (0.999, 103, 3), (0.999, 100, 0), (0.999, 50, 0)]
    )
    def test_places(self, place: float, length: int, first: int) -> None:
        clip = Clip(Encoded(sound(ramp(0, length)), None, "a"), place)
        assert decode_clip(clip, SMALL)[:50].tolist() == list(range(first, first + 50))

    def test_volume(self) -> None:
        assert decode_clip(Clip(Encoded(sound(ramp(100)), None, "a"), 0.0, 0.5), SMALL)[:3].tolist() == [50, 50, 51]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"nonsense", "a: cannot be decoded as sound"),
            (b"", "a: cannot be decoded as sound: the file is empty"),
            (sound(ramp(0, 0)), "a: holds no sound"),
            (sound(np.array([0.0, np.nan]), subtype="FLOAT"), "a: holds samples that are not finite"),
            (None, "a: is missing"),
        ],
        # Not the bytes: a file of floats holds the second it was written in, and workers must agree on names.
        ids=["nonsense", "empty", "no samples", "not finite", "missing"],
    )
    def test_refuses(self, content: bytes | None, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            decode(Encoded(content, None, "a"), 1000)
        assert "\n" not in str(caught.value)

    def test_says_which_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
        with pytest.raises(InputError, match=r"'soundfile', which is not installed: pip install 'litesnn\[audio\]'"):
            decode(Encoded(b"", None, "a"), 1000)


class TestCache:
    def test_makes_once(self, cache: Path) -> None:
        made: list[int] = []

        def make() -> torch.Tensor:
            made.append(1)
            return torch.arange(6, dtype=torch.int16).reshape(2, 3)

        for _ in range(2):
            x = cached("numbers", "a" * 64, make)
            assert x.dtype == torch.int16
            assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert len(made) == 1
        assert [file.name for file in cache.iterdir()] == ["numbers-" + "a" * 32 + ".safetensors"]
        cached("numbers", "b" * 64, make)
        assert len(made) == 2

    @pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
    def test_what_is_damaged_is_made_anew_and_said(
        self, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = "c" * 64
        cached("x", key, lambda: torch.ones(50))
        (file,) = cache.iterdir()
        data = file.read_bytes()
        other = "c" * 32 + "d" * 32
        changed = {
            "cut": data[:-7],
            "bit": data[:-1] + b"\1",
            "empty": b"",
            "other": data.replace(key.encode(), other.encode()),
        }
        file.write_bytes(changed[damage])
        with caplog.at_level(logging.WARNING):
            assert torch.equal(cached("x", key, lambda: torch.ones(50)), torch.ones(50))
        assert f"{file} is damaged, and made anew" in caplog.text
        assert file.read_bytes() == data

    def test_a_folder_that_cannot_be_written_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "file"))
        with caplog.at_level(logging.WARNING):
            assert cached("x", "k", lambda: torch.ones(1)).tolist() == [1]
        assert "not kept for the next time" in caplog.text

    def test_the_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cache_folder().name == "cache"
        monkeypatch.delenv("LITESNN_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert cache_folder() == Path("/somewhere/litesnn")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path("~/.cache/litesnn").expanduser()

    def test_recordings_are_decoded_once_and_again_when_they_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded: list[str] = []

        def counted(encoded: Encoded, rate: int) -> np.ndarray:
            decoded.append(encoded.name)
            return decode(encoded, rate)

        monkeypatch.setattr(audio, "decode", counted)
        path = tmp_path / "a.wav"

        def rows(settings: LogMel = SMALL, place: float = 0.0) -> Recordings:
            clip = Clip(Encoded(None, str(path), "a"), place)
            return Recordings(lambda rows: [clip] * len(rows), np.arange(2), settings)

        path.write_bytes(sound(ramp(5)))
        first = rows().features()
        assert torch.equal(rows().features(), first)
        assert len(decoded) == 2
        assert rows(SMALL.model_copy(update={"mels": 3})).features().shape == (2, 1, 3, 11)
        assert len(decoded) == 2  # only the features are others
        rows(place=0.5).features()
        assert len(decoded) == 3  # one long file for both
        path.write_bytes(sound(ramp(5, 120)))
        rows().features()
        assert len(decoded) == 5


TEN = dict.fromkeys(WORDS, 4)


class TestSpeechCommands:
    def test_all_words_by_their_lists(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "speech", {"bed": 5, "cat": 4})
        data = load(DataSettings(source=str(folder)), FrontEnds(SMALL))
        assert (data.name, data.classes, data.kind, data.shape) == ("speech", ("bed", "cat"), "array", (1, 4, 11))
        assert data.front_end == SMALL
        assert [split.y.tolist() for split in (data.train, data.validation, data.test())] == [
            [0, 0, 0, 1, 1],
            [0, 1],
            [0, 1],
        ]
        assert "lists" in data.notes[0]
        assert len(data.notes) == 1
        assert data.train.sound is not None
        clips = data.train.sound.recordings.clips()
        assert clips[:, 0].tolist() == [2, 3, 4, 1002, 1003]
        assert torch.equal(data.train.x, log_mel(clips, SMALL))
        test = data.test().sound
        assert test is not None
        assert test.recordings.clips()[:, 0].tolist() == [0, 1000]

    def test_twelve_classes(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "speech", {**TEN, "bed": 6, "cat": 6})
        data = load(DataSettings(source=str(folder), commands=12), FrontEnds(SMALL))
        assert data.classes == (*WORDS, SILENCE, UNKNOWN)
        assert "recordings of other words not read" in data.notes[-1]
        for split, known in ((data.train, 20), (data.validation, 10), (data.test(), 10)):
            counts = torch.bincount(split.y, minlength=12).tolist()
            assert counts == [known // 10] * 10 + [known // 10] * 2
            assert split.sound is not None
            clips = split.sound.recordings.clips()
            unknown = clips[split.y == 11][:, 0]
            assert set((unknown // 1000).tolist()) <= {10, 11}
            assert (clips[split.y == 10] <= 0).all()  # the noise is negative
        assert data.train.sound is not None
        assert data.train.sound.noise is not None
        assert torch.equal(data.train.sound.noise(), torch.from_numpy(ramp(-5000, 400)))

    def test_what_is_not_read_is_said(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "speech", {"bed": 5, "cat": 4})
        (folder / "_extra_").mkdir()
        (folder / "_extra_" / "a.wav").touch()
        os.mkfifo(folder / "bed" / "pipe.wav")
        assert read_commands(folder, None).notes == (f"2 files of {folder} not read: 2 .wav",)

    def test_draws_are_seeded_and_differ_by_split(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "speech", {**dict.fromkeys(WORDS, 30), "bed": 60})
        found, again = read_commands(folder, 12), read_commands(folder, 12)
        for split, (clips, labels) in found.splits.items():
            assert again.splits[split][0] == clips
            assert again.splits[split][1].tolist() == labels.tolist()
        silence = [clip for clips, _ in found.splits.values() for clip in clips if clip.place]
        assert len(silence) == 28 + 1 + 1
        assert len({(clip.place, clip.volume) for clip in silence}) == 30
        assert all(0 < clip.place < 1 and 0 <= clip.volume < 1 for clip in silence)
        rows = [clip.encoded.path for clips, _ in found.splits.values() for clip in clips if not clip.place]
        assert len(rows) == len(set(rows))

    @pytest.mark.parametrize(
        ("change", "commands", "message"),
        [
            (None, 35, "has 2 folders of words; data.commands = 35 needs 35"),
            (None, 12, "has no folder 'yes'"),
            (("testing_list.txt", "bed/9.wav"), None, "testing_list.txt: lists bed/9.wav, which is not there"),
            (("testing_list.txt", "bed/1.wav"), None, "bed/1.wav stands on both lists"),
            (("testing_list.txt", "../../bed/1.wav"), None, "is not understood; expected word/file"),
            (("testing_list.txt", "../x.wav"), None, "lists ../x.wav, which is not there"),
            (("testing_list.txt", "\udcff"), None, "cannot be read"),
            (("bed/2.wav", "nonsense"), None, "bed/2.wav: cannot be decoded as sound"),
        ],
    )
    def test_refuses(self, tmp_path: Path, change: tuple[str, str] | None, commands: Any, message: str) -> None:
        folder = commands_folder(tmp_path / "speech", {"bed": 4, "cat": 4})
        if change is not None:
            (folder / change[0]).write_bytes(change[1].encode(errors="surrogateescape"))
        refused(folder, message, commands=commands)

    def test_refuses_silence_without_noise(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "speech", {**TEN, "bed": 4}, noise=False)
        refused(folder, "has no recordings in _background_noise_", commands=12)
        data = load(DataSettings(source=str(folder)), FrontEnds(SMALL))
        assert data.train.sound is not None
        assert data.train.sound.noise is None

    def test_other_data_must_have_so_many_classes(self, tmp_path: Path) -> None:
        refused("digits", "has 10 classes, but data.commands is 12; only the folder", commands=12)
        folder = table(tmp_path / "a", (*WORDS, SILENCE, UNKNOWN), rows=36)
        assert load(DataSettings(source=str(folder), commands=12), FrontEnds(SMALL)).classes[-2:] == (SILENCE, UNKNOWN)


def table(folder: Path, names: tuple[str, ...] = ("go", SILENCE), rows: int = 12, column: str = "audio") -> Path:
    """Parquet files as on the hub."""
    folder.mkdir()
    for split, count in (("train", rows), ("test", 4)):
        files = [{"bytes": sound(ramp(10 * row), format="FLAC"), "path": f"{row}.flac"} for row in range(count)]
        found = datasets.Dataset.from_dict({column: files, "label": [row % len(names) for row in range(count)]})
        found = found.cast_column("label", datasets.ClassLabel(names=list(names)))
        found.cast_column(column, datasets.Audio(sampling_rate=1000, decode=False)).to_parquet(
            folder / f"{split}-00000-of-00001.parquet"
        )
    return folder


class TestTables:
    def test_reads_the_hub_layout(self, tmp_path: Path) -> None:
        data = load(DataSettings(source=str(table(tmp_path / "a"))), FrontEnds(SMALL))
        assert (data.classes, data.kind, data.shape, data.front_end) == (("go", SILENCE), "array", (1, 4, 11), SMALL)
        assert data.train.sound is not None
        clips = data.train.sound.recordings.clips()
        assert (clips[:, 0] // 10 % 2).tolist() == data.train.y.tolist()
        assert torch.equal(data.train.x, log_mel(clips, SMALL))
        assert data.mean == pytest.approx([float(data.train.x.double().mean())])
        assert len(data.test().y) == 4
        assert data.train.sound.noise is not None
        assert torch.equal(data.train.sound.noise(), clips[data.train.y == 1].flatten())

    def test_columns_can_be_named(self, tmp_path: Path) -> None:
        folder = table(tmp_path / "a", ("yes", "no"), column="clip")
        data = load(DataSettings(source=str(folder), audio_column="clip"), FrontEnds(SMALL))
        assert data.shape == (1, 4, 11)
        assert data.train.sound is not None
        assert data.train.sound.noise is None
        refused(folder, "data.audio_column is 'sound', but the columns are clip, label", audio_column="sound")

    def test_a_damaged_clip_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        rows = {"audio": [sound(ramp(0))] * 11 + [b"x"], "label": [0, 1] * 6}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a" / "train.parquet")
        with pytest.raises(InputError, match="row 11: cannot be decoded as sound"):
            load(DataSettings(source=str(tmp_path / "a")), FrontEnds(SMALL)).test()


class TestAugmentation:
    CLIPS = torch.from_numpy(np.stack([ramp(1), ramp(1001)]).astype(np.int16))

    def test_a_shift_is_one_of_whole_clips_and_brings_in_silence(self) -> None:
        seen = set()
        for seed in range(40):
            x = augment_sound(self.CLIPS, AugmentSettings(shift_ms=3), generator_for(seed), None, 1000) * 32768
            for clip, result in zip(self.CLIPS.tolist(), x.tolist(), strict=True):
                padded = [0] * 3 + clip + [0] * 3
                (start,) = [start for start in range(7) if padded[start : start + 100] == result]
                seen.add(start)
        assert seen == set(range(7))

    def test_noise_has_its_volume_and_share(self) -> None:
        clips = torch.zeros(2000, 10, dtype=torch.int16)
        noise = torch.full((15,), 16384, dtype=torch.int16)
        x = augment_sound(clips, AugmentSettings(noise=0.5, noise_share=0.7), generator_for(0), noise, 1000)
        assert (x == x[:, :1]).all()
        volume = 2 * x[:, 0]
        assert (volume > 0).float().mean() == pytest.approx(0.7, abs=0.05)
        assert 0.48 < volume.max() <= 0.5
        assert volume[volume > 0].mean() == pytest.approx(0.25, abs=0.02)

    def test_noise_is_a_piece_of_it_and_sums_are_clipped(self) -> None:
        noise = torch.from_numpy(ramp(1, 130))
        settings = AugmentSettings(noise=1, noise_share=1)
        starts = set()
        for seed in range(30):
            x = augment_sound(torch.zeros(1, 100, dtype=torch.int16), settings, generator_for(seed), noise, 1000)[0]
            slope = (x[1:] - x[:-1]).mean()
            starts.add(round(float(x[0] / slope)))
        assert starts <= set(range(1, 32))
        assert len(starts) > 10
        loud = torch.full((20, 10), 32767, dtype=torch.int16)
        assert (
            augment_sound(loud, settings, generator_for(0), torch.full((3,), 32767, dtype=torch.int16), 1000).max() <= 1
        )

    def test_masks_are_stretches_of_the_mean(self) -> None:
        x = torch.ones(300, 1, 7, 9)
        result = augment(x, AugmentSettings(frequency_mask=3), generator_for(0))
        gone = result[:, 0] == 0
        assert torch.equal(gone, gone[:, :, :1].expand_as(gone))
        heights = gone[:, :, 0].sum(1)
        assert set(heights.tolist()) == {0, 1, 2, 3}
        for rows in gone[:, :, 0]:
            places = rows.nonzero().flatten()
            assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)
        assert gone.any(0).all()
        gone = augment(x, AugmentSettings(time_mask=20, masks=2), generator_for(0))[:, 0] == 0
        assert torch.equal(gone, gone[:, :1].expand_as(gone))
        assert gone.all(2).any()  # a mask may be as long as the clip

    def test_parts_of_a_batch_get_what_they_get_in_all(self) -> None:
        settings = AugmentSettings(shift_ms=5, noise=0.5, time_mask=4, frequency_mask=2, masks=2)
        noise = torch.from_numpy(ramp(0, 150))
        clips = torch.randint(-9000, 9000, (6, 100), generator=generator_for(1)).to(torch.int16)
        whole = augment_sound(clips, settings, generator_for(0), noise, 1000)
        part = augment_sound(clips[2:4], settings, generator_for(0), noise, 1000, place=(slice(2, 4), 6))
        assert torch.equal(whole[2:4], part)
        x = torch.ones(6, 1, 5, 8)
        whole = augment(x, settings, generator_for(0))
        assert torch.equal(whole[2:4], augment(x[2:4], settings, generator_for(0), place=(slice(2, 4), 6)))

    def test_batches_of_changed_sound(self, tmp_path: Path) -> None:
        """Without changes the features of changed sound are the inputs; with them they are others, by the seed."""
        data = load(DataSettings(source=str(table(tmp_path / "a"))), FrontEnds(SMALL))
        info, session = input_info(data), Session()
        settings = AugmentSettings(shift_ms=4, noise=0.3)
        rows = session.samples(data.train, info, settings)
        assert rows.clips is not None
        assert session.samples(data.train, info, AugmentSettings(time_mask=3)).clips is None
        assert torch.equal(rows.clips.to_input(rows.clips.x), rows.x)
        ((first, _),) = shuffled_batches(rows, 99, generator_for(0, "a"), settings)
        ((again, _),) = shuffled_batches(rows, 99, generator_for(0, "a"), settings)
        ((plain, _),) = shuffled_batches(rows, 99, generator_for(0, "a"), None)
        assert first.shape == plain.shape
        assert torch.equal(first, again)
        assert not torch.equal(first, plain)
        both = joined(rows, session.samples(data.validation, info, settings))
        assert both.clips is not None
        assert len(both.clips.x) == len(both.x)
        assert torch.equal(both.clips.to_input(both.clips.x), both.x)

    @pytest.mark.parametrize(
        ("source", "text", "message"),
        [
            ("digits", "[augment]\nshift_ms = 10", "augment.shift_ms is 10.0, but digits holds no sound; expected 0"),
            ("digits", "[augment]\nnoise = 0.1", "augment.noise is 0.1, but digits holds no sound"),
            ("digits", "[augment]\ntime_mask = 3", "augment.time_mask is 3, but digits holds images"),
            ("digits", "[augment]\nfrequency_mask = 3", "augment.frequency_mask is 3, but digits holds images"),
            ("digits", "[audio]\nmels = 20", r"\[audio\] says how sound becomes features, but digits holds no sound"),
            ("a", "[augment]\nflip = true", "augment.flip is True, but a holds sound"),
            ("a", "[augment]\ncrop = 2", "augment.crop is 2, but a holds sound"),
            ("a", "[augment]\nnoise = 0.1", "augment.noise is 0.1, but a has no background noise"),
        ],
    )
    def test_what_means_nothing_is_refused(self, tmp_path: Path, source: str, text: str, message: str) -> None:
        where = source if source == "digits" else str(table(tmp_path / "a", ("yes", "no")))
        recipe = Recipe.from_toml(text, changes={"data.source": where})
        data = load(recipe.data, FrontEnds(SMALL if source == "a" else recipe.audio))
        with pytest.raises(InputError, match=message):
            require_sensible(recipe, data)

    def test_what_means_something_is_not(self, tmp_path: Path) -> None:
        data = load(DataSettings(source=str(table(tmp_path / "a"))), FrontEnds(SMALL))
        text = "[augment]\nshift_ms = 10\nnoise = 0.1\ntime_mask = 3\nfrequency_mask = 2\ncutout = 3"
        require_sensible(Recipe.from_toml(text), data)
        require_sensible(Recipe.from_toml("[augment]\ncrop = 1\nflip = true"), load(DataSettings(train_limit=40)))


class TestSingle:
    def test_a_sound_file_becomes_features(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(sound(ramp(0, 70)))
        x = load_inputs(tmp_path / "a.wav", SMALL.shape, "array", SMALL)
        clip = torch.cat([torch.from_numpy(ramp(0, 70)), torch.zeros(30, dtype=torch.int16)])
        assert torch.equal(x, log_mel(clip[None], SMALL))
        np.save(tmp_path / "a.npy", x.numpy())
        assert torch.equal(load_inputs(tmp_path / "a.npy", SMALL.shape, "array", SMALL), x)

    def test_refuses(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(b"nonsense")
        with pytest.raises(InputError, match=r"a\.wav: cannot be decoded as sound"):
            load_inputs(tmp_path / "a.wav", SMALL.shape, "array", SMALL)
        with pytest.raises(InputError, match="this network takes arrays"):
            load_inputs(tmp_path / "a.wav", SMALL.shape, "array")
        with pytest.raises(InputError, match="cannot be decoded as an image"):
            load_inputs(tmp_path / "a.wav", (1, 4, 4), "image")


def refused(source: Path | str, message: str, **settings: Any) -> None:
    """Loading raises an error of one line that matches ``message``."""
    with pytest.raises(InputError, match=message) as caught:
        load(DataSettings(source=str(source), **settings), FrontEnds(SMALL))
    assert "\n" not in str(caught.value)
