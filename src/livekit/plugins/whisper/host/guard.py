"""The middleware before every route: who may come in, how many, and how it went."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import metrics
from ..errors import AudioError, ConfigError, Overloaded, WhisperError
from ..types import SAMPLE_RATE
from . import wire
from .exchange import error_response

MAX_CONNECTIONS = 4096
"""Requests under way at once, leases among them."""
MAX_HEADERS = 64 * 2**10
"""Bytes of a request's address and headers; prompt and hotwords are among them."""
MAX_FIELDS = 64 * 2**10
"""Bytes of a body that is no audio."""
BODY_SECONDS = 30.0
"""For the body of a request to arrive."""
OPEN_TO_ALL = ("/healthz", "/readyz")
"""What probes ask without a token."""


class Guard:
    """Checks the token, counts, and reads what a refused caller still sends.

    Args:
        app: what comes behind.
        token: the one that callers must know; None: none is needed.
        limit: requests under way at once.
    """

    def __init__(self, app: ASGIApp, token: str | None, limit: int = MAX_CONNECTIONS) -> None:
        self._app, self._token, self._limit = app, token, limit
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(scope, receive, send)
        self._count += 1
        try:
            refusal = self._refusal(scope)
            app = error_response(refusal) if refusal else self._app
            await app(scope, exchange.receive, exchange.send)
        finally:
            self._count -= 1
            exchange.close()

    def _refusal(self, scope: Scope) -> WhisperError | None:
        if self._token is not None and scope["path"] not in OPEN_TO_ALL:
            given = Headers(scope=scope).get(wire.TOKEN, "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return wire.NotAuthorized("the token is missing or wrong; set STT_HOST_TOKEN")
        size = len(scope["raw_path"]) + len(scope["query_string"])
        if size + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return ConfigError(f"headers: more than {MAX_HEADERS >> 10} KiB with the address")
        if self._count > self._limit:
            return Overloaded(f"more than {self._limit} requests at once")
        return None


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.perf_counter()
        self._unread = True
        self._read = 0
        self._room = wire.MAX_BODY if scope["path"] == wire.TRANSCRIBE else MAX_FIELDS
        self._status = 0

    async def receive(self) -> Message:
        """Raises `AudioError` where the body is too long, or too long on its way."""
        if not self._unread:
            return await self._receive()
        left = BODY_SECONDS - (time.perf_counter() - self._started)
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            raise AudioError(f"body: not here after {BODY_SECONDS:.0f} s") from None
        self._read += len(message.get("body", b""))
        self._unread = message["type"] == "http.request" and message.get("more_body", False)
        if self._read > self._room:
            seconds = self._room / wire.SAMPLE_BYTES / SAMPLE_RATE
            raise AudioError(
                f"body: more than {self._room} bytes ({seconds:.0f} s of audio); send it in parts"
            )
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            # A caller that is still sending would see a broken pipe in place of the answer.
            with suppress(AudioError):
                while self._unread:
                    await self.receive()
        await self._send(message)

    def close(self) -> None:
        # One label a route, which has no parameters; its pattern also takes a final newline.
        path = self._scope["path"].rstrip("\n") if "endpoint" in self._scope else "other"
        metrics.REQUESTS.labels(path, str(self._status)).inc()
        if path != wire.LEASE:
            metrics.REQUEST_SECONDS.labels(path).observe(time.perf_counter() - self._started)
