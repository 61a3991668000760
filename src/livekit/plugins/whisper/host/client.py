"""`HostBackend`: the machine's host as a `Backend`, from any event loop of this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from .. import metrics
from ..backend import Backend
from ..errors import AudioError, BackendClosed, HostUnavailable
from ..log import logger
from ..types import DecodeOptions, ModelKey, Transcript, Utterance
from . import wire
from .connection import Connection, HostGone, open_connection
from .process import HostSpec, Place, parse_address

T = TypeVar("T")

SENDS = 5
"""How often one utterance is sent: what ends that many hosts is likely their reason to end."""
ABSENT_SECONDS = 30.0
"""How long a host that could not be had is not asked for again, where there is a fallback."""


class HostBackend:
    """Asks the host of this machine, or one that an operator runs, to decode.

    Where it ends while it decodes, another one is started (or joined) and the utterance sent again;
    where none can be had, `fallback` decodes.

    Args:
        spec: what to start a host with.
        address: of a host that somebody else runs, in place of the one of this machine.
        token: what that one wants to be told.
        fallback: decodes where there is no host; None: `HostUnavailable`.
    """

    def __init__(
        self,
        spec: HostSpec | None = None,
        *,
        address: Place | str | None = None,
        token: str | None = None,
        fallback: Backend | None = None,
    ) -> None:
        self._spec, self._address, self._token = spec or HostSpec(), address, token
        self._fallback = fallback
        self._name = uuid.uuid4().hex[:12]
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may release in any thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._refs: Counter[ModelKey] = Counter()
        self._calls: set[Future[Any]] = set()
        # The rest belongs to the loop.
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._absent: tuple[float, HostUnavailable] | None = None
        self._warned = False

    def hold(self, key: ModelKey) -> None:
        """See `Backend.hold`."""
        with self._lock:
            self._refs[key] += 1

    def release(self, key: ModelKey) -> None:
        """See `Backend.release`."""
        with self._lock:
            self._refs[key] -= 1
            if self._refs[key] > 0:
                return
            del self._refs[key]
            loop = self._loop
        if loop and self._pid == os.getpid():
            with suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(self._let_go, key)

    async def prewarm(self, key: ModelKey) -> bool:
        """See `Backend.prewarm`."""
        return await self._on_loop(self._prewarm(key))

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """See `Backend.transcribe`."""
        return await self._on_loop(self._transcribe(key, utterance, options))

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        with self._lock:
            self._closed = True
            loop, calls = self._loop, list(self._calls)
        if loop is None:
            return
        await asyncio.gather(*map(asyncio.wrap_future, calls), return_exceptions=True)
        with self._lock:
            if self._loop is None:
                return
            self._loop = None
        ended = asyncio.run_coroutine_threadsafe(self._disconnect(), loop)
        await asyncio.wrap_future(ended)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(self._thread.join)
        if self._fallback:
            await self._fallback.aclose()

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the loop of this backend, which is started when it is first needed.

        The connection belongs to one loop, whereas sessions, tests and `prewarm` have their own.
        """
        try:
            with self._lock:
                if self._closed:
                    raise BackendClosed("the backend is closed; make a new one")
                if self._pid != os.getpid():
                    raise BackendClosed(
                        "a connection does not survive a fork; make the STT in the new process"
                    )
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(
                        target=_run, args=(self._loop,), name="whisper-host-client", daemon=True
                    )
                    self._thread.start()
                call = asyncio.run_coroutine_threadsafe(work, self._loop)
                self._calls.add(call)
        except BaseException:
            work.close()
            raise
        call.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(call)

    async def _prewarm(self, key: ModelKey) -> bool:
        try:
            connection, there = await self._leased(key)
        except HostUnavailable as exc:
            return await self._instead(exc).prewarm(key)
        if not self._refs[key]:
            connection.let_go(key)
        return there

    async def _transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        if utterance.audio.duration > wire.MAX_SECONDS:
            raise AudioError(
                f"{utterance.audio.duration:.0f} s of audio; the host takes up to "
                f"{wire.MAX_SECONDS:.0f} s at once: send it in parts, or set STT_BACKEND=process"
            )
        # Other processes have streams of the same name.
        ours = replace(utterance, stream=utterance.stream and f"{self._name}-{utterance.stream}")
        self.hold(key)
        try:
            for _ in range(SENDS):
                try:
                    connection, _ = await self._leased(key)
                except HostUnavailable as exc:
                    return await self._instead(exc).transcribe(key, utterance, options)
                try:
                    return await connection.transcribe(key, ours, options)
                except HostGone:
                    self._lost(connection)
            raise HostUnavailable(
                f"the host ended {SENDS} times while it decoded one utterance; look at its log: "
                "livekit-whisper host logs"
            )
        finally:
            self.release(key)

    async def _leased(self, key: ModelKey) -> tuple[Connection, bool]:
        """A host that has loaded a model and keeps it for us; and whether it had it before."""
        for _ in range(SENDS):
            connection, started = await self._connect(), time.monotonic()
            try:
                if connection.leases(key):
                    return connection, True
                there = await connection.lease(key)
                logger.info(
                    "[WHISPER-HOST] leased key=%s pid=%d seconds=%.3f loaded_before=%s",
                    key,
                    connection.pid,
                    time.monotonic() - started,
                    there,
                )
                return connection, there
            except HostGone:
                self._lost(connection)
        raise HostUnavailable(
            f"the host ended {SENDS} times while it loaded {key}; look at its log: "
            "livekit-whisper host logs"
        )

    async def _connect(self) -> Connection:
        """The one connection; made once, whoever asks meanwhile."""
        if self._connection:
            return self._connection
        if self._absent and time.monotonic() < self._absent[0]:
            raise self._absent[1]
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(_seen)
        return await asyncio.shield(self._connecting)

    async def _open(self) -> Connection:
        try:
            self._connection = await open_connection(
                self._spec, self._address, self._token, self._on_lost
            )
        except HostUnavailable as exc:
            if self._fallback:
                self._absent = time.monotonic() + ABSENT_SECONDS, exc
            raise
        finally:
            self._connecting = None
        self._absent = None
        return self._connection

    def _lost(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            metrics.HOST_RESTARTS.inc()
            logger.warning("[WHISPER-HOST] host pid=%d is gone", connection.pid)
            _background(connection.aclose())

    def _on_lost(self, connection: Connection, crashed: bool) -> None:
        """A lease ended by itself. After a crash what we hold is made warm again at once."""
        self._lost(connection)
        if crashed and not self._closed:
            for key in list(self._refs):
                _background(self._rewarm(key))

    async def _rewarm(self, key: ModelKey) -> None:
        with suppress(Exception):  # the next request tells it
            await self._leased(key)

    def _instead(self, exc: HostUnavailable) -> Backend:
        if self._fallback is None:
            raise exc
        metrics.HOST_FALLBACKS.labels(exc.code).inc()
        if not self._warned:
            self._warned = True
            logger.warning("[WHISPER-HOST] models are loaded in this process instead: %s", exc)
        return self._fallback

    def _let_go(self, key: ModelKey) -> None:
        if self._connection and not self._refs[key]:
            self._connection.let_go(key)

    async def _disconnect(self) -> None:
        if self._connection:
            connection, self._connection = self._connection, None
            await connection.aclose()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited for it is told; nobody need wait."""
    if not task.cancelled():
        task.exception()


_tasks: set[asyncio.Task[None]] = set()


def _background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


_machine_lock = threading.Lock()
_machine: dict[object, HostBackend] = {}


def machine_backend(
    spec: HostSpec, *, address: str | None, token: str | None, fallback: Backend | None
) -> HostBackend:
    """The one backend of this process for a host.

    Args:
        spec, token, fallback: see `HostBackend`.
        address: see `process.address`.

    Raises:
        ConfigError: the address is none.
    """
    with _machine_lock:
        key = (spec, address, token, id(fallback))
        if key not in _machine:
            _machine[key] = HostBackend(
                spec,
                address=parse_address(address) if address else None,
                token=token,
                fallback=fallback,
            )
        return _machine[key]


def _after_fork() -> None:
    """A forked process has none of its parent's threads: it connects by itself."""
    global _machine_lock
    _machine_lock = threading.Lock()
    _machine.clear()


os.register_at_fork(after_in_child=_after_fork)
