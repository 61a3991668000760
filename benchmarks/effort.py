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
    patience: float
    """Seconds after which nothing is begun again, on a machine that is slow."""


FULL = Effort(
    first=3, cached=300, second=3, handles=50, plain=10, sessions=8,
    decoding=4, lag_processes=2, lag_rounds=3, lag_seconds=2.0, patience=50.0,
)  # fmt: skip
QUICK = Effort(
    first=1, cached=200, second=1, handles=4, plain=2, sessions=0,
    decoding=1, lag_processes=1, lag_rounds=1, lag_seconds=1.0, patience=10.0,
)  # fmt: skip


def rounds(count: int, patience: float) -> Iterator[int]:
    """Counts to `count`, or to as many (at least one) as can begin within `patience` seconds."""
    started = time.monotonic()
    for done in range(count):
        if done and time.monotonic() - started > patience:
            return
        yield done
