"""What a batcher decides by: the `Line` in which items wait, and the `Meter` of its workers.

Neither has a lock, a clock or a thread. Who is next in the line:

- A lower urgency goes first; within one, the stream whose last turn is longest ago; within a
  stream, in order of arrival. A stream that had no turn yet counts from its arrival, so that
  neither a stream that queues a hundred items nor a flood of new streams keeps others waiting.
- The item whose turn it is decides the group of a batch; of the next ones of its group, those of
  the most similar size fill it up. Nobody is passed over for more than `LOOKAHEAD` - 1 batches.
- Past the limit the least urgent item goes, if the new one is more urgent, else the new one.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741 (item)
R = TypeVar("R")

LOOKAHEAD = 4
"""Of how many batches' worth of items, in their turn, the similar ones are chosen."""
REMEMBERED_STREAMS = 1024
"""Streams whose last turn is remembered; one that is forgotten counts as a new one."""
BUSY_SECONDS = 5.0
"""How far `Meter.busy` looks back."""
SMOOTHING = 0.2
"""Weight of the newest batch in the mean seconds that an item takes."""


@dataclass(eq=False)
class Entry(Generic[I, R]):
    """An item that waits. Times are the clock's seconds."""

    item: I
    group: Hashable
    urgency: int
    stream: str
    replaces: bool
    arrived: float
    since: float
    """When its place in the line was taken: by itself, or by one that it replaced."""
    place: tuple[float, int] = (0.0, 0)
    """The number of turns given before it came, and its number in order of arrival."""
    size: float = 0.0
    """How long it takes, in any unit."""
    passed: int = 0
    """How many batches took others before it, for their size."""
    future: Future[R] = field(default_factory=Future)


class Line(Generic[I, R]):
    """See the module."""

    def __init__(self, limit: int) -> None:
        self.waiting: list[Entry[I, R]] = []
        self._limit = limit
        self._turns = self._arrivals = 0
        self._last_turn: OrderedDict[str, int] = OrderedDict()

    def put(self, entry: Entry[I, R]) -> Entry[I, R] | None:
        """Adds an entry, unless there is no room for it.

        Returns:
            The one that has to go: the one replaced, the least urgent one where the line was full,
            the new one itself where nothing less urgent waits; None where there was room.
        """
        # Half a turn back: after all that wait, but before the stream that had the last turn.
        self._arrivals += 1
        entry.place = (self._turns - 0.5, self._arrivals)
        if old := self._replaced_by(entry):
            entry.place, entry.since = old.place, old.since
        elif len(self.waiting) >= self._limit:
            old = max(self.waiting, key=self._order)
            if old.urgency <= entry.urgency:
                return entry
        if old:
            self.waiting.remove(old)
        self.waiting.append(entry)
        return old

    def group(self) -> list[Entry[I, R]]:
        """All entries that could go in one batch with the one whose turn it is."""
        if not self.waiting:
            return []
        head = min(self.waiting, key=self._order)
        return [entry for entry in self.waiting if entry.group == head.group]

    def take(self, group: list[Entry[I, R]], size: int) -> list[Entry[I, R]]:
        """Takes up to `size` entries of a `group` out: the one whose turn it is, and its like."""
        ahead = self._in_turn(group, LOOKAHEAD * size)
        if not ahead:
            return []
        head = ahead[0]

        def unlike(entry: Entry[I, R]) -> tuple[int, int, float]:
            return entry.urgency, -entry.passed, abs(entry.size - head.size)

        batch = [head, *sorted(ahead[1:], key=unlike)][:size]
        for entry in ahead:
            entry.passed += 1
        for entry in batch:
            self.waiting.remove(entry)
            self._turns += 1
            if entry.stream:
                self._last_turn[entry.stream] = self._turns
                self._last_turn.move_to_end(entry.stream)
                if len(self._last_turn) > REMEMBERED_STREAMS:
                    self._last_turn.popitem(last=False)
        return batch

    def _in_turn(self, group: list[Entry[I, R]], count: int) -> list[Entry[I, R]]:
        """The next `count` of a group, as streams take turns."""
        left, found = list(group), list[Entry[I, R]]()
        given = dict[str, int]()

        def order(entry: Entry[I, R]) -> tuple[int, float, int]:
            urgency, turn, arrival = self._order(entry)
            return urgency, given.get(entry.stream, turn), arrival

        while left and len(found) < count:
            entry = min(left, key=order)
            left.remove(entry)
            found.append(entry)
            if entry.stream:
                given[entry.stream] = self._turns + len(found)
        return found

    def purge(self) -> int:
        """Takes out the entries whose future was cancelled; says how many."""
        gone = [entry for entry in self.waiting if entry.future.cancelled()]
        for entry in gone:
            self.waiting.remove(entry)
            entry.future.set_running_or_notify_cancel()  # wakes who waits for it in a thread
        return len(gone)

    def _order(self, entry: Entry[I, R]) -> tuple[int, float, int]:
        turn, arrival = entry.place
        return entry.urgency, self._last_turn.get(entry.stream, turn), arrival

    def _replaced_by(self, new: Entry[I, R]) -> Entry[I, R] | None:
        if not new.replaces or not new.stream:
            return None
        for old in self.waiting:
            if old.replaces and (old.stream, old.urgency) == (new.stream, new.urgency):
                return old
        return None


class Meter:
    """How busy the workers are, and how long an item takes."""

    def __init__(self, workers: int) -> None:
        self._seconds: dict[int, float] = {}  # items in a batch → smoothed
        self._workers = workers
        self._running: dict[int, tuple[float, int, bool]] = {}  # thread → start, items, counts
        self._total = self._at = 0.0  # seconds of work until then, of all workers together
        self._marks = deque([(0.0, 0.0)])

    @property
    def idle(self) -> int:
        """How many workers run nothing."""
        return self._workers - len(self._running)

    def begin(self, items: int, now: float, *, counts: bool = True) -> None:
        """The calling thread begins a batch, which makes it busy if it `counts`."""
        self._advance(now)
        self._running[threading.get_ident()] = now, items, counts

    def end(self, now: float) -> None:
        """The calling thread has ended its batch."""
        self._advance(now)
        started, items, _ = self._running.pop(threading.get_ident())
        before = self._seconds.setdefault(items, now - started)
        self._seconds[items] = before + SMOOTHING * (now - started - before)

    def seconds(self, items: int) -> float:
        """How long a batch of so many is expected to take: as those of its size, or of the nearest.

        0 where none has been run. Items in a large batch take less each than in a small one.
        """
        if not self._seconds:
            return 0.0
        nearest = min(self._seconds, key=lambda size: (abs(size - items), -size))
        return self._seconds[nearest] * items / nearest

    def busy(self, now: float) -> float:
        """Share of the last `BUSY_SECONDS` that the workers worked, 0 to 1."""
        self._advance(now)
        (t0, w0), (t1, w1) = self._marks[0], self._marks[min(1, len(self._marks) - 1)]
        before = now - BUSY_SECONDS
        share = (before - t0) / (t1 - t0) if t1 > t0 and before > t0 else 0.0
        worked = self._total - (w0 + share * (w1 - w0))
        return min(1.0, max(0.0, worked / (BUSY_SECONDS * self._workers)))

    def delay(self, batches: int, size: int, now: float) -> float:
        """Seconds until a worker has time, if `batches` of `size` items go before."""
        free = [0.0] * self.idle
        for started, items, _ in self._running.values():
            # What takes longer than expected is expected to take as long again.
            free.append(abs(started + self.seconds(items) - now))
        heapq.heapify(free)
        for _ in range(batches):
            heapq.heapreplace(free, free[0] + self.seconds(size))
        return free[0]

    def _advance(self, now: float) -> None:
        self._total += sum(counts for *_, counts in self._running.values()) * (now - self._at)
        self._at = now
        if now - self._marks[-1][0] >= BUSY_SECONDS / 100:
            self._marks.append((now, self._total))
        while len(self._marks) > 2 and self._marks[1][0] <= now - BUSY_SECONDS:
            self._marks.popleft()
