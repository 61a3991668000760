"""What is measured: the plugin's configurations, and their peers, on the same weights.

The peer is what people write today: the engine's own model, loaded by an STT class of one's own,
in LiveKit's `StreamAdapter`. A third one hears nothing: what is left without an STT.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectOptions, stt, vad
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils import AudioBuffer
from livekit.plugins import silero, whisper
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.stt import shared_backend
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio

from benchmarks.results import NOTHING, OURS, PLAIN
from scripts import plain
from scripts.plain import Decode, PlainSTT
from tests.support import weights

PROVIDERS = {"faster-whisper": "faster-whisper", "openai-whisper": "whisper"}
"""Engine → the name of its provider."""

HOST_IDLE = 30.0
"""Seconds after which a host ends by itself that a run could not end."""

VAD_SILENCE = 0.55
"""Seconds: Silero's default."""


@dataclass(frozen=True)
class Subject:
    """An engine with tiny.en, on the CPU."""

    engine: str
    """`faster-whisper` or `openai-whisper`."""
    model: str
    """Reference of its weights."""

    @property
    def config(self) -> whisper.STTConfig:
        """The model in the process itself; all else by default: greedy, English, int8 (float32)."""
        return whisper.STTConfig(
            provider=PROVIDERS[self.engine], model=self.model, device="cpu", backend="process"
        )

    @property
    def hosted(self) -> whisper.STTConfig:
        """The model in the machine's host, and never elsewhere."""
        return self.config.model_copy(update={"backend": "host", "host_idle": HOST_IDLE})

    @property
    def path(self) -> Path:
        """Where the model lies."""
        return models.resolve(self.engine, self.model).path

    @property
    def module(self) -> str:
        """What the plugin imports to load the model."""
        return f"{engines.__name__}.{engines.ENGINES[self.engine].module}"

    @property
    def plain_module(self) -> str:
        """What the peer imports."""
        return engines.ENGINES[self.engine].requires

    def load(self) -> engines.Engine:
        """The plugin's engine, in the calling thread."""
        key = self.config.model_key
        return engines.load(models.resolve(key.engine, key.model), key)

    def load_plain(self, threads: int | None = None) -> Decode:
        """The engine's own model; by default with a thread for each core."""
        return plain.load(self.engine, self.path, threads)

    def create_plain(self, vad: vad.VAD) -> stt.STT[Any]:
        """What a session gets of the peer."""
        return stt.StreamAdapter(stt=PlainSTT(self.engine, self.path), vad=vad)

    def create(self, who: str, vad: vad.VAD) -> stt.STT[Any]:
        """What a session of a job process gets; the plugin's transcribes in the machine's host."""
        if who == OURS:
            return whisper.ProviderFactory.create_stt(self.hosted, vad)
        if who == PLAIN:
            return self.create_plain(vad)
        assert who == NOTHING
        return stt.StreamAdapter(stt=NothingSTT(), vad=vad)

    async def prewarm(self, who: str) -> None:
        """Waits until the model is ready; the peer's is when it has been created."""
        if who == OURS:
            await shared_backend(self.hosted).prewarm(self.hosted.model_key)


def fastest(found: Sequence[Subject]) -> Subject:
    """The one that is measured where the engine makes no difference."""
    return next(each for each in found if each.engine == "faster-whisper")


def prepare(engine: str) -> Subject:
    """Makes the weights, and has Python compile the engine's modules, before anything is timed."""
    if engine == "faster-whisper":
        subject = Subject(engine, weights.CT2_REFERENCE)
    else:
        subject = Subject(engine, str(weights.openai_checkpoint()))
    importlib.import_module(subject.module)
    return subject


class NothingSTT(stt.STT[Any]):
    """An STT that does nothing."""

    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=False, interim_results=False))

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        return plain.final("nothing")


@dataclass(frozen=True, eq=False)
class Speech:
    """A recording."""

    name: str
    """Its number."""
    audio: Audio
    """All of it."""
    reference: str
    """What is said in it."""


def recordings() -> list[Speech]:
    """The five from LibriVox, in order."""
    return [
        Speech(path.stem.rpartition("_")[2], from_file(path), weights.REFERENCES[path.name])
        for path in weights.recordings()
    ]


def short_frame() -> rtc.AudioFrame:
    """The shortest of them, as a room would hand it over."""
    audio = min((each.audio for each in recordings()), key=lambda audio: audio.duration)
    samples = (audio.samples * 32768).astype("int16")
    return rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, len(samples))


def load_vad(silence: float = VAD_SILENCE) -> vad.VAD:
    """Silero's, as a session has it; `silence` (s) ends speech."""
    return silero.VAD.load(min_silence_duration=silence)


def log_as_agents_do() -> None:
    """Messages are formatted and written, at the level that agents run with, to nowhere."""
    logging.basicConfig(level=logging.INFO, filename=os.devnull)
