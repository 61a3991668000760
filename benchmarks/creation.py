"""What a session pays until its STT is ready: the first time, and when the model is there."""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from livekit.plugins import whisper
from livekit.plugins.whisper.backend import process_backend

from benchmarks import subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.subjects import Subject

ABOUT = """\
Milliseconds from nothing to an STT that decodes at once. *First* is in a new process with nothing
loaded: LiveKit, the plugin and Silero VAD are there before, as in the process of a LiveKit job; the
engine's own import counts, and is shown by itself as well; the files are in the system's cache.
*Again* is in the same process: the plugin creates a handle with `create_stt` and awaits the
backend's `prewarm`. The peer, an STT class of one's own in LiveKit's `StreamAdapter`, whose
constructor loads the engine's model, loads it again. The plugin's first load also checks the files
and decodes a second of sound to prove the model. Log messages are formatted and written."""

READY, IMPORT, LOAD = "first: until ready", "first: engine's import", "first: model"
AGAIN = "again: until ready"
CREATE, MAPPING = "again: `create_stt` alone", "again: until ready, from a mapping"


@dataclass
class Times:
    """Of one process, in seconds."""

    importing: float = 0.0
    """The engine's import."""
    loading: float = 0.0
    """All else until the first STT was ready."""
    again: list[float] = field(default_factory=list)
    """Each later one, until it was ready."""
    create: list[float] = field(default_factory=list)
    """`create_stt` alone."""
    mapping: list[float] = field(default_factory=list)
    """As `again`, with a mapping in the place of a ready `STTConfig`."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """The figure."""
    ours: dict[Subject, list[Times]] = {subject: [] for subject in found}
    plain: dict[Subject, list[Times]] = {subject: [] for subject in found}
    for _ in rounds(effort.first, 2 * effort.patience):
        for subject in found:
            ours[subject].append(forked(create, subject, effort.cached))
            plain[subject].append(forked(create_plain, subject, effort.second))
    rows = [row for each in found for row in _rows(each.engine, ours[each], plain[each])]
    again = {row.engine: row.cells[OURS].p50 for row in rows if row.what == AGAIN}
    target = Target("a cached creation (p50)", 1.0, "ms", again)
    return [Figure("creation", "First creation, and cached creation", "ms", ABOUT, rows, [target])]


def create(subject: Subject, cached: int) -> Times:
    """The plugin, in this process."""
    return asyncio.run(_create(subject, cached))


async def _create(subject: Subject, cached: int) -> Times:
    subjects.log_as_agents_do()
    times, vad, config = Times(), subjects.load_vad(), subject.config
    mapping = {f"stt_{key}": value for key, value in config.model_dump(exclude_unset=True).items()}

    async def ready(given: whisper.STTConfig | dict[str, Any]) -> tuple[float, float]:
        started = time.perf_counter()
        handle = whisper.ProviderFactory.create_stt(given, vad)
        created = time.perf_counter()
        await process_backend().prewarm(config.model_key)
        done = time.perf_counter()
        await handle.aclose()
        return created - started, done - started

    times.importing = _import(subject.module)
    _, times.loading = await ready(config)
    gc.collect()
    for _ in range(cached):
        seconds, total = await ready(config)
        times.create.append(seconds)
        times.again.append(total)
        times.mapping.append((await ready(mapping))[1])
    return times


def create_plain(subject: Subject, second: int) -> Times:
    """The peer, in this process."""
    vad, seconds = subjects.load_vad(), list[float]()
    times = Times(importing=_import(subject.plain_module))
    for _ in range(1 + second):
        started = time.perf_counter()
        adapter = subject.create_plain(vad)
        seconds.append(time.perf_counter() - started)
        asyncio.run(adapter.aclose())
    times.loading, *times.again = seconds
    return times


def _import(module: str) -> float:
    started = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - started


def _rows(engine: str, ours: list[Times], plain: list[Times]) -> list[Row]:
    def row(what: str, mine: list[float], theirs: list[float] | None = None) -> Row:
        cells = {OURS: mine} if theirs is None else {OURS: mine, PLAIN: theirs}
        return Row(engine, what, {k: Summary.of(v).times(1e3) for k, v in cells.items()})

    def each(times: list[Times], name: str) -> list[float]:
        return [value for one in times for value in getattr(one, name)]

    return [
        row(
            READY,
            [one.importing + one.loading for one in ours],
            [one.importing + one.loading for one in plain],
        ),
        row(IMPORT, [one.importing for one in ours], [one.importing for one in plain]),
        row(LOAD, [one.loading for one in ours], [one.loading for one in plain]),
        row(AGAIN, each(ours, "again"), each(plain, "again")),
        row(CREATE, each(ours, "create")),
        row(MAPPING, each(ours, "mapping")),
    ]
