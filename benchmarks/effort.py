"""How often each thing is measured, and in what process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PRELOADED = ["__main__", "benchmarks.subjects"]
"""With the first, the server finds the second; it brings LiveKit and the plugin, no engine."""


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


def forked(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a new process that has LiveKit and the plugin imported, and no engine.

    It is forked from a server that is kept for this, as LiveKit forks the processes of its jobs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()
