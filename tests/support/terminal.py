"""A command on a terminal of its own."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.command import LIMIT, SCRIPT


class Terminal:
    """Runs the installed command with a terminal as its standard output and error.

    Args:
        arguments: of the command.
        environment: besides the usual variables.
    """

    def __init__(self, *arguments: str | Path, environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        """All that was written to it, control sequences included."""
        usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self._process = subprocess.Popen(
            [SCRIPT, *arguments],
            env={**usual, "TERM": "xterm-256color", "COLUMNS": "200", **environment},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def until(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Reads until it shows this, after the first `start` characters."""
        while not (found := re.compile(pattern).search(self.shown, start)):
            assert self._read(), f"ended without {pattern!r}: {self.shown}"
        return found

    def control_c(self) -> None:
        """What the terminal sends to the process in front of it."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Reads to the end; the exit status."""
        while self._read():
            pass
        return self._process.wait(timeout=LIMIT)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError as exc:
            if exc.errno != errno.EIO:  # closed on the other side
                raise
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
