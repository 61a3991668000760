"""The line: who is next, who shares a batch, who goes when it is full. The meter of the workers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from livekit.plugins.whisper.queueing import LOOKAHEAD, REMEMBERED_STREAMS, Entry, Line, Meter

FINAL, PREFLIGHT, INTERIM = 0, 1, 2


def entry(
    item: str,
    urgency: int = FINAL,
    stream: str = "",
    *,
    group: str = "",
    since: float = 0.0,
    size: float = 0.0,
    replaces: bool | None = None,
) -> Entry[str, str]:
    if replaces is None:
        replaces = urgency == INTERIM
    return Entry(item, group, urgency, stream, replaces, arrived=since, since=since, size=size)


def line(*entries: Entry[str, str], limit: int = 1000) -> Line[str, str]:
    made: Line[str, str] = Line(limit)
    for each in entries:
        assert made.put(each) is None
    return made


def served(made: Line[str, str], size: int = 1, turns: int = 1000) -> list[str]:
    """Items in the order in which batches of `size` take them, in so many turns."""
    order = []
    while made.waiting and turns:
        turns -= 1
        order += [taken.item for taken in made.take(made.group(), size)]
    return order


def test_lower_urgency_goes_first() -> None:
    made = line(entry("interim", INTERIM), entry("preflight", PREFLIGHT), entry("final", FINAL))
    assert served(made) == ["final", "preflight", "interim"]


def test_a_stream_keeps_its_order() -> None:
    assert served(line(*(entry(str(n), stream="a") for n in range(5)))) == list("01234")


def test_items_without_stream_go_in_order_of_arrival() -> None:
    assert served(line(*(entry(str(n)) for n in range(5)))) == list("01234")


@pytest.mark.parametrize("size", [1, 4])
def test_stream_that_queues_a_hundred_does_not_starve_another(size: int) -> None:
    made = line(*(entry(f"a{n}", stream="a") for n in range(100)))
    served(made, size, turns=1)
    made.put(entry("b", stream="b"))
    made.put(entry("c"))
    assert sorted(served(made, turns=2)) == ["b", "c"]
    assert served(made, turns=1)[0].startswith("a")


def test_streams_take_turns() -> None:
    made = line(*(entry(f"{name}{n}", stream=name) for name in "abc" for n in range(2)))
    assert served(made, size=4) == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_flood_of_new_streams_does_not_starve_an_old_one() -> None:
    made = line(entry("a0", stream="a"), entry("a1", stream="a"))
    assert served(made, turns=1) == ["a0"]
    order = []
    for number in range(50):  # more come than are served
        made.put(entry(f"new{number}", stream=f"new{number}"))
        made.put(entry("without"))
        order += served(made, turns=1)
    assert "a1" in order[:3]


def test_stream_served_longest_ago_goes_first() -> None:
    made = line(entry("a0", stream="a"), entry("b0", stream="b"))
    assert served(made) == ["a0", "b0"]
    for item in ("b1", "a1"):
        made.put(entry(item, stream=item[0]))
    assert served(made) == ["a1", "b1"]


def test_memory_of_streams_is_bounded() -> None:
    made = line()
    for number in range(2 * REMEMBERED_STREAMS):
        made.put(entry("", stream=str(number)))
        served(made)
    assert len(made._last_turn) == REMEMBERED_STREAMS


def test_batch_is_of_one_group_and_the_most_urgent_decides_which() -> None:
    made = line(
        entry("a", INTERIM, group="x"), entry("b", PREFLIGHT, group="y"),
        entry("c", FINAL, group="x"), entry("d", FINAL, group="y"),
    )  # fmt: skip
    assert [taken.item for taken in made.take(made.group(), 4)] == ["c", "a"]
    assert [taken.item for taken in made.take(made.group(), 4)] == ["d", "b"]


def test_batch_takes_those_most_like_the_one_whose_turn_it_is() -> None:
    made = line(*(entry(str(n), size=n) for n in (5, 1, 2, 9, 8, 4)))
    assert served(made, 3) == ["5", "4", "2", "1", "8", "9"]


def test_similar_size_is_less_than_urgency() -> None:
    made = line(entry("a", size=1), entry("i", INTERIM, size=1), entry("b", size=9))
    assert served(made, 2) == ["a", "b", "i"]


def test_nobody_is_passed_over_for_long() -> None:
    """A long one waits behind short ones, and ever more short ones come."""
    size = 4
    short = [entry(f"short {n}", size=1) for n in range(100)]
    before = LOOKAHEAD * size - 1
    made = line(*short[:before], entry("long", size=60), *short[before:])
    order = served(made, size)
    assert size < order.index("long") + 1 <= LOOKAHEAD * size


def test_newer_interim_replaces_the_one_that_waits_and_keeps_its_place() -> None:
    old = entry("old", INTERIM, "a", since=1.0)
    made = line(old, entry("other", INTERIM, "b"))
    new = entry("new", INTERIM, "a", since=2.0)
    assert made.put(new) is old
    assert new.since == 1.0
    assert served(made) == ["new", "other"]


@pytest.mark.parametrize(
    "new",
    [
        entry("", INTERIM, "b"), entry("", PREFLIGHT, "a", replaces=True), entry("", INTERIM),
        entry("", INTERIM, "a", replaces=False), entry("", FINAL, "a", replaces=True),
    ],
    ids=["another stream", "another urgency", "no stream", "adds", "what waits is not replaced"],
)  # fmt: skip
def test_nothing_else_is_replaced(new: Entry[str, str]) -> None:
    made = line(entry("", INTERIM, "a"), entry("", FINAL, "a"), entry("", INTERIM))
    assert made.put(new) is None
    assert len(made.waiting) == 4


def test_full_line_gives_up_the_least_urgent_whose_turn_is_last() -> None:
    interims = entry("i0", INTERIM, "a"), entry("i1", INTERIM, "b")
    made = line(*interims, entry("p", PREFLIGHT, "a"), limit=3)
    assert made.put(entry("f0")) is interims[1]
    assert made.put(entry("f1")) is interims[0]
    refused = entry("p1", PREFLIGHT)
    assert made.put(refused) is refused
    assert (gone := made.put(entry("f2"))) and gone.item == "p"
    assert served(made) == ["f0", "f1", "f2"]


def test_full_line_still_takes_a_newer_interim() -> None:
    old = entry("old", INTERIM, "a")
    made = line(entry("final"), old, limit=2)
    assert made.put(entry("new", INTERIM, "a")) is old


def test_cancelled_entries_are_taken_out() -> None:
    entries = [entry(str(n)) for n in range(3)]
    made = line(*entries)
    entries[1].future.cancel()
    assert made.purge() == 1
    assert made.purge() == 0
    assert served(made) == ["0", "2"]


def test_busy_is_the_share_of_the_last_five_seconds() -> None:
    meter = Meter(workers=1)
    assert meter.busy(1000.0) == 0.0
    meter.begin(1, 1000.0)
    assert meter.busy(1001.0) == pytest.approx(0.2)
    assert meter.busy(1050.0) == 1.0
    meter.end(1050.0)
    assert meter.busy(1051.0) == pytest.approx(0.8)
    assert meter.busy(1054.0) == pytest.approx(0.2)
    assert meter.busy(1056.0) == 0.0


def test_background_work_makes_nobody_busy() -> None:
    meter = Meter(1)
    meter.begin(1, 0.0, counts=False)
    assert meter.idle == 0
    assert meter.busy(5.0) == 0.0
    meter.end(5.0)
    assert meter.seconds(1) == 5.0


def test_one_busy_worker_of_two_is_half() -> None:
    meter = Meter(workers=2)
    meter.begin(1, 10.0)
    assert meter.busy(20.0) == pytest.approx(0.5)
    assert meter.idle == 1


def test_meter_of_many_short_batches_stays_small() -> None:
    meter, now = Meter(workers=1), 0.0
    for _ in range(20_000):
        meter.begin(1, now)
        meter.end(now + 0.001)
        now += 0.002
    assert meter.busy(now) == pytest.approx(0.5, abs=0.02)
    assert len(meter._marks) < 110


def test_delay_counts_what_runs_and_what_waits() -> None:
    meter = Meter(workers=1)
    meter.begin(4, 0.0)
    meter.end(2.0)
    assert meter.seconds(1) == 0.5
    assert meter.delay(0, 4, now=2.0) == 0.0
    assert meter.delay(3, 4, now=2.0) == 6.0
    meter.begin(2, 2.0)
    assert meter.delay(0, 4, now=2.25) == pytest.approx(0.75)
    assert meter.delay(1, 4, now=2.25) == pytest.approx(2.75)
    assert meter.delay(0, 4, now=5.0) == pytest.approx(2.0)  # 2 s overdue: 2 s more


def test_delay_is_that_of_the_worker_that_is_free_first() -> None:
    meter = Meter(workers=2)
    meter.begin(1, 0.0)
    meter.end(1.0)
    both = threading.Barrier(2)  # at the same time, so that they are two threads

    def work(started: float) -> None:
        meter.begin(1, started)
        both.wait(30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1.0, 1.5)))
    assert meter.idle == 0
    assert meter.delay(0, 1, now=1.75) == pytest.approx(0.25)
    assert meter.delay(1, 1, now=1.75) == pytest.approx(0.75)
