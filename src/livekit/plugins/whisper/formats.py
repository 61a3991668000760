"""A transcript as text, subtitles (SubRip, WebVTT), a table, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from .types import Segment, Transcript, Word


@dataclass(frozen=True)
class Recording:
    """What is said in a file."""

    file: str
    """Its name, as the user wrote it."""
    duration: float
    """How much of it was heard, in seconds."""
    transcript: Transcript
    """The words, and where they are."""


@dataclass(frozen=True)
class Format:
    """How a transcript is written."""

    suffix: str
    """Of a file's name, with its dot."""
    segment: Callable[[int, Segment], str] | None
    """One segment, numbered from 1, which can be written as soon as it is heard; None: the format
    can only be written as a whole."""
    head: str = ""
    """What stands before the first segment."""

    def whole(self, recording: Recording) -> str:
        """All of a file's transcript."""
        if self.segment is None:
            return to_json(recording)
        segments = enumerate(recording.transcript.segments, 1)
        return self.head + "".join(self.segment(number, each) for number, each in segments)


def text(number: int, segment: Segment) -> str:
    """A line."""
    return f"{' '.join(segment.text.split())}\n"


def srt(number: int, segment: Segment) -> str:
    """A cue of SubRip."""
    times = f"{_clock(segment.start, ',')} --> {_clock(_end(segment), ',')}"
    return f"{number}\n{times}\n{_cue(segment.text)}\n\n"


def vtt(number: int, segment: Segment) -> str:
    """A cue of WebVTT; known times of words stand before them, as `<00:00:01.500>`."""
    times = f"{_clock(segment.start, '.')} --> {_clock(_end(segment), '.')}"
    return f"{times}\n{_timed(segment) or _escape(_cue(segment.text))}\n\n"


def tsv(number: int, segment: Segment) -> str:
    """A row with tabs between: start and end in milliseconds, and the text (openai-whisper's)."""
    start, end = round(1000 * segment.start), round(1000 * segment.end)
    return f"{start}\t{end}\t{' '.join(segment.text.split())}\n"


def to_json(recording: Recording) -> str:
    """One line: file, duration (s), language (null where nobody spoke), text, confidence, and
    segments with their times (s) and words."""
    found = asdict(recording.transcript)
    language = found.pop("language") or None
    about = {
        "file": recording.file,
        "duration": recording.duration,
        "language": language if recording.transcript.text else None,
    }
    return json.dumps({**about, **found}, ensure_ascii=False) + "\n"


TEXT = Format(".txt", text)
FORMATS = {
    "text": TEXT,
    "txt": TEXT,
    "srt": Format(".srt", srt),
    "vtt": Format(".vtt", vtt, "WEBVTT\n\n"),
    "tsv": Format(".tsv", tsv, "start\tend\ttext\n"),
    "json": Format(".json", None),
}
ALL = "all"
"""Stands for every format at once."""


def formats(name: str) -> list[Format]:
    """What `--format` names."""
    return list(dict.fromkeys(FORMATS.values())) if name == ALL else [FORMATS[name]]


def join(parts: Sequence[Transcript]) -> Transcript:
    """Consecutive transcripts of one recording as one."""
    spoken = [part for part in parts if part.segments]
    segments = tuple(segment for part in spoken for segment in part.segments)
    words = " ".join(part.text for part in spoken)
    language = (spoken or parts)[0].language if parts else ""
    weight = sum(len(part.text) for part in spoken)
    confidence = sum(part.confidence * len(part.text) for part in spoken) / (weight or 1)
    return Transcript(words, language, segments, confidence)


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"


def _end(segment: Segment) -> float:
    """A cue lasts for a millisecond at least, as WebVTT wants it."""
    return max(segment.end, segment.start + 0.001)


def _cue(said: str) -> str:
    # An empty line would end the cue, an arrow would begin another.
    return " ".join(said.split()).replace("-->", "->")


def _timed(segment: Segment) -> str:
    """The words of a cue, each behind the time at which it begins; empty where none is known.

    WebVTT wants the times of a cue to rise, and to lie within it
    (https://www.w3.org/TR/webvtt1/#webvtt-cue-timestamp).
    """
    if not segment.words:
        return ""
    last, written = segment.start, [_word(segment.words[0])]
    for before, word in pairwise(segment.words):
        space = " " if word.text[:1].isspace() or before.text[-1:].isspace() else ""
        if round(1000 * last) < round(1000 * word.start) < round(1000 * segment.end):
            written.append(f"{space}<{_clock(word.start, '.')}>{_word(word)}")
            last = word.start
        else:
            written.append(space + _word(word))
    return "".join(written)


def _word(word: Word) -> str:
    return _escape(_cue(word.text))


def _escape(said: str) -> str:
    return said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
