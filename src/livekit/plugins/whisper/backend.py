"""Where models live. A `Backend` decodes utterances; `LocalBackend` does it in this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol

import psutil

from . import engines, metrics, models
from .batcher import Batcher
from .cache import Cache, CacheInfo
from .engines.decoding import shift
from .errors import BackendClosed, ConfigError, EngineError, WhisperError, may_pass
from .log import logger
from .types import (
    MAX_TEXT,
    Audio,
    DecodeOptions,
    Limits,
    ModelKey,
    Transcript,
    Urgency,
    Utterance,
)

BATCH_WINDOW = 0.005
"""Seconds that the first utterance of a batch waits for others: little against any decode."""
MAX_WAITING = 256
"""Utterances that may wait for one model; of 3 s each, they take 50 MB."""
MAX_DELAY = 1.0
"""Seconds of waiting at which a backend calls itself saturated: a conversation halts."""
MAX_OVERHANG = 0.5
"""Seconds that a segment may end after its audio: more, and it is another utterance's."""


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
            Superseded: an interim of which a newer one of its stream, or a more urgent utterance,
                took the place.
            Overloaded: more waits already than may wait.
            WhisperError: the model cannot be loaded, or decoding failed.
        """
        ...

    async def aclose(self) -> None:
        """Finishes what is under way, gives up all models, refuses more with `BackendClosed`."""
        ...


class LocalBackend:
    """Models in this process, each with a batcher whose threads decode with it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits = limits or Limits()
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
        check_text(options)
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

    def load(self) -> float:
        """0 (idle) to 1 (saturated): of the model in most demand.

        The higher of how busy it was in the last seconds, and of how long a new final would wait,
        where `MAX_DELAY` counts as 1.
        """
        return min(1.0, max((model.load() for model in self._loaded()), default=0.0))

    def depth(self) -> dict[Urgency, int]:
        """How many utterances wait, by urgency."""
        waiting = Counter[int]()
        for model in self._loaded():
            waiting.update(model.batcher.depth())
        return {urgency: waiting[urgency] for urgency in Urgency}

    def _loaded(self) -> list[_Model]:
        found = (self._models.peek(entry.key) for entry in self._models.info().entries)
        return [model for model in found if model is not None]

    async def _get(self, key: ModelKey) -> _Model:
        if self._closed:
            raise BackendClosed("the backend is closed; make a new one")
        if self._pid != os.getpid():
            raise BackendClosed("a model does not survive a fork; make the STT in the new process")
        return await self._models.aget(key, lambda: _Model(key, self.limits))


def check_text(options: DecodeOptions) -> None:
    """Refuses a prompt or hotwords that are far longer than an engine can use.

    Raises:
        ConfigError: see above.
    """
    for name, text in (("prompt", options.prompt), ("hotwords", options.hotwords)):
        if text and (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_TEXT:
            raise ConfigError(
                f"{name} (STT_{name.upper()}): {size} bytes; at most {MAX_TEXT} (the engines use "
                "the last few hundred words)"
            )


class _Model:
    """An engine, and the batcher whose threads decode with it."""

    def __init__(self, key: ModelKey, limits: Limits) -> None:
        started, before = time.perf_counter(), _resident()
        try:
            # The download, if any, happens here, so that leaving the program need not wait for it;
            # for the thread of an executor it does, because a load that is cut off would crash.
            files = models.resolve(key.engine, key.model, key.revision)
            with ThreadPoolExecutor(1, thread_name_prefix=f"whisper-load-{key.engine}") as loader:
                load = partial(engines.load, threads=limits.threads, workers=limits.workers)
                engine = loader.submit(load, files, key).result()
        except Exception as exc:
            metrics.MODEL_LOADS.labels("failed").inc()
            if isinstance(exc, WhisperError):
                raise
            raise _engine_error(f"{key}: cannot be loaded", exc) from exc
        seconds = time.perf_counter() - started
        metrics.MODEL_LOADS.labels("loaded").inc()
        metrics.MODEL_LOAD_SECONDS.observe(seconds)
        self.memory = engine.memory
        self.batcher: Batcher[_Job, Transcript] = Batcher(
            partial(_decode, engine, key.engine),
            name=f"whisper-{key.engine}",
            workers=engine.workers,
            max_batch=limits.batch or engine.batch,
            window=BATCH_WINDOW,
            max_queue=limits.queue or MAX_WAITING,
            background=Urgency.INTERIM,
            on_wait=_count_wait,
            on_drop=_count_drop,
        )
        # A backend that is forgotten gives its threads and models up as well.
        weakref.finalize(self, self.batcher.close).atexit = False
        logger.info(
            "[WHISPER-LOAD] key=%s seconds=%.2f model_mb=%.0f resident_mb=%.0f (%+.0f)",
            key,
            seconds,
            self.memory / 2**20,
            _resident() / 2**20,
            (_resident() - before) / 2**20,
        )

    async def transcribe(self, utterance: Utterance, options: DecodeOptions) -> Transcript:
        try:
            future = self.batcher.submit(
                (utterance.audio, options),
                # On a CPU, three interims in its batch would make a final take three times as long.
                group=(options, utterance.urgency),
                urgency=utterance.urgency,
                stream=utterance.stream,
                size=utterance.audio.duration,
                replaces=utterance.urgency is Urgency.INTERIM,
            )
        except RuntimeError as exc:  # no more threads
            raise EngineError(f"decoding failed ({exc})") from exc
        return await asyncio.wrap_future(future)

    def load(self) -> float:
        """See `LocalBackend.load`; may be above 1."""
        return max(self.batcher.busy(), self.batcher.delay(Urgency.FINAL) / MAX_DELAY)

    def close(self) -> None:
        """Lets the threads end when nothing waits any more, and the engine go."""
        self.batcher.close()


_Job = tuple[Audio, DecodeOptions]


def _decode(engine: engines.Engine, name: str, jobs: Sequence[_Job]) -> list[Transcript]:
    """Decodes jobs of equal options together."""
    audios = [audio for audio, _ in jobs]
    started = time.perf_counter()
    try:
        results = engine.transcribe(audios, jobs[0][1])
    except WhisperError:
        raise
    except Exception as exc:
        raise _engine_error("decoding failed", exc) from exc
    finally:
        metrics.BATCH_SIZE.labels(name).observe(len(jobs))
        metrics.DECODE_SECONDS.labels(name).observe(time.perf_counter() - started)
    for audio, transcript in zip(audios, results, strict=False):  # the batcher checks the length
        end = max((segment.end for segment in transcript.segments), default=0.0)
        if end > audio.duration + MAX_OVERHANG:
            raise EngineError(
                f"engine returned speech up to {end:.2f} s for {audio.duration:.2f} s of audio"
            )
    return results


def _engine_error(what: str, exc: Exception) -> EngineError:
    error = EngineError(f"{what} ({type(exc).__name__}: {exc})")
    error.retryable = may_pass(exc)
    return error


def _count_wait(urgency: int, seconds: float) -> None:
    metrics.QUEUE_SECONDS.labels(Urgency(urgency).name.lower()).observe(seconds)


def _count_drop(reason: str) -> None:
    metrics.DROPS.labels(reason).inc()


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
                "this process's models keep %s; %s is not applied: set threads, workers, "
                "memory_limit and idle_timeout alike in all configurations of one process",
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
