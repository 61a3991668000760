"""Words before the speech has ended: in real time, with a real model and a real VAD."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from livekit.agents import APIConnectOptions, APIError, stt
from livekit.agents import vad as agents_vad
from livekit.agents.metrics import STTMetrics
from livekit.plugins import whisper
from livekit.plugins.whisper import ahead
from livekit.plugins.whisper.adapter import WhisperStreamAdapter
from livekit.plugins.whisper.ahead import StreamOptions
from livekit.plugins.whisper.errors import EngineError
from livekit.plugins.whisper.stt import FasterWhisperSTT
from livekit.plugins.whisper.types import (
    Audio,
    DecodeOptions,
    ModelKey,
    Transcript,
    Urgency,
    Utterance,
)

from scripts.wer import word_error_rate
from tests.support.streams import (
    END,
    FINAL,
    INTERIM,
    PREFLIGHT,
    SECOND,
    START,
    USAGE,
    Samples,
    kinds,
    legal,
    push,
    said,
    speak,
    speech,
    trimmed,
)
from tests.support.weights import TINY

SAID = "He might even have been made amiable himself."


class Watched(whisper.LocalBackend):
    """The real one; remembers what it was asked, and fails or waits where a test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Utterance] = []
        self.contexts: list[float] = []
        self.fails: Callable[[Utterance], bool] = lambda utterance: False
        self.waits: Callable[[Utterance], bool] = lambda utterance: False

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        self.asked.append(utterance)
        self.contexts.append(options.context)
        if self.fails(utterance):
            raise EngineError("out of order")
        if self.waits(utterance):
            await asyncio.Event().wait()
        return await super().transcribe(key, utterance, options)

    def count(self, urgency: Urgency) -> int:
        return sum(utterance.urgency is urgency for utterance in self.asked)

    def guessed(self) -> tuple[float, Audio]:
        """The last preflight: seconds of context in its audio, and the audio."""
        asked = zip(self.asked, self.contexts, strict=True)
        guesses = [(c, u.audio) for u, c in asked if u.urgency is Urgency.PREFLIGHT]
        return guesses[-1]


@pytest.fixture
async def backend() -> Watched:
    made = Watched()
    await made.prewarm(TINY)
    return made


async def hear(
    backend: Watched, vad: agents_vad.VAD, *parts: Samples, options: StreamOptions | None = None
) -> list[stt.SpeechEvent]:
    """What a stream says to this, spoken in real time."""
    wrapped = FasterWhisperSTT(TINY.model, backend=backend)
    adapter = WhisperStreamAdapter(stt=wrapped, vad=vad, options=options)
    async with adapter.stream() as stream:
        speaking = asyncio.create_task(speak(stream, np.concatenate(parts)))
        found = [event async for event in stream]
        await speaking
    assert legal(found)
    return found


async def test_final_is_what_was_decoded_in_the_pause(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    found = await hear(backend, vad, SECOND, speech(4), SECOND)
    assert [kind for kind in kinds(found) if kind != INTERIM] == [
        START, PREFLIGHT, USAGE, FINAL, END,
    ]  # fmt: skip
    preflight, final = (next(e for e in found if e.type == kind) for kind in (PREFLIGHT, FINAL))
    assert preflight.alternatives[0].text == final.alternatives[0].text == SAID
    assert preflight.request_id == final.request_id
    assert backend.count(Urgency.PREFLIGHT) == 1
    assert backend.count(Urgency.FINAL) == 0
    assert final.speech_end_time is not None
    assert preflight.created_at < final.created_at


async def test_interim_results_come_while_one_speaks_and_what_is_stable_stays(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    found = await hear(backend, vad, SECOND, speech(0), SECOND)
    order = kinds(found)
    assert order.count(INTERIM) >= 3
    assert order.index(INTERIM) < order.index(PREFLIGHT)
    stable = ""
    for event in found:
        if event.type == INTERIM:
            data = event.alternatives[0]
            assert data.metadata is not None
            assert data.metadata["stable"].startswith(stable)
            assert data.text.startswith(data.metadata["stable"])
            stable = data.metadata["stable"]
    assert len(stable.split()) >= 5


async def test_what_follows_a_short_pause_is_heard_in_its_context(
    backend: Watched, vad: agents_vad.VAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CONTEXT_BUSY", 30.0)
    backend.waits = lambda utterance: utterance.urgency is Urgency.FINAL  # the guess comes first
    patient = StreamOptions(interim_results=False)
    parts = (SECOND, trimmed(speech(0)), SECOND, trimmed(speech(1)), SECOND)
    found = await hear(backend, vad, *parts, options=patient)
    finals = [event.alternatives[0] for event in found if event.type == FINAL]
    assert "ill-disposed" in finals[1].text  # on its own: old-sposed
    assert abs(finals[1].start_time - (2 + len(trimmed(speech(0))) / 16_000)) < 0.6
    context, audio = backend.guessed()
    assert len(trimmed(speech(0))) / 16_000 < context < audio.duration


async def test_no_speech_is_cut_off_with_the_padding_before_it(
    backend: Watched, vad: agents_vad.VAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CONTEXT_BUSY", 30.0)
    backend.waits = lambda utterance: utterance.urgency is Urgency.FINAL
    patient = StreamOptions(interim_results=False)
    pause = np.zeros(round(0.65 * 16_000), np.int16)  # a tenth of a second more than the VAD waits
    sudden = speech(4)[np.argmax(np.abs(speech(4)) > 5000) :]
    await hear(backend, vad, SECOND, trimmed(speech(3)), pause, sudden, SECOND, options=patient)
    context, audio = backend.guessed()
    assert context
    new = audio.samples[round(context * 16_000) :]
    assert sudden[:1600].tobytes() in (new * 32768).astype(np.int16).tobytes()


async def test_pause_of_300_ms_is_one_utterance_without_doubled_words(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    pause = np.zeros(300 * 16, np.int16)
    parts = (SECOND, trimmed(speech(4)), pause, trimmed(speech(2)), SECOND)
    found = await hear(backend, vad, *parts)
    order = kinds(found)
    assert backend.count(Urgency.PREFLIGHT) >= 2  # the first pause was one
    assert [order.count(kind) for kind in (START, FINAL, END)] == [1, 1, 1]
    expected = f"{SAID} {said(2)}"
    (final,) = (event for event in found if event.type == FINAL)
    assert word_error_rate(expected, final.alternatives[0].text) <= 0.2


async def test_nothing_is_decoded_ahead_where_it_is_switched_off(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    off = StreamOptions(preflight=0.0, interim_results=False)
    found = await hear(backend, vad, SECOND, speech(4), SECOND, options=off)
    assert kinds(found) == [START, FINAL, END]
    assert [utterance.urgency for utterance in backend.asked] == [Urgency.FINAL]


@pytest.mark.parametrize("way", ["fails", "waits"])
async def test_final_does_not_need_what_is_decoded_ahead(
    backend: Watched, vad: agents_vad.VAD, way: str
) -> None:
    """Whether that fails or never comes."""
    setattr(backend, way, lambda utterance: utterance.urgency is not Urgency.FINAL)
    wrapped = FasterWhisperSTT(TINY.model, backend=backend)
    async with WhisperStreamAdapter(stt=wrapped, vad=vad).stream() as stream:
        push(stream, SECOND, speech(4), SECOND)
        stream.end_input()
        found = [event async for event in stream]
    assert kinds(found) == [START, FINAL, END]
    assert found[1].alternatives[0].text == SAID
    assert backend.count(Urgency.PREFLIGHT) == 1
    assert backend.count(Urgency.FINAL) == 1


def test_capabilities_say_what_comes(backend: Watched, vad: agents_vad.VAD) -> None:
    wrapped = FasterWhisperSTT(TINY.model, backend=backend)
    for interim in (True, False):
        options = StreamOptions(interim_results=interim)
        adapter = WhisperStreamAdapter(stt=wrapped, vad=vad, options=options)
        assert adapter.capabilities.interim_results is interim


async def test_stream_without_a_vad_is_driven_by_flush(backend: Watched) -> None:
    alone = FasterWhisperSTT(TINY.model, backend=backend)
    assert not alone.capabilities.streaming  # LiveKit brings the VAD
    async with alone.stream() as stream:
        for number in (4, 2):
            push(stream, speech(number))
            stream.flush()
        stream.end_input()
        found = [event async for event in stream]
    finals = [event.alternatives[0].text for event in found if event.type == FINAL]
    assert len(finals) == 2
    assert finals[0] == SAID
    assert word_error_rate(said(2), finals[1]) <= 0.2
    assert legal(found)


async def test_stt_with_a_vad_streams_by_itself(backend: Watched, vad: agents_vad.VAD) -> None:
    alone = FasterWhisperSTT(TINY.model, backend=backend, vad=vad)
    assert alone.capabilities.streaming
    assert alone.capabilities.interim_results
    async with alone.stream() as stream:
        await speak(stream, np.concatenate([SECOND, speech(4), SECOND]))
        found = [event async for event in stream]
    assert [event.alternatives[0].text for event in found if event.type == FINAL] == [SAID]
    assert PREFLIGHT in kinds(found)
    assert legal(found)


async def test_flush_and_end_of_input_in_a_pause_use_what_was_decoded_in_it(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    """The turn detector flushes when it is sure that the turn is over, before the VAD is."""
    wrapped = FasterWhisperSTT(TINY.model, backend=backend)
    async with WhisperStreamAdapter(stt=wrapped, vad=vad).stream() as stream:
        sound = np.concatenate([SECOND, speech(4), SECOND])
        speaking = asyncio.create_task(speak(stream, sound, end=False))
        found = []
        async for event in stream:
            found.append(event)
            if event.type == PREFLIGHT:
                stream.flush()
            if event.type == END:
                break
        await speaking
    assert [kind for kind in kinds(found) if kind != INTERIM] == [
        START, PREFLIGHT, USAGE, FINAL, END,
    ]  # fmt: skip
    assert backend.count(Urgency.FINAL) == 0


async def test_second_utterance_may_begin_while_the_first_is_decoded(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    pause = np.zeros(700 * 16, np.int16)  # just longer than the VAD waits
    found = await hear(backend, vad, SECOND, speech(4), pause, speech(2), SECOND)
    finals = [event.alternatives[0].text for event in found if event.type == FINAL]
    assert word_error_rate(f"{SAID} {said(2)}", " ".join(finals)) <= 0.2
    assert legal(found)


async def test_usage_is_reported_once_and_whoever_gets_an_event_may_change_it(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    adapter = WhisperStreamAdapter(stt=FasterWhisperSTT(TINY.model, backend=backend), vad=vad)
    reported: list[STTMetrics] = []
    adapter.on("metrics_collected", reported.append)
    texts: dict[stt.SpeechEventType, str] = {}
    async with adapter.stream() as stream:
        speaking = asyncio.create_task(speak(stream, np.concatenate([SECOND, speech(4), SECOND])))
        async for event in stream:
            if event.alternatives:
                texts[event.type] = event.alternatives[0].text
                event.alternatives[0].text += "!"
        await speaking
    assert texts[PREFLIGHT] == texts[FINAL] == SAID
    assert backend.count(Urgency.FINAL) == 0
    (usage,) = reported  # once, although it was decoded several times
    assert 2.5 < usage.audio_duration < 5


async def test_failure_of_a_stream_of_its_own_is_reported_once(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    """LiveKit closes a session after so many of them."""
    backend.fails = lambda utterance: True
    alone = FasterWhisperSTT(TINY.model, backend=backend, vad=vad)
    errors: list[stt.STTError] = []
    alone.on("error", errors.append)
    options = APIConnectOptions(max_retry=1, retry_interval=0.01)
    async with alone.stream(conn_options=options) as stream:
        push(stream, SECOND, speech(4), SECOND)
        stream.end_input()
        with pytest.raises(APIError):
            [event async for event in stream]
    assert [error.recoverable for error in errors] == [True, False]


async def test_stt_with_a_way_of_its_own_is_not_passed_by(
    backend: Watched, vad: agents_vad.VAD
) -> None:
    class Shouting(FasterWhisperSTT):
        async def _recognize_impl(self, *args: Any, **options: Any) -> stt.SpeechEvent:
            event = await super()._recognize_impl(*args, **options)
            event.alternatives[0].text = event.alternatives[0].text.upper()
            return event

    adapter = WhisperStreamAdapter(stt=Shouting(TINY.model, backend=backend), vad=vad)
    async with adapter.stream() as stream:
        await speak(stream, np.concatenate([SECOND, speech(4), SECOND]))
        found = [event async for event in stream]
    assert kinds(found) == [START, FINAL, END]
    assert found[1].alternatives[0].text == SAID.upper()
