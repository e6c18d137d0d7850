from __future__ import annotations

import errno
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from litesnn.errors import InputError
from litesnn.files import JsonLog, write_atomically


@pytest.mark.parametrize(("content", "data"), [("grün\n", "grün\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_content_arrives(tmp_path: Path, content: str | bytes, data: bytes) -> None:
    for _ in range(2):  # a new file, then over an old one
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exists: bool
) -> None:
    path = tmp_path / "file"
    if exists:
        path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=r"file: cannot be written: No space left on device$"):
        write_atomically(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == (["file"] if exists else [])
    assert not exists or path.read_text() == "old"


def test_the_name_appears_only_when_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append((tmp_path / "file").read_text())
        sync(descriptor)

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", look)
    write_atomically(tmp_path / "file", "new")
    assert seen == ["old"]  # and it was synced at all


@pytest.mark.parametrize("where", ["missing/file", "plain/file", "n" * 300])
def test_where_nothing_can_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / where, "new")


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_log_is_written_line_by_line(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    assert JsonLog.read(log.path) == []
    for epoch in (1, 2):
        log.write({"epoch": epoch, "loss": 0.5, "name": "zwölf\u2028"})
        assert len(JsonLog.read(log.path)) == epoch
    assert log.path.read_text(encoding="utf-8").count("\n") == 2
    assert JsonLog.read(log.path)[1] == {"epoch": 2, "loss": 0.5, "name": "zwölf\u2028"}


@pytest.mark.parametrize(("keep", "epochs"), [(0, []), (1, [1, 1]), (2, [1, 1, 2]), (9, [1, 1, 2, 3])])
def test_a_resumed_log_drops_what_will_be_written_again(tmp_path: Path, keep: int, epochs: list[int]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 1, 2, 3)) + '{"epoch": 3, "lo')
    log = JsonLog(path, keep_epochs=keep)
    assert [row["epoch"] for row in JsonLog.read(path)] == epochs
    log.write({"epoch": 4})
    assert [row["epoch"] for row in JsonLog.read(path)] == [*epochs, 4]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = '{"epoch": 1}\n{"epoch": 2}\n'
    for end in range(len(whole) + 1):
        path.write_text(whole[:end])
        assert JsonLog.read(path) == [{"epoch": 1}, {"epoch": 2}][: whole[:end].count("\n")]


def test_a_new_log_where_there_is_none_to_resume(tmp_path: Path) -> None:
    JsonLog(tmp_path / "log.jsonl", keep_epochs=5)
    assert JsonLog.read(tmp_path / "log.jsonl") == []


def test_an_interrupt_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_interrupts_wait_for_a_file_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often Ctrl-C is pressed: the second one used to come while the first was tidied up."""
    flushed = os.fsync

    def interrupted(file: int) -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        flushed(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_that_somebody_else_handles_are_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
        write_atomically(tmp_path / "a.txt", "new")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["theirs"]


def test_a_thread_writes_too(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write_atomically, tmp_path / "a.txt", "new").result()
    assert (tmp_path / "a.txt").read_text() == "new"
