"""A transcript as text, subtitles and JSON."""

from __future__ import annotations

import json
import re

import pytest
from livekit.plugins.whisper.formats import ALL, FORMATS, Recording, formats
from livekit.plugins.whisper.types import Segment, Transcript, Word

NOTHING = Transcript("", "en")


def written(form: str, made: Transcript) -> str:
    return FORMATS[form].whole(Recording("a.wav", 12.5, made))


def transcript(*texts: str, start: float = 0.0) -> Transcript:
    """A segment of 1.5 s for each text, one every 2 s."""
    segments = tuple(
        Segment(text, start + 2 * i, start + 2 * i + 1.5, -0.25, 0.125)
        for i, text in enumerate(texts)
    )
    return Transcript(" ".join(texts), "en", segments, 0.75)


def test_text_is_a_line_for_each_segment() -> None:
    assert written("text", transcript("Good morning.", "How do you do?")) == (
        "Good morning.\nHow do you do?\n"
    )


def test_srt_numbers_its_cues_and_has_decimal_commas() -> None:
    assert written("srt", transcript("Good morning.", "How do you do?")) == (
        "1\n00:00:00,000 --> 00:00:01,500\nGood morning.\n\n"
        "2\n00:00:02,000 --> 00:00:03,500\nHow do you do?\n\n"
    )


def test_vtt_begins_with_its_name_and_has_decimal_points() -> None:
    assert written("vtt", transcript("Good morning.", "How do you do?")) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nGood morning.\n\n"
        "00:00:02.000 --> 00:00:03.500\nHow do you do?\n\n"
    )


def test_json_is_one_line_with_everything() -> None:
    words = (Word(" Grüß", 0.25, 0.5, 0.5), Word(" Gott", 0.5, 1.0, 0.75))
    segment = Segment("Grüß\nGott", 0.25, 1.0, -0.25, 0.125, words)
    text = written("json", Transcript("Grüß\nGott", "de", (segment,), 0.75))
    assert text.count("\n") == 1
    assert "Grüß" in text  # as it is, not as escapes
    assert json.loads(text) == {
        "file": "a.wav",
        "duration": 12.5,
        "language": "de",
        "text": "Grüß\nGott",
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
    assert f"\n{clock} --> " in written("vtt", made)
    assert f"\n{clock.replace('.', ',')} --> " in written("srt", made)


@pytest.mark.parametrize(
    "text", ["a --> b", "a\n\n2\n00:00:09,000 --> 00:00:10,000\nb", "a\r\n\nb"]
)
def test_no_text_begins_a_cue_of_its_own(text: str) -> None:
    made = transcript(text, "the next")
    for form in ("srt", "vtt"):
        blocks = written(form, made).strip().removeprefix("WEBVTT\n\n").split("\n\n")
        assert len(blocks) == 2
        assert [block.count("-->") for block in blocks] == [1, 1]
        assert all(len(re.split("[\r\n]", b)) == 3 - (form == "vtt") for b in blocks)
        assert blocks[1].endswith("the next")
    assert len(written("text", made).splitlines()) == 2


def test_vtt_escapes_what_would_be_a_tag() -> None:
    made = transcript("if a < b & b > c: <i>yes</i> &amp;")
    said = "if a &lt; b &amp; b &gt; c: &lt;i&gt;yes&lt;/i&gt; &amp;amp;"
    assert written("vtt", made).splitlines()[3] == said
    assert (
        written("srt", made).splitlines()[2] == "if a < b & b > c: <i>yes</i> &amp;"
    )  # SubRip has none
    assert written("text", made) == "if a < b & b > c: <i>yes</i> &amp;\n"


def test_nothing_said_is_still_a_file_of_its_format() -> None:
    assert written("text", NOTHING) == written("srt", NOTHING) == ""
    assert written("tsv", NOTHING) == "start\tend\ttext\n"
    assert written("vtt", NOTHING) == "WEBVTT\n\n"
    assert json.loads(written("json", NOTHING)) == {
        "file": "a.wav", "duration": 12.5, "language": None, "text": "", "segments": [],
        "confidence": 0.0,
    }  # fmt: skip


def test_tsv_has_milliseconds_and_a_row_for_each_segment() -> None:
    made = transcript("Good\tmorning.", "How do\nyou do?")
    assert written("tsv", made) == (
        "start\tend\ttext\n0\t1500\tGood morning.\n2000\t3500\tHow do you do?\n"
    )


def test_vtt_has_the_times_of_words_within_their_cue_and_in_order() -> None:
    words = (
        Word(" If", 1.0, 1.2, 1.0),
        Word(" a", 1.2, 1.3, 1.0),
        Word(" <b>", 1.3, 1.6, 1.0),
        Word("-c", 1.25, 1.6, 1.0),  # before the word before it
        Word(" is", 9.0, 9.5, 1.0),  # after the end of the cue
    )
    made = Transcript(
        "If a <b>-c is", "en", (Segment("If a <b>-c is", 1.0, 2.0, -0.1, 0.0, words),)
    )
    cue = written("vtt", made).splitlines()[3]
    assert cue == "If <00:00:01.200>a <00:00:01.300>&lt;b&gt;-c is"


def test_cue_without_length_lasts_a_millisecond() -> None:
    made = Transcript("Yes.", "en", (Segment("Yes.", 1.0, 1.0, -0.1, 0.0),))
    assert "00:00:01.000 --> 00:00:01.001" in written("vtt", made)
    assert "00:00:01,000 --> 00:00:01,001" in written("srt", made)


def test_formats_and_their_suffixes() -> None:
    assert list(FORMATS) == ["text", "txt", "srt", "vtt", "tsv", "json"]
    assert FORMATS["txt"] is FORMATS["text"]
    suffixes = [form.suffix for form in formats(ALL)]
    assert suffixes == [".txt", ".srt", ".vtt", ".tsv", ".json"]


@pytest.mark.parametrize("form", ["text", "srt", "vtt", "tsv"])
def test_segments_written_one_by_one_are_the_whole(form: str) -> None:
    made = transcript("One.", "Two.", "Three.")
    write = FORMATS[form].segment
    assert write
    pieces = [write(number, each) for number, each in enumerate(made.segments, 1)]
    assert FORMATS[form].head + "".join(pieces) == written(form, made)
