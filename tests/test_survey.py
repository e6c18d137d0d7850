"""What data sets suggest for a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from event_data import dataset, encoded, write_tree
from image_data import image_folder, npz, parquet
from litesnn.config import Recipe
from litesnn.data.cache import CACHE_VARIABLE
from litesnn.data.sources import DataSettings, load
from litesnn.data.survey import Advice, suggest_settings
from litesnn.errors import InputError
from sounds import commands_folder, sound


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("tables")))


def suggested(source: Path | str, timesteps: int = 4, **settings: Any) -> dict[str, Any]:
    """The values; with them the data set loads, and nothing more is suggested for images."""
    advice = suggest_settings(DataSettings(source=str(source), **settings), timesteps=timesteps)
    assert all(isinstance(found, Advice) and found.reason and "\n" not in found.reason for found in advice.values())
    values = {key: found.value for key, found in advice.items()}
    recipe = Recipe.from_toml("", changes={**values, "data.source": str(source)})
    assert len(load(recipe.data, recipe.front_ends).train.y) > 0
    return values


def clips(folder: Path, seconds: list[float], rate: int = 8000, kind: str = "WAV") -> Path:
    """Two classes of recordings that last so long."""
    for number, length in enumerate(seconds):
        for name in ("go", "no"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            content = sound(np.zeros(round(length * rate)), rate, format=kind)
            (folder / name / f"{number}.{kind.lower()}").write_bytes(content)
    return folder


class TestImages:
    def test_small_ones_of_one_size_stay(self, tmp_path: Path) -> None:
        assert suggested("digits") == {}
        assert suggested(image_folder(tmp_path / "a", {"a": 6, "b": 6})) == {}
        assert suggested(parquet(tmp_path / "b")) == {}

    def test_large_and_mixed_ones(self, tmp_path: Path) -> None:
        large = image_folder(tmp_path / "a", {"a": 6, "b": 6}, np.zeros((40, 90), np.uint8))
        advice = suggest_settings(DataSettings(source=str(large)), timesteps=1)
        assert advice == {"data.size": Advice(48, "images are 90 wide and 40 high")}
        assert suggest_settings(DataSettings(source=str(large), size=20), timesteps=1) == {}
        mixed = image_folder(tmp_path / "b", {"a": 6, "b": 6}, np.zeros((30, 30), np.uint8))
        for name in "ab":
            for number in range(3):
                Image.new("L", (200, 100)).save(mixed / name / f"{number}.png")
        values = suggested(mixed)
        assert values == {"data.size": 64}
        assert load(DataSettings(source=str(mixed))).shape[1:] == (64, 64)

    def test_arrays(self, tmp_path: Path) -> None:
        y = np.arange(10) % 2
        assert suggested(npz(tmp_path / "a.npz", x=np.zeros((10, 3, 96, 96), np.uint8), y=y)) == {"data.size": 64}
        assert suggested(npz(tmp_path / "b.npz", x=np.zeros((10, 3, 96, 96)), y=y)) == {}

    def test_of_the_test_nothing_is_read(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a", {"train/a": 6, "train/b": 6, "test/a": 2})
        for number in range(2):
            (folder / "test" / "a" / f"{number}.png").write_bytes(b"damaged")
        assert suggest_settings(DataSettings(source=str(folder)), timesteps=1) == {}
        for path in sorted((folder / "train").glob("*/*.png"))[1:]:
            path.write_bytes(b"damaged")  # which loading says: what is whole suffices for advice
        assert suggest_settings(DataSettings(source=str(folder)), timesteps=1) == {}
        (folder / "train" / "a" / "0.png").write_bytes(b"damaged")
        with pytest.raises(InputError, match=r"0\.png: cannot be decoded"):
            suggest_settings(DataSettings(source=str(folder)), timesteps=1)


class TestSound:
    def test_spoken_digits(self, tmp_path: Path) -> None:
        values = suggested(clips(tmp_path / "a", [0.3, 0.4, 0.5, 0.62]))
        assert values == {"audio.sample_rate": 8000, "audio.high_hz": 4000.0, "audio.clip_ms": 600.0}

    def test_a_second_of_16_khz_is_the_default(self, tmp_path: Path) -> None:
        assert suggested(clips(tmp_path / "a", [1.0, 1.0, 0.9, 1.001], 16000, "FLAC")) == {}

    def test_the_highest_rate_is_16_khz(self, tmp_path: Path) -> None:
        assert suggested(clips(tmp_path / "a", [1.0] * 4, 44100)) == {}

    def test_long_clips_have_no_more_frames(self, tmp_path: Path) -> None:
        folder = clips(tmp_path / "a", [9.0, 10, 12, 14], 16000)
        values = suggested(folder)
        assert values == {"audio.clip_ms": 4000.0, "audio.hop_ms": 40.0, "audio.window_ms": 80.0}
        reason = suggest_settings(DataSettings(source=str(folder)), timesteps=1)["audio.clip_ms"].reason
        assert reason == "recordings last 10 to 14 s; the first 4 s of each are heard"
        recipe = Recipe.from_toml("", changes=values)
        assert recipe.audio.shape == (1, 40, 99)

    @pytest.mark.parametrize("seconds", [0.01, 0.05, 0.15, 0.3, 0.7, 1.05, 1.3, 2.1, 3.9, 30])
    @pytest.mark.parametrize("rate", [2000, 4000, 8000, 11025, 22050])
    def test_any_length_and_rate_can_be_read(self, tmp_path: Path, seconds: float, rate: int) -> None:
        folder = clips(tmp_path / "a", [seconds] * 4, rate)
        advice = suggest_settings(DataSettings(source=str(folder)), timesteps=1)
        audio = Recipe.from_toml("", changes={key: found.value for key, found in advice.items()}).audio
        assert audio.sample_rate == min(rate, 16000)
        assert audio.shape[1] * audio.shape[2] <= 40 * 106
        assert audio.shape[2] >= 25 or seconds < 0.05

    def test_tables_and_lists_say_the_same(self, tmp_path: Path) -> None:
        folder = clips(tmp_path / "a", [0.62] * 6)
        (tmp_path / "t").mkdir()
        rows = {"audio": [path.read_bytes() for path in sorted(folder.rglob("*.wav"))], "label": [0] * 6 + [1] * 6}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "t" / "train.parquet")
        lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.wav"))]
        (folder / "list.csv").write_text("\n".join(["file,label", *lines]))
        assert suggested(tmp_path / "t") == suggested(folder) == suggested(folder / "list.csv") != {}

    def test_speech_commands(self, tmp_path: Path) -> None:
        folder = commands_folder(tmp_path / "a", {"go": 6, "no": 6})
        assert suggested(folder)["audio.sample_rate"] == 1000


class TestEvents:
    def test_the_sensor_and_the_length_of_a_frame(self, tmp_path: Path) -> None:
        folder = write_tree(tmp_path / "a", dataset())
        assert suggested(folder) == {"events.height": 8, "events.width": 8, "events.frame_ms": 14.0}

    @pytest.mark.parametrize(("largest", "side"), [(33, 34), (126, 128), (111, 120), (84, 88), (239, 240), (255, 256)])
    def test_known_sensors(self, tmp_path: Path, largest: int, side: int) -> None:
        content = encoded([(largest, 0, 1, 0), (0, 33, 0, 200_000)])
        folder = write_tree(tmp_path / "a", {f"{name}/{number}.bin": content for name in "ab" for number in range(8)})
        values = suggested(folder)
        assert values == ({} if side == 34 else {"events.width": side})
