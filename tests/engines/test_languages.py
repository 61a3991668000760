"""A multilingual model: languages detected and given, translation, batches in several languages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.engines import Engine
from livekit.plugins.whisper.errors import ConfigError
from livekit.plugins.whisper.types import Audio, DecodeOptions, ModelKey

from scripts.wer import normalise, word_error_rate
from tests.support.weights import REFERENCES, base_directory, openai_base, recordings

pytestmark = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="no espeak-ng, which speaks the other languages here"
)

SPOKEN = {
    "de": "Guten Morgen, ich möchte heute einen Tisch für zwei Personen bestellen.",
    "es": "Buenos días, quiero reservar una mesa para dos personas.",
}


@pytest.fixture(scope="module", params=["faster-whisper", "openai-whisper"])
def engine(request: pytest.FixtureRequest) -> Engine:
    key = ModelKey("faster-whisper", str(base_directory()))
    if request.param == "openai-whisper":
        key = openai_base()
    return engines.load(models.resolve(key.engine, key.model), key)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audio]:
    folder: Path = tmp_path_factory.mktemp("speech")
    for language, text in SPOKEN.items():
        command = ["espeak-ng", "-v", language, "-s", "150", "-w", str(folder / language), text]
        subprocess.run(command, check=True, timeout=30)
    spoken = {language: from_file(folder / language) for language in SPOKEN}
    return {**spoken, "en": from_file(recordings()[3])}


def test_language_and_words_are_those_of_each_member_of_a_batch(
    engine: Engine, speech: dict[str, Audio]
) -> None:
    options = DecodeOptions(language=None, word_timestamps=True)
    transcripts = engine.transcribe(list(speech.values()), options)
    assert [transcript.language for transcript in transcripts] == list(speech)
    said = [*SPOKEN.values(), REFERENCES[recordings()[3].name]]
    for reference, limit, transcript in zip(said, (0.4, 0.4, 0.1), transcripts, strict=True):
        assert word_error_rate(reference, transcript.text) <= limit
    for audio, transcript in zip(speech.values(), transcripts, strict=True):
        words = [word for segment in transcript.segments for word in segment.words]
        assert "".join(word.text for word in words).split() == transcript.text.split()
        assert all(0 <= word.start <= word.end <= audio.duration + 0.1 for word in words)


def test_given_language_is_used(engine: Engine, speech: dict[str, Audio]) -> None:
    (transcript,) = engine.transcribe([speech["de"]], DecodeOptions(language="de"))
    assert transcript.language == "de"
    assert word_error_rate(SPOKEN["de"], transcript.text) <= 0.4


def test_translation_into_english(engine: Engine, speech: dict[str, Audio]) -> None:
    options = DecodeOptions(language="es", task="translate")
    (transcript,) = engine.transcribe([speech["es"]], options)
    words = set(normalise(transcript.text).split())
    assert {"good", "morning", "people"} <= words
    assert not words & {"buenos", "mesa", "personas"}
    assert transcript.language == "es"


def test_context_of_another_language_is_not_this_ones(
    engine: Engine, speech: dict[str, Audio]
) -> None:
    both = Audio(np.concatenate([speech["de"].samples, speech["en"].samples]))
    options = DecodeOptions(language=None, context=speech["de"].duration)
    (transcript,) = engine.transcribe([both], options)
    assert transcript.language == "en"
    assert word_error_rate(REFERENCES[recordings()[3].name], transcript.text) <= 0.1


def test_what_is_translated_is_not_its_context(engine: Engine, speech: dict[str, Audio]) -> None:
    both = Audio(np.concatenate([speech["de"].samples, speech["es"].samples]))
    options = DecodeOptions(language="es", task="translate", context=speech["de"].duration)
    (alone,) = engine.transcribe([speech["es"]], DecodeOptions(language="es", task="translate"))
    assert engine.transcribe([both], options)[0].text == alone.text


def test_language_that_this_model_was_not_trained_on(
    engine: Engine, speech: dict[str, Audio]
) -> None:
    with pytest.raises(ConfigError, match=r"'yue': this model does not know it"):
        engine.transcribe([speech["en"]], DecodeOptions(language="yue"))
