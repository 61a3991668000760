"""A transcript as text, subtitles and JSON."""

from __future__ import annotations

import json
import re

import pytest
from livekit.plugins.whisper.formats import FORMATS, SUFFIXES, to_json, to_srt, to_text, to_vtt
from livekit.plugins.whisper.types import Segment, Transcript, Word

NOTHING = Transcript("", "en")


def transcript(*texts: str, start: float = 0.0) -> Transcript:
    """A segment of 1.5 s for each text, one every 2 s."""
    segments = tuple(
        Segment(text, start + 2 * i, start + 2 * i + 1.5, -0.25, 0.125)
        for i, text in enumerate(texts)
    )
    return Transcript(" ".join(texts), "en", segments, 0.75)


def test_text_is_a_line_for_each_segment() -> None:
    assert to_text(transcript("Good morning.", "How do you do?")) == (
        "Good morning.\nHow do you do?\n"
    )


def test_srt_numbers_its_cues_and_has_decimal_commas() -> None:
    assert to_srt(transcript("Good morning.", "How do you do?")) == (
        "1\n00:00:00,000 --> 00:00:01,500\nGood morning.\n\n"
        "2\n00:00:02,000 --> 00:00:03,500\nHow do you do?\n\n"
    )


def test_vtt_begins_with_its_name_and_has_decimal_points() -> None:
    assert to_vtt(transcript("Good morning.", "How do you do?")) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nGood morning.\n\n"
        "00:00:02.000 --> 00:00:03.500\nHow do you do?\n\n"
    )


def test_json_is_one_line_with_everything() -> None:
    words = (Word(" Grüß", 0.25, 0.5, 0.5), Word(" Gott", 0.5, 1.0, 0.75))
    segment = Segment("Grüß\nGott", 0.25, 1.0, -0.25, 0.125, words)
    text = to_json(Transcript("Grüß\nGott", "de", (segment,), 0.75))
    assert text.count("\n") == 1
    assert "Grüß" in text  # as it is, not as escapes
    assert json.loads(text) == {
        "text": "Grüß\nGott",
        "language": "de",
        "confidence": 0.75,
        "segments": [
            {
                "text": "Grüß\nGott",
                "start": 0.25,
                "end": 1.0,
                "avg_logprob": -0.25,
                "no_speech_prob": 0.125,
                "words": [
                    {"text": " Grüß", "start": 0.25, "end": 0.5, "probability": 0.5},
                    {"text": " Gott", "start": 0.5, "end": 1.0, "probability": 0.75},
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (59.9994, "00:00:59.999"),
        (59.9996, "00:01:00.000"),  # rounding carries over
        (3599.9999, "01:00:00.000"),
        (3600 + 2 * 60 + 3.004, "01:02:03.004"),
        (6 * 3600 - 0.001, "05:59:59.999"),
        (100 * 3600.0, "100:00:00.000"),
    ],
)
def test_times_past_minutes_and_hours(seconds: float, clock: str) -> None:
    made = transcript("Yes.", start=seconds)
    assert f"\n{clock} --> " in to_vtt(made)
    assert f"\n{clock.replace('.', ',')} --> " in to_srt(made)


@pytest.mark.parametrize(
    "text", ["a --> b", "a\n\n2\n00:00:09,000 --> 00:00:10,000\nb", "a\r\n\nb"]
)
def test_no_text_begins_a_cue_of_its_own(text: str) -> None:
    made = transcript(text, "the next")
    for form in (to_srt, to_vtt):
        blocks = form(made).strip().removeprefix("WEBVTT\n\n").split("\n\n")
        assert len(blocks) == 2
        assert [block.count("-->") for block in blocks] == [1, 1]
        assert all(len(re.split("[\r\n]", b)) == 3 - (form is to_vtt) for b in blocks)
        assert blocks[1].endswith("the next")
    assert len(to_text(made).splitlines()) == 2


def test_vtt_escapes_what_would_be_a_tag() -> None:
    made = transcript("if a < b & b > c: <i>yes</i> &amp;")
    said = "if a &lt; b &amp; b &gt; c: &lt;i&gt;yes&lt;/i&gt; &amp;amp;"
    assert to_vtt(made).splitlines()[3] == said
    assert to_srt(made).splitlines()[2] == "if a < b & b > c: <i>yes</i> &amp;"  # SubRip has none
    assert to_text(made) == "if a < b & b > c: <i>yes</i> &amp;\n"


def test_nothing_said_is_still_a_file_of_its_format() -> None:
    assert to_text(NOTHING) == to_srt(NOTHING) == ""
    assert to_vtt(NOTHING) == "WEBVTT\n\n"
    assert json.loads(to_json(NOTHING)) == {
        "text": "", "language": "en", "segments": [], "confidence": 0.0
    }  # fmt: skip


def test_every_format_has_a_suffix_of_its_own() -> None:
    assert list(FORMATS) == ["text", "srt", "vtt", "json"]
    assert SUFFIXES.keys() == FORMATS.keys()
    assert len(set(SUFFIXES.values())) == 4
