"""`load_fnc`: full while the configured model cannot be had, whatever the reason, and no longer."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
import pytest
from livekit.plugins import whisper
from livekit.plugins.whisper import engines, load, packages
from livekit.plugins.whisper.models import resolve

from scripts.room import LiveKitServer, Worker, find_server
from tests.support.hosts import Hosts, ready, tcp_host
from tests.support.models import small_model
from tests.support.weights import TINY

FULL = "load_fnc reports full load, since speech could not be recognized: "
AGENT = """
from livekit.agents import AgentServer, JobContext, cli
from livekit.plugins import whisper
from livekit.plugins.whisper import load

load.RETRY_SECONDS = load.MAX_RETRY_SECONDS = 0.1
server = AgentServer(
    setup_fnc=whisper.prewarm, load_fnc=whisper.load_fnc, num_idle_processes=1, port=0
)


@server.rtc_session()
async def hear(ctx: JobContext) -> None: ...


if __name__ == "__main__":
    cli.run_app(server)
"""


@pytest.fixture(autouse=True)
def idle_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy machine is full as well."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 0.0)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory that has no model yet; `give` puts it there."""
    return tmp_path / "weights"


def give(weights: Path) -> None:
    shutil.copytree(resolve(TINY.engine, TINY.model).path, weights, dirs_exist_ok=True)


def looked() -> float:
    """The load, but for the CPU's, once it is known whether the model can be had."""
    whisper.load_fnc(cpu=False)
    assert load._watch
    assert load._watch.looking
    load._watch.looking.join(60)
    return whisper.load_fnc(cpu=False)


def told(caplog: pytest.LogCaptureFixture) -> str:
    """Why it is full: said once, in one line, with no traceback."""
    (record,) = [each for each in caplog.records if each.getMessage().startswith(FULL)]
    assert record.exc_info is None
    assert "\n" not in record.getMessage()
    return record.getMessage().removeprefix(FULL)


@pytest.mark.parametrize("backend", ["auto", "host", "process"])
@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("MODEL", "tinny.en", "did you mean 'tiny.en'"),
        ("MODEL", "./nowhere", "no such file or directory"),
        ("MODEL", ".", r"model.bin: is missing"),
        ("MODEL", "base", "could not be fetched from hub"),
        ("MODEL", "package:nothing_like_it/model", "pip install nothing_like_it"),
        ("DEVICE", "cuda:7", "this machine has no NVIDIA GPU"),
        ("PROVIDER", "nothing", "'nothing' is not known"),
    ],
)
def test_full_where_the_model_cannot_be_had(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    backend: str, variable: str, value: str, why: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(engines, "_may_have_gpu", lambda: False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("STT_MODEL", TINY.model)
    monkeypatch.setenv("STT_BACKEND", backend)
    monkeypatch.setenv(f"STT_{variable}", value)
    assert looked() == 1.0
    assert whisper.load_fnc() == 1.0
    assert why in told(caplog)


@pytest.mark.parametrize("backend", ["auto", "process"])
def test_full_where_the_engine_is_not_installed(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    monkeypatch.setenv("STT_MODEL", TINY.model)
    monkeypatch.setenv("STT_BACKEND", backend)
    monkeypatch.setattr(packages, "installed", lambda module: False)
    assert looked() == 1.0
    assert 'pip install "livekit-plugins-whisper[faster-whisper]"' in told(caplog)


@pytest.mark.parametrize("backend", ["auto", "host", "process"])
def test_prewarm_says_where_the_agent_logs_why_the_model_cannot_be_had(
    hosts: Hosts, factory: type[whisper.ProviderFactory], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, backend: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("STT_MODEL", ".")
    monkeypatch.setenv("STT_BACKEND", backend)
    whisper.prewarm(None)
    instance = factory.cached_stt()
    assert isinstance(instance, whisper.FasterWhisperSTT)
    assert instance._warming
    instance._warming.join(60)
    (error,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "[WHISPER-LOAD] key=faster-whisper:" in error.getMessage()
    assert "model.bin: is missing" in error.getMessage()
    assert error.exc_info is None
    if backend != "process":
        assert "model.bin: is missing" in hosts.log()


def test_full_where_the_configuration_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STT_DEVICE", "gpu")
    assert [whisper.load_fnc(), whisper.load_fnc()] == [1.0, 1.0]
    assert "device (STT_DEVICE): 'gpu': allowed" in told(caplog)


def test_full_where_no_host_can_be_started(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hosts.open_to_others()
    monkeypatch.setenv("STT_MODEL", TINY.model)
    monkeypatch.setenv("STT_BACKEND", "host")
    assert looked() == 1.0
    assert "chmod 700" in told(caplog)
    monkeypatch.setenv("STT_BACKEND", "auto")  # then each job has the model for itself
    assert looked() == 0.0


async def test_full_while_a_host_elsewhere_does_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STT_BACKEND", "host")
    monkeypatch.setenv("STT_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("STT_MODEL", TINY.model)
    assert looked() == 1.0
    assert "no host answers at http://127.0.0.1:9" in told(caplog)
    with tcp_host(tmp_path) as url:
        monkeypatch.setenv("STT_HOST", url)
        monkeypatch.setenv("STT_HOST_TOKEN", "another")
        assert looked() == 1.0
        monkeypatch.setenv("STT_HOST_TOKEN", "a-token-of-this-test")
        await ready(url)
        assert looked() == 0.0
        monkeypatch.setenv("STT_MODEL", "base")
        assert looked() == 1.0


def test_not_full_while_a_fallback_is_there(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setenv("STT_MODEL", str(weights))
    monkeypatch.setenv("STT_FALLBACK", f'{{"provider": "faster-whisper", "model": "{TINY.model}"}}')
    assert looked() == 0.0


@pytest.mark.parametrize("backend", ["host", "process"])
def test_no_longer_full_once_the_model_is_there(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, weights: Path, backend: str
) -> None:
    monkeypatch.setattr(load, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("STT_MODEL", str(weights))
    monkeypatch.setenv("STT_BACKEND", backend)
    assert looked() == 1.0
    give(weights)
    assert looked() == 0.0


def test_what_was_found_with_one_host_is_found_out_anew_with_the_next(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    give(weights)
    monkeypatch.setenv("STT_MODEL", str(weights))
    assert looked() == 0.0
    watch = load._watch
    assert watch
    first = watch.looking
    assert whisper.load_fnc() == 0.0
    assert watch.looking is first  # it lives, and has the model
    pid = hosts.pid
    (weights / "model.bin").unlink()
    psutil.Process(pid).kill()
    psutil.Process(pid).wait(60)
    assert whisper.load_fnc() == 0.0  # nobody has needed another one yet
    assert watch.looking is first
    from livekit.plugins.whisper.host import process
    from livekit.plugins.whisper.host.place import Target

    process.start_or_join(Target.of(whisper.STTConfig()).spec)
    assert looked() == 1.0


@pytest.mark.skipif(find_server() is None, reason="no livekit-server: `make server` gets it")
async def test_worker_says_so_at_once_and_takes_no_jobs_meanwhile(
    tmp_path: Path, weights: Path
) -> None:
    """The files look well: it is only the host that finds out that they are not."""
    small_model(weights)
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    argv = [sys.executable, str(agent), "start"]
    env = {"STT_MODEL": str(weights)}
    async with LiveKitServer() as server, Worker(server, env=env, argv=argv) as worker:
        (first,) = (await worker.logged("[WHISPER-LOAD]", timeout=60))[:1]
        assert "failed: " in first["message"]
        assert str(weights) in first["message"]
        assert first["level"] == "ERROR"
        jobs = {record["pid"] for record in worker.records("[STT-CACHE] creating")}
        assert first["pid"] in jobs  # where it is to be used, not in the host's log alone
        await worker.logged("worker is at full capacity", timeout=60)
        assert len(worker.records(FULL)) == 1
        give(weights)
        await worker.logged("load_fnc: no longer full", timeout=60)
        assert not any("exc_info" in record for record in worker.records(""))
