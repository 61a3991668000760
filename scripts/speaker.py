"""Somebody who plays recordings in real time and hears what was understood."""

from __future__ import annotations

import asyncio
import time
import wave
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from livekit import rtc
from numpy.typing import NDArray

FRAME = 0.02
"""Seconds of audio in one frame."""
AHEAD = 0.1
"""Seconds of audio handed over before they are due, so that a busy machine leaves no gaps."""

T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """Speech to play: 16-bit mono samples."""

    name: str
    rate: int
    samples: NDArray[np.int16]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """From a 16-bit WAV file."""
        with wave.open(str(path)) as file:
            if file.getsampwidth() != 2:
                raise ValueError(f"{path}: {8 * file.getsampwidth()}-bit samples, 16 are expected")
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            if file.getnchannels() > 1:
                samples = samples.reshape(-1, file.getnchannels()).mean(axis=1).astype(np.int16)
            return cls(path.stem, file.getframerate(), samples)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate

    def frames(self) -> tuple[list[rtc.AudioFrame], range]:
        """In frames of `FRAME` seconds, and which of them are not just noise before or after.

        Speech ends where the level falls 35 dB below the loudest frame for good.
        """
        size = int(self.rate * FRAME)
        padded = np.pad(self.samples, (0, -len(self.samples) % size)).reshape(-1, size)
        level = np.sqrt((padded.astype(np.float64) ** 2).mean(axis=1))
        loud = np.flatnonzero(level > level.max(initial=0) * 10 ** (-35 / 20))
        frames = [rtc.AudioFrame(row.tobytes(), self.rate, 1, size) for row in padded]
        return frames, range(int(loud[0]), int(loud[-1]) + 1) if len(loud) else range(len(frames))


async def paced(frames: Iterable[T], start: float) -> AsyncGenerator[tuple[T, float], None]:
    """Frames in real time: each once its last sample is due, however late the one before was.

    Args:
        frames: of `FRAME` seconds each.
        start: when the first sample of all is due, on the clock of `time.monotonic` (s).

    Yields:
        A frame, and when its last sample was due, on the same clock (s).
    """
    due = start
    for frame in frames:
        due += FRAME
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield frame, due


@dataclass(frozen=True)
class Heard:
    """One text stream from the room."""

    speaker: str
    """Identity of whose words these are."""
    segment: str
    text: str
    final: bool
    at: float
    """When it was complete, on the clock of `time.monotonic` (s)."""
    since: float
    """Seconds from the first spoken sample of the latest recording; 0: nothing was spoken yet."""


@dataclass(frozen=True)
class Utterance:
    """What became of one recording."""

    name: str
    text: str
    """All final segments, joined; empty when nothing came in time."""
    segments: tuple[str, ...]
    speech_end: float
    """When its last speech sample was played, on the clock of `time.monotonic` (s)."""
    final_at: float | None
    """When the last final text arrived, on the same clock (s)."""

    @property
    def delay(self) -> float | None:
        """Seconds from the end of speech to the final text."""
        return None if self.final_at is None else self.final_at - self.speech_end


Cue = Callable[[float], None]
"""Is told when a frame's last sample is due, on the clock of `time.monotonic` (s)."""


class Speaker:
    """Plays recordings in real time, with silence between, and hears what was understood."""

    def __init__(self, identity: str, rate: int = 16000) -> None:
        self.identity, self.rate = identity, rate
        self.heard: list[Heard] = []
        self._listeners: set[asyncio.Queue[Heard | None]] = set()
        self._news = asyncio.Event()
        self._script: deque[tuple[rtc.AudioFrame, Cue | None]] = deque()
        self._began: float | None = None
        size = int(rate * FRAME)
        self._silence = rtc.AudioFrame(bytes(2 * size), rate, 1, size)

    async def play(
        self,
        recording: Recording,
        *,
        before: float = 1.0,
        quiet: float = 1.0,
        timeout: float = 30.0,
    ) -> Utterance:
        """Plays one recording and waits for all of its words.

        Args:
            recording: at the speaker's sample rate.
            before: seconds of silence before it.
            quiet: it is over when no text has come for so many seconds and as long again as the
                latest final text took.
            timeout: seconds to wait for that after the end of speech, and for a machine that plays
                slower than in real time.
        """
        if recording.rate != self.rate:
            raise ValueError(f"{recording.name} has {recording.rate} Hz, {self.rate} are expected")
        first = len(self.heard)
        frames, spoken = recording.frames()
        ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def begin(due: float) -> None:
            self._began = due - FRAME

        def end(due: float) -> None:
            if not ended.done():
                ended.set_result(due)

        cues: dict[int, Cue] = {spoken[0]: begin, spoken[-1]: end}
        self._script.extend((self._silence, None) for _ in range(int(before / FRAME)))
        self._script.extend((frame, cues.get(i)) for i, frame in enumerate(frames))
        speech_end = await asyncio.wait_for(ended, before + recording.duration + timeout)

        finals = await self._listen(first, speech_end, quiet, timeout)
        texts = tuple(h.text.strip() for h in finals)
        at = finals[-1].at if finals else None
        return Utterance(recording.name, " ".join(texts), texts, speech_end, at)

    async def _listen(
        self, first: int, speech_end: float, quiet: float, timeout: float
    ) -> list[Heard]:
        loop = asyncio.get_running_loop()
        while True:
            news = self.heard[first:]
            finals = [h for h in news if h.final and h.speaker == self.identity]
            deadline = speech_end + timeout
            if finals and (delay := finals[-1].at - speech_end) > 0:
                # A VAD may split a recording, and the rest may take as long to decode.
                deadline = min(deadline, news[-1].at + quiet + delay)
            left = deadline - time.monotonic()
            if left <= 0:
                return finals
            self._news.clear()
            timer = loop.call_later(left, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()

    def events(self) -> AsyncIterator[Heard]:
        """Every text from now on, as it arrives; ends when the speaker leaves."""
        queue: asyncio.Queue[Heard | None] = asyncio.Queue()
        self._listeners.add(queue)

        async def iterate() -> AsyncIterator[Heard]:
            try:
                while (heard := await queue.get()) is not None:
                    yield heard
            finally:
                self._listeners.discard(queue)

        return iterate()

    def hear(self, speaker: str, segment: str, text: str, final: bool) -> None:
        """Takes a text that has arrived."""
        now = time.monotonic()
        since = 0.0 if self._began is None else now - self._began
        heard = Heard(speaker, segment, text, final, now, since)
        self.heard.append(heard)
        self._news.set()
        for queue in self._listeners:
            queue.put_nowait(heard)

    def leave(self) -> None:
        """Ends the iterators."""
        for queue in self._listeners:
            queue.put_nowait(None)

    async def frames(self, ahead: float = 0.0) -> AsyncIterator[rtc.AudioFrame]:
        """What the microphone gives, for ever, each frame `ahead` seconds before it is due."""
        due = time.monotonic()
        while True:
            frame, cue = self._script.popleft() if self._script else (self._silence, None)
            yield frame
            now = time.monotonic()
            due = max(due, now + ahead - AHEAD) + FRAME  # after a stall, go on from there
            if cue:
                cue(due)
            await asyncio.sleep(max(0.0, due - ahead - now))
