"""The stream adapter: a session's handle on a shared STT, and the streams that it opens."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from livekit.agents import APIConnectionError, APIConnectOptions, stt, utils, vad
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from .ahead import StreamOptions
from .stream import WhisperStream
from .stt import LocalSTT
from .types import Utterance

_asking: ContextVar[tuple[object, ...]] = ContextVar("whisper_asking", default=())
"""The adapters whose question is being answered: metrics of a shared STT go to these alone."""


class WhisperStreamAdapter(stt.StreamAdapter):
    """What `ProviderFactory.create_stt` returns: one session's handle on a shared STT.

    It differs from LiveKit's own `StreamAdapter` where that one loses things: decoding does not
    hold up the VAD's events; FINAL_TRANSCRIPT comes before END_OF_SPEECH; `flush()` and
    `end_input()` in mid-speech yield the transcript that they owe; and metrics are reported once.

    Where the wrapped STT is one of ours, or falls back from one of ours, its streams decode while
    the speaker is still silent, and while they talk.

    Args:
        stt: the shared instance, which outlives this handle.
        vad: any LiveKit VAD; it must report its progress (INFERENCE_DONE), as LiveKit's do.
        options: when to decode before the end of speech.
        on_close: called once, when the handle is closed or forgotten.
        owns: whether the wrapped STT is this handle's own, and closed with it.
    """

    def __init__(
        self,
        *,
        stt: stt.STT[Any],
        vad: vad.VAD,
        options: StreamOptions | None = None,
        on_close: Callable[[], None] = lambda: None,
        owns: bool = False,
    ) -> None:
        super().__init__(stt=stt, vad=vad)
        self._capabilities = replace(
            self._capabilities,
            aligned_transcript=stt.capabilities.aligned_transcript,
            manual_flush=True,
        )
        self._options = options or StreamOptions()
        if self._ahead is None:
            self._options = StreamOptions(preflight=0.0, interim_results=False)
        self._capabilities.interim_results = self._options.interim_results
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
        return WhisperStream(
            self,
            self._vad,
            self._options,
            decode=self._recognize_impl,
            ahead=self._hear if self._ahead else None,
            language=language,
            conn_options=conn_options,
        )

    @property
    def _ahead(self) -> LocalSTT | None:
        """What decodes before the end of speech: it costs nothing but this machine's time.

        None also where it would not decode the final: out of order, or with a way of its own.
        """
        first = self._stt
        if isinstance(first, stt.FallbackAdapter):
            if not first._status[0].available:
                return None
            first = first._stt_instances[0]
        if isinstance(first, WhisperStreamAdapter):
            first = first._stt
        usual = getattr(type(first), "_recognize_impl", None) is LocalSTT._recognize_impl
        return first if isinstance(first, LocalSTT) and usual else None

    async def _hear(
        self, utterance: Utterance, language: NotGivenOr[str] = NOT_GIVEN
    ) -> stt.SpeechEvent:
        ahead = self._ahead
        if ahead is None:
            raise APIConnectionError("what decodes ahead is out of order")
        return await ahead.hear(utterance, language)

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
