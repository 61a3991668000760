"""What the command says to a user's mistakes: one line, with the field or file and the way out.

It runs in this process here; `test_cli.py` runs the installed one.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from livekit.plugins.whisper.models import HUB_REPOSITORIES
from livekit.plugins.whisper.version import __version__

from tests.support import audio as make
from tests.support.command import Here
from tests.support.hub import Hub
from tests.support.models import small_model
from tests.support.weights import CT2_REFERENCE, openai_checkpoint, recordings

SAID = "He might even have been made amiable himself."
SPEECH = recordings()[4]


def test_help_and_version(here: Here) -> None:
    assert here("--version").out == f"{__version__}\n"
    shown = here("--help")
    assert shown.status == 0
    assert all(command in shown.out for command in ("transcribe", "listen", "models", "doctor"))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--provider", "faster-whispr", "'faster-whispr' is not known; did you mean 'faster-whis"),
        ("--provider", "zzz", "STT_PROVIDER.*allowed: faster-whisper, whisper, openai"),
        ("--provider", "openai", "'openai' does not run here; allowed: faster-whisper, whisper"),
        ("--model", "tiny.em", "'tiny.em' is not known .*did you mean 'tiny.en'"),
        ("--model", "./nowhere", "'./nowhere': no such file"),
        ("--model", "package:nobody/model", "no package 'nobody' is installed; pip install nob"),
        ("--language", "klingon", "STT_LANGUAGE.*'klingon'"),
        ("--language", "de", r"STT_LANGUAGE.*'de'.*English"),
        ("--task", "sing", "STT_TASK.*'sing'.*'transcribe' or 'translate'"),
        ("--task", "translate", "STT_TASK.*translate.*English"),
        ("--device", "gpu", "STT_DEVICE.*'gpu': allowed: 'auto', 'cpu', 'cuda', 'cuda:N'"),
        ("--device", "cuda:99", r"STT_DEVICE.*'cuda:99'.*choose cpu or auto"),
        ("--compute-type", "int9", "STT_COMPUTE_TYPE.*'int9'.*'int8'"),
        ("--beam-size", "0", "STT_BEAM_SIZE.*0.*greater than or equal to 1"),
        ("--threads", "-1", "STT_THREADS.*-1.*greater than or equal to 0"),
        ("--format", "docx", "--format: 'docx': allowed: text, txt, srt, vtt, tsv, json, all"),
        ("--output-dir", "a-file", "--output-dir: a-file is a file; name a folder"),
        ("--output-dir", "a-file/inside", "--output-dir: a-file/inside cannot be made"),
        ("--output-dir", "taken", "--output-dir: taken/sense_.*txt: Is a directory; name another"),
    ],
)
def test_wrong_value(
    here: Here, option: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    Path("a-file").touch()
    Path("taken", f"{SPEECH.stem}.txt").mkdir(parents=True)
    error = here("transcribe", SPEECH, option, value).error()
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda:99"], "STT_DEVICE.*'cuda:99'.*choose cpu or auto"),
        (["--compute-type", "int8"], "STT_COMPUTE_TYPE.*'int8'.*auto, default, float16, float32"),
        (["--compute-type", "float16", "--device", "cpu"], "STT_COMPUTE_TYPE.*'float16'.*float32"),
        (["--model", "distil-large-v3"], "not known to openai-whisper; did you mean 'large-v3'"),
    ],
)
def test_wrong_value_for_the_other_engine(here: Here, options: list[str], message: str) -> None:
    model = ["--provider", "whisper", "--model", str(openai_checkpoint())]
    assert re.search(message, here("transcribe", SPEECH, *model, *options).error())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["transcribe", "--modle", "tiny"], "--modle"),
        (["transcribe", str(SPEECH), "--beam-size", "many"], "--beam-size"),
        (["transcribe"], "files"),
        (["transcript"], "transcript"),
        (["models", "fetch"], "names"),
    ],
)
def test_wrong_usage(here: Here, arguments: list[str], named: str) -> None:
    result = here(*arguments)
    assert result.status == 2
    assert "Usage: " in result.err
    assert named in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("stt.yaml", "modle: tiny.en\n", r"stt\.yaml: unknown key 'modle'; did you mean 'model'"),
        ("stt.toml", "beams = 5\n", r"stt\.toml: unknown key 'beams'"),
        ("stt.yaml", "beam_size: [\n", r"stt\.yaml: cannot be read"),
        ("stt.ini", "", r"stt\.ini: must end in \.yaml, \.yml or \.toml"),
        ("stt.yml", None, r"stt\.yml: no such file"),
    ],
)
def test_configuration_file(
    here: Here, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, message: str
) -> None:
    monkeypatch.setenv("STT_CONFIG", name)
    if content is not None:
        Path(name).write_text(content)
    result = here("transcribe", SPEECH)
    assert result.status == 1
    assert result.err.startswith("error: STT_CONFIG=")
    assert re.search(message, result.err)
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", str(SPEECH), "--provider", "whisper", "--model", "tiny.en"],
        ["models", "list", "--engine", "openai-whisper"],
        ["models", "fetch", "tiny.en", "--engine", "openai-whisper"],
        ["models", "check", "tiny.en", "--engine", "openai-whisper"],
    ],
)
def test_missing_extra(here: Here, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "whisper", None)  # as if it were not installed
    error = here(*arguments).error()
    assert "openai-whisper is not installed" in error
    assert 'pip install "livekit-plugins-whisper[openai-whisper]"' in error


def test_two_files_for_one_name(here: Here) -> None:
    for folder in ("monday", "tuesday"):
        Path(folder).mkdir()
        make.write(Path(folder, "call.wav"), make.tone(0.5))
    error = here("transcribe", "-o", "out", "monday/call.wav", "tuesday/call.wav").error()
    assert "monday/call.wav and tuesday/call.wav would both be written to out/call.wav" in error
    assert list(Path("out").iterdir()) == []


def test_transcripts_on_stdout_and_in_files(here: Here) -> None:
    Path("[b] :x:.wav").write_bytes(SPEECH.read_bytes())  # neither a style nor a picture
    result = here("transcribe", "-f", "json", SPEECH, "[b] :x:.wav")
    texts = [json.loads(line)["text"] for line in result.out.splitlines()]
    assert (result.status, texts) == (0, [SAID, SAID])
    result = here("transcribe", "-f", "vtt", "-o", "deep/out", "[b] :x:.wav")
    assert (result.status, result.out) == (0, "")
    assert result.err == "[b] :x:.wav → deep/out/[b] :x:.vtt\n"
    assert SAID in Path("deep/out/[b] :x:.vtt").read_text()


def test_models_are_listed_for_programs(here: Here, tmp_path: Path) -> None:
    found = json.loads(here("models", "list", "--json").out)
    assert [each["name"] for each in found] == list(HUB_REPOSITORIES)
    assert {each["state"] for each in found} <= {"here", "not fetched", "damaged"}


def test_models_are_listed_as_they_are(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Hub() as hub:
        hub.patch(monkeypatch, tmp_path / "home")
        for name in ("tiny.en", "base"):
            repository, pinned = HUB_REPOSITORIES[name]
            hub.add(repository, small_model(tmp_path / name), pinned)
        assert here("models", "fetch", "tiny.en", "base").status == 0
        asked = len(hub.requests)
        (blob,) = (tmp_path / "home").glob("**/models--Systran--faster-whisper-base/**/model.bin")
        blob.resolve().write_bytes(b"x")
        listed = here("models", "list")
        assert len(hub.requests) == asked
    lines = {line.split()[0]: line for line in listed.out.splitlines()}
    assert list(lines) == list(HUB_REPOSITORIES)
    assert lines["tiny.en"].endswith("MiB  here")
    assert "damaged: " in lines["base"]
    assert lines["small"].endswith("not fetched")


def test_models_that_do_not_work(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`check` says what is wrong with a model, and downloads nothing."""
    cut = small_model(tmp_path / "cut")
    make.truncate(cut / "model.bin")
    assert "cut/model.bin: is truncated" in here("models", "check", "./cut").error()
    small_model(tmp_path / "empty")  # whole as far as its files go
    assert "empty: cannot be loaded" in here("models", "check", "./empty").error()
    with Hub() as hub:
        hub.patch(monkeypatch, tmp_path / "home")
        error = here("models", "check", "tiny.en").error()
        assert "livekit-whisper models fetch tiny.en --engine faster-whisper" in error
        assert hub.requests == []
        assert "no repository 'acme/none'" in here("models", "fetch", "acme/none").error()
    assert "--engine: 'whisper': allowed:" in here("models", "list", "-e", "whisper").error()
    checked = here("models", "check", CT2_REFERENCE)
    assert checked.status == 0
    assert "works (" in checked.out
    assert "checksums match" in checked.out
