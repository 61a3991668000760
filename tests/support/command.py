"""The command `livekit-whisper`: as a process of its own, or in this one where that is enough."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from livekit.plugins.whisper import cli

SCRIPT = Path(sys.executable).with_name("livekit-whisper")
"""What the installation has put beside the interpreter."""
LIMIT = 120
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    def error(self) -> str:
        """The message of a user's mistake: one line on stderr, and a status other than 0."""
        assert self.status not in (0, None), self
        assert "Traceback" not in self.err + self.out, self.err
        (line,) = [line for line in self.err.splitlines() if line.strip()]
        assert line.startswith("error: "), line
        return line


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    """Runs the installed command, with these variables besides the usual ones."""
    done = subprocess.run(
        [SCRIPT, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class Here:
    """Runs the command in this process: the engines are imported already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        # The command sets these for its whole process.
        monkeypatch.setattr(logging.getLogger("livekit.plugins.whisper"), "disabled", False)
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def __call__(self, *arguments: str | Path) -> Result:
        """Runs it once, with the environment as it is."""
        command = ["livekit-whisper", *map(str, arguments)]
        self._monkeypatch.setattr(sys, "argv", command)
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = self._capsys.readouterr()
        status = ended.value.code
        return Result(status if isinstance(status, int) else int(bool(status)), *shown)
