"""The plugin's classes on their own, and our errors as LiveKit's."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APIStatusError, APITimeoutError
from livekit.agents.metrics import STTMetrics
from livekit.plugins import whisper
from livekit.plugins.whisper import engines
from livekit.plugins.whisper import stt as stt_module
from livekit.plugins.whisper.api import api_errors
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.errors import (
    BackendClosed,
    ConfigError,
    EngineError,
    ModelDamaged,
    ModelNotFound,
    WhisperError,
)
from livekit.plugins.whisper.types import DecodeOptions, ModelKey, Transcript, Utterance

from tests.support.weights import TINY, openai_checkpoint, recordings

SAID = "He might even have been made amiable himself."
ONCE = APIConnectOptions(max_retry=0)


@pytest.fixture(scope="module")
def speech() -> rtc.AudioFrame:
    samples = (from_file(recordings()[4]).samples * 32767).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), 16_000, 1, len(samples))


@pytest.mark.parametrize("kind", [whisper.FasterWhisperSTT, whisper.WhisperSTT])
async def test_stands_alone_as_other_plugins_do(
    kind: type[whisper.FasterWhisperSTT | whisper.WhisperSTT], speech: rtc.AudioFrame
) -> None:
    model = TINY.model if kind is whisper.FasterWhisperSTT else str(openai_checkpoint())
    async with kind(model=model, language="en") as stt:
        found: list[STTMetrics] = []
        stt.on("metrics_collected", found.append)
        event = await stt.recognize([speech, speech])
        data = event.alternatives[0]
        assert data.text.count("amiable himself") == 2
        assert data.language == "en"
        assert 0.5 < data.confidence <= 1
        assert 0 <= data.start_time < data.end_time <= 2 * speech.duration
        assert event.request_id
        assert [metrics.audio_duration for metrics in found] == [
            pytest.approx(2 * speech.duration, abs=0.01)
        ]
        assert (stt.model, stt.provider) == (model, kind._provider)
        assert not stt.capabilities.streaming
        assert stt.capabilities.offline_recognize


async def test_two_instances_share_the_weights(speech: rtc.AudioFrame) -> None:
    one = whisper.FasterWhisperSTT(TINY.model)
    two = whisper.FasterWhisperSTT(TINY.model, word_timestamps=True)
    await one.recognize(speech)
    event = await two.recognize(speech)
    assert event.alternatives[0].words
    assert whisper.ProviderFactory.model_info().misses == 1


async def test_environment_does_not_reach_arguments_in_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STT_BEAM_SIZE", "7")
    assert whisper.FasterWhisperSTT(TINY.model)._options.beam_size == 1


@pytest.mark.parametrize("language", ["en-US", "english", ""])
async def test_language_of_one_call(speech: rtc.AudioFrame, language: str) -> None:
    event = await whisper.FasterWhisperSTT(TINY.model).recognize(speech, language=language)
    assert event.alternatives[0].text == SAID


@pytest.mark.parametrize("language", ["klingon", "de"])
async def test_language_that_cannot_be_is_a_final_error(
    speech: rtc.AudioFrame, language: str
) -> None:
    stt = whisper.FasterWhisperSTT(TINY.model)
    with pytest.raises(APIStatusError, match=language) as caught:
        await stt.recognize(speech, language=language)
    assert not caught.value.retryable


async def test_empty_buffer_gives_empty_text() -> None:
    stt = whisper.FasterWhisperSTT(TINY.model)
    empty = rtc.AudioFrame(b"", 16_000, 1, 0)
    assert (await stt.recognize(empty)).alternatives[0].text == ""


async def test_usable_again_after_it_was_closed(speech: rtc.AudioFrame) -> None:
    stt = whisper.FasterWhisperSTT(TINY.model)
    await stt.aclose()
    assert (await stt.recognize(speech)).alternatives[0].text == SAID


@pytest.mark.parametrize(
    ("error", "raised", "retryable"),
    [
        (EngineError("x"), APIConnectionError, True),
        (BackendClosed("x"), APIStatusError, False),
        (ModelDamaged("x"), APIStatusError, False),
        (ConfigError("x"), APIStatusError, False),
        (ValueError("x"), APIStatusError, False),
        (asyncio.TimeoutError(), APITimeoutError, True),
    ],
)
def test_our_errors_as_livekits(error: Exception, raised: type[Exception], retryable: bool) -> None:
    with pytest.raises(raised) as caught, api_errors():
        raise error
    assert getattr(caught.value, "retryable") is retryable  # noqa: B009 (typed as Exception)
    assert caught.value.__cause__ is error
    if isinstance(error, WhisperError):
        assert error.code in str(caught.value)


class Flaky:
    """A backend that fails as often as it is told, then passes on to a real one."""

    def __init__(self, *errors: WhisperError) -> None:
        self.real = whisper.LocalBackend()
        self.errors = list(errors)
        self.heard: list[Utterance] = []

    def hold(self, key: ModelKey) -> None: ...

    def release(self, key: ModelKey) -> None: ...

    async def prewarm(self, key: ModelKey) -> bool:
        return await self.real.prewarm(key)

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        self.heard.append(utterance)
        if self.errors:
            raise self.errors.pop(0)
        return await self.real.transcribe(key, utterance, options)

    async def aclose(self) -> None: ...


async def test_engine_error_is_retried_by_livekit_with_the_same_audio(
    speech: rtc.AudioFrame,
) -> None:
    backend = Flaky(EngineError("out of memory"), EngineError("out of memory"))
    stt = whisper.FasterWhisperSTT(TINY.model, backend=backend)
    options = APIConnectOptions(max_retry=3, retry_interval=0.01)
    event = await stt.recognize(speech, conn_options=options)
    assert event.alternatives[0].text == SAID
    assert len(backend.heard) == 3
    assert len({utterance.audio.samples.tobytes() for utterance in backend.heard}) == 1


async def test_slow_load_times_out_and_goes_on_meanwhile(
    monkeypatch: pytest.MonkeyPatch, speech: rtc.AudioFrame
) -> None:
    go, real = threading.Event(), engines.load

    def slow(*args: Any, **options: Any) -> engines.Engine:
        assert go.wait(60)
        return real(*args, **options)

    monkeypatch.setattr(engines, "load", slow)
    stt = whisper.FasterWhisperSTT(TINY.model)
    with pytest.raises(APITimeoutError, match="still being loaded"):
        await stt.recognize(speech, conn_options=APIConnectOptions(max_retry=0, timeout=0.05))
    go.set()
    assert (await stt.recognize(speech)).alternatives[0].text == SAID
    assert whisper.ProviderFactory.model_info().misses == 1


async def test_model_that_cannot_be_loaded_is_a_final_error(
    tmp_path: Path, speech: rtc.AudioFrame
) -> None:
    stt = whisper.FasterWhisperSTT(str(tmp_path))
    with pytest.raises(APIStatusError, match=r"model_damaged: .*model\.bin: is missing"):
        await stt.recognize(speech)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: whisper.FasterWhisperSTT("tinny.en"), ModelNotFound, "did you mean 'tiny.en'"),
        (lambda: whisper.WhisperSTT("distil-small.en"), ModelNotFound, "not known to openai-wh"),
        (lambda: whisper.FasterWhisperSTT("tiny", device="tpu"), ConfigError, "'tpu': allowed"),
        (lambda: whisper.FasterWhisperSTT("tiny", beam_size=0), ConfigError, "STT_BEAM_SIZE"),
        (lambda: whisper.WhisperSTT("tiny.en", language="de"), ConfigError, "use model 'tiny'"),
    ],
)
def test_mistakes_are_told_by_the_constructor(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


async def test_instance_of_ones_own_keeps_its_model_until_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, speech: rtc.AudioFrame
) -> None:
    small = whisper.LocalBackend(whisper.Limits(memory=1))
    stt = whisper.FasterWhisperSTT(TINY.model, backend=small)
    await stt.recognize(speech)
    small.clear()
    assert [entry.refs for entry in small.info().entries] == [1]
    await stt.aclose()
    await stt.aclose()
    assert small.info().entries == ()


def test_translation_is_marked_as_english_with_its_source() -> None:
    event = stt_module._speech_event(Transcript("Good morning", "de"), "translate")
    data = event.alternatives[0]
    assert (data.language, data.source_languages) == ("en", ["de"])
