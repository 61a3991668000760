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

import numpy as np
from livekit.agents import APIError, stt, utils

from .agreement import Agreement
from .cutting import Cutting, boundary
from .segmenter import Segmenter
from .types import SAMPLE_RATE, WINDOW_SECONDS, Audio, Urgency, Utterance, Word

FIRST_SECONDS = 1.1
"""How much of an utterance, its padding of half a second included, the first interim result has."""
INTERIM_SECONDS = 0.4
"""Between one interim result and the next decode for one, at least."""
PACE = 4.0
"""The same as a multiple of the time that the last one took, waiting included: the busier the
decoders, the fewer interim results."""

CONTEXT_PAUSE = 3.0
"""Seconds: after a shorter pause, a speaker goes on with what was said before it."""
CONTEXT_SECONDS = 12.0
"""How much may be heard once more for its context: with one that is longer there is context enough
in the utterance itself."""
CONTEXT_TAIL, CONTEXT_LEAD = 0.15, 0.2
"""Seconds of the pause that stay, after the speech before it and before the speech after it:
tiny.en makes use of what is 0.3 to 0.4 s away, and less of what is nearer or further."""
CONTEXT_BUSY = 0.4
"""Seconds that the last decode took, past which there is no time for context."""

LONG_SECONDS = 18.0
"""An utterance this long is decoded with the times of its words, to be cut between two of them."""

Hear = Callable[..., Awaitable[stt.SpeechEvent]]
"""Of an utterance, and of fields of `DecodeOptions` that are its own."""
Say = Callable[[stt.SpeechEvent], None]
Guess = asyncio.Future[stt.SpeechEvent]


@dataclass(frozen=True)
class StreamOptions:
    """What is a session's own: when to decode before the end of speech, and knowing what."""

    preflight: float = 0.1
    """Seconds of silence, as the VAD counts it, after which what was said is decoded; 0: never."""
    interim_results: bool = True
    """Whether what is being said is decoded while it is said."""
    chat_context: bool = False
    """Whether the model is shown the last turns of the conversation."""


class Ahead:
    """Decodes the open utterance of a segmenter, ahead of its end.

    Args:
        segmenter: whose utterance; told of pauses here, of all else by the stream.
        hear: decodes an utterance; its times are the stream's.
        say: gets the events.
        may_speak: whether nothing that was said earlier is still to be answered.
        offset: seconds that events' times are later than the stream's own.
        options: when.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        hear: Hear,
        say: Say,
        may_speak: Callable[[], bool],
        offset: Callable[[], float],
        options: StreamOptions,
    ) -> None:
        self._segmenter, self._hear, self._say = segmenter, hear, say
        self._may_speak, self._offset, self._options = may_speak, offset, options
        self._guess: Guess | None = None
        self._interim: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._agreement, self._cutting = Agreement(), Cutting()
        self._cut: tuple[int, stt.SpeechEvent] | None = None
        self._shown = ""
        self._next = 0
        self._before: Utterance | None = None
        self._took = self._lead = 0.0

    def begin(self, padding: float = 0.0) -> None:
        """An utterance has been opened; what is known of another one is of no use.

        Args:
            padding: seconds of it that come before the speech.
        """
        self._lead = max(0.0, padding - CONTEXT_LEAD)
        if guess := self.take():
            guess.cancel()
        self._agreement, self._cutting, self._cut = Agreement(), Cutting(), None
        self._shown = ""
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

    def cut(self) -> tuple[Utterance, Guess] | None:
        """What may be cut off the open utterance, which is long, and what was decoded of it."""
        if self._cut is None or self._segmenter.paused:
            return None
        at, event = self._cut
        utterance = self._segmenter.cut(at)
        if utterance is None:
            return None
        guess: Guess = asyncio.get_running_loop().create_future()
        guess.set_result(event)
        return utterance, guess

    def remember(self, utterance: Utterance, silence: float) -> None:
        """An utterance has ended, with so many seconds of silence: the next may go on with it."""
        spoken = len(utterance.audio.samples) - round((silence - CONTEXT_TAIL) * SAMPLE_RATE)
        audio = Audio(utterance.audio.samples[: max(0, spoken)])
        # What was cut off in mid-speech is the prompt of what follows: no pause parts them.
        fits = silence > 0 and 0 < audio.duration <= CONTEXT_SECONDS
        self._before = replace(utterance, audio=audio) if fits else None

    def take(self) -> Guess | None:
        """The utterance has ended: what its last pause was decoded to, or is being decoded to."""
        guess, self._guess = self._guess, None
        self._drop_interim()
        return guess

    async def aclose(self) -> None:
        """Ends what is under way."""
        await utils.aio.cancel_and_wait(*self._tasks)

    async def _preflight(self, utterance: Utterance) -> stt.SpeechEvent:
        event = await self._timed(self._with_context(utterance))
        if _text(event) and self._may_speak():
            kind = stt.SpeechEventType.PREFLIGHT_TRANSCRIPT
            self._say(replace(event, type=kind, alternatives=deepcopy(event.alternatives)))
        return event

    def _with_context(self, utterance: Utterance) -> Awaitable[stt.SpeechEvent]:
        """Decodes an utterance, heard after the one before it where the speaker goes on with that.

        Words that Whisper mishears on their own it often hears right in their context.
        """
        before = self._before
        if before is None or self._took > CONTEXT_BUSY:
            return self._hear(utterance)
        known, start = before.audio.duration, utterance.start + self._lead
        new = Audio(utterance.audio.samples[round(self._lead * SAMPLE_RATE) :])
        pause = start - (before.start + known)
        fits = new.duration and known + new.duration <= WINDOW_SECONDS
        if pause > CONTEXT_PAUSE or not fits:
            return self._hear(utterance)
        both = Audio(np.concatenate([before.audio.samples, new.samples]))
        joined = replace(utterance, audio=both, start=start - known)
        return self._hear(joined, context=known)

    async def _timed(self, hearing: Awaitable[stt.SpeechEvent]) -> stt.SpeechEvent:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            event = await hearing
        except APIError:
            self._took = clock() - started
            raise
        self._took = clock() - started
        return event

    def _resume(self) -> None:
        """The speaker goes on: what was said before the pause may still change."""
        guess, self._guess = self._guess, None
        if guess and succeeded(guess):
            self._show(guess.result())
        elif guess:
            guess.cancel()

    def _look(self, at: int) -> None:
        long = at - self._segmenter.begun >= LONG_SECONDS * SAMPLE_RATE
        wanted = self._options.interim_results or long
        if not wanted or self._interim or self._cut or not self._may_speak():
            return
        # Where to cut has to be known in time: it does not give way as other interims do.
        urgency = Urgency.PREFLIGHT if long else Urgency.INTERIM
        utterance = self._segmenter.so_far(at, urgency)
        if utterance:
            self._interim = self._start(self._hear_interim(utterance, self._agreement, long))
            self._interim.add_done_callback(self._end_interim)

    async def _hear_interim(self, utterance: Utterance, agreement: Agreement, long: bool) -> None:
        with suppress(APIError):  # superseded, or there is no room for it
            changes = {"word_timestamps": True} if long else {}
            event = await self._timed(self._hear(utterance, **changes))
            if agreement is self._agreement and not self._segmenter.paused:
                self._show(event)
                if long:
                    self._look_for_cut(utterance, event)
        if agreement is self._agreement:
            wait = max(INTERIM_SECONDS, self._took * (1.0 if long else PACE))
            at, limit = self._segmenter.pushed, self._segmenter.begun + LONG_SECONDS * SAMPLE_RATE
            later = at + wait * SAMPLE_RATE
            self._next = round(later if at >= limit else min(later, limit))

    def _look_for_cut(self, utterance: Utterance, event: stt.SpeechEvent) -> None:
        if event.alternatives and event.alternatives[0].source_languages:
            return  # a translation's words are not where they were said
        since = utterance.start + self._offset()
        words = _words(event, since)
        count = self._cutting.add(words, utterance.audio)
        if count is None:
            return
        at = boundary(words, count)
        data = deepcopy(event.alternatives[0])
        data.text = "".join(word.text for word in words[:count]).strip()
        data.words, data.end_time = (data.words or [])[:count], since + words[count - 1].end
        self._cut = (
            round((utterance.start + at) * SAMPLE_RATE),
            replace(event, alternatives=[data]),
        )

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


def succeeded(task: asyncio.Future[Any]) -> bool:
    """Whether it has a result."""
    return task.done() and not task.cancelled() and not task.exception()


def _words(event: stt.SpeechEvent, since: float) -> list[Word]:
    """Words of an event, with times in seconds from a time of its stream."""
    given = (event.alternatives[0].words or []) if event.alternatives else []
    return [
        Word(str(word), word.start_time - since, word.end_time - since, 0.0)
        for word in given
        if utils.is_given(word.start_time) and utils.is_given(word.end_time)
    ]


def _text(event: stt.SpeechEvent) -> str:
    return event.alternatives[0].text if event.alternatives else ""
