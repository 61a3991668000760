"""What an STT makes of one recording in real time: its words, and the VAD's decisions, by time."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

from livekit import rtc
from livekit.agents import stt, utils, vad
from livekit.agents.stt import SpeechEventType
from livekit.agents.vad import VADEventType

from scripts.speaker import FRAME, Recording, paced

BEFORE = 1.0
"""Seconds of silence before the recording."""
PATIENCE = 30.0
"""Seconds after the recording's last spoken sample for all that is to come."""

WORDS = (
    SpeechEventType.INTERIM_TRANSCRIPT,
    SpeechEventType.PREFLIGHT_TRANSCRIPT,
    SpeechEventType.FINAL_TRANSCRIPT,
)


class NothingHeard(Exception):
    """The STT, or the VAD, made nothing of a recording; the message says of which."""


@dataclass(frozen=True)
class Mark:
    """Words that came."""

    kind: SpeechEventType
    """One of `WORDS`."""
    at: float
    """When, on the track's clock (s)."""
    text: str


@dataclass(frozen=True)
class Track:
    """What came of one recording, on the recording's own clock: at 0 its first sample is spoken."""

    speech: tuple[float, float]
    """When the first spoken sample began and the last one ended (s)."""
    marks: tuple[Mark, ...]
    """In order."""
    speaking: tuple[tuple[float, float], ...]
    """From when to when the VAD said that somebody speaks (s)."""

    @property
    def interims(self) -> list[Mark]:
        """Interim results, in order."""
        return [mark for mark in self.marks if mark.kind == SpeechEventType.INTERIM_TRANSCRIPT]

    @property
    def preflight(self) -> Mark | None:
        """The first one after the last spoken sample."""
        kind, end = SpeechEventType.PREFLIGHT_TRANSCRIPT, self.speech[1]
        return next((mark for mark in self.marks if mark.kind == kind and mark.at > end), None)

    @property
    def final(self) -> Mark:
        """The last one: of a recording that the VAD has split, that of its last part."""
        kind = SpeechEventType.FINAL_TRANSCRIPT
        return next(mark for mark in reversed(self.marks) if mark.kind == kind)

    def delay(self, at: float) -> float:
        """Seconds from the last spoken sample; negative: before it."""
        return at - self.speech[1]


async def follow(handle: stt.STT[Any], detector: vad.VAD, recording: Recording) -> Track:
    """Plays a recording in real time to a stream of an STT.

    Args:
        handle: streams, with a VAD like `detector` of its own.
        detector: hears the same frames beside it, so that its decisions can be told.
        recording: with somebody who speaks.

    Raises:
        APIError: the STT failed.
        NothingHeard: it ended early, or there is no final transcript after `PATIENCE` seconds.
    """
    frames, spoken = recording.frames()
    size = frames[0].samples_per_channel
    silence = rtc.AudioFrame(bytes(2 * size), recording.rate, 1, size)
    start = time.monotonic() + FRAME
    origin = start + BEFORE
    speech = spoken[0] * FRAME, (spoken[-1] + 1) * FRAME
    heard = _Heard(origin)
    stream, vad_stream = handle.stream(), detector.stream()
    listening = asyncio.create_task(heard.listen(stream))
    watching = asyncio.create_task(heard.watch(vad_stream))
    script = chain(repeat(silence, round(BEFORE / FRAME)), frames, repeat(silence))
    try:
        async with aclosing(paced(script, start)) as played:
            async for frame, due in played:
                if listening.done():
                    listening.result()  # raises
                    raise NothingHeard(f"{recording.name}: the stream ended by itself")
                stream.push_frame(frame)
                vad_stream.push_frame(frame)
                if due - origin > speech[1] and heard.complete:
                    break
                if due - origin > speech[1] + PATIENCE:
                    raise NothingHeard(
                        f"{recording.name}: no final transcript after {PATIENCE:.0f} s"
                    )
    finally:
        await utils.aio.cancel_and_wait(listening, watching)
        await stream.aclose()
        await vad_stream.aclose()
    return Track(speech, tuple(heard.marks), tuple(heard.speaking))


class _Heard:
    """What has come so far, on the clock that `origin` is the zero of."""

    def __init__(self, origin: float) -> None:
        self._origin = origin
        self.marks: list[Mark] = []
        self.speaking: list[tuple[float, float]] = []
        self._since: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the VAD hears silence, and every stretch of speech has its final transcript."""
        finals = sum(mark.kind == SpeechEventType.FINAL_TRANSCRIPT for mark in self.marks)
        return self._since is None and 0 < len(self.speaking) <= finals

    async def listen(self, stream: stt.RecognizeStream) -> None:
        async for event in stream:
            if event.type in WORDS and event.alternatives:
                self.marks.append(Mark(event.type, self._now(), event.alternatives[0].text.strip()))

    async def watch(self, stream: vad.VADStream) -> None:
        async for event in stream:
            if event.type == VADEventType.START_OF_SPEECH:
                self._since = self._now()
            elif event.type == VADEventType.END_OF_SPEECH and self._since is not None:
                self.speaking.append((self._since, self._now()))
                self._since = None

    def _now(self) -> float:
        return time.monotonic() - self._origin
