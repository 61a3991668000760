"""`ProviderFactory`: configuration → a cached, shared STT in a session's own handle."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from livekit.agents import stt, vad

from .adapter import WhisperStreamAdapter
from .api import hints
from .backend import process_backend
from .cache import Cache, CacheInfo
from .config import STTConfig
from .errors import ConfigError, MissingExtraError, did_you_mean
from .log import logger
from .stt import FasterWhisperSTT, WhisperSTT, stream_options
from .types import ModelKey

ENTRY_POINTS = "livekit_whisper.providers"
"""Entry point group: name → a builder, for providers that come with other packages."""
MAX_IDLE_INSTANCES = 128
"""Unused STT instances kept; each is small, the models are counted by the backend."""


class Builder(Protocol):
    """Makes the STT of a provider. Called once for each distinct configuration."""

    def __call__(self, config: STTConfig) -> stt.STT[Any]: ...


@dataclass(frozen=True)
class InstanceKey:
    """What makes two configurations share one STT instance: all that changes its results."""

    provider: str
    model: str
    language: str | None
    options: tuple[tuple[str, Any], ...] = field(repr=False)
    """The other fields that are set apart from their defaults; private, so not shown."""

    @classmethod
    def of(cls, config: STTConfig) -> InstanceKey:
        """The key of a configuration; its fallback has a key of its own."""
        own = {"interim_results", "preflight", "chat_context"}  # a session's
        named = {"provider", "model", "language", "fallback"} | own
        options = tuple(
            (name, value)
            for name, setting in STTConfig.model_fields.items()
            if name not in named and (value := getattr(config, name)) != setting.default
        )
        # A server's own default is not the model of the same name as ours.
        chosen = config.is_local or "model" in config.model_fields_set
        model = config.model if chosen else "default"
        return cls(config.provider, model, config.language, options)

    def __str__(self) -> str:
        # The values of options can be private (a prompt, a key): only their names are shown.
        extra = "".join(f"+{name}" for name, _ in self.options)
        return f"{self.provider}:{self.model}:{self.language or 'auto'}{extra}"


class _Chain(stt.FallbackAdapter):
    """LiveKit's adapter, with members that are its own."""

    async def aclose(self) -> None:
        await super().aclose()
        for member in self._stt_instances:
            await member.aclose()


class ProviderFactory:
    """The composition root. All of it is process-wide, and safe from any thread."""

    _builders: dict[str, Builder] = {}  # noqa: RUF012 (process-wide on purpose)
    _builtin = ("faster-whisper", "whisper", "openai")
    _lock = threading.Lock()
    _instances: Cache[InstanceKey, stt.STT[Any]]

    @classmethod
    @hints
    def create_stt(
        cls,
        config: STTConfig | Mapping[str, Any] | None = None,
        vad: vad.VAD | None = None,
    ) -> WhisperStreamAdapter:
        """A session's handle on the STT that the configuration asks for.

        The STT behind it is made once for each provider, model, language and options, and shared
        by the whole process. Nothing is loaded here; `prewarm()` and the first audio do that.

        Args:
            config: a configuration; a mapping with keys such as `stt_provider`; or None: the
                environment.
            vad: any LiveKit VAD, for instance `silero.VAD.load()`.

        Returns:
            A `StreamAdapter` whose `wrapped_stt` is the cached instance, or with
            `config.fallback` LiveKit's `FallbackAdapter` over the cached instances. Of another
            type than is declared is only what a registered provider makes that streams by itself:
            it is returned as it is, made anew each time, and in a `FallbackAdapter` where it is
            one of several.

        Raises:
            ConfigError, MissingExtraError, ModelNotFound: what can be known without loading.
        """
        config = as_config(config)
        return cast(WhisperStreamAdapter, cls._handles(config, vad))

    @classmethod
    def _handles(cls, config: STTConfig, vad: vad.VAD | None) -> stt.STT[Any]:
        if config.fallback is None:
            return cls._handle(config, vad)
        members = [cls._handle(each, vad) for each in config.chain]
        # One attempt each: a local engine that fails fails again, and the fallback is at hand.
        joined = _Chain(members, vad=vad, max_retry_per_stt=0)
        if vad is None or not all(isinstance(m, WhisperStreamAdapter) for m in members):
            return joined
        # Utterance by utterance: what made the primary fail is what the fallback transcribes.
        return WhisperStreamAdapter(stt=joined, vad=vad, options=stream_options(config), owns=True)

    @classmethod
    def cached_stt(cls, config: STTConfig | Mapping[str, Any] | None = None) -> stt.STT[Any]:
        """The shared instance itself, without a handle; made if it is not there.

        Raises:
            ConfigError, MissingExtraError, ModelNotFound: see `create_stt`.
        """
        config = as_config(config)
        builder = cls._builder(config.provider)
        key = InstanceKey.of(config)
        created = False

        def create() -> stt.STT[Any]:
            nonlocal created
            created = True
            logger.info("[STT-CACHE] creating key=%s", key)
            instance = builder(config)
            if not isinstance(instance, stt.STT):
                raise ConfigError(
                    f"provider (STT_PROVIDER): {config.provider!r}: its builder returned "
                    f"{type(instance).__name__}, not an STT"
                )
            logger.info("[STT-CACHE] created instance=%d key=%s", id(instance), key)
            return instance

        instance = cls._instances.get(key, create)
        if not created:
            logger.info("[STT-CACHE] reusing instance=%d key=%s", id(instance), key)
        return instance

    @classmethod
    def cache_info(cls) -> CacheInfo[InstanceKey]:
        """The STT instances: hits, misses, and of each its key, instance id, age and references."""
        return cls._instances.info()

    @classmethod
    def model_info(cls) -> CacheInfo[ModelKey]:
        """The models in this process, one level below the instances."""
        return process_backend().info()

    @classmethod
    async def aclear(cls) -> None:
        """Closes what nobody uses: STT instances without an open handle, then idle models."""
        for instance in cls._instances.clear():
            try:
                await instance.aclose()
            except Exception:
                logger.exception("closing an STT of provider %s failed", instance.provider)
        process_backend().clear()

    @classmethod
    def register(cls, name: str, builder: Builder) -> None:
        """Adds a provider. Packages do so with an entry point of group `livekit_whisper.providers`.

        Raises:
            ConfigError: the name is taken by another builder.
        """
        with cls._lock:
            taken = name in cls._builtin or cls._builders.get(name, builder) is not builder
            if taken:
                raise ConfigError(f"provider: {name!r} is taken; choose another name")
            cls._builders[name] = builder

    @classmethod
    def providers(cls) -> list[str]:
        """All names that `provider` can have."""
        found = (point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS))
        return list(dict.fromkeys([*cls._builtin, *cls._builders, *found]))

    @classmethod
    def _handle(cls, config: STTConfig, vad: vad.VAD | None) -> stt.STT[Any]:
        key = InstanceKey.of(config)
        cls._instances.hold(key)
        try:
            instance = cls.cached_stt(config)
            if instance.capabilities.streaming:
                # It is the session's own, and closed by it: the next one gets another.
                cls._instances.forget(key)
                cls._instances.release(key)
                return instance
            if vad is None:
                raise ConfigError(
                    f"vad: provider {config.provider!r} needs one; pass vad=silero.VAD.load()"
                )
        except BaseException:
            cls._instances.release(key)
            raise
        if isinstance(instance, (WhisperSTT, FasterWhisperSTT)):
            instance.hold()
        return WhisperStreamAdapter(
            stt=instance,
            vad=vad,
            options=stream_options(config),
            on_close=partial(cls._let_go, key, instance),
        )

    @classmethod
    def _let_go(cls, key: InstanceKey, instance: stt.STT[Any]) -> None:
        if isinstance(instance, (WhisperSTT, FasterWhisperSTT)):
            instance.release()
        cls._instances.release(key)

    @classmethod
    def _builder(cls, name: str) -> Builder:
        if name in cls._builtin:
            return _BUILTIN[name]
        if name in cls._builders:
            return cls._builders[name]
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
            try:
                builder: Builder = point.load()
            except Exception as exc:
                raise ConfigError(
                    f"provider (STT_PROVIDER): {name!r}: its entry point {point.value!r} cannot "
                    f"be imported ({type(exc).__name__}: {exc})"
                ) from exc
            cls.register(name, builder)
            return builder
        known = cls.providers()
        raise ConfigError(
            f"provider (STT_PROVIDER): {name!r} is not known{did_you_mean(name, known)} "
            f"(allowed: {', '.join(known)})"
        )


def as_config(config: STTConfig | Mapping[str, Any] | None) -> STTConfig:
    """Whatever `create_stt` takes, as an `STTConfig`."""
    if isinstance(config, STTConfig):
        return config
    if config is None:
        return STTConfig()
    if isinstance(config, Mapping):
        return STTConfig.from_mapping(config)
    raise ConfigError(f"config: must be an STTConfig or a mapping, not {type(config).__name__}")


def _build_openai(config: STTConfig) -> stt.STT[Any]:
    """Any OpenAI-compatible server, through LiveKit's own plugin."""
    try:
        from livekit.plugins import openai
    except ImportError as exc:
        raise MissingExtraError(
            "provider openai needs LiveKit's plugin; "
            'run: pip install "livekit-plugins-whisper[openai]"'
        ) from exc
    if config.task != "transcribe":
        raise ConfigError(f"task (STT_TASK): {config.task!r}: provider openai only transcribes")
    for name in ("beam_size", "hotwords", "word_timestamps"):
        if getattr(config, name) != STTConfig.model_fields[name].default:
            logger.warning("%s (STT_%s): has no effect with openai", name, name.upper())
    options: dict[str, Any] = {}
    if "model" in config.model_fields_set:
        options["model"] = config.model
    if config.language is None:
        options["detect_language"] = True
    else:
        options["language"] = config.language
    if config.prompt:
        options["prompt"] = config.prompt
    if config.base_url:
        options["base_url"] = config.base_url
    if config.api_key:
        options["api_key"] = config.api_key.get_secret_value()
    try:
        return openai.STT(**options)
    except (ValueError, openai_errors()) as exc:
        raise ConfigError(
            f"api_key (STT_API_KEY): the openai provider cannot be set up ({exc}); "
            "set STT_API_KEY or OPENAI_API_KEY"
        ) from exc


def openai_errors() -> type[Exception]:
    """The OpenAI client's base error (its package comes with livekit-agents)."""
    import openai

    return openai.OpenAIError


def _close_instance(instance: stt.STT[Any]) -> None:
    """Closes an evicted instance, wherever the eviction happened."""
    try:
        task = asyncio.get_running_loop().create_task(instance.aclose())
    except RuntimeError:
        asyncio.run(instance.aclose())
    else:
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
_BUILTIN: dict[str, Builder] = {
    "faster-whisper": FasterWhisperSTT.from_config,
    "whisper": WhisperSTT.from_config,
    "openai": _build_openai,
}


def _new_cache() -> None:
    ProviderFactory._instances = Cache(close=_close_instance, max_entries=MAX_IDLE_INSTANCES)


_new_cache()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_cache)
