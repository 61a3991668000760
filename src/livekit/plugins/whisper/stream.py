"""A stream: frames and a VAD's events in, LiveKit's events in legal order out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, stt, utils, vad
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from .ahead import Ahead, Guess, StreamOptions, succeeded
from .api import api_errors, given
from .log import logger
from .pcm import Mixer, to_float, to_int16
from .segmenter import Segmenter, ends_quietly
from .steering import Steering
from .types import SAMPLE_RATE, Utterance

if TYPE_CHECKING:
    from typing_extensions import Self

PREFIX_PADDING_SECONDS = 0.5
"""How much before the speech is decoded with it, where the VAD brings no audio of its own."""

Decode = Callable[..., Awaitable[stt.SpeechEvent]]
"""As `STT.recognize`."""

_NO_RETRY = APIConnectOptions(max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout)


@dataclass(frozen=True)
class _Owed:
    """An utterance whose final transcript is still owed."""

    utterance: Utterance
    ended: float
    """When its speech ended, as wall-clock time (s)."""
    guess: Guess | None
    """What it was decoded to in the pause that it ended with."""


class WhisperStream(stt.RecognizeStream):
    """One stream: frames → VAD and segmenter → utterances, decoded in order → events.

    Args:
        owner: the STT that it is a stream of.
        vad: any LiveKit VAD; None: `flush()` alone says where an utterance ends.
        options: when to decode before the end of speech.
        decode: decodes what was said, with as many attempts as it takes.
        ahead: as `LocalSTT.hear`, decodes once, as urgently as the utterance says; None: nothing
            can.
        language: in place of the one configured.
        conn_options: for `decode`.
    """

    def __init__(
        self,
        owner: stt.STT[Any],
        vad: vad.VAD | None,
        options: StreamOptions,
        *,
        decode: Decode,
        ahead: Callable[..., Awaitable[stt.SpeechEvent]] | None,
        language: NotGivenOr[str],
        conn_options: APIConnectOptions,
    ) -> None:
        # `decode` retries by itself, with the audio in hand.
        super().__init__(stt=owner, conn_options=_NO_RETRY, sample_rate=SAMPLE_RATE)
        self._vad, self._decode, self._hear = vad, decode, ahead
        self._language, self._steering = language, Steering()
        self._decode_options = conn_options
        self._segmenter = Segmenter(utils.shortuuid("stream_"), options.preflight)
        self._ahead = Ahead(
            self._segmenter,
            self._hear_ahead,
            self._send,
            lambda: not self._unanswered,
            lambda: self.start_time_offset,
            options,
        )
        self._owed: asyncio.Queue[_Owed | None] = asyncio.Queue()
        self._unanswered = 0
        self._mixer: Mixer | None = None
        self._owner_decodes = decode == owner.recognize
        self._failure: Exception | None = None
        self._open = False  # between START_OF_SPEECH and END_OF_SPEECH

    async def __aenter__(self) -> Self:  # LiveKit's says no more than that it is some stream
        return self

    def __repr__(self) -> str:
        given = f", language={self._language!r}" if utils.is_given(self._language) else ""
        return f"{type(self).__name__}({self._stt!r}{str(self._steering) or given})"

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Takes in a frame; several channels are mixed down (LiveKit's resampler is mono)."""
        if frame.num_channels > 1:
            if self._mixer is None or self._mixer.channels != frame.num_channels:
                self._mixer = Mixer([1.0] * frame.num_channels)
            data = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
            mono = to_int16(self._mixer.mix(to_float(data)))
            frame = rtc.AudioFrame(mono.tobytes(), frame.sample_rate, 1, len(mono))
        super().push_frame(frame)

    def update_options(self, **changes: Any) -> None:
        """Changes how this stream decodes, from the next decode on.

        Args:
            changes: of `language` (None: detect it), `prompt` and `hotwords` (None: none).

        Raises:
            ConfigError: the option cannot be changed, or the language is not known.
        """
        changes = given(changes)
        self._steering.update(**changes)
        if "language" in changes:
            self._language = self._steering.language or NOT_GIVEN

    async def _run(self) -> None:
        try:
            with api_errors():  # LiveKit opens another stream after an APIError, and no other
                await _together(self._listen(), self._answer())
        finally:
            await self._ahead.aclose()

    async def _listen(self) -> None:
        more = True
        while more:
            more = await (self._detect(self._vad) if self._vad else self._feed(None))
            if self._segmenter.speaking:
                guess, utterance = self._ahead.take(), self._segmenter.flush()
                if guess and utterance and not ends_quietly(utterance.audio):
                    guess.cancel()  # somebody speaks again, which the VAD has not told yet
                    guess = None
                self._owe(utterance, time.time(), guess=guess)
        self._owed.put_nowait(None)

    async def _detect(self, detector: vad.VAD) -> bool:
        """One VAD stream from flush to flush: its last events come before the flush is answered."""
        vad_stream, base = detector.stream(), self._segmenter.pushed
        try:
            more, _ = await _together(self._feed(vad_stream), self._follow(vad_stream, base))
        finally:
            await vad_stream.aclose()
        return bool(more)

    async def _feed(self, vad_stream: vad.VADStream | None) -> bool:
        """Takes frames in until the next flush; False when the input has ended."""
        more = False
        async for item in self._input_ch:
            if isinstance(item, self._FlushSentinel):
                more = True
                break
            if not item.samples_per_channel:
                continue
            before = self._segmenter.pushed
            self._segmenter.push(np.frombuffer(item.data, np.int16))
            if vad_stream:
                vad_stream.push_frame(item)
            else:
                self._begin(before)
                self._advance(self._segmenter.pushed, 0.0)
        if vad_stream:
            vad_stream.end_input()
        return more

    async def _follow(self, vad_stream: vad.VADStream, base: int) -> None:
        async for event in vad_stream:
            now = min(base + round(event.timestamp * SAMPLE_RATE), self._segmenter.pushed)
            if event.type == vad.VADEventType.START_OF_SPEECH:
                heard = sum(frame.duration for frame in event.frames)
                heard = heard or event.speech_duration + PREFIX_PADDING_SECONDS
                padding = heard - event.speech_duration
                self._begin(now - round(heard * SAMPLE_RATE), padding)
            elif event.type == vad.VADEventType.END_OF_SPEECH:
                ended = time.time() - event.silence_duration - event.inference_duration
                guess, utterance = self._ahead.take(), self._segmenter.end(now)
                self._owe(utterance, ended, silence=event.silence_duration, guess=guess)
            else:
                self._advance(now, event.raw_accumulated_silence)

    def _begin(self, at: int, padding: float = 0.0) -> None:
        if not self._segmenter.speaking:
            self._segmenter.begin(at)
            # There is less padding where the utterance before it has some of it.
            self._ahead.begin(padding - (self._segmenter.begun - at) / SAMPLE_RATE)
            self._steering.before = ""
        if not self._open:
            self._open = True
            self._send(stt.SpeechEvent(stt.SpeechEventType.START_OF_SPEECH))

    def _advance(self, at: int, silence: float) -> None:
        if utterance := self._segmenter.advance(at):
            self._owe(utterance, time.time())
            self._ahead.begin()
            self._steering.before = ""  # it is from long before
        elif self._segmenter.speaking and self._hear:
            self._ahead.advance(at, silence)
            if cut := self._ahead.cut():
                utterance, guess = cut
                self._owe(utterance, time.time(), guess=guess)
                self._ahead.begin()
                self._steering.before = guess.result().alternatives[0].text

    def _owe(
        self,
        utterance: Utterance | None,
        ended: float,
        *,
        silence: float = 0.0,
        guess: Guess | None = None,
    ) -> None:
        if utterance:
            self._ahead.remember(utterance, silence)
            self._unanswered += 1
            self._owed.put_nowait(_Owed(utterance, ended, guess))
        elif not self._unanswered:
            self._end_of_speech(ended)

    async def _answer(self) -> None:
        """Decodes in order. While more is owed or spoken, the speech has not ended."""
        while owed := await self._owed.get():
            await self._transcribe(owed)
            self._unanswered -= 1
            if not self._unanswered and not self._segmenter.speaking:
                self._end_of_speech(owed.ended)

    async def _transcribe(self, owed: _Owed) -> None:
        utterance = owed.utterance
        try:
            event = await self._final(owed)
        except Exception:
            # LiveKit makes a new stream, or falls back; only this much is lost, and it is said.
            logger.error(
                "%.1f s of speech could not be transcribed, %d more utterances are dropped with it",
                utterance.audio.duration,
                self._unanswered - 1,
            )
            raise
        if event.alternatives and event.alternatives[0].text:
            kind = stt.SpeechEventType.FINAL_TRANSCRIPT
            self._send(
                replace(event, type=kind, speech_end_time=owed.ended, created_at=time.time())
            )

    async def _final(self, owed: _Owed) -> stt.SpeechEvent:
        """The guess, if it is there; else whichever is there first, the guess or a new decode."""
        if owed.guess is None:
            return await self._decode_now(owed.utterance)
        decode: asyncio.Task[stt.SpeechEvent] | None = None
        try:
            if not owed.guess.done():
                decode = asyncio.create_task(self._decode_now(owed.utterance))
                await asyncio.wait((decode, owed.guess), return_when=asyncio.FIRST_COMPLETED)
                if decode.done() and not succeeded(decode):
                    await asyncio.wait([owed.guess], timeout=self._decode_options.timeout)
            if succeeded(owed.guess) and not (decode and succeeded(decode)):
                self._use(owed.utterance, owed.guess.result())
                return owed.guess.result()
            return await (decode or self._decode_now(owed.utterance))
        finally:
            owed.guess.cancel()
            if decode:
                await utils.aio.cancel_and_wait(decode)

    async def _decode_now(self, utterance: Utterance) -> stt.SpeechEvent:
        try:
            with self._steering.asking():
                event = await self._decode(
                    _frame(utterance), language=self._language, conn_options=self._decode_options
                )
        except Exception as exc:
            self._failure = exc
            raise
        return self._placed(event, utterance)

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        # What the owner's own `recognize` failed with, it has reported.
        if not (self._owner_decodes and api_error is self._failure):
            super()._emit_error(api_error, recoverable)

    async def _hear_ahead(self, utterance: Utterance, **changes: Any) -> stt.SpeechEvent:
        assert self._hear
        # Its times are the utterance's, as those of `decode` are.
        with self._steering.asking():
            event = await self._hear(replace(utterance, start=0.0), self._language, **changes)
        return self._placed(event, utterance)

    def _placed(self, event: stt.SpeechEvent, utterance: Utterance) -> stt.SpeechEvent:
        """The event with the times of the stream."""
        if not event.alternatives:
            return event
        data = event.alternatives[0]
        offset = utterance.start + self.start_time_offset
        if not data.end_time:
            data = replace(data, end_time=utterance.audio.duration)
        for word in data.words or []:
            word.start_time = _later(word.start_time, offset)
            word.end_time = _later(word.end_time, offset)
        data = replace(data, start_time=data.start_time + offset, end_time=data.end_time + offset)
        return replace(event, alternatives=[data])

    def _use(self, utterance: Utterance, event: stt.SpeechEvent) -> None:
        """Reports what `decode` would have reported."""
        usage = stt.RecognitionUsage(audio_duration=utterance.audio.duration)
        self._send(
            stt.SpeechEvent(
                stt.SpeechEventType.RECOGNITION_USAGE,
                request_id=event.request_id,
                recognition_usage=usage,
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
