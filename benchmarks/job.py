"""A session of a job process: frames go in as from a room, final transcripts come out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from livekit import rtc
from livekit.agents import APIError, stt

from benchmarks import subjects
from benchmarks.subjects import Subject
from scripts.speaker import FRAME, Recording
from tests.support import weights

PAUSE = (1.2, 3.7)
"""Seconds between recordings, which take 4.9 s on average: speech is two thirds of the time."""
FIRST_PAUSE = (0.2, 7.6)
"""Seconds before the first one: the processes do not run in step."""
PATIENCE = 20.0
"""Seconds after the last utterance until what is not answered counts as lost."""
Played = tuple[rtc.AudioFrame, str | None]
"""20 ms, and with the first and the last ones that are spoken of a recording, its name."""
_SILENCE = rtc.AudioFrame(bytes(640), 16000, 1, 320)


@dataclass
class Said:
    """An utterance."""

    name: str
    """Of the recording's file."""
    began: float
    """When its first spoken sample was due, on the clock of `time.monotonic` (s)."""
    ended: float
    """The same of its last one (s)."""


@dataclass
class Heard:
    """A transcript."""

    text: str
    at: float
    """When it came, on the same clock (s)."""


@dataclass
class Course:
    """How a session went."""

    said: list[Said] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    """Finals."""
    early: list[tuple[stt.SpeechEventType, Heard]] = field(default_factory=list)
    """Interim results and preflights."""
    seconds: float = 0.0
    """Of audio that was handed over, pauses included."""
    cpu: float = 0.0
    """Seconds of all cores that this process used meanwhile."""


def recordings() -> list[Recording]:
    """The five, as they are played."""
    return [Recording.read(path) for path in weights.recordings()]


async def transcribe(handle: stt.STT[Any], recording: Recording) -> str:
    """What a session hears of one recording that is handed over at once."""
    stream = handle.stream()
    for frame in [*recording.frames()[0], *[_SILENCE] * round(1 / FRAME)]:
        stream.push_frame(frame)
    stream.end_input()
    texts = [
        event.alternatives[0].text
        async for event in stream
        if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT
    ]
    await stream.aclose()
    return " ".join(texts)


def attend(caller: Connection, subject: Subject, who: str, seed: int, seconds: float) -> Course:
    """Plays recordings in real time to a session of its own, from when it is told to begin."""
    return asyncio.run(_attend(caller, subject, who, seed, seconds))


async def _attend(
    caller: Connection, subject: Subject, who: str, seed: int, seconds: float
) -> Course:
    subjects.log_as_agents_do()
    handle = subject.create(who, subjects.load_vad())
    await subject.prewarm(who)
    caller.send("ready")
    start: float = await asyncio.to_thread(caller.recv)
    course, before = Course(), time.process_time()
    stream = handle.stream()
    listening = asyncio.create_task(_listen(stream, course))
    await _speak(stream, course, _Script(random.Random(seed), seconds), start)
    course.cpu = time.process_time() - before
    listening.cancel()
    await asyncio.wait([listening])
    await stream.aclose()
    await handle.aclose()
    return course


async def _listen(stream: stt.RecognizeStream, course: Course) -> None:
    try:
        async for event in stream:
            if not event.alternatives:
                continue
            heard = Heard(event.alternatives[0].text, time.monotonic())
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                course.heard.append(heard)
            else:
                course.early.append((event.type, heard))
    except APIError:
        pass  # what it owed is lost, and counted so


async def _speak(
    stream: stt.RecognizeStream, course: Course, script: _Script, start: float
) -> None:
    """Hands frames over when they are due, however late the one before was."""
    due, began = start, 0.0
    for frame, name in script.frames():
        due += FRAME
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            stream.push_frame(frame)
        except RuntimeError:  # the stream has failed
            return
        if name and not began:
            began = due - FRAME
        elif name:
            course.said.append(Said(name, began, due))
            began = 0.0
        if script.over:
            answered = len(course.heard) >= len(course.said)
            if answered or due > course.said[-1].ended + PATIENCE:
                break
    course.seconds = due - start


class _Script:
    """What is played: all recordings in random order, again and again, with pauses between."""

    def __init__(self, chance: random.Random, seconds: float) -> None:
        self._chance, self._frames = chance, round(seconds / FRAME)
        self._recordings = [(f"{each.name}.wav", *each.frames()) for each in recordings()]
        self.over = False
        """Whether the last utterance has been played; only silence follows."""

    def frames(self) -> Iterator[Played]:
        """Never ends; see `over`."""
        played = yield from self._pause(FIRST_PAUSE)
        last = ""
        while True:
            order = self._chance.sample(self._recordings, len(self._recordings))
            if order[0][0] == last:
                order.reverse()
            last = order[-1][0]
            for name, frames, spoken in order:
                if played + spoken[-1] > self._frames:
                    self.over = True
                    while True:
                        yield _SILENCE, None
                for index, frame in enumerate(frames):
                    yield frame, name if index in (spoken[0], spoken[-1]) else None
                played += len(frames) + (yield from self._pause(PAUSE))

    def _pause(self, limits: tuple[float, float]) -> Generator[Played, None, int]:
        count = round(self._chance.uniform(*limits) / FRAME)
        for _ in range(count):
            yield _SILENCE, None
        return count
