"""What goes over a connection for as long as it lasts: bodies in, leases out, and who hung up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .. import metrics
from ..errors import AudioError, Overloaded, WhisperError
from ..log import logger
from ..types import ModelKey
from . import wire
from .state import HostState

T = TypeVar("T")

BODY_SECONDS = 30.0
"""For the body of a request to arrive."""
MAX_PENDING = 256 * 2**20
"""Bytes of audio that may be here at once; past them requests are refused."""


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


@asynccontextmanager
async def received(request: Request, state: HostState) -> AsyncIterator[bytearray]:
    """The body of a request, which counts as pending until the end of the block.

    Raises:
        AudioError: it is too long, or takes too long to arrive.
        Overloaded: there is no room for it now.
    """
    body = bytearray()

    async def fill() -> None:
        async for chunk in request.stream():
            if len(body) + len(chunk) > wire.MAX_BODY:
                raise AudioError(
                    f"body: more than {wire.MAX_BODY} bytes ({wire.MAX_SECONDS:.0f} s of audio); "
                    "send it in parts"
                )
            if state.pending + len(chunk) > MAX_PENDING:
                raise Overloaded(f"more than {MAX_PENDING >> 20} MiB of audio are waiting")
            body.extend(chunk)
            state.pending += len(chunk)

    try:
        try:
            await asyncio.wait_for(fill(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise AudioError(f"body: not here after {BODY_SECONDS:.0f} s") from None
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
        super().__init__()
        self._state, self._key = state, key
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        with self._state.leasing(self._key):
            try:
                there = await unless_gone(self._state.backend.prewarm(self._key), receive)
            except CallerGone:
                return
            except WhisperError as exc:
                return await error_response(exc)(scope, receive, send)
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await self._say(send, {"loaded": True, "there": there}, more=True)
            try:
                await unless_gone(self._state.draining.wait(), receive)
            except CallerGone:
                return
            await self._say(send, {"draining": True}, more=False)

    async def _say(self, send: Send, fact: dict[str, bool], *, more: bool) -> None:
        line = json.dumps(fact).encode() + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": more})


def error_response(exc: WhisperError) -> JSONResponse:
    """An error as an answer."""
    metrics.ERRORS.labels(exc.code).inc()
    status = wire.STATUS.get(exc.code, 500)
    if status >= 500:
        logger.error("%s: %s", exc.code, exc)
    headers = (
        {"Retry-After": str(max(1, round(exc.retry_after)))} if isinstance(exc, Overloaded) else {}
    )
    return JSONResponse(wire.encode_error(exc), status, headers)
