"""What is decoded before the speech has ended: interim results, and the preflight of a pause.

Everything here may fail, come late or never: the final transcript does not need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from livekit.agents import APIError, stt, utils

from .agreement import Agreement
from .segmenter import Segmenter
from .types import SAMPLE_RATE, Urgency, Utterance

FIRST_SECONDS = 1.1
"""How much of an utterance, its padding of half a second included, the first interim result has."""
INTERIM_SECONDS = 0.4
"""Between one interim result and the next decode for one, at least."""
PACE = 4.0
"""The same as a multiple of the time that the last one took, waiting included: the busier the
decoders, the fewer interim results."""

Hear = Callable[[Utterance], Awaitable[stt.SpeechEvent]]
Say = Callable[[stt.SpeechEvent], None]
Guess = asyncio.Task[stt.SpeechEvent]


@dataclass(frozen=True)
class StreamOptions:
    """When to decode before the end of speech."""

    preflight: float = 0.1
    """Seconds of silence, as the VAD counts it, after which what was said is decoded; 0: never."""
    interim_results: bool = True
    """Whether what is being said is decoded while it is said."""


class Ahead:
    """Decodes the open utterance of a segmenter, ahead of its end.

    Args:
        segmenter: whose utterance; told of pauses here, of all else by the stream.
        hear: decodes an utterance; its times are the stream's.
        say: gets the events.
        may_speak: whether nothing that was said earlier is still to be answered.
        options: when.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        hear: Hear,
        say: Say,
        may_speak: Callable[[], bool],
        options: StreamOptions,
    ) -> None:
        self._segmenter, self._hear, self._say = segmenter, hear, say
        self._may_speak, self._options = may_speak, options
        self._guess: Guess | None = None
        self._interim: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._agreement = Agreement()
        self._shown = ""
        self._next = 0

    def begin(self) -> None:
        """An utterance has been opened; what is known of another one is of no use."""
        if guess := self.take():
            guess.cancel()
        self._agreement, self._shown = Agreement(), ""
        self._next = self._segmenter.begun + round(FIRST_SECONDS * SAMPLE_RATE)

    def advance(self, at: int, silence: float) -> None:
        """The VAD has heard all before `at`, the last `silence` seconds of it without speech."""
        was_paused = self._segmenter.paused
        utterance = self._segmenter.pause(at, silence)
        if utterance:
            if was_paused:
                self._resume()
            self._drop_interim()
            self._guess = self._start(self._preflight(utterance))
        elif was_paused and not self._segmenter.paused:
            self._resume()
        elif not self._segmenter.paused and at >= self._next:
            self._look(at)

    def take(self) -> Guess | None:
        """The utterance has ended: what its last pause was decoded to, or is being decoded to."""
        guess, self._guess = self._guess, None
        self._drop_interim()
        return guess

    async def aclose(self) -> None:
        """Ends what is under way."""
        await utils.aio.cancel_and_wait(*self._tasks)

    async def _preflight(self, utterance: Utterance) -> stt.SpeechEvent:
        event = await self._hear(utterance)
        if _text(event) and self._may_speak():
            kind = stt.SpeechEventType.PREFLIGHT_TRANSCRIPT
            self._say(replace(event, type=kind, alternatives=deepcopy(event.alternatives)))
        return event

    def _resume(self) -> None:
        """The speaker goes on: what was said before the pause may still change."""
        guess, self._guess = self._guess, None
        if guess and succeeded(guess):
            self._show(guess.result())
        elif guess:
            guess.cancel()

    def _look(self, at: int) -> None:
        if not self._options.interim_results or self._interim or not self._may_speak():
            return
        utterance = self._segmenter.so_far(at, Urgency.INTERIM)
        if utterance:
            self._interim = self._start(self._hear_interim(utterance, self._agreement))
            self._interim.add_done_callback(self._end_interim)

    async def _hear_interim(self, utterance: Utterance, agreement: Agreement) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        with suppress(APIError):  # superseded, or there is no room for it
            event = await self._hear(utterance)
            if agreement is self._agreement and not self._segmenter.paused:
                self._show(event)
        wait = max(INTERIM_SECONDS, PACE * (clock() - started))
        if agreement is self._agreement:
            self._next = self._segmenter.pushed + round(wait * SAMPLE_RATE)

    def _end_interim(self, task: asyncio.Task[None]) -> None:
        if self._interim is task:
            self._interim = None

    def _drop_interim(self) -> None:
        if self._interim:
            self._interim.cancel()
            self._interim = None

    def _show(self, event: stt.SpeechEvent) -> None:
        if not self._options.interim_results or not _text(event) or not self._may_speak():
            return
        text = self._agreement.add(_text(event))
        if text == self._shown:
            return
        self._shown = text
        data = deepcopy(event.alternatives[0])  # whoever gets an event may change it
        data.text, data.metadata = text, {"stable": self._agreement.stable}
        kind = stt.SpeechEventType.INTERIM_TRANSCRIPT
        self._say(replace(event, type=kind, alternatives=[data]))

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the final tries again, and tells


def succeeded(task: asyncio.Task[Any]) -> bool:
    """Whether it has a result."""
    return task.done() and not task.cancelled() and not task.exception()


def _text(event: stt.SpeechEvent) -> str:
    return event.alternatives[0].text if event.alternatives else ""
