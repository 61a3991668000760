"""How many conversations one machine can follow, and how soon each gets its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import hosts, subjects
from benchmarks.effort import Effort
from benchmarks.job import Course, Part, begin, ready
from benchmarks.results import HOST, NOTHING, OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.script import PATIENCE, Script
from benchmarks.subjects import Subject
from scripts.wer import word_error_rate

ABOUT = """\
Seconds from the last spoken sample of an utterance to its final transcript, while so many job
processes listen at the same time, each with a session, a Silero VAD and an adapter of its own, to
recordings of 3 to 7 s in random order and in real time (frames of 20 ms, speech two thirds of the
time, out of step). Some half a second of each delay is the silence after which the VAD takes
speech for ended. The peer is LiveKit's `StreamAdapter` over a model in each process. An utterance
that is not answered {patience:.0f} s after the last one counts as lost, and as that long a delay.
With a 95th percentile of more than {limit:.0f} s no more streams are tried."""
ABOUT_LOST = "Utterances in the run above that got no final transcript."
ABOUT_CPU = """\
Seconds of all cores used for each second of a stream, pauses included: the job process with its
pacing, its VAD and its adapter, and its share of the host. *No STT* is all of it without an STT."""

PLOT = "streams.png"
SPOKEN = "spoken"
LIMIT = 1.6
"""Seconds: more than that halts a conversation."""
ENOUGH, MANY = 5.0, 16
LIMITS = {4: 0.9, 8: 1.0, 16: 1.4}
"""How many streams at once → what their 95th percentile is to stay under (s)."""
FEW = 8
"""Fewer streams than that are played longer: they have few utterances."""
SAME = 0.5
"""Word error rate under which a transcript is surely one of a recording."""


@dataclass
class Point:
    """So many streams at once."""

    count: int
    delays: list[float]
    """Of each utterance (s)."""
    lost: int
    """How many got no final transcript; in the delays too."""
    cpu: float
    """Seconds of all cores for a second of a stream."""
    host: float
    """The host's part of it."""

    @property
    def delay(self) -> Summary:
        """Of its utterances."""
        return Summary.of(self.delays)


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Three figures: delays, what was lost, and CPU time."""
    subject = subjects.fastest(found)
    points: dict[str, list[Point]] = {OURS: [], PLAIN: []}
    for who, counts in ((OURS, effort.streams), (PLAIN, effort.plain_streams)):
        for count in counts:
            points[who].append(_point(subject, who, count, effort.stream_seconds))
            if points[who][-1].delay.p95 > ENOUGH:
                break
        hosts.end()
    empty = _point(subject, NOTHING, effort.plain_streams[-1], effort.stream_seconds)
    return _figures(subject.engine, points, empty)


def _point(subject: Subject, who: str, count: int, seconds: float) -> Point:
    seconds *= 1.5 if count < FEW else 1.0
    parts = [Part(who, Script(1000 * count + number, seconds)) for number in range(count)]
    with ready(subject, parts) as jobs:
        before = hosts.cpu_seconds()
        courses = begin(jobs)
        host = hosts.cpu_seconds() - before if who == OURS else 0.0
    delays, lost = list[float](), 0
    for course in courses:
        answered = match(course)
        delays += answered
        lost += len(course.said) - len(answered)
    heard = sum(course.seconds for course in courses)
    cpu = sum(course.cpu for course in courses)
    return Point(count, delays + lost * [PATIENCE], lost, (cpu + host) / heard, host / heard)


def match(course: Course) -> list[float]:
    """The delay of each utterance that was answered: transcripts come in order, some never."""
    waiting, delays = list(course.said), list[float]()
    for heard in course.heard:
        before = [said for said in waiting if said.ended < heard.at]
        like = (s for s in before if word_error_rate(s.text, heard.text) < SAME)
        if (said := next(like, before[0] if before else None)) is None:
            continue
        delays.append(heard.at - said.ended)
        waiting = waiting[waiting.index(said) + 1 :]
    return delays


def _figures(engine: str, points: dict[str, list[Point]], empty: Point) -> list[Figure]:
    counts = sorted({point.count for each in points.values() for point in each})
    delays, lost, cpu = list[Row](), list[Row](), list[Row]()
    for count in counts:
        found = {who: p for who, each in points.items() for p in each if p.count == count}
        label = f"{count} stream{'s' if count > 1 else ''}"
        delays.append(Row(engine, label, {who: point.delay for who, point in found.items()}))
        missed = {who: Summary.once(point.lost) for who, point in found.items()}
        spoken = Summary.once(max(len(point.delays) for point in found.values()))
        lost.append(Row(engine, label, {**missed, SPOKEN: spoken}))
        used = {who: Summary.once(point.cpu) for who, point in found.items()}
        if OURS in found:
            used[HOST] = Summary.once(found[OURS].host)
        if count == empty.count:
            used[NOTHING] = Summary.once(empty.cpu)
        cpu.append(Row(engine, label, used))
    about = ABOUT.format(patience=PATIENCE, limit=ENOUGH)
    title, targets = "Delay of concurrent streams", _targets(engine, points)
    return [
        Figure("streams", title, "s", about, delays, targets, _series(points), PLOT),
        Figure("streams", "Utterances lost", "utterances", ABOUT_LOST, lost),
        Figure("streams", "CPU time of streams", "s/s", ABOUT_CPU, cpu),
    ]


def _targets(engine: str, points: dict[str, list[Point]]) -> list[Target]:
    """How soon with so many, and with how many it is still soon enough."""
    most = {
        who: float(max((p.count for p in each if p.delay.p95 < LIMIT), default=0))
        for who, each in points.items()
    }
    targets = [
        Target(
            f"of {p.count} streams, the 95th percentile",
            LIMITS[p.count],
            "s",
            {engine: p.delay.p95},
        )
        for p in points[OURS]
        if p.count in LIMITS
    ]
    what = f"a 95th percentile under {LIMIT:g} s (the peer: with {most[PLAIN]:.0f}) with"
    return [*targets, Target(what, MANY, "streams", {engine: most[OURS]}, at_least=True)]


def _series(points: dict[str, list[Point]]) -> dict[str, list[float]]:
    """For the plot: by whom, how many, and the 95th percentile."""
    found = dict[str, list[float]]()
    for who, each in points.items():
        found[f"{who}: streams"] = [float(point.count) for point in each]
        found[f"{who}: p95"] = [point.delay.p95 for point in each]
    return found
