"""Recordings made for tests, and a folder like that of Speech Commands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

__all__ = ["commands_folder", "ramp", "sound"]


def sound(samples: Any, rate: int = 1000, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", **options})
    return buffer.getvalue()


def ramp(start: int, count: int = 100) -> np.ndarray:
    """int16 samples from which one can see where a clip begins."""
    return np.arange(start, start + count).astype(np.int16)


def commands_folder(folder: Path, words: dict[str, int], *, noise: bool = True) -> Path:
    """A folder like that of Speech Commands: so many clips of each word; 0 is in the test, 1 in validation."""
    lists: dict[str, list[str]] = {"testing": [], "validation": []}
    for number, (word, count) in enumerate(words.items()):
        (folder / word).mkdir(parents=True)
        for clip in range(count):
            (folder / word / f"{clip}.wav").write_bytes(sound(ramp(1000 * number + clip)))
        lists["testing"].append(f"{word}/0.wav")
        lists["validation"].append(f"{word}/1.wav")
    for name, rows in lists.items():
        (folder / f"{name}_list.txt").write_text("\n".join(rows) + "\n")
    if noise:
        (folder / "_background_noise_").mkdir()
        (folder / "_background_noise_" / "hum.wav").write_bytes(sound(ramp(-5000, 400)))
        (folder / "_background_noise_" / "README.md").write_text("not sound")
    return folder
