"""How soon a job process can transcribe, and how soon again when the host has died."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from livekit.plugins.whisper.stt import shared_backend
from livekit.plugins.whisper.types import Utterance

from benchmarks import hosts, subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.subjects import Subject

ABOUT = """\
Milliseconds until a new job process can transcribe: from creating its STT until the model is
ready for it. The process is forked, as LiveKit forks those of its jobs, with LiveKit and the
plugin imported, and has loaded Silero VAD. The plugin joins the machine's host: a *further*
process finds it with the model loaded, the *first* one has to start it. The peer loads its model,
from files in the system's cache, in every process; the import of faster-whisper (some 50 ms) is
left out."""
ABOUT_RECOVERY = """\
Seconds from killing the host (SIGKILL) while it decodes an utterance of 7 s until the process
that waits has its words: it notices, starts another host, which loads the model, and sends the
utterance again. Beside it, the same utterance undisturbed."""

FURTHER, FIRST = "a further process", "the first process"
CREATING = "a further process: creating the STT alone"
KILLED, UNDISTURBED = "after the host was killed", "undisturbed"


@dataclass
class Times:
    """Of one process, in seconds."""

    create: float
    """Until there was an STT."""
    total: float
    """Until the model was ready."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Two figures: readiness and recovery."""
    subject = subjects.fastest(found)
    first, further, plain = list[Times](), list[Times](), list[Times]()
    recoveries = list[tuple[float, float]]()
    for _ in rounds(effort.hosts, effort.patience):
        hosts.end()
        first.append(forked(become_ready, subject, OURS))
        recoveries.append(forked(recover, subject))
    for _ in rounds(effort.jobs, effort.patience):
        further.append(forked(become_ready, subject, OURS))
        plain.append(forked(become_ready, subject, PLAIN))

    def cell(values: list[float]) -> Summary:
        return Summary.of(values).times(1e3)

    theirs = cell([each.total for each in plain])
    ours = cell([each.total for each in further])
    rows = [
        Row(subject.engine, FURTHER, {OURS: ours, PLAIN: theirs}),
        Row(subject.engine, CREATING, {OURS: cell([each.create for each in further])}),
        Row(subject.engine, FIRST, {OURS: cell([each.total for each in first]), PLAIN: theirs}),
    ]
    recovery = [
        Row(subject.engine, KILLED, {OURS: Summary.of([after for after, _ in recoveries])}),
        Row(subject.engine, UNDISTURBED, {OURS: Summary.of([usual for _, usual in recoveries])}),
    ]
    target = Target("a further process (p50)", 50.0, "ms", {subject.engine: ours.p50})
    return [
        Figure("readiness", "Readiness of a job process", "ms", ABOUT, rows, [target]),
        Figure("readiness", "Recovery of the host", "s", ABOUT_RECOVERY, recovery),
    ]


def become_ready(subject: Subject, who: str) -> Times:
    """Makes an STT and waits for its model, in this process."""
    subjects.log_as_agents_do()
    if who == PLAIN:
        importlib.import_module(subject.plain_module)
    return asyncio.run(_become_ready(subject, who))


async def _become_ready(subject: Subject, who: str) -> Times:
    vad = subjects.load_vad()
    started = time.perf_counter()
    handle = subject.create(who, vad)
    created = time.perf_counter()
    await subject.prewarm(who)
    done = time.perf_counter()
    await handle.aclose()
    return Times(created - started, done - started)


def recover(subject: Subject) -> tuple[float, float]:
    """Seconds from the kill to the words, and without a kill."""
    return asyncio.run(_recover(subject))


async def _recover(subject: Subject) -> tuple[float, float]:
    # Not earlier: their import is timed above.
    from livekit.plugins.whisper.host.place import places
    from livekit.plugins.whisper.host.process import ask

    config, backend = subject.hosted, shared_backend(subject.hosted)
    utterance = Utterance(max((s.audio for s in subjects.recordings()), key=lambda a: a.duration))
    backend.hold(config.model_key)
    await backend.prewarm(config.model_key)

    async def answered() -> float:
        await backend.transcribe(config.model_key, utterance, config.decode_options)
        return time.perf_counter()

    started = time.perf_counter()
    usual = await answered() - started
    (place,), host = places(), hosts.only()

    def facts() -> Any:
        return ask(place)

    answer = asyncio.create_task(answered())
    while not (await asyncio.to_thread(facts))["requests"]:
        pass
    await asyncio.sleep(usual / 4)  # by now it decodes
    os.kill(host.pid, signal.SIGKILL)
    killed = time.perf_counter()
    after = await answer - killed
    if hosts.only().pid == host.pid or after < usual / 2:
        raise RuntimeError("the host was killed too late")
    await backend.aclose()
    return after, usual
