"""When a VAD decides."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import cast

from livekit import rtc
from livekit.agents import vad


class Watched(vad.VAD):
    """Another VAD, of which is noted when its streams tell that speech has ended.

    Args:
        inner: does the work.
        decided: gets the times, on the clock of `time.monotonic` (s).
    """

    def __init__(self, inner: vad.VAD, decided: list[float]) -> None:
        super().__init__(capabilities=inner.capabilities)
        self._inner, self._decided = inner, decided

    def stream(self) -> vad.VADStream:
        """One of its streams."""
        return cast(vad.VADStream, _Stream(self._inner.stream(), self._decided))


class _Stream:
    """All that an adapter needs of one."""

    def __init__(self, inner: vad.VADStream, decided: list[float]) -> None:
        self._inner, self._decided = inner, decided

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        self._inner.push_frame(frame)

    def flush(self) -> None:
        self._inner.flush()

    def end_input(self) -> None:
        self._inner.end_input()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aiter__(self) -> AsyncIterator[vad.VADEvent]:
        async for event in self._inner:
            if event.type == vad.VADEventType.END_OF_SPEECH:
                self._decided.append(time.monotonic())
            yield event
