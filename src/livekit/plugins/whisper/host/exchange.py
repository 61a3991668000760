"""What goes over a connection for as long as it lasts: bodies in, leases out, and who hung up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .. import metrics
from ..errors import Overloaded, WhisperError
from ..log import logger
from ..types import ModelKey
from . import wire
from .state import HostState

T = TypeVar("T")

MAX_PENDING = 256 * 2**20
"""Bytes of audio that may be here at once; past them requests are refused."""


UNBUFFERED = {"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform"}
"""What keeps proxies from holding back an answer that comes in parts."""


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


@asynccontextmanager
async def received(request: Request, state: HostState) -> AsyncIterator[bytearray]:
    """The body of a request, which counts as pending until the end of the block.

    Raises:
        AudioError: it is too long, see `guard`.
        Overloaded: there is no room for it now.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            if state.pending + len(chunk) > MAX_PENDING:
                raise Overloaded(f"more than {MAX_PENDING >> 20} MiB of audio are waiting")
            body.extend(chunk)
            state.pending += len(chunk)
        yield body
    finally:
        state.pending -= len(body)


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What `work` returns; drops it when the caller hangs up, whose body has been read.

    Raises:
        CallerGone: it hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Lease(Response):
    """Loads a model, then lasts until the caller hangs up or the host drains."""

    media_type = "application/x-ndjson"

    def __init__(self, state: HostState, key: ModelKey) -> None:
        super().__init__(headers=UNBUFFERED)
        self._state, self._key = state, key
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        with self._state.leasing(self._key), suppress(CallerGone):
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await self._say(send, {"alive": True})
            try:
                there = await self._beating(self._state.backend.prewarm(self._key), receive, send)
            except WhisperError as exc:
                logger.error("[WHISPER-LOAD] key=%s failed: %s", self._key, exc)
                return await self._say(send, counted(exc), more=False)
            await self._say(send, {"loaded": True, "there": there})
            await self._beating(self._state.draining.wait(), receive, send)
            await self._say(send, {"draining": True}, more=False)

    async def _beating(self, work: Coroutine[Any, Any, T], receive: Receive, send: Send) -> T:
        """What `work` returns; tells the caller meanwhile that we are alive."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(wire.BEAT_SECONDS)
                await self._say(send, {"alive": True})

        beating = asyncio.ensure_future(beat())
        try:
            return await unless_gone(work, receive)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _say(self, send: Send, fact: dict[str, Any], *, more: bool = True) -> None:
        line = json.dumps(fact).encode() + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": more})


def counted(exc: WhisperError) -> dict[str, Any]:
    """An error as JSON; the metrics count it."""
    metrics.ERRORS.labels(exc.code).inc()
    return wire.encode_error(exc)


def error_response(exc: WhisperError) -> JSONResponse:
    """An error as an answer."""
    status = wire.STATUS.get(exc.code, 500)
    if status >= 500:
        logger.error("%s: %s", exc.code, exc)
    headers = (
        {"Retry-After": str(max(1, round(exc.retry_after)))} if isinstance(exc, Overloaded) else {}
    )
    return JSONResponse(counted(exc), status, headers)
