"""Sound as it happens, in frames: a recording in real time, or the microphone."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from livekit import rtc
from livekit.agents.utils.audio import AudioByteStream

from . import audio
from .errors import AudioError
from .types import SAMPLE_RATE

FRAME_SECONDS = 0.02
"""Of audio in one frame."""
SILENCE_SECONDS = 1.0
"""After a recording, as in a room where nobody speaks: a VAD hears in it that the speech ended."""

_WAY_OUT = "or listen to a recording: --file NAME"


class Source(Protocol):
    """Something to listen to."""

    name: str
    """For people."""

    def frames(self) -> AsyncGenerator[rtc.AudioFrame, None]:
        """Yields each frame when its last sample has sounded; 16-bit, mono.

        Raises:
            AudioError: it ends before its end; what came before has been yielded.
        """
        ...


class Recording:
    """A file in any container that FFmpeg reads, as fast as it was spoken.

    Raises:
        AudioError: it cannot be read, or has no audio in it.
    """

    def __init__(self, file: Path) -> None:
        audio.probe(file)
        self.name = file.name
        self._file = file

    async def frames(self) -> AsyncGenerator[rtc.AudioFrame, None]:
        """See `Source.frames`."""
        clock = asyncio.get_running_loop().time
        found, due = self._decoded(), clock()
        while frame := await asyncio.to_thread(next, found, None):
            due += frame.duration
            await asyncio.sleep(due - clock())
            yield frame

    def _decoded(self) -> Iterator[rtc.AudioFrame]:
        cutter = AudioByteStream(SAMPLE_RATE, 1, round(FRAME_SECONDS * SAMPLE_RATE))
        failure: AudioError | None = None
        try:
            for part in audio.blocks(self._file):
                yield from cutter.push((part * 32768).astype(np.int16).tobytes())
        except AudioError as exc:
            failure = exc
        yield from cutter.push(bytes(2 * round(SILENCE_SECONDS * SAMPLE_RATE)))
        yield from cutter.flush()
        if failure:
            raise failure


class Microphone:
    """The system's default microphone, through PortAudio.

    Args:
        on_loss: called when the system has thrown sound away, on the loop that listens.

    Raises:
        AudioError: it cannot be had; the message says what is missing.
    """

    def __init__(self, on_loss: Callable[[], None]) -> None:
        self._portaudio, self._on_loss = _portaudio(), on_loss
        try:
            found = self._portaudio.query_devices(kind="input")
        except (self._portaudio.PortAudioError, ValueError) as exc:
            raise AudioError(f"no microphone is there ({exc}); connect one, {_WAY_OUT}") from exc
        self.name = str(found["name"])
        self._rate = int(found["default_samplerate"])

    async def frames(self) -> AsyncGenerator[rtc.AudioFrame, None]:
        """See `Source.frames`; ends only by failing."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        def hear(data: Any, count: int, time: Any, status: Any) -> None:  # in PortAudio's thread
            loop.call_soon_threadsafe(heard.put_nowait, bytes(data))
            if status.input_overflow:
                loop.call_soon_threadsafe(self._on_loss)

        def end() -> None:
            loop.call_soon_threadsafe(heard.put_nowait, b"")

        try:
            with self._portaudio.RawInputStream(
                samplerate=self._rate,
                blocksize=round(FRAME_SECONDS * self._rate),
                channels=1,
                dtype="int16",
                callback=hear,
                finished_callback=end,
            ):
                while data := await heard.get():
                    yield rtc.AudioFrame(data, self._rate, 1, len(data) // 2)
        except self._portaudio.PortAudioError as exc:
            raise AudioError(f"{self.name}: cannot be opened ({exc}); free it, {_WAY_OUT}") from exc
        raise AudioError(f"{self.name}: has stopped; connect it again, {_WAY_OUT}")


def _portaudio() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as exc:
        raise AudioError(
            f"the microphone needs a package; run: pip install sounddevice, {_WAY_OUT}"
        ) from exc
    except OSError as exc:
        raise AudioError(
            f"the microphone needs PortAudio ({exc}); install it (Debian: libportaudio2), "
            f"{_WAY_OUT}"
        ) from exc
