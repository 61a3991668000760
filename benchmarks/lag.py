"""How late the event loop wakes up while a model decodes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from livekit.plugins.whisper.backend import LocalBackend
from livekit.plugins.whisper.types import Utterance

from benchmarks import subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import Figure, Row, Summary, Target, percentile
from benchmarks.subjects import Subject

ABOUT = """\
Milliseconds by which a task that sleeps {interval:g} ms wakes up too late; medians over rounds, and
the lowest and highest round. *Idle* is the machine's own noise in the same process. *Decoding* is
this plugin decoding utterances back to back through `LocalBackend`. *Loading* is the import of the
engine and the first load. *On the loop* is the engine's own `transcribe` called in a coroutine, as
naive code does. A late wake-up has two causes: other threads of the machine had the cores (the
kernel counts that time), or the interpreter was held (by Python code, or an extension that keeps
the GIL). *Held* leaves the first out: it is what the code here can be blamed for."""

IDLE, DECODING, LOADING, NAIVE = "idle", "decoding", "loading", "on the loop"
LONGEST, HELD = "longest", "longest, held"
INTERVAL = 0.001
"""Seconds."""
_SCHEDSTAT = "/proc/thread-self/schedstat"
"""Linux: nanoseconds on a core, nanoseconds of waiting for one (Documentation/scheduler)."""


@dataclass(frozen=True)
class Wake:
    """One wake-up."""

    late: float
    """How late (s)."""
    waited: float | None
    """How long the thread could run but had no core (s); None: the system does not tell."""


@dataclass
class Watch:
    """The wake-ups of one round, while one thing went on."""

    wakes: list[Wake]

    def late(self, share: float) -> float:
        """A percentile (s)."""
        return percentile([wake.late for wake in self.wakes], share)

    @property
    def held(self) -> float | None:
        """The longest that the thread was kept from running by anything but a lack of cores (s)."""
        held = [max(0.0, w.late - w.waited) for w in self.wakes if w.waited is not None]
        return max(held, default=None)


Round = dict[str, Watch]
"""What went on → the wake-ups meanwhile."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """The figure."""
    rows, longest = list[Row](), dict[str, float]()
    for subject in found:
        seen = [
            each
            for _ in rounds(effort.lag_processes, effort.patience)
            for each in forked(watch, subject, effort.lag_rounds, effort.lag_seconds)
        ]
        mine = _rows(subject.engine, seen)
        rows += mine
        longest[subject.engine] = next(r.cells[DECODING].p50 for r in mine if r.what == LONGEST)
    target = Target("the longest lag of a round while decoding (p50)", 20.0, "ms", longest)
    about = ABOUT.format(interval=1e3 * INTERVAL)
    return [Figure("lag", "Event loop lag", "ms", about, rows, [target])]


def watch(subject: Subject, count: int, seconds: float) -> list[Round]:
    """Rounds of all that can go on, in this process, each for about so many seconds."""
    return asyncio.run(_watch(subject, count, seconds))


async def _watch(subject: Subject, count: int, seconds: float) -> list[Round]:
    backend, config = LocalBackend(), subject.config
    utterances = cycle([Utterance(speech.audio) for speech in subjects.recordings()])

    async def decode() -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await backend.transcribe(config.model_key, next(utterances), config.decode_options)

    async def decode_here() -> None:
        until = time.perf_counter() + seconds / 2
        while time.perf_counter() < until:
            plain(next(utterances).audio)
            await asyncio.sleep(5 * INTERVAL)

    loading = await _during(backend.prewarm(config.model_key))
    plain = subject.load_plain()
    seen = list[Round]()
    for _ in range(count):
        idle = await _during(asyncio.sleep(seconds))
        seen.append({IDLE: idle, DECODING: await _during(decode())})
        seen[-1][NAIVE] = await _during(decode_here())
    seen[0][LOADING] = loading
    await backend.aclose()
    return seen


async def _during(work: Coroutine[Any, Any, object]) -> Watch:
    """Watches the loop while something goes on."""
    wakes = list[Wake]()
    with _waiting() as waiting:
        watching = asyncio.create_task(_sleeper(wakes, waiting))
        await asyncio.sleep(0)
        await work
        await asyncio.sleep(2 * INTERVAL)  # until a wake-up that is late by now has been seen
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return Watch(wakes)


async def _sleeper(wakes: list[Wake], waiting: Iterator[float | None]) -> None:
    while True:
        before, started = next(waiting), time.perf_counter()
        await asyncio.sleep(INTERVAL)
        late = max(0.0, time.perf_counter() - started - INTERVAL)
        after = next(waiting)
        waited = None if before is None or after is None else after - before
        wakes.append(Wake(late, waited))


@contextmanager
def _waiting() -> Iterator[Iterator[float | None]]:
    """Yields how long the calling thread has waited for a core so far (s), each time anew."""
    try:
        file = os.open(_SCHEDSTAT, os.O_RDONLY)
    except OSError:
        yield cycle([None])
        return

    def read() -> Iterator[float]:
        while True:
            yield int(os.pread(file, 64, 0).split()[1]) / 1e9

    try:
        yield read()
    finally:
        os.close(file)


def _rows(engine: str, found: list[Round]) -> list[Row]:
    names = [n for n in (IDLE, DECODING, LOADING, NAIVE) if any(n in each for each in found)]
    watches = {name: [each[name] for each in found if name in each] for name in names}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, LONGEST: 1.0}
    rows = []
    for what, share in shares.items():
        cells = {
            name: Summary.of([each.late(share) for each in watched]).times(1e3)
            for name, watched in watches.items()
        }
        rows.append(Row(engine, what, cells))
    held = {name: [each.held for each in watched] for name, watched in watches.items()}
    cells = {
        name: Summary.of([value for value in values if value is not None]).times(1e3)
        for name, values in held.items()
        if None not in values
    }
    return [*rows, Row(engine, HELD, cells)] if cells else rows
