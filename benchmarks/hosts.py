"""The hosts of a run: they are its own, in a directory of its own, and none outlives it.

Imports no part of the plugin's: that import belongs to what is measured.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from scripts import hosts

_END_SECONDS = 20.0
"""For hosts that are told to end."""
_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def own() -> Iterator[None]:
    """Gives all processes that are started in this block hosts of their own; ends those after it.

    To be entered before the first of them: they inherit the directory's name.
    """
    folder = tempfile.mkdtemp(prefix="whisper-bench-")
    with hosts.using(folder):
        try:
            yield
        except Exception:
            _show_logs(Path(folder))
            raise
        finally:
            # Whoever is told twice to stop leaves no host behind either.
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
            try:
                end()
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def alive() -> list[psutil.Process]:
    """The hosts of this run, also those that do not listen yet."""
    return hosts.alive(os.environ[hosts.VARIABLE])


def only() -> psutil.Process:
    """The one host that lives."""
    (process,) = alive()
    return process


def cpu_seconds() -> float:
    """What the host has used so far, of all cores together; 0 where there is none."""
    return sum(times.user + times.system for times in (each.cpu_times() for each in alive()))


def end() -> None:
    """Ends all of them, and waits for it."""
    hosts.end(os.environ[hosts.VARIABLE], grace=_END_SECONDS)


def _show_logs(folder: Path) -> None:
    """What hosts wrote last: it says why they failed, and is removed with the folder."""
    for path in sorted(folder.rglob("*.log")):
        lines = path.read_text(errors="replace").splitlines()[-20:]
        print(f"==> {path} <==", *lines, sep="\n", file=sys.stderr)
