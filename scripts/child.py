"""A program that is started, awaited, and gone afterwards, with all of its own children."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import psutil
from typing_extensions import Self

_HURRY = 3.0
"""Seconds that a program has for its end when something went wrong, or somebody wants to go."""


class Child(ABC):
    """A program in a process group of its own, with its output in a file.

    Leaving the block asks it to stop, waits for `grace` seconds, insists, and kills what is left.
    """

    alive: ClassVar[set[Child]] = set()

    def __init__(self, workdir: Path | None, name: str, *, grace: float) -> None:
        self._temporary = None if workdir else tempfile.TemporaryDirectory(prefix=f"{name}-")
        self.workdir = workdir or Path(self._temporary.name if self._temporary else ".")
        self.log = self.workdir / f"{name}.log"
        self._last_output = ""
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    async def _start(self) -> None: ...

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop(_HURRY)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(_HURRY if kind else None)

    @property
    def pid(self) -> int:
        """Of the program, and of its process group."""
        assert self._process is not None, "not started"
        return self._process.pid

    def output(self) -> str:
        """What it has written so far, also after its end."""
        return self.log.read_text(errors="replace") if self.log.exists() else self._last_output

    def _spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        # Not asyncio's: nothing can be cancelled between the start and `alive`.
        # A new file: lines of an earlier run in this directory would pass for this one's.
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=self.workdir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        Child.alive.add(self)

    def _check_running(self) -> None:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            raise ChildFailed(f"{self.log.stem} ended with status {status}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The end of its output, for an error message."""
        return "\n".join(self.output().splitlines()[-lines:])

    async def stop(self, grace: float | None = None) -> None:
        """Ends the program and everything in its process group; harmless when it has ended."""
        if (process := self._process) is not None:
            try:
                # The second signal means "now": both programs know it.
                for seconds in (self._grace if grace is None else grace, 3.0):
                    if process.poll() is None:
                        process.terminate()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await until(lambda: process.poll() is not None, seconds)
            finally:
                self.kill()
            with contextlib.suppress(asyncio.TimeoutError):
                await until(lambda: not _group(process.pid), 5)
        self._tidy()

    def _tidy(self) -> None:
        if self._temporary is not None:
            self._last_output = self.output()
            self._temporary.cleanup()

    def kill(self) -> None:
        """Ends all of it at once; its output stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        Child.alive.discard(self)


class ChildFailed(RuntimeError):
    """A program ended by itself or was not ready in time; the message ends with its last lines."""


def kill_all() -> None:
    """Kills whatever is still running, at once: for a second Ctrl-C, or an end without a stop."""
    for child in list(Child.alive):
        child.kill()
        child._tidy()


atexit.register(kill_all)


async def until(done: Callable[[], bool], timeout: float) -> None:
    """Polls `done` until it is true; raises `asyncio.TimeoutError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise asyncio.TimeoutError
        await asyncio.sleep(0.05)


def _group(pgid: int) -> list[psutil.Process]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
