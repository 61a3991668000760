"""One load for each key, failures forgotten, limits kept, nothing in use evicted."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from livekit.plugins.whisper.cache import Cache


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Load:
    """A load that waits for the test, and counts."""

    def __init__(self, *results: object) -> None:
        self.results = list(results) or ["value"]
        self.calls = 0
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self) -> object:
        result = self.results[min(self.calls, len(self.results) - 1)]
        self.calls += 1
        self.begun.set()
        assert self.go.wait(30)
        if isinstance(result, Exception):
            raise result
        return result


def opened(*results: object) -> Load:
    load = Load(*results)
    load.go.set()
    return load


async def test_one_load_under_64_threads_and_tasks_at_once() -> None:
    cache: Cache[str, object] = Cache()
    value = object()
    load = Load(value)
    with ThreadPoolExecutor(32) as pool:
        threads = [pool.submit(cache.get, "key", load) for _ in range(32)]
        tasks = [asyncio.create_task(cache.aget("key", load)) for _ in range(32)]
        await asyncio.to_thread(load.begun.wait, 30)
        while cache.info().hits < 63:  # all have asked
            await asyncio.sleep(0)
        load.go.set()
        results = await asyncio.gather(*tasks, *map(asyncio.wrap_future, threads))
    assert load.calls == 1
    assert all(result is value for result in results)
    assert (cache.info().hits, cache.info().misses) == (63, 1)


async def test_failed_load_fails_for_all_who_waited_and_is_forgotten() -> None:
    cache: Cache[str, object] = Cache()
    load = Load(OSError("disk"), "value")
    waiting = [asyncio.create_task(cache.aget("key", load)) for _ in range(3)]
    await asyncio.to_thread(load.begun.wait, 30)
    while cache.info().hits < 2:
        await asyncio.sleep(0)
    load.go.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["disk"] * 3
    assert cache.info().entries == ()
    assert await cache.aget("key", load) == "value"
    assert load.calls == 2
    assert cache.info().failures == 1


async def test_cancelled_waiter_leaves_the_load_to_the_others() -> None:
    cache: Cache[str, object] = Cache()
    load = Load("value")
    first = asyncio.create_task(cache.aget("key", load))
    second = asyncio.create_task(cache.aget("key", load))
    await asyncio.to_thread(load.begun.wait, 30)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    load.go.set()
    assert await second == "value"
    assert load.calls == 1


def test_load_goes_on_when_its_event_loop_is_closed() -> None:
    cache: Cache[str, object] = Cache()
    load = Load("value")

    async def give_up() -> None:
        task = asyncio.create_task(cache.aget("key", load))
        await asyncio.to_thread(load.begun.wait, 30)
        task.cancel()

    asyncio.run(give_up())
    load.go.set()
    assert cache.get("key", load) == "value"
    assert load.calls == 1


def test_least_recently_used_goes_first() -> None:
    closed: list[object] = []
    cache: Cache[str, object] = Cache(max_entries=2, close=closed.append)
    for key in ("a", "b"):
        cache.get(key, opened(key))
    cache.get("a", opened())
    cache.get("c", opened("c"))
    assert closed == ["b"]
    assert [entry.key for entry in cache.info().entries] == ["a", "c"]


def test_what_is_held_is_never_evicted() -> None:
    closed: list[object] = []
    cache: Cache[str, object] = Cache(max_bytes=10, size=lambda value: 10, close=closed.append)
    cache.hold("a")
    cache.get("a", opened("a"))
    cache.get("b", opened("b"))
    assert not closed  # "a" is held, "b" was asked for just now: over the limit, and allowed
    cache.get("c", opened("c"))
    assert closed == ["b"]
    cache.release("a")
    assert closed == ["b", "a"]
    assert [entry.key for entry in cache.info().entries] == ["c"]


def test_each_hold_needs_its_own_release() -> None:
    cache: Cache[str, object] = Cache(max_entries=0)
    cache.hold("a")
    cache.hold("a")
    cache.get("a", opened())
    cache.release("a")
    assert cache.info().entries[0].refs == 1
    cache.release("a")
    assert cache.info().entries == ()


def test_idle_values_go_by_age_and_held_ones_stay() -> None:
    clock, closed = Clock(), list[object]()
    cache: Cache[str, object] = Cache(ttl=60, clock=clock, close=closed.append)
    cache.hold("held")
    cache.get("held", opened("held"))
    cache.get("idle", opened("idle"))
    clock.now = 59
    cache.trim()
    assert not closed
    clock.now = 60
    cache.trim()
    assert closed == ["idle"]


def test_idle_value_goes_by_itself() -> None:
    gone = threading.Event()
    cache: Cache[str, object] = Cache(ttl=0.05, close=lambda value: gone.set())
    cache.get("key", opened())
    assert gone.wait(30)
    assert cache.info().entries == ()


def test_clear_takes_out_only_what_nobody_holds() -> None:
    cache: Cache[str, object] = Cache()
    cache.hold("held")
    cache.get("held", opened("held"))
    cache.get("idle", opened("idle"))
    assert cache.clear() == ["idle"]
    assert [(entry.key, entry.refs) for entry in cache.info().entries] == [("held", 1)]


def test_release_by_the_garbage_collector_in_the_middle_of_a_call() -> None:
    """A finalizer runs in whatever thread is allocating, also in one that holds the lock."""
    cache: Cache[str, object] = Cache(max_entries=0, size=lambda value: 1)
    for key in ("a", "b"):
        cache.hold(key)
        cache.get(key, opened(key))

    class Clocked:
        def __call__(self) -> float:
            if cache._refs["a"]:
                cache.release("a")  # as a finalizer would, under the lock
            return 0.0

    cache._clock = Clocked()
    caller = threading.Thread(target=cache.release, args=("b",), daemon=True)
    caller.start()
    caller.join(30)
    assert not caller.is_alive()
    assert cache.info().entries == ()


def test_info_tells_the_truth() -> None:
    clock = Clock()
    cache: Cache[str, object] = Cache(clock=clock, size=lambda value: 7)
    value = object()
    cache.get("key", opened(value))
    clock.now = 5
    cache.get("key", opened())
    clock.now = 8
    info = cache.info()
    assert (info.hits, info.misses, info.failures, info.evictions) == (1, 1, 0, 0)
    (entry,) = info.entries
    assert (entry.key, entry.instance_id, entry.age, entry.idle, entry.refs, entry.size) == (
        "key", id(value), 8, 3, 0, 7,
    )  # fmt: skip


def test_failure_to_close_does_not_keep_the_value(caplog: pytest.LogCaptureFixture) -> None:
    def close(value: object) -> None:
        raise OSError("busy")

    cache: Cache[str, object] = Cache(max_entries=0, close=close)
    cache.hold("a")
    cache.get("a", opened())
    cache.release("a")
    assert cache.info().entries == ()
    assert "closing an evicted str failed" in caplog.text


async def test_thread_that_cannot_start_fails_that_load_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache: Cache[str, object] = Cache()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await cache.aget("key", opened())
    assert await cache.aget("key", opened("value")) == "value"


def test_load_that_asks_for_itself_is_told_instead_of_waiting_for_ever() -> None:
    cache: Cache[str, object] = Cache()

    def load() -> object:
        return cache.get("key", load)

    with pytest.raises(RuntimeError, match="asks for key itself"):
        cache.get("key", load)
    assert cache.info().entries == ()
