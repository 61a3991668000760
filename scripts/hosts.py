"""The Whisper hosts of one runtime directory, as the system's list of processes shows them.

Also those that do not listen yet. Imports no part of the plugin: benchmarks measure that import.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

VARIABLE = "XDG_RUNTIME_DIR"
"""Where the hosts of a process are."""


@contextmanager
def own() -> Iterator[None]:
    """What uses a host in this block has one of its own, which ends with it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as runtime, using(runtime):
        try:
            yield
        finally:
            end(runtime)


@contextmanager
def using(runtime: str) -> Iterator[None]:
    """Processes that are started in this block have their hosts in this directory, as this has."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = runtime
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def alive(runtime: str | Path) -> list[psutil.Process]:
    """Those that were started with `XDG_RUNTIME_DIR` set to this directory, and live."""
    mark = str(Path(runtime, "livekit-whisper")) + os.sep
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(each.startswith(mark) for each in process.cmdline()) and not ended(process):
                found.append(process)
    return found


def end(runtime: str | Path, *, grace: float = 0.0) -> list[psutil.Process]:
    """Asks all of them to end, and kills those that have not after `grace` seconds.

    Returns:
        Those that it killed.
    """
    hosts, deadline = alive(runtime), time.monotonic() + grace
    while grace and hosts and time.monotonic() < deadline:
        for each in hosts:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        while not all(map(ended, hosts)) and time.monotonic() < deadline:
            time.sleep(0.02)
        hosts = alive(runtime)  # one that a process started meanwhile
    for each in hosts:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    return hosts


def ended(process: psutil.Process) -> bool:
    """Whether it has ended, even if nobody took note of it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
