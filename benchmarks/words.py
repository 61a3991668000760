"""Does a stream hear as well as one that waits for the end of speech?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import hosts, subjects
from benchmarks.delay import SHORT
from benchmarks.effort import Effort
from benchmarks.job import Course, Part, play, wrong_words
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.script import Line, Script, recordings
from benchmarks.streams import SPOKEN
from benchmarks.subjects import VAD_SILENCE, Subject
from scripts.speaker import Recording
from tests.support import voices

ABOUT = """\
Of all words of {count} utterances, in percent: the five recordings and, where espeak-ng is
installed, every English sentence in several of its voices, in real time, through the streams of
{jobs} job processes at the same time. With less silence the VAD cuts sentences at their commas;
words that it cuts in two are among the wrong ones."""
ABOUT_PARTS = "Final transcripts of the same runs: into how many the VAD cut what was spoken."

JOBS = 12
PAUSE = (0.9, 1.5)
"""Seconds between utterances: enough for any VAD to tell them apart."""
RUNS = {OURS: (VAD_SILENCE, SHORT), PLAIN: (VAD_SILENCE,)}
"""Whose → the VAD's silences (s)."""

Courses = dict[float, dict[str, list[Course]]]
"""The VAD's silence (s) → whose → of each job process."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Two figures: wrong words, and final transcripts."""
    subject = subjects.fastest(found)
    lines = _lines(quick=effort.decoding == 1)
    courses: Courses = {VAD_SILENCE: {}, SHORT: {}}
    for who, silences in RUNS.items():
        for silence in silences:
            courses[silence][who] = _courses(subject, who, silence, lines)
        hosts.end()
    return _figures(subject.engine, courses, len(lines))


def _courses(subject: Subject, who: str, silence: float, lines: Sequence[Line]) -> list[Course]:
    scripts = [Script(job, lines=tuple(lines[job::JOBS]), pause=PAUSE) for job in range(JOBS)]
    return play(subject, [Part(who, script, silence) for script in scripts])


def _lines(*, quick: bool) -> list[Line]:
    lines = recordings()
    if voices.available():
        for each in voices.utterances("en", voices.VOICES["en"][: 1 if quick else None]):
            samples = (each.audio.samples * 32768).astype(np.int16)
            lines.append(Line(each.text, Recording("", 16_000, samples)))
    # Each job has some of all lengths.
    return sorted(lines, key=lambda line: line.recording.duration)


def _figures(engine: str, courses: Courses, count: int) -> list[Figure]:
    wrong, rates, parts = dict[float, dict[str, float]](), list[Row](), list[Row]()
    for silence, each in courses.items():
        what = f"VAD silence of {silence:g} s"
        wrong[silence] = {who: wrong_words(found) for who, found in each.items()}
        cells = {who: Summary.once(rate) for who, rate in wrong[silence].items()}
        rates.append(Row(engine, what, cells))
        heard = {who: sum(len(one.heard) for one in found) for who, found in each.items()}
        cells = {who: Summary.once(value) for who, value in {**heard, SPOKEN: count}.items()}
        parts.append(Row(engine, what, cells))
    usual, short = wrong[VAD_SILENCE], wrong[SHORT]
    targets = [
        _as_many_right("as of the peer", engine, usual[OURS], usual[PLAIN]),
        _as_many_right(
            f"with {SHORT:g} s as with {VAD_SILENCE:g} s", engine, short[OURS], usual[OURS]
        ),
    ]
    about = ABOUT.format(count=count, jobs=JOBS)
    return [
        Figure("words", "Wrong words through the stream", "%", about, rates, targets),
        Figure("words", "Transcripts through the stream", "transcripts", ABOUT_PARTS, parts),
    ]


def _as_many_right(what: str, engine: str, wrong: float, limit: float) -> Target:
    right = {engine: round(100 - wrong, 2)}
    return Target(f"right words, {what},", round(100 - limit, 2), "%", right, at_least=True)
