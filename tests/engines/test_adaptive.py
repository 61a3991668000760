"""Windows shorter than 30 s: the same words sooner, and doubtful ones decoded again in full."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.engines import Engine, decoding, quality
from livekit.plugins.whisper.metrics import GATE_REDECODES
from livekit.plugins.whisper.types import Audio, DecodeOptions, ModelKey, Transcript, Word

from scripts.wer import pooled_word_error_rate
from tests.engines.test_engines import NOISES
from tests.support.weights import REFERENCES, TINY, base_directory, recordings

FULL = DecodeOptions(language="en", window="full")
ADAPTIVE = DecodeOptions(language="en", window="adaptive")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engines.load(models.resolve(TINY.engine, TINY.model), TINY, workers=2, threads=1)


@pytest.fixture(scope="module")
def speech() -> list[Audio]:
    return [from_file(path) for path in recordings()]


@pytest.fixture(scope="module")
def full(engine: Engine, speech: list[Audio]) -> list[Transcript]:
    return engine.transcribe(speech, DecodeOptions("en", window="full", word_timestamps=True))


@pytest.fixture(scope="module")
def adaptive(engine: Engine, speech: list[Audio]) -> list[Transcript]:
    return [engine.transcribe([audio], ADAPTIVE)[0] for audio in speech]


@pytest.fixture
def encoded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The length of every window that the encoder has run over (s), in order."""
    lengths: list[float] = []
    encode = engine._encode  # type: ignore[attr-defined]

    def note(batch: Sequence[Audio], options: DecodeOptions, seconds: float) -> object:
        lengths.extend([seconds] * len(batch))
        return encode(batch, options, seconds)

    monkeypatch.setattr(engine, "_encode", note)
    return lengths


def texts(transcripts: Sequence[Transcript]) -> list[str]:
    return [transcript.text for transcript in transcripts]


def errors(transcripts: Sequence[Transcript]) -> float:
    references = (REFERENCES[path.name] for path in recordings())
    return pooled_word_error_rate(zip(references, texts(transcripts), strict=True))


def redecodes() -> float:
    """How many windows the gate has sent to the full window so far."""
    return float(GATE_REDECODES.labels(TINY.engine)._value.get())


def test_same_words_as_in_the_full_window(
    full: list[Transcript], adaptive: list[Transcript]
) -> None:
    same = [a == f for a, f in zip(texts(adaptive), texts(full), strict=True)]
    assert sum(same) >= 4, texts(adaptive)
    assert errors(adaptive) <= errors(full) + 2 / 61  # of 61 words


@pytest.mark.parametrize(
    ("duration", "window"),
    [(0.1, 8), (7.5, 8), (7.6, 10), (9.5, 10), (9.6, 12), (27.5, 28), (28.0, 30), (30.0, 30)],
)
def test_window_is_as_long_as_the_speech_needs(duration: float, window: float) -> None:
    assert decoding.window_seconds(duration) == window


def test_encoder_sees_the_short_window_only(
    engine: Engine, speech: list[Audio], encoded: list[float]
) -> None:
    engine.transcribe(speech[:2], ADAPTIVE)
    assert encoded == [8, 8]
    encoded.clear()
    engine.transcribe(speech[:1], FULL)
    assert encoded == [30]


@pytest.mark.parametrize(
    "options",
    [
        replace(ADAPTIVE, prompt="A novel of the nineteenth century."),
        replace(ADAPTIVE, hotwords="Dashwood, Norland"),
        replace(ADAPTIVE, beam_size=5),
    ],
)
def test_clear_speech_needs_no_full_window_whatever_the_options(
    engine: Engine, speech: list[Audio], encoded: list[float], options: DecodeOptions
) -> None:
    heard = engine.transcribe(speech, options)
    assert errors(heard) <= 0.1
    assert encoded == [8] * 5


def test_batch_of_mixed_lengths_gives_what_each_gives_alone(
    engine: Engine, speech: list[Audio], adaptive: list[Transcript], encoded: list[float]
) -> None:
    longer = Audio(np.concatenate([speech[0].samples, speech[3].samples]))
    longest = Audio(np.concatenate([each.samples for each in speech]))
    alone = [engine.transcribe([audio], ADAPTIVE)[0].text for audio in (longer, longest)]
    encoded.clear()
    batch = [speech[4], longest, speech[0], longer, speech[1]]
    assert texts(engine.transcribe(batch, ADAPTIVE)) == [
        adaptive[4].text, alone[1], adaptive[0].text, alone[0], adaptive[1].text,
    ]  # fmt: skip
    assert set(encoded) == {8, 14, 26}


def test_repetition_in_a_short_window_is_decoded_again_in_full(
    engine: Engine,
    speech: list[Audio],
    full: list[Transcript],
    encoded: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "FLOOR_SECONDS", 4.0)
    with monkeypatch.context() as ungated:
        ungated.setattr(decoding, "doubt", lambda decoded, duration: "")
        (loop,) = engine.transcribe([speech[4]], ADAPTIVE)
    assert loop.text.count("amiable") > 2
    assert encoded == [4]
    before = redecodes()
    (heard,) = engine.transcribe([speech[4]], ADAPTIVE)
    assert heard.text == full[4].text
    assert encoded == [4, 4, 30]
    assert redecodes() == before + 1


def test_doubtful_member_of_a_batch_leaves_the_others(
    engine: Engine,
    speech: list[Audio],
    full: list[Transcript],
    adaptive: list[Transcript],
    encoded: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "doubt", lambda decoded, duration: duration == speech[2].duration)
    heard = texts(engine.transcribe(speech[:4], ADAPTIVE))
    assert heard == texts([adaptive[0], adaptive[1], full[2], adaptive[3]])
    assert encoded == [8, 8, 8, 8, 30]


@pytest.mark.parametrize("noise", NOISES)
def test_no_words_from_silence_and_noise(engine: Engine, noise: str) -> None:
    audio = Audio(NOISES[noise].astype(np.float32))
    assert engine.transcribe([audio], ADAPTIVE)[0].text == ""


def test_two_threads_at_once_get_what_one_gets(
    engine: Engine, speech: list[Audio], adaptive: list[Transcript]
) -> None:
    orders = [[0, 3, 1, 4, 2], [4, 2, 3, 0, 1], [2, 1, 0, 3, 4], [3, 4, 1, 2, 0]]
    with ThreadPoolExecutor(engine.workers) as threads:
        found = threads.map(
            lambda order: texts(engine.transcribe([speech[i] for i in order], ADAPTIVE)), orders
        )
        for order, heard in zip(orders, found, strict=True):
            assert heard == [adaptive[i].text for i in order]


def test_words_are_where_the_full_window_has_them(
    engine: Engine, speech: list[Audio], full: list[Transcript]
) -> None:
    options = DecodeOptions(language="en", window="adaptive", word_timestamps=True)
    short = engine.transcribe(speech, options)
    compared = 0
    for ours, theirs in zip(map(_words, short), map(_words, full), strict=True):
        if [word.text for word in ours] != [word.text for word in theirs]:
            continue  # one recording is heard differently
        for word, other in zip(ours, theirs, strict=True):
            compared += 1
            assert abs(word.start - other.start) < 0.3, word
            assert abs(word.end - other.end) < 0.3, word
    assert compared > 40


def _words(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words]


def test_workers_are_those_of_the_machine_or_as_asked(engine: Engine) -> None:
    assert (engine.workers, engine.batch) == (2, 8)
    files = models.resolve(TINY.engine, TINY.model)
    asked = engines.load(files, TINY, workers=3, threads=1)
    assert asked.workers == asked._model.model.num_workers == 3  # type: ignore[attr-defined]
    assert engines.load(files, TINY).workers == engines.plan(engines.cores())[0]


def test_language_unsure_in_the_short_window_is_that_of_the_full_one(
    speech: list[Audio], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(base_directory())
    key = ModelKey("faster-whisper", path)
    engine = engines.load(models.resolve(key.engine, path), key)
    options = DecodeOptions(window="adaptive", word_timestamps=True)
    before = redecodes()
    (heard,) = engine.transcribe([speech[3]], options)
    assert (heard.language, redecodes()) == ("en", before)
    monkeypatch.setattr(quality, "LANGUAGE_LIMIT", 1.1)  # nothing is as sure as that
    (again,) = engine.transcribe([speech[3]], options)
    assert (again.language, redecodes()) == ("en", before + 1)
    full = engine.transcribe([speech[3]], replace(options, window="full"))
    assert [again] == full
