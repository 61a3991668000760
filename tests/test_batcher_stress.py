"""What the batcher promises under any order of events, and when the program ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.plugins.whisper.batcher import Batcher
from livekit.plugins.whisper.errors import Overloaded, Superseded

FAILS = 13
"""Items whose number this divides fail, alone and in any batch."""


@dataclass(frozen=True)
class Ask:
    """Something that a thread does."""

    urgency: int
    stream: str
    group: int
    cancels: bool
    """Whether it then cancels the item it submitted before this one."""


asks = st.builds(
    Ask, st.integers(0, 2), st.sampled_from(["", "a", "b", "c"]), st.integers(0, 2), st.booleans()
)


class Checked:
    """Runs batches and remembers what would be wrong."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.wrong: list[str] = []
        self.seen: Counter[tuple[int, int]] = Counter()

    def __call__(self, items: Sequence[tuple[int, int]]) -> list[int]:
        if len({group for _, group in items}) != 1:
            self.wrong.append(f"groups mixed: {items}")
        if not 1 <= len(items) <= self.max_batch:
            self.wrong.append(f"{len(items)} items in a batch")
        self.seen.update(items)
        time.sleep(0)
        if any(number % FAILS == 0 for number, _ in items):
            raise ValueError(str(items))
        return [2 * number for number, _ in items]


@settings(max_examples=40, deadline=None)
@given(
    scripts=st.lists(st.lists(asks, min_size=1, max_size=40), min_size=1, max_size=4),
    workers=st.integers(1, 3),
    max_batch=st.integers(1, 5),
    max_queue=st.integers(1, 12),
    window=st.sampled_from([0.0, 0.0005]),
)
def test_each_future_ends_once_and_with_its_own_result(
    scripts: list[list[Ask]], workers: int, max_batch: int, max_queue: int, window: float
) -> None:
    run = Checked(max_batch)
    drops: Counter[str] = Counter()
    batcher: Batcher[tuple[int, int], int] = Batcher(
        run, name="stress", workers=workers, max_batch=max_batch, max_queue=max_queue,
        window=window, on_drop=lambda reason: drops.update([reason]),
    )  # fmt: skip
    ended: Counter[int] = Counter()
    futures: dict[int, Future[int]] = {}
    refused: list[int] = []

    def follow(thread: int, script: list[Ask]) -> None:
        last: Future[int] | None = None
        for step, ask in enumerate(script):
            number = thread * 1000 + step
            try:
                future = batcher.submit(
                    (number, ask.group), group=ask.group, urgency=ask.urgency,
                    stream=ask.stream, replaces=ask.urgency == 2,
                )  # fmt: skip
            except Overloaded:
                refused.append(number)
                continue
            future.add_done_callback(lambda _, number=number: ended.update([number]))  # type: ignore[misc]
            futures[number] = future
            if batcher.depth().total() > max_queue:
                run.wrong.append(f"{batcher.depth()} wait")
            if ask.cancels and last is not None:
                last.cancel()
            last = future

    threads = [threading.Thread(target=follow, args=each) for each in enumerate(scripts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    batcher.close()
    assert batcher.join(60)
    assert not wait(futures.values(), timeout=60).not_done
    assert not run.wrong
    assert all(ended[number] == 1 for number in futures)
    outcomes = {number: outcome(future) for number, future in futures.items()}
    ran = {number for number, _ in run.seen}
    for number, result in outcomes.items():
        if result in (CancelledError, Superseded, Overloaded):
            assert number not in ran
        else:
            assert result == (ValueError if number % FAILS == 0 else 2 * number)
            assert number in ran
    assert drops.total() == len(refused) + len(outcomes.keys() - ran)


def outcome(future: Future[int]) -> int | type[BaseException]:
    if future.cancelled():
        return CancelledError
    error = future.exception(0)
    return future.result(0) if error is None else type(error)


SCRIPT = """
    import time
    from livekit.plugins.whisper import batcher

    def run(items):
        print("begun", flush=True)
        time.sleep(items[0])
        print("ended", flush=True)
        return items

    made = batcher.Batcher(run, name="exit", max_batch=1)
    made.submit({seconds}, group="")
    made.submit(0, group="")
    while not made.busy():
        time.sleep(0.001)
    batcher.EXIT_SECONDS = {patience}
"""


@pytest.mark.parametrize(
    ("seconds", "patience", "said"),
    [(0.3, 30, ["begun", "ended"]), (3600, 0.1, ["begun"])],
    ids=["finishes the batch under way", "waits only so long"],
)
def test_leaving_the_program(seconds: float, patience: float, said: list[str]) -> None:
    script = textwrap.dedent(SCRIPT).format(seconds=seconds, patience=patience)
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.split() == said
    assert not out.stderr
