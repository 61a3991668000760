"""Prometheus metrics of this process, all in one place, on the client's default registry.

Labels hold words of this package's own (an engine, an urgency, a route, an error's code), never
text, names or paths of users. What has a level rather than a history (the queue, the models in
memory) is read when somebody scrapes, from the backends given to `observe`.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .types import Urgency

PREFIX = "livekit_whisper_"

DECODE_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
LOAD_BUCKETS = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
"""Upper bounds in seconds: of decoding, of waiting, of loading a model (with its download)."""

MODEL_LOADS = Counter(
    PREFIX + "model_loads", "Models loaded, by outcome (loaded, failed).", ["outcome"]
)
MODEL_LOAD_SECONDS = Histogram(
    PREFIX + "model_load_seconds", "Seconds that loading a model took.", buckets=LOAD_BUCKETS
)
BATCH_SIZE = Histogram(
    PREFIX + "batch_size",
    "Utterances decoded together.",
    ["engine"],
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
)
DECODE_SECONDS = Histogram(
    PREFIX + "decode_seconds",
    "Seconds that a batch took to decode.",
    ["engine"],
    buckets=DECODE_BUCKETS,
)
QUEUE_SECONDS = Histogram(
    PREFIX + "queue_seconds",
    "Seconds that a decoded utterance had waited, by urgency.",
    ["urgency"],
    buckets=WAIT_BUCKETS,
)
GATE_REDECODES = Counter(
    PREFIX + "gate_redecodes",
    "Utterances decoded again with the full window because the short one's text was doubtful.",
    ["engine"],
)
DROPS = Counter(
    PREFIX + "drops",
    "Utterances never decoded, by reason (superseded, cancelled, overloaded).",
    ["reason"],
)
NOT_SPEECH = Counter(
    PREFIX + "not_speech",
    "Decoded windows whose text was dropped, by what it is that nobody said (silence, phrase, "
    "echo, repetition, punctuation), or that it is improbable.",
    ["reason"],
)
ERRORS = Counter(PREFIX + "errors", "Requests that failed, by the error's code.", ["code"])
REQUESTS = Counter(PREFIX + "requests", "Requests that the host answered.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    PREFIX + "request_seconds",
    "Seconds from a request to its answer.",
    ["route"],
    buckets=DECODE_BUCKETS,
)
HOST_FALLBACKS = Counter(
    PREFIX + "host_fallbacks",
    "Times that this process used a model of its own because it could not have the host.",
    ["reason"],
)
HOST_RESTARTS = Counter(
    PREFIX + "host_restarts",
    "Times that this process found the host gone and another in its place.",
)


class _Models(Protocol):
    """What of `CacheInfo` is read here."""

    @property
    def entries(self) -> Iterable[Any]: ...


class Observed(Protocol):
    """What a backend tells at a scrape; `LocalBackend` is one."""

    def info(self) -> _Models:
        """What is loaded; each entry has its `size` in bytes."""
        ...

    def depth(self) -> Mapping[Urgency, int]:
        """How many utterances wait, by urgency."""
        ...

    def load(self) -> float:
        """0 (idle) to 1 (saturated)."""
        ...


class _Levels(Collector):
    """Reads the backends under observation when somebody scrapes."""

    def __init__(self) -> None:
        self.backends: weakref.WeakSet[Observed] = weakref.WeakSet()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Names for the registry, without asking a backend."""
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All levels, summed over the backends; the load is the highest of them."""
        entries = size = 0
        load, depth = 0.0, Tally[Urgency]()
        for backend in list(self.backends):
            models = list(backend.info().entries)
            entries += len(models)
            size += sum(model.size for model in models)
            depth.update(backend.depth())
            load = max(load, backend.load())
        waiting, count, memory, busy = families = self._families()
        for urgency in Urgency:
            waiting.add_metric([urgency.name.lower()], depth[urgency])
        count.add_metric([], entries)
        memory.add_metric([], size)
        busy.add_metric([], load)
        return families

    @staticmethod
    def _families() -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily(PREFIX + "queue_depth", "Utterances that wait.", labels=["urgency"]),
            GaugeMetricFamily(PREFIX + "cache_entries", "Models in memory.", labels=[]),
            GaugeMetricFamily(PREFIX + "cache_bytes", "Bytes of models in memory.", labels=[]),
            GaugeMetricFamily(PREFIX + "load", "0 (idle) to 1 (saturated).", labels=[]),
        ]


_levels = _Levels()
REGISTRY.register(_levels)


def observe(backend: Observed) -> None:
    """Has scrapes show a backend's queue, models and load, for as long as it lives."""
    _levels.backends.add(backend)


def _after_fork() -> None:
    """A forked process has its parent's backends in name only."""
    _levels.backends = weakref.WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
