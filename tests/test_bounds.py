"""What files say of their size is a claim: it meets a bound before memory is taken, and is counted while reading."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from image_data import image_folder
from litesnn.data import audio, bounds, event_files, images, numpy_files
from litesnn.data.audio import Clip, Recordings, decode, sound_length
from litesnn.data.event_files import contents, find_events
from litesnn.data.events import read_frames
from litesnn.data.images import Encoded, image_sizes
from litesnn.data.numpy_files import read_npy, read_npz
from litesnn.data.sources import DataSettings, load
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, LogMel


def refused(message: str) -> Any:
    return pytest.raises(InputError, match=message)


class TestSound:
    def streamed(self) -> bytes:
        """A FLAC file as an encoder writes it that does not know how long the sound will be."""
        file = io.BytesIO()
        soundfile.write(file, np.arange(3000, dtype=np.int16), 1000, format="FLAC")
        content = bytearray(file.getvalue())
        content[21] &= 0xF0  # the 36 bits of the number of samples, after magic, block header and 13.5 bytes
        content[22:26] = bytes(4)
        return bytes(content)

    def test_an_unknown_length_is_read_to_the_end(self) -> None:
        encoded = Encoded(self.streamed(), None, "a.flac")
        np.testing.assert_array_equal(decode(encoded, 1000), np.arange(3000))
        assert sound_length(encoded) == (1000, 3.0)

    def test_an_unknown_length_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audio, "SOUND_SAMPLES", 2999)
        with refused("a.flac: has more samples than that"):
            decode(Encoded(self.streamed(), None, "a.flac"), 1000)

    @pytest.mark.parametrize("rate", [1, 99, 500_001, 2**31 - 1])
    def test_rates_have_bounds(self, rate: int) -> None:
        content = bytearray(wav(1000))
        content[24:28] = struct.pack("<I", rate)
        for read in (lambda encoded: decode(encoded, 16000), sound_length):
            with refused(rf"a\.wav: says {rate} samples per second; expected 100 to 500000"):
                read(Encoded(bytes(content), None, "a.wav"))

    def test_what_a_low_rate_becomes_has_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audio, "SOUND_SAMPLES", 1500)
        assert len(decode(Encoded(wav(1000), None, "a.wav"), 1000)) == 1000
        with refused("a.wav: is 2000 samples long at 2000 Hz"):
            decode(Encoded(wav(1000), None, "a.wav"), 2000)

    def test_a_length_that_is_too_long_is_what_is_there(self) -> None:
        content = bytearray(wav(1000))
        content[40:44] = struct.pack("<I", 2**32 - 4)
        assert len(decode(Encoded(bytes(content), None, "a.wav"), 1000)) == 1000


def wav(samples: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(samples, np.int16), 1000, format="WAV")
    return file.getvalue()


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 4)).save(file, "PNG")
    monkeypatch.setattr(images, "IMAGE_PIXELS", 31)
    with refused(r"a\.png: is 8 wide and 4 high; at most 31 pixels go"):
        image_sizes([Encoded(file.getvalue(), None, "a.png")])


def test_images_beyond_what_pillow_opens() -> None:
    file = io.BytesIO()
    Image.new("L", (8, 4)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    with refused(r"a\.png: cannot be decoded as an image"):
        image_sizes([Encoded(bytes(content), None, "a.png")])


def header(shape: str, kind: str = "|u1", length: int | None = None) -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text


class TestArrays:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (header(f"({10**30},)"), "takes 1000000000000000000000000000000 bytes, and it has 0"),
            (header("(4, 5)") + bytes(19), r"its shape \[4, 5\] of type uint8 takes 20 bytes, and it has 19"),
            (header("(4, 5)") + bytes(21), "takes 20 bytes, and it has 21"),
            (header("(-1, 5)") + bytes(5), r"its shape \[-1, 5\] is none"),
            (header(f"({2**40}, 0)"), None),
            (header("(2,)", "|O") + bytes(16), "it holds Python objects"),
            (header("(2,)", "nonsense") + bytes(16), "cannot be read as NumPy arrays"),
            (header("(" * 300, length=300), "cannot be read as NumPy arrays"),
            (header("(2,)", length=9), "cannot be read as NumPy arrays"),
            (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "its header says 2147483648 bytes; expected at most"),
            (b"\x93NUMPY\x09\x00", "its format has version 9.0"),
            (b"", "cannot be read as NumPy arrays"),
            (b"no array", "cannot be read as NumPy arrays"),
        ],
    )
    def test_npy(self, tmp_path: Path, content: bytes, message: str | None) -> None:
        (tmp_path / "a.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)
        if message is None:
            assert read_npy(tmp_path / "a.npy").size == 0
            return
        with refused(rf"a\.npy: .*{message}"):
            read_npy(tmp_path / "a.npy")
        with refused(rf"a\.npz: x: .*{message}"):
            read_npz(tmp_path / "a.npz", ("x",))

    def test_both_orders_and_all_kinds(self, tmp_path: Path) -> None:
        for array in (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["é", "b"]), np.zeros((0, 3))):
            np.save(tmp_path / "a.npy", array)
            np.savez_compressed(tmp_path / "a.npz", x=array)
            for found in (read_npy(tmp_path / "a.npy"), read_npz(tmp_path / "a.npz", ("x",))[0]["x"]):
                np.testing.assert_array_equal(found, array)
                assert found.dtype == array.dtype

    def test_a_bound(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(numpy_files, "ARRAY_BYTES", 99)
        np.save(tmp_path / "a.npy", np.zeros(100, np.uint8))
        with refused(r"a\.npy: .* takes 100 bytes; an array may 99"):
            read_npy(tmp_path / "a.npy")

    def test_a_member_that_is_larger_than_it_says(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez_compressed(path, x=np.zeros(10_000_000, np.uint8))
        content = path.read_bytes()
        size = struct.pack("<I", 10_000_128)
        assert content.count(size) >= 1
        path.write_bytes(content.replace(size, struct.pack("<I", 100)))
        with refused(r"a\.npz: x: cannot be read as NumPy arrays"):
            read_npz(path, ("x",))

    def test_any_damage_is_one_line_or_does_no_harm(self, tmp_path: Path) -> None:
        """Every byte of small files is changed: encrypted members, other methods, versions, lengths and shapes."""
        np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
        np.savez_compressed(tmp_path / "a.npz", x=np.arange(6))
        for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
            content = path.read_bytes()
            for place in range(len(content)):
                for change in (0x01, 0x20, 0xFF):
                    path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                    said = ""
                    try:
                        read_npy(path) if path.suffix == ".npy" else read_npz(path, ("x",))
                    except InputError as error:
                        said = str(error)
                    assert not said or (said.startswith(f"{path}: ") and "\n" not in said)

    def test_members_that_cannot_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
            with zipfile.ZipFile(path, "w", method) as archive:
                archive.writestr("x.npy", header("(2,)") + bytes(2))
            with refused(r"a\.npz: x: .*it is compressed by method"):
                read_npz(path, ("x",))
        np.savez(path, x=np.zeros(3))
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
        with refused(r"a\.npz: x: .*encrypted"):
            read_npz(path, ("x",))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", header("(2,)") + bytes(2))
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("x.npy", header("(2,)") + bytes(2))
        with refused(r"a\.npz: x\.npy is in it twice"):
            read_npz(path, ())


class TestArchives:
    def test_headers_of_any_length(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A header that says to have 2 GB, which is a small file if they are all zero."""
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 2**31
        with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
            file.write(info.tobuf() + bytes(2**20))
        with refused(r"a\.tar\.gz: cannot be read as an archive: its headers say 2147483648 bytes; expected at most"):
            find_events(tmp_path / "a.tar.gz")

    def test_archives_have_a_bound(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_files, "ARCHIVE_BYTES", 2**16)
        with tarfile.open(tmp_path / "a.tar", "w") as stream:
            for name in ("Train/a/1.bin", "Train/a/2.bin"):
                entry = tarfile.TarInfo(name)
                entry.size = 2**16
                stream.addfile(entry, io.BytesIO(bytes(2**16)))
        with refused("it has more than 65536 bytes unpacked"):
            find_events(tmp_path / "a.tar")

    def test_members_that_are_larger_than_they_say(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/1.bin", bytes(300_000))
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", 300_000), struct.pack("<I", 100)))
        with refused(r"a\.zip: cannot be read as an archive: .*CRC"):
            list(contents(find_events(path).splits["train"][0]))


class TestWhatIsNoFile:
    """None of these is opened: that would wait for a writer."""

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.zip", "a.tar.gz"])
    def test_sources(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        with refused(f"{name}: is a pipe, socket or device; expected a file|{name}: is not a folder"):
            load(DataSettings(source=str(tmp_path / name)))

    def test_files_that_tables_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a")
        for read in (lambda encoded: image_sizes([encoded]), sound_length):
            with refused("a: is a pipe, socket or device"):
                read(Encoded(None, str(tmp_path / "a"), str(tmp_path / "a")))
        with refused(f"{tmp_path}: is a folder"):
            bounds.require_file(tmp_path)


class TestSeveral:
    """Damaged files are said together."""

    def test_images(self, tmp_path: Path) -> None:
        image_folder(tmp_path / "a", {"cat": 10, "dog": 10})
        for number in (0, 2, 3, 5, 7):
            (tmp_path / "a" / "cat" / f"{number}.png").write_bytes(b"no image")
        with refused(r"\d of \d+ files cannot be read: .*cat/\d\.png: cannot.*cat/\d\.png: cannot"):
            load(DataSettings(source=str(tmp_path / "a")))
        encoded = [Encoded(b"no image", None, f"{number}.png") for number in range(5)]
        with refused(r"5 of 5 files cannot be read: (0\.png: .*; 1\.png: .*; 2\.png: .*|.*); and 2 more$"):
            image_sizes(encoded)

    def test_sound_and_events(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LITESNN_CACHE", str(tmp_path / "cache"))
        clips = [Clip(Encoded(content, None, f"{row}.wav")) for row, content in enumerate((b"no", wav(100), b"no"))]
        recordings = Recordings(lambda rows: [clips[row] for row in rows], np.arange(3), LogMel())
        with refused(r"2 of 3 files cannot be read: 0\.wav: .*; 2\.wav: "):
            recordings.clips()
        files = []
        for name in ("1.bin", "2.bin"):
            (tmp_path / name).write_bytes(b"no")
            files.append(event_files.EventFile(tmp_path / name))
        with refused(r"2 of 2 files cannot be read: .*1\.bin: .*; .*2\.bin: "):
            read_frames(files, EventFrames(), 1)
