"""What tests share: real weights, real recordings, and process-wide caches that start empty."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from livekit.agents import vad as agents_vad
from livekit.plugins import silero, whisper
from livekit.plugins.whisper import backend as backend_module
from livekit.plugins.whisper import config as config_module
from livekit.plugins.whisper import load as load_module
from livekit.plugins.whisper import stt as stt_module
from livekit.plugins.whisper.config import STTConfig

from tests.support.command import Here
from tests.support.hosts import Hosts
from tests.support.weights import CT2_REFERENCE


@pytest.fixture(scope="session")
def stray_hosts() -> Iterator[Hosts]:
    """Where processes that a test starts find or start a host, unless it asks for `hosts`."""
    with Hosts() as found:
        yield found


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stray_hosts: Hosts) -> None:
    """No setting of the machine, no .env and no host of the user's reaches a test.

    Models live in the test's own process, unless it asks for `hosts`.
    """
    for name in list(os.environ):
        if name.startswith(("STT_", "LIVEKIT_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(stray_hosts.runtime))
    monkeypatch.chdir(tmp_path)
    config_module._warned.clear()
    load_module._told.clear()
    monkeypatch.setattr(load_module, "_watch", None)
    monkeypatch.setattr(backend_module, "_process_backend", None)
    monkeypatch.setattr(stt_module, "shared_backend", _in_this_process)


def _in_this_process(config: STTConfig) -> whisper.Backend:
    return backend_module.process_backend(config.limits)


SHARED_BACKEND = stt_module.shared_backend


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """A directory for hosts, empty at first; what runs there at the end is ended."""
    monkeypatch.setattr(stt_module, "shared_backend", SHARED_BACKEND)
    with Hosts() as found:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(found.runtime))
        yield found
        if load_module._watch and load_module._watch.looking:
            load_module._watch.looking.join(60)


@pytest.fixture
def factory() -> Iterator[type[whisper.ProviderFactory]]:
    """The factory with nothing in its cache and nothing registered, before and after."""
    saved = whisper.ProviderFactory._instances, dict(whisper.ProviderFactory._builders)
    whisper.ProviderFactory._instances = type(saved[0])(max_entries=128)
    whisper.ProviderFactory._builders.clear()
    yield whisper.ProviderFactory
    whisper.ProviderFactory._instances = saved[0]
    whisper.ProviderFactory._builders.clear()
    whisper.ProviderFactory._builders.update(saved[1])


@pytest.fixture
async def backend(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[whisper.LocalBackend]:
    """A backend with nothing loaded, in the place of the process's own."""
    fresh = whisper.LocalBackend()
    monkeypatch.setattr(backend_module, "_process_backend", fresh)
    yield fresh
    loaded = fresh._loaded()
    await fresh.aclose()
    for model in loaded:  # no decode goes on in the next test, whoever still holds its model
        model.batcher.close()
        await asyncio.to_thread(model.batcher.join, 60)


@pytest.fixture
def here(
    factory: type[whisper.ProviderFactory],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Here:
    """The command, run in this process, with the real weights as its model."""
    monkeypatch.setenv("STT_MODEL", CT2_REFERENCE)
    monkeypatch.setenv("STT_LANGUAGE", "en")
    return Here(monkeypatch, capsys)


@pytest.fixture(scope="session")
def vad() -> agents_vad.VAD:
    """Silero VAD with its defaults."""
    return silero.VAD.load()
