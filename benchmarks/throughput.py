"""How much speech one machine can transcribe."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from livekit.plugins.whisper import engines
from livekit.plugins.whisper.stt import shared_backend
from livekit.plugins.whisper.types import Audio, Utterance

from benchmarks import hosts, speech, subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import Running, running
from benchmarks.results import HOST, OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.subjects import Subject
from scripts.wer import pooled_word_error_rate

ABOUT = """\
Utterances transcribed per second, all processes together, from the first request to the last
answer: {count} utterances of 1.3 to 10.7 s, 5.1 s on average, cut from and put together of the
recordings, in random order, several times over. Each process asks for the next when it has an
answer, or keeps as many under way *at once* as its row says; through the plugin, all use the
machine's host. The peer is `faster_whisper.WhisperModel.transcribe(beam_size=1)`, int8, a model in
each process, which share the cores; it decodes one by one."""
ABOUT_LATENCY = "Milliseconds from request to answer meanwhile, waiting for others included."
ABOUT_CPU = """\
Seconds of all cores used for each second of audio, by the processes and the host together."""
ABOUT_ERRORS = "Of all words of what was transcribed meanwhile, in percent."


@dataclass(frozen=True)
class Way:
    """Who transcribes how many at once."""

    who: str
    processes: int
    together: int
    """Requests that each of them keeps under way."""

    def __str__(self) -> str:
        one = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{one}, {f'{self.together} at once' if self.together > 1 else 'one by one'}"


WAYS = (
    Way(OURS, 1, 1), Way(PLAIN, 1, 1), Way(OURS, 2, 1), Way(PLAIN, 2, 1),
    Way(OURS, 4, 4), Way(OURS, 4, 8),
)  # fmt: skip


@dataclass
class Share:
    """What one process did; times are in seconds."""

    begun: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Which utterance, and what was heard."""


@dataclass
class Run:
    """What all of them did."""

    per_second: float
    """Utterances."""
    cpu: float
    """Seconds for each second of audio."""
    host: float
    """The host's part of it."""
    latencies: list[float]
    texts: list[tuple[int, str]]


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Four figures: utterances per second, latency, CPU time and word error rate."""
    subject = subjects.fastest(found)
    runs: dict[Way, list[Run]] = {way: [] for way in WAYS}
    for number in rounds(effort.throughput, 3 * effort.patience):
        for way, done in runs.items():
            # What is faster does more, so that all take about as long.
            times = effort.mixes * (4 if way.together > 1 else 1)
            done.append(_run(subject, way, times, seed=number))
        hosts.end()
    references = [each.reference for each in speech.mixed()]

    def errors(run: Run) -> float:
        pairs = [(references[index], text) for index, text in run.texts]
        return 100 * pooled_word_error_rate(pairs)

    def rows(value: Callable[[list[Run]], Summary]) -> list[Row]:
        cells = dict[str, dict[str, Summary]]()
        for way, done in runs.items():
            cells.setdefault(str(way), {})[way.who] = value(done)
        return [Row(subject.engine, what, each) for what, each in cells.items()]

    speeds = rows(lambda done: Summary.of([run.per_second for run in done]))
    best = {
        who: max(row.cells[who].p50 for row in speeds if who in row.cells) for who in (OURS, PLAIN)
    }
    ratio = {subject.engine: best[OURS] / best[PLAIN]}
    target = Target("the best is", 6.0, "times the peer's best", ratio, at_least=True)
    used = rows(lambda done: Summary.of([run.cpu for run in done]))
    for way, done in runs.items():
        if way.who == OURS:
            (row,) = (each for each in used if each.what == str(way))
            row.cells[HOST] = Summary.of([run.host for run in done])
    pooled = rows(lambda done: Summary.of([v for run in done for v in run.latencies]).times(1e3))
    about = ABOUT.format(count=len(references))
    return [
        Figure("throughput", "Throughput", "utterances/s", about, speeds, [target]),
        Figure("throughput", "Latency at that throughput", "ms", ABOUT_LATENCY, pooled),
        Figure("throughput", "CPU time at that throughput", "s/s", ABOUT_CPU, used),
        Figure(
            "throughput", "Word error rate at that throughput", "%", ABOUT_ERRORS,
            rows(lambda done: Summary.of([errors(run) for run in done])),
        ),
    ]  # fmt: skip


def _run(subject: Subject, way: Way, times: int, seed: int) -> Run:
    count = len(speech.MIXED)
    items = [index for _ in range(times) for index in range(count)]
    random.Random(seed).shuffle(items)
    threads = max(1, engines.cores() // way.processes)
    with ExitStack() as stack:
        clients = list[Running[Share]]()
        for number in range(way.processes):
            mine = items[number :: way.processes]
            process = running(ask, subject, way.who, mine, way.together, threads)
            clients.append(stack.enter_context(process))
        for client in clients:
            client.hear()
        before = hosts.cpu_seconds()
        for client in clients:
            client.tell()
        shares = [client.result() for client in clients]
        host = hosts.cpu_seconds() - before if way.who == OURS else 0.0
    durations = [each.audio.duration for each in speech.mixed()]
    wall = max(share.ended for share in shares) - min(share.begun for share in shares)
    audio = sum(durations[index] for index in items)
    return Run(
        len(items) / wall,
        (sum(share.cpu for share in shares) + host) / audio,
        host / audio,
        [latency for share in shares for latency in share.latencies],
        [text for share in shares for text in share.texts],
    )


def ask(
    caller: Connection, subject: Subject, who: str, items: list[int], together: int, threads: int
) -> Share:
    """A process that has utterances transcribed, from when it is told to begin."""
    return asyncio.run(_ask(caller, subject, who, items, together, threads))


async def _ask(
    caller: Connection, subject: Subject, who: str, items: list[int], together: int, threads: int
) -> Share:
    decode = await _decoder(subject, who, threads)
    audios = [each.audio for each in speech.mixed()]
    await decode(audios[-1])  # connections are open, buffers are there
    caller.send("ready")
    await asyncio.to_thread(caller.recv)
    waiting, share = deque(items), Share(begun=time.monotonic())
    before = time.process_time()

    async def work() -> None:
        while waiting:
            index, asked = waiting.popleft(), time.monotonic()
            share.texts.append((index, await decode(audios[index])))
            share.latencies.append(time.monotonic() - asked)

    await asyncio.gather(*(work() for _ in range(together)))
    share.ended = time.monotonic()
    share.cpu = time.process_time() - before
    return share


async def _decoder(subject: Subject, who: str, threads: int) -> Callable[[Audio], Awaitable[str]]:
    if who == PLAIN:
        plain = subject.load_plain(threads)
        return lambda audio: asyncio.to_thread(plain, audio)
    config, backend = subject.hosted, shared_backend(subject.hosted)
    backend.hold(config.model_key)
    await backend.prewarm(config.model_key)

    async def decode(audio: Audio) -> str:
        options = config.decode_options
        return (await backend.transcribe(config.model_key, Utterance(audio), options)).text

    return decode
