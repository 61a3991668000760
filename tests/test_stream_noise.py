"""What nobody said: silence, noise and music give no words, with the VAD and without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import stt
from livekit.agents import vad as agents_vad
from livekit.plugins import silero, whisper
from livekit.plugins.whisper.adapter import WhisperStreamAdapter
from livekit.plugins.whisper.stt import FasterWhisperSTT, WhisperSTT

from tests.support.audio import RATE, Samples, pink_noise, silence, to_int16, white_noise
from tests.support.music import music
from tests.support.streams import FINAL, INTERIM, PREFLIGHT, START, frames, kinds, legal
from tests.support.weights import TINY, base_directory, openai_checkpoint

TEN_MINUTES = 600.0
"""Of all three together, in seconds."""
PIECES = (5, 12, 20)
"""Seconds: one window decoded short, up to one decoded in full."""
SOUNDS: dict[str, Callable[[float], Samples]] = {
    "pink": lambda seconds: pink_noise(seconds, level=0.1, seed=2),
    "quiet pink": lambda seconds: pink_noise(seconds, level=0.01, seed=3),
    "white": lambda seconds: white_noise(seconds, level=0.1, seed=2),
    "music": lambda seconds: music(seconds, seed=2),
    "quiet music": lambda seconds: music(seconds, level=0.03, seed=100),
}


async def heard(adapter: WhisperStreamAdapter, samples: Samples) -> list[stt.SpeechEvent]:
    """What a stream says to this, as fast as it comes."""
    async with adapter.stream() as stream:
        for frame in frames(to_int16(samples)):
            stream.push_frame(frame)
        stream.end_input()
        return [event async for event in stream]


@pytest.mark.parametrize("name", ["silence", "pink", "music"])
async def test_minutes_of_what_nobody_said_give_no_words(vad: agents_vad.VAD, name: str) -> None:
    sounds = {**SOUNDS, "silence": silence}
    wrapped = FasterWhisperSTT(TINY.model, backend=whisper.LocalBackend())
    found = await heard(WhisperStreamAdapter(stt=wrapped, vad=vad), sounds[name](TEN_MINUTES / 3))
    assert not {FINAL, INTERIM, PREFLIGHT} & set(kinds(found))
    assert legal(found)


async def test_music_that_the_vad_takes_for_speech_gives_no_words() -> None:
    credulous = silero.VAD.load(activation_threshold=0.02)
    wrapped = FasterWhisperSTT(TINY.model, backend=whisper.LocalBackend())
    found = await heard(WhisperStreamAdapter(stt=wrapped, vad=credulous), music(60, seed=1))
    assert START in kinds(found)
    assert not {FINAL, INTERIM, PREFLIGHT} & set(kinds(found))
    assert legal(found)


def tiny() -> stt.STT[Any]:
    return FasterWhisperSTT(TINY.model, backend=whisper.LocalBackend())


def openai_tiny() -> stt.STT[Any]:
    return WhisperSTT(str(openai_checkpoint()), backend=whisper.LocalBackend())


def base() -> stt.STT[Any]:
    """Is to find the language as well."""
    backend = whisper.LocalBackend()
    return FasterWhisperSTT(str(base_directory()), language=None, backend=backend)


@pytest.mark.parametrize(
    ("make", "names", "pieces"),
    [
        (tiny, SOUNDS, PIECES),
        (openai_tiny, ["pink", "music"], PIECES),
        (base, ["quiet music"], (12,)),
    ],
    ids=["faster-whisper", "openai-whisper", "base"],
)
async def test_noise_and_music_give_no_words_without_a_vad(
    make: Callable[[], stt.STT[Any]], names: list[str], pieces: tuple[int, ...]
) -> None:
    wrapped = make()
    words = {}
    for name in names:
        cuts = np.cumsum(pieces)[:-1] * RATE
        for piece in np.split(SOUNDS[name](sum(pieces)), cuts):
            frame = rtc.AudioFrame(to_int16(piece).tobytes(), RATE, 1, len(piece))
            event = await wrapped.recognize(frame)
            words[f"{len(piece) / RATE:.0f} s of {name}"] = event.alternatives[0].text
    assert {what: text for what, text in words.items() if text} == {}
