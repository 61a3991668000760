"""What is measured: the plugin's configurations, and their peers, on the same weights.

The peer is what people write today: the engine's own model, loaded by an STT class of one's own,
in LiveKit's `StreamAdapter`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectOptions, LanguageCode, stt, vad
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils import AudioBuffer
from livekit.plugins import silero, whisper
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file, from_frames
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio

from tests.support import weights

PROVIDERS = {"faster-whisper": "faster-whisper", "openai-whisper": "whisper"}
"""Engine → the name of its provider."""

Decode = Callable[[Audio], str]
"""One utterance → its text."""


@dataclass(frozen=True)
class Subject:
    """An engine with tiny.en, on the CPU."""

    engine: str
    """`faster-whisper` or `openai-whisper`."""
    model: str
    """Reference of its weights."""

    @property
    def config(self) -> whisper.STTConfig:
        """All else as it is by default: greedy, in English, int8 or float32."""
        return whisper.STTConfig(provider=PROVIDERS[self.engine], model=self.model, device="cpu")

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

    def load_plain(self) -> Decode:
        """The engine's own model, with as many threads as the plugin's."""
        load = _plain_ct2 if self.engine == "faster-whisper" else _plain_torch
        return load(str(self.path))

    def create_plain(self, vad: vad.VAD) -> stt.STT[Any]:
        """What a session gets of the peer."""
        return stt.StreamAdapter(stt=PlainSTT(self), vad=vad)


def prepare(engine: str) -> Subject:
    """Makes the weights, and has Python compile the engine's modules, before anything is timed."""
    if engine == "faster-whisper":
        subject = Subject(engine, weights.CT2_REFERENCE)
    else:
        subject = Subject(engine, str(weights.openai_checkpoint()))
    importlib.import_module(subject.module)
    return subject


class PlainSTT(stt.STT[Any]):
    """An STT as people write it: its constructor loads the model, a thread decodes."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=False, interim_results=False))
        self._decode = subject.load_plain()

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        text = await asyncio.to_thread(self._decode, from_frames(buffer))
        return stt.SpeechEvent(
            type=stt.SpeechEventType.FINAL_TRANSCRIPT,
            alternatives=[stt.SpeechData(language=LanguageCode("en"), text=text)],
        )


def _plain_ct2(path: str) -> Decode:
    from faster_whisper import WhisperModel

    threads = engines.default_threads()
    model = WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)

    def decode(audio: Audio) -> str:
        segments, _ = model.transcribe(audio.samples, language="en", beam_size=1)
        return "".join(segment.text for segment in segments)

    return decode


def _plain_torch(path: str) -> Decode:
    import torch
    import whisper as openai_whisper

    torch.set_num_threads(engines.default_threads())
    model = openai_whisper.load_model(path, device="cpu")

    def decode(audio: Audio) -> str:
        result = openai_whisper.transcribe(model, audio.samples, language="en", fp16=False)
        return str(result["text"])

    return decode


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


def load_vad() -> vad.VAD:
    """Silero's, as a session has it."""
    return silero.VAD.load()


def log_as_agents_do() -> None:
    """Messages are formatted and written, at the level that agents run with, to nowhere."""
    logging.basicConfig(level=logging.INFO, filename=os.devnull)
