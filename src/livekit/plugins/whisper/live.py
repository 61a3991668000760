"""`livekit-whisper listen`: a stream as an agent has it, shown while it is spoken."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from livekit.agents import APIError, stt, vad
from livekit.agents.utils import http_context
from rich.console import Console

from .backend import process_backend
from .config import STTConfig
from .errors import EngineError, HostUnavailable, MissingExtraError, WhisperError
from .factory import ProviderFactory
from .screen import Heard, Pipe, Queue, Screen, View
from .sources import Microphone, Recording, Source
from .stt import FasterWhisperSTT, WhisperSTT
from .types import SAMPLE_RATE, Audio

LOOK_SECONDS = 0.25
"""Between two looks at the queue."""
ANSWER_SECONDS = 0.5
"""For the host to say how busy it is."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen(config: STTConfig, file: Path | None, out: Console, err: Console) -> int:
    """Shows what is heard in a recording or by the microphone, until it ends or Ctrl-C is pressed.

    Args:
        config: what to transcribe with; with backend `auto`, a host that runs is joined.
        file: what to listen to, in real time; None: the microphone.
        out: where words go; on a terminal, with all that is known of them.
        err: for what is no word, where `out` is not a terminal.

    Returns:
        The exit status: 128 and more where a signal has ended it.

    Raises:
        WhisperError: what was heard before has been shown.
    """
    source: Source = Recording(file) if file else Microphone(lambda: err.print("sound was lost"))
    detector = _load_vad()
    if config.backend == "auto" and not _host_runs(config):  # a command leaves nothing running
        config = config.model_copy(update={"backend": "process"})
    try:
        return asyncio.run(_Listening(config, source, detector).run(out, err))
    except APIError as exc:
        cause = exc.__cause__
        raise cause if isinstance(cause, WhisperError) else EngineError(exc.message) from exc


def queue_of(config: STTConfig) -> Queue | None:
    """How busy the decoders of a configuration are; None where nobody can be asked. Blocking."""
    if not config.is_local:
        return None
    if config.backend != "process" and (facts := _ask_host(config)):
        return Queue("host", facts["queue"], facts["load"])
    if config.backend == "host":
        return None
    backend = process_backend()
    waiting = {urgency.name.lower(): count for urgency, count in backend.depth().items()}
    return Queue("this process", waiting, backend.load())


class _Listening:
    """From a source through a stream to a view."""

    def __init__(self, config: STTConfig, source: Source, detector: vad.VAD) -> None:
        self._config, self._source, self._vad = config, source, detector
        self._ended_by = 0
        self._status = f"{source.name}  (Ctrl-C ends)"
        self._queue: Queue | None = None

    async def run(self, out: Console, err: Console) -> int:
        """See `listen`."""
        async with http_context.open():  # some plugins want it
            handle = ProviderFactory.create_stt(self._config, self._vad)
            try:
                await _warm(handle)
                await self._follow(handle, Screen(out) if _is_terminal(out) else Pipe(err))
            finally:
                await handle.aclose()
        return 128 + self._ended_by if self._ended_by else 0

    async def _follow(self, handle: stt.STT[Any], view: View) -> None:
        heard = Heard()
        async with handle.stream() as stream:
            feeding = asyncio.create_task(self._feed(stream))
            looking = asyncio.create_task(self._look(view))
            try:
                with self._on_signals(feeding, view):
                    async for event in stream:
                        final = heard.add(event, time.time())
                        view.show(heard)  # first, so that it does not stand below the final
                        if final:
                            view.final(final)
                    with suppress(asyncio.CancelledError):  # by Ctrl-C
                        await feeding
            finally:
                view.close()
                await _end(feeding, looking)

    async def _feed(self, stream: stt.RecognizeStream) -> None:
        try:
            async with aclosing(self._source.frames()) as frames:
                async for frame in frames:
                    stream.push_frame(frame)
        finally:
            with suppress(RuntimeError):  # the stream has failed, and says why
                stream.end_input()

    async def _look(self, view: View) -> None:
        while True:
            self._queue = await asyncio.to_thread(queue_of, self._config)
            view.tell(self._status, self._queue)
            await asyncio.sleep(LOOK_SECONDS)

    @contextmanager
    def _on_signals(self, feeding: asyncio.Task[None], view: View) -> Iterator[None]:
        """The first one ends what comes in, and what is owed is still shown; a second ends all."""
        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            if self._ended_by:
                view.close()
                os._exit(128 + number)
            self._ended_by = number
            self._status = "waiting for the last words  (Ctrl-C: no more)"
            view.tell(self._status, self._queue)
            feeding.cancel()

        def caught(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(end, number)  # drawing may be under way just now

        before = {number: signal.signal(number, caught) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Whether they fail is of no interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _warm(handle: stt.STT[Any]) -> None:
    """Has the model loaded before anybody speaks; with a fallback, meanwhile.

    Raises:
        WhisperError: it cannot be loaded.
    """
    wrapped = getattr(handle, "wrapped_stt", None)
    if isinstance(wrapped, (FasterWhisperSTT, WhisperSTT)):
        await wrapped.transcribe(Audio(np.zeros(SAMPLE_RATE, np.float32)))
    else:
        handle.prewarm()


def _load_vad() -> vad.VAD:
    try:
        from livekit.plugins import silero
    except ImportError as exc:
        raise MissingExtraError(
            "listening needs a VAD; run: pip install livekit-plugins-silero"
        ) from exc
    return silero.VAD.load()


def _host_runs(config: STTConfig) -> bool:
    return config.is_local and _ask_host(config) is not None


def _ask_host(config: STTConfig) -> Any:
    """What it says of itself; None where there is none."""
    if os.name != "posix":
        return None
    from .host.place import Target
    from .host.process import ask_configured

    try:
        return ask_configured(Target.of(config), timeout=ANSWER_SECONDS)
    except HostUnavailable:
        return None


def _is_terminal(console: Console) -> bool:
    return console.file.isatty()  # Rich itself can be told to take a pipe for one
