"""How often each thing is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Repeats."""

    first: int
    """Processes in which nothing is loaded, of each engine and its peer."""
    cached: int
    """Further creations in each of them."""
    second: int
    """Further creations of the peer: each loads its model."""
    handles: int
    """Handles made, used and closed one after the other."""
    plain: int
    """The same of the peer."""
    sessions: int
    """Handles in use at the same time, and the peer's; 0: left out."""
    decoding: int
    """Rounds over all recordings."""
    lag_processes: int
    """Processes in which the event loop is watched."""
    lag_rounds: int
    """Rounds in each of them."""
    lag_seconds: float
    """Of a round, for each of the things that go on meanwhile."""
    hosts: int
    """Hosts that are started, and killed."""
    jobs: int
    """Job processes that are made ready, and the peer's."""
    live: int
    """Job processes that live at the same time while their memory is read."""
    sharing: int
    """How often that is done."""
    throughput: int
    """Runs of each way to transcribe."""
    mixes: int
    """How often each utterance is transcribed in a run, one by one; four times that, several."""
    overhead: int
    """Processes that compare the host with a model of their own."""
    pairs: int
    """Pairs of requests in each of them, for each length."""
    streams: tuple[int, ...]
    """How many streams at once."""
    plain_streams: tuple[int, ...]
    """The same of the peer."""
    stream_seconds: float
    """How long they speak."""
    delay_seconds: float
    """How long one stream speaks whose every event is timed."""
    turn_seconds: float
    """How long one speaks to a session whose LLM is asked."""
    patience: float
    """Seconds after which nothing is begun again, on a machine that is slow."""


FULL = Effort(
    first=3, cached=300, second=3, handles=50, plain=10, sessions=8,
    decoding=4, lag_processes=2, lag_rounds=3, lag_seconds=2.0,
    hosts=5, jobs=20, live=4, sharing=3, throughput=3, mixes=2, overhead=3, pairs=20,
    streams=(1, 4, 8, 16), plain_streams=(1, 4, 8), stream_seconds=28.0,
    delay_seconds=64.0, turn_seconds=40.0, patience=30.0,
)  # fmt: skip
QUICK = Effort(
    first=1, cached=200, second=1, handles=4, plain=2, sessions=0,
    decoding=1, lag_processes=1, lag_rounds=1, lag_seconds=1.0,
    hosts=1, jobs=3, live=4, sharing=1, throughput=1, mixes=1, overhead=1, pairs=8,
    streams=(1, 8), plain_streams=(1, 4), stream_seconds=20.0,
    delay_seconds=30.0, turn_seconds=30.0, patience=10.0,
)  # fmt: skip


def rounds(count: int, patience: float) -> Iterator[int]:
    """Counts to `count`, or to as many (at least one) as can begin within `patience` seconds."""
    started = time.monotonic()
    for done in range(count):
        if done and time.monotonic() - started > patience:
            return
        yield done
