"""No home, no temporary directory, no working directory; values that come from files."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from livekit.plugins import whisper
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.errors import ConfigError, HostUnavailable
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import directory
from livekit.plugins.whisper.host.process import ask
from livekit.plugins.whisper.types import DecodeOptions, Utterance

from tests.support.command import LIMIT, SCRIPT, Result
from tests.support.hosts import ready, tcp_host
from tests.support.users import ordinary_user
from tests.support.weights import CT2_REFERENCE, TINY, recordings

AMIABLE = "He might even have been made amiable himself."
SPEECH = recordings()[4]
STRANGER = [
    "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",  # the test's own files
]  # fmt: skip
"""A user that the system does not know, as `docker run --user 12345` makes one."""
NOWHERE = [
    "unshare", "--mount", "sh", "-ec",
    'for each in /tmp /var/tmp /usr/tmp; do [ -d $each ] || continue; '
    'mount --bind $each $each; mount -o remount,bind,ro $each; done; cd /proc; exec "$@"', "sh",
]  # fmt: skip
"""A machine on which no temporary directory can be written to."""


def run(*command: str | Path, **environment: str | None) -> Result:
    """The command after a prefix, with variables set, and None for one that is not."""
    if subprocess.run([*command[: command.index(SCRIPT)], "true"], capture_output=True).returncode:
        pytest.skip(f"{command[0]} may not do this here: run it as root, in a container")
    changed = {**os.environ, "STT_MODEL": CT2_REFERENCE, **environment}
    done = subprocess.run(
        command,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("home", [None, "/root"])
def test_user_without_a_home_transcribes(home: str | None) -> None:
    done = run(*STRANGER, SCRIPT, "transcribe", SPEECH, HOME=home)
    assert (done.status, done.out.strip()) == (0, AMIABLE), done.err


@pytest.mark.parametrize(
    ("engine", "variable"), [("faster-whisper", "HF_HOME"), ("openai-whisper", "XDG_CACHE_HOME")]
)
def test_user_without_a_home_is_told_where_models_could_be(engine: str, variable: str) -> None:
    done = run(*STRANGER, SCRIPT, "models", "fetch", "tiny.en", "--engine", engine,
               HOME=None, HF_HOME=None, HF_HUB_CACHE=None, XDG_CACHE_HOME=None)  # fmt: skip
    assert f"set HOME or {variable}" in done.error()


def test_configuration_in_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_CONFIG", "~nobody-at-all/stt.yaml")
    with pytest.raises(ConfigError, match=r"STT_CONFIG=~nobody-at-all/stt\.yaml: no such file"):
        whisper.STTConfig()


@pytest.mark.parametrize("command", [("host", "start"), ("host", "status")])
def test_no_temporary_directory_is_told_with_the_way_out(command: tuple[str, str]) -> None:
    done = run(*NOWHERE, SCRIPT, *command, XDG_RUNTIME_DIR=None, TMPDIR=None)
    assert "set XDG_RUNTIME_DIR to a directory of your own, or STT_BACKEND=process" in done.error()


async def test_models_are_in_the_process_where_there_is_no_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(HostUnavailable, match="set XDG_RUNTIME_DIR"):
        directory()
    backend = HostBackend(fallback=whisper.LocalBackend())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            heard = await backend.transcribe(
                TINY, Utterance(from_file(SPEECH)), DecodeOptions(language="en")
            )
            assert heard.text == AMIABLE
    await backend.aclose()
    (told,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "models are loaded in this process instead: there is no temporary directory" in told


def test_working_directory_that_was_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    leave = ["sh", "-ec", f'mkdir -p {gone}; cd {gone}; rmdir {gone}; exec "$@"', "sh"]
    done = run(*leave, SCRIPT, "doctor")  # loads a model and decodes with it
    assert done.status == 0, done
    assert "works" in done.out


# .env


def test_env_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STT_MODEL=tiny")
    (tmp_path / ".env").chmod(0)
    with ordinary_user(), pytest.raises(ConfigError, match=r"\.env: cannot be read \(Permission"):
        whisper.STTConfig()


def test_env_that_is_a_folder_or_leads_nowhere_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()  # a virtual environment, for some
    assert whisper.STTConfig().model == "base"
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").symlink_to(".env")
    assert whisper.STTConfig().model == "base"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_env_file_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_text("STT_PROMPT=Müller\n", encoding=encoding)
    with pytest.raises(ConfigError, match=r"\.env: is not UTF-8 text.*save it as UTF-8"):
        whisper.STTConfig()


def test_env_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STT_MODEL=tiny\r\nSTT_PROMPT=Müller\r\n", "utf-8-sig")
    assert (whisper.STTConfig().model, whisper.STTConfig().prompt) == ("tiny", "Müller")


# Values from files


@pytest.mark.parametrize("name", ["STT_HOST_TOKEN", "STT_API_KEY"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\t", ""])
def test_secret_loses_the_line_break_of_its_file(
    name: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f" kept secret{end}")
    config = whisper.STTConfig()
    found = config.api_key if name == "STT_API_KEY" else config.host_token
    assert found is not None
    assert found.get_secret_value() == "kept secret"


@pytest.mark.parametrize("value", ["two\nlines", "re\rturn", "tab\tin it", "nul\x7f", "a\x1bb"])
def test_secret_with_a_control_character_is_refused_and_not_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STT_HOST_TOKEN", "STT_API_KEY"):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=rf"\({name}\): .*line break.*one line$") as caught:
            whisper.STTConfig()
        assert value not in str(caught.value)
        monkeypatch.delenv(name)


def test_secret_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_API_KEY", "schlüssel")
    with pytest.raises(ConfigError, match=r"\(STT_API_KEY\): .*position 4 that is not ASCII"):
        whisper.STTConfig()
    monkeypatch.delenv("STT_API_KEY")
    monkeypatch.setenv("STT_HOST_TOKEN", "sch\udcfcssel")
    with pytest.raises(ConfigError, match=r"\(STT_HOST_TOKEN\): .*position 3 that is not UTF-8"):
        whisper.STTConfig()


async def test_token_that_is_not_ascii_is_the_same_on_every_way(tmp_path: Path) -> None:
    with tcp_host(tmp_path, "schlüssel\n") as url:
        await ready(url)
        assert (await asyncio.to_thread(ask, url, token="schlüssel"))["pid"]
        backend = HostBackend(address=url, token="schlüssel")
        assert await backend.prewarm(TINY)
        await backend.aclose()


def test_other_values_lose_it_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"MODEL": "tiny", "BACKEND": "process", "DEVICE": "cpu", "BEAM_SIZE": "2",
              "WORD_TIMESTAMPS": "true", "LANGUAGE": "de", "HOST": "http://gpu:1"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"STT_{name}", f"{value}\n")
    config = whisper.STTConfig()
    found = (config.model, config.backend, config.device, config.beam_size, config.word_timestamps)
    assert found == ("tiny", "process", "cpu", 2, True)
    assert (config.language, config.host) == ("de", "http://gpu:1")
    (tmp_path / "stt.toml").write_text("prompt = 'Hello'\n")
    monkeypatch.setenv("STT_CONFIG", "stt.toml\n")
    assert whisper.STTConfig().prompt == "Hello"
