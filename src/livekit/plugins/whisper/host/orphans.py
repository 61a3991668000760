"""Hosts that have lost who started them: their end is noted by a container's process 1.

A host outlives the job that started it. Where that job ends first, the system makes the host a
child of process 1. An init takes note of the end of any child; a Python program that is process 1
of a container does not, and each host would leave an entry in the list of processes (a zombie).
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

NAME = "whisper-host"
"""How a host is called in the list of processes, dead or alive. Linux has room for 15 bytes."""

STARTED: set[int] = set()
"""The hosts that this process has started itself, whose end a thread of its own waits for."""


def name_process() -> None:
    """Gives this process, a host, the name that it is known by."""
    with suppress(OSError):  # not on Linux
        Path("/proc/self/comm").write_text(NAME)


def note_their_end() -> None:
    """Takes note of hosts that end, from now on, in a container's process 1; elsewhere nothing.

    Must be called in the main thread. Leaves alone whoever handles SIGCHLD by himself.
    """
    if sys.platform == "linux" and os.getpid() == 1:
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
            signal.signal(signal.SIGCHLD, _on_child)


def _on_child(number: int, frame: FrameType | None) -> None:
    if os.getpid() != 1:  # a child that was forked from it
        return
    for child in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            ended = child.status() == psutil.STATUS_ZOMBIE and child.name() == NAME
            if ended and child.pid not in STARTED:
                os.waitpid(child.pid, os.WNOHANG)
