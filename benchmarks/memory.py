"""Memory of a process: handles one after the other, and many sessions at the same time."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
from livekit.agents import stt
from livekit.plugins import whisper

from benchmarks import subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.subjects import Subject

ABOUT = """\
MB of a new process's own memory, which no file backs: weights, buffers and Python's objects. (What
is resident changes with other programs as well: pages of libraries come and go, and are shared.)
Before each reading the allocator gives back what it keeps for later; that alone comes to tens of
MB, more or less at random. *In turn*: a handle is created, recognises one recording and is closed,
{handles} times over; the peer, an STT class of one's own that loads the model, {plain} times.
Growth leaves out the first tenth, in which buffers are made. *At once*: {sessions} sessions in one
process, all open, each of which has recognised a recording. LiveKit, Silero VAD and the engine are
in all of these."""

MB = 1e6
_LIBC = ctypes.CDLL(None)


@dataclass
class Course:
    """How the memory of one process went, in MB."""

    empty: float
    """Before the first handle."""
    after: list[float] = field(default_factory=list)
    """After each handle."""
    peak: float = 0.0
    """The highest that was ever resident, libraries included."""

    @property
    def settled(self) -> list[float]:
        """Without the first tenth."""
        return self.after[max(1, len(self.after) // 10) - 1 :]

    @property
    def growth(self) -> float:
        """From the first tenth to the end: the median slope of all pairs (Theil 1950, Sen 1968)."""
        values = self.settled
        pairs = combinations(enumerate(values), 2)
        slopes = [(second - first) / (j - i) for (i, first), (j, second) in pairs]
        return statistics.median(slopes) * (len(values) - 1) if slopes else 0.0


Courses = dict[str, Course]
"""By whom → how it went."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """The figure."""
    rows, growth, series = list[Row](), dict[str, float](), dict[str, list[float]]()
    handles = effort.handles
    for subject in found:
        turns, sessions = _courses(subject, effort)
        rows += _rows(subject.engine, turns, sessions)
        handles = min(handles, len(turns[OURS].after))
        growth[subject.engine] = turns[OURS].growth
        for way, courses in {"in turn": turns, "at once": sessions}.items():
            for who, course in courses.items():
                series[f"{subject.engine}, {who}, {way}"] = [course.empty, *course.after]
    about = ABOUT.format(handles=handles, plain=effort.plain, sessions=effort.sessions or "no")
    target = Target(f"growth over {handles} creations and closings", 5.0, "MB", growth)
    return [Figure("memory", "Memory", "MB", about, rows, [target], series)]


def _courses(subject: Subject, effort: Effort) -> tuple[Courses, Courses]:
    """In turn, and at once; each in a process of its own."""
    turns, sessions = Courses(), Courses()
    for who, count in ((OURS, effort.handles), (PLAIN, effort.plain)):
        turns[who] = forked(use, subject, who, count, effort.patience, keep=False)
        if effort.sessions:
            sessions[who] = forked(use, subject, who, effort.sessions, effort.patience, keep=True)
    return turns, sessions


def use(subject: Subject, who: str, count: int, patience: float, *, keep: bool) -> Course:
    """Uses handles one after the other, or, with `keep`, leaves all open."""
    return asyncio.run(_use(subject, who, count, patience, keep))


async def _use(subject: Subject, who: str, count: int, patience: float, keep: bool) -> Course:
    create, frame = _creator(subject, who), subjects.short_frame()
    course, kept = Course(_memory()), list[stt.STT[Any]]()
    for _ in rounds(count, patience):
        handle = create()
        await handle.recognize(frame)
        if keep:
            kept.append(handle)
        else:
            await handle.aclose()
        del handle
        course.after.append(_memory())
    for handle in kept:
        await handle.aclose()
    course.peak = _peak()
    return course


def _creator(subject: Subject, who: str) -> Callable[[], stt.STT[Any]]:
    vad, config = subjects.load_vad(), subject.config
    if who == PLAIN:
        return lambda: subject.create_plain(vad)
    return lambda: whisper.ProviderFactory.create_stt(config, vad)


def trim() -> None:
    """Gives back to the system what this process no longer needs."""
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def _memory() -> float:
    trim()
    if (anonymous := _kilobytes("smaps_rollup", "Anonymous")) is not None:
        return anonymous * 1024 / MB
    return float(psutil.Process().memory_full_info().uss) / MB


def _peak() -> float:
    # Not getrusage() where this is to be had: there it starts with the parent's.
    if (highest := _kilobytes("status", "VmHWM")) is not None:
        return highest * 1024 / MB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def _kilobytes(file: str, name: str) -> int | None:
    """What Linux tells of this process (man proc_pid_smaps, proc_pid_status)."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self", file).read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) if found else None


def _rows(engine: str, turns: Courses, sessions: Courses) -> list[Row]:
    def row(what: str, courses: Courses, value: Callable[[Course], float]) -> Row:
        cells = {name: Summary.once(value(each)) for name, each in courses.items()}
        return Row(engine, what, cells)

    rows = [
        row("in turn: before the first", turns, lambda c: c.empty),
        row("in turn: after the first", turns, lambda c: c.after[0]),
        row("in turn: after the last", turns, lambda c: c.after[-1]),
        row("in turn: growth", turns, lambda c: c.growth),
        row("in turn: last less first tenth", turns, lambda c: c.settled[-1] - c.settled[0]),
        row("in turn: peak of all that is resident", turns, lambda c: c.peak),
    ]
    if sessions:
        rows += [
            row("at once: with the first", sessions, lambda c: c.after[0]),
            row("at once: with all", sessions, lambda c: c.after[-1]),
            row("at once: peak of all that is resident", sessions, lambda c: c.peak),
        ]
    return rows
