"""The batcher's threads: when a batch starts, who gets which result, what an overload does."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from livekit.plugins.whisper.batcher import Batcher
from livekit.plugins.whisper.errors import BackendClosed, EngineError, Overloaded, Superseded

FINAL, PREFLIGHT, INTERIM = 0, 1, 2
LONG = 30.0
"""Seconds after which a test that waits fails; none comes near."""
HOUR = 3600.0


class Clock:
    """Seconds that pass when a test says so; knows whether a worker has looked at it."""

    def __init__(self) -> None:
        self._now, self._test = 0.0, threading.get_ident()
        self._looks = threading.Semaphore(0)

    def __call__(self) -> float:
        now = self._now
        if threading.get_ident() != self._test:
            self._looks.release()
        return now

    def set(self, now: float) -> None:
        self._now = now

    def decided(self) -> None:
        """Returns when a worker has looked since now, decided, and looks again."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(3):  # one look can be under way
            assert self._looks.acquire(timeout=LONG)


class Run:
    """What a batcher runs: remembers batches, waits at a gate, answers in upper case."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        self.begun.release()
        assert self.gate.wait(LONG)
        return [item.upper() for item in items]


Make = Callable[..., Batcher[str, str]]


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def make(run: Run) -> Iterator[Make]:
    """Batchers that are closed at the end, and whose threads then end."""
    made: list[Batcher[str, str]] = []

    def create(what: Callable[[Sequence[str]], Sequence[str]] = run, **options: Any) -> Any:
        options = {"name": "test", "window": 0.0, **options}
        made.append(Batcher(what, **options))
        return made[-1]

    yield create
    run.gate.set()
    for batcher in made:
        batcher.close()
        assert batcher.join(LONG)


def plug(batcher: Batcher[str, str], run: Run, items: int = 1) -> list[Future[str]]:
    """Keeps the one worker busy until `run.gate` is opened."""
    run.gate.clear()
    futures = [batcher.submit("plug", group="plug") for _ in range(items)]
    assert run.begun.acquire(timeout=LONG)
    return futures


def results(futures: Sequence[Future[str]]) -> list[str]:
    return [future.result(LONG) for future in futures]


def test_no_thread_before_the_first_item(make: Make) -> None:
    before = threading.active_count()
    batcher = make(workers=2)
    assert threading.active_count() == before
    assert batcher.submit("a", group="").result(LONG) == "A"
    assert threading.active_count() == before + 2


def test_full_batch_starts_without_waiting_for_the_window(make: Make, run: Run) -> None:
    batcher = make(window=HOUR, max_batch=3)
    assert results([batcher.submit(item, group="") for item in "abc"]) == ["A", "B", "C"]
    assert run.batches == [["a", "b", "c"]]


def test_window_starts_at_the_first_item(make: Make, run: Run) -> None:
    clock = Clock()
    batcher = make(window=0.010, clock=clock)
    first = batcher.submit("a", group="")
    clock.set(0.006)
    second = batcher.submit("b", group="")
    clock.set(0.0099)
    clock.decided()
    assert not run.batches
    clock.set(0.0101)
    assert results([first, second]) == ["A", "B"]
    assert run.batches == [["a", "b"]]


def test_newer_interim_does_not_start_the_window_again(make: Make, run: Run) -> None:
    clock = Clock()
    batcher = make(window=0.010, clock=clock)
    batcher.submit("old", group="", urgency=INTERIM, stream="s", replaces=True)
    clock.set(0.009)
    newer = batcher.submit("new", group="", urgency=INTERIM, stream="s", replaces=True)
    clock.set(0.0101)
    assert newer.result(LONG) == "NEW"
    assert run.batches == [["new"]]


def test_what_waited_for_a_busy_worker_starts_at_once(make: Make, run: Run) -> None:
    clock = Clock()
    batcher = make(window=HOUR, clock=clock)
    plugged = plug(batcher, run, items=4)
    waiting = batcher.submit("a", group="")
    clock.set(HOUR + 1)
    run.gate.set()
    assert waiting.result(LONG) == "A"
    assert results(plugged) == ["PLUG"] * 4


def test_more_urgent_item_of_the_window_goes_first(make: Make, run: Run) -> None:
    clock = Clock()
    batcher = make(window=0.010, clock=clock)
    interim = batcher.submit("interim", group="x", urgency=INTERIM)
    clock.set(0.009)
    final = batcher.submit("final", group="y", urgency=FINAL)
    clock.set(0.0101)  # the final has not waited 10 ms, but something has
    assert results([interim, final]) == ["INTERIM", "FINAL"]
    assert run.batches == [["final"], ["interim"]]


def test_order_is_by_urgency_and_turns(make: Make, run: Run) -> None:
    batcher = make(max_batch=1)
    plugged = plug(batcher, run)
    futures = [
        batcher.submit(item, group="", urgency=urgency, stream=item[0])
        for item, urgency in [("a0", INTERIM), ("a1", FINAL), ("a2", FINAL), ("b", FINAL)]
    ]
    run.gate.set()
    results([*plugged, *futures])
    assert run.batches[1:] == [["a1"], ["b"], ["a2"], ["a0"]]


def test_batches_share_a_group_and_keep_their_size(make: Make, run: Run) -> None:
    batcher = make(max_batch=2)
    plugged = plug(batcher, run)
    futures = [batcher.submit(item, group=item[0]) for item in ("x0", "y0", "x1", "x2", "y1")]
    run.gate.set()
    results([*plugged, *futures])
    assert run.batches[1:] == [["x0", "x1"], ["y0", "y1"], ["x2"]]


def test_idle_workers_share_what_waits(make: Make) -> None:
    both = threading.Barrier(2)

    def run(items: Sequence[str]) -> Sequence[str]:
        both.wait(LONG)  # broken if one worker takes all
        assert len(items) == 2
        return items

    clock = Clock()
    batcher = make(run, window=0.010, workers=2, max_batch=8, clock=clock)
    futures = [batcher.submit(item, group="") for item in "abcd"]
    clock.set(1.0)
    assert results(futures) == list("abcd")


def test_background_work_leaves_a_worker_to_others(make: Make, run: Run) -> None:
    batcher = make(workers=2, max_batch=1, background=INTERIM)
    run.gate.clear()
    interims = [batcher.submit(f"i{n}", group="i", urgency=INTERIM) for n in range(3)]
    assert run.begun.acquire(timeout=LONG)
    final = batcher.submit("final", group="")
    assert run.begun.acquire(timeout=LONG)  # at once, although two interims came before it
    assert run.batches == [["i0"], ["final"]]
    run.gate.set()
    assert results([final, *interims]) == ["FINAL", "I0", "I1", "I2"]


def test_background_work_that_waits_does_not_hurry_others(make: Make, run: Run) -> None:
    """Finals still wait for each other, for the length of the window."""
    clock = Clock()
    batcher = make(workers=2, max_batch=4, window=0.010, background=INTERIM, clock=clock)
    run.gate.clear()
    plugged = batcher.submit("plug", group="plug")
    clock.set(1.0)
    assert run.begun.acquire(timeout=LONG)
    parked = batcher.submit("interim", group="i", urgency=INTERIM)
    clock.set(10.0)
    first = batcher.submit("a", group="")
    clock.set(10.005)
    clock.decided()
    second = batcher.submit("b", group="")
    clock.set(10.010)
    assert run.begun.acquire(timeout=LONG)
    assert run.batches == [["plug"], ["a", "b"]]
    run.gate.set()
    assert results([plugged, first, second, parked]) == ["PLUG", "A", "B", "INTERIM"]


def test_interim_that_waits_is_superseded_by_a_newer_one(make: Make, run: Run) -> None:
    drops: list[str] = []
    batcher = make(on_drop=drops.append)
    plugged = plug(batcher, run)
    old, other, new = (
        batcher.submit(item, group=item, urgency=INTERIM, stream=item[0], replaces=True)
        for item in ("a0", "b0", "a1")
    )
    with pytest.raises(Superseded):
        old.result(0)
    run.gate.set()
    assert results([*plugged, other, new]) == ["PLUG", "B0", "A1"]
    assert ["a0"] not in run.batches
    assert drops == ["superseded"]


def test_interim_being_run_is_not_superseded(make: Make, run: Run) -> None:
    batcher = make()
    run.gate.clear()
    old = batcher.submit("old", group="", urgency=INTERIM, stream="a", replaces=True)
    assert run.begun.acquire(timeout=LONG)
    new = batcher.submit("new", group="", urgency=INTERIM, stream="a", replaces=True)
    run.gate.set()
    assert results([old, new]) == ["OLD", "NEW"]


def test_cancelled_item_is_never_run(make: Make, run: Run) -> None:
    drops: list[str] = []
    batcher = make(on_drop=drops.append)
    plugged = plug(batcher, run)
    gone, kept = batcher.submit("gone", group=""), batcher.submit("kept", group="")
    assert gone.cancel()
    assert not plugged[0].cancel()
    assert batcher.depth() == {FINAL: 1}
    run.gate.set()
    assert results([*plugged, kept]) == ["PLUG", "KEPT"]
    assert run.batches == [["plug"], ["kept"]]
    assert drops == ["cancelled"]
    with pytest.raises(CancelledError):
        gone.result(LONG)


async def test_cancelling_the_task_that_waits_takes_the_item_out(make: Make, run: Run) -> None:
    batcher = make()
    plugged = plug(batcher, run)

    async def ask() -> str:
        return await asyncio.wrap_future(batcher.submit("gone", group=""))

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run.gate.set()
    assert await asyncio.wrap_future(batcher.submit("kept", group="")) == "KEPT"
    assert plugged[0].result(LONG) == "PLUG"
    assert run.batches == [["plug"], ["kept"]]


def test_finals_come_through_ten_times_overload(make: Make, run: Run) -> None:
    drops: list[str] = []
    batcher = make(max_queue=8, on_drop=drops.append)
    plugged = plug(batcher, run)
    interims, refused = [], 0
    for number in range(80):
        try:
            name = str(number)
            interims.append(
                batcher.submit(name, group="", urgency=INTERIM, stream=name, replaces=True)
            )
        except Overloaded:
            refused += 1
    assert (len(interims), refused) == (8, 72)
    finals = [batcher.submit(f"final {n}", group="", stream=str(n)) for n in range(8)]
    for interim in interims:
        with pytest.raises(Superseded):
            interim.result(0)
    assert batcher.depth() == {FINAL: 8}
    with pytest.raises(Overloaded, match=r"test: 8 wait already; try again in \d"):
        batcher.submit("final 9", group="")
    run.gate.set()
    assert results([*plugged, *finals]) == ["PLUG", *(f"FINAL {n}" for n in range(8))]
    assert (drops.count("overloaded"), drops.count("superseded")) == (73, 8)
    assert batcher.submit("after", group="").result(LONG) == "AFTER"


def test_item_that_replaces_nothing_is_told_of_the_overload(make: Make, run: Run) -> None:
    batcher = make(max_queue=1)
    plugged = plug(batcher, run)
    preflight = batcher.submit("preflight", group="", urgency=PREFLIGHT)
    final = batcher.submit("final", group="")
    with pytest.raises(Overloaded):
        preflight.result(0)
    run.gate.set()
    assert results([*plugged, final]) == ["PLUG", "FINAL"]


def test_cancelled_items_make_room(make: Make, run: Run) -> None:
    batcher = make(max_queue=2)
    plugged = plug(batcher, run)
    for gone in [batcher.submit("gone", group="") for _ in range(2)]:
        gone.cancel()
    kept = [batcher.submit("kept", group="") for _ in range(2)]
    run.gate.set()
    assert results([*plugged, *kept]) == ["PLUG", "KEPT", "KEPT"]


def test_retry_after_counts_that_a_full_batch_takes_little_more_than_one_item(
    make: Make, run: Run
) -> None:
    clock = Clock()

    def slow(items: Sequence[str]) -> Sequence[str]:
        answer = run(items)
        clock.set(clock() + 0.8 + 0.05 * len(items))
        return answer

    batcher = make(slow, max_batch=4, max_queue=16, clock=clock)
    results([batcher.submit("alone", group="")])
    for _ in range(2):  # one alone, then full batches
        assert run.begun.acquire(timeout=LONG)
        plugged = plug(batcher, run)
        waiting = [batcher.submit("final", group="") for _ in range(16)]
        with pytest.raises(Overloaded) as caught:
            batcher.submit("refused", group="")
        before = clock()
        run.gate.set()
        results([*plugged, *waiting])
        for _ in range(3):
            assert run.begun.acquire(timeout=LONG)
    assert caught.value.retry_after == pytest.approx(clock() - before)
    assert caught.value.retry_after == pytest.approx(0.85 + 4 * 1.0)


def test_retry_after_and_delay_come_from_measured_time(make: Make, run: Run) -> None:
    clock = Clock()

    def slow(items: Sequence[str]) -> Sequence[str]:
        answer = run(items)
        clock.set(clock() + 2.0 * len(items))
        return answer

    batcher = make(slow, max_batch=1, max_queue=3, clock=clock)
    assert batcher.delay() == batcher.oldest() == 0.0
    batcher.submit("measured", group="").result(LONG)
    assert run.begun.acquire(timeout=LONG)
    assert batcher.delay() == 0.0
    plugged = plug(batcher, run)
    assert batcher.delay() == pytest.approx(2.0)
    waiting = [batcher.submit("final", group="") for _ in range(2)]
    waiting.append(batcher.submit("interim", group="", urgency=INTERIM))
    clock.set(3.0)
    assert batcher.delay(FINAL) == pytest.approx(1.0 + 2 * 2.0)
    assert batcher.delay(INTERIM) == pytest.approx(1.0 + 3 * 2.0)
    assert batcher.oldest() == pytest.approx(1.0)
    with pytest.raises(Overloaded) as caught:
        batcher.submit("refused", group="", urgency=INTERIM)
    assert caught.value.retry_after == pytest.approx(7.0)
    run.gate.set()
    results([*plugged, *waiting])
    assert batcher.oldest() == 0.0
    assert batcher.busy() == 1.0
    clock.set(clock() + 2.5)
    assert batcher.busy() == pytest.approx(0.5)


def test_wait_is_reported_for_what_is_run(make: Make, run: Run) -> None:
    clock, waits = Clock(), list[tuple[int, float]]()
    batcher = make(clock=clock, on_wait=lambda urgency, seconds: waits.append((urgency, seconds)))
    plugged = plug(batcher, run)
    preflight = batcher.submit("preflight", group="", urgency=PREFLIGHT)
    clock.set(1.5)
    run.gate.set()
    results([*plugged, preflight])
    assert waits == [(FINAL, 0.0), (PREFLIGHT, 1.5)]


def test_wrong_number_of_results_is_an_error(make: Make) -> None:
    batcher = make(lambda items: [*items, *items])
    with pytest.raises(EngineError, match="test: 2 results for 1 items"):
        batcher.submit("a", group="").result(LONG)


def test_one_bad_item_does_not_fail_the_others(make: Make) -> None:
    calls: list[list[str]] = []

    def run(items: Sequence[str]) -> Sequence[str]:
        calls.append(list(items))
        if "bad" in items:
            raise ValueError("bad audio")
        return [item.upper() for item in items]

    batcher = make(run, window=HOUR, max_batch=3)
    first, bad, last = (batcher.submit(item, group="") for item in ("a", "bad", "b"))
    assert results([first, last]) == ["A", "B"]
    with pytest.raises(ValueError, match="bad audio"):
        bad.result(LONG)
    assert calls == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration()])
async def test_worker_survives_whatever_is_raised(make: Make, error: BaseException) -> None:
    def run(items: Sequence[str]) -> Sequence[str]:
        if items[0] == "bad":
            raise error
        return items

    batcher = make(run)
    with pytest.raises(EngineError, match=type(error).__name__) as caught:
        await asyncio.wrap_future(batcher.submit("bad", group=""))
    assert caught.value.__cause__ is error
    assert batcher.submit("good", group="").result(LONG) == "good"


def test_worker_survives_a_future_that_somebody_else_set(make: Make, run: Run) -> None:
    batcher = make()
    plugged = plug(batcher, run)
    plugged[0].set_result("mine")
    run.gate.set()
    assert batcher.submit("good", group="").result(LONG) == "GOOD"


def test_close_finishes_what_waits_and_refuses_more(make: Make, run: Run) -> None:
    batcher = make(window=HOUR)
    plugged = plug(batcher, run, items=4)
    waiting = [batcher.submit(item, group="") for item in "abc"]
    batcher.close()
    with pytest.raises(BackendClosed):
        batcher.submit("d", group="")
    run.gate.set()
    assert results([*plugged, *waiting]) == [*["PLUG"] * 4, "A", "B", "C"]
    assert batcher.join(LONG)
    batcher.close()  # once more is harmless


def test_close_before_the_first_item(make: Make) -> None:
    batcher = make()
    batcher.close()
    assert batcher.join(LONG)
    with pytest.raises(BackendClosed):
        batcher.submit("a", group="")


class Item(str):
    """A string that can be referred to weakly."""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_of_an_item_that_is_done(make: Make, run: Run, fails: bool) -> None:
    def maybe(items: Sequence[str]) -> Sequence[str]:
        if fails and "plug" not in items:
            raise ValueError("always")
        return run(items)

    batcher = make(maybe)
    item = Item("a")
    future = batcher.submit(item, group="", stream="s")
    assert isinstance(future.exception(LONG), ValueError if fails else type(None))
    gone = weakref.ref(item)
    gc.disable()
    try:
        del item, future
        if not fails:
            assert run.begun.acquire(timeout=LONG)
            run.batches.clear()
        plug(batcher, run)  # the worker is elsewhere now
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("used", [False, True])
def test_closed_batcher_lets_go_of_what_it_ran(used: bool) -> None:
    run = Run()
    gone = weakref.ref(run)
    batcher = Batcher(run, name="test", window=0.0)
    if used:
        assert batcher.submit("a", group="").result(LONG) == "A"
    del run
    batcher.close()
    assert batcher.join(LONG)
    assert gone() is None


def test_thread_that_cannot_start_fails_that_item_only(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batcher = make()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            batcher.submit("a", group="")
    assert not batcher.depth()
    assert batcher.submit("b", group="").result(LONG) == "B"
