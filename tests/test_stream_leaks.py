"""Streams that are given up at any moment: they leave nothing behind, and the next one works."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import numpy as np
import psutil
import pytest
from livekit.agents import APIConnectionError, stt
from livekit.agents import vad as agents_vad
from livekit.plugins import whisper
from livekit.plugins.whisper.adapter import WhisperStreamAdapter
from livekit.plugins.whisper.stt import FasterWhisperSTT

from tests.support.streams import (
    END,
    FINAL,
    INTERIM,
    PREFLIGHT,
    SECOND,
    START,
    kinds,
    legal,
    push,
    speech,
    trimmed,
    until,
)
from tests.support.weights import TINY

SAID = "He might even have been made amiable himself."
MANY = 40
MAX_GROWTH = 64 * 2**20
"""Bytes that forty streams may add to the resident memory: far less than what they keep while they
are open (2 MB each, of which Silero's buffer is most), and far more than an allocator's whims."""
POINTS = 32
"""Of all the moments at which something in a stream waits, so many are tried."""

Adapter = WhisperStreamAdapter


@pytest.fixture
async def adapter(vad: agents_vad.VAD) -> AsyncIterator[Adapter]:
    """One that has been used: what the process keeps for good is there."""
    backend = whisper.LocalBackend()
    made = WhisperStreamAdapter(stt=FasterWhisperSTT(TINY.model, backend=backend), vad=vad)
    await whole(made)
    yield made
    await made.aclose()
    await backend.aclose()


async def whole(adapter: Adapter) -> None:
    """A stream from its beginning to its end: a flush in mid-speech, and an utterance."""
    async with adapter.stream() as stream:
        push(stream, speech(1)[: 2 * 16_000])
        stream.flush()
        push(stream, SECOND, speech(4), SECOND)
        stream.end_input()
        found = [event async for event in stream]
    assert legal(found)
    assert [e.alternatives[0].text for e in found if e.type == FINAL][-1] == SAID


async def settled(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """The tasks that are new, and have not been ended: less time passes than a decode takes."""
    for _ in range(50):  # what is cancelled needs some turns of the loop
        await asyncio.sleep(0)
    return asyncio.all_tasks() - before


async def test_forty_streams_given_up_at_random_leave_nothing_behind(adapter: Adapter) -> None:
    chance = random.Random(7)
    sound = np.concatenate([SECOND, speech(4), SECOND, speech(1), SECOND])
    streams: list[weakref.ref[Any]] = []

    async def listen(stream: stt.RecognizeStream, last: stt.SpeechEventType | None) -> None:
        async for event in stream:
            if event.type == last:
                return

    async def visit() -> None:
        last = chance.choice([START, INTERIM, FINAL, END, None])
        way = chance.choice(["close", "cancel", "flush", "end"])
        stream = adapter.stream()
        streams.extend(map(weakref.ref, (stream, stream._segmenter)))
        async with stream:
            push(stream, sound[: chance.randrange(len(sound))])
            listening = asyncio.create_task(listen(stream, last))
            for _ in range(chance.randrange(300)):
                await asyncio.sleep(0)
            if way == "cancel":
                listening.cancel()
            elif way == "flush":
                stream.flush()
            elif way == "end":
                stream.end_input()
                await listening
        await asyncio.wait([listening])
        assert listening.cancelled() or listening.exception() is None

    async def crowd(count: int) -> None:
        await asyncio.gather(*(visit() for _ in range(count)))

    def threads() -> set[str]:
        # The loop's own threads are as many as it has had work for at once.
        names = {thread.name for thread in threading.enumerate()}
        return {name for name in names if not name.startswith("asyncio_")}

    await crowd(8)
    tasks, before = asyncio.all_tasks(), threads()
    gc.collect()
    resident = psutil.Process().memory_info().rss
    for _ in range(MANY // 8):
        await crowd(8)
    assert await settled(tasks) == set()
    gc.collect()
    assert len(streams) == 2 * (MANY + 8)
    assert [reference() for reference in streams if reference()] == []
    assert threads() <= before
    assert psutil.Process().memory_info().rss - resident < MAX_GROWTH
    await whole(adapter)


class Steps:
    """Counts how often tasks wait, and cancels the consumer's when it has happened so often.

    Args:
        limit: so often; 0: never.
        everybody: whether all tasks that are started meanwhile count, or the consumer's alone.
    """

    def __init__(self, limit: int, *, everybody: bool) -> None:
        self.count, self._limit, self._everybody = 0, limit, everybody
        self._consumer: asyncio.Task[None] | None = None

    async def run(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs it as the consumer's task; False where it was cancelled."""
        loop = asyncio.get_running_loop()
        self._consumer = asyncio.Task(Waiting(work, self._waits), loop=loop)
        if self._everybody:
            loop.set_task_factory(self._make)
        try:
            await asyncio.wait([self._consumer])
        finally:
            loop.set_task_factory(None)
        if not self._consumer.cancelled():
            self._consumer.result()
        return not self._consumer.cancelled()

    def _make(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(Waiting(work, self._waits), loop=loop, **options)

    def _waits(self) -> None:
        self.count += 1
        if self.count == self._limit and self._consumer:
            self._consumer.cancel()


class Waiting(Coroutine[Any, Any, Any]):
    """A coroutine that tells whenever it is about to wait."""

    def __init__(self, work: Coroutine[Any, Any, Any], waits: Callable[[], None]) -> None:
        self._work, self._waits = work, waits

    def send(self, value: Any) -> Any:
        awaited = self._work.send(value)
        self._waits()
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._work.throw(*error)
        self._waits()
        return awaited

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()


async def scene(adapter: Adapter) -> None:
    """All that happens in a stream: early words, a flush, a pause, two finals, the end."""
    sound = trimmed(speech(4))
    async with adapter.stream() as stream:
        push(stream, SECOND[:8_000], sound[: 2 * 16_000])
        found = await until(stream, INTERIM)
        stream.flush()
        found += await until(stream, END)
        push(stream, sound[2 * 16_000 :], SECOND[: 300 * 16])
        found += await until(stream, PREFLIGHT)
        push(stream, SECOND)
        stream.end_input()
        found += [event async for event in stream]
    assert legal(found)
    assert kinds(found).count(FINAL) == 2


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the loop has to tell: exceptions that nobody retrieved, tasks that were destroyed."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(str(context)))
    yield told
    loop.set_exception_handler(None)


async def test_consumer_may_be_cancelled_wherever_it_waits(
    adapter: Adapter, complaints: list[str]
) -> None:
    before, limit, done = asyncio.all_tasks(), 0, False
    while not done:
        limit += 1
        done = await Steps(limit, everybody=False).run(scene(adapter))
        assert await settled(before) == set(), f"cancelled where it waited the {limit}. time"
    assert limit > 8  # for each of the events, and in closing
    gc.collect()
    assert complaints == []


async def test_consumer_may_be_cancelled_whatever_the_stream_is_at(
    adapter: Adapter, complaints: list[str]
) -> None:
    before = asyncio.all_tasks()
    all_of_it = Steps(0, everybody=True)
    assert await all_of_it.run(scene(adapter))
    assert all_of_it.count > 10 * POINTS
    cancelled = 0
    for limit in range(1, all_of_it.count, all_of_it.count // POINTS):
        cancelled += not await Steps(limit, everybody=True).run(scene(adapter))
        assert await settled(before) == set(), f"cancelled when it waited the {limit}. time"
    assert cancelled >= POINTS // 2  # the last ones may come after the end
    gc.collect()
    assert complaints == []
    await whole(adapter)


class Failing(agents_vad.VAD):
    """Silero, which breaks in mid-speech, and then tells."""

    def __init__(self, real: agents_vad.VAD, tell: Callable[[], None]) -> None:
        super().__init__(capabilities=real.capabilities)
        self._real, self._tell = real, tell

    def stream(self) -> agents_vad.VADStream:
        opened: Any = self._real.stream()
        model, heard = opened._model, 0

        def fail(samples: Any) -> float:
            nonlocal heard
            heard += 1
            if heard > 60:
                raise RuntimeError("out of order")
            return float(model(samples))

        fail.window_size_samples = model.window_size_samples  # type: ignore[attr-defined]
        fail.sample_rate, opened._model = model.sample_rate, fail  # type: ignore[attr-defined]
        opened._task.add_done_callback(lambda _: self._tell())
        return opened  # type: ignore[no-any-return]


async def test_vad_that_breaks_ends_the_stream_with_one_error_and_leaves_nothing_behind(
    adapter: Adapter,
    vad: agents_vad.VAD,
    complaints: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What gives it its frames fails as well, in the same turn of the loop."""
    # Silero logs its error; pytest would keep that, and with it the stream's tasks.
    monkeypatch.setattr(logging.getLogger("livekit.plugins.silero"), "disabled", True)

    async def listen() -> None:  # its frame would keep the stream and its errors
        failing = Failing(vad, lambda: push(stream, SECOND))
        broken = WhisperStreamAdapter(stt=adapter.wrapped_stt, vad=failing)
        async with broken.stream() as stream:
            push(stream, SECOND, speech(4))
            with pytest.raises(APIConnectionError):
                [event async for event in stream]
        await broken.aclose()

    before = asyncio.all_tasks()
    await listen()
    assert await settled(before) == set()
    gc.collect()
    assert complaints == []
    await whole(adapter)
