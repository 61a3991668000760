"""The stream adapter: LiveKit's events in legal order, whatever frames and calls come in."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, LanguageCode, stt
from livekit.agents import vad as agents_vad
from livekit.agents.metrics import STTMetrics
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.plugins import whisper
from livekit.plugins.whisper.adapter import WhisperStreamAdapter
from livekit.plugins.whisper.ahead import StreamOptions
from livekit.plugins.whisper.stt import FasterWhisperSTT, WhisperSTT

from scripts.wer import pooled_word_error_rate
from tests.support.streams import (
    END,
    FINAL,
    INTERIM,
    PREFLIGHT,
    SECOND,
    START,
    USAGE,
    Samples,
    frames,
    kinds,
    push,
    speech,
)
from tests.support.weights import REFERENCES, TINY, openai_checkpoint, recordings

SAID = "He might even have been made amiable himself."


def resample(samples: Samples, rate: int) -> Samples:
    resampler = av.AudioResampler("s16", "mono", rate)
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in parts])


@pytest.fixture(scope="module", params=["faster-whisper", "whisper"])
def wrapped(request: pytest.FixtureRequest) -> stt.STT[str]:
    backend = whisper.LocalBackend()
    if request.param == "whisper":
        return WhisperSTT(str(openai_checkpoint()), backend=backend)
    return FasterWhisperSTT(TINY.model, backend=backend)


@pytest.fixture
def adapter(wrapped: stt.STT[str], vad: agents_vad.VAD) -> WhisperStreamAdapter:
    return WhisperStreamAdapter(stt=wrapped, vad=vad)


@pytest.fixture
async def stream(adapter: WhisperStreamAdapter) -> AsyncIterator[stt.RecognizeStream]:
    async with adapter.stream() as opened:
        yield opened


async def events(stream: stt.RecognizeStream) -> list[stt.SpeechEvent]:
    """All but what comes ahead of the final, which `test_ahead.py` is about."""
    early = (INTERIM, PREFLIGHT, USAGE)
    return [event async for event in stream if event.type not in early]


def text(found: list[stt.SpeechEvent]) -> str:
    return " ".join(event.alternatives[0].text for event in found if event.type == FINAL)


async def test_events_of_one_utterance_in_legal_order(stream: stt.RecognizeStream) -> None:
    push(stream, SECOND, speech(4), SECOND)
    stream.end_input()
    found = await events(stream)
    assert kinds(found) == [START, FINAL, END]
    assert text(found) == SAID


async def test_all_readings_through_one_stream(stream: stt.RecognizeStream) -> None:
    async def play() -> None:
        for number in range(5):
            push(stream, speech(number), SECOND)
            await asyncio.sleep(0)
        stream.end_input()

    playing = asyncio.create_task(play())
    found = await events(stream)
    await playing
    said = " ".join(REFERENCES[path.name] for path in recordings())
    assert pooled_word_error_rate([(said, text(found))]) <= 0.20
    order = kinds(found)
    assert order[0] == START
    assert order[-1] == END
    depth = 0
    for event in found:  # every final is inside a bracket, and no bracket is opened twice
        depth += {START: 1, END: -1}.get(event.type, 0)
        assert depth in (0, 1)
        assert event.type != FINAL or (depth == 1 and event.alternatives[0].text)


async def test_fields_of_the_final(adapter: WhisperStreamAdapter) -> None:
    before = time.time()
    async with adapter.stream() as stream:
        stream.start_time_offset = 100.0
        push(stream, SECOND, speech(4), SECOND)
        stream.end_input()
        found = await events(stream)
    start, final, end = found
    data = final.alternatives[0]
    assert data.language == "en"
    assert 0.5 < data.confidence <= 1
    # The reading starts 1 s into the stream, less at most 0.5 s of padding, and lasts 3.3 s.
    assert 100.4 <= data.start_time <= 101.6
    assert 103.0 <= data.end_time <= 105.3
    assert final.request_id
    for event in (final, end):
        assert event.speech_end_time is not None
        assert before - 5 < event.speech_end_time <= time.time()
    assert start.speech_end_time is None


async def test_words_are_aligned_where_asked(vad: agents_vad.VAD) -> None:
    words = FasterWhisperSTT(TINY.model, word_timestamps=True, backend=whisper.LocalBackend())
    adapter = WhisperStreamAdapter(stt=words, vad=vad)
    assert adapter.capabilities.aligned_transcript == "word"
    async with adapter.stream() as stream:
        stream.start_time_offset = 50.0
        push(stream, SECOND, speech(4), SECOND)
        stream.end_input()
        final = next(e for e in await events(stream) if e.type == FINAL)
    found = final.alternatives[0].words
    assert found is not None
    assert "".join(found).strip() == SAID
    times = [float(str(word.start_time)) for word in found]
    assert times == sorted(times)
    assert 50.4 <= times[0] <= 51.6


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
async def test_any_sample_rate_and_stereo(
    wrapped: stt.STT[str], vad: agents_vad.VAD, rate: int, channels: int
) -> None:
    sound = resample(np.concatenate([SECOND, speech(4), SECOND]), rate)
    once = StreamOptions(preflight=0.0, interim_results=False)  # one decode is enough here
    async with WhisperStreamAdapter(stt=wrapped, vad=vad, options=once).stream() as stream:
        for frame in frames(sound, rate, channels):
            stream.push_frame(frame)
        stream.end_input()
        found = await events(stream)
    assert pooled_word_error_rate([(SAID, text(found))]) <= 0.25


async def test_channels_that_cancel_each_other_out(
    wrapped: stt.STT[str], vad: agents_vad.VAD
) -> None:
    sound = resample(np.concatenate([SECOND, speech(4), SECOND]), 48_000)
    once = StreamOptions(preflight=0.0, interim_results=False)
    async with WhisperStreamAdapter(stt=wrapped, vad=vad, options=once).stream() as stream:
        for part in np.array_split(sound, len(sound) // 480):  # one wire of a microphone swapped
            data = np.stack([part, -part], axis=1).tobytes()
            stream.push_frame(rtc.AudioFrame(data, 48_000, 2, len(part)))
        stream.end_input()
        found = await events(stream)
    assert pooled_word_error_rate([(SAID, text(found))]) <= 0.25


async def test_silence_and_noise_give_no_words(stream: stt.RecognizeStream) -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 900, 5 * 16_000).astype(np.int16)
    push(stream, *[SECOND] * 5, noise, SECOND)
    stream.end_input()
    assert FINAL not in kinds(await events(stream))


async def test_flush_in_silence_yields_nothing(stream: stt.RecognizeStream) -> None:
    push(stream, SECOND)
    stream.flush()
    stream.flush()
    push(stream, SECOND)
    stream.end_input()
    assert await events(stream) == []


async def test_close_in_mid_speech_and_in_mid_decode_leaves_nothing_behind(
    adapter: WhisperStreamAdapter,
) -> None:
    before = asyncio.all_tasks()
    stream = adapter.stream()
    push(stream, SECOND, speech(4))
    async for event in stream:
        if event.type == START:
            break
    await stream.aclose()  # in mid-speech
    stream = adapter.stream()
    push(stream, SECOND, speech(4), SECOND)
    while not stream._unanswered:
        await asyncio.sleep(0)
    await stream.aclose()  # in mid-decode
    assert asyncio.all_tasks() == before
    async with adapter.stream() as stream:  # and the next one works
        push(stream, speech(4), SECOND)
        stream.end_input()
        assert text(await events(stream)) == SAID


class Scripted(stt.STT[str]):
    """An STT whose answers a test decides: text, an error, or nothing until it is told to go."""

    def __init__(self, *answers: str | BaseException) -> None:
        capabilities = stt.STTCapabilities(streaming=False, interim_results=False)
        super().__init__(capabilities=capabilities)
        self.answers = list(answers)
        self.heard: list[float] = []
        self.go = asyncio.Event()
        self.go.set()

    async def _recognize_impl(
        self,
        buffer: object,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        assert isinstance(buffer, rtc.AudioFrame)
        self.heard.append(buffer.duration)
        await self.go.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return stt.SpeechEvent(
            type=FINAL, alternatives=[stt.SpeechData(LanguageCode("en"), answer)]
        )


QUICK = APIConnectOptions(max_retry=1, retry_interval=0.01)


async def test_speech_that_begins_while_the_last_is_decoded_is_one_bracket(
    vad: agents_vad.VAD,
) -> None:
    """END_OF_SPEECH in the middle of the second utterance would end the user's turn."""
    scripted = Scripted("one", "two")
    scripted.go.clear()
    async with WhisperStreamAdapter(stt=scripted, vad=vad).stream() as stream:
        push(stream, speech(4), SECOND, speech(1))
        while not (len(scripted.heard) == 1 and stream._segmenter.speaking):
            await asyncio.sleep(0)
        scripted.go.set()
        push(stream, SECOND)
        stream.end_input()
        found = await events(stream)
    assert kinds(found) == [START, FINAL, FINAL, END]
    assert text(found) == "one two"


async def test_start_of_speech_does_not_wait_for_the_model(vad: agents_vad.VAD) -> None:
    scripted = Scripted("one")
    scripted.go.clear()
    async with WhisperStreamAdapter(stt=scripted, vad=vad).stream() as stream:
        push(stream, speech(4), SECOND)
        event = await asyncio.wait_for(stream.__anext__(), 30)
        assert event.type == START
        scripted.go.set()
        stream.end_input()
        assert kinds(await events(stream)) == [FINAL, END]


async def test_failed_utterance_is_tried_again_with_its_audio(vad: agents_vad.VAD) -> None:
    scripted = Scripted(APIConnectionError("busy"), "one")
    adapter = WhisperStreamAdapter(stt=scripted, vad=vad)
    async with adapter.stream(conn_options=QUICK) as stream:
        push(stream, speech(4), SECOND)
        stream.end_input()
        assert text(await events(stream)) == "one"
    assert len(scripted.heard) == 2
    assert scripted.heard[0] == scripted.heard[1]


async def test_failure_for_good_is_an_api_error_and_is_logged(
    vad: agents_vad.VAD, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted(*[APIConnectionError("out of order")] * 2)
    adapter = WhisperStreamAdapter(stt=scripted, vad=vad)
    errors: list[stt.STTError] = []
    adapter.on("error", errors.append)
    async with adapter.stream(conn_options=QUICK) as stream:
        push(stream, speech(4), SECOND)
        stream.end_input()
        with pytest.raises(APIError):
            await events(stream)
    assert [error.recoverable for error in errors] == [False]
    assert "of speech could not be transcribed" in caplog.text


async def test_metrics_are_reported_once(
    wrapped: stt.STT[str], adapter: WhisperStreamAdapter
) -> None:
    found: list[STTMetrics] = []
    adapter.on("metrics_collected", found.append)
    async with adapter.stream() as stream:
        push(stream, speech(4), SECOND)
        stream.end_input()
        await events(stream)
    assert len(found) == 1
    assert 2.5 < found[0].audio_duration < 5
    assert found[0].metadata is not None
    assert found[0].metadata.model_name == wrapped.model
    samples = speech(4)
    await adapter.recognize(rtc.AudioFrame(samples.tobytes(), 16_000, 1, len(samples)))
    assert len(found) == 2


async def test_forgotten_adapter_is_not_kept_by_the_shared_stt(
    wrapped: stt.STT[str], vad: agents_vad.VAD
) -> None:
    closed: list[str] = []
    adapter = WhisperStreamAdapter(stt=wrapped, vad=vad, on_close=lambda: closed.append("x"))
    reference = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert reference() is None
    assert closed == ["x"]


@given(st.lists(st.integers(1, 4_000), min_size=1, max_size=40))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_audio_is_the_same_however_it_is_framed(vad: agents_vad.VAD, sizes: list[int]) -> None:
    """Frames of any length, empty ones too: the utterance that is decoded stays the same."""

    async def heard(cuts: list[int]) -> float:
        scripted = Scripted("one")
        async with WhisperStreamAdapter(stt=scripted, vad=vad).stream() as stream:
            sound = np.concatenate([SECOND, speech(4), SECOND])
            position = turn = 0
            while position < len(sound):
                part = sound[position : position + cuts[turn % len(cuts)]]
                stream.push_frame(rtc.AudioFrame(part.tobytes(), 16_000, 1, len(part)))
                stream.push_frame(rtc.AudioFrame(b"", 16_000, 1, 0))
                position, turn = position + len(part), turn + 1
            stream.end_input()
            await events(stream)
        return sum(scripted.heard)

    assert asyncio.run(heard(sizes)) == pytest.approx(asyncio.run(heard([320])), abs=1e-6)


async def test_unexpected_error_is_an_api_error_so_that_livekit_opens_another_stream(
    vad: agents_vad.VAD, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted(RuntimeError("bug"), "two")
    adapter = WhisperStreamAdapter(stt=scripted, vad=vad)
    for expected in ("", "two"):
        async with adapter.stream(conn_options=QUICK) as stream:
            push(stream, speech(4), SECOND)
            stream.end_input()
            if expected:
                assert text(await events(stream)) == expected
            else:
                with pytest.raises(APIConnectionError, match="RuntimeError"):
                    await events(stream)
    assert "of speech could not be transcribed" in caplog.text


async def test_recognition_that_is_cancelled_from_elsewhere_is_no_silent_end(
    vad: agents_vad.VAD,
) -> None:
    scripted = Scripted(asyncio.CancelledError())
    async with WhisperStreamAdapter(stt=scripted, vad=vad).stream() as stream:
        push(stream, speech(4), SECOND)
        with pytest.raises(APIConnectionError, match="cancelled from elsewhere"):
            await events(stream)


async def test_metrics_go_to_the_session_that_asked(
    wrapped: stt.STT[str], vad: agents_vad.VAD
) -> None:
    one, two = (WhisperStreamAdapter(stt=wrapped, vad=vad) for _ in range(2))
    found: list[str] = []
    one.on("metrics_collected", lambda metrics: found.append("one"))
    two.on("metrics_collected", lambda metrics: found.append("two"))
    async with two.stream() as stream:
        push(stream, speech(4), SECOND)
        stream.end_input()
        await events(stream)
    assert found == ["two"]


class Clocked(agents_vad.VAD):
    """Silero, but with the time of day where LiveKit's own have the time of the stream."""

    def __init__(self, real: agents_vad.VAD) -> None:
        super().__init__(capabilities=agents_vad.VADCapabilities(update_interval=0.032))
        self._real = real

    def stream(self) -> agents_vad.VADStream:
        inner = self._real.stream()
        send = inner._event_ch.send_nowait

        def later(event: agents_vad.VADEvent) -> None:
            event.timestamp += 1.7e9
            send(event)

        inner._event_ch.send_nowait = later  # type: ignore[assignment,method-assign]
        return inner


async def test_vad_with_another_clock_does_not_cut_off_the_beginning(
    vad: agents_vad.VAD,
) -> None:
    scripted = Scripted("one")
    async with WhisperStreamAdapter(stt=scripted, vad=Clocked(vad)).stream() as stream:
        for frame in frames(np.concatenate([SECOND, speech(4), SECOND])):
            stream.push_frame(frame)
            await asyncio.sleep(0.001)  # not for synchronisation: as a live stream comes in
        stream.end_input()
        await events(stream)
    assert scripted.heard[0] > 2.5


def test_manual_flush_is_declared(adapter: WhisperStreamAdapter) -> None:
    """Without it, committing a turn by hand waits for a VAD that still hears speech."""
    assert adapter.capabilities.manual_flush
