"""The stream adapter: a session's handle on a shared STT, and the streams that it opens."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    ConversationItemAddedEvent,
    stt,
    utils,
    vad,
)
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from .ahead import StreamOptions
from .api import given
from .steering import Steering
from .stream import WhisperStream
from .stt import LocalSTT, check_changes, push_turn
from .types import Utterance

if TYPE_CHECKING:
    from typing_extensions import Self


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
            self._options = replace(self._options, preflight=0.0, interim_results=False)
        self._capabilities.interim_results = self._options.interim_results
        others = [each.capabilities for each in self._others()]
        self._capabilities.keyterms = self._ahead is not None or any(o.keyterms for o in others)
        self._capabilities.chat_context = self._options.chat_context or any(
            other.chat_context for other in others
        )
        self._owns = owns
        self._steering = Steering()
        # recognize() reaches the wrapped STT, which reports its metrics itself.
        self._recognize_metrics_needed = False
        # The wrapped STT is shared and lives on: it must not keep this handle alive.
        stt.off("metrics_collected", self._on_metrics_collected)
        self._unsubscribe = _forward_weakly(stt, self)
        self._closing = weakref.finalize(self, _close, self._unsubscribe, on_close)
        self._closing.atexit = False

    def __repr__(self) -> str:
        chain = self._stt
        members = chain._stt_instances if isinstance(chain, stt.FallbackAdapter) else [chain]
        return f"{type(self).__name__}({', '.join(map(_shown, members))}{self._steering})"

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> WhisperStream:
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

    def update_options(self, **changes: Any) -> None:
        """Changes how is decoded for this session from now on; other sessions' handles are not
        touched, this one's open streams are.

        Args:
            changes: of `language` (None: detect it), `prompt` and `hotwords` (None: none). Of
                these, a fallback that is none of ours takes the language.

        Raises:
            ConfigError: the option cannot be changed, or the model does not know the language.
        """
        changes = given(changes)
        if self._ahead:
            check_changes(self._ahead, changes)
        self._steering.update(**changes)

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        self._steering.set_keyterms(keyterms)
        for other in self._others():
            other._update_session_keyterms(keyterms)

    def _push_conversation_item(self, item: ConversationItemAddedEvent) -> None:
        if self._options.chat_context:
            push_turn(self._steering, item)
        for other in self._others():
            other._push_conversation_item(item)

    def _others(self) -> list[stt.STT[Any]]:
        """What decodes for this session without being steered by it: none of ours, nor shared."""
        members = [self._stt]
        if isinstance(self._stt, stt.FallbackAdapter):
            members = self._stt._stt_instances
        return [each for each in members if not isinstance(_within(each), LocalSTT)]

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
        first = _within(first)
        usual = getattr(type(first), "_recognize_impl", None) is LocalSTT._recognize_impl
        return first if isinstance(first, LocalSTT) and usual else None

    async def _hear(
        self, utterance: Utterance, language: NotGivenOr[str] = NOT_GIVEN, **changes: Any
    ) -> stt.SpeechEvent:
        ahead = self._ahead
        if ahead is None:
            raise APIConnectionError("what decodes ahead is out of order")
        with self._steering.asking():
            return await ahead.hear(utterance, language, **changes)

    async def _recognize_impl(
        self,
        buffer: utils.AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> stt.SpeechEvent:
        if not utils.is_given(language):
            language = self._steering.language or language
        with self._steering.asking():
            return await self._stt.recognize(buffer, language=language, conn_options=conn_options)

    async def __aenter__(self) -> Self:  # LiveKit's says no more than that it is some STT
        return self

    async def aclose(self) -> None:
        """Lets go of the shared STT, which stays warm for the next session."""
        if self._owns:
            await self._stt.aclose()
        self._closing()


def _within(given: stt.STT[Any]) -> stt.STT[Any]:
    """What a handle of ours is a handle on."""
    return given._stt if isinstance(given, WhisperStreamAdapter) else given


def _shown(member: stt.STT[Any]) -> str:
    ours = isinstance(member, (LocalSTT, WhisperStreamAdapter))
    return repr(member) if ours else f"{member.label}(model={member.model!r})"


def _forward_weakly(source: stt.STT[Any], target: WhisperStreamAdapter) -> Callable[[], None]:
    """Passes on the metrics of what `target` asked for, while it lives; returns what stops it."""
    reference = weakref.ref(target)

    def forward(*args: Any) -> None:
        adapter = reference()
        if adapter is not None and adapter._steering.asks:
            adapter.emit("metrics_collected", *args)

    source.on("metrics_collected", forward)
    return lambda: source.off("metrics_collected", forward)


def _close(unsubscribe: Callable[[], None], on_close: Callable[[], None]) -> None:
    unsubscribe()
    on_close()
