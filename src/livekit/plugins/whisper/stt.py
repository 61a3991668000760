"""`WhisperSTT` and `FasterWhisperSTT`: LiveKit's face of a `Backend`."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from livekit import rtc
from livekit.agents import (
    APIConnectOptions,
    ConversationItemAddedEvent,
    LanguageCode,
    llm,
    stt,
    utils,
    vad,
)
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    NotGivenOr,
    TimedString,
)
from livekit.agents.utils import AudioBuffer, is_given

from . import audio, engines
from .ahead import StreamOptions
from .api import api_errors, given, hints, session_vad
from .backend import Backend, process_backend
from .checks import absolute_key, check, check_english
from .config import ComputeType, ExplicitConfig, STTConfig
from .errors import AudioError, ConfigError
from .languages import parse_language
from .log import logger
from .steering import Steering, steered
from .stream import WhisperStream
from .types import Audio, DecodeOptions, ModelKey, Task, Transcript, Utterance, Window

if TYPE_CHECKING:
    from typing_extensions import Self


class LocalSTT(stt.STT[Any]):
    """What both classes are: one model reference and one way to decode, on a backend."""

    _provider: ClassVar[str]
    _holding: weakref.finalize[..., Any] | None = None
    _vad: vad.VAD | None = None

    @hints
    def __init__(
        self,
        model: str = "base",
        *,
        language: str | None = "en",
        device: str = "auto",
        compute_type: ComputeType = "auto",
        revision: str | None = None,
        task: Task = "transcribe",
        beam_size: int = 1,
        prompt: str | None = None,
        hotwords: str | None = None,
        word_timestamps: bool = False,
        window: Window = "adaptive",
        threads: int = 0,
        workers: int = 0,
        backend: Backend | Literal["auto", "host", "process"] = "auto",
        interim_results: bool = True,
        preflight: float = STTConfig.model_fields["preflight"].default,
        chat_context: bool = False,
        vad: vad.VAD | None = None,
    ) -> None:
        """Makes an STT; nothing is loaded before `prewarm()` or the first audio.

        The arguments are fields of `STTConfig`; the environment is not read.

        Args:
            model: a known name, `owner/repo`, a directory or `.pt` file, or `package:NAME/PATH`.
            language: a code or an English name; None: detect it for each utterance.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            compute_type: number format of the weights.
            revision: commit, tag or branch of the hub repository.
            task: `transcribe`, or `translate` into English.
            beam_size: hypotheses kept while decoding; 1 is greedy.
            prompt: text that the speech continues, which steers spelling and style.
            hotwords: words to favour (faster-whisper only).
            word_timestamps: whether transcripts carry the time of each word.
            window: audio that the encoder sees for a short utterance.
            threads: CPU threads of each worker; 0: chosen from the machine's cores.
            workers: batches decoded at once; 0: chosen from the machine's cores.
            backend: where the model lives, shared by all who ask for it: in the machine's host
                (`host`), in this process (`process`), or in the host and, where there can be
                none, in this process (`auto`); or a `Backend` of your own.
            interim_results: whether a stream decodes what is being said while it is said.
            preflight: seconds of silence after which a stream decodes what was said; 0: at the
                end of speech only.
            chat_context: whether the model is shown the last turns of the conversation.
            vad: any LiveKit VAD, with which this is an STT that streams by itself. Without one it
                takes that of the `AgentSession` it is in; outside of a session, `stream()` is
                driven by `flush()`.

        Raises:
            ConfigError, MissingExtraError, ModelNotFound: what can be known without loading.
        """
        config = ExplicitConfig(
            provider=self._provider,
            model=model,
            language=language,
            device=device,
            compute_type=compute_type,
            revision=revision,
            task=task,
            beam_size=beam_size,
            prompt=prompt,
            hotwords=hotwords,
            word_timestamps=word_timestamps,
            window=window,
            threads=threads,
            workers=workers,
            backend=backend if isinstance(backend, str) else "auto",
            interim_results=interim_results,
            preflight=preflight,
            chat_context=chat_context,
        )
        self._init(config, None if isinstance(backend, str) else backend)
        self._vad = vad
        self._capabilities.manual_flush = True
        self._capabilities.streaming = vad is not None
        self._capabilities.interim_results = vad is not None and interim_results
        # Standing alone, it is a session's own; one of the factory's is held by its handles.
        self.hold()
        self._holding = weakref.finalize(self, self._backend.release, self._key)
        self._holding.atexit = False

    async def __aenter__(self) -> Self:  # LiveKit's says no more than that it is some STT
        return self

    async def aclose(self) -> None:
        """Lets the model go, which stays warm for others."""
        if self._holding:
            self._holding()

    @classmethod
    def from_config(cls, config: STTConfig, backend: Backend | None = None) -> LocalSTT:
        """The same, from a configuration whose provider is this class's."""
        self = cls.__new__(cls)
        self._init(config, backend)
        return self

    def _init(self, config: STTConfig, backend: Backend | None) -> None:
        super().__init__(
            capabilities=stt.STTCapabilities(
                streaming=False,
                interim_results=False,
                aligned_transcript="word" if config.word_timestamps else False,
                keyterms=True,
                chat_context=config.chat_context,
            )
        )
        check(config)
        self._options = config.decode_options
        self._stream_options = stream_options(config)
        self._key = absolute_key(config)
        if config.hotwords and not engines.ENGINES[self._key.engine].hotwords:
            logger.warning(
                "hotwords (STT_HOTWORDS): %s has none, they are left out", self._key.engine
            )
        self._backend: Backend = backend or shared_backend(config)
        self._where = type(backend).__name__ if backend else config.backend
        self._warming: threading.Thread | None = None
        self._announced = self._told_wrapped = False
        self._steering = Steering()
        logger.info("[WHISPER-INIT] instance=%d key=%s", id(self), self._key)

    def __repr__(self) -> str:
        language = self._steering.change(self._options).language
        return (
            f"{type(self).__name__}(model={self.model!r}, language={language or 'auto'!r}, "
            f"backend={self._where!r})"
        )

    @property
    def capabilities(self) -> stt.STTCapabilities:
        """What LiveKit may ask of it; it streams by itself also where a session has a VAD."""
        known = self._capabilities
        if self._holding is None or known.streaming or session_vad() is None:
            return known
        return replace(known, streaming=True, interim_results=self._stream_options.interim_results)

    def on(self, event: Any, callback: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """As `EventEmitter.on`; warns once where LiveKit's `StreamAdapter` is put around it."""
        # Its constructor listens to our metrics, which is all that an STT notices of it.
        if type(getattr(callback, "__self__", None)) is stt.StreamAdapter:
            self._warn_wrapped()
        return super().on(event, callback)

    def _warn_wrapped(self) -> None:
        if not self._told_wrapped:
            self._told_wrapped = True
            logger.warning(
                "%r: in LiveKit's StreamAdapter there are neither interim results nor a preflight; "
                "give the VAD to the STT instead, %s(…, vad=vad), or use "
                "ProviderFactory.create_stt(config, vad=vad)",
                self,
                type(self).__name__,
            )

    @property
    def model(self) -> str:
        """The model reference."""
        return self._key.model

    @property
    def provider(self) -> str:
        """`faster-whisper` or `whisper`."""
        return self._provider

    @property
    def model_key(self) -> ModelKey:
        """The weights that it decodes with."""
        return self._key

    def hold(self) -> None:
        """Keeps the model from being given up, until `release` (for each call of it)."""
        self._backend.hold(self._key)

    def release(self) -> None:
        """Takes one `hold` back."""
        self._backend.release(self._key)

    def prewarm(self) -> None:
        """Starts loading the model in the background, and returns at once.

        A failure is logged, and raised by the first recognition, which tries again.
        """
        if self._warming is None or not self._warming.is_alive():
            self._warming = threading.Thread(target=self._warm, name="whisper-prewarm", daemon=True)
            self._warming.start()

    def _warm(self) -> None:
        try:
            asyncio.run(self._load())
        except Exception as exc:  # here nobody waits for it
            logger.error("[WHISPER-LOAD] key=%s failed: %s", self._key, exc or type(exc).__name__)

    async def _load(self) -> None:
        there = await self._backend.prewarm(self._key)
        if there and not self._announced:
            self._announced = True
            logger.info("[WHISPER-REUSE] instance=%d key=%s", id(self), self._key)

    def update_options(self, **changes: Any) -> None:
        """Changes how is decoded from the next decode on, in open streams as well.

        Args:
            changes: of `language` (None: detect it), `prompt` and `hotwords` (None: none).

        Raises:
            ConfigError: the option cannot be changed, or the model does not know the language.
        """
        changes = given(changes)
        check_changes(self, changes)
        self._steering.update(**changes)

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        self._steering.set_keyterms(keyterms)

    def _push_conversation_item(self, ev: ConversationItemAddedEvent) -> None:
        push_turn(self._steering, ev)

    async def transcribe(
        self, sound: Audio, *, start: float = 0.0, language: str | None = None
    ) -> Transcript:
        """Decodes audio of any length, without LiveKit's events.

        Args:
            sound: what to decode.
            start: where it starts, in seconds; added to all times.
            language: instead of the one configured.

        Raises:
            AudioError: `sound` is no `Audio`; the message says how to make one.
            WhisperError: the model cannot be loaded, or decoding failed.
        """
        if not isinstance(sound, Audio):
            raise AudioError(
                f"sound: must be an Audio, not {type(sound).__name__}; use "
                "Audio.from_file(path), Audio.from_bytes(data) or Audio.from_frame(frame)"
            )
        options = self._options_now(language)
        return await self._backend.transcribe(self._key, Utterance(sound, start), options)

    def _options_now(self, language: NotGivenOr[str] | None) -> DecodeOptions:
        hotwords = engines.ENGINES[self._key.engine].hotwords
        options = steered(self._options, self._steering, hotwords=hotwords)
        if is_given(language) and language:
            try:
                options = replace(options, language=parse_language(language))
            except ValueError as exc:
                raise ConfigError(f"language: {exc}") from None
        return options

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> WhisperStream:
        """Opens a stream; frames may have any sample rate and any number of channels.

        Args:
            language: in place of the one configured; `auto`: detect it.
            conn_options: attempts for each utterance, and the time for loading the model.
        """
        return WhisperStream(
            self,
            self._vad or session_vad(),
            self._stream_options,
            decode=self.recognize,
            ahead=self.hear,
            language=language,
            conn_options=conn_options,
        )

    async def hear(
        self, utterance: Utterance, language: NotGivenOr[str] = NOT_GIVEN, **changes: Any
    ) -> stt.SpeechEvent:
        """Decodes an utterance once, as urgently as it says; gives up when cancelled.

        Args:
            utterance: what to decode.
            language: in place of the one configured.
            changes: fields of `DecodeOptions` that are this utterance's own.

        Raises:
            APIError: it could not be decoded.
        """
        with api_errors():
            options = replace(self._options_now(language), **changes)
            transcript = await self._backend.transcribe(self._key, utterance, options)
        return _speech_event(transcript, options.task)

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        with api_errors():
            _check_buffer(buffer)
            # Only loading is bounded: a retry finds the load further on, whereas an utterance
            # that takes long to decode would take as long again.
            await asyncio.wait_for(self._load(), conn_options.timeout or None)
            sound = await asyncio.to_thread(audio.from_frames, buffer)
            given = language if is_given(language) else None
            transcript = await self.transcribe(sound, language=given)
        return _speech_event(transcript, self._options.task)


class WhisperSTT(LocalSTT):
    """Speech recognition with openai-whisper (PyTorch), the reference implementation."""

    _provider = "whisper"


class FasterWhisperSTT(LocalSTT):
    """Speech recognition with faster-whisper (CTranslate2): fast on CPUs and NVIDIA GPUs."""

    _provider = "faster-whisper"


def _speech_event(transcript: Transcript, task: Task) -> stt.SpeechEvent:
    spoken = LanguageCode(transcript.language)
    data = stt.SpeechData(
        language=LanguageCode("en") if task == "translate" else spoken,
        text=transcript.text,
        confidence=transcript.confidence,
        source_languages=[spoken] if task == "translate" else None,
    )
    if segments := transcript.segments:
        data.start_time = segments[0].start
        data.end_time = segments[-1].end
        words = [word for segment in segments for word in segment.words]
        data.words = [
            TimedString(
                word.text,
                start_time=word.start,
                end_time=word.end,
                confidence=word.probability,
            )
            for word in words
        ] or None
    return stt.SpeechEvent(
        type=stt.SpeechEventType.FINAL_TRANSCRIPT,
        request_id=utils.shortuuid("whisper_"),
        alternatives=[data],
    )


def stream_options(config: STTConfig) -> StreamOptions:
    """What of a configuration is a session's own."""
    return StreamOptions(config.preflight, config.interim_results, config.chat_context)


def shared_backend(config: STTConfig) -> Backend:
    """Where the models of a configuration live: one backend for all who ask alike."""
    if not config.uses_host:
        return process_backend(config.limits)
    from .host.client import machine_backend  # POSIX only
    from .host.place import Target

    fallback = process_backend(config.limits) if config.backend == "auto" else None
    return machine_backend(Target.of(config), fallback)


def _check_buffer(buffer: object) -> None:
    frames = buffer if isinstance(buffer, (list, tuple)) else [buffer]
    for frame in frames:
        if not isinstance(frame, rtc.AudioFrame):
            raise AudioError(
                f"buffer: must be an rtc.AudioFrame or a list of them, not {type(frame).__name__}; "
                "use transcribe(Audio.from_file(path)) or transcribe(Audio.from_bytes(data))"
            )


def check_changes(local: LocalSTT, changes: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where this STT's model cannot do what options are changed to."""
    trial = Steering()
    trial.update(**changes)
    check_english(local.model_key, trial.change(local._options))


def push_turn(steering: Steering, ev: ConversationItemAddedEvent) -> None:
    """Takes in what was said last in a session, by the user or the agent."""
    if isinstance(ev.item, llm.ChatMessage) and ev.item.role in ("user", "assistant"):
        steering.add_turn(ev.item.text_content or "")
