"""Speech into streams, and events out of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import numpy as np
from livekit import rtc
from livekit.agents import stt
from livekit.plugins.whisper.audio import from_file
from numpy.typing import NDArray

from scripts.speaker import Recording
from tests.support.weights import REFERENCES, recordings

Kind = stt.SpeechEventType
Samples = NDArray[np.int16]
START, END = Kind.START_OF_SPEECH, Kind.END_OF_SPEECH
INTERIM, PREFLIGHT, FINAL = (
    Kind.INTERIM_TRANSCRIPT, Kind.PREFLIGHT_TRANSCRIPT, Kind.FINAL_TRANSCRIPT,
)  # fmt: skip
USAGE = Kind.RECOGNITION_USAGE
SECOND = np.zeros(16_000, np.int16)
"""Of silence."""


def speech(number: int) -> Samples:
    """A recording, at 16 kHz."""
    return (from_file(recordings()[number]).samples * 32767).astype(np.int16)


def trimmed(samples: Samples) -> Samples:
    """Without what is just noise before and after the speech."""
    frames, spoken = Recording("", 16_000, samples).frames()
    size = frames[0].samples_per_channel
    return samples[spoken[0] * size : (spoken[-1] + 1) * size]


def said(number: int) -> str:
    """What is read in it."""
    return REFERENCES[recordings()[number].name]


def frames(samples: Samples, rate: int = 16_000, channels: int = 1) -> Iterable[rtc.AudioFrame]:
    """Frames of 20 ms; with several channels the same sound is in all of them."""
    for part in np.array_split(samples, max(1, len(samples) * 50 // rate)):
        data = np.repeat(part, channels).tobytes()
        yield rtc.AudioFrame(data, rate, channels, len(part))


def push(stream: stt.RecognizeStream, *parts: Samples) -> None:
    """All at once."""
    for part in parts:
        for frame in frames(part):
            stream.push_frame(frame)


async def speak(stream: stt.RecognizeStream, samples: Samples, *, end: bool = True) -> None:
    """In real time, and then ends the input."""
    clock = asyncio.get_running_loop().time
    due = clock()
    for frame in frames(samples):
        stream.push_frame(frame)
        due += frame.duration
        await asyncio.sleep(due - clock())
    if end:
        stream.end_input()


async def until(stream: stt.RecognizeStream, kind: Kind) -> list[stt.SpeechEvent]:
    """The events up to the first of that kind, which comes last."""
    found = []
    async for event in stream:
        found.append(event)
        if event.type == kind:
            return found
    raise AssertionError(f"the stream ended without {kind.value}: {kinds(found)}")


def kinds(found: Iterable[stt.SpeechEvent]) -> list[Kind]:
    """The events' types."""
    return [event.type for event in found]


def legal(found: Iterable[stt.SpeechEvent]) -> bool:
    """Whether the events are in LiveKit's order: START (INTERIM | PREFLIGHT | FINAL)* END, again.

    No text is empty.
    """
    speaking = False
    for event in found:
        if event.type == START:
            assert not speaking, "START_OF_SPEECH within speech"
            speaking = True
        elif event.type == END:
            assert speaking, "END_OF_SPEECH without its START_OF_SPEECH"
            speaking = False
        elif event.type != USAGE:
            assert speaking, f"{event.type.value} outside of speech"
            assert event.alternatives[0].text
    return not speaking
