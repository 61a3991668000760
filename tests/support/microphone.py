"""The package that gives access to microphones, as it may be on a user's machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def put_sounddevice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | None) -> None:
    """Has `import sounddevice` find this until the end of the test; None: it is not installed."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # remembers what was there
    if source is not None:
        del sys.modules["sounddevice"]
        (tmp_path / "sounddevice.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
