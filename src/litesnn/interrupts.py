"""Ctrl-C, from the first line of the program on: without torch, and before anything that takes time is imported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "finished_first", "leave_at_once", "raise_again"]

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C has ended, as shells have it."""


def leave_at_once() -> None:
    """Until :func:`raise_again`, let an interrupt end the process, in one line.

    Imports take seconds, and an exception that is raised inside of one may become another, or a traceback. Nothing has
    been begun by then that could be left half done. A process that ignores interrupts goes on ignoring them.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """Let an interrupt raise ``KeyboardInterrupt``, as it does in every Python program."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def finished_first() -> Iterator[None]:
    """Let an interrupt wait until a short piece of work is done, or tidied up, however often somebody presses Ctrl-C.

    Only the main thread gets interrupts, and a program that handles them in its own way goes on doing so.
    """
    handlers = (signal.default_int_handler, _leave)
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before not in handlers:
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"litesnn: interrupted\n")
    os._exit(INTERRUPTED)
