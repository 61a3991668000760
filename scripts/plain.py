"""The peer: what people write today to hear with Whisper in an agent.

The engine's own model, loaded by an STT class of one's own, in LiveKit's `StreamAdapter`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livekit.agents import APIConnectOptions, LanguageCode, stt
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils import AudioBuffer
from livekit.plugins.whisper import engines
from livekit.plugins.whisper.audio import from_frames
from livekit.plugins.whisper.types import Audio

Decode = Callable[[Audio], str]
"""One utterance → its text."""


class PlainSTT(stt.STT[Any]):
    """An STT as people write it: its constructor loads the model, a thread decodes.

    Args:
        engine: `faster-whisper` or `openai-whisper`.
        path: where the model lies.
    """

    def __init__(self, engine: str, path: Path) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=False, interim_results=False))
        self._decode = load(engine, path)

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        return final(await asyncio.to_thread(self._decode, from_frames(buffer)))


def load(engine: str, path: Path, threads: int | None = None) -> Decode:
    """The engine's own model, on the CPU; by default with a thread for each core."""
    load_model = _ct2 if engine == "faster-whisper" else _torch
    return load_model(str(path), threads or engines.plan(engines.cores(), workers=1)[1])


def final(text: str) -> stt.SpeechEvent:
    """An answer in English."""
    return stt.SpeechEvent(
        type=stt.SpeechEventType.FINAL_TRANSCRIPT,
        alternatives=[stt.SpeechData(language=LanguageCode("en"), text=text)],
    )


def _ct2(path: str, threads: int) -> Decode:
    from faster_whisper import WhisperModel

    model = WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)

    def decode(audio: Audio) -> str:
        segments, _ = model.transcribe(audio.samples, language="en", beam_size=1)
        return "".join(segment.text for segment in segments)

    return decode


def _torch(path: str, threads: int) -> Decode:
    import torch
    import whisper as openai_whisper

    torch.set_num_threads(threads)
    model = openai_whisper.load_model(path, device="cpu")

    def decode(audio: Audio) -> str:
        result = openai_whisper.transcribe(model, audio.samples, language="en", fp16=False)
        return str(result["text"])

    return decode
