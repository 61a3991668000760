"""`HostBackend`: the machine's host as a `Backend`, from any event loop of this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from .. import metrics
from ..backend import LocalBackend, check_text
from ..errors import AudioError, HostCrashed, HostUnavailable
from ..log import logger
from ..types import DecodeOptions, ModelKey, Transcript, Utterance
from . import wire
from .answers import Absent, Backoff, NotNow, is_shortage, unanswered
from .connection import Connection, open_connection
from .lease import HostGone, LeaseEnded
from .loop import OwnLoop
from .place import HostSpec, Place, Target

T = TypeVar("T")

CRASHES = 3
"""An utterance, or a model's load, during which so many hosts crash is likely their reason to."""
ENDS = 20
"""How often a host may end in good order, or refuse since it is about to, before we give up."""
PATIENCE_SECONDS = 30.0
FALLBACK_SECONDS = 2.0
"""How long what may pass (no answer in time, a proxy's error, no more file descriptors) is tried
again, without a fallback and with one."""
ABSENT_SECONDS = 30.0
"""How long a host that could not be had is not asked for again where there is a fallback, and a
model whose load crashes hosts is not asked for again at all."""


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
        fallback: LocalBackend | None = None,
    ) -> None:
        self._spec, self._address, self._token = spec or HostSpec(), address, token
        self._fallback = fallback
        self._patience = FALLBACK_SECONDS if fallback else PATIENCE_SECONDS
        self._name = uuid.uuid4().hex[:12]
        self._loop = OwnLoop("whisper-host-client")
        self._lock = threading.RLock()  # the garbage collector may release in any thread
        self._refs: Counter[ModelKey] = Counter()
        # The rest belongs to the loop.
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._absent: tuple[float, HostUnavailable] | None = None
        self._crashing: dict[ModelKey, float] = {}
        self._instead_for: set[ModelKey] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = False
        self._met = address is None

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
        self._loop.soon(self._let_go, key)

    async def prewarm(self, key: ModelKey) -> bool:
        """See `Backend.prewarm`."""
        return await self._run(lambda: self._prewarm(key))

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """See `Backend.transcribe`.

        Raises:
            HostCrashed: hosts end unasked whenever they decode this.
            HostUnavailable: there is no host and no fallback.
            WhisperError: see `Backend.transcribe`.
        """
        return await self._run(lambda: self._transcribe(key, utterance, options))

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._loop.aclose(self._disconnect)
        if self._fallback:
            await self._fallback.aclose()

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs it on the loop, whose own start needs file descriptors."""
        tries = _Tries(self._patience)
        while True:
            try:
                return await self._loop.run(work())
            except OSError as exc:
                if not is_shortage(exc):
                    raise
                await tries.pause(unanswered("this machine", exc))

    async def _prewarm(self, key: ModelKey) -> bool:
        self.hold(key)  # nobody else's release ends the lease meanwhile
        try:
            return (await self._leased(key))[1]
        except HostUnavailable as exc:
            return await self._instead(key, exc).prewarm(key)
        finally:
            self.release(key)

    async def _transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        if utterance.audio.duration > wire.MAX_SECONDS:
            raise AudioError(
                f"{utterance.audio.duration:.0f} s of audio; the host takes up to "
                f"{wire.MAX_SECONDS:.0f} s at once: send it in parts, or set STT_BACKEND=process"
            )
        check_text(options)
        # Other processes have streams of the same name.
        ours = replace(utterance, stream=utterance.stream and f"{self._name}-{utterance.stream}")
        tries = _Tries(self._patience)
        self.hold(key)
        try:
            while True:
                connection, _ = await self._leased(key)
                try:
                    return await connection.transcribe(key, ours, options)
                except NotNow as exc:
                    await tries.pause(exc)
                except HostGone as gone:
                    self._lost(connection, gone)
                    tries.count(gone)
                    if tries.crashes >= CRASHES:
                        raise HostCrashed(
                            f"{CRASHES} hosts have ended unasked while they decoded one utterance; "
                            "look at their log: livekit-whisper host logs"
                        ) from gone
        except HostUnavailable as exc:
            backend = self._instead(key, exc)
            metrics.HOST_FALLBACKS.labels(exc.code).inc()
            return await backend.transcribe(key, utterance, options)
        finally:
            self.release(key)

    async def _leased(self, key: ModelKey) -> tuple[Connection, bool]:
        """A host that has loaded a model and keeps it for us; and whether it had it before."""
        tries = _Tries(self._patience)
        while True:
            if time.monotonic() < self._crashing.get(key, 0.0):
                raise HostCrashed(
                    f"hosts end unasked while they load {key}: too little memory, or a damaged "
                    "installation; look at their log: livekit-whisper host logs"
                )
            connection, started = await self._connect(), time.monotonic()
            if connection.leases(key):
                return connection, True
            try:
                there = await connection.lease(key)
            except LeaseEnded:
                continue
            except NotNow as exc:
                await tries.pause(exc)
                continue
            except HostGone as gone:
                self._lost(connection, gone)
                tries.count(gone)
                if tries.crashes >= CRASHES:
                    self._crashing[key] = time.monotonic() + ABSENT_SECONDS
                continue
            logger.info(
                "[WHISPER-HOST] leased key=%s pid=%d seconds=%.3f loaded_before=%s",
                key,
                connection.pid,
                time.monotonic() - started,
                there,
            )
            return connection, there

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
        tries = _Tries(self._patience)
        try:
            while True:
                try:
                    self._connection = await open_connection(
                        self._spec, self._address, self._token, self._on_lost
                    )
                    break
                except NotNow as exc:
                    await tries.pause(exc)
                except Absent as exc:  # a host that we have met may come back
                    if not self._met:
                        raise
                    await tries.pause(exc)
        except HostUnavailable as exc:
            self._do_without(exc)
            raise
        finally:
            self._connecting = None
        self._absent, self._met = None, True
        self._give_back()
        return self._connection

    def _do_without(self, exc: HostUnavailable) -> None:
        """Asks for no host for a while, where there is a fallback."""
        if self._fallback:
            self._absent = time.monotonic() + ABSENT_SECONDS, exc

    def _lost(self, connection: Connection, gone: HostGone) -> None:
        """Takes no more from a host; what it still decodes it may finish, if it has not crashed."""
        if self._connection is not connection:
            return
        self._connection = None
        if gone.crashed:
            metrics.HOST_RESTARTS.inc()
            logger.warning("[WHISPER-HOST] host pid=%d has crashed, or hangs", connection.pid)
        if gone.hangs:
            self._do_without(gone.hangs)
        self._background(connection.retire(gone))

    def _on_lost(self, connection: Connection, gone: HostGone) -> None:
        """A host ended that kept models for us: after a crash they are made warm again at once."""
        if self._connection is not connection:
            return
        self._lost(connection, gone)
        if gone.crashed and not self._loop.closed:
            for key in list(self._refs):
                self._background(self._rewarm(key))

    async def _rewarm(self, key: ModelKey) -> None:
        with suppress(Exception):  # the next request tells it
            connection = await self._connect()
            await connection.lease(key)
            if not self._refs[key]:
                connection.let_go(key)

    def _instead(self, key: ModelKey, exc: HostUnavailable) -> LocalBackend:
        """The fallback, which keeps a model for as long as we hold it and have no host."""
        if self._fallback is None:
            raise exc
        if not self._warned:
            self._warned = True
            logger.warning("[WHISPER-HOST] models are loaded in this process instead: %s", exc)
        if key not in self._instead_for:
            self._instead_for.add(key)
            self._fallback.hold(key)
        return self._fallback

    def _give_back(self, key: ModelKey | None = None) -> None:
        """Lets a model of the fallback go, or all of them: the host has them."""
        for each in list(self._instead_for) if key is None else [key]:
            if self._fallback and each in self._instead_for:
                self._instead_for.discard(each)
                self._fallback.release(each)
        if self._fallback and key is None:
            self._fallback.clear()

    def _let_go(self, key: ModelKey) -> None:
        if not self._refs[key]:
            self._give_back(key)
            if self._connection:
                self._connection.let_go(key)

    async def _disconnect(self) -> None:
        self._give_back()
        under_way = [*self._tasks, *([self._connecting] if self._connecting else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._connection:
            connection, self._connection = self._connection, None
            await connection.retire(HostGone(crashed=True))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Tries:
    """What one piece of work may go through before it is given up.

    Args:
        patience: seconds of what may pass.
    """

    def __init__(self, patience: float) -> None:
        self._backoff = Backoff(patience)
        self._ends = 0
        self.crashes = 0

    async def pause(self, exc: HostUnavailable) -> None:
        """Waits until it may be tried again; raises what made it necessary when time is up."""
        if (seconds := self._backoff.pause()) is None:
            raise exc
        await asyncio.sleep(seconds)

    def count(self, gone: HostGone) -> None:
        """Counts a host that has ended."""
        self._ends += 1
        self.crashes += gone.crashed
        if self._ends >= ENDS:
            raise HostUnavailable(f"{ENDS} hosts have ended, one after the other")


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited for it is told; nobody need wait."""
    if not task.cancelled():
        task.exception()


_machine_lock = threading.Lock()
_machine: dict[object, HostBackend] = {}


def machine_backend(target: Target, fallback: LocalBackend | None) -> HostBackend:
    """The one backend of this process for a host.

    Args:
        target: which host.
        fallback: see `HostBackend`.
    """
    with _machine_lock:
        key = target, id(fallback)
        if key not in _machine:
            _machine[key] = HostBackend(
                target.spec, address=target.address, token=target.token, fallback=fallback
            )
        return _machine[key]


def _after_fork() -> None:
    """A forked process has none of its parent's threads: it connects by itself."""
    global _machine_lock
    _machine_lock = threading.Lock()
    _machine.clear()


os.register_at_fork(after_in_child=_after_fork)
