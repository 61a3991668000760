"""Both engines, with real weights, on real speech: one suite over both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.engines import Engine
from livekit.plugins.whisper.errors import (
    AudioError,
    ConfigError,
    DeviceError,
    MissingExtraError,
    ModelDamaged,
)
from livekit.plugins.whisper.types import Audio, DecodeOptions, ModelKey

from scripts.wer import normalise, pooled_word_error_rate
from tests.support.weights import REFERENCES, TINY, openai_tiny, recordings

OPTIONS = DecodeOptions(language="en")
RNG = np.random.default_rng(7)


def load(key: ModelKey) -> Engine:
    return engines.load(models.resolve(key.engine, key.model), key)


@pytest.fixture(scope="module", params=["faster-whisper", "openai-whisper"])
def key(request: pytest.FixtureRequest) -> ModelKey:
    return TINY if request.param == "faster-whisper" else openai_tiny()


@pytest.fixture(scope="module")
def engine(key: ModelKey) -> Engine:
    return load(key)


@pytest.fixture(scope="module")
def speech() -> list[Audio]:
    return [from_file(path) for path in recordings()]


@pytest.fixture(scope="module")
def alone(engine: Engine, speech: list[Audio]) -> list[str]:
    return [engine.transcribe([audio], OPTIONS)[0].text for audio in speech]


def test_word_error_rate_on_five_readings(alone: list[str]) -> None:
    pairs = zip((REFERENCES[path.name] for path in recordings()), alone, strict=True)
    assert pooled_word_error_rate(pairs) <= 0.20


def test_batch_gives_what_each_gives_alone_in_the_same_order(
    engine: Engine, speech: list[Audio], alone: list[str]
) -> None:
    order = [3, 0, 4, 1, 2]
    batch = engine.transcribe([speech[i] for i in order], OPTIONS)
    assert [transcript.text for transcript in batch] == [alone[i] for i in order]


def test_silent_members_of_a_batch_keep_their_places(
    engine: Engine, speech: list[Audio], alone: list[str]
) -> None:
    nothing = Audio(np.zeros(0, np.float32))
    silence = Audio(np.zeros(16_000, np.float32))
    batch = engine.transcribe([nothing, speech[4], silence], OPTIONS)
    assert [transcript.text for transcript in batch] == ["", alone[4], ""]
    assert engine.transcribe([], OPTIONS) == []


def joined(*parts: Audio) -> Audio:
    return Audio(np.concatenate([part.samples for part in parts]))


def test_context_is_heard_and_its_words_are_left_out(engine: Engine, speech: list[Audio]) -> None:
    references = [REFERENCES[path.name] for path in recordings()]
    pairs = []
    for before, audio, reference in zip(speech, speech[1:], references[1:], strict=False):
        options = replace(OPTIONS, context=before.duration)
        (heard,) = engine.transcribe([joined(before, audio)], options)
        assert heard.segments[0].start >= before.duration
        assert heard.segments[-1].end <= before.duration + audio.duration + 0.1
        assert not heard.segments[0].words
        pairs.append((reference, heard.text))
    assert pooled_word_error_rate(pairs) == 0.0  # on their own: 0.04


def test_word_times_after_a_context_are_asked_for_alone(
    engine: Engine, speech: list[Audio]
) -> None:
    options = replace(OPTIONS, context=speech[3].duration, word_timestamps=True)
    (heard,) = engine.transcribe([joined(speech[3], speech[4])], options)
    assert (
        "".join(w.text for segment in heard.segments for w in segment.words).strip() == heard.text
    )


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_nothing_is_heard_where_the_context_is_followed_by_nothing(
    engine: Engine, speech: list[Audio], after: float
) -> None:
    quiet = Audio(RNG.normal(0, 1e-3, round(after * 16_000)).astype(np.float32))
    options = replace(OPTIONS, context=speech[4].duration)
    assert engine.transcribe([joined(speech[4], quiet)], options)[0].text == ""


def test_what_is_too_long_with_its_context_is_heard_without(
    engine: Engine, speech: list[Audio], alone: list[str]
) -> None:
    before = joined(*speech, speech[0])
    options = replace(OPTIONS, context=before.duration)
    (heard,) = engine.transcribe([joined(before, speech[4])], options)
    assert heard.text == alone[4]
    assert heard.segments[0].start >= before.duration


NOISES = {
    "silence": np.zeros(80_000),
    "faint noise": RNG.normal(0, 1e-3, 80_000),
    "white noise": RNG.normal(0, 0.05, 80_000),
    "loud noise": RNG.normal(0, 0.3, 160_000),
    "brown noise": np.cumsum(RNG.normal(0, 0.003, 80_000)),
    "hum": 0.3 * np.sin(np.arange(80_000) * 2 * np.pi * 50 / 16_000),
}


@pytest.mark.parametrize("noise", NOISES)
def test_no_words_from_silence_and_noise(engine: Engine, noise: str) -> None:
    (transcript,) = engine.transcribe([Audio(NOISES[noise].astype(np.float32))], OPTIONS)
    assert (transcript.text, transcript.segments, transcript.confidence) == ("", (), 0.0)


def test_longer_than_a_window_loses_nothing_and_repeats_nothing(
    engine: Engine, speech: list[Audio]
) -> None:
    gap = np.zeros(8_000, np.float32)
    parts = [piece for audio in [*speech, *speech] for piece in (audio.samples, gap)]
    long = Audio(np.concatenate(parts))
    assert long.duration > 50
    (transcript,) = engine.transcribe([long], OPTIONS)
    said = " ".join(REFERENCES[path.name] for path in recordings())
    assert pooled_word_error_rate([(f"{said} {said}", transcript.text)]) <= 0.20
    times = [time for segment in transcript.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= long.duration


def test_speech_after_a_long_pause_in_one_window_is_heard(
    engine: Engine, speech: list[Audio], alone: list[str]
) -> None:
    pause = RNG.normal(0, 3e-4, 10 * 16_000).astype(np.float32)
    audio = Audio(np.concatenate([speech[4].samples, pause, speech[4].samples]))
    (transcript,) = engine.transcribe([audio], OPTIONS)
    assert normalise(transcript.text).split().count("amiable") == 2


def test_words_have_times_and_probabilities(engine: Engine, speech: list[Audio]) -> None:
    options = DecodeOptions(language="en", word_timestamps=True)
    for audio, transcript in zip(speech, engine.transcribe(speech, options), strict=True):
        words = [word for segment in transcript.segments for word in segment.words]
        assert "".join(word.text for word in words).split() == transcript.text.split()
        starts = [word.start for word in words]
        assert starts == sorted(starts)
        assert all(0 <= word.start <= word.end <= audio.duration + 0.1 for word in words)
        assert all(0 < word.probability <= 1 for word in words)
    assert not any(s.words for s in engine.transcribe(speech[:1], OPTIONS)[0].segments)


def test_confidence_is_higher_for_clear_speech(engine: Engine, speech: list[Audio]) -> None:
    noisy = Audio((speech[0].samples + RNG.normal(0, 0.06, len(speech[0].samples))).astype("f4"))
    clear, blurred = engine.transcribe([speech[0], noisy], OPTIONS)
    assert 0 <= blurred.confidence < clear.confidence <= 1
    assert clear.confidence > 0.6


def test_prompt_reaches_the_engine(engine: Engine, speech: list[Audio], alone: list[str]) -> None:
    options = DecodeOptions(language="en", prompt="He was ill-disposed.")
    (transcript,) = engine.transcribe([speech[1]], options)
    assert "ill-disposed" in transcript.text
    assert "ill-disposed" not in alone[1]


def test_beam_size_reaches_the_engine(
    engine: Engine, speech: list[Audio], alone: list[str]
) -> None:
    greedy = engine.transcribe(speech, OPTIONS)
    beams = engine.transcribe(speech, DecodeOptions(language="en", beam_size=5))
    assert len(beams) == len(speech)
    better = [b.confidence - g.confidence for b, g in zip(beams, greedy, strict=True)]
    assert max(better) > 0  # a beam finds more probable text somewhere


def test_hotwords_reach_faster_whisper(speech: list[Audio]) -> None:
    engine = load(TINY)
    (transcript,) = engine.transcribe(
        [speech[1]], DecodeOptions(language="en", hotwords="ill-disposed young man")
    )
    assert "ill-disposed" in transcript.text


@pytest.mark.parametrize(
    ("options", "field"),
    [(DecodeOptions(language="de"), "STT_LANGUAGE"), (DecodeOptions(task="translate"), "STT_TASK")],
)
def test_english_model_refuses_other_languages(
    engine: Engine, speech: list[Audio], options: DecodeOptions, field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        engine.transcribe(speech[:1], options)


def test_language_of_an_english_model_is_english(engine: Engine, speech: list[Audio]) -> None:
    assert engine.transcribe(speech[:1], DecodeOptions(language=None))[0].language == "en"


def test_memory_is_what_the_weights_take(key: ModelKey, engine: Engine) -> None:
    megabytes = {"faster-whisper": 37.8, "openai-whisper": 148.7}[key.engine]  # 37 M parameters
    assert engine.memory / 1e6 == pytest.approx(megabytes, abs=1)


def test_absent_gpu_is_named(key: ModelKey) -> None:
    absent = ModelKey(key.engine, key.model, device="cuda:63")
    with pytest.raises(DeviceError, match=r"STT_DEVICE.*cuda:63.*choose cpu or auto"):
        load(absent)


def test_number_format_that_the_cpu_lacks_is_named(key: ModelKey) -> None:
    with pytest.raises(DeviceError, match=r"STT_COMPUTE_TYPE.*float16.*allowed here"):
        load(ModelKey(key.engine, key.model, device="cpu", compute_type="float16"))


def test_number_format_that_the_engine_lacks_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"compute_type.*'int8'.*openai-whisper.*float32"):
        engines.check(ModelKey("openai-whisper", "tiny.en", compute_type="int8"))


def test_compute_type_reaches_faster_whisper() -> None:
    engine = load(ModelKey(TINY.engine, TINY.model, compute_type="float32"))
    assert engine.memory == 4 * load(TINY).memory


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'"livekit-plugins-whisper\[openai-whisper\]"'):
        engines.check(ModelKey("openai-whisper", "tiny.en"))


def test_unknown_engine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'kaldi'.*faster-whisper"):
        engines.check(ModelKey("kaldi", "tiny.en"))


def test_weights_that_decode_to_no_numbers_are_refused() -> None:
    """The smoke decode: weights full of NaN load without complaint."""
    import torch

    engine = load(openai_tiny())
    with torch.no_grad():
        engine._model.decoder.ln.weight.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(ModelDamaged, match="decode"):
        engine.smoke()  # type: ignore[attr-defined]


def test_long_prompt_and_hotwords_leave_room_for_the_transcript(
    speech: list[Audio], alone: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = "Dashwood Norland Barton Elinor Marianne " * 60
    options = DecodeOptions(language="en", prompt=words, hotwords=words)
    (transcript,) = load(TINY).transcribe([speech[0]], options)
    assert "John Dashwood" in transcript.text
    assert "too long together" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_told(
    engine: Engine, speech: list[Audio], value: float
) -> None:
    audio = Audio(speech[4].samples.copy())
    audio.samples[100] = value
    with pytest.raises(AudioError, match="no numbers"):
        engine.transcribe([audio], OPTIONS)
