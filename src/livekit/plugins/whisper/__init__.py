"""Whisper speech recognition on your own machines, for LiveKit Agents.

    from livekit.plugins import silero, whisper

    stt = whisper.ProviderFactory.create_stt(whisper.STTConfig(), vad=silero.VAD.load())

See the README for the settings, and ARCHITECTURE.md for how it is built.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from livekit.agents import Plugin

from . import build, models  # noqa: F401 (the build is the one of now)
from .adapter import WhisperStreamAdapter
from .backend import Backend, LocalBackend
from .cache import CacheEntry, CacheInfo
from .config import STTConfig
from .errors import (
    AudioError,
    BackendClosed,
    ConfigError,
    DeviceError,
    DownloadError,
    EngineError,
    HostCrashed,
    HostUnavailable,
    MissingExtraError,
    ModelDamaged,
    ModelError,
    ModelNotFound,
    Overloaded,
    Superseded,
    WhisperError,
)
from .factory import InstanceKey, ProviderFactory
from .host import orphans
from .load import load_fnc
from .log import logger
from .stt import FasterWhisperSTT, WhisperSTT
from .types import Audio, Limits, ModelKey, Segment, Transcript, Utterance, Word
from .version import __version__

if TYPE_CHECKING:
    from livekit.agents import JobProcess

__all__ = [
    "Audio",
    "AudioError",
    "Backend",
    "BackendClosed",
    "CacheEntry",
    "CacheInfo",
    "ConfigError",
    "DeviceError",
    "DownloadError",
    "EngineError",
    "FasterWhisperSTT",
    "HostCrashed",
    "HostUnavailable",
    "InstanceKey",
    "Limits",
    "LocalBackend",
    "MissingExtraError",
    "ModelDamaged",
    "ModelError",
    "ModelKey",
    "ModelNotFound",
    "Overloaded",
    "ProviderFactory",
    "STTConfig",
    "Segment",
    "Superseded",
    "Transcript",
    "Utterance",
    "WhisperError",
    "WhisperSTT",
    "WhisperStreamAdapter",
    "Word",
    "__version__",
    "load_fnc",
    "prewarm",
]


def prewarm(proc: JobProcess | None = None) -> None:
    """An `AgentServer(setup_fnc=…)`: asks for the configured model, and returns at once.

    The machine's host has it, loads it, or is started for it, all in the background.

    The configuration is the environment's, as `STTConfig()` reads it. What is wrong with it, and
    why its model cannot be had, is logged at once, not raised: LiveKit would start one process
    after the other. `load_fnc` keeps jobs away meanwhile. Call `ProviderFactory.cached_stt()` where
    the program starts to be told of wrong settings there; `create_stt` raises them in any case.
    """
    try:
        instance = ProviderFactory.cached_stt()
        if isinstance(instance, (WhisperSTT, FasterWhisperSTT)):
            instance.hold()  # for the job that is to come, whenever that is
        instance.prewarm()
    except WhisperError as exc:
        logger.error("prewarm: %s", exc)


class WhisperPlugin(Plugin):
    """LiveKit's handle on this package."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or __name__, logger)

    def download_files(self) -> None:
        """Fetches the configured model, and its fallback's, unless they are here."""
        for config in STTConfig().chain:
            if config.is_local:
                key = config.model_key
                models.resolve(key.engine, key.model, key.revision)


# LiveKit accepts plugins from the main thread only; elsewhere there is nothing to register for.
if threading.current_thread() is threading.main_thread():
    Plugin.register_plugin(WhisperPlugin())
    orphans.note_their_end()
