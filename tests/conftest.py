"""What tests share: real weights, real recordings, and process-wide caches that start empty."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from livekit.agents import vad as agents_vad
from livekit.plugins import silero, whisper
from livekit.plugins.whisper import backend as backend_module
from livekit.plugins.whisper import config as config_module


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine, and no .env, reaches a test."""
    for name in list(os.environ):
        if name.startswith(("STT_", "LIVEKIT_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    config_module._warned.clear()
    monkeypatch.setattr(backend_module, "_process_backend", None)


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
    await fresh.aclose()


@pytest.fixture(scope="session")
def vad() -> agents_vad.VAD:
    """Silero VAD with its defaults."""
    return silero.VAD.load()
