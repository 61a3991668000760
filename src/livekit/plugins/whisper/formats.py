"""A transcript as text, subtitles (SubRip, WebVTT) or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from .types import Transcript


def to_text(transcript: Transcript) -> str:
    """A line for each segment."""
    return "".join(f"{' '.join(segment.text.split())}\n" for segment in transcript.segments)


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{_cue(s.text)}\n\n"
        for number, s in enumerate(transcript.segments, 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    cues = (
        f"{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n{_escape(_cue(s.text))}\n\n"
        for s in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def to_json(transcript: Transcript) -> str:
    """One line: text, language, confidence, and segments with their times (s) and words."""
    return json.dumps(asdict(transcript), ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": to_text,
    "srt": to_srt,
    "vtt": to_vtt,
    "json": to_json,
}
SUFFIXES = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json"}


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"


def _cue(text: str) -> str:
    # An empty line would end the cue, an arrow would begin another.
    return " ".join(text.split()).replace("-->", "->")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
