"""The stream adapter: any STT that takes whole utterances, any VAD, LiveKit's events in order.

It differs from LiveKit's own `StreamAdapter` where that one loses things: decoding does not hold
up the VAD's events; FINAL_TRANSCRIPT comes before END_OF_SPEECH; `flush()` and `end_input()` in
mid-speech yield the transcript that they owe; and metrics are reported once.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, stt, utils, vad
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from .log import logger
from .segmenter import Segmenter
from .stt import api_errors
from .types import SAMPLE_RATE, Utterance

PREFIX_PADDING_SECONDS = 0.5
"""How much before the speech is decoded with it, where the VAD brings no audio of its own."""

_asking: ContextVar[tuple[object, ...]] = ContextVar("whisper_asking", default=())
"""The adapters whose question is being answered: metrics of a shared STT go to these alone."""

_NO_RETRY = APIConnectOptions(max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout)


class WhisperStreamAdapter(stt.StreamAdapter):
    """What `ProviderFactory.create_stt` returns: one session's handle on a shared STT.

    Args:
        stt: the shared instance, which outlives this handle.
        vad: any LiveKit VAD; it must report its progress (INFERENCE_DONE), as LiveKit's do.
        on_close: called once, when the handle is closed or forgotten.
        owns: whether the wrapped STT is this handle's own, and closed with it.
    """

    def __init__(
        self,
        *,
        stt: stt.STT[Any],
        vad: vad.VAD,
        on_close: Callable[[], None] = lambda: None,
        owns: bool = False,
    ) -> None:
        super().__init__(stt=stt, vad=vad)
        self._capabilities = replace(
            self._capabilities,
            aligned_transcript=stt.capabilities.aligned_transcript,
            manual_flush=True,
        )
        self._owns = owns
        # recognize() reaches the wrapped STT, which reports its metrics itself.
        self._recognize_metrics_needed = False
        # The wrapped STT is shared and lives on: it must not keep this handle alive.
        stt.off("metrics_collected", self._on_metrics_collected)
        self._unsubscribe = _forward_weakly(stt, self)
        self._closing = weakref.finalize(self, _close, self._unsubscribe, on_close)
        self._closing.atexit = False

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> stt.RecognizeStream:
        """Opens a stream; frames may have any sample rate and any number of channels."""
        return WhisperStream(self, self._vad, language=language, conn_options=conn_options)

    async def _recognize_impl(
        self,
        buffer: utils.AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> stt.SpeechEvent:
        asking = _asking.set((*_asking.get(), self))
        try:
            return await self._stt.recognize(buffer, language=language, conn_options=conn_options)
        finally:
            _asking.reset(asking)

    async def aclose(self) -> None:
        """Lets go of the shared STT, which stays warm for the next session."""
        if self._owns:
            await self._stt.aclose()
        self._closing()


@dataclass(frozen=True)
class _Owed:
    """An utterance whose final transcript is still owed."""

    utterance: Utterance
    ended: float
    """When its speech ended, as wall-clock time (s)."""


class WhisperStream(stt.RecognizeStream):
    """One stream: frames → VAD and segmenter → utterances, decoded in order → events."""

    def __init__(
        self,
        adapter: WhisperStreamAdapter,
        vad: vad.VAD,
        *,
        language: NotGivenOr[str],
        conn_options: APIConnectOptions,
    ) -> None:
        # recognize() retries by itself, with the audio in hand.
        super().__init__(stt=adapter, conn_options=_NO_RETRY, sample_rate=SAMPLE_RATE)
        self._adapter = adapter
        self._vad = vad
        self._language = language
        self._recognize_options = conn_options
        self._segmenter = Segmenter(utils.shortuuid("stream_"))
        self._owed: asyncio.Queue[_Owed | None] = asyncio.Queue()
        self._unanswered = 0
        self._open = False  # between START_OF_SPEECH and END_OF_SPEECH

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Takes in a frame; several channels are mixed down (LiveKit's resampler is mono)."""
        if frame.num_channels > 1:
            data = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
            mono = data.mean(axis=1).astype(np.int16)
            frame = rtc.AudioFrame(mono.tobytes(), frame.sample_rate, 1, len(mono))
        super().push_frame(frame)

    async def _run(self) -> None:
        with api_errors():  # LiveKit opens another stream after an APIError, and no other
            await _together(self._listen(), self._answer())

    async def _metrics_monitor_task(self, event_aiter: Any) -> None:
        # The wrapped STT reports its own metrics, which the adapter forwards.
        async for _ in event_aiter:
            pass

    async def _listen(self) -> None:
        """One VAD stream from flush to flush: its last events come before the flush is answered."""
        more = True
        while more:
            vad_stream, base = self._vad.stream(), self._segmenter.pushed
            try:
                more, _ = await _together(self._feed(vad_stream), self._follow(vad_stream, base))
            finally:
                await vad_stream.aclose()
            if self._segmenter.speaking:
                self._owe(self._segmenter.flush(), time.time())
        self._owed.put_nowait(None)

    async def _feed(self, vad_stream: vad.VADStream) -> bool:
        """Passes frames on until the next flush; False when the input has ended."""
        async for item in self._input_ch:
            if isinstance(item, self._FlushSentinel):
                vad_stream.end_input()
                return True
            if item.samples_per_channel:
                vad_stream.push_frame(item)
                self._segmenter.push(np.frombuffer(item.data, np.int16))
        vad_stream.end_input()
        return False

    async def _follow(self, vad_stream: vad.VADStream, base: int) -> None:
        async for event in vad_stream:
            now = min(base + round(event.timestamp * SAMPLE_RATE), self._segmenter.pushed)
            if event.type == vad.VADEventType.START_OF_SPEECH:
                heard = sum(frame.duration for frame in event.frames)
                heard = heard or event.speech_duration + PREFIX_PADDING_SECONDS
                self._segmenter.begin(now - round(heard * SAMPLE_RATE))
                if not self._open:
                    self._open = True
                    self._send(stt.SpeechEvent(stt.SpeechEventType.START_OF_SPEECH))
            elif event.type == vad.VADEventType.END_OF_SPEECH:
                ended = time.time() - event.silence_duration - event.inference_duration
                self._owe(self._segmenter.end(now), ended)
            elif utterance := self._segmenter.advance(now):
                self._owe(utterance, time.time())

    def _owe(self, utterance: Utterance | None, ended: float) -> None:
        if utterance:
            self._unanswered += 1
            self._owed.put_nowait(_Owed(utterance, ended))
        elif not self._unanswered:
            self._end_of_speech(ended)

    async def _answer(self) -> None:
        """Decodes in order. While more is owed or spoken, the speech has not ended."""
        while owed := await self._owed.get():
            await self._decode(owed)
            self._unanswered -= 1
            if not self._unanswered and not self._segmenter.speaking:
                self._end_of_speech(owed.ended)

    async def _decode(self, owed: _Owed) -> None:
        utterance = owed.utterance
        try:
            event = await self._adapter._recognize_impl(
                _frame(utterance), language=self._language, conn_options=self._recognize_options
            )
        except Exception:
            # LiveKit makes a new stream, or falls back; only this much is lost, and it is said.
            logger.error(
                "%.1f s of speech could not be transcribed, %d more utterances are dropped with it",
                utterance.audio.duration,
                self._unanswered - 1,
            )
            raise
        if not event.alternatives or not event.alternatives[0].text:
            return
        data = event.alternatives[0]
        offset = utterance.start + self.start_time_offset
        if not data.end_time:
            data = replace(data, end_time=utterance.audio.duration)
        for word in data.words or []:
            word.start_time = _later(word.start_time, offset)
            word.end_time = _later(word.end_time, offset)
        data = replace(data, start_time=data.start_time + offset, end_time=data.end_time + offset)
        self._send(
            stt.SpeechEvent(
                stt.SpeechEventType.FINAL_TRANSCRIPT,
                request_id=event.request_id,
                alternatives=[data],
                speech_end_time=owed.ended,
            )
        )

    def _end_of_speech(self, ended: float) -> None:
        if self._open:
            self._open = False
            self._send(stt.SpeechEvent(stt.SpeechEventType.END_OF_SPEECH, speech_end_time=ended))

    def _send(self, event: stt.SpeechEvent) -> None:
        self._event_ch.send_nowait(event)


async def _together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Runs all; when one fails, or this is cancelled, the others are ended first."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        # Not gather(): it would cancel them, and cancelling again below would cut short what
        # they do about it.
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.cancelled() for task in done):
                raise APIConnectionError("recognition was cancelled from elsewhere")
            for task in done:
                task.result()  # raises where one failed
        return [task.result() for task in tasks]
    finally:
        await utils.aio.cancel_and_wait(*tasks)


def _later(time: NotGivenOr[float], offset: float) -> NotGivenOr[float]:
    return time + offset if utils.is_given(time) else time


def _frame(utterance: Utterance) -> rtc.AudioFrame:
    samples = (utterance.audio.samples * 32768.0).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, len(samples))


def _forward_weakly(source: stt.STT[Any], target: WhisperStreamAdapter) -> Callable[[], None]:
    """Passes on the metrics of what `target` asked for, while it lives; returns what stops it."""
    reference = weakref.ref(target)

    def forward(*args: Any) -> None:
        adapter = reference()
        if adapter is not None and adapter in _asking.get():
            adapter.emit("metrics_collected", *args)

    source.on("metrics_collected", forward)
    return lambda: source.off("metrics_collected", forward)


def _close(unsubscribe: Callable[[], None], on_close: Callable[[], None]) -> None:
    unsubscribe()
    on_close()
