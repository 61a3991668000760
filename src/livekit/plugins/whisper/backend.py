"""Where models live. A `Backend` decodes utterances; `LocalBackend` does it in this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import psutil

from . import engines, models
from .cache import Cache, CacheInfo
from .engines.decoding import shift
from .errors import BackendClosed, EngineError, WhisperError
from .log import logger
from .types import DecodeOptions, ModelKey, Transcript, Utterance


class Backend(Protocol):
    """Decodes utterances with models that it keeps. Safe to use from any event loop."""

    def hold(self, key: ModelKey) -> None:
        """Counts the caller as a user of a model, loaded or not: it is not given up meanwhile."""
        ...

    def release(self, key: ModelKey) -> None:
        """Takes one `hold` back."""
        ...

    async def prewarm(self, key: ModelKey) -> bool:
        """Loads a model unless it is loaded. Cancelling leaves the load running.

        Returns:
            Whether it was loaded already.

        Raises:
            WhisperError: it cannot be loaded; the next call tries again.
        """
        ...

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """Decodes one utterance, loading the model first if need be.

        Cancelling drops the work if it has not begun, else its result.

        Returns:
            The transcript, its times in seconds from the start of the utterance's stream.

        Raises:
            WhisperError: the model cannot be loaded, or decoding failed.
        """
        ...

    async def aclose(self) -> None:
        """Finishes what is under way, gives up all models, refuses more with `BackendClosed`."""
        ...


@dataclass(frozen=True)
class Limits:
    """What one process may use. The first model of a process decides."""

    threads: int = 0
    """CPU threads of one model; 0: one for each core, at most 8."""
    memory: int = 0
    """Bytes of models; 0: no limit."""
    idle: float = 0.0
    """Seconds after which a model that nobody holds is given up; 0: never."""


class LocalBackend:
    """Models in this process, each with a thread of its own that loads it and decodes with it."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self._closed = False
        self._pid = os.getpid()
        self._models: Cache[ModelKey, _Model] = Cache(
            close=_Model.close,
            size=lambda model: model.memory,
            max_bytes=limits.memory or None,
            ttl=limits.idle or None,
        )

    def info(self) -> CacheInfo[ModelKey]:
        """What is loaded, and how it came about."""
        return self._models.info()

    def hold(self, key: ModelKey) -> None:
        """See `Backend.hold`."""
        self._models.hold(key)

    def release(self, key: ModelKey) -> None:
        """See `Backend.release`."""
        self._models.release(key)
        if self._closed:
            self.clear()

    async def prewarm(self, key: ModelKey) -> bool:
        """See `Backend.prewarm`."""
        there = self._models.peek(key) is not None
        await self._get(key)
        return there

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """See `Backend.transcribe`."""
        self.hold(key)
        try:
            model = await self._get(key)
            transcript = await model.transcribe(utterance, options)
        finally:
            self.release(key)
        segments = tuple(shift(segment, utterance.start) for segment in transcript.segments)
        return replace(transcript, segments=segments)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        self._closed = True
        self.clear()

    def clear(self) -> None:
        """Gives up the models that nobody holds."""
        for model in self._models.clear():
            model.close()

    async def _get(self, key: ModelKey) -> _Model:
        if self._closed:
            raise BackendClosed("the backend is closed; make a new one")
        if self._pid != os.getpid():
            raise BackendClosed("a model does not survive a fork; make the STT in the new process")
        return await self._models.aget(key, lambda: _Model(key, self.limits.threads))


class _Model:
    """An engine and the one thread that may touch it."""

    def __init__(self, key: ModelKey, threads: int) -> None:
        started, before = time.perf_counter(), _resident()
        try:
            # The download, if any, happens here, so that leaving the program need not wait for it.
            files = models.resolve(key.engine, key.model, key.revision)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"whisper-{key.engine}")
            try:
                load = self._thread.submit(engines.load, files, key, threads=threads)
                self._engine = load.result()
            except BaseException:
                self._thread.shutdown(wait=False)
                raise
        except Exception as exc:
            logger.error("[WHISPER-LOAD] key=%s failed: %s", key, exc)
            if isinstance(exc, WhisperError):
                raise
            raise EngineError(f"{key}: cannot be loaded ({type(exc).__name__}: {exc})") from exc
        self.memory = self._engine.memory
        logger.info(
            "[WHISPER-LOAD] key=%s seconds=%.2f model_mb=%.0f resident_mb=%.0f (%+.0f)",
            key,
            time.perf_counter() - started,
            self.memory / 2**20,
            _resident() / 2**20,
            (_resident() - before) / 2**20,
        )

    async def transcribe(self, utterance: Utterance, options: DecodeOptions) -> Transcript:
        future = self._thread.submit(self._decode, utterance, options)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Lets the thread end, and the engine go."""
        self._thread.shutdown(wait=False)
        del self._engine

    def _decode(self, utterance: Utterance, options: DecodeOptions) -> Transcript:
        try:
            results = self._engine.transcribe([utterance.audio], options)
        except WhisperError:
            raise
        except Exception as exc:
            raise EngineError(f"decoding failed ({type(exc).__name__}: {exc})") from exc
        if len(results) != 1:
            raise EngineError(f"engine returned {len(results)} transcripts for 1 utterance")
        return results[0]


def _resident() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


_lock = threading.Lock()
_process_backend: LocalBackend | None = None


def process_backend(limits: Limits | None = None) -> LocalBackend:
    """The one backend of this process, made with the limits of whoever asks first."""
    global _process_backend
    with _lock:
        if _process_backend is None:
            _process_backend = LocalBackend(limits or Limits())
        elif limits not in (None, Limits(), _process_backend.limits):
            logger.warning(
                "this process's models keep %s; %s is not applied: set threads, memory_limit and "
                "idle_timeout alike in all configurations of one process",
                _process_backend.limits,
                limits,
            )
        return _process_backend


def _after_fork() -> None:
    """A forked process has none of its parent's threads: it loads models of its own."""
    global _lock, _process_backend
    _lock, _process_backend = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
