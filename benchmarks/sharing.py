"""What each further job process takes of the machine's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection

import psutil

from benchmarks import hosts, job, subjects
from benchmarks.effort import Effort, rounds
from benchmarks.memory import MB, trim
from benchmarks.process import running
from benchmarks.results import NOTHING, OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.script import recordings
from benchmarks.subjects import Subject

ABOUT = """\
MB of {count} job processes that live at the same time, each with a session that has heard and
transcribed one recording through its VAD: the proportional set size, in which a page that several
processes share counts for each by its part (Linux: /proc/PID/smaps_rollup). They are forked from
one process with LiveKit and the plugin imported, as LiveKit's are. *{nothing}* is the same
process with an STT that does nothing: the framework and the VAD; what is beyond it is the STT's.
The host, which the plugin needs once for all of them, has a row of its own. Before the reading
the processes' allocators give back what they keep for later."""

BEYOND, WHOLE = "a further process, beyond one without STT", "a further process, all of it"
HOST, TOGETHER = "the host", "{} processes, beyond those without STT, with the host"


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """The figure."""
    subject, count = subjects.fastest(found), effort.live
    sizes: dict[str, list[float]] = {NOTHING: [], OURS: [], PLAIN: []}
    host = list[float]()
    for _ in rounds(effort.sharing, effort.patience):
        for who, values in sizes.items():
            hosts.end()
            values += _together(subject, who, count)
            if who == OURS:
                host.append(_proportional(hosts.only().pid))
    hosts.end()
    usual = Summary.of(sizes[NOTHING]).p50
    beyond = {who: Summary.of([v - usual for v in sizes[who]]) for who in (OURS, PLAIN)}
    whole = {who: Summary.of(values) for who, values in sizes.items()}
    ours, plain = (count * beyond[who].p50 for who in (OURS, PLAIN))
    all_of_them = {OURS: Summary.once(ours + Summary.of(host).p50), PLAIN: Summary.once(plain)}
    rows = [
        Row(subject.engine, BEYOND, beyond),
        Row(subject.engine, WHOLE, {who: whole[who] for who in (OURS, PLAIN, NOTHING)}),
        Row(subject.engine, HOST, {OURS: Summary.of(host)}),
        Row(subject.engine, TOGETHER.format(count), all_of_them),
    ]
    target = Target("a further process (p50)", 15.0, "MB", {subject.engine: beyond[OURS].p50})
    about = ABOUT.format(count=count, nothing=NOTHING)
    return [Figure("sharing", "Memory of job processes", "MB", about, rows, [target])]


def _together(subject: Subject, who: str, count: int) -> list[float]:
    """Of each of several processes."""
    with ExitStack() as stack:
        jobs = [stack.enter_context(running(work, subject, who)) for _ in range(count)]
        for each in jobs:
            each.hear()
        sizes = [_proportional(each.pid) for each in jobs]
        for each in jobs:
            each.tell()
            each.result()
    return sizes


def work(caller: Connection, subject: Subject, who: str) -> None:
    """A job process: transcribes a recording, and stays until it is told to go."""
    asyncio.run(_work(caller, subject, who))


async def _work(caller: Connection, subject: Subject, who: str) -> None:
    subjects.log_as_agents_do()
    handle = subject.create(who, subjects.load_vad())
    await subject.prewarm(who)
    if not await job.transcribe(handle, recordings()[0].recording):
        raise RuntimeError(f"{who}: nothing was heard")
    trim()
    caller.send("ready")
    await asyncio.to_thread(caller.recv)
    await handle.aclose()


def _proportional(pid: int) -> float:
    info = psutil.Process(pid).memory_full_info()
    return float(getattr(info, "pss", info.uss)) / MB
