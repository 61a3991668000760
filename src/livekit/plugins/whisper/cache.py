"""A generic single-flight cache: one load for each key, however many threads and tasks ask.

A load that fails is not remembered, so the next caller tries again. Keys are counted: while
anybody holds one, its value is not evicted. What nobody holds goes by age (TTL) and, past the
limit, the least recently used first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from .log import logger

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class CacheEntry(Generic[K]):
    """One value that is in the cache."""

    key: K
    """What it was loaded for."""
    instance_id: int
    """`id()` of the value: the same number means the same object."""
    age: float
    """Seconds since it was loaded."""
    idle: float
    """Seconds since it was last asked for or let go."""
    refs: int
    """How many hold it now."""
    size: int
    """Bytes, as far as known."""


@dataclass(frozen=True)
class CacheInfo(Generic[K]):
    """What a cache did since it was made, and what is in it."""

    hits: int
    """Requests answered by a value that was there or was already being loaded."""
    misses: int
    """Requests that started a load."""
    failures: int
    """Loads that failed."""
    evictions: int
    """Values dropped because of a limit, their age, or `clear`."""
    entries: tuple[CacheEntry[K], ...]
    """Least recently used first."""


class _Entry(Generic[V]):
    def __init__(self, now: float) -> None:
        self.future: Future[V] = Future()
        self.loader: int | None = None  # the thread that loads it
        self.loaded = self.used = now
        self.size = 0


class Cache(Generic[K, V]):
    """See the module. Safe to use from any thread and any event loop.

    Args:
        close: called with a value that was evicted, outside the cache's lock.
        size: bytes of a value; counted against `max_bytes`.
        max_entries, max_bytes: past them, unheld values go, the least recently used first.
        ttl: seconds after which an unheld value goes.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        *,
        close: Callable[[V], None] = lambda value: None,
        size: Callable[[V], int] = lambda value: 0,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._close, self._size, self._clock = close, size, clock
        self._max_entries, self._max_bytes, self._ttl = max_entries, max_bytes, ttl
        # Reentrant: the garbage collector may release a forgotten handle in any thread, also in
        # one that is in here.
        self._lock = threading.RLock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._refs: Counter[K] = Counter()
        self._timer: threading.Timer | None = None
        self._hits = self._misses = self._failures = self._evictions = 0

    def hold(self, key: K) -> None:
        """Counts the caller as a user of `key`, loaded or not, until `release`."""
        with self._lock:
            self._refs[key] += 1

    def release(self, key: K) -> None:
        """Takes one `hold` back."""
        with self._lock:
            self._refs[key] -= 1
            if self._refs[key] <= 0:
                del self._refs[key]
            if entry := self._entries.get(key):
                entry.used = self._clock()
        self.trim()

    def get(self, key: K, load: Callable[[], V]) -> V:
        """The value for `key`; loads it in this thread unless it is there or under way.

        Raises:
            Exception: whatever `load` raised, for everybody who waited for that load.
        """
        entry, mine = self._enter(key)
        if mine:
            self._load(key, entry, load)
        elif entry.loader == threading.get_ident() and not entry.future.done():
            raise RuntimeError(f"loading {key} asks for {key} itself")
        return entry.future.result()

    async def aget(self, key: K, load: Callable[[], V]) -> V:
        """Like `get`, with the load in a thread of its own.

        A waiter that is cancelled leaves the load to the others, and to the cache.
        """
        entry, mine = self._enter(key)
        if mine:
            thread = threading.Thread(
                target=self._load, args=(key, entry, load), name="whisper-load", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:  # no more threads
                self._fail(key, entry, exc)
        return await asyncio.shield(asyncio.wrap_future(entry.future))

    def peek(self, key: K) -> V | None:
        """The value for `key` if it is loaded; counts neither as a hit nor as use."""
        with self._lock:
            entry = self._entries.get(key)
        return entry.future.result() if entry and entry.future.done() else None

    def trim(self) -> None:
        """Applies the limits now."""
        with self._lock:
            values = self._collect(self._over_limit)
            self._arm()
        self._close_all(values)

    def forget(self, key: K) -> None:
        """Takes a value out, held or not, without closing it."""
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> list[V]:
        """Takes out what nobody holds, without closing it."""
        with self._lock:
            return self._collect(lambda key, entry: True)

    def info(self) -> CacheInfo[K]:
        """What the cache did and what is in it, at this moment."""
        with self._lock:
            now = self._clock()
            entries = tuple(
                CacheEntry(
                    key=key,
                    instance_id=id(entry.future.result()),
                    age=now - entry.loaded,
                    idle=now - entry.used,
                    refs=self._refs[key],
                    size=entry.size,
                )
                for key, entry in list(self._entries.items())
                if entry.future.done()
            )
            return CacheInfo(self._hits, self._misses, self._failures, self._evictions, entries)

    def _enter(self, key: K) -> tuple[_Entry[V], bool]:
        with self._lock:
            expired = self._collect(self._too_old)
            entry = self._entries.get(key)
            if mine := entry is None:
                entry = self._entries[key] = _Entry(self._clock())
                self._misses += 1
            else:
                entry.used = self._clock()
                self._entries.move_to_end(key)
                self._hits += 1
        self._close_all(expired)
        return entry, mine

    def _load(self, key: K, entry: _Entry[V], load: Callable[[], V]) -> None:
        entry.loader = threading.get_ident()
        try:
            value = load()
            entry.size = self._size(value)
        except BaseException as exc:
            self._fail(key, entry, exc)
            return
        with self._lock:
            entry.loaded = entry.used = self._clock()
            entry.future.set_result(value)
            values = self._collect(self._over_limit, spare=key)
            self._arm()
        self._close_all(values)

    def _fail(self, key: K, entry: _Entry[V], exc: BaseException) -> None:
        # Out of the cache before anybody sees the failure: who retries then loads anew.
        with self._lock:
            del self._entries[key]
            self._failures += 1
        entry.future.set_exception(exc)

    def _arm(self) -> None:
        """Has a timer wake the cache when the next unheld value gets too old."""
        entries = list(self._entries.items())
        used = [e.used for key, e in entries if not self._refs[key] and e.future.done()]
        if self._ttl is None or self._timer is not None or not used:
            return
        delay = max(0.01, min(used) + self._ttl - self._clock())
        self._timer = threading.Timer(delay, self._wake)
        self._timer.daemon = True
        self._timer.start()

    def _wake(self) -> None:
        with self._lock:
            self._timer = None
        self.trim()

    def _too_old(self, key: K, entry: _Entry[V]) -> bool:
        return self._ttl is not None and self._clock() - entry.used >= self._ttl

    def _over_limit(self, key: K, entry: _Entry[V]) -> bool:
        count = len(self._entries)
        size = sum(other.size for other in list(self._entries.values()))
        return (
            self._too_old(key, entry)
            or (self._max_entries is not None and count > self._max_entries)
            or (self._max_bytes is not None and size > self._max_bytes)
        )

    def _collect(self, unwanted: Callable[[K, _Entry[V]], bool], spare: K | None = None) -> list[V]:
        """Takes unheld, loaded, unwanted entries out, the least recently used first."""
        values = []
        for key, entry in list(self._entries.items()):
            if self._refs[key] or key == spare or not entry.future.done():
                continue
            if unwanted(key, entry) and self._entries.pop(key, None) is not None:
                self._evictions += 1
                values.append(entry.future.result())
        return values

    def _close_all(self, values: list[V]) -> None:
        for value in values:
            try:
                self._close(value)
            except Exception:
                logger.exception("closing an evicted %s failed", type(value).__name__)
