"""`livekit-whisper listen`: words, delays and the queue, while somebody speaks."""

from __future__ import annotations

import asyncio
import http.server
import io
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from livekit import plugins
from livekit.agents import LanguageCode, stt
from livekit.plugins import whisper
from livekit.plugins.whisper.live import queue_of
from livekit.plugins.whisper.screen import Delays, Heard, Queue, Screen
from livekit.plugins.whisper.sources import Recording
from livekit.plugins.whisper.types import DecodeOptions, Utterance
from rich.console import Console

from tests.support import audio as make
from tests.support.command import Here, run
from tests.support.hosts import Hosts, until
from tests.support.microphone import put_sounddevice
from tests.support.servers import serving
from tests.support.streams import END, FINAL, INTERIM, PREFLIGHT, START
from tests.support.terminal import Terminal
from tests.support.weights import CT2_REFERENCE, TINY, joined_recordings, recordings

SAID = "He might even have been made amiable himself."
SPEECH = recordings()[4]
MODEL = {"STT_MODEL": CT2_REFERENCE}
FINAL_STYLE = "\x1b[32m"
"""How a terminal is told of words that are final."""
SAYING = r"> \x1b\[0m\x1b\[(1|2;3)m\w"
"""The same of interim words, which may have become stable already."""


def test_in_a_pipe_a_line_for_each_final(tmp_path: Path) -> None:
    file = make.write(tmp_path / "talk.webm", make.read_wav(SPEECH))
    result = run("listen", "--file", file, environment=MODEL)
    assert (result.status, result.out) == (0, f"{SAID}\n"), result.err
    started, delays = result.err.splitlines()
    assert started == "talk.webm  (Ctrl-C ends)"
    # On a machine that is busy, the final can be there before what is decoded ahead of it.
    form = r"(first words \d+\.\d\d s  )?(preflight \d+\.\d\d s  )?final \d+\.\d\d s"
    assert re.fullmatch(form, delays)


def test_damaged_file_is_heard_up_to_where_it_is(here: Here, tmp_path: Path) -> None:
    make.truncate(make.write(tmp_path / "cut.flac", make.read_wav(SPEECH)))
    result = here("listen", "-f", "cut.flac")
    assert result.status == 1
    assert result.out.startswith("He might")
    assert result.err.splitlines()[-1].startswith("error: cut.flac: damaged after")
    assert "Traceback" not in result.err


def test_on_a_terminal_with_a_host_until_control_c_in_mid_speech(
    hosts: Hosts, tmp_path: Path
) -> None:
    assert run("host", "start", environment=MODEL).status == 0
    spoken = np.concatenate([make.read_wav(SPEECH), make.silence(1), joined_recordings().samples])
    file = make.write(tmp_path / "talk.wav", spoken)
    with Terminal("listen", "--file", file, environment=MODEL) as terminal:
        first = terminal.until(re.escape(f"{FINAL_STYLE}{SAID}\x1b")).start()
        unfinished = terminal.until(SAYING, first).start()  # somebody speaks again
        terminal.control_c()
        assert terminal.end() == 130
        assert re.search(re.escape(FINAL_STYLE) + r"\w", terminal.shown[unfinished:])
        assert "waiting for the last words" in terminal.shown[unfinished:]
        assert "Traceback" not in terminal.shown
        assert re.search(r"host: load \d\.\d\d, waiting: final 0  preflight \d", terminal.shown)
        assert "this process" not in terminal.shown
    assert hosts.ask()["leases"] == 0
    assert hosts.log().count("[WHISPER-LOAD]") == 1


class _Silent(http.server.BaseHTTPRequestHandler):
    """Takes requests, and answers none before the test is over."""

    over = threading.Event()

    def do_POST(self) -> None:
        self.over.wait()


class _Unwilling(http.server.BaseHTTPRequestHandler):
    """An account that is none."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _elsewhere(address: str) -> dict[str, str]:
    return {
        "STT_PROVIDER": "openai",
        "STT_BASE_URL": address,
        "STT_API_KEY": "none",
        "STT_LANGUAGE": "en",
    }


def test_second_control_c_does_not_wait_for_the_final() -> None:
    with serving(_Silent) as address:
        try:
            environment = _elsewhere(address)
            with Terminal("listen", "-f", SPEECH, environment=environment) as terminal:
                terminal.until("> ")  # speech has begun
                terminal.control_c()
                terminal.until("waiting for the last words")
                terminal.control_c()
                assert terminal.end() == 130
                assert "Traceback" not in terminal.shown
                assert FINAL_STYLE not in terminal.shown
        finally:
            _Silent.over.set()


def test_stream_that_fails(here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make.write(tmp_path / "he.wav", make.read_wav(SPEECH)[:16_000])
    with serving(_Unwilling) as address:
        for name, value in _elsewhere(address).items():
            monkeypatch.setenv(name, value)
        result = here("listen", "-f", "he.wav")
    assert (result.status, result.out) == (1, "")
    assert "Traceback" not in result.err
    _, error = result.err.splitlines()
    assert error.startswith("error: ")
    assert "401" in error


def test_missing_file(here: Here) -> None:
    assert here("listen", "--file", "nowhere.wav").error() == "error: nowhere.wav: no such file"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, r"pip install sounddevice, or listen to a recording: --file"),
        (
            "raise OSError('PortAudio library not found')",
            r"needs PortAudio .*not found.*install it \(Debian: libportaudio2\), or .*--file",
        ),
        (
            "class PortAudioError(Exception): ...\n"
            "def query_devices(kind): raise PortAudioError('Error querying device -1')",
            r"no microphone is there \(Error querying device -1\).* or .*--file",
        ),
    ],
)
def test_missing_microphone(
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str | None,
    message: str,
) -> None:
    """As sounddevice says it: not installed, without its library, and without a microphone."""
    put_sounddevice(monkeypatch, tmp_path, module)
    assert re.search(message, here("listen").error())


def test_missing_vad(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.plugins.silero", None)  # as if it were not installed
    monkeypatch.delattr(plugins, "silero")
    error = here("listen", "--file", SPEECH).error()
    assert "pip install livekit-plugins-silero" in error


async def test_recording_has_all_its_sound_and_silence_after_it(tmp_path: Path) -> None:
    file = make.write(tmp_path / "tone.flac", make.tone(0.31))
    heard = [frame async for frame in Recording(file).frames()]
    samples = np.concatenate([np.frombuffer(frame.data, np.int16) for frame in heard])
    assert {frame.samples_per_channel for frame in heard[:-1]} == {320}
    assert np.array_equal(samples[:4960], make.to_int16(make.tone(0.31)))
    assert not samples[4960:].any()
    assert len(samples) == 4960 + 16_000


async def test_queue_of_this_process(backend: whisper.LocalBackend) -> None:
    config = whisper.STTConfig(model=TINY.model, backend="process")
    idle = Queue("this process", {"final": 0, "preflight": 0, "interim": 0}, 0.0)
    assert queue_of(config) == idle
    sound = joined_recordings()
    work = [
        asyncio.create_task(backend.transcribe(TINY, Utterance(sound), DecodeOptions(beam_size=n)))
        for n in range(1, 5)
    ]

    def waiting() -> int:
        found = queue_of(config)
        assert found
        return found.waiting["final"] if found.load > 0 else 0

    assert await until(waiting) < 5
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    assert queue_of(config.model_copy(update={"provider": "openai"})) is None


def event(
    kind: stt.SpeechEventType, text: str = "", stable: str = "", ended: float | None = None
) -> stt.SpeechEvent:
    data = stt.SpeechData(LanguageCode("en"), text, metadata={"stable": stable})
    return stt.SpeechEvent(kind, alternatives=[data] if text else [], speech_end_time=ended)


def test_words_have_the_styles_of_what_they_are() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="standard", width=200)
    screen, heard = Screen(console), Heard()

    def show(*events: stt.SpeechEvent) -> str:
        before = len(shown.getvalue())
        for each in events:
            if final := heard.add(each, 0.0):
                screen.final(final)
            screen.show(heard)
        return shown.getvalue()[before:]

    said = show(event(START), event(INTERIM, "He might even", "He might"))
    assert "\x1b[1mHe might\x1b[0m\x1b[2;3m even\x1b[0m" in said
    assert "\x1b[1;36mHe might even.\x1b[0m" in show(event(PREFLIGHT, "He might even."))
    assert "\x1b[32mHe might even.\x1b[0m" in show(event(FINAL, "He might even."))
    assert "He might" not in show(event(END))
    screen.close()


def test_delays_and_words() -> None:
    heard = Heard()
    heard.add(event(START), 10.0)
    assert heard.speaking
    heard.add(event(INTERIM, "He might", ""), 11.0)
    heard.add(event(INTERIM, "He might even", "He might"), 11.5)
    assert (heard.stable, heard.unstable) == ("He might", " even")
    heard.add(event(PREFLIGHT, "He might even."), 12.5)
    assert heard.preflight == "He might even."
    final = heard.add(event(FINAL, "He might even.", ended=12.25), 12.75)
    assert final
    assert final.delays == Delays(words=1.0, preflight=0.25, final=0.5)
    assert str(final.delays) == "first words 1.00 s  preflight 0.25 s  final 0.50 s"
    heard.add(event(END, ended=12.25), 12.75)
    assert (heard.speaking, heard.stable, heard.unstable, heard.preflight) == (False, "", "", "")


def test_delays_that_nobody_knows_are_not_shown() -> None:
    heard = Heard()
    heard.add(event(START), 10.0)
    heard.add(event(PREFLIGHT, "He might"), 11.0)
    heard.add(event(INTERIM, "He might even have", "He might"), 12.0)
    assert heard.preflight == ""
    heard.add(
        event(PREFLIGHT, "He might even have been"), 13.0
    )  # and on, faster than it is decoded
    first = heard.add(event(FINAL, "He might even have been made.", ended=14.0), 14.5)
    assert first
    assert first.delays == Delays(words=1.0, preflight=None, final=0.5)
    second = heard.add(event(FINAL, "Amiable himself."), 15.0)  # the START was the first one's
    assert second
    assert second.delays == Delays()
