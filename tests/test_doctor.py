"""`livekit-whisper doctor`: what is right, what is not, and how to mend it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from socketserver import StreamRequestHandler

import av
import pytest
from livekit.plugins.whisper import audio, doctor

from tests.support import audio as make
from tests.support.command import Here, Result, run
from tests.support.hub import Hub
from tests.support.microphone import put_sounddevice
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


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider elsewhere, so that no model is loaded."""
    monkeypatch.setenv("STT_PROVIDER", "openai")
    monkeypatch.setenv("STT_API_KEY", "none")


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
    lines = [line for line in result.out.splitlines() if line[:3] != "ok "]
    # A microphone is the machine's affair.
    assert " ".join(lines) in ("", finding(result, "microphone"))
    assert f"{url} answers (200)" in finding(result, "LiveKit server")
    assert "works (" in finding(result, f"model {CT2_REFERENCE}")
    for subject in ("Python", "livekit-plugins-whisper", "livekit-agents", "decoding", "host"):
        assert finding(result, subject)
    assert finding(result, "sound files").endswith("has read one")
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


def test_the_sound_that_is_read_is_a_tone() -> None:
    made = make.tone(doctor.TONE_SECONDS)
    read = audio.from_file(doctor.TONE).samples
    assert len(read) == pytest.approx(len(made), abs=make.RATE // 100)
    # Without its edges, where MP3 is imprecise.
    assert read[1600:3200] == pytest.approx(made[1600:3200], abs=0.02)


def unknown_pyav(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **given: object) -> None:
        raise TypeError(f"open() got an unexpected keyword argument {next(iter(given))!r}")

    monkeypatch.setattr(av, "open", refuse)


def decoder_that_errs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet = make.write(tmp_path / "quiet.mp3", make.silence(doctor.TONE_SECONDS))
    monkeypatch.setattr(doctor, "TONE", quiet)


def decoder_that_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = make.write(tmp_path / "short.mp3", make.tone(doctor.TONE_SECONDS / 2))
    monkeypatch.setattr(doctor, "TONE", short)


@pytest.mark.parametrize(
    ("breakage", "fact"),
    [
        (unknown_pyav, "TypeError: open() got an unexpected keyword argument 'mode'"),
        (decoder_that_errs, "distorted"),
        (decoder_that_stops, "0.15 s of a tone of 0.3 s"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_sound_files_that_cannot_be_read(
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    breakage: Callable[[pytest.MonkeyPatch, Path], None],
    fact: str,
) -> None:
    breakage(monkeypatch, tmp_path)
    result = here("doctor")
    assert result.status == 1
    line = finding(result, "sound files")
    assert line.startswith("bad")
    assert f"PyAV {av.__version__} cannot read one" in line
    assert fact in line
    assert re.search(r'→ pip install --force-reinstall "av[<>=,0-9.]+"$', line)


@pytest.mark.parametrize(
    ("module", "state", "fact", "remedy"),
    [
        (None, "note", "needs a package", "→ run: pip install sounddevice"),
        (
            "raise OSError('PortAudio library not found')",
            "note",
            "PortAudio library not found",
            "→ install it (Debian: libportaudio2)",
        ),
        (
            "class PortAudioError(Exception): ...\n"
            "def query_devices(kind): raise PortAudioError('Error querying device -1')",
            "note",
            "no microphone is there (Error querying device -1)",
            "→ connect one",
        ),
        (
            "class PortAudioError(Exception): ...\n"
            "def query_devices(kind): return {'name': 'Desk', 'default_samplerate': 48000.0}",
            "ok",
            "Desk",
            "",
        ),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_microphone(
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str | None,
    state: str,
    fact: str,
    remedy: str,
) -> None:
    """As sounddevice says it; only `listen` wants one."""
    put_sounddevice(monkeypatch, tmp_path, module)
    result = here("doctor")
    assert result.status == 0
    line = finding(result, "microphone")
    assert line.startswith(state)
    assert fact in line
    assert remedy in line
    assert ("→" in line) == bool(remedy)


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
