"""How soon a speaker's words are there: while they talk, in the pause, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from livekit.agents import stt

from benchmarks import hosts, subjects
from benchmarks.effort import Effort
from benchmarks.job import Course, Part, play, wrong_words
from benchmarks.results import NOTHING, OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.script import Said, Script
from benchmarks.streams import match
from benchmarks.subjects import VAD_SILENCE, Subject

ABOUT = """\
Seconds of one session that hears recordings in real time (as in *Delay of concurrent streams*),
from the last spoken sample of an utterance to its preflight and to its final transcript, and from
its first spoken sample to its first interim words. *No STT* answers at once: what is left is the
silence after which the VAD takes speech for ended, 0.55 s by default and once more 0.2 s. The peer
has neither interim results nor preflights."""
ABOUT_DECIDED = """\
Milliseconds in the same runs from when the VAD tells the stream that speech has ended to the final
transcript: what speech recognition adds."""
ABOUT_WORDS = """\
Of all words of the same runs, in percent: {count} utterances, the five recordings again and
again."""

FINAL = "last sample → final"
PREFLIGHT = "last sample → preflight"
INTERIM = "first sample → first interim words"
DECIDED = "VAD's end of speech → final"
SHORT = 0.2
"""Seconds of silence for a VAD that is in a hurry."""
SILENCES = {VAD_SILENCE: "", SHORT: f", VAD silence of {SHORT:g} s"}
"""Seconds → what is said of them in a row."""
PLOT = "delay.png"

Courses = dict[float, dict[str, Course]]
"""The VAD's silence (s) → whose → how it went; all heard the same."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Three figures of the same runs: delays, what recognition adds, and wrong words."""
    subject = subjects.fastest(found)
    courses = _courses(subject, Script(1, effort.delay_seconds))
    return [make(subject.engine, courses) for make in (_delays, _decided, _words)]


def preflights(course: Course) -> list[float]:
    """Of each utterance that had one after its last sample (s)."""
    return _first(course, stt.SpeechEventType.PREFLIGHT_TRANSCRIPT, lambda said: said.ended)


def interims(course: Course) -> list[float]:
    """Of each utterance that had one before its end (s)."""
    return _first(course, stt.SpeechEventType.INTERIM_TRANSCRIPT, lambda said: said.began)


def decided(course: Course) -> list[float]:
    """Of each final transcript, since the VAD's last decision (s)."""
    return [heard.at - max(at for at in course.decided if at <= heard.at) for heard in course.heard]


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


def _courses(subject: Subject, script: Script) -> Courses:
    found: Courses = {silence: {} for silence in SILENCES}
    for who in (OURS, PLAIN):
        for silence in SILENCES:
            found[silence][who] = play(subject, [Part(who, script, silence)])[0]
        hosts.end()
    # Nothing to do leaves room for both at the same time.
    parts = [Part(NOTHING, script, silence) for silence in SILENCES]
    for silence, course in zip(SILENCES, play(subject, parts), strict=True):
        found[silence][NOTHING] = course
    return found


def _delays(engine: str, courses: Courses) -> Figure:
    finals = {
        silence: {who: Summary.of(match(course)) for who, course in each.items()}
        for silence, each in courses.items()
    }
    usual, short = finals[VAD_SILENCE], finals[SHORT]
    rows = [Row(engine, FINAL + how, finals[silence]) for silence, how in SILENCES.items()]
    beyond = 1e3 * (usual[OURS].p50 - usual[NOTHING].p50)
    targets = [
        Target(
            "the final (p50), beyond that of an STT that answers at once,",
            30.0, "ms", {engine: beyond},
        ),
        Target(f"the final (p50){SILENCES[SHORT]},", 0.45, "s", {engine: short[OURS].p50}),
    ]  # fmt: skip
    ours = courses[VAD_SILENCE][OURS]
    for what, limit, values in (
        (PREFLIGHT, 0.45, preflights(ours)),
        (INTERIM, 1.2, interims(ours)),
    ):
        if values:
            summary = Summary.of(values)
            rows.append(Row(engine, what, {OURS: summary}))
            targets.append(Target(f"{what} (p50)", limit, "s", {engine: summary.p50}))
    return Figure("delay", "Delay of one stream", "s", ABOUT, rows, targets, plot=PLOT)


def _decided(engine: str, courses: Courses) -> Figure:
    found = {
        silence: {who: Summary.of(decided(course)).times(1e3) for who, course in each.items()}
        for silence, each in courses.items()
    }
    rows = [Row(engine, DECIDED + how, found[silence]) for silence, how in SILENCES.items()]
    ours = found[VAD_SILENCE][OURS]
    targets = [
        Target("the median", 5.0, "ms", {engine: ours.p50}),
        Target("the 95th percentile", 20.0, "ms", {engine: ours.p95}),
    ]
    return Figure(
        "delay", "Final transcript after the end of speech", "ms", ABOUT_DECIDED, rows, targets
    )


def _words(engine: str, courses: Courses) -> Figure:
    rows = [
        Row(
            engine,
            f"VAD silence of {silence:g} s",
            {who: Summary.once(wrong_words([each[who]])) for who in (OURS, PLAIN)},
        )
        for silence, each in courses.items()
    ]
    about = ABOUT_WORDS.format(count=len(courses[VAD_SILENCE][OURS].said))
    return Figure("delay", "Wrong words of one stream", "%", about, rows)
