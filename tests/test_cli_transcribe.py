"""`livekit-whisper transcribe`: what may be given to it, and what it writes where."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from livekit.plugins.whisper.inputs import SUFFIXES

from tests.support import audio as make
from tests.support import voices
from tests.support.command import LIMIT, SCRIPT, Here
from tests.support.weights import CT2_REFERENCE, base_directory, recordings

SAID = "He might even have been made amiable himself."
SPEECH = recordings()[4]
MODEL = {"STT_MODEL": CT2_REFERENCE, "STT_LANGUAGE": "en"}


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The installed command, in a process of its own, with its output as bytes."""
    environment = {**os.environ, **MODEL, **options.pop("environment", {})}  # type: ignore[dict-item]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [SCRIPT, *arguments], env=environment, timeout=LIMIT, check=False, **streams
    )


def test_standard_input_and_a_named_pipe(tmp_path: Path) -> None:
    done = command("transcribe", "-", "-f", "json", input=SPEECH.read_bytes())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["file"], found["language"], found["text"]) == ("standard input", "en", SAID)
    assert found["duration"] == pytest.approx(3.29, abs=0.01)
    os.mkfifo("pipe")
    with subprocess.Popen(["sh", "-c", 'cat "$1" > pipe', "sh", SPEECH]):
        piped = command("transcribe", "pipe", "-o", "out")
    assert piped.returncode == 0, piped.stderr
    assert Path("out/pipe.txt").read_text() == f"{SAID}\n"


def test_pipe_through_which_nothing_comes() -> None:
    done = command("transcribe", "-", input=b"")
    assert done.returncode == 1
    assert done.stderr == b"error: standard input: nothing came through it (0 bytes)\n"


def test_folders_and_patterns(here: Here) -> None:
    for name in ("a/one.wav", "a/deep/two.WAV", "a/.hidden.wav", "a/.git/three.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH, name)
    Path("a/notes.txt").write_text("none")
    result = here("transcribe", "a", "-o", "out")
    assert result.status == 0, result.err
    written = sorted(str(path) for path in Path("out").rglob("*") if path.is_file())
    assert written == ["out/deep/two.txt", "out/one.txt"]
    assert "a: passed over as no audio or video, by its name: notes.txt\n" in result.err
    result = here("transcribe", "a/*.wav", "a/one.wav", "-q")
    assert (result.out, result.err) == (f"{SAID}\n", "")
    result = here("transcribe", "**/*.WAV", "-q")
    assert result.out == f"{SAID}\n"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("empty", "empty: no audio or video in this folder, by its names"),
        ("*.ogg", r"*.ogg: no file has a name like this"),
        ("missing.wav", "missing.wav: no such file"),
    ],
)
def test_what_stands_for_nothing(here: Here, argument: str, message: str) -> None:
    Path("empty").mkdir()
    assert message in here("transcribe", argument).error()


def test_what_stands_for_nothing_does_not_stop_the_others(here: Here) -> None:
    Path("empty").mkdir()
    result = here("transcribe", "empty", "*.ogg", SPEECH)
    assert result.status == 1
    assert SAID in result.out
    assert [line.split(":")[1] for line in result.err.splitlines()] == [" empty", " *.ogg"]


@pytest.mark.parametrize(
    ("closed", "arguments", "message"),
    [
        ("<&-", "-", "standard input: is closed; pipe a file into it, or name one"),
        (">&-", str(SPEECH), "standard output: is closed; name a folder: --output-dir ."),
    ],
)
def test_streams_that_are_closed(closed: str, arguments: str, message: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$1" transcribe "$2" {closed}', "sh", SCRIPT, arguments],
        env={**os.environ, **MODEL}, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"error: {message}\n"


def test_damage_that_comes_through_a_pipe_is_told_by_its_name() -> None:
    done = command("transcribe", "-", input=SPEECH.read_bytes()[:40_000])
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard input: is truncated")
    assert done.stdout


def test_folders_beside_files_of_a_pattern_are_told(here: Here) -> None:
    Path("a-folder").mkdir()
    shutil.copy(SPEECH, "a-file.wav")
    result = here("transcribe", "a-*")
    assert (result.status, result.out) == (0, f"{SAID}\n")
    assert "a-*: folders passed over: a-folder; name them\n" in result.err
    assert "passed over" not in here("transcribe", "**/a-*").err


def test_name_that_is_a_pattern_and_a_file(here: Here) -> None:
    shutil.copy(SPEECH, "[1].wav")
    assert here("transcribe", "[1].wav").out == f"{SAID}\n"


def test_all_formats_of_two_files_of_one_stem(here: Here) -> None:
    samples = make.read_wav(SPEECH)
    for name in ("call.mp3", "call.m4a"):
        make.write(Path(name), samples)
    result = here("transcribe", "call.mp3", "call.m4a", "--format", "all", "-o", "out")
    assert result.status == 0, result.err
    names = {path.name for path in Path("out").iterdir()}
    kinds = ("txt", "srt", "vtt", "tsv", "json")
    assert names == {f"call.{m}.{kind}" for m in ("mp3", "m4a") for kind in kinds}
    assert json.loads(Path("out/call.mp3.json").read_text())["file"] == "call.mp3"


@pytest.mark.parametrize("form", ["srt", "vtt", "tsv", "all"])
def test_no_invalid_file_on_standard_output(here: Here, form: str) -> None:
    error = here("transcribe", "-f", form, SPEECH, SPEECH.with_name("other.wav")).error()
    assert f"--format {form}: " in error
    assert "--output-dir ." in error


def test_as_users_of_openai_whisper_type_it(here: Here) -> None:
    result = here(
        "transcribe", SPEECH, "--output_dir", "out", "--output_format", "vtt",
        "--word_timestamps", "True", "--initial_prompt", "Sense and Sensibility.",
        "--beam_size", "2", "--compute_type", "int8", "--verbose=False",
    )  # fmt: skip
    assert result.status == 0, result.err
    (cue,) = Path("out", f"{SPEECH.stem}.vtt").read_text().splitlines()[3:4]
    assert cue.startswith("He <00:00:00.")
    assert cue.endswith(">himself.")


def test_flags_that_openai_whisper_gives_the_value_false(here: Here) -> None:
    for flag in (["--word_timestamps", "False"], ["--word-timestamps=False"]):
        result = here("transcribe", SPEECH, "-f", "vtt", *flag, "--verbose", "False", "-q")
        assert result.status == 0, result.err
        assert result.out.splitlines()[3] == SAID


def test_quiet_and_verbose_stand_on_either_side(here: Here) -> None:
    for arguments in (["-q", "transcribe", str(SPEECH)], ["transcribe", str(SPEECH), "--quiet"]):
        result = here(*arguments, "-o", "out")
        assert (result.status, result.out, result.err) == (0, "", "")
    for arguments in (["-v", "transcribe", str(SPEECH)], ["transcribe", str(SPEECH), "-v"]):
        done = command(*arguments)
        assert b"[STT-CACHE] creating" in done.stderr


@pytest.mark.skipif(not voices.available(), reason="no espeak-ng, which speaks French here")
def test_language_is_detected_for_each_file_and_told(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STT_LANGUAGE")
    monkeypatch.setenv("STT_MODEL", str(base_directory()))
    french = "Bonjour, je voudrais réserver une table pour deux personnes demain soir."
    make.write(Path("french.wav"), voices.speak("fr", french).samples)
    make.write(Path("silent.wav"), make.silence(2.0))
    result = here("transcribe", "-f", "json", SPEECH, "french.wav", "silent.wav")
    assert result.status == 0, result.err
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [each["language"] for each in found] == ["en", "fr", None]
    assert result.err.splitlines() == [
        f"{SPEECH}: language en (english)",
        "french.wav: language fr (french)",
        "silent.wav: no speech in it",
    ]
    monkeypatch.setenv("STT_LANGUAGE", "en")
    assert json.loads(here("transcribe", "-f", "json", "french.wav").out)["language"] == "en"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_output_is_utf_8_whatever_the_locale(here: Here, locale: str) -> None:
    """In the first one Python cannot read the names either."""
    name = "Käse.wav"
    shutil.copy(SPEECH, name)
    environment = {"LC_ALL": locale, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = command("transcribe", name, name, "gone é.wav", "-f", "json", environment=environment)
    first, *_ = done.stdout.decode("utf-8").splitlines()
    assert json.loads(first)["file"] == name
    assert done.stderr.decode("utf-8") == "error: gone é.wav: no such file\n"


def test_full_disk_is_no_traceback(here: Here) -> None:
    with open("/dev/full", "wb") as full:
        done = command("transcribe", str(SPEECH), stdout=full)
    assert done.returncode == 1
    message = b"error: standard output: No space left on device; write to another place\n"
    assert done.stderr == message
    Path("out").mkdir()
    Path("out", f"{SPEECH.stem}.txt.part").symlink_to("/dev/full")
    shutil.copy(SPEECH, "other.wav")
    result = here("transcribe", SPEECH, "other.wav", "-o", "out")
    assert result.status == 1
    assert f"out/{SPEECH.stem}.txt: No space left on device; name another" in result.err
    assert Path("out/other.txt").read_text() == f"{SAID}\n"  # the other one is not lost


def test_control_c_keeps_what_was_heard(tmp_path: Path) -> None:
    """Three windows of the recording; the interruption comes when the first has been written."""
    samples = make.read_wav(SPEECH)
    pause = make.silence(24.0)
    make.write(tmp_path / "long.wav", np.tile(np.concatenate([samples, pause]), 40))
    argv = [str(SCRIPT), "transcribe", "long.wav", "-f", "json", "-o", "out"]
    heard = [str(SCRIPT), "transcribe", "long.wav"]
    with subprocess.Popen(
        heard, env={**os.environ, **MODEL}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=_default_int_handler,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        assert process.stdout.readline() == f"{SAID}\n"  # as it is heard, though it is a pipe
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(LIMIT) == 130
    assert told.startswith("interrupted; what was finished is kept and the first ")
    with subprocess.Popen(
        argv, env={**os.environ, **MODEL}, stderr=subprocess.PIPE, text=True,
        preexec_fn=_default_int_handler,
    ) as process:  # fmt: skip
        part = tmp_path / "out" / "long.json.part"
        while not part.exists():  # made when the first words are there
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert f"({Path('out/long.json.part')})" in process.stderr.read()
        assert process.wait(LIMIT) == 130
    assert json.loads(part.read_text())["text"].startswith(SAID)
    assert not part.with_suffix("").exists()


def _default_int_handler() -> None:
    """A shell has what it starts in the background ignore Ctrl-C; these tests may be run so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_suffixes_are_those_of_files_that_ffmpeg_reads() -> None:
    assert {".wav", ".mp3", ".m4a", ".ogg", ".opus", ".flac", ".mp4", ".mkv", ".webm"} <= SUFFIXES
