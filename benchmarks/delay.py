"""How soon a speaker's words are there: while they talk, in the pause, at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from livekit.agents import stt

from benchmarks import hosts, subjects
from benchmarks.effort import Effort
from benchmarks.job import Course, Said, attend
from benchmarks.process import running
from benchmarks.results import NOTHING, OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.streams import match
from benchmarks.subjects import Subject

ABOUT = """\
Seconds of one session that hears recordings in real time (as in *Delay of concurrent streams*),
from the last spoken sample of an utterance to its preflight and to its final transcript, and from
its first spoken sample to its first interim words. *No STT* answers at once: what is left is the
silence after which the VAD takes speech for ended. The peer has neither interim results nor
preflights."""

FINAL = "last sample → final"
PREFLIGHT = "last sample → preflight"
INTERIM = "first sample → first interim words"
BEYOND = 0.03
"""Seconds that the final may come after that of an STT that answers at once."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """One figure."""
    subject = subjects.fastest(found)
    courses = {who: _course(subject, who, effort.delay_seconds) for who in (OURS, PLAIN, NOTHING)}
    finals = {who: Summary.of(match(course)) for who, course in courses.items()}
    ours = courses[OURS]
    rows = [Row(subject.engine, FINAL, finals)]
    for what, values in ((PREFLIGHT, preflights(ours)), (INTERIM, interims(ours))):
        if values:
            rows.append(Row(subject.engine, what, {OURS: Summary.of(values)}))
    beyond = 1e3 * (finals[OURS].p50 - finals[NOTHING].p50)
    target = Target(
        "the final (p50), beyond that of an STT that answers at once,",
        1e3 * BEYOND, "ms", {subject.engine: beyond},
    )  # fmt: skip
    return [Figure("delay", "Delay of one stream", "s", ABOUT, rows, target)]


def preflights(course: Course) -> list[float]:
    """Of each utterance that had one after its last sample (s)."""
    return _first(course, stt.SpeechEventType.PREFLIGHT_TRANSCRIPT, lambda said: said.ended)


def interims(course: Course) -> list[float]:
    """Of each utterance that had one before its end (s)."""
    return _first(course, stt.SpeechEventType.INTERIM_TRANSCRIPT, lambda said: said.began)


def _first(
    course: Course, kind: stt.SpeechEventType, since: Callable[[Said], float]
) -> list[float]:
    ends = [*(said.began for said in course.said[1:]), float("inf")]
    times = [heard.at for each, heard in course.early if each == kind]
    found = list[float]()
    for said, end in zip(course.said, ends, strict=True):
        after = [at for at in times if since(said) < at < end]
        found += [after[0] - since(said)] if after else []
    return found


def _course(subject: Subject, who: str, seconds: float) -> Course:
    with running(attend, subject, who, 1, seconds) as job:
        job.hear()
        job.tell(time.monotonic() + 0.2)
        course = job.result()
    hosts.end()
    return course
