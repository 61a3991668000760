"""A generic dynamic batcher: items that wait are run together, the most urgent first.

It knows nothing of what it runs. `submit` puts an item into a bounded line (`queueing.py` has its
order), worker threads take batches out of it. A batch starts when it is full, or when anything has
waited for the length of the window: the window starts at the first item, and what waited longer
because all workers were busy starts at once. Workers that are idle share what waits.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic

from .errors import BackendClosed, EngineError, Overloaded, Superseded
from .queueing import Entry, I, Line, Meter, R

EXIT_SECONDS = 5.0
"""How long leaving the program waits for batches under way, in seconds."""
MIN_RETRY_SECONDS = 0.1
"""The least that who is refused is told to wait."""


class Batcher(Generic[I, R]):
    """See the module. Safe to use from any thread; its own threads start with the first item.

    Args:
        run: blocking; takes the items of one group, returns as many results in the same order.
            With several workers, it is called by several threads at once.
        name: of the threads, and in messages.
        workers: threads that call `run`.
        max_batch: items in one call of `run`.
        window: seconds that the first item waits for others, at most.
        max_queue: items that may wait; those being run are not counted.
        background: the urgency from which on items leave one of several workers to others.
        on_wait: gets the urgency of each item that is run, and the seconds that it waited.
        on_drop: gets the reason why an item is never run: superseded, cancelled, overloaded.
            Both may be called under the lock: they are short, and call no batcher.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        run: Callable[[Sequence[I]], Sequence[R]],
        *,
        name: str,
        workers: int = 1,
        max_batch: int = 4,
        window: float = 0.005,
        max_queue: int = 256,
        background: float = math.inf,
        on_wait: Callable[[int, float], None] = lambda urgency, seconds: None,
        on_drop: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._name, self._clock = run, name, clock
        self._workers, self._max_batch, self._window = workers, max_batch, window
        self._max_queue, self._background = max_queue, background
        self._on_wait, self._on_drop = on_wait, on_drop
        self._line: Line[I, R] = Line(max_queue)
        self._meter = Meter(workers)
        self._threads: list[threading.Thread] = []
        self._alive = 0
        self._closed = False
        # Its lock is reentrant: the garbage collector may close a forgotten batcher in any thread.
        self._changed = threading.Condition()

    def submit(
        self,
        item: I,
        *,
        group: Hashable,
        urgency: int = 0,
        stream: str = "",
        size: float = 0.0,
        replaces: bool = False,
    ) -> Future[R]:
        """Puts an item into the line. Cancelling its future takes it out, unless it is being run.

        Args:
            item: what `run` gets.
            group: only items of equal groups share a batch.
            urgency: a lower one goes first.
            stream: within an urgency, streams take turns; empty: a stream of its own.
            size: how long it takes, in any unit; a batch has similar ones.
            replaces: takes the place of an item that waits with the same stream and urgency and
                was itself submitted so; that one's future gets `Superseded`.

        Returns:
            The result to come, or what `run` raised for this item alone. Where a more urgent item
            needs the room, it gets `Superseded` (if it `replaces`) or `Overloaded`.

        Raises:
            BackendClosed: `close` was called.
            Overloaded: the line is full, and nothing in it is less urgent.
            RuntimeError: the system gives no thread.
        """
        now = self._clock()
        entry = Entry[I, R](
            item, group, urgency, stream, replaces, size=size, arrived=now, since=now
        )
        reason: EngineError | None = None
        with self._changed:
            if self._closed:
                raise BackendClosed(f"{self._name}: closed")
            self._purge()
            self._start()
            out = self._line.put(entry)
            if out is entry:
                self._on_drop("overloaded")
                raise self._overloaded(urgency)
            if out is not None and not out.replaces:
                reason = self._overloaded(out.urgency)
            self._changed.notify_all()
        if out is not None:
            self._give_up(out, reason or Superseded(f"{self._name}: a newer item took its place"))
        return entry.future

    def close(self) -> None:
        """Refuses more; the threads end when all that waits has been run. Returns at once."""
        with self._changed:
            self._closed = True
            if not self._threads:
                self._run = _gone
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds for the threads to end after `close`; whether they did."""
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        for thread in list(self._threads):
            thread.join(None if timeout is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def depth(self) -> Counter[int]:
        """How many items wait, by urgency."""
        with self._changed:
            return Counter(entry.urgency for entry in self._waiting())

    def oldest(self) -> float:
        """How many seconds the oldest item has waited; 0 where none waits."""
        with self._changed:
            now = self._clock()
            return max((now - entry.arrived for entry in self._waiting()), default=0.0)

    def busy(self) -> float:
        """Share of the last five seconds that the workers worked, 0 to 1, the background apart."""
        with self._changed:
            return self._meter.busy(self._clock())

    def delay(self, urgency: int = 0) -> float:
        """Seconds, as far as can be told, until a new item of this urgency would be run."""
        with self._changed:
            before = sum(entry.urgency <= urgency for entry in self._waiting())
            batches = before // self._max_batch  # it would share the one that is not full
            return self._meter.delay(batches, self._max_batch, self._clock())

    def _waiting(self) -> list[Entry[I, R]]:
        return [entry for entry in self._line.waiting if not entry.future.cancelled()]

    def _overloaded(self, urgency: int) -> Overloaded:
        seconds = max(MIN_RETRY_SECONDS, self.delay(urgency))
        return Overloaded(
            f"{self._name}: {self._max_queue} wait already; try again in {seconds:.1f} s", seconds
        )

    def _give_up(self, entry: Entry[I, R], reason: EngineError) -> None:
        """Ends an entry that is out of the line. Not under the lock: callbacks are called."""
        if entry.future.set_running_or_notify_cancel():
            self._on_drop(reason.code)
            entry.future.set_exception(reason)
        else:
            self._on_drop("cancelled")

    def _purge(self) -> None:
        for _ in range(self._line.purge()):
            self._on_drop("cancelled")

    def _start(self) -> None:
        for number in range(len(self._threads), self._workers):
            # Daemons, so that the process can end; `_leave` has it wait for a decode under way.
            thread = threading.Thread(target=self._work, name=f"{self._name}_{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return  # there is one at least; the next submit tries again
            self._threads.append(thread)
            self._alive += 1
            _live.add(self)

    def _work(self) -> None:
        while self._serve(self._take()):
            pass
        with self._changed:
            self._alive -= 1
            if not self._alive:
                self._run = _gone  # what it refers to can go

    def _take(self) -> list[Entry[I, R]]:
        """Waits for the next batch. Empty: closed, and nothing waits any more."""
        with self._changed:
            while True:
                batch, patience = self._pick(self._clock())
                if batch or (self._closed and not self._line.waiting):
                    return batch
                self._changed.wait(patience)

    def _pick(self, now: float) -> tuple[list[Entry[I, R]], float | None]:
        """The batch to be run now, or none and for how many seconds to wait for one."""
        self._purge()
        group = self._line.group()
        if not group:
            return [], None
        background = self._is_background(group[0])
        able = self._meter.idle - (background and self._workers > 1 and not self._closed)
        if not able:
            return [], None
        if len(group) < self._max_batch and not self._closed:
            # What waits in the background, beside an idle worker, does not hurry the others.
            waiting = [e for e in self._line.waiting if background or not self._is_background(e)]
            patience = min(entry.since for entry in waiting) + self._window - now
            if patience > 0:
                return [], patience
        share = math.ceil(len(group) / able)
        batch = []
        for entry in self._line.take(group, min(self._max_batch, share)):
            if entry.future.set_running_or_notify_cancel():
                self._on_wait(entry.urgency, now - entry.arrived)
                batch.append(entry)
            else:  # cancelled in this moment
                self._on_drop("cancelled")
        if batch:
            self._meter.begin(len(batch), now, counts=not background)
        return batch, 0.0

    def _is_background(self, entry: Entry[I, R]) -> bool:
        return entry.urgency >= self._background

    def _serve(self, batch: list[Entry[I, R]]) -> bool:
        """Runs a batch and tells its futures. False: there is none."""
        if not batch:
            return False
        outcomes = self._outcomes([entry.item for entry in batch])
        with self._changed:
            self._meter.end(self._clock())
        # An error's traceback keeps this frame: nothing stays in it that would keep the error.
        while batch:
            _settle(batch.pop(0).future, *outcomes.pop(0))
        return True

    def _outcomes(self, items: list[I]) -> list[tuple[Any, BaseException | None]]:
        """For each item its result, or its error."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise EngineError(f"{self._name}: {len(results)} results for {len(items)} items")
            return [(result, None) for result in results]
        except BaseException as exc:
            if len(items) == 1 or not isinstance(exc, Exception):
                return [(None, exc)] * len(items)
        # One bad item does not fail the others: each gets what it gets alone.
        return [outcome for item in items for outcome in self._outcomes([item])]

    def _abandon(self) -> None:
        """Forgets what waits; the threads end after the batch that they are running."""
        with self._changed:
            self._line.waiting.clear()  # nobody is left who could wait for it
            self.close()


def _settle(future: Future[R], result: R, error: BaseException | None) -> None:
    if isinstance(error, StopIteration) or not isinstance(error, Exception | None):
        # Neither can be raised in an event loop without harm to it.
        cause, error = error, EngineError(f"{type(error).__name__}: {error}")
        error.__cause__ = cause
    with suppress(InvalidStateError):  # somebody else has set it
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _gone(items: Sequence[Any]) -> Any:
    raise BackendClosed("closed")


_live: weakref.WeakSet[Batcher[Any, Any]] = weakref.WeakSet()


def _leave() -> None:
    """Lets batches under way end before the interpreter goes: engines crash without it."""
    deadline = time.monotonic() + EXIT_SECONDS
    batchers = list(_live)
    for batcher in batchers:
        batcher._abandon()
    for batcher in batchers:
        batcher.join(max(0.0, deadline - time.monotonic()))


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and their locks may be taken."""
    global _live
    _live = weakref.WeakSet()


atexit.register(_leave)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
