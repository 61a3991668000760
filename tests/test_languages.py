"""Languages, however they are written: everything that LiveKit takes, and messages that help."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import LanguageCode
from livekit.agents import vad as agents_vad
from livekit.agents._language_data import ISO_639_3_TO_1, LANGUAGE_NAMES_TO_CODE
from livekit.plugins import whisper
from livekit.plugins.whisper import languages
from livekit.plugins.whisper.config import STTConfig
from livekit.plugins.whisper.host.app import Question
from livekit.plugins.whisper.languages import LANGUAGES, language_code, parse_language

OURS = {"jv": "jw", "fil": "tl"}
"""What LiveKit calls otherwise than Whisper does."""
LIVEKITS = sorted(
    each
    for each in {*LANGUAGES, *ISO_639_3_TO_1, *LANGUAGE_NAMES_TO_CODE}
    if OURS.get(language := LanguageCode(each).language, language) in LANGUAGES
)
"""Every code and name in LiveKit's tables whose language is one of Whisper's."""
OLD_OR_BIBLIOGRAPHIC = {
    "alb": "sq", "arm": "hy", "baq": "eu", "bur": "my", "chi": "zh", "cze": "cs", "dut": "nl",
    "fre": "fr", "geo": "ka", "ger": "de", "gre": "el", "ice": "is", "mac": "mk", "mao": "mi",
    "may": "ms", "per": "fa", "rum": "ro", "slo": "sk", "tib": "bo", "wel": "cy",
    "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "jv": "jw", "nb": "no",
}  # fmt: skip
"""ISO 639-2/B, all twenty of them, and codes of ISO 639-1 that were, or are, others."""


def test_livekits_tables_are_covered() -> None:
    assert len(LIVEKITS) > 200


@given(
    written=st.sampled_from(LIVEKITS),
    tail=st.sampled_from(["", "-US", "_br", "-Hans-CN", "-Latn", "_419"]),
    change=st.sampled_from([str, str.upper, str.title, lambda text: f" {text} "]),
)
def test_what_livekit_takes_is_taken(written: str, tail: str, change: object) -> None:
    assert callable(change)
    text = change(written + tail if written in LANGUAGES or len(written) == 3 else written)
    livekits = LanguageCode(text).language
    assert language_code(text) == OURS.get(livekits, livekits)


@pytest.mark.parametrize(("written", "code"), OLD_OR_BIBLIOGRAPHIC.items())
def test_other_codes_of_the_same_language(written: str, code: str) -> None:
    assert language_code(written) == language_code(written.upper() + "-XX") == code


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_every_language_has_a_code_of_three_letters_and_a_name(code: str) -> None:
    three = [other for other in languages._CODES if len(other) == 3 and other.isascii()]
    assert code in {languages._CODES[other] for other in three}
    assert language_code(LANGUAGES[code].title()) == code


def test_no_spelling_means_two_languages() -> None:
    pairs = {(each, code) for code, others in languages._ISO.items() for each in others.split()}
    pairs |= {(code, code) for code in LANGUAGES} | set(languages._NAMES.items())
    pairs |= {(name, code) for code, name in LANGUAGES.items()}
    assert len(pairs) == len({spelling for spelling, _ in pairs}) == len(languages._CODES)


@pytest.mark.parametrize("value", [None, "", " ", "auto", "AUTO", "detect", "none", "und", "multi"])
def test_detected(value: str | None) -> None:
    assert parse_language(value) is None


@pytest.mark.parametrize(
    ("value", "hint"),
    [("klingon", ""), ("germn", "did you mean 'german'"), ("xx-US", ""), ("C.UTF-8", ""), (5, "")],
)
def test_unknown_one_is_told_with_the_way_to_detect_it(value: object, hint: str) -> None:
    message = "is not a language that Whisper knows.*auto, in code None, to detect it"
    with pytest.raises(ValueError, match=f"{re.escape(repr(value))} {message}") as caught:
        parse_language(value)  # type: ignore[arg-type]
    assert hint in str(caught.value)
    assert "leave it out" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_same_wherever_a_language_is_given(vad: agents_vad.VAD) -> None:
    """Configuration, mapping, classes, changed options, streams, and the host's route."""
    config = STTConfig(model="base", language="ger")
    assert config.language == "de"
    shared = whisper.ProviderFactory.create_stt({"stt_language": "de-AT"}, vad)
    again = whisper.ProviderFactory.create_stt({"stt_language": "German"}, vad)
    assert shared.wrapped_stt is again.wrapped_stt
    alone = whisper.FasterWhisperSTT("base", language="deu")
    assert alone._options_now(None).language == "de"
    assert alone._options_now(LanguageCode("cmn-Hans-CN")).language == "zh"
    alone.update_options(language="fil")
    assert alone._options_now(None).language == "tl"
    async with alone.stream() as stream:
        stream.update_options(language="POR_br")
        assert stream._language == "pt"
    for written, code in (("yue-Hant-HK", "yue"), ("nb", "no"), ("auto", None), (None, None)):
        question = Question(engine="faster-whisper", model="base", language=written)
        assert question.to_options().language == code
