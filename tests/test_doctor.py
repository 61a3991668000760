"""`livekit-whisper doctor`: what is right, what is not, and how to mend it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from socketserver import StreamRequestHandler

import pytest

from tests.support import audio as make
from tests.support.command import Here, Result, run
from tests.support.hub import Hub
from tests.support.models import small_model
from tests.support.servers import serving
from tests.support.weights import CT2_REFERENCE

NOWHERE = "ws://127.0.0.1:9"
"""An address at which nothing listens."""


@pytest.fixture
def here(here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command, without a server."""
    monkeypatch.setenv("LIVEKIT_URL", NOWHERE)
    return here


def server(answer: bytes) -> AbstractContextManager[str]:
    """Says one thing to whoever connects."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    return serving(Handler, "ws")


def finding(result: Result, subject: str) -> str:
    """A finding's line, and the remedy under it if there is one."""
    lines = result.out.splitlines()
    (number,) = [i for i, line in enumerate(lines) if line[6:].startswith(f"{subject}: ")]
    remedy = [line for line in lines[number + 1 : number + 2] if "→" in line]
    return " ".join([lines[number], *remedy])


def test_all_is_well_beside_a_server(tmp_path: Path) -> None:
    """The installed command, in a process of its own."""
    with server(b"HTTP/1.0 200 OK\r\n\r\nOK") as url:
        result = run("doctor", environment={"STT_MODEL": CT2_REFERENCE, "LIVEKIT_URL": url})
    assert (result.status, result.err) == (0, "")
    assert {line.split()[0] for line in result.out.splitlines()} == {"ok"}
    assert f"{url} answers (200)" in finding(result, "LiveKit server")
    assert "works (" in finding(result, f"model {CT2_REFERENCE}")
    for subject in ("Python", "livekit-plugins-whisper", "livekit-agents", "decoding", "host"):
        assert finding(result, subject)
    assert "CPU computes in" in finding(result, "faster-whisper")
    assert "PyTorch" in finding(result, "openai-whisper")


@pytest.mark.parametrize(
    ("answer", "state", "fact"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "ok", r"answers (404)"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "note", "does not answer"),
        (b"", "note", "does not answer"),
    ],
)
def test_whatever_answers_there(
    here: Here, monkeypatch: pytest.MonkeyPatch, answer: bytes, state: str, fact: str
) -> None:
    with server(answer) as url:
        monkeypatch.setenv("LIVEKIT_URL", url)
        result = here("doctor")
    assert result.status == 0
    line = finding(result, "LiveKit server")
    assert line.startswith(state)
    assert f"{url} {fact}" in line


@pytest.mark.parametrize("url", [NOWHERE, "ws://a host:7880", "nonsense", "ws://"])
def test_no_server_is_a_note(here: Here, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LIVEKIT_URL", url)
    result = here("doctor")
    assert result.status == 0  # a model works without one
    line = finding(result, "LiveKit server")
    assert line.startswith("note")
    assert f"{url} does not answer" in line
    assert "start one: livekit-server --config livekit.yaml; or set LIVEKIT_URL" in line


def test_broken_model(here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make.truncate(small_model(tmp_path / "[b]cut") / "model.bin")
    monkeypatch.setenv("STT_MODEL", "./[b]cut")
    result = here("doctor")
    assert result.status == 1
    line = finding(result, "model ./[b]cut")
    assert line.startswith("bad")
    assert "model.bin: is truncated" in line
    assert "fetch it again" in line


def test_model_that_is_not_here(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Hub() as hub:
        hub.patch(monkeypatch, tmp_path)
        monkeypatch.setenv("STT_MODEL", "small")
        result = here("doctor")
        assert hub.requests == []  # it looks, and fetches nothing
    assert result.status == 1
    line = finding(result, "model small")
    assert line.startswith("bad")
    assert "→ livekit-whisper models fetch small --engine faster-whisper" in line


def test_fallback_is_looked_at_as_well(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_FALLBACK", '{"provider": "whisper", "model": "./nowhere.pt"}')
    result = here("doctor")
    assert result.status == 1
    assert finding(result, f"model {CT2_REFERENCE}").startswith("ok")
    assert "'./nowhere.pt': no such file" in finding(result, "model ./nowhere.pt")


def test_wrong_settings(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_PROVIDER", "nonsense")
    result = here("doctor")
    assert result.status == 1
    line = finding(result, "provider nonsense")
    assert line.startswith("bad")
    assert "allowed: faster-whisper, whisper, openai" in line
    monkeypatch.setenv("STT_BEAM_SIZE", "none")
    result = here("doctor")
    assert result.status == 1
    assert "STT_BEAM_SIZE" in finding(result, "configuration")
    assert finding(result, "LiveKit server")  # the rest is looked at all the same


def test_engine_that_is_not_installed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "whisper", None)
    result = here("doctor")
    assert result.status == 0  # one engine is enough
    line = finding(result, "openai-whisper")
    assert line.startswith("note")
    assert '→ pip install "livekit-plugins-whisper[openai-whisper]"' in line
    monkeypatch.setenv("STT_PROVIDER", "whisper")
    assert here("doctor").status == 1
