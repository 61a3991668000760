"""The installed command `livekit-whisper`, in a process of its own, with real weights."""

from __future__ import annotations

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path

from livekit.plugins.whisper.models import HUB_REPOSITORIES, resolve

from tests.support import audio as make
from tests.support.command import LIMIT, SCRIPT, run
from tests.support.hub import Hub
from tests.support.weights import CT2_REFERENCE, REFERENCES, recordings

SAID = "He might even have been made amiable himself."
SPEECH = recordings()[4]
MODEL = {"STT_MODEL": CT2_REFERENCE, "STT_LANGUAGE": "en"}


def test_every_format_of_audio_and_bad_files_among_the_good(tmp_path: Path) -> None:
    samples = make.read_wav(SPEECH)
    formats = [".wav", ".flac", ".mp3", ".ogg", ".webm", ".m4a"]
    good = [make.write(tmp_path / f"good{suffix}", samples) for suffix in formats]
    wide = make.with_channels(make.resample(samples, 16000, 96000), 8)
    good.append(make.write(tmp_path / "wide.wav", wide, 96000))
    (tmp_path / "empty.wav").touch()
    make.write_text(tmp_path / "letter.mp3")
    make.truncate(make.write(tmp_path / "cut.flac", samples))
    bad = ["missing.wav", "empty.wav", "letter.mp3", "cut.flac"]
    result = run("transcribe", *bad[:2], *good, *bad[2:], environment=MODEL)
    assert result.status == 1
    heard = "".join(f"==> {path} <==\n{SAID}\n" for path in good)
    assert result.out.startswith(heard)
    # What could be heard of the damaged one is not lost.
    assert result.out.removeprefix(heard).startswith("==> cut.flac <==\nHe might even")
    errors = result.err.splitlines()
    expected = ["no such file", r"is empty", "is not audio", "damaged after"]
    assert [name in line for name, line in zip(bad, errors, strict=True)] == [True] * 4
    assert [part in line for part, line in zip(expected, errors, strict=True)] == [True] * 4


def test_logs_tell_of_models_and_never_of_words(tmp_path: Path) -> None:
    """A file for each recording, subtitles, and all that -v has to say."""
    result = run("-v", "transcribe", "-f", "srt", "-o", "out", *recordings(), environment=MODEL)
    assert result.status == 0, result.err
    assert result.out == ""
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"{path.stem}.srt" for path in recordings()]
    assert all(path.read_text().startswith("1\n00:00:00,000 --> 00:00:0") for path in written)
    assert SAID in written[4].read_text()
    assert "[WHISPER-LOAD]" in result.err
    for word in ("amiable", "respectable", "prudently", "leisure"):
        assert word in " ".join(REFERENCES.values()).lower()
        assert word not in result.err.lower()


def test_a_name_that_is_not_here_without_a_network(tmp_path: Path) -> None:
    with Hub() as hub:
        environment = hub.environment(tmp_path)
    result = run("transcribe", "--model", "tiny.en", SPEECH, environment=environment)
    message = result.error()
    assert "model 'tiny.en': is not on this machine" in message
    assert "livekit-whisper models fetch tiny.en --engine faster-whisper" in message


def test_fetched_from_the_hub_and_checked_without_it(tmp_path: Path) -> None:
    repository, pinned = HUB_REPOSITORIES["tiny.en"]
    with Hub() as hub:
        environment = hub.environment(tmp_path)
        hub.add(repository, resolve("faster-whisper", CT2_REFERENCE).path, pinned)
        fetched = run("models", "fetch", "tiny.en", environment=environment)
        assert fetched.status == 0, fetched.err
        assert "100%" in fetched.err
        assert f"tiny.en: {tmp_path}" in fetched.out
        assert "(74 MiB)" in fetched.out
    checked = run("models", "check", "tiny.en", environment=environment)
    assert checked.status == 0, checked.err
    assert "tiny.en: works (" in checked.out
    assert "checksums match" in checked.out


def test_without_the_engine_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['faster_whisper'] = None  # as if it were not installed\n"
    )
    result = run("transcribe", SPEECH, environment={**MODEL, "PYTHONPATH": str(tmp_path)})
    message = result.error()
    assert "faster-whisper is not installed" in message
    assert 'pip install "livekit-plugins-whisper[faster-whisper]"' in message


def default_int_handler() -> None:
    """A shell has what it starts in the background ignore Ctrl-C; these tests may be run so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_control_c_in_the_middle(tmp_path: Path) -> None:
    make.write(tmp_path / "long.wav", make.white_noise(600.0))
    command = [str(SCRIPT), "-v", "transcribe", "long.wav"]
    with subprocess.Popen(
        command, env={**os.environ, **MODEL}, stderr=subprocess.PIPE, text=True,
        preexec_fn=default_int_handler,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if "[WHISPER-LOAD]" in line:
                break
        process.send_signal(signal.SIGINT)  # 20 windows are still to come
        rest = process.stderr.read()
        assert process.wait(timeout=LIMIT) == 130, seen + rest
    assert "Traceback" not in rest


def test_reader_that_has_had_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does, only that it never misses the moment
    try:
        done = subprocess.run(
            [SCRIPT, "transcribe", *recordings()[3:]],
            env={**os.environ, **MODEL},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode != 0
    assert done.stderr == ""


def test_progress_bar_on_a_terminal_and_words_beside_it(tmp_path: Path) -> None:
    shutil.copy(SPEECH, tmp_path / "[b]old.wav")  # brackets are no markup
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [SCRIPT, "transcribe", "-f", "json", "--words", "[b]old.wav"],
        env={**os.environ, **MODEL, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        terminal = b"".join(iter(lambda: read(ours), b""))
        assert process.stdout is not None
        transcript = json.loads(process.stdout.read())
    os.close(ours)
    assert process.returncode == 0
    shown = terminal.decode()
    assert "[b]old.wav" in shown
    assert "━" in shown
    assert "amiable" not in shown
    assert transcript["text"] == SAID
    (segment,) = transcript["segments"]
    assert "".join(word["text"] for word in segment["words"]).strip() == SAID


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once it is closed on the other side."""
    try:
        return os.read(terminal, 65536)
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return b""


def test_output_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")  # not UTF-8, as old archives have them
    shutil.copy(SPEECH, tmp_path / name)
    environment = {**MODEL, "PYTHONIOENCODING": "utf-8:strict"}
    result = run("transcribe", name, "missing.wav", environment=environment)
    assert result.out == f"==> caf\\udce9.wav <==\n{SAID}\n"
    assert result.error() == "error: missing.wav: no such file"
