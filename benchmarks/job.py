"""A session of a job process: frames go in as from a room, final transcripts come out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from livekit.agents import APIError, stt

from benchmarks import subjects
from benchmarks.process import Running, running
from benchmarks.script import SILENCE, Said, Script
from benchmarks.subjects import Subject
from benchmarks.watch import Watched
from scripts.speaker import FRAME, Recording
from scripts.wer import pooled_word_error_rate


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
    decided: list[float] = field(default_factory=list)
    """When the VAD told that speech had ended, on the same clock (s)."""
    seconds: float = 0.0
    """Of audio that was handed over, pauses included."""
    cpu: float = 0.0
    """Seconds of all cores that this process used meanwhile."""

    @property
    def answered(self) -> bool:
        """Whether everything that was said has been answered: a VAD may cut one into several."""
        enough = len(self.heard) >= len(self.said)
        return enough and self.heard[-1].at > self.said[-1].ended

    @property
    def spoken(self) -> str:
        """All that was said."""
        return " ".join(said.text for said in self.said)

    @property
    def transcript(self) -> str:
        """All that was heard."""
        return " ".join(heard.text for heard in self.heard)


@dataclass(frozen=True)
class Part:
    """What one job process does."""

    who: str
    """Whose adapter it has."""
    script: Script
    """What it hears."""
    silence: float = subjects.VAD_SILENCE
    """Seconds of silence after which its VAD takes speech for ended."""


@contextmanager
def ready(subject: Subject, parts: Sequence[Part]) -> Iterator[list[Running[Course]]]:
    """Job processes with all loaded that they need, for `begin`."""
    with ExitStack() as stack:
        jobs = [stack.enter_context(running(attend, subject, part)) for part in parts]
        for job in jobs:
            job.hear()
        yield jobs


def begin(jobs: Sequence[Running[Course]]) -> list[Course]:
    """Has all of them begin at the same time."""
    start = time.monotonic() + 0.2
    for job in jobs:
        job.tell(start)
    return [job.result() for job in jobs]


def play(subject: Subject, parts: Sequence[Part]) -> list[Course]:
    """Has job processes do their parts, at the same time."""
    with ready(subject, parts) as jobs:
        return begin(jobs)


def wrong_words(courses: Iterable[Course]) -> float:
    """Of all words of several streams together, in percent; where transcripts end is all one."""
    return 100 * pooled_word_error_rate((course.spoken, course.transcript) for course in courses)


async def transcribe(handle: stt.STT[Any], recording: Recording) -> str:
    """What a session hears of one recording that is handed over at once."""
    stream = handle.stream()
    for frame in [*recording.frames()[0], *[SILENCE] * round(1 / FRAME)]:
        stream.push_frame(frame)
    stream.end_input()
    texts = [
        event.alternatives[0].text
        async for event in stream
        if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT
    ]
    await stream.aclose()
    return " ".join(texts)


def attend(caller: Connection, subject: Subject, part: Part) -> Course:
    """Plays recordings in real time to a stream of its own, from when it is told to begin."""
    return asyncio.run(_attend(caller, subject, part))


async def _attend(caller: Connection, subject: Subject, part: Part) -> Course:
    subjects.log_as_agents_do()
    course = Course()
    detector = Watched(subjects.load_vad(part.silence), course.decided)
    handle = subject.create(part.who, detector)
    await subject.prewarm(part.who)
    caller.send("ready")
    start: float = await asyncio.to_thread(caller.recv)
    before = time.process_time()
    stream = handle.stream()
    listening = asyncio.create_task(_listen(stream, course))
    await _speak(stream, course, part.script, start)
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


async def _speak(stream: stt.RecognizeStream, course: Course, script: Script, start: float) -> None:
    async for frame in script.play(course.said, start, lambda: course.answered):
        try:
            stream.push_frame(frame)
        except RuntimeError:  # the stream has failed
            return
        course.seconds += FRAME
