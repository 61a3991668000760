"""Metrics tell what happened, and what is the case when somebody scrapes."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from livekit.plugins.whisper import metrics
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.backend import LocalBackend
from livekit.plugins.whisper.errors import ModelNotFound
from livekit.plugins.whisper.types import DecodeOptions, ModelKey, Urgency, Utterance
from prometheus_client import REGISTRY, generate_latest

from tests.support.weights import TINY, recordings


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metrics.PREFIX + name, labels) or 0.0


@pytest.fixture
def change() -> Callable[..., float]:
    """How much a value has grown since it was asked for first."""
    before: dict[str, float] = {}

    def grown(name: str, **labels: str) -> float:
        now = value(name, **labels)
        return now - before.setdefault(f"{name} {labels}", now)

    return grown


async def test_loading_and_decoding_are_counted(change: Callable[..., float]) -> None:
    names: list[tuple[str, dict[str, str]]] = [
        ("model_loads_total", {"outcome": "loaded"}),
        ("model_load_seconds_count", {}),
        ("batch_size_sum", {"engine": "faster-whisper"}),
        ("decode_seconds_count", {"engine": "faster-whisper"}),
        ("queue_seconds_count", {"urgency": "preflight"}),
        ("model_loads_total", {"outcome": "failed"}),
    ]
    for name, labels in names:
        change(name, **labels)
    local = LocalBackend()
    sound = from_file(recordings()[4])
    utterance = Utterance(sound, 0.0, "room", Urgency.PREFLIGHT)
    await local.transcribe(TINY, utterance, DecodeOptions(language="en"))
    assert [change(name, **labels) for name, labels in names] == [1, 1, 1, 1, 1, 0]
    with pytest.raises(ModelNotFound):
        await local.prewarm(ModelKey("faster-whisper", "/nowhere"))
    assert change("model_loads_total", outcome="failed") == 1
    await local.aclose()


@dataclass(eq=False)
class Observed:
    """A backend in a state of the test's choice."""

    sizes: tuple[int, ...]
    finals: int
    busy: float

    @dataclass
    class Entry:
        size: int

    @dataclass
    class Info:
        entries: tuple[Observed.Entry, ...]

    def info(self) -> Info:
        return self.Info(tuple(map(self.Entry, self.sizes)))

    def depth(self) -> dict[Urgency, int]:
        return {Urgency.FINAL: self.finals}

    def load(self) -> float:
        return self.busy


def test_levels_are_those_of_all_backends_under_observation() -> None:
    gc.collect()  # what other tests have left
    count, size = value("cache_entries"), value("cache_bytes")
    one, two = Observed((10, 20), 3, 0.25), Observed((5,), 1, 1.0)
    for each in (one, two, one):
        metrics.observe(each)
    assert value("cache_entries") - count == 3
    assert value("cache_bytes") - size == 35
    assert value("queue_depth", urgency="final") == 4
    assert value("queue_depth", urgency="interim") == 0
    assert value("load") == 1.0
    one.finals = 0
    assert value("queue_depth", urgency="final") == 1
    del two, each  # as a backend that is forgotten
    gc.collect()
    assert value("cache_entries") - count == 2


def test_a_backend_of_this_process_can_be_observed() -> None:
    local = LocalBackend()
    metrics.observe(local)
    assert value("queue_depth", urgency="final") == 0.0


def test_all_names_are_exported_once_with_their_labels() -> None:
    text = generate_latest().decode()
    found = re.findall(rf"^# TYPE {metrics.PREFIX}(\w+) ", text, re.MULTILINE)
    assert sorted(name for name in found if not name.endswith("_created")) == [
        "batch_size", "cache_bytes", "cache_entries", "decode_seconds", "drops_total",
        "errors_total", "gate_redecodes_total", "host_fallbacks_total", "host_restarts_total",
        "load", "model_load_seconds", "model_loads_total", "not_speech_total", "queue_depth",
        "queue_seconds", "request_seconds", "requests_total",
    ]  # fmt: skip
