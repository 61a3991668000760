"""What is spoken in a job process, in real time: recordings, with pauses between."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain

from livekit import rtc

from scripts.speaker import FRAME, Recording, paced
from tests.support import weights

PAUSE = (1.2, 3.7)
"""Seconds between recordings, which take 4.9 s on average: speech is two thirds of the time."""
FIRST_PAUSE = (0.2, 7.6)
"""Seconds before the first one: the processes do not run in step."""
PATIENCE = 20.0
"""Seconds after the last utterance until what is not answered counts as lost."""
SILENCE = rtc.AudioFrame(bytes(640), 16000, 1, 320)
"""20 ms of it."""

Played = tuple[rtc.AudioFrame, str | None]
"""20 ms, and with the first and the last ones that are spoken of a recording, what is said."""


@dataclass(frozen=True)
class Line:
    """A recording that is played."""

    text: str
    """What is said in it."""
    recording: Recording
    """At 16 kHz."""


@dataclass
class Said:
    """An utterance that was played."""

    text: str
    """What is said in it."""
    began: float
    """When its first spoken sample was due, on the clock of `time.monotonic` (s)."""
    ended: float
    """The same of its last one (s)."""


@dataclass(frozen=True)
class Script:
    """Recordings in random order, with pauses between."""

    seed: int
    """Of the order and of the pauses: equal scripts are played equally."""
    seconds: float = 0.0
    """How long the five recordings are played, again and again; pauses included."""
    lines: tuple[Line, ...] = ()
    """What is played once in place of that."""
    pause: tuple[float, float] = PAUSE
    """Between them (s), at least and at most."""

    async def play(
        self, said: list[Said], start: float, answered: Callable[[], bool]
    ) -> AsyncIterator[rtc.AudioFrame]:
        """Yields frames when they are due, however late the one before was.

        After the last utterance there is silence until it is answered, or will not be any more.

        Args:
            said: gets every utterance, once its last sample is due.
            start: on the clock of `time.monotonic` (s).
            answered: whether all that was said has been answered.
        """
        began = 0.0
        everything = chain(self._frames(), _silence(said, answered))
        async with aclosing(paced(everything, start)) as played:
            async for (frame, text), due in played:
                yield frame
                if text and not began:
                    began = due - FRAME
                elif text:
                    said.append(Said(text, began, due))
                    began = 0.0

    def _frames(self) -> Iterator[Played]:
        chance, played = random.Random(self.seed), 0
        limits = FIRST_PAUSE
        for text, frames, spoken in self._lines(chance):
            pause = round(chance.uniform(*limits) / FRAME)
            played += pause
            if not self.lines and (played + spoken[-1]) * FRAME > self.seconds:
                return
            yield from ((SILENCE, None) for _ in range(pause))
            for index, frame in enumerate(frames):
                yield frame, text if index in (spoken[0], spoken[-1]) else None
            played += len(frames)
            limits = self.pause

    def _lines(self, chance: random.Random) -> Iterator[tuple[str, list[rtc.AudioFrame], range]]:
        # All are cut into frames before the first is due.
        lines = [(line.text, *line.recording.frames()) for line in self.lines or recordings()]
        last = ""
        while True:
            order = chance.sample(lines, len(lines))
            if order[0][0] == last:
                order.reverse()
            last = order[-1][0]
            yield from order
            if self.lines:
                return


def _silence(said: list[Said], answered: Callable[[], bool]) -> Iterator[Played]:
    while not answered() and time.monotonic() < said[-1].ended + PATIENCE:
        yield SILENCE, None


def recordings() -> list[Line]:
    """The five from LibriVox, in order."""
    return [
        Line(weights.REFERENCES[path.name], Recording.read(path)) for path in weights.recordings()
    ]
