"""What a stream promises, whatever decodes it, wherever that lives, and however it is opened.

Audio comes in faster than real time; where words are to come early, the next of it waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit.agents import stt
from livekit.agents import vad as agents_vad
from livekit.agents.metrics import STTMetrics
from livekit.plugins import whisper
from livekit.plugins.whisper import stt as stt_module
from livekit.plugins.whisper.backend import Backend, LocalBackend
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.stt import FasterWhisperSTT, WhisperSTT
from livekit.plugins.whisper.types import DecodeOptions, ModelKey, Transcript, Utterance

from scripts.wer import word_error_rate
from tests.support.hosts import Hosts
from tests.support.streams import (
    END,
    FINAL,
    INTERIM,
    PREFLIGHT,
    SECOND,
    START,
    USAGE,
    kinds,
    legal,
    push,
    said,
    speech,
    trimmed,
    until,
)
from tests.support.weights import TINY, openai_checkpoint

Factory = type[whisper.ProviderFactory]
OFFSET = 100.0
"""Where the streams begin, in seconds."""
PAUSE = np.zeros(300 * 16, np.int16)
"""Longer than it takes to decode ahead, shorter than the VAD waits."""
SAID = "He might even have been made amiable himself."
FIRST_WORDS = "he might even have been made"
"""What is said in two seconds of recording 4."""


@pytest.fixture(scope="module", params=["process", "host"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Both there are; their models are loaded once for all of this file."""
    with pytest.MonkeyPatch.context() as patch, Hosts() as hosts:
        patch.setenv("XDG_RUNTIME_DIR", str(hosts.runtime))
        made: Backend = LocalBackend() if request.param == "process" else HostBackend()
        made.hold(TINY)
        asyncio.run(made.prewarm(TINY))  # from here on the client knows where its host is
        yield made
        made.release(TINY)
        asyncio.run(made.aclose())


@pytest.fixture
def settings() -> dict[str, bool]:
    """Of all cases; a test may have others, which cost less."""
    return {"word_timestamps": True}


ENGINES = ["faster-whisper", "whisper"]


@pytest.fixture(params=ENGINES)
def config(request: pytest.FixtureRequest, settings: dict[str, bool]) -> whisper.STTConfig:
    """One for each engine."""
    return engine_config(request.param, **settings)


def engine_config(provider: str, **settings: Any) -> whisper.STTConfig:
    model = TINY.model if provider == "faster-whisper" else str(openai_checkpoint())
    return whisper.STTConfig(provider=provider, model=model, **settings)


@dataclass(frozen=True)
class Way:
    """How a stream is come by."""

    make: Callable[[whisper.STTConfig, agents_vad.VAD, Backend], stt.STT[Any]]
    vad: bool = True
    """Whether a VAD says where an utterance ends; else `flush()` alone does."""
    early: bool = True
    """Whether words come before the speech has ended."""


def from_factory(config: whisper.STTConfig, vad: agents_vad.VAD, backend: Backend) -> stt.STT[Any]:
    return whisper.ProviderFactory.create_stt(config, vad)


def from_chain(config: whisper.STTConfig, vad: agents_vad.VAD, backend: Backend) -> stt.STT[Any]:
    chain = config.model_copy(update={"fallback": engine_config("faster-whisper", beam_size=2)})
    return whisper.ProviderFactory.create_stt(chain, vad)


def from_broken_chain(
    config: whisper.STTConfig, vad: agents_vad.VAD, backend: Backend
) -> stt.STT[Any]:
    broken = whisper.STTConfig(model=str(Path.cwd()), fallback=config)  # has no model in it
    return whisper.ProviderFactory.create_stt(broken, vad)


def alone(config: whisper.STTConfig, vad: agents_vad.VAD | None, backend: Backend) -> stt.STT[Any]:
    kind = FasterWhisperSTT if config.provider == "faster-whisper" else WhisperSTT
    return kind(
        config.model,
        word_timestamps=config.word_timestamps,
        interim_results=config.interim_results,
        backend=backend,
        vad=vad,
    )


def alone_with_flush(
    config: whisper.STTConfig, vad: agents_vad.VAD, backend: Backend
) -> stt.STT[Any]:
    return alone(config, None, backend)


WAYS = {
    "factory": Way(from_factory),
    "chain": Way(from_chain),
    "broken chain": Way(from_broken_chain, early=False),
    "alone": Way(alone),
    "flush only": Way(alone_with_flush, vad=False),
}


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


every_way = pytest.mark.parametrize(
    ("config", "way"),
    [
        *((ENGINES[0], way) for way in WAYS),
        *((ENGINES[1], way) for way in ("factory", "alone", "flush only")),  # it is slow
    ],
    indirect=True,
)
"""Each engine; where several work together, it makes no difference which."""


@pytest.fixture
async def made(
    way: Way,
    config: whisper.STTConfig,
    vad: agents_vad.VAD,
    backend: Backend,
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[stt.STT[Any]]:
    monkeypatch.setattr(stt_module, "shared_backend", lambda config: backend)
    one = way.make(config, vad, backend)
    yield one
    await one.aclose()


@pytest.fixture
async def stream(made: stt.STT[Any]) -> AsyncIterator[stt.RecognizeStream]:
    async with made.stream() as opened:
        opened.start_time_offset = OFFSET
        yield opened


def late(found: list[stt.SpeechEvent]) -> list[stt.SpeechEvent]:
    """All but what comes ahead of the final."""
    return [event for event in found if event.type in (START, FINAL, END)]


def of(found: list[stt.SpeechEvent], kind: stt.SpeechEventType) -> list[stt.SpeechEvent]:
    return [event for event in found if event.type == kind]


def check_final(event: stt.SpeechEvent, expected: str, begun: float, ended: float) -> None:
    """Its fields, and its times: within what was pushed, in seconds of the stream."""
    data = event.alternatives[0]
    assert word_error_rate(expected, data.text) <= 0.2
    assert event.request_id
    assert data.language == "en"
    assert 0.3 < data.confidence <= 1
    assert event.speech_end_time is not None
    assert OFFSET + begun - 0.6 <= data.start_time < data.end_time <= OFFSET + ended + 0.6


def check_words(data: stt.SpeechData, begun: float, ended: float) -> None:
    """All of them, in order, within what was pushed."""
    assert data.words is not None
    assert "".join(data.words).strip() == data.text
    times = [float(str(t)) for word in data.words for t in (word.start_time, word.end_time)]
    assert times == sorted(times)
    assert OFFSET + begun - 0.6 <= times[0] < times[-1] <= OFFSET + ended + 0.6


@every_way
async def test_one_utterance(way: Way, made: stt.STT[Any], stream: stt.RecognizeStream) -> None:
    usage: list[STTMetrics] = []
    made.on("metrics_collected", usage.append)
    sound = trimmed(speech(4))
    found = []
    before = SECOND if way.vad else SECOND[:0]
    push(stream, before, sound[: 2 * 16_000])
    if way.early:
        found += await until(stream, INTERIM)
    push(stream, sound[2 * 16_000 :], PAUSE)
    if way.early and way.vad:
        found += await until(stream, PREFLIGHT)
    push(stream, SECOND)
    stream.end_input()
    found += [event async for event in stream]

    assert legal(found)
    assert kinds(late(found)) == [START, FINAL, END]
    (final,) = of(found, FINAL)
    begun = len(before) / 16_000
    ended = begun + len(sound) / 16_000
    check_final(final, said(4), begun, ended)
    check_words(final.alternatives[0], begun, ended)
    assert bool(of(found, INTERIM)) is way.early
    if of(found, PREFLIGHT):
        preflight = of(found, PREFLIGHT)[-1]
        assert preflight.alternatives[0].text == final.alternatives[0].text
        assert preflight.request_id == final.request_id
        assert kinds(found).index(USAGE) < kinds(found).index(FINAL)
    for event in of(found, INTERIM) + of(found, PREFLIGHT):
        assert event.alternatives[0].language == "en"
        assert OFFSET + begun - 0.6 <= event.alternatives[0].start_time < OFFSET + begun + 2
    (once,) = usage
    assert once.request_id == final.request_id
    assert 2.5 < once.audio_duration < 6


@every_way
@pytest.mark.parametrize("settings", [{"interim_results": False}], ids=["late"])
async def test_flush_and_end_of_input_in_mid_speech_yield_the_finals_that_they_owe(
    way: Way, made: stt.STT[Any], stream: stt.RecognizeStream
) -> None:
    usage: list[STTMetrics] = []
    made.on("metrics_collected", usage.append)
    before = SECOND if way.vad else SECOND[:0]
    push(stream, before, speech(4)[: 2 * 16_000])
    stream.flush()
    first = await until(stream, END)
    push(stream, speech(4)[: 2 * 16_000])
    stream.end_input()
    second = [event async for event in stream]

    ids, begun = set(), len(before) / 16_000
    for found in (first, second):
        assert legal(found)
        assert kinds(late(found)) == [START, FINAL, END]
        (final,) = of(found, FINAL)
        text = final.alternatives[0].text.lower()
        assert text.startswith(FIRST_WORDS)
        check_final(final, text, begun, begun + 2)
        ids.add(final.request_id)
        begun += 2
    assert ids == {each.request_id for each in usage}
    assert len(ids) == len(usage) == 2


@pytest.mark.parametrize("settings", [{}], ids=["plain"])
async def test_pause_of_300_ms_doubles_no_words(
    config: whisper.STTConfig, vad: agents_vad.VAD, backend: Backend
) -> None:
    """What was decoded in the pause has been said by then, and is taken back by nothing."""
    one = alone(config, vad, backend)
    async with one.stream() as stream:
        push(stream, SECOND, trimmed(speech(4)), PAUSE)
        found = await until(stream, PREFLIGHT)
        push(stream, trimmed(speech(2)), SECOND)
        stream.end_input()
        found += [event async for event in stream]
    await one.aclose()
    assert legal(found)
    assert kinds(late(found)) == [START, FINAL, END]
    expected = f"{said(4)} {said(2)}"
    text = of(found, FINAL)[0].alternatives[0].text
    assert word_error_rate(expected, text) <= 0.2
    for event in of(found, INTERIM) + of(found, FINAL):
        assert event.alternatives[0].text.lower().count("amiable") <= 1


class Held(LocalBackend):
    """The real one, which keeps what it is asked while it is held until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.waiting = True, 0
        self.go = asyncio.Event()
        self.answered: asyncio.Queue[str] = asyncio.Queue()

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        if self.held:
            self.waiting += 1
            try:
                await self.go.wait()
            finally:
                self.waiting -= 1
        transcript = await super().transcribe(key, utterance, options)
        self.answered.put_nowait(transcript.text)
        return transcript


@pytest.mark.parametrize("when", ["is being said", "has been said"])
async def test_second_utterance_while_the_first_is_decoded(vad: agents_vad.VAD, when: str) -> None:
    """Its words wait for those of the first, even if they were decoded before them."""
    held = Held()
    sound = trimmed(speech(4))
    one = FasterWhisperSTT(TINY.model, backend=held, vad=vad)
    async with one.stream() as opened:
        stream: Any = opened
        push(stream, SECOND, sound, SECOND)
        while held.waiting < 2:  # what the pause is decoded to, and the final
            await asyncio.sleep(0.001)
        held.held = False
        push(stream, sound, PAUSE)
        assert await held.answered.get() == SAID
        if when == "has been said":
            push(stream, SECOND)
            while stream._unanswered < 2:
                await asyncio.sleep(0.001)
        held.go.set()
        found = await until(stream, FINAL)
        if when == "is being said":
            assert stream._segmenter.speaking
            push(stream, SECOND)
        stream.end_input()
        found += [event async for event in stream]
    await held.aclose()
    assert legal(found)
    assert [kind for kind in kinds(found) if kind != USAGE] == [START, FINAL, FINAL, END]
    first, last = (event.alternatives[0] for event in of(found, FINAL))
    assert first.text == last.text == SAID
    assert first.end_time <= 1.0 + len(sound) / 16_000 + 0.6 <= last.start_time + 1.1
